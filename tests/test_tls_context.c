/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Contexts of TLS: defaults, versions, ciphers, protocols, secrets, tickets. */
#include "fault.h"
#include "support.h"
#include "tlsfixture.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <string.h>

#include "tls/tls.h"

/* ---- made and set up -------------------------------------------------- */

START_TEST(new_context)
{
	struct kloop_tls_context *context = NULL;

	ck_assert_int_eq(kloop_tls_context_new((enum kloop_tls_role)2, &context), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_new(KLOOP_TLS_CLIENT, NULL), -EINVAL);
	ck_assert_ptr_null(context);
	context = kt_tls_context(KLOOP_TLS_CLIENT);
	ck_assert_ptr_eq(kloop_tls_context_ref(context), context);
	ck_assert_ptr_null(kloop_tls_context_unref(context));
	/* Still there. */
	ck_assert_int_eq(kloop_tls_context_set_versions(context, 0, 0), 0);
	ck_assert_ptr_null(kloop_tls_context_unref(context));
	ck_assert_ptr_null(kloop_tls_context_unref(NULL));
	ck_assert_ptr_null(kloop_tls_context_ref(NULL));
	ck_assert_ptr_null(kloop_tls_context_get_ssl_ctx(NULL));
}
END_TEST

START_TEST(safe_defaults)
{
	for (int role = KLOOP_TLS_CLIENT; role <= KLOOP_TLS_SERVER; role++) {
		struct kloop_tls_context *context = kt_tls_context((enum kloop_tls_role)role);
		SSL_CTX *ssl_ctx = kloop_tls_context_get_ssl_ctx(context);

		ck_assert_int_eq(SSL_CTX_get_min_proto_version(ssl_ctx), TLS1_2_VERSION);
		ck_assert(SSL_CTX_get_options(ssl_ctx) & SSL_OP_NO_COMPRESSION);
		ck_assert(SSL_CTX_get_options(ssl_ctx) & SSL_OP_NO_RENEGOTIATION);
		ck_assert_int_eq(SSL_CTX_get_verify_mode(ssl_ctx),
				 role == KLOOP_TLS_CLIENT ? SSL_VERIFY_PEER : SSL_VERIFY_NONE);
		kloop_tls_context_unref(context);
	}
}
END_TEST

START_TEST(versions_are_checked)
{
	struct kloop_tls_context *context = kt_tls_context(KLOOP_TLS_CLIENT);
	SSL_CTX *ssl_ctx = kloop_tls_context_get_ssl_ctx(context);

	ck_assert_int_eq(kloop_tls_context_set_versions(NULL, 0, 0), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_versions(context, 0x0302, 0), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_versions(context, 0, 0x0305), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_versions(context, KLOOP_TLS_1_3, KLOOP_TLS_1_2),
			 -EINVAL);
	ck_assert_int_eq(SSL_CTX_get_min_proto_version(ssl_ctx), TLS1_2_VERSION);
	ck_assert_int_eq(kloop_tls_context_set_versions(context, 0, KLOOP_TLS_1_2), 0);
	/* The end that was set before counts. */
	ck_assert_int_eq(kloop_tls_context_set_versions(context, KLOOP_TLS_1_3, 0), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_versions(context, KLOOP_TLS_1_3, KLOOP_TLS_1_3), 0);
	ck_assert_int_eq(SSL_CTX_get_min_proto_version(ssl_ctx), TLS1_3_VERSION);
	ck_assert_int_eq(SSL_CTX_get_max_proto_version(ssl_ctx), TLS1_3_VERSION);
	kloop_tls_context_unref(context);
}
END_TEST

/* Client's and server's range, and the version that comes of it; 0 for none. */
static const struct {
	unsigned client_minimum, client_maximum, server_minimum, server_maximum, version;
} version_cases[] = {
	{ 0, 0, 0, 0, KLOOP_TLS_1_3 },
	{ 0, KLOOP_TLS_1_2, 0, 0, KLOOP_TLS_1_2 },
	{ 0, 0, 0, KLOOP_TLS_1_2, KLOOP_TLS_1_2 },
	{ KLOOP_TLS_1_3, 0, 0, 0, KLOOP_TLS_1_3 },
	{ 0, KLOOP_TLS_1_2, KLOOP_TLS_1_3, 0, 0 },
	{ KLOOP_TLS_1_3, 0, 0, KLOOP_TLS_1_2, 0 },
};

START_TEST(versions_are_used)
{
	ck_assert_int_eq(kloop_tls_context_set_versions(pair.client_context,
							version_cases[_i].client_minimum,
							version_cases[_i].client_maximum),
			 0);
	ck_assert_int_eq(kloop_tls_context_set_versions(pair.server_context,
							version_cases[_i].server_minimum,
							version_cases[_i].server_maximum),
			 0);
	kt_tls_pair_shake(&pair, "example.test");
	ck_assert_uint_eq(kloop_tls_get_version(pair.client), version_cases[_i].version);
	ck_assert_uint_eq(kloop_tls_get_version(pair.server), version_cases[_i].version);
	if (version_cases[_i].version) {
		kt_tls_pair_check_open(&pair);
	} else {
		ck_assert_int_eq(pair.server_result, KLOOP_ERROR_TLS_PROTOCOL);
		ck_assert_int_eq(pair.client_result, KLOOP_ERROR_TLS_ALERT);
		ck_assert_int_eq(kloop_tls_get_alert(pair.client), SSL_AD_PROTOCOL_VERSION);
	}
}
END_TEST

START_TEST(ciphers)
{
	struct kloop_tls_context *context = pair.client_context;

	ck_assert_int_eq(kloop_tls_context_set_ciphers(NULL, NULL, NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_ciphers(context, NULL, NULL), 0);
	ck_assert_int_eq(kloop_tls_context_set_ciphers(context, "NO-SUCH-CIPHER", NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_ciphers(context, "", NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_ciphers(context, NULL, "TLS_NO_SUCH_SUITE"),
			 -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_ciphers(context, NULL, ""), -EINVAL);
	/* Neither list changes if one is bad. */
	ck_assert_int_eq(kloop_tls_context_set_ciphers(context, "NO-SUCH-CIPHER",
						       "TLS_AES_128_GCM_SHA256"),
			 -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_ciphers(context, "ECDHE-ECDSA-AES128-GCM-SHA256",
						       "TLS_NO_SUCH_SUITE"),
			 -EINVAL);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_str_eq(kloop_tls_get_cipher(pair.client), "TLS_AES_256_GCM_SHA384");

	ck_assert_int_eq(kloop_tls_context_set_ciphers(context, "ECDHE-ECDSA-AES128-GCM-SHA256",
						       "TLS_AES_128_GCM_SHA256"),
			 0);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_str_eq(kloop_tls_get_cipher(pair.client), "TLS_AES_128_GCM_SHA256");
	ck_assert_str_eq(kloop_tls_get_cipher(pair.server), "TLS_AES_128_GCM_SHA256");
	ck_assert_int_eq(kloop_tls_context_set_versions(context, 0, KLOOP_TLS_1_2), 0);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_str_eq(kloop_tls_get_cipher(pair.client), "ECDHE-ECDSA-AES128-GCM-SHA256");

	/* None in common. */
	ck_assert_int_eq(kloop_tls_context_set_ciphers(pair.server_context,
						       "ECDHE-ECDSA-AES256-GCM-SHA384", NULL),
			 0);
	kt_tls_pair_shake(&pair, "example.test");
	ck_assert_int_eq(pair.server_result, KLOOP_ERROR_TLS_PROTOCOL);
	ck_assert_int_eq(pair.client_result, KLOOP_ERROR_TLS_ALERT);
	ck_assert_int_eq(kloop_tls_get_alert(pair.client), SSL_AD_HANDSHAKE_FAILURE);
}
END_TEST

START_TEST(kernel_mode)
{
	struct kloop_tls *tls;

	ck_assert_int_eq(kloop_tls_context_set_ktls(NULL, KLOOP_KTLS_ON), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_ktls(pair.client_context, (enum kloop_ktls_mode)3),
			 -EINVAL);
	tls = kt_tls_session(pair.client_context, NULL);
	ck_assert_int_eq(tls->ktls_mode, KLOOP_KTLS_AUTO);
	kloop_tls_free(tls);
	for (int mode = KLOOP_KTLS_OFF; mode <= KLOOP_KTLS_ON; mode++) {
		ck_assert_int_eq(kloop_tls_context_set_ktls(pair.client_context,
							    (enum kloop_ktls_mode)mode),
				 0);
		tls = kt_tls_session(pair.client_context, NULL);
		ck_assert_int_eq(tls->ktls_mode, mode);
		kloop_tls_free(tls);
	}
}
END_TEST

/* ---- application protocols -------------------------------------------- */

static const char *const h2[] = { "h2", "http/1.1" };
static const char *const h1[] = { "http/1.1", "h2" };
static const char *const other[] = { "mqtt" };

static const struct {
	const char *const *client, *const *server;
	size_t client_count, server_count;
	const char *agreed;
} alpn_cases[] = {
	{ h2, h2, 2, 2, "h2" },	  { h2, h1, 2, 2, "http/1.1" }, /* the server's choice */
	{ h2, h1, 1, 2, "h2" },	  { h2, other, 2, 1, NULL },
	{ NULL, h2, 0, 2, NULL }, { h2, NULL, 2, 0, NULL },
};

START_TEST(alpn)
{
	const char *protocol = "x";
	size_t length;

	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.client_context, alpn_cases[_i].client,
						    alpn_cases[_i].client_count),
			 0);
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.server_context, alpn_cases[_i].server,
						    alpn_cases[_i].server_count),
			 0);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	for (int i = 0; i < 2; i++) {
		length = kloop_tls_get_alpn(i ? pair.server : pair.client, &protocol);
		if (alpn_cases[_i].agreed) {
			ck_assert_uint_eq(length, strlen(alpn_cases[_i].agreed));
			ck_assert_mem_eq(protocol, alpn_cases[_i].agreed, length);
		} else {
			ck_assert_uint_eq(length, 0);
			ck_assert_ptr_null(protocol);
		}
	}
	/* Taken back. */
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.client_context, NULL, 0), 0);
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.server_context, NULL, 0), 0);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_uint_eq(kloop_tls_get_alpn(pair.client, NULL), 0);
}
END_TEST

START_TEST(bad_alpn)
{
	char longest[257];
	const char *const empty[] = { "h2", "" };
	const char *const null[] = { NULL };
	const char *const names[] = { longest };
	const char **many = calloc(257, sizeof(*many));

	memset(longest, 'a', 256);
	longest[256] = '\0';
	for (int i = 0; i < 257; i++)
		many[i] = longest;
	ck_assert_int_eq(kloop_tls_context_set_alpn(NULL, h2, 2), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.client_context, NULL, 1), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.client_context, empty, 2), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.client_context, null, 1), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.client_context, names, 1), -EINVAL);
	longest[255] = '\0';
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.client_context, names, 1), 0);
	/* What the extension has room for, and one more. */
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.client_context, many, 255), 0);
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.client_context, many, 256), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.server_context, many, 256), -EINVAL);
	free(many);
}
END_TEST

/* ---- secrets and tickets ---------------------------------------------- */

static int keylog_lines, keylog_bad;

static void on_keylog(const char *line, void *user)
{
	char label[64], random[65], secret[257];

	ck_assert_ptr_eq(user, &keylog_lines);
	keylog_lines++;
	if (sscanf(line, "%63[A-Z0-9_] %64[0-9a-fA-F] %256[0-9a-fA-F]", label, random, secret) !=
		    3 ||
	    strlen(random) != 64 || strlen(secret) < 64 || strchr(line, '\n'))
		keylog_bad++;
}

START_TEST(keylog)
{
	unsigned maximum = _i ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3;

	keylog_lines = 0;
	keylog_bad = 0;
	ck_assert_int_eq(kloop_tls_context_set_keylog(NULL, on_keylog, NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_versions(pair.client_context, 0, maximum), 0);
	ck_assert_int_eq(kloop_tls_context_set_keylog(pair.client_context, NULL, NULL), 0);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_int_eq(keylog_lines, 0);
	ck_assert_int_eq(
		kloop_tls_context_set_keylog(pair.client_context, on_keylog, &keylog_lines), 0);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_int_eq(keylog_lines, _i ? 1 : 5);
	ck_assert_int_eq(keylog_bad, 0);
	ck_assert_int_eq(kloop_tls_context_set_keylog(pair.client_context, NULL, NULL), 0);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_int_eq(keylog_lines, _i ? 1 : 5);
}
END_TEST

static int count_tickets(SSL *ssl, SSL_SESSION *session)
{
	int *count = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

	(void)session;
	++*count;
	return 0;
}

START_TEST(ticket_count)
{
	SSL_CTX *client = kloop_tls_context_get_ssl_ctx(pair.client_context);
	unsigned maximum = _i ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3;
	struct kloop_tls_ticket *ticket;
	int count = 0;

	SSL_CTX_set_app_data(client, &count);
	SSL_CTX_set_session_cache_mode(client, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(client, count_tickets);
	ck_assert_int_eq(kloop_tls_context_set_versions(pair.server_context, 0, maximum), 0);
	ck_assert_int_eq(kloop_tls_context_set_ticket_count(NULL, 1), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_ticket_count(pair.client_context, 1), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_ticket_count(pair.server_context, 17), -EINVAL);
	kt_tls_pair_shake(&pair, "example.test");
	ck_assert_int_eq(count, _i ? 1 : 2);
	ck_assert_int_eq(kloop_tls_context_set_ticket_count(pair.server_context, 0), 0);
	count = 0;
	kt_tls_pair_shake(&pair, "example.test");
	ck_assert_int_eq(count, 0);
	ck_assert_int_eq(kloop_tls_get_ticket(pair.client, &ticket), -ENOENT);
	ck_assert_int_eq(kloop_tls_context_set_ticket_count(pair.server_context, 16), 0);
	kt_tls_pair_shake(&pair, "example.test");
	ck_assert_int_eq(count, _i ? 1 : 16);
}
END_TEST

/* ---- memory ----------------------------------------------------------- */

static int run_all(void)
{
	static const char *const protocols[] = { "h2", "http/1.1" };
	struct kloop_tls_context *context = NULL;
	struct kloop_tls *tls = NULL;
	int r = kloop_tls_context_new(KLOOP_TLS_SERVER, &context);

	if (r == 0)
		r = kloop_tls_context_load_certificate(context, kt_cert_path(KT_CERT_CHAINED),
						       kt_cert_key_path(KT_CERT_CHAINED));
	if (r == 0)
		r = kloop_tls_context_load_trust(context, kt_cert_path(KT_CERT_CA),
						 kt_cert_folder());
	if (r == 0)
		r = kloop_tls_context_set_alpn(context, protocols, 2);
	if (r == 0)
		r = kloop_tls_new(context, &tls);
	if (r == 0)
		r = kloop_tls_feed(tls, protocols, sizeof(protocols));
	kloop_tls_free(tls);
	kloop_tls_context_unref(context);
	return r;
}

START_TEST(no_memory)
{
	size_t hits = 0;
	int r;

	kt_cert_path(KT_CERT_CHAINED);
	kt_fault_install();
	for (size_t i = 1;; i++) {
		kt_fault_arm(i, 1);
		r = run_all();
		ck_assert_uint_eq(kt_fault_blocks(), 0);
		if (kt_fault_hits() == 0)
			break;
		hits++;
		ck_assert_msg(r == -ENOMEM, "allocation %zu: %s", i, kloop_error_name(r));
	}
	ck_assert_int_eq(r, 0);
	/* The context, three files, protocols, the session, what it is fed. */
	ck_assert_uint_ge(hits, 7);
	kt_fault_remove();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tls context");
	TCase *tcase;

	tcase = kt_case(suite, "settings", 60);
	tcase_add_test(tcase, new_context);
	tcase_add_test(tcase, safe_defaults);
	tcase_add_test(tcase, versions_are_checked);
	tcase = kt_case(suite, "in use", 60);
	tcase_add_checked_fixture(tcase, make_pair, free_pair);
	tcase_add_loop_test(tcase, versions_are_used, 0, KT_COUNT(version_cases));
	tcase_add_test(tcase, ciphers);
	tcase_add_test(tcase, kernel_mode);
	tcase_add_loop_test(tcase, alpn, 0, KT_COUNT(alpn_cases));
	tcase_add_test(tcase, bad_alpn);
	tcase_add_loop_test(tcase, keylog, 0, 2);
	tcase_add_loop_test(tcase, ticket_count, 0, 2);
	tcase = kt_case(suite, "memory", 60);
	tcase_add_test(tcase, no_memory);
	return kt_main(suite);
}
