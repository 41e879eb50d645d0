/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The loop's operations on sockets of the fake kernel. Each becomes a wait for
 * readiness with the caller's own struct kloop_op, so that cancelling, freeing
 * the loop and the promises about completions are the real ones. What it is to
 * do is done when the wait is over; if that cannot be yet, it waits again.
 *
 * Buffers of a pool are of the fake's own while they are lent, with numbers
 * that no pool has; as many as the pool has, so that it runs dry as well.
 */
#include "fakektls-internal.h"
#include "pool.h"
#include "support.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#define FIRST_ID 40000u /* beyond the largest pool */
#define LAST_ID 65535u

enum kind {
	SEND,
	RECEIVE,
	MULTISHOT,
	POLL,
};

/* An operation in flight. */
struct call {
	struct call *next;
	struct kloop_op *op;
	struct kloop_loop *loop;
	kloop_op_fn *complete; /* the caller's */
	enum kind kind;
	int fd;
	int flags;
	bool cancelled;
	unsigned events;
	struct iovec vector;    /* of a call without a message of its own */
	struct msghdr own;
	struct msghdr *message; /* where the caller's result goes; NULL: nowhere */
	struct kloop_pool *pool;
};

/* A pool's buffer while it is lent. */
struct lent {
	struct lent *next;
	struct kloop_pool *pool;
	unsigned id;
	char data[];
};

static struct call *calls;
static struct lent *lents;
static unsigned next_id = FIRST_ID;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of both lists */

#define REAL_AND_WRAP(result, name, ...)   \
	result __real_##name(__VA_ARGS__); \
	result __wrap_##name(__VA_ARGS__)

REAL_AND_WRAP(int, kloop_op_cancel, struct kloop_op *op);
REAL_AND_WRAP(int, kloop_op_poll, struct kloop_loop *loop, struct kloop_op *op, int fd,
	      unsigned events);
REAL_AND_WRAP(int, kloop_op_send, struct kloop_loop *loop, struct kloop_op *op, int fd,
	      const void *data, size_t bytes, int flags);
REAL_AND_WRAP(int, kloop_op_sendmsg, struct kloop_loop *loop, struct kloop_op *op, int fd,
	      const struct msghdr *message, int flags);
REAL_AND_WRAP(int, kloop_op_recv, struct kloop_loop *loop, struct kloop_op *op, int fd,
	      void *buffer, size_t bytes, int flags);
REAL_AND_WRAP(int, kloop_op_recvmsg, struct kloop_loop *loop, struct kloop_op *op, int fd,
	      struct msghdr *message, int flags);
REAL_AND_WRAP(int, kloop_op_recv_multishot, struct kloop_loop *loop, struct kloop_op *op, int fd,
	      struct kloop_pool *pool);
REAL_AND_WRAP(int, kloop_pool_get, struct kloop_pool *pool, uint32_t flags, void **ret_buffer,
	      unsigned *ret_id);
REAL_AND_WRAP(void, kloop_pool_give, struct kloop_pool *pool, unsigned id);

/* ---- lists ------------------------------------------------------------ */

static void link_call(struct call *call)
{
	pthread_mutex_lock(&lock);
	call->next = calls;
	calls = call;
	pthread_mutex_unlock(&lock);
}

static struct call *take_call(const struct kloop_op *op)
{
	struct call **link, *call;

	pthread_mutex_lock(&lock);
	for (link = &calls; (call = *link) && call->op != op; link = &call->next)
		;
	if (call)
		*link = call->next;
	pthread_mutex_unlock(&lock);
	ck_assert_ptr_nonnull(call);
	return call;
}

/* A buffer to receive into; NULL if all of the pool's are lent. */
static struct lent *lend(struct kloop_pool *pool)
{
	struct lent *lent;
	unsigned count = 0;

	pthread_mutex_lock(&lock);
	for (lent = lents; lent; lent = lent->next)
		count += lent->pool == pool;
	lent = NULL;
	if (count + pool->lent < pool->count) {
		lent = malloc(sizeof(*lent) + pool->buffer_bytes);
		ck_assert_ptr_nonnull(lent);
		lent->pool = pool;
		lent->id = next_id;
		lent->next = lents;
		lents = lent;
		next_id = next_id == LAST_ID ? FIRST_ID : next_id + 1;
	}
	pthread_mutex_unlock(&lock);
	return lent;
}

int __wrap_kloop_pool_get(struct kloop_pool *pool, uint32_t flags, void **ret_buffer,
			  unsigned *ret_id)
{
	unsigned id = flags >> IORING_CQE_BUFFER_SHIFT;
	struct lent *lent;

	if (!(flags & IORING_CQE_F_BUFFER) || id < FIRST_ID)
		return __real_kloop_pool_get(pool, flags, ret_buffer, ret_id);
	pthread_mutex_lock(&lock);
	for (lent = lents; lent && (lent->pool != pool || lent->id != id); lent = lent->next)
		;
	pthread_mutex_unlock(&lock);
	ck_assert_ptr_nonnull(lent);
	*ret_buffer = lent->data;
	*ret_id = id;
	return 0;
}

void __wrap_kloop_pool_give(struct kloop_pool *pool, unsigned id)
{
	struct lent **link, *lent;

	if (id < FIRST_ID || id > LAST_ID) {
		__real_kloop_pool_give(pool, id);
		return;
	}
	pthread_mutex_lock(&lock);
	for (link = &lents; (lent = *link) && (lent->pool != pool || lent->id != id);
	     link = &lent->next)
		;
	if (lent)
		*link = lent->next;
	pthread_mutex_unlock(&lock);
	free(lent);
}

void kt_ktls_forget_buffers(void)
{
	struct lent *lent;

	/* No assertion that holds: main() may install a kernel for all tests. */
	if (calls)
		ck_abort_msg("an operation on a fake socket is in flight");
	pthread_mutex_lock(&lock);
	while ((lent = lents)) {
		lents = lent->next;
		free(lent);
	}
	pthread_mutex_unlock(&lock);
}

/* ---- waiting and doing ------------------------------------------------ */

static void ready(struct kloop_op *op, int32_t result, uint32_t flags);

/* Have the operation in flight. Returns: as the submission. */
static int submit(struct call *call)
{
	struct kt_ktls_socket *socket = kt_ktls_find(call->fd);
	bool now = call->kind != SEND && socket && kt_ktls_is_readable(socket);
	int r;

	call->op->complete = ready;
	/* What was read from the socket already would not make it readable again. */
	if (now)
		r = kloop_op_nop(call->loop, call->op);
	else
		r = __real_kloop_op_poll(call->loop, call->op, call->fd, call->events);
	if (r == 0)
		link_call(call);
	else
		call->op->complete = call->complete;
	return r;
}

/* The last completion. */
static void finish(struct call *call, int32_t result)
{
	struct kloop_op *op = call->op;

	op->complete = call->complete;
	free(call);
	op->complete(op, result, 0);
}

/* One buffer of a multishot. */
static void receive_one(struct call *call, struct kt_ktls_socket *socket)
{
	kloop_op_fn *complete = call->complete;
	struct kloop_op *op = call->op;
	struct msghdr message = { .msg_iov = &call->vector, .msg_iovlen = 1 };
	struct lent *lent = lend(call->pool);
	uint32_t flags;
	ssize_t r;

	if (!lent) {
		finish(call, -ENOBUFS);
		return;
	}
	call->vector = (struct iovec){ lent->data, call->pool->buffer_bytes };
	r = kt_ktls_receive(socket, &message, 0);
	if (r <= 0) {
		__wrap_kloop_pool_give(call->pool, lent->id);
		finish(call, (int32_t)r);
		return;
	}
	flags = IORING_CQE_F_BUFFER | lent->id << IORING_CQE_BUFFER_SHIFT;
	/* In flight again before the caller knows, who may cancel it. */
	if (submit(call) == 0) {
		complete(op, (int32_t)r, flags | KLOOP_OP_MORE);
		return;
	}
	free(call);
	complete(op, (int32_t)r, flags);
}

/* A poll: what came, or that there is more in hand than the socket knows. */
static ssize_t answer_poll(const struct call *call, struct kt_ktls_socket *socket, int32_t events)
{
	bool readable = (call->events & POLLIN) && kt_ktls_is_readable(socket);

	events &= ~POLLIN;
	if (readable)
		events |= POLLIN;
	return events ? events : -EAGAIN;
}

static ssize_t receive_message(struct call *call, struct kt_ktls_socket *socket)
{
	struct msghdr tried = call->message ? *call->message : call->own;
	ssize_t r;

	tried.msg_iov = call->message ? tried.msg_iov : &call->vector;
	r = kt_ktls_receive(socket, &tried, call->flags);
	if (r >= 0 && call->message)
		*call->message = tried;
	return r;
}

/* The wait is over. */
static void ready(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct call *call = take_call(op);
	struct kt_ktls_socket *socket = kt_ktls_find(call->fd);
	ssize_t r = result;
	int again;

	(void)flags;
	if (result >= 0 && call->cancelled)
		r = -ECANCELED;
	else if (result >= 0 && !socket)
		r = -EBADF;
	if (r < 0) {
		finish(call, (int32_t)r);
		return;
	}
	if (call->kind == SEND) {
		call->own.msg_iov = call->message ? call->own.msg_iov : &call->vector;
		r = kt_ktls_send(socket, &call->own, call->flags);
	} else if (call->kind == POLL) {
		r = answer_poll(call, socket, result);
	} else if (!kt_ktls_is_readable(socket)) {
		r = -EAGAIN;
	} else if (call->kind == MULTISHOT) {
		receive_one(call, socket);
		return;
	} else {
		r = receive_message(call, socket);
	}
	if (r == -EAGAIN) {
		again = submit(call);
		if (again == 0)
			return;
		r = again == -ESTALE ? -ECANCELED : again; /* the loop is being freed */
	}
	finish(call, (int32_t)r);
}

/* ---- operations ------------------------------------------------------- */

/* Does the fake serve this? */
static bool serves(const struct kloop_op *op, int fd, bool send)
{
	struct kt_ktls_socket *socket = op && op->complete && op->state == 0 ? kt_ktls_find(fd)
									     : NULL;

	return socket && (send ? socket->send.on : socket->receive.on);
}

static int start(struct kloop_loop *loop, struct kloop_op *op, const struct call *made)
{
	struct call *call = malloc(sizeof(*call));
	int r;

	ck_assert_ptr_nonnull(call);
	*call = *made;
	call->loop = loop;
	call->op = op;
	call->complete = op->complete;
	if (call->events == 0)
		call->events = call->kind == SEND ? POLLOUT : POLLIN | POLLRDHUP;
	r = submit(call);
	if (r < 0)
		free(call);
	return r;
}

/* What is asked to end does not wait again, whatever the wait is for at the moment. */
int __wrap_kloop_op_cancel(struct kloop_op *op)
{
	struct call *call;

	pthread_mutex_lock(&lock);
	for (call = op && op->state ? calls : NULL; call; call = call->next)
		call->cancelled |= call->op == op;
	pthread_mutex_unlock(&lock);
	return __real_kloop_op_cancel(op);
}

int __wrap_kloop_op_poll(struct kloop_loop *loop, struct kloop_op *op, int fd, unsigned events)
{
	struct call call = { .kind = POLL, .fd = fd, .events = events };

	if (!(events & POLLIN) || !serves(op, fd, false))
		return __real_kloop_op_poll(loop, op, fd, events);
	return start(loop, op, &call);
}

int __wrap_kloop_op_send(struct kloop_loop *loop, struct kloop_op *op, int fd, const void *data,
			 size_t bytes, int flags)
{
	struct call call = { .kind = SEND, .fd = fd, .flags = flags };

	if (!serves(op, fd, true))
		return __real_kloop_op_send(loop, op, fd, data, bytes, flags);
	call.vector = (struct iovec){ (void *)(uintptr_t)data, bytes };
	call.own.msg_iovlen = 1;
	return start(loop, op, &call);
}

int __wrap_kloop_op_sendmsg(struct kloop_loop *loop, struct kloop_op *op, int fd,
			    const struct msghdr *message, int flags)
{
	struct call call = { .kind = SEND, .fd = fd, .flags = flags };

	if (!message || !serves(op, fd, true))
		return __real_kloop_op_sendmsg(loop, op, fd, message, flags);
	call.own = *message;
	call.message = (struct msghdr *)(uintptr_t)message;
	return start(loop, op, &call);
}

int __wrap_kloop_op_recv(struct kloop_loop *loop, struct kloop_op *op, int fd, void *buffer,
			 size_t bytes, int flags)
{
	struct call call = { .kind = RECEIVE, .fd = fd, .flags = flags };

	if (!buffer || !serves(op, fd, false))
		return __real_kloop_op_recv(loop, op, fd, buffer, bytes, flags);
	call.vector = (struct iovec){ buffer, bytes };
	call.own.msg_iovlen = 1;
	return start(loop, op, &call);
}

int __wrap_kloop_op_recvmsg(struct kloop_loop *loop, struct kloop_op *op, int fd,
			    struct msghdr *message, int flags)
{
	struct call call = { .kind = RECEIVE, .fd = fd, .flags = flags, .message = message };

	if (!message || !serves(op, fd, false))
		return __real_kloop_op_recvmsg(loop, op, fd, message, flags);
	return start(loop, op, &call);
}

int __wrap_kloop_op_recv_multishot(struct kloop_loop *loop, struct kloop_op *op, int fd,
				   struct kloop_pool *pool)
{
	struct call call = { .kind = MULTISHOT, .fd = fd, .pool = pool };

	if (!loop || !pool || !(loop->features & KLOOP_FEATURE_RECV_MULTISHOT) ||
	    !serves(op, fd, false))
		return __real_kloop_op_recv_multishot(loop, op, fd, pool);
	return start(loop, op, &call);
}
