/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the load generators share: their options, connections to the server on
 * loopback, the message, and the line that they print.
 */
#ifndef KL_BENCH_CLIENT_H
#define KL_BENCH_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define KL_BENCH_SETTLE_US 10000 /* the server comes to rest */
#define KL_BENCH_PIDS 16
#define KL_BENCH_CONNECTING_AT_ONCE 64 /* below every server's backlog */

struct kl_bench_load {
	unsigned mode; /* index of the name in what the parser was given */
	uint16_t port;
	unsigned connections;
	size_t bytes;
	double seconds;
	uint64_t messages; /* in sum; 0: as many as the seconds allow */
	unsigned warm_up;  /* messages per connection */
	pid_t pids[KL_BENCH_PIDS]; /* of the server's processes */
	unsigned pid_count;        /* 0: report no cost */
	int cpu;           /* -1: do not pin */
	unsigned timeout_s;
	const char *congestion;
};

/* Read the command line; modes are the names that --mode has. Dies with a usage text. */
void kl_bench_load_parse(int argc, char **argv, const char *const *modes, unsigned count,
			 struct kl_bench_load *ret_load);

/* Pin the process, limit its life, and allow it descriptors. Dies on failure. */
void kl_bench_load_begin(const struct kl_bench_load *load);

uint64_t kl_bench_now_ns(void);

/* The byte at an offset of every message. */
static inline unsigned char kl_bench_pattern(size_t offset)
{
	return (unsigned char)(offset * 31 + (offset >> 8) * 17);
}

/* Such bytes in memory that begins at a page. Dies on failure. */
unsigned char *kl_bench_pattern_new(size_t bytes);

/*
 * Begin to connect to the server; returns the socket, which does not block.
 *
 * The source address changes from one to the next, so that ports in TIME_WAIT
 * never run out. Dies on failure.
 */
int kl_bench_connect(const struct kl_bench_load *load);

/* Dies if a connection could not be made. */
void kl_bench_check_connected(int fd);

/* The congestion control of the connections so far. */
const char *kl_bench_congestion(void);

/* The processor time of the server so far; 0 if nobody asks for it. */
uint64_t kl_bench_server_cpu_ns(const struct kl_bench_load *load);

/* Print the result as a line of JSON; more: further members, each with ", " before it. */
void kl_bench_report(const char *unit, uint64_t count, uint64_t wall_ns, uint64_t spent_ns,
		     const char *more);

#endif
