/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Timers: a heap with four children per node, which is half as deep as a
 * binary one and keeps siblings in one or two cache lines. Position 1 is the
 * root, so that 0 can mean "not in the heap".
 */
#include "internal.h"

#include <errno.h>
#include <time.h>

uint64_t kloop_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static bool before(const struct kl_timer_entry *a, const struct kl_timer_entry *b)
{
	return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns :
						  a->order < b->order;
}

static size_t parent_of(size_t position)
{
	return (position - 2) / 4 + 1;
}

static size_t first_child_of(size_t position)
{
	return 4 * (position - 1) + 2;
}

static void place(struct kloop_loop *loop, size_t position, const struct kl_timer_entry *entry)
{
	loop->timers[position] = *entry;
	entry->timer->position = position;
}

static void sift_up(struct kloop_loop *loop, size_t position, const struct kl_timer_entry *entry)
{
	while (position > 1) {
		size_t parent = parent_of(position);

		if (!before(entry, &loop->timers[parent]))
			break;
		place(loop, position, &loop->timers[parent]);
		position = parent;
	}
	place(loop, position, entry);
}

static void sift_down(struct kloop_loop *loop, size_t position, const struct kl_timer_entry *entry)
{
	for (;;) {
		size_t child = first_child_of(position);
		size_t end = child + 4;
		size_t least = child;

		if (child > loop->timer_count)
			break;
		if (end > loop->timer_count + 1)
			end = loop->timer_count + 1;
		for (size_t i = child + 1; i < end; i++) {
			if (before(&loop->timers[i], &loop->timers[least]))
				least = i;
		}
		if (!before(&loop->timers[least], entry))
			break;
		place(loop, position, &loop->timers[least]);
		position = least;
	}
	place(loop, position, entry);
}

/* Put an entry where another one was taken out. */
static void resettle(struct kloop_loop *loop, size_t position, const struct kl_timer_entry *entry)
{
	if (position > 1 && before(entry, &loop->timers[parent_of(position)]))
		sift_up(loop, position, entry);
	else
		sift_down(loop, position, entry);
}

static int reserve(struct kloop_loop *loop)
{
	struct kl_timer_entry *grown;
	size_t capacity;

	if (loop->timer_count + 1 < loop->timer_capacity)
		return 0;
	capacity = loop->timer_capacity != 0 ? 2 * loop->timer_capacity : 64;
	grown = kl_realloc(loop->timers, capacity * sizeof(*grown));
	if (grown == NULL)
		return -ENOMEM;
	loop->timers = grown;
	loop->timer_capacity = capacity;
	return 0;
}

int kloop_timer_start(struct kloop_loop *loop, struct kloop_timer *timer, uint64_t deadline_ns)
{
	struct kl_timer_entry entry;
	int ret = kl_loop_check(loop);

	if (ret < 0)
		return ret;
	if (timer == NULL || timer->expire == NULL)
		return -EINVAL;
	entry.deadline_ns = deadline_ns < loop->timer_floor_ns ? loop->timer_floor_ns : deadline_ns;
	entry.order = loop->timer_order++;
	entry.timer = timer;
	if (timer->position != 0) {
		if (timer->loop != loop)
			return -EBUSY;
		resettle(loop, timer->position, &entry);
		return 0;
	}
	ret = reserve(loop);
	if (ret < 0)
		return ret;
	timer->loop = loop;
	sift_up(loop, ++loop->timer_count, &entry);
	return 0;
}

void kloop_timer_stop(struct kloop_timer *timer)
{
	struct kloop_loop *loop;
	struct kl_timer_entry last;
	size_t position;

	if (timer == NULL || timer->position == 0)
		return;
	loop = timer->loop;
	position = timer->position;
	timer->position = 0;
	last = loop->timers[loop->timer_count--];
	if (last.timer != timer)
		resettle(loop, position, &last);
}

/*
 * Call the timers that are due now. Those that start during the calls wait for
 * the next turn, even if they are due, so that a turn ends; the floor puts
 * them behind all that are due already, so that none is starved either.
 */
int kl_timers_expire(struct kloop_loop *loop)
{
	uint64_t now;
	int count = 0;

	if (loop->timer_count == 0)
		return 0;
	now = kloop_now();
	loop->timer_floor_ns = now + 1;
	while (loop->timer_count != 0 && loop->timers[1].deadline_ns <= now) {
		struct kloop_timer *timer = loop->timers[1].timer;

		kloop_timer_stop(timer);
		loop->stats.timers_fired++;
		count++;
		timer->expire(timer);
		if (kl_loop_is_elsewhere(loop))
			break;
	}
	loop->timer_floor_ns = 0;
	return count;
}

/* Forget all timers without calling them. */
void kl_timers_clear(struct kloop_loop *loop)
{
	for (size_t i = 1; i <= loop->timer_count; i++)
		loop->timers[i].timer->position = 0;
	loop->timer_count = 0;
	kl_free(loop->timers);
	loop->timers = NULL;
	loop->timer_capacity = 0;
}
