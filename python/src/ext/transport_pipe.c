/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Ends of pipes: what loop.connect_read_pipe() and connect_write_pipe() make, of
 * pipes, sockets and character devices. The object is that of stream transports
 * over a stream of libkloop's with KLOOP_STREAM_PIPE; here is what asyncio does
 * otherwise for pipes. A writing end reads as well, to notice that its reader
 * left.
 */
#include "transport.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

/* Rare enough to have attributes of the user's, as asyncio's objects do. */
typedef struct {
	TransportObject transport;
	PyObject *dict;
} PipeObject;

/* ---- errors and the peer's end ------------------------------------------ */

static void read_failed(TransportObject *self, int error)
{
	static const char message[] = "Fatal read error on pipe transport";
	PyObject *exception = kl_os_exception(error);

	if (exception == NULL) {
		kl_transport_fatal(self, message);
		return;
	}
	/* A terminal whose other end was closed says EIO. */
	if (error == -EIO)
		kl_debug(self->loop, (PyObject *)self, "debug", message, exception);
	else
		kl_call_exception_handler(self->loop, message, exception, "transport",
					  (PyObject *)self, "protocol",
					  self->protocol != NULL ? self->protocol : Py_None);
	if (kl_transport_end_with(self, exception) < 0)
		PyErr_WriteUnraisable((PyObject *)self);
	Py_DECREF(exception);
}

void kl_pipe_write_failed(TransportObject *self, int error)
{
	PyObject *exception = kl_os_exception(error);

	if (exception == NULL)
		kl_transport_fatal(self, "Fatal write error on pipe transport");
	else
		kl_transport_end(self, exception, "Fatal write error on pipe transport");
	Py_XDECREF(exception);
}

static void on_read_error(struct kloop_stream *stream, int error, void *user)
{
	TransportObject *self = user;

	(void)stream;
	kl_py_enter(self->loop);
	if (!self->lost)
		read_failed(self, error);
}

static void on_write_error(struct kloop_stream *stream, int error, void *user)
{
	TransportObject *self = user;

	(void)stream;
	kl_py_enter(self->loop);
	if (!self->lost)
		kl_pipe_write_failed(self, error);
}

/* ---- reading ------------------------------------------------------------ */

/* asyncio lets an exception of data_received() end nothing. */
static void on_read_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	TransportObject *self = user;
	PyObject *object, *result;

	(void)stream;
	kl_py_enter(self->loop);
	if (self->lost || self->closing || self->protocol == NULL)
		return;
	object = PyBytes_FromStringAndSize(data, (Py_ssize_t)bytes);
	if (object == NULL) {
		kl_transport_fatal(self, "Fatal read error on pipe transport");
		return;
	}
	result = kl_transport_call_method(self, self->buffered ? NULL : self->receive,
					  self->loop->state->names.data_received, object);
	if (result == NULL)
		kl_transport_report(self, "Exception in callback protocol.data_received()");
	Py_XDECREF(result);
	Py_DECREF(object);
}

static void run_eof(PyObject *owner)
{
	TransportObject *self = (TransportObject *)owner;
	PyObject *result;

	if (self->lost_done || self->protocol == NULL)
		return;
	result = kl_transport_call(self, self->loop->state->names.eof_received, NULL);
	if (result == NULL)
		kl_transport_report(self, "Exception in callback protocol.eof_received()");
	Py_XDECREF(result);
}

/* eof_received(), then connection_lost(), whatever the first says: each by itself. */
static void on_read_eof(struct kloop_stream *stream, void *user)
{
	TransportObject *self = user;

	(void)stream;
	kl_py_enter(self->loop);
	if (self->lost || self->closing)
		return;
	kl_debug(self->loop, (PyObject *)self, "info", "was closed by peer", NULL);
	if (kl_call_soon_c(self->loop, run_eof, (PyObject *)self) < 0 ||
	    kl_transport_close_now(self) < 0)
		kl_transport_fatal(self, "Fatal read error on pipe transport");
}

/* ---- the reader of a writing end left ------------------------------------ */

static void on_write_eof(struct kloop_stream *stream, void *user)
{
	TransportObject *self = user;
	PyObject *error = NULL;

	(void)stream;
	kl_py_enter(self->loop);
	if (self->lost)
		return;
	kl_debug(self->loop, (PyObject *)self, "info", "was closed by peer", NULL);
	if (kl_transport_write_bytes(self) != 0) {
		error = PyObject_CallNoArgs(PyExc_BrokenPipeError);
		if (error == NULL)
			PyErr_Clear();
	}
	if (kl_transport_end_with(self, error) < 0)
		PyErr_WriteUnraisable((PyObject *)self);
	Py_XDECREF(error);
}

/* As asyncio: a socket that has something to read counts as closed. */
static void on_write_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	(void)data;
	(void)bytes;
	on_write_eof(stream, user);
}

static PyObject *write_eof(PyObject *op, PyObject *unused)
{
	(void)unused;
	/* The end of writing is the end. */
	return kl_transport_close(op, NULL);
}

/* ---- creation ------------------------------------------------------------ */

static const struct kloop_stream_handlers read_handlers = {
	.size = sizeof(read_handlers),
	.on_data = on_read_data,
	.on_eof = on_read_eof,
	.on_error = on_read_error,
	.on_close = kl_transport_on_close,
};

static const struct kloop_stream_handlers write_handlers = {
	.size = sizeof(write_handlers),
	.on_data = on_write_data,
	.on_eof = on_write_eof,
	.on_error = on_write_error,
	.on_drain = kl_transport_on_drain,
	.on_close = kl_transport_on_close,
};

static void run_made(PyObject *owner)
{
	TransportObject *self = (TransportObject *)owner;

	kl_transport_call_made(self);
	if (self->deaf)
		kl_transport_wake_waiter(self);
	else
		kl_transport_begin(self);
}

/* What asyncio takes: not regular files, which cannot be waited for. 0, or -1 with ValueError. */
static int check_kind(TransportObject *self, bool writing)
{
	struct stat status;

	if (fstat(self->fd, &status) < 0) {
		PyErr_SetFromErrno(PyExc_OSError);
		return -1;
	}
	self->deaf = writing && S_ISCHR(status.st_mode);
	if (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode) || S_ISCHR(status.st_mode))
		return 0;
	PyErr_SetString(PyExc_ValueError,
			writing ? "Pipe transport is only for pipes, sockets and character devices"
				: "Pipe transport is for pipes/sockets only.");
	return -1;
}

static int fill_extra(TransportObject *self, PyObject *given, PyObject *pipe)
{
	PyObject *extra = given != NULL && given != Py_None ? Py_NewRef(given) : PyDict_New();

	self->base.extra = extra;
	return extra != NULL ? PyObject_SetItem(extra, self->loop->state->names.pipe, pipe) : -1;
}

static int open_pipe(TransportObject *self, PyObject *const *values, bool writing)
{
	int code;

	if (fill_extra(self, values[3], values[0]) < 0 || check_kind(self, writing) < 0 ||
	    kl_transport_set_protocol(self, values[1]) < 0)
		return -1;
	if (values[2] != NULL && values[2] != Py_None)
		self->waiter = Py_NewRef(values[2]);
	code = kloop_stream_new(self->loop->loop, self->fd,
				KLOOP_STREAM_KEEP_FD | KLOOP_STREAM_PIPE,
				writing ? &write_handlers : &read_handlers, self, &self->stream);
	if (code < 0) {
		kl_raise(self->loop->state, code);
		return -1;
	}
	self->fd_closed = false;
	kl_open_link(self->loop, &self->open, (PyObject *)self);
	if (kl_call_soon_c(self->loop, run_made, (PyObject *)self) == 0)
		return 0;
	/* Nobody was told of it, and the pipe stays the caller's. */
	self->fd_closed = true;
	kl_transport_undo(self);
	return 1;
}

static PyObject *make(PyObject *loop_object, const struct kl_signature *signature,
		      PyTypeObject *type, bool writing, PyObject *const *args, Py_ssize_t nargs,
		      PyObject *kwnames)
{
	LoopObject *loop = (LoopObject *)loop_object;
	TransportObject *self;
	PyObject *values[4];
	int fd, result;

	if (kl_signature_unpack(signature, args, nargs, kwnames, values) < 0 ||
	    kl_check_closed(loop) < 0)
		return NULL;
	fd = PyObject_AsFileDescriptor(values[0]);
	if (fd < 0)
		return NULL;
	self = kl_transport_alloc(loop, type, fd, PyContext_CopyCurrent());
	if (self == NULL)
		return NULL;
	self->pipe = true;
	self->sock = Py_NewRef(values[0]);
	result = open_pipe(self, values, writing);
	if (result == 0)
		return (PyObject *)self;
	if (result < 0)
		Py_DECREF(self);
	return NULL;
}

KL_LOOP_METHOD(kl_loop_make_read_pipe)
{
	static const struct kl_signature signature = {
		"_make_read_pipe_transport", 2, 4, 4, {"pipe", "protocol", "waiter", "extra"}};

	return make(self, &signature, ((LoopObject *)self)->state->read_pipe_type, false, args,
		    nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_make_write_pipe)
{
	static const struct kl_signature signature = {
		"_make_write_pipe_transport", 2, 4, 4, {"pipe", "protocol", "waiter", "extra"}};

	return make(self, &signature, ((LoopObject *)self)->state->write_pipe_type, true, args,
		    nargs, kwnames);
}

/* ---- the types ----------------------------------------------------------- */

static int pipe_traverse(PyObject *op, visitproc visit, void *arg)
{
	Py_VISIT(((PipeObject *)op)->dict);
	return kl_transport_traverse(op, visit, arg);
}

static int pipe_clear(PyObject *op)
{
	Py_CLEAR(((PipeObject *)op)->dict);
	return kl_transport_clear(op);
}

static PyObject *pipe_repr(PyObject *op)
{
	TransportObject *self = (TransportObject *)op;
	const char *name = strrchr(Py_TYPE(op)->tp_name, '.');
	const char *state = self->lost_done ? " closed" : self->closing ? " closing" : "";
	bool writing = Py_TYPE(op) == self->loop->state->write_pipe_type;
	size_t bytes = kl_transport_write_bytes(self);
	bool busy = writing ? bytes != 0 : self->reading && !self->paused && !self->closing;

	name = name != NULL ? name + 1 : Py_TYPE(op)->tp_name;
	if (self->loop->closed || self->lost_done)
		return PyUnicode_FromFormat("<%s%s fd=%d%s>", name, state, self->fd,
					    self->fd_closed ? "" : " open");
	if (!writing)
		return PyUnicode_FromFormat("<%s%s fd=%d %s>", name, state, self->fd,
					    busy ? "polling" : "idle");
	return PyUnicode_FromFormat("<%s%s fd=%d %s bufsize=%zu>", name, state, self->fd,
				    busy ? "polling" : "idle", bytes);
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function))

#define COMMON_METHODS                                                                        \
	KL_NO_PICKLE, /* Python 3.10 would, where a base has no slots */                          \
	{"close", kl_transport_close, METH_NOARGS, PyDoc_STR("Write what is queued, then close.")}, \
	{"is_closing", kl_transport_is_closing, METH_NOARGS,                                       \
	 PyDoc_STR("Is the transport closing or closed?")},                                        \
	{"get_protocol", kl_transport_get_protocol_py, METH_NOARGS,                                \
	 PyDoc_STR("The current protocol.")},                                                      \
	{"set_protocol", kl_transport_set_protocol_py, METH_O,                                     \
	 PyDoc_STR("set_protocol($self, protocol, /)\n--\n\nSet another protocol.")}

static PyMethodDef read_methods[] = {
	COMMON_METHODS,
	{"is_reading", kl_transport_is_reading, METH_NOARGS,
	 PyDoc_STR("Is the transport receiving?")},
	{"pause_reading", kl_transport_pause_reading, METH_NOARGS,
	 PyDoc_STR("Hand no data to the protocol until resume_reading().")},
	{"resume_reading", kl_transport_resume_reading, METH_NOARGS, PyDoc_STR("Go on to read.")},
	{NULL, NULL, 0, NULL},
};

static PyMethodDef write_methods[] = {
	COMMON_METHODS,
	{"write", kl_transport_write, METH_O, PyDoc_STR("write($self, data, /)\n--\n\nWrite bytes; never blocks.")},
	{"write_eof", write_eof, METH_NOARGS, PyDoc_STR("Write what is queued, then close.")},
	{"can_write_eof", kl_transport_can_write_eof, METH_NOARGS, PyDoc_STR("True.")},
	{"abort", kl_transport_abort, METH_NOARGS, PyDoc_STR("Close; what is queued is lost.")},
	{"get_write_buffer_size", kl_transport_get_write_buffer_size, METH_NOARGS,
	 PyDoc_STR("Bytes written and not yet handed to the kernel.")},
	{"get_write_buffer_limits", kl_transport_get_write_buffer_limits, METH_NOARGS,
	 PyDoc_STR("The low and the high water mark.")},
	{"set_write_buffer_limits", FAST(kl_transport_set_write_buffer_limits),
	 METH_FASTCALL | METH_KEYWORDS, PyDoc_STR("set_write_buffer_limits($self, high=None, low=None)\n--\n\n"
		   "Set the water marks of flow control.")},
	{NULL, NULL, 0, NULL},
};

static PyObject *get_loop(PyObject *op, void *unused)
{
	(void)unused;
	return Py_NewRef((PyObject *)((TransportObject *)op)->loop);
}

static PyObject *get_pipe(PyObject *op, void *unused)
{
	TransportObject *self = (TransportObject *)op;

	(void)unused;
	return Py_NewRef(self->fd_closed ? Py_None : self->sock);
}

/* Programs put None there, once the loop is closed, to have no warning. */
static int set_pipe(PyObject *op, PyObject *value, void *unused)
{
	TransportObject *self = (TransportObject *)op;

	(void)unused;
	if (value != Py_None || !self->loop->closed) {
		PyErr_SetString(PyExc_AttributeError, "_pipe can only be forgotten, by None, when "
						      "the event loop is closed");
		return -1;
	}
	self->fd_closed = true;
	return 0;
}

static PyGetSetDef pipe_getset[] = {
	{"_loop", get_loop, NULL, NULL, NULL},
	{"_pipe", get_pipe, set_pipe, NULL, NULL},
	{NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef pipe_members[] = {
	{"__weaklistoffset__", T_PYSSIZET, offsetof(TransportObject, weakrefs), READONLY, NULL},
	{"__dictoffset__", T_PYSSIZET, offsetof(PipeObject, dict), READONLY, NULL},
	{NULL, 0, 0, 0, NULL},
};

#define PIPE_SLOTS(doc, methods)                                                              \
	{                                                                                         \
		{Py_tp_doc, (void *)PyDoc_STR(doc)}, {Py_tp_methods, methods},                        \
		{Py_tp_members, pipe_members}, {Py_tp_getset, pipe_getset},                           \
		{Py_tp_repr, pipe_repr}, {Py_tp_traverse, pipe_traverse},                             \
		{Py_tp_clear, pipe_clear}, {Py_tp_finalize, kl_transport_finalize},                   \
		{Py_tp_dealloc, kl_transport_dealloc}, {0, NULL},                                     \
	}

static PyType_Slot read_slots[] = PIPE_SLOTS("The reading end of a pipe.", read_methods);
static PyType_Slot write_slots[] = PIPE_SLOTS("The writing end of a pipe.", write_methods);

/* Not IMMUTABLETYPE: their bases are Python classes, which later versions forbid. */
static PyType_Spec read_spec = {
	.name = "kloop._kloop.ReadPipeTransport",
	.basicsize = sizeof(PipeObject),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = read_slots,
};

static PyType_Spec write_spec = {
	.name = "kloop._kloop.WritePipeTransport",
	.basicsize = sizeof(PipeObject),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = write_slots,
};

static PyTypeObject *make_type(PyObject *module, PyType_Spec *spec, PyObject *bases)
{
	PyObject *type = bases != NULL ? PyType_FromModuleAndSpec(module, spec, bases) : NULL;

	Py_XDECREF(bases);
	if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) < 0)
		Py_CLEAR(type);
	return (PyTypeObject *)type;
}

int kl_pipe_init(PyObject *module, struct kl_state *state)
{
	PyObject *base = kl_transport_import_base();

	if (base == NULL)
		return -1;
	state->read_pipe_type =
		make_type(module, &read_spec, PyTuple_Pack(1, state->asyncio_read_transport));
	state->write_pipe_type = make_type(
		module, &write_spec, PyTuple_Pack(2, base, state->asyncio_write_transport));
	Py_DECREF(base);
	return state->read_pipe_type != NULL && state->write_pipe_type != NULL ? 0 : -1;
}
