/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The life of a connection: connected, upgraded to TLS where that is wanted,
 * kept for a while when nothing is asked, ended.
 */
#include "tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static bool has_tls(const struct kl_server *server)
{
	return server->transport == KLOOP_DNS_TLS;
}

static bool is_opportunistic(const struct kl_server *server)
{
	return server->tls_flags & KLOOP_DNS_TLS_OPPORTUNISTIC;
}

/* ---- the end ------------------------------------------------------------- */

/* The newest ticket is the one to resume with. */
static void keep_ticket(struct kl_tcp *tcp)
{
	struct kloop_tls_ticket *ticket;

	if (!has_tls(tcp->server) || tcp->answers == 0 ||
	    kloop_tls_get_ticket(kloop_tls_get(tcp->stream), &ticket) < 0)
		return;
	kloop_tls_ticket_free(tcp->server->ticket);
	tcp->server->ticket = ticket;
}

static void end(struct kl_tcp *tcp, bool gently)
{
	if (tcp->ended)
		return;
	keep_ticket(tcp);
	tcp->ended = true;
	if (tcp->server->tcp == tcp)
		tcp->server->tcp = NULL;
	kloop_timer_stop(&tcp->timer);
	/* A peer that takes nothing must not hold it. */
	if (gently && kloop_stream_get_write_bytes(tcp->stream) == 0)
		kloop_stream_close(tcp->stream);
	else
		kloop_stream_abort(tcp->stream);
}

void kl_tcp_end(struct kl_tcp *tcp)
{
	end(tcp, false);
}

void kl_tcp_detach(struct kl_tcp *tcp)
{
	if (tcp->ended)
		return;
	if (tcp->count == 0)
		end(tcp, tcp->ready);
	else if (tcp->server->tcp == tcp)
		tcp->server->tcp = NULL;
}

void kl_tcp_retire(struct kl_config *config)
{
	for (unsigned i = 0; config && i < config->server_count; i++) {
		if (config->servers[i].tcp)
			kl_tcp_detach(config->servers[i].tcp);
	}
}

/* ---- idleness ------------------------------------------------------------ */

static uint64_t idle_time(const struct kl_tcp *tcp)
{
	const struct kl_server *server = tcp->server;
	uint64_t time = tcp->resolver->options.idle_ns;

	if (!tcp->ready || server->tcp != tcp || tcp->config != tcp->resolver->config ||
	    tcp->resolver->closing || server->transport == KLOOP_DNS_UDP)
		return 0;
	return server->idle_told && server->idle_ns < time ? server->idle_ns : time;
}

static uint64_t idle_until(const struct kl_tcp *tcp)
{
	uint64_t time = idle_time(tcp);

	return time < KLOOP_FOREVER - tcp->idle_ns ? tcp->idle_ns + time : KLOOP_FOREVER;
}

void kl_tcp_settle(struct kl_tcp *tcp)
{
	if (tcp->ended || tcp->count != 0)
		return;
	if (idle_time(tcp) == 0) {
		end(tcp, tcp->ready);
		return;
	}
	tcp->idle_ns = kloop_now();
	/* One that runs looks at the time again when it expires. */
	if (!kloop_timer_is_active(&tcp->timer) &&
	    kloop_timer_start(tcp->resolver->loop, &tcp->timer, idle_until(tcp)) < 0)
		end(tcp, true);
}

static void expire(struct kloop_timer *timer)
{
	struct kl_tcp *tcp = kl_container_of(timer, struct kl_tcp, timer);

	if (tcp->count != 0)
		return;
	if (idle_until(tcp) <= kloop_now() ||
	    kloop_timer_start(tcp->resolver->loop, &tcp->timer, idle_until(tcp)) < 0)
		end(tcp, true);
}

/* ---- handlers ------------------------------------------------------------ */

static void established(struct kl_tcp *tcp)
{
	struct kl_server *server = tcp->server;

	tcp->ready = true;
	server->error = 0;
	server->reason[0] = '\0';
	if (has_tls(server)) {
		tcp->resolver->stats.tls_connections++;
		tcp->resolver->stats.tls_resumed +=
			kloop_tls_is_resumed(kloop_tls_get(tcp->stream));
	}
	if (kloop_stream_start_read(tcp->stream) < 0)
		kl_tcp_fail(tcp, -ENOMEM);
	else
		kl_tcp_settle(tcp);
}

static void on_connect(struct kloop_stream *stream, int result, void *user)
{
	struct kl_tcp *tcp = user;

	(void)stream;
	if (tcp->ended)
		return;
	if (result < 0)
		kl_tcp_fail(tcp, result);
	else if (!has_tls(tcp->server))
		established(tcp);
}

static void on_handshake(struct kloop_stream *stream, int result, void *user)
{
	struct kl_tcp *tcp = user;

	(void)stream;
	if (tcp->ended)
		return;
	if (result < 0)
		kl_tcp_fail(tcp, result);
	else
		established(tcp);
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	struct kl_tcp *tcp = user;

	(void)stream;
	if (tcp->ended)
		return;
	kl_tcp_receive(tcp, data, bytes);
	kl_tcp_settle(tcp);
}

static void on_eof(struct kloop_stream *stream, void *user)
{
	struct kl_tcp *tcp = user;

	(void)stream;
	if (!tcp->ended)
		kl_tcp_fail(tcp, -ECONNRESET);
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	struct kl_tcp *tcp = user;

	(void)stream;
	if (!tcp->ended)
		kl_tcp_fail(tcp, error);
}

static void on_close(struct kloop_stream *stream, void *user)
{
	struct kl_tcp *tcp = user;
	struct kloop_resolver *resolver = tcp->resolver;

	(void)stream;
	/* At the loop's end streams go first. */
	if (!tcp->ended && tcp->server->tcp == tcp)
		tcp->server->tcp = NULL;
	kloop_timer_stop(&tcp->timer);
	kl_tcp_drop_asked(tcp);
	kl_config_unref(tcp->config);
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

/* ---- the beginning ------------------------------------------------------- */

/* Whom the certificate has to be for. */
static int set_name(const struct kl_server *server, struct kloop_tls *tls)
{
	const struct kloop_address *address = &server->address;
	char text[INET6_ADDRSTRLEN];

	if (server->name)
		return kloop_tls_set_name(tls, server->name);
	if (is_opportunistic(server))
		return 0;
	if (address->u.any.sa_family == AF_INET)
		(void)inet_ntop(AF_INET, &address->u.ip4.sin_addr, text, sizeof(text));
	else
		(void)inet_ntop(AF_INET6, &address->u.ip6.sin6_addr, text, sizeof(text));
	return kloop_tls_set_name(tls, text);
}

/* From here on what is written waits for the handshake; in the clear goes nothing. */
static int start_tls(struct kl_tcp *tcp)
{
	struct kl_server *server = tcp->server;
	struct kloop_tls *tls = NULL;
	int ret = kloop_tls_new(tcp->resolver->tls_contexts[is_opportunistic(server)], &tls);

	if (ret == 0)
		ret = set_name(server, tls);
	/* A ticket is good for one connection: what it knows must not tell two of them together. */
	if (ret == 0 && server->ticket) {
		(void)!kloop_tls_set_ticket(tls, server->ticket);
		kloop_tls_ticket_free(server->ticket);
		server->ticket = NULL;
	}
	if (ret == 0)
		ret = kloop_tls_set_ktls(tls, KLOOP_KTLS_OFF);
	if (ret == 0)
		ret = kloop_tls_set_timeouts(tls, tcp->config->timeout_ns, 0);
	if (ret == 0)
		ret = kloop_tls_start(tls, tcp->stream, on_handshake);
	if (ret < 0)
		kloop_tls_free(tls);
	return ret;
}

int kl_tcp_connect(struct kloop_resolver *resolver, struct kl_config *config, unsigned position)
{
	struct kl_server *server = &config->servers[position];
	struct kl_tcp *tcp = kl_calloc(1, sizeof(*tcp));
	int ret = -ENOMEM;

	if (tcp)
		ret = kl_random_fill(&resolver->random, &tcp->secret, sizeof(tcp->secret));
	if (ret == 0) {
		tcp->resolver = resolver;
		/* A query that nobody waits for may be the last one to hold it otherwise. */
		tcp->config = kl_config_ref(config);
		tcp->server = server;
		tcp->position = position;
		kloop_timer_init(&tcp->timer, expire);
		ret = kloop_stream_connect(resolver->loop, &server->address, &handlers, tcp,
					   &tcp->stream);
	}
	if (ret < 0) {
		kl_config_unref(tcp ? tcp->config : NULL);
		kl_free(tcp);
		return ret;
	}
	resolver->holds++;
	resolver->stats.tcp_connections++;
	if (has_tls(server))
		ret = start_tls(tcp);
	if (ret < 0) {
		end(tcp, false);
		return ret;
	}
	server->tcp = tcp;
	return 0;
}

/* ---- what others want to know -------------------------------------------- */

bool kl_tcp_is_ready(const struct kl_server *server)
{
	return server->tcp && server->tcp->ready;
}

unsigned kl_tcp_get_flags(const struct kl_server *server)
{
	unsigned flags = 0;

	if (!kl_tcp_is_ready(server))
		return 0;
	flags = KLOOP_DNS_SERVER_CONNECTED;
	/* Whatever the context asks for: OpenSSL looks at the certificate in any case. */
	if (has_tls(server) && !is_opportunistic(server) &&
	    kloop_tls_get_verify_result(kloop_tls_get(server->tcp->stream)) == 0)
		flags |= KLOOP_DNS_SERVER_AUTHENTICATED;
	return flags;
}
