/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The read path of streams: two modes, and what is held while reading is
 * stopped.
 *
 * POOL: one multishot receive into the loop's shared pool, for the many small
 * messages. DIRECT: wait for readiness, then recv(2) into one large buffer,
 * for large ones; with SQPOLL a receive operation into memory of the stream's
 * own instead, since system calls are what SQPOLL is to avoid. DIRECT serves
 * also where the kernel has no multishot receive, for pipes, and while the
 * pool stays empty.
 *
 * A mode is left only after the last completion of its operation, so bytes
 * never overtake each other.
 */
#include "stream.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

/* Reads in a row that filled their pool buffer before the stream goes DIRECT, */
#define FULL_READS 2
/* that were short before it goes back, */
#define SHORT_READS 8
/* that found the pool empty before it does without the pool for a while. */
#define STARVED_READS 4
/* recv(2) calls for one readiness: others want their turn too. */
#define READS_PER_TURN 2
/* The buffer of a stream that is DIRECT with SQPOLL. */
#define OWN_BYTES ((size_t)128 << 10)

struct kl_held {
	struct kl_held *next; /* of the last: the first */
	size_t bytes;
	char data[];
};

struct kl_direct {
	void *buffer; /* lent to the operation in flight */
	size_t bytes;
	char *own; /* OWN_BYTES, once they were needed */
};

static int arm(struct kloop_stream *stream, bool may_ask);

/* Should bytes be asked of the kernel now? The number of a closed descriptor is soon another's. */
static bool wants_receive(struct kloop_stream *stream)
{
	if (kl_stream_has(stream, KL_STREAM_CLOSED))
		return false;
	if (stream->layer)
		return stream->layer->ops->wants_receive(stream);
	return kl_stream_can_deliver(stream);
}

void kl_stream_deliver(struct kloop_stream *stream, void *data, size_t bytes)
{
	kl_loop_note_call(stream->loop);
	if (stream->handlers->on_data)
		stream->handlers->on_data(stream, data, bytes, stream->user);
}

/* ---- held bytes ------------------------------------------------------- */

/*
 * Keep bytes that came while the owner does not read. They are copied: a pool
 * buffer kept for a stream that stands still would be missing to all others.
 */
static void hold(struct kloop_stream *stream, const void *data, size_t bytes)
{
	struct kl_held *held = kl_malloc(sizeof(*held) + bytes);

	if (!held) {
		kl_stream_fail(stream, -ENOMEM);
		return;
	}
	memcpy(held->data, data, bytes);
	held->bytes = bytes;
	held->next = stream->held ? stream->held->next : held;
	if (stream->held)
		stream->held->next = held;
	stream->held = held;
}

static struct kl_held *take_held(struct kloop_stream *stream)
{
	struct kl_held *last = stream->held, *first = last->next;

	if (first == last)
		stream->held = NULL;
	else
		last->next = first->next;
	return first;
}

bool kl_stream_take_held(struct kloop_stream *stream, void **ret_memory, void **ret_data,
			 size_t *ret_bytes)
{
	struct kl_held *held;

	if (!stream->held)
		return false;
	held = take_held(stream);
	*ret_memory = held;
	*ret_data = held->data;
	*ret_bytes = held->bytes;
	return true;
}

void kl_stream_receive(struct kloop_stream *stream, void *data, size_t bytes)
{
	if (kl_stream_has(stream, KL_STREAM_CLOSED))
		return; /* it came before the cancel */
	if (kl_stream_has(stream, KL_STREAM_READ_LAYER)) {
		stream->layer->ops->receive(stream, data, bytes);
	} else if (kl_stream_can_deliver(stream)) {
		kl_stream_deliver(stream, data, bytes);
	} else if (!kl_stream_has(stream, KL_STREAM_OVER)) {
		/*
		 * Most pauses are short, and a receive that stays armed is cheaper than
		 * one that is cancelled and made anew: only the second piece ends it.
		 */
		if (stream->held)
			kl_stream_cancel_read(stream);
		hold(stream, data, bytes);
	}
}

/* Tell the end, if it came and all before it was delivered. */
static void tell_end(struct kloop_stream *stream)
{
	if (!kl_stream_can_deliver(stream) || !kl_stream_has(stream, KL_STREAM_READ_ENDED) ||
	    kl_stream_has(stream, KL_STREAM_EOF_TOLD))
		return;
	if (stream->error < 0) {
		kl_stream_fail(stream, stream->error);
		return;
	}
	stream->state |= KL_STREAM_EOF_TOLD;
	kl_loop_note_call(stream->loop);
	if (stream->handlers->on_eof)
		stream->handlers->on_eof(stream, stream->user);
}

void kl_stream_end_read(struct kloop_stream *stream, int error)
{
	if (kl_stream_has(stream, KL_STREAM_OVER))
		return;
	stream->state |= KL_STREAM_READ_ENDED;
	stream->error = error;
	tell_end(stream);
}

void kl_stream_end_receive(struct kloop_stream *stream, int error)
{
	if (kl_stream_has(stream, KL_STREAM_CLOSED))
		return;
	if (!stream->layer || !stream->layer->ops->end_receive(stream, error))
		kl_stream_end_read(stream, error);
}

/* Go on reading, unless something speaks against it. */
void kl_stream_continue_read(struct kloop_stream *stream)
{
	int r;

	if (!wants_receive(stream) || kl_stream_has(stream, KL_STREAM_READ_ENDED) ||
	    !kl_stream_has(stream, KL_STREAM_CONNECTED))
		return;
	r = arm(stream, true);
	if (r < 0 && !kl_loop_is_closing(stream->loop))
		kl_stream_fail(stream, r);
}

void kl_stream_run_read(struct kloop_stream *stream)
{
	struct kl_held *held;

	while (stream->held && (stream->state & (KL_STREAM_WANT_READ | KL_STREAM_OVER)) ==
				       KL_STREAM_WANT_READ) {
		/* What a callback makes arrive is later than what is still held. */
		held = take_held(stream);
		kl_stream_deliver(stream, held->data, held->bytes);
		kl_free(held);
	}
	if (stream->layer)
		stream->layer->ops->run_read(stream);
	tell_end(stream);
	kl_stream_continue_read(stream);
}

/* ---- POOL ------------------------------------------------------------- */

static void note_pool_read(struct kloop_stream *stream, struct kloop_pool *pool, int32_t result)
{
	stream->starved_reads = 0;
	if ((size_t)result < kl_pool_get_buffer_bytes(pool)) {
		stream->full_reads = 0;
		return;
	}
	if (stream->full_reads < FULL_READS)
		stream->full_reads++;
	if (stream->full_reads == FULL_READS) {
		stream->short_reads = 0;
		stream->state |= KL_STREAM_DIRECT;
		kl_stream_cancel_read(stream);
	}
}

static bool get_more_buffers(struct kloop_loop *loop)
{
	struct kloop_pool *pool;

	return kl_loop_get_receive_pool(loop, &pool) == 0 && kl_pool_grow(pool);
}

/* The multishot is over. Returns: whether to go on in this turn. */
static bool end_pool(struct kloop_stream *stream, int32_t result)
{
	stream->state &= ~(uint32_t)KL_STREAM_CANCEL_READ;
	if (result == 0) {
		kl_stream_end_receive(stream, 0);
	} else if (result == -ENOBUFS) {
		/* Buffers that this turn uses are back before the next one submits. */
		if (!get_more_buffers(stream->loop) && ++stream->starved_reads >= STARVED_READS) {
			stream->starved_reads = 0;
			stream->short_reads = 0;
			stream->state |= KL_STREAM_DIRECT;
		}
		kl_stream_schedule(stream);
		return false;
	} else if (result < 0 && result != -ECANCELED && result != -EINTR && result != -EAGAIN) {
		kl_stream_end_receive(stream, result);
	}
	return true;
}

static void pool_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_stream *stream = kl_container_of(op, struct kloop_stream, read_op);
	struct kloop_pool *pool;
	bool layered = kl_stream_has(stream, KL_STREAM_READ_LAYER);
	void *data;
	unsigned id;

	kl_stream_enter(stream);
	if (kl_loop_get_receive_pool(stream->loop, &pool) == 0 &&
	    kloop_pool_get(pool, flags, &data, &id) == 0) {
		stream->lent_id = id;
		/* What a layer makes of it lies elsewhere. */
		if (!layered)
			stream->state |= KL_STREAM_LENDING;
		if (result > 0)
			kl_stream_receive(stream, data, (size_t)result);
		if (layered || kl_stream_has(stream, KL_STREAM_LENDING))
			kloop_pool_give(pool, id);
		stream->state &= ~(uint32_t)KL_STREAM_LENDING;
		if (result > 0)
			note_pool_read(stream, pool, result);
	}
	if (!(flags & KLOOP_OP_MORE) && end_pool(stream, result))
		kl_stream_continue_read(stream);
	kl_stream_leave(stream);
}

/* ---- DIRECT ----------------------------------------------------------- */

/* Are the last reads such that the pool would do better? */
static void note_direct_read(struct kloop_stream *stream, size_t result, size_t offered)
{
	struct kloop_pool *pool;

	if (kl_stream_has(stream, KL_STREAM_NO_POOL))
		return;
	if (kl_loop_get_receive_pool(stream->loop, &pool) < 0 || result >= offered ||
	    result >= kl_pool_get_buffer_bytes(pool)) {
		stream->short_reads = 0;
		return;
	}
	if (++stream->short_reads >= SHORT_READS) {
		stream->full_reads = 0;
		stream->state &= ~(uint32_t)KL_STREAM_DIRECT;
	}
}

bool kl_stream_ask_owner(struct kloop_stream *stream, size_t suggested, void **ret_buffer,
			 size_t *ret_bytes)
{
	const struct kloop_stream_handlers *handlers = stream->handlers;

	*ret_bytes = 0;
	/* A layer reads on its own account too: while the stream closes, for one. */
	if (!handlers->on_alloc || !kl_stream_can_deliver(stream))
		return false;
	kl_loop_note_call(stream->loop);
	return handlers->on_alloc(stream, suggested, ret_buffer, ret_bytes, stream->user) >= 0 &&
	       *ret_bytes > 0;
}

static void read_now(struct kloop_stream *stream, int32_t events)
{
	bool pipe = stream->flags & KLOOP_STREAM_PIPE;
	size_t bytes, hot_bytes = 0;
	void *buffer, *hot;
	ssize_t result;
	int i;

	for (i = 0; i < READS_PER_TURN && wants_receive(stream); i++) {
		hot = kl_loop_get_hot_buffer(stream->loop, KL_HOT_RECEIVED, &hot_bytes);
		if (kl_stream_has(stream, KL_STREAM_READ_LAYER) ||
		    !kl_stream_ask_owner(stream, hot ? hot_bytes : OWN_BYTES, &buffer, &bytes)) {
			buffer = hot;
			bytes = hot_bytes;
		}
		if (!wants_receive(stream))
			return;
		if (!buffer) {
			kl_stream_end_receive(stream, -ENOMEM);
			return;
		}
		result = pipe ? read(stream->fd, buffer, bytes)
			      : recv(stream->fd, buffer, bytes, MSG_DONTWAIT);
		kl_loop_count_direct(stream->loop);
		if (result < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (result <= 0) {
			/* The writing end of a pipe: POLLERR means that the reader left. */
			bool left = pipe && (events & POLLERR) && errno == EBADF;

			kl_stream_end_receive(stream, result < 0 && !left ? -errno : 0);
			return;
		}
		kl_stream_receive(stream, buffer, (size_t)result);
		note_direct_read(stream, (size_t)result, bytes);
		if ((size_t)result < bytes)
			return;
	}
}

static void own_done(struct kloop_op *op, int32_t result, uint32_t flags);

/* SQPOLL: have the kernel's thread receive into memory that stays lent. */
static int arm_own(struct kloop_stream *stream)
{
	struct kl_direct *direct = stream->direct;

	if (!direct) {
		direct = kl_calloc(1, sizeof(*direct));
		if (!direct)
			return -ENOMEM;
		stream->direct = direct;
	}
	if (kl_stream_has(stream, KL_STREAM_READ_LAYER) ||
	    !kl_stream_ask_owner(stream, OWN_BYTES, &direct->buffer, &direct->bytes)) {
		/* Cleared, since memory checkers do not see the kernel's thread write. */
		if (!direct->own)
			direct->own = kl_calloc(1, OWN_BYTES);
		if (!direct->own)
			return -ENOMEM;
		direct->buffer = direct->own;
		direct->bytes = OWN_BYTES;
	}
	if (!wants_receive(stream))
		return 0;
	stream->read_op.complete = own_done;
	if (stream->flags & KLOOP_STREAM_PIPE)
		return kloop_op_read(stream->loop, &stream->read_op, stream->fd, direct->buffer,
				     direct->bytes, UINT64_MAX);
	return kloop_op_recv(stream->loop, &stream->read_op, stream->fd, direct->buffer,
			     direct->bytes, 0);
}

static void free_direct(struct kloop_stream *stream)
{
	if (!stream->direct)
		return;
	kl_free(stream->direct->own);
	kl_free(stream->direct);
	stream->direct = NULL;
}

static void own_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_stream *stream = kl_container_of(op, struct kloop_stream, read_op);

	(void)flags;
	kl_stream_enter(stream);
	stream->state &= ~(uint32_t)KL_STREAM_CANCEL_READ;
	if (result > 0) {
		kl_stream_receive(stream, stream->direct->buffer, (size_t)result);
		note_direct_read(stream, (size_t)result, stream->direct->bytes);
	} else if (result == 0 ||
		   (result != -ECANCELED && result != -EAGAIN && result != -EINTR)) {
		kl_stream_end_receive(stream, result);
	}
	if (!kl_stream_has(stream, KL_STREAM_DIRECT))
		free_direct(stream);
	kl_stream_continue_read(stream);
	kl_stream_leave(stream);
}

static void poll_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_stream *stream = kl_container_of(op, struct kloop_stream, read_op);
	bool own = kl_stream_has(stream, KL_STREAM_SQPOLL) && (result & POLLIN);
	int r;

	(void)flags;
	kl_stream_enter(stream);
	stream->state &= ~(uint32_t)KL_STREAM_CANCEL_READ;
	if (result < 0) {
		if (result != -ECANCELED && result != -EINTR)
			kl_stream_end_receive(stream, result);
	} else if (!own) {
		read_now(stream, result);
	} else if (wants_receive(stream)) {
		r = arm_own(stream);
		if (r < 0)
			kl_stream_end_receive(stream, r);
	}
	kl_stream_continue_read(stream);
	kl_stream_leave(stream);
}

/* ---- both ------------------------------------------------------------- */

/*
 * Have an operation in flight that tells what arrives, if there is none.
 * may_ask: on_alloc may be called, which is not so inside the owner's calls.
 */
static int arm(struct kloop_stream *stream, bool may_ask)
{
	struct kloop_pool *pool;
	int r;

	if (kloop_op_is_active(&stream->read_op))
		return 0;
	if (!kl_stream_has(stream, KL_STREAM_DIRECT)) {
		stream->read_op.complete = pool_done;
		r = kl_loop_get_receive_pool(stream->loop, &pool);
		if (r == 0)
			return kloop_op_recv_multishot(stream->loop, &stream->read_op, stream->fd,
						       pool);
		/* No memory for the pool is no reason not to read. */
		stream->state |= KL_STREAM_DIRECT | KL_STREAM_NO_POOL;
	}
	if (may_ask && kl_stream_has(stream, KL_STREAM_SQPOLL) &&
	    !(stream->flags & KLOOP_STREAM_PIPE))
		return arm_own(stream);
	stream->read_op.complete = poll_done;
	return kloop_op_poll(stream->loop, &stream->read_op, stream->fd, POLLIN | POLLRDHUP);
}

void kl_stream_free_read(struct kloop_stream *stream)
{
	while (stream->held)
		kl_free(take_held(stream));
	free_direct(stream);
}

int kloop_stream_start_read(struct kloop_stream *stream)
{
	int r = stream ? kl_loop_check(stream->loop) : -EINVAL;

	if (r < 0)
		return r;
	if (kl_stream_has(stream, KL_STREAM_OVER))
		return -ESTALE;
	if (kl_stream_has(stream, KL_STREAM_WANT_READ))
		return 0;
	stream->state |= KL_STREAM_WANT_READ;
	if (stream->layer) {
		kl_stream_schedule(stream); /* it may hold something */
		return 0;
	}
	/* Armed still: the usual case of a short pause. */
	if (!kl_stream_has(stream, KL_STREAM_CONNECTED) ||
	    (kloop_op_is_active(&stream->read_op) && !stream->held))
		return 0;
	/* What calls the owner must wait for the turn. */
	if (stream->held || kl_stream_has(stream, KL_STREAM_READ_ENDED)) {
		kl_stream_schedule(stream);
		return 0;
	}
	r = arm(stream, false);
	if (r < 0)
		stream->state &= ~(uint32_t)KL_STREAM_WANT_READ;
	return r;
}

int kloop_stream_stop_read(struct kloop_stream *stream)
{
	int r = stream ? kl_loop_check(stream->loop) : -EINVAL;

	if (r < 0)
		return r;
	if (kl_stream_has(stream, KL_STREAM_OVER))
		return -ESTALE;
	/* The operation stays armed: it is cancelled only if it brings something. */
	stream->state &= ~(uint32_t)KL_STREAM_WANT_READ;
	return 0;
}

int kloop_stream_take_buffer(struct kloop_stream *stream, unsigned *ret_id)
{
	if (!stream || !ret_id)
		return -EINVAL;
	if (!kl_stream_has(stream, KL_STREAM_LENDING))
		return -ENOENT;
	stream->state &= ~(uint32_t)KL_STREAM_LENDING;
	*ret_id = stream->lent_id;
	return 0;
}

void kloop_stream_give_buffer(struct kloop_loop *loop, unsigned id)
{
	struct kloop_pool *pool;

	if (kl_loop_get_receive_pool(loop, &pool) == 0)
		kloop_pool_give(pool, id);
}
