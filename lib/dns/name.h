/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Domain names in wire format: labels behind their lengths, the last of length
 * 0. A "whole" name here has no compression, and was checked when it was made.
 */
#ifndef KL_DNS_NAME_H
#define KL_DNS_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KL_NAME_BYTES 255 /* of a whole name at most */
#define KL_LABEL_BYTES 63

/*
 * Text to a whole name. A dot at the end is permitted; "." is the root. With
 * escapes \DDD and \X are read, else '\' is a byte like others.
 * Returns the length, or -EINVAL: an empty or overlong label or name.
 */
int kl_name_parse(const char *text, size_t bytes, bool escapes, uint8_t *ret_wire);

/*
 * Append the labels of text to the name (without its end) that has used bytes
 * so far, and end it. Returns as kl_name_parse().
 */
int kl_name_append(uint8_t *wire, size_t used, const char *text, size_t bytes, bool escapes);

/* Length of a whole name, its end included. */
size_t kl_name_length(const uint8_t *name);

/* Are two whole names the same but for the case of letters? */
bool kl_name_equal(const uint8_t *a, const uint8_t *b);

/* Is name the same as, or below, ancestor? */
bool kl_name_is_below(const uint8_t *name, const uint8_t *ancestor);

/* Copy with all letters small. to may be from. */
void kl_name_lower(uint8_t *to, const uint8_t *from, size_t bytes);

/* Give each letter the case that its bit says: 1 for small. */
void kl_name_mix_case(uint8_t *name, size_t bytes, const uint8_t *bits);

/*
 * May the name be handed on as a host's? Letters, digits, '-' and '_' only, and
 * no '-' at its beginning; the root is none.
 */
bool kl_name_is_host(const uint8_t *name);

/* Bytes compared but for the case of ASCII letters. */
bool kl_same_text(const uint8_t *a, const uint8_t *b, size_t bytes);

/* A hash that does not know case; seed is the resolver's secret. */
uint32_t kl_hash(uint64_t seed, const void *data, size_t bytes);

static inline uint8_t kl_lower(uint8_t c)
{
	return c >= 'A' && c <= 'Z' ? (uint8_t)(c + ('a' - 'A')) : c;
}

#endif
