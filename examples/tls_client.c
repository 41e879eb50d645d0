/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * An HTTPS client: tls_client NAME ADDRESS PORT [CA-FILE] asks the server at an
 * address for "/", verified by its name, and prints how the connection is
 * protected and then the answer.
 */
#include <kloop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct client {
	struct kloop_stream *stream;
	int error;
};

/* Is a direction's encryption in the kernel? Both may be, one, or none. */
static void print_place(struct kloop_tls *tls, enum kloop_tls_direction direction, const char *what)
{
	int place = kloop_tls_get_ktls(tls, direction);

	printf("%s: %s%s\n", what, place == 1 ? "in the kernel" : "in the library: ",
	       place == 1 ? "" : kloop_strerror(place));
}

static void fail(struct client *client, int error)
{
	struct kloop_tls *tls = kloop_tls_get(client->stream);

	/* More than the code says: which alert, what of the certificate. */
	fprintf(stderr, "tls_client: %s\n",
		tls ? kloop_tls_get_error_text(tls) : kloop_strerror(error));
	client->error = error;
	kloop_stream_close(client->stream);
}

static void on_handshake(struct kloop_stream *stream, int result, void *user)
{
	struct kloop_tls *tls = kloop_tls_get(stream);
	struct client *client = user;

	if (result == 0) {
		printf("TLS 1.%d, %s\n", kloop_tls_get_version(tls) == KLOOP_TLS_1_3 ? 3 : 2,
		       kloop_tls_get_cipher(tls));
		print_place(tls, KLOOP_TLS_SEND, "sending");
		print_place(tls, KLOOP_TLS_RECEIVE, "receiving");
		result = kloop_stream_start_read(stream);
	}
	if (result < 0)
		fail(client, result);
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	(void)stream;
	(void)user;
	fwrite(data, 1, bytes, stdout);
}

/* The server said that this was all. A cut connection is an error, not an end. */
static void on_eof(struct kloop_stream *stream, void *user)
{
	(void)user;
	kloop_stream_close(stream);
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	(void)stream;
	fail(user, error);
}

static void on_close(struct kloop_stream *stream, void *user)
{
	(void)stream;
	(void)user;
}

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_data = on_data,
	.on_eof = on_eof,
	.on_error = on_error,
	.on_close = on_close,
};

/* Without a CA file the system's trust store says who is trusted. */
static int start_tls(struct kloop_stream *stream, const char *name, const char *ca_path)
{
	struct kloop_tls_context *context = NULL;
	struct kloop_tls *tls = NULL;
	int error = kloop_tls_context_new(KLOOP_TLS_CLIENT, &context);

	if (error == 0 && ca_path)
		error = kloop_tls_context_load_trust(context, ca_path, NULL);
	if (error == 0)
		error = kloop_tls_new(context, &tls);
	if (error == 0)
		error = kloop_tls_set_name(tls, name);
	if (error == 0)
		error = kloop_tls_set_timeouts(tls, UINT64_C(5000000000), UINT64_C(1000000000));
	/* The handshake begins when the connection stands. */
	if (error == 0)
		error = kloop_tls_start(tls, stream, on_handshake);
	if (error < 0)
		kloop_tls_free(tls);
	/* The session has a reference of its own. */
	kloop_tls_context_unref(context);
	return error;
}

int main(int argc, char **argv)
{
	struct client client = { 0 };
	struct kloop_address address;
	struct kloop_loop *loop = NULL;
	char request[512];
	int error;

	if (argc < 4) {
		fprintf(stderr, "usage: tls_client NAME ADDRESS PORT [CA-FILE]\n");
		return 2;
	}
	snprintf(request, sizeof(request),
		 "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", argv[1]);
	error = kloop_loop_new(NULL, &loop);
	if (error == 0)
		error = kloop_address_parse(argv[2], (uint16_t)atoi(argv[3]), &address);
	if (error == 0)
		error = kloop_stream_connect(loop, &address, &handlers, &client, &client.stream);
	if (error == 0)
		error = start_tls(client.stream, argv[1], argc > 4 ? argv[4] : NULL);
	/* It leaves once it can be encrypted; without a release function it is copied. */
	if (error == 0)
		error = kloop_stream_write(client.stream, request, strlen(request), NULL, NULL);
	if (error == 0)
		error = kloop_loop_run(loop);
	if (error < 0)
		fprintf(stderr, "tls_client: %s\n", kloop_strerror(error));
	kloop_loop_free(loop);
	return error < 0 || client.error < 0;
}
