/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The misbehaving kernel of fake.h: functions that the linker puts before the real ones. */
#include "fake.h"

#include "wrapped.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

struct kt_fake kt_fake;

void kt_fake_reset(void)
{
	memset(&kt_fake, 0, sizeof(kt_fake));
}

int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				      struct io_uring_params *params)
{
	int ret;

	if (kt_fake.setup_calls < 16)
		kt_fake.tried_flags[kt_fake.setup_calls] = params->flags;
	kt_fake.setup_calls++;
	if (kt_fake.setup_error)
		return kt_fake.setup_error;
	if (params->flags & kt_fake.refused_flags)
		return -EINVAL;
	ret = __real_io_uring_queue_init_params(entries, ring, params);
	params->features &= ~kt_fake.withheld_features;
	return ret;
}

int __real_io_uring_register(unsigned fd, unsigned opcode, const void *arg, unsigned count);
int __wrap_io_uring_register(unsigned fd, unsigned opcode, const void *arg, unsigned count);
int __wrap_io_uring_register(unsigned fd, unsigned opcode, const void *arg, unsigned count)
{
	if (kt_fake.register_error)
		return kt_fake.register_error;
	return __real_io_uring_register(fd, opcode, arg, count);
}

int __real_io_uring_register_ring_fd(struct io_uring *ring);
int __wrap_io_uring_register_ring_fd(struct io_uring *ring);
int __wrap_io_uring_register_ring_fd(struct io_uring *ring)
{
	return kt_fake.no_registered_ring ? -EINVAL : __real_io_uring_register_ring_fd(ring);
}

struct io_uring_probe *__real_io_uring_get_probe_ring(struct io_uring *ring);
struct io_uring_probe *__wrap_io_uring_get_probe_ring(struct io_uring *ring);
struct io_uring_probe *__wrap_io_uring_get_probe_ring(struct io_uring *ring)
{
	return kt_fake.no_probe ? NULL : __real_io_uring_get_probe_ring(ring);
}

int __real_io_uring_register_buf_ring(struct io_uring *ring, struct io_uring_buf_reg *reg,
				      unsigned flags);
int __wrap_io_uring_register_buf_ring(struct io_uring *ring, struct io_uring_buf_reg *reg,
				      unsigned flags);
int __wrap_io_uring_register_buf_ring(struct io_uring *ring, struct io_uring_buf_reg *reg,
				      unsigned flags)
{
	if (kt_fake.buffer_ring_error)
		return kt_fake.buffer_ring_error;
	return __real_io_uring_register_buf_ring(ring, reg, flags);
}

/* Must this submission fail? */
static bool submit_fails(void)
{
	kt_fake.submit_calls++;
	if (kt_fake.submit_failures > 0)
		kt_fake.submit_failures--;
	else if (kt_fake.submit_failures == 0)
		return false;
	return true;
}

int __wrap_io_uring_submit(struct io_uring *ring)
{
	return submit_fails() ? kt_fake.submit_error : __real_io_uring_submit(ring);
}

int __wrap_io_uring_submit_and_get_events(struct io_uring *ring)
{
	return submit_fails() ? kt_fake.submit_error : __real_io_uring_submit_and_get_events(ring);
}

int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
					    unsigned count, struct __kernel_timespec *time,
					    sigset_t *mask)
{
	if (submit_fails())
		return kt_fake.submit_error;
	return __real_io_uring_submit_and_wait_timeout(ring, cqe, count, time, mask);
}

int __real_eventfd(unsigned value, int flags);
int __wrap_eventfd(unsigned value, int flags);
int __wrap_eventfd(unsigned value, int flags)
{
	kt_fake.eventfd_calls++;
	if (kt_fake.eventfd_error) {
		errno = -kt_fake.eventfd_error;
		return -1;
	}
	return __real_eventfd(value, flags);
}

long __wrap_syscall(long number, ...)
{
	va_list list;
	long result;

	if (number == SYS_pidfd_open && kt_fake.pidfd_error) {
		errno = -kt_fake.pidfd_error;
		return -1;
	}
	va_start(list, number);
	result = kt_real_syscall(number, list);
	va_end(list);
	return result;
}
