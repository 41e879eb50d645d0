/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Streams: made, connected, failed, closed and freed. */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define LOW_BYTES ((size_t)16 << 10)
#define HIGH_BYTES ((size_t)64 << 10)

/* ---- states ----------------------------------------------------------- */

void kl_stream_schedule(struct kloop_stream *stream)
{
	/* While the loop ends no turn comes; the exit hook does what is left. */
	if (!stream->defer.scheduled && !kl_loop_is_closing(stream->loop))
		kl_loop_defer(stream->loop, &stream->defer);
}

void kl_stream_fail(struct kloop_stream *stream, int error)
{
	if (kl_stream_has(stream, KL_STREAM_FAILED))
		return;
	stream->error = error;
	stream->state |= KL_STREAM_FAILED;
	stream->state &= ~(uint32_t)KL_STREAM_WANT_READ;
	if (!kl_stream_has(stream, KL_STREAM_BUSY))
		kl_stream_schedule(stream);
}

static void cancel(struct kloop_stream *stream, struct kloop_op *op, uint32_t bit)
{
	if (!kloop_op_is_active(op) || kl_stream_has(stream, bit))
		return;
	if (kloop_op_cancel(op) == 0)
		stream->state |= bit;
	else
		kl_stream_schedule(stream); /* no memory for it now: try again */
}

void kl_stream_cancel_read(struct kloop_stream *stream)
{
	cancel(stream, &stream->read_op, KL_STREAM_CANCEL_READ);
}

void kl_stream_cancel_write(struct kloop_stream *stream)
{
	cancel(stream, &stream->write_op, KL_STREAM_CANCEL_WRITE);
}

/* Once nothing of the queue is with the kernel: release it, and tell the owner. */
static void tell_failure(struct kloop_stream *stream)
{
	bool connecting = kl_stream_has(stream, KL_STREAM_CONNECTING);
	const struct kloop_stream_handlers *handlers = stream->handlers;

	kl_stream_cancel_read(stream);
	if (kloop_op_is_active(&stream->write_op)) {
		kl_stream_cancel_write(stream);
		return;
	}
	kl_stream_release_all(stream, stream->error);
	stream->state |= KL_STREAM_TOLD;
	if (kl_stream_has(stream, KL_STREAM_ABORTED | KL_STREAM_LAST))
		return;
	kl_loop_note_call(stream->loop);
	if (stream->layer && stream->layer->ops->tell_failure(stream))
		return;
	if (connecting && kl_stream_has(stream, KL_STREAM_CLOSING))
		return;
	if (connecting && handlers->on_connect)
		handlers->on_connect(stream, stream->error, stream->user);
	else if (handlers->on_error)
		handlers->on_error(stream, stream->error, stream->user);
}

/* ---- the end ---------------------------------------------------------- */

static void free_stream(struct kloop_stream *stream)
{
	if (!kl_stream_has(stream, KL_STREAM_EXITING))
		kl_loop_remove_exit(stream->loop, &stream->exit);
	if (stream->defer.scheduled)
		kl_loop_drop_defer(stream->loop, &stream->defer);
	kl_stream_free_read(stream);
	kl_loop_note_call(stream->loop);
	stream->handlers->on_close(stream, stream->user);
	if (stream->layer)
		stream->layer->ops->free(stream);
	kl_free(stream);
}

static void close_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_stream *stream = kl_container_of(op, struct kloop_stream, write_op);

	(void)flags;
	kl_stream_enter(stream);
	/* Any other error of close(2) has closed the descriptor all the same. */
	if (result == -ECANCELED)
		close(stream->fd);
	kl_stream_leave(stream);
}

static void close_fd(struct kloop_stream *stream)
{
	stream->state |= KL_STREAM_CLOSED;
	if (stream->flags & KLOOP_STREAM_KEEP_FD)
		return;
	stream->write_op.complete = close_done;
	if (!kl_loop_is_closing(stream->loop) &&
	    kl_op_close(stream->loop, &stream->write_op, stream->fd) == 0)
		return;
	/* A receive that the kernel does not have yet would meet the next file of this number. */
	if (kloop_op_is_active(&stream->read_op))
		stream->state |= KL_STREAM_CLOSE_LATER;
	else
		close(stream->fd);
}

/* Is the layer, if there is one, through with the writing direction? */
static bool end_layer(struct kloop_stream *stream, bool closing)
{
	return !stream->layer || stream->layer->ops->end_write(stream, closing);
}

/*
 * One step nearer to the end. The receive is cancelled and the descriptor
 * closed by the same submission; the memory goes when both have completed.
 * Returns: whether the stream is freed.
 */
static bool close_step(struct kloop_stream *stream)
{
	bool at_once = kl_stream_has(stream, KL_STREAM_ABORTED | KL_STREAM_FAILED) ||
		       kl_loop_is_closing(stream->loop);

	/* An empty write may be queued as well, so the bytes alone do not tell. */
	if (!at_once && (kl_stream_has_queue(stream) || !end_layer(stream, true)))
		return false;
	kl_stream_cancel_read(stream);
	if (!kl_stream_has(stream, KL_STREAM_CLOSED)) {
		if (kloop_op_is_active(&stream->write_op)) {
			kl_stream_cancel_write(stream);
			return false;
		}
		kl_stream_release_all(stream, -ECANCELED);
		close_fd(stream);
	}
	if (kloop_op_is_active(&stream->read_op) || kloop_op_is_active(&stream->write_op))
		return false;
	if (kl_stream_has(stream, KL_STREAM_CLOSE_LATER)) {
		stream->state &= ~(uint32_t)KL_STREAM_CLOSE_LATER;
		close(stream->fd);
	}
	/* Taking a defer back is dear where many are scheduled; it comes by itself. */
	if (stream->defer.scheduled && !kl_loop_is_closing(stream->loop))
		return false;
	free_stream(stream);
	return true;
}

void kl_stream_settle(struct kloop_stream *stream)
{
	if ((stream->state & (KL_STREAM_FAILED | KL_STREAM_TOLD)) == KL_STREAM_FAILED)
		tell_failure(stream);

	/* shutdown(2) never waits; as an operation it would cost a kernel thread. */
	if (kl_stream_has(stream, KL_STREAM_SHUT_PENDING) &&
	    kl_stream_has(stream, KL_STREAM_CONNECTED) && !kl_stream_has_queue(stream) &&
	    !kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED | KL_STREAM_CLOSED) &&
	    end_layer(stream, false)) {
		stream->state &= ~(uint32_t)KL_STREAM_SHUT_PENDING;
		/* It fails only where the peer has gone, and reading tells that. */
		shutdown(stream->fd, SHUT_WR);
		kl_loop_count_direct(stream->loop);
	}
	if (!kl_stream_has(stream, KL_STREAM_CLOSING) || !close_step(stream))
		stream->state &= ~(uint32_t)KL_STREAM_BUSY;
}

static void run_exit(struct kl_exit *hook)
{
	struct kloop_stream *stream = kl_container_of(hook, struct kloop_stream, exit);

	kl_stream_enter(stream);
	stream->state |= KL_STREAM_EXITING;
	/* In a forked child nothing has failed: it is as if its owner had aborted it. */
	if (!kl_stream_has(stream, KL_STREAM_OVER) && !kl_loop_is_forked(stream->loop)) {
		kl_stream_fail(stream, -ECANCELED);
		tell_failure(stream);
	}
	stream->state |= KL_STREAM_CLOSING | KL_STREAM_ABORTED;
	kl_stream_leave(stream);
}

static void run_defer(struct kl_defer *defer)
{
	struct kloop_stream *stream = kl_container_of(defer, struct kloop_stream, defer);

	kl_stream_enter(stream);
	/* Mostly there is something to write, and the receive is armed. */
	if (!kloop_op_is_active(&stream->read_op) || stream->held || stream->layer ||
	    kl_stream_has(stream, KL_STREAM_READ_ENDED))
		kl_stream_run_read(stream);
	kl_stream_run_write(stream);
	if (kl_stream_has(stream, KL_STREAM_LAST))
		stream->state |= KL_STREAM_ABORTED;
	kl_stream_leave(stream);
}

/* ---- the beginning ---------------------------------------------------- */

static int check_new(struct kloop_loop *loop, const struct kloop_stream_handlers *handlers,
		     struct kloop_stream **ret_stream)
{
	if (!loop || !handlers || handlers->size < sizeof(*handlers) || !handlers->on_close ||
	    !ret_stream)
		return -EINVAL;
	return kl_loop_check(loop);
}

static struct kloop_stream *make_stream(struct kloop_loop *loop, int fd, unsigned flags,
					const struct kloop_stream_handlers *handlers, void *user)
{
	struct kloop_stream *stream = kl_calloc(1, sizeof(*stream));
	uint64_t features = kloop_loop_get_features(loop);

	if (!stream)
		return NULL;
	stream->loop = loop;
	stream->fd = fd;
	stream->flags = (uint8_t)flags;
	stream->handlers = handlers;
	stream->user = user;
	stream->low_bytes = LOW_BYTES;
	stream->high_bytes = HIGH_BYTES;
	stream->defer.run = run_defer;
	stream->exit.run = run_exit;
	if (features & KLOOP_FEATURE_SQPOLL)
		stream->state |= KL_STREAM_SQPOLL;
	if ((flags & KLOOP_STREAM_PIPE) || !(features & KLOOP_FEATURE_RECV_MULTISHOT))
		stream->state |= KL_STREAM_DIRECT | KL_STREAM_NO_POOL;
	kloop_op_init(&stream->read_op, NULL);
	kloop_op_init(&stream->write_op, NULL);
	return stream;
}

int kloop_stream_new(struct kloop_loop *loop, int fd, unsigned flags,
		     const struct kloop_stream_handlers *handlers, void *user,
		     struct kloop_stream **ret_stream)
{
	struct kloop_stream *stream;
	int r = check_new(loop, handlers, ret_stream);
	int status;

	if (r < 0)
		return r;
	if (flags & ~(unsigned)(KLOOP_STREAM_KEEP_FD | KLOOP_STREAM_PIPE))
		return -EINVAL;
	status = fcntl(fd, F_GETFL);
	if (status < 0)
		return -errno;
	/* Sockets are told in each call not to wait; for pipes there is no such flag. */
	if ((flags & KLOOP_STREAM_PIPE) && !(status & O_NONBLOCK) &&
	    fcntl(fd, F_SETFL, status | O_NONBLOCK) < 0)
		return -errno;
	stream = make_stream(loop, fd, flags, handlers, user);
	if (!stream)
		return -ENOMEM;
	stream->state |= KL_STREAM_CONNECTED;
	kl_loop_add_exit(loop, &stream->exit);
	*ret_stream = stream;
	return 0;
}

/* ---- connect ---------------------------------------------------------- */

static void connect_done(struct kloop_op *op, int32_t result, uint32_t flags);

static int submit_connect(struct kloop_stream *stream)
{
	stream->write_op.complete = connect_done;
	return kloop_op_connect(stream->loop, &stream->write_op, stream->fd, stream->out.address,
				stream->address_length);
}

/* The socket is connected or has failed meanwhile: another connect(2) says which. */
static void connect_ready(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_stream *stream = kl_container_of(op, struct kloop_stream, write_op);
	int r;

	if (result < 0 || kl_stream_has(stream, KL_STREAM_CANCEL_WRITE)) {
		connect_done(op, result < 0 ? result : -ECANCELED, flags);
		return;
	}
	r = submit_connect(stream);
	if (r < 0)
		connect_done(op, r, flags);
}

static void end_connect(struct kloop_stream *stream, int result)
{
	kl_free(stream->out.address);
	stream->out.sending = NULL;
	if (result < 0) {
		kl_stream_fail(stream, result);
		return;
	}
	stream->state &= ~(uint32_t)KL_STREAM_CONNECTING;
	stream->state |= KL_STREAM_CONNECTED;
	if (stream->handlers->on_connect && !kl_stream_has(stream, KL_STREAM_CLOSING))
		stream->handlers->on_connect(stream, 0, stream->user);
	kl_stream_run_read(stream);
	if (kl_stream_has_queue(stream))
		kl_stream_schedule(stream);
}

static void connect_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_stream *stream = kl_container_of(op, struct kloop_stream, write_op);
	bool wanted = !kl_stream_has(stream, KL_STREAM_CANCEL_WRITE) &&
		      !kl_loop_is_closing(stream->loop);

	(void)flags;
	stream->state &= ~(uint32_t)KL_STREAM_CANCEL_WRITE;
	kl_stream_enter(stream);
	/*
	 * Cancelled because the loop moved to another thread: the handshake
	 * goes on in the socket, and a second connect(2) would be -EALREADY.
	 * Likewise if it was interrupted.
	 */
	if (wanted && (result == -ECANCELED || result == -EALREADY || result == -EINPROGRESS ||
		       result == -EINTR)) {
		op->complete = connect_ready;
		result = kloop_op_poll(stream->loop, op, stream->fd, POLLOUT);
		if (result == 0) {
			kl_stream_leave(stream);
			return;
		}
	}
	end_connect(stream, result == -EISCONN ? 0 : result);
	kl_stream_leave(stream);
}

static int open_socket(int family)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int on = 1;

	if (fd < 0)
		return -errno;
	/* Writes are gathered here already; the kernel need not wait for more. */
	if (family == AF_INET || family == AF_INET6)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

int kloop_stream_connect(struct kloop_loop *loop, const struct kloop_address *address,
			 const struct kloop_stream_handlers *handlers, void *user,
			 struct kloop_stream **ret_stream)
{
	struct kloop_stream *stream = NULL;
	int r = check_new(loop, handlers, ret_stream);
	int fd;

	if (r < 0)
		return r;
	if (!address || address->length < sizeof(sa_family_t) ||
	    address->length > sizeof(address->u))
		return -EINVAL;
	fd = open_socket(address->u.any.sa_family);
	if (fd < 0)
		return fd;
	stream = make_stream(loop, fd, 0, handlers, user);
	if (!stream)
		goto no_memory;
	stream->out.address = kl_malloc(address->length);
	if (!stream->out.address)
		goto no_memory;
	memcpy(stream->out.address, &address->u, address->length);
	stream->address_length = address->length;
	stream->state |= KL_STREAM_CONNECTING;
	r = submit_connect(stream);
	if (r < 0)
		goto fail;
	kl_loop_add_exit(loop, &stream->exit);
	*ret_stream = stream;
	return 0;

no_memory:
	r = -ENOMEM;
fail:
	if (stream)
		kl_free(stream->out.address);
	kl_free(stream);
	close(fd);
	return r;
}

/* ---- close ------------------------------------------------------------ */

static void begin_close(struct kloop_stream *stream, uint32_t bits)
{
	int r;

	if (!stream || (stream->state & bits) == bits)
		return;
	r = kl_loop_check(stream->loop);
	if (r < 0 && r != -ESTALE)
		return;
	stream->state |= bits;
	stream->state &= ~(uint32_t)KL_STREAM_WANT_READ;
	/* From one of the stream's own callbacks the end of the bracket goes on. */
	if (!kl_stream_has(stream, KL_STREAM_BUSY))
		kl_stream_schedule(stream);
}

void kloop_stream_close(struct kloop_stream *stream)
{
	begin_close(stream, KL_STREAM_CLOSING);
}

/*
 * Writes wait for the end of the turn; an owner who writes and then aborts must
 * not have to know that. What the kernel takes at once, it gets: the cancel
 * comes behind the send.
 */
static bool has_last_words(const struct kloop_stream *stream)
{
	return kl_stream_has(stream, KL_STREAM_CONNECTED) &&
	       !kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED) &&
	       !stream->out.sending && kl_stream_has_queue(stream) &&
	       !kloop_op_is_active(&stream->write_op) && !kl_loop_is_closing(stream->loop);
}

void kloop_stream_abort(struct kloop_stream *stream)
{
	if (!stream || !has_last_words(stream)) {
		begin_close(stream, KL_STREAM_CLOSING | KL_STREAM_ABORTED);
		return;
	}
	begin_close(stream, KL_STREAM_CLOSING | KL_STREAM_LAST);
	if (kl_stream_has(stream, KL_STREAM_LAST))
		kl_stream_schedule(stream);
}

/* ---- accessors -------------------------------------------------------- */

int kloop_stream_get_fd(const struct kloop_stream *stream)
{
	bool closed = kl_stream_has(stream, KL_STREAM_CLOSED);

	return closed && !(stream->flags & KLOOP_STREAM_KEEP_FD) ? -1 : stream->fd;
}

struct kloop_loop *kloop_stream_get_loop(const struct kloop_stream *stream)
{
	return stream->loop;
}

void *kloop_stream_get_user(const struct kloop_stream *stream)
{
	return stream->user;
}

void kloop_stream_set_user(struct kloop_stream *stream, void *user)
{
	stream->user = user;
}
