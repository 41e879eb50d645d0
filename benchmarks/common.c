/* SPDX-License-Identifier: MulanPSL-2.0 */
/* See common.h. */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONGESTION_BYTES 16 /* TCP_CA_NAME_MAX of the kernel */

void kl_bench_die(const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

const char *kl_bench_set_congestion(int fd, const char *wanted)
{
	static char name[CONGESTION_BYTES + 1];
	const char *candidates[] = {wanted, "cubic", "reno"};
	socklen_t bytes = CONGESTION_BYTES;

	for (size_t i = 0; i < sizeof(candidates) / sizeof(candidates[0]); i++) {
		if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, candidates[i],
			       (socklen_t)strlen(candidates[i])) == 0)
			break;
	}
	memset(name, 0, sizeof(name));
	if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &bytes) < 0)
		return "unknown";
	return name;
}

void kl_bench_raise_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
			fprintf(stderr, "setrlimit: %s\n", strerror(errno));
	}
}

unsigned long kl_bench_number(const char *option, const char *text, unsigned long minimum,
			      unsigned long maximum)
{
	char *end;
	unsigned long value;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno != 0 || end == text || *end != 0 || *text == '-' || value < minimum ||
	    value > maximum)
		kl_bench_die("--%s: \"%s\" is not a number from %lu to %lu", option, text, minimum,
			     maximum);
	return value;
}

static void usage(void)
{
	kl_bench_die("usage: [--port N] [--congestion NAME] [--lifetime SECONDS] [--sqpoll] "
		     "[--sqpoll-cpu N] [--stats] [--certificate FILE --key FILE]");
}

void kl_bench_parse(int argc, char **argv, struct kl_bench_options *ret_options)
{
	static const struct option names[] = {
		{"port", required_argument, NULL, 'p'},
		{"congestion", required_argument, NULL, 'c'},
		{"lifetime", required_argument, NULL, 'l'},
		{"sqpoll", no_argument, NULL, 's'},
		{"sqpoll-cpu", required_argument, NULL, 'u'},
		{"stats", no_argument, NULL, 't'},
		{"certificate", required_argument, NULL, 'e'},
		{"key", required_argument, NULL, 'k'},
		{NULL, 0, NULL, 0},
	};
	struct kl_bench_options options = {
		.congestion = "cubic",
		.lifetime_s = 3600,
		.sqpoll_cpu = -1,
	};
	int which;

	while ((which = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (which) {
		case 'p':
			options.port = (uint16_t)kl_bench_number("port", optarg, 0, 65535);
			break;
		case 'c':
			options.congestion = optarg;
			break;
		case 'l':
			options.lifetime_s =
				(unsigned)kl_bench_number("lifetime", optarg, 0, 1000000);
			break;
		case 's':
			options.sqpoll = true;
			break;
		case 'u':
			options.sqpoll_cpu = (int)kl_bench_number("sqpoll-cpu", optarg, 0, 4096);
			break;
		case 't':
			options.stats = true;
			break;
		case 'e':
			options.certificate = optarg;
			break;
		case 'k':
			options.key = optarg;
			break;
		default:
			usage();
		}
	}
	if (optind != argc || (options.certificate == NULL) != (options.key == NULL))
		usage();
	*ret_options = options;
}

int kl_bench_listen_quiet(const struct kl_bench_options *options)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(options->port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, SOMAXCONN) < 0)
		kl_bench_die("cannot listen on port %u: %s", options->port, strerror(errno));
	kl_bench_set_congestion(fd, options->congestion);
	return fd;
}

int kl_bench_listen(const struct kl_bench_options *options)
{
	struct sockaddr_in address;
	socklen_t bytes = sizeof(address);
	int fd;

	kl_bench_raise_descriptors();
	fd = kl_bench_listen_quiet(options);
	if (getsockname(fd, (struct sockaddr *)&address, &bytes) < 0)
		kl_bench_die("getsockname: %s", strerror(errno));
	alarm(options->lifetime_s);
	printf("ready %u %s\n", ntohs(address.sin_port),
	       kl_bench_set_congestion(fd, options->congestion));
	fflush(stdout);
	return fd;
}
