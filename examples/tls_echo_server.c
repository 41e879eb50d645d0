/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * An echo server over TLS: tls_echo_server CERTIFICATE KEY [HOST [PORT]], with
 * PEM files, by default on 127.0.0.1 and a free port, until SIGINT or SIGTERM.
 */
#include <kloop.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct kloop_loop *loop;
static struct kloop_tls_context *context;

/* From here on it is as without TLS: the handlers get and write plaintext. */
static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	(void)user;
	if (kloop_stream_write(stream, data, bytes, NULL, NULL) < 0)
		kloop_stream_abort(stream);
	else if (kloop_stream_get_write_bytes(stream) > 256 * 1024)
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
	kloop_stream_close(stream);
}

static void on_stream_error(struct kloop_stream *stream, int error, void *user)
{
	struct kloop_tls *tls = kloop_tls_get(stream);

	(void)user;
	fprintf(stderr, "connection: %s\n",
		tls ? kloop_tls_get_error_text(tls) : kloop_strerror(error));
	kloop_stream_close(stream);
}

static void on_stream_close(struct kloop_stream *stream, void *user)
{
	(void)stream;
	(void)user;
}

static const struct kloop_stream_handlers stream_handlers = {
	.size = sizeof(stream_handlers),
	.on_data = on_data,
	.on_drain = on_drain,
	.on_eof = on_eof,
	.on_error = on_stream_error,
	.on_close = on_stream_close,
};

static void on_handshake(struct kloop_stream *stream, int result, void *user)
{
	struct kloop_tls *tls = kloop_tls_get(stream);

	if (result < 0) {
		on_stream_error(stream, result, user);
		return;
	}
	printf("%s%s\n", kloop_tls_get_cipher(tls), kloop_tls_is_resumed(tls) ? ", resumed" : "");
	fflush(stdout);
}

/* Each connection gets a session; reading may start at once, and brings plaintext. */
static void on_accept(struct kloop_listener *listener, int fd, void *user)
{
	struct kloop_stream *stream;
	struct kloop_tls *tls = NULL;
	int error = kloop_stream_new(loop, fd, 0, &stream_handlers, user, &stream);

	(void)listener;
	if (error < 0) {
		fprintf(stderr, "kloop_stream_new: %s\n", kloop_strerror(error));
		close(fd);
		return;
	}
	error = kloop_tls_new(context, &tls);
	if (error == 0)
		error = kloop_tls_start(tls, stream, on_handshake);
	if (error < 0)
		kloop_tls_free(tls);
	if (error == 0)
		error = kloop_stream_start_read(stream);
	if (error < 0) {
		fprintf(stderr, "connection: %s\n", kloop_strerror(error));
		kloop_stream_abort(stream);
	}
}

static void on_listener_close(struct kloop_listener *listener, void *user)
{
	(void)listener;
	(void)user;
}

static const struct kloop_listener_handlers listener_handlers = {
	.size = sizeof(listener_handlers),
	.on_accept = on_accept,
	.on_close = on_listener_close,
};

static void on_signal(struct kloop_signal *watcher, int signal_number, void *data)
{
	(void)watcher;
	(void)signal_number;
	(void)data;
	kloop_loop_stop(loop);
}

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, kloop_strerror(result));
	exit(1);
}

int main(int argc, char **argv)
{
	struct kloop_signal *interrupt, *terminate;
	char text[KLOOP_ADDRESS_TEXT_BYTES];
	struct kloop_listener *listener;
	struct kloop_address address;

	if (argc < 3) {
		fprintf(stderr, "usage: tls_echo_server CERTIFICATE KEY [HOST [PORT]]\n");
		return 2;
	}
	check(kloop_tls_context_new(KLOOP_TLS_SERVER, &context), "kloop_tls_context_new");
	check(kloop_tls_context_load_certificate(context, argv[1], argv[2]), argv[1]);

	check(kloop_loop_new(NULL, &loop), "kloop_loop_new");
	check(kloop_signal_new(loop, SIGINT, on_signal, NULL, &interrupt), "SIGINT");
	check(kloop_signal_new(loop, SIGTERM, on_signal, NULL, &terminate), "SIGTERM");
	check(kloop_address_parse(argc > 3 ? argv[3] : "127.0.0.1",
				  argc > 4 ? (uint16_t)atoi(argv[4]) : 0, &address),
	      "address");
	check(kloop_listener_open(loop, &address, 0, 0, &listener_handlers, NULL, &listener),
	      "kloop_listener_open");
	check(kloop_listener_get_address(listener, &address), "kloop_listener_get_address");
	check(kloop_address_format(&address, text, sizeof(text)), "kloop_address_format");
	printf("listening on %s\n", text);
	fflush(stdout);
	check(kloop_loop_run(loop), "kloop_loop_run");

	kloop_listener_close(listener);
	kloop_signal_free(interrupt);
	kloop_signal_free(terminate);
	kloop_loop_free(loop);
	kloop_tls_context_unref(context);
	return 0;
}
