/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Datagram sockets: made, closed and freed. */
#include "datagram.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/in6.h>
#include <string.h>
#include <unistd.h>

#define LOW_BYTES ((size_t)16 << 10)
#define HIGH_BYTES ((size_t)64 << 10)

#define ALL_FLAGS                                                                          \
	(KLOOP_DATAGRAM_KEEP_FD | KLOOP_DATAGRAM_REUSE_PORT | KLOOP_DATAGRAM_BROADCAST |         \
	 KLOOP_DATAGRAM_PEER_ERRORS)

/* ---- messages --------------------------------------------------------- */

struct kl_packet *kl_packet_make(const void *address, socklen_t address_length, const void *data,
				   size_t bytes)
{
	struct kl_packet *message = kl_malloc(sizeof(*message) + address_length + bytes);

	if (!message)
		return NULL;
	message->next = NULL;
	message->bytes = bytes;
	message->address_length = address_length;
	message->truncated = false;
	if (address_length > 0)
		memcpy(message->address, address, address_length);
	if (bytes > 0)
		memcpy(kl_packet_get_data(message), data, bytes);
	return message;
}

void kl_packet_put(struct kl_packet_queue *queue, struct kl_packet *message)
{
	if (queue->first)
		queue->last->next = message;
	else
		queue->first = message;
	queue->last = message;
}

struct kl_packet *kl_packet_take(struct kl_packet_queue *queue)
{
	struct kl_packet *first = queue->first;

	queue->first = first->next;
	return first;
}

static void drop_all(struct kl_packet_queue *queue)
{
	while (queue->first)
		kl_free(kl_packet_take(queue));
}

/* ---- states ----------------------------------------------------------- */

void kl_datagram_schedule(struct kloop_datagram *datagram)
{
	if (!datagram->defer.scheduled && !kl_loop_is_closing(datagram->loop))
		kl_loop_defer(datagram->loop, &datagram->defer);
}

void kl_datagram_tell_error(struct kloop_datagram *datagram, int error,
			    const struct kloop_address *peer)
{
	kl_loop_note_call(datagram->loop);
	if (datagram->handlers->on_error)
		datagram->handlers->on_error(datagram, error, peer, datagram->user);
}

static void cancel(struct kloop_datagram *datagram, struct kloop_op *op, uint32_t bit)
{
	if (!kloop_op_is_active(op) || kl_datagram_has(datagram, bit))
		return;
	if (kloop_op_cancel(op) == 0)
		datagram->state |= bit;
	else
		kl_datagram_schedule(datagram); /* no memory for it now: try again */
}

void kl_datagram_cancel_read(struct kloop_datagram *datagram)
{
	cancel(datagram, &datagram->read_op, KL_DATAGRAM_CANCEL_READ);
}

/* ---- the end ---------------------------------------------------------- */

static void free_datagram(struct kloop_datagram *datagram)
{
	if (!kl_datagram_has(datagram, KL_DATAGRAM_EXITING))
		kl_loop_remove_exit(datagram->loop, &datagram->exit);
	if (datagram->defer.scheduled)
		kl_loop_drop_defer(datagram->loop, &datagram->defer);
	kloop_timer_stop(&datagram->retry);
	drop_all(&datagram->queue);
	drop_all(&datagram->held);
	kl_loop_note_call(datagram->loop);
	datagram->handlers->on_close(datagram, datagram->user);
	kl_free(datagram);
}

static void close_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_datagram *datagram = kl_container_of(op, struct kloop_datagram, send_op);

	(void)flags;
	kl_datagram_enter(datagram);
	/* Any other error of close(2) has closed the descriptor all the same. */
	if (result == -ECANCELED && !kl_datagram_has(datagram, KL_DATAGRAM_SETTLED))
		close(datagram->fd);
	kl_datagram_leave(datagram);
}

static void close_fd(struct kloop_datagram *datagram)
{
	datagram->state |= KL_DATAGRAM_CLOSED;
	if (datagram->flags & KLOOP_DATAGRAM_KEEP_FD)
		return;
	datagram->send_op.complete = close_done;
	if (!kl_loop_is_closing(datagram->loop) &&
	    kl_op_close(datagram->loop, &datagram->send_op, datagram->fd) == 0)
		return;
	/* A receive that the kernel does not have yet would meet the next file of this number. */
	if (kloop_op_is_active(&datagram->read_op))
		datagram->state |= KL_DATAGRAM_CLOSE_LATER;
	else
		close(datagram->fd);
}

/*
 * A polling thread tells completions before it drops its references to the
 * socket, which keep the port taken: as with listeners, one more round through
 * it makes on_close mean that the port is free. Returns whether it is on.
 */
static bool settle(struct kloop_datagram *datagram)
{
	if ((datagram->state & (KL_DATAGRAM_SQPOLL | KL_DATAGRAM_SETTLED)) != KL_DATAGRAM_SQPOLL ||
	    (datagram->flags & KLOOP_DATAGRAM_KEEP_FD) || kl_loop_is_closing(datagram->loop))
		return false;
	datagram->state |= KL_DATAGRAM_SETTLED;
	datagram->send_op.complete = close_done;
	return kloop_op_nop(datagram->loop, &datagram->send_op) == 0;
}

/* One step nearer to the end; returns whether the socket is freed. */
static bool close_step(struct kloop_datagram *datagram)
{
	bool ending = kl_loop_is_closing(datagram->loop);

	if (!kl_datagram_has(datagram, KL_DATAGRAM_ABORTED) && !ending && datagram->queue.first)
		return false;
	kl_datagram_cancel_read(datagram);
	if (!kl_datagram_has(datagram, KL_DATAGRAM_CLOSED)) {
		if (kloop_op_is_active(&datagram->send_op)) {
			cancel(datagram, &datagram->send_op, KL_DATAGRAM_CANCEL_SEND);
			return false;
		}
		close_fd(datagram);
	}
	if (kloop_op_is_active(&datagram->read_op) || kloop_op_is_active(&datagram->send_op))
		return false;
	if (kl_datagram_has(datagram, KL_DATAGRAM_CLOSE_LATER)) {
		datagram->state &= ~(uint32_t)KL_DATAGRAM_CLOSE_LATER;
		close(datagram->fd);
	}
	if ((datagram->defer.scheduled && !ending) || settle(datagram))
		return false;
	free_datagram(datagram);
	return true;
}

void kl_datagram_leave(struct kloop_datagram *datagram)
{
	if (!kl_datagram_has(datagram, KL_DATAGRAM_CLOSING) || !close_step(datagram))
		datagram->state &= ~(uint32_t)KL_DATAGRAM_BUSY;
}

static void run_exit(struct kl_exit *hook)
{
	struct kloop_datagram *datagram = kl_container_of(hook, struct kloop_datagram, exit);

	kl_datagram_enter(datagram);
	datagram->state |= KL_DATAGRAM_EXITING | KL_DATAGRAM_CLOSING | KL_DATAGRAM_ABORTED;
	kl_datagram_leave(datagram);
}

static void run_defer(struct kl_defer *defer)
{
	struct kloop_datagram *datagram = kl_container_of(defer, struct kloop_datagram, defer);

	kl_datagram_enter(datagram);
	kl_datagram_run_read(datagram);
	kl_datagram_run_send(datagram);
	kl_datagram_leave(datagram);
}

static void begin_close(struct kloop_datagram *datagram, uint32_t bits)
{
	int r;

	if (!datagram || (datagram->state & bits) == bits)
		return;
	r = kl_loop_check(datagram->loop);
	if (r < 0 && r != -ESTALE)
		return;
	datagram->state |= bits;
	datagram->state &= ~(uint32_t)KL_DATAGRAM_WANT_READ;
	if (!kl_datagram_has(datagram, KL_DATAGRAM_BUSY))
		kl_datagram_schedule(datagram);
}

void kloop_datagram_close(struct kloop_datagram *datagram)
{
	begin_close(datagram, KL_DATAGRAM_CLOSING);
}

void kloop_datagram_abort(struct kloop_datagram *datagram)
{
	begin_close(datagram, KL_DATAGRAM_CLOSING | KL_DATAGRAM_ABORTED);
}

/* ---- the beginning ---------------------------------------------------- */

static int check_new(struct kloop_loop *loop, unsigned flags,
		     const struct kloop_datagram_handlers *handlers,
		     struct kloop_datagram **ret_datagram)
{
	if (!loop || !handlers || handlers->size < sizeof(*handlers) || !handlers->on_close ||
	    !ret_datagram || (flags & ~(unsigned)ALL_FLAGS))
		return -EINVAL;
	return kl_loop_check(loop);
}

/* What the socket is: its family, or a negative errno. */
static int get_family(int fd)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(int);
	int type;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0)
		return -errno;
	if (type == SOCK_STREAM)
		return -EINVAL;
	length = sizeof(address);
	if (getsockname(fd, (struct sockaddr *)(void *)&address, &length) < 0)
		return -errno;
	switch (address.ss_family) {
	case AF_INET:
	case AF_INET6:
	case AF_UNIX:
		return address.ss_family;
	default:
		return -EAFNOSUPPORT;
	}
}

static int want_peer_errors(int fd, int family)
{
	int on = 1;

	if (family == AF_UNIX)
		return -EINVAL;
	if (family == AF_INET6) {
		if (setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof(on)) < 0)
			return -errno;
		/* Of peers with mapped addresses; a socket for IPv6 alone has none. */
		(void)setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof(on));
		return 0;
	}
	return setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof(on)) < 0 ? -errno : 0;
}

int kloop_datagram_new(struct kloop_loop *loop, int fd, unsigned flags,
		       const struct kloop_datagram_handlers *handlers, void *user,
		       struct kloop_datagram **ret_datagram)
{
	struct kloop_datagram *datagram;
	uint64_t features;
	int r = check_new(loop, flags, handlers, ret_datagram);
	int family;

	if (r < 0)
		return r;
	family = get_family(fd);
	if (family < 0)
		return family;
	if (flags & KLOOP_DATAGRAM_PEER_ERRORS) {
		r = want_peer_errors(fd, family);
		if (r < 0)
			return r;
	}
	datagram = kl_calloc(1, sizeof(*datagram));
	if (!datagram)
		return -ENOMEM;
	*datagram = (struct kloop_datagram){
		.loop = loop,
		.handlers = handlers,
		.user = user,
		.shape.msg_namelen = sizeof(struct sockaddr_in6),
		.low_bytes = LOW_BYTES,
		.high_bytes = HIGH_BYTES,
		.fd = fd,
		.family = (sa_family_t)family,
		.flags = (uint8_t)flags,
	};
	datagram->defer.run = run_defer;
	datagram->exit.run = run_exit;
	kloop_op_init(&datagram->read_op, NULL);
	kloop_op_init(&datagram->send_op, NULL);
	kloop_timer_init(&datagram->retry, NULL);
	features = kloop_loop_get_features(loop);
	if (features & KLOOP_FEATURE_SQPOLL)
		datagram->state |= KL_DATAGRAM_SQPOLL;
	/* Unix datagrams can be longer than a buffer of the pool; only readiness tells of ICMP. */
	if (!(features & KLOOP_FEATURE_RECV_MULTISHOT) || family == AF_UNIX ||
	    (flags & KLOOP_DATAGRAM_PEER_ERRORS))
		datagram->state |= KL_DATAGRAM_DIRECT;
	kl_loop_add_exit(loop, &datagram->exit);
	*ret_datagram = datagram;
	return 0;
}

/* ---- open ------------------------------------------------------------- */

static bool is_address(const struct kloop_address *address)
{
	return !address || (address->length >= sizeof(sa_family_t) &&
			    address->length <= sizeof(address->u));
}

static int set_up(int fd, unsigned flags, const struct kloop_address *local,
		  const struct kloop_address *peer)
{
	int on = 1;

	if ((flags & KLOOP_DATAGRAM_REUSE_PORT) &&
	    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0)
		return -errno;
	if ((flags & KLOOP_DATAGRAM_BROADCAST) &&
	    setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof(on)) < 0)
		return -errno;
	if (local && bind(fd, &local->u.any, local->length) < 0)
		return -errno;
	/* It does not wait: there is no handshake. */
	if (peer && connect(fd, &peer->u.any, peer->length) < 0)
		return -errno;
	return 0;
}

int kloop_datagram_open(struct kloop_loop *loop, const struct kloop_address *local,
			const struct kloop_address *peer, unsigned flags,
			const struct kloop_datagram_handlers *handlers, void *user,
			struct kloop_datagram **ret_datagram)
{
	int r = check_new(loop, flags, handlers, ret_datagram);
	int fd;

	if (r < 0)
		return r;
	if ((!local && !peer) || !is_address(local) || !is_address(peer) ||
	    (local && peer && local->u.any.sa_family != peer->u.any.sa_family))
		return -EINVAL;
	fd = socket((local ? local : peer)->u.any.sa_family,
		    SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	r = set_up(fd, flags, local, peer);
	if (r == 0)
		r = kloop_datagram_new(loop, fd, flags, handlers, user, ret_datagram);
	if (r < 0)
		close(fd);
	return r;
}

/* ---- accessors -------------------------------------------------------- */

int kloop_datagram_get_fd(const struct kloop_datagram *datagram)
{
	bool closed = kl_datagram_has(datagram, KL_DATAGRAM_CLOSED);

	return closed && !(datagram->flags & KLOOP_DATAGRAM_KEEP_FD) ? -1 : datagram->fd;
}

int kloop_datagram_get_address(const struct kloop_datagram *datagram,
			       struct kloop_address *ret_address)
{
	struct kloop_address address = { .length = sizeof(address.u) };

	if (kl_datagram_has(datagram, KL_DATAGRAM_CLOSED))
		return -ESTALE;
	if (getsockname(datagram->fd, &address.u.any, &address.length) < 0)
		return -errno;
	*ret_address = address;
	return 0;
}
