/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Operations on files for the rooms above: see ring.h. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>

static int prepare(struct kloop_loop *loop, struct kloop_op *op, struct io_uring_sqe **ret_sqe)
{
	int ret = kl_loop_check(loop);

	if (ret < 0)
		return ret;
	if (op->state != 0)
		return -EBUSY;
	*ret_sqe = kl_sqe_get(loop);
	return *ret_sqe != NULL ? 0 : -ENOMEM;
}

int kl_op_open(struct kloop_loop *loop, struct kloop_op *op, const char *path, int flags)
{
	struct io_uring_sqe *sqe;
	int ret = prepare(loop, op, &sqe);

	if (ret < 0)
		return ret;
	io_uring_prep_openat(sqe, AT_FDCWD, path, flags | O_CLOEXEC, 0);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kl_op_statx(struct kloop_loop *loop, struct kloop_op *op, int fd, const char *path, int flags,
		unsigned mask, struct statx *buffer)
{
	struct io_uring_sqe *sqe;
	int ret = prepare(loop, op, &sqe);

	if (ret < 0)
		return ret;
	io_uring_prep_statx(sqe, fd, path, flags, mask, buffer);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}
