/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Timers: a call at a point in time, in memory of the caller.
 *
 * Timers live in user space, in a heap; the nearest one bounds the wait of a
 * turn, so a timer costs no system call. Starting and stopping cost a time
 * that grows with the logarithm of their number.
 */
#ifndef KLOOP_TIMER_H
#define KLOOP_TIMER_H

#include <kloop/base.h>

KLOOP_BEGIN_DECLS

struct kloop_loop;
struct kloop_timer;
typedef void kloop_timer_fn(struct kloop_timer *timer);

/* A timer. All fields are private but expire. */
struct kloop_timer {
	kloop_timer_fn *expire; /* set by the caller */
	struct kloop_loop *loop;
	size_t position; /* in the heap, from 1; 0 when not active */
};

/* Give a timer its function; to be done once before use. */
static inline void kloop_timer_init(struct kloop_timer *timer, kloop_timer_fn *expire)
{
	timer->expire = expire;
	timer->loop = NULL;
	timer->position = 0;
}

/* Is the timer started, and neither stopped nor expired? */
static inline bool kloop_timer_is_active(const struct kloop_timer *timer)
{
	return timer->position != 0;
}

/*
 * Start a timer, or move one that is active.
 *
 * deadline_ns: on the clock of kloop_now(); one in the past expires in the
 * next turn. Timers of the same deadline expire in the order of their start.
 * None expires early. A turn that sleeps may end later than the nearest deadline
 * by the timer slack of the thread (PR_SET_TIMERSLACK, as it was when the thread
 * took the loop over; 50 us if nobody changed it), as in epoll_wait(2), so that
 * timers close to each other need one sleep.
 *
 * Ownership: the timer is lent until it expires or is stopped.
 * Completion: expire is called once, in a later turn, with the timer no longer
 * active; it may start it again or free it.
 * Thread: the owner.
 * Returns: 0; -EINVAL; -EBUSY if it is active on another loop; -ENOMEM; -EPERM
 * from a wrong thread; -ECHILD in a forked child; -ESTALE if the loop is being
 * freed.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_timer_start(struct kloop_loop *loop, struct kloop_timer *timer,
				   uint64_t deadline_ns) KLOOP_MUST_CHECK;

/*
 * Stop a timer; one that is not active is left alone.
 *
 * Nothing is lent any more, and expire will not be called.
 *
 * Thread: the owner.
 * Since: 0.1.
 */
KLOOP_EXPORT void kloop_timer_stop(struct kloop_timer *timer);

KLOOP_END_DECLS

#endif
