/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Names and numeric addresses as users give them; names in wire format as text. */
#include "dns/search.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

static void search(const char *text)
{
	struct kl_config *config = kl_config_new();
	uint8_t name[KL_NAME_BYTES];
	struct kl_search state;
	int steps = 0;

	if (!config)
		return;
	(void)kl_resolv_line(&config->resolv, "search one.test . two.test", 26);
	if (kl_search_begin(&state, config, text, false, false) == 0) {
		while (kl_search_next(&state, name) > 0) {
			if (++steps > 10)
				abort();
			if (!kl_search_go_on(&state, KLOOP_ERROR_DNS_NONAME, false))
				break;
		}
		if (kl_search_result(&state) >= 0)
			abort();
	}
	kl_config_unref(config);
}

/* Numeric addresses are what glibc takes for such, and the same. */
static void compare_numeric(const char *text)
{
	const struct addrinfo hints = { .ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM };
	struct kloop_address address;
	struct addrinfo *found;
	int ours = kl_numeric_parse(text, &address);
	int theirs = getaddrinfo(text, NULL, &hints, &found);

	if (theirs == EAI_MEMORY || theirs == EAI_SYSTEM)
		return;
	if ((ours == 0) != (theirs == 0))
		abort();
	if (theirs != 0)
		return;
	if (found->ai_addrlen != address.length ||
	    memcmp(found->ai_addr, &address.u, address.length) != 0)
		abort();
	freeaddrinfo(found);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[2048], formatted[KLOOP_DNS_NAME_TEXT_BYTES];
	uint8_t name[KL_NAME_BYTES], again[KL_NAME_BYTES];
	int bytes;

	if (kloop_dns_name_format(data, size, formatted, sizeof(formatted)) >=
	    (int)sizeof(formatted))
		abort();
	if (size >= sizeof(text))
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	compare_numeric(text);
	search(text);
	for (int escapes = 0; escapes < 2; escapes++) {
		bytes = kl_name_parse(text, strlen(text), escapes, name);
		if (bytes < 0)
			continue;
		if ((size_t)bytes != kl_name_length(name))
			abort();
		/* What is written can be read again, and is the same. */
		if (kloop_dns_name_format(name, (size_t)bytes, formatted, sizeof(formatted)) < 0 ||
		    kl_name_parse(formatted, strlen(formatted), true, again) != bytes ||
		    memcmp(name, again, (size_t)bytes) != 0)
			abort();
	}
	return 0;
}
