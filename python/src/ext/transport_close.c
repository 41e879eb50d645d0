/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The end of a transport: close, abort, errors, connection_lost().
 *
 * Two things end independently. connection_lost() is called once: in the next
 * iteration after an abort, an error or a close with nothing left to send, or
 * when the stream has sent everything. The stream ends when the kernel has let
 * go of all that was lent. The descriptor is closed after both, so that it is
 * still there inside connection_lost(), as with asyncio.
 */
#include "transport.h"

#include <errno.h>
#include <unistd.h>

/* ---- the descriptor -------------------------------------------------- */

void kl_close_sock(LoopObject *loop, PyObject *sock)
{
	PyObject *pending = kl_exception_take();
	PyObject *result = PyObject_CallMethodNoArgs(sock, loop->state->names.close);

	if (result == NULL)
		PyErr_WriteUnraisable(sock);
	Py_XDECREF(result);
	if (pending != NULL)
		kl_exception_give(pending);
}

void kl_warn_unclosed(PyObject *transport)
{
	PyObject *pending = kl_exception_take();

	if (PyErr_ResourceWarning(transport, 1, "unclosed transport %R", transport) < 0)
		PyErr_WriteUnraisable(transport);
	if (pending != NULL)
		kl_exception_give(pending);
}

/* Close the descriptor, through its socket object if there is one. Keeps a set exception. */
void kl_transport_close_fd(TransportObject *self)
{
	if (self->fd_closed)
		return;
	self->fd_closed = true;
	if (self->sock != NULL)
		kl_close_sock(self->loop, self->sock);
	else
		close(self->fd);
}

/* Both ends are reached: the object may go. */
static void maybe_finish(TransportObject *self)
{
	if (!self->lost_done || self->stream != NULL || self->open.link == NULL)
		return;
	kl_transport_close_fd(self);
	kl_open_unlink(&self->open); /* may free self */
}

/* ---- connection_lost() ----------------------------------------------- */

static void detach_server(TransportObject *self)
{
	PyObject *server = self->server;
	PyObject *result;

	self->server = NULL;
	if (server == NULL)
		return;
	result = kl_transport_call_server(self, server, self->loop->state->names._detach);
	if (result == NULL)
		kl_transport_report(self, "Exception in callback Server._detach()");
	Py_XDECREF(result);
	Py_DECREF(server);
}

/* Somebody waits for a connection that ended before it was one. */
static void fail_waiter(TransportObject *self, PyObject *error)
{
	PyObject *exception = Py_XNewRef(error);

	if (exception == NULL)
		exception = PyObject_CallFunction(PyExc_ConnectionAbortedError, "s",
						  "the connection was closed during its handshake");
	if (exception == NULL)
		PyErr_WriteUnraisable((PyObject *)self);
	else
		kl_transport_fail_waiter(self, exception);
	Py_XDECREF(exception);
}

/* Call connection_lost() and let go of the protocol and the server. */
static void call_lost(TransportObject *self)
{
	PyObject *error = self->error;
	PyObject *result = NULL;

	self->lost = true;
	self->lost_done = true;
	self->error = NULL;
	if (self->waiter != NULL)
		fail_waiter(self, error);
	if (self->protocol != NULL && (self->tls == NULL || kl_transport_tls_is_known(self))) {
		result = kl_transport_call(self, self->loop->state->names.connection_lost,
					   error != NULL ? error : Py_None);
		if (result == NULL)
			kl_transport_report(self, "Exception in callback protocol.connection_lost()");
		Py_XDECREF(result);
	}
	Py_XDECREF(error);
	Py_CLEAR(self->protocol);
	Py_CLEAR(self->receive);
	Py_CLEAR(self->updated);
	Py_CLEAR(self->held);
	detach_server(self);
}

static void run_lost(PyObject *owner)
{
	TransportObject *self = (TransportObject *)owner;

	if (!self->lost_done)
		call_lost(self);
	maybe_finish(self);
}

/* connection_lost(error) in the next iteration. 0, or -1 with an error set. */
static int schedule_lost(TransportObject *self, PyObject *error)
{
	self->lost = true;
	self->dropped++;
	if (error != NULL && error != Py_None) {
		Py_INCREF(error);
		Py_XSETREF(self->error, error);
	}
	if (kl_check_closed(self->loop) < 0)
		return -1;
	return kl_call_soon_c(self->loop, run_lost, (PyObject *)self);
}

/* ---- close and abort ------------------------------------------------- */

/* As asyncio's _force_close(): what is queued is dropped. 0, or -1 with an error set. */
static int force_close(TransportObject *self, PyObject *error)
{
	if (self->lost)
		return 0;
	self->closing = true;
	if (self->stream != NULL)
		kloop_stream_abort(self->stream);
	return schedule_lost(self, error);
}

int kl_transport_end_with(TransportObject *self, PyObject *error)
{
	return force_close(self, error);
}

int kl_transport_end_quietly(TransportObject *self)
{
	return force_close(self, NULL);
}

/* 0, or -1 with an error set. */
int kl_transport_close_now(TransportObject *self)
{
	bool empty = kl_transport_write_bytes(self) == 0 && self->file_waiter == NULL;

	if (self->closing)
		return 0;
	if (self->tls != NULL && kl_transport_tls_is_handshaking(self))
		return force_close(self, NULL);
	self->closing = true;
	if (kl_transport_linger(self))
		return 0;
	if (self->stream != NULL)
		kloop_stream_close(self->stream);
	if (self->tls != NULL)
		kl_transport_tls_closing(self);
	/* Otherwise, and with TLS, connection_lost() waits for the stream's end: on_close. */
	if ((empty && self->tls == NULL) || self->stream == NULL)
		return schedule_lost(self, NULL);
	self->dropped++;
	return 0;
}

/* The end of a method: nothing may be done from another thread than the loop's. */
static PyObject *end_from_python(PyObject *op, PyObject *error, bool force)
{
	TransportObject *self = (TransportObject *)op;
	int result;

	if (!kl_on_loop_thread(self->loop))
		result = kl_raise_wrong_thread();
	else
		result = force ? force_close(self, error) : kl_transport_close_now(self);
	if (result < 0)
		return NULL;
	Py_RETURN_NONE;
}

PyObject *kl_transport_close(PyObject *op, PyObject *unused)
{
	(void)unused;
	return end_from_python(op, NULL, false);
}

PyObject *kl_transport_abort(PyObject *op, PyObject *unused)
{
	(void)unused;
	return end_from_python(op, NULL, true);
}

PyObject *kl_transport_force_close(PyObject *op, PyObject *exception)
{
	return end_from_python(op, exception, true);
}

PyObject *kl_transport_is_closing(PyObject *op, PyObject *unused)
{
	(void)unused;
	return PyBool_FromLong(((TransportObject *)op)->closing);
}

/* ---- errors ---------------------------------------------------------- */

void kl_transport_end(TransportObject *self, PyObject *error, const char *message)
{
	kl_report_end(self->loop, (PyObject *)self, self->protocol, error, message);
	if (force_close(self, error) < 0)
		PyErr_WriteUnraisable((PyObject *)self);
}

void kl_transport_fatal(TransportObject *self, const char *message)
{
	PyObject *error = kl_take_fatal(self->loop, (PyObject *)self, message);

	if (error == NULL)
		return;
	kl_transport_end(self, error, message);
	Py_DECREF(error);
}

void kl_transport_broke(TransportObject *self, int error, const char *message)
{
	PyObject *exception;

	if (self->lost)
		return;
	if (self->tls != NULL) {
		kl_transport_tls_error(self, error);
		return;
	}
	exception = kl_os_exception(error);
	if (exception == NULL) {
		kl_transport_fatal(self, "Fatal error on transport");
		return;
	}
	kl_transport_end(self, exception, message);
	Py_DECREF(exception);
}

void kl_transport_on_error(struct kloop_stream *stream, int error, void *user)
{
	TransportObject *self = user;

	(void)stream;
	kl_py_enter(self->loop);
	kl_transport_release_lent(self);
	kl_transport_broke(self, error,
			   error == -EPIPE ? "Fatal write error on socket transport"
					   : "Fatal read error on socket transport");
}

/* ---- the stream's end ------------------------------------------------ */

void kl_transport_on_close(struct kloop_stream *stream, void *user)
{
	TransportObject *self = user;

	(void)stream;
	kl_py_enter(self->loop);
	self->stream = NULL;
	if (self->tls != NULL)
		kl_transport_tls_detach(self);
	kl_transport_release_lent(self);
	if (self->abandoned && !self->lost_done) {
		kl_open_unlink(&self->open);
		return;
	}
	if (self->tls != NULL && self->closing && !self->lost)
		kl_transport_tls_closed(self);
	/* A close that had to send first, or a loop that is freed without a close. */
	if (!self->lost)
		call_lost(self);
	maybe_finish(self);
}

/*
 * The loop closes. Protocols are not called any more; the descriptor stays
 * open until the transport goes, which then warns, as asyncio's does.
 */
void kl_transport_abandon(struct kl_open *open)
{
	TransportObject *self = (TransportObject *)open->owner;

	self->abandoned = true;
	if (self->stream != NULL)
		kloop_stream_abort(self->stream);
	else
		kl_open_unlink(open);
}
