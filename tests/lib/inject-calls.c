/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The calls that inject.h can make fail: functions that the linker puts before
 * libc's and liburing's. Each has the errors that its manual page promises and
 * that a program has to live with. CUT: one byte is moved.
 */
#include "inject-wrap.h"
#include "wrapped.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- descriptors ------------------------------------------------------ */

WRAP(int, -1, socket, (int family, int type, int protocol), (family, type, protocol), EMFILE, ENFILE,
     ENOBUFS, ENOMEM, EACCES, EAFNOSUPPORT)
WRAP(int, -1, bind, (int fd, const struct sockaddr *address, socklen_t length),
     (fd, address, length), EADDRINUSE, EACCES, ENOMEM)
WRAP(int, -1, listen, (int fd, int backlog), (fd, backlog), EADDRINUSE, EOPNOTSUPP)
WRAP(int, -1, connect, (int fd, const struct sockaddr *address, socklen_t length),
     (fd, address, length), ECONNREFUSED, ENETUNREACH, EADDRNOTAVAIL, EAGAIN, EINTR)
WRAP(int, -1, getsockname, (int fd, struct sockaddr *address, socklen_t *length),
     (fd, address, length), ENOBUFS, ENOTSOCK)
WRAP(int, -1, shutdown, (int fd, int how), (fd, how), ENOTCONN)
WRAP(int, -1, pipe2, (int fds[2], int flags), (fds, flags), EMFILE, ENFILE)
WRAP(int, -1, eventfd, (unsigned value, int flags), (value, flags), EMFILE, ENFILE, ENOMEM)
WRAP(int, -1, stat, (const char *path, struct stat *status), (path, status), ENOENT, EACCES, ENOMEM)
WRAP(int, -1, ftruncate, (int fd, off_t bytes), (fd, bytes), EINTR, EIO, EFBIG)
WRAP(int, -1, mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode), ENOSPC, EACCES)
WRAP(void *, MAP_FAILED, mmap,
     (void *address, size_t bytes, int protection, int flags, int fd, off_t offset),
     (address, bytes, protection, flags, fd, offset), ENOMEM, EAGAIN)
WRAP(int, -1, sigaction, (int number, const struct sigaction *action, struct sigaction *former),
     (number, action, former), EINVAL)
WRAP(int, -1, waitid, (idtype_t type, id_t id, siginfo_t *info, int options),
     (type, id, info, options), ECHILD, EINTR)
WRAP(ssize_t, -1, getrandom, (void *buffer, size_t bytes, unsigned flags), (buffer, bytes, flags),
     EINTR, EAGAIN, ENOSYS)
WRAP(int, -1, access, (const char *path, int mode), (path, mode), EACCES, ENOENT)

/* Whatever close(2) says, the descriptor is gone. */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
	static const struct kt_inject_site site = { "close", { EINTR, EIO } };
	int error = kt_inject_look(&site);
	int ret = __real_close(fd);

	if (error == 0)
		return ret;
	errno = error;
	return -1;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	static const struct kt_inject_site site = { "open", { ENOENT, EMFILE, EACCES, ENOMEM } };
	int error = kt_inject_look(&site);
	va_list list;
	mode_t mode;

	if (error != 0) {
		errno = error;
		return -1;
	}
	va_start(list, flags);
	mode = va_arg(list, mode_t);
	va_end(list);
	return __real_open(path, flags, mode);
}

long __wrap_syscall(long number, ...)
{
	static const struct kt_inject_site site = { "syscall", { EMFILE, ENOMEM, ENOSYS } };
	int error = kt_inject_look(&site);
	va_list list;
	long result;

	if (error != 0) {
		errno = error;
		return -1;
	}
	va_start(list, number);
	result = kt_real_syscall(number, list);
	va_end(list);
	return result;
}

/* ---- bytes ------------------------------------------------------------ */

WRAP_BYTES(sendto,
	   (int fd, const void *data, size_t bytes, int flags, const struct sockaddr *address,
	    socklen_t length),
	   (fd, data, bytes, flags, address, length), EAGAIN, EINTR, ECONNREFUSED, ENOBUFS, ENOMEM)
WRAP_BYTES(write, (int fd, const void *data, size_t bytes), (fd, data, bytes), CUT, EAGAIN, EINTR,
	   EPIPE, ENOMEM, EIO)

/* One message of many is what is short here. */
int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
	static const struct kt_inject_site site = {
		"sendmmsg", { CUT, EAGAIN, EINTR, ECONNREFUSED, ENOBUFS, ENOMEM, EPERM }
	};
	int error = kt_inject_look(&site);

	if (error == CUT)
		count = 1;
	if (error <= 0)
		return __real_sendmmsg(fd, messages, count, flags);
	errno = error;
	return -1;
}

/* ---- the ring --------------------------------------------------------- */

WRAP_RING(io_uring_queue_init_params,
	  (unsigned entries, struct io_uring *ring, struct io_uring_params *params),
	  (entries, ring, params), ENOMEM, EMFILE, EPERM, ENOSYS, EINVAL)
WRAP_RING(io_uring_register, (unsigned fd, unsigned opcode, const void *arg, unsigned count),
	  (fd, opcode, arg, count), ENOMEM, EINVAL)
WRAP_RING(io_uring_register_ring_fd, (struct io_uring *ring), (ring), ENOMEM, EINVAL)
WRAP_RING(io_uring_register_buf_ring,
	  (struct io_uring *ring, struct io_uring_buf_reg *reg, unsigned flags),
	  (ring, reg, flags), ENOMEM, EINVAL)
WRAP(struct io_uring_probe *, NULL, io_uring_get_probe_ring, (struct io_uring *ring), (ring),
     ENOMEM)
