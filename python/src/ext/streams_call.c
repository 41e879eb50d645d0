/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A read of a StreamReader as a coroutine: nothing happens before it is
 * awaited; then it takes what is there, or waits for the reader's future.
 */
#include "streams.h"

/* ---- life ------------------------------------------------------------------ */

PyObject *kl_read_new(struct kl_streams *streams, ReaderObject *state, PyObject *reader,
		      enum kl_read_kind kind, size_t bytes, PyObject *separator)
{
	struct kl_read *self = streams->free_reads;

	if (self != NULL) {
		streams->free_reads = (struct kl_read *)self->iterator;
		streams->free_read_count--;
		PyObject_Init((PyObject *)self, streams->read_type);
	} else {
		self = PyObject_GC_New(struct kl_read, streams->read_type);
		if (self == NULL)
			return NULL;
	}
	self->streams = streams;
	self->state = (ReaderObject *)Py_NewRef(state);
	self->reader = Py_NewRef(reader);
	self->separator = Py_XNewRef(separator);
	self->blocks = NULL;
	self->iterator = NULL;
	self->bytes = bytes;
	self->offset = 0;
	self->kind = (uint8_t)kind;
	self->stage = KL_READ_NEW;
	PyObject_GC_Track(self);
	return (PyObject *)self;
}

static int read_traverse(PyObject *op, visitproc visit, void *arg)
{
	struct kl_read *self = (struct kl_read *)op;

	Py_VISIT(Py_TYPE(op));
	Py_VISIT(self->state);
	Py_VISIT(self->reader);
	Py_VISIT(self->separator);
	Py_VISIT(self->blocks);
	Py_VISIT(self->iterator);
	return 0;
}

/* The state stays, for it keeps the module's memory; it has its own tp_clear. */
static int read_clear(PyObject *op)
{
	struct kl_read *self = (struct kl_read *)op;

	Py_CLEAR(self->reader);
	Py_CLEAR(self->separator);
	Py_CLEAR(self->blocks);
	Py_CLEAR(self->iterator);
	return 0;
}

static const char *method_name(const struct kl_read *self)
{
	static const char *const names[] = { "read", "read", "readexactly", "readuntil", "readline",
					     "__anext__" };

	return names[self->kind];
}

/* The future is no longer waited for: finally: self._waiter = None */
static void end_wait(struct kl_read *self)
{
	PyObject *error;

	Py_CLEAR(self->iterator);
	if (!self->state->plain) {
		Py_CLEAR(self->state->waiter);
	} else if (self->reader != NULL) {
		error = kl_exception_take();
		if (PyObject_SetAttr(self->reader, self->streams->names._waiter, Py_None) < 0)
			PyErr_WriteUnraisable(self->reader);
		if (error != NULL)
			kl_exception_give(error);
	}
}

/* Nobody awaits it any more. */
static void read_abandon(struct kl_read *self)
{
	PyObject *error;

	if (self->stage == KL_READ_WAITING) {
		end_wait(self);
	} else if (self->stage == KL_READ_NEW) {
		error = kl_exception_take();
		if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
				     "coroutine 'StreamReader.%s' was never awaited",
				     method_name(self)) < 0)
			PyErr_WriteUnraisable(NULL);
		if (error != NULL)
			kl_exception_give(error);
	}
	self->stage = KL_READ_DONE;
}

static void read_dealloc(PyObject *op)
{
	struct kl_read *self = (struct kl_read *)op;
	struct kl_streams *streams = self->streams;
	PyTypeObject *type = Py_TYPE(op);
	ReaderObject *state = self->state;

	PyObject_GC_UnTrack(op);
	if (self->stage != KL_READ_DONE)
		read_abandon(self);
	(void)read_clear(op);
	if (streams->free_read_count < KL_FREE_READS) {
		self->iterator = (PyObject *)streams->free_reads;
		streams->free_reads = self;
		streams->free_read_count++;
	} else {
		PyObject_GC_Del(op);
	}
	Py_DECREF(type);
	Py_DECREF(state);
}

void kl_read_fini(struct kl_streams *streams)
{
	while (streams->free_reads != NULL) {
		struct kl_read *self = streams->free_reads;

		streams->free_reads = (struct kl_read *)self->iterator;
		PyObject_GC_Del(self);
	}
	streams->free_read_count = KL_FREE_READS; /* full, for good */
}

/* ---- going on ---------------------------------------------------------------- */

/* What `await object` iterates: new, or NULL with an error set. */
static PyObject *await(PyObject *object)
{
	PyAsyncMethods *methods = Py_TYPE(object)->tp_as_async;

	if (PyCoro_CheckExact(object))
		return Py_NewRef(object);
	if (methods != NULL && methods->am_await != NULL)
		return methods->am_await(object);
	PyErr_Format(PyExc_TypeError, "object %.100s can't be used in 'await' expression",
		     Py_TYPE(object)->tp_name);
	return NULL;
}

/* loop.create_future(), without a call of Python code where that is asyncio's. */
static PyObject *create_future(struct kl_streams *streams, ReaderObject *state)
{
	PyObject *stack[2] = {NULL, (PyObject *)state->loop};

	if (state->own_futures)
		return PyObject_CallMethodNoArgs(stack[1], streams->names.create_future);
	return PyObject_Vectorcall(streams->future_class, stack + 1,
				   0 | PY_VECTORCALL_ARGUMENTS_OFFSET, streams->loop_keyword);
}

/* As _wait_for_data(). 0, or -1 with an error set. */
static int begin_wait(struct kl_read *self)
{
	ReaderObject *state = self->state;
	PyObject *future;

	if (state->waiter != NULL) {
		PyErr_Format(PyExc_RuntimeError,
			     "%s() called while another coroutine is already waiting for incoming "
			     "data", kl_read_waiter_name(self));
		return -1;
	}
	if (state->paused && kl_reader_resume(state) < 0)
		return -1;
	future = create_future(self->streams, state);
	if (future == NULL)
		return -1;
	/* A create_future() of the user's may have looked at the reader, which turned back. */
	if (!state->plain) {
		Py_XSETREF(state->waiter, Py_NewRef(future));
	} else if (PyObject_SetAttr(self->reader, self->streams->names._waiter, future) < 0) {
		Py_DECREF(future);
		return -1;
	}
	self->stage = KL_READ_WAITING;
	self->iterator = await(future);
	Py_DECREF(future);
	if (self->iterator != NULL)
		return 0;
	end_wait(self);
	return -1;
}

/* asyncio's own coroutine does the rest. 0, or -1 with an error set. */
static int begin_hand_over(struct kl_read *self)
{
	PyObject *coroutine = kl_read_hand_over(self);

	self->stage = KL_READ_HANDED;
	if (coroutine == NULL)
		return -1;
	self->iterator = await(coroutine);
	Py_DECREF(coroutine);
	return self->iterator != NULL ? 0 : -1;
}

/* Blocks that were read to the end before that belong to what it returns. Steals. */
static PyObject *add_blocks(struct kl_read *self, PyObject *rest)
{
	PyObject *result = NULL, *empty;

	if (self->blocks == NULL)
		return rest;
	empty = PyBytes_FromStringAndSize(NULL, 0);
	if (empty != NULL && PyList_Append(self->blocks, rest) == 0)
		result = PyObject_CallMethod(empty, "join", "O", self->blocks);
	Py_XDECREF(empty);
	Py_DECREF(rest);
	return result;
}

/* Done: with a result, or with an error set. */
static PySendResult end(struct kl_read *self, PyObject *result, PyObject **ret_result)
{
	self->stage = KL_READ_DONE;
	if (result == NULL && kl_read_map_error(self, &result) < 0)
		result = NULL;
	if (result != NULL && self->kind == KL_READ_NEXT && PyBytes_Check(result) &&
	    PyBytes_GET_SIZE(result) == 0) {
		Py_CLEAR(result);
		PyErr_SetNone(PyExc_StopAsyncIteration);
	}
	*ret_result = result;
	return result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
}

/* The same of a coroutine that it was handed to, which has done all of that itself. */
static PySendResult end_handed(struct kl_read *self, PyObject *result, PyObject **ret_result)
{
	self->stage = KL_READ_DONE;
	Py_CLEAR(self->iterator);
	*ret_result = result != NULL ? add_blocks(self, result) : NULL;
	return *ret_result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
}

/* Resume what it waits for. */
static PySendResult resume(struct kl_read *self, PyObject *value, PyObject **ret_result)
{
	PyObject *iterator = Py_NewRef(self->iterator);
	PySendResult result = PyIter_Send(iterator, value, ret_result);

	Py_DECREF(iterator);
	return result;
}

/* Take what is there; if it must wait, begin to. */
static PySendResult go_on(struct kl_read *self, bool woken, PyObject **ret_result)
{
	for (;;) {
		PyObject *result = NULL;
		PySendResult sent;
		int done = 0;

		if (!self->state->plain)
			done = kl_read_attempt(self, woken, &result);
		else if (woken)
			done = kl_read_take_plain(self, &result);
		if (done == 0 && self->state->plain) {
			if (begin_hand_over(self) < 0)
				return end_handed(self, NULL, ret_result);
			sent = resume(self, Py_None, ret_result);
			return sent == PYGEN_NEXT ? sent
						  : end_handed(self, sent == PYGEN_RETURN ? *ret_result
										: NULL,
							       ret_result);
		}
		if (done != 0 || begin_wait(self) < 0)
			return end(self, done > 0 ? result : NULL, ret_result);
		sent = resume(self, Py_None, ret_result);
		if (sent == PYGEN_NEXT)
			return sent;
		/* A future that is done already. */
		end_wait(self);
		if (sent == PYGEN_ERROR)
			return end(self, NULL, ret_result);
		Py_CLEAR(*ret_result);
		woken = true;
	}
}

static PySendResult read_send(PyObject *op, PyObject *value, PyObject **ret_result)
{
	struct kl_read *self = (struct kl_read *)op;
	PySendResult sent;

	*ret_result = NULL;
	switch (self->stage) {
	case KL_READ_NEW:
		if (value == Py_None)
			return go_on(self, false, ret_result);
		PyErr_SetString(PyExc_TypeError,
				"can't send non-None value to a just-started coroutine");
		return PYGEN_ERROR;
	case KL_READ_WAITING:
		if (self->iterator == NULL)
			break;
		sent = resume(self, value, ret_result);
		if (sent == PYGEN_NEXT)
			return sent;
		end_wait(self);
		if (sent == PYGEN_ERROR)
			return end(self, NULL, ret_result);
		Py_CLEAR(*ret_result);
		return go_on(self, true, ret_result);
	case KL_READ_HANDED:
		if (self->iterator == NULL)
			break;
		sent = resume(self, value, ret_result);
		if (sent == PYGEN_NEXT)
			return sent;
		return end_handed(self, sent == PYGEN_RETURN ? *ret_result : NULL, ret_result);
	default:
		break;
	}
	PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
	return PYGEN_ERROR;
}

/* ---- the coroutine's methods --------------------------------------------------- */

/* raise StopIteration(value); steals. */
static void raise_stop(PyObject *value)
{
	PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);

	if (stop != NULL)
		PyErr_SetObject(PyExc_StopIteration, stop);
	Py_XDECREF(stop);
	Py_DECREF(value);
}

static PyObject *sent_to_python(PySendResult sent, PyObject *result)
{
	if (sent == PYGEN_NEXT)
		return result;
	if (sent == PYGEN_RETURN)
		raise_stop(result);
	return NULL;
}

static PyObject *read_next(PyObject *op)
{
	PyObject *result;
	PySendResult sent = read_send(op, Py_None, &result);

	return sent_to_python(sent, result);
}

static PyObject *read_send_method(PyObject *op, PyObject *value)
{
	PyObject *result;
	PySendResult sent = read_send(op, value, &result);

	return sent_to_python(sent, result);
}

/* Set the error of throw(exception) or throw(type[, value[, traceback]]). */
static void set_thrown(PyObject *const *args, Py_ssize_t nargs)
{
	PyObject *type = args[0];
	PyObject *value = nargs > 1 && args[1] != Py_None ? args[1] : NULL;
	PyObject *traceback = nargs > 2 && args[2] != Py_None ? args[2] : NULL;

	if (PyExceptionInstance_Check(type)) {
		value = type;
		type = (PyObject *)Py_TYPE(value);
	} else if (!PyExceptionClass_Check(type)) {
		PyErr_SetString(PyExc_TypeError, "exceptions must derive from BaseException");
		return;
	}
	if (traceback == NULL || value == NULL || !PyExceptionInstance_Check(value) ||
	    PyException_SetTraceback(value, traceback) == 0)
		PyErr_SetObject(type, value);
}

static PyObject *read_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
	struct kl_read *self = (struct kl_read *)op;
	PyObject *method, *result;
	PySendResult sent;

	if (nargs < 1 || nargs > 3) {
		PyErr_Format(PyExc_TypeError, "throw() takes 1 to 3 arguments (%zd given)", nargs);
		return NULL;
	}
	if (self->stage == KL_READ_HANDED && self->iterator != NULL) {
		method = PyObject_GetAttr(self->iterator, self->streams->names.throw);
		result = method == NULL ? NULL : PyObject_Vectorcall(method, args, (size_t)nargs, NULL);
		Py_XDECREF(method);
		if (result == NULL)
			self->stage = KL_READ_DONE;
		return result;
	}
	if (self->stage == KL_READ_DONE) {
		PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
		return NULL;
	}
	if (self->stage == KL_READ_NEW) {
		self->stage = KL_READ_DONE;
		set_thrown(args, nargs);
		return NULL;
	}
	end_wait(self);
	set_thrown(args, nargs);
	sent = end(self, NULL, &result);
	return sent_to_python(sent, result);
}

static PyObject *read_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	struct kl_read *self = (struct kl_read *)op;
	uint8_t stage = self->stage;

	self->stage = KL_READ_DONE;
	if (stage == KL_READ_HANDED && self->iterator != NULL)
		return PyObject_CallMethodNoArgs(self->iterator, self->streams->names.close);
	if (stage == KL_READ_WAITING)
		end_wait(self);
	Py_RETURN_NONE;
}

static PyObject *await_itself(PyObject *op)
{
	return Py_NewRef(op);
}

static PyObject *get_name(PyObject *op, void *Py_UNUSED(closure))
{
	return PyUnicode_FromString(method_name((struct kl_read *)op));
}

static PyObject *get_qualname(PyObject *op, void *Py_UNUSED(closure))
{
	return PyUnicode_FromFormat("StreamReader.%s", method_name((struct kl_read *)op));
}

/* What it waits for, for whoever wants to know where a task is. */
static PyObject *get_await(PyObject *op, void *Py_UNUSED(closure))
{
	PyObject *iterator = ((struct kl_read *)op)->iterator;

	return Py_NewRef(iterator != NULL ? iterator : Py_None);
}

/* Whoever follows tasks down to what they wait for passes over it. */
static PyObject *get_frame(PyObject *Py_UNUSED(op), void *Py_UNUSED(closure))
{
	Py_RETURN_NONE;
}

static PyObject *get_running(PyObject *Py_UNUSED(op), void *Py_UNUSED(closure))
{
	return Py_NewRef(Py_False);
}

static PyMethodDef read_methods[] = {
	{ "send", read_send_method, METH_O, "Go on, as a coroutine." },
	{ "throw", (PyCFunction)(void (*)(void))read_throw, METH_FASTCALL,
	  "Raise an exception where it waits, as a coroutine." },
	{ "close", read_close, METH_NOARGS, "End, as a coroutine." },
	KL_NO_PICKLE,
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef read_getset[] = {
	{ "__name__", get_name, NULL, NULL, NULL },
	{ "__qualname__", get_qualname, NULL, NULL, NULL },
	{ "cr_await", get_await, NULL, "What it waits for.", NULL },
	{ "cr_frame", get_frame, NULL, "None: its code is C.", NULL },
	{ "cr_running", get_running, NULL, "Always false.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot slots[] = {
	{ Py_tp_doc, (void *)"A read of a StreamReader, to be awaited." },
	{ Py_tp_dealloc, read_dealloc },
	{ Py_tp_traverse, read_traverse },
	{ Py_tp_clear, read_clear },
	{ Py_tp_iter, await_itself },
	{ Py_tp_iternext, read_next },
	{ Py_am_await, await_itself },
	{ Py_am_send, read_send },
	{ Py_tp_methods, read_methods },
	{ Py_tp_getset, read_getset },
	{ 0, NULL },
};

static PyType_Spec spec = {
	.name = "kloop._kloop.StreamRead",
	.basicsize = sizeof(struct kl_read),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
		 Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = slots,
};

int kl_read_init(PyObject *module, struct kl_streams *streams)
{
	streams->read_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
	return streams->read_type != NULL ? 0 : -1;
}
