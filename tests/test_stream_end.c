/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The end of streams: close, abort, either of them inside of any callback, the loop's end. */
#include "streams.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Loop tests run over all modes with all kinds of sockets. */
#define ALL (KT_MODES * KT_KINDS)
#define MODE(i) ((i) / KT_KINDS)
#define KIND(i) ((i) % KT_KINDS)

/* ---- close and abort -------------------------------------------------- */

struct drain {
	int fd;
	size_t bytes;
	uint64_t sum;
};

static void *drain_fd(void *data)
{
	struct drain *drain = data;
	static unsigned char buffer[65536];
	ssize_t result;

	kt_sleep_ms(50);
	while ((result = read(drain->fd, buffer, sizeof(buffer))) > 0) {
		drain->sum = kt_sum(drain->sum, buffer, (size_t)result);
		drain->bytes += (size_t)result;
	}
	return NULL;
}

START_TEST(close_sends_first)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	int before = kt_fd_count();
	static unsigned char block[4 << 20];
	struct drain drain = { 0 };
	struct kt_stream stream;
	struct kt_lent lent[2];
	pthread_t thread;
	int fds[2];

	kt_pair(KIND(_i), fds);
	kt_fill(block, sizeof(block), 0);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_stream_start(&stream);
	kt_lend(&stream, &lent[0], block, sizeof(block) / 2);
	kt_lend(&stream, &lent[1], block + sizeof(block) / 2, sizeof(block) / 2);
	stream.reading = false;
	kloop_stream_close(stream.stream);
	ck_assert_int_eq(kloop_stream_write(stream.stream, "x", 1, NULL, NULL), -ESTALE);
	kloop_stream_close(stream.stream);
	drain.fd = fds[1];
	/*
	 * What the peer sends meanwhile is of no interest. (Left unread in a
	 * TCP socket it would make the kernel reset the connection at the end.)
	 */
	if (KIND(_i) == KT_LOCAL)
		kt_write_all(fds[1], "ignored", 7);
	thread = kt_thread(drain_fd, &drain);
	kt_stream_end(&stream);
	kt_join(thread);
	kt_close(fds[1]);
	ck_assert_uint_eq(drain.bytes, sizeof(block));
	ck_assert_uint_eq(drain.sum, kt_sum(0, block, sizeof(block)));
	ck_assert_int_eq(lent[0].status, 0);
	ck_assert_int_eq(lent[1].status, 0);
	ck_assert_int_eq(stream.count[KT_ON_ERROR], 0);
	ck_assert_int_eq(kt_fd_count(), before);
	kt_loop_free(loop);
}
END_TEST

START_TEST(abort_in_a_write)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	int before = kt_fd_count();
	static unsigned char block[16 << 20];
	struct kt_stream stream;
	struct kt_lent lent[3];
	int fds[2];

	kt_pair(KIND(_i), fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_stream_start(&stream);
	kt_lend(&stream, &lent[0], block, sizeof(block));
	kt_lend(&stream, &lent[1], block, 1);
	kt_turn_for(loop, 10);
	kt_lend(&stream, &lent[2], block, 1);
	/* A close that waits for the peer, and an abort behind it. */
	kloop_stream_close(stream.stream);
	kt_turn_for(loop, 10);
	ck_assert_int_eq(stream.count[KT_ON_CLOSE], 0);
	kt_stream_abort(&stream);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(lent[i].released, 1);
		ck_assert_int_eq(lent[i].status, -ECANCELED);
	}
	ck_assert_int_eq(stream.count[KT_ON_ERROR], 0);
	kt_close(fds[1]);
	ck_assert_int_eq(kt_fd_count(), before);
	kt_loop_free(loop);
}
END_TEST

/* Before any turn, and with an empty queue. */
START_TEST(close_at_once)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	struct kt_stream stream[4];
	struct kt_lent lent;
	char byte;
	int fds[4][2];

	for (int i = 0; i < 4; i++) {
		kt_pair(KIND(_i), fds[i]);
		kt_stream_open(&stream[i], loop, fds[i][0], i == 3 ? KLOOP_STREAM_KEEP_FD : 0);
	}
	kt_stream_start(&stream[1]);
	kt_lend(&stream[2], &lent, "x", 1);
	kt_stream_start(&stream[3]);
	kt_turn_for(loop, 5);
	for (int i = 0; i < 2; i++)
		kt_stream_end(&stream[i]);
	kt_stream_abort(&stream[2]);
	ck_assert_int_eq(lent.released, 1);
	/* The fourth gives its descriptor back. */
	kloop_stream_close(stream[3].stream);
	kt_turn_until(loop, &stream[3].count[KT_ON_CLOSE], 1);
	ck_assert_int_eq(stream[3].close_fd, fds[3][0]);
	kt_write_all(fds[3][0], "k", 1);
	kt_read_all(fds[3][1], &byte, 1);
	ck_assert_int_eq(byte, 'k');
	kt_close(fds[3][0]);
	for (int i = 0; i < 4; i++)
		kt_close(fds[i][1]);
	kt_loop_free(loop);
}
END_TEST

/* ---- anything inside callbacks ---------------------------------------- */

enum action {
	DO_CLOSE,
	DO_ABORT,
	DO_STOP,
	DO_WRITE,
	DO_SHUTDOWN,
	DO_WRITE_AND_CLOSE,
	ACTIONS,
};

struct reentry {
	enum kt_event event;
	enum action action;
	int done;
};

static void act(struct kt_stream *self, enum kt_event event, const void *data, size_t bytes)
{
	struct reentry *reentry = self->user;
	struct kloop_stream *stream = self->stream;
	int r = 0;

	(void)data;
	(void)bytes;
	if (event != reentry->event || reentry->done++ > 0 || !stream)
		return;
	switch (reentry->action) {
	case DO_CLOSE:
		self->reading = false;
		kloop_stream_close(stream);
		break;
	case DO_ABORT:
		self->reading = false;
		kloop_stream_abort(stream);
		break;
	case DO_STOP:
		self->reading = false;
		r = kloop_stream_stop_read(stream);
		break;
	case DO_WRITE:
		r = kloop_stream_write(stream, "more", 4, NULL, NULL);
		break;
	case DO_SHUTDOWN:
		r = kloop_stream_shutdown(stream);
		break;
	default:
		self->reading = false;
		r = kloop_stream_write(stream, "more", 4, NULL, NULL);
		kloop_stream_close(stream);
	}
	ck_assert(r == 0 || event == KT_ON_ERROR || event == KT_ON_CLOSE);
}

/* A conversation in which every event happens to the client; then all is closed. */
START_TEST(inside_callbacks)
{
	struct reentry reentry = { .event = (enum kt_event)(_i / ACTIONS % KT_EVENTS),
				   .action = (enum action)(_i % ACTIONS) };
	struct kloop_loop *loop = kt_mode_loop(_i / ACTIONS / KT_EVENTS);
	int before = kt_fd_count();
	static char block[600000];
	struct kloop_address address;
	struct kt_stream client;
	struct kt_lent lent[3];
	struct drain drain = { 0 };
	pthread_t thread;
	uint16_t port;
	int listener = kt_listen(4, &port);

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", port, &address), 0);
	kt_stream_connect(&client, loop, &address);
	client.then = act;
	client.user = &reentry;
	kt_stream_start(&client);
	ck_assert_int_eq(kloop_stream_set_write_marks(client.stream, 0, 1), 0);
	for (int i = 0; i < 3; i++)
		kt_lend(&client, &lent[i], block, i == 0 ? sizeof(block) : 1);
	kt_turn_for(loop, 5);
	drain.fd = accept(listener, NULL, NULL);
	thread = kt_thread(drain_fd, &drain);
	/* Large enough to be read DIRECT, so that on_alloc is asked. */
	for (int i = 0; i < 4; i++) {
		if (send(drain.fd, block, sizeof(block) / 4, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
		kt_turn_for(loop, 2);
	}
	kt_turn_for(loop, 80);
	if (reentry.event == KT_ON_ERROR) {
		struct linger linger = { .l_onoff = 1 };

		shutdown(drain.fd, SHUT_RD);
		kt_write_all(drain.fd, "x", 1);
		setsockopt(drain.fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	} else {
		shutdown(drain.fd, SHUT_WR);
	}
	if (reentry.event != KT_ON_ERROR) {
		kt_turn_for(loop, 10);
		if (client.stream && kloop_stream_shutdown(client.stream) < 0)
			ck_assert(client.count[KT_ON_ERROR] > 0 || reentry.done > 0);
		kt_turn_for(loop, 5);
		client.reading = false;
		kt_stream_end(&client);
		kt_join(thread);
		kt_close(drain.fd);
	} else {
		shutdown(drain.fd, SHUT_RDWR);
		kt_join(thread);
		kt_close(drain.fd);
		for (int i = 0; i < 20 && client.stream && client.count[KT_ON_ERROR] == 0; i++) {
			if (kloop_stream_write(client.stream, "x", 1, NULL, NULL) < 0)
				break;
			kt_turn_for(loop, 2);
		}
		kt_stream_end(&client);
	}
	ck_assert_msg(reentry.done > 0, "event %d never came", (int)reentry.event);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(lent[i].released, 1);
	kt_close(listener);
	ck_assert_int_eq(kt_fd_count(), before);
	kt_loop_free(loop);
}
END_TEST

/* ---- the loop's end --------------------------------------------------- */

static void close_at_error(struct kt_stream *self, enum kt_event event, const void *data,
			   size_t bytes)
{
	(void)data;
	(void)bytes;
	if (event == KT_ON_ERROR)
		kloop_stream_close(self->stream);
}

START_TEST(loop_ends_first)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	int before = kt_fd_count();
	static char block[48 << 20];
	struct kt_stream stream[8];
	struct kt_lent lent[8];
	struct kloop_address address;
	int fds[8][2], fillers[4], listener;
	uint16_t port;
	int turns = 10;

	listener = kt_full_listener(&port, fillers);
	ck_assert_int_eq(kloop_address_parse("127.0.0.1", port, &address), 0);
	for (int i = 0; i < 7; i++) {
		kt_pair(KIND(_i), fds[i]);
		kt_stream_open(&stream[i], loop, fds[i][0], 0);
		lent[i].released = 1;
	}
	kt_stream_connect(&stream[7], loop, &address);
	kt_lend(&stream[7], &lent[7], block, 1);
	/* 0 idle, 1 reading, 2 writing, 3 closing with a queue, 4 aborted, */
	kt_stream_start(&stream[1]);
	kt_stream_start(&stream[2]);
	kt_lend(&stream[2], &lent[2], block, sizeof(block));
	stream[2].then = close_at_error;
	kt_lend(&stream[3], &lent[3], block, sizeof(block));
	kt_turn_for(loop, (unsigned)turns);
	kloop_stream_close(stream[3].stream);
	kloop_stream_abort(stream[4].stream);
	/* 5 with a write that no turn saw, 6 with something held, 7 connecting. */
	kt_stream_start(&stream[6]);
	kt_stream_stop(&stream[6]);
	kt_write_all(fds[6][1], "held", 4);
	kt_turn(loop, 0);
	kt_lend(&stream[5], &lent[5], block, 100);
	kt_loop_free(loop);
	for (int i = 0; i < 8; i++) {
		ck_assert_int_eq(stream[i].count[KT_ON_CLOSE], 1);
		ck_assert_int_eq(lent[i].released, 1);
		ck_assert_int_le(stream[i].count[KT_ON_ERROR], 1);
		if (stream[i].count[KT_ON_ERROR])
			ck_assert_int_eq(stream[i].error, -ECANCELED);
	}
	ck_assert_int_eq(stream[1].count[KT_ON_ERROR], 1);
	ck_assert_int_eq(stream[3].count[KT_ON_ERROR], 0);
	ck_assert_int_eq(stream[7].connect_result, -ECANCELED);
	for (int i = 0; i < 7; i++) {
		char byte;

		/* The descriptor is really gone: the peer sees the end. */
		while (read(fds[i][1], block, sizeof(block)) > 0)
			;
		ck_assert_int_le(recv(fds[i][1], &byte, 1, MSG_DONTWAIT), 0);
		kt_close(fds[i][1]);
	}
	for (int i = 0; i < 4; i++)
		kt_close(fillers[i]);
	kt_close(listener);
	ck_assert_int_le(kt_fd_count(), before);
}
END_TEST
int main(void)
{
	Suite *suite = suite_create("stream_end");
	TCase *tcase = kt_case(suite, "end", 30);

	tcase_add_loop_test(tcase, close_sends_first, 0, ALL);
	tcase_add_loop_test(tcase, abort_in_a_write, 0, ALL);
	tcase_add_loop_test(tcase, close_at_once, 0, ALL);
	tcase_add_loop_test(tcase, inside_callbacks, 0, KT_EVENTS * ACTIONS * 2);
	tcase_add_loop_test(tcase, loop_ends_first, 0, ALL);
	return kt_main(suite);
}
