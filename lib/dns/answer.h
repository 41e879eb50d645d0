/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * An answer: a message that passed all checks, with what the resolver reads out
 * of it. It does not change and is shared by the cache and all who asked.
 */
#ifndef KL_DNS_ANSWER_H
#define KL_DNS_ANSWER_H

#include "scan.h"

/* Aliases that are followed. */
#define KL_CHAIN_MAX 16

struct kl_answer {
	unsigned refs;
	int result; /* 0; KLOOP_ERROR_DNS_NODATA, KLOOP_ERROR_DNS_NONAME */
	uint32_t ttl_s;
	bool cacheable; /* a negative answer without SOA is not */
	bool authentic; /* AD, from a server that is trusted */
	bool aliased;   /* the name is an alias of target */
	uint64_t born_ns;
	struct kl_scan scan;
	size_t target;  /* offset of the name at the end of the aliases */
	size_t bytes;
	uint8_t wire[];
};

/* Bounds on what a server may say about time. */
struct kl_ttl_limits {
	uint32_t max_s;
	uint32_t max_negative_s;
};

/*
 * Make one of a message that kl_scan() took, with this question name in place
 * of the one in it (whose letters have a random case). NULL without memory.
 */
struct kl_answer *kl_answer_new(const uint8_t *wire, size_t bytes, const struct kl_scan *scan,
				const uint8_t *name, const struct kl_ttl_limits *limits,
				uint64_t now_ns);
struct kl_answer *kl_answer_ref(struct kl_answer *answer);
void kl_answer_unref(struct kl_answer *answer);

/* How long it still holds. */
uint32_t kl_answer_ttl(const struct kl_answer *answer, uint64_t now_ns);

/* Walks the RDATA of the records that answer the question; start with *at 0. */
struct kl_answer_walk {
	struct kl_walk walk;
	uint8_t target[KL_NAME_BYTES + 1];
};

void kl_answer_begin(const struct kl_answer *answer, struct kl_answer_walk *walk);
/* The next record of the question's type, or NULL. */
const uint8_t *kl_answer_next(const struct kl_answer *answer, struct kl_answer_walk *walk,
			      size_t *ret_bytes);

/* An option of OPT, by its code: where it is, or NULL. */
const uint8_t *kl_option_find(const uint8_t *wire, const struct kl_scan *scan, unsigned code,
			      size_t *ret_bytes);

#define KL_OPTION_COOKIE 10
#define KL_OPTION_KEEPALIVE 11
#define KL_OPTION_PADDING 12
#define KL_OPTION_EDE 15

#endif
