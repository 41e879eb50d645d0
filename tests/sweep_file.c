/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Faults in what has to do with files: operations on them, transfers, files that a stream sends. */
#include "sweep.h"

#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES 700000
#define TRANSFER_BYTES 5000

static unsigned char *pattern;
static char folder[] = "/tmp/kloop-sweep-XXXXXX";

/* ---- operations ------------------------------------------------------- */

static struct {
	struct kloop_loop *loop;
	struct kt_op op;
} f;

static bool op_done(void *data)
{
	(void)data;
	return f.op.last;
}

/* Wait for the operation just submitted, whose submission said r. Returns: its result. */
static int32_t wait_op(int r)
{
	if (!kt_took(r))
		return r;
	kt_sweep_until(f.loop, op_done, NULL);
	KT_HOLDS(f.op.last == 1);
	KT_HOLDS(f.op.result >= 0 || kt_sweep_happened());
	return f.op.result;
}

#define DO(name, ...) (kt_op_init(&f.op), wait_op(kloop_op_##name(f.loop, &f.op.op, __VA_ARGS__)))

static void work_on_file(int dir)
{
	struct iovec vector = { .iov_base = pattern, .iov_len = 1000 };
	char back[1000];
	struct statx status;
	int fd = DO(openat, dir, "a", O_RDWR | O_CREAT, 0600);
	int done;

	if (fd < 0)
		return;
	done = DO(pwritev, fd, &vector, 1, 0);
	vector.iov_base = back;
	if (done > 0 && DO(preadv, fd, &vector, 1, 0) == done)
		KT_HOLDS(memcmp(back, pattern, (size_t)done) == 0);
	(void)DO(fsync, fd, false);
	if (DO(ftruncate, fd, 500) == 0 && DO(statx, fd, "", AT_EMPTY_PATH, STATX_SIZE, &status) == 0)
		KT_HOLDS(status.stx_size == 500);
	(void)DO(fallocate, fd, 0, 0, 4096);
	(void)DO(close, fd);
	if (fcntl(fd, F_GETFD) >= 0)
		KT_PLAIN(close(fd)); /* refused, or cancelled */
}

static void operations(int mode)
{
	int dir;

	memset(&f, 0, sizeof(f));
	f.loop = kt_sweep_loop(mode);
	if (!f.loop)
		return;
	KT_PLAIN(dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	work_on_file(dir);
	(void)DO(renameat, dir, "a", dir, "b", 0);
	(void)DO(mkdirat, dir, "d", 0700);
	(void)DO(unlinkat, dir, "d", AT_REMOVEDIR);
	(void)DO(unlinkat, dir, "b", 0);
	KT_HOLDS(kloop_loop_free(f.loop) == 0);
	kt_sweep_pause();
	unlinkat(dir, "a", 0);
	unlinkat(dir, "b", 0);
	unlinkat(dir, "d", AT_REMOVEDIR);
	close(dir);
	kt_sweep_resume();
}

/* ---- transfers -------------------------------------------------------- */

struct carrier {
	struct kloop_transfer transfer;
	int fd, completed, result;
	bool accepted;
};

static struct {
	struct kloop_loop *loop;
	struct carrier write, read, back, out, waits;
	unsigned char to[TRANSFER_BYTES], from_pipe[TRANSFER_BYTES];
} t;

static void moved(struct kloop_transfer *transfer, int result)
{
	struct carrier *carrier = (struct carrier *)transfer;

	KT_HOLDS(carrier->completed++ == 0 && !kloop_transfer_is_active(transfer));
	carrier->result = result;
	KT_HOLDS(result <= 0);
	/* Whatever went wrong, one that was interrupted or short goes on. */
	if (carrier != &t.waits)
		KT_HOLDS(result == 0 || !kt_sweep_must_succeed());
}

static bool is_over(const struct carrier *carrier)
{
	return carrier->completed == carrier->accepted;
}

static bool written(void *data)
{
	(void)data;
	return is_over(&t.write);
}

static bool all_moved(void *data)
{
	(void)data;
	/* What was not written does not come, and what nobody reads fills the pipe. */
	if (!is_over(&t.back) && is_over(&t.out) && t.out.transfer.done < TRANSFER_BYTES)
		(void)kloop_transfer_cancel(&t.back.transfer);
	if (!is_over(&t.out) && is_over(&t.back))
		(void)kloop_transfer_cancel(&t.out.transfer);
	if (!is_over(&t.read) || !is_over(&t.waits) || !is_over(&t.out))
		return false;
	return is_over(&t.back);
}

static void begin_transfers(void)
{
	t.read.accepted = kt_took(kloop_transfer_read(t.loop, &t.read.transfer, t.read.fd, t.to,
						      sizeof(t.to), sizeof(t.to), 0));
	t.out.accepted = kt_took(kloop_transfer_write(t.loop, &t.out.transfer, t.out.fd, pattern,
						      TRANSFER_BYTES, UINT64_MAX));
	if (t.out.accepted)
		t.back.accepted = kt_took(kloop_transfer_read(t.loop, &t.back.transfer, t.back.fd,
							      t.from_pipe, TRANSFER_BYTES,
							      TRANSFER_BYTES, UINT64_MAX));
	t.waits.accepted = kt_took(kloop_transfer_read(t.loop, &t.waits.transfer, t.waits.fd, t.to, 1,
						       1, UINT64_MAX));
	kt_sweep_turns(t.loop, 2);
	for (int i = 0; i < 1000 && t.waits.accepted && !t.waits.completed; i++)
		if (kloop_transfer_cancel(&t.waits.transfer) == -ENOMEM)
			kt_sweep_turns(t.loop, 1);
		else
			break;
}

static void check_transfers(void)
{
	const struct carrier *all[] = { &t.write, &t.read, &t.back, &t.out, &t.waits };

	for (size_t i = 0; i < KT_COUNT(all); i++)
		KT_HOLDS(is_over(all[i]));
	if (t.write.result == 0 && t.write.accepted && t.read.accepted && t.read.result == 0)
		KT_HOLDS(memcmp(t.to, pattern, TRANSFER_BYTES) == 0);
	if (t.back.accepted)
		KT_HOLDS(memcmp(t.from_pipe, pattern, t.back.transfer.done) == 0);
	if (kt_sweep_must_succeed())
		KT_HOLDS(t.back.transfer.done == TRANSFER_BYTES);
}

static void transfers(int mode)
{
	struct carrier *all[] = { &t.write, &t.read, &t.back, &t.out, &t.waits };
	int fds[2], silent[2], fd;

	memset(&t, 0, sizeof(t));
	t.loop = kt_sweep_loop(mode);
	if (!t.loop)
		return;
	kt_sweep_pause();
	fd = kt_file_make(0);
	kt_pipe(fds);
	kt_pipe(silent);
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	fcntl(fds[1], F_SETPIPE_SZ, 4096);
	fcntl(silent[0], F_SETFL, O_NONBLOCK);
	kt_sweep_resume();
	for (size_t i = 0; i < KT_COUNT(all); i++)
		kloop_transfer_init(&all[i]->transfer, moved);
	t.write.fd = t.read.fd = fd;
	t.back.fd = fds[0];
	t.out.fd = fds[1];
	t.waits.fd = silent[0];
	t.write.accepted = kt_took(kloop_transfer_write(t.loop, &t.write.transfer, fd, pattern,
							TRANSFER_BYTES, UINT64_MAX));
	kt_sweep_until(t.loop, written, NULL);
	begin_transfers();
	kt_sweep_until(t.loop, all_moved, NULL);
	KT_HOLDS(kloop_loop_free(t.loop) == 0);
	check_transfers();
	kt_sweep_pause();
	close(fd);
	for (int i = 0; i < 2; i++) {
		close(fds[i]);
		close(silent[i]);
	}
	kt_sweep_resume();
}

/* ---- files of a stream ------------------------------------------------ */

static struct {
	struct kloop_loop *loop;
	struct kloop_stream *out, *in;
	int sent, status, expected, out_closed, in_closed, in_ended;
	uint64_t bytes, received;
	bool failed;
} s;

static void file_sent(void *owner, int status, uint64_t bytes, void *user)
{
	(void)user;
	KT_HOLDS(owner == &s && !s.out_closed && (status == 0 || kt_sweep_happened()));
	KT_HOLDS(status == 0 || !kt_sweep_must_succeed());
	s.sent++;
	s.status = status < 0 ? status : s.status;
	s.bytes += bytes;
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	(void)stream;
	(void)user;
	/* What failed to be read leaves a gap, which the order of what follows tells nobody. */
	if (s.status == 0) {
		KT_HOLDS(s.received + bytes <= 2 * FILE_BYTES);
		KT_HOLDS(memcmp(data, pattern + s.received % FILE_BYTES, bytes) == 0);
	}
	s.received += bytes;
}

static void on_eof(struct kloop_stream *stream, void *user)
{
	(void)user;
	KT_HOLDS(s.in_ended++ == 0);
	kloop_stream_close(stream);
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	(void)user;
	KT_HOLDS(error < 0 && kt_sweep_happened() && !kt_sweep_must_succeed());
	s.failed = true;
	kloop_stream_abort(stream);
}

static void on_close(struct kloop_stream *stream, void *user)
{
	(void)user;
	if (stream == s.out) {
		KT_HOLDS(s.out_closed++ == 0);
		s.out = NULL;
	} else {
		KT_HOLDS(s.in_closed++ == 0);
		s.in = NULL;
	}
}

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_data = on_data,
	.on_eof = on_eof,
	.on_error = on_error,
	.on_close = on_close,
};

static bool both_closed(void *data)
{
	(void)data;
	return !s.out && !s.in;
}

/* The file twice, and then the end. */
static void send_twice(int fd, unsigned flags)
{
	for (int i = 0; i < 2; i++)
		s.expected += kt_took(kloop_stream_send_file(s.out, fd, 0, KLOOP_FILE_END, flags,
							     file_sent, &s));
	if (s.expected < 2)
		s.failed = true;
	kloop_stream_close(s.out);
}

static void send_files(int mode, unsigned flags)
{
	int fds[2], fd;

	memset(&s, 0, sizeof(s));
	s.loop = kt_sweep_loop(mode);
	if (!s.loop)
		return;
	kt_sweep_pause();
	fd = kt_file_make(FILE_BYTES);
	kt_tcp_pair(fds);
	kt_sweep_resume();
	if (!kt_took(kloop_stream_new(s.loop, fds[0], 0, &handlers, NULL, &s.out)))
		KT_PLAIN(close(fds[0]));
	if (!kt_took(kloop_stream_new(s.loop, fds[1], 0, &handlers, NULL, &s.in)))
		KT_PLAIN(close(fds[1]));
	else if (!kt_took(kloop_stream_start_read(s.in)))
		kloop_stream_abort(s.in);
	if (s.out)
		send_twice(fd, flags);
	kt_sweep_until(s.loop, both_closed, NULL);
	KT_HOLDS(kloop_loop_free(s.loop) == 0);
	KT_HOLDS(s.sent == s.expected);
	KT_HOLDS(s.received <= s.bytes);
	if (kt_sweep_must_succeed() || !kt_sweep_happened())
		KT_HOLDS(s.received == 2 * FILE_BYTES && s.bytes == 2 * FILE_BYTES);
	/* Where neither stream failed, what was told is what came. */
	if (!s.failed && s.in_ended && s.expected == 2)
		KT_HOLDS(s.received == s.bytes);
	KT_PLAIN(close(fd));
}

static void copied_files(int mode)
{
	send_files(mode, 0);
}

static void spliced_files(int mode)
{
	send_files(mode, KLOOP_SEND_FILE_ZERO_COPY);
}

START_TEST(sweep_operations)
{
	kt_sweep("file operations", operations, _i);
}
END_TEST

START_TEST(sweep_transfers)
{
	kt_sweep("transfers", transfers, _i);
}
END_TEST

/* Nobody asked for that end: the transfer goes on. */
START_TEST(transfers_repeated)
{
	kt_sweep_result("transfers", transfers, _i % KT_SWEEP_MODES,
			_i < KT_SWEEP_MODES ? -EINTR : -ECANCELED);
}
END_TEST

START_TEST(sweep_copied_files)
{
	kt_sweep("send_file", copied_files, _i);
}
END_TEST

START_TEST(sweep_spliced_files)
{
	kt_sweep("send_file, splice", spliced_files, _i);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("sweep_file");
	int status;

	/* Twice, so that what begins in the first may end in the second. */
	pattern = malloc(2 * FILE_BYTES);
	if (!pattern || !mkdtemp(folder))
		return 1;
	kt_fill(pattern, FILE_BYTES, 0);
	memcpy(pattern + FILE_BYTES, pattern, FILE_BYTES);
	tcase_add_loop_test(kt_case(suite, "operations", 1200), sweep_operations, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "transfers", 1200), sweep_transfers, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "repeated", 1200), transfers_repeated, 0,
			    2 * KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "copied_files", 1200), sweep_copied_files, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "spliced_files", 1200), sweep_spliced_files, 0, KT_SWEEP_MODES);
	status = kt_main(suite);
	rmdir(folder);
	free(pattern);
	return status;
}
