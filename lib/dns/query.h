/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A query: one name, one or two types, asked of the servers until there is an
 * answer to each. Lookups that want the same share one.
 */
#ifndef KL_DNS_QUERY_H
#define KL_DNS_QUERY_H

#include "answer.h"
#include "resolver.h"

struct kl_wait;

struct kl_question {
	uint16_t type;
	bool done;
	bool stale;       /* the answer is one whose time is over */
	uint8_t tcp;      /* servers, by bits, that owe an answer over a connection */
	uint8_t failed;   /* servers, by bits, that gave no usable answer */
	int failure;      /* what to tell if none does */
	unsigned rcode;   /* behind the failure */
	int result;       /* once done: 0 and the negative answers come with an answer */
	struct kl_answer *answer;
	struct kl_answer *refusal; /* what a server said that failed at it; may be NULL */
};

/* Where a question is on a connection. */
struct kl_place {
	struct kl_tcp *tcp;
	unsigned slot;
};

struct kl_query {
	struct kloop_resolver *resolver;
	struct kl_config *config;
	struct kl_query *next; /* in its bucket */
	struct kl_query *next_waiting;
	struct kl_wait *waits;
	struct kl_flight *flights;
	struct kloop_timer timer;
	uint64_t deadline_ns; /* after the last question */
	struct kl_question questions[2];
	unsigned count;    /* of questions */
	unsigned pending;  /* of these, not done */
	unsigned flags;    /* enum kloop_query_flag, those that change the question */
	uint32_t hash;
	unsigned sends;    /* how many servers were asked, repetitions included */
	unsigned cookie_retries;
	int error;         /* of the system, -EMFILE: nothing could be sent */
	uint8_t order[KL_SERVERS_MAX];
	/* Of each question, by servers; NULL as long as nothing was asked over a connection. */
	struct kl_place (*places)[KL_SERVERS_MAX];
	int probe;
	bool waiting;      /* for its turn */
	bool background;   /* goes on without waits */
	bool starved;      /* lacks a descriptor */
	bool failing;      /* nothing is to be waited for: ends when its timer expires */
	bool has_stale;
	bool called_again; /* those who were silent were asked a last time */
	bool telling;      /* those who wait are being told */
	uint8_t name_bytes;
	uint8_t *name;     /* as the user wrote it */
	uint8_t *cased;    /* as it is asked */
	uint8_t names[];
};

/* Somebody who waits for a query. */
struct kl_wait {
	struct kl_query *query; /* NULL: waits for nothing */
	struct kl_wait *next;
	struct kl_wait **link;
	/*
	 * A question is done, or all are; in the latter case the query is gone
	 * for the wait when the call returns. May end its own wait only.
	 */
	void (*notify)(struct kl_wait *wait, struct kl_query *query);
};

/*
 * Have somebody wait for the answers to count types of a name; wait may be NULL
 * for a query in the background. Never notifies inside this call.
 * 0, -ENOMEM, -EAGAIN without random numbers.
 */
int kl_query_start(struct kloop_resolver *resolver, struct kl_config *config, const uint8_t *name,
		   size_t name_bytes, const uint16_t *types, unsigned count, unsigned flags,
		   struct kl_wait *wait);

/* Wait no more; a query for which nobody waits ends. */
void kl_wait_end(struct kl_wait *wait);

/* The question of a type in a query, or NULL. */
struct kl_question *kl_query_find(struct kl_query *query, unsigned type);

/* End all queries without a word. */
void kl_queries_end(struct kloop_resolver *resolver);

/* End those that are failing and have no timer to say so. */
void kl_queries_fail(struct kloop_resolver *resolver);

/* ---- between query.c, query-start.c and query-receive.c ------------------ */

struct kl_query **kl_query_bucket(struct kloop_resolver *resolver, uint32_t hash);
/* What the answer to one of its questions is kept as. */
struct kl_key kl_query_key(const struct kl_query *query, const struct kl_question *question);
/* Let it go when its turn has come. */
void kl_query_launch(struct kl_query *query);
void kl_query_expire(struct kloop_timer *timer);
/* Ask a server for all that is open. 0, or why that could not be. */
int kl_query_ask(struct kl_query *query, unsigned server);
/* Ask the next server that is worth it; fail, later, if there is none, and no hope. */
void kl_query_advance(struct kl_query *query);
/* May some server still answer every open question? */
bool kl_query_hopes(const struct kl_query *query);
/*
 * Have the timer expire then. Without memory for that the query fails, at the
 * start of the next turn.
 */
void kl_query_arm(struct kl_query *query, uint64_t when_ns);
/* Tell all who wait; end if that was the last question. False: the query is gone. */
bool kl_query_tell(struct kl_query *query);

/* ---- between the query and its transports ------------------------------- */

/* What a message that came means for a question. */
enum kl_verdict {
	KL_VERDICT_REFUSED,   /* it is not from the server, or not about this */
	KL_VERDICT_DONE,      /* the question is answered, or the server failed at it */
};

/* A message from a server over a transport, about a question by its id. */
struct kl_incoming {
	unsigned server; /* position in the configuration */
	const uint8_t *wire;
	size_t bytes;
	bool tcp;
	bool truncated; /* it did not fit the buffer */
	bool edns;      /* the question had it */
	bool cased;     /* and letters in random case */
	bool timed;     /* the time since tells how fast the server is */
	uint64_t sent_ns;
};

/* May end the query. */
enum kl_verdict kl_query_receive(struct kl_query *query, unsigned question,
				 const struct kl_incoming *incoming);
/* A transport has given up on a question at a server, for a reason to be told if nobody answers. */
void kl_query_failed(struct kl_query *query, unsigned question, unsigned server, int failure);

/* encode.c: is what the server says about DNSSEC believed? */
bool kl_query_trusts(const struct kl_query *query, const struct kl_server *server);
/* Encode a question for a server; as kl_ldns_encode(). */
int kl_query_encode(struct kl_query *query, unsigned question, struct kl_server *server,
		    uint16_t id, bool tcp, uint8_t *ret_wire, bool *ret_edns);

/* udp.c: ask all that is not done, over a socket of its own. 0 or a negative errno. */
int kl_udp_ask(struct kl_query *query, unsigned server);
/* Give up the query's sockets. */
void kl_udp_forget(struct kl_query *query);
/* Is a question still open at some server? */
bool kl_udp_hopes(const struct kl_query *query, unsigned question);
/* The servers, by bits, that were asked and have not answered. */
unsigned kl_udp_silent(const struct kl_query *query);
/* The servers, by bits, that were asked before then and have not answered this question. */
unsigned kl_udp_overtaken(const struct kl_query *query, unsigned question, uint64_t sent_ns);
void kl_udp_close_idle(struct kloop_resolver *resolver);

/* tcp.c: the same over a connection that queries of a server share, with TLS or without. */
int kl_tcp_ask(struct kl_query *query, unsigned server, unsigned question);
void kl_tcp_forget(struct kl_query *query);
/* As kl_udp_overtaken(). */
unsigned kl_tcp_overtaken(const struct kl_query *query, unsigned question, uint64_t sent_ns);
/* Is there a connection that only waits for questions? */
bool kl_tcp_is_ready(const struct kl_server *server);
/* Its bits of enum kloop_dns_server_flag. */
unsigned kl_tcp_get_flags(const struct kl_server *server);
/* The configuration, NULL for none, is no longer in force: its connections take nothing more. */
void kl_tcp_retire(struct kl_config *config);

#endif
