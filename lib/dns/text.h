/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the parsers of configuration files share: lines out of pieces of a file,
 * words out of lines, numbers, and an index by hash. Parsers never fail for
 * what a file says: a line that means nothing is left out.
 */
#ifndef KL_DNS_TEXT_H
#define KL_DNS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Longer lines are left out as a whole. */
#define KL_LINE_BYTES 65536

/* Part of a text, without an end of its own. */
struct kl_word {
	const char *text;
	size_t bytes;
};

/*
 * Splits a file that comes in pieces. line is called for each line without its
 * end; what it returns below 0 (-ENOMEM) ends the parse.
 */
struct kl_lines {
	int (*line)(void *owner, const char *text, size_t bytes);
	void *owner;
	char *partial;
	size_t used;
	size_t room;
	bool overlong; /* the line in progress is being left out */
};

int kl_lines_feed(struct kl_lines *lines, const char *data, size_t bytes);
/* The end of the file: the last line may lack its end. Frees what was held. */
int kl_lines_end(struct kl_lines *lines);
void kl_lines_free(struct kl_lines *lines);

/* The next word between blanks of *rest; false at the end. */
bool kl_word_next(struct kl_word *rest, struct kl_word *ret_word);
bool kl_word_is(const struct kl_word *word, const char *text);
/* But for case. */
bool kl_word_same(const struct kl_word *word, const char *text);
/* A whole word as a decimal number to max; false if it is none. */
bool kl_word_number(const struct kl_word *word, unsigned max, unsigned *ret_number);
/* Copied into a buffer, with an end; false if it does not fit or has a 0 in it. */
bool kl_word_copy(const struct kl_word *word, char *buffer, size_t bytes);
/* Cut the line at the first of these characters. */
size_t kl_cut(const char *text, size_t bytes, const char *characters);

/* Items numbered from 0 in the order of their addition, found by hash. */
struct kl_index {
	uint32_t *heads; /* item + 1 */
	uint32_t *tails; /* so that the items of a hash come in their order */
	uint32_t *next;  /* by item */
	uint32_t *hashes;
	uint32_t count;
	uint32_t room; /* items; heads are as many, a power of two */
};

#define KL_INDEX_END UINT32_MAX

/* Add the next item; 0 or -ENOMEM. */
int kl_index_add(struct kl_index *index, uint32_t hash);
/* Items that may have this hash: the first, the one after. */
uint32_t kl_index_first(const struct kl_index *index, uint32_t hash);
uint32_t kl_index_next(const struct kl_index *index, uint32_t item);
void kl_index_free(struct kl_index *index);

/* Bytes appended to a growing store; the offset, or -ENOMEM. The store ends at 4 GiB. */
struct kl_store {
	char *bytes;
	size_t used;
	size_t room;
};

int64_t kl_store_add(struct kl_store *store, const void *data, size_t bytes);

/* Make room for one more item of an array. 0 or -ENOMEM. */
int kl_reserve(void **items, size_t *room, size_t count, size_t item_bytes);

#endif
