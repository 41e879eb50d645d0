/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A server that ends without loss: drain [PORT], an echo server on 127.0.0.1.
 * At SIGTERM it accepts nothing more, sends what is queued, ends its direction
 * of each connection, and reads until the peer has ended the other. Who has not
 * done so after ten seconds is cut off.
 */
#include <kloop.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PATIENCE_NS UINT64_C(10000000000)
#define HIGH_BYTES (256 * 1024)
#define LOW_BYTES (64 * 1024)

struct connection {
	struct kloop_stream *stream;
	struct connection *next, **link;
};

static struct kloop_loop *loop;
static struct kloop_listener *listener;
static struct kloop_signal *terminate;
static struct kloop_timer deadline;
static struct connection *connections;
static unsigned ended, cut_off;
static bool draining;

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, kloop_strerror(result));
	exit(1);
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	(void)user;
	if (draining)
		return; /* read and dropped: unread bytes would make the kernel reset it */
	if (kloop_stream_write(stream, data, bytes, NULL, NULL) < 0)
		kloop_stream_abort(stream);
	else if (kloop_stream_get_write_bytes(stream) > HIGH_BYTES)
		kloop_stream_stop_read(stream);
}

static void on_drain(struct kloop_stream *stream, void *user)
{
	(void)user;
	if (kloop_stream_start_read(stream) < 0)
		kloop_stream_abort(stream);
}

/* The peer has ended as well: nothing is on its way any more. */
static void on_eof(struct kloop_stream *stream, void *user)
{
	(void)user;
	kloop_stream_close(stream);
}

static void on_stream_error(struct kloop_stream *stream, int error, void *user)
{
	(void)user;
	fprintf(stderr, "connection: %s\n", kloop_strerror(error));
	kloop_stream_close(stream);
}

static void on_stream_close(struct kloop_stream *stream, void *user)
{
	struct connection *connection = user;

	(void)stream;
	*connection->link = connection->next;
	if (connection->next)
		connection->next->link = connection->link;
	free(connection);
	ended++;
	if (draining && !connections)
		kloop_timer_stop(&deadline); /* the last one: kloop_loop_run() returns */
}

static const struct kloop_stream_handlers stream_handlers = {
	.size = sizeof(stream_handlers),
	.on_data = on_data,
	.on_drain = on_drain,
	.on_eof = on_eof,
	.on_error = on_stream_error,
	.on_close = on_stream_close,
};

static void on_accept(struct kloop_listener *from, int fd, void *user)
{
	struct connection *connection = malloc(sizeof(*connection));

	(void)from;
	(void)user;
	if (!connection || kloop_stream_new(loop, fd, 0, &stream_handlers, connection,
					    &connection->stream) < 0) {
		free(connection);
		close(fd);
		return;
	}
	connection->next = connections;
	connection->link = &connections;
	if (connections)
		connections->link = &connection->next;
	connections = connection;
	if (kloop_stream_set_write_marks(connection->stream, LOW_BYTES, HIGH_BYTES) < 0 ||
	    kloop_stream_start_read(connection->stream) < 0)
		kloop_stream_abort(connection->stream);
}

static void on_listener_close(struct kloop_listener *closed, void *user)
{
	(void)closed;
	(void)user;
}

static const struct kloop_listener_handlers listener_handlers = {
	.size = sizeof(listener_handlers),
	.on_accept = on_accept,
	.on_close = on_listener_close,
};

/* None of these calls a handler: the list stays as it is until the next turn. */
static void on_deadline(struct kloop_timer *timer)
{
	(void)timer;
	for (struct connection *each = connections; each; each = each->next) {
		kloop_stream_abort(each->stream);
		cut_off++;
	}
}

static void on_signal(struct kloop_signal *watcher, int signal_number, void *data)
{
	(void)signal_number;
	(void)data;
	/* A watcher keeps kloop_loop_run() going; a second signal has its usual effect. */
	kloop_signal_free(watcher);
	kloop_listener_close(listener);
	draining = true;
	for (struct connection *each = connections; each; each = each->next) {
		if (kloop_stream_shutdown(each->stream) < 0 ||
		    kloop_stream_start_read(each->stream) < 0)
			kloop_stream_abort(each->stream);
	}
	if (connections)
		check(kloop_timer_start(loop, &deadline, kloop_now() + PATIENCE_NS), "timer");
}

int main(int argc, char **argv)
{
	char text[KLOOP_ADDRESS_TEXT_BYTES];
	struct kloop_address address;

	check(kloop_loop_new(NULL, &loop), "kloop_loop_new");
	kloop_timer_init(&deadline, on_deadline);
	check(kloop_signal_new(loop, SIGTERM, on_signal, NULL, &terminate), "SIGTERM");
	check(kloop_address_parse("127.0.0.1", argc > 1 ? (uint16_t)atoi(argv[1]) : 0, &address),
	      "kloop_address_parse");
	check(kloop_listener_open(loop, &address, 0, 0, &listener_handlers, NULL, &listener),
	      "kloop_listener_open");
	check(kloop_listener_get_address(listener, &address), "kloop_listener_get_address");
	check(kloop_address_format(&address, text, sizeof(text)), "kloop_address_format");
	printf("listening on %s\n", text);
	fflush(stdout);

	/* Until the signal, and then until nothing is left to wait for. */
	check(kloop_loop_run(loop), "kloop_loop_run");
	printf("%u connections ended, %u cut off\n", ended - cut_off, cut_off);
	kloop_loop_free(loop);
	return 0;
}
