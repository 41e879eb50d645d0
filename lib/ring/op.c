/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The operations: each checks, takes an entry, fills it in, and is in flight. */
#include "internal.h"
#include "pool.h"

#include <errno.h>
#include <poll.h>
#include <sys/uio.h>

/* The greatest transfer of one read or write in Linux (MAX_RW_COUNT). */
#define MAX_TRANSFER 0x7ffff000u

_Static_assert(KLOOP_OP_MORE == IORING_CQE_F_MORE, "completion flags are handed on as they are");

/* All that a submission checks; 0 and an entry, or why not. */
static int prepare(struct kloop_loop *loop, struct kloop_op *op, struct io_uring_sqe **ret_sqe)
{
	int ret = kl_loop_check(loop);

	if (ret < 0)
		return ret;
	if (op == NULL || op->complete == NULL)
		return -EINVAL;
	if (op->state != 0)
		return -EBUSY;
	*ret_sqe = kl_sqe_get(loop);
	return *ret_sqe != NULL ? 0 : -ENOMEM;
}

int kloop_op_cancel(struct kloop_op *op)
{
	int ret;

	if (op == NULL)
		return -EINVAL;
	if (op->state == 0)
		return -ENOENT;
	ret = kl_loop_check(op->loop);
	/* While the loop ends everything is being cancelled anyway. */
	if (ret == -ESTALE)
		return 0;
	return ret < 0 ? ret : kl_op_request_cancel(op->loop, op);
}

int kloop_op_nop(struct kloop_loop *loop, struct kloop_op *op)
{
	struct io_uring_sqe *sqe;
	int ret = prepare(loop, op, &sqe);

	if (ret < 0)
		return ret;
	io_uring_prep_nop(sqe);
	kl_op_activate(loop, op, sqe, KL_OP_LOOSE);
	return 0;
}

int kloop_op_poll(struct kloop_loop *loop, struct kloop_op *op, int fd, unsigned events)
{
	struct io_uring_sqe *sqe;
	int ret = prepare(loop, op, &sqe);

	if (ret < 0)
		return ret;
	io_uring_prep_poll_add(sqe, fd, events);
	kl_op_activate(loop, op, sqe, KL_OP_LOOSE);
	return 0;
}

int kloop_op_read(struct kloop_loop *loop, struct kloop_op *op, int fd, void *buffer, size_t bytes,
		  uint64_t offset)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (bytes > MAX_TRANSFER || (buffer == NULL && bytes != 0))
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_read(sqe, fd, buffer, (unsigned)bytes, offset);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_write(struct kloop_loop *loop, struct kloop_op *op, int fd, const void *buffer,
		   size_t bytes, uint64_t offset)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (bytes > MAX_TRANSFER || (buffer == NULL && bytes != 0))
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_write(sqe, fd, buffer, (unsigned)bytes, offset);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_writev(struct kloop_loop *loop, struct kloop_op *op, int fd,
		    const struct iovec *vector, unsigned count)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (vector == NULL || count > 1024)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_writev(sqe, fd, vector, count, UINT64_MAX);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_recv(struct kloop_loop *loop, struct kloop_op *op, int fd, void *buffer, size_t bytes,
		  int flags)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (buffer == NULL || bytes > MAX_TRANSFER)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_recv(sqe, fd, buffer, bytes, flags);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_send(struct kloop_loop *loop, struct kloop_op *op, int fd, const void *buffer,
		  size_t bytes, int flags)
{
	struct io_uring_sqe *sqe;
	int ret;

	if ((buffer == NULL && bytes != 0) || bytes > MAX_TRANSFER)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_send(sqe, fd, buffer, bytes, flags | MSG_NOSIGNAL);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_recvmsg(struct kloop_loop *loop, struct kloop_op *op, int fd, struct msghdr *message,
		     int flags)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (message == NULL)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_recvmsg(sqe, fd, message, (unsigned)flags);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_sendmsg(struct kloop_loop *loop, struct kloop_op *op, int fd,
		     const struct msghdr *message, int flags)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (message == NULL)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_sendmsg(sqe, fd, message, (unsigned)(flags | MSG_NOSIGNAL));
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_recv_multishot(struct kloop_loop *loop, struct kloop_op *op, int fd,
			    struct kloop_pool *pool)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (loop == NULL || pool == NULL || pool->loop != loop)
		return -EINVAL;
	if (!(loop->features & KLOOP_FEATURE_RECV_MULTISHOT))
		return -EOPNOTSUPP;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = pool->group;
	kl_op_activate(loop, op, sqe, KL_OP_LOOSE | KL_OP_POOLED);
	return 0;
}

int kl_op_recvmsg_multishot(struct kloop_loop *loop, struct kloop_op *op, int fd,
			    struct msghdr *message, struct kloop_pool *pool)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (!(loop->features & KLOOP_FEATURE_RECV_MULTISHOT))
		return -EOPNOTSUPP;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_recvmsg_multishot(sqe, fd, message, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = pool->group;
	kl_op_activate(loop, op, sqe, KL_OP_LOOSE | KL_OP_POOLED);
	return 0;
}

int kloop_op_connect(struct kloop_loop *loop, struct kloop_op *op, int fd,
		     const struct sockaddr *address, socklen_t length)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (address == NULL)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_connect(sqe, fd, address, length);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_accept(struct kloop_loop *loop, struct kloop_op *op, int fd, struct sockaddr *address,
		    socklen_t *length, int flags)
{
	struct io_uring_sqe *sqe;
	int ret;

	if ((address == NULL) != (length == NULL))
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_accept(sqe, fd, address, length, flags);
	kl_op_activate(loop, op, sqe, address == NULL ? KL_OP_LOOSE : 0);
	return 0;
}

int kloop_op_accept_multishot(struct kloop_loop *loop, struct kloop_op *op, int fd, int flags)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (loop == NULL)
		return -EINVAL;
	if (!(loop->features & KLOOP_FEATURE_ACCEPT_MULTISHOT))
		return -EOPNOTSUPP;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_multishot_accept(sqe, fd, NULL, NULL, flags);
	kl_op_activate(loop, op, sqe, KL_OP_LOOSE);
	return 0;
}

int kloop_op_shutdown(struct kloop_loop *loop, struct kloop_op *op, int fd, int how)
{
	struct io_uring_sqe *sqe;
	int ret = prepare(loop, op, &sqe);

	if (ret < 0)
		return ret;
	io_uring_prep_shutdown(sqe, fd, how);
	kl_op_activate(loop, op, sqe, KL_OP_LOOSE);
	return 0;
}

int kl_op_splice(struct kloop_loop *loop, struct kloop_op *op, int from, uint64_t offset, int to,
		 size_t bytes)
{
	struct io_uring_sqe *sqe;
	int ret;

	if (bytes > MAX_TRANSFER)
		return -EINVAL;
	ret = prepare(loop, op, &sqe);
	if (ret < 0)
		return ret;
	io_uring_prep_splice(sqe, from, (int64_t)offset, to, -1, (unsigned)bytes, 0);
	kl_op_activate(loop, op, sqe, 0);
	return 0;
}

int kloop_op_close(struct kloop_loop *loop, struct kloop_op *op, int fd)
{
	int ret = kl_loop_check(loop);

	if (ret < 0)
		return ret;
	if (op == NULL || op->complete == NULL)
		return -EINVAL;
	if (op->state != 0)
		return -EBUSY;
	return kl_op_close(loop, op, fd);
}

int kl_op_close(struct kloop_loop *loop, struct kloop_op *op, int fd)
{
	struct io_uring_sqe unused;
	struct io_uring_sqe *sqe;

	if (!loop->ring_open) {
		/* The ring is gone; the descriptor must not stay, and the completion must come. */
		kl_op_activate(loop, op, &unused, 0);
		kl_op_complete_synthetic(loop, op, close(fd) < 0 ? -errno : 0);
		return 0;
	}
	sqe = kl_sqe_get(loop);
	if (sqe == NULL)
		return -ENOMEM;
	io_uring_prep_close(sqe, fd);
	kl_op_activate(loop, op, sqe, KL_OP_LOOSE | KL_OP_CLOSES);
	return 0;
}
