/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The methods of readers and writers: their arguments, and what is a descriptor. */
#include "loop.h"
#include "watch.h"

/* ---- descriptors ------------------------------------------------------- */

/* A number, or an object with fileno(): the rules and words of selectors. -1 with an error set. */
static int to_fd(LoopObject *self, PyObject *object)
{
	PyObject *number;
	long fd = -1;

	if (PyLong_Check(object)) {
		number = Py_NewRef(object);
	} else {
		number = PyObject_CallMethodNoArgs(object, self->state->names.fileno);
		if (number != NULL && !PyLong_Check(number))
			Py_SETREF(number, PyNumber_Long(number));
	}
	if (number != NULL) {
		fd = PyLong_AsLong(number);
		Py_DECREF(number);
	}
	if (PyErr_Occurred()) {
		if (PyErr_ExceptionMatches(PyExc_AttributeError) ||
		    PyErr_ExceptionMatches(PyExc_TypeError) ||
		    PyErr_ExceptionMatches(PyExc_ValueError))
			PyErr_Format(PyExc_ValueError, "Invalid file object: %R", object);
		return -1;
	}
	if (fd < 0 || fd > INT_MAX) {
		PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %ld", fd);
		return -1;
	}
	return (int)fd;
}

int kl_ensure_no_transport(LoopObject *self, PyObject *fd_object, int fd)
{
	PyObject *key, *result;
	int found;

	if (self->transports_data == NULL || PyDict_GET_SIZE(self->transports_data) == 0)
		return 0;
	key = PyLong_FromLong(fd);
	if (key == NULL)
		return -1;
	found = PyDict_Contains(self->transports_data, key);
	Py_DECREF(key);
	if (found <= 0)
		return found;
	result = PyObject_CallMethodOneArg((PyObject *)self,
					   self->state->names._ensure_fd_no_transport, fd_object);
	if (result == NULL)
		return -1;
	Py_DECREF(result);
	return 0;
}

/* ---- methods ----------------------------------------------------------- */

enum { FD, CALLBACK, CONTEXT, NAMES };

/*
 * The first `wanted` of the names, of which context comes by its name alone and
 * may be missing; further arguments after a callback. 0, or -1 with TypeError.
 */
static int parse(const char *function, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
		 int wanted, PyObject *values[static NAMES])
{
	static const char *const names[] = { "fd", "callback", "context" };
	Py_ssize_t i;

	values[FD] = nargs > 0 ? args[0] : NULL;
	values[CALLBACK] = nargs > 1 ? args[1] : NULL;
	values[CONTEXT] = NULL;
	for (i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
		PyObject *name = PyTuple_GET_ITEM(kwnames, i);
		int which = 0;

		while (which < wanted && PyUnicode_CompareWithASCIIString(name, names[which]) != 0)
			which++;
		if (which == wanted) {
			PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'",
				     function, name);
			return -1;
		}
		if (values[which] != NULL) {
			PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'",
				     function, name);
			return -1;
		}
		values[which] = args[nargs + i];
	}
	if (wanted == 1 && nargs > 1) {
		PyErr_Format(PyExc_TypeError, "%s() takes 1 positional argument but %zd were given",
			     function, nargs);
		return -1;
	}
	for (i = 0; i < wanted && i < CONTEXT; i++) {
		if (values[i] == NULL) {
			PyErr_Format(PyExc_TypeError,
				     "%s() missing 1 required positional argument: '%s'", function,
				     names[i]);
			return -1;
		}
	}
	if (values[CONTEXT] == Py_None)
		values[CONTEXT] = NULL;
	return kl_context_check(function, values[CONTEXT]);
}

static PyObject *add_method(PyObject *op, const char *function, enum kl_side which, bool check,
			    PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
	LoopObject *self = (LoopObject *)op;
	PyObject *values[NAMES], *handle;
	Py_ssize_t rest = nargs > 2 ? nargs - 2 : 0;
	int fd;

	/* asyncio's transports name a context from Python 3.15 on. */
	if (parse(function, args, nargs, kwnames, check ? CONTEXT : NAMES, values) < 0)
		return NULL;
	fd = to_fd(self, values[FD]);
	if (fd < 0 || (check && kl_ensure_no_transport(self, values[FD], fd) < 0))
		return NULL;
	handle = kl_poll_add(self, fd, which, values[CALLBACK], args + nargs - rest, rest,
			     values[CONTEXT]);
	if (handle == NULL)
		return NULL;
	return Py_NewRef(check ? Py_None : handle);
}

static PyObject *remove_method(PyObject *op, const char *function, enum kl_side which, bool check,
			       PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
	LoopObject *self = (LoopObject *)op;
	PyObject *values[NAMES], *object;
	int fd;

	if (parse(function, args, nargs, kwnames, CALLBACK, values) < 0)
		return NULL;
	object = values[FD];
	/* asyncio's transports remove readers of sockets that are closed: those are none. */
	if (!check && PyLong_Check(object) && PyLong_AsLong(object) < 0 && !PyErr_Occurred())
		Py_RETURN_FALSE;
	fd = to_fd(self, object);
	if (fd < 0 || (check && kl_ensure_no_transport(self, object, fd) < 0))
		return NULL;
	return kl_poll_remove(self, fd, which);
}

KL_LOOP_METHOD(kl_loop_add_reader)
{
	return add_method(self, "add_reader", KL_READER, true, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_add_writer)
{
	return add_method(self, "add_writer", KL_WRITER, true, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_remove_reader)
{
	return remove_method(self, "remove_reader", KL_READER, true, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_remove_writer)
{
	return remove_method(self, "remove_writer", KL_WRITER, true, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_add_reader_c)
{
	return add_method(self, "_add_reader", KL_READER, false, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_add_writer_c)
{
	return add_method(self, "_add_writer", KL_WRITER, false, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_remove_reader_c)
{
	return remove_method(self, "_remove_reader", KL_READER, false, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_remove_writer_c)
{
	return remove_method(self, "_remove_writer", KL_WRITER, false, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_watched_events)
{
	PyObject *values[NAMES];
	int fd;

	if (parse("_watched_events", args, nargs, kwnames, CALLBACK, values) < 0)
		return NULL;
	fd = to_fd((LoopObject *)self, values[FD]);
	if (fd < 0)
		return NULL;
	return PyLong_FromLong(kl_poll_watched((LoopObject *)self, fd));
}
