/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The life of streams: connect, echo, half-close, reset; and what is refused. */
#include "streams.h"

#include "ports.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Loop tests run over all modes with all kinds of sockets. */
#define ALL (KT_MODES * KT_KINDS)
#define MODE(i) ((i) / KT_KINDS)
#define KIND(i) ((i) % KT_KINDS)

/* ---- echo ------------------------------------------------------------- */

static void echo(struct kt_stream *self, enum kt_event event, const void *data, size_t bytes)
{
	if (event == KT_ON_DATA)
		kt_stream_put(self, data, bytes);
	if (event == KT_ON_EOF)
		kloop_stream_close(self->stream);
}

START_TEST(echo_all_modes)
{
	static const size_t sizes[] = { 1, 100, 255, 256, 1024, 16383, 16384, 100000, 7, 300000, 1 };
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	struct kt_stream client, server;
	static unsigned char message[300000];
	size_t sent = 0;
	int fds[2];

	kt_pair(KIND(_i), fds);
	kt_stream_open(&client, loop, fds[0], 0);
	kt_stream_open(&server, loop, fds[1], 0);
	client.keep = true;
	server.then = echo;
	kt_stream_start(&client);
	kt_stream_start(&server);
	for (size_t i = 0; i < KT_COUNT(sizes); i++) {
		/* Several round trips of each size, so that the mode of reading changes. */
		for (int round = 0; round < 12; round++) {
			kt_fill(message, sizes[i], sent);
			kt_stream_put(&client, message, sizes[i]);
			sent += sizes[i];
			kt_stream_await(&client, sent);
		}
	}
	ck_assert_uint_eq(client.received, sent);
	ck_assert(kt_is_fill(client.data, sent, 0));
	ck_assert_int_eq(client.count[KT_ON_EOF], 0);
	kt_stream_end(&client);
	kt_turn_until(loop, &server.count[KT_ON_CLOSE], 1);
	ck_assert_int_eq(server.count[KT_ON_EOF], 1);
	ck_assert_uint_eq(KT_STAT(loop, in_flight), 0);
	kt_loop_free(loop);
}
END_TEST

START_TEST(pipe_all_modes)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kt_stream reader, writer;
	static unsigned char message[300000];
	int fds[2];

	kt_pipe(fds);
	kt_stream_open(&reader, loop, fds[0], KLOOP_STREAM_PIPE);
	kt_stream_open(&writer, loop, fds[1], KLOOP_STREAM_PIPE);
	reader.keep = true;
	kt_stream_start(&reader);
	kt_fill(message, sizeof(message), 0);
	/* More than a pipe holds, in one and in several segments. */
	kt_stream_put(&writer, message, sizeof(message));
	kt_stream_await(&reader, sizeof(message));
	for (size_t at = 0; at < sizeof(message); at += 30000)
		kt_stream_put(&writer, message + at, 30000);
	ck_assert_int_eq(kloop_stream_shutdown(writer.stream), -EOPNOTSUPP);
	kloop_stream_close(writer.stream);
	kt_turn_until(loop, &reader.count[KT_ON_EOF], 1);
	ck_assert_uint_eq(reader.received, 2 * sizeof(message));
	ck_assert(kt_is_fill(reader.data, sizeof(message), 0));
	ck_assert(kt_is_fill(reader.data + sizeof(message), sizeof(message), 0));
	kt_stream_end(&writer);
	kt_stream_end(&reader);
	kt_loop_free(loop);
}
END_TEST

/* The writing end of a pipe learns that the reader left. */
START_TEST(pipe_reader_leaves)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kt_stream writer;
	int fds[2];

	kt_pipe(fds);
	kt_stream_open(&writer, loop, fds[1], KLOOP_STREAM_PIPE);
	kt_stream_start(&writer);
	kt_turn_for(loop, 10);
	ck_assert_int_eq(writer.count[KT_ON_EOF], 0);
	kt_close(fds[0]);
	kt_turn_until(loop, &writer.count[KT_ON_EOF], 1);
	kt_stream_end(&writer);
	kt_loop_free(loop);
}
END_TEST

START_TEST(pipe_breaks)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	static char block[200000];
	struct kt_stream writer;
	struct kt_lent lent[2];
	int fds[2];

	signal(SIGPIPE, SIG_IGN);
	kt_pipe(fds);
	kt_stream_open(&writer, loop, fds[1], KLOOP_STREAM_PIPE);
	kt_lend(&writer, &lent[0], block, sizeof(block)); /* more than it holds */
	kt_turn_for(loop, 10);
	kt_lend(&writer, &lent[1], block, 1);
	ck_assert_int_eq(lent[0].released, 0);
	kt_close(fds[0]);
	kt_turn_until(loop, &writer.count[KT_ON_ERROR], 1);
	ck_assert_int_eq(writer.error, -EPIPE);
	ck_assert_int_eq(lent[0].status, -EPIPE);
	ck_assert_int_eq(lent[1].status, -EPIPE);
	kt_stream_end(&writer);
	kt_loop_free(loop);
}
END_TEST

/* ---- connect ---------------------------------------------------------- */

static void tcp_address(uint16_t port, struct kloop_address *ret_address)
{
	ck_assert_int_eq(kloop_address_parse("127.0.0.1", port, ret_address), 0);
}

START_TEST(connect_tcp)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kloop_address address;
	struct kt_stream client;
	char text[8];
	uint16_t port;
	int listener = kt_listen(4, &port), peer, on = 0;
	socklen_t length = sizeof(on);

	tcp_address(port, &address);
	kt_stream_connect(&client, loop, &address);
	memset(&address, 0, sizeof(address)); /* it was copied */
	client.keep = true;
	/* Before the connection stands: queued, and read when it does. */
	kt_stream_start(&client);
	kt_stream_put(&client, "early", 5);
	ck_assert_int_eq(kloop_stream_try_write(client.stream, "x", 1), 0);
	ck_assert_uint_eq(kloop_stream_get_write_bytes(client.stream), 5);
	ck_assert_int_eq(kloop_stream_shutdown(client.stream), 0);
	kt_turn_until(loop, &client.count[KT_ON_CONNECT], 1);
	ck_assert_int_eq(client.connect_result, 0);
	ck_assert_int_eq(getsockopt(kloop_stream_get_fd(client.stream), IPPROTO_TCP, TCP_NODELAY,
				    &on, &length), 0);
	ck_assert_int_ne(on, 0);
	peer = accept(listener, NULL, NULL);
	ck_assert_int_ge(peer, 0);
	ck_assert_uint_eq(kt_turn_read(loop, peer, text, sizeof(text)), 5);
	ck_assert_mem_eq(text, "early", 5);
	kt_write_all(peer, "hello", 5);
	kt_stream_await(&client, 5);
	ck_assert_mem_eq(client.data, "hello", 5);
	kt_close(peer);
	kt_close(listener);
	kt_stream_end(&client);
	kt_loop_free(loop);
}
END_TEST

START_TEST(connect_local)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kloop_address address;
	struct kt_stream client;
	char name[40], text[3];
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), peer;

	name[0] = '\0';
	snprintf(name + 1, sizeof(name) - 1, "kloop-test-%d", (int)getpid());
	ck_assert_int_eq(kloop_address_set_local(name, 1 + strlen(name + 1), &address), 0);
	ck_assert_int_eq(bind(listener, &address.u.any, address.length), 0);
	ck_assert_int_eq(listen(listener, 4), 0);
	kt_stream_connect(&client, loop, &address);
	kt_stream_put(&client, "abc", 3);
	/* Close sends what is queued, also before the connection stands. */
	kt_stream_end(&client);
	ck_assert_int_eq(client.count[KT_ON_CONNECT], 0);
	peer = accept(listener, NULL, NULL);
	kt_read_all(peer, text, 3);
	ck_assert_mem_eq(text, "abc", 3);
	ck_assert_int_eq(read(peer, text, 1), 0);
	kt_close(peer);
	kt_close(listener);
	kt_loop_free(loop);
}
END_TEST

START_TEST(connect_refused)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kloop_address address;
	struct kt_stream client;
	struct kt_lent lent;
	int before;

	kt_free_address("127.0.0.1", &address);
	before = kt_fd_count();
	kt_stream_connect(&client, loop, &address);
	kt_stream_start(&client);
	kt_lend(&client, &lent, "lost", 4);
	kt_turn_until(loop, &client.count[KT_ON_CONNECT], 1);
	ck_assert_int_eq(client.connect_result, -ECONNREFUSED);
	ck_assert_int_eq(lent.released, 1);
	ck_assert_int_eq(lent.status, -ECONNREFUSED);
	kt_turn_for(loop, 5);
	ck_assert_int_eq(client.count[KT_ON_ERROR], 0);
	ck_assert_int_eq(kloop_stream_write(client.stream, "x", 1, NULL, NULL), -ESTALE);
	ck_assert_int_eq(kloop_stream_start_read(client.stream), -ESTALE);
	kt_stream_end(&client);
	ck_assert_int_eq(kt_fd_count(), before);
	kt_loop_free(loop);
}
END_TEST

static void note_error(struct kloop_stream *stream, int error, void *user)
{
	(void)stream;
	*(int *)user = error;
}

static void note_close(struct kloop_stream *stream, void *user)
{
	(void)stream;
	(void)user;
}

/* Who has no on_connect is told by on_error. */
START_TEST(connect_refused_without_on_connect)
{
	static const struct kloop_stream_handlers handlers = {
		.size = sizeof(handlers),
		.on_error = note_error,
		.on_close = note_close,
	};
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kloop_address address;
	struct kloop_stream *stream;
	int error = 0;

	kt_free_address("127.0.0.1", &address);
	ck_assert_int_eq(kloop_stream_connect(loop, &address, &handlers, &error, &stream), 0);
	while (error == 0)
		ck_assert_int_ge(kloop_loop_turn(loop, 1000 * KT_MS), 0);
	ck_assert_int_eq(error, -ECONNREFUSED);
	kloop_stream_close(stream);
	kt_loop_free(loop);
}
END_TEST

START_TEST(connect_given_up)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kloop_address address;
	struct kt_stream client[3];
	struct kt_lent lent[2];
	int fillers[4];
	uint16_t port;
	int listener = kt_full_listener(&port, fillers);

	tcp_address(port, &address);
	for (int i = 0; i < 3; i++)
		kt_stream_connect(&client[i], loop, &address);
	kt_lend(&client[1], &lent[0], "lost", 4);
	kt_lend(&client[2], &lent[1], "kept until the abort", 20);
	kt_turn_for(loop, 20);
	ck_assert_int_eq(client[0].count[KT_ON_CONNECT], 0);
	kt_stream_end(&client[0]);   /* nothing queued: at once */
	kt_stream_abort(&client[1]); /* drops what is queued */
	ck_assert_int_eq(lent[0].status, -ECANCELED);
	/* With something queued the close waits for the connection. */
	kloop_stream_close(client[2].stream);
	kt_turn_for(loop, 20);
	ck_assert_int_eq(lent[1].released, 0);
	kt_stream_abort(&client[2]);
	ck_assert_int_eq(lent[1].released, 1);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(client[i].count[KT_ON_CONNECT] + client[i].count[KT_ON_ERROR], 0);
	for (int i = 0; i < 4; i++)
		kt_close(fillers[i]);
	kt_close(listener);
	kt_loop_free(loop);
}
END_TEST

/* ---- half-close and reset --------------------------------------------- */

static void answer_at_eof(struct kt_stream *self, enum kt_event event, const void *data,
			  size_t bytes)
{
	(void)data;
	(void)bytes;
	if (event == KT_ON_EOF) {
		kt_stream_put(self, "answer", 6);
		ck_assert_int_eq(kloop_stream_shutdown(self->stream), 0);
	}
}

START_TEST(half_close)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	struct kt_stream client, server;
	int fds[2];

	kt_pair(KIND(_i), fds);
	kt_stream_open(&client, loop, fds[0], 0);
	kt_stream_open(&server, loop, fds[1], 0);
	client.keep = server.keep = true;
	server.then = answer_at_eof;
	kt_stream_start(&client);
	kt_stream_start(&server);
	kt_stream_put(&client, "question", 8);
	ck_assert_int_eq(kloop_stream_shutdown(client.stream), 0);
	ck_assert_int_eq(kloop_stream_shutdown(client.stream), 0);
	ck_assert_int_eq(kloop_stream_write(client.stream, "x", 1, NULL, NULL), -EPIPE);
	ck_assert_int_eq(kloop_stream_try_write(client.stream, "x", 1), -EPIPE);
	kt_turn_until(loop, &client.count[KT_ON_EOF], 1);
	ck_assert_uint_eq(server.received, 8);
	ck_assert_mem_eq(server.data, "question", 8);
	ck_assert_uint_eq(client.received, 6);
	ck_assert_mem_eq(client.data, "answer", 6);
	kt_turn_for(loop, 5);
	ck_assert_int_eq(client.count[KT_ON_ERROR] + server.count[KT_ON_ERROR], 0);
	kt_stream_end(&client);
	kt_stream_end(&server);
	kt_loop_free(loop);
}
END_TEST

static void reset(int fd)
{
	struct linger linger = { .l_onoff = 1 };

	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	kt_close(fd);
}

START_TEST(reset_in_a_write)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	static char block[48 << 20];
	struct kt_stream stream;
	struct kt_lent lent[3];
	int fds[2];
	bool reads = KIND(_i) == 0; /* with and without a read in flight as well */

	kt_tcp_pair(fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	if (reads)
		kt_stream_start(&stream);
	kt_lend(&stream, &lent[0], block, sizeof(block));
	kt_turn_for(loop, 20);
	kt_lend(&stream, &lent[1], block, 10);
	kt_lend(&stream, &lent[2], block, 0);
	ck_assert_int_eq(lent[0].released, 0);
	reset(fds[1]);
	kt_turn_until(loop, &stream.count[KT_ON_ERROR], 1);
	ck_assert(stream.error == -ECONNRESET || stream.error == -EPIPE);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(lent[i].released, 1);
		ck_assert_int_eq(lent[i].status, stream.error);
	}
	kt_turn_for(loop, 5);
	ck_assert_int_eq(kloop_stream_write(stream.stream, "x", 1, NULL, NULL), -ESTALE);
	ck_assert_int_eq(kloop_stream_try_write(stream.stream, "x", 1), -ESTALE);
	ck_assert_int_eq(kloop_stream_stop_read(stream.stream), -ESTALE);
	ck_assert_int_eq(kloop_stream_shutdown(stream.stream), -ESTALE);
	kt_stream_end(&stream);
	kt_loop_free(loop);
}
END_TEST

START_TEST(broken_pipe)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	struct kt_stream stream;
	struct kt_lent lent;
	int fds[2];

	kt_pair(KIND(_i), fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_close(fds[1]);
	/* The first write to TCP may still succeed: its peer answers with a reset. */
	for (int i = 0; i < KT_PATIENCE_MS && stream.count[KT_ON_ERROR] == 0; i++) {
		kt_lend(&stream, &lent, "x", 1);
		kt_turn_until(loop, &lent.released, 1);
		if (lent.status < 0)
			kt_turn_until(loop, &stream.count[KT_ON_ERROR], 1);
		else
			kt_turn_for(loop, 5);
	}
	ck_assert_int_eq(stream.count[KT_ON_ERROR], 1);
	ck_assert_int_eq(lent.status, stream.error);
	ck_assert(stream.error == -EPIPE || stream.error == -ECONNRESET);
	kt_stream_end(&stream);
	kt_loop_free(loop);
}
END_TEST

/* ---- threads and processes -------------------------------------------- */

struct moved {
	struct kloop_loop *loop;
	struct kt_stream *stream;
	int peer;
};

static void *refused_elsewhere(void *data)
{
	struct moved *moved = data;
	struct kloop_stream *stream = moved->stream->stream;
	struct kloop_stream *other = NULL;

	ck_assert_int_eq(kloop_stream_write(stream, "x", 1, NULL, NULL), -EPERM);
	ck_assert_int_eq(kloop_stream_try_write(stream, "x", 1), -EPERM);
	ck_assert_int_eq(kloop_stream_start_read(stream), -EPERM);
	ck_assert_int_eq(kloop_stream_shutdown(stream), -EPERM);
	ck_assert_int_eq(kloop_stream_new(moved->loop, 0, 0, &kt_stream_handlers, NULL, &other),
			 -EPERM);
	kloop_stream_close(stream); /* does nothing */
	return NULL;
}

static void *go_on_elsewhere(void *data)
{
	struct moved *moved = data;
	struct kt_lent lent;

	ck_assert_int_eq(kloop_loop_adopt(moved->loop), 0);
	kt_write_all(moved->peer, "there", 5);
	kt_stream_await(moved->stream, moved->stream->received + 5);
	/* What the kernel has not told done yet would not let the loop move on. */
	kt_lend(moved->stream, &lent, "pong", 4);
	kt_turn_until(moved->loop, &lent.released, 1);
	return NULL;
}

START_TEST(other_threads)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kt_stream stream;
	struct moved moved = { loop, &stream, -1 };
	char text[4];
	int fds[2];

	kt_tcp_pair(fds);
	moved.peer = fds[1];
	kt_stream_open(&stream, loop, fds[0], 0);
	stream.keep = true;
	kt_stream_start(&stream);
	kt_turn_for(loop, 5);
	kt_on_thread(refused_elsewhere, &moved);
	kt_write_all(fds[1], "hello", 5);
	kt_stream_await(&stream, 5);
	/* SQPOLL_OLD reads into memory that the kernel holds: it cannot move. */
	if (_i != KT_MODE_SQPOLL_OLD) {
		kt_on_thread(go_on_elsewhere, &moved);
		kt_read_all(fds[1], text, 4);
		ck_assert_mem_eq(text, "pong", 4);
		ck_assert_int_eq(kloop_loop_adopt(loop), 0);
		kt_write_all(fds[1], "again", 5);
		kt_stream_await(&stream, 15);
		ck_assert_mem_eq(stream.data, "hellothereagain", 15);
	}
	kt_stream_end(&stream);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

static int use_in_child(void *data)
{
	struct moved *moved = data;
	struct kloop_stream *stream = moved->stream->stream;

	KT_CHILD_CHECK(kloop_stream_write(stream, "x", 1, NULL, NULL) == -ECHILD);
	KT_CHILD_CHECK(kloop_stream_try_write(stream, "x", 1) == -ECHILD);
	KT_CHILD_CHECK(kloop_stream_start_read(stream) == -ECHILD);
	kloop_stream_abort(stream);
	KT_CHILD_CHECK(moved->stream->count[KT_ON_CLOSE] == 0);
	return 0;
}

START_TEST(forked_child)
{
	struct kloop_loop *loop = kt_mode_loop(KT_MODE_BEST);
	struct kt_stream stream;
	struct moved moved = { loop, &stream, -1 };
	int fds[2];

	kt_tcp_pair(fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_stream_start(&stream);
	kt_turn_for(loop, 5);
	kt_fork_ok(use_in_child, &moved);
	kt_write_all(fds[1], "hello", 5);
	kt_stream_await(&stream, 5);
	kt_stream_end(&stream);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

/* ---- arguments -------------------------------------------------------- */

START_TEST(bad_arguments)
{
	struct kloop_loop *loop = kt_mode_loop(KT_MODE_BEST);
	struct kloop_stream_handlers handlers = kt_stream_handlers;
	struct kloop_address address;
	struct kloop_stream *stream = NULL;
	struct kt_stream good;
	int fds[2], fd;

	kt_socketpair(fds);
#define NEW(...) kloop_stream_new(__VA_ARGS__)
	ck_assert_int_eq(NEW(NULL, fds[0], 0, &handlers, NULL, &stream), -EINVAL);
	ck_assert_int_eq(NEW(loop, fds[0], 0, NULL, NULL, &stream), -EINVAL);
	ck_assert_int_eq(NEW(loop, fds[0], 0, &handlers, NULL, NULL), -EINVAL);
	ck_assert_int_eq(NEW(loop, fds[0], 1u << 20, &handlers, NULL, &stream), -EINVAL);
	ck_assert_int_eq(NEW(loop, -1, 0, &handlers, NULL, &stream), -EBADF);
	fd = dup(fds[0]);
	kt_close(fd);
	ck_assert_int_eq(NEW(loop, fd, 0, &handlers, NULL, &stream), -EBADF);
	handlers.on_close = NULL;
	ck_assert_int_eq(NEW(loop, fds[0], 0, &handlers, NULL, &stream), -EINVAL);
	handlers = kt_stream_handlers;
	handlers.size--;
	ck_assert_int_eq(NEW(loop, fds[0], 0, &handlers, NULL, &stream), -EINVAL);
	tcp_address(1, &address);
	ck_assert_int_eq(kloop_stream_connect(loop, NULL, &kt_stream_handlers, NULL, &stream),
			 -EINVAL);
	address.length = 0;
	ck_assert_int_eq(kloop_stream_connect(loop, &address, &kt_stream_handlers, NULL, &stream),
			 -EINVAL);
	address.length = sizeof(address.u.ip4);
	address.u.any.sa_family = 77;
	ck_assert_int_eq(kloop_stream_connect(loop, &address, &kt_stream_handlers, NULL, &stream),
			 -EAFNOSUPPORT);
	ck_assert_ptr_null(stream);

	kt_stream_open(&good, loop, fds[0], 0);
	ck_assert_ptr_eq(kloop_stream_get_loop(good.stream), loop);
	ck_assert_ptr_eq(kloop_stream_get_user(good.stream), &good);
	ck_assert_int_eq(kloop_stream_write(good.stream, NULL, 1, NULL, NULL), -EINVAL);
	ck_assert_int_eq(kloop_stream_write(NULL, "x", 1, NULL, NULL), -EINVAL);
	ck_assert_int_eq(kloop_stream_write(good.stream, NULL, 0, NULL, NULL), 0);
	ck_assert_int_eq(kloop_stream_set_write_marks(good.stream, 2, 1), -EINVAL);
	kloop_stream_close(NULL);
	kt_stream_end(&good);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

/* A descriptor that is no socket, or not connected: told when it is used. */
START_TEST(wrong_descriptors)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kt_stream stream[2];
	struct kt_lent lent;
	int fds[2];

	kt_pipe(fds);
	kt_stream_open(&stream[0], loop, fds[0], 0);
	kt_stream_start(&stream[0]);
	kt_stream_open(&stream[1], loop, socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), 0);
	kt_lend(&stream[1], &lent, "x", 1);
	kt_write_all(fds[1], "x", 1);
	kt_turn_until(loop, &stream[0].count[KT_ON_ERROR], 1);
	ck_assert_int_eq(stream[0].error, -ENOTSOCK);
	kt_turn_until(loop, &stream[1].count[KT_ON_ERROR], 1);
	ck_assert_int_eq(stream[1].error, -EPIPE);
	ck_assert_int_eq(lent.status, -EPIPE);
	kt_stream_end(&stream[0]);
	kt_stream_end(&stream[1]);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("stream");
	TCase *tcase = kt_case(suite, "talk", 60);

	tcase_add_loop_test(tcase, echo_all_modes, 0, ALL);
	tcase_add_loop_test(tcase, pipe_all_modes, 0, KT_MODES);
	tcase_add_loop_test(tcase, pipe_reader_leaves, 0, KT_MODES);
	tcase_add_loop_test(tcase, pipe_breaks, 0, KT_MODES);
	tcase_add_loop_test(tcase, half_close, 0, ALL);
	tcase = kt_case(suite, "connect", 30);
	tcase_add_loop_test(tcase, connect_tcp, 0, KT_MODES);
	tcase_add_loop_test(tcase, connect_local, 0, KT_MODES);
	tcase_add_loop_test(tcase, connect_refused, 0, KT_MODES);
	tcase_add_loop_test(tcase, connect_refused_without_on_connect, 0, KT_MODES);
	tcase_add_loop_test(tcase, connect_given_up, 0, KT_MODES);
	tcase = kt_case(suite, "end", 30);
	tcase_add_loop_test(tcase, reset_in_a_write, 0, ALL);
	tcase_add_loop_test(tcase, broken_pipe, 0, ALL);
	tcase = kt_case(suite, "misuse", 30);
	tcase_add_loop_test(tcase, other_threads, 0, KT_MODES);
	tcase_add_test(tcase, forked_child);
	tcase_add_test(tcase, bad_arguments);
	tcase_add_loop_test(tcase, wrong_descriptors, 0, KT_MODES);
	return kt_main(suite);
}
