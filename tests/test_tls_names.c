/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The name that a client asks for, and what a server does about it. */
#include "support.h"
#include "tlsfixture.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <string.h>

#include "tls/tls.h"

static struct kloop_tls_context *other_context;
static int name_calls, name_result;
static char named[64];

static int on_name(struct kloop_tls *tls, const char *name, void *user)
{
	ck_assert_ptr_eq(user, &name_calls);
	name_calls++;
	snprintf(named, sizeof(named), "%s", name ? name : "(none)");
	ck_assert_ptr_eq(kl_tls_of_ssl(kloop_tls_get_ssl(tls)), tls);
	if (name)
		ck_assert_str_eq(kloop_tls_get_name(tls), name);
	else
		ck_assert_ptr_null(kloop_tls_get_name(tls));
	if (other_context && name && strcmp(name, "other.test") == 0) {
		ck_assert_int_eq(kloop_tls_use_context(tls, NULL), -EINVAL);
		ck_assert_int_eq(kloop_tls_use_context(tls, pair.client_context), -EINVAL);
		ck_assert_int_eq(kloop_tls_use_context(tls, other_context), 0);
	}
	return name_result;
}

static void make_named_pair(void)
{
	make_pair();
	name_calls = 0;
	name_result = 0;
	other_context = kt_tls_server(KT_CERT_OTHER_NAME);
	ck_assert_int_eq(
		kloop_tls_context_set_name_function(pair.server_context, on_name, &name_calls), 0);
}

static void free_named_pair(void)
{
	other_context = kloop_tls_context_unref(other_context);
	free_pair();
}

START_TEST(name_function)
{
	ck_assert_int_eq(kloop_tls_context_set_name_function(NULL, on_name, NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_name_function(pair.client_context, on_name, NULL),
			 -EINVAL);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_str_eq(named, "example.test");
	ck_assert_str_eq(kloop_tls_get_name(pair.server), "example.test");
	ck_assert_str_eq(kloop_tls_get_name(pair.client), "example.test");
	kt_tls_pair_shake(&pair, "other.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_str_eq(named, "other.test");
	/* An address is not sent. */
	kt_tls_pair_shake(&pair, "127.0.0.1");
	kt_tls_pair_check_open(&pair);
	ck_assert_str_eq(named, "(none)");
	ck_assert_ptr_null(kloop_tls_get_name(pair.server));
	ck_assert_int_eq(name_calls, 3);
	/* Outside of it there is nothing to choose. */
	ck_assert_int_eq(kloop_tls_use_context(pair.server, other_context), -EINVAL);
	ck_assert_int_eq(kloop_tls_use_context(NULL, other_context), -EINVAL);
	ck_assert_int_eq(kloop_tls_context_set_name_function(pair.server_context, NULL, NULL), 0);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_int_eq(name_calls, 3);
}
END_TEST

START_TEST(name_is_refused)
{
	name_result = -1;
	kt_tls_pair_shake(&pair, "example.test");
	ck_assert_int_eq(pair.client_result, KLOOP_ERROR_TLS_ALERT);
	ck_assert_int_eq(kloop_tls_get_alert(pair.client), SSL_AD_UNRECOGNIZED_NAME);
	ck_assert_int_lt(pair.server_result, 0);
	ck_assert_int_eq(name_calls, 1);
}
END_TEST

/* The other context may go while its connections go on. */
START_TEST(name_brings_its_context)
{
	static const char *const protocols[] = { "other" };
	const char *protocol;

	kt_tls_trust(other_context, KT_CERT_CA);
	ck_assert_int_eq(kloop_tls_context_set_verify(other_context, KLOOP_TLS_VERIFY_REQUIRED), 0);
	ck_assert_int_eq(kloop_tls_context_set_alpn(other_context, protocols, 1), 0);
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.client_context, protocols, 1), 0);
	kt_tls_pair_shake(&pair, "other.test");
	ck_assert_int_eq(pair.server_result, KLOOP_ERROR_TLS_VERIFY);
	kt_tls_use(pair.client_context, KT_CERT_CLIENT);
	kt_tls_pair_shake(&pair, "other.test");
	ck_assert_uint_eq(kloop_tls_get_alpn(pair.client, &protocol), 5);
	other_context = kloop_tls_context_unref(other_context);
	kt_tls_pair_check_open(&pair);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_uint_eq(kloop_tls_get_alpn(pair.client, &protocol), 0);
}
END_TEST

/* After a HelloRetryRequest the ClientHello comes again; the name is asked about once. */
START_TEST(name_once_with_a_retry)
{
	static const char *const server_names[] = { "example.test", "other.test" };
	SSL_CTX *server = kloop_tls_context_get_ssl_ctx(pair.server_context);

	ck_assert_int_eq(SSL_CTX_set1_groups_list(server, "P-384"), 1);
	kt_tls_pair_make(&pair, server_names[_i]);
	ck_assert_int_eq(SSL_set1_groups_list(kloop_tls_get_ssl(pair.client), "X25519:P-384"), 1);
	kt_tls_pair_run(&pair);
	kt_tls_pair_check_open(&pair);
	ck_assert_int_eq(name_calls, 1);
}
END_TEST

/* The client of a former connection's session, with another name. */
static void shake_with_session(SSL_SESSION *session, const char *name)
{
	/* A failure spoils the session for good, and there is one more to come. */
	SSL_SESSION *copy = SSL_SESSION_dup(session);

	kt_tls_pair_make(&pair, name);
	ck_assert_int_eq(SSL_set_session(kloop_tls_get_ssl(pair.client), copy), 1);
	SSL_SESSION_free(copy);
	kt_tls_pair_run(&pair);
}

/*
 * TLS 1.3 resumes before the name is looked at: a ticket of a name that asks
 * for no certificate must not open one that does. In TLS 1.2 the name of a
 * resumed connection is the session's, whatever the client says.
 */
START_TEST(no_ticket_from_another_name)
{
	unsigned maximum = _i ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3;
	SSL_SESSION *session;

	kt_tls_trust(other_context, KT_CERT_CA);
	ck_assert_int_eq(kloop_tls_context_set_verify(other_context, KLOOP_TLS_VERIFY_REQUIRED), 0);
	ck_assert_int_eq(kloop_tls_context_set_versions(pair.server_context, 0, maximum), 0);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	session = SSL_get1_session(kloop_tls_get_ssl(pair.client));
	shake_with_session(session, "other.test");
	if (maximum == KLOOP_TLS_1_3) {
		ck_assert_str_eq(named, "other.test");
		ck_assert_int_eq(pair.client_result, KLOOP_ERROR_TLS_ALERT);
		ck_assert_int_eq(kloop_tls_get_alert(pair.client), SSL_AD_ACCESS_DENIED);
		ck_assert_int_lt(pair.server_result, 0);
	} else {
		kt_tls_pair_check_open(&pair);
		ck_assert_str_eq(named, "example.test");
		ck_assert_str_eq(kloop_tls_get_name(pair.server), "example.test");
	}
	/* And the same name goes on well. */
	shake_with_session(session, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert(kloop_tls_is_resumed(pair.server));
	SSL_SESSION_free(session);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tls names");
	TCase *tcase;

	tcase = kt_case(suite, "names", 60);
	tcase_add_checked_fixture(tcase, make_named_pair, free_named_pair);
	tcase_add_test(tcase, name_function);
	tcase_add_test(tcase, name_is_refused);
	tcase_add_test(tcase, name_brings_its_context);
	tcase_add_loop_test(tcase, name_once_with_a_retry, 0, 2);
	tcase_add_loop_test(tcase, no_ticket_from_another_name, 0, 2);
	return kt_main(suite);
}
