/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Fixed loads of libkloop for guard.py, which counts what they cost.
 *
 * Everything is in one process and one thread, over socket pairs: what happens
 * in a turn does not depend on the time. Each load is repeated, and each
 * repetition prints "NAME OPERATIONS ALLOCATIONS ENTERS".
 */
#include "mark.h"

#include <kloop.h>

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS 32
#define MESSAGE_BYTES 1024
#define TIMERS 100
#define WARM_UP 200
#define REPETITIONS 3

struct connection {
	struct kloop_stream *stream;
	int client; /* the other end, by plain system calls */
	size_t echoed;
};

/* Of libguard.so, which is preloaded, as it is for Python. */
static typeof(kl_guard_begin) *guard_begin;
static typeof(kl_guard_end) *guard_end;

static struct kloop_loop *the_loop;
static struct connection connections[CONNECTIONS];
static char message[MESSAGE_BYTES];

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, kloop_strerror(result));
	exit(1);
}

/* Streams: what arrives is echoed from the buffer that it arrived in. */

static void release_buffer(void *owner, int status, void *user)
{
	(void)status;
	(void)user;
	kloop_stream_give_buffer(the_loop, (unsigned)(uintptr_t)owner);
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	struct connection *connection = user;
	unsigned id;

	if (kloop_stream_take_buffer(stream, &id) < 0)
		check(kloop_stream_write(stream, data, bytes, NULL, NULL), "write");
	else
		check(kloop_stream_write(stream, data, bytes, release_buffer,
					 (void *)(uintptr_t)id),
		      "write");
	connection->echoed += bytes;
}

static void on_eof(struct kloop_stream *stream, void *user)
{
	(void)user;
	kloop_stream_close(stream);
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	(void)user;
	check(error, "stream");
	kloop_stream_abort(stream);
}

static void on_close(struct kloop_stream *stream, void *user)
{
	struct connection *connection = user;

	(void)stream;
	connection->stream = NULL;
}

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_data = on_data,
	.on_eof = on_eof,
	.on_error = on_error,
	.on_close = on_close,
};

static void connection_open(struct connection *connection)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0) {
		perror("socketpair");
		exit(1);
	}
	connection->client = fds[0];
	check(kloop_stream_new(the_loop, fds[1], 0, &handlers, connection, &connection->stream),
	      "kloop_stream_new");
	check(kloop_stream_start_read(connection->stream), "kloop_stream_start_read");
}

/* A message on each of some connections, and turns until the echoes are there. */
static void echo_round(int count)
{
	static char back[MESSAGE_BYTES];

	for (int i = 0; i < count; i++) {
		connections[i].echoed = 0;
		if (send(connections[i].client, message, MESSAGE_BYTES, 0) != MESSAGE_BYTES)
			check(-EIO, "send");
	}
	for (int i = 0; i < count; i++) {
		size_t received = 0;

		while (connections[i].echoed < MESSAGE_BYTES)
			check(kloop_loop_turn(the_loop, KLOOP_FOREVER), "kloop_loop_turn");
		while (received < MESSAGE_BYTES) {
			ssize_t got = recv(connections[i].client, back, MESSAGE_BYTES - received,
					   MSG_DONTWAIT);

			/* The write waits for the turn's end. */
			if (got < 0)
				check(kloop_loop_turn(the_loop, 0), "kloop_loop_turn");
			else
				received += (size_t)got;
		}
	}
}

static void echo_one(long operations)
{
	for (long i = 0; i < operations; i++)
		echo_round(1);
}

static void echo_many(long operations)
{
	for (long i = 0; i < operations; i += CONNECTIONS)
		echo_round(CONNECTIONS);
}

/* Timers. */

static struct kloop_timer timers[TIMERS];
static unsigned long fired;

static void expire(struct kloop_timer *timer)
{
	(void)timer;
	fired++;
}

static void timer_stop(long operations)
{
	uint64_t deadline_ns = kloop_now() + UINT64_C(60000000000);

	for (long i = 0; i < operations; i++) {
		struct kloop_timer *timer = &timers[i % TIMERS];

		check(kloop_timer_start(the_loop, timer, deadline_ns + (uint64_t)i), "timer");
		/* The one that was started half a round ago: there are always some. */
		kloop_timer_stop(&timers[(i + TIMERS / 2) % TIMERS]);
	}
	for (int i = 0; i < TIMERS; i++)
		kloop_timer_stop(&timers[i]);
}

/* Deadlines in the past, in no order: all expire in the next turn. */
static void timer_fire(long operations)
{
	for (long i = 0; i < operations; i += TIMERS) {
		fired = 0;
		for (int k = 0; k < TIMERS; k++)
			check(kloop_timer_start(the_loop, &timers[k],
						(uint64_t)(k * 7919 % TIMERS + 1)),
			      "timer");
		while (fired < TIMERS)
			check(kloop_loop_turn(the_loop, 0), "kloop_loop_turn");
	}
}

static void nothing(long operations)
{
	(void)operations;
}

static const struct load {
	const char *name;
	void (*run)(long operations);
	long operations;
} loads[] = {
	{"c-nothing", nothing, 1},
	{"c-echo-1", echo_one, 1000},
	{"c-echo-32", echo_many, 3200},
	{"c-timer-stop", timer_stop, 10000},
	{"c-timer-fire", timer_fire, 10000},
};

static uint64_t enters(void)
{
	struct kloop_stats stats;

	check(kloop_loop_get_stats(the_loop, &stats, sizeof(stats)), "kloop_loop_get_stats");
	return stats.enters;
}

static void measure(const struct load *load)
{
	load->run(WARM_UP);
	for (int i = 0; i < REPETITIONS; i++) {
		uint64_t entered = enters();
		unsigned long allocated;

		guard_begin();
		load->run(load->operations);
		allocated = guard_end(load->name);
		printf("%s %ld %lu %" PRIu64 "\n", load->name, load->operations, allocated,
		       enters() - entered);
	}
}

int main(void)
{
	guard_begin = (typeof(guard_begin))dlsym(RTLD_DEFAULT, "kl_guard_begin");
	guard_end = (typeof(guard_end))dlsym(RTLD_DEFAULT, "kl_guard_end");
	if (guard_begin == NULL || guard_end == NULL) {
		fputs("libguard.so must be preloaded\n", stderr);
		return 2;
	}
	check(kloop_loop_new(NULL, &the_loop), "kloop_loop_new");
	for (int i = 0; i < CONNECTIONS; i++)
		connection_open(&connections[i]);
	for (int i = 0; i < TIMERS; i++)
		kloop_timer_init(&timers[i], expire);
	for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++)
		measure(&loads[i]);
	for (int i = 0; i < CONNECTIONS; i++)
		close(connections[i].client);
	for (int i = 0; i < CONNECTIONS; i++)
		while (connections[i].stream != NULL)
			check(kloop_loop_turn(the_loop, KLOOP_FOREVER), "kloop_loop_turn");
	check(kloop_loop_free(the_loop), "kloop_loop_free");
	return 0;
}
