/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Questions over TCP: one connection to a server, which the questions of all
 * queries share while there are any, with answers in any order (RFC 7766).
 *
 * This is where DNS over TLS joins: a stream that is upgraded once it is
 * connected, with the same frames inside.
 */
#include "query.h"

#include <kloop/stream.h>

#include <errno.h>
#include <string.h>

#include "ldns.h"

/* Questions on a connection at a time, and answers to none of them until it is cut. */
#define PENDING_MAX 256
#define BAD_MAX 16

struct kl_asked {
	struct kl_query *query;
	unsigned question;
	uint16_t id;
	bool edns;
};

struct kl_tcp {
	struct kloop_resolver *resolver;
	struct kl_server *server; /* NULL: given up, waits for its stream's end */
	struct kloop_stream *stream;
	unsigned position; /* of the server */
	unsigned count;
	unsigned bad;
	size_t used; /* bytes of the frame in progress, its length included */
	size_t room;
	uint8_t *frame;
	struct kl_asked asked[PENDING_MAX];
};

static void drop(struct kl_tcp *tcp)
{
	if (!tcp->server)
		return;
	tcp->server->tcp = NULL;
	tcp->server = NULL;
	kloop_stream_abort(tcp->stream);
}

static struct kl_asked take(struct kl_tcp *tcp, unsigned position)
{
	struct kl_asked asked = tcp->asked[position];

	tcp->asked[position] = tcp->asked[--tcp->count];
	return asked;
}

/* Take out all questions of a query but the one that was taken; each counts as failed. */
static void fail_others(struct kl_tcp *tcp, struct kl_query *query)
{
	for (unsigned i = tcp->count; i-- != 0;) {
		struct kl_question *question;

		if (tcp->asked[i].query != query)
			continue;
		question = &query->questions[take(tcp, i).question];
		question->tcp = false;
		question->failed |= (uint8_t)(1u << tcp->position);
		question->failure = KLOOP_ERROR_DNS_AGAIN;
	}
}

/* The connection is lost: so are the questions on it. */
static void fail(struct kl_tcp *tcp)
{
	bool dead = tcp->server != NULL;

	drop(tcp);
	while (tcp->count != 0) {
		struct kl_asked asked = take(tcp, 0);

		fail_others(tcp, asked.query);
		kl_query_failed(asked.query, asked.question, tcp->position, dead);
		dead = false;
	}
}

static void receive(struct kl_tcp *tcp, const uint8_t *wire, size_t bytes)
{
	struct kl_incoming incoming = { tcp->position, wire, bytes, true, false, false, false, 0 };
	struct kl_asked asked;
	unsigned i = 0;

	while (i < tcp->count &&
	       (bytes < KL_HEADER_BYTES || tcp->asked[i].id != kl_get16(wire)))
		i++;
	if (i < tcp->count) {
		asked = take(tcp, i);
		incoming.edns = asked.edns;
		asked.query->questions[asked.question].tcp = false;
		/* Its answer has come over UDP meanwhile. */
		if (asked.query->questions[asked.question].done)
			return;
		if (kl_query_receive(asked.query, asked.question, &incoming) == KL_VERDICT_DONE)
			return;
		tcp->resolver->stats.packets_refused++;
		/* From a server on a connection there will be no better one. */
		kl_query_failed(asked.query, asked.question, tcp->position, false);
		return;
	}
	tcp->resolver->stats.packets_refused++;
	if (++tcp->bad > BAD_MAX)
		fail(tcp);
}

/* Keep what does not make a whole frame yet: memory grows with what has come, not with promises. */
static bool keep(struct kl_tcp *tcp, const uint8_t *data, size_t bytes)
{
	if (tcp->room - tcp->used < bytes) {
		size_t room = tcp->room != 0 ? tcp->room : 1024;
		uint8_t *grown;

		while (room - tcp->used < bytes)
			room *= 2;
		grown = kl_realloc(tcp->frame, room);
		if (!grown)
			return false;
		tcp->frame = grown;
		tcp->room = room;
	}
	memcpy(tcp->frame + tcp->used, data, bytes);
	tcp->used += bytes;
	return true;
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	struct kl_tcp *tcp = user;
	const uint8_t *from = data;

	(void)stream;
	while (bytes != 0 && tcp->server) {
		size_t wanted = tcp->used < 2 ? 2 : 2u + kl_get16(tcp->frame);
		size_t part = wanted - tcp->used < bytes ? wanted - tcp->used : bytes;

		if (!keep(tcp, from, part)) {
			fail(tcp);
			return;
		}
		from += part;
		bytes -= part;
		if (tcp->used < 2 || tcp->used < 2u + kl_get16(tcp->frame))
			continue;
		tcp->used = 0;
		receive(tcp, tcp->frame + 2, kl_get16(tcp->frame));
	}
	if (tcp->server && tcp->count == 0)
		drop(tcp);
}

static void on_connect(struct kloop_stream *stream, int result, void *user)
{
	if (result < 0 || kloop_stream_start_read(stream) < 0)
		fail(user);
}

static void on_eof(struct kloop_stream *stream, void *user)
{
	(void)stream;
	fail(user);
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	(void)stream;
	(void)error;
	fail(user);
}

static void on_close(struct kloop_stream *stream, void *user)
{
	struct kl_tcp *tcp = user;
	struct kloop_resolver *resolver = tcp->resolver;

	(void)stream;
	/* At the loop's end streams go first. */
	if (tcp->server)
		tcp->server->tcp = NULL;
	for (unsigned i = 0; i < tcp->count; i++)
		tcp->asked[i].query->questions[tcp->asked[i].question].tcp = false;
	kl_free(tcp->frame);
	kl_free(tcp);
	kl_resolver_release(resolver);
}

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_connect = on_connect,
	.on_data = on_data,
	.on_eof = on_eof,
	.on_error = on_error,
	.on_close = on_close,
};

static int connect_tcp(struct kloop_resolver *resolver, struct kl_server *server, unsigned position)
{
	struct kl_tcp *tcp = kl_calloc(1, sizeof(*tcp));
	int ret;

	if (!tcp)
		return -ENOMEM;
	tcp->resolver = resolver;
	tcp->position = position;
	ret = kloop_stream_connect(resolver->loop, &server->address, &handlers, tcp, &tcp->stream);
	if (ret < 0) {
		kl_free(tcp);
		return ret;
	}
	resolver->holds++;
	resolver->stats.tcp_connections++;
	tcp->server = server;
	server->tcp = tcp;
	return 0;
}

static int draw_id(struct kl_tcp *tcp, uint16_t *ret_id)
{
	unsigned i;
	int ret;

	do {
		ret = kl_random_fill(&tcp->resolver->random, ret_id, sizeof(*ret_id));
		for (i = 0; i < tcp->count && tcp->asked[i].id != *ret_id; i++)
			;
	} while (ret == 0 && i < tcp->count);
	return ret;
}

int kl_tcp_ask(struct kl_query *query, unsigned position, unsigned question)
{
	struct kl_server *server = &query->config->servers[position];
	uint8_t wire[2 + KL_QUERY_BYTES];
	struct kl_asked *asked;
	struct kl_tcp *tcp;
	int ret = 0;

	if (!server->tcp)
		ret = connect_tcp(query->resolver, server, position);
	tcp = server->tcp;
	if (ret == 0 && tcp->count == PENDING_MAX)
		ret = -EBUSY;
	if (ret < 0)
		return ret;
	asked = &tcp->asked[tcp->count];
	*asked = (struct kl_asked){ .query = query, .question = question };
	ret = draw_id(tcp, &asked->id);
	if (ret == 0)
		ret = kl_query_encode(query, question, server, asked->id, true, wire + 2,
				      &asked->edns);
	if (ret > 0) {
		kl_put16(wire, (unsigned)ret);
		ret = kloop_stream_write(tcp->stream, wire, 2 + (size_t)ret, NULL, NULL);
	}
	if (ret < 0) {
		if (tcp->count == 0)
			drop(tcp);
		return ret;
	}
	tcp->count++;
	query->questions[question].tcp = true;
	query->questions[question].failed &= (uint8_t)~(1u << position);
	return 0;
}

void kl_tcp_forget(struct kl_query *query)
{
	for (unsigned i = 0; i < query->config->server_count; i++) {
		struct kl_tcp *tcp = query->config->servers[i].tcp;

		if (!tcp || tcp->resolver != query->resolver)
			continue;
		for (unsigned j = tcp->count; j-- != 0;) {
			if (tcp->asked[j].query == query)
				take(tcp, j);
		}
		if (tcp->count == 0)
			drop(tcp);
	}
}
