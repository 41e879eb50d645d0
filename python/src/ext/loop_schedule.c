/* SPDX-License-Identifier: MulanPSL-2.0 */
/* call_soon() and its kin: the way into the ready ring and the timers. */
#include "handle.h"
#include "loop.h"

/* ---- arguments --------------------------------------------------------- */

static int missing(const char *function, const char *name)
{
	PyErr_Format(PyExc_TypeError, "%s() missing 1 required positional argument: '%s'", function,
		     name);
	return -1;
}

/* Keywords: context, and the names of the arguments before *args. */
static int parse_keywords(LoopObject *self, const char *function, PyObject *first,
			  PyObject *const *values, PyObject *kwnames, struct kl_call *call)
{
	struct kl_state *state = self->state;
	Py_ssize_t i, n = PyTuple_GET_SIZE(kwnames);

	for (i = 0; i < n; i++) {
		PyObject *name = PyTuple_GET_ITEM(kwnames, i);
		PyObject **slot = NULL;
		PyObject *context = NULL;

		if (PyUnicode_Compare(name, state->names.context) == 0)
			slot = &context;
		else if (PyUnicode_Compare(name, state->names.callback) == 0)
			slot = &call->callback;
		else if (first != NULL && PyUnicode_Compare(name, first) == 0)
			slot = &call->first;
		if (slot == NULL) {
			PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'",
				     function, name);
			return -1;
		}
		if (*slot != NULL) {
			PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'",
				     function, name);
			return -1;
		}
		*slot = values[i];
		if (context != NULL && context != Py_None)
			call->context = context;
	}
	return 0;
}

int kl_call_parse(LoopObject *self, const char *function, PyObject *first, PyObject *const *args,
		  Py_ssize_t nargs, PyObject *kwnames, struct kl_call *call)
{
	Py_ssize_t lead = first != NULL ? 2 : 1;
	PyObject *const *values = args + nargs;

	call->first = NULL;
	call->callback = NULL;
	call->context = NULL;
	if (nargs >= lead) {
		call->first = first != NULL ? args[0] : NULL;
		call->callback = args[lead - 1];
		call->args = args + lead;
		call->nargs = nargs - lead;
	} else {
		call->args = NULL;
		call->nargs = 0;
		if (first != NULL && nargs == 1)
			call->first = args[0];
	}
	if (kwnames != NULL) {
		/* What futures and tasks pass: context, interned, and nothing else. */
		if (call->callback != NULL && PyTuple_GET_SIZE(kwnames) == 1 &&
		    PyTuple_GET_ITEM(kwnames, 0) == self->state->names.context) {
			if (values[0] != Py_None)
				call->context = values[0];
			goto check;
		}
		if (parse_keywords(self, function, first, values, kwnames, call) < 0)
			return -1;
	}
	if (first != NULL && call->first == NULL)
		return missing(function, PyUnicode_AsUTF8(first));
	if (call->callback == NULL)
		return missing(function, "callback");
check:
	return kl_context_check(function, call->context);
}

/* In debug mode: is it callable, and is this the loop's thread? asyncio's own checks, and words. */
static int check_in_debug(LoopObject *self, PyObject *callback, const char *function, bool thread)
{
	PyObject *name, *result;

	if (thread) {
		result = PyObject_CallMethodNoArgs((PyObject *)self, self->state->names._check_thread);
		if (result == NULL)
			return -1;
		Py_DECREF(result);
	}
	name = PyUnicode_FromString(function);
	if (name == NULL)
		return -1;
	result = PyObject_CallMethodObjArgs((PyObject *)self, self->state->names._check_callback,
					    callback, name, NULL);
	Py_DECREF(name);
	if (result == NULL)
		return -1;
	Py_DECREF(result);
	return 0;
}

/* ---- soon -------------------------------------------------------------- */

static PyObject *schedule(LoopObject *self, const struct kl_call *call)
{
	struct kl_handle *h =
		kl_handle_new(self, call->callback, call->args, call->nargs, call->context);

	if (h == NULL)
		return NULL;
	Py_INCREF(h);
	if (kl_ready_push(self, (PyObject *)h) < 0) {
		Py_DECREF(h);
		return NULL;
	}
	return (PyObject *)h;
}

PyObject *kl_loop_call_soon(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
			    PyObject *kwnames)
{
	LoopObject *self = (LoopObject *)op;
	struct kl_call call;

	if (kl_call_parse(self, "call_soon", NULL, args, nargs, kwnames, &call) < 0 ||
	    kl_check_closed(self) < 0)
		return NULL;
	if (self->debug && check_in_debug(self, call.callback, "call_soon", true) < 0)
		return NULL;
	return schedule(self, &call);
}

/* Make the loop's thread look at the ring. On that thread it will do so anyway. */
static void wake(LoopObject *self)
{
	if (self->thread_ident == 0 || self->thread_ident == PyThread_get_thread_ident())
		return;
	atomic_store(&self->woken, true);
	kloop_loop_wake(self->loop);
}

PyObject *kl_loop_call_soon_threadsafe(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
				       PyObject *kwnames)
{
	LoopObject *self = (LoopObject *)op;
	struct kl_call call;
	PyObject *handle;

	if (kl_call_parse(self, "call_soon_threadsafe", NULL, args, nargs, kwnames, &call) < 0 ||
	    kl_check_closed(self) < 0)
		return NULL;
	if (self->debug && check_in_debug(self, call.callback, "call_soon_threadsafe", false) < 0)
		return NULL;
	handle = schedule(self, &call);
	if (handle != NULL)
		kl_handle_share((struct kl_handle *)handle);
	/* Making a handle can run the collector, which can run anything. */
	if (handle != NULL && self->loop != NULL)
		wake(self);
	return handle;
}

PyObject *kl_loop_add_callback(PyObject *op, PyObject *handle)
{
	LoopObject *self = (LoopObject *)op;
	PyObject *cancelled = PyObject_GetAttr(handle, self->state->names._cancelled);
	int is_cancelled;

	if (cancelled == NULL)
		return NULL;
	is_cancelled = PyObject_IsTrue(cancelled);
	Py_DECREF(cancelled);
	if (is_cancelled < 0 ||
	    (!is_cancelled && kl_ready_push(self, Py_NewRef(handle)) < 0))
		return NULL;
	Py_RETURN_NONE;
}

PyObject *kl_loop_add_callback_signalsafe(PyObject *op, PyObject *handle)
{
	PyObject *result = kl_loop_add_callback(op, handle);

	if (result != NULL && ((LoopObject *)op)->loop != NULL)
		wake((LoopObject *)op);
	return result;
}

/* ---- later ------------------------------------------------------------- */

static double now_seconds(void)
{
	return (double)kloop_now() / 1e9;
}

static PyObject *schedule_at(LoopObject *self, double when, PyObject *when_object,
			     const struct kl_call *call)
{
	return kl_timer_handle_new(self, when, when_object, call->callback, call->args, call->nargs,
				   call->context);
}

PyObject *kl_loop_call_later(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
			     PyObject *kwnames)
{
	LoopObject *self = (LoopObject *)op;
	struct kl_call call;
	double delay;

	if (kl_call_parse(self, "call_later", self->state->names.delay, args, nargs, kwnames,
			  &call) < 0)
		return NULL;
	if (call.first == Py_None) {
		PyErr_SetString(PyExc_TypeError, "delay must not be None");
		return NULL;
	}
	delay = PyFloat_AsDouble(call.first);
	if (delay == -1.0 && PyErr_Occurred())
		return NULL;
	if (kl_check_closed(self) < 0)
		return NULL;
	if (self->debug && check_in_debug(self, call.callback, "call_later", true) < 0)
		return NULL;
	return schedule_at(self, now_seconds() + delay, NULL, &call);
}

PyObject *kl_loop_call_at(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
	LoopObject *self = (LoopObject *)op;
	struct kl_call call;
	double when;

	if (kl_call_parse(self, "call_at", self->state->names.when, args, nargs, kwnames, &call) < 0)
		return NULL;
	if (call.first == Py_None) {
		PyErr_SetString(PyExc_TypeError, "when cannot be None");
		return NULL;
	}
	when = PyFloat_AsDouble(call.first);
	if (when == -1.0 && PyErr_Occurred())
		return NULL;
	if (kl_check_closed(self) < 0)
		return NULL;
	if (self->debug && check_in_debug(self, call.callback, "call_at", true) < 0)
		return NULL;
	return schedule_at(self, when, call.first, &call);
}
