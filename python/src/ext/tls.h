/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * TLS of the stream transport, as its files share it.
 *
 * tls_guard.c           may the SSL object behind Python's be used? found, proved
 * tls_error.c           failures as the ssl module would raise them
 * tls_info.c            what get_extra_info() tells of it
 * transport_tls.c       start, handshake, and how a TLS connection ends
 * transport_tls_new.c   loop._make_tls_transport(), loop._upgrade_tls(), accepted ones
 *
 * The ssl module configures a connection: sslcontext.wrap_bio() makes an
 * SSLObject, and the SSL behind it is handed to libkloop, which does everything
 * else. The steps of the handshake go through SSLObject.do_handshake(), so that
 * exceptions, callbacks and overridden methods are Python's own.
 */
#ifndef KL_TLS_H
#define KL_TLS_H

#include "transport.h"

struct ssl_st;

/* What a user asked for. The objects are borrowed where nothing else is said. */
struct kl_tls_options {
	PyObject *sslcontext;
	PyObject *server_hostname;   /* NULL: none */
	PyObject *handshake_timeout; /* as it was given, for the text of an exception */
	uint64_t handshake_ns;
	uint64_t shutdown_ns;
	bool server_side;
	bool known; /* the protocol has seen connection_made() already */
	PyObject *early; /* bytes of the handshake that came before it; NULL: none */
};

/* The TLS of a transport, from its start to the transport's end. */
struct kl_transport_tls {
	struct kloop_tls *session; /* the stream's; NULL once that is closed */
	/*
	 * The SSLObject. Callbacks of the ssl module reach it through the SSL by
	 * pointers that nobody counts: it stays until the stream is closed.
	 */
	PyObject *ssl_object;
	PyObject *sslcontext;
	PyObject *handshake_timeout;
	PyObject *failure; /* what do_handshake() raised */
	uint64_t begin_ns;
	uint64_t handshake_ns;
	uint64_t shutdown_ns;
	struct kloop_timer shutdown_timer; /* from close() to the stream's end */
	TransportObject *transport;        /* whose this is */
	int ktls[2];           /* by direction, kept when the session goes */
	bool server_side;
	bool handshaking;
	bool open;             /* the handshake ended well */
	bool known;            /* the protocol has seen connection_made() */
	bool eof_told;         /* and eof_received() */
	bool truncated;        /* the peer's end broke the stream, too */
};

/* ---- tls_guard.c ------------------------------------------------------ */

/* Functions of the OpenSSL that the ssl module uses: found once, never closed. */
struct kl_tls_library {
	struct ssl_ctx_st *(*get_ctx)(const struct ssl_st *ssl);
	uint64_t (*set_options)(struct ssl_st *ssl, uint64_t options);
	void (*error_new)(void);
	void (*error_set)(int library, int reason, const char *format, ...);
	void (*error_clear)(void);
};

/* Exceptions of the ssl module. Looked up once: later there may be no memory for it. */
enum kl_tls_class {
	KL_TLS_SSL_ERROR,
	KL_TLS_WANT_READ,
	KL_TLS_WANT_WRITE,
	KL_TLS_EOF,
	KL_TLS_ZERO_RETURN,
	KL_TLS_VERIFICATION,
	KL_TLS_CLASSES
};

/* The module's state of TLS, made at the first connection that wants it. */
struct kl_tls_module {
	PyObject *ssl;            /* the module */
	PyObject *memory_bio;     /* ssl.MemoryBIO */
	PyObject *object_type;    /* ssl.SSLObject */
	PyObject *classes[KL_TLS_CLASSES];
	PyTypeObject *inner_type; /* of SSLObject._sslobj */
	struct kl_tls_library library;
	const char *refusal; /* NULL: proved */
	PyObject *forced;    /* a test's refusal */
};

/*
 * Is the extension module at `path`, which the ssl module uses, linked with
 * libkloop's OpenSSL, and do an SSLContext and what its wrap_bio() made lie in
 * memory as expected? Returns: NULL, or why not, in words.
 */
const char *kl_tls_prove(const char *path, PyObject *sslcontext, PyObject *inner,
			 struct kl_tls_library *ret_library);

/* The state, with the proof done. NULL with an error set. */
struct kl_tls_module *kl_tls_module_get(struct kl_state *state);

/*
 * Make the SSLObject of a connection, and find its SSL.
 *
 * Returns: 1; 0 if it is not one that libkloop may use; -1 with an error set.
 */
int kl_tls_wrap(struct kl_state *state, const struct kl_tls_options *options,
		PyObject **ret_ssl_object, struct ssl_st **ret_ssl);

/* Module functions: _tls_refusal(), _tls_refuse(), _tls_prove(). */
PyObject *kl_tls_refusal_py(PyObject *module, PyObject *unused);
PyObject *kl_tls_refuse_py(PyObject *module, PyObject *why);
PyObject *kl_tls_prove_py(PyObject *module, PyObject *args);

/* ---- tls_error.c ------------------------------------------------------ */

/* The exception of a code that a session of libkloop failed with. New; NULL with an error set. */
PyObject *kl_tls_exception(TransportObject *self, int code);

/* Is it an exception of this class of the ssl module? */
bool kl_tls_is(struct kl_state *state, PyObject *exception, enum kl_tls_class kind);

/* ---- transport_tls.c -------------------------------------------------- */

/*
 * Give a transport that has a stream its TLS, and begin the handshake. 0, or
 * -1 with an error set: then it has none.
 */
int kl_transport_tls_start(TransportObject *self, const struct kl_tls_options *options,
			   PyObject *ssl_object, struct ssl_st *ssl);

/* ---- transport_tls_new.c ---------------------------------------------- */

/*
 * Time-outs as they were given (NULL and None: asyncio's) into the options,
 * whose handshake_timeout is a new reference then. 0, or -1 with an error set.
 */
int kl_tls_set_timeouts(struct kl_tls_options *options, PyObject *handshake, PyObject *shutdown);

/*
 * Make a TLS transport of an accepted descriptor, which is owned unless the
 * result is 0: then asyncio's way must be taken. Otherwise 1, or -1 with an
 * error set.
 */
int kl_transport_accept_tls(LoopObject *loop, int fd, PyObject *protocol_factory,
			    PyObject *server, PyObject *context,
			    const struct kl_tls_options *options);

#endif
