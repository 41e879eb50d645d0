/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The rest of inject-calls.c: calls that tests/lib/fakektls.h replaces or makes
 * by itself, for programs that do without it.
 */
#include "inject-wrap.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

WRAP(int, -1, getsockopt, (int fd, int level, int option, void *value, socklen_t *length),
     (fd, level, option, value, length), ENOTSOCK, ENOPROTOOPT, ENOMEM)
WRAP(int, -1, fstat, (int fd, struct stat *status), (fd, status), EIO, ENOMEM)
WRAP(off_t, -1, lseek, (int fd, off_t offset, int whence), (fd, offset, whence), ESPIPE, EOVERFLOW)
WRAP(int, -1, poll, (struct pollfd *fds, nfds_t count, int timeout), (fds, count, timeout), EINTR,
     ENOMEM)
WRAP_BYTES(read, (int fd, void *buffer, size_t bytes), (fd, buffer, bytes), CUT, EAGAIN, EINTR,
	   ECONNRESET, ENOMEM, EIO)

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...)
{
	static const struct kt_inject_site site = { "fcntl", { EBADF, EPERM } };
	int error = kt_inject_look(&site);
	va_list list;
	long value;

	if (error != 0) {
		errno = error;
		return -1;
	}
	va_start(list, command);
	value = va_arg(list, long);
	va_end(list);
	return __real_fcntl(fd, command, value);
}

static const struct kt_inject_site recv_site = { "recv",
						 { CUT, EAGAIN, EINTR, ECONNRESET, ENOMEM } };
static const struct kt_inject_site recvmsg_site = { "recvmsg",
						    { EAGAIN, EINTR, ECONNRESET, ENOMEM } };
static const struct kt_inject_site send_site = {
	"send", { CUT, EAGAIN, EINTR, ECONNRESET, EPIPE, ENOBUFS, ENOMEM }
};
static const struct kt_inject_site sendmsg_site = {
	"sendmsg", { EAGAIN, EINTR, ECONNRESET, EPIPE, ENOBUFS, ENOMEM }
};
static const struct kt_inject_site setsockopt_site = { "setsockopt",
						       { ENOPROTOOPT, ENOMEM, EINVAL } };

/* Sets errno. Returns: whether the call is to fail. */
static bool fails(const struct kt_inject_site *site, size_t *bytes)
{
	int error = kt_inject_look(site);

	if (error == CUT && bytes && *bytes > 1)
		*bytes = 1;
	if (error > 0)
		errno = error;
	return error > 0;
}

ssize_t __real_recv(int fd, void *buffer, size_t bytes, int flags);
ssize_t __wrap_recv(int fd, void *buffer, size_t bytes, int flags);
ssize_t __wrap_recv(int fd, void *buffer, size_t bytes, int flags)
{
	return fails(&recv_site, &bytes) ? -1 : __real_recv(fd, buffer, bytes, flags);
}

ssize_t __real_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
	return fails(&recvmsg_site, NULL) ? -1 : __real_recvmsg(fd, message, flags);
}

ssize_t __real_send(int fd, const void *data, size_t bytes, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t bytes, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t bytes, int flags)
{
	return fails(&send_site, &bytes) ? -1 : __real_send(fd, data, bytes, flags);
}

ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	return fails(&sendmsg_site, NULL) ? -1 : __real_sendmsg(fd, message, flags);
}

int __real_setsockopt(int fd, int level, int option, const void *value, socklen_t length);
int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t length);
int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t length)
{
	if (fails(&setsockopt_site, NULL))
		return -1;
	return __real_setsockopt(fd, level, option, value, length);
}
