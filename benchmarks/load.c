/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The load generator: it talks to an echo server over many connections,
 * verifies what comes back, and reports what the server spent.
 *
 * --mode echo    Each connection sends a message, waits for the whole echo and
 *                sends the next. After a warm-up, in which contents are
 *                compared, the measured part starts with everything quiet and
 *                ends so, and the server's processor time is read at both
 *                points: no start-up and no half message is in it.
 * --mode accept  Connections are opened, used for one message, shut down and
 *                closed by both sides.
 * --mode idle    Connections are opened and used for one message; the growth
 *                of the server's resident memory is reported.
 *
 * The result is one line of JSON on stdout. Anything unexpected (an echo too
 * long, a reset, a server that does not answer) ends with status 1.
 */
#include "client.h"
#include "common.h"
#include "process.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 512
#define IDLE_WARM_UP 32

enum mode { MODE_ECHO, MODE_ACCEPT, MODE_IDLE };

enum state {
	STATE_CONNECTING,
	STATE_IDLE,
	STATE_EXCHANGE, /* a message is on its way there or back */
	STATE_ENDING,   /* our direction is shut; the server's end is awaited */
};

struct connection {
	int fd;
	enum state state;
	bool wants_write; /* what epoll was told */
	size_t sent;      /* bytes of the current message */
	size_t received;
	uint64_t messages; /* in the current phase */
};

/* A part of the work: what each connection does, and until when. */
struct phase {
	uint64_t messages;    /* at most, per connection */
	uint64_t deadline_ns; /* no message starts after it */
	unsigned at_once;     /* connections busy at the same time */
	bool verify;          /* compare contents, not sizes alone */
};

static struct kl_bench_load options;
static struct connection *connections;
static unsigned char *pattern; /* the message */
static unsigned char hot[KL_BENCH_HOT_BYTES] __attribute__((aligned(KL_BENCH_HOT_ALIGNMENT)));
static int epoll_fd;
static unsigned busy;

static void watch(struct connection *connection, int how, bool write)
{
	struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0),
				    .data.ptr = connection};

	connection->wants_write = write;
	if (epoll_ctl(epoll_fd, how, connection->fd, &event) < 0)
		kl_bench_die("epoll_ctl: %s", strerror(errno));
}

static void connection_open(struct connection *connection)
{
	memset(connection, 0, sizeof(*connection));
	connection->fd = kl_bench_connect(&options);
	connection->state = STATE_CONNECTING;
	watch(connection, EPOLL_CTL_ADD, true);
}

static void connection_check_connected(struct connection *connection)
{
	kl_bench_check_connected(connection->fd);
	connection->state = STATE_IDLE;
}

/* Send what the socket takes of the rest of the message. */
static void connection_send(struct connection *connection)
{
	ssize_t sent = send(connection->fd, pattern + connection->sent,
			    options.bytes - connection->sent, MSG_NOSIGNAL);

	if (sent < 0 && errno != EAGAIN)
		kl_bench_die("send: %s", strerror(errno));
	if (sent > 0)
		connection->sent += (size_t)sent;
	if ((connection->sent < options.bytes) != connection->wants_write)
		watch(connection, EPOLL_CTL_MOD, !connection->wants_write);
}

static void connection_begin(struct connection *connection)
{
	connection->state = STATE_EXCHANGE;
	connection->sent = 0;
	connection->received = 0;
	connection_send(connection);
}

/*
 * Take what arrived; true when the echo is complete. Without comparing, the
 * kernel drops the bytes (MSG_TRUNC), which keeps this side light.
 */
static bool connection_receive(struct connection *connection, bool verify)
{
	ssize_t received = recv(connection->fd, hot, sizeof(hot), verify ? 0 : MSG_TRUNC);

	if (received < 0 && errno == EAGAIN)
		return false;
	if (received <= 0)
		kl_bench_die("the server ended a connection: %s",
			     received < 0 ? strerror(errno) : "end of file");
	if ((size_t)received > connection->sent - connection->received)
		kl_bench_die("the echo is longer than what was sent");
	if (verify && memcmp(hot, pattern + connection->received, (size_t)received) != 0)
		kl_bench_die("the echo differs from what was sent");
	connection->received += (size_t)received;
	return connection->received == options.bytes;
}

static int wait_events(struct epoll_event *events)
{
	int count = epoll_wait(epoll_fd, events, EVENTS, -1);

	if (count < 0 && errno != EINTR)
		kl_bench_die("epoll_wait: %s", strerror(errno));
	return count < 0 ? 0 : count;
}

/* Open connections first to last - 1, not all at once, and wait until they stand. */
static void open_connections(unsigned first, unsigned last)
{
	struct epoll_event events[EVENTS];
	unsigned next = first, done = first;

	while (done < last) {
		while (next < last && next - done < KL_BENCH_CONNECTING_AT_ONCE)
			connection_open(&connections[next++]);
		for (int i = 0, count = wait_events(events); i < count; i++, done++) {
			struct connection *connection = events[i].data.ptr;

			connection_check_connected(connection);
			watch(connection, EPOLL_CTL_MOD, false);
		}
	}
}

static void close_connections(unsigned first, unsigned last)
{
	for (unsigned i = first; i < last; i++)
		close(connections[i].fd);
}

/* Run a phase over the connections first to last - 1; returns the number of messages. */
static uint64_t exchange(unsigned first, unsigned last, const struct phase *phase)
{
	struct epoll_event events[EVENTS];
	uint64_t messages = 0, now = kl_bench_now_ns();
	unsigned next = first;

	for (unsigned i = first; i < last; i++)
		connections[i].messages = 0;
	while (busy > 0 || next < last) {
		for (; next < last && busy < phase->at_once; next++, busy++)
			connection_begin(&connections[next]);
		int count = wait_events(events);

		/* One look at the clock per batch is precise enough. */
		now = kl_bench_now_ns();
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
		ssize_t received = recv(connections[i].fd, hot, 1, 0);

		if (received >= 0 || errno != EAGAIN)
			kl_bench_die("the server sent more than its echo, or closed");
	}
}

static void run_echo(void)
{
	struct phase warm_up = {options.warm_up, UINT64_MAX, UINT32_MAX, true};
	struct phase measured = {UINT64_MAX, UINT64_MAX, UINT32_MAX, false};
	uint64_t messages, started_ns, wall_ns, before_ns;

	open_connections(0, options.connections);
	if (options.warm_up > 0)
		exchange(0, options.connections, &warm_up);
	usleep(KL_BENCH_SETTLE_US);
	before_ns = kl_bench_server_cpu_ns(&options);
	started_ns = kl_bench_now_ns();
	if (options.messages > 0)
		measured.messages =
			(options.messages + options.connections - 1) / options.connections;
	else
		measured.deadline_ns = started_ns + (uint64_t)(options.seconds * 1e9);
	messages = exchange(0, options.connections, &measured);
	wall_ns = kl_bench_now_ns() - started_ns;
	usleep(KL_BENCH_SETTLE_US);
	kl_bench_report("messages", messages, wall_ns, kl_bench_server_cpu_ns(&options) - before_ns, "");
	check_silence();
}

/* One step in the life of a connection of run_accept(); true when it is over. */
static bool accept_step(struct connection *connection, uint32_t events)
{
	if (connection->state == STATE_CONNECTING) {
		connection_check_connected(connection);
		connection_begin(connection);
		return false;
	}
	if (connection->state == STATE_ENDING) {
		if (recv(connection->fd, hot, 1, 0) != 0)
			kl_bench_die("the server did not end the connection");
		close(connection->fd);
		return true;
	}
	if (events & EPOLLOUT)
		connection_send(connection);
	if ((events & ~(uint32_t)EPOLLOUT) && connection_receive(connection, false)) {
		shutdown(connection->fd, SHUT_WR);
		connection->state = STATE_ENDING;
	}
	return false;
}

static void run_accept(void)
{
	struct epoll_event events[EVENTS];
	uint64_t total = options.messages > 0 ? options.messages : UINT64_MAX;
	uint64_t before_ns, started_ns, deadline_ns, now, started = 0, done = 0;

	usleep(KL_BENCH_SETTLE_US);
	before_ns = kl_bench_server_cpu_ns(&options);
	now = started_ns = kl_bench_now_ns();
	deadline_ns = options.messages > 0 ? UINT64_MAX
					   : now + (uint64_t)(options.seconds * 1e9);
	for (; started < options.connections && started < total; started++)
		connection_open(&connections[started]);
	while (done < started) {
		int count = wait_events(events);

		now = kl_bench_now_ns();
		for (int i = 0; i < count; i++) {
			struct connection *connection = events[i].data.ptr;

			if (!accept_step(connection, events[i].events))
				continue;
			done++;
			if (started < total && now < deadline_ns) {
				connection_open(connection);
				started++;
			}
		}
	}
	usleep(KL_BENCH_SETTLE_US);
	kl_bench_report("connections", done, now - started_ns,
			kl_bench_server_cpu_ns(&options) - before_ns, "");
}

static void run_idle(void)
{
	/* One exchange on each, few at a time: memory of a burst is another matter. */
	struct phase once = {1, UINT64_MAX, 8, true};
	uint64_t before, after;

	if (options.pid_count != 1)
		kl_bench_die("--mode idle needs --pid once");
	if (options.connections < IDLE_WARM_UP)
		kl_bench_die("--mode idle needs at least %d connections", IDLE_WARM_UP);
	open_connections(0, IDLE_WARM_UP);
	exchange(0, IDLE_WARM_UP, &once);
	close_connections(0, IDLE_WARM_UP);
	usleep(10 * KL_BENCH_SETTLE_US);
	before = kl_bench_process_rss_bytes(options.pids[0]);
	open_connections(0, options.connections);
	exchange(0, options.connections, &once);
	usleep(10 * KL_BENCH_SETTLE_US);
	after = kl_bench_process_rss_bytes(options.pids[0]);
	check_silence();
	printf("{\"connections\": %u, \"rss_before_bytes\": %" PRIu64
	       ", \"rss_after_bytes\": %" PRIu64 "}\n",
	       options.connections, before, after);
}

int main(int argc, char **argv)
{
	static const char *const modes[] = {"echo", "accept", "idle"};

	kl_bench_load_parse(argc, argv, modes, sizeof(modes) / sizeof(modes[0]), &options);
	kl_bench_load_begin(&options);
	connections = calloc(options.connections, sizeof(*connections));
	pattern = kl_bench_pattern_new(options.bytes);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (connections == NULL || epoll_fd < 0)
		kl_bench_die("cannot start: %s", strerror(errno));
	if (options.mode == MODE_ECHO)
		run_echo();
	else if (options.mode == MODE_ACCEPT)
		run_accept();
	else
		run_idle();
	return 0;
}
