/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Foreign bytes for lib/tls/record.c, for the control message of ktls.c, and
 * for the reader of the key log. The first byte says which of them.
 */
#include "tls/ktls.h"
#include "tls/record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define CHECK(condition)         \
	do {                     \
		if (!(condition)) \
			abort(); \
	} while (0)

/* All three ciphers with both versions. */
static struct kl_tls_key make_key(unsigned which)
{
	static const uint8_t aeads[] = {
		KL_TLS_AES_128_GCM, KL_TLS_AES_256_GCM, KL_TLS_CHACHA20_POLY1305,
	};
	struct kl_tls_key key = {
		.version = which % 2 ? TLS1_3_VERSION : TLS1_2_VERSION,
		.aead = aeads[which / 2 % 3],
		.sequence = which * UINT64_C(0x0101010101010101),
	};

	key.key_bytes = key.aead == KL_TLS_AES_128_GCM ? 16 : 32;
	memset(key.key, (int)which + 1, sizeof(key.key));
	memset(key.iv, (int)which + 2, sizeof(key.iv));
	return key;
}

/* However the bytes are cut, the framing ends in the same state. */
static void try_framing(const uint8_t *data, size_t bytes, bool reset)
{
	struct kl_tls_framing whole = { 0 }, cut = { 0 }, exact = { 0 };
	size_t done, part;

	kl_tls_framing_pass(&whole, data, bytes, reset);
	for (done = 0; done < bytes; done += part) {
		part = 1 + data[done] % 7;
		if (part > bytes - done)
			part = bytes - done;
		kl_tls_framing_pass(&cut, data + done, part, reset);
		CHECK(cut.have <= KL_TLS_HEADER_BYTES && cut.nonce_bytes <= sizeof(cut.nonce));
		CHECK(cut.left <= 0xffff);
	}
	CHECK(memcmp(&whole, &cut, sizeof(whole)) == 0);
	/* What is said to be missing never goes beyond a record. */
	for (done = 0; done < bytes && !exact.broken; done += part) {
		const uint64_t records = exact.records;

		part = kl_tls_framing_missing(&exact);
		CHECK((part == 0) == kl_tls_framing_is_between(&exact));
		part = part ? part : 1;
		if (part > bytes - done)
			part = bytes - done;
		kl_tls_framing_pass(&exact, data + done, part, reset);
		CHECK(exact.records <= records + 1);
	}
	CHECK(memcmp(&whole, &exact, sizeof(whole)) == 0);
}

/* Bytes off the wire: no key fits them, unless the key is known. */
static void try_open(const uint8_t *data, size_t bytes, unsigned which)
{
	struct kl_tls_key key = make_key(which), before = key;
	uint8_t type = 0, *text = NULL, *record = malloc(bytes ? bytes : 1);
	ptrdiff_t opened;

	CHECK(record);
	memcpy(record, data, bytes);
	opened = kl_tls_record_open(&key, record, bytes, &type, &text);
	if (opened < 0) {
		CHECK(memcmp(&key, &before, sizeof(key)) == 0 && !text);
	} else {
		CHECK(text >= record && text + opened <= record + bytes);
		CHECK(key.sequence == before.sequence + 1);
	}
	free(record);
}

/* Bytes as what is inside a record: padding and types of any kind; and then one bit is wrong. */
static void try_inside(const uint8_t *data, size_t bytes, unsigned which)
{
	struct kl_tls_key sealing = make_key(which), opening = sealing, third = sealing;
	uint8_t type, *text, *record, *copy, last = bytes ? data[bytes - 1] : 0;
	size_t plain = bytes ? bytes - 1 : 0, bit;
	ptrdiff_t sealed, opened;

	if (plain > KL_TLS_PLAIN_MAX)
		return;
	record = malloc(KL_TLS_HEADER_BYTES + plain + 32);
	copy = malloc(KL_TLS_HEADER_BYTES + plain + 32);
	CHECK(record && copy);
	sealed = kl_tls_record_seal(&sealing, last, data, plain, record);
	CHECK(sealed > (ptrdiff_t)plain && sealed <= (ptrdiff_t)(KL_TLS_HEADER_BYTES + plain + 32));
	memcpy(copy, record, (size_t)sealed);
	opened = kl_tls_record_open(&opening, record, (size_t)sealed, &type, &text);
	if (opened >= 0) {
		CHECK(opening.sequence == sealing.sequence && opened <= (ptrdiff_t)plain);
		CHECK(memcmp(text, data, (size_t)opened) == 0);
		CHECK(last == 0 || (type == last && opened == (ptrdiff_t)plain));
	} else {
		CHECK(last == 0 && opening.version == TLS1_3_VERSION);
	}
	bit = (size_t)(plain * 31 + which) % (8 * (size_t)sealed);
	copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
	CHECK(kl_tls_record_open(&third, copy, (size_t)sealed, &type, &text) < 0);
	free(record);
	free(copy);
}

static void try_control(const uint8_t *data, size_t bytes)
{
	struct msghdr message = { .msg_controllen = bytes };
	int type;

	/* From malloc(3) it is aligned, and of this size. */
	message.msg_control = malloc(bytes ? bytes : 1);
	CHECK(message.msg_control);
	memcpy(message.msg_control, data, bytes);
	type = kl_ktls_get_type(&message);
	CHECK(type >= -1 && type <= 255);
	free(message.msg_control);
}

/* A line of the key log, through the callback that OpenSSL calls. */
static void try_line(const uint8_t *data, size_t bytes)
{
	struct kl_tls_secrets secrets = { 0 };
	static SSL_CTX *ctx;
	static SSL *ssl;
	char *line = malloc(bytes + 1);

	if (!ctx)
		ctx = SSL_CTX_new(TLS_method());
	if (!ssl)
		ssl = SSL_new(ctx);
	CHECK(line && ssl && kl_tls_secrets_watch(ssl, &secrets) == 0);
	memcpy(line, data, bytes);
	line[bytes] = 0;
	SSL_CTX_get_keylog_callback(ctx)(ssl, line);
	CHECK(secrets.client_bytes <= KL_TLS_SECRET_MAX);
	CHECK(secrets.server_bytes <= KL_TLS_SECRET_MAX);
	CHECK(secrets.client_bytes == 0 || secrets.server_bytes == 0);
	kl_tls_secrets_unwatch(ssl);
	free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	unsigned which;

	if (bytes == 0)
		return 0;
	which = data[0] / 8;
	switch (data[0] % 8) {
	case 0:
	case 1:
		try_framing(data + 1, bytes - 1, data[0] % 8);
		break;
	case 2:
	case 3:
		try_open(data + 1, bytes - 1, which);
		break;
	case 4:
	case 5:
		try_inside(data + 1, bytes - 1, which);
		break;
	case 6:
		try_control(data + 1, bytes - 1);
		break;
	default:
		try_line(data + 1, bytes - 1);
	}
	return 0;
}
