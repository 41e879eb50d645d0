/* SPDX-License-Identifier: MulanPSL-2.0 */
/* What sessions are asked, and what their failures mean. */
#include "tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

/* ---- the connection --------------------------------------------------- */

/* Before the end of the handshake OpenSSL tells of the session that is to be resumed. */
static bool is_open(const struct kloop_tls *tls)
{
	return tls && (kl_tls_has(tls, KL_TLS_OPEN) || SSL_is_init_finished(tls->ssl));
}

unsigned kloop_tls_get_version(const struct kloop_tls *tls)
{
	return is_open(tls) ? (unsigned)SSL_version(tls->ssl) : 0;
}

const char *kloop_tls_get_cipher(const struct kloop_tls *tls)
{
	return is_open(tls) ? SSL_get_cipher_name(tls->ssl) : NULL;
}

size_t kloop_tls_get_alpn(const struct kloop_tls *tls, const char **ret_protocol)
{
	const unsigned char *protocol = NULL;
	unsigned bytes = 0;

	if (tls)
		SSL_get0_alpn_selected(tls->ssl, &protocol, &bytes);
	if (ret_protocol)
		*ret_protocol = bytes > 0 ? (const char *)protocol : NULL;
	return bytes;
}

const char *kloop_tls_get_name(const struct kloop_tls *tls)
{
	return tls ? SSL_get_servername(tls->ssl, TLSEXT_NAMETYPE_host_name) : NULL;
}

bool kloop_tls_is_resumed(const struct kloop_tls *tls)
{
	return is_open(tls) && SSL_session_reused(tls->ssl) == 1;
}

ptrdiff_t kloop_tls_copy_peer_certificate(const struct kloop_tls *tls, void *buffer,
					  size_t capacity)
{
	X509 *certificate = is_open(tls) ? SSL_get0_peer_certificate(tls->ssl) : NULL;
	unsigned char *out = buffer;
	int bytes;

	if (!tls)
		return -EINVAL;
	if (!certificate)
		return -ENOENT;
	bytes = i2d_X509(certificate, NULL);
	if (bytes > 0 && buffer && (size_t)bytes > capacity)
		return -EMSGSIZE;
	if (bytes > 0 && buffer)
		bytes = i2d_X509(certificate, &out);
	if (bytes > 0)
		return bytes;
	ERR_clear_error();
	return -ENOMEM;
}

int kloop_tls_get_ktls(const struct kloop_tls *tls, enum kloop_tls_direction direction)
{
	if (!tls || (direction != KLOOP_TLS_SEND && direction != KLOOP_TLS_RECEIVE))
		return -EINVAL;
	return tls->ktls_reason[direction];
}

SSL *kloop_tls_get_ssl(const struct kloop_tls *tls)
{
	return tls ? tls->ssl : NULL;
}

const void *kloop_tls_get_library(void)
{
	return (const void *)(uintptr_t)SSL_new;
}

/* ---- failures --------------------------------------------------------- */

/*
 * Errors of ERR_LIB_SSL that are no doing of the peer: of OpenSSL itself, or of
 * how the connection was set up on this side.
 */
static bool is_own_fault(int reason)
{
	switch (reason) {
	case ERR_R_INTERNAL_ERROR:
	case SSL_R_BIO_NOT_SET:
	case SSL_R_CONNECTION_TYPE_NOT_SET:
	case SSL_R_LIBRARY_BUG:
	case SSL_R_LIBRARY_HAS_NO_CIPHERS:
	case SSL_R_NO_CERTIFICATE_ASSIGNED:
	case SSL_R_NO_CIPHERS_AVAILABLE:
	case SSL_R_NO_PRIVATE_KEY_ASSIGNED:
	case SSL_R_NO_PROTOCOLS_AVAILABLE:
	case SSL_R_PROTOCOL_IS_SHUTDOWN:
	case SSL_R_SESSION_ID_CONTEXT_UNINITIALIZED:
	case SSL_R_UNINITIALIZED:
		return true;
	default:
		return false;
	}
}

static int classify_ssl(struct kloop_tls *tls, int reason)
{
	/* The numbers of alerts have one byte. */
	if (reason >= SSL_AD_REASON_OFFSET && reason <= SSL_AD_REASON_OFFSET + UINT8_MAX) {
		tls->alert = reason - SSL_AD_REASON_OFFSET;
		return KLOOP_ERROR_TLS_ALERT;
	}
	switch (reason) {
	case SSL_R_CERTIFICATE_VERIFY_FAILED:
	case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
		return KLOOP_ERROR_TLS_VERIFY;
	case SSL_R_UNEXPECTED_EOF_WHILE_READING:
		return KLOOP_ERROR_TLS_TRUNCATED;
	}
	return is_own_fault(reason) ? KLOOP_ERROR_TLS_LIBRARY : KLOOP_ERROR_TLS_PROTOCOL;
}

/* What an entry of OpenSSL's queue means, beginning with the code that the caller has. */
static int classify(struct kloop_tls *tls, int code, unsigned long error)
{
	if (error == 0 || (code != KLOOP_ERROR_TLS_PROTOCOL && code != KLOOP_ERROR_TLS_LIBRARY))
		return code;
	if (ERR_SYSTEM_ERROR(error))
		return -ERR_GET_REASON(error);
	if (ERR_GET_LIB(error) == ERR_LIB_SSL)
		return classify_ssl(tls, ERR_GET_REASON(error));
	return KLOOP_ERROR_TLS_LIBRARY;
}

/*
 * Empty the queue. Returns its newest entry of the TLS code, which says what
 * went wrong and not where deep inside; failing that, the newest of all.
 */
static unsigned long take_error(bool *ret_no_memory)
{
	unsigned long error, newest = 0, newest_ssl = 0;

	*ret_no_memory = false;
	while ((error = ERR_get_error()) != 0) {
		newest = error;
		if (ERR_GET_LIB(error) == ERR_LIB_SSL)
			newest_ssl = error;
		if (ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE)
			*ret_no_memory = true;
	}
	return newest_ssl ? newest_ssl : newest;
}

static void compose_text(struct kloop_tls *tls)
{
	const char *what = kloop_strerror(tls->error);
	const char *reason = tls->openssl_error ? ERR_reason_error_string(tls->openssl_error) :
						  NULL;
	long verified = SSL_get_verify_result(tls->ssl);

	if (tls->error == KLOOP_ERROR_TLS_ALERT) {
		const char *alert = SSL_alert_desc_string_long(tls->alert);

		/* It has no words for those of TLS 1.3, for which the error has. */
		if (!reason || strcmp(alert, "unknown") != 0)
			reason = alert;
	} else if (tls->error == KLOOP_ERROR_TLS_VERIFY && verified != X509_V_OK)
		reason = X509_verify_cert_error_string(verified);
	snprintf(tls->text, sizeof(tls->text), reason ? "%s: %s" : "%s", what, reason);
}

int kl_tls_note_failure(struct kloop_tls *tls, int error)
{
	bool no_memory;
	unsigned long openssl_error = take_error(&no_memory);

	if (tls->error != 0)
		return tls->error;
	tls->openssl_error = openssl_error;
	tls->error = no_memory ? -ENOMEM : classify(tls, error, openssl_error);
	compose_text(tls);
	return tls->error;
}

/* Is it the end that OpenSSL stumbled over, and not an alert, say, that came before it? */
static bool is_by_end(void)
{
	unsigned long error = ERR_peek_last_error();

	return error == 0 || (ERR_GET_LIB(error) == ERR_LIB_SSL &&
			      ERR_GET_REASON(error) == SSL_R_UNEXPECTED_EOF_WHILE_READING);
}

int kl_tls_note_refusal(struct kloop_tls *tls)
{
	/* The peer's end inside a record; the records before it have been read. */
	if (kl_tls_has(tls, KL_TLS_RAW_ENDED) && !kl_tls_has_input(tls) && is_by_end())
		return kl_tls_note_failure(tls, tls->raw_error < 0 ? tls->raw_error
								   : KLOOP_ERROR_TLS_TRUNCATED);
	return kl_tls_note_failure(tls, KLOOP_ERROR_TLS_PROTOCOL);
}

long kloop_tls_get_verify_result(const struct kloop_tls *tls)
{
	return tls ? SSL_get_verify_result(tls->ssl) : X509_V_ERR_UNSPECIFIED;
}

int kloop_tls_get_alert(const struct kloop_tls *tls)
{
	return tls ? tls->alert : -1;
}

unsigned long kloop_tls_get_openssl_error(const struct kloop_tls *tls)
{
	return tls ? tls->openssl_error : 0;
}

const char *kloop_tls_get_error_text(const struct kloop_tls *tls)
{
	if (!tls)
		return kloop_strerror(-EINVAL);
	return tls->text[0] ? tls->text : kloop_strerror(tls->error);
}
