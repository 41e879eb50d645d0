/* SPDX-License-Identifier: MulanPSL-2.0 */
/* resolv.conf(5), as res_init of glibc reads it. */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "ring/memory.h"

#define NDOTS_MAX 15
#define TIMEOUT_MAX_S 30
#define ATTEMPTS_MAX 5

void kl_resolv_init(struct kl_resolv *resolv)
{
	memset(resolv, 0, sizeof(*resolv));
	resolv->ndots = 1;
	resolv->timeout_s = 5;
	resolv->attempts = 2;
}

static void clear_search(struct kl_resolv *resolv)
{
	for (unsigned i = 0; i < resolv->search_count; i++)
		kl_free(resolv->search[i]);
	resolv->search_count = 0;
}

static int add_search(struct kl_resolv *resolv, const struct kl_word *word)
{
	uint8_t name[KL_NAME_BYTES];
	char *copy;

	if (resolv->search_count == KL_SEARCH_MAX || memchr(word->text, '\0', word->bytes))
		return 0;
	/* "." means the root; other dots at the beginning are not part of a name. */
	if (kl_name_parse(word->text, word->bytes, false, name) < 0)
		return 0;
	copy = kl_malloc(word->bytes + 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, word->text, word->bytes);
	copy[word->bytes] = '\0';
	resolv->search[resolv->search_count++] = copy;
	return 0;
}

/* The last line of "domain" and "search" counts; a domain is one name. */
static int set_search(struct kl_resolv *resolv, struct kl_word rest, bool one)
{
	struct kl_word word;
	int ret = 0;

	clear_search(resolv);
	resolv->search_given = true;
	while (ret == 0 && kl_word_next(&rest, &word)) {
		ret = add_search(resolv, &word);
		if (one)
			break;
	}
	return ret;
}

static void add_server(struct kl_resolv *resolv, struct kl_word rest)
{
	struct kloop_address address;
	struct kl_word word;
	char text[KLOOP_ADDRESS_TEXT_BYTES];

	if (resolv->server_count == KL_CONF_SERVERS_MAX || !kl_word_next(&rest, &word) ||
	    !kl_word_copy(&word, text, sizeof(text)) || kl_numeric_parse(text, &address) < 0)
		return;
	if (address.u.any.sa_family == AF_INET)
		address.u.ip4.sin_port = htons(53);
	else
		address.u.ip6.sin6_port = htons(53);
	resolv->servers[resolv->server_count++] = address;
}

/* A number behind "name:", as atoi(3) reads it, to max. */
static bool option_number(const struct kl_word *word, const char *name, unsigned max,
			  unsigned *ret_number)
{
	struct kl_word digits = { word->text + strlen(name), 0 };
	size_t bytes = strlen(name);

	if (word->bytes < bytes || memcmp(word->text, name, bytes) != 0)
		return false;
	while (bytes + digits.bytes < word->bytes && digits.text[digits.bytes] >= '0' &&
	       digits.text[digits.bytes] <= '9')
		digits.bytes++;
	if (!kl_word_number(&digits, max, ret_number))
		*ret_number = digits.bytes != 0 ? max : 0;
	return true;
}

static void set_options(struct kl_resolv *resolv, struct kl_word rest)
{
	static const struct {
		const char *name;
		unsigned bit;
	} flags[] = {
		{ "rotate", KL_RESOLV_ROTATE },
		{ "single-request", KL_RESOLV_SINGLE_REQUEST },
		{ "single-request-reopen", KL_RESOLV_SINGLE_REQUEST },
		{ "no_tld_query", KL_RESOLV_NO_TLD_QUERY },
		{ "no-tld-query", KL_RESOLV_NO_TLD_QUERY },
		{ "use-vc", KL_RESOLV_USE_VC },
		{ "trust-ad", KL_RESOLV_TRUST_AD },
		{ "no-aaaa", KL_RESOLV_NO_AAAA },
		{ "no-reload", KL_RESOLV_NO_RELOAD },
		{ "edns0", KL_RESOLV_EDNS0 },
	};
	struct kl_word word;

	while (kl_word_next(&rest, &word)) {
		if (option_number(&word, "ndots:", NDOTS_MAX, &resolv->ndots) ||
		    option_number(&word, "attempts:", ATTEMPTS_MAX, &resolv->attempts) ||
		    option_number(&word, "timeout:", TIMEOUT_MAX_S, &resolv->timeout_s))
			continue;
		for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
			if (kl_word_is(&word, flags[i].name))
				resolv->options |= flags[i].bit;
		}
	}
}

int kl_resolv_line(struct kl_resolv *resolv, const char *text, size_t bytes)
{
	struct kl_word rest = { text, bytes };
	struct kl_word keyword;

	/* Keywords stand at the beginning of the line; comments fill whole lines. */
	if (bytes == 0 || *text == ';' || *text == '#' || *text == ' ' || *text == '\t' ||
	    !kl_word_next(&rest, &keyword))
		return 0;
	if (kl_word_is(&keyword, "domain"))
		return set_search(resolv, rest, true);
	if (kl_word_is(&keyword, "search"))
		return set_search(resolv, rest, false);
	if (kl_word_is(&keyword, "nameserver"))
		add_server(resolv, rest);
	else if (kl_word_is(&keyword, "options"))
		set_options(resolv, rest);
	return 0;
}

int kl_resolv_environment(struct kl_resolv *resolv, const char *localdomain, const char *options)
{
	if (options)
		set_options(resolv, (struct kl_word){ options, strlen(options) });
	if (!localdomain)
		return 0;
	return set_search(resolv, (struct kl_word){ localdomain, strlen(localdomain) }, false);
}

int kl_resolv_finish(struct kl_resolv *resolv, const char *hostname)
{
	const char *dot = hostname ? strchr(hostname, '.') : NULL;

	if (resolv->attempts == 0)
		resolv->attempts = 1;
	if (resolv->timeout_s == 0)
		resolv->timeout_s = 1;
	if (resolv->server_count == 0) {
		struct kloop_address *address = &resolv->servers[resolv->server_count++];

		memset(address, 0, sizeof(*address));
		address->length = sizeof(address->u.ip4);
		address->u.ip4.sin_family = AF_INET;
		address->u.ip4.sin_port = htons(53);
		address->u.ip4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	}
	if (!resolv->search_given && dot)
		return add_search(resolv, &(struct kl_word){ dot + 1, strlen(dot + 1) });
	return 0;
}

void kl_resolv_free(struct kl_resolv *resolv)
{
	clear_search(resolv);
}
