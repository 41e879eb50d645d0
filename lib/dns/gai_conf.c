/* SPDX-License-Identifier: MulanPSL-2.0 */
/* gai.conf(5), and the tables that hold without it. */
#include "config.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

/* A prefix "address/bits"; without bits it is one address. */
static bool parse_prefix(const struct kl_word *word, struct kl_prefix *ret_prefix)
{
	size_t slash = kl_cut(word->text, word->bytes, "/");
	struct kl_word address = { word->text, slash };
	struct kl_word bits = { word->text + slash + 1, 0 };
	char text[INET6_ADDRSTRLEN];
	uint8_t ip4[4];

	if (!kl_word_copy(&address, text, sizeof(text)))
		return false;
	ret_prefix->bits = 128;
	if (slash < word->bytes) {
		bits.bytes = word->bytes - slash - 1;
		if (!kl_word_number(&bits, 128, &ret_prefix->bits))
			return false;
	}
	if (inet_pton(AF_INET6, text, ret_prefix->address) == 1)
		return true;
	if (inet_pton(AF_INET, text, ip4) != 1 || (slash < word->bytes && ret_prefix->bits > 32))
		return false;
	memset(ret_prefix->address, 0, 10);
	memset(ret_prefix->address + 10, 0xff, 2);
	memcpy(ret_prefix->address + 12, ip4, 4);
	ret_prefix->bits = slash < word->bytes ? ret_prefix->bits + 96 : 128;
	return true;
}

static void add_prefix(struct kl_prefixes *prefixes, struct kl_word rest, bool only4)
{
	struct kl_prefix prefix = { .bits = 0 };
	struct kl_word word, value;
	struct in6_addr ip6;
	unsigned number;

	if (!kl_word_next(&rest, &word) || !kl_word_next(&rest, &value) ||
	    !parse_prefix(&word, &prefix) || !kl_word_number(&value, INT32_MAX, &number) ||
	    prefixes->count == KL_PREFIXES_MAX)
		return;
	ip6 = kl_ip6(prefix.address);
	if (only4 && (prefix.bits < 96 || !IN6_IS_ADDR_V4MAPPED(&ip6)))
		return;
	prefix.value = (int)number;
	prefixes->prefixes[prefixes->count++] = prefix;
	prefixes->given = true;
}

int kl_gai_line(struct kl_gai *gai, const char *text, size_t bytes)
{
	struct kl_word rest = { text, kl_cut(text, bytes, "#") };
	struct kl_word keyword;

	if (!kl_word_next(&rest, &keyword))
		return 0;
	if (kl_word_same(&keyword, "label"))
		add_prefix(&gai->labels, rest, false);
	else if (kl_word_same(&keyword, "precedence"))
		add_prefix(&gai->precedences, rest, false);
	else if (kl_word_same(&keyword, "scopev4"))
		add_prefix(&gai->scopes4, rest, true);
	return 0;
}

static int by_length(const void *a, const void *b)
{
	const struct kl_prefix *x = a, *y = b;

	return (x->bits < y->bits) - (x->bits > y->bits);
}

static void finish(struct kl_prefixes *prefixes, const char *const *defaults, int last)
{
	bool has_last = false;

	if (!prefixes->given) {
		for (; *defaults; defaults++) {
			struct kl_word line = { *defaults, strlen(*defaults) };

			add_prefix(prefixes, line, false);
		}
		prefixes->given = false;
	}
	for (unsigned i = 0; i < prefixes->count; i++)
		has_last = has_last || prefixes->prefixes[i].bits == 0;
	if (!has_last) {
		if (prefixes->count == KL_PREFIXES_MAX)
			prefixes->count--;
		memset(&prefixes->prefixes[prefixes->count], 0, sizeof(prefixes->prefixes[0]));
		prefixes->prefixes[prefixes->count++].value = last;
	}
	qsort(prefixes->prefixes, prefixes->count, sizeof(prefixes->prefixes[0]), by_length);
}

void kl_gai_finish(struct kl_gai *gai)
{
	static const char *const labels[] = { "::1/128 0",	 "2002::/16 2", "::/96 3",
					      "::ffff:0:0/96 4", "fec0::/10 5", "fc00::/7 6",
					      "2001::/32 7",	 NULL };
	static const char *const precedences[] = { "::1/128 50", "2002::/16 30", "::/96 20",
						   "::ffff:0:0/96 10", NULL };
	static const char *const scopes4[] = { "::ffff:169.254.0.0/112 2", "::ffff:127.0.0.0/104 2",
					       NULL };

	finish(&gai->labels, labels, 1);
	finish(&gai->precedences, precedences, 40);
	finish(&gai->scopes4, scopes4, 14);
}

int kl_prefixes_match(const struct kl_prefixes *prefixes, const uint8_t address[16])
{
	for (unsigned i = 0; i < prefixes->count; i++) {
		const struct kl_prefix *prefix = &prefixes->prefixes[i];

		if (kl_common_bits(prefix->address, address) >= prefix->bits)
			return prefix->value;
	}
	return 0;
}
