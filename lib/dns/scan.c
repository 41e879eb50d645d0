/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "scan.h"

#include <errno.h>
#include <string.h>

/* Character strings in all TXT records of a message. */
#define STRINGS_MAX 512
/* Pointers and labels in all names: long ones in small messages, short ones in large. */
#define HOPS_MAX(records) (4 * (records) + 64)
#define LABELS_MAX(records) (12 * (records) + 8192)

/* A scan in progress, with what is left of its budgets. */
struct scanner {
	const uint8_t *wire;
	size_t bytes;
	unsigned hops;    /* of compression pointers */
	unsigned labels;  /* walked through */
	unsigned strings;
	unsigned aliases;
	unsigned records; /* looked at */
};

/*
 * Skip the name at *at, which must end before limit unless it jumps. Pointers
 * go strictly backwards, each behind the start of the segment that it leaves.
 */
static bool skip_name(struct scanner *scan, size_t limit, size_t *at)
{
	const uint8_t *wire = scan->wire;
	size_t p = *at, start = *at, total = 0;
	bool jumped = false;

	for (;;) {
		uint8_t c;

		if (p >= limit)
			return false;
		c = wire[p];
		if (c >= 0xc0) {
			size_t target;

			if (limit - p < 2 || scan->hops-- == 0)
				return false;
			target = (size_t)(c & 0x3f) << 8 | wire[p + 1];
			if (target < KL_HEADER_BYTES || target >= start)
				return false;
			if (!jumped)
				*at = p + 2;
			jumped = true;
			/* Backwards is inside the packet; a part may end in what follows its start. */
			limit = scan->bytes;
			p = start = target;
			continue;
		}
		if (c > KL_LABEL_BYTES || scan->labels-- == 0)
			return false;
		total += 1u + c;
		if (total > KL_NAME_BYTES)
			return false;
		p += 1u + c;
		if (c == 0) {
			if (!jumped)
				*at = p;
			return true;
		}
	}
}

/* Exactly this many bytes, then names, then exactly that many. */
static bool check_names(struct scanner *scan, size_t at, size_t end, size_t before, unsigned names,
			size_t after)
{
	if (end - at < before)
		return false;
	at += before;
	while (names-- != 0) {
		if (!skip_name(scan, end, &at))
			return false;
	}
	return at <= end && end - at == after;
}

static bool check_strings(struct scanner *scan, size_t at, size_t end)
{
	if (at == end)
		return false;
	while (at < end) {
		if (scan->strings-- == 0)
			return false;
		at += 1u + scan->wire[at];
	}
	return at == end;
}

static bool check_naptr(struct scanner *scan, size_t at, size_t end)
{
	if (end - at < 4)
		return false;
	at += 4;
	for (int i = 0; i < 3; i++) {
		if (at >= end)
			return false;
		at += 1u + scan->wire[at];
	}
	return at < end && skip_name(scan, end, &at) && at == end;
}

/* A name without compression; where it ends, or 0. */
static size_t skip_plain_name(const uint8_t *wire, size_t at, size_t end)
{
	size_t start = at;

	while (at < end && wire[at] <= KL_LABEL_BYTES) {
		if (wire[at] == 0)
			return at + 1 - start <= KL_NAME_BYTES ? at + 1 : 0;
		at += 1u + wire[at];
	}
	return 0;
}

/* SVCB and HTTPS (RFC 9460): keys strictly increase. */
static bool check_service_binding(const uint8_t *wire, size_t at, size_t end)
{
	int last = -1;

	if (end - at < 3)
		return false;
	at = skip_plain_name(wire, at + 2, end);
	if (at == 0)
		return false;
	while (at < end) {
		if (end - at < 4 || (int)kl_get16(wire + at) <= last)
			return false;
		last = kl_get16(wire + at);
		if (end - at - 4 < kl_get16(wire + at + 2))
			return false;
		at += 4u + kl_get16(wire + at + 2);
	}
	return true;
}

/* The fixed fields of DNSSEC's types must be there before anybody looks at them. */
static bool check_dnssec(const uint8_t *wire, unsigned type, size_t at, size_t end)
{
	size_t bytes = end - at;

	switch (type) {
	case 43: /* DS */
	case 59: /* CDS */
	case 48: /* DNSKEY */
	case 60: /* CDNSKEY */
		return bytes > 4;
	case KL_TYPE_RRSIG:
		return bytes > 18 && skip_plain_name(wire, at + 18, end) != 0;
	case 47: /* NSEC */
		return skip_plain_name(wire, at, end) != 0;
	case 50: /* NSEC3: salt, hash */
		return bytes > 5 && bytes - 5 > wire[at + 4] &&
		       wire[at + 5 + wire[at + 4]] != 0 &&
		       bytes - 6 - wire[at + 4] >= wire[at + 5 + wire[at + 4]];
	case 51: /* NSEC3PARAM */
		return bytes >= 5 && bytes - 5 == wire[at + 4];
	default:
		return true;
	}
}

static bool check_data(struct scanner *scan, unsigned type, size_t at, size_t end)
{
	switch (type) {
	case KL_TYPE_A:
		return end - at == 4;
	case KL_TYPE_AAAA:
		return end - at == 16;
	case KL_TYPE_CNAME:
	case KL_TYPE_DNAME:
		if (scan->aliases-- == 0)
			return false;
		return check_names(scan, at, end, 0, 1, 0);
	case KL_TYPE_NS:
	case 3: /* MD */
	case 4: /* MF */
	case 7: /* MB */
	case 8: /* MG */
	case 9: /* MR */
	case KL_TYPE_PTR:
		return check_names(scan, at, end, 0, 1, 0);
	case KL_TYPE_SOA:
		return check_names(scan, at, end, 0, 2, 20);
	case 14: /* MINFO */
	case 17: /* RP */
		return check_names(scan, at, end, 0, 2, 0);
	case KL_TYPE_MX:
	case 18: /* AFSDB */
	case 21: /* RT */
	case 36: /* KX */
		return check_names(scan, at, end, 2, 1, 0);
	case KL_TYPE_SRV:
		return check_names(scan, at, end, 6, 1, 0);
	case KL_TYPE_NAPTR:
		return check_naptr(scan, at, end);
	case KL_TYPE_TXT:
	case 99: /* SPF */
		return check_strings(scan, at, end);
	case 64: /* SVCB */
	case 65: /* HTTPS */
		return check_service_binding(scan->wire, at, end);
	default:
		return check_dnssec(scan->wire, type, at, end);
	}
}

bool kl_scan_has_names(unsigned type)
{
	switch (type) {
	case KL_TYPE_NS:
	case 3:
	case 4:
	case KL_TYPE_CNAME:
	case KL_TYPE_SOA:
	case 7:
	case 8:
	case 9:
	case KL_TYPE_PTR:
	case 14:
	case KL_TYPE_MX:
	case 17:
	case 18:
	case 21:
	case KL_TYPE_SRV:
	case KL_TYPE_NAPTR:
	case 36:
	case KL_TYPE_DNAME:
		return true;
	default:
		return false;
	}
}

/* OPT stands once, in the additional section, at the root, with whole options. */
static bool take_opt(const uint8_t *wire, size_t owner, unsigned section, size_t fixed,
		     size_t at, size_t end, struct kl_scan *scan)
{
	if (section != 2 || scan->has_opt || wire[owner] != 0)
		return false;
	scan->has_opt = true;
	scan->opt_at = at;
	scan->opt_bytes = end - at;
	scan->rcode |= (uint16_t)(wire[fixed + 4] << 4);
	scan->opt_version = wire[fixed + 5];
	while (at < end) {
		if (end - at < 4 || end - at - 4 < kl_get16(wire + at + 2))
			return false;
		at += 4u + kl_get16(wire + at + 2);
	}
	return true;
}

int kl_scan_question(const uint8_t *wire, size_t bytes, struct kl_scan *ret_scan)
{
	struct kl_scan scan = { .flags = 0 };
	size_t end;

	if (bytes < KL_HEADER_BYTES || bytes > KL_MESSAGE_BYTES)
		return -EBADMSG;
	scan.flags = kl_get16(wire + 2);
	scan.rcode = scan.flags & 15;
	if (!(scan.flags & KL_FLAG_QR) || (scan.flags & KL_OPCODE_MASK) ||
	    kl_get16(wire + 4) != 1)
		return -EBADMSG;
	for (int i = 0; i < 3; i++)
		scan.counts[i] = kl_get16(wire + 6 + 2 * i);
	end = skip_plain_name(wire, KL_HEADER_BYTES, bytes);
	if (end == 0 || bytes - end < 4)
		return -EBADMSG;
	scan.question_bytes = end - KL_HEADER_BYTES;
	scan.type = kl_get16(wire + end);
	scan.rr_class = kl_get16(wire + end + 2);
	scan.records = end + 4;
	*ret_scan = scan;
	return 0;
}

static int scan_records(struct scanner *state, struct kl_scan *scan)
{
	const uint8_t *wire = state->wire;
	size_t at = scan->records;

	for (unsigned section = 0; section < 3; section++) {
		for (unsigned i = scan->counts[section]; i != 0; i--) {
			size_t owner = at, fixed, end;
			unsigned type;

			state->records++;
			if (!skip_name(state, state->bytes, &at) || state->bytes - at < 10)
				return -EBADMSG;
			fixed = at;
			type = kl_get16(wire + fixed);
			at = fixed + 10;
			if (state->bytes - at < kl_get16(wire + fixed + 8))
				return -EBADMSG;
			end = at + kl_get16(wire + fixed + 8);
			if (type == KL_TYPE_OPT) {
				if (!take_opt(wire, owner, section, fixed, at, end, scan))
					return -EBADMSG;
			} else if (type == 0 || (type >= KL_TYPE_TKEY && type <= KL_TYPE_ANY) ||
				   !check_data(state, type, at, end)) {
				return -EBADMSG;
			}
			at = end;
		}
	}
	return 0;
}

/* Nothing is left of a budget that was overdrawn. */
static unsigned spent(unsigned budget, unsigned left)
{
	return left <= budget ? budget - left : budget;
}

int kl_scan_counted(const uint8_t *wire, size_t bytes, struct kl_scan *ret_scan,
		    unsigned *ret_steps)
{
	struct scanner state = { .wire = wire, .bytes = bytes };
	struct kl_scan scan;
	unsigned records;
	int ret = kl_scan_question(wire, bytes, &scan);

	*ret_steps = 0;
	if (ret < 0)
		return ret;
	records = (unsigned)scan.counts[0] + scan.counts[1] + scan.counts[2];
	if (records > KL_RECORDS_MAX || records * 11u > bytes - scan.records)
		return -EBADMSG;
	state.hops = HOPS_MAX(records);
	state.labels = LABELS_MAX(records);
	state.strings = STRINGS_MAX;
	state.aliases = KL_ALIASES_MAX;
	ret = scan_records(&state, &scan);
	*ret_steps = state.records + spent(HOPS_MAX(records), state.hops) +
		     spent(LABELS_MAX(records), state.labels) +
		     spent(STRINGS_MAX, state.strings);
	if (ret == 0)
		*ret_scan = scan;
	return ret;
}

int kl_scan(const uint8_t *wire, size_t bytes, struct kl_scan *ret_scan)
{
	unsigned unused;

	return kl_scan_counted(wire, bytes, ret_scan, &unused);
}

void kl_walk_begin(struct kl_walk *walk, const uint8_t *wire, size_t bytes,
		   const struct kl_scan *scan)
{
	walk->wire = wire;
	walk->bytes = bytes;
	walk->at = scan->records;
	walk->section = 0;
	for (int i = 0; i < 3; i++)
		walk->left[i] = scan->counts[i];
}

bool kl_walk_next(struct kl_walk *walk, struct kl_record *ret_record)
{
	const uint8_t *wire = walk->wire;
	size_t at = walk->at;

	while (walk->section < 3 && walk->left[walk->section] == 0)
		walk->section++;
	if (walk->section == 3)
		return false;
	walk->left[walk->section]--;
	ret_record->section = walk->section;
	ret_record->owner = at;
	while (wire[at] != 0 && wire[at] < 0xc0)
		at += 1u + wire[at];
	at += wire[at] != 0 ? 2 : 1;
	ret_record->type = kl_get16(wire + at);
	ret_record->rr_class = kl_get16(wire + at + 2);
	ret_record->ttl_s = kl_get32(wire + at + 4);
	ret_record->data_bytes = kl_get16(wire + at + 8);
	ret_record->data = at + 10;
	walk->at = at + 10 + ret_record->data_bytes;
	return true;
}

size_t kl_scan_name(const uint8_t *wire, size_t bytes, size_t at, uint8_t *ret_name)
{
	size_t used = 0;

	/* The bounds were checked by the scan; they are kept here all the same. */
	while (at < bytes && wire[at] != 0) {
		if (wire[at] >= 0xc0) {
			if (bytes - at < 2)
				break;
			at = (size_t)(wire[at] & 0x3f) << 8 | wire[at + 1];
			continue;
		}
		if (used + 1u + wire[at] >= KL_NAME_BYTES + 1u || bytes - at < 1u + wire[at])
			break;
		memcpy(ret_name + used, wire + at, 1u + wire[at]);
		used += 1u + wire[at];
		at += 1u + wire[at];
	}
	ret_name[used] = 0;
	return used + 1;
}

bool kl_scan_name_is(const uint8_t *wire, size_t bytes, size_t at, const uint8_t *name)
{
	while (at < bytes) {
		uint8_t c = wire[at];

		if (c >= 0xc0) {
			if (bytes - at < 2)
				return false;
			at = (size_t)(c & 0x3f) << 8 | wire[at + 1];
			continue;
		}
		if (c != *name)
			return false;
		if (c == 0)
			return true;
		if (bytes - at < 1u + c || !kl_same_text(wire + at + 1, name + 1, c))
			return false;
		at += 1u + c;
		name += 1u + c;
	}
	return false;
}
