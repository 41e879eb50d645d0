/* SPDX-License-Identifier: MulanPSL-2.0 */
/* What the ring offers to the rooms above it: calls at the start of a turn, calls at the end. */
#include "support.h"

#include "ring/ring.h"

#include <errno.h>
#include <string.h>

/* A deferred call that writes down its name. */
struct note {
	struct kl_defer defer;
	char name;
	struct kloop_loop *loop;
	struct note *schedules, *drops;
	struct kt_op *submits;
};

static char log_text[64];
static int log_length;

static void run_note(struct kl_defer *defer)
{
	struct note *note = (struct note *)defer;

	log_text[log_length++] = note->name;
	if (note->schedules)
		kl_loop_defer(note->loop, &note->schedules->defer);
	if (note->drops)
		kl_loop_drop_defer(note->loop, &note->drops->defer);
	if (note->submits)
		ck_assert_int_eq(kloop_op_nop(note->loop, &note->submits->op), 0);
}

static void init_notes(struct kloop_loop *loop, struct note *notes, int count)
{
	memset(notes, 0, sizeof(*notes) * (size_t)count);
	memset(log_text, 0, sizeof(log_text));
	log_length = 0;
	for (int i = 0; i < count; i++) {
		notes[i].defer.run = run_note;
		notes[i].name = (char)('a' + i);
		notes[i].loop = loop;
	}
}

START_TEST(run_in_order_and_once)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct note notes[3];

	init_notes(loop, notes, 3);
	kl_loop_defer(loop, &notes[1].defer);
	kl_loop_defer(loop, &notes[0].defer);
	kl_loop_defer(loop, &notes[1].defer); /* twice is once */
	kl_loop_defer(loop, &notes[2].defer);
	ck_assert(kloop_loop_is_ready(loop));
	ck_assert_str_eq(log_text, "");
	kt_turn(loop, 0);
	ck_assert_str_eq(log_text, "bac");
	kt_turn(loop, 0);
	ck_assert_str_eq(log_text, "bac");
	ck_assert(!kloop_loop_is_ready(loop));
	kt_loop_free(loop);
}
END_TEST

START_TEST(scheduled_from_inside_is_the_next_turn)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct note notes[2];

	init_notes(loop, notes, 2);
	notes[0].schedules = &notes[0];
	notes[1].schedules = &notes[0];
	kl_loop_defer(loop, &notes[0].defer);
	kl_loop_defer(loop, &notes[1].defer);
	kt_turn(loop, 0);
	ck_assert_str_eq(log_text, "ab");
	/* What is scheduled keeps the next turn from sleeping. */
	kt_turn(loop, KLOOP_FOREVER);
	ck_assert_str_eq(log_text, "aba");
	notes[0].schedules = NULL;
	kt_turn(loop, 0);
	ck_assert_str_eq(log_text, "abaa");
	kt_loop_free(loop);
}
END_TEST

START_TEST(dropped_before_it_ran)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct note notes[4];

	init_notes(loop, notes, 4);
	kl_loop_drop_defer(loop, &notes[0].defer);
	for (int i = 0; i < 4; i++)
		kl_loop_defer(loop, &notes[i].defer);
	kl_loop_drop_defer(loop, &notes[3].defer); /* the last: its place must be found again */
	notes[0].drops = &notes[1];
	kl_loop_defer(loop, &notes[3].defer);
	kl_loop_drop_defer(loop, &notes[3].defer);
	kt_turn(loop, 0);
	ck_assert_str_eq(log_text, "ac");
	kl_loop_defer(loop, &notes[3].defer);
	kt_turn(loop, 0);
	ck_assert_str_eq(log_text, "acd");
	kt_loop_free(loop);
}
END_TEST

START_TEST(drops_the_last_from_inside)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct note notes[3];

	init_notes(loop, notes, 3);
	notes[0].drops = &notes[1];
	notes[0].schedules = &notes[2];
	kl_loop_defer(loop, &notes[0].defer);
	kl_loop_defer(loop, &notes[1].defer);
	kt_turn(loop, 0);
	ck_assert_str_eq(log_text, "a");
	kt_turn(loop, 0);
	ck_assert_str_eq(log_text, "ac");
	kt_loop_free(loop);
}
END_TEST

START_TEST(runs_before_the_submission)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct note notes[1];
	struct kloop_stats before;
	struct kt_op op;

	init_notes(loop, notes, 1);
	kt_op_init(&op);
	kt_turn(loop, 0);
	notes[0].submits = &op;
	kl_loop_defer(loop, &notes[0].defer);
	before = kt_stats(loop);
	/* Deferred, submitted and completed in the same turn, by one call. */
	kt_turn(loop, 0);
	ck_assert_int_eq(op.last, 1);
	ck_assert_uint_le(KT_STAT(loop, enters), before.enters + 1);
	kt_loop_free(loop);
}
END_TEST

/* ---- the end ---------------------------------------------------------- */

struct owner {
	struct kl_exit exit;
	char name;
	struct kloop_loop *loop;
	struct kt_op *in_flight;
	struct owner *removes;
	struct kt_op *closes;
	int fd;
};

static void run_exit(struct kl_exit *hook)
{
	struct owner *owner = (struct owner *)hook;

	log_text[log_length++] = owner->name;
	ck_assert(kl_loop_is_closing(owner->loop));
	if (owner->in_flight)
		ck_assert_int_eq(owner->in_flight->last, 1); /* operations complete first */
	if (owner->removes)
		kl_loop_remove_exit(owner->loop, &owner->removes->exit);
	if (owner->closes)
		ck_assert_int_eq(kl_op_close(owner->loop, &owner->closes->op, owner->fd), 0);
}

START_TEST(exits_run_after_operations)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct owner owners[3];
	struct kt_op op, close_op;
	int fds[2];

	kt_pipe(fds);
	memset(owners, 0, sizeof(owners));
	memset(log_text, 0, sizeof(log_text));
	log_length = 0;
	kt_op_init(&op);
	kt_op_init(&close_op);
	for (int i = 0; i < 3; i++) {
		owners[i].exit.run = run_exit;
		owners[i].name = (char)('a' + i);
		owners[i].loop = loop;
		owners[i].in_flight = &op;
		kl_loop_add_exit(loop, &owners[i].exit);
	}
	KT_ACCEPTED(kloop_op_poll(loop, &op.op, fds[0], 1));
	kt_turn(loop, 0);
	ck_assert(!kl_loop_is_closing(loop));
	kl_loop_remove_exit(loop, &owners[1].exit);
	/* One that closes a descriptor there gets its completion as well. */
	owners[0].closes = &close_op;
	owners[0].fd = fds[0];
	kt_loop_free(loop);
	ck_assert_int_eq(log_length, 2);
	ck_assert_ptr_nonnull(strchr(log_text, 'a'));
	ck_assert_ptr_nonnull(strchr(log_text, 'c'));
	ck_assert_int_eq(close_op.last, 1);
	ck_assert_int_eq(close_op.result, 0);
	kt_close(fds[1]);
}
END_TEST

START_TEST(internal_operations_keep_no_run)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_op op;
	int fds[2];

	kt_pipe(fds);
	kt_op_init(&op);
	kl_op_set_internal(&op.op);
	KT_ACCEPTED(kloop_op_poll(loop, &op.op, fds[0], 1));
	ck_assert_uint_eq(KT_STAT(loop, in_flight), 0);
	ck_assert_int_eq(kloop_loop_run(loop), 0);
	ck_assert_int_eq(op.completions, 0);
	kt_loop_free(loop);
	ck_assert_int_eq(op.last, 1);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

START_TEST(shared_buffers)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_pool *pool = NULL, *again = NULL;
	size_t bytes = 0;
	char *hot = kl_loop_get_hot_buffer(loop, KL_HOT_RECEIVED, &bytes);

	ck_assert_ptr_nonnull(hot);
	ck_assert_uint_ge(bytes, 65536);
	memset(hot, 1, bytes);
	ck_assert_ptr_eq(kl_loop_get_hot_buffer(loop, KL_HOT_RECEIVED, &bytes), hot);
	ck_assert_ptr_ne(kl_loop_get_hot_buffer(loop, KL_HOT_PLAIN, &bytes), hot);
	ck_assert_int_eq(kl_loop_get_receive_pool(loop, &pool), 0);
	ck_assert_int_eq(kl_loop_get_receive_pool(loop, &again), 0);
	ck_assert_ptr_eq(pool, again);
	ck_assert_uint_eq(kl_pool_get_buffer_bytes(pool), 16384);
	ck_assert_uint_eq(KT_STAT(loop, buffers), 256);
	kl_loop_count_direct(loop);
	ck_assert_uint_eq(KT_STAT(loop, direct_calls), 1);
	kt_loop_free(loop);
}
END_TEST

static void call_user(struct kl_defer *defer)
{
	kl_loop_note_call(((struct note *)defer)->loop);
}

/* A function of the user may have asked for anything: the turn that called it does not sleep. */
START_TEST(no_wait_after_a_call_of_the_user)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct note note;
	uint64_t waits;

	init_notes(loop, &note, 1);
	note.defer.run = call_user;
	waits = KT_STAT(loop, waits);
	kl_loop_defer(loop, &note.defer);
	ck_assert_int_eq(kloop_loop_turn(loop, KLOOP_FOREVER), 0);
	ck_assert_uint_eq(KT_STAT(loop, waits), waits);
	/* And the one after it does. */
	ck_assert_int_eq(kloop_loop_turn(loop, 1000), 0);
	ck_assert_uint_eq(KT_STAT(loop, waits), waits + 1);
	kt_loop_free(loop);
}
END_TEST

/* What is given back is what the next one gets, of the same size; what is too large is not kept. */
START_TEST(memory_comes_again)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	size_t small = 1, middle = KL_SPARE_MIDDLE - 1, large = KL_SPARE_LARGE + 1;
	void *first = kl_spare_take(loop, &small);
	void *second = kl_spare_take(loop, &small);
	void *third = kl_spare_take(loop, &middle);
	void *fourth = kl_spare_take(loop, &large);

	ck_assert_uint_eq(small, KL_SPARE_SMALL);
	ck_assert_uint_eq(middle, KL_SPARE_MIDDLE);
	ck_assert_uint_eq(large, KL_SPARE_LARGE + 1);
	memset(first, 1, small);
	memset(second, 2, small);
	memset(third, 3, middle);
	memset(fourth, 4, large);
	kl_spare_give(loop, first, small);
	kl_spare_give(loop, third, middle);
	kl_spare_give(loop, fourth, large);
	kl_spare_give(loop, second, small);
#ifndef __SANITIZE_ADDRESS__
	ck_assert_ptr_eq(kl_spare_take(loop, &small), second);
	ck_assert_ptr_eq(kl_spare_take(loop, &small), first);
	kl_spare_give(loop, first, small);
	kl_spare_give(loop, second, small);
#endif
	kt_loop_free(loop);
}
END_TEST

/* What a burst needed does not stay: there is an end to what is kept. */
START_TEST(memory_has_an_end)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kl_loop_front *front = kl_loop_get_front(loop);
	static void *taken[1000];
	size_t bytes = KL_SPARE_MIDDLE;

	for (int i = 0; i < 1000; i++)
		ck_assert_ptr_nonnull(taken[i] = kl_spare_take(loop, &bytes));
	for (int i = 0; i < 1000; i++)
		kl_spare_give(loop, taken[i], bytes);
	ck_assert_uint_le(front->spares[1].count * bytes, 64 * 1024);
#ifndef __SANITIZE_ADDRESS__
	ck_assert_uint_gt(front->spares[1].count, 10);
#endif
	kt_loop_free(loop);
}
END_TEST

static Suite *hooks_suite(void)
{
	Suite *suite = suite_create("hooks");
	TCase *defers = kt_case(suite, "defer", 10);
	TCase *exits = kt_case(suite, "exit", 10);
	TCase *spares = kt_case(suite, "spare", 10);

	tcase_add_test(defers, run_in_order_and_once);
	tcase_add_test(defers, scheduled_from_inside_is_the_next_turn);
	tcase_add_test(defers, dropped_before_it_ran);
	tcase_add_test(defers, drops_the_last_from_inside);
	tcase_add_test(defers, runs_before_the_submission);
	tcase_add_test(defers, no_wait_after_a_call_of_the_user);
	tcase_add_test(spares, memory_comes_again);
	tcase_add_test(spares, memory_has_an_end);
	tcase_add_test(exits, exits_run_after_operations);
	tcase_add_test(exits, internal_operations_keep_no_run);
	tcase_add_test(exits, shared_buffers);
	return suite;
}

int main(void)
{
	return kt_main(hooks_suite());
}
