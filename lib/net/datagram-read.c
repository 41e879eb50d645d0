/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Receiving datagrams: POOL, one multishot recvmsg into the buffers that all
 * datagram sockets of a loop share; DIRECT, a wait for readiness and then
 * recvmsg(2) into one large buffer. A socket stays with the one that it begins
 * with.
 */
#include "datagram.h"

#include <errno.h>
#include <linux/errqueue.h>
#include <poll.h>
#include <string.h>

/* recvmsg(2) calls for one readiness: others want their turn too. */
#define READS_PER_TURN 32

static bool wants(const struct kloop_datagram *datagram)
{
	return (datagram->state & (KL_DATAGRAM_WANT_READ | KL_DATAGRAM_CLOSING)) ==
	       KL_DATAGRAM_WANT_READ;
}

/* ---- delivery --------------------------------------------------------- */

static void deliver(struct kloop_datagram *datagram, const struct kl_received *received)
{
	unsigned flags = received->truncated ? KLOOP_DATAGRAM_TRUNCATED : 0;
	struct kloop_address from;

	from.length = received->address_length;
	memset(&from.u.storage, 0, sizeof(from.u.ip6));
	memcpy(&from.u, received->address, received->address_length);
	kl_loop_note_call(datagram->loop);
	if (datagram->handlers->on_datagram)
		datagram->handlers->on_datagram(datagram, received->data, received->bytes, &from,
						flags, datagram->user);
}

/* Keep one that came although receiving is stopped; more would not come. */
static void hold(struct kloop_datagram *datagram, const struct kl_received *received)
{
	struct kl_packet *message = kl_packet_make(received->address, received->address_length,
						     received->data, received->bytes);

	if (!message) {
		kl_datagram_tell_error(datagram, -ENOMEM, NULL);
		return;
	}
	message->truncated = received->truncated;
	kl_packet_put(&datagram->held, message);
}

static void receive(struct kloop_datagram *datagram, const struct kl_received *received)
{
	if (wants(datagram) && !datagram->held.first) {
		deliver(datagram, received);
	} else if (!kl_datagram_has(datagram, KL_DATAGRAM_CLOSING)) {
		hold(datagram, received);
		if (!wants(datagram))
			kl_datagram_cancel_read(datagram);
	}
}

static void deliver_held(struct kloop_datagram *datagram)
{
	struct kl_packet *message;
	struct kl_received received;

	while (datagram->held.first && wants(datagram)) {
		message = kl_packet_take(&datagram->held);
		received.data = kl_packet_get_data(message);
		received.bytes = message->bytes;
		received.address = message->address;
		received.address_length = message->address_length;
		received.truncated = message->truncated;
		deliver(datagram, &received);
		kl_free(message);
	}
}

/* ---- errors ----------------------------------------------------------- */

/* Receiving failed: most often because of what was sent before. */
static void fail_read(struct kloop_datagram *datagram, int error)
{
	switch (error) {
	case -ECANCELED: /* asked for, or the loop changed its thread */
	case -EINTR:
	case -EAGAIN:
	case -ENOBUFS: /* the pool was empty; what is in use comes back in this turn */
		return;
	case -EBADF:
	case -ENOTSOCK:
	case -EINVAL:
	case -EOPNOTSUPP:
	case -ENOMEM:
		/* It would be the same at once. */
		datagram->state &= ~(uint32_t)KL_DATAGRAM_WANT_READ;
		break;
	default:
		break;
	}
	if (!kl_datagram_has(datagram, KL_DATAGRAM_CLOSING))
		kl_datagram_tell_error(datagram, error, NULL);
}

/* The error that a message of the error queue is about; 0 if it is about something else. */
static int get_error(struct msghdr *message)
{
	struct sock_extended_err details;
	struct cmsghdr *control;

	for (control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control)) {
		if (!(control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_RECVERR) &&
		    !(control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_RECVERR))
			continue;
		memcpy(&details, CMSG_DATA(control), sizeof(details));
		return -(int)details.ee_errno;
	}
	return 0;
}

bool kl_datagram_read_errors(struct kloop_datagram *datagram)
{
	_Alignas(struct cmsghdr) char control[512];
	struct kloop_address peer;
	bool any = false;
	int i, error;

	for (i = 0; i < READS_PER_TURN && !kl_datagram_has(datagram, KL_DATAGRAM_ABORTED); i++) {
		struct msghdr message = {
			.msg_name = &peer.u,
			.msg_namelen = sizeof(peer.u),
			.msg_control = control,
			.msg_controllen = sizeof(control),
		};

		kl_loop_count_direct(datagram->loop);
		if (recvmsg(datagram->fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
			break;
		peer.length = message.msg_namelen;
		error = get_error(&message);
		if (error == 0)
			continue;
		any = true;
		kl_datagram_tell_error(datagram, error, peer.length > 0 ? &peer : NULL);
	}
	return any;
}

/* ---- POOL ------------------------------------------------------------- */

static void pool_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_datagram *datagram = kl_container_of(op, struct kloop_datagram, read_op);
	struct kl_received received;
	struct kloop_pool *pool;
	void *buffer;
	unsigned id;

	kl_datagram_enter(datagram);
	if (kl_loop_get_datagram_pool(datagram->loop, &pool) == 0 &&
	    kloop_pool_get(pool, flags, &buffer, &id) == 0) {
		if (result >= 0 &&
		    kl_pool_read_message(buffer, result, &datagram->shape, &received))
			receive(datagram, &received);
		kloop_pool_give(pool, id);
	}
	if (!(flags & KLOOP_OP_MORE)) {
		datagram->state &= ~(uint32_t)KL_DATAGRAM_CANCEL_READ;
		if (result < 0)
			fail_read(datagram, result);
		kl_datagram_run_read(datagram);
	}
	kl_datagram_leave(datagram);
}

/* ---- DIRECT ----------------------------------------------------------- */

static void read_now(struct kloop_datagram *datagram)
{
	struct kloop_address from;
	struct kl_received received;
	struct iovec vector;
	ssize_t result;
	int i;

	for (i = 0; i < READS_PER_TURN && wants(datagram); i++) {
		struct msghdr message = {
			.msg_name = &from.u,
			.msg_namelen = sizeof(from.u),
			.msg_iov = &vector,
			.msg_iovlen = 1,
		};

		vector.iov_base = kl_loop_get_hot_buffer(datagram->loop, KL_HOT_RECEIVED,
							 &vector.iov_len);
		if (!vector.iov_base) {
			fail_read(datagram, -ENOMEM);
			return;
		}
		result = recvmsg(datagram->fd, &message, MSG_DONTWAIT);
		kl_loop_count_direct(datagram->loop);
		if (result < 0) {
			int error = -errno;

			/* What ICMP told is in the error queue, or was told already. */
			if (!(datagram->flags & KLOOP_DATAGRAM_PEER_ERRORS) ||
			    (!kl_datagram_read_errors(datagram) && error != -ECONNREFUSED))
				fail_read(datagram, error);
			return;
		}
		received.data = vector.iov_base;
		received.bytes = (size_t)result;
		received.address = &from.u;
		received.address_length = message.msg_namelen;
		received.truncated = message.msg_flags & MSG_TRUNC;
		receive(datagram, &received);
	}
}

static void ready_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_datagram *datagram = kl_container_of(op, struct kloop_datagram, read_op);

	(void)flags;
	kl_datagram_enter(datagram);
	datagram->state &= ~(uint32_t)KL_DATAGRAM_CANCEL_READ;
	if (result < 0)
		fail_read(datagram, result);
	else if ((result & POLLERR) && (datagram->flags & KLOOP_DATAGRAM_PEER_ERRORS))
		kl_datagram_read_errors(datagram);
	if (result >= 0)
		read_now(datagram);
	kl_datagram_run_read(datagram);
	kl_datagram_leave(datagram);
}

/* ---- both ------------------------------------------------------------- */

/* Have an operation in flight that tells what arrives, if there is none. */
static int arm(struct kloop_datagram *datagram)
{
	struct kloop_pool *pool;
	int r;

	if (kloop_op_is_active(&datagram->read_op))
		return 0;
	if (!kl_datagram_has(datagram, KL_DATAGRAM_DIRECT)) {
		datagram->read_op.complete = pool_done;
		r = kl_loop_get_datagram_pool(datagram->loop, &pool);
		if (r == 0)
			return kl_op_recvmsg_multishot(datagram->loop, &datagram->read_op,
						       datagram->fd, &datagram->shape, pool);
		/* No memory for the pool is no reason not to receive. */
		datagram->state |= KL_DATAGRAM_DIRECT;
	}
	datagram->read_op.complete = ready_done;
	return kloop_op_poll(datagram->loop, &datagram->read_op, datagram->fd, POLLIN);
}

void kl_datagram_run_read(struct kloop_datagram *datagram)
{
	int r;

	deliver_held(datagram);
	if (!wants(datagram))
		return;
	r = arm(datagram);
	if (r < 0 && !kl_loop_is_closing(datagram->loop))
		fail_read(datagram, r);
}

int kloop_datagram_start_read(struct kloop_datagram *datagram)
{
	int r = datagram ? kl_loop_check(datagram->loop) : -EINVAL;

	if (r < 0)
		return r;
	if (kl_datagram_has(datagram, KL_DATAGRAM_CLOSING))
		return -ESTALE;
	if (kl_datagram_has(datagram, KL_DATAGRAM_WANT_READ))
		return 0;
	datagram->state |= KL_DATAGRAM_WANT_READ;
	/* What calls the owner must wait for the turn. */
	if (datagram->held.first) {
		kl_datagram_schedule(datagram);
		return 0;
	}
	r = arm(datagram);
	if (r < 0)
		datagram->state &= ~(uint32_t)KL_DATAGRAM_WANT_READ;
	return r;
}

int kloop_datagram_stop_read(struct kloop_datagram *datagram)
{
	int r = datagram ? kl_loop_check(datagram->loop) : -EINVAL;

	if (r < 0)
		return r;
	if (kl_datagram_has(datagram, KL_DATAGRAM_CLOSING))
		return -ESTALE;
	/* The operation stays armed: it is cancelled only if it brings something. */
	datagram->state &= ~(uint32_t)KL_DATAGRAM_WANT_READ;
	return 0;
}
