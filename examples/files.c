/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Files without blocking: write one, have it reach the disk, look at its size,
 * read it back and remove it. One step follows the other in completions; the
 * loop is free for other things meanwhile.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* struct statx */
#endif
#include <fcntl.h>
#include <kloop.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char text[] = "first line\nsecond line\n";

struct job {
	struct kloop_op op;             /* for single requests */
	struct kloop_transfer transfer; /* for whole buffers */
	struct kloop_loop *loop;
	char path[64];
	int fd;
	struct statx status; /* lent to the kernel, as path and buffer are */
	char buffer[64];
};

static struct job job;

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, kloop_strerror(result));
	exit(1);
}

static void on_unlinked(struct kloop_op *op, int32_t result, uint32_t flags)
{
	(void)op;
	(void)flags;
	check(result, "unlink");
	printf("removed\n");
}

static void on_read(struct kloop_transfer *transfer, int result)
{
	check(result, "read");
	fwrite(job.buffer, 1, transfer->done, stdout);
	close(job.fd);
	job.op.complete = on_unlinked;
	check(kloop_op_unlinkat(job.loop, &job.op, AT_FDCWD, job.path, 0), "kloop_op_unlinkat");
}

static void on_status(struct kloop_op *op, int32_t result, uint32_t flags)
{
	(void)op;
	(void)flags;
	check(result, "statx");
	printf("%llu bytes, kept until the disk had them\n",
	       (unsigned long long)job.status.stx_size);
	/* All of it: fewer bytes only come at the end of the file. */
	job.transfer.complete = on_read;
	check(kloop_transfer_read(job.loop, &job.transfer, job.fd, job.buffer, sizeof(job.buffer),
				  sizeof(job.buffer), 0),
	      "kloop_transfer_read");
}

static void on_synced(struct kloop_op *op, int32_t result, uint32_t flags)
{
	(void)flags;
	check(result, "fsync");
	op->complete = on_status;
	check(kloop_op_statx(job.loop, op, job.fd, "", AT_EMPTY_PATH, STATX_SIZE, &job.status),
	      "kloop_op_statx");
}

static void on_written(struct kloop_transfer *transfer, int result)
{
	/* After a failure, transfer->done would tell how much was written. */
	(void)transfer;
	check(result, "write");
	job.op.complete = on_synced;
	check(kloop_op_fsync(job.loop, &job.op, job.fd, false), "kloop_op_fsync");
}

static void on_opened(struct kloop_op *op, int32_t result, uint32_t flags)
{
	(void)op;
	(void)flags;
	check(result, "open");
	job.fd = result;
	kloop_transfer_init(&job.transfer, on_written);
	check(kloop_transfer_write(job.loop, &job.transfer, job.fd, text, sizeof(text) - 1, 0),
	      "kloop_transfer_write");
}

int main(void)
{
	snprintf(job.path, sizeof(job.path), "/tmp/kloop-files-%ld", (long)getpid());
	check(kloop_loop_new(NULL, &job.loop), "kloop_loop_new");
	kloop_op_init(&job.op, on_opened);
	check(kloop_op_openat(job.loop, &job.op, AT_FDCWD, job.path, O_RDWR | O_CREAT | O_EXCL, 0600),
	      "kloop_op_openat");
	check(kloop_loop_run(job.loop), "kloop_loop_run");
	kloop_loop_free(job.loop);
	return 0;
}
