/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The keys of a connection's records, outside OpenSSL: what the kernel has to
 * be told, and what it takes to seal and open single records by ourselves.
 *
 * TLS 1.3: OpenSSL hands out the traffic secrets by its key-log callback alone;
 * keys follow by HKDF (RFC 8446, 7.3). TLS 1.2: the master secret and both
 * randoms have accessors; keys follow by the PRF (RFC 5246, 6.3). So one way
 * serves all versions of OpenSSL, on its public functions.
 */
#ifndef KL_TLS_KEYS_H
#define KL_TLS_KEYS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KL_TLS_SECRET_MAX 64

/* The AEADs that kernel and library both know. */
enum kl_tls_aead {
	KL_TLS_AES_128_GCM = 1,
	KL_TLS_AES_256_GCM,
	KL_TLS_CHACHA20_POLY1305,
};

/* Application traffic secrets 0 of TLS 1.3, as they were logged. */
struct kl_tls_secrets {
	uint8_t client[KL_TLS_SECRET_MAX];
	uint8_t server[KL_TLS_SECRET_MAX];
	uint8_t client_bytes; /* 0: not seen */
	uint8_t server_bytes;
	bool renewed; /* a KeyUpdate was sent or received since */
};

/* The key of one direction. */
struct kl_tls_key {
	uint16_t version; /* 0x0303 or 0x0304 */
	uint8_t aead;     /* enum kl_tls_aead */
	uint8_t key_bytes;
	uint8_t secret_bytes; /* TLS 1.3 */
	bool sha384;          /* the hash of the cipher suite; SHA-256 otherwise */
	uint8_t key[32];
	uint8_t iv[12]; /* TLS 1.2 with GCM: 4 bytes, the rest is the explicit nonce */
	uint8_t secret[KL_TLS_SECRET_MAX];
	uint64_t sequence; /* of the next record */
};

/*
 * Have the traffic secrets of a connection stored in *secrets when they come
 * to be. It chains a key-log callback of its own before the one of the
 * connection's SSL_CTX, and an info callback before the connection's own, so
 * that it notices when a name callback exchanges the SSL_CTX.
 *
 * A key-log callback that is set later replaces ours: secrets of handshakes
 * under way stay unseen, and the next watch of that SSL_CTX, or the next step
 * of a watched handshake, chains itself before it. A second watch of an SSL
 * replaces the pointer.
 *
 * secrets: must live until the SSL is freed or kl_tls_secrets_unwatch(); the
 * caller wipes them. Fields of an end whose line does not parse are 0.
 *
 * Thread: an SSL is used by one thread at a time; its SSL_CTX may be shared.
 * Returns: 0; -ENOMEM.
 */
int kl_tls_secrets_watch(SSL *ssl, struct kl_tls_secrets *secrets);
void kl_tls_secrets_unwatch(SSL *ssl);

/*
 * Derive the key with which one end encrypts, once the handshake is done.
 * sequence is set to 0. *key is written on success only; OpenSSL's error queue
 * is left as it was, here and below.
 *
 * secrets: may be NULL for TLS 1.2. of_client: the client's key, otherwise the
 * server's.
 *
 * Returns: 0; KLOOP_ERROR_KTLS_CIPHER for a cipher or version that is not
 * among the above; KLOOP_ERROR_KTLS_SECRETS if TLS 1.3's secret was not seen;
 * KLOOP_ERROR_TLS_LIBRARY.
 */
int kl_tls_key_derive(struct kl_tls_key *key, SSL *ssl, const struct kl_tls_secrets *secrets,
		      bool of_client);

/*
 * TLS 1.3: key and iv of key->secret (RFC 8446, 7.3). Returns: 0;
 * KLOOP_ERROR_TLS_LIBRARY.
 */
int kl_tls_key_expand(struct kl_tls_key *key);

/*
 * TLS 1.3: the next generation (RFC 8446, 7.2), sequence 0.
 *
 * Returns: 0; KLOOP_ERROR_TLS_LIBRARY, also for TLS 1.2; the key is unchanged then.
 */
int kl_tls_key_update(struct kl_tls_key *key);

void kl_tls_key_wipe(struct kl_tls_key *key);

#endif
