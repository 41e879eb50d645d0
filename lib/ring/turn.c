/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The turn: submit, wait, dispatch. */
#include "internal.h"

#include <errno.h>

static unsigned queue_flags(const struct kloop_loop *loop)
{
	return __atomic_load_n(loop->ring.sq.kflags, __ATOMIC_RELAXED);
}

/* Does the kernel hold completions that only a call brings? */
static bool kernel_has_work(const struct kloop_loop *loop)
{
	return (queue_flags(loop) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

static bool completions_there(const struct kloop_loop *loop)
{
	return kl_completions_ready(loop) != 0 || loop->synthetic != NULL;
}

bool kloop_loop_is_ready(const struct kloop_loop *loop)
{
	return completions_there(loop) ||
	       (loop->ring_open &&
		(kernel_has_work(loop) || io_uring_sq_ready(&loop->ring) != 0)) ||
	       loop->backlog_count != 0 ||
	       loop->front.defers != NULL || atomic_load_explicit(&loop->woken, memory_order_relaxed);
}

/* Those that follow on op, and are not dispatched: before all that came meanwhile. */
static void put_back_synthetic(struct kloop_loop *loop, struct kloop_op *op)
{
	struct kloop_op **link = &op;

	while (*link != NULL)
		link = &(*link)->next;
	*link = loop->synthetic;
	if (loop->synthetic == NULL)
		loop->synthetic_tail = link;
	loop->synthetic = op;
}

/* Completions whose ring is gone. */
static int dispatch_synthetic(struct kloop_loop *loop)
{
	struct kloop_op *op = loop->synthetic;
	int count = 0;

	loop->synthetic = NULL;
	loop->synthetic_tail = &loop->synthetic;
	while (op != NULL) {
		struct kloop_op *next = op->next;
		int result = -(int)(op->reserved >> KL_OP_RESULT_SHIFT);

		kl_op_retire(loop, op);
		if (op != &loop->wake_op)
			count++;
		op->complete(op, result, 0);
		op = next;
		if (op != NULL && kl_loop_is_elsewhere(loop)) {
			put_back_synthetic(loop, op);
			break;
		}
	}
	return count;
}

/* The oldest completion; its entry is given back at once. False: there is none. */
static inline bool take_completion(struct kloop_loop *loop, struct kl_completion *ret_completion)
{
	const struct io_uring_cq *queue = &loop->ring.cq;
	const struct io_uring_cqe *cqe;

	if (loop->kept_count != 0) {
		*ret_completion = loop->kept[loop->kept_head++];
		if (--loop->kept_count == 0)
			loop->kept_head = 0;
		return true;
	}
	if (!loop->ring_open || io_uring_cq_ready(&loop->ring) == 0)
		return false;
	/* What io_uring_peek_cqe() does, without asking for what this ring does not have. */
	cqe = &queue->cqes[*queue->khead & queue->ring_mask];
	*ret_completion = (struct kl_completion){ cqe->user_data, cqe->res, cqe->flags };
	io_uring_cq_advance(&loop->ring, 1);
	return true;
}

/*
 * Take the completions that are there now; those that arrive meanwhile wait
 * for the next turn, so that timers and the other threads get theirs. Each
 * entry is given back before its function runs: the function may submit.
 */
int kl_dispatch(struct kloop_loop *loop)
{
	unsigned ready = kl_completions_ready(loop);
	struct kl_completion completion;
	int count = 0;

	if (loop->synthetic != NULL) {
		count += dispatch_synthetic(loop);
		if (kl_loop_is_elsewhere(loop))
			return count;
	}
	while (ready-- != 0 && take_completion(loop, &completion)) {
		uint64_t user_data = completion.user_data;
		struct kloop_op *op = (struct kloop_op *)(uintptr_t)user_data;
		int32_t result = completion.result;
		uint32_t flags = completion.flags;

		loop->stats.completions++;
		if (user_data & KL_CANCEL_BIT) {
			kl_op_note_cancel(loop, user_data, result);
			continue;
		}
		if (result == -ENOBUFS && (op->state & KL_OP_POOLED))
			loop->stats.buffers_empty++;
		if (!(flags & IORING_CQE_F_MORE))
			kl_op_retire(loop, op);
		if (op != &loop->wake_op)
			count++;
		op->complete(op, result, flags);
		/* A child that returns from a callback must not take what is the parent's. */
		if (kl_loop_is_elsewhere(loop))
			break;
	}
	return count;
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Look for completions for a while before sleeping; true if some came. */
static bool spin(struct kloop_loop *loop, uint64_t until)
{
	do {
		for (int i = 0; i < 64; i++) {
			if (io_uring_cq_ready(&loop->ring) != 0 || kernel_has_work(loop) ||
			    atomic_load_explicit(&loop->woken, memory_order_relaxed))
				return true;
			relax();
		}
	} while (kloop_now() < until);
	return false;
}

/*
 * Have the ring watch for wake-ups. A wait must not begin while that is in the backlog,
 * because the queue was full and the kernel did not empty it at once: a polling thread
 * takes its time. Returns: whether to wait, or a negative errno.
 */
static int prepare_wait(struct kloop_loop *loop)
{
	int ret = kl_wake_arm(loop);

	if (ret < 0 || loop->backlog_count == 0)
		return ret < 0 ? ret : 1;
	ret = kl_submit(loop, true);
	if (ret < 0)
		return ret;
	(void)io_uring_sqring_wait(&loop->ring);
	kl_backlog_flush(loop);
	return loop->backlog_count == 0;
}

static int sleep_in_kernel(struct kloop_loop *loop, uint64_t now, uint64_t until)
{
	int ret = prepare_wait(loop);

	if (ret <= 0)
		return ret;
	if (loop->before_wait != NULL)
		loop->before_wait(loop->before_wait_data);
	if (loop->spin_ns != 0) {
		uint64_t end = now + loop->spin_ns < until ? now + loop->spin_ns : until;

		if (io_uring_sq_ready(&loop->ring) != 0)
			ret = kl_submit(loop, true);
		if (ret < 0 || spin(loop, end))
			return ret < 0 ? ret : kernel_has_work(loop) ? kl_submit(loop, true) : 0;
		now = kloop_now();
		if (now >= until)
			return 0;
	}
	atomic_store(&loop->sleeping, 1);
	if (atomic_load(&loop->woken) == 0)
		ret = kl_submit_and_wait(loop, until == KLOOP_FOREVER ? until : until - now, until);
	else
		ret = kl_submit(loop, true);
	atomic_store(&loop->sleeping, 0);
	return ret;
}

/* Submit, and wait if there is nothing to do; one system call at most, or none. */
static int submit_and_wait(struct kloop_loop *loop, uint64_t timeout_ns)
{
	uint64_t next = kl_timers_next(loop);
	bool wait = timeout_ns != 0 && !completions_there(loop) && loop->backlog_count == 0 &&
		    loop->front.defers == NULL && !loop->front.called &&
		    atomic_load_explicit(&loop->woken, memory_order_relaxed) == 0;
	uint64_t now = 0;
	uint64_t until = KLOOP_FOREVER;

	if (wait && (next != KLOOP_FOREVER || timeout_ns != KLOOP_FOREVER || loop->spin_ns != 0)) {
		now = kloop_now();
		if (timeout_ns != KLOOP_FOREVER && timeout_ns < KLOOP_FOREVER - now)
			until = now + timeout_ns;
		if (next <= now)
			until = now;
		/* As the thread's other sleeps: timers that are close to each other take one. */
		else if (next < KLOOP_FOREVER - loop->timer_slack_ns &&
			 next + loop->timer_slack_ns < until)
			until = next + loop->timer_slack_ns;
		wait = until > now;
	}
	if (wait)
		return sleep_in_kernel(loop, now, until);
	if (io_uring_sq_ready(&loop->ring) != 0 || kernel_has_work(loop)) {
		int ret = kl_submit(loop, true);

		/* A polling thread that is behind: sleep until it took some, in place of spinning. */
		if (ret == 0 && loop->backlog_count != 0 && timeout_ns != 0)
			(void)io_uring_sqring_wait(&loop->ring);
		return ret;
	}
	return 0;
}

/* Who may turn: 0 with the loop entered, or why not. */
static int enter(struct kloop_loop *loop)
{
	int ret;

	if (loop == NULL)
		return -EINVAL;
	if (loop->front.fork_generation != kl_fork_generation())
		return -ECHILD;
	if (loop->front.closing)
		return -ESTALE;
	if (__atomic_load_n(&loop->inside, __ATOMIC_ACQUIRE))
		return loop->front.owner == kl_thread_token() ? -EDEADLK : -EPERM;
	ret = kloop_loop_adopt(loop);
	if (ret < 0)
		return ret;
	__atomic_store_n(&loop->inside, true, __ATOMIC_RELEASE);
	return 0;
}

static int leave(struct kloop_loop *loop, int ret, int count)
{
	__atomic_store_n(&loop->inside, false, __ATOMIC_RELEASE);
	if (kl_loop_is_elsewhere(loop))
		return -ECHILD;
	return ret < 0 ? ret : count;
}

static bool anything_left(const struct kloop_loop *loop)
{
	return loop->in_flight_count != loop->internal_count || loop->timer_count != 0 ||
	       loop->signals != NULL || loop->front.defers != NULL ||
	       atomic_load_explicit(&loop->posted, memory_order_relaxed) != NULL;
}

/* until_idle: do not wait where nothing is left to wait for. */
static int turn(struct kloop_loop *loop, uint64_t timeout_ns, bool until_idle)
{
	int count;
	int ret = enter(loop);

	if (ret < 0)
		return ret;
	loop->stats.turns++;
	loop->front.called = false;
	kl_defers_run(loop);
	if (kl_loop_is_elsewhere(loop))
		return leave(loop, 0, 0);
	if (loop->backlog_count != 0)
		kl_backlog_flush(loop);
	if (!(loop->features & KLOOP_FEATURE_SINGLE_ISSUER) &&
	    queue_flags(loop) & IORING_SQ_CQ_OVERFLOW)
		loop->stats.overflows++;
	/* What was deferred may have been the end of the last of all. */
	if (until_idle && !anything_left(loop))
		timeout_ns = 0;
	ret = submit_and_wait(loop, timeout_ns);
	count = kl_dispatch(loop);
	if (!kl_loop_is_elsewhere(loop))
		count += kl_timers_expire(loop);
	if (!kl_loop_is_elsewhere(loop))
		count += kl_posts_run(loop);
	/*
	 * After the posts, which forget that a wake-up came: that of a signal would be
	 * forgotten with it if its watcher had been asked before.
	 */
	if (loop->signals != NULL && !kl_loop_is_elsewhere(loop))
		count += kl_signals_deliver(loop);
	return leave(loop, ret, count);
}

int kloop_loop_turn(struct kloop_loop *loop, uint64_t timeout_ns)
{
	return turn(loop, timeout_ns, false);
}

int kloop_loop_submit(struct kloop_loop *loop)
{
	int ret = kl_loop_check(loop);

	/* A ring that no turn has bound to its thread yet holds nothing either. */
	if (ret < 0 || !loop->bound)
		return ret;
	kl_backlog_flush(loop);
	return kl_submit(loop, true);
}

int kloop_loop_run(struct kloop_loop *loop)
{
	if (loop == NULL)
		return -EINVAL;
	/* From inside a callback the turn refuses; the stop of the outer run must last. */
	if (!loop->inside)
		loop->stop = false;
	do {
		int ret = turn(loop, KLOOP_FOREVER, true);

		if (ret < 0 && ret != -EINTR)
			return ret;
	} while (!loop->stop && anything_left(loop));
	(void)!kloop_loop_leave(loop);
	return 0;
}

int kloop_loop_leave(struct kloop_loop *loop)
{
	int ret = kl_loop_check(loop);

	if (ret < 0)
		return ret;
	if (loop->inside)
		return -EBUSY;
	kl_ring_leave(loop);
	return 0;
}

void kloop_loop_stop(struct kloop_loop *loop)
{
	loop->stop = true;
}
