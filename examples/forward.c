/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Forwarding without a copy: what arrives at standard input is written to
 * standard output, both of them pipes:
 *
 *     seq 100000 | forward | tail -n 1
 */
#include <kloop.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct forwarder {
	struct kloop_stream *input;
	struct kloop_stream *output;
	int error;
};

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, kloop_strerror(result));
	exit(1);
}

/* The kernel has the bytes, so the buffer can be filled again. owner is its number. */
static void on_sent(void *owner, int status, void *user)
{
	struct forwarder *forwarder = user;

	(void)status;
	kloop_stream_give_buffer(kloop_stream_get_loop(forwarder->output), (unsigned)(size_t)owner);
}

/* Keep the buffer if it is one of the pool's; otherwise have the bytes copied. */
static int forward(struct forwarder *forwarder, const void *data, size_t bytes)
{
	unsigned id;
	int error;

	if (kloop_stream_take_buffer(forwarder->input, &id) < 0)
		return kloop_stream_write(forwarder->output, data, bytes, NULL, NULL);
	error = kloop_stream_write(forwarder->output, data, bytes, on_sent, (void *)(size_t)id);
	if (error < 0)
		kloop_stream_give_buffer(kloop_stream_get_loop(forwarder->input), id);
	return error;
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	struct forwarder *forwarder = user;
	/* What the pipe takes at once need not be kept at all. */
	ptrdiff_t taken = kloop_stream_try_write(forwarder->output, data, bytes);
	int error = 0;

	if (taken >= 0 && (size_t)taken < bytes)
		error = forward(forwarder, (char *)data + taken, bytes - (size_t)taken);
	if (taken < 0 || error < 0)
		kloop_stream_close(stream); /* the output's on_error says why */
	else if (kloop_stream_get_write_bytes(forwarder->output) > 65536)
		kloop_stream_stop_read(stream); /* until on_drain */
}

static void on_drain(struct kloop_stream *stream, void *user)
{
	struct forwarder *forwarder = user;

	(void)stream;
	/* -ESTALE if the input has ended meanwhile: then there is nothing to go on with. */
	if (forwarder->input && kloop_stream_start_read(forwarder->input) < 0)
		kloop_stream_close(forwarder->input);
}

static void on_end(struct kloop_stream *stream, void *user)
{
	(void)user;
	kloop_stream_close(stream);
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	struct forwarder *forwarder = user;

	forwarder->error = error;
	kloop_stream_close(stream);
}

/* When one end is closed the other is, after what is queued. */
static void on_close(struct kloop_stream *stream, void *user)
{
	struct forwarder *forwarder = user;
	struct kloop_stream *other;

	if (stream == forwarder->input) {
		forwarder->input = NULL;
		other = forwarder->output;
	} else {
		forwarder->output = NULL;
		other = forwarder->input;
	}
	if (other)
		kloop_stream_close(other);
}

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_data = on_data,
	.on_drain = on_drain,
	.on_eof = on_end,
	.on_error = on_error,
	.on_close = on_close,
};

int main(void)
{
	struct forwarder forwarder = { 0 };
	struct kloop_loop *loop;

	check(kloop_loop_new(NULL, &loop), "kloop_loop_new");
	check(kloop_stream_new(loop, STDOUT_FILENO, KLOOP_STREAM_PIPE | KLOOP_STREAM_KEEP_FD,
			       &handlers, NULL, &forwarder.output),
	      "standard output");
	check(kloop_stream_new(loop, STDIN_FILENO, KLOOP_STREAM_PIPE | KLOOP_STREAM_KEEP_FD,
			       &handlers, NULL, &forwarder.input),
	      "standard input");
	kloop_stream_set_user(forwarder.output, &forwarder);
	kloop_stream_set_user(forwarder.input, &forwarder);
	check(kloop_stream_start_read(forwarder.input), "kloop_stream_start_read");
	check(kloop_loop_run(loop), "kloop_loop_run");
	kloop_loop_free(loop);
	check(forwarder.error, "forward");
	return 0;
}
