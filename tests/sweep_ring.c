/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Faults in what the ring offers: operations, timers, calls, signals, children, pools; and kloop/info.h. */
#include "sweep.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define OPS 12
#define TIMERS 40

static struct {
	struct kloop_loop *loop;
	int fds[2], sockets[2];
	pid_t pid;
	struct kt_op nops[OPS], polls[OPS], read, write, receive, never;
	bool accepted[2 * OPS + 4];
	struct kt_timer timers[TIMERS];
	bool started[TIMERS];
	struct kloop_call call;
	struct kloop_pool *pool;
	struct kloop_signal *signal;
	struct kloop_child *child;
	char in[8];
	int called, signalled, reaped, received;
	bool child_made;
} w;

static void on_call(struct kloop_call *call)
{
	(void)call;
	w.called++;
}

static void on_signal(struct kloop_signal *watcher, int number, void *data)
{
	(void)watcher;
	(void)data;
	KT_HOLDS(number == SIGUSR1);
	w.signalled++;
}

static void on_child(struct kloop_child *watcher, pid_t pid, int status, void *data)
{
	(void)data;
	KT_HOLDS(watcher == w.child && pid == w.pid);
	KT_HOLDS(status < 0 ? kt_sweep_happened() : WIFEXITED(status));
	w.child = NULL;
	w.reaped++;
}

static void on_receive(struct kt_op *op)
{
	unsigned id;
	void *buffer;

	if (kloop_pool_get(w.pool, op->flags, &buffer, &id) == 0) {
		KT_HOLDS(op->result > 0 && memcmp(buffer, "abc", (size_t)op->result) == 0);
		w.received += op->result;
		kloop_pool_give(w.pool, id);
	}
}

/* Was it accepted? If not, the fault must be the reason. */
static void submit(void)
{
	bool *accepted = w.accepted;

	for (int i = 0; i < OPS; i++) {
		kt_op_init(&w.nops[i]);
		kt_op_init(&w.polls[i]);
		*accepted++ = kt_took(KT_SUBMIT(kloop_op_nop(w.loop, &w.nops[i].op)));
		*accepted++ = kt_took(
			KT_SUBMIT(kloop_op_poll(w.loop, &w.polls[i].op, w.fds[0], POLLIN)));
	}
	kt_op_init(&w.read);
	kt_op_init(&w.write);
	kt_op_init(&w.never);
	*accepted++ = kt_took(
		KT_SUBMIT(kloop_op_write(w.loop, &w.write.op, w.fds[1], "xyz", 3, UINT64_MAX)));
	*accepted++ = kt_took(KT_SUBMIT(
		kloop_op_read(w.loop, &w.read.op, w.fds[0], w.in, sizeof(w.in), UINT64_MAX)));
	/* It has to be cancelled: nobody writes there. */
	*accepted++ = kt_took(KT_SUBMIT(kloop_op_poll(w.loop, &w.never.op, w.sockets[1], POLLIN)));
	for (int i = 0; i < TIMERS; i++) {
		kt_timer_init(&w.timers[i]);
		w.started[i] = kt_took(kloop_timer_start(w.loop, &w.timers[i].timer,
							 kloop_now() + (uint64_t)i * 10000));
	}
}

static void watch(void)
{
	w.call.call = on_call;
	kt_took(kloop_loop_post(w.loop, &w.call));
	kt_op_init(&w.receive);
	w.receive.then = on_receive;
	if (kloop_loop_get_features(w.loop) & KLOOP_FEATURE_RECV_MULTISHOT &&
	    kt_took(kloop_pool_new(w.loop, 4, 256, &w.pool)))
		w.accepted[2 * OPS + 3] =
			kt_took(KT_SUBMIT(kloop_op_recv_multishot(w.loop, &w.receive.op,
								  w.sockets[0], w.pool)));
	if (kt_took(kloop_signal_new(w.loop, SIGUSR1, on_signal, NULL, &w.signal)))
		KT_PLAIN(raise(SIGUSR1));
	w.child_made = kt_has_pidfd() &&
		       kt_took(kloop_child_new(w.loop, w.pid, on_child, NULL, &w.child));
}

/* All of what was accepted but for what cannot end by itself. */
static bool is_done(void *data)
{
	(void)data;
	for (int i = 0; i < OPS; i++)
		if (w.nops[i].last != w.accepted[2 * i] || w.polls[i].last < w.accepted[2 * i + 1])
			return false;
	for (int i = 0; i < TIMERS; i++)
		if (w.timers[i].fired != w.started[i])
			return false;
	if (w.write.last != w.accepted[2 * OPS] || (w.signal && !w.signalled) ||
	    (w.child_made && !w.reaped) || !w.called)
		return false;
	/* The poller may have nothing to see, and the reader nothing to read. */
	return !w.accepted[2 * OPS + 3] || w.receive.last || w.received == 3;
}

static bool is_quiet(void *data)
{
	(void)data;
	return !kloop_op_is_active(&w.receive.op) && !kloop_op_is_active(&w.never.op);
}

/* A pool may be freed only when nothing uses it; without memory a cancel may have to wait. */
static void end_receive(void)
{
	bool receives = w.pool && kloop_op_is_active(&w.receive.op);
	bool waits = w.accepted[2 * OPS + 2];

	for (int i = 0; i < 1000 && (receives || waits); i++) {
		if (receives)
			receives = kloop_op_cancel(&w.receive.op) == -ENOMEM;
		if (waits)
			waits = kloop_op_cancel(&w.never.op) == -ENOMEM;
		kt_sweep_turns(w.loop, 1);
	}
	KT_HOLDS(!receives && !waits);
	kt_sweep_until(w.loop, is_quiet, NULL);
	kloop_pool_free(w.pool);
}

static void check_end(void)
{
	for (int i = 0; i < OPS; i++) {
		KT_HOLDS(w.nops[i].last == w.accepted[2 * i]);
		KT_HOLDS(w.polls[i].last == w.accepted[2 * i + 1]);
	}
	KT_HOLDS(w.write.last == w.accepted[2 * OPS]);
	KT_HOLDS(w.read.last == w.accepted[2 * OPS + 1]);
	KT_HOLDS(w.never.last == w.accepted[2 * OPS + 2]);
	KT_HOLDS(w.receive.last == w.accepted[2 * OPS + 3]);
	KT_HOLDS(w.called == 1 && w.reaped == w.child_made);
	for (int i = 0; i < TIMERS; i++)
		KT_HOLDS(w.timers[i].fired == w.started[i]);
}

static void live(void)
{
	submit();
	watch();
	KT_PLAIN(ck_assert_int_eq(write(w.sockets[1], "abc", 3), 3));
	kt_sweep_until(w.loop, is_done, NULL);
	end_receive();
	kloop_signal_free(w.signal);
	KT_HOLDS(kloop_loop_free(w.loop) == 0);
	check_end();
}

static void ring(int mode)
{
	kt_sweep_pause();
	memset(&w, 0, sizeof(w));
	kt_pipe(w.fds);
	kt_socketpair(w.sockets);
	/* So that no poll waits for a write that the fault took away. */
	ck_assert_int_eq(write(w.fds[1], "w", 1), 1);
	w.pid = fork();
	ck_assert_int_ge(w.pid, 0);
	if (w.pid == 0)
		_exit(3);
	kt_sweep_resume();

	w.loop = kt_sweep_loop(mode);
	if (w.loop)
		live();

	kt_sweep_pause();
	waitpid(w.pid, NULL, 0); /* if nobody reaped it */
	for (int i = 0; i < 2; i++) {
		kt_close(w.fds[i]);
		kt_close(w.sockets[i]);
	}
	kt_sweep_resume();
}

/* kloop-info(1)'s facts: what cannot be found out is left out. */
static void info(int mode)
{
	struct kloop_info *info = NULL;
	int r = kloop_info_new(&info);

	(void)mode;
	if (kt_took(r)) {
		KT_HOLDS(kloop_info_get_count(info) > 5);
		KT_HOLDS(kloop_info_get_usable(info) == 0 || kt_sweep_happened());
	}
	kloop_info_free(info);
}

START_TEST(sweep_ring)
{
	kt_sweep("ring", ring, _i);
}
END_TEST

START_TEST(sweep_info)
{
	kt_sweep("info", info, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("sweep_ring");

	tcase_add_loop_test(kt_case(suite, "ring", 1200), sweep_ring, 0, KT_SWEEP_MODES);
	tcase_add_test(kt_case(suite, "info", 1200), sweep_info);
	return kt_main(suite);
}
