/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Operations on files and their names: see kloop/file.h, and ring.h for kLoop's own. */
#include "internal.h"

#include <kloop/file.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* As readv(2) has it (UIO_MAXIOV). */
#define MAX_VECTORS 1024

static int check(const struct kloop_loop *loop, const struct kloop_op *op)
{
	int ret = kl_loop_check(loop);

	if (ret < 0)
		return ret;
	if (op == NULL || op->complete == NULL)
		return -EINVAL;
	return op->state != 0 ? -EBUSY : 0;
}

static int prepare(struct kloop_loop *loop, struct kloop_op *op, struct io_uring_sqe **ret_sqe)
{
	int ret = check(loop, op);

	if (ret < 0)
		return ret;
	*ret_sqe = kl_sqe_get(loop);
	return *ret_sqe != NULL ? 0 : -ENOMEM;
}

/* A plain call was made in place of the operation: its completion comes in the next turn. */
static void complete_plain(struct kloop_loop *loop, struct kloop_op *op, int result)
{
	struct io_uring_sqe unused;

	kl_op_activate(loop, op, &unused, 0);
	kl_op_complete_synthetic(loop, op, result < 0 ? -errno : 0);
}

int kloop_op_openat(struct kloop_loop *loop, struct kloop_op *op, int dir_fd, const char *path,
		    int flags, unsigned mode)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (path == NULL)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_openat(sqe, dir_fd, path, flags | O_CLOEXEC, mode);
	/*
	 * By a worker at once: the kernel's own first attempt adds O_NONBLOCK, by
	 * which a FIFO opens without its peer, or fails with ENXIO.
	 */
	sqe->flags |= IOSQE_ASYNC;
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kl_op_open(struct kloop_loop *loop, struct kloop_op *op, const char *path, int flags)
{
	return kloop_op_openat(loop, op, AT_FDCWD, path, flags, 0);
}

int kloop_op_preadv(struct kloop_loop *loop, struct kloop_op *op, int fd,
		    const struct iovec *vector, unsigned count, uint64_t offset)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (vector == NULL || count > MAX_VECTORS)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_readv(sqe, fd, vector, count, offset);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_pwritev(struct kloop_loop *loop, struct kloop_op *op, int fd,
		     const struct iovec *vector, unsigned count, uint64_t offset)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (vector == NULL || count > MAX_VECTORS)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_writev(sqe, fd, vector, count, offset);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_fsync(struct kloop_loop *loop, struct kloop_op *op, int fd, bool data_only)
{
	struct io_uring_sqe *sqe;
	int ret = prepare(loop, op, &sqe);

	if (ret < 0)
		return ret;
	io_uring_prep_fsync(sqe, fd, data_only ? IORING_FSYNC_DATASYNC : 0);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_statx(struct kloop_loop *loop, struct kloop_op *op, int dir_fd, const char *path,
		   int flags, unsigned mask, struct statx *ret_status)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (path == NULL || ret_status == NULL)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_statx(sqe, dir_fd, path, flags, mask, ret_status);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kl_op_statx(struct kloop_loop *loop, struct kloop_op *op, int fd, const char *path, int flags,
		unsigned mask, struct statx *buffer)
{
	return kloop_op_statx(loop, op, fd, path, flags, mask, buffer);
}

int kloop_op_ftruncate(struct kloop_loop *loop, struct kloop_op *op, int fd, uint64_t bytes)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (bytes > INT64_MAX)
		return -EINVAL;
	if (loop != NULL && !(loop->features & KLOOP_FEATURE_FTRUNCATE)) {
		ret = check(loop, op);
		if (ret < 0)
			return ret;
		do
			ret = ftruncate(fd, (off_t)bytes);
		while (ret < 0 && errno == EINTR);
		complete_plain(loop, op, ret);
		return 0;
	}
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_rw(KL_IORING_OP_FTRUNCATE, sqe, fd, NULL, 0, bytes);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_fallocate(struct kloop_loop *loop, struct kloop_op *op, int fd, int mode,
		       uint64_t offset, uint64_t bytes)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (offset > INT64_MAX || bytes > INT64_MAX)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_fallocate(sqe, fd, mode, (off_t)offset, (off_t)bytes);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_renameat(struct kloop_loop *loop, struct kloop_op *op, int old_dir_fd,
		      const char *old_path, int new_dir_fd, const char *new_path, unsigned flags)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (old_path == NULL || new_path == NULL)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_renameat(sqe, old_dir_fd, old_path, new_dir_fd, new_path, flags);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_unlinkat(struct kloop_loop *loop, struct kloop_op *op, int dir_fd, const char *path,
		      int flags)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (path == NULL)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_unlinkat(sqe, dir_fd, path, flags);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_mkdirat(struct kloop_loop *loop, struct kloop_op *op, int dir_fd, const char *path,
		     unsigned mode)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (path == NULL)
		return -EINVAL;
	if (loop != NULL && !(loop->features & KLOOP_FEATURE_MKDIRAT)) {
		ret = check(loop, op);
		if (ret == 0)
			complete_plain(loop, op, mkdirat(dir_fd, path, mode));
		return ret;
	}
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_mkdirat(sqe, dir_fd, path, mode);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}
