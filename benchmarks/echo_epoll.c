/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * An echo server on bare epoll: the floor that a lean C server reaches without
 * io_uring. Level-triggered; one recv(2) and one send(2) per message; while a
 * peer does not take its echo, nothing is read from it.
 */
#include "common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 512

struct connection {
	int fd;
	/* What the socket did not take; allocated while there is any. */
	char *rest;
	size_t rest_bytes;
	size_t rest_sent;
};

static char hot[KL_BENCH_HOT_BYTES] __attribute__((aligned(KL_BENCH_HOT_ALIGNMENT)));
static int epoll_fd;

static void watch(struct connection *connection, int how, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = connection};

	if (epoll_ctl(epoll_fd, how, connection->fd, &event) < 0)
		kl_bench_die("epoll_ctl: %s", strerror(errno));
}

static void connection_close(struct connection *connection)
{
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

static void on_readable(struct connection *connection)
{
	ssize_t received = recv(connection->fd, hot, sizeof(hot), 0);
	ssize_t sent;

	if (received < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (received <= 0) {
		connection_close(connection);
		return;
	}
	sent = send(connection->fd, hot, (size_t)received, MSG_NOSIGNAL);
	if (sent < 0 && errno == EAGAIN)
		sent = 0;
	if (sent < 0)
		connection_close(connection);
	else if (sent < received)
		keep_rest(connection, hot + sent, (size_t)(received - sent));
}

static void on_writable(struct connection *connection)
{
	ssize_t sent = send(connection->fd, connection->rest + connection->rest_sent,
			    connection->rest_bytes - connection->rest_sent, MSG_NOSIGNAL);

	if (sent < 0) {
		if (errno != EAGAIN && errno != EINTR)
			connection_close(connection);
		return;
	}
	connection->rest_sent += (size_t)sent;
	if (connection->rest_sent == connection->rest_bytes) {
		free(connection->rest);
		connection->rest = NULL;
		watch(connection, EPOLL_CTL_MOD, EPOLLIN);
	}
}

int main(int argc, char **argv)
{
	static struct epoll_event events[EVENTS];
	struct kl_bench_options options;
	struct connection listener = {.fd = -1};

	kl_bench_parse(argc, argv, &options);
	if (options.sqpoll || options.stats)
		kl_bench_die("--sqpoll and --stats are for echo_kloop");
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
