/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "name.h"

#include <kloop/dns.h>

#include <errno.h>
#include <string.h>

/* One byte of text, escapes resolved: 0 to 255, or -1. *at moves behind it. */
static int take_byte(const char *text, size_t bytes, size_t *at, bool escapes, bool *ret_literal)
{
	const unsigned char *from = (const unsigned char *)text + *at;
	size_t left = bytes - *at;
	int value;

	*ret_literal = false;
	if (from[0] != '\\' || !escapes) {
		*at += 1;
		return from[0];
	}
	*ret_literal = true;
	if (left < 2)
		return -1;
	if (from[1] < '0' || from[1] > '9') {
		*at += 2;
		return from[1];
	}
	if (left < 4 || from[2] < '0' || from[2] > '9' || from[3] < '0' || from[3] > '9')
		return -1;
	value = (from[1] - '0') * 100 + (from[2] - '0') * 10 + (from[3] - '0');
	*at += 4;
	return value <= 255 ? value : -1;
}

int kl_name_append(uint8_t *wire, size_t used, const char *text, size_t bytes, bool escapes)
{
	size_t start = used; /* of the label: where its length goes */
	size_t end = used + 1;
	size_t at = 0;

	if (used >= KL_NAME_BYTES)
		return -EINVAL;
	if (bytes == 1 && text[0] == '.')
		bytes = 0;
	while (at < bytes) {
		bool literal;
		int c = take_byte(text, bytes, &at, escapes, &literal);

		if (c < 0)
			return -EINVAL;
		if (c == '.' && !literal) {
			if (end == start + 1)
				return -EINVAL;
			wire[start] = (uint8_t)(end - start - 1);
			start = end++;
			if (end > KL_NAME_BYTES)
				return -EINVAL;
			continue;
		}
		if (end - start > KL_LABEL_BYTES || end >= KL_NAME_BYTES)
			return -EINVAL;
		wire[end++] = (uint8_t)c;
	}
	wire[start] = (uint8_t)(end - start - 1);
	if (end == start + 1)
		return (int)end; /* it ended with a dot: this is the end */
	if (end >= KL_NAME_BYTES)
		return -EINVAL;
	wire[end++] = 0;
	return (int)end;
}

int kl_name_parse(const char *text, size_t bytes, bool escapes, uint8_t *ret_wire)
{
	if (bytes == 0)
		return -EINVAL;
	return kl_name_append(ret_wire, 0, text, bytes, escapes);
}

size_t kl_name_length(const uint8_t *name)
{
	size_t at = 0;

	while (name[at] != 0)
		at += 1u + name[at];
	return at + 1;
}

/* Eight bytes with the letters among them small. */
static uint64_t lower8(uint64_t x)
{
	const uint64_t ones = UINT64_C(0x0101010101010101);
	uint64_t low = x & (0x7f * ones);
	uint64_t from_a = low + (0x80 - 'A') * ones;
	uint64_t above_z = low + (0x7f - 'Z') * ones;
	uint64_t upper = (from_a & ~above_z & ~x) & (0x80 * ones);

	return x | upper >> 2;
}

/* The same, and large where a byte of mask has its highest bit. */
static uint64_t mix8(uint64_t x, uint64_t mask)
{
	const uint64_t ones = UINT64_C(0x0101010101010101);
	uint64_t lower = lower8(x), low = lower & (0x7f * ones);
	uint64_t from_a = low + (0x80 - 'a') * ones;
	uint64_t above_z = low + (0x7f - 'z') * ones;
	uint64_t letters = (from_a & ~above_z & ~lower) & (0x80 * ones);

	return lower ^ (letters & mask) >> 2;
}

void kl_name_mix_case(uint8_t *name, size_t bytes, const uint8_t *bits)
{
	/* Lengths of labels are no letters. */
	for (size_t i = 0; i < bytes; i += 8) {
		size_t part = bytes - i < 8 ? bytes - i : 8;
		uint64_t x = 0, mask = 0;

		memcpy(&x, name + i, part);
		for (unsigned j = 0; j < 8; j++)
			mask |= (uint64_t)!(bits[i / 8] >> j & 1) << (8 * j + 7);
		x = mix8(x, mask);
		memcpy(name + i, &x, part);
	}
}

bool kl_same_text(const uint8_t *a, const uint8_t *b, size_t bytes)
{
	uint64_t x, y;

	while (bytes >= 8) {
		/* The last part begins where it may, inside the one before it. */
		size_t step = bytes >= 16 || bytes == 8 ? 8 : bytes - 8;

		memcpy(&x, a, 8);
		memcpy(&y, b, 8);
		if (x != y && lower8(x) != lower8(y))
			return false;
		if (bytes == 8)
			return true;
		bytes -= step;
		a += step;
		b += step;
	}
	for (; bytes != 0; bytes--, a++, b++) {
		if (kl_lower(*a) != kl_lower(*b))
			return false;
	}
	return true;
}

bool kl_name_equal(const uint8_t *a, const uint8_t *b)
{
	size_t bytes = kl_name_length(a);

	/* Lengths of labels are below 'A': comparing them as text is comparing them. */
	return bytes == kl_name_length(b) && kl_same_text(a, b, bytes);
}

bool kl_name_is_below(const uint8_t *name, const uint8_t *ancestor)
{
	size_t bytes = kl_name_length(name);
	size_t wanted = kl_name_length(ancestor);

	while (bytes > wanted) {
		bytes -= 1u + name[0];
		name += 1u + name[0];
	}
	return bytes == wanted && kl_same_text(name, ancestor, bytes);
}

void kl_name_lower(uint8_t *to, const uint8_t *from, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] = kl_lower(from[i]);
}

static bool is_host_byte(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '_';
}

bool kl_name_is_host(const uint8_t *name)
{
	if (name[0] == 0 || name[1] == '-')
		return false;
	while (*name != 0) {
		unsigned bytes = *name++;

		while (bytes-- != 0) {
			if (!is_host_byte(*name++))
				return false;
		}
	}
	return true;
}

uint32_t kl_hash(uint64_t seed, const void *data, size_t bytes)
{
	const uint8_t *from = data;
	uint64_t hash = seed ^ (bytes * UINT64_C(0x9e3779b97f4a7c15));
	uint64_t part;

	while (bytes != 0) {
		size_t take = bytes < 8 ? bytes : 8;

		part = 0;
		memcpy(&part, from, take);
		hash = (hash ^ lower8(part)) * UINT64_C(0xff51afd7ed558ccd);
		hash ^= hash >> 32;
		from += take;
		bytes -= take;
	}
	hash = (hash ^ seed >> 7) * UINT64_C(0xc4ceb9fe1a85ec53);
	return (uint32_t)(hash ^ hash >> 32);
}

int kloop_dns_name_format(const uint8_t *wire, size_t wire_bytes, char *buffer, size_t bytes)
{
	char text[KLOOP_DNS_NAME_TEXT_BYTES];
	size_t at = 0, used = 0;

	if (!wire || !buffer)
		return -EINVAL;
	for (;;) {
		size_t label;

		if (at >= wire_bytes || at >= KL_NAME_BYTES || wire[at] > KL_LABEL_BYTES)
			return -EINVAL;
		label = wire[at++];
		if (label == 0)
			break;
		if (label > wire_bytes - at || at + label >= KL_NAME_BYTES)
			return -EINVAL;
		if (used != 0)
			text[used++] = '.';
		for (; label != 0; label--) {
			uint8_t c = wire[at++];

			if (is_host_byte(c)) {
				text[used++] = (char)c;
				continue;
			}
			text[used++] = '\\';
			text[used++] = (char)('0' + c / 100);
			text[used++] = (char)('0' + c / 10 % 10);
			text[used++] = (char)('0' + c % 10);
		}
	}
	if (used == 0)
		text[used++] = '.';
	if (used >= bytes)
		return -ENOSPC;
	memcpy(buffer, text, used);
	buffer[used] = '\0';
	return (int)used;
}
