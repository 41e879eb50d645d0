/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A name server over TCP, with TLS (by OpenSSL alone) or without, on the test's
 * own loop, that can behave in the ways a resolver has to live with.
 */
#ifndef KT_DNSSTREAM_H
#define KT_DNSSTREAM_H

#include "certs.h"
#include "dns.h"

#include <openssl/ssl.h>

#define KT_DOT_PEERS 32
#define KT_DOT_HELD 64

enum kt_dot_mode {
	KT_DOT_NORMAL,
	KT_DOT_HANG,      /* accepts, and does nothing more */
	KT_DOT_MUTE,      /* handshakes, reads, and answers nothing */
	KT_DOT_GARBAGE,   /* sends text where TLS begins */
	KT_DOT_BYTES,     /* writes one byte at a time, a record each */
	KT_DOT_CUT,       /* ends the connection inside an answer */
	KT_DOT_RESET,     /* the same by a reset, before the first answer */
};

struct kt_dot;
struct kt_dot_peer {
	struct kt_dot *server;
	struct kloop_op op;
	int fd;
	SSL *ssl; /* NULL: without TLS */
	bool open; /* the handshake is done */
	int answers;
	size_t used;
	uint8_t buffer[2 + KT_DNS_BYTES];
	struct {
		size_t bytes;
		uint8_t *frame;
	} held[KT_DOT_HELD];
	int held_count;
};

struct kt_dot {
	struct kloop_loop *loop;
	struct kt_dns zone; /* what it answers; not opened */
	SSL_CTX *ctx;       /* NULL: without TLS */
	int fd;
	uint16_t port;
	int mode; /* enum kt_dot_mode */
	int hold;  /* keep answers back until there are so many, and send the last one first */
	int limit; /* answers on a connection, after which it is ended; 0: any number */
	/* As of kt_dns; NULL: the zone answers. */
	int (*hook)(struct kt_dot *server, const struct kt_question *question, uint8_t *wire);
	void *data;
	int connections;
	int handshakes;
	int resumed;
	int questions;
	int endings;  /* connections that the other side ended */
	int notified; /* of these, with close_notify */
	size_t last_bytes; /* of the newest question */
	uint8_t last[2048];
	char name[256]; /* that the newest client asked for, "" for none */
	struct kloop_op op;
	struct kt_dot_peer *peers[KT_DOT_PEERS];
	int closing;
	int closed;
};

/* Begin, on 127.0.0.1. certificate: KT_CERT_COUNT for no TLS at all. */
void kt_dot_open(struct kt_dot *server, struct kloop_loop *loop, const struct kt_record *zone,
		 size_t count, enum kt_cert certificate);
/* End, before the loop is freed. */
void kt_dot_close(struct kt_dot *server);
/* End all connections from this side, now; gently: with close_notify. */
void kt_dot_end_peers(struct kt_dot *server, bool gently);
struct kloop_address kt_dot_address(const struct kt_dot *server);

#endif
