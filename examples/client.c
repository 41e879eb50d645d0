/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A TCP client: client HOST PORT TEXT... sends each text as a line, ends its
 * direction, and prints what comes back until the server ends the other.
 */
#include <errno.h>
#include <kloop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct client {
	struct kloop_timer timeout;
	struct kloop_loop *loop;
	struct kloop_stream *stream;
	int error;
};

static void on_connect(struct kloop_stream *stream, int result, void *user)
{
	struct client *client = user;

	if (result == 0)
		result = kloop_stream_start_read(stream);
	if (result < 0) {
		client->error = result;
		kloop_stream_close(stream);
	}
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	(void)stream;
	(void)user;
	fwrite(data, 1, bytes, stdout);
}

static void on_eof(struct kloop_stream *stream, void *user)
{
	(void)user;
	kloop_stream_close(stream);
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	struct client *client = user;

	client->error = error;
	kloop_stream_close(stream);
}

/* The last call for this stream: its memory is the library's again. */
static void on_close(struct kloop_stream *stream, void *user)
{
	struct client *client = user;

	(void)stream;
	kloop_timer_stop(&client->timeout);
}

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_connect = on_connect,
	.on_data = on_data,
	.on_eof = on_eof,
	.on_error = on_error,
	.on_close = on_close,
};

static void on_timeout(struct kloop_timer *timer)
{
	/* The timer is the first member, so its address is that of the client. */
	struct client *client = (struct client *)timer;

	client->error = -ETIMEDOUT;
	kloop_stream_abort(client->stream);
}

/* A text is lent until this function is called; it comes from argv, so nothing is to be freed. */
static void on_release(void *owner, int status, void *user)
{
	(void)user;
	if (status < 0)
		fprintf(stderr, "not sent: %s: %s\n", (char *)owner, kloop_strerror(status));
}

/* Writes made in one turn leave as one send, and may be made before the connection stands. */
static int write_lines(struct kloop_stream *stream, char **lines, int count)
{
	int error = 0;

	for (int i = 0; i < count && error == 0; i++) {
		error = kloop_stream_write(stream, lines[i], strlen(lines[i]), on_release, lines[i]);
		if (error == 0)
			error = kloop_stream_write(stream, "\n", 1, NULL, NULL);
	}
	return error < 0 ? error : kloop_stream_shutdown(stream);
}

int main(int argc, char **argv)
{
	struct client client = { 0 };
	struct kloop_address address;
	int error;

	if (argc < 4) {
		fprintf(stderr, "usage: client HOST PORT TEXT...\n");
		return 2;
	}
	error = kloop_loop_new(NULL, &client.loop);
	if (error == 0)
		error = kloop_address_parse(argv[1], (uint16_t)atoi(argv[2]), &address);
	if (error == 0)
		error = kloop_stream_connect(client.loop, &address, &handlers, &client,
					     &client.stream);
	if (error == 0)
		error = write_lines(client.stream, argv + 3, argc - 3);
	kloop_timer_init(&client.timeout, on_timeout);
	if (error == 0)
		error = kloop_timer_start(client.loop, &client.timeout,
					  kloop_now() + UINT64_C(5000000000));
	if (error == 0)
		error = kloop_loop_run(client.loop);
	if (error == 0)
		error = client.error;
	if (error < 0)
		fprintf(stderr, "client: %s\n", kloop_strerror(error));
	kloop_loop_free(client.loop);
	return error < 0;
}
