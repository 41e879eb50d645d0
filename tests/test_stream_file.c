/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Files among what a stream writes, in each way that they can be sent. */
#include "fault.h"
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Modes, kinds of sockets, and with or without KLOOP_SEND_FILE_ZERO_COPY. */
#define ALL (KT_MODES * KT_KINDS * 2)
#define MODE(i) ((i) / 2 / KT_KINDS)
#define KIND(i) ((i) / 2 % KT_KINDS)
#define FLAGS(i) ((i) % 2 ? KLOOP_SEND_FILE_ZERO_COPY : 0u)

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

/* ---- what is sent ----------------------------------------------------- */

/* One file between two writes: what arrives, and what done is told. */
static void check_part(struct kt_ends *ends, int fd, size_t size, uint64_t offset, uint64_t bytes,
		       unsigned flags)
{
	size_t expected = offset < size ? size - (size_t)offset : 0;
	struct kt_sent sent;

	if (bytes < expected)
		expected = (size_t)bytes;
	ends->in.received = 0;
	kt_stream_put(&ends->out, "head", 4);
	ck_assert_int_eq(kt_send_file(&ends->out, fd, offset, bytes, flags, &sent), 0);
	ck_assert_uint_eq(kloop_stream_get_write_bytes(ends->out.stream), 4);
	ck_assert_int_eq(kloop_stream_try_write(ends->out.stream, "x", 1), 0);
	kt_stream_put(&ends->out, "tail", 4);
	kt_stream_await(&ends->in, expected + 8);
	kt_turn_until(ends->loop, &sent.done, 1);
	ck_assert_int_eq(sent.status, 0);
	ck_assert_uint_eq(sent.bytes, expected);
	ck_assert_uint_eq(ends->in.received, expected + 8);
	ck_assert_mem_eq(ends->in.data, "head", 4);
	ck_assert(kt_is_fill(ends->in.data + 4, expected, (size_t)offset));
	ck_assert_mem_eq(ends->in.data + 4 + expected, "tail", 4);
	ck_assert_uint_eq(kloop_stream_get_write_bytes(ends->out.stream), 0);
}

START_TEST(sizes_and_parts)
{
	static const size_t sizes[] = { 0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 256 * KIB,
					256 * KIB + 1, 1000000 };
	unsigned flags = FLAGS(_i);
	struct kt_ends ends;

	kt_ends_open(&ends, MODE(_i), KIND(_i));
	for (size_t i = 0; i < KT_COUNT(sizes); i++) {
		size_t size = sizes[i];
		int fd = _i % 4 < 2 ? kt_file_make_on_disk(size) : kt_file_make(size);

		ck_assert_int_eq(lseek(fd, 1, SEEK_SET), 1);
		check_part(&ends, fd, size, 0, KLOOP_FILE_END, flags);
		check_part(&ends, fd, size, 0, size, flags);
		check_part(&ends, fd, size, 0, size + 100000, flags); /* it ends before */
		check_part(&ends, fd, size, 0, 0, flags);
		check_part(&ends, fd, size, size / 3 + 1, KLOOP_FILE_END, flags);
		check_part(&ends, fd, size, size / 3 + 1, size / 2, flags);
		check_part(&ends, fd, size, size, KLOOP_FILE_END, flags);
		check_part(&ends, fd, size, size + 5000, 10, flags);
		check_part(&ends, fd, size, INT64_MAX, KLOOP_FILE_END, flags);
		/* The position is nobody's business. */
		ck_assert_int_eq(lseek(fd, 0, SEEK_CUR), 1);
		kt_close(fd);
	}
	kt_ends_close(&ends);
}
END_TEST

/* A reader that stops all the time. */
static void stop_often(struct kt_stream *self, enum kt_event event, const void *data, size_t bytes)
{
	(void)data;
	(void)bytes;
	if (event == KT_ON_DATA && self->count[KT_ON_DATA] % 3 == 0)
		kt_stream_stop(self);
}

static void send_large(int i, bool nonblocking)
{
	size_t size = 10 * MIB + 12345;
	uint64_t limit = kloop_now() + 3 * KT_PATIENCE_MS * KT_MS;
	int fd = kt_file_make(size);
	struct kt_sent sent;
	struct kt_ends ends;

	kt_ends_open(&ends, MODE(i), KIND(i));
	if (nonblocking)
		ck_assert_int_eq(fcntl(kloop_stream_get_fd(ends.out.stream), F_SETFL, O_NONBLOCK),
				 0);
	ends.in.keep = false;
	ends.in.then = stop_often;
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 345, KLOOP_FILE_END, FLAGS(i), &sent), 0);
	/* Closed, the stream sends it all the same. */
	kloop_stream_close(ends.out.stream);
	while (ends.in.received < size - 345 || !sent.done) {
		ck_assert_msg(kloop_now() < limit, "%zu bytes", ends.in.received);
		kt_turn(ends.loop, ends.in.reading ? 100 * KT_MS : 0);
		if (!ends.in.reading)
			kt_stream_start(&ends.in);
	}
	ck_assert_int_eq(sent.status, 0);
	ck_assert_uint_eq(sent.bytes, size - 345);
	ck_assert_uint_eq(ends.in.received, size - 345);
	ck_assert_uint_eq(ends.in.sum, kt_file_sum(345, size - 345));
	ends.in.then = NULL;
	if (!ends.in.reading)
		kt_stream_start(&ends.in);
	kt_turn_until(ends.loop, &ends.in.count[KT_ON_EOF], 1);
	kt_ends_close(&ends);
	kt_close(fd);
}

START_TEST(large_and_slow)
{
	send_large(_i, false);
}
END_TEST

START_TEST(large_and_nonblocking)
{
	send_large(_i, true);
}
END_TEST

enum { FILES = 40 };

/* Files and writes of all kinds, mixed, all at once and over some turns. */
START_TEST(many_in_order)
{
	static unsigned char block[FILES * 300];
	struct kt_lent lent[FILES];
	struct kt_sent sent[FILES];
	struct kt_ends ends;
	size_t size = 300 * KIB, position = 0, total = 0;
	size_t wrote[FILES][2], from[FILES];
	uint64_t random = 5 + (uint64_t)_i;
	int fd = kt_file_make(size), done = 0;

	kt_fault_install();
	kt_ends_open(&ends, MODE(_i), KIND(_i));
	kt_fill(block, sizeof(block), 0);
	for (int i = 0; i < FILES; i++) {
		size_t bytes = kt_random(&random) % 300;
		size_t most = kt_random(&random) % 4 ? 2000 : 150 * KIB;

		if (kt_random(&random) % 2)
			kt_stream_put(&ends.out, block + position, bytes);
		else
			kt_lend(&ends.out, &lent[i], block + position, bytes);
		wrote[i][0] = bytes;
		position += bytes;
		from[i] = kt_random(&random) % (100 * KIB);
		wrote[i][1] = kt_random(&random) % most;
		ck_assert_int_eq(kt_send_file(&ends.out, fd, from[i], wrote[i][1], FLAGS(_i), &sent[i]),
				 0);
		sent[i].total = &done;
		total += bytes + wrote[i][1];
		if (kt_random(&random) % 8 == 0)
			kt_turn(ends.loop, 0);
	}
	kt_stream_await(&ends.in, total);
	kt_turn_until(ends.loop, &done, FILES);
	ck_assert_uint_eq(ends.in.received, total);
	total = 0;
	position = 0;
	for (int i = 0; i < FILES; i++) {
		ck_assert(kt_is_fill(ends.in.data + total, wrote[i][0], position));
		total += wrote[i][0];
		position += wrote[i][0];
		ck_assert(kt_is_fill(ends.in.data + total, wrote[i][1], from[i]));
		total += wrote[i][1];
		ck_assert_int_eq(sent[i].status, 0);
		ck_assert_uint_eq(sent[i].bytes, wrote[i][1]);
	}
	kt_ends_close(&ends);
	kt_fault_remove();
	kt_close(fd);
}
END_TEST

/* A write that comes while the file is being sent, and the end behind it. */
START_TEST(written_meanwhile)
{
	size_t size = 3 * MIB;
	struct kt_sent sent[3];
	struct kt_ends ends;
	int fd = kt_file_make(size);

	kt_ends_open(&ends, MODE(_i), KIND(_i));
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent[0]), 0);
	while (ends.in.received == 0)
		kt_turn(ends.loop, KT_MS);
	kt_stream_put(&ends.out, "more", 4);
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 1, 100, FLAGS(_i), &sent[1]), 0);
	ck_assert_int_eq(kloop_stream_shutdown(ends.out.stream), 0);
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 0, 1, 0, &sent[2]), -EPIPE);
	kt_turn_until(ends.loop, &ends.in.count[KT_ON_EOF], 1);
	ck_assert_int_eq(sent[0].done + sent[1].done, 2);
	ck_assert_uint_eq(ends.in.received, size + 104);
	ck_assert(kt_is_fill(ends.in.data, size, 0));
	ck_assert_mem_eq(ends.in.data + size, "more", 4);
	ck_assert(kt_is_fill(ends.in.data + size + 4, 100, 1));
	kt_ends_close(&ends);
	kt_close(fd);
}
END_TEST

/* Queued before the connection stands. */
START_TEST(before_connect)
{
	struct kloop_loop *loop = kt_mode_loop(MODE(_i));
	struct kloop_address address;
	static unsigned char back[200 * KIB];
	struct kt_stream stream;
	struct kt_sent sent;
	uint16_t port;
	int listening = kt_listen(1, &port), fd = kt_file_make(sizeof(back)), peer;

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", port, &address), 0);
	kt_stream_connect(&stream, loop, &address);
	ck_assert_int_eq(kt_send_file(&stream, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
	kt_turn_until(loop, &stream.count[KT_ON_CONNECT], 1);
	peer = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(peer, 0);
	kt_turn_until(loop, &sent.done, 1);
	ck_assert_uint_eq(sent.bytes, sizeof(back));
	kt_read_all(peer, back, sizeof(back));
	ck_assert(kt_is_fill(back, sizeof(back), 0));
	kt_stream_end(&stream);
	kt_loop_free(loop);
	kt_close(peer);
	kt_close(listening);
	kt_close(fd);
}
END_TEST

/* ---- files that disappoint -------------------------------------------- */

START_TEST(refused)
{
	struct kloop_loop *loop = kt_mode_loop(KT_MODE_BEST);
	struct kt_stream stream, pipe_stream;
	struct kt_stream none = { .stream = NULL };
	struct kt_sent sent;
	int fds[2], pipe_fds[2], fd = kt_file_make(10), other, folder = open("/", O_RDONLY | O_CLOEXEC);

	kt_socketpair(fds);
	kt_pipe(pipe_fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_stream_open(&pipe_stream, loop, pipe_fds[1], KLOOP_STREAM_PIPE);
	ck_assert_int_eq(kt_send_file(&none, fd, 0, 1, 0, &sent), -EINVAL);
	ck_assert_int_eq(kloop_stream_send_file(stream.stream, fd, 0, 1, 0, NULL, NULL), -EINVAL);
	ck_assert_int_eq(kt_send_file(&stream, fd, 0, 1, 2, &sent), -EINVAL);
	ck_assert_int_eq(kt_send_file(&stream, fd, (uint64_t)INT64_MAX + 1, 1, 0, &sent), -EINVAL);
	ck_assert_int_eq(kt_send_file(&stream, folder, 0, 1, 0, &sent), -EINVAL);
	ck_assert_int_eq(kt_send_file(&stream, pipe_fds[0], 0, 1, 0, &sent), -EINVAL);
	ck_assert_int_eq(kt_send_file(&stream, fds[1], 0, 1, 0, &sent), -EINVAL);
	ck_assert_int_eq(kt_send_file(&stream, -1, 0, 1, 0, &sent), -EBADF);
	other = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	ck_assert_int_ge(other, 0);
	ck_assert_int_eq(kt_send_file(&stream, other, 0, 1, 0, &sent), -EBADF);
	kt_close(other);
	other = open("/proc/self/status", O_PATH | O_CLOEXEC);
	ck_assert_int_eq(kt_send_file(&stream, other, 0, 1, 0, &sent), -EBADF);
	kt_close(other);
	ck_assert_int_eq(kt_send_file(&pipe_stream, fd, 0, 1, 0, &sent), -EOPNOTSUPP);
	kloop_stream_close(stream.stream);
	ck_assert_int_eq(kt_send_file(&stream, fd, 0, 1, 0, &sent), -ESTALE);
	kt_stream_end(&stream);
	kt_stream_end(&pipe_stream);
	kt_loop_free(loop);
	kt_close(fds[1]);
	kt_close(pipe_fds[0]);
	kt_close(folder);
	kt_close(fd);
}
END_TEST

/* Reading fails: the owner is told, and the stream goes on. */
START_TEST(unreadable)
{
	struct kt_sent sent[2];
	struct kt_ends ends;
	int bad = open("/proc/self/mem", O_RDONLY | O_CLOEXEC), fd = kt_file_make(100);

	ck_assert_int_ge(bad, 0);
	kt_ends_open(&ends, MODE(_i), KIND(_i));
	kt_stream_put(&ends.out, "a", 1);
	ck_assert_int_eq(kt_send_file(&ends.out, bad, 0, MIB, FLAGS(_i), &sent[0]), 0);
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent[1]), 0);
	kt_stream_put(&ends.out, "b", 1);
	kt_stream_await(&ends.in, 102);
	kt_turn_until(ends.loop, &sent[1].done, 1);
	ck_assert_int_eq(sent[0].done, 1);
	ck_assert_int_eq(sent[0].status, -EIO);
	ck_assert_uint_eq(sent[0].bytes, 0);
	ck_assert_int_eq(sent[1].status, 0);
	ck_assert(kt_is_fill(ends.in.data + 1, 100, 0));
	ck_assert_int_eq(ends.in.data[101], 'b');
	kt_ends_close(&ends);
	kt_close(bad);
	kt_close(fd);
}
END_TEST

/* Some files say that they are empty, and cannot be spliced either. */
START_TEST(file_of_proc)
{
	int fd = open("/proc/version", O_RDONLY | O_CLOEXEC);
	char expected[1000];
	struct kt_sent sent;
	struct kt_ends ends;
	ssize_t bytes;

	ck_assert_int_ge(fd, 0);
	bytes = pread(fd, expected, sizeof(expected), 0);
	ck_assert_int_gt(bytes, 0);
	kt_ends_open(&ends, MODE(_i), KIND(_i));
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
	kt_turn_until(ends.loop, &sent.done, 1);
	ck_assert_int_eq(sent.status, 0);
	ck_assert_uint_eq(sent.bytes, (uint64_t)bytes);
	kt_stream_await(&ends.in, (size_t)bytes);
	ck_assert_mem_eq(ends.in.data, expected, (size_t)bytes);
	kt_ends_close(&ends);
	kt_close(fd);
}
END_TEST

/* It becomes shorter while it waits for its reader: no error. */
START_TEST(truncated)
{
	size_t size = 40 * MIB, expected;
	struct kt_sent sent;
	struct kt_ends ends;
	int fd = kt_file_make(size);

	kt_ends_open(&ends, MODE(_i), KIND(_i));
	ends.in.keep = false;
	kt_stream_stop(&ends.in);
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
	kt_turn_for(ends.loop, 50);
	ck_assert_int_eq(sent.done, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)(30 * MIB)), 0);
	kt_stream_start(&ends.in);
	kt_turn_until(ends.loop, &sent.done, 1);
	ck_assert_int_eq(sent.status, 0);
	expected = (size_t)sent.bytes;
	ck_assert_uint_le(expected, 30 * MIB);
	ck_assert_uint_gt(expected, 0);
	kt_stream_await(&ends.in, expected);
	kt_stream_put(&ends.out, "x", 1);
	kt_stream_await(&ends.in, expected + 1);
	ck_assert_uint_eq(ends.in.received, expected + 1);
	kt_ends_close(&ends);
	kt_close(fd);
}
END_TEST

/* Without a descriptor for the pipe it is copied. */
START_TEST(no_descriptors)
{
	struct rlimit former, none;
	size_t size = MIB;
	struct kt_sent sent;
	struct kt_ends ends;
	int fd = kt_file_make(size);

	kt_ends_open(&ends, MODE(_i), KIND(_i));
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &former), 0);
	none = former;
	none.rlim_cur = 3;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	ck_assert_int_eq(kt_send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
	kt_turn_until(ends.loop, &sent.done, 1);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &former), 0);
	ck_assert_int_eq(sent.status, 0);
	kt_stream_await(&ends.in, size);
	ck_assert(kt_is_fill(ends.in.data, size, 0));
	kt_ends_close(&ends);
	kt_close(fd);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("stream_file");
	TCase *tcase;

	tcase = kt_case(suite, "sent", 120);
	tcase_add_loop_test(tcase, sizes_and_parts, 0, ALL);
	tcase_add_loop_test(tcase, large_and_slow, 0, ALL);
	tcase_add_loop_test(tcase, large_and_nonblocking, 0, ALL);
	tcase_add_loop_test(tcase, many_in_order, 0, ALL);
	tcase_add_loop_test(tcase, written_meanwhile, 0, ALL);
	tcase_add_loop_test(tcase, before_connect, 0, ALL);
	tcase = kt_case(suite, "files", 60);
	tcase_add_test(tcase, refused);
	tcase_add_loop_test(tcase, unreadable, 0, ALL);
	tcase_add_loop_test(tcase, file_of_proc, 0, ALL);
	tcase_add_loop_test(tcase, truncated, 0, ALL);
	tcase_add_loop_test(tcase, no_descriptors, 0, ALL);
	return kt_main(suite);
}
