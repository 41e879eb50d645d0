/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Every kind of operation: see kinds.h. */
#include "kinds.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static const char text[] = "abcd";

/* ---- settings --------------------------------------------------------- */

/* Write to a descriptor until it takes no more, and leave it blocking. */
static void fill(int fd)
{
	char block[4096] = { 0 };
	int flags = fcntl(fd, F_GETFL);

	ck_assert_int_eq(fcntl(fd, F_SETFL, flags | O_NONBLOCK), 0);
	while (write(fd, block, sizeof(block)) > 0)
		;
	ck_assert_int_eq(errno, EAGAIN);
	ck_assert_int_eq(fcntl(fd, F_SETFL, flags), 0);
}

static void open_nothing(struct kt_setting *setting, bool blocked)
{
	(void)setting;
	(void)blocked;
}

static void open_file(struct kt_setting *setting, bool blocked)
{
	(void)blocked;
	setting->fd = memfd_create("kinds", MFD_CLOEXEC);
	ck_assert_int_ge(setting->fd, 0);
}

static void open_reader(struct kt_setting *setting, bool blocked)
{
	int fds[2];

	kt_pipe(fds);
	setting->fd = fds[0];
	setting->others[0] = fds[1];
	if (!blocked)
		ck_assert_int_eq(write(fds[1], text, 4), 4);
}

static void open_writer(struct kt_setting *setting, bool blocked)
{
	int fds[2];

	kt_pipe(fds);
	setting->fd = fds[1];
	setting->others[0] = fds[0];
	if (blocked)
		fill(fds[1]);
}

static void open_receiver(struct kt_setting *setting, bool blocked)
{
	int fds[2];

	kt_socketpair(fds);
	setting->fd = fds[0];
	setting->others[0] = fds[1];
	if (!blocked)
		ck_assert_int_eq(write(fds[1], text, 4), 4);
}

static void open_sender(struct kt_setting *setting, bool blocked)
{
	int fds[2];

	kt_socketpair(fds);
	setting->fd = fds[1];
	setting->others[0] = fds[0];
	if (blocked)
		fill(fds[1]);
}

/* Some bytes and the end of the stream, so that the multishot comes to its end. */
static void open_multishot(struct kt_setting *setting, bool blocked)
{
	open_receiver(setting, blocked);
	if (!blocked)
		ck_assert_int_eq(shutdown(setting->others[0], SHUT_WR), 0);
	ck_assert_int_eq(kloop_pool_new(setting->loop, 4, 256, &setting->pool), 0);
}

static int connect_to(const struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(connect(fd, (const struct sockaddr *)address, sizeof(*address)), 0);
	return fd;
}

static int open_listener(struct kt_setting *setting, int backlog)
{
	uint16_t port;
	int fd = kt_listen(backlog, &port);

	setting->address.sin_family = AF_INET;
	setting->address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setting->address.sin_port = htons(port);
	return fd;
}

/* Blocked: the backlog is full, so the handshake gets no answer. */
static void open_connector(struct kt_setting *setting, bool blocked)
{
	setting->others[0] = open_listener(setting, blocked ? 0 : 5);
	if (blocked)
		setting->others[1] = connect_to(&setting->address);
	setting->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(setting->fd, 0);
}

static void open_acceptor(struct kt_setting *setting, bool blocked)
{
	setting->fd = open_listener(setting, 5);
	if (!blocked)
		setting->others[0] = connect_to(&setting->address);
}

/* ---- what ends the waiting -------------------------------------------- */

static void send_text(struct kt_setting *setting)
{
	ck_assert_int_eq(write(setting->others[0], text, 4), 4);
}

static void send_text_and_end(struct kt_setting *setting)
{
	send_text(setting);
	ck_assert_int_eq(shutdown(setting->others[0], SHUT_WR), 0);
}

static void drain(struct kt_setting *setting)
{
	char block[4096];
	int fd = setting->others[0];

	ck_assert_int_eq(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
	while (read(fd, block, sizeof(block)) > 0)
		;
	ck_assert_int_eq(errno, EAGAIN);
}

/* Room in the backlog; the kernel repeats its handshake within a second or two. */
static void take_one(struct kt_setting *setting)
{
	int fd = accept4(setting->others[0], NULL, NULL, SOCK_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	kt_close(fd);
}

static void knock(struct kt_setting *setting)
{
	setting->others[0] = connect_to(&setting->address);
}

void kt_setting_open(struct kt_setting *setting, const struct kt_kind *kind,
		     struct kloop_loop *loop, bool blocked)
{
	memset(setting, 0, sizeof(*setting));
	setting->loop = loop;
	setting->fd = setting->others[0] = setting->others[1] = -1;
	kind->open(setting, blocked);
	if (!blocked)
		memcpy(setting->buffer, text, sizeof(text));
	setting->vector[0] = (struct iovec){ setting->buffer, 2 };
	setting->vector[1] = (struct iovec){ setting->buffer + 2, 2 };
	setting->message.msg_iov = setting->vector;
	setting->message.msg_iovlen = 2;
}

void kt_setting_close(struct kt_setting *setting)
{
	kloop_pool_free(setting->pool);
	if (setting->fd >= 0)
		kt_close(setting->fd);
	for (size_t i = 0; i < KT_COUNT(setting->others); i++) {
		if (setting->others[i] >= 0)
			kt_close(setting->others[i]);
	}
}

/* ---- submissions ------------------------------------------------------ */

static int submit_nop(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_nop(setting->loop, op);
}

static int submit_poll(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_poll(setting->loop, op, setting->fd, POLLIN);
}

static int submit_read(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_read(setting->loop, op, setting->fd, setting->buffer, 64, UINT64_MAX);
}

static int submit_write(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_write(setting->loop, op, setting->fd, setting->buffer, 4, UINT64_MAX);
}

static int submit_writev(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_writev(setting->loop, op, setting->fd, setting->vector, 2);
}

static int submit_recv(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_recv(setting->loop, op, setting->fd, setting->buffer, 64, 0);
}

static int submit_send(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_send(setting->loop, op, setting->fd, setting->buffer, 4, 0);
}

static int submit_recvmsg(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_recvmsg(setting->loop, op, setting->fd, &setting->message, 0);
}

static int submit_sendmsg(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_sendmsg(setting->loop, op, setting->fd, &setting->message, 0);
}

static int submit_recv_multishot(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_recv_multishot(setting->loop, op, setting->fd, setting->pool);
}

static int submit_connect(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_connect(setting->loop, op, setting->fd,
				(struct sockaddr *)&setting->address, sizeof(setting->address));
}

static int submit_accept(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_accept(setting->loop, op, setting->fd, NULL, NULL, SOCK_CLOEXEC);
}

static int submit_accept_multishot(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_accept_multishot(setting->loop, op, setting->fd, SOCK_CLOEXEC);
}

static int submit_shutdown(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_shutdown(setting->loop, op, setting->fd, SHUT_WR);
}

/* An accepted close takes the descriptor away, so the setting forgets it. */
static int submit_close(struct kt_setting *setting, struct kloop_op *op)
{
	int r = kloop_op_close(setting->loop, op, setting->fd);

	if (r == 0)
		setting->fd = -1;
	return r;
}

static int submit_preadv(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_preadv(setting->loop, op, setting->fd, setting->vector, 2, UINT64_MAX);
}

static int submit_pwritev(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_pwritev(setting->loop, op, setting->fd, setting->vector, 2, UINT64_MAX);
}

static int submit_openat(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_openat(setting->loop, op, AT_FDCWD, "/dev/null", O_RDWR, 0);
}

static int submit_fsync(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_fsync(setting->loop, op, setting->fd, true);
}

static int submit_statx(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_statx(setting->loop, op, setting->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS,
			      &setting->status);
}

static int submit_ftruncate(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_ftruncate(setting->loop, op, setting->fd, 8192);
}

static int submit_fallocate(struct kt_setting *setting, struct kloop_op *op)
{
	return kloop_op_fallocate(setting->loop, op, setting->fd, 0, 4096, 4096);
}

const struct kt_kind kt_kinds[] = {
	{ "nop", open_nothing, submit_nop, NULL,
	  0, false, false, false },
	{ "poll", open_reader, submit_poll, send_text,
	  POLLIN, true, false, false },
	{ "read", open_reader, submit_read, send_text,
	  4, true, false, false },
	{ "write", open_writer, submit_write, drain,
	  4, true, false, false },
	{ "writev", open_writer, submit_writev, drain,
	  4, true, false, false },
	{ "recv", open_receiver, submit_recv, send_text,
	  4, true, false, false },
	{ "send", open_sender, submit_send, drain,
	  4, true, false, false },
	{ "recvmsg", open_receiver, submit_recvmsg, send_text,
	  4, true, false, false },
	{ "sendmsg", open_sender, submit_sendmsg, drain,
	  4, true, false, false },
	{ "recv_multishot", open_multishot, submit_recv_multishot, send_text_and_end,
	  0, true, false, false },
	{ "connect", open_connector, submit_connect, take_one,
	  0, true, false, false },
	{ "accept", open_acceptor, submit_accept, knock,
	  0, true, true, false },
	{ "accept_multishot", open_acceptor, submit_accept_multishot, knock,
	  0, true, true, true },
	{ "shutdown", open_sender, submit_shutdown, NULL,
	  0, true, false, false },
	{ "close", open_sender, submit_close, NULL,
	  0, true, false, false },
	{ "preadv", open_reader, submit_preadv, send_text,
	  4, true, false, false },
	{ "pwritev", open_writer, submit_pwritev, drain,
	  4, true, false, false },
	{ "openat", open_nothing, submit_openat, NULL,
	  0, false, true, false },
	{ "fsync", open_file, submit_fsync, NULL,
	  0, true, false, false },
	{ "statx", open_file, submit_statx, NULL,
	  0, true, false, false },
	{ "ftruncate", open_file, submit_ftruncate, NULL,
	  0, true, false, false },
	{ "fallocate", open_file, submit_fallocate, NULL,
	  0, true, false, false },
};
const int kt_kind_count = KT_COUNT(kt_kinds);
