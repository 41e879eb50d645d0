/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Child watchers: each way in which a process ends, and each way in which watching does. */
#include "support.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct seen {
	struct kloop_child *watcher;
	pid_t pid;
	int status;
	int count;
	int *total;
};

static void on_end(struct kloop_child *watcher, pid_t pid, int status, void *data)
{
	struct seen *seen = data;

	ck_assert_ptr_eq(watcher, seen->watcher);
	ck_assert_int_eq(pid, seen->pid);
	seen->status = status;
	seen->count++;
	if (seen->total)
		++*seen->total;
}

/* A child that waits until its pipe is closed, or not at all, and then ends. */
static pid_t start(int wait_fd, int exit_code, int signal_number)
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		char byte;

		if (wait_fd >= 0)
			(void)!read(wait_fd, &byte, 1);
		if (signal_number) {
			signal(signal_number, SIG_DFL); /* Check has handlers of its own */
			raise(signal_number);
		}
		_exit(exit_code);
	}
	return pid;
}

static void watch(struct kloop_loop *loop, struct seen *seen, pid_t pid)
{
	memset(seen, 0, sizeof(*seen));
	seen->pid = pid;
	ck_assert_int_eq(KT_SUBMIT(kloop_child_new(loop, pid, on_end, seen, &seen->watcher)), 0);
}

START_TEST(exit_codes)
{
	static const int codes[] = { 0, 1, 42, 127, 255 };
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	int before = kt_fd_count();

	for (size_t i = 0; i < KT_COUNT(codes); i++) {
		struct seen seen;

		watch(loop, &seen, start(-1, codes[i], 0));
		kt_turn_until(loop, &seen.count, 1);
		ck_assert(WIFEXITED(seen.status));
		ck_assert_int_eq(WEXITSTATUS(seen.status), codes[i]);
		/* It is reaped: there is no such child any more. */
		ck_assert_int_eq(waitpid(seen.pid, NULL, WNOHANG), -1);
		ck_assert_int_eq(errno, ECHILD);
	}
	ck_assert_int_eq(kt_fd_count(), before);
	kt_loop_free(loop);
}
END_TEST

START_TEST(signals)
{
	static const int numbers[] = { SIGKILL, SIGTERM, SIGUSR1 };
	struct kloop_loop *loop = kt_loop_new(NULL);

	for (size_t i = 0; i < KT_COUNT(numbers); i++) {
		struct seen seen;

		watch(loop, &seen, start(-1, 0, numbers[i]));
		kt_turn_until(loop, &seen.count, 1);
		ck_assert(WIFSIGNALED(seen.status));
		ck_assert_int_eq(WTERMSIG(seen.status), numbers[i]);
	}
	kt_loop_free(loop);
}
END_TEST

START_TEST(ended_before_it_was_watched)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	pid_t pid = start(-1, 7, 0);
	struct seen seen;
	siginfo_t info;

	ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	watch(loop, &seen, pid);
	ck_assert_int_eq(seen.count, 0);
	kt_turn_until(loop, &seen.count, 1);
	ck_assert_int_eq(WEXITSTATUS(seen.status), 7);
	kt_loop_free(loop);
}
END_TEST

START_TEST(a_stop_is_no_end)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	int fds[2];
	struct seen seen;

	kt_pipe(fds);
	watch(loop, &seen, start(fds[0], 3, 0));
	ck_assert_int_eq(kill(seen.pid, SIGSTOP), 0);
	kt_turn_for(loop, 20);
	ck_assert_int_eq(kill(seen.pid, SIGCONT), 0);
	kt_turn_for(loop, 20);
	ck_assert_int_eq(seen.count, 0);
	ck_assert_int_eq(kill(seen.pid, SIGKILL), 0);
	kt_turn_until(loop, &seen.count, 1);
	ck_assert_int_eq(WTERMSIG(seen.status), SIGKILL);
	kt_loop_free(loop);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

START_TEST(two_hundred_at_once)
{
	static struct seen seen[200];
	struct kloop_loop *loop = kt_loop_new(NULL);
	int before = kt_fd_count();
	int total = 0;
	int fds[2];

	kt_pipe(fds);
	for (int i = 0; i < 200; i++) {
		pid_t pid = fork();

		ck_assert_int_ge(pid, 0);
		if (pid == 0) {
			char byte;

			close(fds[1]);
			(void)!read(fds[0], &byte, 1);
			_exit(i);
		}
		watch(loop, &seen[i], pid);
		seen[i].total = &total;
	}
	kt_close(fds[1]); /* all of them end now */
	kt_turn_until(loop, &total, 200);
	for (int i = 0; i < 200; i++) {
		ck_assert_int_eq(seen[i].count, 1);
		ck_assert_int_eq(WEXITSTATUS(seen[i].status), i);
	}
	kt_close(fds[0]);
	ck_assert_int_eq(kt_fd_count(), before);
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
	kt_loop_free(loop);
}
END_TEST

START_TEST(somebody_else_reaps)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	int fds[2];
	struct seen seen;
	int status;

	kt_pipe(fds);
	watch(loop, &seen, start(fds[0], 9, 0));
	kt_turn(loop, 0);
	ck_assert_int_eq(kill(seen.pid, SIGKILL), 0);
	ck_assert_int_eq(waitpid(seen.pid, &status, 0), seen.pid);
	kt_turn_until(loop, &seen.count, 1);
	ck_assert_int_eq(seen.status, -ECHILD);
	kt_close(fds[0]);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

START_TEST(freed_before_the_end)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	int before = kt_fd_count();
	struct seen seen;
	int fds[2];
	int status;

	kt_pipe(fds);
	for (int turned = 0; turned < 2; turned++) {
		watch(loop, &seen, start(fds[0], 0, SIGTERM));
		if (turned)
			kt_turn(loop, 0);
		kloop_child_free(seen.watcher);
		kt_turn_for(loop, 10);
		ck_assert_int_eq(seen.count, 0);
		ck_assert_uint_eq(KT_STAT(loop, in_flight), 0);
		/* The child is not reaped: it is still ours. */
		ck_assert_int_eq(kill(seen.pid, SIGKILL), 0);
		ck_assert_int_eq(waitpid(seen.pid, &status, 0), seen.pid);
		ck_assert_int_eq(WTERMSIG(status), SIGKILL);
	}
	kt_close(fds[0]);
	kt_close(fds[1]);
	ck_assert_int_eq(kt_fd_count(), before);
	kloop_child_free(NULL);
	kt_loop_free(loop);
}
END_TEST

START_TEST(freed_when_it_has_ended_already)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct seen seen;
	siginfo_t info;
	int fds[2];

	/* The kernel has the news, the loop has not looked yet: still nothing is called or reaped. */
	kt_pipe(fds);
	watch(loop, &seen, start(fds[0], 5, 0));
	kt_turn(loop, 0);
	ck_assert_int_eq(write(fds[1], "x", 1), 1);
	ck_assert_int_eq(waitid(P_PID, (id_t)seen.pid, &info, WEXITED | WNOWAIT), 0);
	kloop_child_free(seen.watcher);
	kt_turn_for(loop, 10);
	ck_assert_int_eq(seen.count, 0);
	ck_assert_uint_eq(KT_STAT(loop, in_flight), 0);
	ck_assert_int_eq(waitpid(seen.pid, NULL, 0), seen.pid);
	kt_close(fds[0]);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

START_TEST(the_loop_ends_first)
{
	int before = kt_fd_count();
	struct seen seen[3];
	int fds[2];

	kt_pipe(fds);
	for (int turned = 0; turned < 2; turned++) {
		struct kloop_loop *loop = kt_loop_new(NULL);

		for (size_t i = 0; i < KT_COUNT(seen); i++)
			watch(loop, &seen[i], start(fds[0], 0, 0));
		if (turned)
			kt_turn(loop, 0);
		kt_loop_free(loop);
		for (size_t i = 0; i < KT_COUNT(seen); i++) {
			ck_assert_int_eq(seen[i].count, 1);
			ck_assert_int_eq(seen[i].status, -ECANCELED);
			ck_assert_int_eq(kill(seen[i].pid, SIGKILL), 0);
			ck_assert_int_eq(waitpid(seen[i].pid, NULL, 0), seen[i].pid);
		}
	}
	kt_close(fds[0]);
	kt_close(fds[1]);
	ck_assert_int_eq(kt_fd_count(), before);
}
END_TEST

START_TEST(run_waits_for_the_child)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct seen seen;

	watch(loop, &seen, start(-1, 11, 0));
	ck_assert_int_eq(kloop_loop_run(loop), 0);
	ck_assert_int_eq(seen.count, 1);
	ck_assert_int_eq(WEXITSTATUS(seen.status), 11);
	kt_loop_free(loop);
}
END_TEST

struct respawn {
	struct kloop_loop *loop;
	struct kloop_child *watcher;
	int count;
};

static void start_another(struct kloop_child *watcher, pid_t pid, int status, void *data)
{
	struct respawn *respawn = data;

	(void)watcher;
	(void)pid;
	ck_assert_int_eq(WEXITSTATUS(status), respawn->count);
	if (++respawn->count == 10)
		return;
	ck_assert_int_eq(kloop_child_new(respawn->loop, start(-1, respawn->count, 0), start_another,
					 respawn, &respawn->watcher),
			 0);
}

START_TEST(one_after_another)
{
	struct respawn respawn = { .loop = kt_loop_new(NULL) };

	ck_assert_int_eq(kloop_child_new(respawn.loop, start(-1, 0, 0), start_another, &respawn,
					 &respawn.watcher),
			 0);
	kt_turn_until(respawn.loop, &respawn.count, 10);
	kt_loop_free(respawn.loop);
}
END_TEST

START_TEST(refusals)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_child *watcher = NULL;
	int before = kt_fd_count();
	pid_t gone = start(-1, 0, 0);

	ck_assert_int_eq(waitpid(gone, NULL, 0), gone);
	ck_assert_int_eq(kloop_child_new(loop, gone, on_end, NULL, &watcher), -ESRCH);
	ck_assert_int_eq(kloop_child_new(loop, getppid(), on_end, NULL, &watcher), -ECHILD);
	ck_assert_int_eq(kloop_child_new(loop, getpid(), on_end, NULL, &watcher), -ECHILD);
	ck_assert_int_eq(kloop_child_new(loop, 0, on_end, NULL, &watcher), -EINVAL);
	ck_assert_int_eq(kloop_child_new(loop, -1, on_end, NULL, &watcher), -EINVAL);
	ck_assert_int_eq(kloop_child_new(loop, gone, NULL, NULL, &watcher), -EINVAL);
	ck_assert_int_eq(kloop_child_new(loop, gone, on_end, NULL, NULL), -EINVAL);
	ck_assert_int_eq(kloop_child_new(NULL, gone, on_end, NULL, &watcher), -EINVAL);
	ck_assert_ptr_null(watcher);
	ck_assert_int_eq(kt_fd_count(), before);
	ck_assert_uint_eq(KT_STAT(loop, in_flight), 0);
	kt_loop_free(loop);
}
END_TEST

static Suite *child_suite(void)
{
	Suite *suite = suite_create("child");
	TCase *ends = kt_case(suite, "ends", 40);
	TCase *life = kt_case(suite, "life", 20);

	tcase_add_loop_test(ends, exit_codes, 0, KT_RUNGS);
	tcase_add_test(ends, signals);
	tcase_add_test(ends, ended_before_it_was_watched);
	tcase_add_test(ends, a_stop_is_no_end);
	tcase_add_test(ends, two_hundred_at_once);
	tcase_add_test(ends, somebody_else_reaps);
	tcase_add_test(ends, one_after_another);

	tcase_add_test(life, freed_before_the_end);
	tcase_add_test(life, freed_when_it_has_ended_already);
	tcase_add_test(life, the_loop_ends_first);
	tcase_add_test(life, run_waits_for_the_child);
	tcase_add_test(life, refusals);
	return suite;
}

int main(void)
{
	if (!kt_has_pidfd()) {
		puts("pidfd_open(2) is refused here: this valgrind does not know it");
		return 77;
	}
	return kt_main(child_suite());
}
