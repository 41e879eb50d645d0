/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Failures of TLS as the ssl module raises them.
 *
 * Which class, reason and text belong to an error of OpenSSL is that module's
 * knowledge, and differs between Pythons. So the error is put back where it
 * came from, and the module is asked to read: it finds the error and raises.
 */
#include "tls.h"

/* How errors are packed: ERR_get_error(3). */
#define SYSTEM_ERROR 0x80000000UL
#define SYSTEM_LIBRARY 2
#define LIBRARY_SHIFT 23
#define LIBRARY_MASK 0xffUL
#define REASON_MASK 0x7fffffUL

/* ssl.SSL_ERROR_SSL, the errno of an SSLError without another */
#define SSL_ERROR_SSL 1

bool kl_tls_is(struct kl_state *state, PyObject *exception, enum kl_tls_class kind)
{
	return PyErr_GivenExceptionMatches(exception, state->tls->classes[kind]) != 0;
}

static void put_back(const struct kl_tls_library *library, unsigned long packed)
{
	library->error_clear();
	library->error_new();
	if (packed & SYSTEM_ERROR)
		library->error_set(SYSTEM_LIBRARY, (int)(packed & ~SYSTEM_ERROR), NULL);
	else
		library->error_set((int)(packed >> LIBRARY_SHIFT & LIBRARY_MASK),
				   (int)(packed & REASON_MASK), NULL);
}

/* What the ssl module raises for an error of OpenSSL: new, or NULL without an error set. */
static PyObject *ask_module(TransportObject *self, unsigned long packed)
{
	struct kl_state *state = self->loop->state;
	PyObject *inner = PyObject_GetAttr(self->tls->ssl_object, state->names._sslobj);
	PyObject *one = PyLong_FromLong(1);
	PyObject *result = NULL, *exception;

	if (inner != NULL && one != NULL) {
		put_back(&state->tls->library, packed);
		result = PyObject_CallMethodOneArg(inner, state->names.read, one);
		state->tls->library.error_clear();
	}
	Py_XDECREF(inner);
	Py_XDECREF(one);
	Py_XDECREF(result);
	exception = kl_exception_take();
	/* One that says "try again" says nothing. */
	if (exception != NULL && (!kl_tls_is(state, exception, KL_TLS_SSL_ERROR) ||
				  kl_tls_is(state, exception, KL_TLS_WANT_READ) ||
				  kl_tls_is(state, exception, KL_TLS_WANT_WRITE)))
		Py_CLEAR(exception);
	return exception;
}

PyObject *kl_tls_exception(TransportObject *self, int code)
{
	struct kloop_tls *session = self->tls->session;
	unsigned long packed = session != NULL ? kloop_tls_get_openssl_error(session) : 0;
	const char *text = NULL;
	PyObject *exception = NULL;

	if (code >= -4095)
		return kl_os_exception(code);
	/* Before anything else is called on the session. */
	if (session != NULL)
		text = kloop_tls_get_error_text(session);
	if (packed != 0)
		exception = ask_module(self, packed);
	if (exception != NULL)
		return exception;
	if (text == NULL || text[0] == '\0')
		text = kloop_strerror(code);
	return PyObject_CallMethod(self->loop->state->tls->ssl, "SSLError", "is", SSL_ERROR_SSL,
				   text);
}
