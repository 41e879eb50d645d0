/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The reads of a StreamReader: what each returns or raises, given what is
 * there. They follow asyncio.streams line by line; its quirks are kept.
 */
#include "streams.h"

/* ---- methods ------------------------------------------------------------- */

/* The only argument, positional or by name; NULL, with *ret_usual false where it is odd. */
static PyObject *only_argument(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
			       PyObject *name, bool *ret_usual)
{
	Py_ssize_t named = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;

	*ret_usual = nargs + named <= 2 &&
		     (named == 0 || PyUnicode_Compare(PyTuple_GET_ITEM(kwnames, 0), name) == 0);
	return *ret_usual && nargs + named == 2 ? args[1] : NULL;
}

/* An int as it is, and not too large. */
static bool as_number(PyObject *object, Py_ssize_t *ret_number)
{
	if (!PyLong_CheckExact(object))
		return false;
	*ret_number = PyLong_AsSsize_t(object);
	if (*ret_number != -1 || !PyErr_Occurred())
		return true;
	PyErr_Clear();
	return false;
}

static PyObject *read_some(MethodObject *method, ReaderObject *state, PyObject *const *args,
			   Py_ssize_t nargs, PyObject *kwnames)
{
	bool usual;
	PyObject *object = only_argument(args, nargs, kwnames, method->streams->names.n, &usual);
	Py_ssize_t number = -1;

	if (!usual || (object != NULL && !as_number(object, &number)))
		return kl_method_leave(method, args, nargs, kwnames);
	return kl_read_new(method->streams, state, args[0], number < 0 ? KL_READ_ALL : KL_READ,
			   (size_t)number, NULL);
}

static PyObject *read_exactly(MethodObject *method, ReaderObject *state, PyObject *const *args,
			      Py_ssize_t nargs, PyObject *kwnames)
{
	bool usual;
	PyObject *object = only_argument(args, nargs, kwnames, method->streams->names.n, &usual);
	Py_ssize_t number;

	if (object == NULL || !as_number(object, &number) || number < 0)
		return kl_method_leave(method, args, nargs, kwnames);
	return kl_read_new(method->streams, state, args[0], KL_READ_EXACTLY, (size_t)number, NULL);
}

static bool is_separator(PyObject *object)
{
	return PyBytes_CheckExact(object) && PyBytes_GET_SIZE(object) > 0;
}

/* From Python 3.13 on there may be several. */
static bool is_usual_separator(PyObject *object)
{
#if PY_VERSION_HEX >= 0x030D0000
	Py_ssize_t i;

	if (PyTuple_CheckExact(object)) {
		for (i = 0; i < PyTuple_GET_SIZE(object); i++)
			if (!is_separator(PyTuple_GET_ITEM(object, i)))
				return false;
		return PyTuple_GET_SIZE(object) > 0;
	}
#endif
	return is_separator(object);
}

static PyObject *read_until(MethodObject *method, ReaderObject *state, PyObject *const *args,
			    Py_ssize_t nargs, PyObject *kwnames)
{
	struct kl_streams *streams = method->streams;
	bool usual;
	PyObject *object = only_argument(args, nargs, kwnames, streams->names.separator, &usual);

	if (!usual || (object != NULL && !is_usual_separator(object)))
		return kl_method_leave(method, args, nargs, kwnames);
	return kl_read_new(streams, state, args[0], KL_READ_UNTIL, 0,
			   object != NULL ? object : streams->newline);
}

static PyObject *read_line(MethodObject *method, ReaderObject *state, PyObject *const *args,
			   Py_ssize_t nargs, PyObject *kwnames)
{
	if (nargs != 1 || kwnames != NULL)
		return kl_method_leave(method, args, nargs, kwnames);
	return kl_read_new(method->streams, state, args[0], KL_READ_LINE, 0,
			   method->streams->newline);
}

static PyObject *read_next(MethodObject *method, ReaderObject *state, PyObject *const *args,
			   Py_ssize_t nargs, PyObject *kwnames)
{
	if (nargs != 1 || kwnames != NULL)
		return kl_method_leave(method, args, nargs, kwnames);
	return kl_read_new(method->streams, state, args[0], KL_READ_NEXT, 0,
			   method->streams->newline);
}

const struct kl_method_def kl_read_methods[] = {
	{ "read", read_some, true },
	{ "readexactly", read_exactly, true },
	{ "readuntil", read_until, true },
	{ "readline", read_line, true },
	{ "__anext__", read_next, true },
	{ NULL, NULL, false },
};

const char *kl_read_waiter_name(const struct kl_read *self)
{
	switch (self->kind) {
	case KL_READ:
	case KL_READ_ALL:
		return "read";
	case KL_READ_EXACTLY:
		return "readexactly";
	default:
		return "readuntil";
	}
}

/* ---- results ------------------------------------------------------------- */

/* raise self._exception. Returns -1. */
static int raise_again(PyObject *exception)
{
	if (PyExceptionInstance_Check(exception))
		PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
	else if (PyExceptionClass_Check(exception))
		PyErr_SetNone(exception);
	else
		PyErr_SetString(PyExc_TypeError, "exceptions must derive from BaseException");
	return -1;
}

/* Take so much, and receive on where that was paused. 1 with *ret_result, or -1. */
static int take(ReaderObject *state, size_t bytes, PyObject **ret_result)
{
	PyObject *result = kl_pieces_take(&state->pieces, bytes);

	if (result == NULL)
		return -1;
	if (kl_reader_maybe_resume(state) < 0) {
		Py_DECREF(result);
		return -1;
	}
	*ret_result = result;
	return 1;
}

/* raise IncompleteReadError(all there is, expected); steals that, and the error if it is NULL. */
static int raise_incomplete(struct kl_read *self, PyObject *expected)
{
	PyObject *partial = expected == NULL ? NULL
					     : kl_pieces_take(&self->state->pieces, SIZE_MAX);
	PyObject *error = partial == NULL ? NULL
					  : PyObject_CallFunctionObjArgs(
						    self->streams->incomplete_read_error, partial,
						    expected, NULL);

	if (error != NULL)
		PyErr_SetObject((PyObject *)Py_TYPE(error), error);
	Py_XDECREF(error);
	Py_XDECREF(partial);
	Py_XDECREF(expected);
	return -1;
}

/* raise LimitOverrunError(message, consumed) */
static int raise_overrun(struct kl_read *self, const char *message, size_t consumed)
{
	PyObject *error = PyObject_CallFunction(self->streams->limit_overrun_error, "sn", message,
						(Py_ssize_t)consumed);

	if (error != NULL)
		PyErr_SetObject((PyObject *)Py_TYPE(error), error);
	Py_XDECREF(error);
	return -1;
}

/* ---- read(), readexactly() ------------------------------------------------ */

static int attempt_some(struct kl_read *self, bool woken, PyObject **ret_result)
{
	ReaderObject *state = self->state;

	if (!woken && state->exception != NULL)
		return raise_again(state->exception);
	if (!woken && self->bytes != 0 && state->pieces.bytes == 0 && !state->eof)
		return 0;
	if (self->bytes != 0)
		return take(state, self->bytes, ret_result);
	*ret_result = PyBytes_FromStringAndSize(NULL, 0);
	return *ret_result != NULL ? 1 : -1;
}

/* b"".join(blocks) */
static int join_blocks(struct kl_read *self, PyObject **ret_result)
{
	PyObject *empty = PyBytes_FromStringAndSize(NULL, 0);

	*ret_result = empty == NULL ? NULL
				    : PyObject_CallMethod(empty, "join", "O", self->blocks);
	Py_XDECREF(empty);
	return *ret_result != NULL ? 1 : -1;
}

/* One read(limit) after the other, as in asyncio, until one is empty. */
static int attempt_all(struct kl_read *self, bool woken, PyObject **ret_result)
{
	ReaderObject *state = self->state;
	PyObject *block;
	int result;

	if (self->blocks == NULL)
		self->blocks = PyList_New(0);
	if (self->blocks == NULL)
		return -1;
	for (;; woken = false) {
		if (!woken && state->exception != NULL)
			return raise_again(state->exception);
		if (!woken && state->pieces.bytes == 0 && !state->eof)
			return 0;
		if (take(state, state->limit, &block) < 0)
			return -1;
		result = PyBytes_GET_SIZE(block) != 0 ? PyList_Append(self->blocks, block) : 1;
		Py_DECREF(block);
		if (result != 0)
			return result < 0 ? -1 : join_blocks(self, ret_result);
		if (state->plain)
			return 0;
	}
}

static int attempt_exactly(struct kl_read *self, bool woken, PyObject **ret_result)
{
	ReaderObject *state = self->state;

	if (!woken && state->exception != NULL)
		return raise_again(state->exception);
	if (self->bytes == 0) {
		*ret_result = PyBytes_FromStringAndSize(NULL, 0);
		return *ret_result != NULL ? 1 : -1;
	}
	if (state->pieces.bytes >= self->bytes)
		return take(state, self->bytes, ret_result);
	return state->eof ? raise_incomplete(self, PyLong_FromSize_t(self->bytes)) : 0;
}

/* ---- readuntil(), readline() ----------------------------------------------- */

/* Where the separator begins in so many bytes, or NULL. */
static const char *search(const char *data, size_t bytes, PyObject *separator)
{
	if (PyBytes_GET_SIZE(separator) == 1)
		return memchr(data, PyBytes_AS_STRING(separator)[0], bytes);
	return memmem(data, bytes, PyBytes_AS_STRING(separator),
		      (size_t)PyBytes_GET_SIZE(separator));
}

/* One separator, from self->offset on. 1 with where it begins and ends, 0, or -1. */
static int find_one(struct kl_read *self, PyObject *separator, size_t *ret_begin, size_t *ret_end)
{
	struct kl_pieces *pieces = &self->state->pieces;
	const struct kl_piece *first = kl_pieces_first(pieces);
	const char *data = PyBytes_AS_STRING(first->object) + first->begin;
	size_t bytes = first->end - first->begin;
	const char *found = NULL;

	/* What is in the first piece alone needs no joining. */
	if (self->offset < bytes)
		found = search(data + self->offset, bytes - self->offset, separator);
	if (found == NULL && pieces->count > 1) {
		data = kl_pieces_join(pieces);
		if (data == NULL)
			return -1;
		found = search(data + self->offset, pieces->bytes - self->offset, separator);
	}
	if (found == NULL)
		return 0;
	*ret_begin = (size_t)(found - data);
	*ret_end = *ret_begin + (size_t)PyBytes_GET_SIZE(separator);
	return 1;
}

/* The one that ends first; of those that end together the shortest. */
static int find_any(struct kl_read *self, size_t *ret_begin, size_t *ret_end)
{
	size_t begin, end;
	int found = 0;
	Py_ssize_t i;

	for (i = 0; i < PyTuple_GET_SIZE(self->separator); i++) {
		int result = find_one(self, PyTuple_GET_ITEM(self->separator, i), &begin, &end);

		if (result < 0)
			return -1;
		if (result == 0)
			continue;
		if (!found || end < *ret_end || (end == *ret_end && begin > *ret_begin)) {
			*ret_begin = begin;
			*ret_end = end;
		}
		found = 1;
	}
	return found;
}

static void separator_lengths(PyObject *separator, size_t *ret_shortest, size_t *ret_longest)
{
	Py_ssize_t i;

	if (PyBytes_Check(separator)) {
		*ret_shortest = *ret_longest = (size_t)PyBytes_GET_SIZE(separator);
		return;
	}
	*ret_shortest = SIZE_MAX;
	*ret_longest = 0;
	for (i = 0; i < PyTuple_GET_SIZE(separator); i++) {
		size_t bytes = (size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM(separator, i));

		*ret_shortest = bytes < *ret_shortest ? bytes : *ret_shortest;
		*ret_longest = bytes > *ret_longest ? bytes : *ret_longest;
	}
}

static int attempt_until(struct kl_read *self, bool woken, PyObject **ret_result)
{
	ReaderObject *state = self->state;
	size_t shortest, longest, begin, end, bytes = state->pieces.bytes;
	int found;

	if (!woken && state->exception != NULL)
		return raise_again(state->exception);
	separator_lengths(self->separator, &shortest, &longest);
	if (bytes >= self->offset && bytes - self->offset >= shortest) {
		found = PyBytes_Check(self->separator)
				? find_one(self, self->separator, &begin, &end)
				: find_any(self, &begin, &end);
		if (found < 0)
			return -1;
		if (found > 0 && begin > state->limit)
			return raise_overrun(self, "Separator is found, but chunk is longer than limit",
					     begin);
		if (found > 0)
			return take(state, end, ret_result);
		/* Where another may begin that is there in part. */
		self->offset = bytes + 1 > longest ? bytes + 1 - longest : 0;
		if (self->offset > state->limit)
			return raise_overrun(
				self, "Separator is not found, and chunk exceed the limit",
				self->offset);
	}
	return state->eof ? raise_incomplete(self, Py_NewRef(Py_None)) : 0;
}

/* except LimitOverrunError: drop the line, or all there is, and raise ValueError. */
static void overrun_line(struct kl_read *self, PyObject *error)
{
	ReaderObject *state = self->state;
	PyObject *consumed = PyObject_GetAttr(error, self->streams->names.consumed);
	PyObject *args = consumed != NULL ? PyObject_GetAttr(error, self->streams->names.args) : NULL;
	PyObject *message = args != NULL ? PySequence_GetItem(args, 0) : NULL;
	PyObject *raised = NULL;
	Py_ssize_t at = message != NULL ? PyLong_AsSsize_t(consumed) : 0;

	if (message != NULL && (at != -1 || !PyErr_Occurred())) {
		const char *data = state->pieces.bytes > 0 ? kl_pieces_join(&state->pieces) : "";

		if (data != NULL && at >= 0 && (size_t)at < state->pieces.bytes && data[at] == '\n')
			kl_pieces_drop(&state->pieces, (size_t)at + 1);
		else if (data != NULL)
			kl_pieces_clear(&state->pieces);
		if (data != NULL && kl_reader_maybe_resume(state) == 0)
			raised = PyObject_CallOneArg(PyExc_ValueError, message);
	}
	if (raised != NULL) {
		PyException_SetContext(raised, Py_NewRef(error));
		PyErr_SetObject((PyObject *)Py_TYPE(raised), raised);
	}
	Py_XDECREF(consumed);
	Py_XDECREF(args);
	Py_XDECREF(message);
	Py_XDECREF(raised);
}

int kl_read_map_error(struct kl_read *self, PyObject **ret_result)
{
	struct kl_streams *streams = self->streams;
	PyObject *error;

	if (self->kind != KL_READ_LINE && self->kind != KL_READ_NEXT)
		return -1;
	if (PyErr_ExceptionMatches(streams->incomplete_read_error)) {
		error = kl_exception_take();
		*ret_result = PyObject_GetAttr(error, streams->names.partial);
		Py_DECREF(error);
		return *ret_result != NULL ? 1 : -1;
	}
	if (PyErr_ExceptionMatches(streams->limit_overrun_error) && !self->state->plain) {
		error = kl_exception_take();
		overrun_line(self, error);
		Py_DECREF(error);
	}
	return -1;
}

/* ---- any of them ------------------------------------------------------------ */

int kl_read_attempt(struct kl_read *self, bool woken, PyObject **ret_result)
{
	switch (self->kind) {
	case KL_READ:
		return attempt_some(self, woken, ret_result);
	case KL_READ_ALL:
		return attempt_all(self, woken, ret_result);
	case KL_READ_EXACTLY:
		return attempt_exactly(self, woken, ret_result);
	default:
		return attempt_until(self, woken, ret_result);
	}
}

/* ---- after the reader turned back ------------------------------------------- */

/* So much of the bytearray, removed: new, or NULL with an error set. */
static PyObject *take_plain(struct kl_read *self, Py_ssize_t bytes)
{
	PyObject *buffer = PyObject_GetAttr(self->reader, self->streams->names._buffer);
	PyObject *piece = NULL, *resumed = NULL, *result = NULL;

	if (buffer != NULL)
		piece = PySequence_GetSlice(buffer, 0, bytes);
	if (piece != NULL && PySequence_DelSlice(buffer, 0, bytes) == 0)
		result = PyBytes_FromObject(piece);
	if (result != NULL)
		resumed = PyObject_CallMethod(self->reader, "_maybe_resume_transport", NULL);
	if (resumed == NULL)
		Py_CLEAR(result);
	Py_XDECREF(buffer);
	Py_XDECREF(piece);
	Py_XDECREF(resumed);
	return result;
}

int kl_read_take_plain(struct kl_read *self, PyObject **ret_result)
{
	PyObject *block;
	int result = 1;

	if (self->kind == KL_READ) {
		*ret_result = take_plain(self, (Py_ssize_t)self->bytes);
		return *ret_result != NULL ? 1 : -1;
	}
	if (self->kind != KL_READ_ALL || self->blocks == NULL)
		return 0;
	block = take_plain(self, (Py_ssize_t)self->state->limit);
	if (block == NULL)
		return -1;
	if (PyBytes_GET_SIZE(block) != 0)
		result = PyList_Append(self->blocks, block);
	Py_DECREF(block);
	return result <= 0 ? result : join_blocks(self, ret_result);
}

PyObject *kl_read_hand_over(struct kl_read *self)
{
	PyObject *reader = self->reader;

	switch (self->kind) {
	case KL_READ:
		return PyObject_CallMethod(reader, "read", "n", (Py_ssize_t)self->bytes);
	case KL_READ_ALL:
		return PyObject_CallMethod(reader, "read", "i", -1);
	case KL_READ_EXACTLY:
		return PyObject_CallMethod(reader, "readexactly", "n", (Py_ssize_t)self->bytes);
	case KL_READ_UNTIL:
		return PyObject_CallMethodOneArg(reader, self->streams->names.readuntil,
						 self->separator);
	case KL_READ_LINE:
		return PyObject_CallMethodNoArgs(reader, self->streams->names.readline);
	default:
		return PyObject_CallMethodNoArgs(reader, self->streams->names.__anext__);
	}
}
