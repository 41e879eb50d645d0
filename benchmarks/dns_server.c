/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A name server for measurements: over UDP it answers every question for A and
 * AAAA with one address, made of the name, after a fixed delay, and loses a part
 * of the questions if told to.
 */
#include "common.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define QUEUE 65536 /* answers that wait for their time; a power of two */
#define BYTES 512

struct answer {
	uint64_t due_ns;
	struct sockaddr_in to;
	uint16_t bytes;
	uint8_t wire[BYTES];
};

static struct answer *queue;
static unsigned head, tail; /* taken at head, put at tail */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Turn a question into its answer; the new length, or 0. */
static size_t make_answer(uint8_t *wire, size_t bytes)
{
	size_t at = 12, size;
	uint32_t hash = 2166136261u;
	unsigned type;

	while (at < bytes && wire[at] != 0) {
		for (size_t end = at + 1u + wire[at]; at < end && at < bytes; at++)
			hash = (hash ^ (wire[at] | 0x20)) * 16777619u;
	}
	if (at + 5 > bytes || at + 5 + 28 > BYTES)
		return 0;
	type = (unsigned)wire[at + 1] << 8 | wire[at + 2];
	at += 5;
	wire[2] |= 0x80;
	wire[3] = 0x80;
	memset(wire + 6, 0, 6);
	if (type != 1 && type != 28)
		return at;
	size = type == 1 ? 4 : 16;
	wire[7] = 1;
	memcpy(wire + at, "\xc0\x0c\0\0\0\1\0\0\x0e\x10\0", 11);
	wire[at + 3] = (uint8_t)type;
	wire[at + 11] = (uint8_t)size;
	at += 12;
	memset(wire + at, 0, size);
	memcpy(wire + at, type == 1 ? "\x0a" : "\x20\1\x0d\xb8", type == 1 ? 1 : 4);
	wire[at + size - 3] = (uint8_t)(hash >> 16);
	wire[at + size - 2] = (uint8_t)(hash >> 8);
	wire[at + size - 1] = (uint8_t)hash;
	return at + size;
}

static void flush(int fd, uint64_t now)
{
	while (head != tail && queue[head % QUEUE].due_ns <= now) {
		struct answer *answer = &queue[head++ % QUEUE];

		(void)sendto(fd, answer->wire, answer->bytes, MSG_DONTWAIT,
			     (struct sockaddr *)&answer->to, sizeof(answer->to));
	}
}

static void take(int fd, uint64_t delay_ns, unsigned loss_permille)
{
	static uint8_t buffers[BATCH][BYTES];
	static struct sockaddr_in from[BATCH];
	struct mmsghdr messages[BATCH];
	struct iovec vectors[BATCH];
	int count;

	memset(messages, 0, sizeof(messages));
	for (int i = 0; i < BATCH; i++) {
		vectors[i] = (struct iovec){ buffers[i], BYTES };
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
		messages[i].msg_hdr.msg_name = &from[i];
		messages[i].msg_hdr.msg_namelen = sizeof(from[i]);
	}
	count = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
	for (int i = 0; i < count; i++) {
		size_t bytes = make_answer(buffers[i], messages[i].msg_len);
		struct answer *answer;

		if (bytes == 0 || (unsigned)rand() % 1000 < loss_permille)
			continue;
		if (delay_ns == 0) {
			(void)sendto(fd, buffers[i], bytes, MSG_DONTWAIT,
				     (struct sockaddr *)&from[i], sizeof(from[i]));
			continue;
		}
		if (tail - head == QUEUE)
			continue;
		answer = &queue[tail++ % QUEUE];
		answer->due_ns = now_ns() + delay_ns;
		answer->to = from[i];
		answer->bytes = (uint16_t)bytes;
		memcpy(answer->wire, buffers[i], bytes);
	}
}

int main(int argc, char **argv)
{
	static const struct option names[] = {
		{ "port", required_argument, NULL, 'p' },
		{ "delay-us", required_argument, NULL, 'd' },
		{ "loss-permille", required_argument, NULL, 'l' },
		{ "lifetime", required_argument, NULL, 't' },
		{ NULL, 0, NULL, 0 },
	};
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof(address);
	unsigned long port = 0, delay_us = 0, loss = 0, lifetime = 3600;
	int fd, which, size = 8 << 20;

	while ((which = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (which == 'p')
			port = kl_bench_number("port", optarg, 0, 65535);
		else if (which == 'd')
			delay_us = kl_bench_number("delay-us", optarg, 0, 10000000);
		else if (which == 'l')
			loss = kl_bench_number("loss-permille", optarg, 0, 1000);
		else if (which == 't')
			lifetime = kl_bench_number("lifetime", optarg, 1, 1000000);
		else
			kl_bench_die("usage: [--port N] [--delay-us N] [--loss-permille N] "
				     "[--lifetime SECONDS]");
	}
	alarm((unsigned)lifetime);
	queue = calloc(QUEUE, sizeof(*queue));
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons((uint16_t)port);
	if (!queue || fd < 0 || bind(fd, (struct sockaddr *)&address, length) < 0 ||
	    getsockname(fd, (struct sockaddr *)&address, &length) < 0)
		kl_bench_die("no socket at port %lu", port);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	printf("port %u\n", ntohs(address.sin_port));
	fflush(stdout);
	for (;;) {
		struct pollfd wait = { .fd = fd, .events = POLLIN };
		struct timespec time = { 1, 0 };
		uint64_t now = now_ns();

		flush(fd, now);
		if (head != tail) {
			uint64_t left = queue[head % QUEUE].due_ns > now ?
						queue[head % QUEUE].due_ns - now :
						0;

			time = (struct timespec){ (time_t)(left / 1000000000),
						  (long)(left % 1000000000) };
		}
		if (ppoll(&wait, 1, &time, NULL) > 0)
			take(fd, delay_us * 1000, (unsigned)loss);
	}
}
