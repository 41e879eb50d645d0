/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * How many names a second: looks up distinct names (or one hot name), A and AAAA,
 * with so many at a time, and prints rate, processor time, latencies and memory.
 */
#include "common.h"

#include <getopt.h>
#include <kloop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

struct slot {
	struct kloop_lookup lookup;
	uint64_t start_ns;
};

static struct kloop_loop *loop;
static struct kloop_resolver *resolver;
static unsigned long count = 10000, concurrency = 100, started, finished, failed;
static bool hot;
static bool one_family;
static uint32_t *latencies_us;

static void start(struct slot *slot);

static void done(struct kloop_lookup *lookup, int result, struct kloop_addresses *addresses)
{
	struct slot *slot = (struct slot *)lookup;
	uint64_t taken_us = (kloop_now() - slot->start_ns) / 1000;

	if (result < 0 || (!one_family && addresses->count != 2))
		failed++;
	kloop_addresses_free(addresses);
	latencies_us[finished++] = taken_us > UINT32_MAX ? UINT32_MAX : (uint32_t)taken_us;
	if (started < count)
		start(slot);
}

static void start(struct slot *slot)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
					.ai_family = one_family ? AF_INET : AF_UNSPEC };
	char name[64];
	int result;

	snprintf(name, sizeof(name), "host%lu.bench.example", hot ? 0 : started);
	started++;
	slot->start_ns = kloop_now();
	result = kloop_resolver_getaddrinfo(resolver, &slot->lookup, name, NULL, &hints, done);
	if (result < 0)
		kl_bench_die("getaddrinfo: %s", kloop_strerror(result));
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

/* before: of this process; the time since then is what the lookups took. */
static void report(double seconds, const struct rusage *before)
{
	struct kloop_resolver_stats stats;
	struct rusage usage;
	double user, kernel;

	qsort(latencies_us, finished, sizeof(*latencies_us), by_size);
	if (kloop_resolver_get_stats(resolver, &stats, sizeof(stats)) < 0)
		memset(&stats, 0, sizeof(stats));
	getrusage(RUSAGE_SELF, &usage);
	user = (to_us(&usage.ru_utime) - to_us(&before->ru_utime)) / (double)finished;
	kernel = (to_us(&usage.ru_stime) - to_us(&before->ru_stime)) / (double)finished;
	printf("lookups %lu failed %lu rate %.0f/s cpu %.2f us user %.2f system %.2f p50 %.2f ms p99 %.2f ms max %.2f ms "
	       "rss %ld KiB packets %llu retries %llu hits %llu\n",
	       finished, failed, (double)finished / seconds, user + kernel, user, kernel,
	       latencies_us[finished / 2] / 1e3, latencies_us[finished * 99 / 100] / 1e3,
	       latencies_us[finished - 1] / 1e3, usage.ru_maxrss,
	       (unsigned long long)stats.packets_sent, (unsigned long long)stats.retries,
	       (unsigned long long)stats.cache_hits);
}

static void add_server(struct kloop_resolver_options *options, const char *port)
{
	struct kloop_address address;

	if (kloop_address_parse("127.0.0.1", (uint16_t)kl_bench_number("server", port, 1, 65535),
				&address) < 0 ||
	    kloop_resolver_options_add_server(options, &address, KLOOP_DNS_UDP) < 0)
		kl_bench_die("--server %s is refused", port);
}

static void parse(int argc, char **argv, struct kloop_resolver_options *options)
{
	static const struct option names[] = {
		{ "server", required_argument, NULL, 's' },
		{ "count", required_argument, NULL, 'n' },
		{ "concurrency", required_argument, NULL, 'c' },
		{ "hot", no_argument, NULL, 'h' },
		{ "ipv4", no_argument, NULL, '4' },
		{ NULL, 0, NULL, 0 },
	};
	int which;

	while ((which = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (which == 's')
			add_server(options, optarg);
		else if (which == 'n')
			count = kl_bench_number("count", optarg, 1, 10000000);
		else if (which == 'c')
			concurrency = kl_bench_number("concurrency", optarg, 1, 65536);
		else if (which == 'h')
			hot = true;
		else if (which == '4')
			one_family = true;
		else
			kl_bench_die("usage: --server PORT... [--count N] [--concurrency N] "
				     "[--hot] [--ipv4]");
	}
}

int main(int argc, char **argv)
{
	struct kloop_resolver_options *options;
	struct rusage before;
	struct slot *slots;
	uint64_t begin;

	if (kloop_resolver_options_new(&options) < 0)
		kl_bench_die("no memory");
	parse(argc, argv, options);
	slots = calloc(concurrency, sizeof(*slots));
	latencies_us = calloc(count, sizeof(*latencies_us));
	if (!slots || !latencies_us || kloop_loop_new(NULL, &loop) < 0 ||
	    kloop_resolver_new(loop, options, &resolver) < 0)
		kl_bench_die("no loop");
	kl_bench_raise_descriptors();
	getrusage(RUSAGE_SELF, &before);
	begin = kloop_now();
	for (unsigned long i = 0; i < concurrency && i < count; i++) {
		kloop_lookup_init(&slots[i].lookup);
		start(&slots[i]);
	}
	while (finished < count) {
		int result = kloop_loop_turn(loop, KLOOP_FOREVER);

		if (result < 0)
			kl_bench_die("turn: %s", kloop_strerror(result));
	}
	report((double)(kloop_now() - begin) / 1e9, &before);
	kloop_resolver_close(resolver);
	kloop_loop_free(loop);
	kloop_resolver_options_free(options);
	free(slots);
	free(latencies_us);
	return failed != 0;
}
