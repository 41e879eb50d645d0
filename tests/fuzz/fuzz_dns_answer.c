/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Answers behind the scan: the input tells which records stand in a packet that
 * is well-formed, three bytes each; what the library makes of their aliases,
 * times and data is compared with what a simple search finds.
 */
#include "dns/answer.h"
#include "fuzz.h"

#include <kloop/dns.h>

#include <stdlib.h>
#include <string.h>

#define NAMES 16
#define RECORDS 64

struct line {
	unsigned owner;
	unsigned kind; /* 0 to 3: A; 4 to 6: CNAME; 7: SOA */
	unsigned section;
	unsigned target;
	uint32_t ttl_s;
};

static struct line lines[RECORDS];
static unsigned line_count;
static uint8_t wire[4096];
static size_t used;

/* Names 0 to 15: "a.z" to "p.z", in letters whose case differs from place to place. */
static void put_name(unsigned name, unsigned upper)
{
	wire[used++] = 1;
	wire[used++] = (uint8_t)((upper & 1 ? 'A' : 'a') + name);
	wire[used++] = 1;
	wire[used++] = upper & 2 ? 'Z' : 'z';
	wire[used++] = 0;
}

static void put_line(const struct line *line, unsigned upper)
{
	static const uint16_t types[8] = { 1, 1, 1, 1, 5, 5, 5, 6 };
	size_t length;

	put_name(line->owner, upper);
	kl_put16(wire + used, types[line->kind]);
	kl_put16(wire + used + 2, KL_CLASS_IN);
	kl_put16(wire + used + 4, line->ttl_s >> 16);
	kl_put16(wire + used + 6, line->ttl_s & 0xffff);
	length = used + 8;
	used += 10;
	if (line->kind < 4) {
		memset(wire + used, (int)line->target, 4);
		used += 4;
	} else if (line->kind < 7) {
		put_name(line->target, upper >> 1);
	} else {
		memset(wire + used, 0, 22);
		wire[used + 21] = (uint8_t)(line->target + 1); /* the least time */
		used += 22;
	}
	kl_put16(wire + length, (unsigned)(used - length - 2));
}

static void make_packet(const uint8_t *data, size_t size)
{
	unsigned counts[3] = { 0, 0, 0 };

	memset(wire, 0, KL_HEADER_BYTES);
	wire[2] = 0x81;
	wire[3] = (uint8_t)(0x80 | (data[0] & 1 ? KL_NXDOMAIN : 0));
	wire[5] = 1;
	used = KL_HEADER_BYTES;
	put_name(0, data[0] >> 1);
	kl_put16(wire + used, KL_TYPE_A);
	kl_put16(wire + used + 2, KL_CLASS_IN);
	used += 4;
	line_count = 0;
	for (unsigned section = 0; section < 3; section++) {
		for (size_t i = 1; i + 3 <= size && line_count < RECORDS; i += 3) {
			static const uint32_t times[4] = { 0, 7, 100000, 0x80000001 };
			struct line *line = &lines[line_count];

			/* Answers first: a section for each eighth of what comes. */
			if ((data[i] >> 5 < 5 ? 0u : data[i] >> 5 < 7 ? 1u : 2u) != section)
				continue;
			*line = (struct line){ .owner = data[i] & 15,
					       .kind = data[i + 1] & 7,
					       .section = section,
					       .target = data[i + 1] >> 4,
					       .ttl_s = data[i + 2] };
			if (data[i + 2] & 0x80)
				line->ttl_s = times[data[i + 2] & 3];
			put_line(line, data[i + 1] >> 3);
			counts[section]++;
			line_count++;
		}
	}
	for (int i = 0; i < 3; i++)
		kl_put16(wire + 6 + 2 * i, counts[i]);
}

static uint32_t clean(uint32_t ttl_s)
{
	return ttl_s > INT32_MAX ? 0 : ttl_s;
}

static void lower(uint32_t *ttl_s, uint32_t other_s)
{
	if (other_s < *ttl_s)
		*ttl_s = other_s;
}

/* The same by the simplest means; -1 where the aliases have no end. */
static int search(uint32_t *ret_ttl_s, unsigned *ret_target)
{
	unsigned name = 0, hops = 0, found = 0;
	uint32_t ttl_s = 3600;

	for (unsigned i = 0; i < line_count; i++) {
		if (lines[i].section != 0 || lines[i].kind < 4 || lines[i].kind > 6 ||
		    lines[i].owner != name)
			continue;
		if (++hops > KL_CHAIN_MAX)
			return -1;
		lower(&ttl_s, clean(lines[i].ttl_s));
		name = lines[i].target;
		i = UINT32_MAX;
	}
	for (unsigned i = 0; i < line_count; i++) {
		if (lines[i].section == 0 && lines[i].kind < 4 && lines[i].owner == name) {
			lower(&ttl_s, clean(lines[i].ttl_s));
			found++;
		}
	}
	*ret_ttl_s = ttl_s;
	*ret_target = name;
	return (int)found;
}

static void compare(const struct kl_answer *answer, bool negative)
{
	struct kl_answer_walk walk;
	uint8_t target[KL_NAME_BYTES + 1];
	uint32_t ttl_s = 0;
	unsigned name = 0;
	size_t bytes;
	int count = 0, expected = search(&ttl_s, &name);

	kl_answer_begin(answer, &walk);
	while (kl_answer_next(answer, &walk, &bytes))
		count += bytes == 4 ? 1 : 1000;
	if (expected < 0) {
		if (answer->result != KLOOP_ERROR_DNS_NONAME || answer->cacheable)
			abort();
		return;
	}
	if (kl_scan_name(answer->wire, answer->bytes, answer->target, target) != 5 ||
	    kl_lower(target[1]) != 'a' + name || count != expected ||
	    (expected == 0) != (answer->result != 0) ||
	    (expected == 0 && answer->result != (negative ? KLOOP_ERROR_DNS_NONAME :
							    KLOOP_ERROR_DNS_NODATA)))
		abort();
	if (expected > 0 && (answer->ttl_s != ttl_s || !answer->cacheable))
		abort();
	if (expected == 0 && answer->ttl_s > (ttl_s < 300 ? ttl_s : 300))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct kl_ttl_limits limits = { 3600, 300 };
	struct kl_answer *answer;
	unsigned aliases = 0;
	struct kl_scan scan;
	int ret;

	if (size < 4)
		return 0;
	make_packet(data, size);
	for (unsigned i = 0; i < line_count; i++)
		aliases += lines[i].kind >= 4 && lines[i].kind <= 6;
	ret = kl_scan(wire, used, &scan);
	if ((ret == 0) != (aliases <= KL_ALIASES_MAX))
		abort();
	if (ret < 0)
		return 0;
	answer = kl_answer_new(wire, used, &scan, (const uint8_t *)"\1a\1z", &limits, 0);
	if (!answer)
		return 0;
	if (memcmp(answer->wire + KL_HEADER_BYTES, "\1a\1z\0", 5) != 0)
		abort();
	compare(answer, data[0] & 1);
	kl_answer_unref(answer);
	return 0;
}
