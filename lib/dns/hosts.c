/* SPDX-License-Identifier: MulanPSL-2.0 */
/* hosts(5). */
#include "config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "ring/memory.h"

static uint32_t hash_address(int family, const void *address)
{
	return kl_hash((uint64_t)family, address, family == AF_INET ? 4 : 16);
}

static int add_name(struct kl_hosts *hosts, uint32_t line, uint32_t name, size_t bytes)
{
	size_t count = hosts->by_name.count;
	int ret = kl_reserve((void **)&hosts->names, &hosts->name_room, count,
			     sizeof(*hosts->names));

	if (ret < 0)
		return ret;
	hosts->names[count].line = line;
	hosts->names[count].name = name;
	return kl_index_add(&hosts->by_name, kl_hash(0, hosts->store.bytes + name, bytes));
}

static int64_t store_text(struct kl_store *store, const struct kl_word *word)
{
	int64_t at = kl_store_add(store, word->text, word->bytes);

	return at < 0 ? at : kl_store_add(store, "", 1) < 0 ? -ENOMEM : at;
}

static bool parse_address(const struct kl_word *word, struct kl_hosts_line *ret_line)
{
	char text[INET6_ADDRSTRLEN];

	if (!kl_word_copy(word, text, sizeof(text)))
		return false;
	memset(ret_line->address, 0, sizeof(ret_line->address));
	ret_line->family = AF_INET;
	if (inet_pton(AF_INET, text, ret_line->address) == 1)
		return true;
	ret_line->family = AF_INET6;
	return inet_pton(AF_INET6, text, ret_line->address) == 1;
}

int kl_hosts_line(struct kl_hosts *hosts, const char *text, size_t bytes)
{
	struct kl_word rest = { text, kl_cut(text, bytes, "#") };
	struct kl_hosts_line line = { .canonical = 0 };
	struct kl_word word;
	bool first = true;
	int ret;

	if (memchr(text, '\0', rest.bytes) || !kl_word_next(&rest, &word) ||
	    !parse_address(&word, &line))
		return 0;
	while (kl_word_next(&rest, &word)) {
		int64_t at = store_text(&hosts->store, &word);

		if (at < 0)
			return -ENOMEM;
		if (first) {
			line.canonical = (uint32_t)at;
			ret = kl_reserve((void **)&hosts->lines, &hosts->line_room,
					 hosts->line_count, sizeof(*hosts->lines));
			if (ret == 0)
				ret = kl_index_add(&hosts->by_address,
						   hash_address(line.family, line.address));
			if (ret < 0)
				return ret;
			hosts->lines[hosts->line_count++] = line;
			first = false;
		}
		ret = add_name(hosts, (uint32_t)hosts->line_count - 1, (uint32_t)at, word.bytes);
		if (ret < 0)
			return ret;
	}
	return 0;
}

const struct kl_hosts_line *kl_hosts_find(const struct kl_hosts *hosts, const char *name,
					  uint32_t *position)
{
	size_t bytes = strlen(name);
	uint32_t item = *position == 0 ? kl_index_first(&hosts->by_name, kl_hash(0, name, bytes)) :
					 kl_index_next(&hosts->by_name, *position - 1);
	/* A name that stands twice in a line is one. */
	uint32_t last = *position == 0 ? UINT32_MAX : hosts->names[*position - 1].line;

	for (; item != KL_INDEX_END; item = kl_index_next(&hosts->by_name, item)) {
		const char *text = hosts->store.bytes + hosts->names[item].name;

		if (hosts->names[item].line == last || strlen(text) != bytes ||
		    !kl_same_text((const uint8_t *)text, (const uint8_t *)name, bytes))
			continue;
		*position = item + 1;
		return &hosts->lines[hosts->names[item].line];
	}
	return NULL;
}

const char *kl_hosts_canonical(const struct kl_hosts *hosts, const struct kl_hosts_line *line)
{
	return hosts->store.bytes + line->canonical;
}

const char *kl_hosts_reverse(const struct kl_hosts *hosts, int family, const void *address)
{
	uint32_t item = kl_index_first(&hosts->by_address, hash_address(family, address));

	for (; item != KL_INDEX_END; item = kl_index_next(&hosts->by_address, item)) {
		const struct kl_hosts_line *line = &hosts->lines[item];

		if (line->family == family &&
		    memcmp(line->address, address, family == AF_INET ? 4 : 16) == 0)
			return kl_hosts_canonical(hosts, line);
	}
	return NULL;
}

void kl_hosts_free(struct kl_hosts *hosts)
{
	kl_free(hosts->lines);
	kl_free(hosts->names);
	kl_index_free(&hosts->by_name);
	kl_index_free(&hosts->by_address);
	kl_free(hosts->store.bytes);
	memset(hosts, 0, sizeof(*hosts));
}
