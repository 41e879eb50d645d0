/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Where addresses come from: numbers, files, names that are fixed, the cache, the network. */
#include "gai.h"
#include "query.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

/* ---- what was found ------------------------------------------------------- */

static int add(struct kl_finder *finder, int family, const void *address, uint32_t scope_id)
{
	struct kl_found_address *found;
	int ret;

	if (finder->count == KL_ADDRESSES_MAX)
		return 0;
	ret = kl_reserve((void **)&finder->found, &finder->room, finder->count,
			 sizeof(*finder->found));
	if (ret < 0)
		return ret;
	found = &finder->found[finder->count++];
	memset(found, 0, sizeof(*found));
	found->family = (uint8_t)family;
	found->scope_id = scope_id;
	memcpy(found->address, address, family == AF_INET ? 4 : 16);
	return 0;
}

/* An IPv4 address for somebody who wants IPv6. */
static int add_mapped(struct kl_finder *finder, const uint8_t *ip4)
{
	uint8_t mapped[16] = { [10] = 0xff, [11] = 0xff };

	memcpy(mapped + 12, ip4, 4);
	return add(finder, AF_INET6, mapped, 0);
}

static bool wants_mapped(const struct kl_finder *finder)
{
	return finder->family == AF_INET6 && (finder->request->flags & AI_V4MAPPED);
}

/* ---- without a name, and numbers ------------------------------------------ */

static int find_nobody(struct kl_finder *finder)
{
	bool passive = finder->request->flags & AI_PASSIVE;
	const struct in_addr ip4 = { passive ? INADDR_ANY : htonl(INADDR_LOOPBACK) };
	const struct in6_addr *ip6 = passive ? &in6addr_any : &in6addr_loopback;
	int ret = 0;

	if (finder->family != AF_INET)
		ret = add(finder, AF_INET6, ip6, 0);
	if (ret == 0 && finder->family != AF_INET6)
		ret = add(finder, AF_INET, &ip4, 0);
	return ret;
}

/* 0 found, -EINVAL it is no number, or the error to be told. */
static int find_number(struct kl_finder *finder)
{
	struct kloop_address address;
	int ret = kl_numeric_parse(finder->request->node, &address);

	if (ret == -ENODEV)
		return finder->family == AF_INET ? KLOOP_ERROR_DNS_ADDRFAMILY :
						   KLOOP_ERROR_DNS_NONAME;
	if (ret < 0)
		return ret;
	if (address.u.any.sa_family == AF_INET) {
		if (finder->family != AF_INET6)
			return add(finder, AF_INET, &address.u.ip4.sin_addr, 0);
		if (!wants_mapped(finder))
			return KLOOP_ERROR_DNS_ADDRFAMILY;
		return add_mapped(finder, (const uint8_t *)&address.u.ip4.sin_addr);
	}
	if (finder->family != AF_INET)
		return add(finder, AF_INET6, &address.u.ip6.sin6_addr,
			   address.u.ip6.sin6_scope_id);
	if (IN6_IS_ADDR_V4MAPPED(&address.u.ip6.sin6_addr))
		return add(finder, AF_INET, address.u.ip6.sin6_addr.s6_addr + 12, 0);
	return KLOOP_ERROR_DNS_ADDRFAMILY;
}

/* ---- files ---------------------------------------------------------------- */

/* Of which family is a line, for somebody who wants this one? glibc takes ::1 for 127.0.0.1. */
static bool line_address(const struct kl_hosts_line *line, int family, uint8_t ret_address[16])
{
	static const uint8_t loopback4[4] = { 127, 0, 0, 1 };
	const struct in6_addr ip6 = kl_ip6(line->address);

	if (family == line->family) {
		memcpy(ret_address, line->address, 16);
		return true;
	}
	if (family != AF_INET)
		return false;
	if (IN6_IS_ADDR_V4MAPPED(&ip6))
		memcpy(ret_address, line->address + 12, 4);
	else if (IN6_IS_ADDR_LOOPBACK(&ip6))
		memcpy(ret_address, loopback4, 4);
	else
		return false;
	return true;
}

/* The lines of a family; mapped: hand them out as IPv6. */
static int find_lines(struct kl_finder *finder, int family, bool mapped)
{
	const struct kl_hosts *hosts = &finder->config->hosts;
	const struct kl_hosts_line *line;
	uint32_t position = 0;
	uint8_t address[16];
	int ret = 0;

	while (ret == 0 && (line = kl_hosts_find(hosts, finder->request->node, &position))) {
		if (!line_address(line, family, address))
			continue;
		if (!finder->canonical)
			finder->canonical = kl_hosts_canonical(hosts, line);
		ret = mapped ? add_mapped(finder, address) : add(finder, family, address, 0);
		/* Without "multi on" the first line of a family is all there is. */
		if (!finder->config->nsswitch.multi)
			break;
	}
	return ret;
}

static int find_in_files(struct kl_finder *finder)
{
	const struct kl_hosts *hosts = &finder->config->hosts;
	const struct kl_hosts_line *line;
	uint32_t position = 0;
	int ret = 0;

	finder->flags |= KLOOP_ADDRESSES_LOCAL;
	if (finder->family != AF_UNSPEC) {
		ret = find_lines(finder, finder->family, false);
		if (ret == 0 && wants_mapped(finder) &&
		    (finder->count == 0 || (finder->request->flags & AI_ALL)))
			ret = find_lines(finder, AF_INET, true);
		return ret;
	}
	while (ret == 0 && (line = kl_hosts_find(hosts, finder->request->node, &position))) {
		if (!finder->canonical)
			finder->canonical = kl_hosts_canonical(hosts, line);
		ret = add(finder, line->family, line->address, 0);
	}
	return ret;
}

/* ---- names that are fixed -------------------------------------------------- */

/* Is the last label of the node this one? only: has it no other. */
static bool ends_in(const char *node, const char *label, bool only)
{
	size_t bytes = strlen(node), wanted = strlen(label);

	if (bytes != 0 && node[bytes - 1] == '.')
		bytes--;
	if (bytes < wanted ||
	    !kl_same_text((const uint8_t *)node + bytes - wanted, (const uint8_t *)label, wanted))
		return false;
	return bytes == wanted || (!only && node[bytes - wanted - 1] == '.');
}

/*
 * RFC 6761: these never leave the machine. What the hosts file says of them
 * holds. 1: not one of them.
 */
static int find_special(struct kl_finder *finder)
{
	const char *node = finder->request->node;
	const struct in_addr ip4 = { htonl(INADDR_LOOPBACK) };
	int ret;

	if (ends_in(node, "invalid", false) || ends_in(node, "onion", false))
		return KLOOP_ERROR_DNS_NONAME;
	if (!ends_in(node, "localhost", false))
		return 1;
	ret = find_in_files(finder);
	if (ret < 0 || finder->count != 0)
		return ret;
	if (finder->family != AF_INET)
		ret = add(finder, AF_INET6, &in6addr_loopback, 0);
	if (ret == 0 && finder->family != AF_INET6)
		ret = add(finder, AF_INET, &ip4, 0);
	return ret;
}

/* Names that systemd's module myhostname knows, and the library does not. */
static bool is_own_name(const char *node)
{
	char hostname[256] = "";

	(void)gethostname(hostname, sizeof(hostname) - 1);
	return ends_in(node, "_gateway", true) || ends_in(node, "_outbound", true) ||
	       (*hostname != '\0' && ends_in(node, hostname, true));
}

/* ---- the network ----------------------------------------------------------- */

bool kl_reply_cached(struct kloop_resolver *resolver, struct kl_config *config,
		     const uint8_t *name, size_t name_bytes, unsigned type, unsigned flags,
		     struct kl_reply *ret_reply)
{
	struct kl_key key = { name, name_bytes, (uint16_t)type, (uint16_t)flags };
	struct kl_answer *answer;
	enum kl_found found;

	if (resolver->options.flags & KLOOP_RESOLVER_NO_CACHE)
		return false;
	found = kl_cache_find(&resolver->cache, &key, resolver->now_ns, &answer);
	if (found != KL_FOUND_FRESH && found != KL_FOUND_HOT) {
		resolver->stats.cache_misses++;
		return false;
	}
	resolver->stats.cache_hits++;
	*ret_reply = (struct kl_reply){ .result = answer->result,
					.rcode = answer->scan.rcode,
					.cached = true,
					.answer = answer };
	if (found == KL_FOUND_HOT && !(resolver->options.flags & KLOOP_RESOLVER_NO_PREFETCH)) {
		uint16_t one = (uint16_t)type;

		if (kl_query_start(resolver, config, name, name_bytes, &one, 1, flags, NULL) == 0)
			resolver->stats.prefetches++;
	}
	return true;
}

/* The name that addresses were found at, if somebody wants to know. */
static int note_canonical(struct kl_finder *finder, const uint8_t *name)
{
	if (finder->canonical || !(finder->request->flags & AI_CANONNAME))
		return 0;
	if (!finder->text)
		finder->text = kl_malloc(KLOOP_DNS_NAME_TEXT_BYTES);
	if (!finder->text)
		return -ENOMEM;
	if (kloop_dns_name_format(name, KL_NAME_BYTES, finder->text, KLOOP_DNS_NAME_TEXT_BYTES) > 0)
		finder->canonical = finder->text;
	return 0;
}

/* Take the addresses of a reply; mapped: as IPv6. */
static int take_addresses(struct kl_finder *finder, const struct kl_reply *reply, bool mapped)
{
	const struct kl_answer *answer = reply->answer;
	struct kl_answer_walk walk;
	const uint8_t *data;
	size_t bytes;
	uint32_t ttl_s;
	int ret = 0;

	if (reply->result != 0)
		return 0;
	kl_answer_begin(answer, &walk);
	/* What is no host's name is not handed on as one. */
	if (answer->aliased && !kl_name_is_host(walk.target))
		return 0;
	while (ret == 0 && (data = kl_answer_next(answer, &walk, &bytes))) {
		if (bytes == 4)
			ret = mapped ? add_mapped(finder, data) : add(finder, AF_INET, data, 0);
		else if (bytes == 16)
			ret = add(finder, AF_INET6, data, 0);
	}
	ttl_s = reply->stale ? 0 : kl_answer_ttl(answer, finder->resolver->now_ns);
	if (ttl_s < finder->ttl_s)
		finder->ttl_s = ttl_s;
	return ret == 0 ? note_canonical(finder, answer->aliased ? walk.target : finder->name) : ret;
}

static int take_replies(struct kl_finder *finder, const struct kl_reply replies[2])
{
	unsigned flags = KLOOP_ADDRESSES_CACHED | KLOOP_ADDRESSES_SECURE;
	bool got6 = false;
	int ret = 0;

	for (unsigned i = 0; i < finder->type_count && ret == 0; i++) {
		bool mapped = finder->family == AF_INET6 && finder->types[i] == KL_TYPE_A;
		size_t before = finder->count;

		if (mapped && got6 && !(finder->request->flags & AI_ALL))
			continue;
		ret = take_addresses(finder, &replies[i], mapped);
		got6 = got6 || (!mapped && finder->count != before);
		if (finder->count == before)
			continue;
		if (!replies[i].cached)
			flags &= ~(unsigned)KLOOP_ADDRESSES_CACHED;
		if (!replies[i].answer->authentic)
			flags &= ~(unsigned)KLOOP_ADDRESSES_SECURE;
		if (replies[i].stale)
			flags |= KLOOP_ADDRESSES_STALE;
	}
	finder->flags = finder->count != 0 ? flags : 0;
	return ret;
}

/* The worst that was said: "try again" hides that there may be something. */
static int worst(int a, int b)
{
	static const int order[] = { KLOOP_ERROR_DNS_TIMEOUT, KLOOP_ERROR_DNS_AGAIN,
				     KLOOP_ERROR_DNS_TLS,     KLOOP_ERROR_DNS_FAIL,
				     KLOOP_ERROR_DNS_NODATA,  KLOOP_ERROR_DNS_NONAME };

	/* One of the system says nothing about the name at all. */
	if (a < 0 && a > -4096)
		return a;
	if (b < 0 && b > -4096)
		return b;
	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		if (a == order[i] || b == order[i])
			return order[i];
	}
	return a != 0 ? a : b;
}

static void set_types(struct kl_finder *finder)
{
	bool aaaa = !(finder->config->resolv.options & KL_RESOLV_NO_AAAA);

	finder->type_count = 0;
	if (finder->family == AF_INET || finder->family == AF_UNSPEC)
		finder->types[finder->type_count++] = KL_TYPE_A;
	if (finder->family != AF_INET && aaaa)
		finder->types[finder->type_count++] = KL_TYPE_AAAA;
	if (wants_mapped(finder))
		finder->types[finder->type_count++] = KL_TYPE_A;
}

/* The next name of the search list, as far as the cache knows it. */
static int next_name(struct kl_finder *finder)
{
	int bytes = kl_search_next(&finder->search, finder->name);

	if (bytes == 0) {
		finder->searching = false;
		return kl_search_result(&finder->search);
	}
	finder->name_bytes = (size_t)bytes;
	return KL_FIND_ASK;
}

static bool all_cached(struct kl_finder *finder, struct kl_reply replies[2])
{
	for (unsigned i = 0; i < finder->type_count; i++) {
		if (!kl_reply_cached(finder->resolver, finder->config, finder->name,
				     finder->name_bytes, finder->types[i], 0, &replies[i]))
			return false;
	}
	return true;
}

/*
 * What replies say about the name in turn: KL_FIND_DONE; KL_FIND_ASK with the
 * next name; or what the search came to.
 */
static int judge(struct kl_finder *finder, const struct kl_reply replies[2])
{
	int ret = take_replies(finder, replies), result = 0;
	bool servfail = false;

	if (ret < 0)
		return ret;
	if (finder->count != 0)
		return KL_FIND_DONE;
	for (unsigned i = 0; i < finder->type_count; i++) {
		int said = replies[i].result != 0 ? replies[i].result : KLOOP_ERROR_DNS_NONAME;

		result = result == 0 ? said : worst(result, said);
		servfail = servfail || replies[i].rcode == KL_SERVFAIL;
	}
	if (kl_search_go_on(&finder->search, result, servfail))
		return next_name(finder);
	finder->searching = false;
	return finder->search.saved != 0 && finder->search.step > 1 ? finder->search.saved : result;
}

static int begin_search(struct kl_finder *finder)
{
	set_types(finder);
	if (finder->type_count == 0)
		return KLOOP_ERROR_DNS_NODATA;
	if (kl_search_begin(&finder->search, finder->config, finder->request->node, false, false) <
	    0)
		return KLOOP_ERROR_DNS_NONAME;
	finder->searching = true;
	return next_name(finder);
}

/* ---- nsswitch --------------------------------------------------------------- */

static unsigned status_of(int result)
{
	if (result == KLOOP_ERROR_DNS_NONAME || result == KLOOP_ERROR_DNS_NODATA)
		return KL_NSS_NOTFOUND;
	if (result == KLOOP_ERROR_DNS_AGAIN || result == KLOOP_ERROR_DNS_TIMEOUT ||
	    result == KLOOP_ERROR_DNS_TLS)
		return KL_NSS_TRYAGAIN;
	return result == 0 ? KL_NSS_SUCCESS : KL_NSS_UNAVAIL;
}

/* What one module says: KL_FIND_DONE (found or not), KL_FIND_ASK, an error. */
static int ask_module(struct kl_finder *finder, unsigned module)
{
	const char *node = finder->request->node;
	int ret;

	switch (module) {
	case KL_MODULE_FILES:
		ret = find_in_files(finder);
		return ret == 0 && finder->count == 0 ? KLOOP_ERROR_DNS_NONAME : ret;
	case KL_MODULE_DNS:
		/* Its text may mean something else to others than to us. */
		if (strchr(node, '\\'))
			return KLOOP_ERROR_DNS_NSS;
		return begin_search(finder);
	case KL_MODULE_MYHOSTNAME:
		return is_own_name(node) ? KLOOP_ERROR_DNS_NSS : KLOOP_ERROR_DNS_NONAME;
	case KL_MODULE_MDNS:
		return ends_in(node, "local", false) ? KLOOP_ERROR_DNS_NSS : KLOOP_ERROR_DNS_NONAME;
	default:
		return KLOOP_ERROR_DNS_NSS;
	}
}

/* The modules in their order, from the one in turn. */
static int run_modules(struct kl_finder *finder, int result)
{
	const struct kl_nsswitch *nsswitch = &finder->config->nsswitch;
	struct kl_reply replies[2];

	for (;;) {
		unsigned module;

		while (result == KL_FIND_ASK && all_cached(finder, replies))
			result = judge(finder, replies);
		if (result == KL_FIND_ASK || result == KLOOP_ERROR_DNS_NSS || result == -ENOMEM)
			return result;
		if (result == KL_FIND_DONE && finder->count != 0)
			return result;
		module = finder->module;
		/* mdns_minimal says NOTFOUND for names under .local only, UNAVAIL for others. */
		if (module > 0) {
			bool skipped = nsswitch->modules[module - 1].module == KL_MODULE_MDNS;

			finder->error = finder->error == 0 ? result : worst(finder->error, result);
			if (nsswitch->modules[module - 1].merges)
				return KLOOP_ERROR_DNS_NSS;
			if (!skipped &&
			    (nsswitch->modules[module - 1].returns & 1u << status_of(result)))
				return finder->error;
		}
		if (module == nsswitch->count)
			return finder->error != 0 ? finder->error : KLOOP_ERROR_DNS_NONAME;
		finder->flags = 0;
		finder->canonical = NULL;
		finder->module++;
		result = ask_module(finder, nsswitch->modules[module].module);
	}
}

int kl_finder_run(struct kl_finder *finder)
{
	const struct kl_request *request = finder->request;
	int ret;

	finder->flags = KLOOP_ADDRESSES_LOCAL;
	if (!request->has_node)
		return find_nobody(finder);
	if ((request->flags & AI_CANONIDN) || (request->flags & AI_IDN)) {
		/* Other alphabets are not the library's business. */
		for (const char *at = request->node; *at != '\0'; at++) {
			if ((unsigned char)*at >= 0x80)
				return KLOOP_ERROR_DNS_NSS;
		}
		if (request->flags & AI_CANONIDN)
			return KLOOP_ERROR_DNS_NSS;
	}
	ret = find_number(finder);
	if (ret != -EINVAL)
		return ret;
	if ((request->flags & AI_NUMERICHOST) || *request->node == '\0')
		return KLOOP_ERROR_DNS_NONAME;
	finder->flags = 0;
	ret = find_special(finder);
	if (ret <= 0)
		return ret;
	finder->flags = 0;
	return run_modules(finder, KL_FIND_DONE);
}

int kl_finder_feed(struct kl_finder *finder, const struct kl_reply replies[2])
{
	int result = judge(finder, replies);

	if (result == KL_FIND_DONE)
		return result;
	return run_modules(finder, result);
}

int kl_finder_peek(const struct kl_finder *finder, unsigned type, const struct kl_reply *reply,
		   struct kloop_addresses **ret_addresses)
{
	struct kl_finder *part = kl_malloc(sizeof(*part));
	int ret;

	if (!part)
		return -ENOMEM;
	*part = *finder;
	part->found = NULL;
	part->count = part->room = 0;
	part->canonical = NULL;
	part->text = NULL;
	part->flags = reply->stale ? KLOOP_ADDRESSES_STALE : 0;
	ret = take_addresses(part, reply, finder->family == AF_INET6 && type == KL_TYPE_A);
	*ret_addresses = NULL;
	if (ret == 0 && part->count != 0)
		ret = kl_finder_list(part, AF_UNSPEC, ret_addresses);
	kl_finder_end(part);
	kl_free(part);
	return ret;
}

void kl_finder_end(struct kl_finder *finder)
{
	kl_free(finder->found);
	kl_free(finder->text);
	finder->found = NULL;
	finder->text = NULL;
	finder->count = finder->room = 0;
}
