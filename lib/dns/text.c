/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "text.h"
#include "name.h"

#include <errno.h>
#include <string.h>

#include "ring/memory.h"

/* ---- lines -------------------------------------------------------------- */

/* Keep the beginning of a line whose end has not come yet. */
static int keep(struct kl_lines *lines, const char *data, size_t bytes)
{
	if (lines->overlong || bytes > KL_LINE_BYTES - lines->used) {
		lines->overlong = true;
		lines->used = 0;
		return 0;
	}
	if (lines->room - lines->used < bytes) {
		size_t room = lines->room != 0 ? lines->room : 256;
		char *grown;

		while (room - lines->used < bytes)
			room *= 2;
		grown = kl_realloc(lines->partial, room);
		if (!grown)
			return -ENOMEM;
		lines->partial = grown;
		lines->room = room;
	}
	if (bytes != 0)
		memcpy(lines->partial + lines->used, data, bytes);
	lines->used += bytes;
	return 0;
}

static int finish_line(struct kl_lines *lines, const char *data, size_t bytes)
{
	int ret = 0;

	if (lines->overlong) {
		lines->overlong = false;
	} else if (lines->used == 0) {
		if (bytes <= KL_LINE_BYTES)
			ret = lines->line(lines->owner, data, bytes);
	} else {
		ret = keep(lines, data, bytes);
		if (ret == 0 && !lines->overlong)
			ret = lines->line(lines->owner, lines->partial, lines->used);
		lines->overlong = false;
	}
	lines->used = 0;
	return ret;
}

int kl_lines_feed(struct kl_lines *lines, const char *data, size_t bytes)
{
	while (bytes != 0) {
		const char *end = memchr(data, '\n', bytes);
		size_t length = end ? (size_t)(end - data) : bytes;
		int ret;

		if (!end)
			return keep(lines, data, bytes);
		ret = finish_line(lines, data, length);
		if (ret < 0)
			return ret;
		data += length + 1;
		bytes -= length + 1;
	}
	return 0;
}

int kl_lines_end(struct kl_lines *lines)
{
	int ret = lines->used != 0 ? finish_line(lines, "", 0) : 0;

	kl_lines_free(lines);
	return ret;
}

void kl_lines_free(struct kl_lines *lines)
{
	kl_free(lines->partial);
	lines->partial = NULL;
	lines->used = lines->room = 0;
	lines->overlong = false;
}

/* ---- words -------------------------------------------------------------- */

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

bool kl_word_next(struct kl_word *rest, struct kl_word *ret_word)
{
	while (rest->bytes != 0 && is_blank(*rest->text)) {
		rest->text++;
		rest->bytes--;
	}
	if (rest->bytes == 0)
		return false;
	ret_word->text = rest->text;
	ret_word->bytes = 0;
	while (rest->bytes != 0 && !is_blank(*rest->text)) {
		ret_word->bytes++;
		rest->text++;
		rest->bytes--;
	}
	return true;
}

bool kl_word_is(const struct kl_word *word, const char *text)
{
	return strlen(text) == word->bytes && memcmp(word->text, text, word->bytes) == 0;
}

bool kl_word_same(const struct kl_word *word, const char *text)
{
	return strlen(text) == word->bytes &&
	       kl_same_text((const uint8_t *)word->text, (const uint8_t *)text, word->bytes);
}

bool kl_word_number(const struct kl_word *word, unsigned max, unsigned *ret_number)
{
	uint64_t number = 0;

	if (word->bytes == 0)
		return false;
	for (size_t i = 0; i < word->bytes; i++) {
		if (word->text[i] < '0' || word->text[i] > '9')
			return false;
		number = number * 10 + (unsigned)(word->text[i] - '0');
		if (number > max)
			return false;
	}
	*ret_number = (unsigned)number;
	return true;
}

bool kl_word_copy(const struct kl_word *word, char *buffer, size_t bytes)
{
	if (word->bytes >= bytes || memchr(word->text, '\0', word->bytes))
		return false;
	memcpy(buffer, word->text, word->bytes);
	buffer[word->bytes] = '\0';
	return true;
}

size_t kl_cut(const char *text, size_t bytes, const char *characters)
{
	for (size_t i = 0; i < bytes; i++) {
		if (text[i] != '\0' && strchr(characters, text[i]))
			return i;
	}
	return bytes;
}

/* ---- index and stores ---------------------------------------------------- */

static void link_item(struct kl_index *index, uint32_t item)
{
	uint32_t bucket = index->hashes[item] & (index->room - 1);

	index->next[item] = KL_INDEX_END;
	if (index->heads[bucket] == 0)
		index->heads[bucket] = item + 1;
	else
		index->next[index->tails[bucket] - 1] = item;
	index->tails[bucket] = item + 1;
}

static int grow_index(struct kl_index *index)
{
	uint32_t room = index->room != 0 ? 2 * index->room : 16;
	uint32_t *memory;

	if (room > UINT32_MAX / 32)
		return -ENOMEM;
	memory = kl_calloc(room, 4 * sizeof(*memory));
	if (!memory)
		return -ENOMEM;
	if (index->count != 0)
		memcpy(memory + 3 * (size_t)room, index->hashes, index->count * sizeof(*memory));
	kl_free(index->heads);
	index->heads = memory;
	index->tails = memory + room;
	index->next = memory + 2 * (size_t)room;
	index->hashes = memory + 3 * (size_t)room;
	index->room = room;
	for (uint32_t item = 0; item < index->count; item++)
		link_item(index, item);
	return 0;
}

int kl_index_add(struct kl_index *index, uint32_t hash)
{
	if (index->count == index->room) {
		int ret = grow_index(index);

		if (ret < 0)
			return ret;
	}
	index->hashes[index->count] = hash;
	link_item(index, index->count++);
	return 0;
}

/* The first item from here on that has exactly the hash. */
static uint32_t find_from(const struct kl_index *index, uint32_t item, uint32_t hash)
{
	while (item != KL_INDEX_END && index->hashes[item] != hash)
		item = index->next[item];
	return item;
}

uint32_t kl_index_first(const struct kl_index *index, uint32_t hash)
{
	uint32_t head = index->count != 0 ? index->heads[hash & (index->room - 1)] : 0;

	return head != 0 ? find_from(index, head - 1, hash) : KL_INDEX_END;
}

uint32_t kl_index_next(const struct kl_index *index, uint32_t item)
{
	return find_from(index, index->next[item], index->hashes[item]);
}

void kl_index_free(struct kl_index *index)
{
	kl_free(index->heads); /* the others lie behind it */
	memset(index, 0, sizeof(*index));
}

int64_t kl_store_add(struct kl_store *store, const void *data, size_t bytes)
{
	size_t at = store->used;

	if (store->room - store->used < bytes) {
		size_t room = store->room != 0 ? store->room : 1024;
		char *grown;

		while (room - store->used < bytes)
			room *= 2;
		if (room > UINT32_MAX)
			return -ENOMEM;
		grown = kl_realloc(store->bytes, room);
		if (!grown)
			return -ENOMEM;
		store->bytes = grown;
		store->room = room;
	}
	memcpy(store->bytes + at, data, bytes);
	store->used += bytes;
	return (int64_t)at;
}

int kl_reserve(void **items, size_t *room, size_t count, size_t item_bytes)
{
	size_t wanted = *room != 0 ? 2 * *room : 16;
	void *grown;

	if (count < *room)
		return 0;
	grown = kl_realloc(*items, wanted * item_bytes);
	if (!grown)
		return -ENOMEM;
	*items = grown;
	*room = wanted;
	return 0;
}
