/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Servers: loop._start_serving() and loop._stop_serving(), which asyncio's
 * Server calls for each of its sockets.
 *
 * A connection costs no coroutine and no task: the kernel accepts, the
 * protocol is made, and connection_made() is called; with TLS, after the
 * handshake. Where libkloop cannot do that each connection goes to a function of
 * the Python layer.
 */
#include "tls.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
	PyObject_HEAD
	LoopObject *loop;
	struct kl_open open;
	struct kloop_listener *listener; /* NULL once it is closed */
	PyObject *sock;
	PyObject *protocol_factory;
	PyObject *server;  /* NULL: none */
	PyObject *context; /* connections get copies of it */

	/* With TLS. accept_ssl serves where libkloop cannot. */
	PyObject *sslcontext;
	PyObject *accept_ssl;
	PyObject *handshake_timeout;
	PyObject *shutdown_timeout;
	uint64_t handshake_ns, shutdown_ns;
} ListenerObject;

/* ---- errors ---------------------------------------------------------- */

/* An exception that nobody waits for: the handler gets it, or the run ends. Clears it. */
static void report(ListenerObject *self, const char *message)
{
	PyObject *socket, *error;

	if (kl_exception_is_exit()) {
		kl_report_exception(self->loop, message, NULL, NULL);
		return;
	}
	error = kl_exception_take();
	socket = PyObject_CallOneArg(self->loop->state->transport_socket, self->sock);
	if (socket == NULL)
		PyErr_Clear();
	kl_call_exception_handler(self->loop, message, error, "socket",
				  socket != NULL ? socket : Py_None, NULL, NULL);
	Py_XDECREF(socket);
	Py_XDECREF(error);
}

static void on_error(struct kloop_listener *listener, int error, void *user)
{
	ListenerObject *self = user;
	PyObject *exception;

	(void)listener;
	kl_py_enter(self->loop);
	exception = kl_os_exception(error);
	if (exception != NULL)
		kl_exception_give(exception);
	switch (error) {
	case -EMFILE:
	case -ENFILE:
	case -ENOBUFS:
	case -ENOMEM:
		report(self, "socket.accept() out of system resource");
		break;
	default:
		report(self, "Exception in callback socket.accept()");
	}
}

/* ---- connections ----------------------------------------------------- */

/* socket.socket(fileno=fd), not blocking; owns fd in any case. */
static PyObject *make_socket(ListenerObject *self, int fd)
{
	PyObject *names = Py_BuildValue("{si}", "fileno", fd);
	PyObject *args = names != NULL ? PyTuple_New(0) : NULL;
	PyObject *sock = NULL, *result;

	if (args != NULL)
		sock = PyObject_Call(self->loop->state->socket_type, args, names);
	Py_XDECREF(args);
	Py_XDECREF(names);
	if (sock == NULL) {
		close(fd);
		return NULL;
	}
	result = PyObject_CallMethod(sock, "settimeout", "i", 0);
	if (result == NULL)
		Py_CLEAR(sock);
	Py_XDECREF(result);
	return sock;
}

/* accept(loop, factory, sock, sslcontext, server, handshake_timeout, shutdown_timeout) */
static int accept_ssl(ListenerObject *self, int fd)
{
	PyObject *sock = make_socket(self, fd);
	PyObject *stack[8] = {NULL, (PyObject *)self->loop, self->protocol_factory, sock,
			      self->sslcontext, self->server != NULL ? self->server : Py_None,
			      self->handshake_timeout, self->shutdown_timeout};
	PyObject *context, *result;

	if (sock == NULL)
		return -1;
	context = PyContext_Copy(self->context);
	result = context != NULL ? kl_call_in_context(context, self->accept_ssl, stack + 1, 7)
				 : NULL;
	Py_XDECREF(context);
	Py_XDECREF(result);
	Py_DECREF(sock);
	return result != NULL ? 0 : -1;
}

static int accept_tls(ListenerObject *self, int fd)
{
	const struct kl_tls_options options = {
		.sslcontext = self->sslcontext,
		.handshake_timeout = self->handshake_timeout,
		.handshake_ns = self->handshake_ns,
		.shutdown_ns = self->shutdown_ns,
		.server_side = true,
	};
	int result = kl_transport_accept_tls(self->loop, fd, self->protocol_factory, self->server,
					     self->context, &options);

	return result != 0 ? result : accept_ssl(self, fd);
}

static void on_accept(struct kloop_listener *listener, int fd, void *user)
{
	ListenerObject *self = user;
	int result;

	(void)listener;
	kl_py_enter(self->loop);
	if (self->sslcontext != NULL)
		result = accept_tls(self, fd);
	else
		result = kl_transport_accept(self->loop, fd, self->protocol_factory, self->server,
					     self->context);
	if (result < 0)
		report(self, "Error on transport creation for incoming connection");
}

/* ---- the end --------------------------------------------------------- */

static void on_close(struct kloop_listener *listener, void *user)
{
	ListenerObject *self = user;

	(void)listener;
	kl_py_enter(self->loop);
	self->listener = NULL;
	kl_open_unlink(&self->open); /* may free self */
}

/* The loop closes: the socket stays its owner's. */
static void abandon(struct kl_open *open)
{
	ListenerObject *self = (ListenerObject *)open->owner;

	if (self->listener != NULL)
		kloop_listener_close(self->listener);
	else
		kl_open_unlink(open);
}

/* The listener of a socket that still accepts; borrowed, NULL if there is none. */
static ListenerObject *find_listener(LoopObject *loop, PyObject *sock)
{
	struct kl_open *open;

	for (open = loop->open_objects; open != NULL; open = open->next) {
		ListenerObject *self = (ListenerObject *)open->owner;

		if (open->abandon == abandon && self->sock == sock)
			return self;
	}
	return NULL;
}

PyObject *kl_loop_stop_serving_c(PyObject *loop_object, PyObject *const *args, Py_ssize_t nargs,
				 PyObject *kwnames)
{
	static const struct kl_signature signature = {"_stop_serving", 1, 1, 1, {"sock"}};
	LoopObject *loop = (LoopObject *)loop_object;
	ListenerObject *self;
	PyObject *sock;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, &sock) < 0)
		return NULL;
	self = find_listener(loop, sock);
	if (self != NULL && self->listener != NULL) {
		kloop_listener_close(self->listener);
		/*
		 * The kernel's accept in flight holds the file: it must let go
		 * for the port to be free, and connections refused, when the
		 * caller goes on. The listener never uses the number again.
		 */
		(void)!kloop_loop_submit(loop->loop);
	}
	return PyObject_CallMethodNoArgs(sock, loop->state->names.close);
}

/* ---- the start ------------------------------------------------------- */

static const struct kloop_listener_handlers handlers = {
	.size = sizeof(handlers),
	.on_accept = on_accept,
	.on_error = on_error,
	.on_close = on_close,
};

static PyObject *new_reference(PyObject *object)
{
	Py_XINCREF(object);
	return object;
}

/* Remember what TLS connections need. 0, or -1 with an error set. */
static int set_ssl(ListenerObject *self, PyObject *sslcontext, PyObject *handshake_timeout,
		   PyObject *shutdown_timeout)
{
	struct kl_tls_options options = {0};
	PyObject *module;

	if (sslcontext == NULL || sslcontext == Py_None)
		return 0;
	if (kl_tls_set_timeouts(&options, handshake_timeout, shutdown_timeout) < 0)
		return -1;
	self->handshake_timeout = options.handshake_timeout;
	self->handshake_ns = options.handshake_ns;
	self->shutdown_ns = options.shutdown_ns;
	self->shutdown_timeout =
		new_reference(shutdown_timeout != NULL ? shutdown_timeout : Py_None);
	self->sslcontext = new_reference(sslcontext);
	module = PyImport_ImportModule("kloop._ssl_accept");
	if (module == NULL)
		return -1;
	self->accept_ssl = PyObject_GetAttrString(module, "accept");
	Py_DECREF(module);
	return self->accept_ssl != NULL ? 0 : -1;
}

/*
 * Who hands a socket to create_server() may have handed it to others: servers
 * with several processes do. Returns 0 or 1, or -1 with an error set.
 */
static int is_shared(ListenerObject *self)
{
	PyObject *given = PyObject_GetAttrString((PyObject *)self->loop, "_given_sockets");
	int result = given != NULL ? PySequence_Contains(given, self->sock) : -1;

	Py_XDECREF(given);
	return result;
}

/* Accept on a socket that listens. 0, or -1 with an error set. */
static int start(ListenerObject *self)
{
	int fd = PyObject_AsFileDescriptor(self->sock);
	int shared = fd >= 0 ? is_shared(self) : -1;
	unsigned flags = KLOOP_LISTENER_KEEP_FD;
	int on = 1, result;

	if (shared < 0)
		return -1;
	if (shared > 0)
		flags |= KLOOP_LISTENER_SHARED;
	/* Accepted sockets inherit it: one call for all connections. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	result = kloop_listener_new(self->loop->loop, fd, flags, &handlers, self, &self->listener);
	if (result < 0) {
		kl_raise(self->loop->state, result);
		return -1;
	}
	kl_open_link(self->loop, &self->open, (PyObject *)self);
	return 0;
}

PyObject *kl_loop_start_serving_c(PyObject *loop_object, PyObject *const *args, Py_ssize_t nargs,
				  PyObject *kwnames)
{
	static const struct kl_signature signature = {
		"_start_serving", 2, 7, 8,
		{"protocol_factory", "sock", "sslcontext", "server", "backlog",
		 "ssl_handshake_timeout", "ssl_shutdown_timeout", "context"}};
	LoopObject *loop = (LoopObject *)loop_object;
	PyTypeObject *type = loop->state->listener_type;
	PyObject *values[8];
	ListenerObject *self;
	int result;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0 ||
	    kl_check_closed(loop) < 0)
		return NULL;
	self = (ListenerObject *)type->tp_alloc(type, 0);
	if (self == NULL)
		return NULL;
	Py_INCREF(loop);
	self->loop = loop;
	self->open.abandon = abandon;
	self->protocol_factory = new_reference(values[0]);
	self->sock = new_reference(values[1]);
	self->server = values[3] != Py_None ? new_reference(values[3]) : NULL;
	self->context = kl_transport_context(values[7]);
	result = self->context != NULL ? set_ssl(self, values[2], values[5], values[6]) : -1;
	if (result == 0)
		result = start(self);
	Py_DECREF(self);
	if (result < 0)
		return NULL;
	Py_RETURN_NONE;
}

/* ---- the object ------------------------------------------------------ */

static int listener_traverse(PyObject *op, visitproc visit, void *arg)
{
	ListenerObject *self = (ListenerObject *)op;

	Py_VISIT(Py_TYPE(op));
	Py_VISIT(self->loop);
	Py_VISIT(self->sock);
	Py_VISIT(self->protocol_factory);
	Py_VISIT(self->server);
	Py_VISIT(self->context);
	Py_VISIT(self->accept_ssl);
	Py_VISIT(self->sslcontext);
	Py_VISIT(self->handshake_timeout);
	Py_VISIT(self->shutdown_timeout);
	return 0;
}

/* A listener still open goes by the loop's end, never by the collector: it needs its fields. */
static int listener_clear(PyObject *op)
{
	ListenerObject *self = (ListenerObject *)op;

	if (self->listener != NULL)
		return 0;
	Py_CLEAR(self->sock);
	Py_CLEAR(self->protocol_factory);
	Py_CLEAR(self->server);
	Py_CLEAR(self->context);
	Py_CLEAR(self->accept_ssl);
	Py_CLEAR(self->sslcontext);
	Py_CLEAR(self->handshake_timeout);
	Py_CLEAR(self->shutdown_timeout);
	return 0;
}

static void listener_dealloc(PyObject *op)
{
	ListenerObject *self = (ListenerObject *)op;
	PyTypeObject *type = Py_TYPE(op);

	PyObject_GC_UnTrack(op);
	(void)listener_clear(op);
	Py_CLEAR(self->loop);
	type->tp_free(op);
	Py_DECREF(type);
}

static PyMethodDef listener_methods[] = {
	KL_NO_PICKLE,
	{NULL, NULL, 0, NULL},
};

static PyType_Slot listener_slots[] = {
	{Py_tp_doc, (void *)PyDoc_STR("A listening socket that is being served.")},
	{Py_tp_traverse, listener_traverse},
	{Py_tp_clear, listener_clear},
	{Py_tp_methods, listener_methods},
	{Py_tp_dealloc, listener_dealloc},
	{0, NULL},
};

static PyType_Spec listener_spec = {
	.name = "kloop._kloop.Listener",
	.basicsize = sizeof(ListenerObject),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
		 Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = listener_slots,
};

int kl_listener_init(PyObject *module, struct kl_state *state)
{
	PyObject *type = PyType_FromModuleAndSpec(module, &listener_spec, NULL);

	if (type == NULL)
		return -1;
	state->listener_type = (PyTypeObject *)type;
	return 0;
}
