/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Operations without streams: read a file block by block while a second
 * operation waits for a pipe, and cancel that one at the end.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <kloop.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct copy {
	struct kloop_op op; /* first, so that its address is the copy's */
	struct kloop_op *other;
	struct kloop_loop *loop;
	int fd;
	uint64_t offset;
	uint64_t lines;
	char buffer[4096]; /* lent to the kernel while the operation is in flight */
};

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, kloop_strerror(result));
	exit(1);
}

static void on_block(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct copy *copy = (struct copy *)op;

	(void)flags;
	check(result, "read");
	if (result == 0) {
		printf("%" PRIu64 " bytes, %s\n", copy->offset,
		       copy->lines > 0 ? "some lines" : "no line");
		/* A request only: on_ready() is still called, with -ECANCELED. */
		check(kloop_op_cancel(copy->other), "kloop_op_cancel");
		return;
	}
	for (int32_t i = 0; i < result; i++)
		copy->lines += copy->buffer[i] == '\n';
	copy->offset += (uint64_t)result;
	/* The operation is free again here, and may be submitted for the next block. */
	check(kloop_op_read(copy->loop, op, copy->fd, copy->buffer, sizeof(copy->buffer),
			    copy->offset),
	      "kloop_op_read");
}

static void on_ready(struct kloop_op *op, int32_t result, uint32_t flags)
{
	(void)op;
	(void)flags;
	printf("the pipe: %s\n", result < 0 ? kloop_error_name(result) : "ready");
}

int main(int argc, char **argv)
{
	struct copy copy = { .fd = open(argc > 1 ? argv[1] : "/etc/passwd", O_RDONLY | O_CLOEXEC) };
	struct kloop_op ready;
	int ends[2];

	if (copy.fd < 0 || pipe(ends) < 0) {
		perror("ops");
		return 1;
	}
	check(kloop_loop_new(NULL, &copy.loop), "kloop_loop_new");

	kloop_op_init(&ready, on_ready);
	check(kloop_op_poll(copy.loop, &ready, ends[0], POLLIN), "kloop_op_poll");

	kloop_op_init(&copy.op, on_block);
	copy.other = &ready;
	check(kloop_op_read(copy.loop, &copy.op, copy.fd, copy.buffer, sizeof(copy.buffer), 0),
	      "kloop_op_read");

	/* Returns when both operations have completed for good. */
	check(kloop_loop_run(copy.loop), "kloop_loop_run");
	kloop_loop_free(copy.loop);
	close(copy.fd);
	close(ends[0]);
	close(ends[1]);
	return 0;
}
