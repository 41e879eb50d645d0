/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Operations on sockets, one after the other: accept and connect at the same
 * time, send in two ways, receive in two ways, shut down, close.
 */
#include <kloop.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>

/* An operation that remembers its result; a program that waits for it needs no more. */
struct call {
	struct kloop_op op; /* first, so that its address is the call's */
	int32_t result;
};

static void on_complete(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct call *call = (struct call *)op;

	(void)flags;
	call->result = result;
}

static int check(int result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "%s: %s\n", what, kloop_strerror(result));
		exit(1);
	}
	return result;
}

/* Turn until an operation has completed, and give its result. */
static int32_t finish(struct kloop_loop *loop, struct call *call, const char *what)
{
	while (kloop_op_is_active(&call->op))
		check(kloop_loop_turn(loop, KLOOP_FOREVER), "kloop_loop_turn");
	return check(call->result, what);
}

/* A socket that listens on a free port of the loopback address. */
static int listen_somewhere(struct kloop_address *ret_address)
{
	int fd;

	check(kloop_address_parse("127.0.0.1", 0, ret_address), "kloop_address_parse");
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, &ret_address->u.any, ret_address->length) < 0 || listen(fd, 1) < 0 ||
	    getsockname(fd, &ret_address->u.any, &ret_address->length) < 0) {
		perror("listen");
		exit(1);
	}
	return fd;
}

/* Send with writev(2), send(2) and sendmsg(2): "one two three four" and an end. */
static void send_all(struct kloop_loop *loop, struct call *call, int fd)
{
	struct iovec words[] = { { "one ", 4 }, { "two ", 4 } };
	struct iovec last = { "four\n", 5 };
	struct msghdr message = { .msg_iov = &last, .msg_iovlen = 1 };

	check(kloop_op_writev(loop, &call->op, fd, words, 2), "kloop_op_writev");
	finish(loop, call, "writev");
	check(kloop_op_send(loop, &call->op, fd, "three ", 6, 0), "kloop_op_send");
	finish(loop, call, "send");
	check(kloop_op_sendmsg(loop, &call->op, fd, &message, 0), "kloop_op_sendmsg");
	finish(loop, call, "sendmsg");
	check(kloop_op_shutdown(loop, &call->op, fd, SHUT_WR), "kloop_op_shutdown");
	finish(loop, call, "shutdown");
}

/* Receive with recv(2) and recvmsg(2) in turn, until the end. */
static void receive_all(struct kloop_loop *loop, struct call *call, int fd)
{
	char buffer[8];
	struct iovec room = { buffer, sizeof(buffer) };
	struct msghdr message = { .msg_iov = &room, .msg_iovlen = 1 };
	int32_t bytes;

	for (unsigned round = 0;; round++) {
		if (round % 2)
			check(kloop_op_recvmsg(loop, &call->op, fd, &message, 0), "kloop_op_recvmsg");
		else
			check(kloop_op_recv(loop, &call->op, fd, buffer, sizeof(buffer), 0),
			      "kloop_op_recv");
		bytes = finish(loop, call, "recv");
		if (bytes == 0)
			return;
		fwrite(buffer, 1, (size_t)bytes, stdout);
	}
}

int main(void)
{
	struct call accepting, connecting;
	struct kloop_address address;
	struct kloop_loop *loop;
	int listener = listen_somewhere(&address);
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int server;

	check(kloop_loop_new(NULL, &loop), "kloop_loop_new");
	kloop_op_init(&accepting.op, on_complete);
	kloop_op_init(&connecting.op, on_complete);

	check(kloop_op_accept(loop, &accepting.op, listener, NULL, NULL, SOCK_CLOEXEC),
	      "kloop_op_accept");
	check(kloop_op_connect(loop, &connecting.op, client, &address.u.any, address.length),
	      "kloop_op_connect");
	finish(loop, &connecting, "connect");
	server = finish(loop, &accepting, "accept");

	send_all(loop, &connecting, client);
	receive_all(loop, &accepting, server);

	check(kloop_op_close(loop, &connecting.op, client), "kloop_op_close");
	finish(loop, &connecting, "close");
	check(kloop_op_close(loop, &connecting.op, server), "kloop_op_close");
	finish(loop, &connecting, "close");
	check(kloop_op_close(loop, &connecting.op, listener), "kloop_op_close");
	finish(loop, &connecting, "close");
	return kloop_loop_free(loop) < 0;
}
