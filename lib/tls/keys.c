/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Traffic secrets as OpenSSL logs them, and keys made of them.
 *
 * The key log of an SSL_CTX is one function for all its connections, in all
 * threads. Ours is put before the one that is there, which is kept in ex_data
 * of the SSL_CTX; a lock orders threads that meet a shared SSL_CTX at the same
 * time. It is never held while somebody else's callback runs, which may wait
 * for locks of its own, Python's for one.
 *
 * Failures of the functions here are no failures of the connection, so they
 * leave OpenSSL's error queue as it was: SSL_get_error(3) would misread it.
 */
#include "keys.h"

#include <errno.h>
#include <kloop/base.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/obj_mac.h>
#include <openssl/params.h>
#include <pthread.h>
#include <string.h>

/* A random of either end, in bytes; twice as many digits in the key log. */
#define RANDOM_BYTES 32
#define MASTER_BYTES 48
/* Both ends' keys and initialization vectors. */
#define KEY_BLOCK_MAX (2 * (32 + 12))
/* "tls13 " and the longest label, with lengths: RFC 8446, 7.1 */
#define LABEL_PREFIX "tls13 "
#define LABEL_MAX 64

typedef void keylog_fn(const SSL *ssl, const char *line);
typedef void info_fn(const SSL *ssl, int where, int value);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t chain_lock = PTHREAD_MUTEX_INITIALIZER;
static int secrets_index; /* of an SSL: struct kl_tls_secrets */
static int info_index;    /* of an SSL: the info callback before ours */
static int keylog_index;  /* of an SSL_CTX: the key log before ours */

/*
 * Whose callback runs in this thread. Somebody may ask for the callback, find
 * ours, and call it from his own: chained before that it would call itself.
 */
static _Thread_local const SSL *in_keylog, *in_info;

static void take_indexes(void)
{
	secrets_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	info_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	keylog_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

/* ---- the key log ------------------------------------------------------ */

static int get_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Hexadecimal digits up to the end of the text. Returns: the bytes; 0 if it is anything else. */
static size_t parse_hex(const char *text, uint8_t *bytes, size_t capacity)
{
	size_t count;
	int high, low;

	for (count = 0; text[2 * count]; count++) {
		if (count == capacity)
			return 0;
		high = get_digit(text[2 * count]);
		low = high < 0 ? -1 : get_digit(text[2 * count + 1]);
		if (low < 0)
			return 0;
		bytes[count] = (uint8_t)(high << 4 | low);
	}
	return count;
}

/* "LABEL client-random secret": where the secret begins; NULL for another label or shape. */
static const char *find_secret(const char *line, const char *label)
{
	size_t length = strlen(label);
	size_t i;

	if (strncmp(line, label, length) != 0 || line[length] != ' ')
		return NULL;
	line += length + 1;
	for (i = 0; i < (size_t)2 * RANDOM_BYTES; i++)
		if (get_digit(line[i]) < 0)
			return NULL;
	return line[i] == ' ' ? line + i + 1 : NULL;
}

static void store_line(struct kl_tls_secrets *secrets, const char *line)
{
	const char *text = find_secret(line, "CLIENT_TRAFFIC_SECRET_0");
	bool of_client = text != NULL;
	uint8_t secret[KL_TLS_SECRET_MAX];
	size_t bytes;

	if (!of_client)
		text = find_secret(line, "SERVER_TRAFFIC_SECRET_0");
	if (!text)
		return;
	bytes = parse_hex(text, secret, sizeof(secret));
	memcpy(of_client ? secrets->client : secrets->server, secret, bytes);
	*(of_client ? &secrets->client_bytes : &secrets->server_bytes) = (uint8_t)bytes;
	OPENSSL_cleanse(secret, sizeof(secret));
}

static void on_keylog(const SSL *ssl, const char *line)
{
	struct kl_tls_secrets *secrets = SSL_get_ex_data(ssl, secrets_index);
	const SSL *outer = in_keylog;
	keylog_fn *former;

	if (outer == ssl)
		return;
	if (secrets)
		store_line(secrets, line);
	pthread_mutex_lock(&chain_lock);
	former = (keylog_fn *)SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), keylog_index);
	pthread_mutex_unlock(&chain_lock);
	if (!former)
		return;
	in_keylog = ssl;
	former(ssl, line);
	in_keylog = outer;
}

/* Have the SSL_CTX log to us, and to the one it has logged to. */
static int chain_keylog(SSL_CTX *ctx)
{
	keylog_fn *former;
	int r = 0;

	pthread_mutex_lock(&chain_lock);
	former = SSL_CTX_get_keylog_callback(ctx);
	if (former != on_keylog) {
		if (SSL_CTX_set_ex_data(ctx, keylog_index, (void *)former) == 1)
			SSL_CTX_set_keylog_callback(ctx, on_keylog);
		else
			r = -ENOMEM;
	}
	pthread_mutex_unlock(&chain_lock);
	return r;
}

static bool is_key_update(OSSL_HANDSHAKE_STATE state)
{
	return state == TLS_ST_SR_KEY_UPDATE || state == TLS_ST_CR_KEY_UPDATE ||
	       state == TLS_ST_SW_KEY_UPDATE || state == TLS_ST_CW_KEY_UPDATE;
}

/* Every step of the handshake: a name callback may have put another SSL_CTX in place. */
static void on_info(const SSL *ssl, int where, int value)
{
	struct kl_tls_secrets *secrets = SSL_get_ex_data(ssl, secrets_index);
	info_fn *former = (info_fn *)SSL_get_ex_data(ssl, info_index);
	SSL_CTX *ctx = SSL_get_SSL_CTX(ssl);
	const SSL *outer = in_info;

	if (outer == ssl)
		return;
	if (secrets && (where & SSL_CB_LOOP) && is_key_update(SSL_get_state(ssl)))
		secrets->renewed = true;
	if (secrets && (where & SSL_CB_LOOP) && SSL_in_init(ssl)) {
		/* Without memory the secrets stay unseen, which the derivation will say. */
		ERR_set_mark();
		(void)chain_keylog(ctx);
		ERR_pop_to_mark();
	}
	/* An SSL without a callback of its own calls the one of its SSL_CTX. */
	if (!former)
		former = SSL_CTX_get_info_callback(ctx);
	if (!former || former == on_info)
		return;
	in_info = ssl;
	former(ssl, where, value);
	in_info = outer;
}

int kl_tls_secrets_watch(SSL *ssl, struct kl_tls_secrets *secrets)
{
	info_fn *former = SSL_get_info_callback(ssl);
	int r = -ENOMEM;

	pthread_once(&once, take_indexes);
	if (secrets_index < 0 || info_index < 0 || keylog_index < 0)
		return -ENOMEM;
	ERR_set_mark();
	if ((former == on_info || SSL_set_ex_data(ssl, info_index, (void *)former) == 1) &&
	    SSL_set_ex_data(ssl, secrets_index, secrets) == 1) {
		SSL_set_info_callback(ssl, on_info);
		r = chain_keylog(SSL_get_SSL_CTX(ssl));
		if (r < 0)
			kl_tls_secrets_unwatch(ssl);
	}
	ERR_pop_to_mark();
	return r;
}

void kl_tls_secrets_unwatch(SSL *ssl)
{
	pthread_once(&once, take_indexes);
	if (!SSL_get_ex_data(ssl, secrets_index))
		return;
	SSL_set_ex_data(ssl, secrets_index, NULL);
	/* If somebody chained himself before us, we stay in his chain and do nothing there. */
	if (SSL_get_info_callback(ssl) == on_info)
		SSL_set_info_callback(ssl, (info_fn *)SSL_get_ex_data(ssl, info_index));
}

/* ---- derivation ------------------------------------------------------- */

static OSSL_PARAM make_octets(const char *name, const void *data, size_t bytes)
{
	/* OpenSSL reads only; its type has no const. */
	return OSSL_PARAM_construct_octet_string(name, (void *)(uintptr_t)data, bytes);
}

static OSSL_PARAM make_digest(bool sha384)
{
	static char sha256_name[] = "SHA256", sha384_name[] = "SHA384";

	return OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST,
						sha384 ? sha384_name : sha256_name, 0);
}

static int derive(const char *name, const OSSL_PARAM *params, uint8_t *out, size_t bytes)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, name, NULL);
	EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	int done = ctx && EVP_KDF_derive(ctx, out, bytes, params) == 1;

	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
	return done ? 0 : KLOOP_ERROR_TLS_LIBRARY;
}

/* HKDF-Expand-Label with an empty context (RFC 8446, 7.1). */
static int expand_label(const uint8_t *secret, size_t secret_bytes, bool sha384, const char *label,
			uint8_t *out, size_t bytes)
{
	const size_t prefix = sizeof(LABEL_PREFIX) - 1, length = strlen(label);
	int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
	uint8_t info[LABEL_MAX];
	OSSL_PARAM params[5];

	if (4 + prefix + length > sizeof(info))
		return KLOOP_ERROR_TLS_LIBRARY;
	info[0] = (uint8_t)(bytes >> 8);
	info[1] = (uint8_t)bytes;
	info[2] = (uint8_t)(prefix + length);
	memcpy(info + 3, LABEL_PREFIX, prefix);
	memcpy(info + 3 + prefix, label, length);
	info[3 + prefix + length] = 0;
	params[0] = OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode);
	params[1] = make_digest(sha384);
	params[2] = make_octets(OSSL_KDF_PARAM_KEY, secret, secret_bytes);
	params[3] = make_octets(OSSL_KDF_PARAM_INFO, info, 4 + prefix + length);
	params[4] = OSSL_PARAM_construct_end();
	return derive("HKDF", params, out, bytes);
}

int kl_tls_key_expand(struct kl_tls_key *key)
{
	int r;

	ERR_set_mark();
	r = expand_label(key->secret, key->secret_bytes, key->sha384, "key", key->key,
			 key->key_bytes);
	if (r == 0)
		r = expand_label(key->secret, key->secret_bytes, key->sha384, "iv", key->iv,
				 sizeof(key->iv));
	ERR_pop_to_mark();
	return r;
}

static int derive_from_secret(struct kl_tls_key *key, const struct kl_tls_secrets *secrets,
			      bool of_client)
{
	size_t bytes = of_client ? secrets->client_bytes : secrets->server_bytes;

	/* A secret has the length of the hash; anything else was not of this connection. */
	if (bytes != (key->sha384 ? 48 : 32))
		return KLOOP_ERROR_KTLS_SECRETS;
	memcpy(key->secret, of_client ? secrets->client : secrets->server, bytes);
	key->secret_bytes = (uint8_t)bytes;
	return kl_tls_key_expand(key);
}

/*
 * TLS 1.2: the key block (RFC 5246, 6.3), of which AEADs use the keys of client
 * and server and then their IVs.
 */
static int derive_from_master(struct kl_tls_key *key, SSL *ssl, bool of_client)
{
	static const char label[] = "key expansion";
	const size_t iv_bytes = key->aead == KL_TLS_CHACHA20_POLY1305 ? 12 : 4;
	uint8_t master[MASTER_BYTES], client[RANDOM_BYTES], server[RANDOM_BYTES];
	uint8_t block[KEY_BLOCK_MAX];
	const SSL_SESSION *session = SSL_get_session(ssl);
	const uint8_t *ivs = block + (size_t)2 * key->key_bytes;
	OSSL_PARAM params[6];
	int r = KLOOP_ERROR_TLS_LIBRARY;

	if (session && SSL_SESSION_get_master_key(session, master, sizeof(master)) == sizeof(master) &&
	    SSL_get_client_random(ssl, client, sizeof(client)) == sizeof(client) &&
	    SSL_get_server_random(ssl, server, sizeof(server)) == sizeof(server)) {
		params[0] = make_digest(key->sha384);
		params[1] = make_octets(OSSL_KDF_PARAM_SECRET, master, sizeof(master));
		params[2] = make_octets(OSSL_KDF_PARAM_SEED, label, sizeof(label) - 1);
		params[3] = make_octets(OSSL_KDF_PARAM_SEED, server, sizeof(server));
		params[4] = make_octets(OSSL_KDF_PARAM_SEED, client, sizeof(client));
		params[5] = OSSL_PARAM_construct_end();
		r = derive("TLS1-PRF", params, block, 2 * (key->key_bytes + iv_bytes));
	}
	if (r == 0) {
		memcpy(key->key, block + (of_client ? 0 : key->key_bytes), key->key_bytes);
		memcpy(key->iv, ivs + (of_client ? 0 : iv_bytes), iv_bytes);
	}
	OPENSSL_cleanse(master, sizeof(master));
	OPENSSL_cleanse(block, sizeof(block));
	return r;
}

/* Fill in what version and cipher suite say. */
static int describe(struct kl_tls_key *key, const SSL *ssl)
{
	const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
	const EVP_MD *digest = cipher ? SSL_CIPHER_get_handshake_digest(cipher) : NULL;
	int version = SSL_version(ssl);

	if (!digest || (version != TLS1_2_VERSION && version != TLS1_3_VERSION))
		return KLOOP_ERROR_KTLS_CIPHER;
	key->version = (uint16_t)version;
	key->key_bytes = 32;
	switch (SSL_CIPHER_get_cipher_nid(cipher)) {
	case NID_aes_128_gcm:
		key->aead = KL_TLS_AES_128_GCM;
		key->key_bytes = 16;
		break;
	case NID_aes_256_gcm:
		key->aead = KL_TLS_AES_256_GCM;
		break;
	case NID_chacha20_poly1305:
		key->aead = KL_TLS_CHACHA20_POLY1305;
		break;
	default:
		return KLOOP_ERROR_KTLS_CIPHER;
	}
	key->sha384 = EVP_MD_is_a(digest, "SHA384");
	return key->sha384 || EVP_MD_is_a(digest, "SHA256") ? 0 : KLOOP_ERROR_KTLS_CIPHER;
}

int kl_tls_key_derive(struct kl_tls_key *key, SSL *ssl, const struct kl_tls_secrets *secrets,
		      bool of_client)
{
	struct kl_tls_key made = { 0 };
	int r;

	ERR_set_mark();
	r = describe(&made, ssl);
	if (r == 0 && made.version == TLS1_3_VERSION)
		r = secrets ? derive_from_secret(&made, secrets, of_client)
			    : KLOOP_ERROR_KTLS_SECRETS;
	else if (r == 0)
		r = derive_from_master(&made, ssl, of_client);
	ERR_pop_to_mark();
	if (r == 0)
		*key = made;
	kl_tls_key_wipe(&made);
	return r;
}

int kl_tls_key_update(struct kl_tls_key *key)
{
	struct kl_tls_key next = *key;
	int r = KLOOP_ERROR_TLS_LIBRARY;

	ERR_set_mark();
	if (key->version == TLS1_3_VERSION)
		r = expand_label(key->secret, key->secret_bytes, key->sha384, "traffic upd",
				 next.secret, next.secret_bytes);
	if (r == 0)
		r = kl_tls_key_expand(&next);
	ERR_pop_to_mark();
	if (r == 0) {
		next.sequence = 0;
		*key = next;
	}
	kl_tls_key_wipe(&next);
	return r;
}

void kl_tls_key_wipe(struct kl_tls_key *key)
{
	OPENSSL_cleanse(key, sizeof(*key));
}
