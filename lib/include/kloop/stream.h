/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Streams: TCP, Unix stream sockets and pipes, with one read path and one
 * write path.
 *
 * Writes made during one turn of the loop leave together, as one send, at the
 * start of the next turn; short sends are continued by the library. Reads
 * adapt: small messages arrive through the loop's shared pool of buffers (one
 * multishot receive for the life of the connection), large ones are read
 * directly into one large buffer.
 */
#ifndef KLOOP_STREAM_H
#define KLOOP_STREAM_H

#include <kloop/address.h>
#include <kloop/base.h>

KLOOP_BEGIN_DECLS

struct kloop_loop;
struct kloop_stream;

/*
 * What a stream tells its owner. Each function is called from a turn of the
 * loop, never from inside a call made by the owner; any may be NULL but
 * on_close. Inside each, every function of the stream may be called.
 *
 * Order: on_connect first (only after kloop_stream_connect()); on_data, then at
 * most one of on_eof and on_error; on_drain at any time between; on_close
 * last, once.
 */
struct kloop_stream_handlers {
	/* sizeof(struct kloop_stream_handlers), so that later versions can add to it. */
	size_t size;

	/*
	 * The connection stands (0), or failed with a negative errno and can
	 * only be closed; where this is NULL, on_error tells a failure. Not
	 * called after kloop_stream_close().
	 */
	void (*on_connect)(struct kloop_stream *stream, int result, void *user);

	/*
	 * Bytes arrived. data is valid until the function returns, unless
	 * kloop_stream_take_buffer() takes it or it came from on_alloc.
	 */
	void (*on_data)(struct kloop_stream *stream, void *data, size_t bytes, void *user);

	/*
	 * Where to put a large read. suggested: the size that suits. The
	 * function stores a buffer of at least 1 byte and returns 0, or
	 * returns a negative value to have the library's own buffer used. The
	 * memory is lent until the next call of on_data, on_alloc, on_eof,
	 * on_error or on_close for this stream; on_data with data equal to it
	 * says that it was filled. Where nothing was there to read no on_data
	 * follows.
	 */
	int (*on_alloc)(struct kloop_stream *stream, size_t suggested, void **ret_buffer,
			size_t *ret_bytes, void *user);

	/* The peer ended its direction; writing is still possible. */
	void (*on_eof)(struct kloop_stream *stream, void *user);

	/*
	 * Reading or writing failed for good with this negative errno
	 * (-ECONNRESET, -EPIPE, -ETIMEDOUT, -ENOMEM and so on; -ECANCELED where
	 * the loop is freed while it reads or writes). What was queued
	 * is released. Only kloop_stream_close() makes sense after it. A write
	 * can fail after on_eof as well, and after kloop_stream_close() while
	 * what was queued is being sent.
	 */
	void (*on_error)(struct kloop_stream *stream, int error, void *user);

	/* The bytes queued for writing fell to the low mark after passing the high one. */
	void (*on_drain)(struct kloop_stream *stream, void *user);

	/*
	 * The stream is closed: nothing is lent any more, its descriptor is
	 * closed (or given back), and its memory is freed when this returns.
	 */
	void (*on_close)(struct kloop_stream *stream, void *user);
};

enum kloop_stream_flag {
	/*
	 * Do not close the descriptor with the stream: on_close gives it back.
	 * Bytes that arrived and that on_data has not told are lost with the
	 * stream. So, to hand a connection to another loop or library, close it
	 * where the peer sends nothing: before it is first read, or between a
	 * request and the answer, which the new owner writes.
	 */
	KLOOP_STREAM_KEEP_FD = 1 << 0,
	/*
	 * It is no socket but a pipe, FIFO or character device: read(2) and
	 * write(2) apply. O_NONBLOCK is set on it. Writing to a pipe whose
	 * reader left raises SIGPIPE, which the program should ignore. Started
	 * to read, a writing end tells by on_eof that its reader left.
	 */
	KLOOP_STREAM_PIPE = 1 << 1,
};

/*
 * Make a stream of an open descriptor.
 *
 * fd: a connected stream socket, or with KLOOP_STREAM_PIPE an end of a pipe.
 * flags: of enum kloop_stream_flag.
 * handlers: must stay valid and unchanged for the life of the stream.
 * user: handed to each handler.
 *
 * Reading begins with kloop_stream_start_read().
 *
 * Ownership: the stream owns the descriptor from here on. The caller owns the
 * stream until kloop_stream_close() or kloop_stream_abort(); the library frees
 * it after on_close. If the call fails the descriptor is still the caller's.
 * Thread: the owner of the loop, as for all functions of streams.
 * Returns: 0; -EINVAL; -EBADF; -ENOMEM; -EPERM, -ECHILD, -ESTALE as everywhere.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_stream_new(struct kloop_loop *loop, int fd, unsigned flags,
				  const struct kloop_stream_handlers *handlers, void *user,
				  struct kloop_stream **ret_stream) KLOOP_MUST_CHECK;

/*
 * Make a socket and connect it; on_connect tells the result.
 *
 * address: copied.
 *
 * Bytes may be written before it stands; they leave when it does.
 *
 * Returns: as kloop_stream_new(); -EMFILE, -EAFNOSUPPORT and so on from
 * socket(2).
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_stream_connect(struct kloop_loop *loop, const struct kloop_address *address,
				      const struct kloop_stream_handlers *handlers, void *user,
				      struct kloop_stream **ret_stream) KLOOP_MUST_CHECK;

/*
 * Begin, or go on, to read.
 *
 * What arrived while reading was stopped is delivered first, in a later turn.
 *
 * Returns: 0, also if it reads already; -ESTALE after close or an error;
 * -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_stream_start_read(struct kloop_stream *stream) KLOOP_MUST_CHECK;

/*
 * Stop to read: no on_data and no on_eof after this call, until
 * kloop_stream_start_read(). What the kernel had delivered already, or delivers
 * to the receive that it has, is kept, at most the pool's buffers; the rest stays
 * in the socket and slows the peer.
 *
 * Returns: 0; -ESTALE after close or an error.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_stream_stop_read(struct kloop_stream *stream);

/*
 * Called once for a write: its memory is no longer lent.
 *
 * owner: as passed to the write. status: 0 if all of it was handed to the
 * kernel, or a negative errno (-ECANCELED after an abort). user: the stream's.
 */
typedef void kloop_release_fn(void *owner, int status, void *user);

/*
 * Write bytes, after all that was written before.
 *
 * release: NULL to have the bytes copied; otherwise data is lent until release
 * is called. owner: handed to release.
 *
 * Completion: release, once, never inside this call.
 * Returns: 0; -EINVAL; -ENOMEM (nothing was taken); -EPIPE after
 * kloop_stream_shutdown(); -ESTALE after close or an error.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_stream_write(struct kloop_stream *stream, const void *data, size_t bytes,
				    kloop_release_fn *release, void *owner) KLOOP_MUST_CHECK;

/*
 * Send as much as the socket takes now, by a system call of its own.
 *
 * It pays for large messages: no copy and no bookkeeping remain. Nothing is
 * lent, and what was not taken must be written by kloop_stream_write().
 *
 * Returns: the number of bytes taken; 0 if the socket is full, if earlier
 * writes are queued, if the stream is not connected yet, or with SQPOLL;
 * -EINVAL; -EPIPE and -ESTALE as kloop_stream_write(); a negative errno of
 * send(2), which on_error will tell as well.
 * Since: 0.1.
 */
KLOOP_EXPORT ptrdiff_t kloop_stream_try_write(struct kloop_stream *stream, const void *data,
					      size_t bytes) KLOOP_MUST_CHECK;

/* To the end that the file has when it is queued. */
#define KLOOP_FILE_END UINT64_MAX

enum kloop_send_file_flag {
	/*
	 * Do not copy the file into the program: splice(2) moves its pages to the
	 * socket. With kTLS, moreover, a device that encrypts may read them
	 * without a copy (TLS_TX_ZEROCOPY_RO, Linux 5.19). The file must not
	 * change until the peer has it all: the peer would see the change, or a
	 * broken record. A thread of the kernel does the work, so that it saves
	 * time only where the network is slower than memory; ignored where TLS is
	 * not in the kernel, and for less than 64 KiB.
	 */
	KLOOP_SEND_FILE_ZERO_COPY = 1 << 0,
};

/*
 * Called once for a kloop_stream_send_file().
 *
 * owner: as passed to it. status: 0, or a negative code: of reading the file
 * (-EIO, -ENOMEM and so on) or -ECANCELED after kloop_stream_cancel_file(), in
 * which cases the stream goes on behind what was sent; of the stream, whose end
 * it is; or -ECANCELED after an abort. sent_bytes: of the file, taken by the
 * kernel, or by TLS. user: the stream's.
 */
typedef void kloop_send_file_fn(void *owner, int status, uint64_t sent_bytes, void *user);

/*
 * Send a part of a file, after all that was written before.
 *
 * fd: of a regular file, open for reading; its position is neither used nor
 * changed. offset: where to begin. bytes: how many, or KLOOP_FILE_END; a file
 * that ends before is no error, sent_bytes tells. flags: of enum
 * kloop_send_file_flag.
 *
 * The file is read and sent in pieces of 256 KiB, of which one at a time is in
 * memory; reading does not block the loop. With TLS each is encrypted; with
 * KLOOP_KTLS_AUTO it is the first of these calls for 64 KiB or more that moves
 * the sending direction into the kernel.
 *
 * What is written afterwards waits until the file is sent. The file does not
 * count in kloop_stream_get_write_bytes().
 *
 * Ownership: fd stays the caller's, and must stay open until done was called.
 * Completion: done, once, never inside this call.
 * Returns: 0; -EINVAL, also for what is no regular file; -EBADF, also if it is
 * not open for reading; -ENOMEM; -EPIPE and -ESTALE as kloop_stream_write();
 * -EOPNOTSUPP if the stream is a pipe.
 * Since: 0.1.
 * See also: kloop_stream_cancel_file().
 */
KLOOP_EXPORT int kloop_stream_send_file(struct kloop_stream *stream, int fd, uint64_t offset,
					uint64_t bytes, unsigned flags, kloop_send_file_fn *done,
					void *owner) KLOOP_MUST_CHECK;

/*
 * Request that a file be sent no further.
 *
 * owner: as passed to kloop_stream_send_file(); of several, the first is meant.
 *
 * What the kernel has of it arrives, and what was written behind it follows.
 *
 * Completion: that of the file, with -ECANCELED and what was sent, or with its
 * result if it was faster.
 * Returns: 0; -EINVAL; -ENOENT if no such file is queued; -EPERM, -ECHILD,
 * -ESTALE as everywhere.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_stream_cancel_file(struct kloop_stream *stream, void *owner);

/*
 * Bytes written and not yet handed to the kernel. A send in flight counts in
 * full until it completes. Since: 0.1.
 */
KLOOP_EXPORT size_t kloop_stream_get_write_bytes(const struct kloop_stream *stream);

/*
 * Set the marks of the write queue; the defaults are 16 KiB and 64 KiB.
 *
 * When more than high bytes are queued the owner should stop writing;
 * on_drain tells when they fell to low or below.
 *
 * Returns: 0; -EINVAL if low is above high.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_stream_set_write_marks(struct kloop_stream *stream, size_t low_bytes,
					      size_t high_bytes) KLOOP_MUST_CHECK;

/*
 * End the writing direction after what is queued: shutdown(2) with SHUT_WR.
 *
 * Returns: 0, also if it was called before; -EOPNOTSUPP for a pipe; -ESTALE
 * after close or an error; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_stream_shutdown(struct kloop_stream *stream) KLOOP_MUST_CHECK;

/*
 * Close a stream: stop reading, send what is queued, close.
 *
 * A peer that does not read can delay the end without limit;
 * kloop_stream_abort() may follow at any time.
 *
 * Completion: on_close. A second call does nothing.
 * Since: 0.1.
 */
KLOOP_EXPORT void kloop_stream_close(struct kloop_stream *stream);

/*
 * Close a stream at once. What was written since the loop last turned is offered
 * to the kernel once; what it does not take then, and all that was queued
 * before, is released with -ECANCELED.
 *
 * Completion: on_close.
 * Since: 0.1.
 */
KLOOP_EXPORT void kloop_stream_abort(struct kloop_stream *stream);

/*
 * Inside on_data: keep the buffer beyond the call.
 *
 * ret_id: its number, for kloop_stream_give_buffer().
 *
 * The pool is shared by all streams of the loop; a buffer kept for long slows
 * the others.
 *
 * Ownership: the caller's until it is given back.
 * Returns: 0; -ENOENT outside on_data, or if the data is in no pool buffer
 * (then copy it): that of large reads, what came while reading was stopped, and
 * what TLS decrypted.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_stream_take_buffer(struct kloop_stream *stream,
					  unsigned *ret_id) KLOOP_MUST_CHECK;

/* Give back a buffer that was taken from any stream of the loop. Since: 0.1. */
KLOOP_EXPORT void kloop_stream_give_buffer(struct kloop_loop *loop, unsigned id);

/* The descriptor; -1 once it is closed. It stays the stream's. Since: 0.1. */
KLOOP_EXPORT int kloop_stream_get_fd(const struct kloop_stream *stream);

/* The loop of the stream. Since: 0.1. */
KLOOP_EXPORT struct kloop_loop *kloop_stream_get_loop(const struct kloop_stream *stream);

/* The pointer that handlers get, and another one in its place. Since: 0.1. */
KLOOP_EXPORT void *kloop_stream_get_user(const struct kloop_stream *stream);
KLOOP_EXPORT void kloop_stream_set_user(struct kloop_stream *stream, void *user);

KLOOP_END_DECLS

#endif
