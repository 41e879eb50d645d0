/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Questions over TCP, with TLS inside or without: the questions of all queries
 * to a server share a connection, with answers in any order (RFC 7766).
 */
#include "tcp.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ldns.h"

/* Questions on a connection at a time; more of them make another one. */
#define SLOTS_MAX 4096
#define SLOTS_FIRST 16
#define NO_SLOT UINT16_MAX
/* Answers to no question until it is cut. */
#define BAD_MAX 16
/* A server may end a connection at any time: how often a question goes on another one. */
#define AGAIN_MAX 4
#define FRAME_KEPT_BYTES 4096

/* ---- slots --------------------------------------------------------------- */

static bool grow(struct kl_tcp *tcp)
{
	unsigned room = tcp->room != 0 ? 2 * tcp->room : SLOTS_FIRST;
	struct kl_asked *grown = kl_realloc(tcp->asked, room * sizeof(*grown));

	if (!grown)
		return false;
	memset(grown + tcp->room, 0, (room - tcp->room) * sizeof(*grown));
	for (unsigned i = tcp->room; i < room; i++)
		grown[i].next_free = i + 1 < room ? (uint16_t)(i + 1) : NO_SLOT;
	tcp->asked = grown;
	tcp->free = (uint16_t)tcp->room;
	tcp->room = room;
	return true;
}

static bool is_full(const struct kl_tcp *tcp)
{
	return tcp->count + tcp->abandoned == SLOTS_MAX;
}

static void free_slot(struct kl_tcp *tcp, unsigned slot)
{
	tcp->asked[slot].used = false;
	tcp->asked[slot].query = NULL;
	tcp->asked[slot].next_free = tcp->free;
	tcp->free = (uint16_t)slot;
}

/* The question is the connection's no more. */
static void unplace(struct kl_tcp *tcp, const struct kl_asked *asked)
{
	asked->query->questions[asked->question].tcp &= (uint8_t)~(1u << tcp->position);
	tcp->count--;
}

static struct kl_asked take(struct kl_tcp *tcp, unsigned slot)
{
	struct kl_asked asked = tcp->asked[slot];

	unplace(tcp, &asked);
	free_slot(tcp, slot);
	return asked;
}

/* Its answer may come all the same: until then the id is not used again. */
static void abandon(struct kl_tcp *tcp, unsigned slot)
{
	struct kl_asked *asked = &tcp->asked[slot];

	unplace(tcp, asked);
	asked->query = NULL;
	tcp->abandoned++;
}

void kl_tcp_drop_asked(struct kl_tcp *tcp)
{
	for (unsigned i = 0; i < tcp->room; i++) {
		if (tcp->asked[i].query)
			unplace(tcp, &tcp->asked[i]);
	}
	kl_free(tcp->asked);
	tcp->asked = NULL;
	tcp->room = 0;
}

/* ---- questions ----------------------------------------------------------- */

static int put(struct kl_tcp *tcp, struct kl_query *query, unsigned question, unsigned again)
{
	struct kl_question *which = &query->questions[question];
	uint8_t wire[2 + KL_QUERY_BYTES];
	struct kl_asked *asked;
	unsigned slot;
	int ret;

	if (tcp->count + tcp->abandoned == tcp->room && !grow(tcp))
		return -ENOMEM;
	if (!query->places)
		query->places = kl_calloc(query->count, sizeof(*query->places));
	if (!query->places)
		return -ENOMEM;
	slot = tcp->free;
	asked = &tcp->asked[slot];
	ret = kl_query_encode(query, question, tcp->server, (uint16_t)(slot ^ tcp->secret), true,
			      wire + 2, &asked->edns);
	if (ret < 0)
		return ret;
	kl_put16(wire, (unsigned)ret);
	ret = kloop_stream_write(tcp->stream, wire, 2 + (size_t)ret, NULL, NULL);
	if (ret < 0)
		return ret;
	tcp->free = asked->next_free;
	tcp->count++;
	asked->used = true;
	asked->query = query;
	asked->question = (uint8_t)question;
	asked->again = (uint8_t)again;
	asked->sent_ns = query->resolver->now_ns;
	asked->timed = tcp->ready;
	query->places[question][tcp->position] = (struct kl_place){ tcp, slot };
	which->tcp |= (uint8_t)(1u << tcp->position);
	which->failed &= (uint8_t)~(1u << tcp->position);
	return 0;
}

static int ask(struct kl_query *query, unsigned position, unsigned question, unsigned again)
{
	struct kl_server *server = &query->config->servers[position];
	int ret = 0;

	if (server->tcp && is_full(server->tcp))
		kl_tcp_detach(server->tcp);
	if (server->tcp) {
		ret = put(server->tcp, query, question, again);
		if (ret != -EPIPE && ret != -ESTALE)
			return ret;
		/* It broke, which is about to be told. */
		kl_tcp_detach(server->tcp);
	}
	ret = kl_tcp_connect(query->resolver, query->config, position);
	if (ret < 0)
		return ret;
	ret = put(server->tcp, query, question, again);
	if (ret < 0)
		kl_tcp_detach(server->tcp);
	return ret;
}

int kl_tcp_ask(struct kl_query *query, unsigned position, unsigned question)
{
	return ask(query, position, question, 0);
}

/* Nothing has come since it was asked, for longer than it takes: the connection may be dead. */
static bool is_silent(const struct kl_tcp *tcp, const struct kl_asked *asked)
{
	return asked->sent_ns > tcp->heard_ns &&
	       tcp->resolver->now_ns - asked->sent_ns >
		       kl_server_patience(tcp->server, tcp->config->timeout_ns);
}

void kl_tcp_forget(struct kl_query *query)
{
	for (unsigned i = 0; i < query->count; i++) {
		struct kl_question *question = &query->questions[i];

		for (unsigned j = 0; question->tcp >> j != 0; j++) {
			struct kl_place place;
			struct kl_tcp *tcp;
			bool silent;

			if (!(question->tcp >> j & 1))
				continue;
			place = query->places[i][j];
			tcp = place.tcp;
			silent = is_silent(tcp, &tcp->asked[place.slot]);
			abandon(tcp, place.slot);
			if (silent)
				kl_tcp_detach(tcp);
			else
				kl_tcp_settle(tcp);
		}
	}
}

unsigned kl_tcp_overtaken(const struct kl_query *query, unsigned question, uint64_t sent_ns)
{
	const struct kl_question *which = &query->questions[question];
	unsigned servers = 0;

	for (unsigned i = 0; which->tcp >> i != 0; i++) {
		const struct kl_place *place;

		if (!(which->tcp >> i & 1))
			continue;
		place = &query->places[question][i];
		if (place->tcp->asked[place->slot].sent_ns < sent_ns)
			servers |= 1u << i;
	}
	return servers;
}

/* ---- failure ------------------------------------------------------------- */

static void note_failure(struct kl_tcp *tcp, int error)
{
	struct kl_server *server = tcp->server;
	const struct kloop_tls *tls = kloop_tls_get(tcp->stream);
	bool by_tls = error <= KLOOP_ERROR_TLS_PROTOCOL && error > KLOOP_ERROR_KTLS_OFF;

	server->error = error;
	snprintf(server->reason, sizeof(server->reason), "%s",
		 tls && by_tls ? kloop_tls_get_error_text(tls) : kloop_strerror(error));
	if (server->transport == KLOOP_DNS_TLS && !tcp->ready)
		tcp->resolver->stats.tls_failures++;
}

/* What queries tell if nobody else answers. */
static int failure_of(const struct kl_tcp *tcp, int error)
{
	if (tcp->ready || tcp->server->transport != KLOOP_DNS_TLS)
		return KLOOP_ERROR_DNS_AGAIN;
	if (error == -ETIMEDOUT)
		return KLOOP_ERROR_DNS_TIMEOUT;
	return error <= KLOOP_ERROR_TLS_PROTOCOL && error > KLOOP_ERROR_KTLS_OFF ?
		       KLOOP_ERROR_DNS_TLS :
		       KLOOP_ERROR_DNS_AGAIN;
}

void kl_tcp_fail(struct kl_tcp *tcp, int error)
{
	struct kloop_resolver *resolver = tcp->resolver;
	/* One that served and was ended says nothing against the server. */
	bool worn = tcp->answers != 0;
	int failure = failure_of(tcp, error);
	unsigned position = tcp->position;
	struct kl_asked *asked = tcp->asked;
	unsigned room = tcp->room;
	bool missed = false;

	kl_resolver_tick(resolver);
	if (!worn)
		note_failure(tcp, error);
	kl_tcp_end(tcp);
	tcp->asked = NULL;
	tcp->room = 0;
	/* None may hope for this connection when the first one looks for another server. */
	for (unsigned i = 0; i < room; i++) {
		struct kl_question *question;

		if (!asked[i].query)
			continue;
		unplace(tcp, &asked[i]);
		question = &asked[i].query->questions[asked[i].question];
		question->failed |= (uint8_t)(1u << position);
	}
	for (unsigned i = 0; i < room; i++) {
		struct kl_query *query = asked[i].query;
		unsigned question = asked[i].question;

		if (!query || query->questions[question].done)
			continue;
		if (worn && asked[i].again < AGAIN_MAX && !resolver->closing &&
		    ask(query, position, question, asked[i].again + 1u) == 0)
			continue;
		if (!missed)
			kl_server_missed(&query->config->servers[position], resolver->now_ns, true);
		missed = true;
		kl_query_failed(query, question, position, failure);
	}
	kl_free(asked);
}

/* ---- answers ------------------------------------------------------------- */

static void receive(struct kl_tcp *tcp, const uint8_t *wire, size_t bytes)
{
	struct kl_incoming incoming = { .server = tcp->position,
					.wire = wire,
					.bytes = bytes,
					.tcp = true };
	unsigned slot = bytes < KL_HEADER_BYTES ? tcp->room :
						  (uint16_t)(kl_get16(wire) ^ tcp->secret);
	struct kl_asked asked;

	if (slot >= tcp->room || !tcp->asked[slot].used) {
		tcp->resolver->stats.packets_refused++;
		if (++tcp->bad > BAD_MAX)
			kl_tcp_fail(tcp, -EBADMSG);
		return;
	}
	tcp->heard_ns = tcp->resolver->now_ns;
	tcp->answers++;
	if (!tcp->asked[slot].query) {
		tcp->abandoned--;
		free_slot(tcp, slot);
		return;
	}
	asked = take(tcp, slot);
	/* Its answer has come from elsewhere meanwhile. */
	if (asked.query->questions[asked.question].done)
		return;
	incoming.edns = asked.edns;
	incoming.timed = asked.timed;
	incoming.sent_ns = asked.sent_ns;
	if (kl_query_receive(asked.query, asked.question, &incoming) == KL_VERDICT_DONE)
		return;
	tcp->resolver->stats.packets_refused++;
	/* From a server on a connection there will be no better one. */
	kl_query_failed(asked.query, asked.question, tcp->position, KLOOP_ERROR_DNS_AGAIN);
}

/* Keep what does not make a whole frame yet: memory grows with what has come, not with promises. */
static bool keep(struct kl_tcp *tcp, const uint8_t *data, size_t bytes)
{
	if (tcp->frame_room - tcp->used < bytes) {
		size_t room = tcp->frame_room != 0 ? tcp->frame_room : 1024;
		uint8_t *grown;

		while (room - tcp->used < bytes)
			room *= 2;
		grown = kl_realloc(tcp->frame, room);
		if (!grown)
			return false;
		tcp->frame = grown;
		tcp->frame_room = room;
	}
	memcpy(tcp->frame + tcp->used, data, bytes);
	tcp->used += bytes;
	return true;
}

void kl_tcp_receive(struct kl_tcp *tcp, const uint8_t *data, size_t bytes)
{
	kl_resolver_tick(tcp->resolver);
	while (bytes != 0 && !tcp->ended) {
		size_t wanted = tcp->used < 2 ? 2 : 2u + kl_get16(tcp->frame);
		size_t part = wanted - tcp->used < bytes ? wanted - tcp->used : bytes;

		if (!keep(tcp, data, part)) {
			kl_tcp_fail(tcp, -ENOMEM);
			return;
		}
		data += part;
		bytes -= part;
		if (tcp->used < 2 || tcp->used < 2u + kl_get16(tcp->frame))
			continue;
		tcp->used = 0;
		receive(tcp, tcp->frame + 2, kl_get16(tcp->frame));
	}
	if (tcp->used == 0 && tcp->frame_room > FRAME_KEPT_BYTES) {
		kl_free(tcp->frame);
		tcp->frame = NULL;
		tcp->frame_room = 0;
	}
}
