/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Descriptors, processes and threads for the test programs: see support.h. */
#include "support.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int kt_fd_count(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int count = -1; /* the directory's own */

	ck_assert_ptr_nonnull(directory);
	for (struct dirent *entry; (entry = readdir(directory));)
		count += entry->d_name[0] != '.';
	closedir(directory);
	return count;
}

void kt_pipe(int fds[2])
{
	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
}

void kt_socketpair(int fds[2])
{
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

int kt_listen(int backlog, uint16_t *ret_port)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, length), 0);
	ck_assert_int_eq(listen(fd, backlog), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	*ret_port = ntohs(address.sin_port);
	return fd;
}

int kt_full_listener(uint16_t *ret_port, int fillers[4])
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	int listener = kt_listen(0, ret_port);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons(*ret_port);
	for (int i = 0; i < 4; i++) {
		fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (connect(fillers[i], (struct sockaddr *)&address, sizeof(address)) < 0)
			ck_assert_int_eq(errno, EINPROGRESS);
	}
	return listener;
}

void kt_tcp_pair(int fds[2])
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	uint16_t port;
	int listener = kt_listen(1, &port);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons(port);
	fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(fds[1], 0);
	ck_assert_int_eq(connect(fds[1], (struct sockaddr *)&address, sizeof(address)), 0);
	fds[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(fds[0], 0);
	kt_close(listener);
}

void kt_close(int fd)
{
	ck_assert_int_eq(close(fd), 0);
}

bool kt_has_pidfd(void)
{
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	if (fd >= 0)
		close(fd);
	return fd >= 0 || errno != ENOSYS;
}

int kt_fork(int (*function)(void *data), void *data)
{
	uint64_t end = kloop_now() + KT_PATIENCE_MS * KT_MS;
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(function(data));
	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (kloop_now() > end) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			ck_abort_msg("a forked child did not end");
		}
		kt_sleep_ms(1);
	}
	return status;
}

void kt_fork_ok(int (*function)(void *data), void *data)
{
	int status = kt_fork(function, data);

	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0,
		      "the child ended with wait status 0x%x", (unsigned)status);
}

pthread_t kt_thread(void *(*function)(void *data), void *data)
{
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, function, data), 0);
	return thread;
}

void kt_join(pthread_t thread)
{
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

void kt_on_thread(void *(*function)(void *data), void *data)
{
	kt_join(kt_thread(function, data));
}
