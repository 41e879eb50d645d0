/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Single records: RFC 8446 section 5.2, RFC 5246 section 6.2.3.3 with RFC 5288
 * (GCM: an explicit nonce before the ciphertext) and RFC 7905 (ChaCha20: none).
 *
 * Only control records pass here, a handful in a connection's life, so a cipher
 * context is made for each; nothing of a key stays behind.
 */
#include "record.h"

#include <errno.h>
#include <kloop/base.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <string.h>

#define TAG_BYTES 16
#define NONCE_BYTES 12
#define EXPLICIT_BYTES 8
/* Sequence, type, version, length: what TLS 1.2 authenticates beside the text. */
#define AAD12_BYTES 13
/* What TLS 1.3 allows beyond the plaintext: the type, the tag, padding (RFC 8446, 5.2). */
#define EXPANSION13 256

static void put_16(uint8_t *out, size_t value)
{
	out[0] = (uint8_t)(value >> 8);
	out[1] = (uint8_t)value;
}

static void put_64(uint8_t *out, uint64_t value)
{
	for (int i = 7; i >= 0; i--) {
		out[i] = (uint8_t)value;
		value >>= 8;
	}
}

static size_t get_16(const uint8_t *in)
{
	return (size_t)in[0] << 8 | in[1];
}

static size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* ---- framing ---------------------------------------------------------- */

static void end_record(struct kl_tls_framing *framing, bool reset_at_change)
{
	framing->have = 0;
	if (reset_at_change && framing->header[0] == KL_TLS_CHANGE_CIPHER)
		framing->records = 0;
	else
		framing->records++;
}

static size_t pass_header(struct kl_tls_framing *framing, const uint8_t *data, size_t bytes)
{
	bytes = min_size(bytes, KL_TLS_HEADER_BYTES - framing->have);
	memcpy(framing->header + framing->have, data, bytes);
	framing->have = (uint8_t)(framing->have + bytes);
	if (framing->have == KL_TLS_HEADER_BYTES) {
		framing->left = (uint32_t)get_16(framing->header + 3);
		framing->broken = framing->left > KL_TLS_RECORD_MAX - KL_TLS_HEADER_BYTES;
		framing->nonce_bytes = 0;
	}
	return bytes;
}

static size_t pass_body(struct kl_tls_framing *framing, const uint8_t *data, size_t bytes)
{
	size_t first;

	bytes = min_size(bytes, framing->left);
	first = min_size(bytes, sizeof(framing->nonce) - framing->nonce_bytes);
	memcpy(framing->nonce + framing->nonce_bytes, data, first);
	framing->nonce_bytes = (uint8_t)(framing->nonce_bytes + first);
	framing->left -= (uint32_t)bytes;
	return bytes;
}

void kl_tls_framing_pass(struct kl_tls_framing *framing, const void *data, size_t bytes,
			 bool reset_at_change)
{
	const uint8_t *next = data;
	size_t passed;

	while (bytes > 0 && !framing->broken) {
		if (framing->have < KL_TLS_HEADER_BYTES)
			passed = pass_header(framing, next, bytes);
		else
			passed = pass_body(framing, next, bytes);
		next += passed;
		bytes -= passed;
		if (framing->have == KL_TLS_HEADER_BYTES && framing->left == 0)
			end_record(framing, reset_at_change);
	}
}

size_t kl_tls_framing_missing(const struct kl_tls_framing *framing)
{
	if (framing->have == 0 || framing->broken)
		return 0;
	if (framing->have < KL_TLS_HEADER_BYTES)
		return KL_TLS_HEADER_BYTES - framing->have;
	return framing->left;
}

/* ---- ciphers ---------------------------------------------------------- */

static const EVP_CIPHER *get_cipher(const struct kl_tls_key *key)
{
	switch (key->aead) {
	case KL_TLS_AES_128_GCM:
		return EVP_aes_128_gcm();
	case KL_TLS_AES_256_GCM:
		return EVP_aes_256_gcm();
	case KL_TLS_CHACHA20_POLY1305:
		return EVP_chacha20_poly1305();
	default:
		return NULL;
	}
}

/* Is the nonce's variable part sent along? */
static bool has_explicit_nonce(const struct kl_tls_key *key)
{
	return key->version == TLS1_2_VERSION && key->aead != KL_TLS_CHACHA20_POLY1305;
}

/* explicit: the 8 bytes that were sent along, if they were. */
static void make_nonce(const struct kl_tls_key *key, const uint8_t *explicit, uint8_t *nonce)
{
	uint8_t sequence[EXPLICIT_BYTES];
	const size_t fixed = NONCE_BYTES - EXPLICIT_BYTES;

	memcpy(nonce, key->iv, NONCE_BYTES);
	if (has_explicit_nonce(key)) {
		memcpy(nonce + fixed, explicit, EXPLICIT_BYTES);
		return;
	}
	put_64(sequence, key->sequence);
	for (size_t i = 0; i < EXPLICIT_BYTES; i++)
		nonce[fixed + i] ^= sequence[i];
}

/* What is authenticated: in TLS 1.3 the header as it is on the wire. Returns: its bytes. */
static int make_aad(const struct kl_tls_key *key, const uint8_t *header, size_t plain_bytes,
		    uint8_t *aad)
{
	if (key->version == TLS1_3_VERSION) {
		memcpy(aad, header, KL_TLS_HEADER_BYTES);
		return KL_TLS_HEADER_BYTES;
	}
	put_64(aad, key->sequence);
	memcpy(aad + 8, header, 3);
	put_16(aad + 11, plain_bytes);
	return AAD12_BYTES;
}

/* A context that has key, nonce and additional data; NULL if OpenSSL fails. */
static EVP_CIPHER_CTX *begin(const struct kl_tls_key *key, const uint8_t *header,
			     size_t plain_bytes, const uint8_t *explicit, bool seal)
{
	const EVP_CIPHER *cipher = get_cipher(key);
	EVP_CIPHER_CTX *ctx = cipher ? EVP_CIPHER_CTX_new() : NULL;
	uint8_t nonce[NONCE_BYTES], aad[AAD12_BYTES];
	int aad_bytes, length;

	make_nonce(key, explicit, nonce);
	aad_bytes = make_aad(key, header, plain_bytes, aad);
	if (ctx && EVP_CipherInit_ex(ctx, cipher, NULL, key->key, nonce, seal) == 1 &&
	    EVP_CipherUpdate(ctx, NULL, &length, aad, aad_bytes) == 1)
		return ctx;
	EVP_CIPHER_CTX_free(ctx);
	return NULL;
}

/* Text through the cipher. No text is no call: OpenSSL would take it for the end. */
static bool transform(EVP_CIPHER_CTX *ctx, uint8_t *out, const void *data, size_t bytes)
{
	int length;

	return bytes == 0 || (EVP_CipherUpdate(ctx, out, &length, data, (int)bytes) == 1 &&
			      (size_t)length == bytes);
}

/* ---- one record ------------------------------------------------------- */

ptrdiff_t kl_tls_record_seal(struct kl_tls_key *key, uint8_t type, const void *data, size_t bytes,
			     uint8_t *out)
{
	const bool is_13 = key->version == TLS1_3_VERSION;
	const size_t explicit = has_explicit_nonce(key) ? EXPLICIT_BYTES : 0;
	const size_t body = explicit + bytes + is_13 + TAG_BYTES;
	uint8_t *text = out + KL_TLS_HEADER_BYTES + explicit;
	EVP_CIPHER_CTX *ctx;
	bool done = false;
	int length;

	if (bytes > KL_TLS_PLAIN_MAX)
		return -EMSGSIZE;
	/* RFC 8446, 5.3: a sequence never wraps. */
	if (key->sequence == UINT64_MAX)
		return KLOOP_ERROR_TLS_LIBRARY;
	out[0] = is_13 ? KL_TLS_DATA : type;
	put_16(out + 1, TLS1_2_VERSION);
	put_16(out + 3, body);
	if (explicit)
		put_64(out + KL_TLS_HEADER_BYTES, key->sequence);
	ERR_set_mark();
	ctx = begin(key, out, bytes, out + KL_TLS_HEADER_BYTES, true);
	if (ctx)
		done = transform(ctx, text, data, bytes) &&
		       transform(ctx, text + bytes, &type, is_13) &&
		       EVP_CipherFinal_ex(ctx, text + bytes + is_13, &length) == 1 &&
		       EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES,
					   text + bytes + is_13) == 1;
	EVP_CIPHER_CTX_free(ctx);
	ERR_pop_to_mark();
	if (!done)
		return KLOOP_ERROR_TLS_LIBRARY;
	key->sequence++;
	return (ptrdiff_t)(KL_TLS_HEADER_BYTES + body);
}

/* Does the header fit the key and the rest? Returns: the bytes of text; negative if not. */
static ptrdiff_t check_header(const struct kl_tls_key *key, const uint8_t *record, size_t bytes)
{
	const bool is_13 = key->version == TLS1_3_VERSION;
	const size_t least = (has_explicit_nonce(key) ? EXPLICIT_BYTES : 0) + TAG_BYTES;
	const size_t limit = KL_TLS_PLAIN_MAX + (is_13 ? EXPANSION13 : least);

	if (bytes < KL_TLS_HEADER_BYTES + least + is_13 || bytes > KL_TLS_HEADER_BYTES + limit ||
	    get_16(record + 3) != bytes - KL_TLS_HEADER_BYTES ||
	    get_16(record + 1) != TLS1_2_VERSION || (is_13 && record[0] != KL_TLS_DATA))
		return KLOOP_ERROR_TLS_PROTOCOL;
	return (ptrdiff_t)(bytes - KL_TLS_HEADER_BYTES - least);
}

/*
 * TLS 1.3: the plaintext ends with its type, and zeroes after that. Returns:
 * the bytes before the type; negative if there is none, or it is all too long.
 */
static ptrdiff_t strip(const uint8_t *text, size_t bytes, uint8_t *ret_type)
{
	if (bytes > KL_TLS_PLAIN_MAX + 1)
		return KLOOP_ERROR_TLS_PROTOCOL;
	while (bytes > 0 && text[bytes - 1] == 0)
		bytes--;
	if (bytes == 0)
		return KLOOP_ERROR_TLS_PROTOCOL;
	*ret_type = text[bytes - 1];
	return (ptrdiff_t)(bytes - 1);
}

ptrdiff_t kl_tls_record_open(struct kl_tls_key *key, uint8_t *record, size_t bytes,
			     uint8_t *ret_type, uint8_t **ret_data)
{
	const size_t explicit = has_explicit_nonce(key) ? EXPLICIT_BYTES : 0;
	uint8_t *text = record + KL_TLS_HEADER_BYTES + explicit;
	ptrdiff_t text_bytes = check_header(key, record, bytes);
	uint8_t type = 0, none[TAG_BYTES];
	EVP_CIPHER_CTX *ctx;
	bool done = false;
	int length;

	if (text_bytes < 0 || key->sequence == UINT64_MAX)
		return KLOOP_ERROR_TLS_PROTOCOL;
	ERR_set_mark();
	ctx = begin(key, record, (size_t)text_bytes, record + KL_TLS_HEADER_BYTES, false);
	if (ctx)
		done = EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES,
					   text + text_bytes) == 1 &&
		       transform(ctx, text, text, (size_t)text_bytes) &&
		       EVP_CipherFinal_ex(ctx, none, &length) == 1;
	EVP_CIPHER_CTX_free(ctx);
	ERR_pop_to_mark();
	if (!done)
		return KLOOP_ERROR_TLS_PROTOCOL;
	type = record[0];
	if (key->version == TLS1_3_VERSION) {
		text_bytes = strip(text, (size_t)text_bytes, &type);
		if (text_bytes < 0)
			return text_bytes;
	}
	key->sequence++;
	*ret_type = type;
	*ret_data = text;
	return text_bytes;
}
