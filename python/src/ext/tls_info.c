/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What get_extra_info() tells of a transport's TLS.
 *
 * As with asyncio, all but the context is there from the handshake's end on.
 * The pieces are made when somebody asks; most connections never do.
 */
#include "tls.h"

#include <string.h>

PyObject *kl_transport_tls_sslcontext(TransportObject *self)
{
	return self->tls != NULL ? Py_NewRef(self->tls->sslcontext) : NULL;
}

/* The SSLObject, if the handshake has ended well. Borrowed. */
static PyObject *open_object(TransportObject *self)
{
	return self->tls != NULL && self->tls->open ? self->tls->ssl_object : NULL;
}

PyObject *kl_transport_tls_ssl_object(TransportObject *self)
{
	return Py_XNewRef(open_object(self));
}

static PyObject *ask(TransportObject *self, const char *method)
{
	PyObject *object = open_object(self);

	return object != NULL ? PyObject_CallMethod(object, method, NULL) : NULL;
}

PyObject *kl_transport_tls_peercert(TransportObject *self)
{
	return ask(self, "getpeercert");
}

PyObject *kl_transport_tls_cipher(TransportObject *self)
{
	return ask(self, "cipher");
}

PyObject *kl_transport_tls_compression(TransportObject *self)
{
	return ask(self, "compression");
}

/* 1, or why the direction is not in the kernel. */
static int get_ktls(const struct kl_transport_tls *tls, enum kloop_tls_direction direction)
{
	return tls->session != NULL ? kloop_tls_get_ktls(tls->session, direction)
				    : tls->ktls[direction];
}

PyObject *kl_transport_tls_ktls(TransportObject *self, PyObject *name)
{
	static const struct {
		const char *state, *reason;
		enum kloop_tls_direction direction;
	} directions[] = {
		{"ktls_send", "ktls_send_reason", KLOOP_TLS_SEND},
		{"ktls_recv", "ktls_recv_reason", KLOOP_TLS_RECEIVE},
	};
	size_t i;

	for (i = 0; i < sizeof(directions) / sizeof(directions[0]); i++) {
		int state = get_ktls(self->tls, directions[i].direction);

		if (PyUnicode_CompareWithASCIIString(name, directions[i].state) == 0)
			return PyBool_FromLong(state == 1);
		if (PyUnicode_CompareWithASCIIString(name, directions[i].reason) == 0)
			return state == 1 ? Py_NewRef(Py_None)
					  : PyUnicode_FromString(kloop_strerror(state));
	}
	return NULL;
}
