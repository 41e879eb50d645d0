/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The order of addresses (RFC 6724), as getaddrinfo(3) of glibc has it. Sources
 * are found by connecting a UDP socket, which sends nothing and never waits;
 * addresses that the kernel cannot tell apart share one.
 */
#ifndef KL_DNS_ORDER_H
#define KL_DNS_ORDER_H

#include "config.h"
#include "sources.h"

/* Addresses of which the source is looked for; behind them all count the same. */
#define KL_SOURCES_MAX 64
#define KL_INTERFACES_MAX 512

/* An address of this machine. */
struct kl_local {
	uint8_t address[16]; /* IPv4 as mapped */
	uint8_t prefix;
	uint8_t family;
	bool deprecated;
	bool temporary;
	uint32_t index;
};

/* What is known of this machine's addresses. */
struct kl_routes {
	int monitor;   /* netlink: tells that something changed; -1 */
	int probes[2]; /* sockets to look for sources with, IPv4 and IPv6; -1 */
	bool opened;
	bool valid;
	uint64_t looked_ns; /* for changes */
	bool has4; /* an address other than loopback */
	bool has6;
	struct kl_local *locals;
	unsigned count;
	struct kl_sources *sources; /* NULL: not asked for yet */
	bool sources_valid;
	uint64_t sources_ns; /* when they were read */
};

/* An address to be ordered. */
struct kl_found_address {
	uint8_t family;
	bool reachable;
	uint8_t address[16]; /* 4 bytes of IPv4, or 16 */
	uint32_t scope_id;
	uint8_t source[16]; /* mapped; valid if reachable */
	uint32_t position;
	uint32_t ttl_s;
	const struct kl_local *local;
};

void kl_routes_init(struct kl_routes *routes);
/* Does the machine have addresses of a family, loopback left out? For AI_ADDRCONFIG. */
void kl_routes_families(struct kl_routes *routes, bool *ret_has4, bool *ret_has6);
/* Sort in place; stable. */
void kl_order(struct kl_routes *routes, const struct kl_gai *gai,
	      struct kl_found_address *addresses, size_t count);
void kl_routes_free(struct kl_routes *routes);

#endif
