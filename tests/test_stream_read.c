/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The read path: both modes and the way between, pause and resume, the pool's shortage. */
#include "fault.h"
#include "net/stream.h"
#include "streams.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define ALL (KT_MODES * KT_KINDS)
#define MODE(i) ((i) / KT_KINDS)
#define KIND(i) ((i) % KT_KINDS)

struct source {
	int fd;
	size_t bytes;
	size_t most; /* in one write */
	uint64_t random;
	bool shut;
};

/* The fill of so many bytes, in writes of random sizes. */
static void *run_source(void *data)
{
	struct source *source = data;
	size_t sent = 0;
	unsigned char *buffer = malloc(source->most);

	while (sent < source->bytes) {
		size_t bytes = 1 + kt_random(&source->random) % source->most;

		if (bytes > source->bytes - sent)
			bytes = source->bytes - sent;
		kt_fill(buffer, bytes, sent);
		kt_write_all(source->fd, buffer, bytes);
		sent += bytes;
	}
	if (source->shut)
		shutdown(source->fd, SHUT_WR);
	free(buffer);
	return NULL;
}

/* ---- pause and resume ------------------------------------------------- */

struct pauses {
	uint64_t random;
	int pauses;
};

/* Stops now and then, inside on_data; half of the times it starts again at once. */
static void pause_sometimes(struct kt_stream *self, enum kt_event event, const void *data,
			    size_t bytes)
{
	struct pauses *pauses = self->user;

	(void)data;
	(void)bytes;
	if (event != KT_ON_DATA || kt_random(&pauses->random) % 2 != 0)
		return;
	pauses->pauses++;
	kt_stream_stop(self);
	if (kt_random(&pauses->random) % 2 == 0)
		kt_stream_start(self);
}

START_TEST(pauses_lose_nothing)
{
	struct kloop_loop *loop;
	struct pauses pauses = { .random = 77 };
	struct source source = { .bytes = 3 << 20, .most = 60000, .random = 5, .shut = true };
	struct kt_stream stream;
	uint64_t limit;
	pthread_t thread;
	int fds[2];

	kt_fault_install(); /* it spoils what is freed */
	loop = kt_mode_loop(MODE(_i));
	kt_pair(KIND(_i), fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	stream.keep = true;
	stream.then = pause_sometimes;
	stream.user = &pauses;
	source.fd = fds[1];
	thread = kt_thread(run_source, &source);
	kt_stream_start(&stream);
	limit = kloop_now() + KT_PATIENCE_MS * KT_MS;
	while (stream.count[KT_ON_EOF] == 0) {
		ck_assert_msg(kloop_now() < limit, "only %zu bytes", stream.received);
		kt_turn(loop, stream.reading ? 100 * KT_MS : 0);
		/* A pause lasts a few turns, in which data arrives and is held. */
		if (!stream.reading && kt_random(&pauses.random) % 4 == 0)
			kt_stream_start(&stream);
	}
	kt_join(thread);
	ck_assert_int_gt(pauses.pauses, 2);
	ck_assert_uint_eq(stream.received, source.bytes);
	ck_assert(kt_is_fill(stream.data, stream.received, 0));
	kt_stream_end(&stream);
	kt_close(fds[1]);
	ck_assert_uint_eq(KT_STAT(loop, buffers_lent), 0);
	kt_loop_free(loop);
	kt_fault_remove();
}
END_TEST

START_TEST(short_pauses_are_free)
{
	struct kloop_loop *loop = kt_mode_loop(KT_MODE_BEST);
	struct kt_stream stream;
	struct kloop_stats before, after;
	int fds[2];

	kt_pair(_i, fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_stream_start(&stream);
	kt_turn_for(loop, 5);
	before = kt_stats(loop);
	for (int i = 0; i < 1000; i++) {
		kt_stream_stop(&stream);
		kt_stream_start(&stream);
	}
	kt_turn(loop, 0);
	after = kt_stats(loop);
	ck_assert_uint_eq(after.submissions, before.submissions);
	ck_assert_uint_eq(after.enters, before.enters);
	kt_stream_end(&stream);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

/* One piece that comes in a pause is held, and the receive stays; the second one ends it. */
START_TEST(a_piece_in_a_pause)
{
	struct kloop_loop *loop = kt_mode_loop(KT_MODE_BEST);
	struct kloop_stats before, after;
	struct kt_stream stream;
	int fds[2];

	kt_pair(_i, fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	stream.keep = true;
	kt_stream_start(&stream);
	kt_turn_for(loop, 5);
	before = kt_stats(loop);
	for (size_t i = 0; i < 10; i++) {
		kt_stream_stop(&stream);
		kt_write_all(fds[1], "piece", 5);
		kt_turn_for(loop, 2);
		ck_assert_uint_eq(stream.received, 5 * i);
		kt_stream_start(&stream);
		kt_stream_await(&stream, 5 * (i + 1));
	}
	after = kt_stats(loop);
	ck_assert_uint_eq(after.submissions, before.submissions);
	kt_stream_stop(&stream);
	/* Each by itself, not two in one. */
	for (size_t i = 0; i < 3; i++) {
		kt_write_all(fds[1], "piece", 5);
		for (int turns = 0, left = 1; i < 2 && left != 0; turns++) {
			ck_assert_int_lt(turns, KT_PATIENCE_MS);
			kt_turn(loop, KT_MS);
			ck_assert_int_eq(ioctl(fds[0], FIONREAD, &left), 0);
		}
		kt_turn_for(loop, 2);
	}
	ck_assert_uint_eq(stream.received, 50);
	ck_assert_uint_gt(KT_STAT(loop, submissions), after.submissions);
	kt_stream_start(&stream);
	kt_stream_await(&stream, 65);
	kt_stream_end(&stream);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

/* Data and the end come while reading is stopped, in every order of calls. */
START_TEST(held_until_start)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	struct kt_stream stream;
	int fds[2];

	kt_pair(KIND(_i), fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	stream.keep = true;
	kt_stream_start(&stream);
	kt_turn_for(loop, 5);
	kt_stream_stop(&stream);
	kt_write_all(fds[1], "one", 3);
	kt_turn_for(loop, 5);
	kt_write_all(fds[1], "two", 3);
	kt_close(fds[1]);
	kt_turn_for(loop, 5);
	ck_assert_uint_eq(stream.received, 0);
	/* Started and stopped again before the turn that would deliver. */
	kt_stream_start(&stream);
	kt_stream_stop(&stream);
	kt_turn_for(loop, 5);
	ck_assert_uint_eq(stream.received, 0);
	kt_stream_start(&stream);
	kt_turn_until(loop, &stream.count[KT_ON_EOF], 1);
	ck_assert_uint_eq(stream.received, 6);
	ck_assert_mem_eq(stream.data, "onetwo", 6);
	/* After the end reading can be stopped and started without effect. */
	kt_stream_stop(&stream);
	kt_stream_start(&stream);
	kt_turn_for(loop, 5);
	ck_assert_int_eq(stream.count[KT_ON_EOF], 1);
	kt_stream_end(&stream);
	kt_loop_free(loop);
}
END_TEST

static void stop_after_each(struct kt_stream *self, enum kt_event event, const void *data,
			    size_t bytes)
{
	(void)data;
	(void)bytes;
	if (event == KT_ON_DATA)
		kt_stream_stop(self);
}

/* Several held pieces, and an owner that takes one at a time. */
START_TEST(held_piece_by_piece)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	struct kt_stream stream;
	static unsigned char block[20000];
	int fds[2], starts;

	kt_pair(KIND(_i), fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	stream.keep = true;
	stream.then = stop_after_each;
	kt_stream_start(&stream);
	kt_turn_for(loop, 5);
	kt_stream_stop(&stream);
	kt_fill(block, sizeof(block), 0);
	for (size_t at = 0; at < sizeof(block); at += 1000) {
		kt_write_all(fds[1], block + at, 1000);
		kt_turn(loop, 0);
	}
	for (starts = 0; stream.received < sizeof(block); starts++) {
		ck_assert_int_lt(starts, 2000);
		kt_stream_start(&stream);
		kt_turn(loop, 10 * KT_MS);
		kt_turn(loop, 0);
	}
	ck_assert(kt_is_fill(stream.data, stream.received, 0));
	ck_assert_uint_eq(stream.received, sizeof(block));
	kt_stream_end(&stream);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

START_TEST(held_reset)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct linger linger = { .l_onoff = 1 };
	struct kt_stream stream;
	int fds[2];

	kt_tcp_pair(fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_stream_start(&stream);
	kt_turn_for(loop, 5);
	kt_stream_stop(&stream);
	setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	kt_close(fds[1]);
	kt_turn_for(loop, 10);
	ck_assert_int_eq(stream.count[KT_ON_ERROR], 0);
	kt_stream_start(&stream);
	kt_turn_until(loop, &stream.count[KT_ON_ERROR], 1);
	ck_assert_int_eq(stream.error, -ECONNRESET);
	kt_stream_end(&stream);
	kt_loop_free(loop);
}
END_TEST

/* ---- the two modes ---------------------------------------------------- */

/* Large messages are read directly, small ones through the pool again. */
START_TEST(adapts)
{
	struct kloop_loop *loop = kt_mode_loop(KT_MODE_BEST);
	struct kt_stream stream;
	struct kloop_stats before, after;
	static unsigned char block[400000];
	int fds[2];

	kt_pair(_i, fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_turn_for(loop, 5);
	before = kt_stats(loop);
	kt_stream_start(&stream);
	for (int i = 0; i < 50; i++) {
		kt_write_all(fds[1], "small", 5);
		kt_stream_await(&stream, stream.received + 5);
	}
	after = kt_stats(loop);
	ck_assert_uint_eq(after.direct_calls, 0);
	ck_assert_uint_eq(after.submissions - before.submissions, 1); /* one receive for all */
	for (int i = 0; i < 20; i++) {
		struct source source = { .fd = fds[1], .bytes = sizeof(block),
					 .most = sizeof(block), .random = 3 };
		pthread_t thread = kt_thread(run_source, &source);

		if (i == 10)
			before = kt_stats(loop);
		kt_stream_await(&stream, stream.received + sizeof(block));
		kt_join(thread);
	}
	after = kt_stats(loop);
	ck_assert_uint_gt(after.direct_calls - before.direct_calls, 10);
	ck_assert_uint_gt(stream.last_suggested, 65536);
	for (int i = 0; i < 20; i++) {
		kt_write_all(fds[1], "small", 5);
		kt_stream_await(&stream, stream.received + 5);
	}
	before = kt_stats(loop);
	for (int i = 0; i < 50; i++) {
		kt_write_all(fds[1], "small", 5);
		kt_stream_await(&stream, stream.received + 5);
	}
	after = kt_stats(loop);
	ck_assert_uint_eq(after.direct_calls, before.direct_calls);
	ck_assert_uint_eq(after.submissions, before.submissions);
	kt_stream_end(&stream);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

/* The owner's memory is used for large reads, of whatever size it is. */
START_TEST(reads_into_owners_memory)
{
	static const size_t sizes[] = { 1, 1000, 70000, 1 << 20 };
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	struct kt_stream stream;
	static unsigned char offer[1 << 20];
	size_t expected = 0;
	int fds[2];

	kt_pair(KIND(_i), fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	stream.keep = true;
	stream.offer = offer;
	kt_stream_start(&stream);
	for (size_t i = 0; i < KT_COUNT(sizes); i++) {
		/* The memory is lent to the kernel; only its size for later reads changes. */
		struct source source = { .fd = fds[1], .bytes = i == 0 ? 3000 : 500000,
					 .most = 500000, .random = 3 };
		pthread_t thread;

		stream.offer_bytes = sizes[i];
		thread = kt_thread(run_source, &source);
		kt_stream_await(&stream, expected + source.bytes);
		kt_join(thread);
		ck_assert(kt_is_fill(stream.data + expected, source.bytes, 0));
		expected += source.bytes;
	}
	ck_assert_int_gt(stream.offer_used, 0);
	ck_assert_int_gt(stream.count[KT_ON_ALLOC], 0);
	kt_stream_end(&stream);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

/* With SQPOLL bytes move without system calls of this thread. */
START_TEST(sqpoll_makes_no_calls)
{
	struct kloop_loop *loop = kt_mode_loop(_i ? KT_MODE_SQPOLL_OLD : KT_MODE_SQPOLL);
	struct source source = { .bytes = 4 << 20, .most = 200000, .random = 9 };
	struct kt_stream stream;
	pthread_t thread;
	int fds[2];

	kt_tcp_pair(fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	stream.keep = true;
	kt_stream_start(&stream);
	source.fd = fds[1];
	thread = kt_thread(run_source, &source);
	kt_stream_await(&stream, source.bytes);
	kt_join(thread);
	ck_assert(kt_is_fill(stream.data, stream.received, 0));
	ck_assert_int_eq(kloop_stream_try_write(stream.stream, "x", 1), 0);
	ck_assert_uint_eq(KT_STAT(loop, direct_calls), 0);
	kt_stream_end(&stream);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

static void stop_at_alloc(struct kt_stream *self, enum kt_event event, const void *data,
			  size_t bytes)
{
	(void)data;
	(void)bytes;
	if (event == KT_ON_ALLOC)
		kloop_loop_stop(self->loop);
}

/* At the start of a turn memory is asked for too: a stop in there must not wait for bytes. */
START_TEST(stopped_by_on_alloc)
{
	struct kloop_loop *loop = kt_mode_loop(_i ? KT_MODE_SQPOLL_OLD : KT_MODE_SQPOLL);
	struct kt_stream stream;
	int fds[2];

	kt_tcp_pair(fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	stream.then = stop_at_alloc;
	stream.reading = true;
	/* As after the pool stayed empty. */
	stream.stream->state |= KL_STREAM_WANT_READ | KL_STREAM_DIRECT;
	kl_stream_schedule(stream.stream);
	ck_assert_int_eq(kloop_loop_run(loop), 0);
	ck_assert_int_eq(stream.count[KT_ON_ALLOC], 1);
	kt_stream_end(&stream);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

/* ---- the pool --------------------------------------------------------- */

struct taker {
	unsigned ids[4];
	const unsigned char *data[4];
	size_t bytes[4];
	int taken;
	int refused;
};

static void take(struct kt_stream *self, enum kt_event event, const void *data, size_t bytes)
{
	struct taker *taker = self->user;
	int r;

	if (event != KT_ON_DATA)
		return;
	if (taker->taken == 4) {
		taker->refused++;
		return;
	}
	r = kloop_stream_take_buffer(self->stream, &taker->ids[taker->taken]);
	if (r == -ENOENT) {
		taker->refused++;
		return;
	}
	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(kloop_stream_take_buffer(self->stream, &taker->ids[0]), -ENOENT);
	taker->data[taker->taken] = data;
	taker->bytes[taker->taken++] = bytes;
}

/* All buffers are kept for good: streams go on without the pool. */
START_TEST(pool_stays_empty)
{
	struct kloop_loop *loop = kt_mode_loop(KT_MODE_SMALL_POOL);
	struct taker taker = { .taken = 0 };
	struct kt_stream stream[3];
	uint64_t enters, turns;
	unsigned id;
	int fds[3][2];

	for (int i = 0; i < 3; i++) {
		kt_pair(_i, fds[i]);
		kt_stream_open(&stream[i], loop, fds[i][0], 0);
		stream[i].keep = true;
		kt_stream_start(&stream[i]);
	}
	ck_assert_int_eq(kloop_stream_take_buffer(stream[0].stream, &id), -ENOENT);
	stream[0].then = take;
	stream[0].user = &taker;
	for (unsigned char i = 0; i < 4; i++) {
		unsigned char message[100];

		memset(message, i, sizeof(message));
		kt_write_all(fds[0][1], message, sizeof(message));
		kt_turn_until(loop, &taker.taken, i + 1);
	}
	ck_assert_uint_eq(KT_STAT(loop, buffers_lent), 4);
	for (int round = 0; round < 100; round++) {
		for (int i = 0; i < 3; i++)
			kt_write_all(fds[i][1], "ping", 4);
		for (int i = 0; i < 3; i++)
			kt_stream_await(&stream[i], (i == 0 ? 400 : 0) + 4 * (size_t)(round + 1));
	}
	/* An empty pool must not make the loop turn in circles. */
	kt_turn_for(loop, 20);
	enters = KT_STAT(loop, enters);
	turns = KT_STAT(loop, turns);
	kt_turn_for(loop, 50);
	ck_assert_uint_lt(KT_STAT(loop, enters) - enters, 5);
	ck_assert_uint_lt(KT_STAT(loop, turns) - turns, 5);
	ck_assert_uint_gt(KT_STAT(loop, buffers_empty), 0);
	/* What was taken stayed as it was. */
	for (int i = 0; i < 4; i++) {
		ck_assert_uint_eq(taker.bytes[i], 100);
		for (size_t at = 0; at < 100; at++)
			ck_assert_uint_eq(taker.data[i][at], i);
		kloop_stream_give_buffer(loop, taker.ids[i]);
	}
	ck_assert_uint_eq(KT_STAT(loop, buffers_lent), 0);
	for (int i = 0; i < 3; i++) {
		kt_stream_end(&stream[i]);
		kt_close(fds[i][1]);
	}
	kt_loop_free(loop);
}
END_TEST

/* Many streams on one small buffer, all at once. */
START_TEST(many_share_little)
{
	enum { STREAMS = 50 };
	struct kloop_loop *loop = kt_mode_loop(_i);
	static struct kt_stream stream[STREAMS];
	static unsigned char block[3000];
	int fds[STREAMS][2];

	kt_fill(block, sizeof(block), 0);
	for (int i = 0; i < STREAMS; i++) {
		kt_socketpair(fds[i]);
		kt_stream_open(&stream[i], loop, fds[i][0], 0);
		stream[i].keep = true;
		kt_stream_start(&stream[i]);
	}
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < STREAMS; i++)
			kt_write_all(fds[i][1], block + 1000 * round, 1000);
		for (int i = 0; i < STREAMS; i++)
			kt_stream_await(&stream[i], 1000 * (size_t)(round + 1));
	}
	for (int i = 0; i < STREAMS; i++) {
		ck_assert_uint_eq(stream[i].received, sizeof(block));
		ck_assert(kt_is_fill(stream[i].data, sizeof(block), 0));
		kt_stream_end(&stream[i]);
		kt_close(fds[i][1]);
	}
	ck_assert_uint_eq(KT_STAT(loop, buffers_lent), 0);
	kt_loop_free(loop);
}
END_TEST

/* Streams that stand still with bytes held leave the pool to the others. */
START_TEST(stopped_streams_hold_no_buffers)
{
	struct kloop_loop *loop = kt_mode_loop(KT_MODE_SMALL_POOL);
	struct kt_stream stopped[8], running;
	int fds[9][2];

	for (int i = 0; i < 8; i++) {
		kt_pair(_i, fds[i]);
		kt_stream_open(&stopped[i], loop, fds[i][0], 0);
		stopped[i].keep = true;
		kt_stream_start(&stopped[i]);
	}
	kt_pair(_i, fds[8]);
	kt_stream_open(&running, loop, fds[8][0], 0);
	kt_stream_start(&running);
	kt_turn_for(loop, 5);
	for (int i = 0; i < 8; i++) {
		kt_stream_stop(&stopped[i]);
		kt_write_all(fds[i][1], "held", 4);
	}
	kt_turn_for(loop, 5);
	ck_assert_uint_eq(KT_STAT(loop, buffers_lent), 0);
	kt_write_all(fds[8][1], "go", 2);
	kt_stream_await(&running, 2);
	for (int i = 0; i < 8; i++) {
		kt_stream_start(&stopped[i]);
		kt_stream_await(&stopped[i], 4);
		ck_assert_mem_eq(stopped[i].data, "held", 4);
		kt_stream_end(&stopped[i]);
		kt_close(fds[i][1]);
	}
	kt_stream_end(&running);
	kt_close(fds[8][1]);
	kt_loop_free(loop);
}
END_TEST

/* The kernel has few of the loop's buffers at first, which stay in the cache, and more on demand. */
START_TEST(pool_grows)
{
	enum { STREAMS = 100, ROUNDS = 20 };
	struct kloop_loop *loop = kt_mode_loop(KT_MODE_BEST);
	static struct kt_stream stream[STREAMS];
	uint64_t empty = 0, submissions = 0;
	int fds[STREAMS][2];

	for (int i = 0; i < STREAMS; i++) {
		kt_pair(_i, fds[i]);
		kt_stream_open(&stream[i], loop, fds[i][0], 0);
		kt_stream_start(&stream[i]);
	}
	for (int round = 0; round < ROUNDS; round++) {
		if (round == ROUNDS / 2) {
			kt_turn_for(loop, 5);
			empty = KT_STAT(loop, buffers_empty);
			submissions = KT_STAT(loop, submissions);
		}
		for (int i = 0; i < STREAMS; i++)
			kt_write_all(fds[i][1], "ping", 4);
		for (int i = 0; i < STREAMS; i++)
			kt_stream_await(&stream[i], 4 * (size_t)(round + 1));
	}
	/* All at once were too many, and soon they are not. */
	ck_assert_uint_gt(empty, 0);
	ck_assert_uint_eq(KT_STAT(loop, buffers_empty), empty);
	ck_assert_uint_eq(KT_STAT(loop, submissions), submissions);
	for (int i = 0; i < STREAMS; i++) {
		kt_stream_end(&stream[i]);
		kt_close(fds[i][1]);
	}
	kt_loop_free(loop);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("stream_read");
	TCase *tcase = kt_case(suite, "pause", 60);

	tcase_add_loop_test(tcase, pauses_lose_nothing, 0, ALL);
	tcase_add_loop_test(tcase, short_pauses_are_free, 0, KT_KINDS);
	tcase_add_loop_test(tcase, a_piece_in_a_pause, 0, KT_KINDS);
	tcase_add_loop_test(tcase, held_until_start, 0, ALL);
	tcase_add_loop_test(tcase, held_piece_by_piece, 0, ALL);
	tcase_add_loop_test(tcase, held_reset, 0, KT_MODES);
	tcase = kt_case(suite, "modes", 60);
	tcase_add_loop_test(tcase, adapts, 0, KT_KINDS);
	tcase_add_loop_test(tcase, reads_into_owners_memory, 0, ALL);
	tcase_add_loop_test(tcase, sqpoll_makes_no_calls, 0, 2);
	tcase_add_loop_test(tcase, stopped_by_on_alloc, 0, 2);
	tcase = kt_case(suite, "pool", 30);
	tcase_add_loop_test(tcase, pool_stays_empty, 0, KT_KINDS);
	tcase_add_loop_test(tcase, many_share_little, 0, KT_MODES);
	tcase_add_loop_test(tcase, stopped_streams_hold_no_buffers, 0, KT_KINDS);
	tcase_add_loop_test(tcase, pool_grows, 0, KT_KINDS);
	return kt_main(suite);
}
