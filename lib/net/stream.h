/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the files of the stream share: its struct and its states.
 *
 * stream.c owns life and death, stream-read.c the read path, stream-write.c
 * the write path, stream-batch.c its memory, stream-file.c the files in it. Rules that hold in all of them:
 *
 * - Public functions only set state, prepare operations and schedule the
 *   stream's defer; callbacks come from completions and from the defer, each
 *   bracketed by kl_stream_enter() and kl_stream_leave().
 * - Turns do not nest, so there is one bracket at a time, and only its end
 *   (kl_stream_leave()) reports failures, closes and frees. Within a bracket
 *   the stream's memory and its write queue stand, whatever a callback calls;
 *   only the state bits must be read anew.
 */
#ifndef KL_STREAM_H
#define KL_STREAM_H

#include <kloop/stream.h>

#include "ring/ring.h"

enum kl_stream_state {
	KL_STREAM_CONNECTING = 1 << 0,
	KL_STREAM_CONNECTED = 1 << 1,
	KL_STREAM_SQPOLL = 1 << 2, /* make no direct system calls for data */

	/* Reading. */
	KL_STREAM_WANT_READ = 1 << 3,   /* the owner started to read */
	KL_STREAM_DIRECT = 1 << 4,      /* read by readiness, not through the pool */
	KL_STREAM_NO_POOL = 1 << 5,     /* DIRECT is all there is */
	KL_STREAM_CANCEL_READ = 1 << 6, /* the read operation was asked to end */
	KL_STREAM_READ_ENDED = 1 << 7,  /* the kernel said end or error; the owner may not know */
	KL_STREAM_EOF_TOLD = 1 << 8,
	KL_STREAM_LENDING = 1 << 9, /* on_data runs on a pool buffer nobody took so far */

	/* Writing. */
	KL_STREAM_CANCEL_WRITE = 1 << 10, /* the write operation was asked to end */
	KL_STREAM_ABOVE_HIGH = 1 << 11,   /* on_drain is owed */
	KL_STREAM_SHUT = 1 << 12,         /* the owner called shutdown */
	KL_STREAM_SHUT_PENDING = 1 << 13, /* and it is still to be done */

	/* The end. */
	KL_STREAM_FAILED = 1 << 14, /* error holds; nothing goes on */
	KL_STREAM_TOLD = 1 << 15,   /* the owner knows */
	KL_STREAM_CLOSING = 1 << 16,
	KL_STREAM_ABORTED = 1 << 17,
	KL_STREAM_CLOSED = 1 << 18,  /* the descriptor is closed, or the operation to do so is on */
	KL_STREAM_EXITING = 1 << 19, /* freed by the loop's exit hook */

	KL_STREAM_BUSY = 1 << 20, /* inside the bracket */

	/* Bytes go through the layer, in this direction. */
	KL_STREAM_READ_LAYER = 1 << 21,
	KL_STREAM_WRITE_LAYER = 1 << 22,

	/* To be aborted once what this turn wrote was offered to the kernel. */
	KL_STREAM_LAST = 1 << 23,

	/* CLOSED, but for close(2), which waits until the receive has ended. */
	KL_STREAM_CLOSE_LATER = 1 << 24,

	/* What kl_stream_leave() has to look at. */
	KL_STREAM_ATTENTION = KL_STREAM_SHUT_PENDING | KL_STREAM_FAILED | KL_STREAM_CLOSING,
	/* What makes calls of the owner fail with -ESTALE. */
	KL_STREAM_OVER = KL_STREAM_FAILED | KL_STREAM_CLOSING,
};

struct kl_batch;  /* stream-batch.c: what leaves as one send */
struct kl_file;   /* stream-file.c: a file among what is written */
struct kl_held;   /* stream-read.c: bytes that came while reading was stopped */
struct kl_direct; /* stream-read.c: memory lent to a receive, with SQPOLL */

struct kloop_stream;
struct kl_layer;

/*
 * What stands between the kernel's bytes and the owner's handlers, once a
 * stream is upgraded: TLS. All functions are called inside the bracket.
 */
struct kl_layer_ops {
	/*
	 * Bytes from the kernel, in order, with KL_STREAM_READ_LAYER. Also while
	 * the owner does not read and while the stream closes.
	 */
	void (*receive)(struct kloop_stream *stream, const void *data, size_t bytes);

	/* Is a receive to be armed? Asked whether or not READ_LAYER is set. */
	bool (*wants_receive)(struct kloop_stream *stream);

	/*
	 * A receive of the kernel ended: 0 at the end of the peer, or a negative
	 * errno. Returns: whether the layer takes care of it; otherwise the owner
	 * is told.
	 */
	bool (*end_receive)(struct kloop_stream *stream, int error);

	/* Called with each run of the read path, before a receive is armed. */
	void (*run_read)(struct kloop_stream *stream);

	/*
	 * Nothing is in flight: put what is next on its way by kl_stream_send()
	 * or kl_stream_send_pending().
	 */
	void (*run_write)(struct kloop_stream *stream);

	/*
	 * A file of about so many bytes is among what is written now. flags: of
	 * enum kloop_send_file_flag. The one function that may be called outside
	 * the bracket.
	 */
	void (*note_file)(struct kloop_stream *stream, uint64_t bytes, unsigned flags);

	/*
	 * With plain_write, in the middle of a file: nothing is in flight, and so
	 * many bytes of it are next. Returns: whether they may go now; otherwise
	 * the layer has sent something of its own by kl_stream_send(), behind
	 * which it is asked again.
	 */
	bool (*run_file)(struct kloop_stream *stream, size_t bytes);

	/*
	 * All that was written is sent, and the writing direction is to end, for
	 * good if closing. Returns: whether the layer is through with it.
	 */
	bool (*end_write)(struct kloop_stream *stream, bool closing);

	/* What the layer took over from the owner's writes, and has not sent; or NULL. */
	struct kl_batch *(*get_taken)(struct kloop_stream *stream);

	/* It goes back, not sent. */
	void (*release_all)(struct kloop_stream *stream, int status);

	/* The stream failed: returns whether the layer told the owner. */
	bool (*tell_failure)(struct kloop_stream *stream);

	/* The stream is freed: so is the layer. */
	void (*free)(struct kloop_stream *stream);
};

struct kl_layer {
	const struct kl_layer_ops *ops;
	bool has_output;      /* something of the layer's own waits to be sent */
	bool plain_write;     /* written bytes go to the kernel as they are */
	uint64_t tried_bytes; /* that kloop_stream_try_write() sent so */
};

struct kloop_stream {
	struct kloop_loop *loop;
	struct kl_layer *layer; /* mostly NULL */
	const struct kloop_stream_handlers *handlers;
	void *user;
	struct kloop_op read_op;
	struct kloop_op write_op; /* the connect, the sends, at last the close */
	struct kl_defer defer;
	struct kl_exit exit;
	struct kl_batch *pending; /* gathers what is written */
	union {
		struct kl_batch *sending; /* in flight; stays put until it completed */
		struct sockaddr *address; /* while connecting */
	} out;
	size_t write_bytes; /* in pending and sending */
	size_t low_bytes;
	size_t high_bytes;
	struct kl_held *held; /* the last of a ring of them */
	struct kl_direct *direct;
	struct kl_file *cancelled; /* while they waited; to be told */
	uint32_t state; /* enum kl_stream_state */
	int fd;
	int error;
	unsigned lent_id; /* with KL_STREAM_LENDING */
	socklen_t address_length;
	uint8_t flags;         /* enum kloop_stream_flag */
	uint8_t full_reads;    /* in a row, each filled its pool buffer */
	uint8_t short_reads;   /* in a row, each would have fitted a pool buffer */
	uint8_t starved_reads; /* in a row, each found the pool empty */
};

_Static_assert(sizeof(struct kloop_stream) <= 256, "an idle stream is to stay small");

static inline bool kl_stream_has(const struct kloop_stream *stream, uint32_t bits)
{
	return (stream->state & bits) != 0;
}

/* Is anything written that is not yet released? */
static inline bool kl_stream_has_queue(const struct kloop_stream *stream)
{
	return stream->pending || (stream->layer && stream->layer->has_output) ||
	       (!kl_stream_has(stream, KL_STREAM_CONNECTING) && stream->out.sending);
}

/*
 * MSG_WAITALL: since 5.19 the kernel goes on after a short send by itself. Its
 * TLS refuses the flag.
 */
static inline int kl_stream_get_send_flags(const struct kloop_stream *stream)
{
	return stream->layer && stream->layer->plain_write ? 0 : MSG_WAITALL;
}

/* May bytes go to the owner now, without overtaking others? */
static inline bool kl_stream_can_deliver(const struct kloop_stream *stream)
{
	return (stream->state & (KL_STREAM_WANT_READ | KL_STREAM_OVER)) == KL_STREAM_WANT_READ &&
	       !stream->held;
}

/* stream.c */

/* Have the defer run at the start of the next turn. */
void kl_stream_schedule(struct kloop_stream *stream);

/* Note a failure; kl_stream_leave() will release the queue and tell the owner. */
void kl_stream_fail(struct kloop_stream *stream, int error);

/* Ask an operation in flight to end, once. */
void kl_stream_cancel_read(struct kloop_stream *stream);
void kl_stream_cancel_write(struct kloop_stream *stream);

/* The part of kl_stream_leave() that is rarely needed. May free the stream. */
void kl_stream_settle(struct kloop_stream *stream);

static inline void kl_stream_enter(struct kloop_stream *stream)
{
	stream->state |= KL_STREAM_BUSY;
}

/* The stream must not be touched afterwards. */
static inline void kl_stream_leave(struct kloop_stream *stream)
{
	if (kl_stream_has(stream, KL_STREAM_ATTENTION))
		kl_stream_settle(stream);
	else
		stream->state &= ~(uint32_t)KL_STREAM_BUSY;
}

/* stream-read.c; but for the last, to be called inside the bracket */

/* Deliver what is held, then have an operation armed if reading is wanted. */
void kl_stream_run_read(struct kloop_stream *stream);
void kl_stream_free_read(struct kloop_stream *stream);

/* Have an operation armed if reading is wanted. */
void kl_stream_continue_read(struct kloop_stream *stream);

/* Bytes from the kernel: to the layer, the owner, the held ones, or nowhere after a close. */
void kl_stream_receive(struct kloop_stream *stream, void *data, size_t bytes);

/* For layers: bytes to the owner, who must want them; memory of the owner's for them. */
void kl_stream_deliver(struct kloop_stream *stream, void *data, size_t bytes);
bool kl_stream_ask_owner(struct kloop_stream *stream, size_t suggested, void **ret_buffer,
			 size_t *ret_bytes);

/* The kernel said that nothing more comes, by 0 in good order: to the layer, or the owner. */
void kl_stream_end_receive(struct kloop_stream *stream, int error);

/* For layers: nothing more comes, by 0 in good order; told as soon as the owner reads. */
void kl_stream_end_read(struct kloop_stream *stream, int error);

/* Take out what is held, the oldest first: data to free with kl_free(memory); false if none. */
bool kl_stream_take_held(struct kloop_stream *stream, void **ret_memory, void **ret_data,
			 size_t *ret_bytes);

/* stream-write.c; to be called inside the bracket */

/* Send what was written, if nothing is in flight; on_drain if it is due. */
void kl_stream_run_write(struct kloop_stream *stream);

/* Release everything queued. Nothing may be in flight. */
void kl_stream_release_all(struct kloop_stream *stream, int status);

/* Go on after an operation of a file. */
void kl_stream_continue_write(struct kloop_stream *stream);

/* The file whose operation is in flight; NULL if something else is. */
struct kl_file *kl_stream_get_file(struct kloop_stream *stream);

/* The first file of this owner among what is written; NULL if there is none. */
struct kl_file *kl_stream_find_file(struct kloop_stream *stream, const void *owner);

/* Take a file out of what is written; no operation of it may be in flight. */
void kl_stream_remove_file(struct kloop_stream *stream, const struct kl_file *file);

/* For what is written: 0, or why nothing may be. */
int kl_stream_check_write(const struct kloop_stream *stream, const void *data, size_t bytes);

/* Queue a write, as kloop_stream_write() after its checks. */
int kl_stream_add(struct kloop_stream *stream, const void *data, size_t bytes,
		  kloop_release_fn *release, void *owner);

/* For layers. */

/*
 * Append a copy of bytes to a batch, which is made if *batch is NULL, with room
 * for so many bytes in all. Returns: 0; -ENOMEM (nothing was appended).
 */
int kl_batch_append(struct kloop_loop *loop, struct kl_batch **batch, const void *data,
		    size_t bytes, size_t room_bytes);

/* Send the batch with a control message (sendmsg(2)) of one byte. Returns: 0; -ENOMEM. */
int kl_batch_set_control(struct kl_batch *batch, int level, int type, unsigned char value);

/* Its bytes: written, and not yet sent. */
size_t kl_batch_count_bytes(const struct kl_batch *batch);

/* Batches as a list: the layer's own. */
struct kl_batch *kl_batch_get_next(const struct kl_batch *batch);
void kl_batch_set_next(struct kl_batch *batch, struct kl_batch *next);

/* Release one that was never sent. */
void kl_batch_drop(struct kloop_stream *stream, struct kl_batch *batch, int status);

/* Take the batch of what is written, for the layer to send as it is; NULL if nothing is. */
struct kl_batch *kl_stream_take_pending(struct kloop_stream *stream);

/*
 * Try to send a batch by a system call of its own, the last words of a stream
 * that is failing; nothing may be in flight. The batch stays the caller's.
 */
void kl_stream_send_last(struct kloop_stream *stream, struct kl_batch *batch);

/* Send a batch; nothing may be in flight. A file that it interrupts goes on behind it. */
void kl_stream_send(struct kloop_stream *stream, struct kl_batch *batch);

/* Send what is written as it is; nothing may be in flight. */
void kl_stream_send_pending(struct kloop_stream *stream);

/*
 * The first bytes that are written and not sent; returns how many segments
 * there are, 0 for none, or none yet: of a file the next piece must be read
 * first, which the stream does if nothing else is sent.
 */
unsigned kl_stream_peek_pending(struct kloop_stream *stream, const void **ret_data,
				size_t *ret_bytes);

/*
 * Of a file for which kl_stream_peek_pending() found nothing: read what can be
 * had without waiting. Returns: how many bytes, which are dealt with; or 0.
 */
size_t kl_stream_read_pending(struct kloop_stream *stream, void *buffer, size_t bytes);

/* So many of them are dealt with; calls releases. */
void kl_stream_skip_pending(struct kloop_stream *stream, size_t bytes);

/* stream-file.c; a file stands in a batch as an empty segment with kl_file_end() */

/* Its release: tell the owner, and free it. */
void kl_file_end(void *owner, int status, void *user);

/* Tell of files that were cancelled while they waited. */
void kl_file_end_cancelled(struct kloop_stream *stream);

/*
 * Nothing is in flight: have the next operation that sends the file as it is.
 * Returns: whether the file is done instead, with kl_file_get_error().
 */
bool kl_file_run(struct kloop_stream *stream, struct kl_file *file);

/* For a layer: have the next piece read into memory. Returns: as kl_file_run(). */
bool kl_file_fill(struct kloop_stream *stream, struct kl_file *file);

/* What kept the file from being read, or 0. */
int kl_file_get_error(const struct kl_file *file);

/* The piece that is in memory: how many bytes, 0 for none, which is then wanted. */
size_t kl_file_peek(struct kl_file *file, const void **ret_data);
void kl_file_skip(struct kl_file *file, size_t bytes);
bool kl_file_is_wanted(const struct kl_file *file);

/*
 * Read what is next into memory of the caller's, if none is in memory already,
 * and if that does not wait. Returns: how many bytes, which count as sent; 0:
 * go on by kl_file_fill().
 */
size_t kl_file_read_now(struct kloop_loop *loop, struct kl_file *file, void *buffer, size_t bytes);

const void *kl_file_get_owner(const struct kl_file *file);

#endif
