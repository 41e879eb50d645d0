/* SPDX-License-Identifier: MulanPSL-2.0 */
/* What a server's answer to a query means: whether it is one, and whether it is the last word. */
#include "query.h"

#include <errno.h>
#include <string.h>

#include "ldns.h"

/* How long a server that does not understand EDNS is asked without. */
#define NO_EDNS_NS UINT64_C(3600000000000)

/* The server cannot: the next one, unless somebody else may still answer. */
static void fail_at(struct kl_query *query, unsigned index, unsigned server, int failure,
		    unsigned rcode)
{
	struct kl_question *question = &query->questions[index];

	question->failed |= (uint8_t)(1u << server);
	/* A server that failed says more than one that did not understand. */
	if (question->failure != KLOOP_ERROR_DNS_AGAIN) {
		question->failure = failure;
		question->rcode = rcode;
	}
	if (!query->waiting && !query->failing && !kl_query_hopes(query))
		kl_query_advance(query);
}

void kl_query_failed(struct kl_query *query, unsigned index, unsigned server, int failure)
{
	fail_at(query, index, server, failure, 0);
}

/* Over TCP there is no doubt who answers, and no limit of size. */
static void go_tcp(struct kl_query *query, unsigned index, unsigned server)
{
	if (query->questions[index].tcp & 1u << server)
		return;
	if (kl_tcp_ask(query, server, index) < 0)
		fail_at(query, index, server, KLOOP_ERROR_DNS_AGAIN, 0);
	else
		kl_query_arm(query, query->deadline_ns = query->resolver->now_ns +
						query->config->timeout_ns);
}

/* The answer of a server that cannot parse a question at all: a header and nothing else. */
static bool is_bare_failure(const uint8_t *wire, size_t bytes)
{
	unsigned flags = bytes == KL_HEADER_BYTES ? kl_get16(wire + 2) : 0;
	unsigned rcode = flags & 15;

	return (flags & KL_FLAG_QR) && !(flags & KL_OPCODE_MASK) && kl_get16(wire + 4) == 0 &&
	       (rcode == KL_SERVFAIL || rcode == KL_NOTIMP || rcode == KL_REFUSED ||
		rcode == KL_FORMERR);
}

/* Is it the question that was asked? *ret_case: it is, but for the case of letters. */
static bool same_question(const struct kl_query *query, unsigned index,
			  const struct kl_incoming *incoming, const struct kl_scan *scan,
			  bool *ret_case)
{
	const uint8_t *name = incoming->wire + KL_HEADER_BYTES;

	if (scan->type != query->questions[index].type || scan->rr_class != KL_CLASS_IN ||
	    scan->question_bytes != query->name_bytes ||
	    !kl_same_text(name, query->name, query->name_bytes))
		return false;
	*ret_case = incoming->cased && memcmp(name, query->cased, query->name_bytes) != 0;
	return true;
}

/* Ask the same server once more, in another way. */
static void ask_again(struct kl_query *query, unsigned index, unsigned server)
{
	query->resolver->stats.retries++;
	if (kl_query_ask(query, server) < 0)
		fail_at(query, index, server, KLOOP_ERROR_DNS_AGAIN, 0);
}

/* Why a server failed may stand in its response (RFC 8914): one that says so is kept. */
static void keep_refusal(struct kl_query *query, struct kl_question *question,
			 const struct kl_incoming *incoming, const struct kl_scan *scan)
{
	const struct kl_ttl_limits none = { 0, 0 };
	size_t bytes;

	if (scan->question_bytes == 0 ||
	    (question->refusal &&
	     !kl_option_find(incoming->wire, scan, KL_OPTION_EDE, &bytes)))
		return;
	kl_answer_unref(question->refusal);
	question->refusal = kl_answer_new(incoming->wire, incoming->bytes, scan, query->name,
					  &none, kloop_now());
}

/* The server's word is final. False: the query is gone. */
static bool settle(struct kl_query *query, struct kl_question *question, struct kl_server *server,
		   const struct kl_incoming *incoming, const struct kl_scan *scan)
{
	struct kloop_resolver *resolver = query->resolver;
	const struct kl_ttl_limits limits = { resolver->options.max_ttl_s,
					      resolver->options.max_negative_ttl_s };
	struct kl_key key = kl_query_key(query, question);
	struct kl_answer *answer = kl_answer_new(incoming->wire, incoming->bytes, scan, query->name,
						 &limits, resolver->now_ns);

	question->done = true;
	query->pending--;
	if (!answer) {
		question->result = -ENOMEM;
		return kl_query_tell(query);
	}
	answer->authentic = (scan->flags & KL_FLAG_AD) && kl_query_trusts(query, server);
	question->answer = answer;
	question->result = answer->result;
	if (!(resolver->options.flags & KLOOP_RESOLVER_NO_CACHE))
		kl_cache_put(&resolver->cache, &key, answer);
	return kl_query_tell(query);
}

static void judge_rcode(struct kl_query *query, unsigned index, const struct kl_incoming *incoming,
			const struct kl_scan *scan)
{
	struct kl_server *server = &query->config->servers[incoming->server];
	struct kl_question *question = &query->questions[index];

	switch (scan->rcode) {
	case KL_FORMERR:
	case KL_NOTIMP:
	case KL_BADVERS:
		if (incoming->edns) {
			/* The other question may have brought this to light already. */
			server->no_edns_until_ns = query->resolver->now_ns + NO_EDNS_NS;
			if (!(question->tcp & 1u << incoming->server) &&
			    !kl_udp_hopes(query, index))
				ask_again(query, index, incoming->server);
			return;
		}
		keep_refusal(query, question, incoming, scan);
		fail_at(query, index, incoming->server, KLOOP_ERROR_DNS_FAIL, scan->rcode);
		return;
	case KL_BADCOOKIE:
		/* It told its cookie along with that. */
		if (!incoming->tcp && query->cookie_retries++ < 2)
			ask_again(query, index, incoming->server);
		else if (!incoming->tcp)
			go_tcp(query, index, incoming->server);
		else
			fail_at(query, index, incoming->server, KLOOP_ERROR_DNS_AGAIN, scan->rcode);
		return;
	case KL_NOERROR:
		/* Knows nothing, and does not want to find out: a lame server. */
		if (scan->counts[0] == 0 && !(scan->flags & (KL_FLAG_AA | KL_FLAG_RA)) &&
		    !(query->flags & KLOOP_QUERY_NO_RECURSION)) {
			fail_at(query, index, incoming->server, KLOOP_ERROR_DNS_AGAIN, scan->rcode);
			return;
		}
		settle(query, question, server, incoming, scan);
		return;
	case KL_NXDOMAIN:
		settle(query, question, server, incoming, scan);
		return;
	default:
		keep_refusal(query, question, incoming, scan);
		fail_at(query, index, incoming->server, KLOOP_ERROR_DNS_AGAIN, scan->rcode);
	}
}

/* A server that was asked later has answered: the others are slower, or not there. */
static void note_overtaken(struct kl_query *query, unsigned index,
			   const struct kl_incoming *incoming)
{
	unsigned servers = 0;

	if (query->pending == 1)
		servers = kl_udp_overtaken(query, index, incoming->sent_ns) |
			  kl_tcp_overtaken(query, index, incoming->sent_ns);
	servers &= ~(1u << incoming->server);
	for (unsigned i = 0; servers != 0; i++, servers >>= 1) {
		if (servers & 1)
			kl_server_missed(&query->config->servers[i],
					 query->resolver->now_ns, false);
	}
}

/* How long does the server keep connections that nobody uses (RFC 7828)? */
static void note_keepalive(struct kl_server *server, const uint8_t *wire,
			   const struct kl_scan *scan)
{
	size_t bytes = 0;
	const uint8_t *option = kl_option_find(wire, scan, KL_OPTION_KEEPALIVE, &bytes);

	if (!option || bytes != 2)
		return;
	server->idle_told = true;
	server->idle_ns = kl_get16(option) * UINT64_C(100000000);
}

enum kl_verdict kl_query_receive(struct kl_query *query, unsigned index,
				 const struct kl_incoming *incoming)
{
	struct kl_server *server = &query->config->servers[incoming->server];
	struct kl_scan scan;
	const uint8_t *cookie;
	size_t cookie_bytes = 0;
	bool wrong_case = false;
	uint64_t now = query->resolver->now_ns;

	if (is_bare_failure(incoming->wire, incoming->bytes)) {
		scan = (struct kl_scan){ .rcode = kl_get16(incoming->wire + 2) & 15 };
		scan.counts[0] = 1;
		judge_rcode(query, index, incoming, &scan);
		return KL_VERDICT_DONE;
	}
	if (kl_scan_question(incoming->wire, incoming->bytes, &scan) < 0 ||
	    !same_question(query, index, incoming, &scan, &wrong_case))
		return KL_VERDICT_REFUSED;
	if (wrong_case) {
		/* It may be a forger, or a server that writes names its own way: TCP tells. */
		server->keeps_case = false;
		go_tcp(query, index, incoming->server);
		return KL_VERDICT_REFUSED;
	}
	if ((scan.flags & KL_FLAG_TC) || incoming->truncated) {
		if (incoming->tcp)
			return KL_VERDICT_REFUSED;
		kl_server_answered(server, now - incoming->sent_ns);
		go_tcp(query, index, incoming->server);
		return KL_VERDICT_DONE;
	}
	if (kl_scan(incoming->wire, incoming->bytes, &scan) < 0)
		return KL_VERDICT_REFUSED;
	cookie = kl_option_find(incoming->wire, &scan, KL_OPTION_COOKIE, &cookie_bytes);
	if (!incoming->tcp && incoming->edns && scan.rcode != KL_FORMERR &&
	    !(query->resolver->options.flags & KLOOP_RESOLVER_NO_COOKIES) &&
	    !kl_server_check_cookie(server, now, cookie, cookie_bytes))
		return KL_VERDICT_REFUSED;
	if (incoming->tcp)
		note_keepalive(server, incoming->wire, &scan);
	kl_server_answered(server, incoming->timed ? now - incoming->sent_ns : 0);
	note_overtaken(query, index, incoming);
	judge_rcode(query, index, incoming, &scan);
	return KL_VERDICT_DONE;
}
