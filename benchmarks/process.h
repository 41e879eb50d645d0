/* SPDX-License-Identifier: MulanPSL-2.0 */
/* What /proc tells about the server under load. */
#ifndef KL_BENCH_PROCESS_H
#define KL_BENCH_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

/*
 * The processor time of all threads of a process in nanoseconds, the kernel
 * thread of SQPOLL (iou-sqp-*) among them: the sum over
 * /proc/PID/task/TID/schedstat, or the process's clock where the kernel keeps
 * no schedstat. A thread that ended takes its time with it. Dies if the
 * process is gone.
 */
uint64_t kl_bench_process_cpu_ns(pid_t pid);

/* The resident memory of a process in bytes. Dies if the process is gone. */
uint64_t kl_bench_process_rss_bytes(pid_t pid);

#endif
