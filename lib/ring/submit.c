/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Between operations and the submission queue. */
#include "internal.h"

#include <errno.h>
#include <string.h>

/* When to ask again for the end of what did not end. */
#define CANCEL_AGAIN_NS UINT64_C(10000000)

/* Room for one more entry behind those that found the queue full. */
static struct io_uring_sqe *backlog_push(struct kloop_loop *loop)
{
	struct io_uring_sqe *grown;
	size_t capacity;

	if (loop->backlog_head != 0 && loop->backlog_head + loop->backlog_count ==
					       loop->backlog_capacity) {
		memmove(loop->backlog, loop->backlog + loop->backlog_head,
			loop->backlog_count * sizeof(*loop->backlog));
		loop->backlog_head = 0;
	}
	if (loop->backlog_head + loop->backlog_count == loop->backlog_capacity) {
		capacity = loop->backlog_capacity != 0 ? 2 * loop->backlog_capacity : 64;
		grown = kl_realloc(loop->backlog, capacity * sizeof(*grown));
		if (grown == NULL)
			return NULL;
		loop->backlog = grown;
		loop->backlog_capacity = capacity;
	}
	grown = &loop->backlog[loop->backlog_head + loop->backlog_count++];
	/* Since liburing 2.4 io_uring_get_sqe() clears an entry, io_uring_prep_*() no longer. */
	memset(grown, 0, sizeof(*grown));
	return grown;
}

/*
 * An entry to fill in: of the queue itself, or of the backlog if the queue is
 * full and the kernel does not take it now. NULL without memory. Entries reach
 * the kernel in the order in which they were got.
 */
struct io_uring_sqe *kl_sqe_get(struct kloop_loop *loop)
{
	struct io_uring_sqe *sqe;

	/* Without a ring, since no new one could be made, what is submitted waits for one. */
	if (loop->backlog_count == 0 && loop->ring_open) {
		sqe = io_uring_get_sqe(&loop->ring);
		if (sqe != NULL)
			return sqe;
		loop->stats.queue_full++;
		if (loop->ring_enabled && !loop->given_up && loop->front.owner == kl_thread_token()) {
			kl_submit(loop, false);
			sqe = io_uring_get_sqe(&loop->ring);
			if (sqe != NULL)
				return sqe;
		}
	}
	return backlog_push(loop);
}

void kl_backlog_flush(struct kloop_loop *loop)
{
	struct io_uring_sqe *sqe;

	while (loop->backlog_count != 0) {
		sqe = io_uring_get_sqe(&loop->ring);
		if (sqe == NULL)
			return;
		*sqe = loop->backlog[loop->backlog_head++];
		loop->backlog_count--;
	}
	loop->backlog_head = 0;
}

void kl_op_set_internal(struct kloop_op *op)
{
	op->reserved |= KL_OP_MARK_INTERNAL;
}

/* Tie an entry to its operation: from here on it is in flight. */
void kl_op_activate(struct kloop_loop *loop, struct kloop_op *op, struct io_uring_sqe *sqe,
		    unsigned state)
{
	io_uring_sqe_set_data(sqe, op);
	op->loop = loop;
	op->state = KL_OP_ACTIVE | state;
	if (op->reserved & KL_OP_MARK_INTERNAL) {
		op->state |= KL_OP_INTERNAL;
		loop->internal_count++;
	}
	op->prev = &loop->in_flight;
	op->next = loop->in_flight.next;
	op->next->prev = op;
	loop->in_flight.next = op;
	loop->in_flight_count++;
}

/* The operation's last completion is there: it is the caller's again. */
void kl_op_retire(struct kloop_loop *loop, struct kloop_op *op)
{
	if (!(op->state & KL_OP_SYNTHETIC)) {
		op->prev->next = op->next;
		op->next->prev = op->prev;
	}
	loop->in_flight_count--;
	if (op->state & KL_OP_INTERNAL)
		loop->internal_count--;
	op->state = 0;
	op->reserved = 0;
	op->next = NULL;
	op->prev = NULL;
}

/* Let an operation in flight complete without the kernel, in the next dispatch. */
void kl_op_complete_synthetic(struct kloop_loop *loop, struct kloop_op *op, int result)
{
	op->prev->next = op->next;
	op->next->prev = op->prev;
	op->state |= KL_OP_SYNTHETIC;
	op->reserved = (uint32_t)-result << KL_OP_RESULT_SHIFT;
	op->next = NULL;
	op->prev = NULL;
	*loop->synthetic_tail = op;
	loop->synthetic_tail = &op->next;
}

/* Ask the kernel to end an operation. 0, or -ENOMEM. */
int kl_op_request_cancel(struct kloop_loop *loop, struct kloop_op *op)
{
	struct io_uring_sqe *sqe;

	if (op->state & KL_OP_SYNTHETIC)
		return 0;
	sqe = kl_sqe_get(loop);
	if (sqe == NULL)
		return -ENOMEM;
	io_uring_prep_cancel64(sqe, (uint64_t)(uintptr_t)op, 0);
	io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)op | KL_CANCEL_BIT);
	if (loop->features & KLOOP_FEATURE_CQE_SKIP)
		sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	op->state |= KL_OP_ASKED;
	return 0;
}

/*
 * What became of a cancel. -EALREADY says that a worker of the kernel was busy
 * with the operation and was interrupted; which it may overlook: a send with
 * MSG_WAITALL that moved a part goes on with the rest, and waits again (seen with
 * Linux 6.18 and a Unix socket that is full). So it is asked again, after a
 * while. The operation may be gone, or its memory in use by another one: only
 * what is in flight is looked at, and of that only what somebody wants to end.
 */
void kl_op_note_cancel(struct kloop_loop *loop, uint64_t user_data, int32_t result)
{
	const struct kloop_op *wanted =
		(const struct kloop_op *)(uintptr_t)(user_data & ~KL_CANCEL_BIT);
	struct kloop_op *op = loop->in_flight.next;

	if (result != -EALREADY)
		return;
	while (op != &loop->in_flight && op != wanted)
		op = op->next;
	if (op == &loop->in_flight || !(op->state & KL_OP_ASKED))
		return;
	op->state |= KL_OP_STUBBORN;
	/* Without memory for the timer, or at the loop's end, which asks by itself: not again. */
	if (!kloop_timer_is_active(&loop->again))
		(void)!kloop_timer_start(loop, &loop->again, kloop_now() + CANCEL_AGAIN_NS);
}

void kl_ops_cancel_again(struct kloop_timer *timer)
{
	struct kloop_loop *loop = timer->loop;
	struct kloop_op *op;

	for (op = loop->in_flight.next; op != &loop->in_flight; op = op->next) {
		if (!(op->state & KL_OP_STUBBORN))
			continue;
		if (kl_op_request_cancel(loop, op) < 0) {
			(void)!kloop_timer_start(loop, timer, kloop_now() + CANCEL_AGAIN_NS);
			return;
		}
		op->state &= ~(uint32_t)KL_OP_STUBBORN;
	}
}

/* Will liburing's submit make a system call? For the counters. */
static bool will_enter(const struct kloop_loop *loop, unsigned count)
{
	unsigned flags = __atomic_load_n(loop->ring.sq.kflags, __ATOMIC_RELAXED);

	if (!(loop->features & KLOOP_FEATURE_SQPOLL))
		return count != 0 || (flags & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN));
	return (count != 0 && (flags & IORING_SQ_NEED_WAKEUP)) || (flags & IORING_SQ_CQ_OVERFLOW);
}

/*
 * Errors that pass: the kernel took less than all because it lacks memory or
 * its completion queue is over-full. The entries stay queued for the next turn.
 */
static int settle(int ret)
{
	return ret == -EAGAIN || ret == -EBUSY || ret == -ETIME ? 0 : ret;
}

/*
 * Count what the next call makes visible to the kernel. What it answers does
 * not say that: with SQPOLL the entries are taken later, by its thread.
 */
static void count_submissions(struct kloop_loop *loop)
{
	loop->stats.submissions += loop->ring.sq.sqe_tail - loop->ring.sq.sqe_head;
}

/* Hand the queue to the kernel, and with get_events have it bring completions, without waiting. */
int kl_submit(struct kloop_loop *loop, bool get_events)
{
	unsigned count = io_uring_sq_ready(&loop->ring);
	int ret;

	count_submissions(loop);
	/* A polling thread brings completions by itself. */
	if (get_events && !(loop->features & KLOOP_FEATURE_SQPOLL)) {
		loop->stats.enters++;
		ret = io_uring_submit_and_get_events(&loop->ring);
	} else {
		loop->stats.enters += will_enter(loop, count);
		ret = io_uring_submit(&loop->ring);
	}
	kl_overflow_keep(loop);
	return ret < 0 ? settle(ret) : 0;
}

/*
 * The same, and wait for at least one completion, at most wait_ns. A call that
 * submitted something tells that, and not that a signal handler ended its
 * wait: -EINTR also if nothing came and it is not until_ns yet.
 */
int kl_submit_and_wait(struct kloop_loop *loop, uint64_t wait_ns, uint64_t until_ns)
{
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	int ret;

	/* What the queue had no room for is there already. */
	if (loop->kept_count != 0)
		return kl_submit(loop, true);
	/* Longer waits would overflow the kernel's arithmetic; waking once in 30 years is no loss. */
	if (wait_ns > 1000000000000000000)
		wait_ns = 1000000000000000000;
	ts.tv_sec = (int64_t)(wait_ns / 1000000000);
	ts.tv_nsec = (long long)(wait_ns % 1000000000);
	count_submissions(loop);
	kl_ring_count_wait(loop);
	loop->stats.enters++;
	loop->stats.waits++;
	/* Without a time liburing would go on waiting by itself after a signal handler. */
	ret = io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, &ts, NULL);
	kl_overflow_keep(loop);
	if ((ret >= 0 || ret == -ETIME) && kl_completions_ready(loop) == 0 && until_ns != 0 &&
	    kloop_now() < until_ns)
		return -EINTR;
	return ret < 0 ? settle(ret) : 0;
}
