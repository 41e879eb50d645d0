/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What a sock_*() call is to Python: a coroutine that is awaited or made a
 * task, and, once it waits, the future that its task waits for. One object
 * for both costs half of what a coroutine and a future cost.
 */
#include "sock.h"

/* ---- the coroutine ----------------------------------------------------- */

static int raise_cancelled(struct kl_sock_op *self)
{
	struct kl_state *state = self->loop->state;

	if (self->cancel_message == NULL || self->cancel_message == Py_None)
		PyErr_SetNone(state->cancelled_error);
	else
		PyErr_SetObject(state->cancelled_error, self->cancel_message);
	return -1;
}

static PySendResult sock_op_send(PyObject *op, PyObject *Py_UNUSED(value), PyObject **ret_result)
{
	struct kl_sock_op *self = (struct kl_sock_op *)op;
	int result;

	*ret_result = NULL;
	switch (self->state) {
	case KL_SOCK_NEW:
	case KL_SOCK_READY:
		result = kl_sock_attempt(self, ret_result);
		if (result == 0 && kl_sock_begin_wait(self) == 0) {
			self->blocking = true;
			self->exposed = true;
			*ret_result = Py_NewRef(op);
			return PYGEN_NEXT;
		}
		break;
	case KL_SOCK_WAITING:
		PyErr_SetString(PyExc_RuntimeError, "await wasn't used with future");
		return PYGEN_ERROR;
	case KL_SOCK_CANCELLED:
		result = raise_cancelled(self);
		break;
	default:
		PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
		return PYGEN_ERROR;
	}
	self->state = KL_SOCK_DONE;
	self->blocking = false;
	kl_sock_drop_arguments(self);
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

static PyObject *sock_op_next(PyObject *op)
{
	PyObject *result;

	switch (sock_op_send(op, Py_None, &result)) {
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

static PyObject *sock_op_send_method(PyObject *op, PyObject *value)
{
	PyObject *result;

	switch (sock_op_send(op, value, &result)) {
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
static void finish(struct kl_sock_op *self)
{
	bool waiting = self->state == KL_SOCK_WAITING;

	self->state = KL_SOCK_DONE;
	self->blocking = false;
	if (waiting)
		kl_sock_cancel_poll(self);
	kl_sock_drop_callbacks(self);
	kl_sock_drop_arguments(self);
}

/* throw(exception), or throw(type[, value[, traceback]]) */
static PyObject *sock_op_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
	PyObject *type, *value, *traceback;

	if (nargs < 1 || nargs > 3) {
		PyErr_Format(PyExc_TypeError, "throw() takes 1 to 3 arguments (%zd given)", nargs);
		return NULL;
	}
	type = args[0];
	value = nargs > 1 && args[1] != Py_None ? args[1] : NULL;
	traceback = nargs > 2 && args[2] != Py_None ? args[2] : NULL;
	finish((struct kl_sock_op *)op);
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

static PyObject *sock_op_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	finish((struct kl_sock_op *)op);
	Py_RETURN_NONE;
}

/* ---- the future that a task waits for ---------------------------------- */

static PyObject *get_blocking(PyObject *op, void *Py_UNUSED(closure))
{
	struct kl_sock_op *self = (struct kl_sock_op *)op;

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
	((struct kl_sock_op *)op)->blocking = blocking;
	return 0;
}

static PyObject *get_loop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	return Py_NewRef(((struct kl_sock_op *)op)->loop);
}

static PyObject *get_loop_attribute(PyObject *op, void *Py_UNUSED(closure))
{
	return get_loop(op, NULL);
}

static PyObject *get_qualname(PyObject *Py_UNUSED(op), void *Py_UNUSED(closure))
{
	return PyUnicode_FromString("Loop.sock_call");
}

/* add_done_callback(callback, *, context=None) */
static PyObject *add_done_callback(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
				   PyObject *kwnames)
{
	struct kl_sock_op *self = (struct kl_sock_op *)op;
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
	if (self->state != KL_SOCK_WAITING) {
		kl_sock_schedule(self, args[0], context);
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
	struct kl_sock_op *self = (struct kl_sock_op *)op;

	if (nargs + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames)) > 1) {
		PyErr_SetString(PyExc_TypeError, "cancel(msg=None)");
		return NULL;
	}
	if (self->state != KL_SOCK_WAITING)
		Py_RETURN_FALSE;
	if (nargs > 0 || kwnames != NULL)
		Py_XSETREF(self->cancel_message, Py_NewRef(args[0]));
	self->state = KL_SOCK_CANCELLED;
	kl_sock_cancel_poll(self);
	kl_sock_wake_waiters(self);
	Py_RETURN_TRUE;
}

static PyObject *is_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	return PyBool_FromLong(((struct kl_sock_op *)op)->state == KL_SOCK_CANCELLED);
}

static PyObject *is_done(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	struct kl_sock_op *self = (struct kl_sock_op *)op;

	return PyBool_FromLong(self->state != KL_SOCK_NEW && self->state != KL_SOCK_WAITING);
}

/* What a task asks when it is woken; the result proper comes from send(). */
static PyObject *get_result(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	struct kl_sock_op *self = (struct kl_sock_op *)op;

	if (self->state == KL_SOCK_CANCELLED) {
		raise_cancelled(self);
		return NULL;
	}
	if (self->state == KL_SOCK_NEW || self->state == KL_SOCK_WAITING) {
		PyErr_SetString(self->loop->state->invalid_state_error, "Result is not ready.");
		return NULL;
	}
	Py_RETURN_NONE;
}

static PyObject *await_itself(PyObject *op)
{
	return Py_NewRef(op);
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS

static PyMethodDef methods[] = {
	{ "send", sock_op_send_method, METH_O, "Go on, as a coroutine." },
	{ "throw", (PyCFunction)(void (*)(void))sock_op_throw, METH_FASTCALL,
	  "End with an exception, as a coroutine." },
	{ "close", sock_op_close, METH_NOARGS, "End, as a coroutine." },
	{ "get_loop", get_loop, METH_NOARGS, "The loop." },
	{ "add_done_callback", FAST(add_done_callback), "For the task that waits." },
	{ "cancel", FAST(cancel), "Cancel the wait." },
	{ "cancelled", is_cancelled, METH_NOARGS, "Was the wait cancelled?" },
	{ "done", is_done, METH_NOARGS, "Is the wait over?" },
	{ "result", get_result, METH_NOARGS, "None when the wait is over." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef getset[] = {
	{ "_asyncio_future_blocking", get_blocking, set_blocking, NULL, NULL },
	{ "_loop", get_loop_attribute, NULL, NULL, NULL },
	{ "__qualname__", get_qualname, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot slots[] = {
	{ Py_tp_doc, (void *)"A call of Loop.sock_*(), to be awaited." },
	{ Py_tp_dealloc, kl_sock_op_dealloc },
	{ Py_tp_traverse, kl_sock_op_traverse },
	{ Py_tp_clear, kl_sock_op_clear },
	{ Py_tp_iter, await_itself },
	{ Py_tp_iternext, sock_op_next },
	{ Py_am_await, await_itself },
	{ Py_am_send, sock_op_send },
	{ Py_tp_methods, methods },
	{ Py_tp_getset, getset },
	{ 0, NULL },
};

static PyType_Spec spec = {
	.name = "kloop._kloop.SockCall",
	.basicsize = sizeof(struct kl_sock_op),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
		 Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = slots,
};

int kl_sock_init(PyObject *module, struct kl_state *state)
{
	state->sock_op_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
	return state->sock_op_type == NULL ? -1 : 0;
}
