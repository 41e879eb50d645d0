/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The strict, linear look at a packet before anything else touches it. Its cost
 * is bounded by the packet's size, it allocates nothing, and what it lets pass
 * is safe to walk with the functions below and to hand to ldns.
 */
#ifndef KL_DNS_SCAN_H
#define KL_DNS_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "name.h"

#define KL_HEADER_BYTES 12
#define KL_MESSAGE_BYTES 65535
/* Records in a message, and aliases in its answer, at most. */
#define KL_RECORDS_MAX 4096
#define KL_ALIASES_MAX 32

/* Types that the resolver itself knows. */
enum kl_type {
	KL_TYPE_A = 1,
	KL_TYPE_NS = 2,
	KL_TYPE_CNAME = 5,
	KL_TYPE_SOA = 6,
	KL_TYPE_PTR = 12,
	KL_TYPE_MX = 15,
	KL_TYPE_TXT = 16,
	KL_TYPE_AAAA = 28,
	KL_TYPE_SRV = 33,
	KL_TYPE_NAPTR = 35,
	KL_TYPE_DNAME = 39,
	KL_TYPE_OPT = 41,
	KL_TYPE_RRSIG = 46,
	KL_TYPE_TKEY = 249,
	KL_TYPE_ANY = 255,
};

#define KL_CLASS_IN 1

enum kl_rcode {
	KL_NOERROR = 0,
	KL_FORMERR = 1,
	KL_SERVFAIL = 2,
	KL_NXDOMAIN = 3,
	KL_NOTIMP = 4,
	KL_REFUSED = 5,
	KL_BADVERS = 16,
	KL_BADCOOKIE = 23,
};

/* Bits of the header's second word. */
enum {
	KL_FLAG_CD = 1 << 4,
	KL_FLAG_AD = 1 << 5,
	KL_FLAG_RA = 1 << 7,
	KL_FLAG_RD = 1 << 8,
	KL_FLAG_TC = 1 << 9,
	KL_FLAG_AA = 1 << 10,
	KL_FLAG_QR = 1 << 15,
	KL_OPCODE_MASK = 15 << 11,
};

static inline uint16_t kl_get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t kl_get32(const uint8_t *p)
{
	return (uint32_t)kl_get16(p) << 16 | kl_get16(p + 2);
}

static inline void kl_put16(uint8_t *p, unsigned value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

/* What a message is, by its header and its first question. */
struct kl_scan {
	uint16_t flags;
	uint16_t counts[3]; /* of records: answer, authority, additional */
	size_t question_bytes; /* of the question's name, which begins at KL_HEADER_BYTES */
	uint16_t type;         /* of the question */
	uint16_t rr_class;
	size_t records; /* where they begin */
	/* The OPT record: offset and length of its options, 0 if there is none. */
	bool has_opt;
	uint8_t opt_version;
	uint16_t rcode; /* extended by OPT */
	size_t opt_at;
	size_t opt_bytes;
};

/*
 * Header and question only, for a message whose rest is cut off. Demands QR, a
 * query's opcode, one question, and a question name without compression.
 * 0, or -EBADMSG.
 */
int kl_scan_question(const uint8_t *wire, size_t bytes, struct kl_scan *ret_scan);

/* The whole message. 0, or -EBADMSG. */
int kl_scan(const uint8_t *wire, size_t bytes, struct kl_scan *ret_scan);

/*
 * The same, for those who want to know what it costs: the records, labels,
 * pointers and strings that were looked at, also of a message that is refused.
 */
int kl_scan_counted(const uint8_t *wire, size_t bytes, struct kl_scan *ret_scan,
		    unsigned *ret_steps);

/* A record of a message that was scanned: offsets into it. */
struct kl_record {
	uint16_t type;
	uint16_t rr_class;
	uint32_t ttl_s;
	unsigned section; /* 0 answer, 1 authority, 2 additional */
	size_t owner;
	size_t data;
	size_t data_bytes;
};

/* Walks the records of a message that was scanned. */
struct kl_walk {
	const uint8_t *wire;
	size_t bytes;
	size_t at;
	unsigned section;
	unsigned left[3];
};

void kl_walk_begin(struct kl_walk *walk, const uint8_t *wire, size_t bytes,
		   const struct kl_scan *scan);
bool kl_walk_next(struct kl_walk *walk, struct kl_record *ret_record);

/* The name at an offset of a scanned message, made whole; its length. */
size_t kl_scan_name(const uint8_t *wire, size_t bytes, size_t at, uint8_t *ret_name);

/* Is the name at an offset of a scanned message the same as a whole one? */
bool kl_scan_name_is(const uint8_t *wire, size_t bytes, size_t at, const uint8_t *name);

/* Does ldns decode RDATA of this type? All other RDATA holds no compressed names. */
bool kl_scan_has_names(unsigned type);

#endif
