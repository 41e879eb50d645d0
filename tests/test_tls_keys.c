/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Keys outside OpenSSL: vectors of RFC 8448, and handshakes of OpenSSL with
 * itself, whose records must open with our keys, and which must take ours.
 */
#include "sslpair.h"
#include "support.h"
#include "tls/record.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>

#define HANDSHAKES 40
#define THREADS 4

/* ---- memory that OpenSSL lacks: -Wl,--wrap ---------------------------- */

static int refuse_ex_data; /* counts down to the call that fails */

int __real_SSL_set_ex_data(SSL *ssl, int index, void *data);
int __real_SSL_CTX_set_ex_data(SSL_CTX *ctx, int index, void *data);
int __wrap_SSL_set_ex_data(SSL *ssl, int index, void *data);
int __wrap_SSL_CTX_set_ex_data(SSL_CTX *ctx, int index, void *data);

static bool refuses(void)
{
	return refuse_ex_data > 0 && --refuse_ex_data == 0;
}

int __wrap_SSL_set_ex_data(SSL *ssl, int index, void *data)
{
	return refuses() ? 0 : __real_SSL_set_ex_data(ssl, index, data);
}

int __wrap_SSL_CTX_set_ex_data(SSL_CTX *ctx, int index, void *data)
{
	return refuses() ? 0 : __real_SSL_CTX_set_ex_data(ctx, index, data);
}

/* ---- a watched pair --------------------------------------------------- */

struct watched {
	struct kt_ssl_pair pair;
	struct kl_tls_secrets client_secrets, server_secrets; /* as each end saw them */
	struct kl_tls_key client, server;                     /* with which each end encrypts */
	uint8_t record[KL_TLS_RECORD_MAX];
};

static void watch(struct watched *watched)
{
	memset(&watched->client_secrets, 0, sizeof(watched->client_secrets));
	memset(&watched->server_secrets, 0, sizeof(watched->server_secrets));
	ck_assert_int_eq(kl_tls_secrets_watch(watched->pair.client, &watched->client_secrets), 0);
	ck_assert_int_eq(kl_tls_secrets_watch(watched->pair.server, &watched->server_secrets), 0);
}

static void derive_one(struct watched *watched, bool of_client, struct kl_tls_key *key)
{
	struct kl_tls_key other;

	ck_assert_int_eq(kl_tls_key_derive(key, watched->pair.client, &watched->client_secrets,
					   of_client), 0);
	ck_assert_int_eq(kl_tls_key_derive(&other, watched->pair.server, &watched->server_secrets,
					   of_client), 0);
	ck_assert_mem_eq(key, &other, sizeof(other));
	ck_assert_uint_eq(key->sequence, 0);
	ck_assert_uint_eq(ERR_peek_error(), 0);
	/* TLS 1.2: Finished was record 0. */
	if (key->version == TLS1_2_VERSION)
		key->sequence = 1;
}

/* Shake hands; both ends must come to the same keys, one for each direction. */
static void shake(struct watched *watched)
{
	ck_assert(kt_ssl_pair_handshake(&watched->pair));
	derive_one(watched, true, &watched->client);
	derive_one(watched, false, &watched->server);
	ck_assert_mem_ne(watched->client.key, watched->server.key, watched->client.key_bytes);
}

static void start(struct watched *watched, const struct kt_suite *suite)
{
	kt_ssl_pair_init_suite(&watched->pair, suite);
	watch(watched);
	shake(watched);
}

static struct kl_tls_key *key_of(struct watched *watched, bool of_client)
{
	return of_client ? &watched->client : &watched->server;
}

static BIO *wire_to_peer(struct watched *watched, bool of_client)
{
	return of_client ? watched->pair.to_server : watched->pair.to_client;
}

/*
 * Open the next record that one end wrote, and carry it to the other. Returns:
 * as kl_tls_record_open(); -ENOENT if there is none.
 */
static ptrdiff_t open_next(struct watched *watched, bool of_client, uint8_t *ret_type,
			   uint8_t **ret_text)
{
	size_t bytes = kt_ssl_take_record(of_client ? watched->pair.from_client
						    : watched->pair.from_server, watched->record);

	if (bytes == 0)
		return -ENOENT;
	BIO_write(wire_to_peer(watched, of_client), watched->record, (int)bytes);
	return kl_tls_record_open(key_of(watched, of_client), watched->record, bytes, ret_type,
				  ret_text);
}

static void expect_record(struct watched *watched, bool of_client, uint8_t type, const void *data,
			  ptrdiff_t bytes)
{
	uint8_t opened = 0, *text = NULL;

	ck_assert_int_eq(open_next(watched, of_client, &opened, &text), bytes);
	ck_assert_uint_eq(opened, type);
	ck_assert_mem_eq(text, data, (size_t)bytes);
}

/* The tickets that a server of TLS 1.3 sends after the handshake. */
static int open_tickets(struct watched *watched)
{
	uint8_t type, *text;
	ptrdiff_t bytes;
	int count = 0;

	while ((bytes = open_next(watched, false, &type, &text)) != -ENOENT) {
		ck_assert_int_gt(bytes, 4);
		ck_assert_uint_eq(type, KL_TLS_HANDSHAKE);
		ck_assert_uint_eq(text[0], 4); /* NewSessionTicket */
		count++;
	}
	return count;
}

/* Bring a record of ours to the other end. */
static void bring(struct watched *watched, bool of_client, uint8_t type, const void *data,
		  size_t bytes)
{
	ptrdiff_t sealed = kl_tls_record_seal(key_of(watched, of_client), type, data, bytes,
					      watched->record);

	ck_assert_int_gt(sealed, 0);
	ck_assert_int_eq(BIO_write(wire_to_peer(watched, of_client), watched->record, (int)sealed),
			 (int)sealed);
}

/* Both directions: OpenSSL's records open, and they go on to the other end. */
static void talk(struct watched *watched)
{
	kt_ssl_put(watched->pair.client, "ping", 4);
	expect_record(watched, true, KL_TLS_DATA, "ping", 4);
	kt_ssl_expect(watched->pair.server, "ping", 4);
	kt_ssl_put(watched->pair.server, "pong!", 5);
	expect_record(watched, false, KL_TLS_DATA, "pong!", 5);
	kt_ssl_expect(watched->pair.client, "pong!", 5);
}

/* Both directions: OpenSSL takes records of ours. */
static void talk_ours(struct watched *watched)
{
	bring(watched, true, KL_TLS_DATA, "of ours", 7);
	kt_ssl_expect(watched->pair.server, "of ours", 7);
	bring(watched, false, KL_TLS_DATA, "back", 4);
	kt_ssl_expect(watched->pair.client, "back", 4);
}

/* ---- derivation ------------------------------------------------------- */

START_TEST(rfc_8448_keys)
{
	static const struct {
		uint8_t secret[32], key[16], iv[12];
	} vectors[] = {
		/* Section 3: client and server, application data. */
		{ { 0x9e, 0x40, 0x64, 0x6c, 0xe7, 0x9a, 0x7f, 0x9d, 0xc0, 0x5a, 0xf8,
		    0x88, 0x9b, 0xce, 0x65, 0x52, 0x87, 0x5a, 0xfa, 0x0b, 0x06, 0xdf,
		    0x00, 0x87, 0xf7, 0x92, 0xeb, 0xb7, 0xc1, 0x75, 0x04, 0xa5 },
		  { 0x17, 0x42, 0x2d, 0xda, 0x59, 0x6e, 0xd5, 0xd9, 0xac, 0xd8, 0x90, 0xe3,
		    0xc6, 0x3f, 0x50, 0x51 },
		  { 0x5b, 0x78, 0x92, 0x3d, 0xee, 0x08, 0x57, 0x90, 0x33, 0xe5, 0x23, 0xd9 } },
		{ { 0xa1, 0x1a, 0xf9, 0xf0, 0x55, 0x31, 0xf8, 0x56, 0xad, 0x47, 0x11,
		    0x6b, 0x45, 0xa9, 0x50, 0x32, 0x82, 0x04, 0xb4, 0xf4, 0x4b, 0xfb,
		    0x6b, 0x3a, 0x4b, 0x4f, 0x1f, 0x3f, 0xcb, 0x63, 0x16, 0x43 },
		  { 0x9f, 0x02, 0x28, 0x3b, 0x6c, 0x9c, 0x07, 0xef, 0xc2, 0x6b, 0xb9, 0xf2,
		    0xac, 0x92, 0xe3, 0x56 },
		  { 0xcf, 0x78, 0x2b, 0x88, 0xdd, 0x83, 0x54, 0x9a, 0xad, 0xf1, 0xe9, 0x84 } },
	};
	struct kl_tls_key key = { .version = TLS1_3_VERSION, .aead = KL_TLS_AES_128_GCM };

	key.key_bytes = 16;
	key.secret_bytes = 32;
	memcpy(key.secret, vectors[_i].secret, 32);
	ck_assert_int_eq(kl_tls_key_expand(&key), 0);
	ck_assert_mem_eq(key.key, vectors[_i].key, 16);
	ck_assert_mem_eq(key.iv, vectors[_i].iv, 12);
}
END_TEST

START_TEST(every_suite)
{
	const struct kt_suite *suite = &kt_suites[_i];
	struct watched watched;

	start(&watched, suite);
	ck_assert_uint_eq(watched.client.version, suite->version);
	ck_assert_int_eq(watched.client.aead, suite->aead);
	ck_assert_uint_eq(watched.client.key_bytes, suite->aead == KL_TLS_AES_128_GCM ? 16 : 32);
	ck_assert_int_eq(watched.client.sha384, suite->aead == KL_TLS_AES_256_GCM);
	ck_assert_int_eq(open_tickets(&watched), suite->version == TLS1_3_VERSION ? 2 : 0);
	talk(&watched);
	talk(&watched);
	talk_ours(&watched);
	talk_ours(&watched);
	ck_assert_uint_eq(ERR_peek_error(), 0);
	kt_ssl_pair_free(&watched.pair);
}
END_TEST

/* OpenSSL's alert opens, and one of ours ends OpenSSL's reading. */
START_TEST(close_notify_both_ways)
{
	static const uint8_t close_notify[] = { 1, 0 };
	struct watched watched;
	uint8_t byte;

	start(&watched, &kt_suites[_i]);
	open_tickets(&watched);
	SSL_shutdown(watched.pair.client);
	expect_record(&watched, true, KL_TLS_ALERT, close_notify, 2);
	bring(&watched, false, KL_TLS_ALERT, close_notify, 2);
	ck_assert_int_eq(SSL_read(watched.pair.client, &byte, 1), 0);
	ck_assert_int_eq(SSL_get_error(watched.pair.client, 0), SSL_ERROR_ZERO_RETURN);
	kt_ssl_pair_free(&watched.pair);
}
END_TEST

/* Three generations in each direction; the peer renews its keys as it is asked to. */
START_TEST(key_update)
{
	static const uint8_t asking[] = { 24, 0, 0, 1, 1 }, plain[] = { 24, 0, 0, 1, 0 };
	struct watched watched;

	start(&watched, &kt_suites[_i]);
	open_tickets(&watched);
	for (int generation = 0; generation < 3; generation++) {
		ck_assert_int_eq(SSL_key_update(watched.pair.client, SSL_KEY_UPDATE_REQUESTED), 1);
		kt_ssl_put(watched.pair.client, "new", 3);
		expect_record(&watched, true, KL_TLS_HANDSHAKE, asking, 5);
		ck_assert_int_eq(kl_tls_key_update(&watched.client), 0);
		ck_assert_uint_eq(watched.client.sequence, 0);
		expect_record(&watched, true, KL_TLS_DATA, "new", 3);
		kt_ssl_expect(watched.pair.server, "new", 3);

		kt_ssl_put(watched.pair.server, "newer", 5);
		expect_record(&watched, false, KL_TLS_HANDSHAKE, plain, 5);
		ck_assert_int_eq(kl_tls_key_update(&watched.server), 0);
		expect_record(&watched, false, KL_TLS_DATA, "newer", 5);
		kt_ssl_expect(watched.pair.client, "newer", 5);
		talk(&watched);
	}
	talk_ours(&watched);
	kt_ssl_pair_free(&watched.pair);
}
END_TEST

/* A KeyUpdate of ours, as the kernel would bring it: OpenSSL follows. */
START_TEST(key_update_of_ours)
{
	static const uint8_t plain[] = { 24, 0, 0, 1, 0 };
	struct watched watched;

	start(&watched, &kt_suites[_i]);
	for (int generation = 0; generation < 3; generation++) {
		bring(&watched, true, KL_TLS_HANDSHAKE, plain, sizeof(plain));
		ck_assert_int_eq(kl_tls_key_update(&watched.client), 0);
		bring(&watched, true, KL_TLS_DATA, "after", 5);
		kt_ssl_expect(watched.pair.server, "after", 5);
	}
	kt_ssl_pair_free(&watched.pair);
}
END_TEST

START_TEST(key_update_is_of_1_3_only)
{
	struct kl_tls_key before;
	struct watched watched;

	start(&watched, &kt_suites[3]);
	before = watched.client;
	ck_assert_int_eq(kl_tls_key_update(&watched.client), KLOOP_ERROR_TLS_LIBRARY);
	ck_assert_mem_eq(&before, &watched.client, sizeof(before));
	kl_tls_key_wipe(&before);
	for (size_t i = 0; i < sizeof(before); i++)
		ck_assert_uint_eq(((uint8_t *)&before)[i], 0);
	kt_ssl_pair_free(&watched.pair);
}
END_TEST

START_TEST(resumed)
{
	struct watched first, second;
	SSL_SESSION *session;
	char byte;

	start(&first, &kt_suites[_i]);
	open_tickets(&first);
	SSL_read(first.pair.client, &byte, 1); /* the tickets */
	session = SSL_get1_session(first.pair.client);
	ck_assert_ptr_nonnull(session);
	ck_assert(SSL_SESSION_is_resumable(session));
	kt_ssl_pair_init(&second.pair, first.pair.client_ctx, first.pair.server_ctx);
	ck_assert_int_eq(SSL_set_session(second.pair.client, session), 1);
	watch(&second);
	shake(&second);
	ck_assert_int_eq(SSL_session_reused(second.pair.client), 1);
	open_tickets(&second);
	talk(&second);
	talk_ours(&second);
	SSL_SESSION_free(session);
	kt_ssl_pair_free(&second.pair);
	kt_ssl_pair_free(&first.pair);
}
END_TEST

START_TEST(other_ciphers_are_refused)
{
	static const struct kt_suite suites[] = {
		{ TLS1_3_VERSION, "TLS_AES_128_CCM_SHA256", 0 },
		{ TLS1_2_VERSION, "ECDHE-ECDSA-AES128-SHA256", 0 },
		{ TLS1_2_VERSION, "ECDHE-ECDSA-AES128-CCM", 0 },
	};
	struct kl_tls_key key = { .aead = 77 };
	struct watched watched;

	kt_ssl_pair_init_suite(&watched.pair, &suites[_i]);
	watch(&watched);
	/* Before the handshake there is no cipher at all. */
	ck_assert_int_eq(kl_tls_key_derive(&key, watched.pair.client, &watched.client_secrets, true),
			 KLOOP_ERROR_KTLS_CIPHER);
	ck_assert(kt_ssl_pair_handshake(&watched.pair));
	ck_assert_int_eq(kl_tls_key_derive(&key, watched.pair.client, &watched.client_secrets, true),
			 KLOOP_ERROR_KTLS_CIPHER);
	ck_assert_uint_eq(key.aead, 77);
	ck_assert_uint_eq(ERR_peek_error(), 0);
	kt_ssl_pair_free(&watched.pair);
}
END_TEST

/* ---- the key log ------------------------------------------------------ */

static int logged, logged_traffic;
static SSL_CTX_keylog_cb_func wrapped;

static void count_log(const SSL *ssl, const char *line)
{
	(void)ssl;
	__atomic_add_fetch(&logged, 1, __ATOMIC_RELAXED);
	if (strstr(line, "_TRAFFIC_SECRET_0 "))
		__atomic_add_fetch(&logged_traffic, 1, __ATOMIC_RELAXED);
}

static void count_and_call(const SSL *ssl, const char *line)
{
	count_log(ssl, line);
	wrapped(ssl, line);
}

/* One more handshake with these contexts; what it derives is right. */
static void once_more(SSL_CTX *client_ctx, SSL_CTX *server_ctx)
{
	struct watched watched;

	kt_ssl_pair_init(&watched.pair, client_ctx, server_ctx);
	watch(&watched);
	shake(&watched);
	open_tickets(&watched);
	talk(&watched);
	kt_ssl_pair_free(&watched.pair);
}

START_TEST(the_users_key_log_is_called)
{
	SSL_CTX *client_ctx = kt_ssl_client_ctx(), *server_ctx = kt_ssl_server_ctx();

	logged = logged_traffic = 0;
	SSL_CTX_set_keylog_callback(client_ctx, count_log);
	for (int i = 1; i <= HANDSHAKES; i++) {
		once_more(client_ctx, server_ctx);
		/* Once each, by the client alone; chained to itself it would be more. */
		ck_assert_int_eq(logged_traffic, 2 * i);
		ck_assert_int_eq(logged, 5 * i);
	}
	/* Set again by the user: chained again by the next watch. */
	logged_traffic = 0;
	SSL_CTX_set_keylog_callback(client_ctx, count_log);
	once_more(client_ctx, server_ctx);
	ck_assert_int_eq(logged_traffic, 2);
	SSL_CTX_set_keylog_callback(client_ctx, NULL);
	once_more(client_ctx, server_ctx);
	ck_assert_int_eq(logged_traffic, 2);
	SSL_CTX_free(client_ctx);
	SSL_CTX_free(server_ctx);
}
END_TEST

/* The user found ours and calls it from his own: no circle, no line twice. */
START_TEST(a_key_log_around_ours)
{
	SSL_CTX *client_ctx = kt_ssl_client_ctx(), *server_ctx = kt_ssl_server_ctx();

	once_more(client_ctx, server_ctx);
	wrapped = SSL_CTX_get_keylog_callback(client_ctx);
	ck_assert(wrapped != NULL);
	SSL_CTX_set_keylog_callback(client_ctx, count_and_call);
	for (int i = 1; i <= 3; i++) {
		logged_traffic = 0;
		once_more(client_ctx, server_ctx);
		ck_assert_int_eq(logged_traffic, 2);
	}
	SSL_CTX_free(client_ctx);
	SSL_CTX_free(server_ctx);
}
END_TEST

/* Replaced after the last step that could notice: the secrets are not seen, and that is said. */
static void replace_log(const SSL *ssl, int where, int value)
{
	(void)value;
	if (where & SSL_CB_LOOP)
		SSL_CTX_set_keylog_callback(SSL_get_SSL_CTX(ssl), count_log);
}

START_TEST(a_key_log_in_place_of_ours)
{
	struct kl_tls_key key;
	struct watched watched;

	kt_ssl_pair_init_suite(&watched.pair, &kt_suites[0]);
	SSL_set_info_callback(watched.pair.client, replace_log);
	watch(&watched);
	ck_assert(kt_ssl_pair_handshake(&watched.pair));
	ck_assert_int_eq(kl_tls_key_derive(&key, watched.pair.client, &watched.client_secrets, true),
			 KLOOP_ERROR_KTLS_SECRETS);
	ck_assert_int_eq(kl_tls_key_derive(&key, watched.pair.client, NULL, true),
			 KLOOP_ERROR_KTLS_SECRETS);
	/* Of the other hash: not of this connection. */
	watched.server_secrets.client_bytes = 48;
	ck_assert_int_eq(kl_tls_key_derive(&key, watched.pair.server, &watched.server_secrets, true),
			 KLOOP_ERROR_KTLS_SECRETS);
	ck_assert_int_eq(kl_tls_key_derive(&key, watched.pair.server, &watched.server_secrets,
					   false), 0);
	kt_ssl_pair_free(&watched.pair);
}
END_TEST

START_TEST(tls_1_2_needs_no_secrets)
{
	struct kl_tls_key key, other;
	struct watched watched;

	start(&watched, &kt_suites[4]);
	ck_assert_int_eq(kl_tls_key_derive(&key, watched.pair.client, NULL, true), 0);
	ck_assert_int_eq(kl_tls_key_derive(&other, watched.pair.server, NULL, true), 0);
	ck_assert_mem_eq(&key, &other, sizeof(key));
	kt_ssl_pair_free(&watched.pair);
}
END_TEST

#define RANDOM "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF"
#define SECRET "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf"

START_TEST(lines_are_read_strictly)
{
	static const char *const bad[] = {
		"",
		"CLIENT_TRAFFIC_SECRET_0",
		"CLIENT_TRAFFIC_SECRET_0 ",
		"CLIENT_TRAFFIC_SECRET_0 " RANDOM,
		"CLIENT_TRAFFIC_SECRET_0 " RANDOM " ",
		"CLIENT_TRAFFIC_SECRET_0  " RANDOM " " SECRET,
		"CLIENT_TRAFFIC_SECRET_0 " RANDOM "  " SECRET,
		"CLIENT_TRAFFIC_SECRET_0 " RANDOM "0 " SECRET,
		"CLIENT_TRAFFIC_SECRET_0 " RANDOM " " SECRET "0",
		"CLIENT_TRAFFIC_SECRET_0 " RANDOM " " SECRET " ",
		"CLIENT_TRAFFIC_SECRET_0 " RANDOM " " SECRET "0g",
		"CLIENT_TRAFFIC_SECRET_0 " RANDOM " " SECRET SECRET "00",
		"CLIENT_TRAFFIC_SECRET_0 0x" RANDOM " " SECRET,
		"CLIENT_TRAFFIC_SECRET_1 " RANDOM " " SECRET,
		"CLIENT_TRAFFIC_SECRET_00 " RANDOM " " SECRET,
		"CLIENT_HANDSHAKE_TRAFFIC_SECRET " RANDOM " " SECRET,
		" CLIENT_TRAFFIC_SECRET_0 " RANDOM " " SECRET,
	};
	struct kl_tls_secrets none = { 0 };
	SSL_CTX_keylog_cb_func log;
	struct watched watched;

	kt_ssl_pair_init_suite(&watched.pair, &kt_suites[0]);
	watch(&watched);
	log = SSL_CTX_get_keylog_callback(watched.pair.client_ctx);
	for (size_t i = 0; i < KT_COUNT(bad); i++) {
		log(watched.pair.client, bad[i]);
		ck_assert_msg(!memcmp(&none, &watched.client_secrets, sizeof(none)), "%s", bad[i]);
	}
	log(watched.pair.client, "CLIENT_TRAFFIC_SECRET_0 " RANDOM " " SECRET SECRET);
	ck_assert_uint_eq(watched.client_secrets.client_bytes, KL_TLS_SECRET_MAX);
	log(watched.pair.client, "SERVER_TRAFFIC_SECRET_0 " RANDOM " " SECRET);
	ck_assert_uint_eq(watched.client_secrets.server_bytes, 32);
	for (int i = 0; i < 32; i++)
		ck_assert_uint_eq(watched.client_secrets.server[i], 0xa0 + i);
	/* A broken line later takes away what it names. */
	log(watched.pair.client, bad[7] /* another shape: nothing */);
	ck_assert_uint_eq(watched.client_secrets.client_bytes, KL_TLS_SECRET_MAX);
	log(watched.pair.client, bad[8]);
	ck_assert_uint_eq(watched.client_secrets.client_bytes, 0);
	kt_ssl_pair_free(&watched.pair);
}
END_TEST

/* ---- callbacks of others ---------------------------------------------- */

static SSL_CTX *exchanged_ctx;
static int infos, ctx_infos;

static int exchange(SSL *ssl, int *alert, void *data)
{
	(void)alert;
	(void)data;
	ck_assert_str_eq(SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name), "other.example");
	ck_assert_ptr_eq(SSL_set_SSL_CTX(ssl, exchanged_ctx), exchanged_ctx);
	return SSL_TLSEXT_ERR_OK;
}

START_TEST(a_name_callback_exchanges_the_context)
{
	struct watched watched;

	logged_traffic = 0;
	exchanged_ctx = kt_ssl_server_ctx();
	SSL_CTX_set_keylog_callback(exchanged_ctx, count_log);
	kt_ssl_pair_init_suite(&watched.pair, &kt_suites[_i]);
	SSL_CTX_set_tlsext_servername_callback(watched.pair.server_ctx, exchange);
	ck_assert_int_eq(SSL_set_tlsext_host_name(watched.pair.client, "other.example"), 1);
	watch(&watched);
	shake(&watched);
	ck_assert_ptr_eq(SSL_get_SSL_CTX(watched.pair.server), exchanged_ctx);
	ck_assert_int_eq(logged_traffic, kt_suites[_i].version == TLS1_3_VERSION ? 2 : 0);
	open_tickets(&watched);
	talk(&watched);
	talk_ours(&watched);
	kt_ssl_pair_free(&watched.pair);
	SSL_CTX_free(exchanged_ctx);
}
END_TEST

static void count_info(const SSL *ssl, int where, int value)
{
	(void)ssl;
	(void)where;
	(void)value;
	infos++;
}

static void count_ctx_info(const SSL *ssl, int where, int value)
{
	(void)ssl;
	(void)where;
	(void)value;
	ctx_infos++;
}

START_TEST(info_callbacks_are_called)
{
	struct watched watched;

	infos = ctx_infos = 0;
	kt_ssl_pair_init_suite(&watched.pair, &kt_suites[0]);
	SSL_CTX_set_info_callback(watched.pair.client_ctx, count_ctx_info);
	SSL_CTX_set_info_callback(watched.pair.server_ctx, count_ctx_info);
	SSL_set_info_callback(watched.pair.server, count_info);
	watch(&watched);
	watch(&watched); /* again: the same */
	shake(&watched);
	ck_assert_int_gt(infos, 5);
	ck_assert_int_gt(ctx_infos, 5);
	kt_ssl_pair_free(&watched.pair);
}
END_TEST

START_TEST(unwatched)
{
	struct kl_tls_secrets none = { 0 };
	struct watched watched;

	infos = 0;
	kt_ssl_pair_init_suite(&watched.pair, &kt_suites[0]);
	kl_tls_secrets_unwatch(watched.pair.client); /* never watched: nothing */
	SSL_set_info_callback(watched.pair.client, count_info);
	watch(&watched);
	kl_tls_secrets_unwatch(watched.pair.client);
	ck_assert(SSL_get_info_callback(watched.pair.client) == count_info);
	ck_assert(kt_ssl_pair_handshake(&watched.pair));
	ck_assert_int_gt(infos, 0);
	ck_assert_mem_eq(&none, &watched.client_secrets, sizeof(none));
	ck_assert_uint_eq(watched.server_secrets.client_bytes, 32);
	kt_ssl_pair_free(&watched.pair);
}
END_TEST

START_TEST(without_memory)
{
	struct kl_tls_secrets secrets = { 0 };
	struct kt_ssl_pair pair;
	int refusals = 0, r = -1;

	kt_ssl_pair_init_suite(&pair, &kt_suites[0]);
	for (int nth = 1; r < 0; nth++) {
		SSL_CTX_set_keylog_callback(pair.client_ctx, NULL);
		refuse_ex_data = nth;
		r = kl_tls_secrets_watch(pair.client, &secrets);
		if (r == 0)
			break;
		ck_assert_int_eq(r, -ENOMEM);
		ck_assert(SSL_get_info_callback(pair.client) == NULL);
		ck_assert(SSL_CTX_get_keylog_callback(pair.client_ctx) == NULL);
		refusals++;
	}
	refuse_ex_data = 0;
	ck_assert_int_eq(refusals, 3);
	ck_assert(kt_ssl_pair_handshake(&pair));
	ck_assert_uint_eq(secrets.client_bytes, 32);
	kt_ssl_pair_free(&pair);
}
END_TEST

/* ---- threads ---------------------------------------------------------- */

struct crowd {
	SSL_CTX *client_ctx, *server_ctx;
};

static void *shake_many(void *data)
{
	struct crowd *crowd = data;

	for (int i = 0; i < HANDSHAKES; i++)
		once_more(crowd->client_ctx, crowd->server_ctx);
	return NULL;
}

START_TEST(threads_share_contexts)
{
	struct crowd crowd = { kt_ssl_client_ctx(), kt_ssl_server_ctx() };
	pthread_t threads[THREADS];

	logged_traffic = 0;
	SSL_CTX_set_keylog_callback(crowd.server_ctx, count_log);
	for (int i = 0; i < THREADS; i++)
		threads[i] = kt_thread(shake_many, &crowd);
	for (int i = 0; i < THREADS; i++)
		kt_join(threads[i]);
	ck_assert_int_eq(logged_traffic, 2 * THREADS * HANDSHAKES);
	SSL_CTX_free(crowd.client_ctx);
	SSL_CTX_free(crowd.server_ctx);
}
END_TEST

static Suite *keys_suite(void)
{
	Suite *suite = suite_create("tls-keys");
	TCase *derive = kt_case(suite, "derive", 60);
	TCase *log = kt_case(suite, "log", 120);

	tcase_add_loop_test(derive, rfc_8448_keys, 0, 2);
	tcase_add_loop_test(derive, every_suite, 0, KT_SUITES);
	tcase_add_loop_test(derive, close_notify_both_ways, 0, KT_SUITES);
	tcase_add_loop_test(derive, key_update, 0, 3);
	tcase_add_loop_test(derive, key_update_of_ours, 0, 3);
	tcase_add_test(derive, key_update_is_of_1_3_only);
	tcase_add_loop_test(derive, resumed, 0, KT_SUITES);
	tcase_add_loop_test(derive, other_ciphers_are_refused, 0, 3);
	tcase_add_test(derive, tls_1_2_needs_no_secrets);

	tcase_add_test(log, the_users_key_log_is_called);
	tcase_add_test(log, a_key_log_around_ours);
	tcase_add_test(log, a_key_log_in_place_of_ours);
	tcase_add_test(log, lines_are_read_strictly);
	tcase_add_loop_test(log, a_name_callback_exchanges_the_context, 0, KT_SUITES);
	tcase_add_test(log, info_callbacks_are_called);
	tcase_add_test(log, unwatched);
	tcase_add_test(log, without_memory);
	tcase_add_test(log, threads_share_contexts);
	return suite;
}

int main(void)
{
	return kt_main(keys_suite());
}
