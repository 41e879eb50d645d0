/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The lookups of dns_lookup by getaddrinfo(3) in threads. It asks the servers of
 * /etc/resolv.conf: to be run in namespaces with one of its own, for example
 *
 *   unshare -Urnm sh -c 'ip link set lo up; echo nameserver 127.0.0.1 >/tmp/r
 *     mount --bind /tmp/r /etc/resolv.conf; benchmarks/dns_server --port 53 &
 *     sleep 1; benchmarks/dns_glibc --threads 100; kill %1'
 */
#include "common.h"

#include <getopt.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

static unsigned long count = 10000, threads = 100;
static atomic_ulong started, failed;
static uint32_t *latencies_us;

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void *work(void *unused)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	unsigned long number;

	while ((number = atomic_fetch_add(&started, 1)) < count) {
		uint64_t begin = now_us();
		struct addrinfo *found = NULL;
		char name[64];

		snprintf(name, sizeof(name), "host%lu.bench.example", number);
		if (getaddrinfo(name, NULL, &hints, &found) != 0 || !found->ai_next)
			failed++;
		if (found)
			freeaddrinfo(found);
		latencies_us[number] = (uint32_t)(now_us() - begin);
	}
	return unused;
}

static int by_size(const void *a, const void *b)
{
	const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static double to_us(const struct timeval *time)
{
	return (double)time->tv_sec * 1e6 + (double)time->tv_usec;
}

int main(int argc, char **argv)
{
	static const struct option names[] = { { "count", required_argument, NULL, 'n' },
					       { "threads", required_argument, NULL, 't' },
					       { NULL, 0, NULL, 0 } };
	struct rusage before, after;
	pthread_t *ids;
	double user, kernel, seconds;
	uint64_t begin;
	int which;

	while ((which = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (which == 'n')
			count = kl_bench_number("count", optarg, 1, 10000000);
		else if (which == 't')
			threads = kl_bench_number("threads", optarg, 1, 4096);
		else
			kl_bench_die("usage: [--count N] [--threads N]");
	}
	ids = calloc(threads, sizeof(*ids));
	latencies_us = calloc(count, sizeof(*latencies_us));
	if (!ids || !latencies_us)
		kl_bench_die("no memory");
	getrusage(RUSAGE_SELF, &before);
	begin = now_us();
	for (unsigned long i = 0; i < threads; i++) {
		if (pthread_create(&ids[i], NULL, work, NULL) != 0)
			kl_bench_die("no thread");
	}
	for (unsigned long i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	seconds = (double)(now_us() - begin) / 1e6;
	getrusage(RUSAGE_SELF, &after);
	qsort(latencies_us, count, sizeof(*latencies_us), by_size);
	user = (to_us(&after.ru_utime) - to_us(&before.ru_utime)) / (double)count;
	kernel = (to_us(&after.ru_stime) - to_us(&before.ru_stime)) / (double)count;
	printf("lookups %lu failed %lu rate %.0f/s cpu %.2f us user %.2f system %.2f p50 %.2f ms "
	       "p99 %.2f ms max %.2f ms\n",
	       count, (unsigned long)failed, (double)count / seconds, user + kernel, user, kernel,
	       latencies_us[count / 2] / 1e3, latencies_us[count * 99 / 100] / 1e3,
	       latencies_us[count - 1] / 1e3);
	return failed != 0;
}
