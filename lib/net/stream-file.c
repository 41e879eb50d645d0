/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Files among what a stream writes.
 *
 * A file stands in the write queue as an empty segment, so that order holds by
 * itself; when its turn comes, the stream's write operation carries it, step by
 * step. There are three ways:
 *
 * - read a piece into memory, send it, read the next: the usual one;
 * - splice(2) from the file into a pipe, and from the pipe into the socket, if
 *   the owner wants no copies: the kernel does that in a thread of its own,
 *   which costs more than the copies do unless the network is the slow part;
 * - read a piece, which a layer takes as it takes other bytes (kl_file_peek());
 *   or, where the page cache has it, which is mostly so, straight into the memory
 *   that the layer works on (kl_file_read_now()).
 */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

/* What is read, or goes through the pipe, at a time. */
#define PIECE_BYTES ((size_t)256 << 10)
/* The kernel's ERESTARTSYS: a splice that was interrupted may end with it, as no system call does. */
#define RESTART 512
/* Less than this is copied whatever the owner wants. */
#define SPLICE_MIN ((uint64_t)64 << 10)

enum file_step {
	FILE_READ,
	FILE_SEND,
	FILE_FILL,  /* file to pipe */
	FILE_DRAIN, /* pipe to socket */
	FILE_WAIT,  /* for the socket */
};

struct kl_file {
	struct kl_file *next; /* of those that were cancelled while they waited */
	kloop_send_file_fn *done;
	void *owner;
	uint64_t offset; /* the next byte to read */
	uint64_t left;   /* to be read */
	uint64_t sent;
	char *buffer; /* of PIECE_BYTES, or of what the file has if that is less */
	size_t buffer_bytes;
	size_t head, end; /* what of it is read and not sent */
	size_t piped;     /* bytes in the pipe */
	size_t pipe_bytes;
	int pipe[2]; /* -1 while there is none */
	int fd;
	int error;
	enum file_step step; /* in flight */
	bool splice;
	bool wanted;    /* a layer found no bytes */
	bool slow;      /* it cannot be read without waiting */
	bool memory;    /* it can, without asking for that */
	bool cancelled; /* nothing more of it is to be sent */
};

/* ---- life ------------------------------------------------------------- */

static void close_pipe(struct kl_file *file)
{
	if (file->pipe[0] < 0)
		return;
	close(file->pipe[0]);
	close(file->pipe[1]);
	file->pipe[0] = -1;
	file->pipe[1] = -1;
}

void kl_file_end(void *owner, int status, void *user)
{
	struct kl_file *file = owner;
	kloop_send_file_fn *done = file->done;
	void *done_owner = file->owner;
	uint64_t sent = file->sent;

	close_pipe(file);
	kl_free(file->buffer);
	kl_free(file);
	done(done_owner, status, sent, user);
}

void kl_file_end_cancelled(struct kloop_stream *stream)
{
	struct kl_file *file;

	while ((file = stream->cancelled)) {
		stream->cancelled = file->next;
		kl_loop_note_call(stream->loop);
		kl_file_end(file, -ECANCELED, stream->user);
	}
}

int kl_file_get_error(const struct kl_file *file)
{
	return file->error;
}

/* Nothing more is to be read. */
static void end_file(struct kl_file *file, int error)
{
	file->left = 0;
	if (file->error == 0)
		file->error = error;
}

/* A pipe, and how much fits in. It may be refused (-EMFILE, -ENFILE): then there are copies. */
static bool open_pipe(struct kl_file *file)
{
	int bytes;

	if (file->pipe[0] >= 0)
		return true;
	if (pipe2(file->pipe, O_CLOEXEC) < 0) {
		file->pipe[0] = -1;
		return false;
	}
	/* Beyond the user's share of pipe memory it stays as small as it is. */
	bytes = fcntl(file->pipe[1], F_SETPIPE_SZ, (int)PIECE_BYTES);
	if (bytes <= 0)
		bytes = fcntl(file->pipe[1], F_GETPIPE_SZ);
	file->pipe_bytes = bytes > 0 ? (size_t)bytes : 4096;
	return true;
}

static bool open_buffer(struct kl_file *file)
{
	size_t bytes = file->left < PIECE_BYTES ? (size_t)file->left : PIECE_BYTES;

	if (file->buffer)
		return true;
	file->buffer = kl_malloc(bytes);
	file->buffer_bytes = bytes;
	return file->buffer;
}

/* ---- operations ------------------------------------------------------- */

static size_t limit(uint64_t bytes, size_t most)
{
	return bytes < most ? (size_t)bytes : most;
}

static void note_read(struct kl_file *file, int32_t result)
{
	if (result < 0) {
		end_file(file, result);
		return;
	}
	file->head = 0;
	file->end = (size_t)result;
	file->offset += (uint64_t)result;
	file->left -= (uint64_t)result;
	if (result == 0)
		end_file(file, 0); /* the file is shorter than was asked for */
}

static void note_fill(struct kl_file *file, int32_t result)
{
	if (result < 0) {
		/* Not every file can do it; a read tells whether the file is at fault. */
		file->splice = false;
		close_pipe(file);
		return;
	}
	file->piped = (size_t)result;
	file->offset += (uint64_t)result;
	file->left -= (uint64_t)result;
	if (result == 0)
		end_file(file, 0);
}

/* What a send or a splice to the socket came to. */
static void note_sent(struct kloop_stream *stream, struct kl_file *file, int32_t result)
{
	if (result <= 0) {
		kl_stream_fail(stream, result < 0 ? result : -EIO);
		return;
	}
	file->sent += (uint64_t)result;
	if (file->step == FILE_SEND)
		file->head += (size_t)result;
	else
		file->piped -= (size_t)result;
}

static void note_step(struct kloop_stream *stream, struct kl_file *file, int32_t result)
{
	switch (file->step) {
	case FILE_READ:
		note_read(file, result);
		break;
	case FILE_FILL:
		note_fill(file, result);
		break;
	case FILE_SEND:
	case FILE_DRAIN:
		note_sent(stream, file, result);
		break;
	case FILE_WAIT:
		if (result < 0)
			kl_stream_fail(stream, result);
		break;
	}
}

static void step_done(struct kloop_op *op, int32_t result, uint32_t flags);

static void begin_step(struct kloop_stream *stream, struct kl_file *file, enum file_step step)
{
	struct kloop_op *op = &stream->write_op;
	struct kloop_loop *loop = stream->loop;
	int r = -EINVAL;

	op->complete = step_done;
	file->step = step;
	switch (step) {
	case FILE_READ:
		r = kloop_op_read(loop, op, file->fd, file->buffer,
				  limit(file->left, file->buffer_bytes), file->offset);
		break;
	case FILE_SEND:
		r = kloop_op_send(loop, op, stream->fd, file->buffer + file->head,
				  file->end - file->head, kl_stream_get_send_flags(stream));
		break;
	case FILE_FILL:
		r = kl_op_splice(loop, op, file->fd, file->offset, file->pipe[1],
				 limit(file->left, file->pipe_bytes));
		break;
	case FILE_DRAIN:
		r = kl_op_splice(loop, op, file->pipe[0], UINT64_MAX, stream->fd, file->piped);
		break;
	case FILE_WAIT:
		r = kloop_op_poll(loop, op, stream->fd, POLLOUT);
		break;
	}
	if (r < 0 && !kl_loop_is_closing(loop))
		kl_stream_fail(stream, r);
}

static void step_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_stream *stream = kl_container_of(op, struct kloop_stream, write_op);
	struct kl_file *file = kl_stream_get_file(stream);
	bool sends = file->step == FILE_SEND || file->step == FILE_DRAIN;

	(void)flags;
	if (result == -RESTART)
		result = -EINTR;
	kl_stream_enter(stream);
	stream->state &= ~(uint32_t)KL_STREAM_CANCEL_WRITE;
	if (sends && result == -EAGAIN && !file->cancelled) {
		/* splice(2) does not wait if the socket has O_NONBLOCK. */
		if (!kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED))
			begin_step(stream, file, FILE_WAIT);
		kl_stream_leave(stream);
		return;
	}
	/* -ECANCELED that nobody asked for: the loop changed its thread. The step is repeated. */
	if (result != -ECANCELED && result != -EINTR && result != -EAGAIN)
		note_step(stream, file, result);
	kl_stream_continue_write(stream);
	kl_stream_leave(stream);
}

/* ---- steps ------------------------------------------------------------ */

/* Read a piece, if there is one. Returns: whether the file is done instead. */
static bool read_piece(struct kloop_stream *stream, struct kl_file *file)
{
	if (file->left > 0 && !open_buffer(file))
		end_file(file, -ENOMEM);
	if (file->left == 0)
		return true;
	begin_step(stream, file, FILE_READ);
	return false;
}

bool kl_file_run(struct kloop_stream *stream, struct kl_file *file)
{
	struct kl_layer *layer = stream->layer;
	size_t bytes = file->piped > 0 ? file->piped : file->end - file->head;

	if (file->cancelled)
		return true;
	if (bytes > 0) {
		if (layer && layer->plain_write && !layer->ops->run_file(stream, bytes))
			return false;
		begin_step(stream, file, file->piped > 0 ? FILE_DRAIN : FILE_SEND);
		return false;
	}
	if (file->splice && file->left >= SPLICE_MIN && open_pipe(file)) {
		begin_step(stream, file, FILE_FILL);
		return false;
	}
	return read_piece(stream, file);
}

bool kl_file_fill(struct kloop_stream *stream, struct kl_file *file)
{
	file->wanted = false;
	return file->cancelled || read_piece(stream, file);
}

size_t kl_file_peek(struct kl_file *file, const void **ret_data)
{
	size_t bytes = file->cancelled ? 0 : file->end - file->head;

	file->wanted = bytes == 0;
	*ret_data = bytes > 0 ? file->buffer + file->head : NULL;
	return bytes;
}

void kl_file_skip(struct kl_file *file, size_t bytes)
{
	file->head += bytes;
	file->sent += bytes;
}

/*
 * Is the file in memory whatever a read says? tmpfs refuses RWF_NOWAIT (Linux 6.18 does),
 * and has no disk to wait for; pages that were swapped out are the exception, and are
 * waited for as any memory that was swapped out is.
 */
static bool lies_in_memory(struct kloop_loop *loop, int fd)
{
	struct statfs system;
	int r = fstatfs(fd, &system);

	kl_loop_count_direct(loop);
	return r == 0 && (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC);
}

static ssize_t read_cached(struct kloop_loop *loop, struct kl_file *file, void *buffer,
			   size_t bytes)
{
	struct iovec vector = { .iov_base = buffer, .iov_len = bytes };
	ssize_t result;

	result = preadv2(file->fd, &vector, 1, (off_t)file->offset,
			 file->memory ? 0 : RWF_NOWAIT);
	kl_loop_count_direct(loop);
	if (result >= 0 || errno != EOPNOTSUPP || file->memory)
		return result;
	file->memory = lies_in_memory(loop, file->fd);
	if (file->memory)
		return read_cached(loop, file, buffer, bytes);
	errno = EOPNOTSUPP;
	return -1;
}

size_t kl_file_read_now(struct kloop_loop *loop, struct kl_file *file, void *buffer, size_t bytes)
{
	ssize_t result;

	bytes = limit(file->left, bytes);
	if (file->cancelled || file->slow || bytes == 0)
		return 0;
	result = read_cached(loop, file, buffer, bytes);
	if (result <= 0) {
		/* Not in the page cache, or the end: an operation tells. */
		file->slow = result < 0 && errno != EAGAIN && errno != EINTR;
		return 0;
	}
	file->offset += (uint64_t)result;
	file->left -= (uint64_t)result;
	file->sent += (uint64_t)result;
	return (size_t)result;
}

bool kl_file_is_wanted(const struct kl_file *file)
{
	return file->wanted;
}

const void *kl_file_get_owner(const struct kl_file *file)
{
	return file->owner;
}

/* ---- public ----------------------------------------------------------- */

/* Is it a regular file that can be read? Returns: 0, and its size; or why not. */
static int check_file(int fd, uint64_t *ret_bytes)
{
	int status = fcntl(fd, F_GETFL);
	struct stat info;

	if (status < 0 || fstat(fd, &info) < 0)
		return -errno;
	if ((status & O_ACCMODE) == O_WRONLY || (status & O_PATH))
		return -EBADF;
	if (!S_ISREG(info.st_mode))
		return -EINVAL;
	*ret_bytes = (uint64_t)info.st_size;
	return 0;
}

static struct kl_file *make_file(int fd, uint64_t offset, uint64_t bytes, unsigned flags,
				 kloop_send_file_fn *done, void *owner)
{
	struct kl_file *file = kl_calloc(1, sizeof(*file));

	if (!file)
		return NULL;
	file->done = done;
	file->owner = owner;
	file->offset = offset;
	file->left = bytes;
	file->pipe[0] = -1;
	file->pipe[1] = -1;
	file->fd = fd;
	file->splice = flags & KLOOP_SEND_FILE_ZERO_COPY;
	return file;
}

int kloop_stream_send_file(struct kloop_stream *stream, int fd, uint64_t offset, uint64_t bytes,
			   unsigned flags, kloop_send_file_fn *done, void *owner)
{
	struct kl_file *file;
	uint64_t size = 0;
	int r = kl_stream_check_write(stream, NULL, 0);

	if (r < 0)
		return r;
	if (!done || offset > INT64_MAX || (flags & ~(unsigned)KLOOP_SEND_FILE_ZERO_COPY))
		return -EINVAL;
	if (stream->flags & KLOOP_STREAM_PIPE)
		return -EOPNOTSUPP;
	r = check_file(fd, &size);
	if (r < 0)
		return r;
	/* A file of /proc says that it is empty; a read says more. */
	if (bytes == KLOOP_FILE_END && size > offset)
		bytes = size - offset;
	if (bytes > INT64_MAX - offset)
		bytes = INT64_MAX - offset;
	file = make_file(fd, offset, bytes, flags, done, owner);
	if (!file)
		return -ENOMEM;
	r = kl_stream_add(stream, NULL, 0, kl_file_end, file);
	if (r < 0) {
		kl_free(file);
		return r;
	}
	size = size > offset ? size - offset : 0;
	if (stream->layer)
		stream->layer->ops->note_file(stream, size < bytes ? size : bytes, flags);
	return 0;
}

int kloop_stream_cancel_file(struct kloop_stream *stream, void *owner)
{
	struct kl_file *file;
	int r = stream ? kl_loop_check(stream->loop) : -EINVAL;

	if (r < 0)
		return r;
	file = kl_stream_find_file(stream, owner);
	if (!file)
		return -ENOENT;
	if (kl_stream_get_file(stream) == file && kloop_op_is_active(&stream->write_op) &&
	    stream->write_op.complete == step_done) {
		file->cancelled = true;
		file->error = -ECANCELED;
		kl_stream_cancel_write(stream);
		return 0;
	}
	/* What is before it may wait for long: the file does not. */
	kl_stream_remove_file(stream, file);
	file->next = stream->cancelled;
	stream->cancelled = file;
	kl_stream_schedule(stream);
	return 0;
}
