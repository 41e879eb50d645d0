/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * From which of this machine's addresses packets to another one would leave.
 *
 * The kernel knows, and asking it costs three calls for each address. But what
 * it decides by are prefixes: of routes, rules and labels, and how many bits an
 * address has in common with each one of the machine. Addresses that no such
 * prefix tells apart have the same source, so one answer serves them all.
 */
#ifndef KL_DNS_SOURCES_H
#define KL_DNS_SOURCES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* More prefixes than that, of all tables together, and each address is asked about. */
#define KL_SOURCE_PREFIXES_MAX 512
#define KL_SOURCE_SLOTS 256

/* Addresses here have 16 bytes, IPv4 as mapped. */
struct kl_source_prefix {
	uint8_t address[16];
	uint8_t bits;
};

struct kl_source {
	uint8_t prefix[16]; /* of the addresses it holds for */
	uint8_t bits;
	uint8_t state; /* enum kl_source_state */
	uint8_t address[16];
};

enum kl_source_state {
	KL_SOURCE_UNKNOWN,
	KL_SOURCE_NONE, /* there is no way to the address */
	KL_SOURCE_KNOWN,
};

struct kl_sources {
	bool usable; /* all that tells addresses apart is known */
	unsigned count;
	struct kl_source_prefix prefixes[KL_SOURCE_PREFIXES_MAX];
	struct kl_source slots[KL_SOURCE_SLOTS];
};

/* Forget all, and read the kernel's prefixes. Calls that do not wait. */
void kl_sources_load(struct kl_sources *sources);
/* An IPv6 address of this machine. To be told after the load. */
void kl_sources_add_local(struct kl_sources *sources, const uint8_t address[16]);
/*
 * The slot for an address: of what is known, or to be filled in; NULL if there
 * is to be none.
 */
struct kl_source *kl_sources_find(struct kl_sources *sources, const uint8_t address[16]);
/* Fill a slot in. source: NULL if there is no way. */
void kl_sources_set(struct kl_source *slot, const uint8_t address[16], const uint8_t *source);

/* A socket for questions to the kernel about routes, or for what it tells to groups; -1. */
int kl_netlink_open(unsigned groups);

#endif
