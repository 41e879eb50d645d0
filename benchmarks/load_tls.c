/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The load generator for TLS, on bare OpenSSL: load.c with TLS 1.3 below.
 *
 * --mode echo       As in load.c: one message per connection on its way. The
 *                   handshakes are over before anything is measured.
 * --mode handshake  Connections are opened, used for one message, and closed by
 *                   both sides; each with a full handshake.
 * --mode resume     The same, each resumed with a ticket of the one before.
 * --mode download   Each connection gets a file of --bytes over HTTP/1.1,
 *                   "GET /BYTES", and asks again when it has all of it.
 *
 * Certificates are not verified; signatures of handshakes are. The result is
 * one line of JSON on stdout, with version and cipher in it. Anything
 * unexpected ends with status 1: contents that differ while warming up, sizes
 * that differ later, a handshake that was resumed and should not be, or the
 * other way round.
 */
#include "client.h"
#include "common.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 512
#define HEADER_BYTES 512
#define HEADER_END "\r\n\r\n"

enum mode { MODE_ECHO, MODE_HANDSHAKE, MODE_RESUME, MODE_DOWNLOAD };

enum state {
	STATE_CONNECTING,
	STATE_HANDSHAKE,
	STATE_IDLE,
	STATE_EXCHANGE, /* a request or its answer is on its way */
	STATE_ENDING,   /* close_notify is sent; the server's end is awaited */
};

struct connection {
	int fd;
	enum state state;
	bool wants_write; /* what epoll was told */
	SSL *ssl;
	SSL_SESSION *session; /* the newest ticket */
	size_t sent;          /* bytes of the current request */
	size_t received;      /* and of its answer, without the header */
	size_t header_bytes;
	bool in_header;
	char header[HEADER_BYTES + 1];
	uint64_t messages; /* in the current phase */
};

/* A part of the work: what each connection does, and until when. */
struct phase {
	uint64_t messages;    /* at most, per connection */
	uint64_t deadline_ns; /* no message starts after it */
	bool verify;          /* compare contents, not sizes alone */
};

static struct kl_bench_load options;
static struct connection *connections;
static unsigned char *pattern;       /* the message, or the file */
static const unsigned char *request; /* what is sent */
static size_t request_bytes;
static unsigned char hot[KL_BENCH_HOT_BYTES] __attribute__((aligned(KL_BENCH_HOT_ALIGNMENT)));
static int epoll_fd;
static SSL_CTX *context;
static char cipher[100]; /* as JSON */

static void die_openssl(const char *what)
{
	char text[200] = "no more is known";
	unsigned long error = ERR_get_error();

	if (error != 0)
		ERR_error_string_n(error, text, sizeof(text));
	kl_bench_die("%s: %s", what, text);
}

static void watch(struct connection *connection, int how, bool write)
{
	struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0),
				    .data.ptr = connection};

	connection->wants_write = write;
	if (epoll_ctl(epoll_fd, how, connection->fd, &event) < 0)
		kl_bench_die("epoll_ctl: %s", strerror(errno));
}

/* Watch for room in the socket as well, or no longer. */
static void want_write(struct connection *connection, bool write)
{
	if (connection->wants_write != write)
		watch(connection, EPOLL_CTL_MOD, write);
}

/* A call to OpenSSL did not succeed: wait for what it wants, or die. */
static void want(struct connection *connection, int result, const char *what)
{
	int error = SSL_get_error(connection->ssl, result);

	if (error == SSL_ERROR_WANT_WRITE)
		want_write(connection, true);
	else if (error == SSL_ERROR_ZERO_RETURN)
		kl_bench_die("%s: the server ended a connection", what);
	else if (error == SSL_ERROR_SYSCALL && errno != 0)
		kl_bench_die("%s: %s", what, strerror(errno));
	else if (error != SSL_ERROR_WANT_READ)
		die_openssl(what);
}

/* The server gave a ticket; a connection keeps the newest. */
static int on_session(SSL *ssl, SSL_SESSION *session)
{
	struct connection *connection = SSL_get_app_data(ssl);

	SSL_SESSION_free(connection->session);
	connection->session = session;
	return 1;
}

static void make_context(void)
{
	context = SSL_CTX_new(TLS_client_method());
	if (context == NULL || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1)
		die_openssl("SSL_CTX_new");
	SSL_CTX_set_mode(context,
			 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_read_ahead(context, 1);
	SSL_CTX_set_default_read_buffer_len(context, 64 * 1024);
	SSL_CTX_set_session_cache_mode(context,
				       SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL_STORE);
	SSL_CTX_sess_set_new_cb(context, on_session);
}

/* Begin to connect; a ticket that is there is used up. */
static void connection_open(struct connection *connection)
{
	SSL_SESSION *session = options.mode == MODE_RESUME ? connection->session : NULL;

	connection->fd = kl_bench_connect(&options);
	connection->ssl = SSL_new(context);
	if (connection->ssl == NULL || SSL_set_fd(connection->ssl, connection->fd) != 1)
		die_openssl("SSL_new");
	SSL_set_app_data(connection->ssl, connection);
	SSL_set_connect_state(connection->ssl);
	if (session != NULL && SSL_set_session(connection->ssl, session) != 1)
		die_openssl("SSL_set_session");
	SSL_SESSION_free(connection->session);
	connection->session = NULL;
	connection->state = STATE_CONNECTING;
	watch(connection, EPOLL_CTL_ADD, true);
}

static void connection_close(struct connection *connection)
{
	SSL_free(connection->ssl);
	close(connection->fd);
}

/* Go on with the handshake; true when it is done. */
static bool connection_handshake(struct connection *connection)
{
	int result;

	if (connection->state == STATE_CONNECTING) {
		kl_bench_check_connected(connection->fd);
		want_write(connection, false);
		connection->state = STATE_HANDSHAKE;
	}
	result = SSL_do_handshake(connection->ssl);
	if (result != 1) {
		want(connection, result, "handshake");
		return false;
	}
	connection->state = STATE_IDLE;
	snprintf(cipher, sizeof(cipher), ", \"version\": \"%s\", \"cipher\": \"%s\"",
		 SSL_get_version(connection->ssl), SSL_get_cipher_name(connection->ssl));
	return true;
}

/* Send what the socket takes of the rest of the request. */
static void connection_send(struct connection *connection)
{
	while (connection->sent < request_bytes) {
		size_t sent = 0;
		int result = SSL_write_ex(connection->ssl, request + connection->sent,
					  request_bytes - connection->sent, &sent);

		if (result != 1) {
			want(connection, result, "write");
			return;
		}
		connection->sent += sent;
	}
	want_write(connection, false);
}

static void connection_begin(struct connection *connection)
{
	connection->state = STATE_EXCHANGE;
	connection->sent = 0;
	connection->received = 0;
	connection->header_bytes = 0;
	connection->in_header = options.mode == MODE_DOWNLOAD;
	connection_send(connection);
}

/* Take the header of an answer; returns how much of the data it was. */
static size_t take_header(struct connection *connection, const unsigned char *data, size_t bytes)
{
	size_t before = connection->header_bytes, room = HEADER_BYTES - before;
	char *header = connection->header, *end, *length;

	if (room == 0)
		kl_bench_die("the server's header is too long");
	memcpy(header + before, data, bytes < room ? bytes : room);
	connection->header_bytes += bytes < room ? bytes : room;
	header[connection->header_bytes] = 0;
	end = strstr(header, HEADER_END);
	if (end == NULL)
		return bytes < room ? bytes : room;
	length = strstr(header, "\r\nContent-Length: ");
	if (strncmp(header, "HTTP/1.1 200 ", 13) != 0 || length == NULL || length > end ||
	    strtoull(length + 18, NULL, 10) != options.bytes)
		kl_bench_die("the server answers with another header");
	connection->in_header = false;
	return (size_t)(end - header) + strlen(HEADER_END) - before;
}

static void take_data(struct connection *connection, const unsigned char *data, size_t bytes,
		      bool verify)
{
	size_t expected = options.mode == MODE_DOWNLOAD ? options.bytes : connection->sent;

	if (bytes > expected - connection->received)
		kl_bench_die("the answer is longer than what was asked for");
	if (verify && memcmp(data, pattern + connection->received, bytes) != 0)
		kl_bench_die("the answer's contents are wrong");
	connection->received += bytes;
}

/* Take what arrived; true when the answer is complete. */
static bool connection_receive(struct connection *connection, bool verify)
{
	while (connection->in_header || connection->received < options.bytes) {
		size_t received = 0, header = 0;
		int result = SSL_read_ex(connection->ssl, hot, sizeof(hot), &received);

		if (result != 1) {
			want(connection, result, "read");
			return false;
		}
		if (connection->in_header)
			header = take_header(connection, hot, received);
		if (received > header)
			take_data(connection, hot + header, received - header, verify);
	}
	return true;
}

static int wait_events(struct epoll_event *events)
{
	int count = epoll_wait(epoll_fd, events, EVENTS, -1);

	if (count < 0 && errno != EINTR)
		kl_bench_die("epoll_wait: %s", strerror(errno));
	return count < 0 ? 0 : count;
}

/* Open all connections, not all at once, and wait until their handshakes are done. */
static void open_connections(void)
{
	struct epoll_event events[EVENTS];
	unsigned next = 0, done = 0;

	while (done < options.connections) {
		while (next < options.connections && next - done < KL_BENCH_CONNECTING_AT_ONCE)
			connection_open(&connections[next++]);
		for (int i = 0, count = wait_events(events); i < count; i++) {
			struct connection *connection = events[i].data.ptr;

			/* After the handshake tickets come, which wait for the first answer. */
			if (connection->state == STATE_IDLE)
				continue;
			if (connection_handshake(connection))
				done++;
		}
	}
}

/* Run a phase over all connections; returns the number of messages. */
static uint64_t exchange(const struct phase *phase)
{
	struct epoll_event events[EVENTS];
	uint64_t messages = 0;
	unsigned busy = options.connections;

	for (unsigned i = 0; i < options.connections; i++) {
		connections[i].messages = 0;
		connection_begin(&connections[i]);
	}
	while (busy > 0) {
		int count = wait_events(events);
		/* One look at the clock per batch is precise enough. */
		uint64_t now = kl_bench_now_ns();

		for (int i = 0; i < count; i++) {
			struct connection *connection = events[i].data.ptr;

			if (connection->state != STATE_EXCHANGE)
				kl_bench_die("bytes came that nobody asked for");
			if (events[i].events & EPOLLOUT)
				connection_send(connection);
			if (!(events[i].events & ~(uint32_t)EPOLLOUT) ||
			    !connection_receive(connection, phase->verify))
				continue;
			messages++;
			connection->messages++;
			if (connection->messages < phase->messages && now < phase->deadline_ns) {
				connection_begin(connection);
			} else {
				connection->state = STATE_IDLE;
				busy--;
			}
		}
	}
	return messages;
}

/* After the end nothing may be left to read: the sizes were right. */
static void check_silence(void)
{
	for (unsigned i = 0; i < options.connections; i++) {
		int result = SSL_read(connections[i].ssl, hot, 1);

		if (SSL_get_error(connections[i].ssl, result) != SSL_ERROR_WANT_READ)
			kl_bench_die("the server sent more than its answer, or closed");
	}
}

static void run_exchange(void)
{
	struct phase warm_up = {options.warm_up, UINT64_MAX, true};
	struct phase measured = {UINT64_MAX, UINT64_MAX, false};
	uint64_t messages, started_ns, wall_ns, before_ns;

	open_connections();
	if (options.warm_up > 0)
		exchange(&warm_up);
	usleep(KL_BENCH_SETTLE_US);
	before_ns = kl_bench_server_cpu_ns(&options);
	started_ns = kl_bench_now_ns();
	if (options.messages > 0)
		measured.messages =
			(options.messages + options.connections - 1) / options.connections;
	else
		measured.deadline_ns = started_ns + (uint64_t)(options.seconds * 1e9);
	messages = exchange(&measured);
	wall_ns = kl_bench_now_ns() - started_ns;
	usleep(KL_BENCH_SETTLE_US);
	kl_bench_report("messages", messages, wall_ns,
			kl_bench_server_cpu_ns(&options) - before_ns, cipher);
	check_silence();
}

/* One step in the life of a connection of run_connections(); true when it is over. */
static bool connection_step(struct connection *connection, uint32_t events, bool resumed)
{
	if (connection->state == STATE_ENDING) {
		/* Whether its close_notify comes before its end is the server's affair. */
		ssize_t received = recv(connection->fd, hot, sizeof(hot), 0);

		if (received > 0 || (received < 0 && errno == EAGAIN))
			return false;
		connection_close(connection);
		return true;
	}
	if (connection->state != STATE_EXCHANGE) {
		if (!connection_handshake(connection))
			return false;
		if ((SSL_session_reused(connection->ssl) == 1) != resumed)
			kl_bench_die("a handshake was %s", resumed ? "not resumed" : "resumed");
		connection_begin(connection);
		return false;
	}
	if (events & EPOLLOUT)
		connection_send(connection);
	if (!(events & ~(uint32_t)EPOLLOUT) || !connection_receive(connection, true))
		return false;
	if (options.mode == MODE_RESUME && connection->session == NULL)
		kl_bench_die("the server gave no ticket");
	if (SSL_shutdown(connection->ssl) < 0)
		die_openssl("SSL_shutdown");
	connection->state = STATE_ENDING;
	return false;
}

/* Open, use and close connections until so many are done, or until then. */
static uint64_t connect_phase(uint64_t total, uint64_t deadline_ns, bool resumed)
{
	struct epoll_event events[EVENTS];
	uint64_t started = 0, done = 0;

	for (; started < options.connections && started < total; started++)
		connection_open(&connections[started]);
	while (done < started) {
		int count = wait_events(events);
		uint64_t now = kl_bench_now_ns();

		for (int i = 0; i < count; i++) {
			struct connection *connection = events[i].data.ptr;

			if (!connection_step(connection, events[i].events, resumed))
				continue;
			done++;
			if (started < total && now < deadline_ns) {
				connection_open(connection);
				started++;
			}
		}
	}
	return done;
}

static void run_connections(void)
{
	bool resumed = options.mode == MODE_RESUME;
	uint64_t total = options.messages > 0 ? options.messages : UINT64_MAX;
	uint64_t before_ns, started_ns, deadline_ns = UINT64_MAX, wall_ns, done;

	/* The first of each brings the ticket for the second. */
	connect_phase(options.connections, UINT64_MAX, false);
	usleep(KL_BENCH_SETTLE_US);
	before_ns = kl_bench_server_cpu_ns(&options);
	started_ns = kl_bench_now_ns();
	if (options.messages == 0)
		deadline_ns = started_ns + (uint64_t)(options.seconds * 1e9);
	done = connect_phase(total, deadline_ns, resumed);
	wall_ns = kl_bench_now_ns() - started_ns;
	usleep(KL_BENCH_SETTLE_US);
	kl_bench_report("connections", done, wall_ns,
			kl_bench_server_cpu_ns(&options) - before_ns, cipher);
}

int main(int argc, char **argv)
{
	static const char *const modes[] = {"echo", "handshake", "resume", "download"};
	static char get[100];

	kl_bench_load_parse(argc, argv, modes, sizeof(modes) / sizeof(modes[0]), &options);
	kl_bench_load_begin(&options);
	signal(SIGPIPE, SIG_IGN);
	make_context();
	connections = calloc(options.connections, sizeof(*connections));
	pattern = kl_bench_pattern_new(options.bytes);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (connections == NULL || epoll_fd < 0)
		kl_bench_die("cannot start: %s", strerror(errno));
	request = pattern;
	request_bytes = options.bytes;
	if (options.mode == MODE_DOWNLOAD) {
		request_bytes = (size_t)snprintf(get, sizeof(get),
						 "GET /%zu HTTP/1.1\r\nHost: localhost\r\n\r\n",
						 options.bytes);
		request = (const unsigned char *)get;
	}
	if (options.mode == MODE_ECHO || options.mode == MODE_DOWNLOAD)
		run_exchange();
	else
		run_connections();
	return 0;
}
