/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Certificates and trust of TLS contexts: files, what is refused, who is verified. */
#include "support.h"
#include "tlsfixture.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- certificates ----------------------------------------------------- */

START_TEST(load_certificate)
{
	static const enum kt_cert certificates[] = { KT_CERT_SERVER, KT_CERT_RSA, KT_CERT_CHAINED };
	enum kt_cert which = certificates[_i];
	struct kloop_tls_context *context = kt_tls_context(KLOOP_TLS_SERVER);

	ck_assert_int_eq(kloop_tls_context_load_certificate(context, kt_cert_path(which),
							    kt_cert_key_path(which)),
			 0);
	kloop_tls_context_unref(pair.server_context);
	pair.server_context = context;
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
}
END_TEST

START_TEST(two_kinds_of_keys)
{
	kt_tls_use(pair.server_context, KT_CERT_RSA);
	ck_assert_int_eq(kloop_tls_context_set_versions(pair.client_context, 0, KLOOP_TLS_1_2), 0);
	ck_assert_int_eq(kloop_tls_context_set_ciphers(pair.client_context, "aRSA+AESGCM", NULL),
			 0);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_int_eq(kloop_tls_context_set_ciphers(pair.client_context, "aECDSA+AESGCM", NULL),
			 0);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
}
END_TEST

/* What no context takes; it goes on with what it had. */
START_TEST(bad_certificates)
{
	const char *chain = kt_cert_path(KT_CERT_SERVER);
	const char *key = kt_cert_key_path(KT_CERT_SERVER);
	char *broken_text = strdup(kt_cert_pem(KT_CERT_CHAINED));
	char *encrypted = kt_cert_write("encrypted.pem", kt_cert_encrypted_key_pem(KT_CERT_SERVER));
	char *garbage = kt_cert_write("garbage.pem", "this is no PEM file\n");
	char *empty = kt_cert_write("empty.pem", "");
	char *broken, *huge = kt_cert_write("huge.pem", kt_cert_pem(KT_CERT_SERVER));
	X509 *leaf = SSL_CTX_get0_certificate(kloop_tls_context_get_ssl_ctx(pair.server_context));
	/* Within the second certificate. */
	char *second = strstr(broken_text + 1, "-----BEGIN CERTIFICATE-----");

	ck_assert_ptr_nonnull(second);
	memcpy(second + 60, "!!!!", 4);
	broken = kt_cert_write("broken.pem", broken_text);
	ck_assert_int_eq(truncate(huge, 17 << 20), 0);
	const struct {
		const char *chain, *key;
		int result;
	} cases[] = {
		{ NULL, key, -EINVAL },
		{ chain, NULL, -EINVAL },
		{ "/nonexistent/chain.pem", key, -ENOENT },
		{ chain, "/nonexistent/key.pem", -ENOENT },
		{ kt_cert_folder(), key, -EISDIR },
		{ chain, "/dev/null/key.pem", -ENOTDIR },
		{ huge, key, -EFBIG },
		{ chain, chain, KLOOP_ERROR_TLS_CERTIFICATE },
		{ key, key, KLOOP_ERROR_TLS_CERTIFICATE },
		{ garbage, key, KLOOP_ERROR_TLS_CERTIFICATE },
		{ chain, garbage, KLOOP_ERROR_TLS_CERTIFICATE },
		{ empty, key, KLOOP_ERROR_TLS_CERTIFICATE },
		{ chain, empty, KLOOP_ERROR_TLS_CERTIFICATE },
		{ chain, encrypted, KLOOP_ERROR_TLS_CERTIFICATE },
		{ broken, kt_cert_key_path(KT_CERT_CHAINED), KLOOP_ERROR_TLS_CERTIFICATE },
		{ chain, kt_cert_key_path(KT_CERT_CLIENT), KLOOP_ERROR_TLS_CERTIFICATE },
	};

	for (size_t i = 0; i < KT_COUNT(cases); i++) {
		int r = kloop_tls_context_load_certificate(pair.server_context, cases[i].chain,
							   cases[i].key);

		ck_assert_msg(r == cases[i].result, "case %zu: %s", i, kloop_error_name(r));
		ck_assert_uint_eq(ERR_peek_error(), 0);
	}
	ck_assert_ptr_eq(
		SSL_CTX_get0_certificate(kloop_tls_context_get_ssl_ctx(pair.server_context)), leaf);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	free(broken_text);
	free(broken);
	free(encrypted);
	free(garbage);
	free(empty);
	free(huge);
}
END_TEST

START_TEST(bad_certificates_in_memory)
{
	struct kloop_tls_context *context = pair.server_context;
	const char *chain = kt_cert_pem(KT_CERT_SERVER);
	const char *key = kt_cert_key_pem(KT_CERT_SERVER);
	size_t chain_bytes = strlen(chain), key_bytes = strlen(key);

	ck_assert_int_eq(kloop_tls_context_use_certificate(NULL, chain, chain_bytes, key,
							   key_bytes),
			 -EINVAL);
	ck_assert_int_eq(kloop_tls_context_use_certificate(context, NULL, 0, key, key_bytes),
			 -EINVAL);
	ck_assert_int_eq(kloop_tls_context_use_certificate(context, chain, chain_bytes, NULL, 0),
			 -EINVAL);
	ck_assert_int_eq(kloop_tls_context_use_certificate(context, chain, SIZE_MAX, key,
							   key_bytes),
			 -EINVAL);
	/* Any part of either is not the whole. */
	for (size_t bytes = 0; bytes < chain_bytes - 1; bytes += 7)
		ck_assert_int_eq(kloop_tls_context_use_certificate(context, chain, bytes, key,
								   key_bytes),
				 KLOOP_ERROR_TLS_CERTIFICATE);
	for (size_t bytes = 0; bytes < key_bytes - 1; bytes += 7)
		ck_assert_int_eq(kloop_tls_context_use_certificate(context, chain, chain_bytes, key,
								   bytes),
				 KLOOP_ERROR_TLS_CERTIFICATE);
	ck_assert_uint_eq(ERR_peek_error(), 0);
	ck_assert_int_eq(
		kloop_tls_context_use_certificate(context, chain, chain_bytes, key, key_bytes), 0);
}
END_TEST

/* ---- trust ------------------------------------------------------------ */

/* As openssl-rehash(1) makes it, with one certificate. */
static char *make_trust_folder(enum kt_cert ca)
{
	char *path, *link;

	ck_assert_int_gt(asprintf(&path, "%s/rehashed", kt_cert_folder()), 0);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_gt(asprintf(&link, "%s/%08lx.0", path,
				  X509_NAME_hash_ex(X509_get_subject_name(kt_cert_get(ca)), NULL,
						    NULL, NULL)),
			 0);
	ck_assert_int_eq(symlink(kt_cert_path(ca), link), 0);
	free(link);
	return path;
}

/* How the client finds a server whose certificate is by KT_CERT_CA. */
static int shake_with(struct kloop_tls_context *client_context)
{
	kloop_tls_context_unref(pair.client_context);
	pair.client_context = client_context;
	kt_tls_pair_shake(&pair, "example.test");
	if (pair.client_result == 1)
		kt_tls_pair_check_open(&pair);
	return pair.client_result;
}

START_TEST(trust_from_files)
{
	const char *ca = kt_cert_path(KT_CERT_CA);
	char *folder = make_trust_folder(KT_CERT_CA);
	struct kloop_tls_context *context;

	context = kt_tls_context(KLOOP_TLS_CLIENT);
	ck_assert_int_eq(kloop_tls_context_load_trust(context, ca, NULL), 0);
	ck_assert_int_eq(shake_with(context), 1);
	context = kt_tls_context(KLOOP_TLS_CLIENT);
	ck_assert_int_eq(kloop_tls_context_load_trust(context, NULL, folder), 0);
	ck_assert_int_eq(shake_with(context), 1);
	context = kt_tls_context(KLOOP_TLS_CLIENT);
	ck_assert_int_eq(
		kloop_tls_context_load_trust(context, kt_cert_path(KT_CERT_OTHER_CA), folder), 0);
	ck_assert_int_eq(shake_with(context), 1);
	free(folder);
}
END_TEST

START_TEST(trust_adds_up)
{
	kloop_tls_context_unref(pair.client_context);
	pair.client_context = kt_tls_client(KT_CERT_OTHER_CA);
	kt_tls_pair_shake(&pair, "example.test");
	ck_assert_int_eq(pair.client_result, KLOOP_ERROR_TLS_VERIFY);
	kt_tls_trust(pair.client_context, KT_CERT_CA);
	/* Again: nothing to complain about. */
	kt_tls_trust(pair.client_context, KT_CERT_CA);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
}
END_TEST

START_TEST(trust_of_the_system)
{
	/* The variables of OpenSSL's that say where it is. */
	ck_assert_int_eq(setenv(X509_get_default_cert_dir_env(), "/nonexistent", 1), 0);
	ck_assert_int_eq(setenv(X509_get_default_cert_file_env(), kt_cert_path(KT_CERT_CA), 1), 0);
	ck_assert_int_eq(shake_with(kt_tls_context(KLOOP_TLS_CLIENT)), 1);
	/* What was given replaces it. */
	ck_assert_int_eq(shake_with(kt_tls_client(KT_CERT_OTHER_CA)), KLOOP_ERROR_TLS_VERIFY);
	/* What is not there is no error, and trusts nobody. */
	ck_assert_int_eq(setenv(X509_get_default_cert_file_env(), "/nonexistent", 1), 0);
	ck_assert_int_eq(shake_with(kt_tls_context(KLOOP_TLS_CLIENT)), KLOOP_ERROR_TLS_VERIFY);
	unsetenv(X509_get_default_cert_dir_env());
	unsetenv(X509_get_default_cert_file_env());
}
END_TEST

START_TEST(bad_trust)
{
	struct kloop_tls_context *context = pair.client_context;
	const char *ca = kt_cert_path(KT_CERT_CA);
	char *garbage = kt_cert_write("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");

	ck_assert_int_eq(kloop_tls_context_load_trust(NULL, ca, NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_load_trust(context, NULL, NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_load_trust(context, "/nonexistent.pem", NULL), -ENOENT);
	ck_assert_int_eq(kloop_tls_context_load_trust(context, NULL, "/nonexistent"), -ENOENT);
	ck_assert_int_eq(kloop_tls_context_load_trust(context, NULL, ca), -ENOTDIR);
	ck_assert_int_eq(kloop_tls_context_load_trust(context, kt_cert_folder(), NULL), -EISDIR);
	ck_assert_int_eq(kloop_tls_context_load_trust(context, garbage, NULL),
			 KLOOP_ERROR_TLS_CERTIFICATE);
	ck_assert_int_eq(kloop_tls_context_load_trust(context, kt_cert_key_path(KT_CERT_CA), NULL),
			 KLOOP_ERROR_TLS_CERTIFICATE);
	ck_assert_int_eq(kloop_tls_context_use_trust(context, NULL, 0), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_use_trust(NULL, "", 0), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_use_trust(context, "", 0), KLOOP_ERROR_TLS_CERTIFICATE);
	ck_assert_int_eq(kloop_tls_context_use_trust(context, "", SIZE_MAX), -EINVAL);
	ck_assert_uint_eq(ERR_peek_error(), 0);
	/* What was there is there. */
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	free(garbage);
}
END_TEST

/* ---- verification ----------------------------------------------------- */

static const struct {
	enum kt_cert certificate;
	const char *name;
	long verify_result; /* of the client */
} server_cases[] = {
	{ KT_CERT_SERVER, "example.test", X509_V_OK },
	{ KT_CERT_SERVER, "EXAMPLE.test.", X509_V_OK },
	{ KT_CERT_SERVER, "a.wild.test", X509_V_OK },
	{ KT_CERT_SERVER, "127.0.0.1", X509_V_OK },
	{ KT_CERT_SERVER, "::1", X509_V_OK },
	{ KT_CERT_SERVER, "0:0:0:0:0:0:0:1", X509_V_OK },
	{ KT_CERT_RSA, "localhost", X509_V_OK },
	{ KT_CERT_CHAINED, "localhost", X509_V_OK },
	{ KT_CERT_SERVER, "other.test", X509_V_ERR_HOSTNAME_MISMATCH },
	{ KT_CERT_SERVER, "sub.example.test", X509_V_ERR_HOSTNAME_MISMATCH },
	{ KT_CERT_SERVER, "wild.test", X509_V_ERR_HOSTNAME_MISMATCH },
	{ KT_CERT_SERVER, "a.b.wild.test", X509_V_ERR_HOSTNAME_MISMATCH },
	{ KT_CERT_SERVER, "prefix.part.test", X509_V_ERR_HOSTNAME_MISMATCH },
	{ KT_CERT_SERVER, "127.0.0.2", X509_V_ERR_IP_ADDRESS_MISMATCH },
	{ KT_CERT_SERVER, "::2", X509_V_ERR_IP_ADDRESS_MISMATCH },
	{ KT_CERT_OTHER_NAME, "example.test", X509_V_ERR_HOSTNAME_MISMATCH },
	{ KT_CERT_COMMON_NAME, "example.test", X509_V_ERR_HOSTNAME_MISMATCH },
	{ KT_CERT_EXPIRED, "example.test", X509_V_ERR_CERT_HAS_EXPIRED },
	{ KT_CERT_FUTURE, "example.test", X509_V_ERR_CERT_NOT_YET_VALID },
	{ KT_CERT_SELF_SIGNED, "example.test", X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT },
	{ KT_CERT_UNTRUSTED, "example.test", X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY },
	{ KT_CERT_CLIENT, "example.test", X509_V_ERR_INVALID_PURPOSE },
};

START_TEST(servers_are_verified)
{
	long expected = server_cases[_i].verify_result;
	const char *text;

	kloop_tls_context_unref(pair.server_context);
	pair.server_context = kt_tls_server(server_cases[_i].certificate);
	kt_tls_pair_shake(&pair, server_cases[_i].name);
	ck_assert_int_eq(kloop_tls_get_verify_result(pair.client), expected);
	if (expected == X509_V_OK) {
		kt_tls_pair_check_open(&pair);
		return;
	}
	ck_assert_int_eq(pair.client_result, KLOOP_ERROR_TLS_VERIFY);
	ck_assert_int_eq(pair.server_result, KLOOP_ERROR_TLS_ALERT);
	ck_assert_int_ge(kloop_tls_get_alert(pair.server), SSL_AD_BAD_CERTIFICATE);
	text = kloop_tls_get_error_text(pair.client);
	ck_assert_ptr_nonnull(strstr(text, X509_verify_cert_error_string(expected)));
	ck_assert_ptr_eq(strstr(text, kloop_strerror(KLOOP_ERROR_TLS_VERIFY)), text);
	ck_assert_int_eq(ERR_GET_REASON(kloop_tls_get_openssl_error(pair.client)),
			 SSL_R_CERTIFICATE_VERIFY_FAILED);
}
END_TEST

START_TEST(verification_off)
{
	ck_assert_int_eq(kloop_tls_context_set_verify(pair.client_context, KLOOP_TLS_VERIFY_NONE),
			 0);
	kloop_tls_context_unref(pair.server_context);
	pair.server_context = kt_tls_server(KT_CERT_UNTRUSTED);
	kt_tls_pair_shake(&pair, NULL);
	kt_tls_pair_check_open(&pair);
	/* It is still told what is wrong. */
	ck_assert_int_ne(kloop_tls_get_verify_result(pair.client), X509_V_OK);
}
END_TEST

START_TEST(bad_verify)
{
	ck_assert_int_eq(kloop_tls_context_set_verify(NULL, KLOOP_TLS_VERIFY_NONE), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_verify(pair.client_context,
						      (enum kloop_tls_verify)3),
			 -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_verify(pair.client_context,
						      KLOOP_TLS_VERIFY_OPTIONAL),
			 -EINVAL);
	ck_assert_int_eq(
		kloop_tls_context_set_verify(pair.client_context, KLOOP_TLS_VERIFY_REQUIRED), 0);
}
END_TEST

#define NO_CERTIFICATE KT_CERT_COUNT
static const struct {
	enum kt_cert certificate;
	enum kloop_tls_verify verify;
	int server_result;
} client_cases[] = {
	{ NO_CERTIFICATE, KLOOP_TLS_VERIFY_NONE, 1 },
	{ NO_CERTIFICATE, KLOOP_TLS_VERIFY_OPTIONAL, 1 },
	{ NO_CERTIFICATE, KLOOP_TLS_VERIFY_REQUIRED, KLOOP_ERROR_TLS_VERIFY },
	{ KT_CERT_CLIENT, KLOOP_TLS_VERIFY_NONE, 1 },
	{ KT_CERT_CLIENT, KLOOP_TLS_VERIFY_OPTIONAL, 1 },
	{ KT_CERT_CLIENT, KLOOP_TLS_VERIFY_REQUIRED, 1 },
	{ KT_CERT_CLIENT_EXPIRED, KLOOP_TLS_VERIFY_NONE, 1 },
	{ KT_CERT_CLIENT_EXPIRED, KLOOP_TLS_VERIFY_OPTIONAL, KLOOP_ERROR_TLS_VERIFY },
	{ KT_CERT_CLIENT_EXPIRED, KLOOP_TLS_VERIFY_REQUIRED, KLOOP_ERROR_TLS_VERIFY },
	{ KT_CERT_CLIENT_UNTRUSTED, KLOOP_TLS_VERIFY_REQUIRED, KLOOP_ERROR_TLS_VERIFY },
	{ KT_CERT_SERVER, KLOOP_TLS_VERIFY_REQUIRED, KLOOP_ERROR_TLS_VERIFY }, /* not for clients */
};
#define CLIENT_CASES (int)KT_COUNT(client_cases)

/* Each in both versions: in TLS 1.3 the client is done before the server looks. */
START_TEST(clients_are_verified)
{
	enum kt_cert certificate = client_cases[_i % CLIENT_CASES].certificate;
	enum kloop_tls_verify verify = client_cases[_i % CLIENT_CASES].verify;
	unsigned maximum = _i < CLIENT_CASES ? KLOOP_TLS_1_3 : KLOOP_TLS_1_2;
	bool asked = verify != KLOOP_TLS_VERIFY_NONE && certificate != NO_CERTIFICATE;

	kt_tls_trust(pair.server_context, KT_CERT_CA);
	ck_assert_int_eq(kloop_tls_context_set_verify(pair.server_context, verify), 0);
	ck_assert_int_eq(kloop_tls_context_set_versions(pair.server_context, 0, maximum), 0);
	if (certificate != NO_CERTIFICATE)
		kt_tls_use(pair.client_context, certificate);
	kt_tls_pair_shake(&pair, "example.test");
	if (client_cases[_i % CLIENT_CASES].server_result == 1) {
		kt_tls_pair_check_open(&pair);
		ck_assert_int_eq(kloop_tls_copy_peer_certificate(pair.server, NULL, 0),
				 asked ? i2d_X509(kt_cert_get(certificate), NULL) : -ENOENT);
	} else {
		ck_assert_int_eq(pair.server_result, KLOOP_ERROR_TLS_VERIFY);
		ck_assert_int_eq(pair.client_result, KLOOP_ERROR_TLS_ALERT);
		/* In words, also what SSL_alert_desc_string_long(3) has none for. */
		if (certificate == NO_CERTIFICATE && maximum == KLOOP_TLS_1_3)
			ck_assert_ptr_nonnull(strstr(kloop_tls_get_error_text(pair.client),
						     "certificate required"));
	}
}
END_TEST

/* Servers trust nobody by themselves: not whom the system trusts. */
START_TEST(servers_have_no_trust)
{
	ck_assert_int_eq(setenv(X509_get_default_cert_file_env(), kt_cert_path(KT_CERT_CA), 1), 0);
	ck_assert_int_eq(
		kloop_tls_context_set_verify(pair.server_context, KLOOP_TLS_VERIFY_REQUIRED), 0);
	kt_tls_use(pair.client_context, KT_CERT_CLIENT);
	kt_tls_pair_shake(&pair, "example.test");
	ck_assert_int_eq(pair.server_result, KLOOP_ERROR_TLS_VERIFY);
	unsetenv(X509_get_default_cert_file_env());
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tls certificates");
	TCase *tcase;

	tcase = kt_case(suite, "certificates", 120);
	tcase_add_checked_fixture(tcase, make_pair, free_pair);
	tcase_add_loop_test(tcase, load_certificate, 0, 3);
	tcase_add_test(tcase, two_kinds_of_keys);
	tcase_add_test(tcase, bad_certificates);
	tcase_add_test(tcase, bad_certificates_in_memory);
	tcase = kt_case(suite, "trust", 120);
	tcase_add_checked_fixture(tcase, make_pair, free_pair);
	tcase_add_test(tcase, trust_from_files);
	tcase_add_test(tcase, trust_adds_up);
	tcase_add_test(tcase, trust_of_the_system);
	tcase_add_test(tcase, bad_trust);
	tcase = kt_case(suite, "verification", 120);
	tcase_add_checked_fixture(tcase, make_pair, free_pair);
	tcase_add_loop_test(tcase, servers_are_verified, 0, KT_COUNT(server_cases));
	tcase_add_test(tcase, verification_off);
	tcase_add_test(tcase, bad_verify);
	tcase_add_loop_test(tcase, clients_are_verified, 0, 2 * CLIENT_CASES);
	tcase_add_test(tcase, servers_have_no_trust);
	return kt_main(suite);
}
