/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The write path: coalescing, order, marks, direct writes, and lack of memory. */
#include "fault.h"
#include "streams.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ALL (KT_MODES * KT_KINDS)
#define MODE(i) ((i) / KT_KINDS)
#define KIND(i) ((i) % KT_KINDS)

/* ---- coalescing ------------------------------------------------------- */

START_TEST(small_writes_leave_as_one)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	struct kloop_stats before, after;
	unsigned char byte, data[1000];
	struct kt_stream stream;
	struct kt_lent lent;
	int fds[2];

	kt_pair(KIND(_i), fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_turn_for(loop, 5); /* the loop's own operations are out of the way */
	before = kt_stats(loop);
	for (size_t i = 0; i < sizeof(data); i++) {
		kt_fill(&byte, 1, i);
		kt_stream_put(&stream, &byte, 1);
	}
	ck_assert_uint_eq(kloop_stream_get_write_bytes(stream.stream), sizeof(data));
	while (kloop_stream_get_write_bytes(stream.stream) > 0)
		kt_turn(loop, KT_MS);
	after = kt_stats(loop);
	ck_assert_uint_le(after.submissions - before.submissions, 1);
	ck_assert_uint_eq(after.direct_calls, before.direct_calls);
	kt_read_all(fds[1], data, sizeof(data));
	ck_assert(kt_is_fill(data, sizeof(data), 0));
	/* A head that is copied and a body that is lent are one send, too. */
	before = kt_stats(loop);
	kt_stream_put(&stream, "head", 4);
	kt_lend(&stream, &lent, "body", 4);
	kt_stream_put(&stream, "tail", 4);
	kt_turn_until(loop, &lent.released, 1);
	after = kt_stats(loop);
	ck_assert_uint_le(after.submissions - before.submissions, 1);
	kt_read_all(fds[1], data, 12);
	ck_assert_mem_eq(data, "headbodytail", 12);
	kt_stream_end(&stream);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

enum { MANY = 3000 };

struct ordered {
	struct kt_lent lent[MANY];
	int next;
};

static void release_in_order(void *owner, int status, void *user)
{
	struct kt_stream *self = user;
	struct ordered *ordered = self->user;

	ck_assert_int_eq(status, 0);
	ck_assert_ptr_eq(owner, &ordered->lent[ordered->next]);
	ordered->next++;
}

/* More segments than a vector may have, of all sizes and both kinds. */
START_TEST(many_segments_in_order)
{
	struct kloop_loop *loop;
	static struct ordered ordered;
	static unsigned char block[MANY * 60];
	struct kt_stream out, in;
	size_t sent = 0;
	uint64_t random = 11;
	int fds[2], lent = 0;

	/* It spoils what is freed: memory that is still to be sent would show. */
	kt_fault_install();
	loop = kt_mode_loop(MODE(_i));
	kt_pair(KIND(_i), fds);
	kt_stream_open(&out, loop, fds[0], 0);
	kt_stream_open(&in, loop, fds[1], 0);
	out.user = &ordered;
	ordered.next = 0;
	in.keep = true;
	kt_stream_start(&in);
	kt_fill(block, sizeof(block), 0);
	for (int i = 0; i < MANY; i++) {
		size_t bytes = kt_random(&random) % 60;

		if (kt_random(&random) % 4 == 0)
			kt_stream_put(&out, block + sent, bytes);
		else
			ck_assert_int_eq(kloop_stream_write(out.stream, block + sent, bytes,
							    release_in_order,
							    &ordered.lent[lent++]), 0);
		sent += bytes;
		if (kt_random(&random) % 2000 == 0)
			kt_turn(loop, 0);
	}
	kt_stream_await(&in, sent);
	kt_turn_until(loop, &ordered.next, lent);
	ck_assert_uint_eq(in.received, sent);
	ck_assert(kt_is_fill(in.data, sent, 0));
	kt_stream_end(&out);
	kt_stream_end(&in);
	kt_loop_free(loop);
	kt_fault_remove();
}
END_TEST

/* Empty writes are told, in order, and never inside the call. */
START_TEST(empty_writes)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	struct kt_stream stream;
	struct kt_lent lent[4];
	char text[1];
	int fds[2];

	kt_pair(KIND(_i), fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_lend(&stream, &lent[0], NULL, 0);
	kt_turn_until(loop, &lent[0].released, 1);
	kt_lend(&stream, &lent[1], NULL, 0);
	kt_lend(&stream, &lent[2], "x", 1);
	kt_lend(&stream, &lent[3], NULL, 0);
	kloop_stream_close(stream.stream);
	kt_stream_end(&stream);
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(lent[i].released, 1);
		ck_assert_int_eq(lent[i].status, 0);
	}
	kt_read_all(fds[1], text, 1);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

/* ---- large transfers -------------------------------------------------- */

enum { CHUNK = 100000 };

struct flow {
	size_t goal;
	size_t queued;
	struct kt_lent lent[256];
	unsigned next;
	int stops;
};

static unsigned char flow_block[251 * CHUNK / 250];

/* Writes until the queue passes the high mark; on_drain goes on. */
static void pump(struct kt_stream *self)
{
	struct flow *flow = self->user;

	while (flow->queued < flow->goal) {
		size_t bytes = flow->goal - flow->queued < CHUNK ? flow->goal - flow->queued : CHUNK;
		const unsigned char *data = flow_block + flow->queued % 251;

		/* Lent, copied and direct writes in turn. */
		if (flow->next % 3 == 0) {
			kt_stream_put(self, data, bytes);
		} else if (flow->next % 3 == 1) {
			ptrdiff_t taken = kloop_stream_try_write(self->stream, data, bytes);

			ck_assert_int_ge(taken, 0);
			if ((size_t)taken < bytes)
				kt_stream_put(self, data + taken, bytes - (size_t)taken);
		} else {
			struct kt_lent *lent = &flow->lent[flow->next % 256];

			kt_lend(self, lent, data, bytes);
		}
		flow->next++;
		flow->queued += bytes;
		if (kloop_stream_get_write_bytes(self->stream) > 64 << 10) {
			flow->stops++;
			return;
		}
	}
	if (flow->queued == flow->goal) {
		flow->goal = 0;
		ck_assert_int_eq(kloop_stream_shutdown(self->stream), 0);
	}
}

static void flow_event(struct kt_stream *self, enum kt_event event, const void *data, size_t bytes)
{
	(void)data;
	(void)bytes;
	if (event == KT_ON_DRAIN) {
		ck_assert_uint_le(kloop_stream_get_write_bytes(self->stream), 16 << 10);
		pump(self);
	}
	/* A slow reader on one side: it stops after each piece. */
	if (event == KT_ON_DATA && self->offer_bytes == 1 && self->count[KT_ON_DATA] % 3 == 0)
		kt_stream_stop(self);
}

START_TEST(large_both_ways)
{
	size_t goal = MODE(_i) == KT_MODE_BEST ? 64 << 20 : 6 << 20;
	struct kloop_loop *loop;
	static struct flow flow[2];
	struct kt_stream stream[2];
	uint64_t expected = 0;
	uint64_t limit = kloop_now() + 3 * KT_PATIENCE_MS * KT_MS;
	int fds[2];

	kt_fault_install();
	loop = kt_mode_loop(MODE(_i));
	kt_fill(flow_block, sizeof(flow_block), 0);
	for (size_t at = 0; at < goal; at += CHUNK)
		expected = kt_sum(expected, flow_block + at % 251,
				  goal - at < CHUNK ? goal - at : CHUNK);
	kt_pair(KIND(_i), fds);
	memset(flow, 0, sizeof(flow));
	for (int i = 0; i < 2; i++) {
		kt_stream_open(&stream[i], loop, fds[i], 0);
		stream[i].then = flow_event;
		stream[i].user = &flow[i];
		flow[i].goal = goal;
		kt_stream_start(&stream[i]);
	}
	stream[1].offer_bytes = 1; /* the slow one */
	pump(&stream[0]);
	pump(&stream[1]);
	while (stream[0].count[KT_ON_EOF] + stream[1].count[KT_ON_EOF] < 2) {
		ck_assert_msg(kloop_now() < limit, "%zu and %zu bytes", stream[0].received,
			      stream[1].received);
		ck_assert_int_eq(stream[0].count[KT_ON_ERROR] + stream[1].count[KT_ON_ERROR], 0);
		kt_turn(loop, stream[1].reading ? 100 * KT_MS : 0);
		if (!stream[1].reading)
			kt_stream_start(&stream[1]);
	}
	for (int i = 0; i < 2; i++) {
		ck_assert_uint_eq(stream[i].received, goal);
		ck_assert_uint_eq(stream[i].sum, expected);
		ck_assert_int_gt(flow[i].stops, 0);
		ck_assert_int_ge(stream[i].count[KT_ON_DRAIN], flow[i].stops - 1);
		kt_stream_end(&stream[i]);
	}
	kt_loop_free(loop);
	kt_fault_remove();
}
END_TEST

START_TEST(marks)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	static char block[48 << 20]; /* more than buffers of sockets hold */
	struct kt_stream stream;
	int fds[2];

	kt_pair(KIND(_i), fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	/* Not passed: no on_drain. */
	ck_assert_int_eq(kloop_stream_set_write_marks(stream.stream, 10, 100), 0);
	kt_stream_put(&stream, block, 100);
	kt_turn_for(loop, 10);
	ck_assert_int_eq(stream.count[KT_ON_DRAIN], 0);
	/* Passed: once. */
	kt_stream_put(&stream, block, 101);
	kt_turn_until(loop, &stream.count[KT_ON_DRAIN], 1);
	kt_turn_for(loop, 10);
	ck_assert_int_eq(stream.count[KT_ON_DRAIN], 1);
	/* Marks above what is queued make it due at once, but in a turn. */
	kt_stream_put(&stream, block, sizeof(block));
	kt_turn_for(loop, 10);
	ck_assert_int_eq(stream.count[KT_ON_DRAIN], 1);
	ck_assert_int_eq(kloop_stream_set_write_marks(stream.stream, 64 << 20, 64 << 20), 0);
	ck_assert_int_eq(stream.count[KT_ON_DRAIN], 1);
	kt_turn_until(loop, &stream.count[KT_ON_DRAIN], 2);
	kt_stream_abort(&stream);
	ck_assert_int_eq(stream.count[KT_ON_DRAIN], 2);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

/* ---- abort ------------------------------------------------------------ */

/* What is written and then aborted reaches the peer as if it had been sent at once. */
START_TEST(last_words)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	static unsigned char block[8 << 20], back[8 << 20];
	struct kt_stream stream;
	struct kt_lent lent;
	ssize_t got;
	int fds[2];

	kt_pair(KIND(_i), fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_stream_put(&stream, "fare", 4);
	kt_lend(&stream, &lent, "well", 4);
	kt_stream_abort(&stream);
	ck_assert_int_eq(lent.released, 1);
	ck_assert_int_eq(lent.status, 0);
	kt_read_all(fds[1], back, 8);
	ck_assert_mem_eq(back, "farewell", 8);
	ck_assert_int_eq(read(fds[1], back, 1), 0);
	kt_close(fds[1]);

	/* But nobody waits for more than fits. */
	kt_fill(block, sizeof(block), 0);
	kt_pair(KIND(_i), fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_lend(&stream, &lent, block, sizeof(block));
	kt_stream_abort(&stream);
	ck_assert_int_eq(lent.released, 1);
	ck_assert_int_eq(lent.status, -ECANCELED);
	ck_assert_uint_eq(KT_STAT(loop, in_flight), 0);
	for (size_t bytes = 0; (got = read(fds[1], back, sizeof(back))) > 0; bytes += (size_t)got)
		ck_assert(kt_is_fill(back, (size_t)got, bytes) && bytes + (size_t)got < sizeof(block));
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

/* ---- direct writes ---------------------------------------------------- */

START_TEST(try_write)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	bool sqpoll = kloop_loop_get_features(loop) & KLOOP_FEATURE_SQPOLL;
	static unsigned char block[8 << 20], back[8 << 20];
	struct kt_stream stream;
	ptrdiff_t taken, more;
	int fds[2];

	kt_pair(KIND(_i), fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	ck_assert_int_eq(kloop_stream_try_write(stream.stream, NULL, 1), -EINVAL);
	ck_assert_int_eq(kloop_stream_try_write(stream.stream, "x", 0), 0);
	kt_fill(block, sizeof(block), 0);
	taken = kloop_stream_try_write(stream.stream, block, sizeof(block));
	if (sqpoll) {
		ck_assert_int_eq(taken, 0);
	} else {
		ck_assert_int_gt(taken, 0);
		ck_assert_int_lt(taken, (int)sizeof(block));
		ck_assert_uint_eq(KT_STAT(loop, direct_calls), 1);
		/* Full; but what is on its way through TCP may make room once more. */
		do {
			more = kloop_stream_try_write(stream.stream, block + taken, 1024);
			ck_assert_int_ge(more, 0);
			taken += more;
			ck_assert_int_lt(taken, (int)sizeof(block) - 1024);
		} while (more > 0);
		kt_read_all(fds[1], back, (size_t)taken);
		ck_assert(kt_is_fill(back, (size_t)taken, 0));
	}
	/* Behind something queued it must not overtake. */
	kt_stream_put(&stream, "a", 1);
	ck_assert_int_eq(kloop_stream_try_write(stream.stream, "b", 1), 0);
	ck_assert_uint_eq(kt_turn_read(loop, fds[1], back, 1), 1);
	ck_assert_int_eq(back[0], 'a');
	kt_close(fds[1]);
	for (int i = 0; !sqpoll && i < KT_PATIENCE_MS; i++) {
		taken = kloop_stream_try_write(stream.stream, "x", 1);
		if (taken < 0)
			break;
		kt_sleep_ms(1);
	}
	if (!sqpoll) {
		ck_assert(taken == -EPIPE || taken == -ECONNRESET);
		ck_assert_int_eq(stream.count[KT_ON_ERROR], 0);
		kt_turn_until(loop, &stream.count[KT_ON_ERROR], 1);
		ck_assert_int_eq(stream.error, (int)taken);
	}
	kt_stream_end(&stream);
	kt_loop_free(loop);
}
END_TEST

/* ---- no memory -------------------------------------------------------- */

/*
 * A conversation under a failing allocator: whatever is refused, what was
 * accepted is released once, every stream closes, and nothing leaks.
 */
static void starve(size_t countdown, size_t repeat, size_t *ret_hits)
{
	static unsigned char block[40000];
	struct kloop_loop *loop;
	struct kt_stream stream[2];
	struct kt_lent lent[20];
	int accepted = 0, released = 0, fds[2];
	int before = kt_fd_count();

	kt_fault_install();
	ck_assert_int_eq(kloop_loop_new(NULL, &loop), 0);
	kt_socketpair(fds);
	memset(stream, 0, sizeof(stream));
	kt_fault_arm(countdown, repeat);
	for (int i = 0; i < 2; i++) {
		stream[i].loop = loop;
		if (kloop_stream_new(loop, fds[i], 0, &kt_stream_handlers, &stream[i],
				     &stream[i].stream) < 0)
			kt_close(fds[i]);
		else if (kloop_stream_start_read(stream[i].stream) == 0)
			stream[i].reading = true;
	}
	for (int i = 0; i < 20 && stream[0].stream; i++) {
		lent[accepted] = (struct kt_lent){ .stream = &stream[0], .total = &released };
		if (i % 2 == 0 && kloop_stream_write(stream[0].stream, block, 2000 * (size_t)i, kt_release,
						     &lent[accepted]) == 0)
			accepted++;
		else if (kloop_stream_write(stream[0].stream, block, 900, NULL, NULL) < 0)
			continue;
		kt_turn(loop, 0);
		/* Hold now and then. */
		if (stream[1].stream && i % 5 == 4 && kloop_stream_stop_read(stream[1].stream) == 0)
			stream[1].reading = false;
		if (stream[1].stream && i % 5 == 1 && kloop_stream_start_read(stream[1].stream) == 0)
			stream[1].reading = true;
	}
	for (int i = 0; i < 2; i++) {
		stream[i].reading = false;
		if (stream[i].stream) {
			kloop_stream_abort(stream[i].stream);
			kt_turn_until(loop, &stream[i].count[KT_ON_CLOSE], 1);
		}
	}
	*ret_hits = kt_fault_hits();
	kt_fault_arm(0, 0);
	ck_assert_int_eq(released, accepted);
	kt_loop_free(loop);
	ck_assert_uint_eq(kt_fault_blocks(), 0);
	kt_fault_remove();
	ck_assert_int_eq(kt_fd_count(), before);
}

START_TEST(no_memory)
{
	size_t hits, countdown;

	for (countdown = 1; countdown < 500; countdown++) {
		starve(countdown, _i == 0 ? 1 : 0, &hits);
		if (hits == 0)
			break;
	}
	ck_assert_uint_gt(countdown, 10);
	ck_assert_uint_lt(countdown, 500);
}
END_TEST

/* An idle stream keeps no memory beyond itself. */
START_TEST(idle_memory)
{
	struct kloop_loop *loop;
	struct kt_stream stream[2];
	struct kt_lent lent[100];
	static char block[100000];
	size_t before;
	int fds[2];

	kt_fault_install();
	ck_assert_int_eq(kloop_loop_new(NULL, &loop), 0);
	kt_pair(_i, fds);
	kt_stream_open(&stream[0], loop, fds[0], 0);
	kt_stream_open(&stream[1], loop, fds[1], 0);
	kt_stream_start(&stream[0]);
	kt_stream_start(&stream[1]);
	kt_stream_put(&stream[1], "x", 1);
	kt_stream_await(&stream[0], 1);
	before = kt_fault_bytes();
	for (int i = 0; i < 100; i++)
		kt_lend(&stream[0], &lent[i], block, 1000);
	kt_stream_put(&stream[0], block, sizeof(block));
	kt_stream_await(&stream[1], 200000);
	for (int i = 0; i < 20; i++) {
		kt_stream_put(&stream[0], "x", 1);
		kt_stream_await(&stream[1], 200000 + (size_t)i + 1);
	}
	kt_turn_for(loop, 5);
	/* The loop's hot buffer may have been made meanwhile: not a stream's. */
	ck_assert_uint_le(kt_fault_bytes(), before + (300 << 10));
	before = kt_fault_bytes();
	kt_stream_end(&stream[0]);
	kt_stream_end(&stream[1]);
	ck_assert_uint_le(before - kt_fault_bytes(), 2 * 256);
	ck_assert_uint_gt(before - kt_fault_bytes(), 0);
	kt_loop_free(loop);
	kt_fault_remove();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("stream_write");
	TCase *tcase = kt_case(suite, "queue", 60);

	tcase_add_loop_test(tcase, small_writes_leave_as_one, 0, ALL);
	tcase_add_loop_test(tcase, many_segments_in_order, 0, ALL);
	tcase_add_loop_test(tcase, empty_writes, 0, ALL);
	tcase_add_loop_test(tcase, marks, 0, ALL);
	tcase_add_loop_test(tcase, last_words, 0, ALL);
	tcase_add_loop_test(tcase, try_write, 0, ALL);
	tcase = kt_case(suite, "large", 120);
	tcase_add_loop_test(tcase, large_both_ways, 0, ALL);
	tcase = kt_case(suite, "memory", 120);
	tcase_add_loop_test(tcase, no_memory, 0, 2);
	tcase_add_loop_test(tcase, idle_memory, 0, KT_KINDS);
	return kt_main(suite);
}
