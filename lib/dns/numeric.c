/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Numeric addresses, as getaddrinfo(3) of glibc takes them. */
#include "config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <string.h>

/* Interfaces have names for addresses of a link only; a number goes with each address. */
static int parse_scope(const struct in6_addr *address, const char *scope, uint32_t *ret_id)
{
	struct kl_word word = { scope, strlen(scope) };
	unsigned number;

	if (IN6_IS_ADDR_LINKLOCAL(address) || IN6_IS_ADDR_MC_LINKLOCAL(address)) {
		number = word.bytes < IF_NAMESIZE ? if_nametoindex(scope) : 0;
		if (number != 0) {
			*ret_id = number;
			return 0;
		}
	}
	if (!kl_word_number(&word, UINT32_MAX, &number))
		return -ENODEV;
	*ret_id = number;
	return 0;
}

static int parse_ip6(const char *text, struct kloop_address *ret_address)
{
	struct kloop_address address = { .length = sizeof(address.u.ip6) };
	const char *scope = strchr(text, '%');
	struct kl_word word = { text, scope ? (size_t)(scope - text) : strlen(text) };
	char host[INET6_ADDRSTRLEN];
	int ret = 0;

	memset(&address.u, 0, sizeof(address.u));
	address.u.ip6.sin6_family = AF_INET6;
	if (!kl_word_copy(&word, host, sizeof(host)) ||
	    inet_pton(AF_INET6, host, &address.u.ip6.sin6_addr) != 1)
		return -EINVAL;
	if (scope)
		ret = parse_scope(&address.u.ip6.sin6_addr, scope + 1,
				  &address.u.ip6.sin6_scope_id);
	if (ret == 0)
		*ret_address = address;
	return ret;
}

int kl_numeric_parse(const char *text, struct kloop_address *ret_address)
{
	struct kloop_address address = { .length = sizeof(address.u.ip4) };

	if (strchr(text, ':'))
		return parse_ip6(text, ret_address);
	memset(&address.u, 0, sizeof(address.u));
	/* inet_aton(3) ignores what follows a blank. */
	if (text[0] < '0' || text[0] > '9' || kl_cut(text, strlen(text), " \t\n\v\f\r") != strlen(text) ||
	    inet_aton(text, &address.u.ip4.sin_addr) == 0)
		return -EINVAL;
	address.u.ip4.sin_family = AF_INET;
	*ret_address = address;
	return 0;
}
