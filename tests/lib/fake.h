/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A kernel that misbehaves on request, between the library and liburing.
 *
 * A program that uses it is linked with
 *   -Wl,--wrap=io_uring_queue_init_params -Wl,--wrap=io_uring_register
 *   -Wl,--wrap=io_uring_register_ring_fd -Wl,--wrap=io_uring_get_probe_ring
 *   -Wl,--wrap=io_uring_register_buf_ring -Wl,--wrap=io_uring_submit
 *   -Wl,--wrap=io_uring_submit_and_get_events
 *   -Wl,--wrap=io_uring_submit_and_wait_timeout
 *   -Wl,--wrap=eventfd -Wl,--wrap=syscall
 * While nothing is set below, each call goes to the real function.
 */
#ifndef KT_FAKE_H
#define KT_FAKE_H

#include <stdbool.h>

struct kt_fake {
	/* Set-up: flags that this kernel does not know (-EINVAL), or one answer to all. */
	unsigned refused_flags;
	int setup_error;
	unsigned withheld_features; /* IORING_FEAT_* that it does not announce */
	int setup_calls;
	unsigned tried_flags[16]; /* of each call */

	int register_error; /* io_uring_register() */
	bool no_registered_ring;
	bool no_probe;
	int buffer_ring_error;

	/* Submission: the next submit_failures calls answer submit_error; -1: all. */
	int submit_error;
	int submit_failures;
	int submit_calls;

	int eventfd_error;
	int eventfd_calls;
	int pidfd_error;
};

extern struct kt_fake kt_fake;

/* The real kernel again, and all counts 0. */
void kt_fake_reset(void);

#endif
