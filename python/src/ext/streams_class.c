/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The subclass of asyncio.StreamReader that readers change to. It is made by
 * calling type() and adds no slots, so that its instances have the layout of
 * asyncio's and __class__ can be assigned, back and forth.
 */
#include "streams.h"

/* ---- attributes -------------------------------------------------------- */

/* The field of an attribute that may be None. */
static PyObject **object_field(struct kl_streams *streams, ReaderObject *state, PyObject *name)
{
	if (name == streams->names._waiter)
		return &state->waiter;
	if (name == streams->names._exception)
		return &state->exception;
	return &state->transport;
}

static bool *bool_field(struct kl_streams *streams, ReaderObject *state, PyObject *name)
{
	return name == streams->names._eof ? &state->eof : &state->paused;
}

static PyObject *get_object(PyObject *op, PyObject *name, struct kl_streams *streams)
{
	ReaderObject *state = kl_reader_of(streams, op);
	PyObject *value;

	if (state == NULL)
		return NULL;
	value = *object_field(streams, state, name);
	value = Py_NewRef(value != NULL ? value : Py_None);
	Py_DECREF(state);
	return value;
}

static PyObject *get_bool(PyObject *op, PyObject *name, struct kl_streams *streams)
{
	ReaderObject *state = kl_reader_of(streams, op);
	bool value;

	if (state == NULL)
		return NULL;
	value = *bool_field(streams, state, name);
	Py_DECREF(state);
	return PyBool_FromLong(value);
}

/* Turn back, then set (or delete, if value is NULL). 0, or -1 with an error set. */
static int set_plain(struct kl_streams *streams, ReaderObject *state, PyObject *op, PyObject *name,
		     PyObject *value)
{
	if (kl_reader_turn_back(streams, state, op) < 0)
		return -1;
	return PyObject_SetAttr(op, name, value);
}

static int set_object(PyObject *op, PyObject *name, PyObject *value, struct kl_streams *streams)
{
	ReaderObject *state = kl_reader_of(streams, op);
	PyObject **field, *former;
	int result = 0;

	if (state == NULL)
		return -1;
	if (value == NULL) {
		result = set_plain(streams, state, op, name, value);
	} else {
		field = object_field(streams, state, name);
		former = *field;
		*field = value == Py_None ? NULL : Py_NewRef(value);
		Py_XDECREF(former);
	}
	Py_DECREF(state);
	return result;
}

static int set_bool(PyObject *op, PyObject *name, PyObject *value, struct kl_streams *streams)
{
	ReaderObject *state = kl_reader_of(streams, op);
	int result = 0;

	if (state == NULL)
		return -1;
	if (value == Py_True || value == Py_False)
		*bool_field(streams, state, name) = value == Py_True;
	else
		result = set_plain(streams, state, op, name, value);
	Py_DECREF(state);
	return result;
}

#define OBJECT(name)                                                                         \
	static PyObject *get##name(PyObject *op, void *streams)                              \
	{                                                                                    \
		return get_object(op, ((struct kl_streams *)streams)->names.name, streams);  \
	}                                                                                    \
	static int set##name(PyObject *op, PyObject *value, void *streams)                   \
	{                                                                                    \
		return set_object(op, ((struct kl_streams *)streams)->names.name, value,     \
				  streams);                                                  \
	}
#define BOOL(name)                                                                           \
	static PyObject *get##name(PyObject *op, void *streams)                              \
	{                                                                                    \
		return get_bool(op, ((struct kl_streams *)streams)->names.name, streams);    \
	}                                                                                    \
	static int set##name(PyObject *op, PyObject *value, void *streams)                   \
	{                                                                                    \
		return set_bool(op, ((struct kl_streams *)streams)->names.name, value,       \
				streams);                                                    \
	}

OBJECT(_waiter)
OBJECT(_exception)
OBJECT(_transport)
BOOL(_eof)
BOOL(_paused)

/* Whoever asks for the buffer may keep and change it: there is no way back from here. */
static PyObject *get_buffer(PyObject *op, void *closure)
{
	struct kl_streams *streams = closure;
	ReaderObject *state = kl_reader_of(streams, op);
	int result;

	if (state == NULL)
		return NULL;
	result = kl_reader_turn_back(streams, state, op);
	Py_DECREF(state);
	return result < 0 ? NULL : PyObject_GetAttr(op, streams->names._buffer);
}

static int set_buffer(PyObject *op, PyObject *value, void *closure)
{
	struct kl_streams *streams = closure;
	ReaderObject *state = kl_reader_of(streams, op);
	int result;

	if (state == NULL)
		return -1;
	result = set_plain(streams, state, op, streams->names._buffer, value);
	Py_DECREF(state);
	return result;
}

static const PyGetSetDef attributes[] = {
	{ "_buffer", get_buffer, set_buffer, NULL, NULL },
	{ "_waiter", get_waiter, set_waiter, NULL, NULL },
	{ "_exception", get_exception, set_exception, NULL, NULL },
	{ "_transport", get_transport, set_transport, NULL, NULL },
	{ "_eof", get_eof, set_eof, NULL, NULL },
	{ "_paused", get_paused, set_paused, NULL, NULL },
};
#define ATTRIBUTES (sizeof(attributes) / sizeof(attributes[0]))

/* ---- methods that read nothing ------------------------------------------- */

static PyObject *set_attribute(MethodObject *method, ReaderObject *state, PyObject *const *args,
			       Py_ssize_t nargs, PyObject *kwnames)
{
	struct kl_streams *streams = method->streams;
	int guarded = nargs >= 2 ? PySet_Contains(streams->guarded, args[1]) : 0;

	if (guarded < 0 || (guarded > 0 && kl_reader_turn_back(streams, state, args[0]) < 0))
		return NULL;
	return kl_method_leave(method, args, nargs, kwnames);
}

static PyObject *feed_data(MethodObject *method, ReaderObject *state, PyObject *const *args,
			   Py_ssize_t nargs, PyObject *kwnames)
{
	PyObject *data, *piece;

	if (nargs != 2 || kwnames != NULL || state->eof)
		return kl_method_leave(method, args, nargs, kwnames);
	data = args[1];
	if (PyBytes_CheckExact(data)) {
		if (PyBytes_GET_SIZE(data) == 0)
			Py_RETURN_NONE;
		piece = Py_NewRef(data);
	} else if (PyByteArray_CheckExact(data)) {
		if (PyByteArray_GET_SIZE(data) == 0)
			Py_RETURN_NONE;
		piece = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(data),
						  PyByteArray_GET_SIZE(data));
		if (piece == NULL)
			return NULL;
	} else {
		return kl_method_leave(method, args, nargs, kwnames);
	}
	if (kl_reader_append(state, piece) < 0)
		return NULL;
	Py_RETURN_NONE;
}

static PyObject *get_exception_method(MethodObject *method, ReaderObject *state,
				      PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
	if (nargs != 1 || kwnames != NULL)
		return kl_method_leave(method, args, nargs, kwnames);
	return Py_NewRef(state->exception != NULL ? state->exception : Py_None);
}

static PyObject *at_eof(MethodObject *method, ReaderObject *state, PyObject *const *args,
			Py_ssize_t nargs, PyObject *kwnames)
{
	if (nargs != 1 || kwnames != NULL)
		return kl_method_leave(method, args, nargs, kwnames);
	return PyBool_FromLong(state->eof && state->pieces.bytes == 0);
}

static PyObject *maybe_resume(MethodObject *method, ReaderObject *state, PyObject *const *args,
			      Py_ssize_t nargs, PyObject *kwnames)
{
	if (nargs != 1 || kwnames != NULL)
		return kl_method_leave(method, args, nargs, kwnames);
	if (kl_reader_maybe_resume(state) < 0)
		return NULL;
	Py_RETURN_NONE;
}

/* Append the text; steals it, and the error if it is NULL. 0 or -1. */
static int say(PyObject *words, PyObject *text)
{
	int result = text != NULL ? PyList_Append(words, text) : -1;

	Py_XDECREF(text);
	return result;
}

/* As asyncio's, which falls back on attributes being true. 0, or -1 with an error set. */
static int describe_object(PyObject *words, const char *format, PyObject *object)
{
	int known = object != NULL ? PyObject_IsTrue(object) : 0;

	return known <= 0 ? known : say(words, PyUnicode_FromFormat(format, object));
}

static int describe(ReaderObject *state, PyObject *words)
{
	if (say(words, PyUnicode_FromString("<StreamReader")) < 0)
		return -1;
	if (state->pieces.bytes != 0 &&
	    say(words, PyUnicode_FromFormat("%zu bytes", state->pieces.bytes)) < 0)
		return -1;
	if (state->eof && say(words, PyUnicode_FromString("eof")) < 0)
		return -1;
	if (state->limit != 64 * 1024 &&
	    say(words, PyUnicode_FromFormat("limit=%zu", state->limit)) < 0)
		return -1;
	if (describe_object(words, "waiter=%R", state->waiter) < 0 ||
	    describe_object(words, "exception=%R", state->exception) < 0 ||
	    describe_object(words, "transport=%R", state->transport) < 0)
		return -1;
	return state->paused ? say(words, PyUnicode_FromString("paused")) : 0;
}

static PyObject *represent(MethodObject *method, ReaderObject *state, PyObject *const *args,
			   Py_ssize_t nargs, PyObject *kwnames)
{
	PyObject *words, *space, *text = NULL;

	if (nargs != 1 || kwnames != NULL)
		return kl_method_leave(method, args, nargs, kwnames);
	words = PyList_New(0);
	space = PyUnicode_FromString(" ");
	if (words != NULL && space != NULL && describe(state, words) == 0)
		text = PyUnicode_Join(space, words);
	if (text != NULL)
		Py_SETREF(text, PyUnicode_FromFormat("%U>", text));
	Py_XDECREF(words);
	Py_XDECREF(space);
	return text;
}

static const struct kl_method_def methods[] = {
	{ "feed_data", feed_data, false },
	{ "exception", get_exception_method, false },
	{ "at_eof", at_eof, false },
	{ "_maybe_resume_transport", maybe_resume, false },
	{ "__repr__", represent, false },
	{ "__setattr__", set_attribute, false },
	{ "__delattr__", set_attribute, false },
	{ NULL, NULL, false },
};

/* ---- the class --------------------------------------------------------- */

static int add_attributes(struct kl_streams *streams)
{
	PyTypeObject *type = (PyTypeObject *)streams->fast_class;
	size_t i;

	streams->attributes = PyMem_Calloc(ATTRIBUTES, sizeof(attributes[0]));
	if (streams->attributes == NULL) {
		PyErr_NoMemory();
		return -1;
	}
	for (i = 0; i < ATTRIBUTES; i++) {
		PyGetSetDef *attribute = &streams->attributes[i];
		PyObject *descriptor;
		int result;

		*attribute = attributes[i];
		attribute->closure = streams;
		descriptor = PyDescr_NewGetSet(type, attribute);
		if (descriptor == NULL)
			return -1;
		result = PyObject_SetAttrString((PyObject *)type, attribute->name, descriptor);
		Py_DECREF(descriptor);
		if (result < 0)
			return -1;
	}
	return 0;
}

/* A copy would share what is in C with the reader that it was made of. */
static int refuse_copies(struct kl_streams *streams)
{
	static PyMethodDef refuse = KL_NO_PICKLE;
	PyObject *descriptor = PyDescr_NewMethod((PyTypeObject *)streams->fast_class, &refuse);
	int result = -1;

	if (descriptor != NULL)
		result = PyObject_SetAttrString(streams->fast_class, refuse.ml_name, descriptor);
	Py_XDECREF(descriptor);
	return result;
}

static int add_methods(struct kl_streams *streams, PyObject *module,
		       const struct kl_method_def *defs)
{
	for (; defs->name != NULL; defs++)
		if (kl_method_add(streams, module, defs) < 0)
			return -1;
	return 0;
}

int kl_reader_init_class(PyObject *module, struct kl_streams *streams)
{
	streams->fast_class = PyObject_CallFunction(
		(PyObject *)&PyType_Type, "s(O){s(),ss,ss}", "StreamReader", streams->reader_class,
		"__slots__", "__module__", "kloop", "__doc__",
		"asyncio.StreamReader, as kloop's transports feed it.");
	if (streams->fast_class == NULL || add_attributes(streams) < 0 ||
	    refuse_copies(streams) < 0 || add_methods(streams, module, methods) < 0)
		return -1;
	return add_methods(streams, module, kl_read_methods);
}
