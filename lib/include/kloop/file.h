/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Files: what the file system does, as operations, and transfers, which read or
 * write until all is done.
 *
 * Plain reads and writes, and close, are in kloop/op.h. What is common to all
 * operations holds here too: see there for Thread and Returns. Paths are lent
 * until the completion; dir_fd is where a relative one begins, or AT_FDCWD.
 *
 * The kernel answers what it has in memory at once and gives the rest to
 * workers of its own; no thread of the process is involved.
 */
#ifndef KLOOP_FILE_H
#define KLOOP_FILE_H

#include <kloop/base.h>
#include <kloop/op.h>

KLOOP_BEGIN_DECLS

struct statx;

/*
 * openat(2); the result is the descriptor, which is close-on-exec always.
 *
 * A descriptor that arrives although the operation was cancelled is the
 * caller's to close.
 */
KLOOP_EXPORT int kloop_op_openat(struct kloop_loop *loop, struct kloop_op *op, int dir_fd,
				 const char *path, int flags, unsigned mode) KLOOP_MUST_CHECK;

/*
 * preadv(2) and pwritev(2); the array is lent as well.
 *
 * count: at most 1024.
 * offset: in the file; UINT64_MAX means the file's own position.
 */
KLOOP_EXPORT int kloop_op_preadv(struct kloop_loop *loop, struct kloop_op *op, int fd,
				 const struct iovec *vector, unsigned count,
				 uint64_t offset) KLOOP_MUST_CHECK;
KLOOP_EXPORT int kloop_op_pwritev(struct kloop_loop *loop, struct kloop_op *op, int fd,
				  const struct iovec *vector, unsigned count,
				  uint64_t offset) KLOOP_MUST_CHECK;

/* fsync(2), or with data_only fdatasync(2). */
KLOOP_EXPORT int kloop_op_fsync(struct kloop_loop *loop, struct kloop_op *op, int fd,
				bool data_only) KLOOP_MUST_CHECK;

/*
 * statx(2).
 *
 * path: with an empty one and AT_EMPTY_PATH in flags, dir_fd is the file meant.
 * ret_status: filled at the completion if the result is 0; lent.
 */
KLOOP_EXPORT int kloop_op_statx(struct kloop_loop *loop, struct kloop_op *op, int dir_fd,
				const char *path, int flags, unsigned mask,
				struct statx *ret_status) KLOOP_MUST_CHECK;

/*
 * ftruncate(2).
 *
 * Kernel: without KLOOP_FEATURE_FTRUNCATE (Linux 6.9) this is a plain call,
 * made before the function returns: it may block, and overtakes what was
 * submitted before it and did not complete yet. The completion comes as always.
 */
KLOOP_EXPORT int kloop_op_ftruncate(struct kloop_loop *loop, struct kloop_op *op, int fd,
				    uint64_t bytes) KLOOP_MUST_CHECK;

/* fallocate(2). mode: 0, or bits of FALLOC_FL_*. */
KLOOP_EXPORT int kloop_op_fallocate(struct kloop_loop *loop, struct kloop_op *op, int fd, int mode,
				    uint64_t offset, uint64_t bytes) KLOOP_MUST_CHECK;

/* renameat2(2). flags: 0, or RENAME_NOREPLACE, RENAME_EXCHANGE. */
KLOOP_EXPORT int kloop_op_renameat(struct kloop_loop *loop, struct kloop_op *op, int old_dir_fd,
				   const char *old_path, int new_dir_fd, const char *new_path,
				   unsigned flags) KLOOP_MUST_CHECK;

/* unlinkat(2). flags: 0, or AT_REMOVEDIR for an empty directory. */
KLOOP_EXPORT int kloop_op_unlinkat(struct kloop_loop *loop, struct kloop_op *op, int dir_fd,
				   const char *path, int flags) KLOOP_MUST_CHECK;

/*
 * mkdirat(2).
 *
 * Kernel: without KLOOP_FEATURE_MKDIRAT (Linux 5.15) a plain call, as
 * kloop_op_ftruncate() is.
 */
KLOOP_EXPORT int kloop_op_mkdirat(struct kloop_loop *loop, struct kloop_op *op, int dir_fd,
				  const char *path, unsigned mode) KLOOP_MUST_CHECK;

/*
 * A completion function of a transfer.
 *
 * transfer: free to be used again.
 * result: 0 if all went well, or a negative errno; -ECANCELED after
 * kloop_transfer_cancel() or when the loop is freed. What was moved before a
 * failure has been moved: transfer->done tells how much.
 */
struct kloop_transfer;
typedef void kloop_transfer_fn(struct kloop_transfer *transfer, int result);

/* A read or a write as a whole, in memory of the caller. */
struct kloop_transfer {
	kloop_transfer_fn *complete; /* set by the caller */
	size_t done;                 /* bytes moved, to be read at the completion */
	/* The rest is private. */
	struct kloop_op op;
	char *buffer;
	size_t bytes;
	size_t least;
	uint64_t offset;
	int fd;
	bool writes;
	bool polls;
	bool cancelled;
	uint8_t moves;
};

/* Give a transfer its completion function; to be done once before use. */
static inline void kloop_transfer_init(struct kloop_transfer *transfer,
				       kloop_transfer_fn *complete)
{
	transfer->complete = complete;
	transfer->done = 0;
	kloop_op_init(&transfer->op, NULL);
}

/* Is the transfer in flight? Thread: the owner. */
static inline bool kloop_transfer_is_active(const struct kloop_transfer *transfer)
{
	return kloop_op_is_active(&transfer->op);
}

/*
 * Read from a file, a pipe or a terminal.
 *
 * bytes: the size of the buffer.
 * least: the transfer ends when so many bytes are there, or at the end of the
 * file; 1 takes what one read brings, bytes fills the buffer. At most bytes;
 * 0 means 1.
 * offset: in the file; UINT64_MAX means the file's own position, which moves at
 * the completion, and is what pipes and terminals take.
 *
 * Interrupted reads are repeated. Where a descriptor has O_NONBLOCK and nothing
 * is there, the loop waits until there is.
 *
 * Completion: once, with done less than least only at the end of the file or
 * after a failure.
 * Thread: the owner.
 * Returns: 0; -EINVAL for a bad argument; -EBUSY if the transfer is in flight;
 * else as all submissions of kloop/op.h.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_transfer_read(struct kloop_loop *loop, struct kloop_transfer *transfer,
				     int fd, void *buffer, size_t bytes, size_t least,
				     uint64_t offset) KLOOP_MUST_CHECK;

/*
 * Write all of a buffer.
 *
 * offset: as for a read. A file that was opened with O_APPEND grows at its end,
 * whatever the offset.
 *
 * Short writes are continued and interrupted ones repeated; a descriptor with
 * O_NONBLOCK that takes no more is waited for.
 *
 * Completion: once; with 0 all was written.
 * Thread: the owner.
 * Returns: as kloop_transfer_read().
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_transfer_write(struct kloop_loop *loop, struct kloop_transfer *transfer,
				      int fd, const void *buffer, size_t bytes,
				      uint64_t offset) KLOOP_MUST_CHECK;

/*
 * Request that a transfer end early.
 *
 * Completion: its own, with -ECANCELED, or with 0 if it was faster. What a disk
 * is busy with ends by itself first; a wait for a pipe ends at once.
 * Thread: the owner.
 * Returns: 0; -EINVAL; -ENOENT if it is not in flight; else as
 * kloop_op_cancel().
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_transfer_cancel(struct kloop_transfer *transfer);

KLOOP_END_DECLS

#endif
