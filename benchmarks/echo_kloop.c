/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * An echo server on libkloop's streams, through the public interface only.
 *
 * Small messages are echoed from the receive buffer that they arrived in,
 * which is lent to the write and given back by its release; large ones, which
 * arrive in the library's hot buffer, are sent at once, and only what the
 * socket does not take is copied. A peer that does not read its echo is not
 * read from either. With --certificate and --key it speaks TLS 1.3, whose
 * plaintext comes and goes by the same functions.
 */
#include "common.h"

#include <inttypes.h>
#include <kloop.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

/* From this size on a system call of its own is cheaper than to queue. */
#define LARGE_BYTES (32 * 1024)
#define HIGH_BYTES (64 * 1024)
#define KEEP_BYTES (64 * 1024 * 1024)

static struct kloop_loop *the_loop;
static struct kloop_tls_context *tls_context; /* NULL: no TLS */

struct connection {
	/* What on_alloc gave last, until a write has it. */
	void *memory;
	size_t bytes;
};

static void check(int result, const char *what)
{
	if (result < 0)
		kl_bench_die("%s: %s", what, kloop_strerror(result));
}

/* What goes wrong with one connection ends that one; -ESTALE says that it has ended already. */
static void check_stream(struct kloop_stream *stream, int result)
{
	if (result < 0)
		kloop_stream_abort(stream);
}

/* The number of the buffer travels in the owner pointer. */
static void release_buffer(void *owner, int status, void *user)
{
	(void)status;
	(void)user;
	kloop_stream_give_buffer(the_loop, (unsigned)(uintptr_t)owner);
}

/* Write what lies in a buffer of the pool, or a copy where it does not. */
static int echo(struct kloop_stream *stream, const void *data, size_t bytes)
{
	unsigned id;
	int result;

	if (kloop_stream_take_buffer(stream, &id) < 0)
		return kloop_stream_write(stream, data, bytes, NULL, NULL);
	result = kloop_stream_write(stream, data, bytes, release_buffer, (void *)(uintptr_t)id);
	if (result < 0)
		kloop_stream_give_buffer(the_loop, id);
	return result;
}

/* Memory for what TLS decrypts of large messages: it is lent to the write as it is. */
static int on_alloc(struct kloop_stream *stream, size_t suggested, void **ret_buffer,
		    size_t *ret_bytes, void *user)
{
	struct connection *connection = user;

	(void)stream;
	if (connection->memory != NULL && connection->bytes < suggested) {
		free(connection->memory);
		connection->memory = NULL;
	}
	if (connection->memory == NULL) {
		connection->memory = malloc(suggested);
		connection->bytes = suggested;
	}
	*ret_buffer = connection->memory;
	*ret_bytes = connection->bytes;
	return connection->memory != NULL ? 0 : -1;
}

static void release_memory(void *owner, int status, void *user)
{
	(void)status;
	(void)user;
	free(owner);
}

/* Write memory that on_alloc gave, which is the write's from here on. */
static int echo_memory(struct kloop_stream *stream, struct connection *connection, size_t bytes)
{
	void *memory = connection->memory;
	int result = kloop_stream_write(stream, memory, bytes, release_memory, memory);

	if (result == 0)
		connection->memory = NULL;
	return result;
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	struct connection *connection = user;
	int result = 0;

	if (data == connection->memory) {
		result = echo_memory(stream, connection, bytes);
	} else if (bytes < LARGE_BYTES) {
		result = echo(stream, data, bytes);
	} else {
		ptrdiff_t sent = kloop_stream_try_write(stream, data, bytes);

		if (sent < 0)
			return; /* on_error follows */
		if ((size_t)sent < bytes)
			result = kloop_stream_write(stream, (char *)data + sent,
						    bytes - (size_t)sent, NULL, NULL);
	}
	if (result == 0 && kloop_stream_get_write_bytes(stream) > HIGH_BYTES)
		result = kloop_stream_stop_read(stream);
	check_stream(stream, result);
}

static void on_drain(struct kloop_stream *stream, void *user)
{
	(void)user;
	check_stream(stream, kloop_stream_start_read(stream));
}

static void on_eof(struct kloop_stream *stream, void *user)
{
	(void)user;
	kloop_stream_close(stream);
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	(void)error;
	(void)user;
	kloop_stream_abort(stream);
}

static void on_stream_close(struct kloop_stream *stream, void *user)
{
	struct connection *connection = user;

	(void)stream;
	free(connection->memory);
	free(connection);
}

static const struct kloop_stream_handlers stream_handlers = {
	.size = sizeof(stream_handlers),
	.on_data = on_data,
	.on_eof = on_eof,
	.on_error = on_error,
	.on_drain = on_drain,
	.on_close = on_stream_close,
};

static const struct kloop_stream_handlers tls_handlers = {
	.size = sizeof(tls_handlers),
	.on_data = on_data,
	.on_alloc = on_alloc,
	.on_eof = on_eof,
	.on_error = on_error,
	.on_drain = on_drain,
	.on_close = on_stream_close,
};

static void on_accept(struct kloop_listener *listener, int fd, void *user)
{
	struct connection *connection = calloc(1, sizeof(*connection));
	struct kloop_stream *stream;
	struct kloop_tls *tls;

	(void)listener;
	(void)user;
	if (connection == NULL)
		kl_bench_die("out of memory");
	check(kloop_stream_new(the_loop, fd, 0, tls_context != NULL ? &tls_handlers : &stream_handlers,
			       connection, &stream),
	      "kloop_stream_new");
	if (tls_context != NULL) {
		check(kloop_tls_new(tls_context, &tls), "kloop_tls_new");
		check(kloop_tls_start(tls, stream, NULL), "kloop_tls_start");
	}
	check_stream(stream, kloop_stream_start_read(stream));
}

static void on_listener_error(struct kloop_listener *listener, int error, void *user)
{
	(void)listener;
	(void)user;
	fprintf(stderr, "accept: %s\n", kloop_strerror(error));
}

static void on_listener_close(struct kloop_listener *listener, void *user)
{
	(void)listener;
	(void)user;
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
	kloop_loop_stop(the_loop);
}

static struct kloop_loop *make_loop(const struct kl_bench_options *options)
{
	struct kloop_loop_options *loop_options;
	struct kloop_loop *loop;

	check(kloop_loop_options_new(&loop_options), "kloop_loop_options_new");
	if (options->sqpoll)
		check(kloop_loop_options_set_sqpoll(loop_options, true, 0, options->sqpoll_cpu),
		      "kloop_loop_options_set_sqpoll");
	check(kloop_loop_new(loop_options, &loop), "kloop_loop_new");
	kloop_loop_options_free(loop_options);
	return loop;
}

static void make_tls_context(const struct kl_bench_options *options)
{
	check(kloop_tls_context_new(KLOOP_TLS_SERVER, &tls_context), "kloop_tls_context_new");
	check(kloop_tls_context_set_versions(tls_context, KLOOP_TLS_1_3, 0), "versions");
	check(kloop_tls_context_load_certificate(tls_context, options->certificate, options->key),
	      options->certificate);
}

static void print_stats(const struct kloop_loop *loop)
{
	struct kloop_stats stats;

	check(kloop_loop_get_stats(loop, &stats, sizeof(stats)), "kloop_loop_get_stats");
	printf("{\"turns\": %" PRIu64 ", \"enters\": %" PRIu64 ", \"submissions\": %" PRIu64
	       ", \"completions\": %" PRIu64 ", \"buffers_empty\": %" PRIu64
	       ", \"direct_calls\": %" PRIu64 "}\n",
	       stats.turns, stats.enters, stats.submissions, stats.completions,
	       stats.buffers_empty, stats.direct_calls);
}

int main(int argc, char **argv)
{
	struct kl_bench_options options;
	struct kloop_listener *listener;
	struct kloop_signal *terminated;
	int fd;

	kl_bench_parse(argc, argv, &options);
	/* Without it glibc gives memory back and fetches it again for each large message. */
	mallopt(M_TRIM_THRESHOLD, KEEP_BYTES);
	the_loop = make_loop(&options);
	if (options.certificate != NULL)
		make_tls_context(&options);
	check(kloop_signal_new(the_loop, SIGTERM, on_signal, NULL, &terminated), "kloop_signal_new");
	fd = kl_bench_listen(&options);
	check(kloop_listener_new(the_loop, fd, 0, &listener_handlers, NULL, &listener),
	      "kloop_listener_new");
	check(kloop_loop_run(the_loop), "kloop_loop_run");
	if (options.stats)
		print_stats(the_loop);
	/* What is still open ends with the process; that is all this one serves for. */
	kloop_signal_free(terminated);
	kloop_tls_context_unref(tls_context);
	return 0;
}
