/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Files through TLS: encrypted here, and by a kernel, for which fakektls.h stands. */
#include "fakektls.h"
#include "fault.h"
#include "files.h"
#include "tlsstream.h"

#include "ring/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

/* Modes, versions, and with or without KLOOP_SEND_FILE_ZERO_COPY; fewer modes where all is slow. */
#define ALL ((kt_under_valgrind() ? KT_MODE_SMALL_POOL : KT_MODES) * 4)
#define MODE(i) ((i) / 4)
#define TLS(i) ((i) % 2 ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3)
#define FLAGS(i) ((i) / 2 % 2 ? KLOOP_SEND_FILE_ZERO_COPY : 0u)

/* ---- splice(2) into a socket of the fake kernel ------------------------- */

int __real_kl_op_splice(struct kloop_loop *loop, struct kloop_op *op, int from, uint64_t offset,
			int to, size_t bytes);
int __wrap_kl_op_splice(struct kloop_loop *loop, struct kloop_op *op, int from, uint64_t offset,
			int to, size_t bytes);

static int spliced; /* into such a socket */

/* The bytes leave the pipe before they are sent: one operation at a time, that ends. */
int __wrap_kl_op_splice(struct kloop_loop *loop, struct kloop_op *op, int from, uint64_t offset,
			int to, size_t bytes)
{
	static unsigned char piped[MIB];
	struct kt_ktls_state state;
	ssize_t result;

	if (!kt_ktls_get_state(to, &state) || !state.sends)
		return __real_kl_op_splice(loop, op, from, offset, to, bytes);
	spliced++;
	ck_assert_uint_le(bytes, sizeof(piped));
	result = read(from, piped, bytes);
	ck_assert_int_gt(result, 0);
	return kloop_op_send(loop, op, to, piped, (size_t)result, 0);
}

/* valgrind does not see the kernel fill memory, and complains when it is sent by a system call. */
int __real_kloop_op_read(struct kloop_loop *loop, struct kloop_op *op, int fd, void *buffer,
			 size_t bytes, uint64_t offset);
int __wrap_kloop_op_read(struct kloop_loop *loop, struct kloop_op *op, int fd, void *buffer,
			 size_t bytes, uint64_t offset);

int __wrap_kloop_op_read(struct kloop_loop *loop, struct kloop_op *op, int fd, void *buffer,
			 size_t bytes, uint64_t offset)
{
	memset(buffer, 0, bytes);
	return __real_kloop_op_read(loop, op, fd, buffer, bytes, offset);
}

/* ---- preadv2(2), as other file systems have it --------------------------- */

ssize_t __real_preadv2(int fd, const struct iovec *vector, int count, off_t offset, int flags);
ssize_t __wrap_preadv2(int fd, const struct iovec *vector, int count, off_t offset, int flags);

static struct {
	unsigned calls;
	int error;     /* of the calls that fail */
	unsigned good; /* so many of eight succeed; 0 with no error: all */
	size_t most;   /* bytes for one; 0: no bound */
	unsigned waiting; /* of the calls: those that may wait */
} direct;

ssize_t __wrap_preadv2(int fd, const struct iovec *vector, int count, off_t offset, int flags)
{
	struct iovec less = *vector;

	ck_assert_int_eq(count, 1);
	if (flags == 0) {
		direct.waiting++;
		return __real_preadv2(fd, vector, 1, offset, flags);
	}
	ck_assert_int_eq(flags, RWF_NOWAIT);
	if (direct.calls++ % 8 >= direct.good && direct.error) {
		errno = direct.error;
		return -1;
	}
	if (direct.most && less.iov_len > direct.most)
		less.iov_len = direct.most;
	return __real_preadv2(fd, &less, 1, offset, flags);
}

/* ---- connections -------------------------------------------------------- */

struct link {
	struct kloop_loop *loop;
	struct kt_tls ends[2]; /* [1] sends, [0] keeps what comes */
};

static const struct kt_ktls_kernel no_ktls = { .missing = true };
static const struct kt_ktls_kernel linux_6_14 = { .rekey = true };

static void link_open(struct link *link, int mode, const struct kt_tls_setup *setup,
		      const struct kt_ktls_kernel *kernel)
{
	kt_ktls_install(kernel);
	link->loop = kt_mode_loop(mode);
	kt_tls_connect(link->ends, link->loop, setup);
	link->ends[0].s.keep = true;
}

static void link_close(struct link *link)
{
	kt_tls_end(link->ends);
	ck_assert_int_eq(link->ends[0].s.count[KT_ON_ERROR], 0);
	ck_assert_int_eq(link->ends[1].s.count[KT_ON_ERROR], 0);
	kt_loop_free(link->loop);
	kt_ktls_remove();
}

static int get_ktls(struct link *link)
{
	return kloop_tls_get_ktls(link->ends[1].tls, KLOOP_TLS_SEND);
}

/* One file between two writes. */
static void check_part(struct link *link, int fd, size_t size, uint64_t offset, uint64_t bytes,
		       unsigned flags)
{
	struct kt_stream *out = &link->ends[1].s, *in = &link->ends[0].s;
	size_t expected = offset < size ? size - (size_t)offset : 0;
	struct kt_sent sent;

	if (bytes < expected)
		expected = (size_t)bytes;
	in->received = 0;
	kt_stream_put(out, "head", 4);
	ck_assert_int_eq(kt_send_file(out, fd, offset, bytes, flags, &sent), 0);
	ck_assert_int_eq(kloop_stream_try_write(out->stream, "x", 1), 0);
	kt_stream_put(out, "tail", 4);
	kt_stream_await(in, expected + 8);
	kt_turn_until(link->loop, &sent.done, 1);
	ck_assert_int_eq(sent.status, 0);
	ck_assert_uint_eq(sent.bytes, expected);
	ck_assert_uint_eq(in->received, expected + 8);
	ck_assert_mem_eq(in->data, "head", 4);
	ck_assert(kt_is_fill(in->data + 4, expected, (size_t)offset));
	ck_assert_mem_eq(in->data + 4 + expected, "tail", 4);
}

static const size_t sizes[] = { 0, 1, 16384, 16385, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1,
				256 * KIB, 256 * KIB + 1, 1500000 };

static void check_sizes_of(struct link *link, unsigned flags, int (*make)(size_t bytes))
{
	for (size_t i = 0; i < KT_COUNT(sizes); i++) {
		int fd = make(sizes[i]);

		check_part(link, fd, sizes[i], 0, KLOOP_FILE_END, flags);
		check_part(link, fd, sizes[i], 0, sizes[i] + 1000, flags);
		check_part(link, fd, sizes[i], sizes[i] / 3, sizes[i] / 2, flags);
		check_part(link, fd, sizes[i], sizes[i] + 1, KLOOP_FILE_END, flags);
		kt_close(fd);
	}
}

static void check_sizes(struct link *link, unsigned flags)
{
	check_sizes_of(link, flags, kt_file_make);
}

/* ---- encrypted here ------------------------------------------------------ */

START_TEST(user_space)
{
	struct kt_tls_setup setup = { .version = TLS(_i), .ktls = KLOOP_KTLS_OFF };
	struct link link;

	setup.kind = _i % 3 ? KT_TCP : KT_LOCAL;
	link_open(&link, MODE(_i), &setup, &no_ktls);
	check_sizes(&link, FLAGS(_i));
	ck_assert_int_eq(get_ktls(&link), KLOOP_ERROR_KTLS_OFF);
	link_close(&link);
}
END_TEST

static bool temporary_files_on_disk(void)
{
	struct statfs system;

	ck_assert_int_eq(statfs("/tmp", &system), 0);
	return system.f_type != TMPFS_MAGIC && system.f_type != RAMFS_MAGIC;
}

/* The page cache has all of it, parts, nothing; the file system cannot say. */
START_TEST(page_cache)
{
	static const struct {
		int error;
		unsigned good;
		size_t most;
	} kinds[] = { { 0, 0, 0 },	    { 0, 0, 1000 },    { EAGAIN, 0, 0 },
		      { EAGAIN, 3, 5000 },  { EINTR, 5, 0 },   { EOPNOTSUPP, 0, 0 },
		      { EOPNOTSUPP, 4, 0 }, { EIO, 2, 20000 } };
	struct kt_tls_setup setup = { .version = TLS(_i), .ktls = KLOOP_KTLS_OFF };
	size_t i = (size_t)(MODE(_i) + _i) % KT_COUNT(kinds);
	bool on_disk = _i % 3 == 1 && temporary_files_on_disk();
	int mode = MODE(_i);
	struct link link;

	memset(&direct, 0, sizeof(direct));
	link_open(&link, mode, &setup, &no_ktls);
	direct.error = kinds[i].error;
	direct.good = kinds[i].good;
	direct.most = kinds[i].most;
	check_sizes_of(&link, FLAGS(_i), _i % 3 == 1 ? kt_file_make_on_disk : kt_file_make);
	/* Where a thread of the kernel submits, there are no such calls. */
	if (mode == KT_MODE_SQPOLL || mode == KT_MODE_SQPOLL_OLD)
		ck_assert_uint_eq(direct.calls, 0);
	else
		ck_assert_uint_gt(direct.calls, 0);
	/* A disk is never waited for; what lies in memory alone is just read. */
	if (on_disk || direct.calls == 0)
		ck_assert_uint_eq(direct.waiting, 0);
	else if (_i % 3 != 1 && direct.error == EOPNOTSUPP)
		ck_assert_uint_gt(direct.waiting, 0);
	link_close(&link);
	memset(&direct, 0, sizeof(direct));
}
END_TEST

/* The file becomes shorter while it is sent, in the cache or not: what there was is sent. */
START_TEST(shrinks)
{
	struct kt_tls_setup setup = { .version = TLS(_i), .ktls = KLOOP_KTLS_OFF };
	struct kt_stream *out, *in;
	struct kt_sent sent;
	struct link link;
	int fd;

	for (int error = 0; error <= EAGAIN; error += EAGAIN) {
		direct.error = error;
		fd = kt_file_make(6 * MIB);
		link_open(&link, MODE(_i), &setup, &no_ktls);
		out = &link.ends[1].s;
		in = &link.ends[0].s;
		in->keep = false;
		ck_assert_int_eq(kt_send_file(out, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
		kt_stream_put(out, "tail", 4);
		kt_stream_await(in, 1);
		ck_assert_int_eq(ftruncate(fd, (off_t)(in->received < MIB ? MIB : 5 * MIB)), 0);
		kt_turn_until(link.loop, &sent.done, 1);
		ck_assert_int_eq(sent.status, 0);
		ck_assert_uint_le(sent.bytes, 6 * MIB);
		kt_stream_await(in, (size_t)sent.bytes + 4);
		ck_assert_uint_eq(in->received, sent.bytes + 4);
		ck_assert_uint_eq(in->sum, kt_sum(kt_file_sum(0, (size_t)sent.bytes), "tail", 4));
		link_close(&link);
		kt_close(fd);
	}
	memset(&direct, 0, sizeof(direct));
}
END_TEST

/* A header, the file and what follows: as few sends as there are pieces. */
START_TEST(few_sends)
{
	struct kt_tls_setup setup = { .version = TLS(_i), .ktls = KLOOP_KTLS_OFF };
	int fd = kt_file_make(100 * KIB);
	struct kt_stream *out, *in;
	struct kloop_stats before;
	struct kt_sent sent;
	struct link link;

	link_open(&link, KT_MODE_BEST, &setup, &no_ktls);
	out = &link.ends[1].s;
	in = &link.ends[0].s;
	kt_turn_for(link.loop, 5);
	before = kt_stats(link.loop);
	kt_stream_put(out, "head", 4);
	ck_assert_int_eq(kt_send_file(out, fd, 0, KLOOP_FILE_END, 0, &sent), 0);
	kt_turn_until(link.loop, &sent.done, 1);
	ck_assert_int_eq(sent.status, 0);
	kt_stream_await(in, 100 * KIB + 4);
	/* The send of it all; beside it, what the other end's reads take. */
	ck_assert_uint_le(kt_stats(link.loop).submissions - before.submissions, 1 + 100 / 16);
	ck_assert(kt_is_fill(in->data + 4, 100 * KIB, 0));
	link_close(&link);
	kt_close(fd);
}
END_TEST

/* A file that cannot be read, and one that was cancelled: the rest follows. */
START_TEST(user_space_goes_on)
{
	struct kt_tls_setup setup = { .version = TLS(_i), .ktls = KLOOP_KTLS_OFF };
	int bad = open("/proc/self/mem", O_RDONLY | O_CLOEXEC), fd = kt_file_make(500);
	struct kt_stream *out, *in;
	struct kt_sent sent[4];
	struct link link;

	link_open(&link, MODE(_i), &setup, &no_ktls);
	out = &link.ends[1].s;
	in = &link.ends[0].s;
	ck_assert_int_eq(kt_send_file(out, fd, 0, 100, FLAGS(_i), &sent[0]), 0);
	ck_assert_int_eq(kt_send_file(out, bad, 0, MIB, FLAGS(_i), &sent[1]), 0);
	ck_assert_int_eq(kt_send_file(out, fd, 0, 100, FLAGS(_i), &sent[2]), 0);
	ck_assert_int_eq(kt_send_file(out, fd, 100, 300, FLAGS(_i), &sent[3]), 0);
	ck_assert_int_eq(kt_cancel_file(&sent[2]), 0);
	kt_turn_until(link.loop, &sent[3].done, 1);
	kt_stream_await(in, 400);
	ck_assert_int_eq(sent[0].status, 0);
	ck_assert_int_eq(sent[1].status, -EIO);
	ck_assert_int_eq(sent[2].status, -ECANCELED);
	ck_assert_int_eq(sent[3].status, 0);
	ck_assert(kt_is_fill(in->data, 400, 0));
	link_close(&link);
	kt_close(bad);
	kt_close(fd);
}
END_TEST

/* The peer does not read: cancelled, aborted, or left to the loop's end. */
START_TEST(user_space_ends)
{
	struct kt_tls_setup setup = { .version = TLS(_i), .ktls = KLOOP_KTLS_OFF };
	int fd = kt_file_make(20 * MIB), before = kt_fd_count();

	for (int ending = 0; ending < 3; ending++) {
		struct kt_sent sent;
		struct link link;

		kt_fault_install();
		link_open(&link, MODE(_i), &setup, &no_ktls);
		kt_stream_stop(&link.ends[0].s);
		ck_assert_int_eq(kt_send_file(&link.ends[1].s, fd, 0, KLOOP_FILE_END, FLAGS(_i),
					      &sent), 0);
		kt_turn_for(link.loop, 20);
		ck_assert_int_eq(sent.done, 0);
		if (ending == 0) {
			/* The file is told at once, its last piece is with the socket. */
			ck_assert_int_eq(kt_cancel_file(&sent), 0);
			kt_turn_until(link.loop, &sent.done, 1);
			ck_assert_uint_lt(sent.bytes, 20 * MIB);
			kt_stream_start(&link.ends[0].s);
			kt_stream_await(&link.ends[0].s, (size_t)sent.bytes);
			ck_assert(kt_is_fill(link.ends[0].s.data, (size_t)sent.bytes, 0));
		}
		if (ending < 2) {
			kt_stream_abort(&link.ends[1].s);
			kt_stream_abort(&link.ends[0].s);
		}
		kt_loop_free(link.loop);
		kt_ktls_remove();
		for (int end = 0; end < 2; end++)
			kt_stream_forget(&link.ends[end].s);
		ck_assert_int_eq(sent.done, 1);
		ck_assert_int_eq(sent.status, -ECANCELED);
		kt_fault_remove();
		ck_assert_int_eq(kt_fd_count(), before);
	}
	kt_close(fd);
}
END_TEST

/* Closed, a stream sends the file before its close_notify. */
START_TEST(closed)
{
	struct kt_tls_setup setup = { .version = TLS(_i), .ktls = KLOOP_KTLS_AUTO };
	int fd = kt_file_make(3 * MIB);
	struct kt_sent sent;
	struct link link;

	link_open(&link, MODE(_i), &setup, _i % 3 ? &linux_6_14 : &no_ktls);
	ck_assert_int_eq(kt_send_file(&link.ends[1].s, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
	kloop_stream_close(link.ends[1].s.stream);
	kt_turn_until(link.loop, &link.ends[0].s.count[KT_ON_EOF], 1);
	ck_assert_uint_eq(link.ends[0].s.received, 3 * MIB);
	ck_assert(kt_is_fill(link.ends[0].s.data, 3 * MIB, 0));
	ck_assert_int_eq(sent.status, 0);
	link_close(&link);
	kt_close(fd);
}
END_TEST

/* Both ends without TLS yet. */
static void link_open_plain(struct link *link, int mode)
{
	int fds[2];

	link->loop = kt_mode_loop(mode);
	memset(link->ends, 0, sizeof(link->ends));
	kt_tcp_pair(fds);
	for (int i = 0; i < 2; i++) {
		kt_stream_open(&link->ends[i].s, link->loop, fds[i], 0);
		kt_stream_start(&link->ends[i].s);
		link->ends[i].s.keep = true;
	}
}

/* What was queued before the upgrade leaves as it is. */
START_TEST(before_the_upgrade)
{
	struct kt_tls_setup setup = { .version = TLS(_i) };
	struct kloop_tls_context *context;
	int fd = kt_file_make(300 * KIB);
	struct kt_sent sent;
	struct link link;

	kt_ktls_install(&no_ktls);
	link_open_plain(&link, MODE(_i));
	kt_stream_put(&link.ends[1].s, "head", 4);
	ck_assert_int_eq(kt_send_file(&link.ends[1].s, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
	context = kt_tls_setup_context(&setup, KLOOP_TLS_SERVER);
	kt_tls_upgrade(&link.ends[1], context, NULL, KLOOP_KTLS_AUTO);
	kloop_tls_context_unref(context);
	kt_stream_await(&link.ends[0].s, 300 * KIB + 4);
	ck_assert(kt_is_fill(link.ends[0].s.data + 4, 300 * KIB, 0));
	context = kt_tls_setup_context(&setup, KLOOP_TLS_CLIENT);
	kt_tls_upgrade(&link.ends[0], context, "localhost", KLOOP_KTLS_AUTO);
	kloop_tls_context_unref(context);
	kt_tls_await(&link.ends[0]);
	kt_tls_await(&link.ends[1]);
	ck_assert_int_eq(link.ends[0].result, 0);
	ck_assert_int_eq(sent.status, 0);
	check_part(&link, fd, 300 * KIB, 5, KLOOP_FILE_END, FLAGS(_i));
	link_close(&link);
	kt_close(fd);
}
END_TEST

/* The session has taken it over, and it can be cancelled still. */
START_TEST(cancelled_before_the_upgrade)
{
	struct kt_tls_setup setup = { .version = TLS(_i) };
	int fd = kt_file_make(300 * KIB);
	struct kloop_tls_context *context;
	struct kt_sent sent, kept;
	struct link link;

	kt_ktls_install(&no_ktls);
	link_open_plain(&link, MODE(_i));
	kt_stream_put(&link.ends[1].s, "head", 4);
	ck_assert_int_eq(kt_send_file(&link.ends[1].s, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
	ck_assert_int_eq(kt_send_file(&link.ends[1].s, fd, 0, 1000, FLAGS(_i), &kept), 0);
	context = kt_tls_setup_context(&setup, KLOOP_TLS_SERVER);
	kt_tls_upgrade(&link.ends[1], context, NULL, KLOOP_KTLS_AUTO);
	kloop_tls_context_unref(context);
	ck_assert_int_eq(kt_cancel_file(&sent), 0);
	ck_assert_int_eq(kt_cancel_file(&sent), -ENOENT);
	kt_turn_until(link.loop, &sent.done, 1);
	ck_assert_int_eq(sent.status, -ECANCELED);
	ck_assert_uint_eq(sent.bytes, 0);
	/* What was written beside it comes, and nothing of it. */
	kt_stream_await(&link.ends[0].s, 1004);
	ck_assert(memcmp(link.ends[0].s.data, "head", 4) == 0);
	ck_assert(kt_is_fill(link.ends[0].s.data + 4, 1000, 0));
	context = kt_tls_setup_context(&setup, KLOOP_TLS_CLIENT);
	kt_tls_upgrade(&link.ends[0], context, "localhost", KLOOP_KTLS_AUTO);
	kloop_tls_context_unref(context);
	kt_tls_await(&link.ends[0]);
	kt_tls_await(&link.ends[1]);
	ck_assert_int_eq(link.ends[0].result, 0);
	ck_assert_int_eq(kept.status, 0);
	ck_assert_int_eq(sent.done, 1);
	link_close(&link);
	kt_close(fd);
}
END_TEST

/* ---- encrypted by the kernel --------------------------------------------- */

START_TEST(auto_moves)
{
	struct kt_tls_setup setup = { .version = TLS(_i), .ktls = KLOOP_KTLS_AUTO };
	int fd = kt_file_make(100 * KIB);
	struct kt_ktls_state state;
	struct link link;
	int socket;

	link_open(&link, MODE(_i), &setup, _i % 3 ? &linux_6_14 : &(struct kt_ktls_kernel){ 0 });
	socket = kloop_stream_get_fd(link.ends[1].s.stream);
	/* Small files are not worth it. */
	check_part(&link, fd, 100 * KIB, 0, 64 * KIB - 1, FLAGS(_i));
	check_part(&link, fd, 100 * KIB, 90 * KIB, KLOOP_FILE_END, FLAGS(_i));
	ck_assert_int_eq(get_ktls(&link), KLOOP_ERROR_KTLS_UNUSED);
	spliced = 0;
	check_part(&link, fd, 100 * KIB, 0, KLOOP_FILE_END, FLAGS(_i));
	ck_assert_int_eq(get_ktls(&link), 1);
	ck_assert(kt_ktls_get_state(socket, &state));
	ck_assert(state.sends && !state.receives);
	ck_assert_uint_gt(state.sent_records, 100 / 16);
	ck_assert_int_eq(state.zero_copy, FLAGS(_i) != 0);
	ck_assert_int_eq(spliced, FLAGS(_i) != 0);
	ck_assert_int_eq(kloop_tls_get_ktls(link.ends[1].tls, KLOOP_TLS_RECEIVE),
			 KLOOP_ERROR_KTLS_UNUSED);
	check_sizes(&link, FLAGS(_i));
	link_close(&link);
	kt_close(fd);
}
END_TEST

/* Where the kernel refuses it is sent all the same. */
START_TEST(auto_stays)
{
	static const struct kt_ktls_kernel refusing = { .refuse_send = EINVAL };
	struct kt_tls_setup setup = { .version = TLS(_i), .ktls = KLOOP_KTLS_AUTO };
	int fd = kt_file_make(100 * KIB);
	struct link link;

	link_open(&link, MODE(_i), &setup, &refusing);
	check_part(&link, fd, 100 * KIB, 0, KLOOP_FILE_END, FLAGS(_i));
	check_part(&link, fd, 100 * KIB, 0, KLOOP_FILE_END, FLAGS(_i));
	ck_assert_int_eq(get_ktls(&link), KLOOP_ERROR_KTLS_CIPHER);
	link_close(&link);
	kt_close(fd);
}
END_TEST

/* The peer wants new keys in the middle of a file: they come between two pieces. */
START_TEST(keys_in_the_middle)
{
	struct kt_tls_setup setup = { .version = KLOOP_TLS_1_3, .ktls = KLOOP_KTLS_AUTO };
	size_t size = 20 * MIB;
	int fd = kt_file_make(size);
	struct kt_ktls_state state;
	struct kt_sent sent;
	struct link link;
	int socket;

	link_open(&link, MODE(_i), &setup, &linux_6_14);
	link.ends[0].s.keep = false;
	socket = kloop_stream_get_fd(link.ends[1].s.stream);
	ck_assert_int_eq(kt_send_file(&link.ends[1].s, fd, 0, KLOOP_FILE_END, FLAGS(_i), &sent), 0);
	kt_stream_put(&link.ends[1].s, "x", 1);
	while (link.ends[0].s.received < MIB)
		kt_turn(link.loop, KT_MS);
	ck_assert_int_eq(get_ktls(&link), 1);
	ck_assert_int_eq(kloop_tls_update_keys(link.ends[0].tls, true), 0);
	do {
		kt_turn(link.loop, KT_MS);
		ck_assert(kt_ktls_get_state(socket, &state));
		ck_assert_msg(!sent.done || state.send_keys == 2, "the file came first");
	} while (state.send_keys < 2);
	ck_assert_uint_eq(state.sent_controls, 1);
	kt_turn_until(link.loop, &sent.done, 1);
	ck_assert_int_eq(sent.status, 0);
	kt_stream_await(&link.ends[0].s, size + 1);
	ck_assert_uint_eq(link.ends[0].s.sum, kt_sum(kt_file_sum(0, size), "x", 1));
	link_close(&link);
	kt_close(fd);
}
END_TEST

/* The move happens while a file is on its way already: it goes on in the kernel. */
START_TEST(moves_in_the_middle)
{
	struct kt_tls_setup setup = { .version = TLS(_i), .ktls = KLOOP_KTLS_AUTO };
	struct kt_stream *out, *in;
	size_t small = 60 * KIB, size = 5 * MIB;
	int fd = kt_file_make(size);
	struct kt_sent sent[3];
	struct link link;

	link_open(&link, MODE(_i), &setup, &linux_6_14);
	out = &link.ends[1].s;
	in = &link.ends[0].s;
	ck_assert_int_eq(kt_send_file(out, fd, 0, small, FLAGS(_i), &sent[0]), 0);
	ck_assert_int_eq(kt_send_file(out, fd, small, small, FLAGS(_i), &sent[1]), 0);
	kt_turn(link.loop, 0);
	ck_assert_int_eq(kt_send_file(out, fd, 2 * small, KLOOP_FILE_END, FLAGS(_i), &sent[2]), 0);
	kt_turn_until(link.loop, &sent[2].done, 1);
	kt_stream_await(in, size);
	ck_assert_int_eq(get_ktls(&link), 1);
	ck_assert_int_eq(sent[0].done + sent[1].done, 2);
	ck_assert_uint_eq(in->received, size);
	ck_assert(kt_is_fill(in->data, size, 0));
	link_close(&link);
	kt_close(fd);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tls_file");
	TCase *tcase;

	tcase = kt_case(suite, "user", 120);
	tcase_add_loop_test(tcase, user_space, 0, ALL);
	tcase_add_loop_test(tcase, page_cache, 0, ALL);
	tcase_add_loop_test(tcase, shrinks, 0, ALL);
	tcase_add_loop_test(tcase, few_sends, 0, 2);
	tcase_add_loop_test(tcase, user_space_goes_on, 0, ALL);
	tcase_add_loop_test(tcase, user_space_ends, 0, ALL);
	tcase_add_loop_test(tcase, closed, 0, ALL);
	tcase_add_loop_test(tcase, before_the_upgrade, 0, ALL);
	tcase_add_loop_test(tcase, cancelled_before_the_upgrade, 0, ALL);
	tcase = kt_case(suite, "kernel", 120);
	tcase_add_loop_test(tcase, auto_moves, 0, ALL);
	tcase_add_loop_test(tcase, auto_stays, 0, ALL);
	tcase_add_loop_test(tcase, keys_in_the_middle, 0, ALL);
	tcase_add_loop_test(tcase, moves_in_the_middle, 0, ALL);
	return kt_main(suite);
}
