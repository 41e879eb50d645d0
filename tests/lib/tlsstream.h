/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * For the tests of TLS over streams: recording streams that are upgraded, and
 * a peer that is OpenSSL alone, stepped by the test on a plain descriptor.
 */
#ifndef KT_TLSSTREAM_H
#define KT_TLSSTREAM_H

#include "certs.h"
#include "streams.h"

#include <openssl/ssl.h>

/*
 * Does the kernel have TLS for sure? In the virtual machine, and where a
 * program has put tests/lib/fakektls.h in force, nothing may be left out.
 */
bool kt_has_ktls(void);
void kt_assume_ktls(void);
/* Does it take a second key? */
bool kt_can_rekey(void);

/* A recording stream with TLS. */
struct kt_tls {
	struct kt_stream s; /* first: handlers get it */
	struct kloop_tls *tls;
	int handshakes;
	int result;
	int plain_reads; /* on_data before the upgrade */
	/* Called at the end of the handshake; may be NULL. */
	void (*then)(struct kt_tls *self);
};

/* What both ends of a connection are made with. */
struct kt_tls_setup {
	int kind;            /* enum kt_kind */
	unsigned version;    /* 0: any */
	const char *cipher;  /* of that version; NULL: any */
	int ktls;            /* enum kloop_ktls_mode */
	enum kt_cert server; /* KT_CERT_SERVER unless said otherwise */
};

/* Contexts as the setup says. */
struct kloop_tls_context *kt_tls_setup_context(const struct kt_tls_setup *setup,
					       enum kloop_tls_role role);

/* Upgrade a stream that is open; name for clients. */
void kt_tls_upgrade(struct kt_tls *self, struct kloop_tls_context *context, const char *name,
		    int ktls);

/* Client [0] and server [1] over a connected pair; both read. */
void kt_tls_open(struct kt_tls ends[2], struct kloop_loop *loop,
		 const struct kt_tls_setup *setup);
/* The same, with the handshake done. */
void kt_tls_connect(struct kt_tls ends[2], struct kloop_loop *loop,
		    const struct kt_tls_setup *setup);
void kt_tls_end(struct kt_tls ends[2]);

/* Turns until the handshake ended, either way. */
void kt_tls_await(struct kt_tls *self);

/* Write so many bytes of the pattern, beginning at a position; they are copied. */
void kt_tls_put(struct kt_tls *self, size_t bytes, size_t position);

/* ---- OpenSSL as a peer -------------------------------------------------- */

struct kt_peer {
	SSL_CTX *ctx;
	SSL *ssl;
	int fd;
	size_t received;
	int updates; /* KeyUpdate messages that came */
	int error; /* of SSL_get_error(3), once something failed for good */
	unsigned long reason;
};

/* Take over a descriptor. A client trusts KT_CERT_CA, a server has KT_CERT_SERVER. */
void kt_peer_open(struct kt_peer *peer, int fd, bool server, unsigned version);
void kt_peer_free(struct kt_peer *peer);

/* As far as it goes now: the handshake, then reading; what it reads must be the pattern. */
void kt_peer_step(struct kt_peer *peer);

/* Steps and turns until *value is at least target. */
void kt_peer_until(struct kt_peer *peer, struct kloop_loop *loop, const int *value, int target);
void kt_peer_await(struct kt_peer *peer, struct kloop_loop *loop, size_t bytes);
/* Write all of the pattern's bytes, turning the loop where the socket is full. */
void kt_peer_put(struct kt_peer *peer, struct kloop_loop *loop, size_t bytes, size_t position);

/* For kt_stream.then: what arrives must be the pattern. */
void kt_check_fill(struct kt_stream *self, enum kt_event event, const void *data, size_t bytes);

/* One end is kLoop's and reads the pattern, the other is in the test's hands. */
struct kt_half {
	struct kloop_loop *loop;
	struct kt_tls end;
	int fd; /* of the other end */
};

void kt_half_open(struct kt_half *half, enum kloop_tls_role role, int mode,
		  const struct kt_tls_setup *setup);
void kt_half_end(struct kt_half *half);

#endif
