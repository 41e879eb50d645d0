/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "answer.h"

#include <kloop/base.h>

#include <string.h>

#include "ring/memory.h"

/* RFC 2181: the highest bit set means 0. */
static uint32_t clean_ttl(uint32_t ttl_s)
{
	return ttl_s > INT32_MAX ? 0 : ttl_s;
}

struct alias {
	size_t owner;
	size_t target;
	uint32_t ttl_s;
};

static unsigned collect_aliases(const struct kl_answer *answer, struct alias *aliases)
{
	struct kl_record record;
	struct kl_walk walk;
	unsigned count = 0;

	kl_walk_begin(&walk, answer->wire, answer->bytes, &answer->scan);
	while (kl_walk_next(&walk, &record) && record.section == 0) {
		if (record.type != KL_TYPE_CNAME || record.rr_class != KL_CLASS_IN ||
		    count == KL_ALIASES_MAX)
			continue;
		aliases[count++] = (struct alias){ record.owner, record.data,
						   clean_ttl(record.ttl_s) };
	}
	return count;
}

/*
 * DNAME: the server makes an alias of the question, with the random case of its
 * letters. What stands for the first labels of the question gets back the
 * letters of the caller.
 */
static void restore_case(struct kl_answer *answer, size_t at, const uint8_t *asked)
{
	const uint8_t *name = answer->wire + KL_HEADER_BYTES;
	uint8_t *wire = answer->wire;

	while (*asked != 0 && wire[at] == *asked &&
	       memcmp(wire + at + 1, asked + 1, *asked) == 0) {
		memcpy(wire + at + 1, name + 1, *asked);
		at += 1u + *asked;
		name += 1u + *asked;
		asked += 1u + *asked;
	}
}

/*
 * Follow the aliases from the question's name, in whatever order they stand.
 * Records whose owner is not on this way are nobody's business.
 */
static bool follow(struct kl_answer *answer, const uint8_t *asked, uint8_t *name)
{
	struct alias aliases[KL_ALIASES_MAX];
	unsigned count = collect_aliases(answer, aliases);
	unsigned hops = 0;

	answer->target = KL_HEADER_BYTES;
	kl_scan_name(answer->wire, answer->bytes, answer->target, name);
	if (answer->scan.type == KL_TYPE_CNAME)
		return true;
	for (unsigned i = 0; i < count; i++)
		restore_case(answer, aliases[i].target, asked);
	for (unsigned i = 0; i < count; i++) {
		if (!kl_scan_name_is(answer->wire, answer->bytes, aliases[i].owner, name))
			continue;
		/* Longer than anybody's, or a loop. */
		if (++hops > KL_CHAIN_MAX)
			return false;
		answer->target = aliases[i].target;
		answer->aliased = true;
		if (aliases[i].ttl_s < answer->ttl_s)
			answer->ttl_s = aliases[i].ttl_s;
		kl_scan_name(answer->wire, answer->bytes, answer->target, name);
		i = UINT32_MAX; /* from the start */
	}
	return true;
}

/* Is there what was asked for at the end of the aliases? Its time is the least. */
static bool find_data(struct kl_answer *answer, const uint8_t *target)
{
	const struct kl_scan *scan = &answer->scan;
	struct kl_record record;
	struct kl_walk walk;
	bool found = false;

	kl_walk_begin(&walk, answer->wire, answer->bytes, scan);
	while (kl_walk_next(&walk, &record) && record.section == 0) {
		if (record.type != scan->type || record.rr_class != KL_CLASS_IN ||
		    !kl_scan_name_is(answer->wire, answer->bytes, record.owner, target))
			continue;
		found = true;
		if (clean_ttl(record.ttl_s) < answer->ttl_s)
			answer->ttl_s = clean_ttl(record.ttl_s);
	}
	return found;
}

/* RFC 2308: how long "there is none" holds stands in the zone's SOA. */
static void find_soa(struct kl_answer *answer, const uint8_t *target)
{
	struct kl_record record;
	struct kl_walk walk;
	uint8_t owner[KL_NAME_BYTES + 1];

	kl_walk_begin(&walk, answer->wire, answer->bytes, &answer->scan);
	while (kl_walk_next(&walk, &record)) {
		uint32_t minimum;

		if (record.section != 1 || record.type != KL_TYPE_SOA ||
		    record.rr_class != KL_CLASS_IN)
			continue;
		kl_scan_name(answer->wire, answer->bytes, record.owner, owner);
		if (!kl_name_is_below(target, owner))
			continue;
		minimum = clean_ttl(kl_get32(answer->wire + record.data + record.data_bytes - 4));
		if (clean_ttl(record.ttl_s) < minimum)
			minimum = clean_ttl(record.ttl_s);
		if (minimum < answer->ttl_s)
			answer->ttl_s = minimum;
		answer->cacheable = true;
		return;
	}
}

struct kl_answer *kl_answer_new(const uint8_t *wire, size_t bytes, const struct kl_scan *scan,
				const uint8_t *name, const struct kl_ttl_limits *limits,
				uint64_t now_ns)
{
	struct kl_answer *answer = kl_malloc(sizeof(*answer) + bytes);
	uint8_t target[KL_NAME_BYTES + 1];

	if (!answer)
		return NULL;
	memset(answer, 0, sizeof(*answer));
	answer->refs = 1;
	answer->born_ns = now_ns;
	answer->scan = *scan;
	answer->bytes = bytes;
	answer->ttl_s = limits->max_s;
	memcpy(answer->wire, wire, bytes);
	memcpy(answer->wire + KL_HEADER_BYTES, name, scan->question_bytes);
	if (!follow(answer, wire + KL_HEADER_BYTES, target)) {
		answer->result = KLOOP_ERROR_DNS_NONAME;
	} else if (find_data(answer, target)) {
		answer->cacheable = true;
	} else {
		answer->result = scan->rcode == KL_NXDOMAIN ? KLOOP_ERROR_DNS_NONAME :
							      KLOOP_ERROR_DNS_NODATA;
		if (answer->ttl_s > limits->max_negative_s)
			answer->ttl_s = limits->max_negative_s;
		find_soa(answer, target);
	}
	return answer;
}

struct kl_answer *kl_answer_ref(struct kl_answer *answer)
{
	answer->refs++;
	return answer;
}

void kl_answer_unref(struct kl_answer *answer)
{
	if (answer && --answer->refs == 0)
		kl_free(answer);
}

uint32_t kl_answer_ttl(const struct kl_answer *answer, uint64_t now_ns)
{
	uint64_t age_s = (now_ns - answer->born_ns) / 1000000000;

	return age_s < answer->ttl_s ? answer->ttl_s - (uint32_t)age_s : 0;
}

void kl_answer_begin(const struct kl_answer *answer, struct kl_answer_walk *walk)
{
	kl_walk_begin(&walk->walk, answer->wire, answer->bytes, &answer->scan);
	kl_scan_name(answer->wire, answer->bytes, answer->target, walk->target);
}

const uint8_t *kl_answer_next(const struct kl_answer *answer, struct kl_answer_walk *walk,
			      size_t *ret_bytes)
{
	struct kl_record record;

	while (kl_walk_next(&walk->walk, &record) && record.section == 0) {
		if (record.type != answer->scan.type || record.rr_class != KL_CLASS_IN ||
		    !kl_scan_name_is(answer->wire, answer->bytes, record.owner, walk->target))
			continue;
		*ret_bytes = record.data_bytes;
		return answer->wire + record.data;
	}
	return NULL;
}

const uint8_t *kl_option_find(const uint8_t *wire, const struct kl_scan *scan, unsigned code,
			      size_t *ret_bytes)
{
	size_t at = scan->opt_at, end = scan->opt_at + scan->opt_bytes;

	while (scan->has_opt && at < end) {
		if (kl_get16(wire + at) == code) {
			*ret_bytes = kl_get16(wire + at + 2);
			return wire + at + 4;
		}
		at += 4u + kl_get16(wire + at + 2);
	}
	return NULL;
}
