/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Files that a stream does not send to their end: aborted, cancelled, without memory. */
#include "fault.h"
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

/* Modes, kinds of sockets, and with or without KLOOP_SEND_FILE_ZERO_COPY. */
#define ALL (KT_MODES * KT_KINDS * 2)
#define MODE(i) ((i) / 2 / KT_KINDS)
#define KIND(i) ((i) / 2 % KT_KINDS)
#define FLAGS(i) ((i) % 2 ? KLOOP_SEND_FILE_ZERO_COPY : 0u)

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

/* ---- the end in the middle -------------------------------------------- */

enum ending {
	END_ABORT,
	END_CLOSE_ABORT,
	END_FREE,
	END_RESET,
	ENDINGS,
};

/* A file that is stuck, with things behind it. */
static void end_in_the_middle(int i, enum ending ending, unsigned turns_ms)
{
	struct kloop_loop *loop;
	struct kt_stream out;
	struct kt_lent lent;
	struct kt_sent sent[2];
	int fds[2], done = 0, fd = kt_file_make(20 * MIB), before = kt_fd_count();

	kt_fault_install();
	loop = kt_mode_loop(MODE(i));
	kt_pair(KIND(i), fds);
	kt_stream_open(&out, loop, fds[0], 0);
	kt_stream_put(&out, "a", 1);
	for (int n = 0; n < 2; n++) {
		ck_assert_int_eq(kt_send_file(&out, fd, 0, KLOOP_FILE_END, FLAGS(i), &sent[n]), 0);
		sent[n].total = &done;
	}
	kt_lend(&out, &lent, "tail", 4);
	if (turns_ms > 0)
		kt_turn_for(loop, turns_ms);
	ck_assert_int_eq(done, 0);
	if (ending == END_RESET) {
		kt_close(fds[1]);
		kt_turn_until(loop, &out.count[KT_ON_ERROR], 1);
		ck_assert_int_eq(done, 2);
		kt_stream_end(&out);
	} else if (ending == END_FREE) {
		kt_loop_free(loop);
		ck_assert_ptr_null(out.stream);
		kt_stream_forget(&out);
	} else {
		if (ending == END_CLOSE_ABORT) {
			kloop_stream_close(out.stream);
			kt_turn_for(loop, 5);
			ck_assert_int_eq(done, 0);
		}
		kt_stream_abort(&out);
	}
	ck_assert_int_eq(done, 2);
	ck_assert_int_eq(lent.released, 1);
	if (ending != END_RESET) {
		ck_assert_int_eq(sent[0].status, -ECANCELED);
		ck_assert_int_eq(sent[1].status, -ECANCELED);
		kt_close(fds[1]);
	} else {
		ck_assert_int_eq(sent[0].status, out.error);
		ck_assert(out.error == -EPIPE || out.error == -ECONNRESET);
	}
	ck_assert_uint_lt(sent[0].bytes, 20 * MIB);
	ck_assert_uint_eq(sent[1].bytes, 0);
	if (ending != END_FREE)
		kt_loop_free(loop);
	kt_fault_remove();
	ck_assert_int_eq(kt_fd_count(), before);
	kt_close(fd);
}

START_TEST(ended_early)
{
	/* The library sees to it that nobody needs to ignore it. */
	signal(SIGPIPE, SIG_DFL);
	for (int ending = 0; ending < ENDINGS; ending++) {
		end_in_the_middle(_i, (enum ending)ending, 0);
		end_in_the_middle(_i, (enum ending)ending, 1);
		end_in_the_middle(_i, (enum ending)ending, 30);
	}
}
END_TEST

/* Inside done everything may be called. */
static int act;
static int act_fd;
static struct kt_sent act_sent;

static void act_now(struct kt_sent *sent)
{
	struct kt_stream *stream = sent->stream;

	switch (act) {
	case 0:
		kt_stream_put(stream, "tail", 4);
		ck_assert_int_eq(kt_send_file(stream, act_fd, 0, 10, 0, &act_sent), 0);
		break;
	case 1:
		kloop_stream_close(stream->stream);
		break;
	case 2:
		kloop_stream_abort(stream->stream);
		break;
	case 3:
		ck_assert_int_eq(kloop_stream_shutdown(stream->stream), 0);
		break;
	}
}

START_TEST(calls_inside_done)
{
	for (act = 0; act < 4; act++) {
		struct kt_sent sent[2];
		struct kt_ends ends;

		act_fd = kt_file_make(100 * KIB);
		kt_ends_open(&ends, MODE(_i), KIND(_i));
		ck_assert_int_eq(kt_send_file(&ends.out, act_fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent[0]),
				 0);
		sent[0].then = act_now;
		ck_assert_int_eq(kt_send_file(&ends.out, act_fd, 0, 70 * KIB, FLAGS(_i), &sent[1]), 0);
		kt_turn_until(ends.loop, &sent[1].done, 1);
		ck_assert_int_eq(sent[0].done, 1);
		ck_assert_int_eq(sent[1].status, act == 2 ? -ECANCELED : 0);
		if (act == 0) {
			kt_turn_until(ends.loop, &act_sent.done, 1);
			kt_stream_await(&ends.in, 170 * KIB + 14);
			ck_assert_mem_eq(ends.in.data + 170 * KIB, "tail", 4);
			ck_assert(kt_is_fill(ends.in.data + 170 * KIB + 4, 10, 0));
		} else {
			kt_turn_until(ends.loop, &ends.in.count[KT_ON_EOF], 1);
		}
		if (act == 1 || act == 3)
			ck_assert_uint_eq(ends.in.received, 170 * KIB);
		kt_ends_close(&ends);
		kt_close(act_fd);
	}
}
END_TEST

/* Cancelled while it is stuck, while it waits, and when it is not there. */
START_TEST(cancelled)
{
	size_t size = 20 * MIB;
	struct kt_sent sent[3];
	struct kt_ends ends;
	int fd = kt_file_make(size);

	kt_ends_open(&ends, MODE(_i), KIND(_i));
	kt_stream_stop(&ends.in);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(kt_send_file(&ends.out, fd, 0, i == 2 ? 100 : KLOOP_FILE_END,
					   FLAGS(_i), &sent[i]), 0);
	kt_turn_for(ends.loop, 20);
	ck_assert_int_eq(kloop_stream_cancel_file(NULL, NULL), -EINVAL);
	ck_assert_int_eq(kloop_stream_cancel_file(ends.out.stream, &ends), -ENOENT);
	ck_assert_int_eq(kt_cancel_file(&sent[1]), 0);
	ck_assert_int_eq(kt_cancel_file(&sent[0]), 0);
	ck_assert_int_eq(kt_cancel_file(&sent[0]), 0);
	kt_turn_until(ends.loop, &sent[0].done, 1);
	ck_assert_int_eq(sent[1].done, 1);
	ck_assert_int_eq(sent[0].status, -ECANCELED);
	ck_assert_int_eq(sent[1].status, -ECANCELED);
	ck_assert_uint_lt(sent[0].bytes, size);
	ck_assert_uint_eq(sent[1].bytes, 0);
	ck_assert_int_eq(kt_cancel_file(&sent[0]), -ENOENT);
	/* What was sent is said to the byte, and what follows comes. */
	kt_stream_start(&ends.in);
	kt_turn_until(ends.loop, &sent[2].done, 1);
	ck_assert_int_eq(sent[2].status, 0);
	kt_stream_put(&ends.out, "on", 2);
	kt_stream_await(&ends.in, (size_t)sent[0].bytes + 102);
	ck_assert_uint_eq(ends.in.received, sent[0].bytes + 102);
	ck_assert(kt_is_fill(ends.in.data, (size_t)sent[0].bytes, 0));
	ck_assert(kt_is_fill(ends.in.data + sent[0].bytes, 100, 0));
	kt_ends_close(&ends);
	kt_close(fd);
}
END_TEST

/* Behind a write that is stuck: the file does not wait for it. */
START_TEST(cancelled_behind)
{
	static unsigned char block[20 * MIB];
	struct kt_lent lent;
	struct kt_sent sent[3];
	struct kt_ends ends;
	int fd = kt_file_make(1000);

	kt_ends_open(&ends, MODE(_i), KIND(_i));
	kt_stream_stop(&ends.in);
	kt_fill(block, sizeof(block), 0);
	kt_lend(&ends.out, &lent, block, sizeof(block));
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent[0]), 0);
	kt_turn_for(ends.loop, 20);
	kt_stream_put(&ends.out, "a", 1);
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent[1]), 0);
	kt_stream_put(&ends.out, "b", 1);
	ck_assert_int_eq(kt_cancel_file(&sent[1]), 0);
	ck_assert_int_eq(kt_cancel_file(&sent[0]), 0);
	ck_assert_int_eq(sent[0].done + sent[1].done, 0);
	kt_turn_until(ends.loop, &sent[0].done, 1);
	ck_assert_int_eq(sent[1].done, 1);
	ck_assert_int_eq(sent[0].status, -ECANCELED);
	ck_assert_int_eq(lent.released, 0);
	/* And one that is aborted in the same moment. */
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent[2]), 0);
	ck_assert_int_eq(kt_cancel_file(&sent[2]), 0);
	if (MODE(_i) == KT_MODE_COOP) {
		kt_stream_abort(&ends.out);
	} else {
		kt_stream_start(&ends.in);
		kt_stream_await(&ends.in, sizeof(block) + 2);
		ck_assert(kt_is_fill(ends.in.data, sizeof(block), 0));
		ck_assert_mem_eq(ends.in.data + sizeof(block), "ab", 2);
	}
	ck_assert_int_eq(sent[2].done, 1);
	ck_assert_int_eq(sent[2].status, -ECANCELED);
	kt_ends_close(&ends);
	kt_close(fd);
}
END_TEST

/*
 * Cancelled when its last step is done and not told yet, also one that found the
 * socket full: the file does not wait for room then.
 */
START_TEST(cancelled_between_steps)
{
	for (int turns = 1; turns < 12; turns++) {
		struct kloop_loop *loop = kt_mode_loop(_i);
		int fds[2], fd = kt_file_make(8 * MIB);
		struct kt_stream out;
		struct kt_sent sent;

		kt_pair(KT_LOCAL, fds);
		ck_assert_int_eq(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
		kt_stream_open(&out, loop, fds[0], 0);
		ck_assert_int_eq(kt_send_file(&out, fd, 0, KLOOP_FILE_END,
					   KLOOP_SEND_FILE_ZERO_COPY, &sent),
				 0);
		for (int i = 0; i < turns; i++) {
			kt_turn(loop, 0);
			kt_sleep_ms(2);
		}
		ck_assert_int_eq(kt_cancel_file(&sent), 0);
		kt_turn_until(loop, &sent.done, 1);
		ck_assert_int_eq(sent.status, -ECANCELED);
		kt_stream_abort(&out);
		kt_close(fds[1]);
		kt_close(fd);
		kt_loop_free(loop);
	}
}
END_TEST

/* ---- another thread ---------------------------------------------------- */

struct moving {
	struct kloop_loop *loop;
	struct kt_stream *in;
	struct kt_sent *sent;
	size_t bytes;
	int result;
};

static void *go_on(void *data)
{
	struct moving *moving = data;

	moving->result = kloop_loop_adopt(moving->loop);
	if (moving->result < 0)
		return NULL;
	kt_stream_start(moving->in);
	kt_stream_await(moving->in, moving->bytes);
	kt_turn_until(moving->loop, &moving->sent->done, 1);
	kt_stream_abort(moving->in); /* its read would keep the loop here */
	return NULL;
}

/*
 * The loop changes its thread, which cancels what is in flight: here that the
 * socket is waited for, since while something is sent it cannot move.
 */
START_TEST(adopted)
{
	if (_i == KT_MODE_SQPOLL_OLD)
		return; /* its reads keep it where it is, too */
	size_t size = 20 * MIB;
	struct kt_sent sent;
	struct kt_ends ends;
	struct moving moving;
	int fd = kt_file_make(size);

	kt_ends_open(&ends, _i, KT_TCP);
	ck_assert_int_eq(fcntl(kloop_stream_get_fd(ends.out.stream), F_SETFL, O_NONBLOCK), 0);
	ends.in.keep = false;
	kt_stream_stop(&ends.in);
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 0, KLOOP_FILE_END, KLOOP_SEND_FILE_ZERO_COPY,
				   &sent), 0);
	kt_turn_for(ends.loop, 20);
	ck_assert_int_eq(sent.done, 0);
	moving = (struct moving){ ends.loop, &ends.in, &sent, size, -EBUSY };
	for (int i = 0; i < 1000 && moving.result == -EBUSY; i++) {
		kt_turn_for(ends.loop, 2);
		kt_on_thread(go_on, &moving);
	}
	ck_assert_int_eq(moving.result, 0);
	ck_assert_int_eq(kloop_loop_adopt(ends.loop), 0);
	ck_assert_int_eq(sent.status, 0);
	ck_assert_uint_eq(sent.bytes, size);
	ck_assert_uint_eq(ends.in.received, size);
	ck_assert_uint_eq(ends.in.sum, kt_file_sum(0, size));
	kt_ends_close(&ends);
	kt_close(fd);
}
END_TEST

/* ---- no memory -------------------------------------------------------- */

static void starve(int fd, unsigned flags, size_t countdown, size_t repeat, size_t *ret_hits)
{
	struct kloop_loop *loop;
	struct kt_stream stream[2];
	struct kt_sent sent[6];
	int accepted = 0, done = 0, fds[2];
	int before = kt_fd_count();

	kt_fault_install();
	ck_assert_int_eq(kloop_loop_new(NULL, &loop), 0);
	kt_socketpair(fds);
	for (int i = 0; i < 2; i++)
		kt_stream_open(&stream[i], loop, fds[i], 0);
	kt_stream_start(&stream[1]);
	kt_fault_arm(countdown, repeat);
	for (int i = 0; i < 6; i++) {
		if (kt_send_file(&stream[0], fd, 0, 30 * KIB * (size_t)i, flags, &sent[accepted]) == 0)
			sent[accepted++].total = &done;
		(void)!kloop_stream_write(stream[0].stream, "between", 7, NULL, NULL);
		kt_turn(loop, 0);
	}
	kt_turn_for(loop, 2);
	*ret_hits = kt_fault_hits();
	kt_fault_arm(0, 0);
	for (int i = 0; i < 2; i++) {
		stream[i].reading = false;
		kt_stream_abort(&stream[i]);
	}
	ck_assert_int_eq(done, accepted);
	kt_loop_free(loop);
	ck_assert_uint_eq(kt_fault_blocks(), 0);
	kt_fault_remove();
	ck_assert_int_eq(kt_fd_count(), before);
}

START_TEST(no_memory)
{
	int fd = kt_file_make(200 * KIB);
	size_t hits, countdown;

	for (countdown = 1; countdown < 200; countdown++) {
		starve(fd, _i % 2 ? KLOOP_SEND_FILE_ZERO_COPY : 0, countdown, _i < 2 ? 1 : 0,
		       &hits);
		if (hits == 0)
			break;
	}
	ck_assert_uint_gt(countdown, 5);
	ck_assert_uint_lt(countdown, 200);
	kt_close(fd);
}
END_TEST

/* No memory for a piece of the file: the owner is told, and the stream goes on. */
START_TEST(no_memory_to_read)
{
	struct kt_sent sent;
	struct kt_ends ends;
	int fd = kt_file_make(200 * KIB);

	kt_fault_install();
	kt_ends_open(&ends, KT_MODE_BEST, KT_LOCAL);
	kt_turn_for(ends.loop, 5);
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 0, KLOOP_FILE_END, 0, &sent), 0);
	kt_fault_arm(1, 1);
	kt_turn_until(ends.loop, &sent.done, 1);
	ck_assert_int_eq(sent.status, -ENOMEM);
	ck_assert_uint_eq(sent.bytes, 0);
	kt_fault_arm(0, 0);
	kt_stream_put(&ends.out, "on", 2);
	kt_stream_await(&ends.in, 2);
	kt_ends_close(&ends);
	kt_fault_remove();
	kt_close(fd);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("stream_file_end");
	TCase *tcase;

	tcase = kt_case(suite, "ends", 120);
	tcase_add_loop_test(tcase, ended_early, 0, ALL);
	tcase_add_loop_test(tcase, calls_inside_done, 0, ALL);
	tcase_add_loop_test(tcase, cancelled, 0, ALL);
	tcase_add_loop_test(tcase, cancelled_behind, 0, ALL);
	tcase_add_loop_test(tcase, adopted, 0, KT_MODES);
	tcase = kt_case(suite, "steps", 60);
	tcase_add_loop_test(tcase, cancelled_between_steps, 0, KT_MODES);
	tcase = kt_case(suite, "memory", 120);
	tcase_add_loop_test(tcase, no_memory, 0, 4);
	tcase_add_test(tcase, no_memory_to_read);
	return kt_main(suite);
}
