/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Faults in a conversation: a listener, a stream that connects, and one for what
 * was accepted, which sends back whatever comes; pipes likewise.
 */
#include "sweep-talk.h"

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

static struct {
	struct kloop_loop *loop;
	struct kloop_listener *listener;
	int listener_closed, accepted, lent, released;
	int fd;
} w;

static struct kt_end *const client = &kt_talk.client, *const server = &kt_talk.server;

/* ---- streams ---------------------------------------------------------- */

static void put(struct kt_end *end, const void *data, size_t bytes)
{
	ptrdiff_t tried = bytes > 100000 ? kloop_stream_try_write(end->stream, data, bytes) : 0;
	size_t done = tried > 0 ? (size_t)tried : 0;

	if (tried < 0 || !kt_took(kloop_stream_write(end->stream, (const char *)data + done,
						     bytes - done, NULL, NULL)))
		kt_end_give_up(end);
}

static void on_connect(struct kloop_stream *stream, int result, void *user)
{
	struct kt_end *end = user;

	KT_HOLDS(end->stream == stream && end->connects && end->connected++ == 0);
	if (result < 0)
		kt_end_give_up(end);
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	struct kt_end *end = user;

	KT_HOLDS(end->stream == stream && !end->eofs && !end->errors && !end->closed);
	KT_HOLDS(end->reading && !end->over);
	KT_HOLDS(end->received + bytes <= TOTAL);
	KT_HOLDS(memcmp(data, pattern + end->received, bytes) == 0);
	end->received += bytes;
	if (end->echoes)
		put(end, data, bytes);
	/* A pause now and then. */
	if (end->stream && !end->over && end->received % 7 == 0) {
		KT_HOLDS(kloop_stream_stop_read(stream) == 0 || kt_sweep_ending);
		if (!kt_took(kloop_stream_start_read(stream)))
			kt_end_give_up(end);
	}
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	/* Of the end of its loop a stream is told so. */
	KT_HOLDS(!kt_sweep_must_succeed() || error == -ECANCELED);
	kt_end_on_error(stream, error, user);
}

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_connect = on_connect,
	.on_data = on_data,
	.on_eof = kt_end_on_eof,
	.on_error = on_error,
	.on_close = kt_end_on_close,
};

static void release(void *owner, int status, void *user)
{
	int *count = owner;

	KT_HOLDS(user == client && (status == 0 || kt_sweep_happened() || kt_sweep_ending));
	KT_HOLDS(!client->closed);
	(*count)++;
}

/* Copied, lent, and large; then no more. */
static void send_all(struct kt_end *end)
{
	size_t position = SMALL;

	put(end, pattern, SMALL);
	for (int i = 0; i < LENT && !end->over; i++) {
		if (kt_took(kloop_stream_write(end->stream, pattern + position, LENT_BYTES, release,
					       &w.released)))
			w.lent++;
		else
			kt_end_give_up(end);
		position += LENT_BYTES;
	}
	if (!end->over)
		put(end, pattern + position, LARGE);
}

static void start(struct kt_end *end)
{
	end->reading = true;
	if (!kt_took(kloop_stream_start_read(end->stream)))
		kt_end_give_up(end);
}

/* ---- the listener ----------------------------------------------------- */

static void on_accept(struct kloop_listener *listener, int fd, void *user)
{
	(void)user;
	KT_HOLDS(listener == w.listener);
	w.accepted++;
	/* A second one is a connect that was made once more. */
	if (w.accepted > 1 ||
	    !kt_took(kloop_stream_new(w.loop, fd, 0, &handlers, server, &server->stream))) {
		KT_PLAIN(close(fd));
		return;
	}
	server->echoes = true;
	start(server);
}

static void on_listener_error(struct kloop_listener *listener, int error, void *user)
{
	(void)user;
	KT_HOLDS(listener == w.listener && error < 0);
	KT_HOLDS(!kt_sweep_must_succeed());
	if (client->stream && error != -EMFILE && error != -ENOBUFS && error != -ENOMEM)
		kt_end_give_up(client);
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

static bool listener_closed(void *data)
{
	(void)data;
	return !w.listener;
}

/* What holds in the end, whatever happened. */
static void check_end(void)
{
	KT_HOLDS(w.released == w.lent);
	KT_HOLDS(client->closed <= 1 && server->closed <= 1);
	KT_HOLDS(client->received <= server->received);
	if (kt_sweep_must_succeed())
		KT_HOLDS(server->received == TOTAL && client->received == TOTAL);
	else if (!kt_sweep_happened())
		KT_HOLDS(client->received == TOTAL);
}

static void open_world(int mode)
{
	memset(&w, 0, sizeof(w));
	w.loop = kt_talk_open(mode);
}

static void converse(void)
{
	struct kloop_address address;
	int r;

	KT_PLAIN(r = kloop_address_parse("127.0.0.1", 0, &address));
	KT_HOLDS(r == 0);
	if (!kt_took(kloop_listener_open(w.loop, &address, 8, 0, &listener_handlers, NULL,
					 &w.listener)))
		return;
	if (!kt_took(kloop_listener_get_address(w.listener, &address)))
		goto close;
	client->connects = true;
	if (!kt_took(kloop_stream_connect(w.loop, &address, &handlers, client, &client->stream)))
		goto close;
	start(client);
	if (!client->over)
		send_all(client);
	if (!client->over && !kt_took(kloop_stream_shutdown(client->stream)))
		kt_end_give_up(client);
	kt_sweep_until(w.loop, kt_talk_closed, NULL);
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
	kloop_timer_stop(&kt_talk.patience);
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
	if (kt_took(kloop_stream_new(w.loop, fds[0], 0, &handlers, client, &client->stream)))
		start(client);
	else
		KT_PLAIN(close(fds[0]));
	if (kt_took(kloop_stream_new(w.loop, fds[1], 0, &handlers, server, &server->stream))) {
		server->echoes = true;
		start(server);
	} else {
		KT_PLAIN(close(fds[1]));
	}
	if (client->stream && !client->over)
		send_all(client);
	kt_sweep_turns(w.loop, 3);
	kloop_timer_stop(&kt_talk.patience);
	kt_sweep_ending = true;
	KT_HOLDS(kloop_loop_free(w.loop) == 0);
	KT_HOLDS(w.released == w.lent && !client->stream && !server->stream);
}

/* ---- pipes ------------------------------------------------------------ */

static void end_pipe(struct kt_end *end, int fd)
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
	if (kt_took(kloop_stream_new(w.loop, fds[0], KLOOP_STREAM_PIPE, &handlers, server,
				     &server->stream)))
		start(server);
	end_pipe(server, fds[0]);
	if (kt_took(kloop_stream_new(w.loop, fds[1], KLOOP_STREAM_PIPE, &handlers, client,
				     &client->stream)))
		send_all(client);
	end_pipe(client, fds[1]);
	if (client->stream)
		kt_end_finish(client);
	kt_sweep_until(w.loop, kt_talk_closed, NULL);
	kloop_timer_stop(&kt_talk.patience);
	KT_HOLDS(kloop_loop_free(w.loop) == 0);
	KT_HOLDS(w.released == w.lent);
	if (kt_sweep_must_succeed() || !kt_sweep_happened())
		KT_HOLDS(server->received == TOTAL && server->eofs == 1);
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
