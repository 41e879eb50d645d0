/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the echo servers and the load generator share: options of a server, its
 * listening socket, congestion control, and a way to die.
 *
 * A server prints one line, "ready PORT CONGESTION", when connections can
 * come, and serves until a signal ends it.
 */
#ifndef KL_BENCH_COMMON_H
#define KL_BENCH_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Reads of large messages go into one buffer of this size, hot in the cache. It
 * begins at a page: on some processors the kernel's copy takes 2.5 times as
 * long to where malloc() puts large blocks, 16 bytes into one.
 */
#define KL_BENCH_HOT_BYTES (256 * 1024)
#define KL_BENCH_HOT_ALIGNMENT 4096

/* What every server understands; only echo_kloop does anything with SQPOLL, and few with TLS. */
struct kl_bench_options {
	uint16_t port;          /* 0: any */
	const char *congestion; /* the wanted congestion control */
	unsigned lifetime_s;    /* SIGALRM ends the server then; 0: never */
	bool sqpoll;
	int sqpoll_cpu; /* -1: not pinned */
	bool stats;     /* print counters at the end */
	/* PEM files; NULL: no TLS */
	const char *certificate;
	const char *key;
};

/* Print "program: text" and exit with status 1. */
void kl_bench_die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/*
 * Pin the congestion control of a socket; those accepted from it inherit it.
 *
 * The wanted one is tried first, then cubic, then reno. Returns the name of
 * the one in force, in static memory.
 */
const char *kl_bench_set_congestion(int fd, const char *wanted);

/* Allow as many descriptors as the hard limit does. */
void kl_bench_raise_descriptors(void);

/* Read a decimal number of an option; dies if it is none or out of range. */
unsigned long kl_bench_number(const char *option, const char *text, unsigned long minimum,
			      unsigned long maximum);

/* Read the command line of a server; dies with a usage text. */
void kl_bench_parse(int argc, char **argv, struct kl_bench_options *ret_options);

/* Listen on the loopback address, non-blocking, and say so on stdout. Dies on failure. */
int kl_bench_listen(const struct kl_bench_options *options);

/* The same without a word, and without limits on the process. */
int kl_bench_listen_quiet(const struct kl_bench_options *options);

#endif
