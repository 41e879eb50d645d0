/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the linker puts in place of calls (-Wl,--wrap), where more than one file
 * of this folder does: __wrap_NAME() is called by the program, and
 * __real_NAME() is the function of that name. A program has one such file.
 */
#ifndef KT_WRAPPED_H
#define KT_WRAPPED_H

#include <liburing.h>
#include <stdarg.h>

int __real_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				      struct io_uring_params *params);
int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				      struct io_uring_params *params);

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);

int __real_io_uring_submit_and_get_events(struct io_uring *ring);
int __wrap_io_uring_submit_and_get_events(struct io_uring *ring);

int __real_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
					    unsigned count, struct __kernel_timespec *time,
					    sigset_t *mask);
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
					    unsigned count, struct __kernel_timespec *time,
					    sigset_t *mask);

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);

/* The real one, with what a wrapper of it was given; there are never more than six. */
static inline long kt_real_syscall(long number, va_list list)
{
	long args[6];

	for (int i = 0; i < 6; i++)
		args[i] = va_arg(list, long);
	return __real_syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
}

#endif
