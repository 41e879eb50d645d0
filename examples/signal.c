/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Signals: a program that ends cleanly on SIGTERM. It sends the signal to
 * itself after a moment, so that there is something to see.
 */
#include <kloop.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static struct kloop_loop *loop;

/* On the loop's thread, in a turn: every function may be called, unlike in a handler. */
static void on_signal(struct kloop_signal *watcher, int signal_number, void *data)
{
	const char *what = data;

	printf("%s: signal %d\n", what, signal_number);
	/* The handler that was there before is put back. */
	kloop_signal_free(watcher);
	kloop_loop_stop(loop);
}

static void on_timer(struct kloop_timer *timer)
{
	(void)timer;
	kill(getpid(), SIGTERM);
}

int main(void)
{
	struct kloop_signal *watcher;
	struct kloop_timer timer;
	int error = kloop_loop_new(NULL, &loop);

	if (error == 0)
		error = kloop_signal_new(loop, SIGTERM, on_signal, "asked to end", &watcher);
	kloop_timer_init(&timer, on_timer);
	if (error == 0)
		error = kloop_timer_start(loop, &timer, kloop_now() + 50000000);
	if (error == 0)
		error = kloop_loop_run(loop);
	if (error < 0)
		fprintf(stderr, "%s\n", kloop_strerror(error));
	kloop_loop_free(loop);
	return error < 0;
}
