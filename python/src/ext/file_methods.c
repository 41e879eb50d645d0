/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Loop._file_*(): what _files.py awaits. Arguments are positional and come from
 * there; what a user may get wrong is checked there.
 */
#include "file.h"

#include <sys/stat.h>

static int check_count(const char *function, Py_ssize_t nargs, PyObject *kwnames, Py_ssize_t count)
{
	if (nargs == count && kwnames == NULL)
		return 0;
	PyErr_Format(PyExc_TypeError, "%s() takes %zd positional arguments", function, count);
	return -1;
}

static int to_int(PyObject *object, int *ret_value)
{
	long value = PyLong_AsLong(object);

	if (value == -1 && PyErr_Occurred())
		return -1;
	if (value < INT_MIN || value > INT_MAX) {
		PyErr_SetString(PyExc_OverflowError, "Python int too large to convert to C int");
		return -1;
	}
	*ret_value = (int)value;
	return 0;
}

/* -1, the file's own position, becomes UINT64_MAX. */
static int to_offset(PyObject *object, uint64_t *ret_value)
{
	long long value = PyLong_AsLongLong(object);

	if (value == -1 && PyErr_Occurred())
		return -1;
	*ret_value = (uint64_t)value;
	return 0;
}

/* A path as bytes, and as it is to be shown. */
static int to_path(PyObject *object, PyObject **ret_path, PyObject **ret_name)
{
	if (!PyUnicode_FSConverter(object, ret_path))
		return -1;
	*ret_name = Py_NewRef(object);
	return 0;
}

static PyObject *finish(struct kl_file_call *call, bool ok)
{
	if (!ok)
		Py_CLEAR(call);
	return (PyObject *)call;
}

#define BEGIN(name, count, kind)                                                             \
	struct kl_file_call *call;                                                           \
                                                                                             \
	if (check_count(name, nargs, kwnames, count) < 0)                                    \
		return NULL;                                                                 \
	call = kl_file_new((LoopObject *)self, kind);                                        \
	if (call == NULL)                                                                    \
		return NULL

KL_LOOP_METHOD(kl_loop_file_open)
{
	int mode = 0;
	bool ok;

	BEGIN("_file_open", 3, KL_FILE_OPEN);
	ok = to_path(args[0], &call->path, &call->name) == 0 && to_int(args[1], &call->flags) == 0 &&
	     to_int(args[2], &mode) == 0;
	call->mode = (unsigned)mode;
	return finish(call, ok);
}

KL_LOOP_METHOD(kl_loop_file_close)
{
	BEGIN("_file_close", 1, KL_FILE_CLOSE);
	return finish(call, to_int(args[0], &call->fd) == 0);
}

KL_LOOP_METHOD(kl_loop_file_read)
{
	bool ok;

	BEGIN("_file_read", 4, KL_FILE_READ);
	ok = to_int(args[0], &call->fd) == 0 && to_offset(args[1], &call->bytes) == 0 &&
	     to_offset(args[2], &call->offset) == 0;
	call->full = args[3] == Py_True;
	if (ok) {
		/* It may be more than there is memory for: MemoryError. */
		call->data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)call->bytes);
		ok = call->data != NULL;
	}
	return finish(call, ok);
}

KL_LOOP_METHOD(kl_loop_file_readinto)
{
	bool ok;

	BEGIN("_file_readinto", 4, KL_FILE_READINTO);
	ok = to_int(args[0], &call->fd) == 0 && to_offset(args[2], &call->offset) == 0 &&
	     PyObject_GetBuffer(args[1], &call->buffer, PyBUF_WRITABLE) == 0;
	call->full = args[3] == Py_True;
	return finish(call, ok);
}

KL_LOOP_METHOD(kl_loop_file_write)
{
	BEGIN("_file_write", 3, KL_FILE_WRITE);
	return finish(call, to_int(args[0], &call->fd) == 0 &&
				    to_offset(args[2], &call->offset) == 0 &&
				    PyObject_GetBuffer(args[1], &call->buffer, PyBUF_SIMPLE) == 0);
}

KL_LOOP_METHOD(kl_loop_file_sync)
{
	BEGIN("_file_sync", 2, KL_FILE_SYNC);
	call->flags = args[1] == Py_True;
	return finish(call, to_int(args[0], &call->fd) == 0);
}

/* _file_stat(path or descriptor, flags) */
KL_LOOP_METHOD(kl_loop_file_stat)
{
	bool ok;

	BEGIN("_file_stat", 2, KL_FILE_STAT);
	ok = to_int(args[1], &call->flags) == 0 &&
	     (PyLong_Check(args[0]) ? to_int(args[0], &call->fd) :
				      to_path(args[0], &call->path, &call->name)) == 0;
	if (ok) {
		call->status = PyMem_Calloc(1, sizeof(*call->status));
		ok = call->status != NULL;
		if (!ok)
			PyErr_NoMemory();
	}
	return finish(call, ok);
}

KL_LOOP_METHOD(kl_loop_file_truncate)
{
	BEGIN("_file_truncate", 2, KL_FILE_TRUNCATE);
	return finish(call, to_int(args[0], &call->fd) == 0 && to_offset(args[1], &call->bytes) == 0);
}

/* _file_allocate(descriptor, mode, offset, length) */
KL_LOOP_METHOD(kl_loop_file_allocate)
{
	BEGIN("_file_allocate", 4, KL_FILE_ALLOCATE);
	return finish(call, to_int(args[0], &call->fd) == 0 && to_int(args[1], &call->flags) == 0 &&
				    to_offset(args[2], &call->offset) == 0 &&
				    to_offset(args[3], &call->bytes) == 0);
}

KL_LOOP_METHOD(kl_loop_file_rename)
{
	BEGIN("_file_rename", 3, KL_FILE_RENAME);
	return finish(call, to_path(args[0], &call->path, &call->name) == 0 &&
				    to_path(args[1], &call->path2, &call->name2) == 0 &&
				    to_int(args[2], &call->flags) == 0);
}

KL_LOOP_METHOD(kl_loop_file_unlink)
{
	BEGIN("_file_unlink", 2, KL_FILE_UNLINK);
	return finish(call, to_path(args[0], &call->path, &call->name) == 0 &&
				    to_int(args[1], &call->flags) == 0);
}

KL_LOOP_METHOD(kl_loop_file_mkdir)
{
	int mode = 0;
	bool ok;

	BEGIN("_file_mkdir", 2, KL_FILE_MKDIR);
	ok = to_path(args[0], &call->path, &call->name) == 0 && to_int(args[1], &mode) == 0;
	call->mode = (unsigned)mode;
	return finish(call, ok);
}

/* _file_rest(call): what one that failed or was cancelled did. */
KL_LOOP_METHOD(kl_loop_file_rest)
{
	struct kl_file_call *call;
	PyObject *data;

	if (check_count("_file_rest", nargs, kwnames, 1) < 0)
		return NULL;
	if (!Py_IS_TYPE(args[0], ((LoopObject *)self)->state->file_call_type)) {
		PyErr_SetString(PyExc_TypeError, "a call on a file is wanted");
		return NULL;
	}
	call = (struct kl_file_call *)args[0];
	data = kl_file_take_data(call);
	if (data == NULL && PyErr_Occurred())
		return NULL;
	return Py_BuildValue("(nN)", (Py_ssize_t)kl_file_moved(call),
			     data == NULL ? Py_NewRef(Py_None) : data);
}
