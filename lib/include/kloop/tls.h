/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * TLS 1.2 and 1.3 over streams, by OpenSSL 3, and in the kernel where it can.
 *
 * A context holds what connections share: certificates, trust, protocols. A
 * session is one connection's TLS; kloop_tls_start() upgrades a stream with
 * it. From then on the functions and handlers of the stream deal in plaintext.
 * Each direction may move into the kernel (kTLS) after the handshake; nothing
 * but speed and kloop_tls_get_ktls() tells the difference. kloop-ktls(7)
 * describes that.
 *
 * Everything that OpenSSL offers and that has no function here is reached by
 * kloop_tls_context_get_ssl_ctx() and kloop_tls_get_ssl(), with OpenSSL's own
 * headers; or a program configures an SSL object and hands it to
 * kloop_tls_new_wrap().
 */
#ifndef KLOOP_TLS_H
#define KLOOP_TLS_H

#include <kloop/base.h>

KLOOP_BEGIN_DECLS

struct kloop_stream;
struct kloop_tls;
struct kloop_tls_context;
struct kloop_tls_ticket;

/* OpenSSL's SSL, SSL_CTX and SSL_SESSION. */
struct ssl_st;
struct ssl_ctx_st;

enum kloop_tls_role {
	KLOOP_TLS_CLIENT,
	KLOOP_TLS_SERVER,
};

/* Versions as the protocol numbers them. */
enum kloop_tls_version {
	KLOOP_TLS_1_2 = 0x0303,
	KLOOP_TLS_1_3 = 0x0304,
};

enum kloop_tls_verify {
	/* Ask for no certificate, or look at none. */
	KLOOP_TLS_VERIFY_NONE,
	/* Servers: ask for one; the client may have none, but not a bad one. */
	KLOOP_TLS_VERIFY_OPTIONAL,
	/* The peer must have a certificate that is trusted. */
	KLOOP_TLS_VERIFY_REQUIRED,
};

/* When encryption moves into the kernel. */
enum kloop_ktls_mode {
	/* Never. Also the environment variable KLOOP_KTLS=0, for the whole process. */
	KLOOP_KTLS_OFF,
	/*
	 * When it pays: the sending direction at the first
	 * kloop_stream_send_file(). The default.
	 */
	KLOOP_KTLS_AUTO,
	/* Both directions, right after the handshake. */
	KLOOP_KTLS_ON,
};

enum kloop_tls_direction {
	KLOOP_TLS_SEND,
	KLOOP_TLS_RECEIVE,
};

/* ---- contexts --------------------------------------------------------- */

/*
 * Make a context with safe defaults: TLS 1.2 or newer, no compression, no
 * renegotiation; clients require a trusted certificate that fits the name, by
 * the system's trust store; servers ask for none, trust nobody until they are
 * told whom, and need a certificate of their own.
 *
 * The system's trust store is read once, with the first session of a client's
 * context that was given no trust of its own; that takes tens of milliseconds.
 * A store that cannot be read trusts nobody, and is no error here.
 *
 * A context is complete before the first session is made of it; later changes
 * are for later sessions.
 *
 * Ownership: one reference, dropped by kloop_tls_context_unref().
 * Thread: contexts may be made and used in any thread, one at a time;
 * references are counted atomically.
 * Returns: 0; -EINVAL; -ENOMEM; KLOOP_ERROR_TLS_LIBRARY.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_context_new(enum kloop_tls_role role,
				       struct kloop_tls_context **ret_context) KLOOP_MUST_CHECK;

/* Another reference; returns the context. Since: 0.1. */
KLOOP_EXPORT struct kloop_tls_context *kloop_tls_context_ref(struct kloop_tls_context *context);

/* Drop a reference. NULL is allowed. Returns: NULL. Since: 0.1. */
KLOOP_EXPORT struct kloop_tls_context *kloop_tls_context_unref(struct kloop_tls_context *context);

/*
 * Set the range of protocol versions, of enum kloop_tls_version; 0 leaves an
 * end as it is.
 *
 * Returns: 0; -EINVAL.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_context_set_versions(struct kloop_tls_context *context,
						unsigned minimum,
						unsigned maximum) KLOOP_MUST_CHECK;

/*
 * Set the ciphers, as openssl-ciphers(1) spells them; NULL leaves a list as it
 * is.
 *
 * tls12: the list for TLS 1.2. tls13: the ciphersuites for TLS 1.3.
 *
 * Returns: 0; -EINVAL if nothing in a list is known.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_context_set_ciphers(struct kloop_tls_context *context, const char *tls12,
					       const char *tls13) KLOOP_MUST_CHECK;

/*
 * Use a certificate and its key, read from PEM files: the certificate first in
 * its file, then those that lead to the root. Called again, for another kind of
 * key, it adds one. The call reads files and blocks; make contexts early.
 *
 * Returns: 0; -EINVAL; -ENOENT, -EACCES and so on for a file that cannot be
 * read; KLOOP_ERROR_TLS_CERTIFICATE if a file holds nothing usable, the key is
 * encrypted, or key and certificate do not belong together; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int
kloop_tls_context_load_certificate(struct kloop_tls_context *context, const char *chain_path,
				   const char *key_path) KLOOP_MUST_CHECK;

/*
 * The same from PEM text in memory, which is not kept.
 *
 * Returns: as kloop_tls_context_load_certificate(), without errors of files.
 * Since: 0.1.
 */
KLOOP_EXPORT int
kloop_tls_context_use_certificate(struct kloop_tls_context *context, const void *chain_pem,
				  size_t chain_bytes, const void *key_pem,
				  size_t key_bytes) KLOOP_MUST_CHECK;

/*
 * Trust the certificates of a PEM file, of a folder as openssl-rehash(1) makes
 * it, or of both; either may be NULL. The first call of this or of
 * kloop_tls_context_trust() replaces the system's trust store, further ones
 * add. The call reads files and blocks.
 *
 * Returns: as kloop_tls_context_load_certificate().
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_context_load_trust(struct kloop_tls_context *context,
					      const char *file_path,
					      const char *folder_path) KLOOP_MUST_CHECK;

/* The same from PEM text in memory, which is not kept. Since: 0.1. */
KLOOP_EXPORT int kloop_tls_context_use_trust(struct kloop_tls_context *context,
					     const void *pem, size_t bytes) KLOOP_MUST_CHECK;

/*
 * What is asked of the peer's certificate. A client with KLOOP_TLS_VERIFY_NONE
 * can be lied to by anybody on the way. In TLS 1.3 a client's handshake is done
 * before the server has seen its certificate: a refusal comes by on_error.
 *
 * Returns: 0; -EINVAL, also for KLOOP_TLS_VERIFY_OPTIONAL on a client.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_context_set_verify(struct kloop_tls_context *context,
					      enum kloop_tls_verify verify) KLOOP_MUST_CHECK;

/*
 * Offer application protocols (RFC 7301), or accept them on a server: the first
 * of the server's list that the client has is taken. Without one in common the
 * handshake goes on without a protocol.
 *
 * protocols: strings of 1 to 255 bytes, the dearest first; copied.
 *
 * Returns: 0; -EINVAL; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_context_set_alpn(struct kloop_tls_context *context,
					    const char *const *protocols,
					    size_t count) KLOOP_MUST_CHECK;

/*
 * A client named the server it wants (SNI, RFC 6066): answer with
 * kloop_tls_use_context(), or do nothing to have the context's own certificate
 * used. It is called once for a handshake, and first of all that depends on
 * the name.
 *
 * name: as the client sent it, valid during the call; NULL if it named none.
 * In a resumed connection of TLS 1.2, the name of the first one. In TLS 1.3 a
 * ticket that was given to another name ends the handshake with the alert
 * access_denied where clients are verified.
 *
 * Returns: 0 to go on; a negative value ends the handshake with the alert
 * unrecognized_name, and with KLOOP_ERROR_TLS_PROTOCOL on this side.
 */
typedef int kloop_tls_name_fn(struct kloop_tls *tls, const char *name, void *user);

/*
 * Call a function for each handshake of a server.
 *
 * Thread: the function is called from a turn of the stream's loop.
 * Returns: 0; -EINVAL for a client's context.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_context_set_name_function(struct kloop_tls_context *context,
						     kloop_tls_name_fn *function,
						     void *user) KLOOP_MUST_CHECK;

/*
 * A secret of a connection, as a line of the format that Wireshark and others
 * read (NSS key log), without a newline; valid during the call.
 */
typedef void kloop_tls_keylog_fn(const char *line, void *user);

/*
 * Hand out the secrets of all connections of this context, to analyse captures.
 * Whoever has them reads everything. NULL switches it off, which is the default.
 *
 * Returns: 0; -EINVAL.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_context_set_keylog(struct kloop_tls_context *context,
					      kloop_tls_keylog_fn *function,
					      void *user) KLOOP_MUST_CHECK;

/*
 * How many session tickets a server hands to each client, to resume with; the
 * default is OpenSSL's (2 with TLS 1.3). 0: no connection is resumed.
 *
 * Returns: 0; -EINVAL for a client's context or more than 16.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_context_set_ticket_count(struct kloop_tls_context *context,
						    unsigned count) KLOOP_MUST_CHECK;

/* What sessions of this context begin with; the default is KLOOP_KTLS_AUTO. Since: 0.1. */
KLOOP_EXPORT int kloop_tls_context_set_ktls(struct kloop_tls_context *context,
					    enum kloop_ktls_mode mode) KLOOP_MUST_CHECK;

/*
 * OpenSSL's context, for what has no function here.
 *
 * Ownership: the context's. Do not replace its servername, ALPN, keylog and
 * info callbacks.
 * Since: 0.1.
 */
KLOOP_EXPORT struct ssl_ctx_st *kloop_tls_context_get_ssl_ctx(struct kloop_tls_context *context);

/* ---- sessions, before they start -------------------------------------- */

/*
 * Make the session of one connection.
 *
 * Ownership: the caller's until kloop_tls_start() succeeded, from then on the
 * stream's; until then kloop_tls_free() frees it. It keeps a reference on the
 * context.
 * Returns: 0; -EINVAL; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_new(struct kloop_tls_context *context,
			       struct kloop_tls **ret_tls) KLOOP_MUST_CHECK;

/*
 * Make a session of an SSL object that the caller configured with OpenSSL's own
 * functions, SSL_set_connect_state(3) or SSL_set_accept_state(3) included.
 *
 * The session gives it BIOs of its own, switches renegotiation off, and uses
 * ex_data of its own. Nothing of the handshake may have happened. Where it has
 * SSL_OP_IGNORE_UNEXPECTED_EOF an end without close_notify is on_eof.
 *
 * Ownership: the session takes a reference on the SSL object.
 * Returns: as kloop_tls_new().
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_new_wrap(struct ssl_st *ssl,
				    struct kloop_tls **ret_tls) KLOOP_MUST_CHECK;

/* Free a session that was not started. NULL is allowed. Since: 0.1. */
KLOOP_EXPORT void kloop_tls_free(struct kloop_tls *tls);

/*
 * Name the server that a client wants: sent to it (SNI) and compared with the
 * names in its certificate, where a wildcard stands for one whole label. An IP
 * address is compared, and not sent.
 *
 * Without a name a client's handshake fails with KLOOP_ERROR_TLS_VERIFY before
 * anything is sent, unless verification is off.
 *
 * name: in ASCII (IDNA's A-labels), a dot at the end is ignored; copied. ""
 * switches both off. A ticket that was set is dropped.
 *
 * Returns: 0; -EINVAL, also for a server, for what is no host name, and for a
 * name of over 255 bytes; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_set_name(struct kloop_tls *tls, const char *name) KLOOP_MUST_CHECK;

/*
 * Resume a former session of a client (one round trip less of arithmetic): the
 * server may refuse, and a full handshake follows. To be called after
 * kloop_tls_set_name().
 *
 * A resumed session is not verified again. So, unless verification is off, the
 * ticket must come from a session that was verified, and for the same name.
 *
 * Ownership: the ticket stays the caller's.
 * Returns: 0; -EINVAL, also for a server, for a ticket that does not fit, and
 * if it has started.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_set_ticket(struct kloop_tls *tls,
				      const struct kloop_tls_ticket *ticket) KLOOP_MUST_CHECK;

/*
 * Set time limits; KLOOP_FOREVER for none.
 *
 * handshake_ns: from kloop_tls_start(), or from the connection's coming to be.
 * The default is 60 s; the stream fails with -ETIMEDOUT.
 * shutdown_ns: for the clean end after kloop_stream_close(), from the moment
 * when everything queued was sent to the arrival of the peer's close_notify.
 * The default is 30 s; on_error tells -ETIMEDOUT. 0: do not wait for the
 * peer's at all.
 *
 * Returns: 0; -EINVAL if it has started.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_set_timeouts(struct kloop_tls *tls, uint64_t handshake_ns,
					uint64_t shutdown_ns) KLOOP_MUST_CHECK;

/* When encryption moves into the kernel. Returns: 0; -EINVAL if it has started. Since: 0.1. */
KLOOP_EXPORT int kloop_tls_set_ktls(struct kloop_tls *tls,
				    enum kloop_ktls_mode mode) KLOOP_MUST_CHECK;

/*
 * Takes a step of the handshake in place of the library: it has to call
 * SSL_do_handshake(3) once.
 *
 * Returns: 1 if that returned 1; 0 if it wants to read or write; a negative
 * code to end the connection with it.
 */
typedef int kloop_tls_step_fn(struct kloop_tls *tls, void *user);

/*
 * Let a function take the steps of the handshake, for bindings that must do so
 * by their language's own means.
 *
 * Returns: 0; -EINVAL if it has started.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_set_step(struct kloop_tls *tls, kloop_tls_step_fn *step,
				    void *user) KLOOP_MUST_CHECK;

/*
 * Hand over bytes of the handshake that arrived before the upgrade and that the
 * owner of the stream has taken already. Those that the stream itself holds
 * need no help.
 *
 * Returns: 0; -EINVAL if it has started; -ENOMEM; -EMSGSIZE above 1 MiB.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_feed(struct kloop_tls *tls, const void *data,
				size_t bytes) KLOOP_MUST_CHECK;

/* ---- start ------------------------------------------------------------ */

/*
 * The handshake ended: 0, or a negative code, after which the stream can only be
 * closed. The code is one of KLOOP_ERROR_TLS_*, -ETIMEDOUT, or what broke the
 * connection. Called at most once, and not after kloop_stream_close().
 */
typedef void kloop_tls_handshake_fn(struct kloop_stream *stream, int result, void *user);

/*
 * Upgrade a stream to TLS.
 *
 * on_handshake: may be NULL; an error is told by on_error then. user: the
 * stream's.
 *
 * What was written before leaves in the clear before it; what is written after,
 * encrypted once the handshake is done. A stream that is not connected yet
 * begins when it is. From here on the stream's handlers get plaintext:
 *
 * - on_eof: the peer sent close_notify. An end without it, which an attacker
 *   can bring about, is on_error with KLOOP_ERROR_TLS_TRUNCATED.
 * - kloop_stream_shutdown() sends close_notify and ends the TCP direction;
 *   kloop_stream_close() sends it, and waits for the peer's as
 *   kloop_tls_set_timeouts() says; kloop_stream_abort() sends nothing.
 * - A write's release tells that the bytes were encrypted, or handed to the
 *   kernel in kTLS.
 *
 * Completion: on_handshake.
 * Ownership: the stream's, until its on_close has returned.
 * Thread: the owner of the stream's loop.
 * Returns: 0; -EINVAL, also if the stream has TLS already; -EOPNOTSUPP for a
 * pipe; -ESTALE after close, an error or the end of either direction; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_start(struct kloop_tls *tls, struct kloop_stream *stream,
				 kloop_tls_handshake_fn *on_handshake) KLOOP_MUST_CHECK;

/* The session of a stream; NULL if it has none. Since: 0.1. */
KLOOP_EXPORT struct kloop_tls *kloop_tls_get(const struct kloop_stream *stream);

/* ---- sessions --------------------------------------------------------- */

/*
 * In a name function: take certificates, trust, verification and application
 * protocols of another context. Versions and ciphers stay.
 *
 * Returns: 0; -EINVAL, also elsewhere and for a client's context; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_use_context(struct kloop_tls *tls,
				       struct kloop_tls_context *context) KLOOP_MUST_CHECK;

/* The version in use, of enum kloop_tls_version; 0 before the handshake. Since: 0.1. */
KLOOP_EXPORT unsigned kloop_tls_get_version(const struct kloop_tls *tls);

/* The name of the cipher in use, by OpenSSL; NULL before the handshake. Since: 0.1. */
KLOOP_EXPORT const char *kloop_tls_get_cipher(const struct kloop_tls *tls);

/*
 * The application protocol that was agreed on.
 *
 * ret_protocol: not terminated, valid as long as the session; NULL for none.
 *
 * Returns: its length; 0 for none.
 * Since: 0.1.
 */
KLOOP_EXPORT size_t kloop_tls_get_alpn(const struct kloop_tls *tls, const char **ret_protocol);

/* The name that the client asked for; NULL for none. Since: 0.1. */
KLOOP_EXPORT const char *kloop_tls_get_name(const struct kloop_tls *tls);

/* Was an earlier session resumed? Since: 0.1. */
KLOOP_EXPORT bool kloop_tls_is_resumed(const struct kloop_tls *tls);

/*
 * The peer's certificate in DER form, copied.
 *
 * buffer: NULL to ask for the size alone. capacity: its bytes.
 *
 * Returns: the size; -ENOENT if the peer has none, and before the handshake;
 * -EMSGSIZE if it does not fit; -EINVAL; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT ptrdiff_t kloop_tls_copy_peer_certificate(const struct kloop_tls *tls, void *buffer,
						       size_t capacity) KLOOP_MUST_CHECK;

/*
 * What a client resumes with later: the newest ticket. Servers send tickets
 * after the handshake; the first data of the peer brings them along.
 *
 * Ownership: the caller's; freed by kloop_tls_ticket_free().
 * Returns: 0; -ENOENT if the server gave none so far; -EINVAL, also for a
 * server; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_get_ticket(const struct kloop_tls *tls,
				      struct kloop_tls_ticket **ret_ticket) KLOOP_MUST_CHECK;

/* NULL is allowed. Since: 0.1. */
KLOOP_EXPORT void kloop_tls_ticket_free(struct kloop_tls_ticket *ticket);

/*
 * Is a direction in the kernel?
 *
 * Returns: 1; or the reason why not: KLOOP_ERROR_KTLS_*, or the negative errno
 * with which the kernel refused. -EINVAL for a bad argument.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_get_ktls(const struct kloop_tls *tls,
				    enum kloop_tls_direction direction);

/*
 * Renew the keys of a TLS 1.3 connection (KeyUpdate, RFC 8446 section 4.6.3).
 * The library does so by itself before AES-GCM's limit of records.
 *
 * request_peer: ask the peer to renew its own.
 *
 * Returns: 0; -EOPNOTSUPP for TLS 1.2, or if the kernel encrypts and cannot
 * take a new key (before Linux 6.14); -EALREADY while one is under way, or a
 * ticket of the peer's that has come in part; -ENOTCONN before the handshake;
 * -ESTALE.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_tls_update_keys(struct kloop_tls *tls, bool request_peer) KLOOP_MUST_CHECK;

/* X509_V_OK (0), or why the peer's certificate was refused: X509_V_ERR_*. Since: 0.1. */
KLOOP_EXPORT long kloop_tls_get_verify_result(const struct kloop_tls *tls);

/* The fatal alert that the peer sent (RFC 8446 section 6); -1 for none. Since: 0.1. */
KLOOP_EXPORT int kloop_tls_get_alert(const struct kloop_tls *tls);

/*
 * What OpenSSL said about the failure, packed as ERR_get_error(3) returns it;
 * 0 if it said nothing. ERR_error_string_n(3) makes text of it.
 *
 * Since: 0.1.
 */
KLOOP_EXPORT unsigned long kloop_tls_get_openssl_error(const struct kloop_tls *tls);

/*
 * The failure in words, with OpenSSL's own where it has some.
 *
 * Ownership: the session's, valid until its next function is called.
 * Since: 0.1.
 */
KLOOP_EXPORT const char *kloop_tls_get_error_text(const struct kloop_tls *tls);

/*
 * OpenSSL's object, for what has no function here. Do not read or write by it,
 * and do not replace its BIOs.
 *
 * Ownership: the session's.
 * Since: 0.1.
 */
KLOOP_EXPORT struct ssl_st *kloop_tls_get_ssl(const struct kloop_tls *tls);

/*
 * The address of SSL_new(3) as this library calls it: a program that shares
 * OpenSSL objects with it by other means can see whether both use the same
 * OpenSSL.
 *
 * Since: 0.1.
 */
KLOOP_EXPORT const void *kloop_tls_get_library(void);

KLOOP_END_DECLS

#endif
