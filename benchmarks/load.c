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
#include "common.h"
#include "process.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 512
#define SECOND_NS UINT64_C(1000000000)
#define SETTLE_US 10000 /* the server comes to rest */
#define SOURCES 64          /* source addresses 127.0.0.2 and on */
#define CONNECTING_AT_ONCE 64 /* below every server's backlog */
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

static struct {
	enum mode mode;
	uint16_t port;
	unsigned connections;
	size_t bytes;
	double seconds;
	uint64_t messages; /* in sum; 0: as many as the seconds allow */
	unsigned warm_up;  /* messages per connection */
	pid_t pid;         /* 0: report no cost */
	int cpu;           /* -1: do not pin */
	unsigned timeout_s;
	const char *congestion;
} options = {
	.connections = 10,
	.bytes = 1024,
	.seconds = 1,
	.warm_up = 20,
	.cpu = -1,
	.timeout_s = 120,
	.congestion = "cubic",
};

static struct connection *connections;
static unsigned char *pattern; /* the message */
static unsigned char hot[KL_BENCH_HOT_BYTES] __attribute__((aligned(KL_BENCH_HOT_ALIGNMENT)));
static int epoll_fd;
static unsigned busy;
static unsigned opened; /* in all, to choose the source address */
static const char *congestion_used = "unknown";

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

static void watch(struct connection *connection, int how, bool write)
{
	struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0),
				    .data.ptr = connection};

	connection->wants_write = write;
	if (epoll_ctl(epoll_fd, how, connection->fd, &event) < 0)
		kl_bench_die("epoll_ctl: %s", strerror(errno));
}

/*
 * Begin to connect. The source address changes from one to the next, so that
 * ports in TIME_WAIT never run out.
 */
static void connection_open(struct connection *connection)
{
	struct sockaddr_in source = {.sin_family = AF_INET}, target = {.sin_family = AF_INET};
	int on = 1;

	memset(connection, 0, sizeof(*connection));
	source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + opened++ % SOURCES);
	target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	target.sin_port = htons(options.port);
	connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (connection->fd < 0 ||
	    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
	    setsockopt(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on)) < 0 ||
	    bind(connection->fd, (struct sockaddr *)&source, sizeof(source)) < 0)
		kl_bench_die("socket: %s", strerror(errno));
	congestion_used = kl_bench_set_congestion(connection->fd, options.congestion);
	if (connect(connection->fd, (struct sockaddr *)&target, sizeof(target)) < 0 &&
	    errno != EINPROGRESS)
		kl_bench_die("connect: %s", strerror(errno));
	connection->state = STATE_CONNECTING;
	watch(connection, EPOLL_CTL_ADD, true);
}

static void connection_check_connected(struct connection *connection)
{
	socklen_t bytes = sizeof(int);
	int error = 0;

	getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
	if (error != 0)
		kl_bench_die("connect: %s", strerror(error));
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
		while (next < last && next - done < CONNECTING_AT_ONCE)
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
	uint64_t messages = 0, now = now_ns();
	unsigned next = first;

	for (unsigned i = first; i < last; i++)
		connections[i].messages = 0;
	while (busy > 0 || next < last) {
		for (; next < last && busy < phase->at_once; next++, busy++)
			connection_begin(&connections[next]);
		int count = wait_events(events);

		/* One look at the clock per batch is precise enough. */
		now = now_ns();
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

static uint64_t cpu_ns(void)
{
	return options.pid != 0 ? kl_bench_process_cpu_ns(options.pid) : 0;
}

static void report(const char *unit, uint64_t count, uint64_t wall_ns, uint64_t spent_ns)
{
	printf("{\"%s\": %" PRIu64 ", \"wall_ns\": %" PRIu64 ", \"cpu_ns\": %" PRIu64
	       ", \"congestion\": \"%s\"}\n",
	       unit, count, wall_ns, spent_ns, congestion_used);
}

static void run_echo(void)
{
	struct phase warm_up = {options.warm_up, UINT64_MAX, UINT32_MAX, true};
	struct phase measured = {UINT64_MAX, UINT64_MAX, UINT32_MAX, false};
	uint64_t messages, started_ns, wall_ns, before_ns;

	open_connections(0, options.connections);
	if (options.warm_up > 0)
		exchange(0, options.connections, &warm_up);
	usleep(SETTLE_US);
	before_ns = cpu_ns();
	started_ns = now_ns();
	if (options.messages > 0)
		measured.messages =
			(options.messages + options.connections - 1) / options.connections;
	else
		measured.deadline_ns = started_ns + (uint64_t)(options.seconds * 1e9);
	messages = exchange(0, options.connections, &measured);
	wall_ns = now_ns() - started_ns;
	usleep(SETTLE_US);
	report("messages", messages, wall_ns, cpu_ns() - before_ns);
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

	usleep(SETTLE_US);
	before_ns = cpu_ns();
	now = started_ns = now_ns();
	deadline_ns = options.messages > 0 ? UINT64_MAX
					   : now + (uint64_t)(options.seconds * 1e9);
	for (; started < options.connections && started < total; started++)
		connection_open(&connections[started]);
	while (done < started) {
		int count = wait_events(events);

		now = now_ns();
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
	usleep(SETTLE_US);
	report("connections", done, now - started_ns, cpu_ns() - before_ns);
}

static void run_idle(void)
{
	/* One exchange on each, few at a time: memory of a burst is another matter. */
	struct phase once = {1, UINT64_MAX, 8, true};
	uint64_t before, after;

	if (options.pid == 0)
		kl_bench_die("--mode idle needs --pid");
	if (options.connections < IDLE_WARM_UP)
		kl_bench_die("--mode idle needs at least %d connections", IDLE_WARM_UP);
	open_connections(0, IDLE_WARM_UP);
	exchange(0, IDLE_WARM_UP, &once);
	close_connections(0, IDLE_WARM_UP);
	usleep(10 * SETTLE_US);
	before = kl_bench_process_rss_bytes(options.pid);
	open_connections(0, options.connections);
	exchange(0, options.connections, &once);
	usleep(10 * SETTLE_US);
	after = kl_bench_process_rss_bytes(options.pid);
	check_silence();
	printf("{\"connections\": %u, \"rss_before_bytes\": %" PRIu64
	       ", \"rss_after_bytes\": %" PRIu64 "}\n",
	       options.connections, before, after);
}

static double parse_seconds(const char *text)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end != 0 || !(seconds > 0 && seconds <= 3600))
		kl_bench_die("--seconds: \"%s\" is not a number up to 3600", text);
	return seconds;
}

static enum mode parse_mode(const char *text)
{
	static const char *const names[] = {"echo", "accept", "idle"};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(names[i], text) == 0)
			return (enum mode)i;
	}
	kl_bench_die("--mode is one of echo, accept, idle");
}

static void parse(int argc, char **argv)
{
	static const struct option names[] = {
		{"mode", required_argument, NULL, 'm'},
		{"port", required_argument, NULL, 'p'},
		{"connections", required_argument, NULL, 'c'},
		{"bytes", required_argument, NULL, 'b'},
		{"seconds", required_argument, NULL, 's'},
		{"messages", required_argument, NULL, 'n'},
		{"warm-up", required_argument, NULL, 'w'},
		{"pid", required_argument, NULL, 'i'},
		{"cpu", required_argument, NULL, 'u'},
		{"congestion", required_argument, NULL, 'g'},
		{"timeout", required_argument, NULL, 't'},
		{NULL, 0, NULL, 0},
	};
	int which, at = 0;

	while ((which = getopt_long(argc, argv, "", names, &at)) != -1) {
		const char *name = names[at].name;

		if (which == 'm')
			options.mode = parse_mode(optarg);
		else if (which == 'p')
			options.port = (uint16_t)kl_bench_number(name, optarg, 1, 65535);
		else if (which == 'c')
			options.connections = (unsigned)kl_bench_number(name, optarg, 1, 1000000);
		else if (which == 'b')
			options.bytes = kl_bench_number(name, optarg, 1, 1 << 30);
		else if (which == 's')
			options.seconds = parse_seconds(optarg);
		else if (which == 'n')
			options.messages = kl_bench_number(name, optarg, 1, UINT32_MAX);
		else if (which == 'w')
			options.warm_up = (unsigned)kl_bench_number(name, optarg, 0, 1000000);
		else if (which == 'i')
			options.pid = (pid_t)kl_bench_number(name, optarg, 1, INT32_MAX);
		else if (which == 'u')
			options.cpu = (int)kl_bench_number(name, optarg, 0, CPU_SETSIZE - 1);
		else if (which == 'g')
			options.congestion = optarg;
		else if (which == 't')
			options.timeout_s = (unsigned)kl_bench_number(name, optarg, 1, 86400);
		else
			exit(2);
	}
	if (options.port == 0 || optind != argc)
		kl_bench_die("usage: --port N [--mode echo|accept|idle] [--connections N] "
			     "[--bytes N] [--seconds S | --messages N] [--warm-up N] [--pid N] "
			     "[--cpu N] [--congestion NAME] [--timeout SECONDS]");
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	if (options.cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(options.cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set) < 0)
			kl_bench_die("processor %d: %s", options.cpu, strerror(errno));
	}
	alarm(options.timeout_s); /* a server that hangs must not hang us */
	kl_bench_raise_descriptors();
	connections = calloc(options.connections, sizeof(*connections));
	if (posix_memalign((void **)&pattern, KL_BENCH_HOT_ALIGNMENT, options.bytes) != 0)
		pattern = NULL;
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (connections == NULL || pattern == NULL || epoll_fd < 0)
		kl_bench_die("cannot start: %s", strerror(errno));
	for (size_t i = 0; i < options.bytes; i++)
		pattern[i] = (unsigned char)(i * 31 + (i >> 8) * 17);
	if (options.mode == MODE_ECHO)
		run_echo();
	else if (options.mode == MODE_ACCEPT)
		run_accept();
	else
		run_idle();
	return 0;
}
