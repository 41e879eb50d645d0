/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Contexts: their defaults, their settings, and the callbacks they put into OpenSSL. */
#include "tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <string.h>

#define TICKETS_MAX 16
#define ALPN_NAME_MAX 255
/* The extension's length field has 16 bits, and one more length stands inside. */
#define ALPN_BYTES_MAX 65533

/*
 * What OpenSSL may have been told by its configuration file, and what must not
 * hold here. Directions move into the kernel by our own hands; an end of the
 * connection without close_notify is an error.
 */
#define UNWANTED_OPTIONS (SSL_OP_ENABLE_KTLS | SSL_OP_IGNORE_UNEXPECTED_EOF)

static int context_index = -1;
static pthread_once_t context_once = PTHREAD_ONCE_INIT;

static void make_index(void)
{
	context_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

struct kloop_tls_context *kl_tls_context_of_ssl_ctx(const SSL_CTX *ssl_ctx)
{
	pthread_once(&context_once, make_index);
	return context_index >= 0 ? SSL_CTX_get_ex_data(ssl_ctx, context_index) : NULL;
}

/* ---- life ------------------------------------------------------------- */

static void set_client_defaults(SSL_CTX *ssl_ctx)
{
	SSL_CTX_set_verify(ssl_ctx, SSL_VERIFY_PEER, NULL);
	/* What a client resumes with, its owner keeps: kloop_tls_get_ticket(). */
	SSL_CTX_set_session_cache_mode(ssl_ctx, SSL_SESS_CACHE_OFF);
}

static int set_server_defaults(SSL_CTX *ssl_ctx)
{
	static const unsigned char name[] = "kloop";

	SSL_CTX_set_options(ssl_ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
	/* State is with the clients, in tickets; a cache would be theirs to fill. */
	SSL_CTX_set_session_cache_mode(ssl_ctx, SSL_SESS_CACHE_OFF);
	/* Without one, clients with certificates cannot resume. */
	return SSL_CTX_set_session_id_context(ssl_ctx, name, sizeof(name) - 1) == 1 ?
		       0 :
		       KLOOP_ERROR_TLS_LIBRARY;
}

static int set_defaults(SSL_CTX *ssl_ctx, enum kloop_tls_role role)
{
	SSL_CTX_clear_options(ssl_ctx, UNWANTED_OPTIONS);
	SSL_CTX_set_options(ssl_ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	/* The system's configuration may ask for more, not for less. */
	if (SSL_CTX_get_min_proto_version(ssl_ctx) < KLOOP_TLS_1_2 &&
	    SSL_CTX_set_min_proto_version(ssl_ctx, KLOOP_TLS_1_2) != 1)
		return KLOOP_ERROR_TLS_LIBRARY;
	if (role == KLOOP_TLS_SERVER)
		return set_server_defaults(ssl_ctx);
	set_client_defaults(ssl_ctx);
	return 0;
}

static int init_context(struct kloop_tls_context *context, enum kloop_tls_role role)
{
	const SSL_METHOD *method = role == KLOOP_TLS_SERVER ? TLS_server_method() :
							      TLS_client_method();
	int r;

	pthread_once(&context_once, make_index);
	context->role = role;
	context->references = 1;
	context->ktls_mode = KLOOP_KTLS_AUTO;
	context->system_trust = role == KLOOP_TLS_CLIENT;
	context->ssl_ctx = context_index >= 0 ? SSL_CTX_new(method) : NULL;
	if (!context->ssl_ctx)
		return KLOOP_ERROR_TLS_LIBRARY;
	r = set_defaults(context->ssl_ctx, role);
	if (r == 0 && SSL_CTX_set_ex_data(context->ssl_ctx, context_index, context) != 1)
		r = -ENOMEM;
	return r;
}

static void free_context(struct kloop_tls_context *context)
{
	if (context->ssl_ctx) {
		/* SSL objects that somebody else made of it may outlive us. */
		SSL_CTX_set_ex_data(context->ssl_ctx, context_index, NULL);
		SSL_CTX_free(context->ssl_ctx);
	}
	kl_free(context->alpn);
	kl_free(context);
}

int kloop_tls_context_new(enum kloop_tls_role role, struct kloop_tls_context **ret_context)
{
	struct kloop_tls_context *context;
	int r;

	if ((role != KLOOP_TLS_CLIENT && role != KLOOP_TLS_SERVER) || !ret_context)
		return -EINVAL;
	context = kl_calloc(1, sizeof(*context));
	if (!context)
		return -ENOMEM;
	r = init_context(context, role);
	if (r < 0) {
		ERR_clear_error();
		free_context(context);
		return r;
	}
	*ret_context = context;
	return 0;
}

struct kloop_tls_context *kloop_tls_context_ref(struct kloop_tls_context *context)
{
	if (context)
		__atomic_add_fetch(&context->references, 1, __ATOMIC_RELAXED);
	return context;
}

struct kloop_tls_context *kloop_tls_context_unref(struct kloop_tls_context *context)
{
	if (context && __atomic_sub_fetch(&context->references, 1, __ATOMIC_ACQ_REL) == 0)
		free_context(context);
	return NULL;
}

void kl_tls_context_complete(struct kloop_tls_context *context)
{
	if (!context->system_trust || SSL_CTX_get_verify_mode(context->ssl_ctx) == SSL_VERIFY_NONE)
		return;
	context->system_trust = false;
	/* What cannot be read is not trusted: connections fail, and say why. */
	SSL_CTX_set_default_verify_paths(context->ssl_ctx);
	ERR_clear_error();
}

SSL_CTX *kloop_tls_context_get_ssl_ctx(struct kloop_tls_context *context)
{
	if (!context)
		return NULL;
	kl_tls_context_complete(context);
	return context->ssl_ctx;
}

/* ---- versions and ciphers --------------------------------------------- */

static bool is_version(unsigned version)
{
	return version == 0 || version == KLOOP_TLS_1_2 || version == KLOOP_TLS_1_3;
}

int kloop_tls_context_set_versions(struct kloop_tls_context *context, unsigned minimum,
				   unsigned maximum)
{
	SSL_CTX *ssl_ctx;
	unsigned low, high;

	if (!context || !is_version(minimum) || !is_version(maximum))
		return -EINVAL;
	ssl_ctx = context->ssl_ctx;
	low = minimum ? minimum : (unsigned)SSL_CTX_get_min_proto_version(ssl_ctx);
	high = maximum ? maximum : (unsigned)SSL_CTX_get_max_proto_version(ssl_ctx);
	/* OpenSSL's 0 is the newest that it has. */
	if (high != 0 && low > high)
		return -EINVAL;
	if (SSL_CTX_set_min_proto_version(ssl_ctx, (long)low) == 1 &&
	    SSL_CTX_set_max_proto_version(ssl_ctx, (long)high) == 1)
		return 0;
	ERR_clear_error();
	return -EINVAL;
}

/* Does a list of suites for TLS 1.3 hold any? OpenSSL skips those that it does not know. */
static bool has_tls13_cipher(const SSL_CTX *ssl_ctx)
{
	STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(ssl_ctx);

	for (int i = 0; i < sk_SSL_CIPHER_num(ciphers); i++) {
		if (strcmp(SSL_CIPHER_get_version(sk_SSL_CIPHER_value(ciphers, i)), "TLSv1.3") == 0)
			return true;
	}
	return false;
}

static bool set_ciphers(SSL_CTX *ssl_ctx, const char *tls12, const char *tls13)
{
	return (!tls12 || SSL_CTX_set_cipher_list(ssl_ctx, tls12) == 1) &&
	       (!tls13 || SSL_CTX_set_ciphersuites(ssl_ctx, tls13) == 1);
}

int kloop_tls_context_set_ciphers(struct kloop_tls_context *context, const char *tls12,
				  const char *tls13)
{
	SSL_CTX *trial;
	bool usable;

	if (!context)
		return -EINVAL;
	/* Elsewhere first: a bad list must not leave the other one changed. */
	trial = SSL_CTX_new(TLS_method());
	usable = trial && set_ciphers(trial, tls12, tls13) && (!tls13 || has_tls13_cipher(trial));
	SSL_CTX_free(trial);
	usable = usable && set_ciphers(context->ssl_ctx, tls12, tls13);
	ERR_clear_error();
	if (!trial)
		return -ENOMEM;
	return usable ? 0 : -EINVAL;
}

/* ---- verification ----------------------------------------------------- */

int kloop_tls_context_set_verify(struct kloop_tls_context *context, enum kloop_tls_verify verify)
{
	int mode;

	if (!context)
		return -EINVAL;
	switch (verify) {
	case KLOOP_TLS_VERIFY_NONE:
		mode = SSL_VERIFY_NONE;
		break;
	case KLOOP_TLS_VERIFY_OPTIONAL:
		if (context->role == KLOOP_TLS_CLIENT)
			return -EINVAL;
		mode = SSL_VERIFY_PEER;
		break;
	case KLOOP_TLS_VERIFY_REQUIRED:
		mode = SSL_VERIFY_PEER;
		if (context->role == KLOOP_TLS_SERVER)
			mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
		break;
	default:
		return -EINVAL;
	}
	SSL_CTX_set_verify(context->ssl_ctx, mode, SSL_CTX_get_verify_callback(context->ssl_ctx));
	return 0;
}

/* ---- application protocols -------------------------------------------- */

/* The first of ours that the client has. */
static int select_alpn(SSL *ssl, const unsigned char **ret_name, unsigned char *ret_length,
		       const unsigned char *offered, unsigned offered_bytes, void *unused)
{
	const struct kloop_tls_context *context = kl_tls_context_of_ssl_ctx(SSL_get_SSL_CTX(ssl));
	unsigned char *name;

	(void)unused;
	if (!context || context->alpn_bytes == 0 ||
	    SSL_select_next_proto(&name, ret_length, context->alpn, (unsigned)context->alpn_bytes,
				  offered, offered_bytes) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_NOACK;
	*ret_name = name;
	return SSL_TLSEXT_ERR_OK;
}

/* How many bytes the list takes on the wire, or -EINVAL. */
static ptrdiff_t measure_alpn(const char *const *protocols, size_t count)
{
	size_t bytes = 0;

	for (size_t i = 0; i < count; i++) {
		size_t length = protocols[i] ? strlen(protocols[i]) : 0;

		if (length == 0 || length > ALPN_NAME_MAX)
			return -EINVAL;
		bytes += 1 + length;
		if (bytes > ALPN_BYTES_MAX)
			return -EINVAL;
	}
	return (ptrdiff_t)bytes;
}

static void put_alpn(unsigned char *wire, const char *const *protocols, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		size_t length = strlen(protocols[i]);

		*wire++ = (unsigned char)length;
		memcpy(wire, protocols[i], length);
		wire += length;
	}
}

int kloop_tls_context_set_alpn(struct kloop_tls_context *context, const char *const *protocols,
			       size_t count)
{
	unsigned char *wire = NULL;
	ptrdiff_t bytes;

	if (!context || (!protocols && count > 0))
		return -EINVAL;
	bytes = measure_alpn(protocols, count);
	if (bytes < 0)
		return (int)bytes;
	if (bytes > 0) {
		wire = kl_malloc((size_t)bytes);
		if (!wire)
			return -ENOMEM;
		put_alpn(wire, protocols, count);
	}
	/* This function of OpenSSL's returns 0 for success. */
	if (context->role == KLOOP_TLS_CLIENT &&
	    SSL_CTX_set_alpn_protos(context->ssl_ctx, wire, (unsigned)bytes) != 0) {
		ERR_clear_error();
		kl_free(wire);
		return -ENOMEM;
	}
	if (context->role == KLOOP_TLS_SERVER)
		SSL_CTX_set_alpn_select_cb(context->ssl_ctx, wire ? select_alpn : NULL, NULL);
	kl_free(context->alpn);
	context->alpn = wire;
	context->alpn_bytes = (size_t)bytes;
	return 0;
}

/* ---- the name that a client asks for ---------------------------------- */

/*
 * OpenSSL of TLS 1.3 decides to resume before it asks us about the name: a
 * client could bring the ticket of a name that asks for no certificate to one
 * that does, and pass unverified.
 */
static bool is_resumed_from_elsewhere(const SSL *ssl, const char *name)
{
	const SSL_SESSION *session = SSL_get_session(ssl);
	const char *former;

	if (!session || !SSL_session_reused(ssl) || !(SSL_get_verify_mode(ssl) & SSL_VERIFY_PEER))
		return false;
	former = SSL_SESSION_get0_hostname(session);
	return former && name ? strcmp(former, name) != 0 : former != name;
}

static int call_name_function(struct kloop_tls *tls, const char *name)
{
	/* It may exchange tls->context. */
	kloop_tls_name_fn *function = tls->context->name_function;
	void *user = tls->context->name_user;
	int r;

	tls->state |= KL_TLS_NAMING;
	r = function(tls, name, user);
	tls->state &= ~(uint32_t)KL_TLS_NAMING;
	tls->state |= KL_TLS_NAMED;
	return r;
}

static int choose_by_name(SSL *ssl, int *alert, void *unused)
{
	struct kloop_tls *tls = kl_tls_of_ssl(ssl);
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);

	(void)unused;
	/* After a HelloRetryRequest the question comes again; it is answered already. */
	if (tls && tls->context && tls->context->name_function && !kl_tls_has(tls, KL_TLS_NAMED) &&
	    call_name_function(tls, name) < 0) {
		*alert = SSL_AD_UNRECOGNIZED_NAME;
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	}
	if (is_resumed_from_elsewhere(ssl, name)) {
		*alert = SSL_AD_ACCESS_DENIED;
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	}
	return name ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

int kloop_tls_context_set_name_function(struct kloop_tls_context *context,
					kloop_tls_name_fn *function, void *user)
{
	/* OpenSSL's macro casts just the name that it is given. */
	int (*callback)(SSL *, int *, void *) = function ? choose_by_name : NULL;

	if (!context || context->role != KLOOP_TLS_SERVER)
		return -EINVAL;
	context->name_function = function;
	context->name_user = user;
	SSL_CTX_set_tlsext_servername_callback(context->ssl_ctx, callback);
	return 0;
}

int kloop_tls_use_context(struct kloop_tls *tls, struct kloop_tls_context *context)
{
	if (!tls || !context || context->role != KLOOP_TLS_SERVER ||
	    !kl_tls_has(tls, KL_TLS_NAMING))
		return -EINVAL;
	if (!SSL_set_SSL_CTX(tls->ssl, context->ssl_ctx)) {
		ERR_clear_error();
		return -ENOMEM;
	}
	/* Certificates and trust follow the SSL_CTX, what is asked of the peer does not. */
	SSL_set_verify(tls->ssl, SSL_CTX_get_verify_mode(context->ssl_ctx),
		       SSL_CTX_get_verify_callback(context->ssl_ctx));
	SSL_set_verify_depth(tls->ssl, SSL_CTX_get_verify_depth(context->ssl_ctx));
	kloop_tls_context_ref(context);
	kloop_tls_context_unref(tls->context);
	tls->context = context;
	return 0;
}

/* ---- secrets, tickets, the kernel ------------------------------------- */

static void write_keylog(const SSL *ssl, const char *line)
{
	const struct kloop_tls_context *context = kl_tls_context_of_ssl_ctx(SSL_get_SSL_CTX(ssl));

	if (context && context->keylog_function)
		context->keylog_function(line, context->keylog_user);
}

int kloop_tls_context_set_keylog(struct kloop_tls_context *context, kloop_tls_keylog_fn *function,
				 void *user)
{
	if (!context)
		return -EINVAL;
	context->keylog_function = function;
	context->keylog_user = user;
	/* Once: sessions that may move into the kernel put a callback before ours. */
	if (function && !context->has_keylog) {
		context->has_keylog = true;
		SSL_CTX_set_keylog_callback(context->ssl_ctx, write_keylog);
	}
	return 0;
}

int kloop_tls_context_set_ticket_count(struct kloop_tls_context *context, unsigned count)
{
	if (!context || context->role != KLOOP_TLS_SERVER || count > TICKETS_MAX)
		return -EINVAL;
	/* Besides, TLS 1.2 knows one ticket or none. */
	if (count == 0)
		SSL_CTX_set_options(context->ssl_ctx, SSL_OP_NO_TICKET);
	else
		SSL_CTX_clear_options(context->ssl_ctx, SSL_OP_NO_TICKET);
	return SSL_CTX_set_num_tickets(context->ssl_ctx, count) == 1 ? 0 : -EINVAL;
}

int kloop_tls_context_set_ktls(struct kloop_tls_context *context, enum kloop_ktls_mode mode)
{
	if (!context ||
	    (mode != KLOOP_KTLS_OFF && mode != KLOOP_KTLS_AUTO && mode != KLOOP_KTLS_ON))
		return -EINVAL;
	context->ktls_mode = mode;
	return 0;
}
