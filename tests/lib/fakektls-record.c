/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The fake kernel's cryptography, from RFC 8446, 5246, 5288, 7905 and the
 * structs of linux/tls.h alone. It shares nothing with lib/tls.
 */
#include "fakektls-internal.h"
#include "support.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

struct parts {
	const EVP_CIPHER *cipher;
	const unsigned char *key;
	unsigned char *sequence; /* 8 bytes, big-endian */
	unsigned char *explicit; /* TLS 1.2 with GCM: 8 bytes that are sent along; else NULL */
	unsigned char nonce[12]; /* without the sequence */
};

static bool is_13(const struct kt_ktls_direction *direction)
{
	return direction->info.info.version == TLS_1_3_VERSION;
}

static void take_gcm(struct parts *parts, bool with_explicit, unsigned char *salt,
		     unsigned char *iv)
{
	memcpy(parts->nonce, salt, 4);
	memcpy(parts->nonce + 4, iv, 8);
	parts->explicit = with_explicit ? iv : NULL;
}

static bool take_apart(struct kt_ktls_direction *direction, struct parts *parts)
{
	union kt_ktls_info *info = &direction->info;

	memset(parts, 0, sizeof(*parts));
	switch (info->info.cipher_type) {
	case TLS_CIPHER_AES_GCM_128:
		parts->cipher = EVP_aes_128_gcm();
		parts->key = info->gcm128.key;
		parts->sequence = info->gcm128.rec_seq;
		take_gcm(parts, !is_13(direction), info->gcm128.salt, info->gcm128.iv);
		return true;
	case TLS_CIPHER_AES_GCM_256:
		parts->cipher = EVP_aes_256_gcm();
		parts->key = info->gcm256.key;
		parts->sequence = info->gcm256.rec_seq;
		take_gcm(parts, !is_13(direction), info->gcm256.salt, info->gcm256.iv);
		return true;
	case TLS_CIPHER_CHACHA20_POLY1305:
		parts->cipher = EVP_chacha20_poly1305();
		parts->key = info->chacha.key;
		parts->sequence = info->chacha.rec_seq;
		memcpy(parts->nonce, info->chacha.iv, 12);
		return true;
	default:
		return false;
	}
}

static void count_on(unsigned char *number)
{
	for (int i = 7; i >= 0 && ++number[i] == 0; i--)
		;
}

int kt_ktls_overhead(const struct kt_ktls_direction *direction)
{
	struct kt_ktls_direction copy = *direction;
	struct parts parts;

	if (!take_apart(&copy, &parts))
		return -EINVAL;
	return 16 + (parts.explicit ? 8 : 0);
}

/* All of an AEAD in one place: text is transformed in place, the tag follows it. */
static bool run_cipher(struct kt_ktls_direction *direction, const struct parts *parts, bool seal,
		       const unsigned char *header, unsigned char *text, int bytes, int plain_bytes)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	unsigned char nonce[12], aad[13];
	int aad_bytes = 13, length, ok;

	memcpy(nonce, parts->nonce, 12);
	if (!parts->explicit)
		for (int i = 0; i < 8; i++)
			nonce[4 + i] ^= parts->sequence[i];
	if (is_13(direction)) {
		memcpy(aad, header, 5);
		aad_bytes = 5;
	} else {
		memcpy(aad, parts->sequence, 8);
		memcpy(aad + 8, header, 3);
		aad[11] = (unsigned char)(plain_bytes >> 8);
		aad[12] = (unsigned char)plain_bytes;
	}
	ck_assert_ptr_nonnull(ctx);
	ok = EVP_CipherInit_ex2(ctx, parts->cipher, parts->key, nonce, seal, NULL);
	if (!seal)
		ok = ok && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 16, text + bytes);
	ok = ok && EVP_CipherUpdate(ctx, NULL, &length, aad, aad_bytes);
	ok = ok && (bytes == 0 || EVP_CipherUpdate(ctx, text, &length, text, bytes));
	ok = ok && EVP_CipherFinal_ex(ctx, text + bytes, &length);
	if (seal)
		ok = ok && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, text + bytes);
	EVP_CIPHER_CTX_free(ctx);
	return ok == 1;
}

size_t kt_ktls_seal(struct kt_ktls_direction *direction, int type, const void *data, size_t bytes,
		    unsigned char *out)
{
	const bool inner = is_13(direction);
	unsigned char *text = out + 5;
	struct parts parts;
	size_t body;

	ck_assert(take_apart(direction, &parts));
	if (parts.explicit) {
		memcpy(text, parts.explicit, 8);
		text += 8;
	}
	body = (size_t)(text - out) - 5 + bytes + inner + 16;
	out[0] = (unsigned char)(inner ? 23 : type);
	out[1] = 3;
	out[2] = 3;
	out[3] = (unsigned char)(body >> 8);
	out[4] = (unsigned char)body;
	if (bytes > 0)
		memcpy(text, data, bytes);
	if (inner)
		text[bytes] = (unsigned char)type;
	ck_assert(run_cipher(direction, &parts, true, out, text, (int)(bytes + inner), (int)bytes));
	count_on(parts.sequence);
	if (parts.explicit)
		count_on(parts.explicit);
	return 5 + body;
}

int kt_ktls_open(struct kt_ktls_socket *socket)
{
	struct kt_ktls_direction *direction = &socket->receive;
	unsigned char *text = socket->raw + 5;
	size_t bytes = socket->have - 5;
	struct parts parts;

	ck_assert(take_apart(direction, &parts));
	bytes -= (size_t)kt_ktls_overhead(direction);
	if (parts.explicit) {
		memcpy(parts.nonce + 4, text, 8);
		text += 8;
	}
	if (!run_cipher(direction, &parts, false, socket->raw, text, (int)bytes, (int)bytes))
		return -EBADMSG;
	count_on(parts.sequence);
	socket->type = socket->raw[0];
	if (is_13(direction)) {
		while (bytes > 0 && text[bytes - 1] == 0)
			bytes--;
		if (bytes == 0)
			return -EBADMSG;
		socket->type = text[--bytes];
	}
	socket->text = text;
	socket->text_bytes = bytes;
	return 0;
}
