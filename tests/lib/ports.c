/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Ports of one's own: see ports.h. */
#include "ports.h"

#include "support.h"

#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* The same in python/tests/port_tools.py: both take from one stock. */
enum { LOWEST = 1024, FIRST = 10000, LAST = 65535, ENOUGH = 2048, BLOCK = 32 };
#define LOCK_NAME "kloop-test-ports-%d"

static pid_t owner;
static int next_port, end_port; /* of the block that is being given out */

/*
 * Where the kernel takes no port for those who ask for any: [*ret_first, *ret_end).
 * It is all that there is where it takes them nearly everywhere.
 */
static void find_range(int *ret_first, int *ret_end)
{
	int low = 32768, high = 60999;
	FILE *file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");

	if (file) {
		if (fscanf(file, "%d %d", &low, &high) != 2)
			low = 32768;
		fclose(file);
	}
	*ret_first = FIRST;
	*ret_end = LAST + 1;
	if (low - FIRST >= ENOUGH) {
		*ret_end = low;
	} else if (LAST - high >= ENOUGH) {
		*ret_first = high + 1;
	} else if (low - LOWEST >= ENOUGH) {
		*ret_first = LOWEST;
		*ret_end = low;
	}
}

/* Whether no other process has taken the block from this port on; if so, it is this one's until it ends. */
static bool take_block(int port)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int bytes;

	ck_assert_int_ge(fd, 0);
	bytes = snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, LOCK_NAME, port);
	/* Such names are of a network namespace, as the ports are, and go with the process. */
	if (bind(fd, (struct sockaddr *)&name,
		 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)bytes)) == 0)
		return true;
	ck_assert_int_eq(errno, EADDRINUSE);
	kt_close(fd);
	return false;
}

static void find_block(void)
{
	int first, end, blocks, start;

	find_range(&first, &end);
	blocks = (end - first) / BLOCK;
	start = (int)((uint32_t)getpid() * UINT32_C(2654435761) % (uint32_t)blocks);
	for (int i = 0; i < blocks; i++) {
		int port = first + (start + i) % blocks * BLOCK;

		if (!take_block(port))
			continue;
		owner = getpid();
		next_port = port;
		end_port = port + BLOCK;
		return;
	}
	ck_abort_msg("the test processes of this machine have taken all %d blocks of ports", blocks);
}

/* Whether one can bind it; a family that the machine lacks is as free as can be. */
static bool is_free(int family, int type, int port)
{
	union {
		struct sockaddr any;
		struct sockaddr_in ip4;
		struct sockaddr_in6 ip6;
	} address = { .any.sa_family = (sa_family_t)family };
	socklen_t length = family == AF_INET ? sizeof(address.ip4) : sizeof(address.ip6);
	int fd = socket(family, type | SOCK_CLOEXEC, 0);
	bool free;

	if (fd < 0)
		return true;
	if (family == AF_INET) {
		address.ip4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		address.ip4.sin_port = htons((uint16_t)port);
	} else {
		address.ip6.sin6_addr = in6addr_loopback;
		address.ip6.sin6_port = htons((uint16_t)port);
	}
	free = bind(fd, &address.any, length) == 0 || errno == EADDRNOTAVAIL;
	kt_close(fd);
	return free;
}

uint16_t kt_free_port(void)
{
	for (;;) {
		int port;

		/* What a forked child is given would be given by its parent as well. */
		if (owner != getpid() || next_port == end_port)
			find_block();
		port = next_port++;
		if (is_free(AF_INET, SOCK_STREAM, port) && is_free(AF_INET, SOCK_DGRAM, port) &&
		    is_free(AF_INET6, SOCK_STREAM, port) && is_free(AF_INET6, SOCK_DGRAM, port))
			return (uint16_t)port;
	}
}

void kt_free_address(const char *host, struct kloop_address *ret_address)
{
	ck_assert_int_eq(kloop_address_parse(host, kt_free_port(), ret_address), 0);
}
