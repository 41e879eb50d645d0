/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * An echo server over TLS on bare epoll and OpenSSL: SSL_read and SSL_write on
 * the socket, as OpenSSL's manual shows it. While a peer does not take its
 * echo, nothing is read from it.
 */
#include "common.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 512

struct connection {
	int fd;
	SSL *ssl;
	/* What the socket did not take; allocated while there is any. */
	char *rest;
	size_t rest_bytes;
	size_t rest_sent;
};

static char hot[KL_BENCH_HOT_BYTES] __attribute__((aligned(KL_BENCH_HOT_ALIGNMENT)));
static int epoll_fd;
static SSL_CTX *context;

static void watch(struct connection *connection, int how, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = connection};

	if (epoll_ctl(epoll_fd, how, connection->fd, &event) < 0)
		kl_bench_die("epoll_ctl: %s", strerror(errno));
}

/* Say goodbye if that is still possible, and end. */
static void connection_close(struct connection *connection)
{
	SSL_shutdown(connection->ssl);
	ERR_clear_error();
	SSL_free(connection->ssl);
	close(connection->fd); /* which takes it out of the epoll set */
	free(connection->rest);
	free(connection);
}

/* Take every connection that waits. */
static void accept_all(int listener)
{
	struct connection *connection;
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		connection = calloc(1, sizeof(*connection));
		if (connection == NULL)
			kl_bench_die("out of memory");
		connection->fd = fd;
		connection->ssl = SSL_new(context);
		if (connection->ssl == NULL || SSL_set_fd(connection->ssl, fd) != 1)
			kl_bench_die("out of memory");
		SSL_set_accept_state(connection->ssl);
		watch(connection, EPOLL_CTL_ADD, EPOLLIN);
	}
	if (errno != EAGAIN && errno != ECONNABORTED)
		kl_bench_die("accept: %s", strerror(errno));
}

/* Keep what was not sent, and wait for room instead of for data. */
static void keep_rest(struct connection *connection, const char *data, size_t bytes)
{
	connection->rest = malloc(bytes);
	if (connection->rest == NULL)
		kl_bench_die("out of memory");
	memcpy(connection->rest, data, bytes);
	connection->rest_bytes = bytes;
	connection->rest_sent = 0;
	watch(connection, EPOLL_CTL_MOD, EPOLLOUT);
}

/*
 * Did a call fail for good? Handshakes are small and this server sends no
 * message but after reading one, so that to want to write here means to have
 * no room for an echo.
 */
static bool is_over(struct connection *connection, int result)
{
	int error = SSL_get_error(connection->ssl, result);

	return error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE;
}

/* Write as much as the socket takes; false if the connection is broken. */
static bool write_some(struct connection *connection, const char *data, size_t bytes,
		       size_t *ret_written)
{
	size_t written = 0;

	while (written < bytes) {
		size_t one = 0;
		int result = SSL_write_ex(connection->ssl, data + written, bytes - written, &one);

		if (result != 1 && is_over(connection, result))
			return false;
		if (result != 1)
			break;
		written += one;
	}
	*ret_written = written;
	return true;
}

/* Echo all that is there, record by record. */
static void on_readable(struct connection *connection)
{
	for (;;) {
		size_t received, sent;
		int result = SSL_read_ex(connection->ssl, hot, sizeof(hot), &received);

		if (result != 1) {
			if (is_over(connection, result))
				connection_close(connection);
			return;
		}
		if (!write_some(connection, hot, received, &sent)) {
			connection_close(connection);
			return;
		}
		if (sent < received) {
			keep_rest(connection, hot + sent, received - sent);
			return;
		}
		if (!SSL_has_pending(connection->ssl))
			return;
	}
}

static void on_writable(struct connection *connection)
{
	size_t sent;

	if (!write_some(connection, connection->rest + connection->rest_sent,
			connection->rest_bytes - connection->rest_sent, &sent)) {
		connection_close(connection);
		return;
	}
	connection->rest_sent += sent;
	if (connection->rest_sent < connection->rest_bytes)
		return;
	free(connection->rest);
	connection->rest = NULL;
	watch(connection, EPOLL_CTL_MOD, EPOLLIN);
	on_readable(connection); /* OpenSSL may hold what epoll does not know of */
}

static void make_context(const struct kl_bench_options *options)
{
	if (options->certificate == NULL || options->key == NULL)
		kl_bench_die("--certificate and --key are needed");
	context = SSL_CTX_new(TLS_server_method());
	if (context == NULL || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_use_certificate_chain_file(context, options->certificate) != 1 ||
	    SSL_CTX_use_PrivateKey_file(context, options->key, SSL_FILETYPE_PEM) != 1)
		kl_bench_die("cannot use %s and %s", options->certificate, options->key);
	SSL_CTX_set_mode(context,
			 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	/* One recv(2) for header and body of a record, and for several records. */
	SSL_CTX_set_read_ahead(context, 1);
	SSL_CTX_set_default_read_buffer_len(context, 64 * 1024);
}

int main(int argc, char **argv)
{
	static struct epoll_event events[EVENTS];
	struct kl_bench_options options;
	struct connection listener = {.fd = -1};

	kl_bench_parse(argc, argv, &options);
	if (options.sqpoll || options.stats)
		kl_bench_die("--sqpoll and --stats are for echo_kloop");
	make_context(&options);
	signal(SIGPIPE, SIG_IGN);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0)
		kl_bench_die("epoll_create1: %s", strerror(errno));
	listener.fd = kl_bench_listen(&options);
	watch(&listener, EPOLL_CTL_ADD, EPOLLIN);
	for (;;) {
		int count = epoll_wait(epoll_fd, events, EVENTS, -1);

		if (count < 0 && errno != EINTR)
			kl_bench_die("epoll_wait: %s", strerror(errno));
		for (int i = 0; i < count; i++) {
			struct connection *connection = events[i].data.ptr;

			if (connection == &listener)
				accept_all(listener.fd);
			else if (connection->rest != NULL)
				on_writable(connection);
			else
				on_readable(connection);
		}
	}
}
