/* SPDX-License-Identifier: MulanPSL-2.0 */
/* See client.h. */
#include "client.h"

#include "common.h"
#include "process.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS UINT64_C(1000000000)
#define SOURCES 64 /* source addresses 127.0.0.2 and on */

static const char *congestion_used = "unknown";

uint64_t kl_bench_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

unsigned char *kl_bench_pattern_new(size_t bytes)
{
	void *memory;

	if (posix_memalign(&memory, KL_BENCH_HOT_ALIGNMENT, bytes) != 0)
		kl_bench_die("out of memory");
	for (size_t i = 0; i < bytes; i++)
		((unsigned char *)memory)[i] = kl_bench_pattern(i);
	return memory;
}

int kl_bench_connect(const struct kl_bench_load *load)
{
	static unsigned opened; /* to choose the source address */
	struct sockaddr_in source = {.sin_family = AF_INET}, target = {.sin_family = AF_INET};
	int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + opened++ % SOURCES);
	target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	target.sin_port = htons(load->port);
	if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on)) < 0 ||
	    bind(fd, (struct sockaddr *)&source, sizeof(source)) < 0)
		kl_bench_die("socket: %s", strerror(errno));
	congestion_used = kl_bench_set_congestion(fd, load->congestion);
	if (connect(fd, (struct sockaddr *)&target, sizeof(target)) < 0 && errno != EINPROGRESS)
		kl_bench_die("connect: %s", strerror(errno));
	return fd;
}

void kl_bench_check_connected(int fd)
{
	socklen_t bytes = sizeof(int);
	int error = 0;

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
	if (error != 0)
		kl_bench_die("connect: %s", strerror(error));
}

const char *kl_bench_congestion(void)
{
	return congestion_used;
}

uint64_t kl_bench_server_cpu_ns(const struct kl_bench_load *load)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < load->pid_count; i++)
		sum += kl_bench_process_cpu_ns(load->pids[i]);
	return sum;
}

void kl_bench_report(const char *unit, uint64_t count, uint64_t wall_ns, uint64_t spent_ns,
		     const char *more)
{
	printf("{\"%s\": %" PRIu64 ", \"wall_ns\": %" PRIu64 ", \"cpu_ns\": %" PRIu64
	       ", \"congestion\": \"%s\"%s}\n",
	       unit, count, wall_ns, spent_ns, congestion_used, more);
}

static double parse_seconds(const char *text)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end != 0 || !(seconds > 0 && seconds <= 3600))
		kl_bench_die("--seconds: \"%s\" is not a number up to 3600", text);
	return seconds;
}

static unsigned parse_mode(const char *text, const char *const *modes, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		if (strcmp(modes[i], text) == 0)
			return i;
	}
	kl_bench_die("--mode: there is no \"%s\"", text);
}

static void usage(const char *const *modes, unsigned count)
{
	char names[100] = "";

	for (unsigned i = 0; i < count; i++) {
		strncat(names, i > 0 ? "|" : "", sizeof(names) - strlen(names) - 1);
		strncat(names, modes[i], sizeof(names) - strlen(names) - 1);
	}
	kl_bench_die("usage: --port N [--mode %s] [--connections N] [--bytes N] "
		     "[--seconds S | --messages N] [--warm-up N] [--pid N]... "
		     "[--cpu N] [--congestion NAME] [--timeout SECONDS]",
		     names);
}

static void add_pid(struct kl_bench_load *load, pid_t pid)
{
	if (load->pid_count == KL_BENCH_PIDS)
		kl_bench_die("--pid: more than %d", KL_BENCH_PIDS);
	load->pids[load->pid_count++] = pid;
}

void kl_bench_load_parse(int argc, char **argv, const char *const *modes, unsigned count,
			 struct kl_bench_load *ret_load)
{
	static const struct option names[] = {
		{"mode", required_argument, NULL, 'm'},
		{"port", required_argument, NULL, 'p'},
		{"connections", required_argument, NULL, 'c'},
		{"bytes", required_argument, NULL, 'b'},
		{"seconds", required_argument, NULL, 's'},
		{"messages", required_argument, NULL, 'n'},
		{"warm-up", required_argument, NULL, 'w'},
		{"pid", required_argument, NULL, 'i'},
		{"cpu", required_argument, NULL, 'u'},
		{"congestion", required_argument, NULL, 'g'},
		{"timeout", required_argument, NULL, 't'},
		{NULL, 0, NULL, 0},
	};
	struct kl_bench_load load = {
		.connections = 10,
		.bytes = 1024,
		.seconds = 1,
		.warm_up = 20,
		.cpu = -1,
		.timeout_s = 120,
		.congestion = "cubic",
	};
	int which, at = 0;

	while ((which = getopt_long(argc, argv, "", names, &at)) != -1) {
		const char *name = names[at].name;

		if (which == 'm')
			load.mode = parse_mode(optarg, modes, count);
		else if (which == 'p')
			load.port = (uint16_t)kl_bench_number(name, optarg, 1, 65535);
		else if (which == 'c')
			load.connections = (unsigned)kl_bench_number(name, optarg, 1, 1000000);
		else if (which == 'b')
			load.bytes = kl_bench_number(name, optarg, 1, 1 << 30);
		else if (which == 's')
			load.seconds = parse_seconds(optarg);
		else if (which == 'n')
			load.messages = kl_bench_number(name, optarg, 1, UINT32_MAX);
		else if (which == 'w')
			load.warm_up = (unsigned)kl_bench_number(name, optarg, 0, 1000000);
		else if (which == 'i')
			add_pid(&load, (pid_t)kl_bench_number(name, optarg, 1, INT32_MAX));
		else if (which == 'u')
			load.cpu = (int)kl_bench_number(name, optarg, 0, CPU_SETSIZE - 1);
		else if (which == 'g')
			load.congestion = optarg;
		else if (which == 't')
			load.timeout_s = (unsigned)kl_bench_number(name, optarg, 1, 86400);
		else
			exit(2);
	}
	if (load.port == 0 || optind != argc)
		usage(modes, count);
	*ret_load = load;
}

void kl_bench_load_begin(const struct kl_bench_load *load)
{
	if (load->cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(load->cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set) < 0)
			kl_bench_die("processor %d: %s", load->cpu, strerror(errno));
	}
	alarm(load->timeout_s); /* a server that hangs must not hang us */
	kl_bench_raise_descriptors();
}
