/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "search.h"

#include <errno.h>
#include <string.h>

/* Steps: first as it is, list entry n at n + 1, at last as it is. */
#define LAST_STEP (KL_SEARCH_MAX + 1)

int kl_search_begin(struct kl_search *search, const struct kl_config *config, const char *text,
		    bool escapes, bool alone)
{
	uint8_t name[KL_NAME_BYTES];
	size_t bytes = strlen(text);

	memset(search, 0, sizeof(*search));
	search->config = config;
	search->text = text;
	search->escapes = escapes;
	search->last = KLOOP_ERROR_DNS_NONAME;
	if (kl_name_parse(text, bytes, escapes, name) < 0)
		return -EINVAL;
	search->absolute = alone || text[bytes - 1] == '.';
	if (text[bytes - 1] == '.' && bytes > 1)
		bytes--;
	search->bytes = bytes;
	for (size_t i = 0; i < bytes; i++)
		search->dots += text[i] == '.';
	return 0;
}

static int as_it_is(struct kl_search *search, uint8_t *ret_name)
{
	int bytes = kl_name_parse(search->text, search->bytes, search->escapes, ret_name);

	search->tried_as_is = true;
	return bytes > 0 ? bytes : 0;
}

/* With a domain of the list behind it. A name that gets too long is left out. */
static int with_domain(struct kl_search *search, const char *domain, uint8_t *ret_name)
{
	int bytes = kl_name_parse(search->text, search->bytes, search->escapes, ret_name);

	search->searched = true;
	if (*domain == '.')
		domain++;
	if (*domain == '\0') {
		search->root_on_list = true;
		return bytes > 0 ? bytes : 0;
	}
	if (bytes > 0)
		bytes = kl_name_append(ret_name, (size_t)bytes - 1, domain, strlen(domain), false);
	return bytes > 0 ? bytes : 0;
}

int kl_search_next(struct kl_search *search, uint8_t *ret_name)
{
	const struct kl_resolv *resolv = &search->config->resolv;
	int bytes = 0;

	while (bytes == 0 && search->step <= LAST_STEP) {
		unsigned step = search->step++;

		if (step == 0) {
			if (search->dots >= resolv->ndots || search->absolute)
				bytes = as_it_is(search, ret_name);
			continue;
		}
		if (search->absolute)
			return 0;
		if (step <= resolv->search_count) {
			bytes = with_domain(search, resolv->search[step - 1], ret_name);
			continue;
		}
		search->step = LAST_STEP + 1;
		if (search->tried_as_is || search->root_on_list)
			return 0;
		if (search->dots == 0 && search->searched &&
		    (resolv->options & KL_RESOLV_NO_TLD_QUERY))
			return 0;
		return as_it_is(search, ret_name);
	}
	return bytes;
}

bool kl_search_go_on(struct kl_search *search, int result, bool servfail)
{
	search->last = result;
	if (search->step == 1) {
		search->saved = result;
		return !search->absolute;
	}
	if (result == KLOOP_ERROR_DNS_NODATA) {
		search->got_nodata = true;
		return true;
	}
	if (result == KLOOP_ERROR_DNS_NONAME)
		return true;
	/* A server that fails at this name may know another one; none at all will not. */
	search->got_failure = true;
	return servfail;
}

int kl_search_result(const struct kl_search *search)
{
	if (search->saved != 0)
		return search->saved;
	if (search->got_nodata)
		return KLOOP_ERROR_DNS_NODATA;
	if (search->got_failure && search->last == KLOOP_ERROR_DNS_NONAME)
		return KLOOP_ERROR_DNS_AGAIN;
	return search->last;
}
