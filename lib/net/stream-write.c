/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The write path of streams.
 *
 * What is written gathers in a batch, the pending one. At the start of the
 * next turn it becomes the one that is sent, as it is: its vector goes to the
 * kernel, its memory stays put until the kernel is done, and new writes gather
 * in another batch. A batch is freed when it is sent, so that an idle stream
 * has none; a typical message costs one allocation, which holds the vector and
 * the copied bytes.
 */
#include "batch.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Room for copies in a batch. */
#define FIRST_ROOM (KL_SPARE_MIDDLE - sizeof(struct kl_batch))
/* The kernel's limits: segments in a vector, bytes in one call. */
#define MAX_SEGMENTS 1024
#define MAX_BYTES ((size_t)1 << 30)

/* ---- sent and released ------------------------------------------------ */

static void end_segment(struct kloop_stream *stream, struct kl_batch *batch, int status)
{
	struct kl_segment_end end = batch->ends[batch->head];

	stream->write_bytes -= batch->vector[batch->head].iov_len;
	batch->head++;
	kl_loop_note_call(stream->loop);
	if (end.release)
		end.release(end.owner, status, stream->user);
	else
		kl_free(end.owner);
}

/* The kernel took so many bytes. */
static void advance(struct kloop_stream *stream, struct kl_batch *batch, size_t bytes)
{
	struct iovec *segment;

	while (batch->head < batch->count && !kl_batch_get_file(batch)) {
		segment = &batch->vector[batch->head];
		if (segment->iov_len > bytes) {
			segment->iov_base = (char *)segment->iov_base + bytes;
			segment->iov_len -= bytes;
			stream->write_bytes -= bytes;
			return;
		}
		bytes -= segment->iov_len;
		end_segment(stream, batch, 0);
	}
}

void kl_stream_release_all(struct kloop_stream *stream, int status)
{
	struct kl_batch *batch;

	if (stream->layer)
		stream->layer->ops->release_all(stream, status);
	kl_file_end_cancelled(stream);
	/* The stream takes no writes any more, so this comes to an end. */
	while (stream->out.sending || stream->pending) {
		batch = stream->out.sending ? stream->out.sending : stream->pending;
		while (batch->head < batch->count)
			end_segment(stream, batch, status);
		if (batch == stream->pending)
			stream->pending = NULL;
		else
			stream->out.sending = batch->next;
		kl_batch_free(batch);
	}
}

static void tell_drain(struct kloop_stream *stream)
{
	if ((stream->state & (KL_STREAM_ABOVE_HIGH | KL_STREAM_OVER)) != KL_STREAM_ABOVE_HIGH ||
	    stream->write_bytes > stream->low_bytes)
		return;
	stream->state &= ~(uint32_t)KL_STREAM_ABOVE_HIGH;
	kl_loop_note_call(stream->loop);
	if (stream->handlers->on_drain)
		stream->handlers->on_drain(stream, stream->user);
}

/* ---- sending ---------------------------------------------------------- */

static void send_done(struct kloop_op *op, int32_t result, uint32_t flags);

static void fill_message(struct kl_batch *batch, struct iovec *vector, unsigned count)
{
	memset(&batch->message, 0, sizeof(batch->message));
	batch->message.msg_iov = vector;
	batch->message.msg_iovlen = count;
	if (batch->control) {
		batch->message.msg_control = batch->control;
		batch->message.msg_controllen = KL_BATCH_CONTROL_BYTES;
	}
}

/* Hand what is left of the batch to the kernel. */
static int submit(struct kloop_stream *stream, struct kl_batch *batch)
{
	struct iovec *vector = batch->vector + batch->head;
	unsigned count = kl_batch_count_segments(batch);
	struct kloop_op *op = &stream->write_op;
	size_t bytes = vector->iov_len < MAX_BYTES ? vector->iov_len : MAX_BYTES;
	int flags = kl_stream_get_send_flags(stream);

	op->complete = send_done;
	if (count > MAX_SEGMENTS)
		count = MAX_SEGMENTS;
	if (stream->flags & KLOOP_STREAM_PIPE) {
		if (count == 1)
			return kloop_op_write(stream->loop, op, stream->fd, vector->iov_base,
					      bytes, UINT64_MAX);
		return kloop_op_writev(stream->loop, op, stream->fd, vector, count);
	}
	if (count == 1 && !batch->control)
		return kloop_op_send(stream->loop, op, stream->fd, vector->iov_base, bytes,
				     flags);
	fill_message(batch, vector, count);
	return kloop_op_sendmsg(stream->loop, op, stream->fd, &batch->message, flags);
}

/* Have the next part of the batch in flight, or be done with it. */
static void continue_send(struct kloop_stream *stream)
{
	struct kl_batch *batch;
	struct kl_file *file;
	int r;

	while ((batch = stream->out.sending)) {
		if (kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED))
			return;
		file = kl_batch_get_file(batch);
		if (batch->head == batch->count) {
			stream->out.sending = batch->next;
			kl_batch_free(batch);
		} else if (file) {
			if (!kl_file_run(stream, file))
				return;
			end_segment(stream, batch, kl_file_get_error(file));
		} else if (batch->vector[batch->head].iov_len == 0) {
			/* Empty writes have a release, but nothing for the kernel. */
			end_segment(stream, batch, 0);
		} else {
			r = submit(stream, batch);
			if (r < 0 && !kl_loop_is_closing(stream->loop))
				kl_stream_fail(stream, r);
			return;
		}
	}
	if (stream->pending || (stream->layer && stream->layer->has_output))
		kl_stream_schedule(stream);
}

static void writable_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_stream *stream = kl_container_of(op, struct kloop_stream, write_op);

	(void)flags;
	kl_stream_enter(stream);
	stream->state &= ~(uint32_t)KL_STREAM_CANCEL_WRITE;
	if (result < 0 && result != -ECANCELED && result != -EINTR)
		kl_stream_fail(stream, result);
	continue_send(stream);
	kl_stream_leave(stream);
}

/* A pipe is full: it does not wait by itself as sockets do. */
static void wait_writable(struct kloop_stream *stream)
{
	int r;

	if (kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED))
		return;
	stream->write_op.complete = writable_done;
	r = kloop_op_poll(stream->loop, &stream->write_op, stream->fd, POLLOUT);
	if (r < 0 && !kl_loop_is_closing(stream->loop))
		kl_stream_fail(stream, r);
}

static void send_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_stream *stream = kl_container_of(op, struct kloop_stream, write_op);

	(void)flags;
	kl_stream_enter(stream);
	stream->state &= ~(uint32_t)KL_STREAM_CANCEL_WRITE;
	if (result == -EAGAIN) {
		wait_writable(stream);
		kl_stream_leave(stream);
		return;
	}
	if (result > 0)
		advance(stream, stream->out.sending, (size_t)result);
	else if (result == 0)
		kl_stream_fail(stream, -EIO); /* nothing of something: it would not end */
	else if (result != -ECANCELED && result != -EINTR)
		kl_stream_fail(stream, result);
	/* -ECANCELED that nobody asked for: the loop changed its thread. */
	continue_send(stream);
	tell_drain(stream);
	kl_stream_leave(stream);
}

/* What is pending has a file at its head that the layer wants to read, and nothing is in flight. */
static struct kl_file *get_wanted_file(const struct kloop_stream *stream)
{
	struct kl_file *file = stream->pending ? kl_batch_get_file(stream->pending) : NULL;

	if (!file || stream->out.sending || kloop_op_is_active(&stream->write_op) ||
	    kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED))
		return NULL;
	return kl_file_is_wanted(file) ? file : NULL;
}

static void end_pending(struct kloop_stream *stream)
{
	struct kl_batch *batch = stream->pending;

	if (batch->head < batch->count)
		return;
	stream->pending = NULL;
	kl_batch_free(batch);
}

/* The layer sends; where it needs a piece of a file, read that first. */
static void run_layer(struct kloop_stream *stream)
{
	struct kl_file *file;

	stream->layer->ops->run_write(stream);
	while ((file = get_wanted_file(stream)) && kl_file_fill(stream, file)) {
		end_segment(stream, stream->pending, kl_file_get_error(file));
		end_pending(stream);
		if (!kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED))
			stream->layer->ops->run_write(stream);
	}
}

void kl_stream_run_write(struct kloop_stream *stream)
{
	bool can_send;

	if (stream->cancelled)
		kl_file_end_cancelled(stream);
	can_send = kl_stream_has(stream, KL_STREAM_CONNECTED) &&
		   !kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED | KL_STREAM_CLOSED);
	/* A piece of a file is read by the same operation, while nothing is sent. */
	if (can_send && !stream->out.sending && !kloop_op_is_active(&stream->write_op)) {
		if (kl_stream_has(stream, KL_STREAM_WRITE_LAYER))
			run_layer(stream);
		else if (stream->pending)
			kl_stream_send_pending(stream);
	}
	tell_drain(stream);
}

/* ---- for files -------------------------------------------------------- */

struct kl_file *kl_stream_get_file(struct kloop_stream *stream)
{
	struct kl_batch *batch = stream->out.sending ? stream->out.sending : stream->pending;

	return batch ? kl_batch_get_file(batch) : NULL;
}

/*
 * The next batch of the queue: what is being sent, what that interrupted, what the layer
 * took, what is pending.
 */
static struct kl_batch *next_batch(struct kloop_stream *stream, struct kl_batch *batch)
{
	bool connecting = kl_stream_has(stream, KL_STREAM_CONNECTING);
	struct kl_layer *layer = stream->layer;
	struct kl_batch *taken = layer ? layer->ops->get_taken(stream) : NULL;

	if (!batch && !connecting && stream->out.sending)
		return stream->out.sending;
	if (batch == stream->pending && batch)
		return NULL;
	if (batch && batch->next)
		return batch->next;
	return taken && batch != taken ? taken : stream->pending;
}

struct kl_file *kl_stream_find_file(struct kloop_stream *stream, const void *owner)
{
	struct kl_batch *batch = NULL;
	uint32_t i;

	while ((batch = next_batch(stream, batch)))
		for (i = batch->head; i < batch->count; i++)
			if (batch->ends[i].release == kl_file_end &&
			    kl_file_get_owner(batch->ends[i].owner) == owner)
				return batch->ends[i].owner;
	return NULL;
}

void kl_stream_remove_file(struct kloop_stream *stream, const struct kl_file *file)
{
	struct kl_batch *batch = NULL;
	uint32_t i;

	while ((batch = next_batch(stream, batch)))
		for (i = batch->head; i < batch->count; i++)
			if (batch->ends[i].release == kl_file_end && batch->ends[i].owner == file) {
				/* An empty write stays, of which nobody is told. */
				batch->ends[i].release = NULL;
				batch->ends[i].owner = NULL;
			}
}

void kl_stream_continue_write(struct kloop_stream *stream)
{
	if (stream->out.sending)
		continue_send(stream);
	kl_stream_run_write(stream);
}

/* ---- for layers ------------------------------------------------------- */

void kl_batch_drop(struct kloop_stream *stream, struct kl_batch *batch, int status)
{
	stream->write_bytes += kl_batch_count_bytes(batch);
	while (batch->head < batch->count)
		end_segment(stream, batch, status);
	kl_batch_free(batch);
}

struct kl_batch *kl_stream_take_pending(struct kloop_stream *stream)
{
	struct kl_batch *batch = stream->pending;

	if (batch)
		stream->write_bytes -= kl_batch_count_bytes(batch);
	stream->pending = NULL;
	return batch;
}

void kl_stream_send_last(struct kloop_stream *stream, struct kl_batch *batch)
{
	if (batch->head == batch->count || kl_batch_get_file(batch) ||
	    kl_loop_is_forked(stream->loop))
		return;
	fill_message(batch, batch->vector + batch->head, kl_batch_count_segments(batch));
	(void)!sendmsg(stream->fd, &batch->message, MSG_DONTWAIT | MSG_NOSIGNAL);
	kl_loop_count_direct(stream->loop);
}

void kl_stream_send(struct kloop_stream *stream, struct kl_batch *batch)
{
	stream->write_bytes += kl_batch_count_bytes(batch);
	batch->next = stream->out.sending;
	stream->out.sending = batch;
	continue_send(stream);
}

void kl_stream_send_pending(struct kloop_stream *stream)
{
	stream->out.sending = stream->pending;
	stream->pending = NULL;
	continue_send(stream);
}

unsigned kl_stream_peek_pending(struct kloop_stream *stream, const void **ret_data,
				size_t *ret_bytes)
{
	struct kl_batch *batch = stream->pending;
	struct kl_file *file = batch ? kl_batch_get_file(batch) : NULL;

	if (!batch)
		return 0;
	if (file) {
		*ret_bytes = kl_file_peek(file, ret_data);
		return *ret_bytes > 0 ? batch->count - batch->head : 0;
	}
	*ret_data = batch->vector[batch->head].iov_base;
	*ret_bytes = batch->vector[batch->head].iov_len;
	return batch->count - batch->head;
}

size_t kl_stream_read_pending(struct kloop_stream *stream, void *buffer, size_t bytes)
{
	struct kl_file *file = stream->pending ? kl_batch_get_file(stream->pending) : NULL;

	if (!file || !kl_file_is_wanted(file) || kl_stream_has(stream, KL_STREAM_SQPOLL))
		return 0;
	return kl_file_read_now(stream->loop, file, buffer, bytes);
}

void kl_stream_skip_pending(struct kloop_stream *stream, size_t bytes)
{
	struct kl_file *file = kl_batch_get_file(stream->pending);

	if (file) {
		kl_file_skip(file, bytes);
		return;
	}
	advance(stream, stream->pending, bytes);
	end_pending(stream);
}

/* ---- public ----------------------------------------------------------- */

int kl_stream_check_write(const struct kloop_stream *stream, const void *data, size_t bytes)
{
	int r;

	if (!stream || (!data && bytes > 0) || bytes > PTRDIFF_MAX)
		return -EINVAL;
	r = kl_loop_check(stream->loop);
	if (r < 0)
		return r;
	if (kl_stream_has(stream, KL_STREAM_OVER))
		return -ESTALE;
	return kl_stream_has(stream, KL_STREAM_SHUT) ? -EPIPE : 0;
}

int kl_stream_add(struct kloop_stream *stream, const void *data, size_t bytes,
		  kloop_release_fn *release, void *owner)
{
	struct kl_batch *batch = stream->pending;
	int r;

	if (!batch) {
		size_t room = release ? 0 : bytes > FIRST_ROOM ? bytes : FIRST_ROOM;

		batch = kl_batch_make(stream->loop, room);
		if (!batch)
			return -ENOMEM;
	}
	r = release ? kl_batch_add_segment(batch, data, bytes, release, owner)
		    : kl_batch_add_copy(batch, data, bytes);
	if (r < 0)
		return r; /* only a batch that has segments already can fail to grow */
	stream->pending = batch;
	stream->write_bytes += bytes;
	if (stream->write_bytes > stream->high_bytes)
		stream->state |= KL_STREAM_ABOVE_HIGH;
	/* Otherwise the end of the send, or of the connect, goes on with it. */
	if (kl_stream_has(stream, KL_STREAM_CONNECTED) && !stream->out.sending)
		kl_stream_schedule(stream);
	return 0;
}

int kloop_stream_write(struct kloop_stream *stream, const void *data, size_t bytes,
		       kloop_release_fn *release, void *owner)
{
	int r = kl_stream_check_write(stream, data, bytes);

	if (r < 0 || (bytes == 0 && !release))
		return r;
	return kl_stream_add(stream, data, bytes, release, owner);
}

ptrdiff_t kloop_stream_try_write(struct kloop_stream *stream, const void *data, size_t bytes)
{
	ssize_t result;
	int r = kl_stream_check_write(stream, data, bytes);

	if (r < 0)
		return r;
	if (bytes == 0 || kl_stream_has_queue(stream) ||
	    (stream->layer && !stream->layer->plain_write) ||
	    (stream->state & (KL_STREAM_CONNECTED | KL_STREAM_SQPOLL)) != KL_STREAM_CONNECTED)
		return 0;
	if (stream->flags & KLOOP_STREAM_PIPE)
		result = write(stream->fd, data, bytes);
	else
		result = send(stream->fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
	kl_loop_count_direct(stream->loop);
	if (result >= 0) {
		if (stream->layer)
			stream->layer->tried_bytes += (size_t)result;
		return result;
	}
	if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS)
		return 0;
	r = -errno;
	kl_stream_fail(stream, r);
	return r;
}

size_t kloop_stream_get_write_bytes(const struct kloop_stream *stream)
{
	return stream->write_bytes;
}

int kloop_stream_set_write_marks(struct kloop_stream *stream, size_t low_bytes, size_t high_bytes)
{
	if (!stream || low_bytes > high_bytes)
		return -EINVAL;
	stream->low_bytes = low_bytes;
	stream->high_bytes = high_bytes;
	if (stream->write_bytes > high_bytes)
		stream->state |= KL_STREAM_ABOVE_HIGH;
	/* What is owed may be due with the new low mark. */
	if (kl_stream_has(stream, KL_STREAM_ABOVE_HIGH) && stream->write_bytes <= low_bytes)
		kl_stream_schedule(stream);
	return 0;
}

int kloop_stream_shutdown(struct kloop_stream *stream)
{
	int r = stream ? kl_loop_check(stream->loop) : -EINVAL;

	if (r < 0)
		return r;
	if (stream->flags & KLOOP_STREAM_PIPE)
		return -EOPNOTSUPP;
	if (kl_stream_has(stream, KL_STREAM_OVER))
		return -ESTALE;
	if (kl_stream_has(stream, KL_STREAM_SHUT))
		return 0;
	stream->state |= KL_STREAM_SHUT | KL_STREAM_SHUT_PENDING;
	if (!kl_stream_has(stream, KL_STREAM_BUSY))
		kl_stream_schedule(stream);
	return 0;
}
