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
#include <unistd.h>

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
