/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The query: which server is asked when, and when it ends. query-start.c has
 * its beginning, query-receive.c what the answers mean.
 */
#include "query.h"

#include <errno.h>
#include <string.h>

#include "ldns.h"

/* With an expired answer at hand nobody waits longer for a new one (RFC 8767). */
#define STALE_PATIENCE_NS UINT64_C(1800000000)

/* ---- life --------------------------------------------------------------- */

struct kl_query **kl_query_bucket(struct kloop_resolver *resolver, uint32_t hash)
{
	return &resolver->buckets[hash % KL_QUERY_BUCKETS];
}

struct kl_question *kl_query_find(struct kl_query *query, unsigned type)
{
	for (unsigned i = 0; i < query->count; i++) {
		if (query->questions[i].type == type)
			return &query->questions[i];
	}
	return NULL;
}

/* Let the next ones go, in the order of their coming. */
static void start_waiting(struct kloop_resolver *resolver)
{
	while (resolver->waiting && !resolver->closing &&
	       resolver->active < resolver->options.max_queries) {
		struct kl_query *query = resolver->waiting;

		if (query->starved && resolver->flights != 0 && resolver->active != 0 &&
		    resolver->idle[0].count + resolver->idle[1].count == 0)
			return; /* until somebody gives a descriptor back */
		resolver->waiting = query->next_waiting;
		if (!resolver->waiting)
			resolver->waiting_tail = &resolver->waiting;
		query->waiting = false;
		resolver->stats.waiting--;
		resolver->active++;
		kl_query_advance(query);
		/* What lies idle was of no use to it: it waits, and the others behind it. */
		if (resolver->waiting == query)
			return;
	}
}

static void unlink_waiting(struct kl_query *query)
{
	struct kloop_resolver *resolver = query->resolver;
	struct kl_query **link = &resolver->waiting;

	while (*link != query)
		link = &(*link)->next_waiting;
	*link = query->next_waiting;
	if (!*link)
		resolver->waiting_tail = link;
	query->waiting = false;
	resolver->stats.waiting--;
}

static void push_waiting(struct kl_query *query, bool front)
{
	struct kloop_resolver *resolver = query->resolver;

	query->waiting = true;
	resolver->stats.waiting++;
	if (front) {
		query->next_waiting = resolver->waiting;
		if (!resolver->waiting)
			resolver->waiting_tail = &query->next_waiting;
		resolver->waiting = query;
		return;
	}
	query->next_waiting = NULL;
	*resolver->waiting_tail = query;
	resolver->waiting_tail = &query->next_waiting;
}

void kl_query_launch(struct kl_query *query)
{
	push_waiting(query, false);
	start_waiting(query->resolver);
}

static void end_query(struct kl_query *query)
{
	struct kloop_resolver *resolver = query->resolver;
	struct kl_query **link = kl_query_bucket(resolver, query->hash);

	while (*link != query)
		link = &(*link)->next;
	*link = query->next;
	kloop_timer_stop(&query->timer);
	kl_udp_forget(query);
	kl_tcp_forget(query);
	if (query->waiting)
		unlink_waiting(query);
	else
		resolver->active--;
	while (query->waits) {
		struct kl_wait *wait = query->waits;

		query->waits = wait->next;
		wait->query = NULL;
	}
	for (unsigned i = 0; i < query->count; i++) {
		kl_answer_unref(query->questions[i].answer);
		kl_answer_unref(query->questions[i].refusal);
	}
	kl_config_unref(query->config);
	kl_free(query->places);
	kl_free(query);
}

void kl_queries_end(struct kloop_resolver *resolver)
{
	for (size_t i = 0; i < KL_QUERY_BUCKETS; i++) {
		while (resolver->buckets[i])
			end_query(resolver->buckets[i]);
	}
}

static void remove_wait(struct kl_wait *wait)
{
	*wait->link = wait->next;
	if (wait->next)
		wait->next->link = wait->link;
	wait->query = NULL;
}

void kl_wait_end(struct kl_wait *wait)
{
	struct kl_query *query = wait->query;
	struct kloop_resolver *resolver;

	if (!query)
		return;
	resolver = query->resolver;
	remove_wait(wait);
	/* One that is being told ends by itself. */
	if (query->waits || query->background || query->telling)
		return;
	end_query(query);
	start_waiting(resolver);
}

bool kl_query_tell(struct kl_query *query)
{
	struct kloop_resolver *resolver = query->resolver;
	struct kl_wait *wait, *next;

	query->telling = true;
	for (wait = query->waits; wait; wait = next) {
		next = wait->next;
		if (query->pending == 0)
			remove_wait(wait);
		wait->notify(wait, query);
	}
	query->telling = false;
	if (query->pending != 0 && (query->waits || query->background))
		return true;
	end_query(query);
	start_waiting(resolver);
	return false;
}

/* ---- the result of a question ------------------------------------------- */

struct kl_key kl_query_key(const struct kl_query *query, const struct kl_question *question)
{
	return (struct kl_key){ query->name, query->name_bytes, question->type,
				(uint16_t)query->flags };
}

/* No server will answer. An expired answer is better than none, if that is wanted. */
static void give_up(struct kl_query *query, struct kl_question *question, int failure)
{
	struct kloop_resolver *resolver = query->resolver;
	struct kl_key key = kl_query_key(query, question);
	struct kl_answer *answer;

	question->done = true;
	query->pending--;
	if (failure == KLOOP_ERROR_DNS_TIMEOUT)
		resolver->stats.timeouts++;
	if (resolver->options.stale_s != 0 &&
	    kl_cache_find(&resolver->cache, &key, resolver->now_ns, &answer) == KL_FOUND_STALE) {
		resolver->stats.cache_stale++;
		question->answer = kl_answer_ref(answer);
		question->result = answer->result;
		question->stale = true;
		return;
	}
	question->result = failure;
}

static void give_up_all(struct kl_query *query, int failure)
{
	for (unsigned i = 0; i < query->count; i++) {
		struct kl_question *question = &query->questions[i];

		if (!question->done)
			give_up(query, question,
				question->failure != 0 ? question->failure : failure);
	}
	kl_query_tell(query);
}

/* ---- whom to ask -------------------------------------------------------- */

int kl_query_ask(struct kl_query *query, unsigned server)
{
	int ret = 0;

	if (query->config->servers[server].transport == KLOOP_DNS_UDP)
		return kl_udp_ask(query, server);
	for (unsigned i = 0; i < query->count && ret == 0; i++) {
		if (!query->questions[i].done && !(query->questions[i].tcp & 1u << server))
			ret = kl_tcp_ask(query, server, i);
	}
	return ret;
}

/* Has every open question failed at this server already? */
static bool useless(const struct kl_query *query, unsigned server)
{
	for (unsigned i = 0; i < query->count; i++) {
		if (!query->questions[i].done && !(query->questions[i].failed & 1u << server))
			return false;
	}
	return true;
}

bool kl_query_hopes(const struct kl_query *query)
{
	for (unsigned i = 0; i < query->count; i++) {
		const struct kl_question *question = &query->questions[i];

		if (!question->done && !question->tcp && !kl_udp_hopes(query, i))
			return false;
	}
	return true;
}

void kl_query_arm(struct kl_query *query, uint64_t when_ns)
{
	if (kloop_timer_start(query->resolver->loop, &query->timer, when_ns) == 0)
		return;
	query->failing = true;
	query->error = -ENOMEM;
	query->resolver->failing = true;
	kl_resolver_schedule(query->resolver);
}

/*
 * What is lost at once, by a full queue or a path that comes up, is lost twice:
 * those who are still silent are asked a last time in the midst of the last
 * wait. Whoever wants one attempt, or glibc's way, gets that.
 */
static bool calls_again(const struct kl_query *query)
{
	return !query->called_again && query->config->attempts > 1 &&
	       !(query->resolver->options.flags & KLOOP_RESOLVER_NO_RACE);
}

static void call_again(struct kl_query *query)
{
	unsigned silent = kl_udp_silent(query);

	query->called_again = true;
	for (unsigned i = 0; i < query->config->server_count; i++) {
		if (!(silent & 1u << i) ||
		    query->config->servers[i].transport != KLOOP_DNS_UDP)
			continue;
		query->resolver->stats.retries++;
		(void)kl_udp_ask(query, i);
	}
	kl_query_arm(query, query->deadline_ns);
}

/* How long to wait for a server before the next one is asked as well. */
static uint64_t patience(const struct kl_query *query, unsigned which, uint64_t limit)
{
	const struct kl_config *config = query->config;
	const struct kl_server *server = &config->servers[which];
	const struct kl_server *next = &config->servers[query->order[query->sends %
								      config->server_count]];
	uint64_t wait = kl_server_patience(server, limit);

	/* A secret is not told for the sake of speed. */
	if (!kl_server_is_clear(server) && kl_server_is_clear(next))
		return limit;
	/* Round trips of a connection that has to be made first. */
	if (server->transport != KLOOP_DNS_UDP && !kl_tcp_is_ready(server))
		wait *= server->transport == KLOOP_DNS_TLS ? 4 : 2;
	return wait;
}

/* How long until the next one is asked, or until it is enough. */
static void start_timer(struct kl_query *query, unsigned server)
{
	struct kl_config *config = query->config;
	uint64_t now = query->resolver->now_ns;
	unsigned round = (query->sends - 1) / config->server_count;
	uint64_t limit = config->timeout_ns, wait = limit;

	if (!query->has_stale)
		query->deadline_ns = now + limit;
	else if (query->deadline_ns == 0)
		query->deadline_ns = now + (limit < STALE_PATIENCE_NS ? limit : STALE_PATIENCE_NS);
	if (query->sends < config->attempts * config->server_count &&
	    !(query->resolver->options.flags & KLOOP_RESOLVER_NO_RACE)) {
		wait = patience(query, server, limit);
		wait = wait << round < limit ? wait << round : limit;
	} else if (calls_again(query)) {
		wait = limit / 2;
	}
	kl_query_arm(query, now + wait < query->deadline_ns ? now + wait : query->deadline_ns);
}

/* The failure has to come later than the call that asked. */
static void fail_soon(struct kl_query *query, int error)
{
	query->error = error;
	query->failing = true;
	kl_query_arm(query, 0);
}

/* No descriptor to ask with: wait for another query to give one back, if there is one. */
static bool starve(struct kl_query *query)
{
	struct kloop_resolver *resolver = query->resolver;

	if (query->sends != 1 || resolver->active < 2 || resolver->flights == 0)
		return false;
	query->sends = 0;
	query->starved = true;
	resolver->active--;
	push_waiting(query, true);
	return true;
}

void kl_query_advance(struct kl_query *query)
{
	struct kl_config *config = query->config;
	int error = 0;

	while (query->sends < config->attempts * config->server_count) {
		unsigned server = query->order[query->sends++ % config->server_count];

		if (useless(query, server))
			continue;
		if (query->sends > 1)
			query->resolver->stats.retries++;
		error = kl_query_ask(query, server);
		if (error == 0) {
			if (query->sends == 1 && query->probe >= 0)
				(void)kl_query_ask(query, (unsigned)query->probe);
			start_timer(query, server);
			return;
		}
		if (error == -EALREADY) { /* all that is open is on its way by TCP */
			start_timer(query, server);
			return;
		}
		if ((error == -EMFILE || error == -ENFILE) && starve(query))
			return;
		if (error != -EMFILE && error != -ENFILE && error != -ENOMEM && error != -EAGAIN)
			kl_server_missed(&config->servers[server], query->resolver->now_ns, true);
		else if (!kl_udp_silent(query))
			break;
	}
	if (kl_query_hopes(query) && query->deadline_ns > query->resolver->now_ns) {
		kl_query_arm(query, query->deadline_ns);
		return;
	}
	fail_soon(query, error == -EMFILE || error == -ENFILE || error == -ENOMEM ? error :
			 query->error != 0 ? query->error : KLOOP_ERROR_DNS_AGAIN);
}

void kl_query_expire(struct kloop_timer *timer)
{
	struct kl_query *query = kl_container_of(timer, struct kl_query, timer);
	struct kl_config *config = query->config;
	uint64_t now;
	unsigned silent = kl_udp_silent(query);

	for (unsigned i = 0; i < query->count; i++)
		silent |= query->questions[i].done ? 0 : query->questions[i].tcp;
	kl_resolver_tick(query->resolver);
	now = query->resolver->now_ns;
	if (query->failing) {
		give_up_all(query, query->error);
		return;
	}
	if (query->sends < config->attempts * config->server_count &&
	    (!query->has_stale || now < query->deadline_ns)) {
		kl_query_advance(query);
		return;
	}
	if (calls_again(query) && now < query->deadline_ns) {
		call_again(query);
		return;
	}
	for (unsigned i = 0; i < config->server_count; i++) {
		if (silent & 1u << i)
			kl_server_missed(&config->servers[i], now, false);
	}
	give_up_all(query, KLOOP_ERROR_DNS_TIMEOUT);
}

void kl_queries_fail(struct kloop_resolver *resolver)
{
	resolver->failing = false;
	for (size_t i = 0; i < KL_QUERY_BUCKETS; i++) {
		struct kl_query *query = resolver->buckets[i];

		while (query) {
			if (query->failing && !kloop_timer_is_active(&query->timer)) {
				give_up_all(query, query->error);
				query = resolver->buckets[i]; /* whoever is left */
			} else {
				query = query->next;
			}
		}
	}
}
