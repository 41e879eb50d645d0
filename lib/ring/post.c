/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Wake-ups and calls from other threads.
 *
 * A waker sets "woken" and then looks at "sleeping"; the loop sets "sleeping"
 * and then looks at "woken" before it sleeps. Both in sequentially consistent
 * order, so at least one of them sees the other: a wake-up is never lost, and
 * a loop that is awake costs its wakers no system call.
 */
#include "internal.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void wake_complete(struct kloop_op *op, int32_t result, uint32_t flags)
{
	/* It has done its work by completing; it is armed again before the next wait. */
	(void)op;
	(void)result;
	(void)flags;
}

int kl_wake_open(struct kloop_loop *loop)
{
	loop->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (loop->wake_fd < 0)
		return -errno;
	kloop_op_init(&loop->wake_op, wake_complete);
	return 0;
}

void kl_wake_close(struct kloop_loop *loop)
{
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	loop->wake_fd = -1;
}

/* Have the ring watch the descriptor; to be done before each wait. */
int kl_wake_arm(struct kloop_loop *loop)
{
	struct io_uring_sqe *sqe;

	if (kloop_op_is_active(&loop->wake_op))
		return 0;
	sqe = kl_sqe_get(loop);
	if (sqe == NULL)
		return -ENOMEM;
	io_uring_prep_read(sqe, loop->wake_fd, &loop->wake_value, sizeof(loop->wake_value), 0);
	kl_op_set_internal(&loop->wake_op);
	kl_op_activate(loop, &loop->wake_op, sqe, KL_OP_LOOSE);
	return 0;
}

int kloop_loop_wake(struct kloop_loop *loop)
{
	static const uint64_t one = 1;
	int saved = errno;
	int ret = 0;

	if (loop->front.fork_generation != kl_fork_generation())
		return -ECHILD;
	if (atomic_exchange(&loop->woken, 1) == 0 && atomic_load(&loop->sleeping) != 0) {
		atomic_fetch_add_explicit(&loop->wakes, 1, memory_order_relaxed);
		if (write(loop->wake_fd, &one, sizeof(one)) < 0)
			ret = -errno;
	}
	errno = saved;
	return ret;
}

int kloop_loop_post(struct kloop_loop *loop, struct kloop_call *call)
{
	struct kloop_call *head;

	if (loop == NULL || call == NULL || call->call == NULL)
		return -EINVAL;
	if (loop->front.fork_generation != kl_fork_generation())
		return -ECHILD;
	if (__atomic_load_n(&loop->front.closing, __ATOMIC_ACQUIRE))
		return -ESTALE;
	head = atomic_load_explicit(&loop->posted, memory_order_relaxed);
	do {
		call->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&loop->posted, &head, call,
							memory_order_release, memory_order_relaxed));
	return kloop_loop_wake(loop);
}

/* Calls that were taken and not made, the oldest first: before all that came meanwhile. */
static void put_back(struct kloop_loop *loop, struct kloop_call *oldest)
{
	_Atomic(struct kloop_call *) *posted = &loop->posted;
	struct kloop_call *newer = atomic_exchange_explicit(posted, NULL, memory_order_acquire);
	struct kloop_call *newest = NULL;
	struct kloop_call *last = newer;

	while (oldest != NULL) {
		struct kloop_call *next = oldest->next;

		oldest->next = newest;
		newest = oldest;
		oldest = next;
	}
	while (last != NULL && last->next != NULL)
		last = last->next;
	if (last != NULL)
		last->next = newest;
	atomic_store_explicit(posted, newer != NULL ? newer : newest, memory_order_release);
}

/* Call what was posted, in its order. */
int kl_posts_run(struct kloop_loop *loop)
{
	struct kloop_call *newest;
	struct kloop_call *oldest = NULL;
	int count = 0;

	if (atomic_load_explicit(&loop->woken, memory_order_relaxed) == 0)
		return 0;
	/* Before the list is taken: what is posted later wakes again. */
	atomic_store(&loop->woken, 0);
	newest = atomic_exchange_explicit(&loop->posted, NULL, memory_order_acquire);
	while (newest != NULL) {
		struct kloop_call *next = newest->next;

		newest->next = oldest;
		oldest = newest;
		newest = next;
	}
	while (oldest != NULL) {
		struct kloop_call *call = oldest;

		oldest = call->next;
		call->next = NULL;
		count++;
		call->call(call);
		/* A child that returns from a call leaves the others to its parent, or to the end. */
		if (kl_loop_is_elsewhere(loop)) {
			put_back(loop, oldest);
			break;
		}
	}
	return count;
}
