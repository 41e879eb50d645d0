/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The loop's beginning and end, its owner, and its counters. */
#include "internal.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

/* How long a ring that is given up may take for each of two things, in nanoseconds. */
#define ABANDON_PATIENCE_NS 100000000

static void init(struct kloop_loop *loop, const struct kloop_loop_options *options)
{
	loop->options = options != NULL ? *options : kl_default_options;
	loop->front.owner = kl_thread_token();
	loop->front.fork_generation = kl_fork_generation();
	loop->in_flight.next = &loop->in_flight;
	loop->in_flight.prev = &loop->in_flight;
	loop->synthetic_tail = &loop->synthetic;
	loop->front.defers_tail = &loop->front.defers;
	loop->exits.next = &loop->exits;
	loop->exits.prev = &loop->exits;
	kloop_timer_init(&loop->again, kl_ops_cancel_again);
	loop->wake_fd = -1;
	loop->spin_ns = loop->options.spin_set ? loop->options.spin_ns :
			loop->options.sqpoll   ? 50000 :
						 0;
}

int kloop_loop_new(const struct kloop_loop_options *options, struct kloop_loop **ret_loop)
{
	struct kloop_loop *loop;
	int ret;

	if (ret_loop == NULL)
		return -EINVAL;
	ret = kl_fork_watch();
	if (ret < 0)
		return ret;
	loop = kl_calloc(1, sizeof(*loop));
	if (loop == NULL)
		return -ENOMEM;
	init(loop, options);
	ret = kl_ring_open(loop);
	if (ret == 0)
		ret = kl_wake_open(loop);
	if (ret < 0) {
		kl_ring_close(loop);
		kl_free(loop);
		return ret;
	}
	*ret_loop = loop;
	return 0;
}

/* Entries that were filled in and not handed over. A polling thread has what was. */
static unsigned unsubmitted(const struct kloop_loop *loop)
{
	if (loop->features & KLOOP_FEATURE_SQPOLL)
		return loop->ring.sq.sqe_tail - loop->ring.sq.sqe_head;
	return io_uring_sq_ready(&loop->ring);
}

/* A polling thread must not begin anything more on a ring that is given up: let it catch up. */
static void await_polling_thread(struct kloop_loop *loop)
{
	uint64_t end = kloop_now() + ABANDON_PATIENCE_NS;

	while (io_uring_sq_ready(&loop->ring) != unsubmitted(loop) && kloop_now() < end)
		sched_yield();
}

/*
 * The entries of the queue are memory that a forked child shares with its parent,
 * which may have written others since. One that is not the operation's own is
 * passed over: a descriptor stays open, which is better than another one closed.
 */
static bool is_close_of(const struct io_uring_sqe *sqe, const struct kloop_loop *loop,
			struct kloop_op **ret_op)
{
	struct kloop_op *op = loop->in_flight.next;

	if (sqe->opcode != IORING_OP_CLOSE)
		return false;
	*ret_op = (struct kloop_op *)(uintptr_t)sqe->user_data;
	if (!loop->forked)
		return true;
	while (op != &loop->in_flight && op != *ret_op)
		op = op->next;
	return op == *ret_op && op != &loop->in_flight && op->state & KL_OP_CLOSES;
}

static void rescue_close(struct kloop_loop *loop, const struct io_uring_sqe *entry)
{
	struct io_uring_sqe sqe = *entry;
	struct kloop_op *op;

	if (is_close_of(&sqe, loop, &op))
		kl_op_complete_synthetic(loop, op, close(sqe.fd) < 0 ? -errno : 0);
}

/* Entries that never reached the kernel: a close among them must happen all the same. */
static void rescue_closes(struct kloop_loop *loop)
{
	struct io_uring *ring = &loop->ring;
	unsigned count = unsubmitted(loop);

	for (unsigned i = 0; i < count; i++)
		rescue_close(loop, &ring->sq.sqes[(ring->sq.sqe_tail - count + i) & ring->sq.ring_mask]);
	for (size_t i = 0; i < loop->backlog_count; i++)
		rescue_close(loop, &loop->backlog[loop->backlog_head + i]);
	loop->backlog_count = 0;
	loop->backlog_head = 0;
}

/*
 * Complete what is in flight on a ring that this thread cannot enter. What the
 * kernel has completed is delivered, in this call; then the ring is closed, by
 * which the kernel cancels the rest, whose completions are made here.
 */
static void abandon_ring(struct kloop_loop *loop)
{
	struct io_uring_sync_cancel_reg all = {
		.fd = -1,
		.flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL,
		.timeout = { .tv_sec = 0, .tv_nsec = ABANDON_PATIENCE_NS },
	};

	/*
	 * The end of a ring comes some time after its close, and until then a
	 * multishot receive could take bytes that nobody would get. Where only
	 * its own thread can make a ring work (DEFER_TASKRUN) that cannot be;
	 * elsewhere cancel first, which Linux 6.0 can do from any thread. Not by
	 * liburing's function: it may name the ring by the number under which
	 * its own thread has registered it.
	 */
	if (loop->ring_open && loop->features & KLOOP_FEATURE_SQPOLL)
		await_polling_thread(loop);
	if (loop->ring_open && loop->in_flight_count != 0 &&
	    !(loop->features & KLOOP_FEATURE_DEFER_TASKRUN))
		(void)io_uring_register((unsigned)loop->ring.ring_fd,
					IORING_REGISTER_SYNC_CANCEL, &all, 1);
	loop->given_up = true;
	if (loop->ring_open) {
		kl_ring_disown(loop);
		loop->front.owner = kl_thread_token();
		do {
			kl_dispatch(loop);
		} while (kl_overflow_flush(loop));
		rescue_closes(loop);
	}
	kl_ring_close(loop);
	loop->given_up = false;
	while (loop->in_flight.next != &loop->in_flight)
		kl_op_complete_synthetic(loop, loop->in_flight.next, -ECANCELED);
}

static bool all_loose(const struct kloop_loop *loop)
{
	for (const struct kloop_op *op = loop->in_flight.next; op != &loop->in_flight; op = op->next) {
		if (!(op->state & KL_OP_LOOSE))
			return false;
	}
	return true;
}

/* A ring in place of one that is gone, with all pools or not at all: this may be tried again. */
static int renew_ring(struct kloop_loop *loop)
{
	int ret = kl_ring_open(loop);

	if (ret < 0)
		return ret;
	ret = kl_pools_register(loop);
	if (ret < 0)
		kl_ring_close(loop);
	return ret;
}

int kloop_loop_adopt(struct kloop_loop *loop)
{
	const void *self = kl_thread_token();
	int ret;

	if (loop == NULL)
		return -EINVAL;
	if (loop->front.fork_generation != kl_fork_generation())
		return -ECHILD;
	if (loop->front.owner == self && loop->bound)
		return 0;
	if (loop->front.closing)
		return -ESTALE;
	if (loop->front.owner != self && __atomic_load_n(&loop->inside, __ATOMIC_ACQUIRE))
		return -EPERM;
	if (loop->bound) {
		if (!all_loose(loop))
			return -EBUSY;
		loop->inside = true;
		abandon_ring(loop);
		loop->inside = false;
		loop->bound = false;
	}
	if (!loop->ring_open) {
		ret = renew_ring(loop);
		if (ret < 0)
			return ret;
	}
	loop->front.owner = self;
	ret = kl_ring_bind(loop);
	if (ret == 0)
		loop->bound = true;
	return ret;
}

/* Ask the kernel to end each operation, once; false if some have to wait for room. */
static bool cancel_all(struct kloop_loop *loop)
{
	struct kloop_op *op;

	for (op = loop->in_flight.next; op != &loop->in_flight; op = op->next) {
		if (op->state & KL_OP_CANCELLED)
			continue;
		if (kl_op_request_cancel(loop, op) < 0)
			return false;
		op->state |= KL_OP_CANCELLED;
	}
	return true;
}

static void forget_cancels(struct kloop_loop *loop)
{
	struct kloop_op *op;

	for (op = loop->in_flight.next; op != &loop->in_flight; op = op->next)
		op->state &= ~(uint32_t)KL_OP_CANCELLED;
}

/*
 * Cancel all and wait for it: the kernel holds memory that is not ours. Without
 * memory for the backlog it takes a round for each queue of cancels.
 */
static void drain(struct kloop_loop *loop)
{
	bool asked = false;
	int ret = 0;

	while (loop->in_flight_count != 0) {
		if (!asked && loop->ring_open)
			asked = cancel_all(loop);
		kl_backlog_flush(loop);
		if (loop->backlog_count != 0 || !asked) {
			/* No wait while cancels have yet to reach the kernel, but for a polling thread. */
			ret = kl_submit(loop, true);
			(void)io_uring_sqring_wait(&loop->ring);
		} else if (loop->in_flight.next != &loop->in_flight && loop->synthetic == NULL) {
			ret = kl_submit_and_wait(loop, 100000000, 0);
			/* Nothing ended: kl_op_note_cancel() says how that can be. */
			if (ret == 0 && kl_completions_ready(loop) == 0) {
				forget_cancels(loop);
				asked = false;
			}
		}
		/* A ring that takes no calls any more still ends what it holds when it is closed. */
		if (ret < 0 && ret != -EINTR) {
			abandon_ring(loop);
			asked = true;
		}
		kl_dispatch(loop);
		kl_defers_run(loop);
	}
}

static void end(struct kloop_loop *loop)
{
	/* A loop that no thread turned yet becomes ours: what is queued may be a close. */
	if (!loop->bound && loop->ring_open && loop->in_flight_count != 0) {
		loop->front.owner = kl_thread_token();
		loop->bound = kl_ring_bind(loop) == 0;
	}
	if (loop->bound && loop->front.owner == kl_thread_token())
		drain(loop);
	else
		abandon_ring(loop);
	do {
		while (loop->in_flight_count != 0 && loop->ring_open)
			drain(loop);
		kl_dispatch(loop);
		kl_defers_run(loop);
		kl_exits_run(loop);
		atomic_store(&loop->woken, 1);
		kl_posts_run(loop);
	} while (loop->in_flight_count != 0 || loop->front.defers != NULL ||
		 loop->exits.next != &loop->exits);
}

/*
 * The end in a forked child. The ring is the parent's, which goes on with it: here
 * it is unmapped, and nothing is said to the kernel. From then on the loop is one
 * that this process made and whose ring is gone. Streams and their like are aborted
 * before their operations complete: what is aborted sends nothing more, shuts
 * nothing down and sets no option, which would be done to the parent's sockets.
 */
static void end_in_child(struct kloop_loop *loop)
{
	loop->forked = true;
	loop->front.closing = true;
	loop->inside = false;
	loop->bound = false;
	if (loop->ring_open)
		rescue_closes(loop);
	kl_ring_close(loop);
	loop->kept_count = 0;
	loop->front.owner = kl_thread_token();
	loop->front.fork_generation = kl_fork_generation();
	/* A close that the kernel has was done before the fork, as a rule. */
	for (struct kloop_op *op = loop->in_flight.next, *next; op != &loop->in_flight; op = next) {
		next = op->next;
		if (op->state & KL_OP_CLOSES)
			kl_op_complete_synthetic(loop, op, 0);
	}
	kl_exits_run(loop);
	end(loop);
}

int kloop_loop_free(struct kloop_loop *loop)
{
	if (loop == NULL)
		return 0;
	if (loop->front.fork_generation == kl_fork_generation()) {
		if (loop->inside || loop->front.closing)
			return -EBUSY;
		__atomic_store_n(&loop->front.closing, true, __ATOMIC_RELEASE);
		end(loop);
	} else {
		end_in_child(loop);
	}
	kl_signals_clear(loop);
	kl_timers_clear(loop);
	kl_pools_free(loop);
	kl_ring_close(loop);
	kl_wake_close(loop);
	kl_free(loop->backlog);
	kl_free(loop->kept);
	kl_spares_free(loop);
	kl_free(loop);
	return 0;
}

void kloop_loop_set_before_wait(struct kloop_loop *loop, void (*before_wait)(void *data),
				void *data)
{
	loop->before_wait = before_wait;
	loop->before_wait_data = data;
}

uint64_t kloop_loop_get_features(const struct kloop_loop *loop)
{
	return __atomic_load_n(&loop->features, __ATOMIC_RELAXED);
}

bool kl_loop_is_forked(const struct kloop_loop *loop)
{
	return loop->forked;
}

void kl_loop_count_direct(struct kloop_loop *loop)
{
	loop->stats.direct_calls++;
}

int kloop_loop_get_stats(const struct kloop_loop *loop, struct kloop_stats *ret_stats, size_t bytes)
{
	struct kloop_stats stats;

	if (loop == NULL || ret_stats == NULL)
		return -EINVAL;
	stats = loop->stats;
	stats.wakes = atomic_load_explicit(&loop->wakes, memory_order_relaxed);
	stats.timers_active = loop->timer_count;
	stats.in_flight = loop->in_flight_count - loop->internal_count;
	kl_pools_stats(loop, &stats);
	memset(ret_stats, 0, bytes);
	memcpy(ret_stats, &stats, bytes < sizeof(stats) ? bytes : sizeof(stats));
	return 0;
}
