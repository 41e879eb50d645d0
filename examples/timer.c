/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Timers: one that ticks without drift, and a watchdog that never fires because
 * each tick moves it.
 */
#include <kloop.h>
#include <stdio.h>
#include <stdlib.h>

#define MILLISECOND_NS UINT64_C(1000000)
#define PERIOD_NS (50 * MILLISECOND_NS)
#define WATCHDOG_NS (500 * MILLISECOND_NS)

struct clock {
	struct kloop_timer tick;
	struct kloop_timer watchdog;
	struct kloop_loop *loop;
	uint64_t next_ns;
	int ticks_left;
};

/* Nothing that this program could mend can go wrong here. */
static void start(struct kloop_loop *loop, struct kloop_timer *timer, uint64_t deadline_ns)
{
	int error = kloop_timer_start(loop, timer, deadline_ns);

	if (error < 0) {
		fprintf(stderr, "kloop_timer_start: %s\n", kloop_strerror(error));
		exit(1);
	}
}

static void on_tick(struct kloop_timer *timer)
{
	/* The timer is the first member, so its address is that of the clock. */
	struct clock *clock = (struct clock *)timer;

	printf("tick\n");
	if (--clock->ticks_left == 0) {
		/* With no timer left, kloop_loop_run() returns. */
		kloop_timer_stop(&clock->watchdog);
		return;
	}
	/* The next deadline counts from the last one, not from now. */
	clock->next_ns += PERIOD_NS;
	start(clock->loop, timer, clock->next_ns);
	/* Starting an active timer moves it. */
	start(clock->loop, &clock->watchdog, kloop_now() + WATCHDOG_NS);
}

static void on_silence(struct kloop_timer *timer)
{
	(void)timer;
	printf("no tick for half a second\n");
	exit(1);
}

int main(void)
{
	struct clock clock = { .ticks_left = 4 };
	int error = kloop_loop_new(NULL, &clock.loop);

	if (error < 0) {
		fprintf(stderr, "kloop_loop_new: %s\n", kloop_strerror(error));
		return 1;
	}
	kloop_timer_init(&clock.tick, on_tick);
	kloop_timer_init(&clock.watchdog, on_silence);
	clock.next_ns = kloop_now() + PERIOD_NS;
	start(clock.loop, &clock.tick, clock.next_ns);
	start(clock.loop, &clock.watchdog, kloop_now() + WATCHDOG_NS);

	error = kloop_loop_run(clock.loop);
	if (error < 0)
		fprintf(stderr, "kloop_loop_run: %s\n", kloop_strerror(error));
	printf("the watchdog is %s\n",
	       kloop_timer_is_active(&clock.watchdog) ? "still there" : "stopped");
	kloop_loop_free(clock.loop);
	return error < 0;
}
