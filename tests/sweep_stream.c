/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Faults in a conversation: a listener, a stream that connects, and one for what
 * was accepted, which sends back whatever comes; pipes likewise.
 */
#include "sweep.h"

#include <kloop.h>

#include "streams.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SMALL 700
#define LENT 40
#define LENT_BYTES 900
#define LARGE 200000
#define TOTAL (SMALL + LENT * LENT_BYTES + LARGE)

static unsigned char pattern[TOTAL];

/* One end, and what it was told. */
struct end {
	struct kloop_stream *stream;
	int connected, eofs, errors, closed;
	size_t received, queued;
	bool connects, echoes, over, reading;
};

static struct {
	struct kloop_loop *loop;
	struct kloop_listener *listener;
	struct kloop_timer patience;
	struct end client, server;
	int listener_closed, accepted, lent, released;
	int fd;
	bool ending; /* the loop is freed */
} w;

static bool took(int r)
{
	/* What arrives while the loop is freed is still delivered; then no call succeeds. */
	KT_HOLDS(r == 0 || (r < 0 && (kt_sweep_happened() || w.ending)));
	return r == 0;
}

/* ---- streams ---------------------------------------------------------- */

/* Nothing more is expected of it. */
static void finish(struct end *end)
{
	end->over = true;
	if (end->stream)
		kloop_stream_close(end->stream);
}

static void give_up(struct end *end)
{
	KT_HOLDS(kt_sweep_happened() || w.ending);
	end->over = true;
	if (end->stream)
		kloop_stream_abort(end->stream);
}

static void put(struct end *end, const void *data, size_t bytes)
{
	ptrdiff_t tried = bytes > 100000 ? kloop_stream_try_write(end->stream, data, bytes) : 0;
	size_t done = tried > 0 ? (size_t)tried : 0;

	end->queued += bytes;
	if (tried < 0 || !took(kloop_stream_write(end->stream, (const char *)data + done,
						  bytes - done, NULL, NULL)))
		give_up(end);
}

static void on_connect(struct kloop_stream *stream, int result, void *user)
{
	struct end *end = user;

	KT_HOLDS(end->stream == stream && end->connects && end->connected++ == 0);
	if (result < 0)
		give_up(end);
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	struct end *end = user;

	KT_HOLDS(end->stream == stream && !end->eofs && !end->errors && !end->closed);
	KT_HOLDS(end->reading && !end->over);
	KT_HOLDS(end->received + bytes <= TOTAL);
	KT_HOLDS(memcmp(data, pattern + end->received, bytes) == 0);
	end->received += bytes;
	if (end->echoes)
		put(end, data, bytes);
	/* A pause now and then. */
	if (end->stream && !end->over && end->received % 7 == 0) {
		KT_HOLDS(kloop_stream_stop_read(stream) == 0 || w.ending);
		if (!took(kloop_stream_start_read(stream)))
			give_up(end);
	}
}

static void on_eof(struct kloop_stream *stream, void *user)
{
	struct end *end = user;

	KT_HOLDS(end->stream == stream && !end->errors && end->eofs++ == 0);
	finish(end);
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	struct end *end = user;

	KT_HOLDS(end->stream == stream && error < 0 && end->errors++ == 0);
	KT_HOLDS(!kt_sweep_must_succeed() || (w.ending && error == -ECANCELED));
	give_up(end);
}

static void on_close(struct kloop_stream *stream, void *user)
{
	struct end *end = user;

	KT_HOLDS(end->stream == stream && end->closed++ == 0);
	end->stream = NULL;
}

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_connect = on_connect,
	.on_data = on_data,
	.on_eof = on_eof,
	.on_error = on_error,
	.on_close = on_close,
};

static void release(void *owner, int status, void *user)
{
	int *count = owner;

	KT_HOLDS(user == &w.client && (status == 0 || kt_sweep_happened() || w.ending));
	KT_HOLDS(!w.client.closed);
	(*count)++;
}

/* Copied, lent, and large; then no more. */
static void send_all(struct end *end)
{
	size_t position = SMALL;

	put(end, pattern, SMALL);
	for (int i = 0; i < LENT && !end->over; i++) {
		if (took(kloop_stream_write(end->stream, pattern + position, LENT_BYTES, release,
					    &w.released)))
			w.lent++;
		else
			give_up(end);
		position += LENT_BYTES;
	}
	if (!end->over)
		put(end, pattern + position, LARGE);
}

static void start(struct end *end)
{
	end->reading = true;
	if (!took(kloop_stream_start_read(end->stream)))
		give_up(end);
}

/* ---- the listener ----------------------------------------------------- */

static void on_accept(struct kloop_listener *listener, int fd, void *user)
{
	(void)user;
	KT_HOLDS(listener == w.listener);
	w.accepted++;
	/* A second one is a connect that was made once more. */
	if (w.accepted > 1 ||
	    !took(kloop_stream_new(w.loop, fd, 0, &handlers, &w.server, &w.server.stream))) {
		KT_PLAIN(close(fd));
		return;
	}
	w.server.echoes = true;
	start(&w.server);
}

static void on_listener_error(struct kloop_listener *listener, int error, void *user)
{
	(void)user;
	KT_HOLDS(listener == w.listener && error < 0);
	KT_HOLDS(!kt_sweep_must_succeed());
	if (w.client.stream && error != -EMFILE && error != -ENOBUFS && error != -ENOMEM)
		give_up(&w.client);
}

static void on_listener_close(struct kloop_listener *listener, void *user)
{
	(void)user;
	KT_HOLDS(listener == w.listener && w.listener_closed++ == 0);
	w.listener = NULL;
}

static const struct kloop_listener_handlers listener_handlers = {
	.size = sizeof(listener_handlers),
	.on_accept = on_accept,
	.on_error = on_listener_error,
	.on_close = on_listener_close,
};

/* ---- scenarios -------------------------------------------------------- */

/* The listener tries again after a tenth of a second. */
static void start_patience(struct kloop_timer *timer)
{
	KT_PLAIN(ck_assert_int_eq(kloop_timer_start(w.loop, timer, kloop_now() + 400 * KT_MS), 0));
}

/*
 * A fault can make the other side wait for what will not come (a connection
 * that nobody accepts any more): then the end is made here, by aborts.
 */
static void out_of_patience(struct kloop_timer *timer)
{
	/* Without a fault it ends by itself. */
	if (!kt_sweep_happened() || kt_sweep_must_succeed()) {
		start_patience(timer);
		return;
	}
	if (w.client.stream)
		give_up(&w.client);
	if (w.server.stream)
		give_up(&w.server);
}

static bool streams_closed(void *data)
{
	(void)data;
	return !w.client.stream && !w.server.stream;
}

static bool listener_closed(void *data)
{
	(void)data;
	return !w.listener;
}

static void make_patience(void)
{
	kloop_timer_init(&w.patience, out_of_patience);
	start_patience(&w.patience);
}

/* What holds in the end, whatever happened. */
static void check_end(void)
{
	KT_HOLDS(w.released == w.lent);
	KT_HOLDS(w.client.closed <= 1 && w.server.closed <= 1);
	KT_HOLDS(w.client.received <= w.server.received);
	if (kt_sweep_must_succeed())
		KT_HOLDS(w.server.received == TOTAL && w.client.received == TOTAL);
	else if (!kt_sweep_happened())
		KT_HOLDS(w.client.received == TOTAL);
}

static void open_world(int mode)
{
	memset(&w, 0, sizeof(w));
	w.loop = kt_sweep_loop(mode);
	if (w.loop)
		make_patience();
}

static void converse(void)
{
	struct kloop_address address;
	int r;

	KT_PLAIN(r = kloop_address_parse("127.0.0.1", 0, &address));
	KT_HOLDS(r == 0);
	if (!took(kloop_listener_open(w.loop, &address, 8, 0, &listener_handlers, NULL, &w.listener)))
		return;
	if (!took(kloop_listener_get_address(w.listener, &address)))
		goto close;
	w.client.connects = true;
	if (!took(kloop_stream_connect(w.loop, &address, &handlers, &w.client, &w.client.stream)))
		goto close;
	start(&w.client);
	if (!w.client.over)
		send_all(&w.client);
	if (!w.client.over && !took(kloop_stream_shutdown(w.client.stream)))
		give_up(&w.client);
	kt_sweep_until(w.loop, streams_closed, NULL);
close:
	kloop_listener_close(w.listener);
	kt_sweep_until(w.loop, listener_closed, NULL);
}

static void connection(int mode)
{
	open_world(mode);
	if (!w.loop)
		return;
	converse();
	kloop_timer_stop(&w.patience);
	KT_HOLDS(kloop_loop_free(w.loop) == 0);
	check_end();
}

/* The same connection, and the loop is freed in the middle of it. */
static void cut_off(int mode)
{
	int fds[2];

	open_world(mode);
	if (!w.loop)
		return;
	KT_PLAIN(kt_socketpair(fds));
	if (took(kloop_stream_new(w.loop, fds[0], 0, &handlers, &w.client, &w.client.stream)))
		start(&w.client);
	else
		KT_PLAIN(close(fds[0]));
	if (took(kloop_stream_new(w.loop, fds[1], 0, &handlers, &w.server, &w.server.stream))) {
		w.server.echoes = true;
		start(&w.server);
	} else {
		KT_PLAIN(close(fds[1]));
	}
	if (w.client.stream && !w.client.over)
		send_all(&w.client);
	kt_sweep_turns(w.loop, 3);
	kloop_timer_stop(&w.patience);
	w.ending = true;
	KT_HOLDS(kloop_loop_free(w.loop) == 0);
	KT_HOLDS(w.released == w.lent && !w.client.stream && !w.server.stream);
}

/* ---- pipes ------------------------------------------------------------ */

static void end_pipe(struct end *end, int fd)
{
	if (!end->stream)
		KT_PLAIN(close(fd));
}

/* The writing end is the client, the reading one the server. */
static void pipe_ends(int mode)
{
	int fds[2];

	open_world(mode);
	if (!w.loop)
		return;
	KT_PLAIN(kt_pipe(fds));
	if (took(kloop_stream_new(w.loop, fds[0], KLOOP_STREAM_PIPE, &handlers, &w.server,
				  &w.server.stream)))
		start(&w.server);
	end_pipe(&w.server, fds[0]);
	if (took(kloop_stream_new(w.loop, fds[1], KLOOP_STREAM_PIPE, &handlers, &w.client,
				  &w.client.stream)))
		send_all(&w.client);
	end_pipe(&w.client, fds[1]);
	if (w.client.stream)
		finish(&w.client);
	kt_sweep_until(w.loop, streams_closed, NULL);
	kloop_timer_stop(&w.patience);
	KT_HOLDS(kloop_loop_free(w.loop) == 0);
	KT_HOLDS(w.released == w.lent);
	if (kt_sweep_must_succeed() || !kt_sweep_happened())
		KT_HOLDS(w.server.received == TOTAL && w.server.eofs == 1);
}

START_TEST(sweep_connection)
{
	kt_sweep("stream, listener", connection, _i);
}
END_TEST

/* Once a connect that was interrupted had failed. */
START_TEST(all_interrupted)
{
	kt_sweep_result("stream, listener", connection, _i, -EINTR);
}
END_TEST

START_TEST(sweep_cut_off)
{
	kt_sweep("stream, loop freed", cut_off, _i);
}
END_TEST

START_TEST(sweep_pipe)
{
	kt_sweep("stream, pipe", pipe_ends, _i);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("sweep_stream");

	kt_fill(pattern, sizeof(pattern), 0);
	signal(SIGPIPE, SIG_IGN);
	tcase_add_loop_test(kt_case(suite, "connection", 1200), sweep_connection, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "interrupted", 1200), all_interrupted, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "cut_off", 1200), sweep_cut_off, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "pipe", 1200), sweep_pipe, 0, KT_SWEEP_MODES);
	return kt_main(suite);
}
