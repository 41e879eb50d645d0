/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The question as a server gets it. */
#include "query.h"

#include <errno.h>
#include <string.h>

#include "ldns.h"

/* Where OPT has the length of its options: behind root, type, size and flags. */
#define OPT_LENGTH_AT 9
/* RFC 8467: what clients pad to. */
#define PADDING_BLOCK 128

bool kl_query_trusts(const struct kl_query *query, const struct kl_server *server)
{
	return (query->config->resolv.options & KL_RESOLV_TRUST_AD) || server->loopback;
}

/* Have ldns encode one question, and keep what is around it. 0, or as kl_ldns_encode(). */
static int make_template(struct kl_query *query, struct kl_server *server, bool edns, unsigned key)
{
	struct kl_ldns_query wanted = {
		.name = (const uint8_t *)"",
		.name_bytes = 1,
		.recursion = !(query->flags & KLOOP_QUERY_NO_RECURSION),
		.checking_disabled = query->flags & KLOOP_QUERY_CHECKING_DISABLED,
		.authentic = edns && kl_query_trusts(query, server),
		.dnssec = edns && (query->flags & KLOOP_QUERY_DNSSEC),
		.edns_bytes = edns ? KL_EDNS_BYTES : 0,
	};
	struct kl_template *made = &server->question;
	uint8_t wire[KL_QUERY_BYTES];
	const int around = KL_HEADER_BYTES + 1 + 4;
	int bytes;

	/* Where nobody can forge an answer a cookie would only tell who asks. */
	if (edns && server->transport != KLOOP_DNS_TLS &&
	    !(query->resolver->options.flags & KLOOP_RESOLVER_NO_COOKIES)) {
		wanted.cookie_bytes = kl_server_cookie(server, &query->resolver->random);
		wanted.cookie = server->cookie;
	}
	bytes = kl_ldns_encode(&wanted, wire);
	if (bytes < 0)
		return bytes;
	if (bytes < around || bytes - around > (int)sizeof(made->tail))
		return -EINVAL;
	memcpy(made->header, wire, KL_HEADER_BYTES);
	made->tail_bytes = (unsigned)(bytes - around);
	memcpy(made->tail, wire + around, made->tail_bytes);
	made->key = key;
	return 0;
}

/* One more option at the end of OPT, which ends the message; filled with zeros. */
static uint8_t *add_option(uint8_t *end, uint8_t *length, unsigned code, unsigned bytes)
{
	kl_put16(end, code);
	kl_put16(end + 2, bytes);
	memset(end + 4, 0, bytes);
	kl_put16(length, kl_get16(length) + 4 + bytes);
	return end + 4 + bytes;
}

/*
 * What is said on connections only: that it would be kept (RFC 7828), and
 * padding, so that lengths do not give away names (RFC 8467).
 */
static uint8_t *add_stream_options(const struct kl_server *server, uint8_t *wire, uint8_t *end)
{
	uint8_t *length = end - server->question.tail_bytes + OPT_LENGTH_AT;

	if (server->transport == KLOOP_DNS_UDP)
		return end;
	end = add_option(end, length, KL_OPTION_KEEPALIVE, 0);
	if (server->transport == KLOOP_DNS_TLS)
		end = add_option(end, length, KL_OPTION_PADDING,
				 (unsigned)-(end + 4 - wire) % PADDING_BLOCK);
	return end;
}

int kl_query_encode(struct kl_query *query, unsigned question, struct kl_server *server,
		    uint16_t id, bool tcp, uint8_t *ret_wire, bool *ret_edns)
{
	bool edns = !(query->resolver->options.flags & KLOOP_RESOLVER_NO_EDNS) &&
		    server->no_edns_until_ns <= query->resolver->now_ns;
	const uint8_t *name = tcp || !server->keeps_case ? query->name : query->cased;
	unsigned key = query->flags << 2 | (edns ? 2u : 0) | 1;
	const struct kl_template *made = &server->question;
	uint8_t *at = ret_wire + KL_HEADER_BYTES;
	int ret = made->key == key ? 0 : make_template(query, server, edns, key);

	if (ret < 0)
		return ret;
	memcpy(ret_wire, made->header, KL_HEADER_BYTES);
	kl_put16(ret_wire, id);
	memcpy(at, name, query->name_bytes);
	at += query->name_bytes;
	kl_put16(at, query->questions[question].type);
	kl_put16(at + 2, KL_CLASS_IN);
	memcpy(at + 4, made->tail, made->tail_bytes);
	at += 4 + made->tail_bytes;
	if (tcp && edns)
		at = add_stream_options(server, ret_wire, at);
	*ret_edns = edns;
	return (int)(at - ret_wire);
}
