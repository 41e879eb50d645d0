/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Files among what a stream writes, in each way that they can be sent. */
#include "fault.h"
#include "streams.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
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

/* ---- files ------------------------------------------------------------ */

/* An unlinked file of so many bytes, as kt_fill() makes them. */
static int make_file(size_t bytes)
{
	static unsigned char block[256 * 251]; /* whole periods */
	char path[] = "/tmp/kloop-test-XXXXXX";
	int fd = mkstemp(path);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(unlink(path), 0);
	kt_fill(block, sizeof(block), 0);
	while (bytes > 0) {
		size_t part = bytes < sizeof(block) ? bytes : sizeof(block);

		ck_assert_int_eq(write(fd, block, part), (ssize_t)part);
		bytes -= part;
	}
	return fd;
}

/* The sum of a part of it. */
static uint64_t sum_of_fill(size_t position, size_t bytes)
{
	static unsigned char block[64 << 10];
	uint64_t sum = 0;

	while (bytes > 0) {
		size_t part = bytes < sizeof(block) ? bytes : sizeof(block);

		kt_fill(block, part, position);
		sum = kt_sum(sum, block, part);
		position += part;
		bytes -= part;
	}
	return sum;
}

struct sent {
	struct kt_stream *stream;
	int done;
	int status;
	uint64_t bytes;
	int *total; /* counted up as well, may be NULL */
	void (*then)(struct sent *sent);
};

static int calling;

static void file_done(void *owner, int status, uint64_t bytes, void *user)
{
	struct sent *sent = owner;

	ck_assert_msg(!calling, "done inside the call");
	ck_assert_ptr_eq(user, sent->stream);
	ck_assert_int_eq(sent->stream->count[KT_ON_CLOSE], 0);
	ck_assert_int_eq(sent->done, 0);
	sent->done++;
	sent->status = status;
	sent->bytes = bytes;
	if (sent->total)
		(*sent->total)++;
	if (sent->then)
		sent->then(sent);
}

static int send_file(struct kt_stream *stream, int fd, uint64_t offset, uint64_t bytes,
		     unsigned flags, struct sent *sent)
{
	int r;

	memset(sent, 0, sizeof(*sent));
	sent->stream = stream;
	calling++;
	r = kloop_stream_send_file(stream->stream, fd, offset, bytes, flags, file_done, sent);
	calling--;
	return r;
}

/* Two streams, the second of which reads and keeps what comes. */
struct ends {
	struct kloop_loop *loop;
	struct kt_stream out, in;
};

static void open_ends(struct ends *ends, int mode, int kind)
{
	int fds[2];

	ends->loop = kt_mode_loop(mode);
	kt_pair(kind, fds);
	kt_stream_open(&ends->out, ends->loop, fds[0], 0);
	kt_stream_open(&ends->in, ends->loop, fds[1], 0);
	ends->in.keep = true;
	kt_stream_start(&ends->in);
}

static void close_ends(struct ends *ends)
{
	kt_stream_end(&ends->out);
	kt_stream_end(&ends->in);
	kt_loop_free(ends->loop);
}

/* ---- what is sent ----------------------------------------------------- */

/* One file between two writes: what arrives, and what done is told. */
static void check_part(struct ends *ends, int fd, size_t size, uint64_t offset, uint64_t bytes,
		       unsigned flags)
{
	size_t expected = offset < size ? size - (size_t)offset : 0;
	struct sent sent;

	if (bytes < expected)
		expected = (size_t)bytes;
	ends->in.received = 0;
	kt_stream_put(&ends->out, "head", 4);
	ck_assert_int_eq(send_file(&ends->out, fd, offset, bytes, flags, &sent), 0);
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
	struct ends ends;

	open_ends(&ends, MODE(_i), KIND(_i));
	for (size_t i = 0; i < KT_COUNT(sizes); i++) {
		size_t size = sizes[i];
		int fd = make_file(size);

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
	close_ends(&ends);
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
	int fd = make_file(size);
	struct sent sent;
	struct ends ends;

	open_ends(&ends, MODE(i), KIND(i));
	if (nonblocking)
		ck_assert_int_eq(fcntl(kloop_stream_get_fd(ends.out.stream), F_SETFL, O_NONBLOCK),
				 0);
	ends.in.keep = false;
	ends.in.then = stop_often;
	ck_assert_int_eq(send_file(&ends.out, fd, 345, KLOOP_FILE_END, FLAGS(i), &sent), 0);
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
	ck_assert_uint_eq(ends.in.sum, sum_of_fill(345, size - 345));
	ends.in.then = NULL;
	if (!ends.in.reading)
		kt_stream_start(&ends.in);
	kt_turn_until(ends.loop, &ends.in.count[KT_ON_EOF], 1);
	close_ends(&ends);
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
	struct sent sent[FILES];
	struct ends ends;
	size_t size = 300 * KIB, position = 0, total = 0;
	size_t wrote[FILES][2], from[FILES];
	uint64_t random = 5 + (uint64_t)_i;
	int fd = make_file(size), done = 0;

	kt_fault_install();
	open_ends(&ends, MODE(_i), KIND(_i));
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
		ck_assert_int_eq(send_file(&ends.out, fd, from[i], wrote[i][1], FLAGS(_i), &sent[i]),
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
	close_ends(&ends);
	kt_fault_remove();
	kt_close(fd);
}
END_TEST

/* A write that comes while the file is being sent, and the end behind it. */
START_TEST(written_meanwhile)
{
	size_t size = 3 * MIB;
	struct sent sent[2];
	struct ends ends;
	int fd = make_file(size);

	open_ends(&ends, MODE(_i), KIND(_i));
	ck_assert_int_eq(send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent[0]), 0);
	while (ends.in.received == 0)
		kt_turn(ends.loop, KT_MS);
	kt_stream_put(&ends.out, "more", 4);
	ck_assert_int_eq(send_file(&ends.out, fd, 1, 100, FLAGS(_i), &sent[1]), 0);
	ck_assert_int_eq(kloop_stream_shutdown(ends.out.stream), 0);
	ck_assert_int_eq(kloop_stream_send_file(ends.out.stream, fd, 0, 1, 0, file_done, NULL),
			 -EPIPE);
	kt_turn_until(ends.loop, &ends.in.count[KT_ON_EOF], 1);
	ck_assert_int_eq(sent[0].done + sent[1].done, 2);
	ck_assert_uint_eq(ends.in.received, size + 104);
	ck_assert(kt_is_fill(ends.in.data, size, 0));
	ck_assert_mem_eq(ends.in.data + size, "more", 4);
	ck_assert(kt_is_fill(ends.in.data + size + 4, 100, 1));
	close_ends(&ends);
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
	struct sent sent;
	uint16_t port;
	int listening = kt_listen(1, &port), fd = make_file(sizeof(back)), peer;

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", port, &address), 0);
	kt_stream_connect(&stream, loop, &address);
	ck_assert_int_eq(send_file(&stream, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
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
	struct sent sent;
	int fds[2], pipe_fds[2], fd = make_file(10), other, folder = open("/", O_RDONLY | O_CLOEXEC);

	kt_socketpair(fds);
	kt_pipe(pipe_fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_stream_open(&pipe_stream, loop, pipe_fds[1], KLOOP_STREAM_PIPE);
	ck_assert_int_eq(send_file(&none, fd, 0, 1, 0, &sent), -EINVAL);
	ck_assert_int_eq(kloop_stream_send_file(stream.stream, fd, 0, 1, 0, NULL, NULL), -EINVAL);
	ck_assert_int_eq(send_file(&stream, fd, 0, 1, 2, &sent), -EINVAL);
	ck_assert_int_eq(send_file(&stream, fd, (uint64_t)INT64_MAX + 1, 1, 0, &sent), -EINVAL);
	ck_assert_int_eq(send_file(&stream, folder, 0, 1, 0, &sent), -EINVAL);
	ck_assert_int_eq(send_file(&stream, pipe_fds[0], 0, 1, 0, &sent), -EINVAL);
	ck_assert_int_eq(send_file(&stream, fds[1], 0, 1, 0, &sent), -EINVAL);
	ck_assert_int_eq(send_file(&stream, -1, 0, 1, 0, &sent), -EBADF);
	other = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	ck_assert_int_ge(other, 0);
	ck_assert_int_eq(send_file(&stream, other, 0, 1, 0, &sent), -EBADF);
	kt_close(other);
	other = open("/proc/self/status", O_PATH | O_CLOEXEC);
	ck_assert_int_eq(send_file(&stream, other, 0, 1, 0, &sent), -EBADF);
	kt_close(other);
	ck_assert_int_eq(send_file(&pipe_stream, fd, 0, 1, 0, &sent), -EOPNOTSUPP);
	kloop_stream_close(stream.stream);
	ck_assert_int_eq(send_file(&stream, fd, 0, 1, 0, &sent), -ESTALE);
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
	struct sent sent[2];
	struct ends ends;
	int bad = open("/proc/self/mem", O_RDONLY | O_CLOEXEC), fd = make_file(100);

	ck_assert_int_ge(bad, 0);
	open_ends(&ends, MODE(_i), KIND(_i));
	kt_stream_put(&ends.out, "a", 1);
	ck_assert_int_eq(send_file(&ends.out, bad, 0, MIB, FLAGS(_i), &sent[0]), 0);
	ck_assert_int_eq(send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent[1]), 0);
	kt_stream_put(&ends.out, "b", 1);
	kt_stream_await(&ends.in, 102);
	kt_turn_until(ends.loop, &sent[1].done, 1);
	ck_assert_int_eq(sent[0].done, 1);
	ck_assert_int_eq(sent[0].status, -EIO);
	ck_assert_uint_eq(sent[0].bytes, 0);
	ck_assert_int_eq(sent[1].status, 0);
	ck_assert(kt_is_fill(ends.in.data + 1, 100, 0));
	ck_assert_int_eq(ends.in.data[101], 'b');
	close_ends(&ends);
	kt_close(bad);
	kt_close(fd);
}
END_TEST

/* Some files say that they are empty, and cannot be spliced either. */
START_TEST(file_of_proc)
{
	int fd = open("/proc/version", O_RDONLY | O_CLOEXEC);
	char expected[1000];
	struct sent sent;
	struct ends ends;
	ssize_t bytes;

	ck_assert_int_ge(fd, 0);
	bytes = pread(fd, expected, sizeof(expected), 0);
	ck_assert_int_gt(bytes, 0);
	open_ends(&ends, MODE(_i), KIND(_i));
	ck_assert_int_eq(send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
	kt_turn_until(ends.loop, &sent.done, 1);
	ck_assert_int_eq(sent.status, 0);
	ck_assert_uint_eq(sent.bytes, (uint64_t)bytes);
	kt_stream_await(&ends.in, (size_t)bytes);
	ck_assert_mem_eq(ends.in.data, expected, (size_t)bytes);
	close_ends(&ends);
	kt_close(fd);
}
END_TEST

/* It becomes shorter while it waits for its reader: no error. */
START_TEST(truncated)
{
	size_t size = 40 * MIB, expected;
	struct sent sent;
	struct ends ends;
	int fd = make_file(size);

	open_ends(&ends, MODE(_i), KIND(_i));
	ends.in.keep = false;
	kt_stream_stop(&ends.in);
	ck_assert_int_eq(send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
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
	close_ends(&ends);
	kt_close(fd);
}
END_TEST

/* Without a descriptor for the pipe it is copied. */
START_TEST(no_descriptors)
{
	struct rlimit former, none;
	size_t size = MIB;
	struct sent sent;
	struct ends ends;
	int fd = make_file(size);

	open_ends(&ends, MODE(_i), KIND(_i));
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &former), 0);
	none = former;
	none.rlim_cur = 3;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	ck_assert_int_eq(send_file(&ends.out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
	kt_turn_until(ends.loop, &sent.done, 1);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &former), 0);
	ck_assert_int_eq(sent.status, 0);
	kt_stream_await(&ends.in, size);
	ck_assert(kt_is_fill(ends.in.data, size, 0));
	close_ends(&ends);
	kt_close(fd);
}
END_TEST

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
	struct sent sent[2];
	int fds[2], done = 0, fd = make_file(20 * MIB), before = kt_fd_count();

	kt_fault_install();
	loop = kt_mode_loop(MODE(i));
	kt_pair(KIND(i), fds);
	kt_stream_open(&out, loop, fds[0], 0);
	kt_stream_put(&out, "a", 1);
	for (int n = 0; n < 2; n++) {
		ck_assert_int_eq(send_file(&out, fd, 0, KLOOP_FILE_END, FLAGS(i), &sent[n]), 0);
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
static struct sent act_sent;

static void act_now(struct sent *sent)
{
	struct kt_stream *stream = sent->stream;

	switch (act) {
	case 0:
		kt_stream_put(stream, "tail", 4);
		ck_assert_int_eq(send_file(stream, act_fd, 0, 10, 0, &act_sent), 0);
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
		struct sent sent[2];
		struct ends ends;

		act_fd = make_file(100 * KIB);
		open_ends(&ends, MODE(_i), KIND(_i));
		ck_assert_int_eq(send_file(&ends.out, act_fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent[0]),
				 0);
		sent[0].then = act_now;
		ck_assert_int_eq(send_file(&ends.out, act_fd, 0, 70 * KIB, FLAGS(_i), &sent[1]), 0);
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
		close_ends(&ends);
		kt_close(act_fd);
	}
}
END_TEST

/* Cancelled while it is stuck, while it waits, and when it is not there. */
START_TEST(cancelled)
{
	size_t size = 20 * MIB;
	struct sent sent[3];
	struct ends ends;
	int fd = make_file(size);

	open_ends(&ends, MODE(_i), KIND(_i));
	kt_stream_stop(&ends.in);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(send_file(&ends.out, fd, 0, i == 2 ? 100 : KLOOP_FILE_END,
					   FLAGS(_i), &sent[i]), 0);
	kt_turn_for(ends.loop, 20);
	ck_assert_int_eq(kloop_stream_cancel_file(NULL, NULL), -EINVAL);
	ck_assert_int_eq(kloop_stream_cancel_file(ends.out.stream, &ends), -ENOENT);
	calling++;
	ck_assert_int_eq(kloop_stream_cancel_file(ends.out.stream, &sent[1]), 0);
	ck_assert_int_eq(kloop_stream_cancel_file(ends.out.stream, &sent[0]), 0);
	ck_assert_int_eq(kloop_stream_cancel_file(ends.out.stream, &sent[0]), 0);
	calling--;
	kt_turn_until(ends.loop, &sent[1].done, 1);
	ck_assert_int_eq(sent[0].done, 1);
	ck_assert_int_eq(sent[0].status, -ECANCELED);
	ck_assert_int_eq(sent[1].status, -ECANCELED);
	ck_assert_uint_gt(sent[0].bytes, 0);
	ck_assert_uint_lt(sent[0].bytes, size);
	ck_assert_uint_eq(sent[1].bytes, 0);
	ck_assert_int_eq(kloop_stream_cancel_file(ends.out.stream, &sent[0]), -ENOENT);
	/* What was sent is said to the byte, and what follows comes. */
	kt_stream_start(&ends.in);
	kt_turn_until(ends.loop, &sent[2].done, 1);
	ck_assert_int_eq(sent[2].status, 0);
	kt_stream_put(&ends.out, "on", 2);
	kt_stream_await(&ends.in, (size_t)sent[0].bytes + 102);
	ck_assert_uint_eq(ends.in.received, sent[0].bytes + 102);
	ck_assert(kt_is_fill(ends.in.data, (size_t)sent[0].bytes, 0));
	ck_assert(kt_is_fill(ends.in.data + sent[0].bytes, 100, 0));
	close_ends(&ends);
	kt_close(fd);
}
END_TEST

/* ---- another thread ---------------------------------------------------- */

struct moving {
	struct kloop_loop *loop;
	struct kt_stream *in;
	struct sent *sent;
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
	struct sent sent;
	struct ends ends;
	struct moving moving;
	int fd = make_file(size);

	open_ends(&ends, _i, KT_TCP);
	ck_assert_int_eq(fcntl(kloop_stream_get_fd(ends.out.stream), F_SETFL, O_NONBLOCK), 0);
	ends.in.keep = false;
	kt_stream_stop(&ends.in);
	ck_assert_int_eq(send_file(&ends.out, fd, 0, KLOOP_FILE_END, KLOOP_SEND_FILE_ZERO_COPY,
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
	ck_assert_uint_eq(ends.in.sum, sum_of_fill(0, size));
	close_ends(&ends);
	kt_close(fd);
}
END_TEST

/* ---- no memory -------------------------------------------------------- */

static void starve(int fd, unsigned flags, size_t countdown, size_t repeat, size_t *ret_hits)
{
	struct kloop_loop *loop;
	struct kt_stream stream[2];
	struct sent sent[6];
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
		if (send_file(&stream[0], fd, 0, 30 * KIB * (size_t)i, flags, &sent[accepted]) == 0)
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
	int fd = make_file(200 * KIB);
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
	struct sent sent;
	struct ends ends;
	int fd = make_file(200 * KIB);

	kt_fault_install();
	open_ends(&ends, KT_MODE_BEST, KT_LOCAL);
	kt_turn_for(ends.loop, 5);
	ck_assert_int_eq(send_file(&ends.out, fd, 0, KLOOP_FILE_END, 0, &sent), 0);
	kt_fault_arm(1, 1);
	kt_turn_until(ends.loop, &sent.done, 1);
	ck_assert_int_eq(sent.status, -ENOMEM);
	ck_assert_uint_eq(sent.bytes, 0);
	kt_fault_arm(0, 0);
	kt_stream_put(&ends.out, "on", 2);
	kt_stream_await(&ends.in, 2);
	close_ends(&ends);
	kt_fault_remove();
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
	tcase = kt_case(suite, "ends", 120);
	tcase_add_loop_test(tcase, ended_early, 0, ALL);
	tcase_add_loop_test(tcase, calls_inside_done, 0, ALL);
	tcase_add_loop_test(tcase, cancelled, 0, ALL);
	tcase_add_loop_test(tcase, adopted, 0, KT_MODES);
	tcase = kt_case(suite, "memory", 120);
	tcase_add_loop_test(tcase, no_memory, 0, 4);
	tcase_add_test(tcase, no_memory_to_read);
	return kt_main(suite);
}
