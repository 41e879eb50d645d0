/* SPDX-License-Identifier: MulanPSL-2.0 */
/* How transports come to be: accepted, or over a socket of the caller's. */
#include "transport.h"

#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_data = kl_transport_on_data,
	.on_alloc = kl_transport_on_alloc,
	.on_eof = kl_transport_on_eof,
	.on_error = kl_transport_on_error,
	.on_drain = kl_transport_on_drain,
	.on_close = kl_transport_on_close,
};

/* ---- creation -------------------------------------------------------- */

TransportObject *kl_transport_alloc(LoopObject *loop, PyTypeObject *type, int fd,
				    PyObject *context)
{
	TransportObject *self;

	if (context == NULL)
		return NULL;
	self = (TransportObject *)type->tp_alloc(type, 0);
	if (self == NULL) {
		Py_DECREF(context);
		return NULL;
	}
	Py_INCREF(loop);
	self->loop = loop;
	self->context = context;
	self->fd = fd;
	self->fd_closed = true; /* not ours yet */
	self->low_bytes = 16 * 1024;
	self->high_bytes = 64 * 1024;
	self->open.abandon = kl_transport_abandon;
	return self;
}

PyObject *kl_transport_context(PyObject *given)
{
	return given != NULL && given != Py_None ? PyContext_Copy(given) : PyContext_CopyCurrent();
}

int kl_transport_open(TransportObject *self, PyObject *server)
{
	struct kl_state *state = self->loop->state;
	PyObject *attached;
	int result;

	if (server != NULL && server != Py_None) {
		attached = kl_transport_call_server(self, server, state->names._attach);
		if (attached == NULL)
			return -1;
		Py_DECREF(attached);
		Py_INCREF(server);
		self->server = server;
	}
	result = kloop_stream_new(self->loop->loop, self->fd, KLOOP_STREAM_KEEP_FD, &handlers, self,
				  &self->stream);
	if (result < 0) {
		kl_raise(state, result);
		return -1;
	}
	self->fd_closed = false;
	kl_open_link(self->loop, &self->open, (PyObject *)self);
	return 0;
}

int kl_wake(struct kl_state *state, PyObject *waiter, PyObject *method, PyObject *argument)
{
	PyObject *result = PyObject_CallMethodNoArgs(waiter, state->names.cancelled);
	int cancelled = -1;

	if (result != NULL) {
		cancelled = PyObject_IsTrue(result);
		Py_DECREF(result);
	}
	if (cancelled != 0)
		return cancelled < 0 ? -1 : 0;
	result = PyObject_CallMethodOneArg(waiter, method, argument);
	Py_XDECREF(result);
	return result != NULL ? 0 : -1;
}

static void wake(TransportObject *self, PyObject *method, PyObject *argument)
{
	PyObject *waiter = self->waiter;

	self->waiter = NULL;
	if (waiter == NULL)
		return;
	if (kl_wake(self->loop->state, waiter, method, argument) < 0)
		kl_transport_report(self, "Exception in callback waiter.set_result()");
	Py_DECREF(waiter);
}

void kl_transport_wake_waiter(TransportObject *self)
{
	wake(self, self->loop->state->names.set_result, Py_None);
}

void kl_transport_fail_waiter(TransportObject *self, PyObject *exception)
{
	wake(self, self->loop->state->names.set_exception, exception);
}

static void run_begin(PyObject *owner)
{
	TransportObject *self = (TransportObject *)owner;

	/* With TLS, which may have been started meanwhile, the handshake's end begins. */
	if (self->tls == NULL && kl_transport_start_read(self) < 0)
		kl_transport_fatal(self, "Fatal read error on transport");
}

/*
 * After connection_made(): who waits for the connection goes on, and only then
 * may data come, so that "transport, protocol = await create_connection()" is
 * over before data_received() uses the names.
 */
void kl_transport_begin(TransportObject *self)
{
	if (self->waiter == NULL) {
		run_begin((PyObject *)self);
		return;
	}
	kl_transport_wake_waiter(self);
	if (kl_call_soon_c(self->loop, run_begin, (PyObject *)self) < 0)
		kl_transport_fatal(self, "Fatal read error on transport");
}

void kl_transport_call_made(TransportObject *self)
{
	PyObject *result;

	if (self->protocol == NULL)
		return;
	result = kl_transport_call(self, self->loop->state->names.connection_made,
				   (PyObject *)self);
	if (result == NULL)
		kl_transport_report(self, "Exception in callback protocol.connection_made()");
	Py_XDECREF(result);
}

static void run_made(PyObject *owner)
{
	kl_transport_call_made((TransportObject *)owner);
	kl_transport_begin((TransportObject *)owner);
}

/* server._detach() of a server that was attached to. Keeps a set exception. */
static void detach_again(TransportObject *self)
{
	PyObject *pending, *result;

	if (self->server == NULL)
		return;
	pending = kl_exception_take();
	result = kl_transport_call_server(self, self->server, self->loop->state->names._detach);
	if (result == NULL)
		PyErr_WriteUnraisable(self->server);
	Py_XDECREF(result);
	if (pending != NULL)
		kl_exception_give(pending);
	Py_CLEAR(self->server);
}

void kl_transport_discard(TransportObject *self)
{
	detach_again(self);
	Py_DECREF(self);
}

void kl_transport_undo(TransportObject *self)
{
	self->lost_done = self->lost = self->closing = true;
	kloop_stream_abort(self->stream);
	kl_transport_discard(self);
}

/* ---- accepted connections -------------------------------------------- */

int kl_transport_accept(LoopObject *loop, int fd, PyObject *protocol_factory, PyObject *server,
			PyObject *context)
{
	/* A context of its own: what one connection sets no other sees. */
	TransportObject *self = kl_transport_alloc(loop, loop->state->transport_type, fd,
						   kl_transport_context(context));
	PyObject *stack[1] = {NULL};
	PyObject *protocol;
	int result = -1;

	if (self == NULL) {
		close(fd);
		return -1;
	}
	protocol = kl_call_in_context(self->context, protocol_factory, stack + 1, 0);
	if (protocol != NULL) {
		result = kl_transport_set_protocol(self, protocol);
		Py_DECREF(protocol);
	}
	if (result == 0)
		result = kl_transport_open(self, server);
	if (result < 0) {
		kl_transport_discard(self);
		close(fd);
		return -1;
	}
	kl_transport_capture_peer(self);
	run_made((PyObject *)self);
	Py_DECREF(self);
	return 0;
}

/* ---- loop._make_socket_transport() ----------------------------------- */

int kl_register_transport(LoopObject *loop, int fd, PyObject *transport)
{
	PyObject *key;
	int result = -1;

	if (loop->transports == NULL)
		return 0;
	key = PyLong_FromLong(fd);
	if (key != NULL)
		result = PyObject_SetItem(loop->transports, key, transport);
	Py_XDECREF(key);
	return result;
}

int kl_transport_prepare(TransportObject *self, PyObject *protocol, PyObject *waiter,
			 PyObject *extra)
{
	if (extra != NULL && extra != Py_None) {
		if (!PyDict_Check(extra)) {
			PyErr_SetString(PyExc_TypeError, "extra must be a dict or None");
			return -1;
		}
		Py_INCREF(extra);
		self->base.extra = extra;
	}
	if (waiter != NULL && waiter != Py_None) {
		Py_INCREF(waiter);
		self->waiter = waiter;
	}
	if (kl_transport_set_protocol(self, protocol) < 0)
		return -1;
	return kl_register_transport(self->loop, self->fd, (PyObject *)self);
}

PyObject *kl_loop_make_socket_transport(PyObject *loop_object, PyObject *const *args,
					Py_ssize_t nargs, PyObject *kwnames)
{
	static const struct kl_signature signature = {
		"_make_socket_transport", 2, 3, 6,
		{"sock", "protocol", "waiter", "extra", "server", "context"}};
	LoopObject *loop = (LoopObject *)loop_object;
	PyObject *values[6];
	TransportObject *self;
	int fd, on = 1;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0 ||
	    kl_check_closed(loop) < 0)
		return NULL;
	fd = PyObject_AsFileDescriptor(values[0]);
	if (fd < 0)
		return NULL;
	self = kl_transport_alloc(loop, loop->state->transport_type, fd,
				  kl_transport_context(values[5]));
	if (self == NULL)
		return NULL;
	Py_INCREF(values[0]);
	self->sock = values[0];
	if (kl_transport_prepare(self, values[1], values[2], values[3]) < 0 ||
	    kl_transport_open(self, values[4]) < 0) {
		kl_transport_discard(self);
		return NULL;
	}
	/* Small writes must not wait for the peer; a Unix socket refuses, and has no need. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	kl_transport_capture_peer(self);
	if (kl_call_soon_c(loop, run_made, (PyObject *)self) < 0) {
		kl_transport_undo(self);
		return NULL;
	}
	return (PyObject *)self;
}
