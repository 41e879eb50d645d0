/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * How TLS transports come to be: over a socket of the caller's, accepted, or
 * made of a plain transport by loop.start_tls().
 *
 * Each function says by its result when the ssl module's object is none that
 * libkloop may use; its caller then takes asyncio's way.
 */
#include "tls.h"

#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- options ---------------------------------------------------------- */

/* asyncio's default: new, or NULL with an error set. */
static PyObject *default_timeout(const char *name)
{
	PyObject *module = PyImport_ImportModule("asyncio.constants");
	PyObject *value = module != NULL ? PyObject_GetAttrString(module, name) : NULL;

	Py_XDECREF(module);
	/* Python 3.10 knows no time-out of the shutdown; it gets the one of 3.11. */
	if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
		PyErr_Clear();
		value = PyFloat_FromDouble(30.0);
	}
	return value;
}

/* Seconds as they were given, or the default: the object (new) and nanoseconds. */
static PyObject *parse_timeout(PyObject *value, const char *argument, const char *constant,
			       uint64_t *ret_ns)
{
	double seconds;

	value = value != NULL && value != Py_None ? Py_NewRef(value) : default_timeout(constant);
	if (value == NULL)
		return NULL;
	seconds = PyFloat_AsDouble(value);
	if (seconds == -1.0 && PyErr_Occurred()) {
		Py_DECREF(value);
		return NULL;
	}
	if (!(seconds > 0)) {
		PyErr_Format(PyExc_ValueError, "%s should be a positive number, got %S", argument,
			     value);
		Py_DECREF(value);
		return NULL;
	}
	*ret_ns = seconds < 1e9 ? (uint64_t)(seconds * 1e9) : KLOOP_FOREVER;
	return value;
}

int kl_tls_set_timeouts(struct kl_tls_options *options, PyObject *handshake, PyObject *shutdown)
{
	PyObject *value = parse_timeout(shutdown, "ssl_shutdown_timeout", "SSL_SHUTDOWN_TIMEOUT",
					&options->shutdown_ns);

	if (value == NULL)
		return -1;
	Py_DECREF(value);
	options->handshake_timeout = parse_timeout(handshake, "ssl_handshake_timeout",
						   "SSL_HANDSHAKE_TIMEOUT", &options->handshake_ns);
	return options->handshake_timeout != NULL ? 0 : -1;
}

/* A truth value; absent is `otherwise`. 0, or -1 with an error set. */
static int parse_bool(PyObject *value, bool otherwise, bool *ret_bool)
{
	int result = value != NULL ? PyObject_IsTrue(value) : otherwise;

	*ret_bool = result > 0;
	return result < 0 ? -1 : 0;
}

/* What is said about the peer: its name counts for clients only, and "" is none. */
static int parse_side(struct kl_tls_options *options, PyObject *server_side,
		      PyObject *server_hostname)
{
	bool named;

	if (parse_bool(server_side, false, &options->server_side) < 0 ||
	    parse_bool(server_hostname, false, &named) < 0)
		return -1;
	options->server_hostname = named && !options->server_side ? server_hostname : NULL;
	return 0;
}

/* ---- loop._make_tls_transport() --------------------------------------- */

/* With the stream open: the handshake. 0, or -1 with an error set and the transport undone. */
static int start(TransportObject *self, const struct kl_tls_options *options,
		 PyObject *ssl_object, struct ssl_st *ssl)
{
	kl_transport_capture_peer(self);
	if (kl_transport_tls_start(self, options, ssl_object, ssl) == 0 &&
	    kl_transport_set_limits(self, KL_DEFAULT_LIMIT, KL_DEFAULT_LIMIT) == 0)
		return 0;
	kl_transport_undo(self);
	return -1;
}

enum { SOCK, PROTOCOL, SSLCONTEXT, WAITER, SERVER_SIDE, SERVER_HOSTNAME, EXTRA, SERVER, CALL_MADE,
       HANDSHAKE, SHUTDOWN, CONTEXT, ARGUMENTS };

/* With the SSLObject there: a new transport, or NULL with an error set. */
static PyObject *make_transport(LoopObject *loop, PyObject **values,
				const struct kl_tls_options *options, PyObject *ssl_object,
				struct ssl_st *ssl)
{
	TransportObject *self;
	int fd = PyObject_AsFileDescriptor(values[SOCK]);
	int on = 1;

	if (fd < 0)
		return NULL;
	self = kl_transport_alloc(loop, loop->state->ssl_transport_type, fd,
				  kl_transport_context(values[CONTEXT]));
	if (self == NULL)
		return NULL;
	self->sock = Py_NewRef(values[SOCK]);
	if (kl_transport_prepare(self, values[PROTOCOL], values[WAITER], values[EXTRA]) < 0 ||
	    kl_transport_open(self, values[SERVER]) < 0) {
		kl_transport_discard(self);
		return NULL;
	}
	/* Small writes must not wait for the peer; a Unix socket refuses, and has no need. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return start(self, options, ssl_object, ssl) < 0 ? NULL : (PyObject *)self;
}

PyObject *kl_loop_make_tls_transport(PyObject *loop_object, PyObject *const *args,
				     Py_ssize_t nargs, PyObject *kwnames)
{
	static const struct kl_signature signature = {
		"_make_tls_transport", 3, 4, ARGUMENTS,
		{"rawsock", "protocol", "sslcontext", "waiter", "server_side", "server_hostname",
		 "extra", "server", "call_connection_made", "ssl_handshake_timeout",
		 "ssl_shutdown_timeout", "context"}};
	LoopObject *loop = (LoopObject *)loop_object;
	struct kl_tls_options options = {0};
	PyObject *values[ARGUMENTS], *ssl_object, *transport = NULL;
	struct ssl_st *ssl;
	bool call_made;
	int usable;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0 ||
	    kl_check_closed(loop) < 0 ||
	    parse_bool(values[CALL_MADE], true, &call_made) < 0 ||
	    parse_side(&options, values[SERVER_SIDE], values[SERVER_HOSTNAME]) < 0 ||
	    kl_tls_set_timeouts(&options, values[HANDSHAKE], values[SHUTDOWN]) < 0)
		return NULL;
	options.sslcontext = values[SSLCONTEXT];
	options.known = !call_made;
	usable = kl_tls_wrap(loop->state, &options, &ssl_object, &ssl);
	if (usable == 0)
		transport = Py_NewRef(Py_None);
	if (usable > 0) {
		transport = make_transport(loop, values, &options, ssl_object, ssl);
		Py_DECREF(ssl_object);
	}
	Py_DECREF(options.handshake_timeout);
	return transport;
}

/* ---- accepted connections --------------------------------------------- */

/* protocol_factory() in the transport's context. 0, or -1 with an error set. */
static int make_protocol(TransportObject *self, PyObject *factory)
{
	PyObject *stack[1] = {NULL};
	PyObject *protocol = kl_call_in_context(self->context, factory, stack + 1, 0);
	int result;

	if (protocol == NULL)
		return -1;
	result = kl_transport_set_protocol(self, protocol);
	Py_DECREF(protocol);
	return result;
}

static int accept_wrapped(LoopObject *loop, int fd, PyObject *protocol_factory, PyObject *server,
			  PyObject *context, const struct kl_tls_options *options,
			  PyObject *ssl_object, struct ssl_st *ssl)
{
	TransportObject *self = kl_transport_alloc(loop, loop->state->ssl_transport_type, fd,
						   kl_transport_context(context));

	if (self == NULL) {
		close(fd);
		return -1;
	}
	if (make_protocol(self, protocol_factory) < 0 || kl_transport_open(self, server) < 0) {
		kl_transport_discard(self);
		close(fd);
		return -1;
	}
	if (start(self, options, ssl_object, ssl) < 0)
		return -1;
	Py_DECREF(self);
	return 1;
}

int kl_transport_accept_tls(LoopObject *loop, int fd, PyObject *protocol_factory,
			    PyObject *server, PyObject *context,
			    const struct kl_tls_options *options)
{
	PyObject *ssl_object;
	struct ssl_st *ssl;
	int result = kl_tls_wrap(loop->state, options, &ssl_object, &ssl);

	if (result < 0)
		close(fd);
	if (result <= 0)
		return result;
	result = accept_wrapped(loop, fd, protocol_factory, server, context, options, ssl_object,
				ssl);
	Py_DECREF(ssl_object);
	return result;
}

/* ---- loop._upgrade_tls() ---------------------------------------------- */

/* Is it a plain transport of this loop, which libkloop can upgrade? -1 with an error set if it ended. */
static int is_upgradable(LoopObject *loop, PyObject *object)
{
	TransportObject *self = (TransportObject *)object;

	if (Py_TYPE(object) != loop->state->transport_type || self->loop != loop ||
	    self->tls != NULL)
		return 0;
	if (!self->closing && !self->lost && self->stream != NULL && !self->eof_due)
		return 1;
	PyErr_SetString(PyExc_ConnectionResetError, "the transport is closing or closed");
	return -1;
}

/* From here on nothing goes to the old protocol, and reading waits for the handshake. */
static int upgrade(TransportObject *self, PyObject *protocol, PyObject *waiter,
		   const struct kl_tls_options *options, PyObject *ssl_object, struct ssl_st *ssl)
{
	PyObject *former = Py_NewRef(self->protocol);
	int result = kl_transport_set_protocol(self, protocol);

	if (result == 0) {
		(void)kloop_stream_stop_read(self->stream);
		result = kl_transport_tls_start(self, options, ssl_object, ssl);
	}
	if (result == 0) {
		self->paused = false;
		self->reading = false;
		Py_XSETREF(self->waiter, Py_NewRef(waiter));
		result = kl_transport_set_limits(self, KL_DEFAULT_LIMIT, KL_DEFAULT_LIMIT);
	} else if (self->protocol != former) {
		PyObject *pending = kl_exception_take();

		(void)kl_transport_set_protocol(self, former);
		kl_exception_give(pending);
	}
	Py_DECREF(former);
	return result;
}

PyObject *kl_loop_upgrade_tls(PyObject *loop_object, PyObject *const *args, Py_ssize_t nargs,
			      PyObject *kwnames)
{
	static const struct kl_signature signature = {
		"_upgrade_tls", 4, 4, 9,
		{"transport", "protocol", "sslcontext", "waiter", "server_side", "server_hostname",
		 "ssl_handshake_timeout", "ssl_shutdown_timeout", "early"}};
	LoopObject *loop = (LoopObject *)loop_object;
	struct kl_tls_options options = {.known = true};
	PyObject *values[9], *ssl_object;
	struct ssl_st *ssl;
	int result;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0 ||
	    kl_check_closed(loop) < 0)
		return NULL;
	if (values[8] != NULL && !PyBytes_Check(values[8])) {
		PyErr_SetString(PyExc_TypeError, "early must be bytes");
		return NULL;
	}
	options.early = values[8];
	result = is_upgradable(loop, values[0]);
	if (result <= 0)
		return result < 0 ? NULL : Py_NewRef(Py_False);
	options.sslcontext = values[2];
	if (parse_side(&options, values[4], values[5]) < 0 ||
	    kl_tls_set_timeouts(&options, values[6], values[7]) < 0)
		return NULL;
	result = kl_tls_wrap(loop->state, &options, &ssl_object, &ssl);
	if (result > 0) {
		if (upgrade((TransportObject *)values[0], values[1], values[3], &options,
			    ssl_object, ssl) < 0)
			result = -1;
		Py_DECREF(ssl_object);
	}
	Py_DECREF(options.handshake_timeout);
	return result < 0 ? NULL : PyBool_FromLong(result);
}
