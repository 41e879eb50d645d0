/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The stream transport: its type, and the loop's list of open objects. */
#include "transport.h"

#include <stddef.h>

/* ---- the loop's list of open objects --------------------------------- */

void kl_open_link(LoopObject *loop, struct kl_open *open, PyObject *owner)
{
	struct kl_open *head = loop->open_objects;

	Py_INCREF(owner);
	open->owner = owner;
	open->next = head;
	/* The head is a void pointer in ext.h; all object pointers look alike here. */
	open->link = (struct kl_open **)(void *)&loop->open_objects;
	if (head != NULL)
		head->link = &open->next;
	loop->open_objects = open;
}

void kl_open_unlink(struct kl_open *open)
{
	if (open->link == NULL)
		return;
	*open->link = open->next;
	if (open->next != NULL)
		open->next->link = open->link;
	open->link = NULL;
	open->next = NULL;
	Py_DECREF(open->owner);
}

int kl_open_objects_traverse(LoopObject *loop, visitproc visit, void *arg)
{
	struct kl_open *open;

	for (open = loop->open_objects; open != NULL; open = open->next)
		Py_VISIT(open->owner);
	return 0;
}

void kl_open_objects_close(LoopObject *loop)
{
	struct kl_open *open = loop->open_objects;

	while (open != NULL) {
		struct kl_open *next = open->next;

		open->abandon(open); /* unlinks at most itself */
		open = next;
	}
}

/* ---- the protocol ---------------------------------------------------- */

int kl_lookup_method(PyObject *object, PyObject *name, PyObject **ret_method)
{
	*ret_method = PyObject_GetAttr(object, name);
	if (*ret_method != NULL)
		return 0;
	if (!PyErr_ExceptionMatches(PyExc_AttributeError))
		return -1;
	PyErr_Clear();
	return 0;
}

/* Make a protocol the one that is called; its hot methods are looked up here, once. */
int kl_transport_set_protocol(TransportObject *self, PyObject *protocol)
{
	struct kl_state *state = self->loop->state;
	PyObject *receive = NULL, *updated = NULL;
	int buffered = PyObject_IsInstance(protocol, state->asyncio_buffered_protocol);

	if (buffered < 0 ||
	    kl_lookup_method(protocol, buffered ? state->names.get_buffer : state->names.data_received,
		   &receive) < 0)
		return -1;
	if (buffered && kl_lookup_method(protocol, state->names.buffer_updated, &updated) < 0) {
		Py_XDECREF(receive);
		return -1;
	}
	self->stale = self->lent != NULL;
	self->buffered = buffered != 0;
	Py_XSETREF(self->receive, receive);
	Py_XSETREF(self->updated, updated);
	Py_INCREF(protocol);
	Py_XSETREF(self->protocol, protocol);
	kl_streams_attach(self, protocol);
	return 0;
}

PyObject *kl_transport_get_protocol_py(PyObject *op, PyObject *unused)
{
	PyObject *protocol = ((TransportObject *)op)->protocol;

	(void)unused;
	if (protocol == NULL)
		Py_RETURN_NONE;
	Py_INCREF(protocol);
	return protocol;
}

PyObject *kl_transport_set_protocol_py(PyObject *op, PyObject *protocol)
{
	TransportObject *self = (TransportObject *)op;

	/* After the end nobody is called: do not keep what would not be released. */
	if (!self->lost_done && kl_transport_set_protocol(self, protocol) < 0)
		return NULL;
	Py_RETURN_NONE;
}

/* ---- the object ------------------------------------------------------ */

int kl_transport_traverse(PyObject *op, visitproc visit, void *arg)
{
	TransportObject *self = (TransportObject *)op;
	int result = kl_transport_base_traverse(&self->base, visit, arg);

	if (result != 0)
		return result;
	Py_VISIT(self->loop);
	Py_VISIT(self->protocol);
	Py_VISIT(self->receive);
	Py_VISIT(self->updated);
	Py_VISIT(self->context);
	Py_VISIT(self->server);
	Py_VISIT(self->sock);
	Py_VISIT(self->waiter);
	Py_VISIT(self->error);
	Py_VISIT(self->file_waiter);
	if (self->tls != NULL) {
		result = kl_transport_tls_traverse(self->tls, visit, arg);
		if (result != 0)
			return result;
	}
	/* lent is the kernel's, held is plain bytes. */
	return 0;
}

/* The loop stays: the stream's handlers need it, and it is cleared by its own tp_clear. */
int kl_transport_clear(PyObject *op)
{
	TransportObject *self = (TransportObject *)op;

	kl_streams_detach(self);
	kl_transport_base_clear(&self->base);
	Py_CLEAR(self->protocol);
	Py_CLEAR(self->receive);
	Py_CLEAR(self->updated);
	Py_CLEAR(self->server);
	Py_CLEAR(self->waiter);
	Py_CLEAR(self->error);
	Py_CLEAR(self->file_waiter);
	Py_CLEAR(self->held);
	return 0;
}

/* Nobody closed it: warn as asyncio does, and give the descriptor back. */
void kl_transport_finalize(PyObject *op)
{
	TransportObject *self = (TransportObject *)op;

	if (self->fd_closed)
		return;
	kl_warn_unclosed(op);
	kl_transport_close_fd(self);
}

void kl_transport_dealloc(PyObject *op)
{
	TransportObject *self = (TransportObject *)op;
	PyTypeObject *type = Py_TYPE(op);

	if (PyObject_CallFinalizerFromDealloc(op) < 0)
		return;
	PyObject_GC_UnTrack(op);
	if (self->weakrefs != NULL)
		PyObject_ClearWeakRefs(op);
	(void)type->tp_clear(op); /* that of a pipe does more */
	kl_transport_tls_free(self);
	Py_CLEAR(self->context);
	Py_CLEAR(self->sock);
	Py_CLEAR(self->loop);
	type->tp_free(op);
	Py_DECREF(type);
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef transport_methods[] = {
	KL_NO_PICKLE,
	{"write", kl_transport_write, METH_O, PyDoc_STR("Write bytes; never blocks.")},
	{"writelines", kl_transport_writelines, METH_O, PyDoc_STR("Write a list of bytes.")},
	{"write_eof", kl_transport_write_eof, METH_NOARGS,
	 PyDoc_STR("Close the writing direction after what is queued.")},
	{"can_write_eof", kl_transport_can_write_eof, METH_NOARGS,
	 PyDoc_STR("True, but for TLS.")},
	{"close", kl_transport_close, METH_NOARGS, PyDoc_STR("Send what is queued, then close.")},
	{"abort", kl_transport_abort, METH_NOARGS, PyDoc_STR("Close; what is queued is lost.")},
	{"_force_close", kl_transport_force_close, METH_O, NULL},
	{"is_closing", kl_transport_is_closing, METH_NOARGS,
	 PyDoc_STR("Is the transport closing or closed?")},
	{"is_reading", kl_transport_is_reading, METH_NOARGS,
	 PyDoc_STR("Is the transport receiving?")},
	{"pause_reading", kl_transport_pause_reading, METH_NOARGS,
	 PyDoc_STR("Hand no data to the protocol until resume_reading().")},
	{"resume_reading", kl_transport_resume_reading, METH_NOARGS, PyDoc_STR("Go on to read.")},
	{"_send_file", kl_transport_send_file, METH_VARARGS, NULL},
	{"_send_small", FAST(kl_transport_send_small), METH_FASTCALL, NULL},
	{"_cancel_file", kl_transport_cancel_file, METH_NOARGS, NULL},
	{"get_write_buffer_size", kl_transport_get_write_buffer_size, METH_NOARGS,
	 PyDoc_STR("Bytes written and not yet handed to the kernel.")},
	{"get_write_buffer_limits", kl_transport_get_write_buffer_limits, METH_NOARGS,
	 PyDoc_STR("The low and the high water mark.")},
	{"set_write_buffer_limits", FAST(kl_transport_set_write_buffer_limits),
	 METH_FASTCALL | METH_KEYWORDS, PyDoc_STR("Set the water marks of flow control.")},
	{"get_protocol", kl_transport_get_protocol_py, METH_NOARGS, PyDoc_STR("The current protocol.")},
	{"set_protocol", kl_transport_set_protocol_py, METH_O, PyDoc_STR("Set another protocol.")},
	{"get_extra_info", FAST(kl_transport_get_extra_info), METH_FASTCALL | METH_KEYWORDS,
	 PyDoc_STR("Information by name: 'peername', 'sockname', 'socket' and more.")},
	{NULL, NULL, 0, NULL},
};

static PyMemberDef transport_members[] = {
	{"__weaklistoffset__", T_PYSSIZET, offsetof(TransportObject, weakrefs), READONLY, NULL},
	{NULL, 0, 0, 0, NULL},
};

static PyType_Slot transport_slots[] = {
	{Py_tp_doc, (void *)PyDoc_STR("A stream over a socket: TCP or Unix, with or without TLS.")},
	{Py_tp_methods, transport_methods},
	{Py_tp_members, transport_members},
	{Py_tp_getset, kl_transport_getset},
	{Py_tp_repr, kl_transport_repr},
	{Py_tp_traverse, kl_transport_traverse},
	{Py_tp_clear, kl_transport_clear},
	{Py_tp_finalize, kl_transport_finalize},
	{Py_tp_dealloc, kl_transport_dealloc},
	{0, NULL},
};

/* Not IMMUTABLETYPE: its base is a Python class, which later versions forbid. */
static PyType_Spec transport_spec = {
	.name = "kloop._kloop.StreamTransport",
	.basicsize = sizeof(TransportObject),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
		 Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = transport_slots,
};

/* The same; asyncio's transports with TLS have "SSL" in their name, and are told by it. */
static PyType_Slot ssl_transport_slots[] = {
	{Py_tp_doc, (void *)PyDoc_STR("A stream over a socket that has had TLS from the beginning.")},
	{Py_tp_traverse, kl_transport_traverse},
	{Py_tp_clear, kl_transport_clear},
	{0, NULL},
};

static PyType_Spec ssl_transport_spec = {
	.name = "kloop._kloop.SSLStreamTransport",
	.basicsize = sizeof(TransportObject),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = ssl_transport_slots,
};

PyObject *kl_transport_import_base(void)
{
	PyObject *module = PyImport_ImportModule("asyncio.transports");
	PyObject *base = NULL;

	if (module == NULL)
		return NULL;
	base = PyObject_GetAttrString(module, "_FlowControlMixin");
	Py_DECREF(module);
	if (base != NULL && (!PyType_Check(base) || ((PyTypeObject *)base)->tp_basicsize !=
							    (Py_ssize_t)sizeof(TransportBase))) {
		PyErr_SetString(PyExc_ImportError,
				"kloop does not know the layout of this Python's asyncio transports");
		Py_CLEAR(base);
	}
	return base;
}

/* What loop.start_tls() and loop.sendfile() look at. */
static int set_class_attributes(PyObject *type)
{
	PyObject *module = PyImport_ImportModule("asyncio.constants");
	PyObject *mode = module != NULL ? PyObject_GetAttrString(module, "_SendfileMode") : NULL;
	PyObject *native = mode != NULL ? PyObject_GetAttrString(mode, "TRY_NATIVE") : NULL;
	int result = -1;

	if (native != NULL && PyObject_SetAttrString(type, "_sendfile_compatible", native) == 0)
		result = PyObject_SetAttrString(type, "_start_tls_compatible", Py_True);
	Py_XDECREF(module);
	Py_XDECREF(mode);
	Py_XDECREF(native);
	return result;
}

int kl_transport_init(PyObject *module, struct kl_state *state)
{
	PyObject *base = kl_transport_import_base();
	PyObject *bases, *type;

	if (base == NULL)
		return -1;
	bases = PyTuple_Pack(1, base);
	Py_DECREF(base);
	if (bases == NULL)
		return -1;
	type = PyType_FromModuleAndSpec(module, &transport_spec, bases);
	Py_DECREF(bases);
	if (type == NULL)
		return -1;
	state->transport_type = (PyTypeObject *)type;
	if (set_class_attributes(type) < 0)
		return -1;
	bases = PyTuple_Pack(1, type);
	if (bases == NULL)
		return -1;
	type = PyType_FromModuleAndSpec(module, &ssl_transport_spec, bases);
	Py_DECREF(bases);
	if (type == NULL)
		return -1;
	state->ssl_transport_type = (PyTypeObject *)type;
	if (PyModule_AddType(module, state->ssl_transport_type) < 0)
		return -1;
	return PyModule_AddType(module, state->transport_type);
}
