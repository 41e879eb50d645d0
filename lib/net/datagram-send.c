/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Sending datagrams: many with one sendmmsg(2) at the start of a turn; over IP
 * with SQPOLL each through the ring, which makes no system call. Not so over
 * Unix sockets: there the ring's second attempt, after a full queue, finds the
 * data consumed by the first and sends an empty datagram (seen with Linux 6.18).
 */
#include "datagram.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/* Datagrams in one system call. */
#define BATCH 64
/* How long to wait for what nobody tells, the first time and at most, in nanoseconds. */
#define FIRST_WAIT_NS UINT64_C(1000000)
#define LONGEST_WAIT_NS UINT64_C(8000000)

static void send_done(struct kloop_op *op, int32_t result, uint32_t flags);
static void room_done(struct kloop_op *op, int32_t result, uint32_t flags);

static bool is_sent_by_ring(const struct kloop_datagram *datagram)
{
	return kl_datagram_has(datagram, KL_DATAGRAM_SQPOLL) && datagram->family != AF_UNIX;
}

/* ---- the queue -------------------------------------------------------- */

static void drop_first(struct kloop_datagram *datagram)
{
	struct kl_packet *message = kl_packet_take(&datagram->queue);

	datagram->send_bytes -= message->bytes + KLOOP_DATAGRAM_EXTRA_BYTES;
	datagram->send_count--;
	datagram->state &= ~(uint32_t)KL_DATAGRAM_RETRIED;
	datagram->retry_ns = FIRST_WAIT_NS;
	kl_free(message);
}

static void tell_drain(struct kloop_datagram *datagram)
{
	if ((datagram->state & (KL_DATAGRAM_ABOVE_HIGH | KL_DATAGRAM_CLOSING)) !=
		    KL_DATAGRAM_ABOVE_HIGH ||
	    datagram->send_bytes > datagram->low_bytes)
		return;
	datagram->state &= ~(uint32_t)KL_DATAGRAM_ABOVE_HIGH;
	kl_loop_note_call(datagram->loop);
	if (datagram->handlers->on_drain)
		datagram->handlers->on_drain(datagram, datagram->user);
}

/*
 * The first of the queue could not be sent. -ECONNREFUSED on an IP socket is
 * what ICMP told about an earlier one, and says nothing about this one.
 */
static void fail_first(struct kloop_datagram *datagram, int error)
{
	struct kl_packet *message = datagram->queue.first;
	struct kloop_address peer;
	bool by_peer = datagram->flags & KLOOP_DATAGRAM_PEER_ERRORS;
	bool told = by_peer && kl_datagram_read_errors(datagram);

	if (error == -ECONNREFUSED && datagram->family != AF_UNIX &&
	    !kl_datagram_has(datagram, KL_DATAGRAM_RETRIED)) {
		datagram->state |= KL_DATAGRAM_RETRIED;
		/* The error queue has it, or had it and it was told. */
		if (!by_peer)
			kl_datagram_tell_error(datagram, error, NULL);
		return;
	}
	peer.length = message->address_length;
	memset(&peer.u, 0, sizeof(peer.u));
	memcpy(&peer.u, message->address, message->address_length);
	drop_first(datagram);
	if (!told)
		kl_datagram_tell_error(datagram, error, peer.length > 0 ? &peer : NULL);
}

static void fill(struct msghdr *header, struct iovec *vector, struct kl_packet *message)
{
	vector->iov_base = kl_packet_get_data(message);
	vector->iov_len = message->bytes;
	memset(header, 0, sizeof(*header));
	header->msg_name = message->address_length > 0 ? message->address : NULL;
	header->msg_namelen = message->address_length;
	header->msg_iov = vector;
	header->msg_iovlen = 1;
}

/* ---- sending ---------------------------------------------------------- */

/* As many as the socket takes with one call: how many, or a negative errno. */
static int send_batch(struct kloop_datagram *datagram)
{
	struct kl_packet *message = datagram->queue.first;
	struct mmsghdr headers[BATCH];
	struct iovec vectors[BATCH];
	unsigned count = 0;
	int result;

	for (; message && count < BATCH; message = message->next, count++)
		fill(&headers[count].msg_hdr, &vectors[count], message);
	kl_loop_count_direct(datagram->loop);
	result = sendmmsg(datagram->fd, headers, count, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (result < 0)
		return -errno;
	for (int i = 0; i < result; i++)
		drop_first(datagram);
	return result;
}

static void run_later(struct kloop_timer *timer)
{
	struct kloop_datagram *datagram = kl_container_of(timer, struct kloop_datagram, retry);

	kl_datagram_enter(datagram);
	kl_datagram_run_send(datagram);
	kl_datagram_leave(datagram);
}

/* The peer of a Unix socket that is not connected is full: no event tells when it has room. */
static int try_later(struct kloop_datagram *datagram)
{
	uint64_t wait_ns = datagram->retry_ns;

	datagram->retry_ns = wait_ns < LONGEST_WAIT_NS ? 2 * wait_ns : wait_ns;
	datagram->retry.expire = run_later;
	return kloop_timer_start(datagram->loop, &datagram->retry, kloop_now() + wait_ns);
}

/* The socket is full: go on when it is not. */
static void wait_for_room(struct kloop_datagram *datagram)
{
	struct kl_packet *first = datagram->queue.first;
	int r;

	if (datagram->family == AF_UNIX && first->address_length > 0) {
		r = try_later(datagram);
	} else {
		datagram->send_op.complete = room_done;
		r = kloop_op_poll(datagram->loop, &datagram->send_op, datagram->fd, POLLOUT);
	}
	if (r < 0 && !kl_loop_is_closing(datagram->loop)) {
		fail_first(datagram, r);
		if (datagram->queue.first)
			kl_datagram_schedule(datagram);
	}
}

/* Have the ring send the first of the queue, when there is room. */
static void submit_first(struct kloop_datagram *datagram)
{
	int r;

	fill(&datagram->message, &datagram->vector, datagram->queue.first);
	datagram->send_op.complete = send_done;
	r = kloop_op_sendmsg(datagram->loop, &datagram->send_op, datagram->fd, &datagram->message,
			     0);
	if (r == 0 || kl_loop_is_closing(datagram->loop))
		return;
	fail_first(datagram, r);
	if (datagram->queue.first)
		kl_datagram_schedule(datagram);
}

/* Something in flight, or a timer, will go on with the queue. */
static bool is_waiting(const struct kloop_datagram *datagram)
{
	return kloop_op_is_active(&datagram->send_op) ||
	       kloop_timer_is_active(&datagram->retry);
}

void kl_datagram_run_send(struct kloop_datagram *datagram)
{
	/* What errors make the owner queue is for the next turn. */
	size_t left = datagram->send_count;
	int result;

	while (datagram->queue.first && !is_waiting(datagram) &&
	       !kl_datagram_has(datagram, KL_DATAGRAM_ABORTED | KL_DATAGRAM_CLOSED)) {
		if (left == 0) {
			kl_datagram_schedule(datagram);
			break;
		}
		if (is_sent_by_ring(datagram)) {
			submit_first(datagram);
			break;
		}
		result = send_batch(datagram);
		if (result == -EAGAIN) {
			wait_for_room(datagram);
			break;
		}
		if (result < 0 && result != -EINTR) {
			fail_first(datagram, result);
			result = 1;
		}
		left -= result <= 0 ? 0 : (size_t)result < left ? (size_t)result : left;
	}
	tell_drain(datagram);
}

static void send_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_datagram *datagram = kl_container_of(op, struct kloop_datagram, send_op);

	(void)flags;
	kl_datagram_enter(datagram);
	datagram->state &= ~(uint32_t)KL_DATAGRAM_CANCEL_SEND;
	if (result >= 0)
		drop_first(datagram);
	else if (result != -ECANCELED && result != -EINTR && result != -EAGAIN)
		fail_first(datagram, result);
	kl_datagram_run_send(datagram);
	kl_datagram_leave(datagram);
}

static void room_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_datagram *datagram = kl_container_of(op, struct kloop_datagram, send_op);

	(void)result; /* whatever it is, sending tells more */
	(void)flags;
	kl_datagram_enter(datagram);
	datagram->state &= ~(uint32_t)KL_DATAGRAM_CANCEL_SEND;
	kl_datagram_run_send(datagram);
	kl_datagram_leave(datagram);
}

/* ---- public ----------------------------------------------------------- */

/* 0, or why nothing can be sent. */
static int check_send(const struct kloop_datagram *datagram, const void *data, size_t bytes,
		      const struct kloop_address *peer)
{
	int r;

	if (!datagram || (!data && bytes > 0) || bytes > PTRDIFF_MAX / 2 ||
	    (peer && (peer->length < sizeof(sa_family_t) || peer->length > sizeof(peer->u))))
		return -EINVAL;
	r = kl_loop_check(datagram->loop);
	if (r < 0)
		return r;
	return kl_datagram_has(datagram, KL_DATAGRAM_CLOSING) ? -ESTALE : 0;
}

int kloop_datagram_send(struct kloop_datagram *datagram, const void *data, size_t bytes,
			const struct kloop_address *peer)
{
	struct kl_packet *message;
	int r = check_send(datagram, data, bytes, peer);

	if (r < 0)
		return r;
	message = kl_packet_make(peer ? &peer->u : NULL, peer ? peer->length : 0, data, bytes);
	if (!message)
		return -ENOMEM;
	kl_packet_put(&datagram->queue, message);
	datagram->send_bytes += bytes + KLOOP_DATAGRAM_EXTRA_BYTES;
	datagram->send_count++;
	if (datagram->send_bytes > datagram->high_bytes)
		datagram->state |= KL_DATAGRAM_ABOVE_HIGH;
	/* Otherwise the end of the send in flight goes on with it. */
	if (!is_waiting(datagram))
		kl_datagram_schedule(datagram);
	return 0;
}

int kloop_datagram_try_send(struct kloop_datagram *datagram, const void *data, size_t bytes,
			    const struct kloop_address *peer)
{
	int r = check_send(datagram, data, bytes, peer);

	if (r < 0)
		return r;
	if (datagram->queue.first || is_sent_by_ring(datagram))
		return 0;
	kl_loop_count_direct(datagram->loop);
	if (sendto(datagram->fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL,
		   peer ? &peer->u.any : NULL, peer ? peer->length : 0) >= 0)
		return 1;
	return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

size_t kloop_datagram_get_send_bytes(const struct kloop_datagram *datagram)
{
	return datagram->send_bytes;
}

size_t kloop_datagram_get_send_count(const struct kloop_datagram *datagram)
{
	return datagram->send_count;
}

int kloop_datagram_set_send_marks(struct kloop_datagram *datagram, size_t low_bytes,
				  size_t high_bytes)
{
	if (!datagram || low_bytes > high_bytes)
		return -EINVAL;
	datagram->low_bytes = low_bytes;
	datagram->high_bytes = high_bytes;
	if (datagram->send_bytes > high_bytes)
		datagram->state |= KL_DATAGRAM_ABOVE_HIGH;
	/* What is owed may be due with the new low mark. */
	if (kl_datagram_has(datagram, KL_DATAGRAM_ABOVE_HIGH) && datagram->send_bytes <= low_bytes)
		kl_datagram_schedule(datagram);
	return 0;
}
