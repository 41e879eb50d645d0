/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Two ends of OpenSSL in this process, for the tests of TLS. What one writes
 * stays in memory until the test carries it to the other, which may look into
 * it, change it, or bring records of its own.
 */
#ifndef KT_SSLPAIR_H
#define KT_SSLPAIR_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A cipher suite: its name for OpenSSL, and what it is. */
struct kt_suite {
	unsigned version;
	const char *name;
	int aead; /* enum kl_tls_aead */
};

/* Both versions, all three ciphers that kernel and library know. */
#define KT_SUITES 6
extern const struct kt_suite kt_suites[KT_SUITES];

struct kt_ssl_pair {
	SSL_CTX *client_ctx;
	SSL_CTX *server_ctx;
	SSL *client;
	SSL *server;
	BIO *from_client, *to_server; /* the client writes to one, the server reads of the other */
	BIO *from_server, *to_client;
};

/* A context of a server, with a certificate of its own; one of a client that trusts anybody. */
SSL_CTX *kt_ssl_server_ctx(void);
SSL_CTX *kt_ssl_client_ctx(void);

/* Have a context offer one suite only. */
void kt_ssl_use_suite(SSL_CTX *ctx, unsigned version, const char *name);

/*
 * Two SSL objects, nothing of the handshake done.
 *
 * Ownership: the pair takes references on the contexts.
 */
void kt_ssl_pair_init(struct kt_ssl_pair *pair, SSL_CTX *client_ctx, SSL_CTX *server_ctx);

/* The same with contexts of its own that offer this suite. */
void kt_ssl_pair_init_suite(struct kt_ssl_pair *pair, const struct kt_suite *suite);
void kt_ssl_pair_free(struct kt_ssl_pair *pair);

/* Carry all that is there; returns how many bytes. */
size_t kt_ssl_carry(BIO *from, BIO *to);

/* Shake hands. Returns: whether both ends are done. What follows (tickets) stays in from_server. */
bool kt_ssl_pair_handshake(struct kt_ssl_pair *pair);

/* Write; all of it goes. */
void kt_ssl_put(SSL *ssl, const void *data, size_t bytes);

/* Read exactly these bytes. */
void kt_ssl_expect(SSL *ssl, const void *data, size_t bytes);

/* Read where nothing but control records is: no data, no failure. */
void kt_ssl_expect_none(SSL *ssl);

/* Take the next record off the wire, whole. Returns: its bytes; 0 if there is none. */
size_t kt_ssl_take_record(BIO *wire, uint8_t *record);

#endif
