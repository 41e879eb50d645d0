/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Several threads: loops side by side, calls into a loop from many, signals to
 * all. These run under ThreadSanitizer as well ("make check-tsan").
 */
#include "dns.h"
#include "streams.h"

#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define THREADS 4

/* ---- calls from many threads ------------------------------------------ */

#define CALLS 300

struct poster {
	struct kloop_loop *loop;
	struct kt_counted_call calls[CALLS];
	int *called;
	int refused;
};

static void *post_all(void *data)
{
	struct poster *poster = data;

	for (int i = 0; i < CALLS; i++) {
		kt_counted_call_init(&poster->calls[i], poster->called);
		poster->refused += kloop_loop_post(poster->loop, &poster->calls[i].call) < 0;
		poster->refused += kloop_loop_get_features(poster->loop) == 0;
		if (i % 10 == 0)
			poster->refused += kloop_loop_wake(poster->loop) < 0;
	}
	return NULL;
}

START_TEST(calls_from_many)
{
	static struct poster posters[THREADS];
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	pthread_t threads[THREADS];
	int called = 0;

	for (int i = 0; i < THREADS; i++) {
		memset(&posters[i], 0, sizeof(posters[i]));
		posters[i].loop = loop;
		posters[i].called = &called;
		threads[i] = kt_thread(post_all, &posters[i]);
	}
	kt_turn_until(loop, &called, THREADS * CALLS);
	for (int i = 0; i < THREADS; i++) {
		kt_join(threads[i]);
		ck_assert_int_eq(posters[i].refused, 0);
	}
	ck_assert_int_eq(called, THREADS * CALLS);
	kt_loop_free(loop);
}
END_TEST

/* ---- a loop that goes from thread to thread --------------------------- */

static void *run_for_a_while(void *data)
{
	struct kloop_loop *loop = data;

	for (int i = 0; i < 20; i++)
		kt_turn(loop, KT_MS / 10);
	return NULL;
}

/* Others post to it, and ask what it can do, while it changes hands. */
START_TEST(handed_around)
{
	static struct poster poster;
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	pthread_t thread;
	int called = 0;

	memset(&poster, 0, sizeof(poster));
	poster.loop = loop;
	poster.called = &called;
	thread = kt_thread(post_all, &poster);
	for (int i = 0; i < 5; i++)
		kt_on_thread(run_for_a_while, loop);
	kt_turn_until(loop, &called, CALLS);
	kt_join(thread);
	ck_assert_int_eq(poster.refused, 0);
	kt_loop_free(loop);
}
END_TEST

/* ---- loops side by side ----------------------------------------------- */

#define BYTES 200000

struct side {
	int failures;
};

struct ends {
	struct kloop_stream *streams[2];
	size_t received;
	int closed, found;
};

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	struct ends *ends = user;

	(void)stream;
	(void)data;
	ends->received += bytes;
}

static void on_eof(struct kloop_stream *stream, void *user)
{
	(void)user;
	kloop_stream_close(stream);
}

static void on_close(struct kloop_stream *stream, void *user)
{
	(void)stream;
	((struct ends *)user)->closed++;
}

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_data = on_data,
	.on_eof = on_eof,
	.on_close = on_close,
};

struct name {
	struct kloop_lookup lookup; /* first */
	int done, result;
};

static void on_found(struct kloop_lookup *lookup, int result, struct kloop_addresses *addresses)
{
	struct name *name = (struct name *)lookup;

	kloop_addresses_free(addresses);
	name->result = result;
	name->done++;
}

static bool converse(struct kloop_loop *loop)
{
	static const char data[BYTES];
	struct ends ends = { .closed = 0 };
	uint64_t end = kloop_now() + KT_PATIENCE_MS * KT_MS;
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return false;
	for (int i = 0; i < 2; i++)
		if (kloop_stream_new(loop, fds[i], 0, &handlers, &ends, &ends.streams[i]) < 0)
			return false;
	if (kloop_stream_start_read(ends.streams[1]) < 0 ||
	    kloop_stream_write(ends.streams[0], data, BYTES, NULL, NULL) < 0)
		return false;
	kloop_stream_close(ends.streams[0]);
	while (ends.closed < 2 && kloop_now() < end)
		if (kloop_loop_turn(loop, 50 * KT_MS) < 0)
			return false;
	return ends.received == BYTES && ends.closed == 2;
}

/* By the numbers alone: no server is asked, no file of the machine is needed. */
static bool look_up(struct kloop_loop *loop)
{
	uint64_t end = kloop_now() + KT_PATIENCE_MS * KT_MS;
	struct kloop_resolver *resolver;
	struct name name = { .done = 0 };

	if (kloop_resolver_new(loop, NULL, &resolver) < 0)
		return false;
	kloop_lookup_init(&name.lookup);
	if (kloop_resolver_getaddrinfo(resolver, &name.lookup, "192.0.2.1", "80", NULL, on_found) < 0)
		return false;
	while (!name.done && kloop_now() < end)
		if (kloop_loop_turn(loop, 50 * KT_MS) < 0)
			return false;
	kloop_resolver_close(resolver);
	return name.done == 1 && name.result == 0;
}

static void *live(void *data)
{
	struct side *side = data;
	struct kloop_loop *loop;

	for (int i = 0; i < 5; i++) {
		if (kloop_loop_new(NULL, &loop) < 0) {
			side->failures++;
			return NULL;
		}
		side->failures += !converse(loop) + !look_up(loop);
		side->failures += kloop_loop_free(loop) != 0;
	}
	return NULL;
}

START_TEST(side_by_side)
{
	struct side sides[THREADS] = { { 0 } };
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		threads[i] = kt_thread(live, &sides[i]);
	for (int i = 0; i < THREADS; i++) {
		kt_join(threads[i]);
		ck_assert_int_eq(sides[i].failures, 0);
	}
}
END_TEST

/* ---- signals ---------------------------------------------------------- */

struct listener {
	struct kloop_signal *watcher;
	int heard, failures;
};

static void on_signal(struct kloop_signal *watcher, int number, void *data)
{
	(void)watcher;
	(void)number;
	((struct listener *)data)->heard++;
}

/* Watch, hear a signal, stop; while the others do the same. */
static void *listen_for(void *data)
{
	struct listener *listener = data;
	uint64_t end = kloop_now() + KT_PATIENCE_MS * KT_MS;
	struct kloop_loop *loop;

	if (kloop_loop_new(NULL, &loop) < 0) {
		listener->failures++;
		return NULL;
	}
	for (int i = 0; i < 10; i++) {
		int before = listener->heard;

		if (kloop_signal_new(loop, SIGUSR2, on_signal, listener, &listener->watcher) < 0) {
			listener->failures++;
			break;
		}
		raise(SIGUSR2);
		while (listener->heard == before && kloop_now() < end)
			if (kloop_loop_turn(loop, 10 * KT_MS) < 0)
				continue; /* a signal of another thread */
		listener->failures += listener->heard == before;
		kloop_signal_free(listener->watcher);
	}
	listener->failures += kloop_loop_free(loop) != 0;
	return NULL;
}

START_TEST(signals_to_all)
{
	struct listener listeners[THREADS] = { { 0 } };
	pthread_t threads[THREADS];

	/* Between two watchers the signal must not end the process. */
	signal(SIGUSR2, SIG_IGN);
	for (int i = 0; i < THREADS; i++)
		threads[i] = kt_thread(listen_for, &listeners[i]);
	for (int i = 0; i < THREADS; i++) {
		kt_join(threads[i]);
		ck_assert_int_eq(listeners[i].failures, 0);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("threads");
	TCase *tcase = kt_case(suite, "threads", 120);

	kt_add_sleeping_test(tcase, calls_from_many, 0, KT_RUNGS);
	kt_add_sleeping_test(tcase, handed_around, 0, KT_RUNGS);
	kt_add_sleeping_test(tcase, side_by_side, 0, 1);
	kt_add_sleeping_test(tcase, signals_to_all, 0, 1);
	return kt_main(suite);
}
