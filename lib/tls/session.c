/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Sessions: made, set up and freed; tickets to resume with; failures in words. */
#include "tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define HANDSHAKE_NS UINT64_C(60000000000)
#define SHUTDOWN_NS UINT64_C(30000000000)
#define NAME_MAX_BYTES 255

/* What a client brings to its next connection. */
struct kloop_tls_ticket {
	SSL_SESSION *session;
	bool verified; /* the peer's certificate was looked at, and good */
	char name[];   /* for this name; "" for none */
};

static int session_index = -1;
static pthread_once_t session_once = PTHREAD_ONCE_INIT;

static void make_index(void)
{
	session_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

struct kloop_tls *kl_tls_of_ssl(const SSL *ssl)
{
	pthread_once(&session_once, make_index);
	return session_index >= 0 ? SSL_get_ex_data(ssl, session_index) : NULL;
}

int kl_tls_attach_ssl(SSL *ssl, struct kloop_tls *tls)
{
	pthread_once(&session_once, make_index);
	if (session_index >= 0 && SSL_set_ex_data(ssl, session_index, tls) == 1)
		return 0;
	ERR_clear_error();
	return -ENOMEM;
}

/* ---- life ------------------------------------------------------------- */

/* What the library counts on, whoever configured the object. */
static void prepare_ssl(SSL *ssl)
{
	SSL_set_options(ssl, SSL_OP_NO_RENEGOTIATION);
	/* Directions move into the kernel by our own hands. */
	SSL_clear_options(ssl, SSL_OP_ENABLE_KTLS);
	/*
	 * RELEASE_BUFFERS: between two records a connection holds no buffers for
	 * them, which are 16 KiB for each direction. Most connections are idle;
	 * kl_tls_pump() takes it back from those that are not.
	 */
	SSL_set_mode(ssl, SSL_MODE_AUTO_RETRY | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
				  SSL_MODE_RELEASE_BUFFERS);
	/* At the move to the kernel OpenSSL must not have read on. */
	SSL_set_read_ahead(ssl, 0);
}

/* Takes the caller's reference on the SSL object when it succeeds. */
static int new_session(SSL *ssl, struct kloop_tls_context *context, struct kloop_tls **ret_tls)
{
	struct kloop_tls *tls = kl_calloc(1, sizeof(*tls));
	int r;

	if (!tls)
		return -ENOMEM;
	r = kl_tls_attach_ssl(ssl, tls);
	if (r < 0) {
		kl_free(tls);
		return r;
	}
	prepare_ssl(ssl);
	tls->ssl = ssl;
	tls->context = kloop_tls_context_ref(context);
	tls->ktls_mode = (uint8_t)(context ? context->ktls_mode : KLOOP_KTLS_AUTO);
	tls->ktls_reason[KLOOP_TLS_SEND] = KLOOP_ERROR_KTLS_UNUSED;
	tls->ktls_reason[KLOOP_TLS_RECEIVE] = KLOOP_ERROR_KTLS_UNUSED;
	tls->handshake_ns = HANDSHAKE_NS;
	tls->shutdown_ns = SHUTDOWN_NS;
	tls->alert = -1;
	if (SSL_is_server(ssl))
		tls->state |= KL_TLS_SERVER;
	*ret_tls = tls;
	return 0;
}

int kloop_tls_new(struct kloop_tls_context *context, struct kloop_tls **ret_tls)
{
	SSL *ssl;
	int r;

	if (!context || !ret_tls)
		return -EINVAL;
	kl_tls_context_complete(context);
	ssl = SSL_new(context->ssl_ctx);
	if (!ssl) {
		ERR_clear_error();
		return -ENOMEM;
	}
	if (context->role == KLOOP_TLS_SERVER)
		SSL_set_accept_state(ssl);
	else
		SSL_set_connect_state(ssl);
	r = new_session(ssl, context, ret_tls);
	if (r < 0)
		SSL_free(ssl);
	else if (context->role == KLOOP_TLS_CLIENT)
		(*ret_tls)->state |= KL_TLS_NO_NAME;
	return r;
}

int kloop_tls_new_wrap(SSL *ssl, struct kloop_tls **ret_tls)
{
	int r;

	if (!ssl || !ret_tls || SSL_is_dtls(ssl) || !SSL_in_before(ssl) || kl_tls_of_ssl(ssl))
		return -EINVAL;
	if (SSL_up_ref(ssl) != 1)
		return -EINVAL;
	r = new_session(ssl, kl_tls_context_of_ssl_ctx(SSL_get_SSL_CTX(ssl)), ret_tls);
	if (r < 0)
		SSL_free(ssl);
	return r;
}

void kl_tls_destroy(struct kloop_tls *tls)
{
	kl_tls_offload_free(tls);
	/*
	 * OpenSSL spoils the ticket of a connection that ends without close_notify,
	 * as old versions of TLS had it; since 1.1 it may be used (RFC 4346, 7.2.1).
	 */
	if (tls->context)
		SSL_set_shutdown(tls->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	/* Others may hold the object still: nothing of it leads to us any more. */
	kl_tls_attach_ssl(tls->ssl, NULL);
	SSL_set_bio(tls->ssl, NULL, NULL);
	SSL_free(tls->ssl);
	kloop_tls_context_unref(tls->context);
	kl_free(tls->kept.data);
	kl_free(tls);
	ERR_clear_error();
}

void kloop_tls_free(struct kloop_tls *tls)
{
	if (tls && !tls->stream)
		kl_tls_destroy(tls);
}

/* ---- the name --------------------------------------------------------- */

static bool can_set_up(const struct kloop_tls *tls)
{
	return tls && !tls->stream;
}

static bool is_client(const struct kloop_tls *tls)
{
	return !kl_tls_has(tls, KL_TLS_SERVER);
}

static void clear_name(struct kloop_tls *tls)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(tls->ssl);

	tls->state |= KL_TLS_NO_NAME;
	SSL_set_tlsext_host_name(tls->ssl, NULL);
	X509_VERIFY_PARAM_set1_host(param, NULL, 0);
	X509_VERIFY_PARAM_set1_ip(param, NULL, 0);
	/* A ticket belongs to a name. */
	SSL_set_session(tls->ssl, NULL);
}

/* Returns the bytes of an address, or 0 for what is none. */
static size_t parse_ip(const char *name, unsigned char *address)
{
	if (inet_pton(AF_INET, name, address) == 1)
		return 4;
	return inet_pton(AF_INET6, name, address) == 1 ? 16 : 0;
}

/*
 * Only what a host name is made of: an address with a port or a URL would never
 * fit, and OpenSSL takes a leading dot for "any name below".
 */
static bool is_host_name(const char *name, size_t length)
{
	if (length == 0 || name[0] == '.')
		return false;
	for (size_t i = 0; i < length; i++) {
		char c = name[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '-' || c == '_' || c == '.'))
			return false;
	}
	return true;
}

static int set_host(struct kloop_tls *tls, const char *name)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(tls->ssl);
	char host[NAME_MAX_BYTES + 1];
	size_t length = strlen(name);

	memcpy(host, name, length + 1);
	/* The dot that says "complete" is no part of the name in TLS (RFC 6066). */
	if (length > 0 && host[length - 1] == '.')
		host[--length] = '\0';
	if (!is_host_name(host, length))
		return -EINVAL;
	clear_name(tls);
	/* As RFC 9525 has it: names of the certificate's own field, whole wildcards. */
	X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
						       X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
	if (X509_VERIFY_PARAM_set1_host(param, host, length) == 1 &&
	    SSL_set_tlsext_host_name(tls->ssl, host) == 1)
		return 0;
	clear_name(tls);
	return -ENOMEM;
}

int kloop_tls_set_name(struct kloop_tls *tls, const char *name)
{
	unsigned char address[16];
	size_t bytes;
	int r = 0;

	if (!can_set_up(tls) || !is_client(tls) || !name || strlen(name) > NAME_MAX_BYTES)
		return -EINVAL;
	bytes = parse_ip(name, address);
	if (bytes > 0 || name[0] == '\0') {
		clear_name(tls);
		if (bytes > 0 &&
		    X509_VERIFY_PARAM_set1_ip(SSL_get0_param(tls->ssl), address, bytes) != 1)
			r = -ENOMEM;
	} else {
		r = set_host(tls, name);
	}
	ERR_clear_error();
	if (r == 0 && name[0] != '\0')
		tls->state &= ~(uint32_t)KL_TLS_NO_NAME;
	return r;
}

/* The name that the peer's certificate is compared with, "" for none; for OPENSSL_free(). */
static char *copy_expected_name(SSL *ssl)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
	const char *host = X509_VERIFY_PARAM_get0_host(param, 0);
	char *name = host ? OPENSSL_strdup(host) : X509_VERIFY_PARAM_get1_ip_asc(param);

	if (!name && !host)
		name = OPENSSL_strdup("");
	ERR_clear_error();
	return name;
}

static bool verifies(const struct kloop_tls *tls)
{
	return (SSL_get_verify_mode(tls->ssl) & SSL_VERIFY_PEER) != 0;
}

/* A program may have told OpenSSL by itself. */
static bool has_expected_name(const struct kloop_tls *tls)
{
	char *name = copy_expected_name(tls->ssl);
	bool has = name && name[0] != '\0';

	OPENSSL_free(name);
	return has;
}

int kl_tls_check_ready(struct kloop_tls *tls)
{
	if (!kl_tls_has(tls, KL_TLS_NO_NAME) || !verifies(tls) || has_expected_name(tls))
		return 0;
	SSL_set_verify_result(tls->ssl, X509_V_ERR_UNSPECIFIED);
	kl_tls_note_failure(tls, KLOOP_ERROR_TLS_VERIFY);
	snprintf(tls->text, sizeof(tls->text), "%s: no name was given to compare it with",
		 kloop_strerror(KLOOP_ERROR_TLS_VERIFY));
	return KLOOP_ERROR_TLS_VERIFY;
}

/* ---- tickets ---------------------------------------------------------- */

int kloop_tls_get_ticket(const struct kloop_tls *tls, struct kloop_tls_ticket **ret_ticket)
{
	struct kloop_tls_ticket *ticket;
	SSL_SESSION *session;
	char *name;

	if (!tls || !ret_ticket || !is_client(tls))
		return -EINVAL;
	session = SSL_is_init_finished(tls->ssl) ? SSL_get1_session(tls->ssl) : NULL;
	if (!session || !SSL_SESSION_is_resumable(session)) {
		SSL_SESSION_free(session);
		return -ENOENT;
	}
	name = copy_expected_name(tls->ssl);
	ticket = name ? kl_malloc(sizeof(*ticket) + strlen(name) + 1) : NULL;
	if (!ticket) {
		OPENSSL_free(name);
		SSL_SESSION_free(session);
		return -ENOMEM;
	}
	ticket->session = session;
	ticket->verified = verifies(tls) && SSL_get_verify_result(tls->ssl) == X509_V_OK;
	memcpy(ticket->name, name, strlen(name) + 1);
	OPENSSL_free(name);
	*ret_ticket = ticket;
	return 0;
}

/* A resumed session is not verified again: it must have been, for the same name. */
static bool fits(const struct kloop_tls *tls, const struct kloop_tls_ticket *ticket)
{
	char *name;
	bool same;

	if (!verifies(tls))
		return true;
	name = copy_expected_name(tls->ssl);
	same = name && strcasecmp(name, ticket->name) == 0;
	OPENSSL_free(name);
	return same && ticket->verified;
}

int kloop_tls_set_ticket(struct kloop_tls *tls, const struct kloop_tls_ticket *ticket)
{
	if (!can_set_up(tls) || !is_client(tls) || !ticket || !fits(tls, ticket))
		return -EINVAL;
	if (SSL_set_session(tls->ssl, ticket->session) == 1)
		return 0;
	ERR_clear_error();
	return -EINVAL;
}

void kloop_tls_ticket_free(struct kloop_tls_ticket *ticket)
{
	if (!ticket)
		return;
	SSL_SESSION_free(ticket->session);
	kl_free(ticket);
}

/* ---- other settings --------------------------------------------------- */

int kloop_tls_set_timeouts(struct kloop_tls *tls, uint64_t handshake_ns, uint64_t shutdown_ns)
{
	if (!can_set_up(tls))
		return -EINVAL;
	tls->handshake_ns = handshake_ns;
	tls->shutdown_ns = shutdown_ns;
	return 0;
}

int kloop_tls_set_ktls(struct kloop_tls *tls, enum kloop_ktls_mode mode)
{
	if (!can_set_up(tls) ||
	    (mode != KLOOP_KTLS_OFF && mode != KLOOP_KTLS_AUTO && mode != KLOOP_KTLS_ON))
		return -EINVAL;
	tls->ktls_mode = (uint8_t)mode;
	return 0;
}

int kloop_tls_set_step(struct kloop_tls *tls, kloop_tls_step_fn *step, void *user)
{
	if (!can_set_up(tls))
		return -EINVAL;
	tls->step = step;
	tls->step_user = user;
	return 0;
}

int kloop_tls_feed(struct kloop_tls *tls, const void *data, size_t bytes)
{
	if (!can_set_up(tls) || (!data && bytes > 0))
		return -EINVAL;
	return kl_tls_keep(tls, data, bytes);
}
