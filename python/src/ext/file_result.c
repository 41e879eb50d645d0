/* SPDX-License-Identifier: MulanPSL-2.0 */
/* What a call on a file came to: see file.h. */
#include "file.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Results that are much smaller than what was asked for are copied. */
#define COPY_BYTES 4096

bool kl_file_is_transfer(const struct kl_file_call *self)
{
	return self->kind == KL_FILE_READ || self->kind == KL_FILE_READINTO ||
	       self->kind == KL_FILE_WRITE;
}

void kl_file_drop_descriptor(struct kl_file_call *self)
{
	if (self->kind == KL_FILE_OPEN && self->complete && self->result >= 0) {
		(void)close(self->result);
		self->result = -ECANCELED;
	}
}

void kl_file_drop_lent(struct kl_file_call *self)
{
	if (self->buffer.obj != NULL)
		PyBuffer_Release(&self->buffer);
	Py_CLEAR(self->path);
	Py_CLEAR(self->path2);
	PyMem_Free(self->status);
	self->status = NULL;
}

size_t kl_file_moved(const struct kl_file_call *self)
{
	return kl_file_is_transfer(self) ? self->transfer.done : 0;
}

PyObject *kl_file_take_data(struct kl_file_call *self)
{
	PyObject *data = self->data;
	size_t bytes = kl_file_moved(self);

	if (data == NULL || !self->complete)
		return NULL;
	if (bytes <= COPY_BYTES && bytes < (size_t)PyBytes_GET_SIZE(data) / 2) {
		data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(self->data), (Py_ssize_t)bytes);
		Py_CLEAR(self->data);
		return data;
	}
	self->data = NULL;
	if (bytes < (size_t)PyBytes_GET_SIZE(data) && _PyBytes_Resize(&data, (Py_ssize_t)bytes) < 0)
		return NULL;
	return data;
}

static long long nanoseconds(const struct statx_timestamp *time)
{
	return (long long)time->tv_sec * 1000000000 + time->tv_nsec;
}

/* Numbers in an order that _files.py knows. */
static PyObject *status_tuple(const struct statx *s)
{
	return Py_BuildValue("(IKKIIIKLLLIKK)", (unsigned)s->stx_mode,
			     (unsigned long long)s->stx_ino,
			     (unsigned long long)makedev(s->stx_dev_major, s->stx_dev_minor),
			     s->stx_nlink, s->stx_uid, s->stx_gid, (unsigned long long)s->stx_size,
			     nanoseconds(&s->stx_atime), nanoseconds(&s->stx_mtime),
			     nanoseconds(&s->stx_ctime), s->stx_blksize,
			     (unsigned long long)s->stx_blocks,
			     (unsigned long long)makedev(s->stx_rdev_major, s->stx_rdev_minor));
}

PyObject *kl_file_collect(struct kl_file_call *self)
{
	PyObject *result;

	if (self->result < 0) {
		errno = -self->result;
		PyErr_SetFromErrnoWithFilenameObjects(PyExc_OSError, self->name, self->name2);
		result = NULL;
	} else if (self->kind == KL_FILE_READ) {
		result = kl_file_take_data(self);
		if (result == NULL && !PyErr_Occurred())
			PyErr_SetString(PyExc_RuntimeError, "the data was taken already");
	} else if (kl_file_is_transfer(self)) {
		result = PyLong_FromSize_t(self->transfer.done);
	} else if (self->kind == KL_FILE_OPEN) {
		result = PyLong_FromLong(self->result);
		if (result != NULL)
			self->result = -ECANCELED; /* the caller closes it now */
	} else if (self->kind == KL_FILE_STAT) {
		result = status_tuple(self->status);
	} else {
		result = Py_NewRef(Py_None);
	}
	return result;
}
