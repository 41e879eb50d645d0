/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The "hosts" line of nsswitch.conf(5), and "multi" of host.conf(5). */
#include "config.h"

#include <string.h>

static void add_module(struct kl_nsswitch *nsswitch, unsigned module)
{
	if (nsswitch->count == KL_MODULES_MAX) {
		/* What comes behind is not known: nothing may be said without it. */
		nsswitch->modules[KL_MODULES_MAX - 1].module = KL_MODULE_FOREIGN;
		return;
	}
	nsswitch->modules[nsswitch->count].module = (uint8_t)module;
	nsswitch->modules[nsswitch->count].returns = 1 << KL_NSS_SUCCESS;
	nsswitch->modules[nsswitch->count].merges = false;
	nsswitch->count++;
}

void kl_nsswitch_init(struct kl_nsswitch *nsswitch)
{
	memset(nsswitch, 0, sizeof(*nsswitch));
	/* What glibc takes where the file says nothing. */
	add_module(nsswitch, KL_MODULE_FILES);
	add_module(nsswitch, KL_MODULE_DNS);
}

static unsigned find_module(const struct kl_word *word)
{
	static const struct {
		const char *name;
		unsigned module;
	} names[] = {
		{ "files", KL_MODULE_FILES },
		{ "dns", KL_MODULE_DNS },
		{ "resolve", KL_MODULE_DNS },
		{ "myhostname", KL_MODULE_MYHOSTNAME },
		{ "mdns", KL_MODULE_MDNS },
		{ "mdns4", KL_MODULE_MDNS },
		{ "mdns6", KL_MODULE_MDNS },
		{ "mdns_minimal", KL_MODULE_MDNS },
		{ "mdns4_minimal", KL_MODULE_MDNS },
		{ "mdns6_minimal", KL_MODULE_MDNS },
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (kl_word_is(word, names[i].name))
			return names[i].module;
	}
	return KL_MODULE_FOREIGN;
}

/* "NOTFOUND=return", "!UNAVAIL=return": which states it is about, and what to do then. */
static void take_action(struct kl_nsswitch *nsswitch, struct kl_word word)
{
	static const char *const states[] = { "SUCCESS", "NOTFOUND", "UNAVAIL", "TRYAGAIN" };
	size_t equals = kl_cut(word.text, word.bytes, "=");
	bool negated = word.bytes != 0 && word.text[0] == '!';
	struct kl_word state = { word.text + negated, equals - negated };
	struct kl_word action = { word.text + equals, word.bytes - equals };
	unsigned bits = 0;

	if (nsswitch->count == 0)
		return;
	for (unsigned i = 0; i < 4; i++) {
		if (kl_word_same(&state, states[i]))
			bits = 1u << i;
	}
	if (negated)
		bits = ~bits & 15;
	if (kl_word_same(&action, "=return"))
		nsswitch->modules[nsswitch->count - 1].returns |= (uint8_t)bits;
	else if (kl_word_same(&action, "=continue") && bits != 1u << KL_NSS_SUCCESS)
		nsswitch->modules[nsswitch->count - 1].returns &= (uint8_t)~bits;
	else
		nsswitch->modules[nsswitch->count - 1].merges = true;
}

/* Actions stand between brackets, with blanks or without. */
static void take_list(struct kl_nsswitch *nsswitch, const char *text, size_t bytes)
{
	bool inside = false;
	size_t at = 0;

	while (at < bytes) {
		struct kl_word rest = { text + at, bytes - at };
		struct kl_word word;
		size_t end;

		if (text[at] == '[' || text[at] == ']') {
			inside = text[at++] == '[';
			continue;
		}
		end = kl_cut(rest.text, rest.bytes, "[]");
		rest.bytes = end;
		while (kl_word_next(&rest, &word)) {
			if (inside)
				take_action(nsswitch, word);
			else
				add_module(nsswitch, find_module(&word));
		}
		at += end;
	}
}

int kl_nsswitch_line(struct kl_nsswitch *nsswitch, const char *text, size_t bytes)
{
	size_t colon, end = kl_cut(text, bytes, "#");
	struct kl_word rest, database;

	colon = kl_cut(text, end, ":");
	rest = (struct kl_word){ text, colon };
	if (colon == end || memchr(text, '\0', end) || !kl_word_next(&rest, &database) ||
	    !kl_word_is(&database, "hosts") || nsswitch->given)
		return 0;
	nsswitch->given = true;
	nsswitch->count = 0;
	take_list(nsswitch, text + colon + 1, end - colon - 1);
	return 0;
}

int kl_host_conf_line(struct kl_nsswitch *nsswitch, const char *text, size_t bytes)
{
	struct kl_word rest = { text, kl_cut(text, bytes, "#") };
	struct kl_word keyword, value;

	if (kl_word_next(&rest, &keyword) && kl_word_next(&rest, &value) &&
	    kl_word_same(&keyword, "multi"))
		nsswitch->multi = kl_word_same(&value, "on");
	return 0;
}
