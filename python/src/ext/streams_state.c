/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The C state of a stream reader: feeding, pausing, and turning back. */
#include "streams.h"

/* ---- the object ------------------------------------------------------ */

ReaderObject *kl_reader_of(struct kl_streams *streams, PyObject *object)
{
	PyObject *value = PyObject_GetAttr(object, streams->names._kloop_state);

	if (value == NULL)
		return NULL;
	/* Where another reader had it as well, and turned back, nothing is in it any more. */
	if (Py_TYPE(value) == streams->state_type && !((ReaderObject *)value)->plain)
		return (ReaderObject *)value;
	Py_DECREF(value);
	PyErr_SetString(PyExc_TypeError, "the reader has lost its state");
	return NULL;
}

ReaderObject *kl_reader_new(struct kl_streams *streams, LoopObject *loop)
{
	PyObject *create = PyObject_GetAttr((PyObject *)loop, streams->names.create_future);
	ReaderObject *self = NULL;

	if (create != NULL)
		self = PyObject_GC_New(ReaderObject, streams->state_type);
	if (self == NULL) {
		Py_XDECREF(create);
		return NULL;
	}
	memset((char *)self + sizeof(PyObject), 0, sizeof(*self) - sizeof(PyObject));
	self->own_futures = !PyMethod_Check(create) ||
			    PyMethod_GET_FUNCTION(create) != streams->create_future;
	Py_DECREF(create);
	self->loop = (LoopObject *)Py_NewRef(loop);
	PyObject_GC_Track(self);
	return self;
}

void kl_reader_link(TransportObject *transport, ReaderObject *self)
{
	if (transport->reader != NULL)
		transport->reader->feeder = NULL;
	transport->reader = self;
	if (self == NULL)
		return;
	if (self->feeder != NULL)
		self->feeder->reader = NULL;
	self->feeder = transport;
}

static int reader_traverse(PyObject *op, visitproc visit, void *arg)
{
	ReaderObject *self = (ReaderObject *)op;

	Py_VISIT(Py_TYPE(op));
	Py_VISIT(self->loop);
	Py_VISIT(self->transport);
	Py_VISIT(self->waiter);
	Py_VISIT(self->exception);
	return 0;
}

/* The loop stays, for it keeps the module's memory. */
static int reader_clear(PyObject *op)
{
	ReaderObject *self = (ReaderObject *)op;

	if (self->feeder != NULL)
		kl_reader_link(self->feeder, NULL);
	Py_CLEAR(self->transport);
	Py_CLEAR(self->waiter);
	Py_CLEAR(self->exception);
	return 0;
}

static void reader_dealloc(PyObject *op)
{
	ReaderObject *self = (ReaderObject *)op;
	PyTypeObject *type = Py_TYPE(op);

	PyObject_GC_UnTrack(op);
	(void)reader_clear(op);
	kl_pieces_clear(&self->pieces);
	Py_CLEAR(self->loop);
	PyObject_GC_Del(op);
	Py_DECREF(type);
}

/* ---- feeding ----------------------------------------------------------- */

static bool is_ours(const ReaderObject *self)
{
	struct kl_state *state = self->loop->state;

	return Py_IS_TYPE(self->transport, state->transport_type) ||
	       Py_IS_TYPE(self->transport, state->ssl_transport_type);
}

/* 0, or -1 with an error set. */
static int pause_transport(ReaderObject *self)
{
	PyObject *result;

	if (is_ours(self))
		result = kl_transport_pause_reading(self->transport, NULL);
	else
		result = PyObject_CallMethod(self->transport, "pause_reading", NULL);
	if (result != NULL) {
		Py_DECREF(result);
		self->paused = true;
		return 0;
	}
	if (!PyErr_ExceptionMatches(PyExc_NotImplementedError))
		return -1;
	/* asyncio then lets it grow, and asks no more. */
	PyErr_Clear();
	Py_CLEAR(self->transport);
	return 0;
}

int kl_reader_append(ReaderObject *self, PyObject *object)
{
	struct kl_state *state = self->loop->state;
	PyObject *waiter = self->waiter;
	int result = 0;

	if (kl_pieces_append(&self->pieces, object) < 0)
		return -1;
	self->waiter = NULL;
	if (waiter != NULL) {
		result = kl_wake(state, waiter, state->names.set_result, Py_None);
		Py_DECREF(waiter);
	}
	if (result == 0 && self->transport != NULL && !self->paused &&
	    self->pieces.bytes / 2 >= self->limit && self->pieces.bytes > 2 * self->limit)
		result = pause_transport(self);
	return result;
}

int kl_reader_resume(ReaderObject *self)
{
	PyObject *result;

	self->paused = false;
	if (self->transport != NULL && is_ours(self))
		result = kl_transport_resume_reading(self->transport, NULL);
	else
		result = PyObject_CallMethod(self->transport != NULL ? self->transport : Py_None,
					     "resume_reading", NULL);
	Py_XDECREF(result);
	return result != NULL ? 0 : -1;
}

int kl_reader_maybe_resume(ReaderObject *self)
{
	return self->paused && self->pieces.bytes <= self->limit ? kl_reader_resume(self) : 0;
}

/* ---- turning back ------------------------------------------------------ */

/* Move what is held into the bytearray that the reader was made with. 0, or -1 with an error. */
static int fill_buffer(struct kl_streams *streams, ReaderObject *self, PyObject *object)
{
	PyObject *attributes = PyObject_GenericGetDict(object, NULL);
	PyObject *buffer = attributes != NULL
				   ? PyDict_GetItemWithError(attributes, streams->names._buffer)
				   : NULL;
	Py_ssize_t before;
	int result = -1;

	if (buffer == NULL || !PyByteArray_CheckExact(buffer)) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_TypeError, "the reader has lost its buffer");
	} else {
		before = PyByteArray_GET_SIZE(buffer);
		result = PyByteArray_Resize(buffer, before + (Py_ssize_t)self->pieces.bytes);
		if (result == 0)
			kl_pieces_copy(&self->pieces, PyByteArray_AS_STRING(buffer) + before);
	}
	Py_XDECREF(attributes);
	if (result == 0)
		kl_pieces_clear(&self->pieces);
	return result;
}

static PyObject *or_none(PyObject *object)
{
	return object != NULL ? object : Py_None;
}

int kl_reader_turn_back(struct kl_streams *streams, ReaderObject *self, PyObject *object)
{
	if (self->plain)
		return 0;
	if (streams->reader_class == NULL) {
		PyErr_SetString(PyExc_RuntimeError, "the module kloop is gone");
		return -1;
	}
	if (fill_buffer(streams, self, object) < 0 ||
	    PyObject_GenericSetAttr(object, streams->names.__class__, streams->reader_class) < 0)
		return -1;
	self->plain = true;
	if (self->feeder != NULL)
		kl_reader_link(self->feeder, NULL);
	if (PyObject_SetAttr(object, streams->names._eof, self->eof ? Py_True : Py_False) < 0 ||
	    PyObject_SetAttr(object, streams->names._paused, self->paused ? Py_True : Py_False) < 0 ||
	    PyObject_SetAttr(object, streams->names._waiter, or_none(self->waiter)) < 0 ||
	    PyObject_SetAttr(object, streams->names._exception, or_none(self->exception)) < 0 ||
	    PyObject_SetAttr(object, streams->names._transport, or_none(self->transport)) < 0)
		return -1;
	Py_CLEAR(self->waiter);
	Py_CLEAR(self->exception);
	Py_CLEAR(self->transport);
	return PyObject_DelAttr(object, streams->names._kloop_state);
}

/* ---- the type ---------------------------------------------------------- */

static PyMethodDef state_methods[] = {
	KL_NO_PICKLE,
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot slots[] = {
	{ Py_tp_doc, (void *)"What a StreamReader holds in C." },
	{ Py_tp_dealloc, reader_dealloc },
	{ Py_tp_traverse, reader_traverse },
	{ Py_tp_clear, reader_clear },
	{ Py_tp_methods, state_methods },
	{ 0, NULL },
};

static PyType_Spec spec = {
	.name = "kloop._kloop.ReaderState",
	.basicsize = sizeof(ReaderObject),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
		 Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = slots,
};

int kl_reader_init_state(PyObject *module, struct kl_streams *streams)
{
	streams->state_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
	return streams->state_type != NULL ? 0 : -1;
}
