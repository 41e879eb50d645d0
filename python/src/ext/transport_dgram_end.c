/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The end of a datagram transport, with the same two independent ends as that
 * of a stream transport (transport_close.c): connection_lost(), and the moment
 * when the kernel has let go of the socket.
 */
#include "transport_dgram.h"

void kl_dgram_close_fd(DatagramObject *self)
{
	if (self->fd_closed)
		return;
	self->fd_closed = true;
	kl_close_sock(self->loop, self->sock);
}

/* Both ends are reached: the object may go. */
static void maybe_finish(DatagramObject *self)
{
	if (!self->lost_done || self->datagram != NULL || self->open.link == NULL)
		return;
	kl_dgram_close_fd(self);
	kl_open_unlink(&self->open); /* may free self */
}

/* ---- connection_lost() ------------------------------------------------- */

static void call_lost(DatagramObject *self)
{
	PyObject *error = self->error != NULL ? self->error : Py_NewRef(Py_None);
	PyObject *result;

	self->lost = true;
	self->lost_done = true;
	self->error = NULL;
	if (self->protocol != NULL) {
		result = kl_dgram_call(self, NULL, self->loop->state->names.connection_lost, &error, 1);
		if (result == NULL)
			kl_dgram_report(self, "Exception in callback protocol.connection_lost()");
		Py_XDECREF(result);
	}
	Py_DECREF(error);
	Py_CLEAR(self->protocol);
	Py_CLEAR(self->receive);
	Py_CLEAR(self->sender);
	Py_CLEAR(self->pending);
}

static void run_lost(PyObject *owner)
{
	DatagramObject *self = (DatagramObject *)owner;

	if (!self->lost_done)
		call_lost(self);
	maybe_finish(self);
}

/* connection_lost(error) in the next iteration. 0, or -1 with an error set. */
static int schedule_lost(DatagramObject *self, PyObject *error)
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

/* ---- close and abort --------------------------------------------------- */

/* As asyncio's _force_close(): what is queued is dropped. 0, or -1 with an error set. */
static int force_close(DatagramObject *self, PyObject *error)
{
	if (self->lost)
		return 0;
	self->closing = true;
	if (self->datagram != NULL)
		kloop_datagram_abort(self->datagram);
	return schedule_lost(self, error);
}

static int close_now(DatagramObject *self)
{
	bool empty = self->datagram == NULL || kloop_datagram_get_send_count(self->datagram) == 0;

	if (self->closing)
		return 0;
	self->closing = true;
	if (self->datagram != NULL)
		kloop_datagram_close(self->datagram);
	/* Otherwise connection_lost() waits until all is sent: on_close. */
	return empty ? schedule_lost(self, NULL) : 0;
}

static PyObject *end_from_python(PyObject *op, PyObject *error, bool force)
{
	DatagramObject *self = (DatagramObject *)op;
	int result;

	if (!kl_on_loop_thread(self->loop))
		result = kl_raise_wrong_thread();
	else
		result = force ? force_close(self, error) : close_now(self);
	if (result < 0)
		return NULL;
	Py_RETURN_NONE;
}

PyObject *kl_dgram_close(PyObject *op, PyObject *unused)
{
	(void)unused;
	return end_from_python(op, NULL, false);
}

PyObject *kl_dgram_abort(PyObject *op, PyObject *unused)
{
	(void)unused;
	return end_from_python(op, NULL, true);
}

PyObject *kl_dgram_force_close(PyObject *op, PyObject *error)
{
	return end_from_python(op, error, true);
}

PyObject *kl_dgram_is_closing(PyObject *op, PyObject *unused)
{
	(void)unused;
	return PyBool_FromLong(((DatagramObject *)op)->closing);
}

/* ---- errors ------------------------------------------------------------ */

void kl_dgram_fatal(DatagramObject *self, const char *message)
{
	PyObject *error = kl_take_fatal(self->loop, (PyObject *)self, message);

	if (error == NULL)
		return;
	kl_report_end(self->loop, (PyObject *)self, self->protocol, error, message);
	if (force_close(self, error) < 0)
		PyErr_WriteUnraisable((PyObject *)self);
	Py_DECREF(error);
}

/* ---- the socket's end -------------------------------------------------- */

void kl_dgram_on_close(struct kloop_datagram *datagram, void *user)
{
	DatagramObject *self = user;

	(void)datagram;
	kl_py_enter(self->loop);
	self->datagram = NULL;
	if (self->abandoned && !self->lost_done) {
		kl_open_unlink(&self->open);
		return;
	}
	/* A close that had to send first, or a loop that is freed without a close. */
	if (!self->lost)
		call_lost(self);
	maybe_finish(self);
}

/* The loop closes: as kl_transport_abandon(). */
void kl_dgram_abandon(struct kl_open *open)
{
	DatagramObject *self = (DatagramObject *)open->owner;

	self->abandoned = true;
	if (self->datagram != NULL)
		kloop_datagram_abort(self->datagram);
	else
		kl_open_unlink(open);
}
