/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "server.h"

#include <kloop/tls.h>

#include <errno.h>
#include <string.h>

#include "ring/memory.h"

#define MS UINT64_C(1000000)
/* Patience with a server whose round trip is not known, and the least there is. */
#define FIRST_PATIENCE_NS (200 * MS)
#define LEAST_PATIENCE_NS (50 * MS)
#define MOST_PATIENCE_NS (2000 * MS)
/* Answers missed in a row after which a server counts as down, and how often it is tried then. */
#define MISSES 3
#define DOWN_NS (5000 * MS)
/* For so long after the last cookie a response must have one. */
#define COOKIE_MEMORY_NS (120000 * MS)

static bool is_loopback(const struct kloop_address *address)
{
	if (address->u.any.sa_family == AF_INET)
		return ntohl(address->u.ip4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	return IN6_IS_ADDR_LOOPBACK(&address->u.ip6.sin6_addr);
}

int kl_servers_make(struct kl_config *config, const struct kl_server_choice *choices,
		    unsigned count)
{
	config->servers = kl_calloc(count, sizeof(*config->servers));
	if (!config->servers)
		return -ENOMEM;
	for (unsigned i = 0; i < count; i++) {
		struct kl_server *server = &config->servers[i];

		server->address = choices[i].address;
		server->transport = choices[i].transport;
		server->tls_flags = choices[i].tls_flags;
		server->name = choices[i].name;
		if (server->transport == KLOOP_DNS_UDP &&
		    (config->resolv.options & KL_RESOLV_USE_VC))
			server->transport = KLOOP_DNS_TCP;
		server->loopback = is_loopback(&server->address);
		server->keeps_case = true;
	}
	config->server_count = count;
	return 0;
}

void kl_servers_free(struct kl_config *config)
{
	for (unsigned i = 0; i < config->server_count; i++)
		kloop_tls_ticket_free(config->servers[i].ticket);
	kl_free(config->servers);
}

/* The same machine, asked in the same way. */
static bool is_same(const struct kl_server *a, const struct kl_server *b)
{
	return a->address.length == b->address.length &&
	       memcmp(&a->address.u, &b->address.u, a->address.length) == 0 &&
	       kl_server_is_clear(a) == kl_server_is_clear(b) && a->tls_flags == b->tls_flags &&
	       a->name == b->name;
}

void kl_servers_inherit(struct kl_config *config, struct kl_config *old)
{
	for (unsigned i = 0; i < config->server_count; i++) {
		struct kl_server *server = &config->servers[i];

		for (unsigned j = 0; j < old->server_count; j++) {
			struct kl_server *from = &old->servers[j];
			unsigned transport = server->transport;

			if (!is_same(server, from))
				continue;
			*server = *from;
			server->transport = transport;
			server->question.key = 0;
			server->tcp = NULL;
			from->ticket = NULL;
			break;
		}
	}
}

void kl_servers_order(struct kl_config *config, uint64_t now_ns, uint8_t order[KL_SERVERS_MAX],
		      int *ret_probe)
{
	unsigned count = config->server_count, used = 0, start = 0;

	*ret_probe = -1;
	if (config->resolv.options & KL_RESOLV_ROTATE)
		start = config->rotation++ % count;
	/* Of those that live, and of those that do not, first the ones that keep secrets. */
	for (unsigned pass = 0; pass < 4; pass++) {
		for (unsigned i = 0; i < count; i++) {
			unsigned which = (start + i) % count;
			struct kl_server *server = &config->servers[which];

			if ((server->down_until_ns != 0) != (pass >= 2) ||
			    kl_server_is_clear(server) != (pass % 2 == 1))
				continue;
			order[used++] = (uint8_t)which;
			/*
			 * Nobody waits for a server that was down: it is asked in
			 * addition, unless that told what is kept from others.
			 */
			if (pass >= 2 && used != 1 && *ret_probe < 0 &&
			    (!kl_server_is_clear(server) ||
			     kl_server_is_clear(&config->servers[order[0]])) &&
			    server->down_until_ns <= now_ns) {
				*ret_probe = (int)which;
				server->down_until_ns = now_ns + DOWN_NS;
			}
		}
	}
}

uint64_t kl_server_patience(const struct kl_server *server, uint64_t limit_ns)
{
	uint64_t patience = FIRST_PATIENCE_NS;

	if (server->rtt_ns != 0) {
		patience = 2 * server->rtt_ns + 4 * server->rtt_variance_ns;
		if (patience < LEAST_PATIENCE_NS)
			patience = LEAST_PATIENCE_NS;
		if (patience > MOST_PATIENCE_NS)
			patience = MOST_PATIENCE_NS;
	}
	return patience < limit_ns ? patience : limit_ns;
}

void kl_server_answered(struct kl_server *server, uint64_t rtt_ns)
{
	server->misses = 0;
	server->down_until_ns = 0;
	if (rtt_ns == 0)
		return;
	if (server->rtt_ns == 0) {
		server->rtt_ns = rtt_ns;
		server->rtt_variance_ns = rtt_ns / 2;
	} else {
		uint64_t difference = rtt_ns > server->rtt_ns ? rtt_ns - server->rtt_ns :
								 server->rtt_ns - rtt_ns;

		server->rtt_variance_ns = (3 * server->rtt_variance_ns + difference) / 4;
		server->rtt_ns = (7 * server->rtt_ns + rtt_ns) / 8;
	}
}

void kl_server_missed(struct kl_server *server, uint64_t now_ns, bool dead)
{
	server->misses += dead && server->misses < MISSES ? MISSES - server->misses : 1;
	if (server->misses < MISSES)
		return;
	if (server->down_until_ns <= now_ns)
		server->down_until_ns = now_ns + DOWN_NS;
}

unsigned kl_server_cookie(struct kl_server *server, struct kl_random *random)
{
	if (server->cookie_bytes == 0) {
		if (kl_random_fill(random, server->cookie, KL_CLIENT_COOKIE_BYTES) < 0)
			return 0;
		server->cookie_bytes = KL_CLIENT_COOKIE_BYTES;
	}
	return server->cookie_bytes;
}

bool kl_server_check_cookie(struct kl_server *server, uint64_t now_ns, const uint8_t *cookie,
			    size_t bytes)
{
	if (!cookie)
		return server->cookie_seen_ns == 0 ||
		       now_ns - server->cookie_seen_ns > COOKIE_MEMORY_NS;
	/* Ours alone, or ours and 8 to 32 bytes of the server's. */
	if ((bytes != KL_CLIENT_COOKIE_BYTES && (bytes < 16 || bytes > KL_COOKIE_BYTES)) ||
	    server->cookie_bytes == 0 || memcmp(cookie, server->cookie, KL_CLIENT_COOKIE_BYTES) != 0)
		return false;
	if (bytes > KL_CLIENT_COOKIE_BYTES) {
		if (server->cookie_bytes != bytes || memcmp(server->cookie, cookie, bytes) != 0)
			server->question.key = 0;
		memcpy(server->cookie, cookie, bytes);
		server->cookie_bytes = (unsigned)bytes;
		server->cookie_seen_ns = now_ns;
	}
	return true;
}
