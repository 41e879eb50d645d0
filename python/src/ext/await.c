/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Coroutine and future in one: see await.h. */
#include "await.h"

void kl_await_init(struct kl_await *self, LoopObject *loop)
{
	self->loop = (LoopObject *)Py_NewRef((PyObject *)loop);
	self->state = KL_AWAIT_NEW;
	self->blocking = false;
	self->exposed = false;
	self->running = false;
}

int kl_await_traverse(struct kl_await *self, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE((PyObject *)self));
	Py_VISIT(self->loop);
	Py_VISIT(self->callback);
	Py_VISIT(self->context);
	Py_VISIT(self->more);
	Py_VISIT(self->cancel_message);
	Py_VISIT(self->delegate);
	return 0;
}

static void drop_callbacks(struct kl_await *self)
{
	Py_CLEAR(self->callback);
	Py_CLEAR(self->context);
	Py_CLEAR(self->more);
}

void kl_await_clear(struct kl_await *self)
{
	drop_callbacks(self);
	Py_CLEAR(self->cancel_message);
	Py_CLEAR(self->delegate);
}

void kl_await_warn_unused(struct kl_await *self, const char *name)
{
	PyObject *exception;

	if (self->state != KL_AWAIT_NEW)
		return;
	exception = kl_exception_take();
	if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine 'Loop.%s' was never awaited",
			     name) < 0)
		PyErr_WriteUnraisable(NULL);
	if (exception != NULL)
		kl_exception_give(exception);
}

/* ---- whoever waits ----------------------------------------------------- */

/* Schedule callback(self); the failure is reported. */
static void schedule(struct kl_await *self, PyObject *callback, PyObject *context)
{
	PyObject *argument = (PyObject *)self;

	if (kl_call_soon(self->loop, callback, &argument, 1, context) < 0)
		kl_report_exception(self->loop, self->kind->failure, NULL, NULL);
}

void kl_await_wake(struct kl_await *self)
{
	PyObject *callback = self->callback, *context = self->context, *more = self->more;
	Py_ssize_t i;

	self->callback = self->context = self->more = NULL;
	if (callback != NULL && !self->loop->closed)
		schedule(self, callback, context);
	for (i = 0; more != NULL && !self->loop->closed && i < PyList_GET_SIZE(more); i++) {
		PyObject *pair = PyList_GET_ITEM(more, i);

		schedule(self, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1));
	}
	Py_XDECREF(callback);
	Py_XDECREF(context);
	Py_XDECREF(more);
}

/* ---- the coroutine ----------------------------------------------------- */

static int raise_cancelled(struct kl_await *self)
{
	struct kl_state *state = self->loop->state;

	if (self->cancel_message == NULL || self->cancel_message == Py_None)
		PyErr_SetNone(state->cancelled_error);
	else
		PyErr_SetObject(state->cancelled_error, self->cancel_message);
	return -1;
}

/* Over, one way or another. */
static void end(struct kl_await *self)
{
	self->state = KL_AWAIT_DONE;
	self->blocking = false;
	Py_CLEAR(self->delegate);
	self->kind->drop(self);
}

static PySendResult send_to_delegate(struct kl_await *self, PyObject *value, PyObject **ret_result)
{
	PyObject *delegate = Py_NewRef(self->delegate);
	PySendResult sent = PyIter_Send(delegate, value, ret_result);

	Py_DECREF(delegate);
	if (sent != PYGEN_NEXT && self->state == KL_AWAIT_DELEGATED)
		end(self);
	return sent;
}

/* As with a coroutine, nothing can be asked of it while it runs. 0, or -1 with ValueError. */
static int check_running(struct kl_await *self)
{
	if (!self->running)
		return 0;
	PyErr_SetString(PyExc_ValueError, "coroutine already executing");
	return -1;
}

/* Begin, or go on. */
static int go(struct kl_await *self, PyObject **ret_result)
{
	int result;

	self->running = true;
	result = self->kind->go(self, ret_result);
	self->running = false;
	return result;
}

PySendResult kl_await_send(PyObject *op, PyObject *value, PyObject **ret_result)
{
	struct kl_await *self = (struct kl_await *)op;
	int result;

	*ret_result = NULL;
	if (check_running(self) < 0)
		return PYGEN_ERROR;
	switch (self->state) {
	case KL_AWAIT_NEW:
	case KL_AWAIT_READY:
		result = go(self, ret_result);
		if (result == 0 && self->delegate != NULL) {
			self->state = KL_AWAIT_DELEGATED;
			return send_to_delegate(self, Py_None, ret_result);
		}
		if (result == 0) {
			self->blocking = true;
			self->exposed = true;
			*ret_result = Py_NewRef(op);
			return PYGEN_NEXT;
		}
		break;
	case KL_AWAIT_DELEGATED:
		return send_to_delegate(self, value, ret_result);
	case KL_AWAIT_WAITING:
		PyErr_SetString(PyExc_RuntimeError, "await wasn't used with future");
		return PYGEN_ERROR;
	case KL_AWAIT_CANCELLED:
		result = raise_cancelled(self);
		break;
	default:
		PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
		return PYGEN_ERROR;
	}
	end(self);
	return result > 0 ? PYGEN_RETURN : PYGEN_ERROR;
}

/* raise StopIteration(value); steals. A tuple or exception must not become its arguments. */
static void raise_stop(PyObject *value)
{
	PyObject *exception;

	if (value == Py_None) {
		PyErr_SetNone(PyExc_StopIteration);
	} else if (!PyTuple_Check(value) && !PyExceptionInstance_Check(value)) {
		PyErr_SetObject(PyExc_StopIteration, value);
	} else {
		exception = PyObject_CallOneArg(PyExc_StopIteration, value);
		if (exception != NULL) {
			PyErr_SetObject(PyExc_StopIteration, exception);
			Py_DECREF(exception);
		}
	}
	Py_DECREF(value);
}

PyObject *kl_await_next(PyObject *op)
{
	PyObject *result;

	switch (kl_await_send(op, Py_None, &result)) {
	case PYGEN_NEXT:
		return result;
	case PYGEN_RETURN:
		/* NULL without an error is StopIteration(None). */
		if (result == Py_None)
			Py_DECREF(result);
		else
			raise_stop(result);
		return NULL;
	default:
		return NULL;
	}
}

static PyObject *await_send_method(PyObject *op, PyObject *value)
{
	PyObject *result;

	switch (kl_await_send(op, value, &result)) {
	case PYGEN_NEXT:
		return result;
	case PYGEN_RETURN:
		raise_stop(result);
		return NULL;
	default:
		return NULL;
	}
}

/* End a call that is not done, without a result. */
static void finish(struct kl_await *self)
{
	bool waiting = self->state == KL_AWAIT_WAITING;

	self->state = KL_AWAIT_DONE;
	self->blocking = false;
	if (waiting)
		self->kind->stop(self);
	drop_callbacks(self);
	self->kind->drop(self);
}

/* The delegate's throw(): what it yields then, or NULL with what it raised. */
static PyObject *throw_to_delegate(struct kl_await *self, PyObject *const *args, Py_ssize_t nargs)
{
	PyObject *stack[4] = { Py_NewRef(self->delegate) }, *result;
	Py_ssize_t i;

	for (i = 0; i < nargs; i++)
		stack[1 + i] = args[i];
	result = PyObject_VectorcallMethod(self->loop->state->names.throw, stack,
					   (size_t)nargs + 1, NULL);
	Py_DECREF(stack[0]);
	if (result == NULL && self->state == KL_AWAIT_DELEGATED)
		end(self);
	return result;
}

/* throw(exception), or throw(type[, value[, traceback]]) */
static PyObject *await_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
	PyObject *type, *value, *traceback;

	if (nargs < 1 || nargs > 3) {
		PyErr_Format(PyExc_TypeError, "throw() takes 1 to 3 arguments (%zd given)", nargs);
		return NULL;
	}
	if (check_running((struct kl_await *)op) < 0)
		return NULL;
	type = args[0];
	value = nargs > 1 && args[1] != Py_None ? args[1] : NULL;
	traceback = nargs > 2 && args[2] != Py_None ? args[2] : NULL;
	if (((struct kl_await *)op)->state == KL_AWAIT_DELEGATED)
		return throw_to_delegate((struct kl_await *)op, args, nargs);
	finish((struct kl_await *)op);
	if (PyExceptionInstance_Check(type)) {
		value = type;
		type = (PyObject *)Py_TYPE(value);
	} else if (!PyExceptionClass_Check(type)) {
		PyErr_SetString(PyExc_TypeError, "exceptions must derive from BaseException");
		return NULL;
	}
	if (traceback != NULL && value != NULL && PyExceptionInstance_Check(value) &&
	    PyException_SetTraceback(value, traceback) < 0)
		return NULL;
	PyErr_SetObject(type, value);
	return NULL;
}

static PyObject *await_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	struct kl_await *self = (struct kl_await *)op;
	PyObject *delegate = self->delegate, *closed;

	if (check_running(self) < 0)
		return NULL;
	self->delegate = NULL;
	finish(self);
	if (delegate == NULL)
		Py_RETURN_NONE;
	closed = PyObject_CallMethodNoArgs(delegate, self->loop->state->names.close);
	Py_DECREF(delegate);
	return closed;
}

/* ---- the future that a task waits for ---------------------------------- */

static PyObject *get_blocking(PyObject *op, void *Py_UNUSED(closure))
{
	struct kl_await *self = (struct kl_await *)op;

	/* Before its await it is a coroutine and nothing else: asyncio.isfuture() is false. */
	if (!self->exposed)
		Py_RETURN_NONE;
	return PyBool_FromLong(self->blocking);
}

static int set_blocking(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
	int blocking = value == NULL ? 0 : PyObject_IsTrue(value);

	if (blocking < 0)
		return -1;
	((struct kl_await *)op)->blocking = blocking;
	return 0;
}

static PyObject *get_loop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	return Py_NewRef(((struct kl_await *)op)->loop);
}

static PyObject *get_loop_attribute(PyObject *op, void *Py_UNUSED(closure))
{
	return get_loop(op, NULL);
}

static PyObject *get_qualname(PyObject *op, void *Py_UNUSED(closure))
{
	return PyUnicode_FromString(((struct kl_await *)op)->kind->qualname);
}

/* add_done_callback(callback, *, context=None) */
static PyObject *add_done_callback(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
				   PyObject *kwnames)
{
	struct kl_await *self = (struct kl_await *)op;
	PyObject *context = NULL, *pair;

	if (nargs != 1 || (kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 1)) {
		PyErr_SetString(PyExc_TypeError, "add_done_callback(callback, *, context=None)");
		return NULL;
	}
	if (kwnames != NULL && PyTuple_GET_SIZE(kwnames) == 1 && args[1] != Py_None)
		context = Py_NewRef(args[1]);
	else
		context = PyContext_CopyCurrent();
	if (context == NULL)
		return NULL;
	if (self->state != KL_AWAIT_WAITING) {
		schedule(self, args[0], context);
		Py_DECREF(context);
	} else if (self->callback == NULL) {
		self->callback = Py_NewRef(args[0]);
		self->context = context;
	} else {
		if (self->more == NULL)
			self->more = PyList_New(0);
		pair = self->more == NULL ? NULL : PyTuple_Pack(2, args[0], context);
		Py_DECREF(context);
		if (pair == NULL || PyList_Append(self->more, pair) < 0) {
			Py_XDECREF(pair);
			return NULL;
		}
		Py_DECREF(pair);
	}
	Py_RETURN_NONE;
}

/* cancel(msg=None): false if it is too late. */
static PyObject *cancel(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
	struct kl_await *self = (struct kl_await *)op;

	if (nargs + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames)) > 1) {
		PyErr_SetString(PyExc_TypeError, "cancel(msg=None)");
		return NULL;
	}
	if (self->state != KL_AWAIT_WAITING)
		Py_RETURN_FALSE;
	if (nargs > 0 || kwnames != NULL)
		Py_XSETREF(self->cancel_message, Py_NewRef(args[0]));
	if (self->kind->patient) {
		self->kind->stop(self);
		Py_RETURN_TRUE;
	}
	self->state = KL_AWAIT_CANCELLED;
	self->kind->stop(self);
	kl_await_wake(self);
	Py_RETURN_TRUE;
}

static PyObject *is_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	return PyBool_FromLong(((struct kl_await *)op)->state == KL_AWAIT_CANCELLED);
}

static PyObject *is_done(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	struct kl_await *self = (struct kl_await *)op;

	return PyBool_FromLong(self->state != KL_AWAIT_NEW && self->state != KL_AWAIT_WAITING);
}

/* What a task asks when it is woken; the result proper comes from send(). */
static PyObject *get_result(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	struct kl_await *self = (struct kl_await *)op;

	if (self->state == KL_AWAIT_CANCELLED) {
		raise_cancelled(self);
		return NULL;
	}
	if (self->state == KL_AWAIT_NEW || self->state == KL_AWAIT_WAITING) {
		PyErr_SetString(self->loop->state->invalid_state_error, "Result is not ready.");
		return NULL;
	}
	Py_RETURN_NONE;
}

PyObject *kl_await_itself(PyObject *op)
{
	return Py_NewRef(op);
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS

PyMethodDef kl_await_methods[] = {
	{ "send", await_send_method, METH_O, "Go on, as a coroutine." },
	{ "throw", (PyCFunction)(void (*)(void))await_throw, METH_FASTCALL,
	  "End with an exception, as a coroutine." },
	{ "close", await_close, METH_NOARGS, "End, as a coroutine." },
	{ "get_loop", get_loop, METH_NOARGS, "The loop." },
	{ "add_done_callback", FAST(add_done_callback), "For the task that waits." },
	{ "cancel", FAST(cancel), "Cancel the wait." },
	{ "cancelled", is_cancelled, METH_NOARGS, "Was the wait cancelled?" },
	{ "done", is_done, METH_NOARGS, "Is the wait over?" },
	{ "result", get_result, METH_NOARGS, "None when the wait is over." },
	KL_NO_PICKLE,
	{ NULL, NULL, 0, NULL },
};

PyGetSetDef kl_await_getset[] = {
	{ "_asyncio_future_blocking", get_blocking, set_blocking, NULL, NULL },
	{ "_loop", get_loop_attribute, NULL, NULL, NULL },
	{ "__qualname__", get_qualname, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};
