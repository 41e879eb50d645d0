/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Streams with TLS: a record that is all there is to send goes by a system call of its own. */
#include "tlsstream.h"

#include <errno.h>
#include <sys/socket.h>

static const struct kt_tls_setup setup = { .kind = KT_TCP, .ktls = KLOOP_KTLS_OFF };

/* How many direct calls it takes until the other end has `bytes` in all. */
static uint64_t calls_until(struct kt_tls ends[2], size_t bytes)
{
	uint64_t before = KT_STAT(ends[0].s.loop, direct_calls);

	kt_stream_await(&ends[1].s, bytes);
	return KT_STAT(ends[0].s.loop, direct_calls) - before;
}

/* Loop number: the mode. With SQPOLL no call is made for data. */
START_TEST(at_once)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kt_tls ends[2];
	/* Without multishot receives, and with direct ones, reads are calls too. */
	bool counted = _i == KT_MODE_BEST;
	size_t total;

	kt_tls_connect(ends, loop, &setup);
	ends[1].s.then = kt_check_fill;
	kt_tls_put(&ends[0], 100, 0);
	kt_stream_await(&ends[1].s, 100);
	for (total = 100; total < 200000; total += 4096) {
		uint64_t calls;

		kt_tls_put(&ends[0], 4096, total);
		calls = calls_until(ends, total + 4096);
		if (counted)
			ck_assert_uint_eq(calls, 1);
		else if (_i == KT_MODE_SQPOLL)
			ck_assert_uint_eq(calls, 0);
	}
	/* Little is sent with what else a turn has to send; a head and a body are one record. */
	kt_tls_put(&ends[0], 1000, total);
	total += 1000;
	if (counted)
		ck_assert_uint_eq(calls_until(ends, total), 0);
	kt_stream_await(&ends[1].s, total);
	kt_tls_put(&ends[0], 100, total);
	kt_tls_put(&ends[0], 6000, total + 100);
	total += 6100;
	if (counted)
		ck_assert_uint_eq(calls_until(ends, total), 1);
	kt_stream_await(&ends[1].s, total);
	kt_tls_end(ends);
	ck_assert_int_eq(ends[0].s.count[KT_ON_ERROR] + ends[1].s.count[KT_ON_ERROR], 0);
	kt_loop_free(loop);
}
END_TEST

/* What the socket has no room for, or for a part of, follows by the ring, in order. */
START_TEST(full_socket)
{
	/* TCP with a window that small waits for its timers each time it was shut. */
	static const struct kt_tls_setup local = { .kind = KT_LOCAL, .ktls = KLOOP_KTLS_OFF };
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kt_tls ends[2];
	size_t total = 0;
	int room = 8192;

	kt_tls_connect(ends, loop, &local);
	ends[1].s.then = kt_check_fill;
	for (int i = 0; i < 2; i++) {
		int fd = kloop_stream_get_fd(ends[i].s.stream);

		ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)), 0);
		ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)), 0);
	}
	for (int round = 0; round < 3; round++) {
		kt_stream_stop(&ends[1].s);
		/* Nobody reads: some go, one goes in part, the others wait. */
		for (int i = 0; i < 40; i++) {
			kt_tls_put(&ends[0], 16000, total);
			total += 16000;
			kt_turn(loop, 0);
		}
		ck_assert_uint_gt(kloop_stream_get_write_bytes(ends[0].s.stream), 0);
		kt_stream_start(&ends[1].s);
		kt_stream_await(&ends[1].s, total);
	}
	kt_tls_end(ends);
	ck_assert_int_eq(ends[0].s.count[KT_ON_ERROR] + ends[1].s.count[KT_ON_ERROR], 0);
	kt_loop_free(loop);
}
END_TEST

/* The call says that nothing can be sent any more: told as if the ring did. Loop number: size. */
START_TEST(no_way_out)
{
	static const size_t sizes[] = { 1000, 4000, 40000 };
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls ends[2];

	kt_tls_connect(ends, loop, &setup);
	/* The tickets of the server are through. */
	kt_tls_put(&ends[1], 1, 0);
	kt_stream_await(&ends[0].s, 1);
	kt_stream_stop(&ends[1].s);
	ck_assert_int_eq(shutdown(kloop_stream_get_fd(ends[0].s.stream), SHUT_WR), 0);
	kt_tls_put(&ends[0], sizes[_i], 0);
	kt_turn_until(loop, &ends[0].s.count[KT_ON_ERROR], 1);
	ck_assert_int_eq(ends[0].s.error, -EPIPE);
	ck_assert_uint_eq(kloop_stream_get_write_bytes(ends[0].s.stream), 0);
	kt_tls_end(ends);
	ck_assert_int_eq(ends[0].s.count[KT_ON_ERROR], 1);
	kt_loop_free(loop);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tls_send");
	TCase *sends = kt_case(suite, "send", 120);

	tcase_add_loop_test(sends, at_once, 0, KT_MODES);
	tcase_add_loop_test(sends, full_socket, 0, KT_MODES);
	tcase_add_loop_test(sends, no_way_out, 0, 3);
	return kt_main(suite);
}
