/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A TCP echo server: echo_server [HOST [PORT]], by default 127.0.0.1 and a free
 * port. It runs until SIGINT or SIGTERM. A client that sends and does not read
 * is slowed down, so memory stays bounded.
 */
#include <kloop.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define HIGH_BYTES (256 * 1024)
#define LOW_BYTES (64 * 1024)

static struct kloop_loop *loop;
static unsigned long connections;

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	(void)user;
	/* Without a release function the bytes are copied. */
	if (kloop_stream_write(stream, data, bytes, NULL, NULL) < 0) {
		kloop_stream_abort(stream);
		return;
	}
	/* The client does not read: let its bytes wait in its socket. */
	if (kloop_stream_get_write_bytes(stream) > HIGH_BYTES)
		kloop_stream_stop_read(stream);
}

static void on_drain(struct kloop_stream *stream, void *user)
{
	(void)user;
	if (kloop_stream_start_read(stream) < 0)
		kloop_stream_abort(stream);
}

static void on_eof(struct kloop_stream *stream, void *user)
{
	(void)user;
	/* What is queued is sent first. */
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
	(void)stream;
	(void)user;
	connections--;
}

static const struct kloop_stream_handlers stream_handlers = {
	.size = sizeof(stream_handlers),
	.on_data = on_data,
	.on_drain = on_drain,
	.on_eof = on_eof,
	.on_error = on_stream_error,
	.on_close = on_stream_close,
};

static void on_accept(struct kloop_listener *listener, int fd, void *user)
{
	struct kloop_stream *stream;
	int error = kloop_stream_new(loop, fd, 0, &stream_handlers, user, &stream);

	(void)listener;
	if (error < 0) {
		/* The descriptor is still ours. */
		fprintf(stderr, "kloop_stream_new: %s\n", kloop_strerror(error));
		close(fd);
		return;
	}
	connections++;
	if (kloop_stream_set_write_marks(stream, LOW_BYTES, HIGH_BYTES) < 0 ||
	    kloop_stream_start_read(stream) < 0)
		kloop_stream_abort(stream);
}

static void on_listener_error(struct kloop_listener *listener, int error, void *user)
{
	(void)listener;
	(void)user;
	/* Out of descriptors, say; the listener goes on by itself when it can. */
	fprintf(stderr, "accept: %s\n", kloop_strerror(error));
}

static void on_listener_close(struct kloop_listener *listener, void *user)
{
	(void)listener;
	(void)user;
	printf("no longer listening\n");
}

static const struct kloop_listener_handlers listener_handlers = {
	.size = sizeof(listener_handlers),
	.on_accept = on_accept,
	.on_error = on_listener_error,
	.on_close = on_listener_close,
};

static void on_signal(struct kloop_signal *watcher, int signal_number, void *data)
{
	(void)watcher;
	(void)signal_number;
	(void)data;
	kloop_loop_stop(loop);
}

static int check(int result, const char *what)
{
	if (result >= 0)
		return result;
	fprintf(stderr, "%s: %s\n", what, kloop_strerror(result));
	exit(1);
}

int main(int argc, char **argv)
{
	const char *host = argc > 1 ? argv[1] : "127.0.0.1";
	uint16_t port = argc > 2 ? (uint16_t)atoi(argv[2]) : 0;
	struct kloop_signal *interrupt, *terminate;
	char text[KLOOP_ADDRESS_TEXT_BYTES];
	struct kloop_listener *listener;
	struct kloop_address address;

	check(kloop_loop_new(NULL, &loop), "kloop_loop_new");
	check(kloop_signal_new(loop, SIGINT, on_signal, NULL, &interrupt), "SIGINT");
	check(kloop_signal_new(loop, SIGTERM, on_signal, NULL, &terminate), "SIGTERM");

	check(kloop_address_parse(host, port, &address), host);
	check(kloop_listener_open(loop, &address, 0, 0, &listener_handlers, NULL, &listener),
	      "kloop_listener_open");
	/* Which port was it? */
	check(kloop_listener_get_address(listener, &address), "kloop_listener_get_address");
	check(kloop_address_format(&address, text, sizeof(text)), "kloop_address_format");
	printf("listening on %s\n", text);
	fflush(stdout);

	check(kloop_loop_run(loop), "kloop_loop_run");

	/* No new connections; those that stand are cut off by kloop_loop_free(). */
	printf("%lu connections\n", connections);
	kloop_listener_close(listener);
	kloop_signal_free(interrupt);
	kloop_signal_free(terminate);
	kloop_loop_free(loop);
	return 0;
}
