/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Operations: the three promises for every kind, on every rung of the ladder. */
#include "kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Tests are numbered kind by kind, with all rungs for each. */
#define KIND(i) (&kt_kinds[(i) / KT_RUNGS])
#define RUNG(i) ((i) % KT_RUNGS)

struct scene {
	const struct kt_kind *kind;
	struct kloop_loop *loop;
	struct kt_setting setting;
	struct kt_op op;
	int made[8]; /* descriptors that came as results */
	int made_count;
};

/* Keep descriptors that the kernel made, whatever else happens. */
static void keep_fd(struct kt_op *op)
{
	struct scene *scene = op->data;

	if (scene->kind->makes_fd && op->result >= 0) {
		ck_assert_int_lt(scene->made_count, 8);
		scene->made[scene->made_count++] = op->result;
	}
}

static void scene_open(struct scene *scene, int number, bool blocked)
{
	memset(scene, 0, sizeof(*scene));
	scene->kind = KIND(number);
	scene->loop = kt_loop_on_rung(RUNG(number));
	kt_setting_open(&scene->setting, scene->kind, scene->loop, blocked);
	kt_op_init(&scene->op);
	scene->op.then = keep_fd;
	scene->op.data = scene;
}

static void scene_submit(struct scene *scene)
{
	int r = KT_SUBMIT(scene->kind->submit(&scene->setting, &scene->op.op));

	ck_assert_msg(r == 0, "%s: %s", scene->kind->name, kloop_error_name(r));
	ck_assert(kloop_op_is_active(&scene->op.op));
	ck_assert_int_eq(scene->op.completions, 0);
}

/* Whatever could complete twice would do it here. */
static void scene_close(struct scene *scene)
{
	ck_assert_msg(scene->op.last == 1, "%s: %d last completions", scene->kind->name,
		      scene->op.last);
	kt_turn_for(scene->loop, 5);
	/* A cancellation that a polling thread has not seen yet is none of its completions. */
	for (int i = 0; KT_STAT(scene->loop, in_flight) > 0; i++) {
		ck_assert_int_lt(i, KT_PATIENCE_MS);
		kt_turn(scene->loop, KT_MS);
	}
	ck_assert_int_eq(scene->op.last, 1);
	for (int i = 0; i < scene->made_count; i++)
		kt_close(scene->made[i]);
	kt_setting_close(&scene->setting);
	kt_loop_free(scene->loop);
}

/* ---- promise 1 -------------------------------------------------------- */

START_TEST(completes_once_and_later)
{
	struct scene scene;

	scene_open(&scene, _i, false);
	scene_submit(&scene);
	if (scene.kind->goes_on) {
		kt_turn_until(scene.loop, &scene.made_count, 1);
		ck_assert_int_eq(scene.op.last, 0);
		ck_assert(scene.op.flags & KLOOP_OP_MORE);
		ck_assert_int_eq(KT_SUBMIT(kloop_op_cancel(&scene.op.op)), 0);
		ck_assert_int_eq(kt_op_wait(scene.loop, &scene.op), -ECANCELED);
	} else {
		kt_op_wait(scene.loop, &scene.op);
		if (scene.kind->makes_fd)
			ck_assert_int_eq(scene.made_count, 1);
		else
			ck_assert_msg(scene.op.result == scene.kind->expected, "%s: %d",
				      scene.kind->name, scene.op.result);
	}
	scene_close(&scene);
}
END_TEST

START_TEST(waits_until_it_can)
{
	struct scene scene;

	if (!KIND(_i)->unblock)
		return;
	scene_open(&scene, _i, true);
	scene_submit(&scene);
	kt_turn_for(scene.loop, 10);
	ck_assert_int_eq(scene.op.completions, 0);
	ck_assert_uint_eq(KT_STAT(scene.loop, in_flight), 1);
	scene.kind->unblock(&scene.setting);
	if (scene.kind->goes_on) {
		kt_turn_until(scene.loop, &scene.op.completions, 1);
		ck_assert_int_eq(KT_SUBMIT(kloop_op_cancel(&scene.op.op)), 0);
	}
	kt_op_wait(scene.loop, &scene.op);
	if (!scene.kind->makes_fd)
		ck_assert_int_eq(scene.op.result, scene.kind->expected);
	else
		ck_assert_int_eq(scene.made_count, 1);
	scene_close(&scene);
}
END_TEST

/* ---- promise 3 -------------------------------------------------------- */

START_TEST(cancel_in_the_kernel)
{
	struct scene scene;
	bool blocks = KIND(_i)->unblock != NULL;

	scene_open(&scene, _i, blocks);
	scene_submit(&scene);
	kt_turn(scene.loop, 0);
	if (blocks) {
		ck_assert_int_eq(scene.op.completions, 0);
		ck_assert_int_eq(KT_SUBMIT(kloop_op_cancel(&scene.op.op)), 0);
		/* It is a request: the operation is still in flight, and may be asked again. */
		ck_assert(kloop_op_is_active(&scene.op.op));
		ck_assert_int_eq(KT_SUBMIT(kloop_op_cancel(&scene.op.op)), 0);
		ck_assert_int_eq(kt_op_wait(scene.loop, &scene.op), -ECANCELED);
	} else {
		kt_op_wait(scene.loop, &scene.op);
	}
	ck_assert_int_eq(kloop_op_cancel(&scene.op.op), -ENOENT);
	scene_close(&scene);
}
END_TEST

START_TEST(cancel_before_the_turn)
{
	struct scene scene;
	bool blocks = KIND(_i)->unblock != NULL;

	scene_open(&scene, _i, blocks);
	scene_submit(&scene);
	ck_assert_int_eq(KT_SUBMIT(kloop_op_cancel(&scene.op.op)), 0);
	ck_assert_int_eq(scene.op.completions, 0);
	kt_op_wait(scene.loop, &scene.op);
	if (blocks)
		ck_assert_int_eq(scene.op.result, -ECANCELED);
	else
		ck_assert(scene.op.result == -ECANCELED || scene.kind->makes_fd ||
			  scene.op.result == scene.kind->expected);
	scene_close(&scene);
}
END_TEST

START_TEST(cancel_against_completion)
{
	struct scene scene;

	scene_open(&scene, _i, false);
	scene_submit(&scene);
	ck_assert_int_eq(KT_SUBMIT(kloop_op_cancel(&scene.op.op)), 0);
	kt_op_wait(scene.loop, &scene.op);
	if (scene.op.result < 0)
		ck_assert_int_eq(scene.op.result, -ECANCELED);
	scene_close(&scene);
}
END_TEST

START_TEST(used_again_after_cancel)
{
	struct scene scene;
	struct kt_op nop;

	scene_open(&scene, _i, KIND(_i)->unblock != NULL);
	scene_submit(&scene);
	ck_assert_int_eq(KT_SUBMIT(kloop_op_cancel(&scene.op.op)), 0);
	kt_op_wait(scene.loop, &scene.op);
	/* A late answer to the cancel must not hit the next use of the same memory. */
	kt_op_init(&nop);
	scene.op.last = 0;
	scene.op.then = NULL;
	KT_ACCEPTED(kloop_op_nop(scene.loop, &scene.op.op));
	KT_ACCEPTED(kloop_op_nop(scene.loop, &nop.op));
	ck_assert_int_eq(kt_op_wait(scene.loop, &nop), 0);
	ck_assert_int_eq(kt_op_wait(scene.loop, &scene.op), 0);
	scene_close(&scene);
}
END_TEST

/* ---- refusals --------------------------------------------------------- */

START_TEST(busy_while_in_flight)
{
	struct scene scene;
	struct kt_setting *setting;

	scene_open(&scene, _i, KIND(_i)->unblock != NULL);
	setting = &scene.setting;
	scene_submit(&scene);
	ck_assert_int_eq(KT_SUBMIT(kloop_op_nop(scene.loop, &scene.op.op)), -EBUSY);
	ck_assert_int_eq(KT_SUBMIT(scene.kind->submit(setting, &scene.op.op)), -EBUSY);
	ck_assert_uint_eq(KT_STAT(scene.loop, in_flight), 1);
	ck_assert_int_eq(kloop_op_cancel(&scene.op.op), 0);
	kt_op_wait(scene.loop, &scene.op);
	scene_close(&scene);
}
END_TEST

START_TEST(bad_descriptor_completes_with_ebadf)
{
	struct scene scene;
	int good;

	if (!KIND(_i)->takes_fd)
		return;
	scene_open(&scene, _i, false);
	good = scene.setting.fd;
	scene.setting.fd = fcntl(good, F_DUPFD_CLOEXEC, 900);
	ck_assert_int_ge(scene.setting.fd, 900);
	kt_close(scene.setting.fd);
	scene_submit(&scene);
	kt_op_wait(scene.loop, &scene.op);
	if (strcmp(scene.kind->name, "poll") == 0 && scene.op.result > 0)
		ck_assert_int_eq(scene.op.result, POLLNVAL);
	else
		ck_assert_int_eq(scene.op.result, -EBADF);
	scene.setting.fd = good;
	scene_close(&scene);
}
END_TEST

START_TEST(bad_arguments)
{
	struct scene scene;

	scene_open(&scene, _i, false);
	ck_assert_int_eq(KT_SUBMIT(scene.kind->submit(&scene.setting, NULL)), -EINVAL);
	scene.setting.loop = NULL;
	ck_assert_int_eq(KT_SUBMIT(scene.kind->submit(&scene.setting, &scene.op.op)), -EINVAL);
	scene.setting.loop = scene.loop;
	scene.op.op.complete = NULL;
	ck_assert_int_eq(KT_SUBMIT(scene.kind->submit(&scene.setting, &scene.op.op)), -EINVAL);
	ck_assert(!kloop_op_is_active(&scene.op.op));
	ck_assert_uint_eq(KT_STAT(scene.loop, in_flight), 0);
	ck_assert_int_eq(scene.op.completions, 0);
	scene.op.last = 1; /* nothing was accepted, so nothing is owed */
	scene_close(&scene);
}
END_TEST

/* ---- the end of the loop ---------------------------------------------- */

START_TEST(free_cancels)
{
	struct scene scene;

	/* The pool must outlive its operations, and be freed before the loop. */
	if (strcmp(KIND(_i)->name, "recv_multishot") == 0)
		return;
	for (int turned = 0; turned < 2; turned++) {
		scene_open(&scene, _i, KIND(_i)->unblock != NULL);
		scene_submit(&scene);
		if (turned)
			kt_turn(scene.loop, 0);
		kt_loop_free(scene.loop);
		ck_assert_int_eq(scene.op.last, 1);
		if (scene.kind->unblock)
			ck_assert_int_eq(scene.op.result, -ECANCELED);
		kt_setting_close(&scene.setting);
	}
}
END_TEST

/* Each combination of kind and rung, for a test over all of them. */
static void add_kinds(TCase *tcase, const TTest *test)
{
	tcase_add_loop_test(tcase, test, 0, kt_kind_count * KT_RUNGS);
}

static Suite *op_suite(void)
{
	Suite *suite = suite_create("op");
	TCase *kinds = kt_case(suite, "kinds", 30);

	add_kinds(kinds, completes_once_and_later);
	add_kinds(kinds, waits_until_it_can);
	add_kinds(kinds, cancel_in_the_kernel);
	add_kinds(kinds, cancel_before_the_turn);
	add_kinds(kinds, cancel_against_completion);
	add_kinds(kinds, used_again_after_cancel);
	add_kinds(kinds, busy_while_in_flight);
	add_kinds(kinds, bad_descriptor_completes_with_ebadf);
	add_kinds(kinds, bad_arguments);
	add_kinds(kinds, free_cancels);
	return suite;
}

int main(void)
{
	return kt_main(op_suite());
}
