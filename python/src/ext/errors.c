/* SPDX-License-Identifier: MulanPSL-2.0 */
/* From codes of libkloop to Python's exceptions, and the way of exceptions to the loop's handler. */
#include "ext.h"

#include <errno.h>

PyObject *kl_exception_take(void)
{
#if PY_VERSION_HEX >= 0x030C0000
	return PyErr_GetRaisedException();
#else
	PyObject *type, *value, *traceback;

	PyErr_Fetch(&type, &value, &traceback);
	if (type == NULL)
		return NULL;
	PyErr_NormalizeException(&type, &value, &traceback);
	if (traceback != NULL)
		PyException_SetTraceback(value, traceback);
	Py_DECREF(type);
	Py_XDECREF(traceback);
	return value;
#endif
}

void kl_exception_give(PyObject *exception)
{
#if PY_VERSION_HEX >= 0x030C0000
	PyErr_SetRaisedException(exception);
#else
	PyObject *type = (PyObject *)Py_TYPE(exception);

	Py_INCREF(type);
	PyErr_Restore(type, exception, PyException_GetTraceback(exception));
#endif
}

/* Why io_uring cannot be used: the word, and what to do about it. */
struct reason {
	int code;
	int error; /* the errno that an OSError should carry */
	const char *word;
	const char *remedy;
};

static const struct reason reasons[] = {
	{ KLOOP_ERROR_RING_OFF, ECANCELED, "off",
	  "io_uring is switched off by the environment variable KLOOP_IO_URING=0; unset it to use "
	  "kloop" },
	{ KLOOP_ERROR_RING_DENIED, EPERM, "denied",
	  "the kernel denies io_uring to this process (EPERM). Either a seccomp profile blocks it, as "
	  "the default profile of container engines does: run the container with a profile that "
	  "allows io_uring_setup, io_uring_enter and io_uring_register; or the administrator "
	  "switched it off: see 'sysctl kernel.io_uring_disabled' (0 allows it to all, 1 to the "
	  "group of kernel.io_uring_group, 2 to none)" },
	{ KLOOP_ERROR_RING_MISSING, ENOSYS, "missing",
	  "this kernel offers no io_uring (ENOSYS): it was built without CONFIG_IO_URING, is older "
	  "than Linux 5.1, or a sandbox hides it. kloop needs Linux 5.11 or newer" },
	{ KLOOP_ERROR_RING_TOO_OLD, EOPNOTSUPP, "too-old",
	  "the io_uring of this kernel lacks what kloop needs: Linux 5.11 or newer (see uname -r)" },
};

/* IoUringUnavailable(errno, text) with .code and .reason. */
static PyObject *unavailable_exception(struct kl_state *state, const struct reason *reason)
{
	PyObject *exception, *word, *code;

	exception = PyObject_CallFunction(
		state->unavailable_error, "iN", reason->error,
		PyUnicode_FromFormat("%s; kloop.new_event_loop(fallback=True) or KLOOP_FALLBACK=1 "
				     "takes asyncio's own loop instead",
				     reason->remedy));
	if (exception == NULL)
		return NULL;
	word = PyUnicode_FromString(reason->word);
	code = PyLong_FromLong(reason->code);
	if (word == NULL || code == NULL ||
	    PyObject_SetAttr(exception, state->names.reason, word) < 0 ||
	    PyObject_SetAttr(exception, state->names.code, code) < 0)
		Py_CLEAR(exception);
	Py_XDECREF(word);
	Py_XDECREF(code);
	return exception;
}

PyObject *kl_refuse_reduce(PyObject *op, PyObject *unused)
{
	(void)unused;
	PyErr_Format(PyExc_TypeError, "cannot pickle '%s' object", Py_TYPE(op)->tp_name);
	return NULL;
}

PyObject *kl_os_exception(int error)
{
	return PyObject_CallFunction(PyExc_OSError, "is", -error, strerror(-error));
}

PyObject *kl_exception(struct kl_state *state, int code)
{
	size_t i;

	for (i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
		if (reasons[i].code == code)
			return unavailable_exception(state, &reasons[i]);
	}
	switch (code) {
	case -ENOMEM:
		return PyObject_CallNoArgs(PyExc_MemoryError);
	case -ECHILD:
		return PyObject_CallFunction(PyExc_RuntimeError, "s",
					     "this event loop was made before fork(); a child "
					     "process needs a loop of its own");
	case -EPERM:
		return PyObject_CallFunction(PyExc_RuntimeError, "s",
					     "Non-thread-safe operation invoked on an event loop "
					     "other than the current one");
	}
	if (code < 0 && code >= -4095)
		return kl_os_exception(code);
	return PyObject_CallFunction(PyExc_RuntimeError, "s", kloop_strerror(code));
}

PyObject *kl_raise(struct kl_state *state, int code)
{
	PyObject *exception = kl_exception(state, code);

	if (exception != NULL)
		kl_exception_give(exception);
	return NULL;
}

int kl_raise_wrong_thread(void)
{
	PyErr_SetString(PyExc_RuntimeError, "Non-thread-safe operation invoked on an event loop "
					    "other than the current one");
	return -1;
}

/* Keep an exception that has to leave run_forever; the first one wins. Steals. */
static void set_aside(LoopObject *self, PyObject *exception)
{
	if (self->pending_exception == NULL) {
		self->pending_exception = exception;
		return;
	}
	kl_exception_give(exception);
	PyErr_WriteUnraisable((PyObject *)self);
}

static bool leaves_the_loop(PyObject *exception)
{
	return PyErr_GivenExceptionMatches(exception, PyExc_KeyboardInterrupt) ||
	       PyErr_GivenExceptionMatches(exception, PyExc_SystemExit);
}

static int put(PyObject *dict, PyObject *key, PyObject *value)
{
	return value == NULL ? 0 : PyDict_SetItem(dict, key, value);
}

void kl_call_exception_handler(LoopObject *self, const char *message, PyObject *exception,
			       const char *key1, PyObject *object1, const char *key2,
			       PyObject *object2)
{
	PyObject *dict = PyDict_New();
	PyObject *text = PyUnicode_FromString(message);
	PyObject *result = NULL;

	if (dict != NULL && text != NULL && put(dict, self->state->names.message, text) == 0 &&
	    put(dict, self->state->names.exception, exception) == 0 &&
	    (object1 == NULL || PyDict_SetItemString(dict, key1, object1) == 0) &&
	    (object2 == NULL || PyDict_SetItemString(dict, key2, object2) == 0))
		result = PyObject_CallMethodOneArg(
			(PyObject *)self, self->state->names.call_exception_handler, dict);
	Py_XDECREF(dict);
	Py_XDECREF(text);
	if (result == NULL) {
		PyObject *failure = kl_exception_take();

		if (leaves_the_loop(failure)) {
			set_aside(self, failure);
			return;
		}
		kl_exception_give(failure);
		PyErr_WriteUnraisable((PyObject *)self);
		return;
	}
	Py_DECREF(result);
}

void kl_report_exception(LoopObject *self, const char *message, const char *key, PyObject *object)
{
	PyObject *exception = kl_exception_take();

	if (exception == NULL)
		return;
	if (leaves_the_loop(exception)) {
		set_aside(self, exception);
		return;
	}
	kl_call_exception_handler(self, message, exception, key, key == NULL ? NULL : object, NULL,
				  NULL);
	Py_DECREF(exception);
}

int kl_errors_init(PyObject *module, struct kl_state *state)
{
	PyObject *dict = Py_BuildValue("{s:s,s:O,s:O}", "__module__", "kloop", "code", Py_None,
				       "reason", Py_None);

	if (dict == NULL)
		return -1;
	state->unavailable_error = PyErr_NewExceptionWithDoc(
		"kloop.IoUringUnavailable",
		"io_uring cannot be used here.\n\n"
		"reason: 'off', 'denied', 'missing' or 'too-old'; code: the code of libkloop.\n"
		"The text says what to do.",
		PyExc_OSError, dict);
	Py_DECREF(dict);
	if (state->unavailable_error == NULL)
		return -1;
	return PyModule_AddObjectRef(module, "IoUringUnavailable", state->unavailable_error);
}
