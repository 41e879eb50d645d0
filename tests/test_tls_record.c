/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Records: where they begin and end at every cut; sealed, opened, and broken in every way. */
#include "support.h"
#include "tls/record.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <string.h>

#define ROOM(bytes) (KL_TLS_HEADER_BYTES + (bytes) + 32)

/* ---- framing ---------------------------------------------------------- */

/* What a handshake of TLS 1.2 leaves on the wire, in small: bodies of 3, 1, 20, 0 and 9 bytes. */
static const uint8_t flow[] = {
	22, 3, 1, 0, 3, 'a', 'b', 'c',
	20, 3, 3, 0, 1, 1,
	22, 3, 3, 0, 20, 0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 8, 9, 10, 11, 12, 13, 14,
	15, 16, 17, 18, 19,
	23, 3, 3, 0, 0,
	23, 3, 3, 0, 9, 0xe0, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 8,
};

static const size_t ends[] = { 8, 14, 39, 44, 58 };

/* What must be known after so many bytes of the flow. */
static void check_framing(const struct kl_tls_framing *framing, size_t passed, bool reset)
{
	size_t complete = 0, begin = 0, body;

	while (complete < KT_COUNT(ends) && ends[complete] <= passed)
		begin = ends[complete++];
	ck_assert(!framing->broken);
	ck_assert_int_eq(kl_tls_framing_is_between(framing), passed == begin);
	if (passed == begin) {
		ck_assert_uint_eq(kl_tls_framing_missing(framing), 0);
	} else if (passed - begin < KL_TLS_HEADER_BYTES) {
		ck_assert_uint_eq(kl_tls_framing_missing(framing),
				  KL_TLS_HEADER_BYTES - (passed - begin));
	} else {
		body = ends[complete] - begin - KL_TLS_HEADER_BYTES;
		ck_assert_uint_eq(kl_tls_framing_missing(framing),
				  body - (passed - begin - KL_TLS_HEADER_BYTES));
	}
	if (reset && complete >= 2)
		complete -= 2;
	ck_assert_uint_eq(framing->records, complete);
}

/* Three pieces, at every two cuts. */
START_TEST(every_cut)
{
	const bool reset = _i;

	for (size_t first = 0; first <= sizeof(flow); first++) {
		for (size_t second = first; second <= sizeof(flow); second++) {
			struct kl_tls_framing framing = { 0 };

			kl_tls_framing_pass(&framing, flow, first, reset);
			check_framing(&framing, first, reset);
			kl_tls_framing_pass(&framing, flow + first, second - first, reset);
			check_framing(&framing, second, reset);
			kl_tls_framing_pass(&framing, flow + second, sizeof(flow) - second, reset);
			check_framing(&framing, sizeof(flow), reset);
			ck_assert_mem_eq(framing.nonce, flow + 49, 8);
		}
	}
}
END_TEST

START_TEST(byte_by_byte)
{
	struct kl_tls_framing framing = { 0 };

	for (size_t i = 0; i < sizeof(flow); i++) {
		kl_tls_framing_pass(&framing, flow + i, 1, true);
		check_framing(&framing, i + 1, true);
	}
}
END_TEST

/* The nonce is the newest record's, until the next header is complete. */
START_TEST(the_explicit_nonce)
{
	struct kl_tls_framing framing = { 0 };

	kl_tls_framing_pass(&framing, flow, 8, true);
	ck_assert_uint_eq(framing.nonce_bytes, 3);
	ck_assert_mem_eq(framing.nonce, "abc", 3);
	kl_tls_framing_pass(&framing, flow + 8, 6, true);
	ck_assert_uint_eq(framing.nonce_bytes, 1);
	kl_tls_framing_pass(&framing, flow + 14, 10, true); /* in the middle of the nonce */
	ck_assert_uint_eq(framing.nonce_bytes, 5);
	kl_tls_framing_pass(&framing, flow + 24, 19, true); /* and 4 bytes of the next header */
	ck_assert_uint_eq(framing.nonce_bytes, 8);
	ck_assert_mem_eq(framing.nonce, flow + 19, 8);
	ck_assert_uint_eq(framing.header[0], 23);
	kl_tls_framing_pass(&framing, flow + 43, 1, true); /* an empty record has none */
	ck_assert_uint_eq(framing.nonce_bytes, 0);
	kl_tls_framing_pass(&framing, flow + 44, 14, true);
	ck_assert_uint_eq(framing.nonce_bytes, 8);
	ck_assert_mem_eq(framing.nonce, flow + 49, 8);
}
END_TEST

START_TEST(the_longest_record)
{
	const size_t body = KL_TLS_RECORD_MAX - KL_TLS_HEADER_BYTES;
	const uint8_t header[] = { 23, 3, 3, (uint8_t)(body >> 8), (uint8_t)body };
	struct kl_tls_framing framing = { 0 };
	uint8_t *bytes = calloc(1, body);

	ck_assert_ptr_nonnull(bytes);
	kl_tls_framing_pass(&framing, header, sizeof(header), false);
	ck_assert(!framing.broken);
	ck_assert_uint_eq(kl_tls_framing_missing(&framing), body);
	kl_tls_framing_pass(&framing, bytes, body - 1, false);
	ck_assert_uint_eq(kl_tls_framing_missing(&framing), 1);
	ck_assert_uint_eq(framing.records, 0);
	kl_tls_framing_pass(&framing, bytes, 1, false);
	ck_assert_uint_eq(framing.records, 1);
	ck_assert(kl_tls_framing_is_between(&framing));
	free(bytes);
}
END_TEST

START_TEST(too_long_is_broken_for_good)
{
	static const size_t bodies[] = { KL_TLS_RECORD_MAX - KL_TLS_HEADER_BYTES + 1, 0x5448, 0xffff };
	const size_t body = bodies[_i];
	const uint8_t header[] = { 23, 3, 3, (uint8_t)(body >> 8), (uint8_t)body, 1, 2, 3 };
	struct kl_tls_framing framing = { 0 }, before;

	kl_tls_framing_pass(&framing, flow, 8, false);
	kl_tls_framing_pass(&framing, header, sizeof(header), false);
	ck_assert(framing.broken);
	ck_assert(!kl_tls_framing_is_between(&framing));
	ck_assert_uint_eq(kl_tls_framing_missing(&framing), 0);
	ck_assert_uint_eq(framing.records, 1);
	before = framing;
	kl_tls_framing_pass(&framing, flow, sizeof(flow), true);
	ck_assert_mem_eq(&framing, &before, sizeof(before));
}
END_TEST

/* ---- seal and open ---------------------------------------------------- */

#define KEYS 6

static struct kl_tls_key make_key(int which)
{
	static const uint8_t aeads[] = {
		KL_TLS_AES_128_GCM, KL_TLS_AES_256_GCM, KL_TLS_CHACHA20_POLY1305,
	};
	struct kl_tls_key key = {
		.version = which < 3 ? TLS1_3_VERSION : TLS1_2_VERSION,
		.aead = aeads[which % 3],
		.key_bytes = which % 3 == 0 ? 16 : 32,
		.sequence = UINT64_C(0x0102030405060708),
	};

	for (unsigned i = 0; i < sizeof(key.key); i++)
		key.key[i] = (uint8_t)(17 * i + 1);
	for (unsigned i = 0; i < sizeof(key.iv); i++)
		key.iv[i] = (uint8_t)(0xa0 + i);
	return key;
}

/* What a record is longer than its text. */
static size_t overhead(const struct kl_tls_key *key)
{
	if (key->version == TLS1_3_VERSION)
		return KL_TLS_HEADER_BYTES + 1 + 16;
	return KL_TLS_HEADER_BYTES + 16 + (key->aead == KL_TLS_CHACHA20_POLY1305 ? 0 : 8);
}

static size_t seal(struct kl_tls_key *key, uint8_t type, const void *data, size_t bytes,
		   uint8_t *out)
{
	ptrdiff_t sealed = kl_tls_record_seal(key, type, data, bytes, out);

	ck_assert_int_eq(sealed, (ptrdiff_t)(bytes + overhead(key)));
	ck_assert_uint_eq((size_t)out[3] << 8 | out[4], (size_t)sealed - KL_TLS_HEADER_BYTES);
	return (size_t)sealed;
}

/* It must not open, nothing may be counted, no output touched, OpenSSL's queue empty. */
static void must_not_open(struct kl_tls_key *key, const uint8_t *record, size_t bytes)
{
	uint8_t *copy = malloc(bytes ? bytes : 1), *text = NULL, type = 99;
	const struct kl_tls_key before = *key;

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, record, bytes);
	ck_assert_int_eq(kl_tls_record_open(key, copy, bytes, &type, &text),
			 KLOOP_ERROR_TLS_PROTOCOL);
	ck_assert_mem_eq(key, &before, sizeof(before));
	ck_assert_uint_eq(type, 99);
	ck_assert_ptr_null(text);
	ck_assert_uint_eq(ERR_peek_error(), 0);
	free(copy);
}

START_TEST(rfc_8448_record)
{
	/* Section 3, "send application data" of the client. */
	static const uint8_t expected[] = {
		0x17, 0x03, 0x03, 0x00, 0x43, 0xa2, 0x3f, 0x70, 0x54, 0xb6, 0x2c, 0x94,
		0xd0, 0xaf, 0xfa, 0xfe, 0x82, 0x28, 0xba, 0x55, 0xcb, 0xef, 0xac, 0xea,
		0x42, 0xf9, 0x14, 0xaa, 0x66, 0xbc, 0xab, 0x3f, 0x2b, 0x98, 0x19, 0xa8,
		0xa5, 0xb4, 0x6b, 0x39, 0x5b, 0xd5, 0x4a, 0x9a, 0x20, 0x44, 0x1e, 0x2b,
		0x62, 0x97, 0x4e, 0x1f, 0x5a, 0x62, 0x92, 0xa2, 0x97, 0x70, 0x14, 0xbd,
		0x1e, 0x3d, 0xea, 0xe6, 0x3a, 0xee, 0xbb, 0x21, 0x69, 0x49, 0x15, 0xe4,
	};
	struct kl_tls_key key = {
		.version = TLS1_3_VERSION,
		.aead = KL_TLS_AES_128_GCM,
		.key_bytes = 16,
		.key = { 0x17, 0x42, 0x2d, 0xda, 0x59, 0x6e, 0xd5, 0xd9, 0xac, 0xd8, 0x90, 0xe3,
			 0xc6, 0x3f, 0x50, 0x51 },
		.iv = { 0x5b, 0x78, 0x92, 0x3d, 0xee, 0x08, 0x57, 0x90, 0x33, 0xe5, 0x23, 0xd9 },
	};
	uint8_t data[50], record[ROOM(50)];

	for (uint8_t i = 0; i < sizeof(data); i++)
		data[i] = i;
	ck_assert_uint_eq(seal(&key, KL_TLS_DATA, data, sizeof(data), record), sizeof(expected));
	ck_assert_mem_eq(record, expected, sizeof(expected));
}
END_TEST

START_TEST(every_type_and_length)
{
	static const size_t lengths[] = { 0, 1, 2, 15, 16, 17, 255, 256, 4000, KL_TLS_PLAIN_MAX };
	static const uint8_t types[] = { 20, 21, 22, 23, 24, 255 };
	struct kl_tls_key sealing = make_key(_i), opening = make_key(_i);
	uint8_t *record = malloc(ROOM(KL_TLS_PLAIN_MAX)), *data = malloc(KL_TLS_PLAIN_MAX);
	uint8_t type, *text;

	ck_assert(record && data);
	for (size_t i = 0; i < KL_TLS_PLAIN_MAX; i++)
		data[i] = (uint8_t)(i * 31 >> 3);
	for (size_t i = 0; i < KT_COUNT(lengths); i++) {
		for (size_t t = 0; t < KT_COUNT(types); t++) {
			size_t bytes = seal(&sealing, types[t], data, lengths[i], record);

			ck_assert_uint_eq(record[0], sealing.version == TLS1_3_VERSION ? 23 : types[t]);
			ck_assert_int_eq(kl_tls_record_open(&opening, record, bytes, &type, &text),
					 (ptrdiff_t)lengths[i]);
			ck_assert_uint_eq(type, types[t]);
			ck_assert_mem_eq(text, data, lengths[i]);
			ck_assert(text >= record && text + lengths[i] <= record + bytes);
			ck_assert_uint_eq(sealing.sequence, opening.sequence);
		}
	}
	ck_assert_uint_eq(ERR_peek_error(), 0);
	free(record);
	free(data);
}
END_TEST

/* The explicit nonce of TLS 1.2 is taken from the record, whatever it is. */
START_TEST(explicit_nonce_is_the_sequence)
{
	static const uint8_t sequence[] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	struct kl_tls_key sealing = make_key(3 + _i), opening = make_key(3 + _i);
	uint8_t record[ROOM(4)];
	size_t bytes = seal(&sealing, KL_TLS_DATA, "text", 4, record);

	ck_assert_mem_eq(record + KL_TLS_HEADER_BYTES, sequence, 8);
	for (size_t i = 0; i < bytes; i++) {
		record[i] ^= 1;
		must_not_open(&opening, record, bytes);
		record[i] ^= 1;
	}
}
END_TEST

/* Every single bit, every length, another key, another place, another version. */
START_TEST(nothing_broken_opens)
{
	struct kl_tls_key sealing = make_key(_i), opening = make_key(_i), other;
	uint8_t record[ROOM(20)], type, *text;
	size_t bytes = seal(&sealing, KL_TLS_HANDSHAKE, "twenty bytes of text", 20, record);

	for (size_t bit = 0; bit < 8 * bytes; bit++) {
		record[bit / 8] ^= (uint8_t)(1 << bit % 8);
		must_not_open(&opening, record, bytes);
		record[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t cut = 0; cut < bytes; cut++) {
		must_not_open(&opening, record, cut);
		if (cut < KL_TLS_HEADER_BYTES)
			continue;
		/* And with a header that agrees. */
		uint8_t kept = record[4];

		record[4] = (uint8_t)(cut - KL_TLS_HEADER_BYTES);
		must_not_open(&opening, record, cut);
		record[4] = kept;
	}
	must_not_open(&opening, record, bytes + 1);
	for (size_t i = 0; i < opening.key_bytes; i++) {
		other = opening;
		other.key[i] ^= 0x80;
		must_not_open(&other, record, bytes);
	}
	for (size_t i = 0; i < (overhead(&opening) == 29 ? 4 : sizeof(opening.iv)); i++) {
		other = opening;
		other.iv[i] ^= 1;
		must_not_open(&other, record, bytes);
	}
	other = opening;
	other.sequence++;
	must_not_open(&other, record, bytes);
	other.sequence = UINT64_MAX;
	must_not_open(&other, record, bytes);
	other = opening;
	other.version = opening.version == TLS1_3_VERSION ? TLS1_2_VERSION : TLS1_3_VERSION;
	must_not_open(&other, record, bytes);
	other = opening;
	other.aead = 0;
	must_not_open(&other, record, bytes);
	ck_assert_int_eq(kl_tls_record_open(&opening, record, bytes, &type, &text), 20);
	must_not_open(&opening, record, bytes); /* not twice */
}
END_TEST

/* A record with any inner plaintext: sealed as one of TLS 1.3 without its own type byte. */
static size_t seal_inner(struct kl_tls_key *key, uint8_t *inner, size_t bytes, uint8_t *out)
{
	/* The last byte of what is given is what the type would be. */
	return (size_t)kl_tls_record_seal(key, inner[bytes - 1], inner, bytes - 1, out);
}

START_TEST(padding)
{
	struct kl_tls_key sealing = make_key(_i), opening = make_key(_i);
	uint8_t *inner = calloc(1, KL_TLS_PLAIN_MAX + 1);
	uint8_t *record = malloc(ROOM(KL_TLS_PLAIN_MAX)), type, *text;
	size_t bytes;

	ck_assert(inner && record);
	memcpy(inner, "text\0\0\x16", 7);
	/* Zeroes belong to the text if they are before the type, and not after it. */
	for (size_t padded = 7; padded <= KL_TLS_PLAIN_MAX + 1; padded = 2 * padded + 1) {
		bytes = seal_inner(&sealing, inner, padded, record);
		ck_assert_int_eq(kl_tls_record_open(&opening, record, bytes, &type, &text), 6);
		ck_assert_uint_eq(type, KL_TLS_HANDSHAKE);
		ck_assert_mem_eq(text, "text\0\0", 6);
	}
	bytes = seal_inner(&sealing, inner, KL_TLS_PLAIN_MAX + 1, record);
	ck_assert_int_eq(kl_tls_record_open(&opening, record, bytes, &type, &text), 6);
	/* Nothing but zeroes has no type. */
	memset(inner, 0, 7);
	for (size_t padded = 1; padded < 40; padded++) {
		opening.sequence = sealing.sequence;
		bytes = seal_inner(&sealing, inner, padded, record);
		must_not_open(&opening, record, bytes);
	}
	free(inner);
	free(record);
}
END_TEST

/* What kl_tls_record_seal() refuses to make: TLS 1.3, AES-128-GCM, of any length. */
static size_t seal_by_hand(const struct kl_tls_key *key, const uint8_t *inner, size_t bytes,
			   uint8_t *out)
{
	const size_t body = bytes + 16;
	const uint8_t header[] = { 23, 3, 3, (uint8_t)(body >> 8), (uint8_t)body };
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	uint8_t nonce[12];
	int length;

	memcpy(out, header, sizeof(header));
	memcpy(nonce, key->iv, sizeof(nonce));
	for (unsigned i = 0; i < 8; i++)
		nonce[4 + i] ^= (uint8_t)(key->sequence >> (56 - 8 * i));
	ck_assert_int_eq(EVP_EncryptInit_ex(ctx, EVP_aes_128_gcm(), NULL, key->key, nonce), 1);
	ck_assert_int_eq(EVP_EncryptUpdate(ctx, NULL, &length, header, sizeof(header)), 1);
	ck_assert_int_eq(EVP_EncryptUpdate(ctx, out + 5, &length, inner, (int)bytes), 1);
	ck_assert_int_eq(EVP_EncryptFinal_ex(ctx, out + 5 + bytes, &length), 1);
	ck_assert_int_eq(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, out + 5 + bytes), 1);
	EVP_CIPHER_CTX_free(ctx);
	return 5 + body;
}

/* RFC 8446, 5.4: padding counts, 16385 bytes in all. */
START_TEST(too_long_inside)
{
	uint8_t *inner = calloc(1, KL_TLS_PLAIN_MAX + 200), *record = malloc(KL_TLS_RECORD_MAX);
	struct kl_tls_key key = make_key(0);
	uint8_t type, *text;
	size_t bytes;

	ck_assert(inner && record);
	inner[0] = 'x';
	inner[1] = KL_TLS_DATA;
	bytes = seal_by_hand(&key, inner, KL_TLS_PLAIN_MAX + 2, record);
	must_not_open(&key, record, bytes);
	bytes = seal_by_hand(&key, inner, KL_TLS_PLAIN_MAX + 200, record);
	must_not_open(&key, record, bytes);
	bytes = seal_by_hand(&key, inner, KL_TLS_PLAIN_MAX + 1, record);
	ck_assert_int_eq(kl_tls_record_open(&key, record, bytes, &type, &text), 1);
	ck_assert_uint_eq(type, KL_TLS_DATA);
	free(inner);
	free(record);
}
END_TEST

START_TEST(limits)
{
	struct kl_tls_key key = make_key(_i);
	uint8_t *data = calloc(1, KL_TLS_RECORD_MAX), *record = malloc(KL_TLS_RECORD_MAX + 1);
	const uint64_t before = key.sequence;

	ck_assert(data && record);
	ck_assert_int_eq(kl_tls_record_seal(&key, KL_TLS_DATA, data, KL_TLS_PLAIN_MAX + 1, record),
			 -EMSGSIZE);
	ck_assert_uint_eq(key.sequence, before);
	key.sequence = UINT64_MAX;
	ck_assert_int_eq(kl_tls_record_seal(&key, KL_TLS_DATA, data, 1, record),
			 KLOOP_ERROR_TLS_LIBRARY);
	key.sequence = UINT64_MAX - 1;
	ck_assert_int_gt(kl_tls_record_seal(&key, KL_TLS_DATA, data, 1, record), 0);
	key = make_key(_i);
	key.aead = 0;
	ck_assert_int_eq(kl_tls_record_seal(&key, KL_TLS_DATA, data, 1, record),
			 KLOOP_ERROR_TLS_LIBRARY);
	ck_assert_uint_eq(key.sequence, before);
	/* The longest on the wire, and beyond it. */
	key = make_key(_i);
	memcpy(record, "\x17\x03\x03", 3);
	memset(record + 5, 0, KL_TLS_RECORD_MAX - 4);
	for (size_t body = KL_TLS_PLAIN_MAX; body <= KL_TLS_RECORD_MAX - 4; body += 1 + body % 7) {
		record[3] = (uint8_t)(body >> 8);
		record[4] = (uint8_t)body;
		must_not_open(&key, record, KL_TLS_HEADER_BYTES + body);
	}
	free(data);
	free(record);
}
END_TEST

static Suite *record_suite(void)
{
	Suite *suite = suite_create("tls-record");
	TCase *framing = kt_case(suite, "framing", 60);
	TCase *seal_open = kt_case(suite, "seal-open", 120);

	tcase_add_loop_test(framing, every_cut, 0, 2);
	tcase_add_test(framing, byte_by_byte);
	tcase_add_test(framing, the_explicit_nonce);
	tcase_add_test(framing, the_longest_record);
	tcase_add_loop_test(framing, too_long_is_broken_for_good, 0, 3);

	tcase_add_test(seal_open, rfc_8448_record);
	tcase_add_loop_test(seal_open, every_type_and_length, 0, KEYS);
	tcase_add_loop_test(seal_open, explicit_nonce_is_the_sequence, 0, 2);
	tcase_add_loop_test(seal_open, nothing_broken_opens, 0, KEYS);
	tcase_add_loop_test(seal_open, padding, 0, 3);
	tcase_add_test(seal_open, too_long_inside);
	tcase_add_loop_test(seal_open, limits, 0, KEYS);
	return suite;
}

int main(void)
{
	return kt_main(record_suite());
}
