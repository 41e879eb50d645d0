/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Files: names and their errors, and transfers that meet short counts, interruptions and ends. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- a kernel that moves little, or is interrupted ---------------------- */

static size_t most;       /* bytes in one read or write; 0: as the kernel likes */
static int interruptions; /* so many of the next ones are interrupted */
static kloop_op_fn *interrupted;

int __real_kloop_op_read(struct kloop_loop *loop, struct kloop_op *op, int fd, void *buffer,
			 size_t bytes, uint64_t offset);
int __real_kloop_op_write(struct kloop_loop *loop, struct kloop_op *op, int fd,
			  const void *buffer, size_t bytes, uint64_t offset);
int __wrap_kloop_op_read(struct kloop_loop *loop, struct kloop_op *op, int fd, void *buffer,
			 size_t bytes, uint64_t offset);
int __wrap_kloop_op_write(struct kloop_loop *loop, struct kloop_op *op, int fd,
			  const void *buffer, size_t bytes, uint64_t offset);

static void interrupt(struct kloop_op *op, int32_t result, uint32_t flags)
{
	ck_assert_int_eq(result, 0);
	op->complete = interrupted;
	interrupted(op, -EINTR, flags);
}

/* True if the operation is one that will be interrupted, and was submitted as such. */
static bool is_interrupted(struct kloop_loop *loop, struct kloop_op *op, int *ret_result)
{
	if (interruptions == 0)
		return false;
	interruptions--;
	interrupted = op->complete;
	op->complete = interrupt;
	*ret_result = kloop_op_nop(loop, op);
	return true;
}

int __wrap_kloop_op_read(struct kloop_loop *loop, struct kloop_op *op, int fd, void *buffer,
			 size_t bytes, uint64_t offset)
{
	int ret;

	if (is_interrupted(loop, op, &ret))
		return ret;
	return __real_kloop_op_read(loop, op, fd, buffer, most != 0 && bytes > most ? most : bytes,
				    offset);
}

int __wrap_kloop_op_write(struct kloop_loop *loop, struct kloop_op *op, int fd,
			  const void *buffer, size_t bytes, uint64_t offset)
{
	int ret;

	if (is_interrupted(loop, op, &ret))
		return ret;
	return __real_kloop_op_write(loop, op, fd, buffer,
				     most != 0 && bytes > most ? most : bytes, offset);
}

/* ---- scenes ------------------------------------------------------------- */

struct moved {
	struct kloop_transfer transfer;
	int completions;
	int result;
};

static void on_moved(struct kloop_transfer *transfer, int result)
{
	struct moved *moved = (struct moved *)transfer;

	ck_assert(!kloop_transfer_is_active(transfer));
	moved->completions++;
	moved->result = result;
}

static void moved_init(struct moved *moved)
{
	memset(moved, 0, sizeof(*moved));
	kloop_transfer_init(&moved->transfer, on_moved);
	most = 0;
	interruptions = 0;
}

static int wait_for(struct kloop_loop *loop, struct moved *moved)
{
	kt_turn_until(loop, &moved->completions, 1);
	ck_assert_int_eq(moved->completions, 1);
	moved->completions = 0;
	return moved->result;
}

static int file_of(const char *text)
{
	int fd = memfd_create("test_file", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	ck_assert_int_eq(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

static void check_content(int fd, const char *text)
{
	char content[256] = "";
	ssize_t n = pread(fd, content, sizeof(content) - 1, 0);

	ck_assert_int_eq(n, (ssize_t)strlen(text));
	ck_assert_str_eq(content, text);
}

static void set_nonblocking(int fd)
{
	ck_assert_int_eq(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
}

/* An operation whose former use is forgotten. */
#define BEGIN(op, call)                                                                      \
	do {                                                                                   \
		kt_op_init(op);                                                                    \
		KT_ACCEPTED(call);                                                                 \
	} while (0)

/* ---- names -------------------------------------------------------------- */

static char folder[] = "/tmp/kloop-file-XXXXXX";
static int folder_fd;

static void folder_open(void)
{
	ck_assert_ptr_nonnull(mkdtemp(folder));
	folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(folder_fd, 0);
	umask(022);
}

static void folder_close(void)
{
	kt_close(folder_fd);
	ck_assert_int_eq(rmdir(folder), 0);
	strcpy(folder + strlen(folder) - 6, "XXXXXX");
}

START_TEST(names_from_birth_to_end)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct statx status = { 0 };
	struct kt_op op;
	int fd;

	BEGIN(&op, kloop_op_mkdirat(loop, &op.op, folder_fd, "inner", 0777));
	ck_assert_int_eq(kt_op_wait(loop, &op), 0);
	BEGIN(&op, kloop_op_openat(loop, &op.op, folder_fd, "inner/a", O_CREAT | O_EXCL | O_RDWR,
				   0666));
	fd = kt_op_wait(loop, &op);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	BEGIN(&op, kloop_op_ftruncate(loop, &op.op, fd, 12345));
	ck_assert_int_eq(kt_op_wait(loop, &op), 0);
	BEGIN(&op, kloop_op_fsync(loop, &op.op, fd, false));
	ck_assert_int_eq(kt_op_wait(loop, &op), 0);
	BEGIN(&op, kloop_op_fallocate(loop, &op.op, fd, FALLOC_FL_KEEP_SIZE, 0, 65536));
	ck_assert(kt_op_wait(loop, &op) == 0 || op.result == -EOPNOTSUPP);
	BEGIN(&op, kloop_op_renameat(loop, &op.op, folder_fd, "inner/a", folder_fd, "b",
				     RENAME_NOREPLACE));
	ck_assert_int_eq(kt_op_wait(loop, &op), 0);
	BEGIN(&op, kloop_op_statx(loop, &op.op, folder_fd, "b", 0, STATX_BASIC_STATS, &status));
	ck_assert_int_eq(kt_op_wait(loop, &op), 0);
	ck_assert_uint_eq(status.stx_size, 12345);
	/* The process's mask holds, whoever makes the file. */
	ck_assert_uint_eq(status.stx_mode, S_IFREG | 0644);
	BEGIN(&op, kloop_op_unlinkat(loop, &op.op, folder_fd, "b", 0));
	ck_assert_int_eq(kt_op_wait(loop, &op), 0);
	BEGIN(&op, kloop_op_unlinkat(loop, &op.op, folder_fd, "inner", AT_REMOVEDIR));
	ck_assert_int_eq(kt_op_wait(loop, &op), 0);
	kt_close(fd);
	kt_loop_free(loop);
}
END_TEST

START_TEST(names_fail_in_their_completion)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct statx status = { 0 };
	struct kt_op op;

	BEGIN(&op, kloop_op_openat(loop, &op.op, folder_fd, "none", O_RDONLY, 0));
	ck_assert_int_eq(kt_op_wait(loop, &op), -ENOENT);
	BEGIN(&op, kloop_op_statx(loop, &op.op, folder_fd, "none", 0, STATX_ALL, &status));
	ck_assert_int_eq(kt_op_wait(loop, &op), -ENOENT);
	BEGIN(&op, kloop_op_mkdirat(loop, &op.op, AT_FDCWD, folder, 0777));
	ck_assert_int_eq(kt_op_wait(loop, &op), -EEXIST);
	BEGIN(&op, kloop_op_renameat(loop, &op.op, folder_fd, "none", folder_fd, "b", 0));
	ck_assert_int_eq(kt_op_wait(loop, &op), -ENOENT);
	BEGIN(&op, kloop_op_unlinkat(loop, &op.op, AT_FDCWD, folder, 0));
	ck_assert_int_eq(kt_op_wait(loop, &op), -EISDIR);
	BEGIN(&op, kloop_op_ftruncate(loop, &op.op, folder_fd, 1));
	ck_assert(kt_op_wait(loop, &op) == -EINVAL || op.result == -EBADF);
	kt_loop_free(loop);
}
END_TEST

START_TEST(names_that_are_refused)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct iovec vector = { NULL, 0 };
	struct kt_op op;

	kt_op_init(&op);
	ck_assert_int_eq(kloop_op_openat(loop, &op.op, AT_FDCWD, NULL, 0, 0), -EINVAL);
	ck_assert_int_eq(kloop_op_statx(loop, &op.op, AT_FDCWD, "a", 0, 0, NULL), -EINVAL);
	ck_assert_int_eq(kloop_op_mkdirat(loop, &op.op, AT_FDCWD, NULL, 0), -EINVAL);
	ck_assert_int_eq(kloop_op_unlinkat(loop, &op.op, AT_FDCWD, NULL, 0), -EINVAL);
	ck_assert_int_eq(kloop_op_renameat(loop, &op.op, AT_FDCWD, "a", AT_FDCWD, NULL, 0), -EINVAL);
	ck_assert_int_eq(kloop_op_ftruncate(loop, &op.op, 0, UINT64_MAX), -EINVAL);
	ck_assert_int_eq(kloop_op_fallocate(loop, &op.op, 0, 0, 0, UINT64_MAX), -EINVAL);
	ck_assert_int_eq(kloop_op_preadv(loop, &op.op, 0, &vector, IOV_MAX + 1, 0), -EINVAL);
	ck_assert_int_eq(kloop_op_pwritev(loop, &op.op, 1, NULL, 1, 0), -EINVAL);
	ck_assert_uint_eq(KT_STAT(loop, in_flight), 0);
	kt_loop_free(loop);
}
END_TEST

START_TEST(vectors_have_an_offset)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	char first[3] = "", second[16] = "";
	struct iovec in[] = { { first, 3 }, { second, 16 } };
	struct iovec out[] = { { "XY", 2 }, { "Z", 1 } };
	int fd = file_of("0123456789");
	struct kt_op op;

	BEGIN(&op, kloop_op_preadv(loop, &op.op, fd, in, 2, 4));
	ck_assert_int_eq(kt_op_wait(loop, &op), 6);
	ck_assert_mem_eq(first, "456", 3);
	ck_assert_mem_eq(second, "789", 3);
	BEGIN(&op, kloop_op_pwritev(loop, &op.op, fd, out, 2, 8));
	ck_assert_int_eq(kt_op_wait(loop, &op), 3);
	check_content(fd, "01234567XYZ");
	/* Neither moved the file's own position. */
	ck_assert_int_eq(lseek(fd, 0, SEEK_CUR), 0);
	kt_close(fd);
	kt_loop_free(loop);
}
END_TEST

/* ---- transfers ------------------------------------------------------------ */

START_TEST(moves_all_in_small_pieces)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	int fd = file_of("");
	char back[32] = "";
	struct moved moved;

	moved_init(&moved);
	most = 3;
	interruptions = 2;
	KT_ACCEPTED(kloop_transfer_write(loop, &moved.transfer, fd, "hello, world", 12, 4));
	ck_assert_int_eq(wait_for(loop, &moved), 0);
	ck_assert_uint_eq(moved.transfer.done, 12);
	ck_assert_int_eq(interruptions, 0);
	interruptions = 1;
	KT_ACCEPTED(kloop_transfer_read(loop, &moved.transfer, fd, back, 8, 8, 6));
	ck_assert_int_eq(wait_for(loop, &moved), 0);
	ck_assert_uint_eq(moved.transfer.done, 8);
	ck_assert_str_eq(back, "llo, wor");
	/* What one read brings; and the end of the file. */
	KT_ACCEPTED(kloop_transfer_read(loop, &moved.transfer, fd, back, 8, 1, 6));
	ck_assert_int_eq(wait_for(loop, &moved), 0);
	ck_assert_uint_eq(moved.transfer.done, 3);
	KT_ACCEPTED(kloop_transfer_read(loop, &moved.transfer, fd, back, 32, 32, 10));
	ck_assert_int_eq(wait_for(loop, &moved), 0);
	ck_assert_uint_eq(moved.transfer.done, 6);
	KT_ACCEPTED(kloop_transfer_read(loop, &moved.transfer, fd, back, 32, 0, 100));
	ck_assert_int_eq(wait_for(loop, &moved), 0);
	ck_assert_uint_eq(moved.transfer.done, 0);
	kt_close(fd);
	kt_loop_free(loop);
}
END_TEST

START_TEST(moves_the_position)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	int fd = file_of("0123456789");
	char back[4] = "";
	struct moved moved;

	moved_init(&moved);
	most = 2;
	KT_ACCEPTED(kloop_transfer_read(loop, &moved.transfer, fd, back, 4, 4, UINT64_MAX));
	ck_assert_int_eq(wait_for(loop, &moved), 0);
	ck_assert_mem_eq(back, "0123", 4);
	KT_ACCEPTED(kloop_transfer_write(loop, &moved.transfer, fd, "abc", 3, UINT64_MAX));
	ck_assert_int_eq(wait_for(loop, &moved), 0);
	check_content(fd, "0123abc789");
	ck_assert_int_eq(lseek(fd, 0, SEEK_CUR), 7);
	KT_ACCEPTED(kloop_transfer_write(loop, &moved.transfer, fd, "", 0, UINT64_MAX));
	ck_assert_int_eq(wait_for(loop, &moved), 0);
	kt_close(fd);
	kt_loop_free(loop);
}
END_TEST

START_TEST(appends)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	int fd = file_of("0123");
	struct moved moved;

	ck_assert_int_eq(fcntl(fd, F_SETFL, O_APPEND), 0);
	moved_init(&moved);
	most = 2;
	KT_ACCEPTED(kloop_transfer_write(loop, &moved.transfer, fd, "abc", 3, UINT64_MAX));
	ck_assert_int_eq(wait_for(loop, &moved), 0);
	check_content(fd, "0123abc");
	ck_assert_int_eq(lseek(fd, 0, SEEK_CUR), 7);
	kt_close(fd);
	kt_loop_free(loop);
}
END_TEST

START_TEST(waits_for_a_pipe)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i % KT_RUNGS);
	struct moved moved;
	char back[16] = "";
	int fds[2];

	kt_pipe(fds);
	if (_i >= KT_RUNGS)
		set_nonblocking(fds[0]);
	moved_init(&moved);
	KT_ACCEPTED(kloop_transfer_read(loop, &moved.transfer, fds[0], back, 16, 6, UINT64_MAX));
	kt_turn_for(loop, 5);
	ck_assert_int_eq(moved.completions, 0);
	ck_assert_int_eq(write(fds[1], "abcd", 4), 4);
	kt_turn_for(loop, 5);
	ck_assert_int_eq(moved.completions, 0);
	ck_assert_int_eq(write(fds[1], "efgh", 4), 4);
	ck_assert_int_eq(wait_for(loop, &moved), 0);
	ck_assert_uint_eq(moved.transfer.done, 8);
	ck_assert_str_eq(back, "abcdefgh");
	/* The end comes before there is enough. */
	KT_ACCEPTED(kloop_transfer_read(loop, &moved.transfer, fds[0], back, 16, 6, UINT64_MAX));
	ck_assert_int_eq(write(fds[1], "xy", 2), 2);
	kt_close(fds[1]);
	ck_assert_int_eq(wait_for(loop, &moved), 0);
	ck_assert_uint_eq(moved.transfer.done, 2);
	kt_close(fds[0]);
	kt_loop_free(loop);
}
END_TEST

#define MUCH 300000

START_TEST(fills_a_pipe_and_goes_on)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i % KT_RUNGS);
	char *sent = malloc(MUCH), *got = malloc(MUCH);
	struct moved moved;
	size_t total = 0;
	int fds[2];

	for (size_t i = 0; i < MUCH; i++)
		sent[i] = (char)(i * 7 + i / 256);
	kt_pipe(fds);
	if (_i >= KT_RUNGS)
		set_nonblocking(fds[1]);
	moved_init(&moved);
	KT_ACCEPTED(kloop_transfer_write(loop, &moved.transfer, fds[1], sent, MUCH, UINT64_MAX));
	set_nonblocking(fds[0]);
	while (total < MUCH) {
		ssize_t n = read(fds[0], got + total, MUCH - total);

		if (n > 0)
			total += (size_t)n;
		kt_turn(loop, 1 * KT_MS);
	}
	ck_assert_int_eq(wait_for(loop, &moved), 0);
	ck_assert_uint_eq(moved.transfer.done, MUCH);
	ck_assert_mem_eq(sent, got, MUCH);
	free(sent);
	free(got);
	kt_close(fds[0]);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

/* ---- failures and ends ---------------------------------------------------- */

static int too_large(void *data)
{
	struct rlimit limit = { 4096, RLIM_INFINITY };
	int rung = *(int *)data;
	struct kloop_loop *loop = kt_loop_on_rung(rung);
	static const char text[8192];
	struct moved moved;
	int fd = file_of("");

	moved_init(&moved);
	signal(SIGXFSZ, SIG_IGN);
	KT_CHILD_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	KT_CHILD_CHECK(lseek(fd, 100, SEEK_SET) == 100);
	/* At an offset, and at the position, which is where the failure was afterwards. */
	for (int round = 0; round < 2; round++) {
		uint64_t offset = round == 0 ? 100 : UINT64_MAX;

		moved.completions = 0;
		KT_CHILD_CHECK(kloop_transfer_write(loop, &moved.transfer, fd, text, 8192, offset) == 0);
		while (moved.completions == 0)
			KT_CHILD_CHECK(kloop_loop_turn(loop, KLOOP_FOREVER) >= 0);
		KT_CHILD_CHECK(moved.result == -EFBIG);
		KT_CHILD_CHECK(moved.transfer.done == 3996);
		KT_CHILD_CHECK(lseek(fd, 0, SEEK_CUR) == (round == 0 ? 100 : 4096));
	}
	close(fd);
	return kloop_loop_free(loop);
}

START_TEST(tells_what_was_written_before_a_failure)
{
	kt_fork_ok(too_large, &_i);
}
END_TEST

/* Until the kernel has moved what is in a pipe, which a polling thread does in its own time. */
static void turn_until_taken(struct kloop_loop *loop, int fd)
{
	int left = 1;

	for (int i = 0; i < KT_PATIENCE_MS && left != 0; i++) {
		kt_turn(loop, 1 * KT_MS);
		ck_assert_int_eq(ioctl(fd, FIONREAD, &left), 0);
	}
	ck_assert_int_eq(left, 0);
}

START_TEST(cancels)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i % KT_RUNGS);
	struct moved moved;
	char back[16] = "";
	int fds[2];

	kt_pipe(fds);
	if (_i >= KT_RUNGS)
		set_nonblocking(fds[0]);
	moved_init(&moved);
	ck_assert_int_eq(kloop_transfer_cancel(&moved.transfer), -ENOENT);
	ck_assert_int_eq(kloop_transfer_cancel(NULL), -EINVAL);
	/* Before the kernel has it, while it waits, and with a part in the buffer. */
	for (int round = 0; round < 3; round++) {
		KT_ACCEPTED(kloop_transfer_read(loop, &moved.transfer, fds[0], back, 16, 16,
						UINT64_MAX));
		if (round > 0)
			kt_turn_for(loop, 5);
		if (round == 2) {
			ck_assert_int_eq(write(fds[1], "abc", 3), 3);
			turn_until_taken(loop, fds[0]);
		}
		KT_ACCEPTED(kloop_transfer_cancel(&moved.transfer));
		ck_assert(kloop_transfer_is_active(&moved.transfer));
		KT_ACCEPTED(kloop_transfer_cancel(&moved.transfer));
		ck_assert_int_eq(wait_for(loop, &moved), -ECANCELED);
		ck_assert_uint_eq(moved.transfer.done, round == 2 ? 3 : 0);
	}
	kt_close(fds[0]);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

START_TEST(ends_with_the_loop)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i % KT_RUNGS);
	struct moved moved;
	char back[16] = "";
	int fds[2];

	kt_pipe(fds);
	if (_i >= KT_RUNGS)
		set_nonblocking(fds[0]);
	moved_init(&moved);
	KT_ACCEPTED(kloop_transfer_read(loop, &moved.transfer, fds[0], back, 16, 1, UINT64_MAX));
	kt_turn_for(loop, 5);
	kt_loop_free(loop);
	ck_assert_int_eq(moved.completions, 1);
	ck_assert_int_eq(moved.result, -ECANCELED);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

START_TEST(transfers_that_are_refused)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct moved moved;
	char back[16] = "";
	int fds[2];

	kt_pipe(fds);
	moved_init(&moved);
	ck_assert_int_eq(kloop_transfer_read(loop, NULL, fds[0], back, 1, 1, 0), -EINVAL);
	ck_assert_int_eq(kloop_transfer_read(NULL, &moved.transfer, 0, back, 1, 1, 0), -EINVAL);
	ck_assert_int_eq(kloop_transfer_read(loop, &moved.transfer, 0, NULL, 1, 1, 0), -EINVAL);
	ck_assert_int_eq(kloop_transfer_read(loop, &moved.transfer, 0, back, 1, 2, 0), -EINVAL);
	ck_assert_int_eq(kloop_transfer_write(loop, &moved.transfer, 0, NULL, 1, 0), -EINVAL);
	KT_ACCEPTED(kloop_transfer_read(loop, &moved.transfer, fds[0], back, 1, 1, UINT64_MAX));
	ck_assert_int_eq(kloop_transfer_read(loop, &moved.transfer, 0, back, 1, 1, 0), -EBUSY);
	ck_assert_int_eq(kloop_transfer_write(loop, &moved.transfer, 0, back, 1, 0), -EBUSY);
	KT_ACCEPTED(kloop_transfer_cancel(&moved.transfer));
	ck_assert_int_eq(wait_for(loop, &moved), -ECANCELED);
	/* What the kernel refuses is told at the completion. */
	KT_ACCEPTED(kloop_transfer_read(loop, &moved.transfer, fds[1], back, 1, 1, UINT64_MAX));
	ck_assert_int_eq(wait_for(loop, &moved), -EBADF);
	kt_close(fds[0]);
	KT_ACCEPTED(kloop_transfer_write(loop, &moved.transfer, fds[1], back, 1, UINT64_MAX));
	signal(SIGPIPE, SIG_IGN);
	ck_assert_int_eq(wait_for(loop, &moved), -EPIPE);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

static Suite *file_suite(void)
{
	Suite *suite = suite_create("file");
	TCase *names = kt_case(suite, "names", 30);
	TCase *transfers = kt_case(suite, "transfers", 60);

	tcase_add_checked_fixture(names, folder_open, folder_close);
	tcase_add_loop_test(names, names_from_birth_to_end, 0, KT_RUNGS);
	tcase_add_loop_test(names, names_fail_in_their_completion, 0, KT_RUNGS);
	tcase_add_loop_test(names, names_that_are_refused, 0, KT_RUNGS);
	tcase_add_loop_test(transfers, vectors_have_an_offset, 0, KT_RUNGS);
	tcase_add_loop_test(transfers, moves_all_in_small_pieces, 0, KT_RUNGS);
	tcase_add_loop_test(transfers, moves_the_position, 0, KT_RUNGS);
	tcase_add_loop_test(transfers, appends, 0, KT_RUNGS);
	/* On each rung, with a descriptor that blocks and one that does not. */
	tcase_add_loop_test(transfers, waits_for_a_pipe, 0, 2 * KT_RUNGS);
	tcase_add_loop_test(transfers, fills_a_pipe_and_goes_on, 0, 2 * KT_RUNGS);
	tcase_add_loop_test(transfers, tells_what_was_written_before_a_failure, 0, KT_RUNGS);
	tcase_add_loop_test(transfers, cancels, 0, 2 * KT_RUNGS);
	tcase_add_loop_test(transfers, ends_with_the_loop, 0, 2 * KT_RUNGS);
	tcase_add_loop_test(transfers, transfers_that_are_refused, 0, KT_RUNGS);
	return suite;
}

int main(void)
{
	return kt_main(file_suite());
}
