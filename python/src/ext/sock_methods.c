/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Loop.sock_*(): arguments, and asyncio's checks. */
#include "sock.h"

/* asyncio's checks of a socket: not of TLS; in debug mode, non-blocking. 0, or -1. */
static int check_sock(LoopObject *self, PyObject *sock)
{
	struct kl_state *state = self->state;
	PyObject *result;
	int blocking;

	if ((PyObject *)Py_TYPE(sock) != state->socket_type) {
		result = PyObject_CallOneArg(state->check_ssl_socket, sock);
		if (result == NULL)
			return -1;
		Py_DECREF(result);
	}
	if (!self->debug)
		return 0;
	result = PyObject_CallMethodNoArgs(sock, state->names.gettimeout);
	if (result == NULL)
		return -1;
	blocking = result == Py_None ? 1 : PyObject_IsTrue(result);
	Py_DECREF(result);
	if (blocking > 0)
		PyErr_SetString(PyExc_ValueError, "the socket must be non-blocking");
	return blocking == 0 ? 0 : -1;
}

static int sock_fd(struct kl_state *state, PyObject *sock, int *ret_fd)
{
	PyObject *number = PyObject_CallMethodNoArgs(sock, state->names.fileno);
	long fd;

	if (number == NULL)
		return -1;
	fd = PyLong_AsLong(number);
	Py_DECREF(number);
	if (fd == -1 && PyErr_Occurred())
		return -1;
	*ret_fd = (int)fd;
	return 0;
}

/* A new call, not begun yet. */
static struct kl_sock_op *make(PyObject *op, enum kl_sock_kind kind, PyObject *sock,
			       PyObject *first, PyObject *second)
{
	LoopObject *loop = (LoopObject *)op;
	struct kl_sock_op *self;
	int fd;

	if (check_sock(loop, sock) < 0 || sock_fd(loop->state, sock, &fd) < 0)
		return NULL;
	self = kl_sock_allocate(loop->state);
	if (self == NULL)
		return NULL;
	kl_await_init(&self->base, loop);
	self->sock = Py_NewRef(sock);
	self->first = Py_XNewRef(first);
	self->second = Py_XNewRef(second);
	self->fd = fd;
	self->kind = kind;
	self->by_method = false;
	self->bytes = 0;
	self->error = 0;
	PyObject_GC_Track(self);
	return self;
}

/*
 * A call of recv(), recv_into() or send(), with the argument for the method if a subclass of
 * Python's socket may have another one.
 */
static struct kl_sock_op *make_fast(PyObject *op, enum kl_sock_kind kind, PyObject *sock,
				    PyObject *argument)
{
	PyTypeObject *type = (PyTypeObject *)((LoopObject *)op)->state->socket_type;
	bool by_method = Py_TYPE(sock) != type && PyObject_TypeCheck(sock, type);
	struct kl_sock_op *self = make(op, kind, sock, by_method ? argument : NULL, NULL);

	if (self != NULL)
		self->by_method = by_method;
	return self;
}

/* For send() of a part: a view of single bytes; the data itself, too. 0, or -1 with an error set. */
static int view_data(struct kl_sock_op *self)
{
	PyObject *view = PyMemoryView_FromObject(self->first);
	PyObject *bytes = view != NULL ? PyObject_CallMethod(view, "cast", "s", "B") : NULL;

	Py_XDECREF(view);
	if (bytes == NULL)
		return -1;
	self->second = self->first;
	self->first = bytes;
	return 0;
}

/* The call failed before it could be awaited: no warning about that. */
static PyObject *discard(struct kl_sock_op *self)
{
	self->base.state = KL_AWAIT_DONE;
	Py_DECREF(self);
	return NULL;
}

KL_LOOP_METHOD(kl_loop_sock_recv)
{
	static const struct kl_signature signature = { "sock_recv", 2, 2, 2, { "sock", "n" } };
	PyObject *values[2];
	struct kl_sock_op *call;
	Py_ssize_t bytes;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	bytes = PyNumber_AsSsize_t(values[1], PyExc_OverflowError);
	if (bytes == -1 && PyErr_Occurred())
		return NULL;
	if (bytes < 0) {
		PyErr_SetString(PyExc_ValueError, "negative buffersize in recv");
		return NULL;
	}
	call = make_fast(self, KL_SOCK_RECV, values[0], values[1]);
	if (call != NULL)
		call->bytes = (size_t)bytes;
	return (PyObject *)call;
}

KL_LOOP_METHOD(kl_loop_sock_recv_into)
{
	static const struct kl_signature signature = { "sock_recv_into", 2, 2, 2, { "sock", "buf" } };
	PyObject *values[2];
	struct kl_sock_op *call;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	call = make_fast(self, KL_SOCK_RECV_INTO, values[0], values[1]);
	if (call != NULL && !call->by_method &&
	    PyObject_GetBuffer(values[1], &call->buffer, PyBUF_WRITABLE) < 0)
		return discard(call);
	return (PyObject *)call;
}

KL_LOOP_METHOD(kl_loop_sock_recvfrom)
{
	static const struct kl_signature signature = { "sock_recvfrom", 2, 2, 2, { "sock", "bufsize" } };
	PyObject *values[2];

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	return (PyObject *)make(self, KL_SOCK_RECVFROM, values[0], values[1], NULL);
}

KL_LOOP_METHOD(kl_loop_sock_recvfrom_into)
{
	static const struct kl_signature signature = { "sock_recvfrom_into", 2, 3, 3, { "sock", "buf", "nbytes" } };
	PyObject *values[3];
	PyObject *call;
	int given = 0;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	if (values[2] != NULL)
		given = PyObject_IsTrue(values[2]);
	if (given < 0)
		return NULL;
	if (given) {
		Py_INCREF(values[2]);
	} else {
		values[2] = PyLong_FromSsize_t(PyObject_Size(values[1]));
		if (values[2] == NULL || PyErr_Occurred()) {
			Py_XDECREF(values[2]);
			return NULL;
		}
	}
	call = (PyObject *)make(self, KL_SOCK_RECVFROM_INTO, values[0], values[1], values[2]);
	Py_DECREF(values[2]);
	return call;
}

KL_LOOP_METHOD(kl_loop_sock_sendall)
{
	static const struct kl_signature signature = { "sock_sendall", 2, 2, 2, { "sock", "data" } };
	PyObject *values[2];
	struct kl_sock_op *call;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	call = make_fast(self, KL_SOCK_SENDALL, values[0], values[1]);
	if (call != NULL && (PyObject_GetBuffer(values[1], &call->buffer, PyBUF_SIMPLE) < 0 ||
			     (call->by_method && view_data(call) < 0)))
		return discard(call);
	return (PyObject *)call;
}

KL_LOOP_METHOD(kl_loop_sock_sendto)
{
	static const struct kl_signature signature = { "sock_sendto", 3, 3, 3, { "sock", "data", "address" } };
	PyObject *values[3];

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	return (PyObject *)make(self, KL_SOCK_SENDTO, values[0], values[1], values[2]);
}

KL_LOOP_METHOD(kl_loop_sock_accept)
{
	static const struct kl_signature signature = { "sock_accept", 1, 1, 1, { "sock" } };
	PyObject *values[1];

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	return (PyObject *)make(self, KL_SOCK_ACCEPT, values[0], NULL, NULL);
}

KL_LOOP_METHOD(kl_loop_sock_connect_c)
{
	static const struct kl_signature signature = { "sock_connect", 2, 2, 2, { "sock", "address" } };
	PyObject *values[2];

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	return (PyObject *)make(self, KL_SOCK_CONNECT, values[0], values[1], NULL);
}
