/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Sessions that talk through memory: see tlspair.h. */
#include "tlspair.h"

#include "support.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>

#include "tls/tls.h"

/* A handshake takes a few; each moves all that is there. */
#define STEPS 20

struct kloop_tls_context *kt_tls_context(enum kloop_tls_role role)
{
	struct kloop_tls_context *context = NULL;
	int r = kloop_tls_context_new(role, &context);

	ck_assert_msg(r == 0, "kloop_tls_context_new: %s", kloop_error_name(r));
	ck_assert_ptr_nonnull(context);
	return context;
}

void kt_tls_use(struct kloop_tls_context *context, enum kt_cert certificate)
{
	const char *chain = kt_cert_pem(certificate);
	const char *key = kt_cert_key_pem(certificate);
	int r = kloop_tls_context_use_certificate(context, chain, strlen(chain), key, strlen(key));

	ck_assert_msg(r == 0, "certificate %d: %s", certificate, kloop_error_name(r));
}

void kt_tls_trust(struct kloop_tls_context *context, enum kt_cert ca)
{
	const char *pem = kt_cert_pem(ca);

	ck_assert_int_eq(kloop_tls_context_use_trust(context, pem, strlen(pem)), 0);
}

struct kloop_tls_context *kt_tls_server(enum kt_cert certificate)
{
	struct kloop_tls_context *context = kt_tls_context(KLOOP_TLS_SERVER);

	kt_tls_use(context, certificate);
	return context;
}

struct kloop_tls_context *kt_tls_client(enum kt_cert ca)
{
	struct kloop_tls_context *context = kt_tls_context(KLOOP_TLS_CLIENT);

	kt_tls_trust(context, ca);
	return context;
}

struct kloop_tls *kt_tls_session(struct kloop_tls_context *context, const char *name)
{
	struct kloop_tls *tls = NULL;

	ck_assert_int_eq(kloop_tls_new(context, &tls), 0);
	ck_assert_ptr_nonnull(tls);
	if (name)
		ck_assert_int_eq(kloop_tls_set_name(tls, name), 0);
	return tls;
}

void kt_tls_pair_init(struct kt_tls_pair *pair)
{
	*pair = (struct kt_tls_pair){
		.client_context = kt_tls_client(KT_CERT_CA),
		.server_context = kt_tls_server(KT_CERT_SERVER),
	};
}

static void free_sessions(struct kt_tls_pair *pair)
{
	kloop_tls_free(pair->client);
	kloop_tls_free(pair->server);
	pair->client = NULL;
	pair->server = NULL;
}

void kt_tls_pair_make(struct kt_tls_pair *pair, const char *name)
{
	BIO *client, *server;

	free_sessions(pair);
	pair->client = kt_tls_session(pair->client_context, name);
	pair->server = kt_tls_session(pair->server_context, NULL);
	pair->client_result = 0;
	pair->server_result = 0;
	ck_assert_int_eq(BIO_new_bio_pair(&client, 65536, &server, 65536), 1);
	SSL_set_bio(kloop_tls_get_ssl(pair->client), client, client);
	SSL_set_bio(kloop_tls_get_ssl(pair->server), server, server);
}

/* One step as the library takes it. */
static int step(struct kloop_tls *tls)
{
	SSL *ssl = kloop_tls_get_ssl(tls);
	int r;

	ck_assert_uint_eq(ERR_peek_error(), 0);
	r = kl_tls_check_ready(tls);
	if (r < 0)
		return r;
	r = SSL_do_handshake(ssl);
	if (r == 1)
		return 1;
	r = SSL_get_error(ssl, r);
	if (r == SSL_ERROR_WANT_READ || r == SSL_ERROR_WANT_WRITE)
		return 0;
	r = kl_tls_note_failure(tls, KLOOP_ERROR_TLS_PROTOCOL);
	ck_assert_uint_eq(ERR_peek_error(), 0);
	return r;
}

/* What comes after the handshake: tickets; and in TLS 1.3 the server's refusal of a client. */
static int read_on(struct kloop_tls *tls)
{
	SSL *ssl = kloop_tls_get_ssl(tls);
	char byte;
	int r = SSL_read(ssl, &byte, 1);

	ck_assert_int_le(r, 0);
	r = SSL_get_error(ssl, r);
	if (r == SSL_ERROR_WANT_READ)
		return 1;
	return kl_tls_note_failure(tls, KLOOP_ERROR_TLS_PROTOCOL);
}

void kt_tls_pair_run(struct kt_tls_pair *pair)
{
	for (int i = 0; i < STEPS; i++) {
		if (pair->client_result == 0)
			pair->client_result = step(pair->client);
		if (pair->server_result == 0)
			pair->server_result = step(pair->server);
	}
	if (pair->client_result == 1)
		pair->client_result = read_on(pair->client);
	if (pair->server_result == 1)
		pair->server_result = read_on(pair->server);
}

void kt_tls_pair_shake(struct kt_tls_pair *pair, const char *name)
{
	kt_tls_pair_make(pair, name);
	kt_tls_pair_run(pair);
}

static void pass(struct kloop_tls *from, struct kloop_tls *to)
{
	static const char text[] = "a few bytes";
	char buffer[sizeof(text)];

	ck_assert_int_eq(SSL_write(kloop_tls_get_ssl(from), text, sizeof(text)), sizeof(text));
	ck_assert_int_eq(SSL_read(kloop_tls_get_ssl(to), buffer, sizeof(buffer)), sizeof(text));
	ck_assert_mem_eq(buffer, text, sizeof(text));
}

void kt_tls_pair_check_open(struct kt_tls_pair *pair)
{
	ck_assert_msg(pair->client_result == 1, "client: %s",
		      kloop_tls_get_error_text(pair->client));
	ck_assert_msg(pair->server_result == 1, "server: %s",
		      kloop_tls_get_error_text(pair->server));
	pass(pair->client, pair->server);
	pass(pair->server, pair->client);
}

void kt_tls_pair_free(struct kt_tls_pair *pair)
{
	free_sessions(pair);
	pair->client_context = kloop_tls_context_unref(pair->client_context);
	pair->server_context = kloop_tls_context_unref(pair->server_context);
}
