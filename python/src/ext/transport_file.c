/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Files sent by a transport: what loop.sendfile() is made of.
 *
 * One file at a time, and no writes meanwhile, as with asyncio. The transport
 * has a descriptor of its own for the file, so that the caller may close his
 * whenever he likes.
 */
#include "tls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Files up to here are written as bytes are, where TLS encrypts them. */
#define SMALL_BYTES ((uint64_t)64 << 10)

int kl_transport_check_file(TransportObject *self)
{
	if (self->file_waiter == NULL)
		return 0;
	PyErr_SetString(PyExc_RuntimeError, "unable to write; sendfile is in progress");
	return -1;
}

/* The exception of a status; None for none. NULL with an error set. */
static PyObject *make_error(TransportObject *self, int status)
{
	if (status == 0)
		Py_RETURN_NONE;
	if (self->tls != NULL && status < -4095)
		return kl_tls_exception(self, status);
	/* What the caller did not cancel himself ended with the transport. */
	if (status == -ECANCELED)
		return PyObject_CallFunction(PyExc_ConnectionError, "s",
					     "Connection is closed by peer");
	return kl_os_exception(status);
}

/* waiter.set_result((error, sent)), unless its task was cancelled meanwhile, and it too */
static void wake(TransportObject *self, PyObject *waiter, int status, uint64_t sent_bytes)
{
	PyObject *error = make_error(self, status);
	PyObject *pair = NULL;

	if (error != NULL)
		pair = Py_BuildValue("(NK)", error, (unsigned long long)sent_bytes);
	if (pair == NULL || kl_wake(self->loop->state, waiter,
				    self->loop->state->names.set_result, pair) < 0)
		kl_transport_report(self, "Exception in callback waiter.set_result()");
	Py_XDECREF(pair);
}

static void file_done(void *owner, int status, uint64_t sent_bytes, void *user)
{
	TransportObject *self = user;
	PyObject *waiter = self->file_waiter;

	(void)owner;
	kl_py_enter(self->loop);
	self->file_waiter = NULL;
	/* The caller's descriptor shares the position. */
	if (sent_bytes > 0)
		(void)lseek(self->file_fd, (off_t)(self->file_offset + sent_bytes), SEEK_SET);
	close(self->file_fd);
	/* When the loop closes nobody can be woken any more. */
	if (waiter != NULL && !self->abandoned)
		wake(self, waiter, status, sent_bytes);
	Py_XDECREF(waiter);
}

static int send_file(TransportObject *self, int fd, uint64_t offset, uint64_t bytes)
{
	int result;

	self->file_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (self->file_fd < 0)
		return -errno;
	self->file_offset = offset;
	result = kloop_stream_send_file(self->stream, self->file_fd, offset, bytes, 0, file_done,
					self);
	if (result < 0)
		close(self->file_fd);
	return result;
}

PyObject *kl_transport_send_file(PyObject *op, PyObject *args)
{
	TransportObject *self = (TransportObject *)op;
	unsigned long long offset, bytes;
	PyObject *waiter;
	int fd, result;

	if (!PyArg_ParseTuple(args, "iKK:_send_file", &fd, &offset, &bytes) ||
	    kl_transport_check_file(self) < 0)
		return NULL;
	if (self->stream == NULL || self->closing)
		return PyErr_Format(PyExc_RuntimeError, "Transport is closing");
	if (self->eof)
		return PyErr_Format(PyExc_RuntimeError, "Cannot call write() after write_eof()");
	waiter = PyObject_CallMethodNoArgs((PyObject *)self->loop,
					   self->loop->state->names.create_future);
	if (waiter == NULL)
		return NULL;
	result = send_file(self, fd, offset, bytes != 0 ? bytes : KLOOP_FILE_END);
	if (result < 0) {
		Py_DECREF(waiter);
		return kl_raise(self->loop->state, result);
	}
	Py_INCREF(waiter);
	self->file_waiter = waiter;
	return waiter;
}

/* ---- small files ------------------------------------------------------ */

/*
 * With TLS asyncio reads a file and writes what it read, and so a small one is
 * sent as soon as it waits in the transport. It can be so here where nobody
 * waits for a disk: it leaves in one record with a header before it, and what
 * files need that take their time is not made, neither operations nor a future.
 * Whatever is not plain is left to the long way, errors too.
 */

/* An exception of the caller's object: 0, for the long way will meet it, or -1 with it set. */
static int forget_error(void)
{
	if (!PyErr_ExceptionMatches(PyExc_Exception))
		return -1;
	PyErr_Clear();
	return 0;
}

/* A number that is not less: whether it is one. */
static bool get_number(PyObject *value, long long least, uint64_t *ret_number)
{
	int overflow = 1;
	long long number = PyLong_CheckExact(value)
				   ? PyLong_AsLongLongAndOverflow(value, &overflow)
				   : 0;

	if (overflow != 0 || number < least)
		return false;
	*ret_number = (uint64_t)number;
	return true;
}

/* The descriptor of a binary file: 1; 0 if it is anything else, or -1 with an error set. */
static int get_descriptor(struct kl_state *state, PyObject *file, int *ret_fd)
{
	PyObject *mode = PyObject_GetAttr(file, state->names.mode);
	PyObject *number;
	uint64_t fd;
	bool good;

	if (mode == NULL)
		return forget_error();
	good = PyUnicode_Check(mode) &&
	       PyUnicode_FindChar(mode, 'b', 0, PyUnicode_GET_LENGTH(mode), 1) >= 0;
	Py_DECREF(mode);
	if (!good)
		return 0;
	number = PyObject_CallMethodNoArgs(file, state->names.fileno);
	if (number == NULL)
		return forget_error();
	good = get_number(number, 0, &fd) && fd <= INT_MAX;
	Py_DECREF(number);
	if (good)
		*ret_fd = (int)fd;
	return good;
}

/* Is it worth the kernel's TLS, where that is to be had? */
static bool is_for_kernel(const TransportObject *self, uint64_t bytes)
{
	int state;

	if (bytes < SMALL_BYTES || self->tls->session == NULL)
		return false;
	state = kloop_tls_get_ktls(self->tls->session, KLOOP_TLS_SEND);
	return state == 1 || state == KLOOP_ERROR_KTLS_UNUSED;
}

/* How much of the file is to be sent; 0 if that is not for the short way. */
static size_t get_small(const TransportObject *self, int fd, uint64_t offset, uint64_t bytes)
{
	struct stat info;
	uint64_t have;

	if (self->tls == NULL || !self->tls->open || self->stream == NULL || self->closing ||
	    self->eof || self->write_paused || self->file_waiter != NULL)
		return 0;
	if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode) || (uint64_t)info.st_size <= offset)
		return 0;
	have = (uint64_t)info.st_size - offset;
	if (have < bytes)
		bytes = have;
	/* Beyond the mark the caller is to wait, as in drain(). */
	return bytes <= SMALL_BYTES && !is_for_kernel(self, bytes) &&
			       kl_transport_write_bytes(self) + bytes <= self->high_bytes
		       ? (size_t)bytes
		       : 0;
}

/* Read what is in memory. Where a file system cannot say what is (tmpfs), all of it is. */
static ssize_t read_cached(int fd, uint64_t offset, void *buffer, size_t bytes)
{
	struct iovec vector = {.iov_base = buffer, .iov_len = bytes};
	ssize_t result = preadv2(fd, &vector, 1, (off_t)offset, RWF_NOWAIT);
	struct statfs system;

	if (result >= 0 || errno != EOPNOTSUPP || fstatfs(fd, &system) < 0 ||
	    (system.f_type != TMPFS_MAGIC && system.f_type != RAMFS_MAGIC))
		return result;
	/* What was swapped out is waited for, as any memory is. */
	return preadv2(fd, &vector, 1, (off_t)offset, 0);
}

/* Those bytes, if all of them are in memory. 1; 0 if not, or -1 with an error set. */
static int read_small(int fd, uint64_t offset, size_t bytes, PyObject **ret_body)
{
	PyObject *body = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes);

	if (body == NULL)
		return -1;
	if (read_cached(fd, offset, PyBytes_AS_STRING(body), bytes) != (ssize_t)bytes) {
		Py_DECREF(body);
		return 0;
	}
	*ret_body = body;
	return 1;
}

PyObject *kl_transport_send_small(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
	TransportObject *self = (TransportObject *)op;
	uint64_t offset, count = UINT64_MAX;
	PyObject *body;
	size_t bytes;
	int fd, result;

	if (nargs != 3)
		return PyErr_Format(PyExc_TypeError, "_send_small() takes 3 arguments");
	if (!get_number(args[1], 0, &offset) ||
	    (args[2] != Py_None && !get_number(args[2], 1, &count)))
		Py_RETURN_NONE;
	result = get_descriptor(self->loop->state, args[0], &fd);
	bytes = result > 0 ? get_small(self, fd, offset, count) : 0;
	if (bytes > 0)
		result = read_small(fd, offset, bytes, &body);
	if (result < 0)
		return NULL;
	if (bytes == 0 || result == 0)
		Py_RETURN_NONE;
	if (kl_transport_lend(self, body) < 0) {
		Py_DECREF(body);
		Py_RETURN_NONE;
	}
	/* The caller's descriptor shares the position. */
	(void)lseek(fd, (off_t)(offset + bytes), SEEK_SET);
	return PyLong_FromSize_t(bytes);
}

/* ---- the end of one that takes its time ------------------------------- */

PyObject *kl_transport_cancel_file(PyObject *op, PyObject *unused)
{
	TransportObject *self = (TransportObject *)op;

	PyObject *waiter;

	(void)unused;
	/* It is done already. */
	if (self->file_waiter == NULL)
		Py_RETURN_NONE;
	waiter = PyObject_CallMethodNoArgs((PyObject *)self->loop,
					   self->loop->state->names.create_future);
	if (waiter == NULL)
		return NULL;
	/* That could run the collector, which can run anything. */
	if (self->file_waiter == NULL) {
		Py_DECREF(waiter);
		Py_RETURN_NONE;
	}
	Py_SETREF(self->file_waiter, Py_NewRef(waiter));
	if (self->stream != NULL)
		(void)kloop_stream_cancel_file(self->stream, self);
	return waiter;
}
