/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Making the ring where the kernel is old, refuses, or has run out. */
#include "fake.h"
#include "fault.h"
#include "support.h"

#include <errno.h>
#include <liburing.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void setup(void)
{
	unsetenv("KLOOP_IO_URING");
	kt_fake_reset();
	kt_fault_install();
}

static void teardown(void)
{
	ck_assert_uint_eq(kt_fault_blocks(), 0);
	ck_assert_uint_eq(kt_fault_bytes(), 0);
}

/* Everything that a loop must be able to do on each rung. */
static void call_count(struct kloop_call *call);
static int calls;

static void use(struct kloop_loop *loop)
{
	struct kloop_call call = { .call = call_count };
	struct kt_timer timer;
	struct kt_op op, read_op;
	char byte;
	int fds[2];

	kt_pipe(fds);
	kt_op_init(&op);
	kt_op_init(&read_op);
	kt_timer_init(&timer);
	KT_ACCEPTED(kloop_op_read(loop, &read_op.op, fds[0], &byte, 1, UINT64_MAX));
	KT_ACCEPTED(kloop_op_nop(loop, &op.op));
	ck_assert_int_eq(kt_op_wait(loop, &op), 0);
	ck_assert_int_eq(kloop_timer_start(loop, &timer.timer, kloop_now() + 2 * KT_MS), 0);
	kt_turn_until(loop, &timer.fired, 1);
	calls = 0;
	ck_assert_int_eq(kloop_loop_post(loop, &call), 0);
	kt_turn_until(loop, &calls, 1);
	ck_assert_int_eq(kloop_loop_wake(loop), 0);
	kt_turn(loop, KLOOP_FOREVER);
	ck_assert_int_eq(write(fds[1], "x", 1), 1);
	ck_assert_int_eq(kt_op_wait(loop, &read_op), 1);
	kt_close(fds[0]);
	kt_close(fds[1]);
}

static void call_count(struct kloop_call *call)
{
	(void)call;
	calls++;
}

static struct kloop_loop *sqpoll_loop(void)
{
	struct kloop_loop_options *options;
	struct kloop_loop *loop;

	ck_assert_int_eq(kloop_loop_options_new(&options), 0);
	ck_assert_int_eq(kloop_loop_options_set_sqpoll(options, true, 10, -1), 0);
	loop = kt_loop_new(options);
	kloop_loop_options_free(options);
	return loop;
}

/* ---- the ladder ------------------------------------------------------- */

/* What the kernel does not know, and what is left then. */
static const struct {
	unsigned refused;
	uint64_t features;
} ladder[] = {
	{ 0, KLOOP_FEATURE_SINGLE_ISSUER | KLOOP_FEATURE_DEFER_TASKRUN | KLOOP_FEATURE_TASKRUN_FLAG },
	{ IORING_SETUP_DEFER_TASKRUN, KLOOP_FEATURE_COOP_TASKRUN | KLOOP_FEATURE_TASKRUN_FLAG },
	{ IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
	  KLOOP_FEATURE_COOP_TASKRUN | KLOOP_FEATURE_TASKRUN_FLAG },
	{ IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN |
		  IORING_SETUP_TASKRUN_FLAG,
	  0 },
	{ IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN |
		  IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
	  0 },
};

#define LADDER_FEATURES                                                                    \
	(KLOOP_FEATURE_SINGLE_ISSUER | KLOOP_FEATURE_DEFER_TASKRUN |                           \
	 KLOOP_FEATURE_COOP_TASKRUN | KLOOP_FEATURE_TASKRUN_FLAG | KLOOP_FEATURE_SQPOLL)

START_TEST(each_rung_works)
{
	struct kloop_loop *loop;

	kt_fake.refused_flags = ladder[_i].refused;
	loop = kt_loop_new(NULL);
	ck_assert_uint_eq(kloop_loop_get_features(loop) & LADDER_FEATURES, ladder[_i].features);
	/* Each refusal leads one rung down, and the first success ends the search. */
	ck_assert_int_le(kt_fake.setup_calls, 3);
	for (int i = 0; i < kt_fake.setup_calls - 1; i++)
		ck_assert(kt_fake.tried_flags[i] & ladder[_i].refused);
	ck_assert(!(kt_fake.tried_flags[kt_fake.setup_calls - 1] & ladder[_i].refused));
	use(loop);
	kt_loop_free(loop);
}
END_TEST

START_TEST(each_rung_can_be_chosen)
{
	static const uint64_t without[] = {
		0,
		KLOOP_FEATURE_SINGLE_ISSUER,
		KLOOP_FEATURE_DEFER_TASKRUN,
		KLOOP_FEATURE_DEFER_TASKRUN | KLOOP_FEATURE_COOP_TASKRUN,
		KLOOP_FEATURE_REGISTERED_RING,
		KLOOP_FEATURE_CQE_SKIP,
		KLOOP_FEATURE_BUFFER_RING | KLOOP_FEATURE_RECV_MULTISHOT |
			KLOOP_FEATURE_ACCEPT_MULTISHOT,
		UINT64_MAX,
	};
	struct kloop_loop *loop = kt_loop_without(without[_i]);

	use(loop);
	ck_assert_uint_eq(kloop_loop_get_features(loop) & without[_i], 0);
	kt_loop_free(loop);
}
END_TEST

START_TEST(sqpoll_has_its_own_ladder)
{
	struct kloop_loop *loop;

	kt_fake.refused_flags = _i ? IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_SUBMIT_ALL : 0;
	loop = sqpoll_loop();
	ck_assert(kloop_loop_get_features(loop) & KLOOP_FEATURE_SQPOLL);
	ck_assert(!(kloop_loop_get_features(loop) & KLOOP_FEATURE_DEFER_TASKRUN));
	use(loop);
	kt_loop_free(loop);
}
END_TEST

START_TEST(sqpoll_on_no_processor)
{
	struct kloop_loop_options *options;
	struct kloop_loop *loop = NULL;

	ck_assert_int_eq(kloop_loop_options_new(&options), 0);
	ck_assert_int_eq(kloop_loop_options_set_sqpoll(options, true, 10, 100000), 0);
	ck_assert_int_eq(kloop_loop_new(options, &loop), -EINVAL);
	ck_assert_ptr_null(loop);
	ck_assert_int_eq(kloop_loop_options_set_sqpoll(options, true, 10, 0), 0);
	ck_assert_int_eq(kloop_loop_new(options, &loop), 0);
	use(loop);
	kt_loop_free(loop);
	kloop_loop_options_free(options);
}
END_TEST

START_TEST(small_features_may_be_missing)
{
	struct kloop_loop *loop;
	struct kloop_pool *pool = NULL;

	kt_fake.no_registered_ring = true;
	kt_fake.no_probe = true;
	kt_fake.withheld_features = IORING_FEAT_CQE_SKIP;
	loop = kt_loop_new(NULL);
	use(loop);
	ck_assert_uint_eq(kloop_loop_get_features(loop) & ~(uint64_t)LADDER_FEATURES, 0);
	ck_assert_int_eq(kloop_pool_new(loop, 4, 4096, &pool), -EOPNOTSUPP);
	kt_loop_free(loop);

	kt_fake_reset();
	loop = kt_loop_new(NULL);
	kt_fake.buffer_ring_error = -EINVAL;
	ck_assert_int_eq(kloop_pool_new(loop, 4, 4096, &pool), -EOPNOTSUPP);
	kt_fake.buffer_ring_error = -ENOMEM;
	ck_assert_int_eq(kloop_pool_new(loop, 4, 4096, &pool), -ENOMEM);
	ck_assert_ptr_null(pool);
	kt_loop_free(loop);
}
END_TEST

/* ---- refusals --------------------------------------------------------- */

static const struct {
	int kernel;
	int expected;
} answers[] = {
	{ -EPERM, KLOOP_ERROR_RING_DENIED },
	{ -EACCES, KLOOP_ERROR_RING_DENIED },
	{ -ENOSYS, KLOOP_ERROR_RING_MISSING },
	{ -EINVAL, KLOOP_ERROR_RING_TOO_OLD },
	{ -ENOMEM, -ENOMEM },
	{ -EMFILE, -EMFILE },
	{ -ENFILE, -ENFILE },
};

START_TEST(each_answer_has_its_code)
{
	struct kloop_loop *loop = (void *)&calls;
	int before = kt_fd_count();

	kt_fake.setup_error = answers[_i].kernel;
	ck_assert_int_eq(kloop_loop_new(NULL, &loop), answers[_i].expected);
	ck_assert_ptr_eq(loop, &calls); /* outputs are untouched on failure */
	if (answers[_i].kernel != -EINVAL)
		ck_assert_int_eq(kt_fake.setup_calls, 1);
	ck_assert_int_eq(kt_fd_count(), before);
}
END_TEST

START_TEST(too_old_is_told)
{
	static const unsigned needed[] = { IORING_FEAT_EXT_ARG, IORING_FEAT_NODROP };
	struct kloop_loop *loop = NULL;
	int before = kt_fd_count();

	kt_fake.withheld_features = needed[_i];
	ck_assert_int_eq(kloop_loop_new(NULL, &loop), KLOOP_ERROR_RING_TOO_OLD);
	ck_assert_ptr_null(loop);
	ck_assert_int_eq(kt_fd_count(), before);
}
END_TEST

START_TEST(switched_off)
{
	struct kloop_loop *loop = NULL;

	ck_assert_int_eq(setenv("KLOOP_IO_URING", "0", 1), 0);
	ck_assert_int_eq(kloop_loop_new(NULL, &loop), KLOOP_ERROR_RING_OFF);
	ck_assert_ptr_null(loop);
	ck_assert_int_eq(kt_fake.setup_calls, 0);
	ck_assert_int_eq(kt_fake.eventfd_calls, 0);

	ck_assert_int_eq(setenv("KLOOP_IO_URING", "1", 1), 0);
	kt_loop_free(kt_loop_new(NULL));
	ck_assert_int_eq(setenv("KLOOP_IO_URING", "", 1), 0);
	kt_loop_free(kt_loop_new(NULL));
}
END_TEST

START_TEST(no_descriptor_for_wakes)
{
	struct kloop_loop *loop = NULL;
	int before = kt_fd_count();

	kt_fake.eventfd_error = -EMFILE;
	ck_assert_int_eq(kloop_loop_new(NULL, &loop), -EMFILE);
	ck_assert_ptr_null(loop);
	ck_assert_int_eq(kt_fd_count(), before);
}
END_TEST

START_TEST(few_descriptors)
{
	struct kloop_loop *loop = NULL;
	int before = kt_fd_count();
	int lowest = dup(1);
	struct rlimit former;
	int granted = 0;
	int r = -EMFILE;

	kt_close(lowest);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &former), 0);
	/* One more each time until it is enough: clear error, nothing left behind. */
	while (r == -EMFILE) {
		struct rlimit limit = { (rlim_t)(lowest + granted), former.rlim_max };

		ck_assert_int_lt(granted, 16);
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
		r = kloop_loop_new(NULL, &loop);
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &former), 0);
		if (r == 0)
			break;
		ck_assert_int_eq(r, -EMFILE);
		ck_assert_int_eq(kt_fd_count(), before);
		granted++;
	}
	ck_assert_int_eq(r, 0);
	ck_assert_int_ge(granted, 1);
	use(loop);
	kt_loop_free(loop);
}
END_TEST

START_TEST(enabling_fails)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_op op;

	if (!(kloop_loop_get_features(loop) & KLOOP_FEATURE_SINGLE_ISSUER)) {
		kt_loop_free(loop);
		return;
	}
	kt_op_init(&op);
	KT_ACCEPTED(kloop_op_nop(loop, &op.op));
	kt_fake.register_error = -EPERM;
	ck_assert_int_lt(kloop_loop_turn(loop, 0), 0);
	ck_assert_int_eq(op.completions, 0);
	ck_assert_int_eq(kloop_loop_free(loop), 0);
	ck_assert_int_eq(op.last, 1); /* promise 1, even so */
}
END_TEST

/* ---- submissions that fail -------------------------------------------- */

START_TEST(passing_errors_lose_nothing)
{
	static const int errors[] = { -EAGAIN, -EBUSY, -EINTR };
	struct kloop_loop *loop = kt_loop_on_rung(_i);

	for (size_t i = 0; i < KT_COUNT(errors); i++) {
		struct kt_op ops[20];

		for (size_t j = 0; j < KT_COUNT(ops); j++) {
			kt_op_init(&ops[j]);
			KT_ACCEPTED(kloop_op_nop(loop, &ops[j].op));
		}
		kt_fake.submit_error = errors[i];
		kt_fake.submit_failures = 5;
		for (size_t j = 0; j < KT_COUNT(ops); j++)
			ck_assert_int_eq(kt_op_wait(loop, &ops[j]), 0);
		ck_assert_int_eq(kt_fake.submit_failures, 0);
	}
	use(loop);
	kt_loop_free(loop);
}
END_TEST

START_TEST(final_errors_are_told_and_end)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_op op, later;
	int fds[2];

	kt_pipe(fds);
	kt_op_init(&op);
	kt_op_init(&later);
	KT_ACCEPTED(kloop_op_poll(loop, &op.op, fds[0], 1));
	kt_turn(loop, 0);
	KT_ACCEPTED(kloop_op_nop(loop, &later.op));
	kt_fake.submit_error = -EBADR;
	kt_fake.submit_failures = -1;
	ck_assert_int_eq(kloop_loop_turn(loop, 100 * KT_MS), -EBADR);
	ck_assert_int_eq(kloop_loop_run(loop), -EBADR);
	/* Nothing reaches the kernel any more; the end must come, and complete all. */
	kt_loop_free(loop);
	ck_assert_int_eq(op.last, 1);
	ck_assert_int_eq(op.result, -ECANCELED);
	ck_assert_int_eq(later.last, 1);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

static void never(struct kloop_child *watcher, pid_t pid, int status, void *data)
{
	(void)watcher;
	(void)pid;
	(void)status;
	(void)data;
	ck_abort_msg("called for a watcher that was refused");
}

START_TEST(no_pidfd)
{
	static const int errors[] = { -ENOSYS, -EMFILE, -ENOMEM, -EPERM };
	struct kloop_child *watcher = NULL;
	struct kloop_loop *loop;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(0);
	loop = kt_loop_new(NULL);
	for (size_t i = 0; i < KT_COUNT(errors); i++) {
		kt_fake.pidfd_error = errors[i];
		ck_assert_int_eq(kloop_child_new(loop, pid, never, NULL, &watcher), errors[i]);
		ck_assert_ptr_null(watcher);
	}
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	kt_loop_free(loop);
}
END_TEST

/* ---- a real filter ---------------------------------------------------- */

static void filter_io_uring_setup(unsigned action)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { KT_COUNT(code), code };

	KT_CHILD_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	KT_CHILD_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

struct denial {
	unsigned action;
	int expected;
};

static int under_filter(void *data)
{
	const struct denial *denial = data;
	struct kloop_loop *loop = NULL;

	filter_io_uring_setup(denial->action);
	KT_CHILD_CHECK(kloop_loop_new(NULL, &loop) == denial->expected);
	KT_CHILD_CHECK(loop == NULL);
	KT_CHILD_CHECK(kt_fault_blocks() == 0);
	return 0;
}

START_TEST(seccomp_denies)
{
	struct denial denied = { SECCOMP_RET_ERRNO | EPERM, KLOOP_ERROR_RING_DENIED };
	struct denial missing = { SECCOMP_RET_ERRNO | ENOSYS, KLOOP_ERROR_RING_MISSING };
	struct denial deadly = { SECCOMP_RET_KILL_PROCESS, KLOOP_ERROR_RING_OFF };
	int status;

	kt_fork_ok(under_filter, &denied);
	kt_fork_ok(under_filter, &missing);

	/* Where the call kills, the variable is the way out; and without it the call does kill. */
	status = kt_fork(under_filter, &deadly);
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), SIGSYS);
	ck_assert_int_eq(setenv("KLOOP_IO_URING", "0", 1), 0);
	kt_fork_ok(under_filter, &deadly);
}
END_TEST

static Suite *setup_suite(void)
{
	Suite *suite = suite_create("setup");
	TCase *rungs = kt_case(suite, "ladder", 20);
	TCase *refusals = kt_case(suite, "refusals", 20);

	tcase_add_checked_fixture(rungs, setup, teardown);
	tcase_add_loop_test(rungs, each_rung_works, 0, KT_COUNT(ladder));
	tcase_add_loop_test(rungs, each_rung_can_be_chosen, 0, 8);
	tcase_add_loop_test(rungs, sqpoll_has_its_own_ladder, 0, 2);
	tcase_add_test(rungs, sqpoll_on_no_processor);
	tcase_add_test(rungs, small_features_may_be_missing);
	tcase_add_loop_test(rungs, passing_errors_lose_nothing, 0, KT_RUNGS);

	tcase_add_checked_fixture(refusals, setup, teardown);
	tcase_add_loop_test(refusals, each_answer_has_its_code, 0, KT_COUNT(answers));
	tcase_add_loop_test(refusals, too_old_is_told, 0, 2);
	tcase_add_test(refusals, switched_off);
	tcase_add_test(refusals, no_descriptor_for_wakes);
	tcase_add_test(refusals, few_descriptors);
	tcase_add_test(refusals, enabling_fails);
	tcase_add_test(refusals, final_errors_are_told_and_end);
	tcase_add_test(refusals, no_pidfd);
	tcase_add_test(refusals, seccomp_denies);
	return suite;
}

int main(void)
{
	return kt_main(setup_suite());
}
