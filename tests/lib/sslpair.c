/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "sslpair.h"
#include "support.h"
#include "tls/record.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <string.h>

const struct kt_suite kt_suites[KT_SUITES] = {
	{ TLS1_3_VERSION, "TLS_AES_128_GCM_SHA256", KL_TLS_AES_128_GCM },
	{ TLS1_3_VERSION, "TLS_AES_256_GCM_SHA384", KL_TLS_AES_256_GCM },
	{ TLS1_3_VERSION, "TLS_CHACHA20_POLY1305_SHA256", KL_TLS_CHACHA20_POLY1305 },
	{ TLS1_2_VERSION, "ECDHE-ECDSA-AES128-GCM-SHA256", KL_TLS_AES_128_GCM },
	{ TLS1_2_VERSION, "ECDHE-ECDSA-AES256-GCM-SHA384", KL_TLS_AES_256_GCM },
	{ TLS1_2_VERSION, "ECDHE-ECDSA-CHACHA20-POLY1305", KL_TLS_CHACHA20_POLY1305 },
};

/* A certificate that its own key signed. */
static X509 *make_certificate(EVP_PKEY *key)
{
	X509 *certificate = X509_new();
	X509_NAME *name;

	ck_assert_ptr_nonnull(certificate);
	ck_assert_int_eq(X509_set_version(certificate, 2), 1);
	ck_assert_int_eq(ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1), 1);
	ck_assert_ptr_nonnull(X509_gmtime_adj(X509_getm_notBefore(certificate), -3600));
	ck_assert_ptr_nonnull(X509_gmtime_adj(X509_getm_notAfter(certificate), 86400));
	ck_assert_int_eq(X509_set_pubkey(certificate, key), 1);
	name = X509_get_subject_name(certificate);
	ck_assert_int_eq(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
						    (const unsigned char *)"test", -1, -1, 0), 1);
	ck_assert_int_eq(X509_set_issuer_name(certificate, name), 1);
	ck_assert_int_gt(X509_sign(certificate, key, EVP_sha256()), 0);
	return certificate;
}

SSL_CTX *kt_ssl_server_ctx(void)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *certificate;

	ck_assert_ptr_nonnull(ctx);
	ck_assert_ptr_nonnull(key);
	certificate = make_certificate(key);
	ck_assert_int_eq(SSL_CTX_use_certificate(ctx, certificate), 1);
	ck_assert_int_eq(SSL_CTX_use_PrivateKey(ctx, key), 1);
	X509_free(certificate);
	EVP_PKEY_free(key);
	return ctx;
}

SSL_CTX *kt_ssl_client_ctx(void)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

	ck_assert_ptr_nonnull(ctx);
	return ctx;
}

void kt_ssl_use_suite(SSL_CTX *ctx, unsigned version, const char *name)
{
	ck_assert_int_eq(SSL_CTX_set_min_proto_version(ctx, (int)version), 1);
	ck_assert_int_eq(SSL_CTX_set_max_proto_version(ctx, (int)version), 1);
	ck_assert_int_eq(version == TLS1_3_VERSION ? SSL_CTX_set_ciphersuites(ctx, name)
						   : SSL_CTX_set_cipher_list(ctx, name), 1);
}

void kt_ssl_pair_init(struct kt_ssl_pair *pair, SSL_CTX *client_ctx, SSL_CTX *server_ctx)
{
	ck_assert_int_eq(SSL_CTX_up_ref(client_ctx), 1);
	ck_assert_int_eq(SSL_CTX_up_ref(server_ctx), 1);
	*pair = (struct kt_ssl_pair){
		.client_ctx = client_ctx,
		.server_ctx = server_ctx,
		.client = SSL_new(client_ctx),
		.server = SSL_new(server_ctx),
		.from_client = BIO_new(BIO_s_mem()),
		.to_server = BIO_new(BIO_s_mem()),
		.from_server = BIO_new(BIO_s_mem()),
		.to_client = BIO_new(BIO_s_mem()),
	};
	ck_assert(pair->client && pair->server && pair->from_client && pair->to_server &&
		  pair->from_server && pair->to_client);
	/* The SSL objects own the BIOs. */
	SSL_set_bio(pair->client, pair->to_client, pair->from_client);
	SSL_set_bio(pair->server, pair->to_server, pair->from_server);
	SSL_set_connect_state(pair->client);
	SSL_set_accept_state(pair->server);
}

void kt_ssl_pair_init_suite(struct kt_ssl_pair *pair, const struct kt_suite *suite)
{
	SSL_CTX *client_ctx = kt_ssl_client_ctx(), *server_ctx = kt_ssl_server_ctx();

	kt_ssl_use_suite(client_ctx, suite->version, suite->name);
	kt_ssl_use_suite(server_ctx, suite->version, suite->name);
	kt_ssl_pair_init(pair, client_ctx, server_ctx);
	SSL_CTX_free(client_ctx);
	SSL_CTX_free(server_ctx);
}

void kt_ssl_pair_free(struct kt_ssl_pair *pair)
{
	SSL_free(pair->client);
	SSL_free(pair->server);
	SSL_CTX_free(pair->client_ctx);
	SSL_CTX_free(pair->server_ctx);
}

size_t kt_ssl_carry(BIO *from, BIO *to)
{
	char *data;
	long bytes = BIO_get_mem_data(from, &data);

	if (bytes <= 0)
		return 0;
	ck_assert_int_eq(BIO_write(to, data, (int)bytes), bytes);
	ck_assert_int_eq(BIO_reset(from), 1);
	return (size_t)bytes;
}

bool kt_ssl_pair_handshake(struct kt_ssl_pair *pair)
{
	int client = 0, server = 0;

	/* Two round trips at most, and one for a retry. */
	for (int i = 0; i < 6 && !(client == 1 && server == 1); i++) {
		kt_ssl_carry(pair->from_server, pair->to_client);
		client = SSL_do_handshake(pair->client);
		kt_ssl_carry(pair->from_client, pair->to_server);
		server = SSL_do_handshake(pair->server);
	}
	return client == 1 && server == 1;
}

void kt_ssl_put(SSL *ssl, const void *data, size_t bytes)
{
	size_t written;

	ck_assert_int_eq(SSL_write_ex(ssl, data, bytes, &written), 1);
	ck_assert_uint_eq(written, bytes);
}

void kt_ssl_expect(SSL *ssl, const void *data, size_t bytes)
{
	unsigned char buffer[KL_TLS_PLAIN_MAX];
	size_t have = 0, got;

	ck_assert_uint_le(bytes, sizeof(buffer));
	while (have < bytes) {
		ck_assert_int_eq(SSL_read_ex(ssl, buffer + have, bytes - have, &got), 1);
		have += got;
	}
	ck_assert_mem_eq(buffer, data, bytes);
}

void kt_ssl_expect_none(SSL *ssl)
{
	unsigned char byte;
	size_t got;
	int r = SSL_read_ex(ssl, &byte, 1, &got);

	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(SSL_get_error(ssl, r), SSL_ERROR_WANT_READ);
}

size_t kt_ssl_take_record(BIO *wire, uint8_t *record)
{
	size_t bytes;

	if (BIO_pending(wire) == 0)
		return 0;
	ck_assert_int_eq(BIO_read(wire, record, KL_TLS_HEADER_BYTES), KL_TLS_HEADER_BYTES);
	bytes = (size_t)record[3] << 8 | record[4];
	ck_assert_uint_le(KL_TLS_HEADER_BYTES + bytes, KL_TLS_RECORD_MAX);
	ck_assert_int_eq(BIO_read(wire, record + KL_TLS_HEADER_BYTES, (int)bytes), (int)bytes);
	return KL_TLS_HEADER_BYTES + bytes;
}
