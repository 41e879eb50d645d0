/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What a call on a file is to Python: something to be awaited once, inside a
 * coroutine of kloop's own, and the future that its task waits for meanwhile.
 */
#include "file.h"

static int raise_cancelled(struct kl_file_call *self)
{
	struct kl_state *state = self->loop->state;

	if (self->cancel_message == NULL || self->cancel_message == Py_None)
		PyErr_SetNone(state->cancelled_error);
	else
		PyErr_SetObject(state->cancelled_error, self->cancel_message);
	return -1;
}

static PySendResult call_send(PyObject *op, PyObject *Py_UNUSED(value), PyObject **ret_result)
{
	struct kl_file_call *self = (struct kl_file_call *)op;

	*ret_result = NULL;
	switch (self->state) {
	case KL_FILE_NEW:
		if (kl_file_begin(self) < 0)
			return PYGEN_ERROR;
		self->blocking = true;
		self->exposed = true;
		*ret_result = Py_NewRef(op);
		return PYGEN_NEXT;
	case KL_FILE_WAITING:
		PyErr_SetString(PyExc_RuntimeError, "await wasn't used with future");
		return PYGEN_ERROR;
	case KL_FILE_READY:
		if (self->cancelled) {
			raise_cancelled(self);
			return PYGEN_ERROR;
		}
		*ret_result = kl_file_collect(self);
		return *ret_result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
	default:
		PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited call");
		return PYGEN_ERROR;
	}
}

static PyObject *call_next(PyObject *op)
{
	PyObject *result, *exception;

	switch (call_send(op, Py_None, &result)) {
	case PYGEN_NEXT:
		return result;
	case PYGEN_RETURN:
		/* A tuple must not become the exception's arguments. */
		exception = PyObject_CallOneArg(PyExc_StopIteration, result);
		Py_DECREF(result);
		if (exception != NULL) {
			PyErr_SetObject(PyExc_StopIteration, exception);
			Py_DECREF(exception);
		}
		return NULL;
	default:
		return NULL;
	}
}

static PyObject *get_blocking(PyObject *op, void *Py_UNUSED(closure))
{
	struct kl_file_call *self = (struct kl_file_call *)op;

	if (!self->exposed)
		Py_RETURN_NONE;
	return PyBool_FromLong(self->blocking);
}

static int set_blocking(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
	int blocking = value == NULL ? 0 : PyObject_IsTrue(value);

	if (blocking < 0)
		return -1;
	((struct kl_file_call *)op)->blocking = blocking;
	return 0;
}

static PyObject *get_loop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	return Py_NewRef(((struct kl_file_call *)op)->loop);
}

static PyObject *get_loop_attribute(PyObject *op, void *Py_UNUSED(closure))
{
	return get_loop(op, NULL);
}

/* add_done_callback(callback, *, context=None), once. */
static PyObject *add_done_callback(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
				   PyObject *kwnames)
{
	struct kl_file_call *self = (struct kl_file_call *)op;
	PyObject *context = NULL;

	if (nargs != 1 || (kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 1)) {
		PyErr_SetString(PyExc_TypeError, "add_done_callback(callback, *, context=None)");
		return NULL;
	}
	if (self->callback != NULL) {
		PyErr_SetString(PyExc_RuntimeError, "somebody waits for this call already");
		return NULL;
	}
	if (kwnames != NULL && PyTuple_GET_SIZE(kwnames) == 1 && args[1] != Py_None)
		context = Py_NewRef(args[1]);
	else
		context = PyContext_CopyCurrent();
	if (context == NULL)
		return NULL;
	if (self->state == KL_FILE_WAITING) {
		self->callback = Py_NewRef(args[0]);
		self->context = context;
		Py_RETURN_NONE;
	}
	if (kl_call_soon(self->loop, args[0], &op, 1, context) < 0) {
		Py_DECREF(context);
		return NULL;
	}
	Py_DECREF(context);
	Py_RETURN_NONE;
}

/* cancel(msg=None): true if CancelledError will come, when the kernel has answered. */
static PyObject *cancel(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
	struct kl_file_call *self = (struct kl_file_call *)op;

	if (nargs + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames)) > 1) {
		PyErr_SetString(PyExc_TypeError, "cancel(msg=None)");
		return NULL;
	}
	if (self->state != KL_FILE_WAITING)
		Py_RETURN_FALSE;
	if (nargs > 0 || kwnames != NULL)
		Py_XSETREF(self->cancel_message, Py_NewRef(args[0]));
	if (!self->cancelled) {
		self->cancelled = true;
		kl_file_request_cancel(self);
	}
	Py_RETURN_TRUE;
}

/* What a task asks when it is woken; the result proper comes from send(). */
static PyObject *get_result(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	struct kl_file_call *self = (struct kl_file_call *)op;

	if (self->state < KL_FILE_READY) {
		PyErr_SetString(self->loop->state->invalid_state_error, "Result is not ready.");
		return NULL;
	}
	if (self->cancelled) {
		raise_cancelled(self);
		return NULL;
	}
	Py_RETURN_NONE;
}

static PyObject *take(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	PyObject *data = kl_file_take_data((struct kl_file_call *)op);

	if (data == NULL && !PyErr_Occurred())
		Py_RETURN_NONE;
	return data;
}

static PyObject *get_moved(PyObject *op, void *Py_UNUSED(closure))
{
	return PyLong_FromSize_t(kl_file_moved((struct kl_file_call *)op));
}

static PyObject *await_itself(PyObject *op)
{
	return Py_NewRef(op);
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS

static PyMethodDef methods[] = {
	{ "get_loop", get_loop, METH_NOARGS, "The loop." },
	{ "add_done_callback", FAST(add_done_callback),
	  "add_done_callback($self, callback, *, context=None)\n--\n\nFor the task that waits." },
	{ "cancel", FAST(cancel),
	  "cancel($self, msg=None)\n--\n\nAsk the kernel to end the call." },
	{ "result", get_result, METH_NOARGS, "None when the call is complete." },
	{ "take", take, METH_NOARGS, "What a read that failed or was cancelled brought, or None." },
	KL_NO_PICKLE,
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef getset[] = {
	{ "_asyncio_future_blocking", get_blocking, set_blocking,
	  "None before the await; for the task.", NULL },
	{ "_loop", get_loop_attribute, NULL, "The loop.", NULL },
	{ "moved", get_moved, NULL, "Bytes that were read or written, also by a call that failed.",
	  NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot slots[] = {
	{ Py_tp_doc, (void *)"A call of kloop's files, to be awaited." },
	{ Py_tp_dealloc, kl_file_dealloc },
	{ Py_tp_traverse, kl_file_traverse },
	{ Py_tp_clear, kl_file_clear },
	{ Py_tp_iter, await_itself },
	{ Py_tp_iternext, call_next },
	{ Py_am_await, await_itself },
	{ Py_am_send, call_send },
	{ Py_tp_methods, methods },
	{ Py_tp_getset, getset },
	{ 0, NULL },
};

static PyType_Spec spec = {
	.name = "kloop._kloop.FileCall",
	.basicsize = sizeof(struct kl_file_call),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
		 Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = slots,
};

int kl_file_init(PyObject *module, struct kl_state *state)
{
	state->file_call_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
	return state->file_call_type == NULL ? -1 : PyModule_AddType(module, state->file_call_type);
}
