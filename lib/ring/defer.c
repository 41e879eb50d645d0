/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Hooks of the rooms above: at the start of a turn, and at the loop's end. */
#include "internal.h"

void kl_loop_drop_defer(struct kloop_loop *loop, struct kl_defer *defer)
{
	struct kl_defer **link = &loop->front.defers;

	if (!defer->scheduled)
		return;
	while (*link != NULL && *link != defer)
		link = &(*link)->next;
	if (*link == NULL)
		return;
	*link = defer->next;
	if (defer->next == NULL)
		loop->front.defers_tail = link;
	defer->scheduled = false;
}

/* Run what is scheduled now; what gets scheduled meanwhile waits for the next turn. */
void kl_defers_run(struct kloop_loop *loop)
{
	struct kl_defer mark = { .scheduled = false };

	if (loop->front.defers == NULL)
		return;
	/*
	 * The mark ends this round. It stands in the same list, so that a hook
	 * can drop another one that has not run yet.
	 */
	kl_loop_defer(loop, &mark);
	for (;;) {
		struct kl_defer *defer = loop->front.defers;

		loop->front.defers = defer->next;
		if (loop->front.defers == NULL)
			loop->front.defers_tail = &loop->front.defers;
		defer->scheduled = false;
		if (defer == &mark)
			return;
		defer->run(defer);
		if (kl_loop_is_elsewhere(loop)) {
			kl_loop_drop_defer(loop, &mark);
			return;
		}
	}
}

void kl_loop_add_exit(struct kloop_loop *loop, struct kl_exit *hook)
{
	hook->prev = &loop->exits;
	hook->next = loop->exits.next;
	hook->next->prev = hook;
	loop->exits.next = hook;
}

void kl_loop_remove_exit(struct kloop_loop *loop, struct kl_exit *hook)
{
	(void)loop;
	hook->prev->next = hook->next;
	hook->next->prev = hook->prev;
	hook->next = hook;
	hook->prev = hook;
}

void kl_exits_run(struct kloop_loop *loop)
{
	while (loop->exits.next != &loop->exits) {
		struct kl_exit *hook = loop->exits.next;

		kl_loop_remove_exit(loop, hook);
		hook->run(hook);
	}
}
