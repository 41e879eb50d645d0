/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A connection to a server, over TCP, with TLS or without: between its life
 * (tcp-connect.c) and what is asked on it (tcp.c).
 *
 * Until it has ended it has questions, or its server takes questions for it, or
 * both: so its server and configuration are there.
 */
#ifndef KL_DNS_TCP_H
#define KL_DNS_TCP_H

#include <kloop/stream.h>

#include "query.h"

/* A question that was sent and not answered. */
struct kl_asked {
	struct kl_query *query; /* NULL: nobody wants the answer any more, or the slot is free */
	uint64_t sent_ns;
	uint16_t next_free;
	uint8_t question;
	uint8_t again; /* how often it was put on another connection */
	bool used;
	bool edns;
	bool timed; /* it left at once */
};

struct kl_tcp {
	struct kloop_resolver *resolver;
	struct kl_config *config; /* held until the stream's end */
	struct kl_server *server; /* of it */
	struct kloop_stream *stream;
	struct kloop_timer timer; /* for idleness */
	unsigned position; /* of the server */
	bool ready;        /* connected, and TLS is on where it is wanted */
	bool ended;        /* waits for its stream's end */
	unsigned answers;
	unsigned bad; /* messages that were none */
	uint64_t heard_ns;
	uint64_t idle_ns; /* since when */

	/* Ids are slots, disguised by a secret. */
	struct kl_asked *asked;
	unsigned room;  /* slots */
	unsigned count; /* questions that somebody wants answered */
	unsigned abandoned;
	uint16_t free;
	uint16_t secret;

	size_t used; /* bytes of the frame in progress, its length included */
	size_t frame_room;
	uint8_t *frame;
};

/* tcp-connect.c */
/* Connect to a server: it takes questions from here on. 0 or a negative errno. */
int kl_tcp_connect(struct kloop_resolver *resolver, struct kl_config *config, unsigned position);
/* No question goes to it any more; it ends when it has no others. */
void kl_tcp_detach(struct kl_tcp *tcp);
/* End it. What is asked on it is the caller's to look after. */
void kl_tcp_end(struct kl_tcp *tcp);
/* Nothing is asked on it: keep it for a while, or end it. */
void kl_tcp_settle(struct kl_tcp *tcp);

/* tcp.c */
void kl_tcp_receive(struct kl_tcp *tcp, const uint8_t *data, size_t bytes);
/* The connection is lost: so are the questions on it. */
void kl_tcp_fail(struct kl_tcp *tcp, int error);
/* Its memory goes: no question may refer to it. */
void kl_tcp_drop_asked(struct kl_tcp *tcp);

#endif
