/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Inside of the ring: the loop's struct and what its files share. */
#ifndef KL_RING_INTERNAL_H
#define KL_RING_INTERNAL_H

#include <liburing.h>
#include <stdatomic.h>

#include "ring.h"

struct kloop_loop_options {
	unsigned submissions;
	unsigned completions;
	bool sqpoll;
	unsigned sqpoll_idle_ms;
	int sqpoll_cpu;
	bool spin_set;
	uint64_t spin_ns;
	unsigned pool_count;
	size_t pool_buffer_bytes;
	uint64_t without;
};

/* Linux 6.9 and liburing 2.6 have it; older headers do not. */
#define KL_IORING_OP_FTRUNCATE 55

/* An entry of the timer heap: the keys stand here, so that comparing touches no timer. */
struct kl_timer_entry {
	uint64_t deadline_ns;
	uint64_t order;
	struct kloop_timer *timer;
};

/* What a completion queue's entry says. */
struct kl_completion {
	uint64_t user_data;
	int32_t result;
	uint32_t flags;
};

struct kloop_loop {
	struct kl_loop_front front; /* the first part, see ring.h */
	struct io_uring ring;
	uint64_t features;
	bool ring_open;    /* the ring exists; false while it is torn down for good */
	bool ring_enabled; /* IORING_REGISTER_ENABLE_RINGS was done: bound to a thread */

	/* Whose it is, beside what the front says. */
	bool bound;  /* its ring belongs to the owner: enabled, descriptor registered */
	const void *registrant; /* the thread that registered the ring's descriptor, or NULL */
	unsigned unregistered_waits; /* since that thread took the registration back */
	bool given_up;		/* the ring is: nothing more is handed to the kernel */
	bool inside; /* a turn is going on */
	bool forked; /* it ends in a forked child */
	bool stop;

	/* Operations. The list's head is a dummy; its order has no meaning. */
	struct kloop_op in_flight;
	size_t in_flight_count;
	size_t internal_count;
	/* Asks again for the end of operations that a worker of the kernel was busy with. */
	struct kloop_timer again;
	/* Completions that no kernel brings: (op, result) of a ring that is gone. */
	struct kloop_op *synthetic;
	struct kloop_op **synthetic_tail;
	/* Entries that found the queue full: handed over, in order, in later turns. */
	struct io_uring_sqe *backlog;
	size_t backlog_head;
	size_t backlog_count;
	size_t backlog_capacity;
	/* Completions that found their queue full, in order, before what is in the queue. */
	struct kl_completion *kept;
	size_t kept_head;
	size_t kept_count;
	size_t kept_capacity;

	struct kl_timer_entry *timers; /* [1] is the nearest */
	size_t timer_count;
	size_t timer_capacity;
	uint64_t timer_order;
	uint64_t timer_floor_ns; /* while timers are called: what starts is due after them */
	uint64_t timer_slack_ns; /* of the owning thread: a sleep may end so much after a deadline */

	struct kl_exit exits; /* dummy head */

	/* Wake-ups by other threads. */
	int wake_fd;
	uint64_t wake_value;
	struct kloop_op wake_op;
	_Atomic int woken;    /* a wake-up came that no turn has seen */
	_Atomic int sleeping; /* a turn sleeps, or is about to: a wake-up must write */
	_Atomic(struct kloop_call *) posted; /* newest first */
	_Atomic uint64_t wakes;

	struct kloop_signal *signals;
	bool delivering_signals;

	uint64_t spin_ns;
	void (*before_wait)(void *data);
	void *before_wait_data;

	struct kloop_pool *pools; /* all pools of the loop */
	struct kloop_pool *datagram_pool;
	unsigned next_pool_group;
	char *hot_areas[KL_HOT_COUNT]; /* mapped; the buffers lie inside */

	struct kloop_loop_options options;
	struct kloop_stats stats;
};

/* Bits of kloop_op.state while in flight. */
enum {
	KL_OP_ACTIVE = 1 << 0,
	KL_OP_INTERNAL = 1 << 1,
	/* The kernel holds no memory of the caller that it may write later: may be abandoned with its ring. */
	KL_OP_LOOSE = 1 << 2,
	KL_OP_SYNTHETIC = 1 << 3,
	KL_OP_POOLED = 1 << 4,    /* takes its buffers from a pool */
	KL_OP_CANCELLED = 1 << 5, /* at the loop's end: the kernel was asked to end it */
	KL_OP_STUBBORN = 1 << 6,  /* the kernel was asked, and said -EALREADY */
	KL_OP_CLOSES = 1 << 7,    /* a close of a descriptor */
	KL_OP_ASKED = 1 << 8,     /* the kernel was asked to end it, at least once */
};

/* In the user_data of a cancel, beside the operation's address. */
#define KL_CANCEL_BIT UINT64_C(1)

/* Bits of kloop_op.reserved: before the submission, and the result of a synthetic completion. */
enum {
	KL_OP_MARK_INTERNAL = 1 << 0,
	KL_OP_RESULT_SHIFT = 8,
};

extern const struct kloop_loop_options kl_default_options;

/* setup.c */
int kl_ring_open(struct kloop_loop *loop);
int kl_ring_bind(struct kloop_loop *loop);
void kl_ring_close(struct kloop_loop *loop);
void kl_ring_disown(struct kloop_loop *loop);
void kl_ring_leave(struct kloop_loop *loop);
void kl_ring_count_wait(struct kloop_loop *loop);

/* thread.c */
int kl_fork_watch(void);
unsigned kl_fork_generation(void);
/* Is this a child that was forked after the loop was made? */
static inline bool kl_loop_is_elsewhere(const struct kloop_loop *loop)
{
	return loop->front.fork_generation != kl_fork_count;
}

/* submit.c */
struct io_uring_sqe *kl_sqe_get(struct kloop_loop *loop);
void kl_op_activate(struct kloop_loop *loop, struct kloop_op *op, struct io_uring_sqe *sqe,
		    unsigned state);
void kl_op_retire(struct kloop_loop *loop, struct kloop_op *op);
void kl_op_complete_synthetic(struct kloop_loop *loop, struct kloop_op *op, int result);
int kl_op_request_cancel(struct kloop_loop *loop, struct kloop_op *op);
void kl_op_note_cancel(struct kloop_loop *loop, uint64_t user_data, int32_t result);
void kl_ops_cancel_again(struct kloop_timer *timer);
void kl_backlog_flush(struct kloop_loop *loop);
int kl_submit(struct kloop_loop *loop, bool get_events);
int kl_submit_and_wait(struct kloop_loop *loop, uint64_t wait_ns, uint64_t until_ns);

/* overflow.c */
void kl_overflow_keep(struct kloop_loop *loop);
bool kl_overflow_flush(struct kloop_loop *loop);

/* How many completions can be taken without the kernel. */
static inline unsigned kl_completions_ready(const struct kloop_loop *loop)
{
	return (unsigned)loop->kept_count + (loop->ring_open ? io_uring_cq_ready(&loop->ring) : 0);
}

/* turn.c */
int kl_dispatch(struct kloop_loop *loop);

/* timer.c */
int kl_timers_expire(struct kloop_loop *loop);
void kl_timers_clear(struct kloop_loop *loop);
static inline uint64_t kl_timers_next(const struct kloop_loop *loop)
{
	return loop->timer_count != 0 ? loop->timers[1].deadline_ns : KLOOP_FOREVER;
}

/* post.c */
int kl_wake_open(struct kloop_loop *loop);
void kl_wake_close(struct kloop_loop *loop);
int kl_wake_arm(struct kloop_loop *loop);
int kl_posts_run(struct kloop_loop *loop);

/* signal.c */
void kl_signals_lock(void);
void kl_signals_unlock(void);
void kl_signals_begin_child(void);
int kl_signals_deliver(struct kloop_loop *loop);
void kl_signals_clear(struct kloop_loop *loop);

/* pool.c */
void kl_pools_free(struct kloop_loop *loop);
int kl_pools_register(struct kloop_loop *loop);
void kl_pools_stats(const struct kloop_loop *loop, struct kloop_stats *stats);

/* spare.c */
void kl_spares_free(struct kloop_loop *loop);

/* defer.c */
void kl_defers_run(struct kloop_loop *loop);
void kl_exits_run(struct kloop_loop *loop);

#endif
