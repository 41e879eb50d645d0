/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What a transport tells about itself: get_extra_info(), repr, attributes.
 *
 * Nothing is made before somebody asks. An accepted connection has no socket
 * object, no address tuples and no dictionary of its own until then; the
 * peer's address is kept as the kernel's bytes, since it cannot be asked for
 * any more once the connection is broken.
 */
#include "transport.h"

#include <string.h>
#include <sys/socket.h>

/* The dictionary, made when it is needed: borrowed, or NULL with an error set. */
static PyObject *get_extra(TransportObject *self)
{
	if (self->base.extra == NULL)
		self->base.extra = PyDict_New();
	return self->base.extra;
}

/* ---- addresses ------------------------------------------------------- */

/* An address as the socket module shows it; None if it is not known. */
static PyObject *address_to_python(TransportObject *self, const struct kloop_address *address,
				   const char *method)
{
	PyObject *result;

	switch (address->u.any.sa_family) {
	case AF_INET:
	case AF_INET6:
	case AF_UNIX:
		return kl_address_to_python(address);
	}
	/* Other families are the socket module's business. */
	if (self->sock == NULL)
		Py_RETURN_NONE;
	result = PyObject_CallMethod(self->sock, method, NULL);
	if (result == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
		PyErr_Clear();
		Py_RETURN_NONE;
	}
	return result;
}

/* Keep the peer's address, in the struct if it fits, as an object otherwise. */
void kl_transport_capture_peer(TransportObject *self)
{
	struct kloop_address address;
	PyObject *object, *extra;

	address.length = sizeof(address.u);
	if (getpeername(self->fd, &address.u.any, &address.length) < 0)
		return;
	if (address.length <= sizeof(self->peer)) {
		memcpy(self->peer, &address.u, address.length);
		self->peer_length = (unsigned char)address.length;
		return;
	}
	object = address_to_python(self, &address, "getpeername");
	extra = object != NULL ? get_extra(self) : NULL;
	if (extra == NULL || PyDict_SetItemString(extra, "peername", object) < 0)
		PyErr_Clear();
	Py_XDECREF(object);
}

static PyObject *make_peername(TransportObject *self)
{
	struct kloop_address address;

	if (self->peer_length == 0)
		Py_RETURN_NONE;
	memset(&address, 0, sizeof(address));
	memcpy(&address.u, self->peer, self->peer_length);
	address.length = self->peer_length;
	return address_to_python(self, &address, "getpeername");
}

static PyObject *make_sockname(TransportObject *self)
{
	struct kloop_address address;

	memset(&address, 0, sizeof(address));
	address.length = sizeof(address.u);
	if (self->fd_closed || getsockname(self->fd, &address.u.any, &address.length) < 0)
		Py_RETURN_NONE;
	return address_to_python(self, &address, "getsockname");
}

/* ---- the socket object ----------------------------------------------- */

/* socket.socket over the descriptor: it is what closes it from then on. */
static int make_sock(TransportObject *self)
{
	struct kl_state *state = self->loop->state;
	PyObject *names, *args, *result;

	if (!self->fd_closed) {
		names = Py_BuildValue("{si}", "fileno", self->fd);
		args = names != NULL ? PyTuple_New(0) : NULL;
		if (args != NULL)
			self->sock = PyObject_Call(state->socket_type, args, names);
		Py_XDECREF(names);
		Py_XDECREF(args);
		if (self->sock == NULL)
			return -1;
		/* It does not block; the object should know. */
		result = PyObject_CallMethod(self->sock, "settimeout", "i", 0);
	} else {
		/* Too late: a socket that is closed, as asyncio shows it after the end. */
		self->sock = PyObject_CallNoArgs(state->socket_type);
		result = self->sock != NULL
				 ? PyObject_CallMethodNoArgs(self->sock, state->names.close)
				 : NULL;
	}
	Py_XDECREF(result);
	return result != NULL ? 0 : -1;
}

static PyObject *make_socket(TransportObject *self)
{
	if (self->sock == NULL && make_sock(self) < 0)
		return NULL;
	return PyObject_CallOneArg(self->loop->state->transport_socket, self->sock);
}

/* ---- get_extra_info() ------------------------------------------------ */

/* NULL without an error set: not known, or not yet. */
static const struct {
	const char *name;
	PyObject *(*make)(TransportObject *self);
} makers[] = {
	{"peername", make_peername},
	{"sockname", make_sockname},
	{"socket", make_socket},
	{"sslcontext", kl_transport_tls_sslcontext},
	{"ssl_object", kl_transport_tls_ssl_object},
	{"peercert", kl_transport_tls_peercert},
	{"cipher", kl_transport_tls_cipher},
	{"compression", kl_transport_tls_compression},
};

#define MAKERS (sizeof(makers) / sizeof(makers[0]))

/* Make one piece of information and remember it. Borrowed, or NULL, perhaps with an error set. */
static PyObject *fill(TransportObject *self, size_t maker)
{
	PyObject *extra = get_extra(self);
	PyObject *object = extra != NULL ? makers[maker].make(self) : NULL;
	int result;

	if (object == NULL)
		return NULL;
	result = PyDict_SetItemString(extra, makers[maker].name, object);
	Py_DECREF(object);
	return result < 0 ? NULL : object;
}

PyObject *kl_transport_get_extra_info(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
				      PyObject *kwnames)
{
	static const struct kl_signature signature = {
		"get_extra_info", 1, 2, 2, {"name", "default"}};
	TransportObject *self = (TransportObject *)op;
	PyObject *values[2], *found = NULL;
	size_t i;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	if (self->base.extra != NULL) {
		found = PyDict_GetItemWithError(self->base.extra, values[0]);
		if (found == NULL && PyErr_Occurred())
			return NULL;
	}
	for (i = 0; found == NULL && i < MAKERS && PyUnicode_Check(values[0]); i++) {
		if (PyUnicode_CompareWithASCIIString(values[0], makers[i].name) != 0)
			continue;
		found = fill(self, i);
		if (found == NULL && PyErr_Occurred())
			return NULL;
		break;
	}
	if (found == NULL && self->tls != NULL && PyUnicode_Check(values[0])) {
		/* Never remembered: it may change. */
		PyObject *ktls = kl_transport_tls_ktls(self, values[0]);

		if (ktls != NULL || PyErr_Occurred())
			return ktls;
	}
	if (found == NULL)
		found = values[1] != NULL ? values[1] : Py_None;
	Py_INCREF(found);
	return found;
}

/* ---- attributes ------------------------------------------------------ */

/* asyncio's own code reads it as a complete dictionary. */
static PyObject *get_extra_attribute(PyObject *op, void *unused)
{
	TransportObject *self = (TransportObject *)op;
	PyObject *extra = get_extra(self);
	size_t i;

	(void)unused;
	for (i = 0; extra != NULL && i < MAKERS; i++) {
		PyObject *name = PyUnicode_FromString(makers[i].name);
		int there = name != NULL ? PyDict_Contains(extra, name) : -1;

		Py_XDECREF(name);
		if (there < 0 || (there == 0 && fill(self, i) == NULL && PyErr_Occurred()))
			return NULL;
	}
	Py_XINCREF(extra);
	return extra;
}

static PyObject *get_loop(PyObject *op, void *unused)
{
	TransportObject *self = (TransportObject *)op;

	(void)unused;
	Py_INCREF(self->loop);
	return (PyObject *)self->loop;
}

static PyObject *get_sock(PyObject *op, void *unused)
{
	TransportObject *self = (TransportObject *)op;

	(void)unused;
	if (self->fd_closed)
		Py_RETURN_NONE;
	if (self->sock == NULL && make_sock(self) < 0)
		return NULL;
	Py_INCREF(self->sock);
	return self->sock;
}

static PyObject *get_sock_fd(PyObject *op, void *unused)
{
	(void)unused;
	return PyLong_FromLong(((TransportObject *)op)->fd);
}

static PyObject *get_protocol_paused(PyObject *op, void *unused)
{
	(void)unused;
	return PyBool_FromLong(((TransportObject *)op)->write_paused);
}

static PyObject *get_paused(PyObject *op, void *unused)
{
	(void)unused;
	return PyBool_FromLong(((TransportObject *)op)->paused);
}

static PyObject *get_low_water(PyObject *op, void *unused)
{
	(void)unused;
	return PyLong_FromSize_t(((TransportObject *)op)->low_bytes);
}

static PyObject *get_high_water(PyObject *op, void *unused)
{
	(void)unused;
	return PyLong_FromSize_t(((TransportObject *)op)->high_bytes);
}

/* The names under which asyncio's own code looks into its transports. */
PyGetSetDef kl_transport_getset[] = {
	{"_extra", get_extra_attribute, NULL, NULL, NULL},
	{"_loop", get_loop, NULL, NULL, NULL},
	{"_sock", get_sock, NULL, NULL, NULL},
	{"_sock_fd", get_sock_fd, NULL, NULL, NULL},
	{"_paused", get_paused, NULL, NULL, NULL}, /* sslproto of Python 3.10 */
	{"_protocol_paused", get_protocol_paused, NULL, NULL, NULL},
	{"_low_water", get_low_water, NULL, NULL, NULL},
	{"_high_water", get_high_water, NULL, NULL, NULL},
	{NULL, NULL, NULL, NULL, NULL},
};

PyObject *kl_transport_repr(PyObject *op)
{
	TransportObject *self = (TransportObject *)op;
	const char *state = self->lost_done ? " closed" : self->closing ? " closing" : "";
	const char *tls = self->tls != NULL ? " tls" : "";
	size_t bytes = kl_transport_write_bytes(self);

	if (self->loop->closed || self->lost_done)
		return PyUnicode_FromFormat("<StreamTransport%s%s fd=%d>", state, tls, self->fd);
	return PyUnicode_FromFormat("<StreamTransport%s%s fd=%d read=%s write=<%s, bufsize=%zu>>",
				    state, tls, self->fd,
				    self->reading && !self->paused && !self->closing ? "polling"
										     : "idle",
				    bytes != 0 ? "polling" : "idle", bytes);
}
