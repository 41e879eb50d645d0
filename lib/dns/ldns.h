/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the rest of kLoop may know of ldns. No type of ldns appears here, and no
 * byte of a peer gets here that kl_scan() has not seen.
 */
#ifndef KL_DNS_LDNS_H
#define KL_DNS_LDNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* The version of the ldns in use, "1.8.3"; a constant string. */
const char *kl_dns_get_ldns_version(void);

/* A question to be put into wire format. */
struct kl_ldns_query {
	const uint8_t *name; /* whole */
	size_t name_bytes;
	uint16_t id;
	uint16_t type;
	bool recursion;         /* RD */
	bool checking_disabled; /* CD */
	bool authentic;         /* AD: tell whether you validated */
	bool dnssec;            /* DO */
	uint16_t edns_bytes;    /* 0: no EDNS */
	const uint8_t *cookie;  /* may be NULL */
	size_t cookie_bytes;
};

/* Room for every query: header, name, question, OPT, the longest cookie or what pads it. */
#define KL_QUERY_BYTES 384

/* Encode. The length, or -ENOMEM, -EINVAL. */
int kl_ldns_encode(const struct kl_ldns_query *query, uint8_t ret_wire[KL_QUERY_BYTES]);

/*
 * RDATA at an offset of a scanned message, its names made whole. Only for types
 * of kl_scan_has_names(). The length, -EBADMSG, -ENOMEM, or -ENOSPC.
 */
int kl_ldns_decode(const uint8_t *wire, size_t bytes, unsigned type, size_t data_at,
		   uint8_t *ret_data, size_t room);

/*
 * The name under in-addr.arpa or ip6.arpa of an address. Its length; -ENOMEM,
 * -EAFNOSUPPORT.
 */
int kl_ldns_reverse(int family, const void *address, uint8_t *ret_name);

#endif
