/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A pool of buffers: one multishot receive, and the kernel picks a buffer each
 * time bytes arrive. The pool is small on purpose, to show how an empty pool is
 * met.
 */
#include <errno.h>
#include <kloop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT 4
#define BUFFER_BYTES 256

struct receiver {
	struct kloop_op op; /* first, so that its address is the receiver's */
	struct kloop_loop *loop;
	struct kloop_pool *pool;
	int fd;
	size_t total;
};

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, kloop_strerror(result));
	exit(1);
}

static void on_receive(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct receiver *receiver = (struct receiver *)op;
	unsigned id;
	void *buffer;

	if (result > 0) {
		check(kloop_pool_get(receiver->pool, flags, &buffer, &id), "kloop_pool_get");
		receiver->total += (size_t)result;
		printf("%d bytes, the first is '%c'\n", (int)result, *(char *)buffer);
		/* The kernel may fill it again from here on. */
		kloop_pool_give(receiver->pool, id);
	} else if (result != 0 && result != -ENOBUFS) {
		check(result, "recv");
	}
	/*
	 * Without KLOOP_OP_MORE the receive has ended: at the end of the stream,
	 * or because the pool was empty at that moment. All buffers are given
	 * back by now, so go on.
	 */
	if (!(flags & KLOOP_OP_MORE) && result != 0)
		check(kloop_op_recv_multishot(receiver->loop, op, receiver->fd, receiver->pool),
		      "kloop_op_recv_multishot");
}

int main(void)
{
	struct receiver receiver = { 0 };
	char message[3 * COUNT * BUFFER_BYTES];
	int ends[2];
	int error;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
		perror("socketpair");
		return 1;
	}
	receiver.fd = ends[0];
	check(kloop_loop_new(NULL, &receiver.loop), "kloop_loop_new");
	error = kloop_pool_new(receiver.loop, COUNT, BUFFER_BYTES, &receiver.pool);
	if (error == -EOPNOTSUPP) {
		printf("this kernel has no buffer rings\n");
		return 0;
	}
	check(error, "kloop_pool_new");

	/* More than the pool holds, and the end of the stream. */
	memset(message, 'k', sizeof(message));
	if (write(ends[1], message, sizeof(message)) < 0 || shutdown(ends[1], SHUT_WR) < 0) {
		perror("write");
		return 1;
	}
	kloop_op_init(&receiver.op, on_receive);
	check(kloop_op_recv_multishot(receiver.loop, &receiver.op, receiver.fd, receiver.pool),
	      "kloop_op_recv_multishot");
	check(kloop_loop_run(receiver.loop), "kloop_loop_run");

	printf("%zu of %zu bytes\n", receiver.total, sizeof(message));
	kloop_pool_free(receiver.pool);
	kloop_loop_free(receiver.loop);
	close(ends[0]);
	close(ends[1]);
	return receiver.total != sizeof(message);
}
