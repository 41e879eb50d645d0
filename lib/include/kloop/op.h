/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Operations: one request to the kernel each, in memory of the caller.
 *
 * An operation keeps three promises:
 *
 * 1. One that is accepted completes exactly once, and never inside the call
 *    that submits it.
 * 2. Memory passed in (buffers, addresses, the operation itself) is lent until
 *    that completion.
 * 3. Cancel only requests: the completion still arrives.
 *
 * A submission that is refused has no completion, and nothing is lent.
 * A multishot operation completes many times; each time but the last carries
 * KLOOP_OP_MORE.
 *
 * Common to all submitting functions:
 *
 * Thread: the loop's owner.
 * Returns: 0; -EINVAL for a bad argument; -EBUSY if the operation is in flight;
 * -EPERM from a wrong thread; -ECHILD in a forked child; -ESTALE if the loop is
 * being freed; -ENOMEM if the submission queue is full, the kernel does not
 * take it and no memory is left to keep the operation for later.
 */
#ifndef KLOOP_OP_H
#define KLOOP_OP_H

#include <kloop/base.h>
#include <sys/socket.h>

KLOOP_BEGIN_DECLS

struct kloop_loop;
struct kloop_pool;
struct kloop_op;

/* In a completion's flags: the operation is still in flight, more will follow. */
#define KLOOP_OP_MORE (1u << 1)

/*
 * A completion function.
 *
 * op: the operation; free to be used again unless KLOOP_OP_MORE is set.
 * result: what the system call of that name would return, or a negative errno;
 * -ECANCELED after kloop_op_cancel() or when the loop is freed.
 * flags: KLOOP_OP_MORE, and what kloop_pool_get() reads.
 */
typedef void kloop_op_fn(struct kloop_op *op, int32_t result, uint32_t flags);

/* An operation. All fields are private but complete. */
struct kloop_op {
	kloop_op_fn *complete; /* set by the caller, may be changed while in flight */
	struct kloop_loop *loop;
	struct kloop_op *next;
	struct kloop_op *prev;
	uint32_t state;
	uint32_t reserved;
};

/* Give an operation its completion function; to be done once before use. */
static inline void kloop_op_init(struct kloop_op *op, kloop_op_fn *complete)
{
	op->complete = complete;
	op->loop = NULL;
	op->next = NULL;
	op->prev = NULL;
	op->state = 0;
	op->reserved = 0;
}

/* Is the operation in flight? Thread: the owner. */
static inline bool kloop_op_is_active(const struct kloop_op *op)
{
	return op->state != 0;
}

/*
 * Request that an operation end early.
 *
 * Completion: the operation's own, with -ECANCELED, or with its result if it
 * was faster.
 * Returns: 0; -ENOENT if it is not in flight; else as all submissions.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_op_cancel(struct kloop_op *op);

/* Do nothing, and complete with 0. */
KLOOP_EXPORT int kloop_op_nop(struct kloop_loop *loop, struct kloop_op *op) KLOOP_MUST_CHECK;

/*
 * Wait until a descriptor is ready, once.
 *
 * events: POLLIN, POLLOUT and so on; the result is the events that came.
 */
KLOOP_EXPORT int kloop_op_poll(struct kloop_loop *loop, struct kloop_op *op, int fd,
			       unsigned events) KLOOP_MUST_CHECK;

/*
 * read(2) and write(2).
 *
 * bytes: at most 0x7ffff000.
 * offset: in the file; UINT64_MAX means the file's own position, and is what
 * pipes, sockets and terminals take.
 *
 * A descriptor with O_NONBLOCK set can complete with -EAGAIN: see
 * kloop_op_poll().
 */
KLOOP_EXPORT int kloop_op_read(struct kloop_loop *loop, struct kloop_op *op, int fd, void *buffer,
			       size_t bytes, uint64_t offset) KLOOP_MUST_CHECK;
KLOOP_EXPORT int kloop_op_write(struct kloop_loop *loop, struct kloop_op *op, int fd,
				const void *buffer, size_t bytes, uint64_t offset) KLOOP_MUST_CHECK;

struct iovec;
/* writev(2) at the file's own position; the array is lent as well. */
KLOOP_EXPORT int kloop_op_writev(struct kloop_loop *loop, struct kloop_op *op, int fd,
				 const struct iovec *vector, unsigned count) KLOOP_MUST_CHECK;

/* recv(2) and send(2). MSG_NOSIGNAL is always set in a send. */
KLOOP_EXPORT int kloop_op_recv(struct kloop_loop *loop, struct kloop_op *op, int fd, void *buffer,
			       size_t bytes, int flags) KLOOP_MUST_CHECK;
KLOOP_EXPORT int kloop_op_send(struct kloop_loop *loop, struct kloop_op *op, int fd,
			       const void *buffer, size_t bytes, int flags) KLOOP_MUST_CHECK;

/* recvmsg(2) and sendmsg(2); the message and all it points to are lent. */
KLOOP_EXPORT int kloop_op_recvmsg(struct kloop_loop *loop, struct kloop_op *op, int fd,
				  struct msghdr *message, int flags) KLOOP_MUST_CHECK;
KLOOP_EXPORT int kloop_op_sendmsg(struct kloop_loop *loop, struct kloop_op *op, int fd,
				  const struct msghdr *message, int flags) KLOOP_MUST_CHECK;

/*
 * Receive again and again into buffers of a pool, which the kernel picks when
 * data is there.
 *
 * Completion: one for each receive, with KLOOP_OP_MORE while it goes on; take
 * the buffer with kloop_pool_get(). The last has a result of 0 at the end of
 * the stream, -ENOBUFS if the pool was empty (give buffers back and submit
 * again), or an error.
 * Returns: also -EOPNOTSUPP where the loop lacks KLOOP_FEATURE_RECV_MULTISHOT.
 * Kernel: 6.0.
 */
KLOOP_EXPORT int kloop_op_recv_multishot(struct kloop_loop *loop, struct kloop_op *op, int fd,
					 struct kloop_pool *pool) KLOOP_MUST_CHECK;

/* connect(2); the address is lent. */
KLOOP_EXPORT int kloop_op_connect(struct kloop_loop *loop, struct kloop_op *op, int fd,
				  const struct sockaddr *address, socklen_t length) KLOOP_MUST_CHECK;

/*
 * accept4(2), once or again and again; the result is the new descriptor.
 *
 * flags: SOCK_NONBLOCK, SOCK_CLOEXEC.
 * address, length: where to store the peer's address, or NULL.
 *
 * Returns: kloop_op_accept_multishot() also -EOPNOTSUPP where the loop lacks
 * KLOOP_FEATURE_ACCEPT_MULTISHOT.
 * Kernel: 5.19 for multishot.
 */
KLOOP_EXPORT int kloop_op_accept(struct kloop_loop *loop, struct kloop_op *op, int fd,
				 struct sockaddr *address, socklen_t *length,
				 int flags) KLOOP_MUST_CHECK;
KLOOP_EXPORT int kloop_op_accept_multishot(struct kloop_loop *loop, struct kloop_op *op, int fd,
					   int flags) KLOOP_MUST_CHECK;

/* shutdown(2). how: SHUT_RD, SHUT_WR, SHUT_RDWR. */
KLOOP_EXPORT int kloop_op_shutdown(struct kloop_loop *loop, struct kloop_op *op, int fd,
				   int how) KLOOP_MUST_CHECK;

/* close(2). The descriptor is gone when the submission was accepted. */
KLOOP_EXPORT int kloop_op_close(struct kloop_loop *loop, struct kloop_op *op,
				int fd) KLOOP_MUST_CHECK;

KLOOP_END_DECLS

#endif
