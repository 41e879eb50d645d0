/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The datagram transport: its type, how it comes to be, what it tells of itself. */
#include "transport_dgram.h"

#include <stddef.h>
#include <sys/socket.h>

static const struct kloop_datagram_handlers handlers = {
	.size = sizeof(handlers),
	.on_datagram = kl_dgram_on_datagram,
	.on_error = kl_dgram_on_error,
	.on_drain = kl_dgram_on_drain,
	.on_close = kl_dgram_on_close,
};

/* ---- the protocol ------------------------------------------------------ */

static int set_protocol(DatagramObject *self, PyObject *protocol)
{
	PyObject *receive;

	if (kl_lookup_method(protocol, self->loop->state->names.datagram_received, &receive) < 0)
		return -1;
	Py_XSETREF(self->receive, receive);
	Py_XSETREF(self->protocol, Py_NewRef(protocol));
	return 0;
}

static PyObject *dgram_get_protocol(PyObject *op, PyObject *unused)
{
	PyObject *protocol = ((DatagramObject *)op)->protocol;

	(void)unused;
	return Py_NewRef(protocol != NULL ? protocol : Py_None);
}

static PyObject *dgram_set_protocol(PyObject *op, PyObject *protocol)
{
	DatagramObject *self = (DatagramObject *)op;

	/* After the end nobody is called: do not keep what would not be released. */
	if (!self->lost_done && set_protocol(self, protocol) < 0)
		return NULL;
	Py_RETURN_NONE;
}

/* ---- creation ---------------------------------------------------------- */

/* connection_made(), then receiving, then the waiter: asyncio's order. */
static void run_made(PyObject *owner)
{
	DatagramObject *self = (DatagramObject *)owner;
	struct kl_state *state = self->loop->state;
	PyObject *waiter = self->waiter;
	PyObject *result;

	self->waiter = NULL;
	if (self->protocol != NULL) {
		result = kl_dgram_call(self, NULL, state->names.connection_made, &owner, 1);
		if (result == NULL)
			kl_dgram_report(self, "Exception in callback protocol.connection_made()");
		Py_XDECREF(result);
	}
	if (kl_dgram_start_read(self) < 0)
		kl_dgram_fatal(self, "Fatal read error on datagram transport");
	if (waiter == NULL)
		return;
	if (kl_wake(state, waiter, state->names.set_result, Py_None) < 0)
		kl_dgram_report(self, "Exception in callback waiter.set_result()");
	Py_DECREF(waiter);
}

/* extra[name] = sock.method(), or None where that fails with OSError. */
static int put_address(PyObject *extra, const char *name, PyObject *sock, const char *method)
{
	PyObject *address = PyObject_CallMethod(sock, method, NULL);
	int result;

	if (address == NULL) {
		if (!PyErr_ExceptionMatches(PyExc_OSError))
			return -1;
		PyErr_Clear();
		address = Py_NewRef(Py_None);
	}
	result = PyDict_SetItemString(extra, name, address);
	Py_DECREF(address);
	return result;
}

/* What get_extra_info() will find. 0, or -1 with an error set. */
static int fill_extra(DatagramObject *self, PyObject *given)
{
	/* As asyncio, keep the caller's own dictionary. */
	PyObject *extra = given != NULL && given != Py_None ? Py_NewRef(given) : PyDict_New();
	PyObject *shown;
	int result = -1;

	self->base.extra = extra;
	if (extra == NULL)
		return -1;
	if (!PyDict_Check(extra)) {
		PyErr_SetString(PyExc_TypeError, "extra must be a dict or None");
		return -1;
	}
	shown = PyObject_CallOneArg(self->loop->state->transport_socket, self->sock);
	if (shown != NULL && PyDict_SetItemString(extra, "socket", shown) == 0 &&
	    put_address(extra, "sockname", self->sock, "getsockname") == 0 &&
	    (PyDict_GetItemString(extra, "peername") != NULL ||
	     put_address(extra, "peername", self->sock, "getpeername") == 0))
		result = 0;
	Py_XDECREF(shown);
	return result;
}

static bool is_connected(int fd)
{
	struct sockaddr_storage peer;
	socklen_t length = sizeof(peer);

	return getpeername(fd, (struct sockaddr *)(void *)&peer, &length) == 0;
}

static DatagramObject *alloc(LoopObject *loop, PyObject *sock, int family)
{
	PyTypeObject *type = loop->state->datagram_transport_type;
	PyObject *context = PyContext_CopyCurrent();
	DatagramObject *self = context != NULL ? (DatagramObject *)type->tp_alloc(type, 0) : NULL;

	if (self == NULL) {
		Py_XDECREF(context);
		return NULL;
	}
	self->loop = (LoopObject *)Py_NewRef(loop);
	self->context = context;
	self->sock = Py_NewRef(sock);
	self->family = family;
	self->fd_closed = true; /* not ours yet */
	self->low_bytes = 16 * 1024;
	self->high_bytes = 64 * 1024;
	self->open.abandon = kl_dgram_abandon;
	return self;
}

/* Everything but the first call. 0, or -1 with an error set. */
static int open_transport(DatagramObject *self, PyObject *const *values)
{
	int code;

	if (fill_extra(self, values[4]) < 0 || set_protocol(self, values[1]) < 0)
		return -1;
	if (values[2] != NULL && values[2] != Py_None)
		self->address = Py_NewRef(values[2]);
	if (values[3] != NULL && values[3] != Py_None)
		self->waiter = Py_NewRef(values[3]);
	self->connected = is_connected(self->fd);
	code = kloop_datagram_new(self->loop->loop, self->fd, KLOOP_DATAGRAM_KEEP_FD, &handlers,
				  self, &self->datagram);
	if (code < 0) {
		kl_raise(self->loop->state, code);
		return -1;
	}
	self->fd_closed = false;
	kl_open_link(self->loop, &self->open, (PyObject *)self);
	if (kl_register_transport(self->loop, self->fd, (PyObject *)self) == 0 &&
	    kl_call_soon_c(self->loop, run_made, (PyObject *)self) == 0)
		return 0;
	/* Nobody was told of it, and the socket stays the caller's. */
	self->lost_done = self->lost = self->closing = self->fd_closed = true;
	kloop_datagram_abort(self->datagram);
	return -1;
}

PyObject *kl_loop_make_datagram_transport(PyObject *loop_object, PyObject *const *args,
					  Py_ssize_t nargs, PyObject *kwnames)
{
	static const struct kl_signature signature = {
		"_make_datagram_transport_c", 3, 6, 6,
		{"sock", "protocol", "address", "waiter", "extra", "family"}};
	LoopObject *loop = (LoopObject *)loop_object;
	PyObject *values[6];
	DatagramObject *self;
	long family;
	int fd;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0 ||
	    kl_check_closed(loop) < 0)
		return NULL;
	fd = PyObject_AsFileDescriptor(values[0]);
	family = fd >= 0 && values[5] != NULL ? PyLong_AsLong(values[5]) : AF_INET;
	if (fd < 0 || (family == -1 && PyErr_Occurred()))
		return NULL;
	self = alloc(loop, values[0], (int)family);
	if (self == NULL)
		return NULL;
	self->fd = fd;
	if (open_transport(self, values) < 0)
		Py_CLEAR(self);
	return (PyObject *)self;
}

/* ---- the object -------------------------------------------------------- */

static int dgram_traverse(PyObject *op, visitproc visit, void *arg)
{
	DatagramObject *self = (DatagramObject *)op;
	int result = kl_transport_base_traverse(&self->base, visit, arg);

	if (result != 0)
		return result;
	Py_VISIT(self->dict);
	Py_VISIT(self->loop);
	Py_VISIT(self->protocol);
	Py_VISIT(self->receive);
	Py_VISIT(self->context);
	Py_VISIT(self->sock);
	Py_VISIT(self->waiter);
	Py_VISIT(self->error);
	Py_VISIT(self->address);
	Py_VISIT(self->sender);
	Py_VISIT(self->pending);
	return 0;
}

/* The loop and the socket stay: the handlers and the finalizer need them. */
static int dgram_clear(PyObject *op)
{
	DatagramObject *self = (DatagramObject *)op;

	kl_transport_base_clear(&self->base);
	Py_CLEAR(self->dict);
	Py_CLEAR(self->protocol);
	Py_CLEAR(self->receive);
	Py_CLEAR(self->waiter);
	Py_CLEAR(self->error);
	Py_CLEAR(self->address);
	Py_CLEAR(self->sender);
	Py_CLEAR(self->pending);
	return 0;
}

/* Nobody closed it: warn as asyncio does, and give the descriptor back. */
static void dgram_finalize(PyObject *op)
{
	DatagramObject *self = (DatagramObject *)op;

	if (self->fd_closed)
		return;
	kl_warn_unclosed(op);
	kl_dgram_close_fd(self);
}

static void dgram_dealloc(PyObject *op)
{
	DatagramObject *self = (DatagramObject *)op;
	PyTypeObject *type = Py_TYPE(op);

	if (PyObject_CallFinalizerFromDealloc(op) < 0)
		return;
	PyObject_GC_UnTrack(op);
	if (self->weakrefs != NULL)
		PyObject_ClearWeakRefs(op);
	(void)dgram_clear(op);
	Py_CLEAR(self->context);
	Py_CLEAR(self->sock);
	Py_CLEAR(self->loop);
	type->tp_free(op);
	Py_DECREF(type);
}

static PyObject *dgram_repr(PyObject *op)
{
	DatagramObject *self = (DatagramObject *)op;
	const char *state = self->lost_done ? " closed" : self->closing ? " closing" : "";
	size_t bytes = kl_dgram_write_bytes(self);

	if (self->loop->closed || self->lost_done)
		return PyUnicode_FromFormat("<DatagramTransport%s fd=%d>", state, self->fd);
	return PyUnicode_FromFormat("<DatagramTransport%s fd=%d read=%s write=<%s, bufsize=%zu>>",
				    state, self->fd,
				    self->reading && !self->paused && !self->closing ? "polling"
										     : "idle",
				    bytes != 0 ? "polling" : "idle", bytes);
}

static PyObject *dgram_get_write_buffer_size(PyObject *op, PyObject *unused)
{
	(void)unused;
	return PyLong_FromSize_t(kl_dgram_write_bytes((DatagramObject *)op));
}

static PyObject *dgram_get_write_buffer_limits(PyObject *op, PyObject *unused)
{
	DatagramObject *self = (DatagramObject *)op;

	(void)unused;
	return Py_BuildValue("(nn)", (Py_ssize_t)self->low_bytes, (Py_ssize_t)self->high_bytes);
}

/* ---- attributes -------------------------------------------------------- */

static PyObject *get_loop(PyObject *op, void *unused)
{
	(void)unused;
	return Py_NewRef((PyObject *)((DatagramObject *)op)->loop);
}

static PyObject *get_sock(PyObject *op, void *unused)
{
	DatagramObject *self = (DatagramObject *)op;

	(void)unused;
	return Py_NewRef(self->fd_closed ? Py_None : self->sock);
}

static PyObject *get_sock_fd(PyObject *op, void *unused)
{
	(void)unused;
	return PyLong_FromLong(((DatagramObject *)op)->fd);
}

static PyObject *get_address(PyObject *op, void *unused)
{
	PyObject *address = ((DatagramObject *)op)->address;

	(void)unused;
	return Py_NewRef(address != NULL ? address : Py_None);
}

static PyObject *get_protocol_paused(PyObject *op, void *unused)
{
	(void)unused;
	return PyBool_FromLong(((DatagramObject *)op)->write_paused);
}

static PyObject *get_low_water(PyObject *op, void *unused)
{
	(void)unused;
	return PyLong_FromSize_t(((DatagramObject *)op)->low_bytes);
}

static PyObject *get_high_water(PyObject *op, void *unused)
{
	(void)unused;
	return PyLong_FromSize_t(((DatagramObject *)op)->high_bytes);
}

/* The names that asyncio's own transports have; those of _FlowControlMixin are shadowed. */
static PyGetSetDef dgram_getset[] = {
	{"_loop", get_loop, NULL, NULL, NULL},
	{"_sock", get_sock, NULL, NULL, NULL},
	{"_sock_fd", get_sock_fd, NULL, NULL, NULL},
	{"_address", get_address, NULL, NULL, NULL},
	{"_protocol_paused", get_protocol_paused, NULL, NULL, NULL},
	{"_low_water", get_low_water, NULL, NULL, NULL},
	{"_high_water", get_high_water, NULL, NULL, NULL},
	{NULL, NULL, NULL, NULL, NULL},
};

#define FAST(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef dgram_methods[] = {
	KL_NO_PICKLE,
	{"sendto", FAST(kl_dgram_sendto), METH_FASTCALL | METH_KEYWORDS,
	 PyDoc_STR("sendto($self, data, addr=None)\n--\n\nSend a datagram; never blocks.")},
	{"close", kl_dgram_close, METH_NOARGS, PyDoc_STR("Send what is queued, then close.")},
	{"abort", kl_dgram_abort, METH_NOARGS, PyDoc_STR("Close; what is queued is lost.")},
	{"_force_close", kl_dgram_force_close, METH_O, PyDoc_STR("abort() with an exception.")},
	{"is_closing", kl_dgram_is_closing, METH_NOARGS,
	 PyDoc_STR("Is the transport closing or closed?")},
	{"is_reading", kl_dgram_is_reading, METH_NOARGS, PyDoc_STR("Is the transport receiving?")},
	{"pause_reading", kl_dgram_pause_reading, METH_NOARGS,
	 PyDoc_STR("Hand no datagram to the protocol until resume_reading().")},
	{"resume_reading", kl_dgram_resume_reading, METH_NOARGS, PyDoc_STR("Go on to receive.")},
	{"get_write_buffer_size", dgram_get_write_buffer_size, METH_NOARGS,
	 PyDoc_STR("Bytes queued and not yet handed to the kernel.")},
	{"get_write_buffer_limits", dgram_get_write_buffer_limits, METH_NOARGS,
	 PyDoc_STR("The low and the high water mark.")},
	{"set_write_buffer_limits", FAST(kl_dgram_set_write_buffer_limits),
	 METH_FASTCALL | METH_KEYWORDS, PyDoc_STR("set_write_buffer_limits($self, high=None, low=None)\n--\n\n"
		   "Set the water marks of flow control.")},
	{"get_protocol", dgram_get_protocol, METH_NOARGS, PyDoc_STR("The current protocol.")},
	{"set_protocol", dgram_set_protocol, METH_O, PyDoc_STR("set_protocol($self, protocol, /)\n--\n\nSet another protocol.")},
	{NULL, NULL, 0, NULL},
};

static PyMemberDef dgram_members[] = {
	{"__weaklistoffset__", T_PYSSIZET, offsetof(DatagramObject, weakrefs), READONLY, NULL},
	{"__dictoffset__", T_PYSSIZET, offsetof(DatagramObject, dict), READONLY, NULL},
	{NULL, 0, 0, 0, NULL},
};

static PyType_Slot dgram_slots[] = {
	{Py_tp_doc, (void *)PyDoc_STR("Datagrams over a socket: UDP or Unix.")},
	{Py_tp_methods, dgram_methods},
	{Py_tp_members, dgram_members},
	{Py_tp_getset, dgram_getset},
	{Py_tp_repr, dgram_repr},
	{Py_tp_traverse, dgram_traverse},
	{Py_tp_clear, dgram_clear},
	{Py_tp_finalize, dgram_finalize},
	{Py_tp_dealloc, dgram_dealloc},
	{0, NULL},
};

/* Not IMMUTABLETYPE: its bases are Python classes, which later versions forbid. */
static PyType_Spec dgram_spec = {
	.name = "kloop._kloop.DatagramTransport",
	.basicsize = sizeof(DatagramObject),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = dgram_slots,
};

int kl_dgram_init(PyObject *module, struct kl_state *state)
{
	PyObject *base = kl_transport_import_base();
	PyObject *bases = base != NULL ? PyTuple_Pack(2, base, state->asyncio_datagram_transport)
				       : NULL;

	Py_XDECREF(base);
	if (bases == NULL)
		return -1;
	state->datagram_transport_type =
		(PyTypeObject *)PyType_FromModuleAndSpec(module, &dgram_spec, bases);
	Py_DECREF(bases);
	if (state->datagram_transport_type == NULL)
		return -1;
	return PyModule_AddType(module, state->datagram_transport_type);
}
