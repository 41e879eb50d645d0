/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Sessions of TLS before and after their connection: names, tickets, failures. */
#include "fault.h"
#include "support.h"
#include "tlsfixture.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>

#include "tls/tls.h"

/* ---- made ------------------------------------------------------------- */

START_TEST(new_session)
{
	struct kloop_tls *tls = NULL;

	ck_assert_int_eq(kloop_tls_new(NULL, &tls), -EINVAL);
	ck_assert_int_eq(kloop_tls_new(pair.client_context, NULL), -EINVAL);
	ck_assert_ptr_null(tls);
	kloop_tls_free(NULL);
	tls = kt_tls_session(pair.server_context, NULL);
	/* It keeps its context. */
	pair.server_context = kloop_tls_context_unref(pair.server_context);
	ck_assert_int_eq(SSL_is_server(kloop_tls_get_ssl(tls)), 1);
	ck_assert_ptr_nonnull(SSL_get_certificate(kloop_tls_get_ssl(tls)));
	kloop_tls_free(tls);
	tls = kt_tls_session(pair.client_context, NULL);
	ck_assert_int_eq(SSL_is_server(kloop_tls_get_ssl(tls)), 0);
	kloop_tls_free(tls);
}
END_TEST

START_TEST(nothing_is_known_before)
{
	const char *protocol = "x";
	struct kloop_tls_ticket *ticket = NULL;

	kt_tls_pair_make(&pair, "example.test");
	for (int i = 0; i < 2; i++) {
		struct kloop_tls *tls = i ? pair.server : pair.client;

		ck_assert_uint_eq(kloop_tls_get_version(tls), 0);
		ck_assert_ptr_null(kloop_tls_get_cipher(tls));
		ck_assert_uint_eq(kloop_tls_get_alpn(tls, &protocol), 0);
		ck_assert_ptr_null(protocol);
		ck_assert(!kloop_tls_is_resumed(tls));
		ck_assert_int_eq(kloop_tls_copy_peer_certificate(tls, NULL, 0), -ENOENT);
		ck_assert_int_eq(kloop_tls_get_ktls(tls, KLOOP_TLS_SEND), KLOOP_ERROR_KTLS_UNUSED);
		ck_assert_int_eq(kloop_tls_get_ktls(tls, KLOOP_TLS_RECEIVE),
				 KLOOP_ERROR_KTLS_UNUSED);
		ck_assert_int_eq(kloop_tls_get_ktls(tls, (enum kloop_tls_direction)2), -EINVAL);
		ck_assert_int_eq(kloop_tls_get_verify_result(tls), X509_V_OK);
		ck_assert_int_eq(kloop_tls_get_alert(tls), -1);
		ck_assert_uint_eq(kloop_tls_get_openssl_error(tls), 0);
		ck_assert_str_eq(kloop_tls_get_error_text(tls), kloop_strerror(0));
		ck_assert_int_eq(kloop_tls_get_ticket(tls, &ticket), i ? -EINVAL : -ENOENT);
		ck_assert_ptr_null(ticket);
	}
	ck_assert_str_eq(kloop_tls_get_name(pair.client), "example.test");
	ck_assert_ptr_null(kloop_tls_get_name(pair.server));
}
END_TEST

START_TEST(no_session_at_all)
{
	ck_assert_uint_eq(kloop_tls_get_version(NULL), 0);
	ck_assert_ptr_null(kloop_tls_get_cipher(NULL));
	ck_assert_uint_eq(kloop_tls_get_alpn(NULL, NULL), 0);
	ck_assert_ptr_null(kloop_tls_get_name(NULL));
	ck_assert(!kloop_tls_is_resumed(NULL));
	ck_assert_int_eq(kloop_tls_copy_peer_certificate(NULL, NULL, 0), -EINVAL);
	ck_assert_int_eq(kloop_tls_get_ktls(NULL, KLOOP_TLS_SEND), -EINVAL);
	ck_assert_int_ne(kloop_tls_get_verify_result(NULL), X509_V_OK);
	ck_assert_int_eq(kloop_tls_get_alert(NULL), -1);
	ck_assert_uint_eq(kloop_tls_get_openssl_error(NULL), 0);
	ck_assert_str_eq(kloop_tls_get_error_text(NULL), kloop_strerror(-EINVAL));
	ck_assert_ptr_null(kloop_tls_get_ssl(NULL));
	ck_assert_int_eq(kloop_tls_set_timeouts(NULL, 1, 1), -EINVAL);
	ck_assert_int_eq(kloop_tls_set_ktls(NULL, KLOOP_KTLS_ON), -EINVAL);
	ck_assert_int_eq(kloop_tls_set_step(NULL, NULL, NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_feed(NULL, "", 0), -EINVAL);
	kloop_tls_ticket_free(NULL);
	ck_assert_ptr_eq(kloop_tls_get_library(), (const void *)(uintptr_t)SSL_new);
}
END_TEST

START_TEST(settings)
{
	struct kloop_tls *tls = kt_tls_session(pair.client_context, NULL);
	char *large = calloc(1, (1 << 20) + 1);

	ck_assert_int_eq(kloop_tls_set_timeouts(tls, KLOOP_FOREVER, 0), 0);
	ck_assert_uint_eq(tls->handshake_ns, KLOOP_FOREVER);
	ck_assert_uint_eq(tls->shutdown_ns, 0);
	ck_assert_int_eq(kloop_tls_set_ktls(tls, KLOOP_KTLS_ON), 0);
	ck_assert_int_eq(kloop_tls_set_ktls(tls, (enum kloop_ktls_mode) - 1), -EINVAL);
	ck_assert_int_eq(tls->ktls_mode, KLOOP_KTLS_ON);
	ck_assert_int_eq(kloop_tls_feed(tls, NULL, 1), -EINVAL);
	ck_assert_int_eq(kloop_tls_feed(tls, NULL, 0), 0);
	ck_assert_int_eq(kloop_tls_feed(tls, large, (1 << 20) + 1), -EMSGSIZE);
	ck_assert_int_eq(kloop_tls_feed(tls, large, 1 << 20), 0);
	ck_assert_int_eq(kloop_tls_feed(tls, large, 1), -EMSGSIZE);
	kloop_tls_free(tls);
	free(large);
}
END_TEST

/* ---- wrapped ---------------------------------------------------------- */

START_TEST(wrap)
{
	SSL_CTX *ssl_ctx = SSL_CTX_new(TLS_method());
	SSL *ssl = SSL_new(ssl_ctx);
	struct kloop_tls *tls = NULL, *second = NULL;

	SSL_set_connect_state(ssl);
	ck_assert_int_eq(kloop_tls_new_wrap(NULL, &tls), -EINVAL);
	ck_assert_int_eq(kloop_tls_new_wrap(ssl, NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_new_wrap(ssl, &tls), 0);
	ck_assert_ptr_eq(kloop_tls_get_ssl(tls), ssl);
	ck_assert_int_eq(kloop_tls_new_wrap(ssl, &second), -EINVAL);
	ck_assert_ptr_null(second);
	ck_assert(SSL_get_options(ssl) & SSL_OP_NO_RENEGOTIATION);
	ck_assert_ptr_eq(kl_tls_of_ssl(ssl), tls);
	/* The owner of the object says what is verified. */
	ck_assert_int_eq(kl_tls_check_ready(tls), 0);
	kloop_tls_free(tls);
	/* The object is whole, and can be wrapped again. */
	ck_assert_ptr_null(kl_tls_of_ssl(ssl));
	ck_assert_int_eq(kloop_tls_new_wrap(ssl, &tls), 0);
	SSL_free(ssl);
	kloop_tls_free(tls);
	ssl = SSL_new(ssl_ctx);
	SSL_set_accept_state(ssl);
	ck_assert_int_eq(kloop_tls_new_wrap(ssl, &tls), 0);
	ck_assert_int_eq(kloop_tls_set_name(tls, "example.test"), -EINVAL);
	kloop_tls_free(tls);
	SSL_free(ssl);
	SSL_CTX_free(ssl_ctx);
}
END_TEST

/* An object that somebody made of a context of ours still has its callbacks. */
START_TEST(wrap_of_a_context)
{
	static const char *const protocols[] = { "h2" };
	SSL *ssl;

	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.client_context, protocols, 1), 0);
	ck_assert_int_eq(kloop_tls_context_set_alpn(pair.server_context, protocols, 1), 0);
	ssl = SSL_new(kloop_tls_context_get_ssl_ctx(pair.server_context));
	SSL_set_accept_state(ssl);
	kt_tls_pair_make(&pair, "example.test");
	/* In place of the server, with its BIO. */
	BIO_up_ref(SSL_get_rbio(kloop_tls_get_ssl(pair.server)));
	SSL_set_bio(ssl, SSL_get_rbio(kloop_tls_get_ssl(pair.server)),
		    SSL_get_rbio(kloop_tls_get_ssl(pair.server)));
	kloop_tls_free(pair.server);
	ck_assert_int_eq(kloop_tls_new_wrap(ssl, &pair.server), 0);
	SSL_free(ssl);
	pair.server_context = kloop_tls_context_unref(pair.server_context);
	kt_tls_pair_run(&pair);
	kt_tls_pair_check_open(&pair);
	ck_assert_uint_eq(kloop_tls_get_alpn(pair.server, NULL), 2);
}
END_TEST

START_TEST(wrap_too_late)
{
	struct kloop_tls *tls;
	SSL *ssl;

	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ssl = kloop_tls_get_ssl(pair.client);
	SSL_up_ref(ssl);
	kloop_tls_free(pair.client);
	pair.client = NULL;
	ck_assert_int_eq(kloop_tls_new_wrap(ssl, &tls), -EINVAL);
	/* Its owner may go on with it, and gets errors. */
	ck_assert_int_le(SSL_read(ssl, &(char){ 0 }, 1), 0);
	ERR_clear_error();
	SSL_free(ssl);
}
END_TEST

/* ---- names ------------------------------------------------------------ */

static const struct {
	const char *name;
	int result;
	const char *sent;
} name_cases[] = {
	{ "example.test", 0, "example.test" },
	{ "example.test.", 0, "example.test" },
	{ "EXAMPLE_1.test", 0, "EXAMPLE_1.test" },
	{ "localhost", 0, "localhost" },
	{ "xn--bcher-kva.test", 0, "xn--bcher-kva.test" },
	{ "192.0.2.1", 0, NULL },
	{ "2001:db8::1", 0, NULL },
	{ "", 0, NULL },
	{ ".", -EINVAL, NULL },
	{ "..", -EINVAL, NULL },
	{ ".example.test", -EINVAL, NULL },
	{ "*.example.test", -EINVAL, NULL },
	{ "example.test:443", -EINVAL, NULL },
	{ "[2001:db8::1]", -EINVAL, NULL },
	{ "https://example.test", -EINVAL, NULL },
	{ "example.test ", -EINVAL, NULL },
	{ "b\xc3\xbc"
	  "cher.test",
	  -EINVAL, NULL },
	{ NULL, -EINVAL, NULL },
};

START_TEST(names)
{
	struct kloop_tls *tls = kt_tls_session(pair.client_context, "before.test");

	ck_assert_int_eq(kloop_tls_set_name(tls, name_cases[_i].name), name_cases[_i].result);
	if (name_cases[_i].result < 0)
		ck_assert_str_eq(kloop_tls_get_name(tls), "before.test");
	else if (name_cases[_i].sent)
		ck_assert_str_eq(kloop_tls_get_name(tls), name_cases[_i].sent);
	else
		ck_assert_ptr_null(kloop_tls_get_name(tls));
	ck_assert_int_eq(
		kl_tls_check_ready(tls),
		name_cases[_i].name && name_cases[_i].name[0] == '\0' ? KLOOP_ERROR_TLS_VERIFY : 0);
	kloop_tls_free(tls);
}
END_TEST

START_TEST(long_names)
{
	struct kloop_tls *tls = kt_tls_session(pair.client_context, NULL);
	char name[258];

	memset(name, 'a', sizeof(name));
	name[256] = '\0';
	ck_assert_int_eq(kloop_tls_set_name(tls, name), -EINVAL);
	name[255] = '\0';
	ck_assert_int_eq(kloop_tls_set_name(tls, name), 0);
	kloop_tls_free(tls);
	tls = kt_tls_session(pair.server_context, NULL);
	ck_assert_int_eq(kloop_tls_set_name(tls, "example.test"), -EINVAL);
	ck_assert_int_eq(kl_tls_check_ready(tls), 0);
	kloop_tls_free(tls);
	ck_assert_int_eq(kloop_tls_set_name(NULL, "example.test"), -EINVAL);
}
END_TEST

START_TEST(no_name)
{
	/* The server sees nothing of this client. */
	kt_tls_pair_shake(&pair, NULL);
	ck_assert_int_eq(pair.client_result, KLOOP_ERROR_TLS_VERIFY);
	ck_assert_int_eq(pair.server_result, 0);
	ck_assert_int_ne(kloop_tls_get_verify_result(pair.client), X509_V_OK);
	ck_assert_ptr_nonnull(strstr(kloop_tls_get_error_text(pair.client), "no name"));
	/* A name that OpenSSL was told. */
	kt_tls_pair_make(&pair, NULL);
	ck_assert_int_eq(SSL_set1_host(kloop_tls_get_ssl(pair.client), "example.test"), 1);
	kt_tls_pair_run(&pair);
	kt_tls_pair_check_open(&pair);
}
END_TEST

/* ---- what is known afterwards ----------------------------------------- */

START_TEST(peer_certificate)
{
	X509 *certificate = kt_cert_get(KT_CERT_SERVER);
	ptrdiff_t bytes = i2d_X509(certificate, NULL);
	unsigned char *expected = NULL;
	unsigned char *buffer = malloc((size_t)bytes);

	ck_assert_int_eq(i2d_X509(certificate, &expected), bytes);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert_int_eq(kloop_tls_copy_peer_certificate(pair.client, NULL, 0), bytes);
	ck_assert_int_eq(kloop_tls_copy_peer_certificate(pair.client, buffer, (size_t)bytes - 1),
			 -EMSGSIZE);
	ck_assert_int_eq(kloop_tls_copy_peer_certificate(pair.client, buffer, (size_t)bytes),
			 bytes);
	ck_assert_mem_eq(buffer, expected, bytes);
	ck_assert_int_eq(kloop_tls_copy_peer_certificate(pair.server, NULL, 0), -ENOENT);
	OPENSSL_free(expected);
	free(buffer);
}
END_TEST

/* ---- tickets ---------------------------------------------------------- */

static struct kloop_tls_ticket *get_ticket(void)
{
	struct kloop_tls_ticket *ticket = NULL;

	ck_assert_int_eq(kloop_tls_get_ticket(pair.client, &ticket), 0);
	ck_assert_ptr_nonnull(ticket);
	return ticket;
}

START_TEST(resume)
{
	unsigned maximum = _i ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3;
	struct kloop_tls_ticket *ticket;

	ck_assert_int_eq(kloop_tls_context_set_versions(pair.server_context, 0, maximum), 0);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ck_assert(!kloop_tls_is_resumed(pair.client));
	ck_assert_int_eq(kloop_tls_get_ticket(pair.client, NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_get_ticket(pair.server, &ticket), -EINVAL);
	ticket = get_ticket();
	for (int i = 0; i < 2; i++) {
		kt_tls_pair_make(&pair, "example.test");
		ck_assert_int_eq(kloop_tls_set_ticket(pair.client, ticket), 0);
		/* Not known before the handshake's end, though OpenSSL has it. */
		ck_assert_ptr_null(kloop_tls_get_cipher(pair.client));
		ck_assert_int_eq(kloop_tls_copy_peer_certificate(pair.client, NULL, 0), -ENOENT);
		kt_tls_pair_run(&pair);
		kt_tls_pair_check_open(&pair);
		ck_assert(kloop_tls_is_resumed(pair.client));
		ck_assert(kloop_tls_is_resumed(pair.server));
		ck_assert_int_gt(kloop_tls_copy_peer_certificate(pair.client, NULL, 0), 0);
		kloop_tls_ticket_free(ticket);
		ticket = get_ticket();
	}
	/* Another server's ticket: a full handshake follows. */
	kloop_tls_context_unref(pair.server_context);
	pair.server_context = kt_tls_server(KT_CERT_RSA);
	kt_tls_pair_make(&pair, "example.test");
	ck_assert_int_eq(kloop_tls_set_ticket(pair.client, ticket), 0);
	kt_tls_pair_run(&pair);
	kt_tls_pair_check_open(&pair);
	ck_assert(!kloop_tls_is_resumed(pair.client));
	kloop_tls_ticket_free(ticket);
}
END_TEST

/* A client with a certificate resumes as that client. */
START_TEST(resume_with_certificate)
{
	struct kloop_tls_ticket *ticket;

	kt_tls_trust(pair.server_context, KT_CERT_CA);
	ck_assert_int_eq(
		kloop_tls_context_set_verify(pair.server_context, KLOOP_TLS_VERIFY_REQUIRED), 0);
	kt_tls_use(pair.client_context, KT_CERT_CLIENT);
	kt_tls_pair_shake(&pair, "example.test");
	kt_tls_pair_check_open(&pair);
	ticket = get_ticket();
	kt_tls_pair_make(&pair, "example.test");
	ck_assert_int_eq(kloop_tls_set_ticket(pair.client, ticket), 0);
	kt_tls_pair_run(&pair);
	kt_tls_pair_check_open(&pair);
	ck_assert(kloop_tls_is_resumed(pair.server));
	ck_assert_int_gt(kloop_tls_copy_peer_certificate(pair.server, NULL, 0), 0);
	kloop_tls_ticket_free(ticket);
}
END_TEST

/* A resumed session is not verified again: tickets keep to what was. */
START_TEST(tickets_of_others)
{
	struct kloop_tls_ticket *ticket, *unverified;
	struct kloop_tls *tls;

	kt_tls_pair_shake(&pair, "example.test");
	ticket = get_ticket();
	ck_assert_int_eq(kloop_tls_set_ticket(pair.client, NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_set_ticket(NULL, ticket), -EINVAL);
	ck_assert_int_eq(kloop_tls_set_ticket(pair.server, ticket), -EINVAL);
	tls = kt_tls_session(pair.client_context, "localhost");
	ck_assert_int_eq(kloop_tls_set_ticket(tls, ticket), -EINVAL);
	ck_assert_int_eq(kloop_tls_set_name(tls, "Example.Test."), 0);
	ck_assert_int_eq(kloop_tls_set_ticket(tls, ticket), 0);
	ck_assert_ptr_nonnull(SSL_get_session(kloop_tls_get_ssl(tls)));
	ck_assert_int_eq(kloop_tls_set_name(tls, "localhost"), 0);
	ck_assert_ptr_null(SSL_get_session(kloop_tls_get_ssl(tls)));
	kloop_tls_free(tls);

	ck_assert_int_eq(kloop_tls_context_set_verify(pair.client_context, KLOOP_TLS_VERIFY_NONE),
			 0);
	kt_tls_pair_shake(&pair, "example.test");
	unverified = get_ticket();
	/* Whoever looks at nothing may use both. */
	kt_tls_pair_make(&pair, "localhost");
	ck_assert_int_eq(kloop_tls_set_ticket(pair.client, unverified), 0);
	ck_assert_int_eq(kloop_tls_set_ticket(pair.client, ticket), 0);
	ck_assert_int_eq(
		kloop_tls_context_set_verify(pair.client_context, KLOOP_TLS_VERIFY_REQUIRED), 0);
	tls = kt_tls_session(pair.client_context, "example.test");
	ck_assert_int_eq(kloop_tls_set_ticket(tls, unverified), -EINVAL);
	kloop_tls_free(tls);
	kloop_tls_ticket_free(ticket);
	kloop_tls_ticket_free(unverified);
}
END_TEST

/* ---- failures --------------------------------------------------------- */

/* What a client makes of such an answer to its hello. */
static const struct {
	const char *answer;
	size_t bytes;
	int result;
	int alert;
} answer_cases[] = {
#define ANSWER(text) text, sizeof(text) - 1
	{ ANSWER("HTTP/1.1 400 Bad Request\r\n\r\n"), KLOOP_ERROR_TLS_PROTOCOL, -1 },
	{ ANSWER("220 mail.example.test ESMTP\r\n"), KLOOP_ERROR_TLS_PROTOCOL, -1 },
	{ ANSWER("\x15\x03\x03\x00\x02\x02\x28"), KLOOP_ERROR_TLS_ALERT, SSL_AD_HANDSHAKE_FAILURE },
	{ ANSWER("\x15\x03\x01\x00\x02\x02\x46"), KLOOP_ERROR_TLS_ALERT, SSL_AD_PROTOCOL_VERSION },
	{ ANSWER("\x15\x03\x03\x00\x02\x02\x74"), KLOOP_ERROR_TLS_ALERT, 116 },
	{ ANSWER("\x16\x03\x03\xff\xff\x02"), KLOOP_ERROR_TLS_PROTOCOL, -1 },
	{ ANSWER("\x17\x03\x03\x00\x01\x00"), KLOOP_ERROR_TLS_PROTOCOL, -1 },
	{ ANSWER("\x16\x03\x03\x00\x04\x14\x00\x00\x00"), KLOOP_ERROR_TLS_PROTOCOL, -1 },
};

START_TEST(answers)
{
	struct kloop_tls *tls = kt_tls_session(pair.client_context, "example.test");
	SSL *ssl = kloop_tls_get_ssl(tls);
	const char *text;
	int r;

	SSL_set_bio(ssl, BIO_new_mem_buf(answer_cases[_i].answer, (int)answer_cases[_i].bytes),
		    BIO_new(BIO_s_mem()));
	ck_assert_int_lt(SSL_do_handshake(ssl), 1);
	r = kl_tls_note_failure(tls, KLOOP_ERROR_TLS_PROTOCOL);
	ck_assert_msg(r == answer_cases[_i].result, "%s", kloop_error_name(r));
	ck_assert_int_eq(kloop_tls_get_alert(tls), answer_cases[_i].alert);
	ck_assert_uint_eq(ERR_peek_error(), 0);
	ck_assert_int_eq(ERR_GET_LIB(kloop_tls_get_openssl_error(tls)), ERR_LIB_SSL);
	text = kloop_tls_get_error_text(tls);
	ck_assert_ptr_eq(strstr(text, kloop_strerror(r)), text);
	ck_assert_uint_gt(strlen(text), strlen(kloop_strerror(r)) + 2);
	/* The first failure stays. */
	ck_assert_int_eq(kl_tls_note_failure(tls, -ETIMEDOUT), answer_cases[_i].result);
	kloop_tls_free(tls);
}
END_TEST

START_TEST(end_in_handshake)
{
	struct kloop_tls *tls = kt_tls_session(pair.client_context, "example.test");
	BIO *in = BIO_new(BIO_s_mem());

	BIO_set_mem_eof_return(in, 0);
	SSL_set_bio(kloop_tls_get_ssl(tls), in, BIO_new(BIO_s_mem()));
	ck_assert_int_lt(SSL_do_handshake(kloop_tls_get_ssl(tls)), 1);
	ck_assert_int_eq(kl_tls_note_failure(tls, KLOOP_ERROR_TLS_PROTOCOL),
			 KLOOP_ERROR_TLS_TRUNCATED);
	kloop_tls_free(tls);
}
END_TEST

static const struct {
	int library, reason, given, result;
} error_cases[] = {
	{ 0, 0, KLOOP_ERROR_TLS_PROTOCOL, KLOOP_ERROR_TLS_PROTOCOL },
	{ 0, 0, -ECONNRESET, -ECONNRESET },
	{ ERR_LIB_SSL, SSL_R_BAD_SIGNATURE, KLOOP_ERROR_TLS_LIBRARY, KLOOP_ERROR_TLS_PROTOCOL },
	{ ERR_LIB_SSL, SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, KLOOP_ERROR_TLS_PROTOCOL,
	  KLOOP_ERROR_TLS_PROTOCOL },
	{ ERR_LIB_SSL, SSL_R_BAD_SIGNATURE, -ETIMEDOUT, -ETIMEDOUT },
	{ ERR_LIB_SSL, SSL_R_BAD_SIGNATURE, KLOOP_ERROR_TLS_TRUNCATED, KLOOP_ERROR_TLS_TRUNCATED },
	{ ERR_LIB_SSL, ERR_R_INTERNAL_ERROR, KLOOP_ERROR_TLS_PROTOCOL, KLOOP_ERROR_TLS_LIBRARY },
	{ ERR_LIB_SSL, SSL_R_NO_PROTOCOLS_AVAILABLE, KLOOP_ERROR_TLS_PROTOCOL,
	  KLOOP_ERROR_TLS_LIBRARY },
	{ ERR_LIB_SSL, ERR_R_MALLOC_FAILURE, KLOOP_ERROR_TLS_PROTOCOL, -ENOMEM },
	{ ERR_LIB_CRYPTO, ERR_R_MALLOC_FAILURE, KLOOP_ERROR_TLS_PROTOCOL, -ENOMEM },
	{ ERR_LIB_EVP, ERR_R_INTERNAL_ERROR, KLOOP_ERROR_TLS_PROTOCOL, KLOOP_ERROR_TLS_LIBRARY },
	{ ERR_LIB_SYS, ECONNRESET, KLOOP_ERROR_TLS_PROTOCOL, -ECONNRESET },
};

START_TEST(errors_are_refined)
{
	struct kloop_tls *tls = kt_tls_session(pair.client_context, "example.test");

	/* What lies deeper is not what counts. */
	if (error_cases[_i].library == ERR_LIB_SSL)
		ERR_raise(ERR_LIB_ASN1, ERR_R_NESTED_ASN1_ERROR);
	if (error_cases[_i].library)
		ERR_raise(error_cases[_i].library, error_cases[_i].reason);
	if (error_cases[_i].library == ERR_LIB_SSL)
		ERR_raise(ERR_LIB_X509, ERR_R_PASSED_NULL_PARAMETER);
	ck_assert_int_eq(kl_tls_note_failure(tls, error_cases[_i].given), error_cases[_i].result);
	ck_assert_uint_eq(ERR_peek_error(), 0);
	ck_assert_int_eq(ERR_GET_LIB(kloop_tls_get_openssl_error(tls)), error_cases[_i].library);
	ck_assert_ptr_nonnull(
		strstr(kloop_tls_get_error_text(tls), kloop_strerror(error_cases[_i].result)));
	kloop_tls_free(tls);
}
END_TEST

/* ---- memory ----------------------------------------------------------- */

START_TEST(no_memory)
{
	struct kloop_tls_ticket *ticket = NULL;
	struct kloop_tls *tls = NULL;

	kt_fault_install();
	make_pair();
	kt_tls_pair_shake(&pair, "example.test");
	kt_fault_arm(1, 1);
	ck_assert_int_eq(kloop_tls_get_ticket(pair.client, &ticket), -ENOMEM);
	ck_assert_ptr_null(ticket);
	kt_fault_arm(1, 1);
	ck_assert_int_eq(kloop_tls_new(pair.client_context, &tls), -ENOMEM);
	kt_fault_arm(1, 1);
	ck_assert_int_eq(kloop_tls_feed(pair.client, "x", 1), -ENOMEM);
	ck_assert_ptr_null(tls);
	free_pair();
	kt_fault_remove();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tls session");
	TCase *tcase = kt_case(suite, "set up", 60);

	tcase_add_checked_fixture(tcase, make_pair, free_pair);
	tcase_add_test(tcase, new_session);
	tcase_add_test(tcase, nothing_is_known_before);
	tcase_add_test(tcase, no_session_at_all);
	tcase_add_test(tcase, settings);
	tcase_add_test(tcase, wrap);
	tcase_add_test(tcase, wrap_of_a_context);
	tcase_add_test(tcase, wrap_too_late);
	tcase_add_loop_test(tcase, names, 0, KT_COUNT(name_cases));
	tcase_add_test(tcase, long_names);
	tcase_add_test(tcase, no_name);
	tcase = kt_case(suite, "connected", 60);
	tcase_add_checked_fixture(tcase, make_pair, free_pair);
	tcase_add_test(tcase, peer_certificate);
	tcase_add_loop_test(tcase, resume, 0, 2);
	tcase_add_test(tcase, resume_with_certificate);
	tcase_add_test(tcase, tickets_of_others);
	tcase = kt_case(suite, "failures", 60);
	tcase_add_checked_fixture(tcase, make_pair, free_pair);
	tcase_add_loop_test(tcase, answers, 0, KT_COUNT(answer_cases));
	tcase_add_test(tcase, end_in_handshake);
	tcase_add_loop_test(tcase, errors_are_refined, 0, KT_COUNT(error_cases));
	tcase = kt_case(suite, "memory", 60);
	tcase_add_test(tcase, no_memory);
	return kt_main(suite);
}
