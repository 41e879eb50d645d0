/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Calls on files, from their submission to their result: see file.h. */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Results that are much smaller than what was asked for are copied. */
#define COPY_BYTES 4096

struct kl_file_call *kl_file_new(LoopObject *loop, enum kl_file_kind kind)
{
	struct kl_file_call *self = PyObject_GC_New(struct kl_file_call, loop->state->file_call_type);

	if (self == NULL)
		return NULL;
	memset((char *)self + sizeof(PyObject), 0, sizeof(*self) - sizeof(PyObject));
	self->loop = (LoopObject *)Py_NewRef(loop);
	self->kind = kind;
	self->fd = -1;
	PyObject_GC_Track(self);
	return self;
}

int kl_file_traverse(PyObject *op, visitproc visit, void *arg)
{
	struct kl_file_call *self = (struct kl_file_call *)op;

	/* Not what is lent to the kernel: it stays pinned. */
	Py_VISIT(Py_TYPE(op));
	Py_VISIT(self->loop);
	Py_VISIT(self->callback);
	Py_VISIT(self->context);
	Py_VISIT(self->cancel_message);
	Py_VISIT(self->name);
	Py_VISIT(self->name2);
	return 0;
}

int kl_file_clear(PyObject *op)
{
	struct kl_file_call *self = (struct kl_file_call *)op;

	Py_CLEAR(self->callback);
	Py_CLEAR(self->context);
	Py_CLEAR(self->cancel_message);
	return 0;
}

static bool is_transfer(const struct kl_file_call *self)
{
	return self->kind == KL_FILE_READ || self->kind == KL_FILE_READINTO ||
	       self->kind == KL_FILE_WRITE;
}

/* A descriptor that nobody will take. */
static void drop_descriptor(struct kl_file_call *self)
{
	if (self->kind == KL_FILE_OPEN && self->state == KL_FILE_READY && self->result >= 0) {
		(void)close(self->result);
		self->result = -ECANCELED;
	}
}

static void drop_lent(struct kl_file_call *self)
{
	if (self->buffer.obj != NULL)
		PyBuffer_Release(&self->buffer);
	Py_CLEAR(self->path);
	Py_CLEAR(self->path2);
	PyMem_Free(self->status);
	self->status = NULL;
}

void kl_file_dealloc(PyObject *op)
{
	struct kl_file_call *self = (struct kl_file_call *)op;
	PyTypeObject *type = Py_TYPE(op);

	PyObject_GC_UnTrack(op);
	drop_descriptor(self);
	(void)kl_file_clear(op);
	drop_lent(self);
	Py_CLEAR(self->data);
	Py_CLEAR(self->name);
	Py_CLEAR(self->name2);
	Py_CLEAR(self->loop);
	PyObject_GC_Del(op);
	Py_DECREF(type);
}

int kl_file_calls_traverse(LoopObject *loop, visitproc visit, void *arg)
{
	struct kl_file_call *self;

	for (self = loop->file_calls; self != NULL; self = self->next)
		Py_VISIT(self);
	return 0;
}

/* ---- through the ring --------------------------------------------------- */

static void wake(struct kl_file_call *self)
{
	PyObject *callback = self->callback, *context = self->context;
	PyObject *argument = (PyObject *)self;

	self->callback = self->context = NULL;
	if (callback != NULL && !self->loop->closed &&
	    kl_call_soon(self->loop, callback, &argument, 1, context) < 0)
		kl_report_exception(self->loop, "A call on a file cannot be finished", NULL, NULL);
	Py_XDECREF(callback);
	Py_XDECREF(context);
}

/* The completion; maybe without the GIL. */
static void complete(struct kl_file_call *self, int result)
{
	kl_py_enter(self->loop);
	*self->link = self->next;
	if (self->next != NULL)
		self->next->link = self->link;
	self->link = NULL;
	self->next = NULL;
	self->result = result;
	self->state = KL_FILE_READY;
	if (self->cancelled)
		drop_descriptor(self);
	wake(self);
	Py_DECREF(self);
}

static void op_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	(void)flags;
	complete((struct kl_file_call *)((char *)op - offsetof(struct kl_file_call, op)), result);
}

static void transfer_done(struct kloop_transfer *transfer, int result)
{
	complete((struct kl_file_call *)((char *)transfer -
					 offsetof(struct kl_file_call, transfer)),
		 result);
}

static int submit_transfer(struct kl_file_call *self)
{
	struct kloop_loop *loop = self->loop->loop;
	struct kloop_transfer *transfer = &self->transfer;
	size_t bytes = self->kind == KL_FILE_READ ? (size_t)self->bytes : (size_t)self->buffer.len;

	kloop_transfer_init(transfer, transfer_done);
	if (self->kind == KL_FILE_WRITE)
		return kloop_transfer_write(loop, transfer, self->fd, self->buffer.buf, bytes,
					    self->offset);
	return kloop_transfer_read(loop, transfer, self->fd,
				   self->kind == KL_FILE_READ ? PyBytes_AS_STRING(self->data) :
								self->buffer.buf,
				   bytes, self->full ? bytes : 0, self->offset);
}

static int submit_name(struct kl_file_call *self)
{
	struct kloop_loop *loop = self->loop->loop;
	const char *path = self->path == NULL ? "" : PyBytes_AS_STRING(self->path);

	switch (self->kind) {
	case KL_FILE_OPEN:
		return kloop_op_openat(loop, &self->op, AT_FDCWD, path, self->flags, self->mode);
	case KL_FILE_STAT:
		return kloop_op_statx(loop, &self->op, self->path == NULL ? self->fd : AT_FDCWD, path,
				      self->flags | (self->path == NULL ? AT_EMPTY_PATH : 0),
				      STATX_BASIC_STATS, self->status);
	case KL_FILE_RENAME:
		return kloop_op_renameat(loop, &self->op, AT_FDCWD, path, AT_FDCWD,
					 PyBytes_AS_STRING(self->path2), (unsigned)self->flags);
	case KL_FILE_UNLINK:
		return kloop_op_unlinkat(loop, &self->op, AT_FDCWD, path, self->flags);
	default:
		return kloop_op_mkdirat(loop, &self->op, AT_FDCWD, path, self->mode);
	}
}

static int submit(struct kl_file_call *self)
{
	struct kloop_loop *loop = self->loop->loop;

	if (is_transfer(self))
		return submit_transfer(self);
	kloop_op_init(&self->op, op_done);
	switch (self->kind) {
	case KL_FILE_CLOSE:
		return kloop_op_close(loop, &self->op, self->fd);
	case KL_FILE_SYNC:
		return kloop_op_fsync(loop, &self->op, self->fd, self->flags != 0);
	case KL_FILE_TRUNCATE:
		return kloop_op_ftruncate(loop, &self->op, self->fd, self->bytes);
	case KL_FILE_ALLOCATE:
		return kloop_op_fallocate(loop, &self->op, self->fd, self->flags, self->offset,
					  self->bytes);
	default:
		return submit_name(self);
	}
}

/* 0, or -1 with an error set: nothing was submitted. */
static int try_submit(struct kl_file_call *self)
{
	int code;

	if (kl_check_closed(self->loop) < 0)
		return -1;
	if (!kl_on_loop_thread(self->loop))
		return kl_raise_wrong_thread();
	code = submit(self);
	if (code < 0)
		kl_raise(self->loop->state, code);
	return code < 0 ? -1 : 0;
}

int kl_file_begin(struct kl_file_call *self)
{
	LoopObject *loop = self->loop;

	if (try_submit(self) < 0) {
		/* Nobody will close it a second time: the descriptor has to go. */
		if (self->kind == KL_FILE_CLOSE)
			close(self->fd);
		return -1;
	}
	Py_INCREF(self);
	self->next = loop->file_calls;
	self->link = &loop->file_calls;
	if (self->next != NULL)
		self->next->link = &self->next;
	loop->file_calls = self;
	self->state = KL_FILE_WAITING;
	return 0;
}

void kl_file_request_cancel(struct kl_file_call *self)
{
	if (self->kind == KL_FILE_CLOSE)
		return; /* the descriptor has to go */
	if (is_transfer(self))
		(void)kloop_transfer_cancel(&self->transfer);
	else
		(void)kloop_op_cancel(&self->op);
}

/* ---- results -------------------------------------------------------------- */

size_t kl_file_moved(const struct kl_file_call *self)
{
	return is_transfer(self) && self->state != KL_FILE_NEW ? self->transfer.done : 0;
}

PyObject *kl_file_take_data(struct kl_file_call *self)
{
	PyObject *data = self->data;
	size_t bytes = kl_file_moved(self);

	if (data == NULL || self->state < KL_FILE_READY)
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
	} else if (is_transfer(self)) {
		result = PyLong_FromSize_t(self->transfer.done);
	} else if (self->kind == KL_FILE_OPEN) {
		result = PyLong_FromLong(self->result);
	} else if (self->kind == KL_FILE_STAT) {
		result = status_tuple(self->status);
	} else {
		result = Py_NewRef(Py_None);
	}
	if (self->kind != KL_FILE_OPEN || result != NULL)
		self->state = KL_FILE_DONE;
	drop_lent(self);
	return result;
}
