/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A transport's TLS: its start, the handshake, and its ends.
 *
 * Between the handshake and the end nothing differs from a plain transport:
 * the stream takes and gives plaintext. What protocols and waiters see is what
 * asyncio's sslproto shows them:
 *
 * - connection_made() comes after the handshake. If that fails the protocol
 *   hears nothing, unless it knew the connection before (start_tls()), and the
 *   waiter gets the exception of the ssl module.
 * - The peer's close_notify, and an end without it, are eof_received(), after
 *   which the transport closes whatever it returned.
 * - close() sends close_notify and waits for the peer's; eof_received() is
 *   called then as well (Python 3.11 and newer), and connection_lost().
 */
#include "tls.h"

#include <errno.h>
#include <stddef.h>

/* ---- the handshake's steps -------------------------------------------- */

/* do_handshake() in the transport's context. */
static PyObject *call_do_handshake(TransportObject *self)
{
	PyObject *stack[2] = {NULL, self->tls->ssl_object};
	PyObject *result;

	if (PyContext_Enter(self->context) < 0)
		return NULL;
	result = PyObject_VectorcallMethod(self->loop->state->names.do_handshake, stack + 1,
					   1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
	if (PyContext_Exit(self->context) < 0)
		Py_CLEAR(result);
	return result;
}

/* An exception of a step: 0 to wait, or the code that ends the connection. Steals. */
static int step_failed(TransportObject *self, PyObject *exception)
{
	struct kl_state *state = self->loop->state;

	if (kl_tls_is(state, exception, KL_TLS_WANT_READ) ||
	    kl_tls_is(state, exception, KL_TLS_WANT_WRITE)) {
		Py_DECREF(exception);
		return 0;
	}
	if (PyErr_GivenExceptionMatches(exception, PyExc_KeyboardInterrupt) ||
	    PyErr_GivenExceptionMatches(exception, PyExc_SystemExit)) {
		/* It leaves run_forever(); the connection ends without a reason of its own. */
		kl_exception_give(exception);
		kl_report_exception(self->loop, "", NULL, NULL);
		return KLOOP_ERROR_TLS_LIBRARY;
	}
	Py_XSETREF(self->tls->failure, exception);
	return kl_tls_is(state, exception, KL_TLS_VERIFICATION) ? KLOOP_ERROR_TLS_VERIFY
								       : KLOOP_ERROR_TLS_PROTOCOL;
}

static int step(struct kloop_tls *session, void *user)
{
	TransportObject *self = user;
	PyObject *result;

	(void)session;
	kl_py_enter(self->loop);
	result = call_do_handshake(self);
	if (result == NULL)
		return step_failed(self, kl_exception_take());
	Py_DECREF(result);
	return 1;
}

/* ---- the handshake's end ---------------------------------------------- */

/*
 * The peer's end during a handshake. asyncio's way shows the ssl module no end,
 * and so none of its exceptions for one.
 */
static bool is_end(struct kl_state *state, PyObject *exception)
{
	return kl_tls_is(state, exception, KL_TLS_EOF) ||
	       kl_tls_is(state, exception, KL_TLS_ZERO_RETURN);
}

/* The exception with which a handshake failed: new, or NULL with an error set. */
static PyObject *handshake_exception(TransportObject *self, int code)
{
	struct kl_transport_tls *tls = self->tls;
	PyObject *exception = tls->failure;

	tls->failure = NULL;
	if (exception != NULL && !is_end(self->loop->state, exception))
		return exception;
	if (exception != NULL || code == KLOOP_ERROR_TLS_TRUNCATED) {
		Py_XDECREF(exception);
		return PyObject_CallNoArgs(PyExc_ConnectionResetError);
	}
	if (code == -ETIMEDOUT && kloop_now() - tls->begin_ns >= tls->handshake_ns) {
		PyObject *text = PyUnicode_FromFormat("SSL handshake is taking longer than %S "
						      "seconds: aborting the connection",
						      tls->handshake_timeout);

		exception = text != NULL ? PyObject_CallOneArg(PyExc_ConnectionAbortedError, text)
					 : NULL;
		Py_XDECREF(text);
		return exception;
	}
	return kl_tls_exception(self, code);
}

/* A server's connection failed before it was one: nobody waits for it, and only debuggers care. */
static void report_accept(TransportObject *self, PyObject *error)
{
	if (!self->tls->server_side || self->tls->known || !self->loop->debug)
		return;
	kl_call_exception_handler(self->loop,
				  "Error on transport creation for incoming connection", error,
				  "transport", (PyObject *)self, "protocol",
				  self->protocol != NULL ? self->protocol : Py_None);
}

static void handshake_failed(TransportObject *self, int code)
{
	PyObject *error = handshake_exception(self, code);
	bool waited = self->waiter != NULL;

	if (error == NULL)
		error = kl_exception_take();
	kl_transport_fail_waiter(self, error);
	if (!waited)
		report_accept(self, error);
	kl_transport_end(self, error,
			 kl_tls_is(self->loop->state, error, KL_TLS_VERIFICATION)
				 ? "SSL handshake failed on verifying the certificate"
				 : "SSL handshake failed");
	Py_DECREF(error);
}

static void log_duration(TransportObject *self)
{
	char text[60];

	if (!self->loop->debug)
		return;
	snprintf(text, sizeof(text), "SSL handshake took %.1f ms",
		 (double)(kloop_now() - self->tls->begin_ns) / 1e6);
	kl_transport_debug(self, text, NULL);
}

/* connection_made(): 0, or -1 if it failed and the transport ended. */
static int tell_made(TransportObject *self)
{
	PyObject *result, *error;

	if (self->tls->known || self->protocol == NULL)
		return 0;
	self->tls->known = true;
	result = kl_transport_call(self, self->loop->state->names.connection_made,
				   (PyObject *)self);
	Py_XDECREF(result);
	if (result != NULL)
		return 0;
	if (kl_exception_is_exit()) {
		kl_transport_report(self, "Exception in callback protocol.connection_made()");
		return 0;
	}
	error = kl_exception_take();
	kl_transport_fail_waiter(self, error);
	kl_transport_end(self, error, "Exception in callback protocol.connection_made()");
	Py_DECREF(error);
	return -1;
}

static void on_handshake(struct kloop_stream *stream, int result, void *user)
{
	TransportObject *self = user;

	(void)stream;
	kl_py_enter(self->loop);
	if (self->lost || self->closing)
		return;
	self->tls->handshaking = false;
	if (result < 0) {
		handshake_failed(self, result);
		return;
	}
	self->tls->open = true;
	log_duration(self);
	if (tell_made(self) < 0)
		return;
	if (kl_transport_start_read(self) < 0)
		kl_transport_fatal(self, "Fatal read error on socket transport");
	kl_transport_wake_waiter(self);
}

/* ---- the end ---------------------------------------------------------- */

/*
 * close() takes so long at most, what is queued included: a peer that reads
 * nothing cannot hold the connection.
 */
static void shutdown_expired(struct kloop_timer *timer)
{
	struct kl_transport_tls *tls =
		(struct kl_transport_tls *)((char *)timer -
					    offsetof(struct kl_transport_tls, shutdown_timer));
	TransportObject *self = tls->transport;

	kl_py_enter(self->loop);
	if (!self->lost)
		kl_transport_tls_error(self, -ETIMEDOUT);
}

void kl_transport_tls_closing(TransportObject *self)
{
	struct kl_transport_tls *tls = self->tls;
	uint64_t now = kloop_now();

	if (self->stream == NULL || tls->shutdown_ns >= KLOOP_FOREVER - now)
		return;
	/* Without memory for it the close goes on all the same. */
	(void)!kloop_timer_start(self->loop->loop, &tls->shutdown_timer, now + tls->shutdown_ns);
}

bool kl_transport_tls_is_handshaking(const TransportObject *self)
{
	return self->tls->handshaking;
}

bool kl_transport_tls_is_known(const TransportObject *self)
{
	return self->tls->known;
}

void kl_transport_tls_error(TransportObject *self, int error)
{
	struct kl_transport_tls *tls = self->tls;
	PyObject *exception;

	if (error == KLOOP_ERROR_TLS_TRUNCATED) {
		tls->truncated = true;
		/* While it closes, the end is what was waited for. */
		if (self->closing)
			kloop_stream_abort(self->stream);
		else
			kl_transport_on_eof(self->stream, self);
		return;
	}
	if (error == -ETIMEDOUT && self->closing)
		exception = PyObject_CallFunction(self->loop->state->timeout_error, "s",
						  "SSL shutdown timed out");
	else
		exception = kl_tls_exception(self, error);
	if (exception == NULL)
		exception = kl_exception_take();
	kl_transport_end(self, exception, "Fatal error on SSL protocol");
	Py_DECREF(exception);
}

void kl_transport_tls_note_eof(TransportObject *self)
{
	self->tls->eof_told = true;
}

void kl_transport_tls_eof(TransportObject *self, bool keep_open)
{
	if (keep_open)
		kl_transport_log("warning", "returning true from eof_received() has no effect when "
					    "using ssl");
	/* Nothing can be sent any more if the peer just left. */
	if (self->tls->truncated ? kl_transport_end_quietly(self) < 0
				 : kl_transport_close_now(self) < 0)
		kl_transport_fatal(self, "Fatal error on transport");
}

/*
 * The stream that was closed by close() is through. The peer's end came while
 * nobody read, so that eof_received() is due, by asyncio's rule.
 */
void kl_transport_tls_closed(TransportObject *self)
{
#if PY_VERSION_HEX >= 0x030B0000
	struct kl_transport_tls *tls = self->tls;
	PyObject *result;

	if (tls->eof_told || !tls->known || self->protocol == NULL || self->lost)
		return;
	tls->eof_told = true;
	result = kl_transport_call(self, self->loop->state->names.eof_received, NULL);
	if (result == NULL)
		kl_transport_fatal(self, "Error calling eof_received()");
	Py_XDECREF(result);
#else
	(void)self;
#endif
}

/* The session goes with its stream: remember what may still be asked. */
void kl_transport_tls_detach(TransportObject *self)
{
	struct kl_transport_tls *tls = self->tls;

	kloop_timer_stop(&tls->shutdown_timer);
	if (tls->session == NULL)
		return;
	tls->ktls[0] = kloop_tls_get_ktls(tls->session, KLOOP_TLS_SEND);
	tls->ktls[1] = kloop_tls_get_ktls(tls->session, KLOOP_TLS_RECEIVE);
	tls->session = NULL;
}

/* ---- the start -------------------------------------------------------- */

void kl_transport_tls_free(TransportObject *self)
{
	struct kl_transport_tls *tls = self->tls;

	self->tls = NULL;
	if (tls == NULL)
		return;
	Py_XDECREF(tls->ssl_object);
	Py_XDECREF(tls->sslcontext);
	Py_XDECREF(tls->handshake_timeout);
	Py_XDECREF(tls->failure);
	PyMem_Free(tls);
}

/* ssl_object is visited, and dropped only with the transport: see kl_transport_tls. */
int kl_transport_tls_traverse(struct kl_transport_tls *tls, visitproc visit, void *arg)
{
	Py_VISIT(tls->ssl_object);
	Py_VISIT(tls->sslcontext);
	Py_VISIT(tls->handshake_timeout);
	Py_VISIT(tls->failure);
	return 0;
}

/* A session that is set up, or a negative code. */
static int make_session(TransportObject *self, const struct kl_tls_options *options,
			struct ssl_st *ssl, struct kloop_tls **ret_session)
{
	struct kloop_tls *session;
	int result = kloop_tls_new_wrap(ssl, &session);

	if (result < 0)
		return result;
	result = kloop_tls_set_step(session, step, self);
	if (result == 0)
		result = kloop_tls_set_timeouts(session, options->handshake_ns,
						options->shutdown_ns);
	if (result == 0)
		result = kloop_tls_set_ktls(session, self->loop->ktls);
	if (result == 0 && options->early != NULL)
		result = kloop_tls_feed(session, PyBytes_AS_STRING(options->early),
					(size_t)PyBytes_GET_SIZE(options->early));
	if (result == 0 && self->held != NULL) {
		/* A BufferedProtocol paused, and left it for the handshake. */
		result = kloop_tls_feed(session, PyBytes_AS_STRING(self->held),
					(size_t)PyBytes_GET_SIZE(self->held));
	}
	if (result < 0) {
		kloop_tls_free(session);
		return result;
	}
	*ret_session = session;
	return 0;
}

static struct kl_transport_tls *make_tls(const struct kl_tls_options *options,
					 PyObject *ssl_object)
{
	struct kl_transport_tls *tls = PyMem_Calloc(1, sizeof(*tls));

	if (tls == NULL) {
		PyErr_NoMemory();
		return NULL;
	}
	tls->ssl_object = Py_NewRef(ssl_object);
	tls->sslcontext = Py_NewRef(options->sslcontext);
	tls->handshake_timeout = Py_NewRef(options->handshake_timeout);
	tls->begin_ns = kloop_now();
	tls->handshake_ns = options->handshake_ns;
	tls->shutdown_ns = options->shutdown_ns;
	kloop_timer_init(&tls->shutdown_timer, shutdown_expired);
	tls->server_side = options->server_side;
	tls->known = options->known;
	tls->handshaking = true;
	return tls;
}

int kl_transport_tls_start(TransportObject *self, const struct kl_tls_options *options,
			   PyObject *ssl_object, struct ssl_st *ssl)
{
	struct kloop_tls *session = NULL;
	int result;

	self->tls = make_tls(options, ssl_object);
	if (self->tls == NULL)
		return -1;
	self->tls->transport = self;
	result = make_session(self, options, ssl, &session);
	if (result == 0) {
		result = kloop_tls_start(session, self->stream, on_handshake);
		if (result < 0)
			kloop_tls_free(session);
	}
	if (result < 0) {
		kl_transport_tls_free(self);
		if (result == -ESTALE)
			PyErr_SetString(PyExc_ConnectionResetError,
					"the connection ended before its TLS handshake");
		else
			kl_raise(self->loop->state, result);
		return -1;
	}
	self->tls->session = session;
	Py_CLEAR(self->held);
	kl_transport_debug(self, "starts SSL handshake", NULL);
	return 0;
}
