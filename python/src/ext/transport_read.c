/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * From the stream to the protocol: data_received(), get_buffer() and
 * buffer_updated(), eof_received(), pausing.
 *
 * Small reads arrive in the loop's buffers and are copied once, into the bytes
 * object that the protocol gets. Large ones are written by the kernel straight
 * into the bytes object, or into the memory of a BufferedProtocol.
 */
#include "transport.h"

#include <errno.h>
#include <string.h>

/* ---- memory for large reads ------------------------------------------ */

/* The stream has no more claim on the memory that on_alloc gave it. */
void kl_transport_release_lent(TransportObject *self)
{
	PyObject *lent = self->lent;

	self->stale = false;
	self->lent = NULL;
	/* A bytes object that was not filled serves the next large read of any transport. */
	if (lent != NULL && PyBytes_CheckExact(lent) && self->loop->spare_bytes == NULL)
		self->loop->spare_bytes = lent;
	else
		Py_XDECREF(lent);
}

/* get_buffer(hint) as a writable, contiguous view that is not empty, or -1 with an error set. */
static int get_buffer(TransportObject *self, Py_ssize_t hint, PyObject **ret_object,
		      Py_buffer *ret_view)
{
	PyObject *number = PyLong_FromSsize_t(hint);
	PyObject *object = NULL;
	Py_ssize_t length;

	if (number != NULL)
		object = kl_transport_call_method(
			self, self->receive, self->loop->state->names.get_buffer, number);
	Py_XDECREF(number);
	if (object == NULL)
		return -1;
	length = PyObject_Size(object);
	if (length == 0)
		PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
	if (length <= 0 || PyObject_GetBuffer(object, ret_view, PyBUF_WRITABLE) < 0) {
		Py_DECREF(object);
		return -1;
	}
	if (ret_view->len == 0) { /* its elements have no size */
		PyErr_SetString(PyExc_BufferError, "get_buffer() returned a buffer without bytes");
		PyBuffer_Release(ret_view);
		Py_DECREF(object);
		return -1;
	}
	*ret_object = object;
	return 0;
}

static void get_buffer_failed(TransportObject *self)
{
	kl_transport_fatal(self, "Fatal error: protocol.get_buffer() call failed.");
}

static int alloc_buffered(TransportObject *self, void **ret_buffer, size_t *ret_bytes)
{
	PyObject *object;
	Py_buffer view;

	if (get_buffer(self, -1, &object, &view) < 0) {
		get_buffer_failed(self);
		return -ECANCELED;
	}
	/* The memoryview is what pins the memory from here on. */
	self->lent = PyMemoryView_FromObject(object);
	*ret_buffer = view.buf;
	*ret_bytes = (size_t)view.len;
	PyBuffer_Release(&view);
	Py_DECREF(object);
	if (self->lent == NULL) {
		get_buffer_failed(self);
		return -ECANCELED;
	}
	return 0;
}

/*
 * Does the body begin within 16 bytes of a page's begin, where what is received
 * mostly begins? Processors that copy by "rep movsb" then take three times as
 * long (measured: at 16 and 4080; at 32 and 4064 no more).
 */
static bool is_badly_placed(PyObject *object)
{
	uintptr_t offset = (uintptr_t)PyBytes_AS_STRING(object) % 4096;

	return offset < 32 || offset > 4096 - 32;
}

/* A bytes object whose body the kernel fills, which saves a copy. */
static int alloc_bytes(TransportObject *self, size_t suggested, void **ret_buffer,
		       size_t *ret_bytes)
{
	PyObject *object = self->loop->spare_bytes;
	PyObject *other;

	self->loop->spare_bytes = NULL;
	if (self->reader != NULL)
		suggested = kl_streams_suggest(self, suggested);
	/* Too small it would cut the read, and cutting down a large one costs too. */
	if (object != NULL && ((size_t)PyBytes_GET_SIZE(object) < suggested ||
			       (size_t)PyBytes_GET_SIZE(object) / 4 > suggested))
		Py_CLEAR(object);
	if (object == NULL)
		object = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)suggested);
	if (object != NULL && is_badly_placed(object)) {
		/* While this one is there the next lies elsewhere, a header further on. */
		other = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)suggested);
		Py_SETREF(object, other);
	}
	if (object == NULL) {
		PyErr_Clear();
		return -ENOMEM;
	}
	self->lent = object;
	*ret_buffer = PyBytes_AS_STRING(object);
	*ret_bytes = (size_t)PyBytes_GET_SIZE(object);
	return 0;
}

int kl_transport_on_alloc(struct kloop_stream *stream, size_t suggested, void **ret_buffer,
			  size_t *ret_bytes, void *user)
{
	TransportObject *self = user;

	(void)stream;
	kl_py_enter(self->loop);
	kl_transport_release_lent(self);
	if (self->protocol == NULL || self->lost)
		return -ECANCELED;
	if (self->buffered)
		return alloc_buffered(self, ret_buffer, ret_bytes);
	return alloc_bytes(self, suggested, ret_buffer, ret_bytes);
}

/* ---- delivery -------------------------------------------------------- */

/* data_received(object), or what that does of a stream's protocol; steals the reference. */
static void deliver_bytes(TransportObject *self, PyObject *object)
{
	int fed = kl_streams_feed(self, object);
	PyObject *result = NULL;

	if (fed > 0)
		return;
	if (fed == 0) {
		result = kl_transport_call_method(self, self->receive,
						  self->loop->state->names.data_received, object);
		Py_DECREF(object);
	}
	if (result == NULL)
		kl_transport_fatal(self, "Fatal error: protocol.data_received() call failed.");
	else
		Py_DECREF(result);
}

/* buffer_updated(bytes) */
static void deliver_updated(TransportObject *self, size_t bytes)
{
	PyObject *number = PyLong_FromSize_t(bytes);
	PyObject *result = NULL;

	if (number != NULL)
		result = kl_transport_call_method(
			self, self->updated, self->loop->state->names.buffer_updated, number);
	Py_XDECREF(number);
	if (result == NULL) {
		kl_transport_fatal(self, "Fatal error: protocol.buffer_updated() call failed.");
		return;
	}
	Py_DECREF(result);
}

/* Copy as much as the protocol's buffer takes: how much that was, 0 if there is none. */
static size_t deliver_piece(TransportObject *self, const char *data, size_t bytes)
{
	PyObject *object;
	Py_buffer view;

	if (get_buffer(self, (Py_ssize_t)bytes, &object, &view) < 0) {
		get_buffer_failed(self);
		return 0;
	}
	if ((size_t)view.len < bytes)
		bytes = (size_t)view.len;
	memcpy(view.buf, data, bytes);
	PyBuffer_Release(&view);
	Py_DECREF(object);
	if (!self->lost)
		deliver_updated(self, bytes);
	return bytes;
}

static void run_held(PyObject *owner);

/*
 * Keep what the protocol does not take now: until it resumes, or until the next
 * run if KeyboardInterrupt or SystemExit is about to end this one.
 */
static void hold(TransportObject *self, const char *data, size_t bytes)
{
	self->held = PyBytes_FromStringAndSize(data, (Py_ssize_t)bytes);
	if (self->held == NULL) {
		kl_transport_fatal(self, "Fatal read error on socket transport");
		return;
	}
	if (self->paused || self->resuming)
		return;
	if (self->stream != NULL && self->reading)
		(void)kloop_stream_stop_read(self->stream);
	if (kl_call_soon_c(self->loop, run_held, (PyObject *)self) < 0)
		kl_transport_fatal(self, "Fatal read error on socket transport");
	else
		self->resuming = true;
}

/*
 * Hand bytes to whatever protocol is there. A BufferedProtocol may take them
 * in pieces and may pause, close, be replaced or end the run after each; what
 * it did not take then is held.
 */
static void deliver(TransportObject *self, const char *data, size_t bytes)
{
	PyObject *object;
	bool leaving = false;

	while (bytes != 0 && !self->lost && !self->closing && self->protocol != NULL) {
		size_t taken = bytes;

		if (self->paused || leaving) {
			hold(self, data, bytes);
			break;
		}
		if (self->buffered) {
			taken = deliver_piece(self, data, bytes);
			leaving = self->loop->pending_exception != NULL;
		} else {
			object = PyBytes_FromStringAndSize(data, (Py_ssize_t)bytes);
			if (object != NULL)
				deliver_bytes(self, object);
			else
				kl_transport_fatal(self, "Fatal read error on socket transport");
		}
		data += taken;
		bytes -= taken;
	}
}

/* The object whose body was lent is filled: it becomes what the protocol gets. */
static void deliver_lent(TransportObject *self, size_t bytes)
{
	PyObject *object = self->lent;

	self->lent = NULL;
	self->stale = false;
	if (_PyBytes_Resize(&object, (Py_ssize_t)bytes) < 0) {
		kl_transport_fatal(self, "Fatal read error on socket transport");
		return;
	}
	if (!self->buffered && !self->paused) {
		deliver_bytes(self, object);
		return;
	}
	/* The protocol was replaced since. */
	deliver(self, PyBytes_AS_STRING(object), bytes);
	Py_DECREF(object);
}

void kl_transport_on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	TransportObject *self = user;

	(void)stream;
	kl_py_enter(self->loop);
	if (self->lost || self->closing || self->protocol == NULL)
		return;
	if (self->lent != NULL && PyBytes_CheckExact(self->lent)) {
		if (data == PyBytes_AS_STRING(self->lent)) {
			deliver_lent(self, bytes);
			return;
		}
		kl_transport_release_lent(self);
	}
	if (self->lent != NULL && data == PyMemoryView_GET_BUFFER(self->lent)->buf) {
		if (!self->stale) {
			/* Its export ends first: the protocol may want to resize its memory. */
			kl_transport_release_lent(self);
			deliver_updated(self, bytes);
			return;
		}
		/* It was asked for on behalf of another protocol: plain bytes for this one. */
		deliver(self, data, bytes);
		kl_transport_release_lent(self);
		return;
	}
	if (self->lent != NULL)
		kl_transport_release_lent(self);
	deliver(self, data, bytes);
}

static void run_eof(PyObject *owner)
{
	TransportObject *self = (TransportObject *)owner;
	PyObject *result;
	int keep_open = -1;

	if (!self->eof_due || self->paused)
		return;
	self->eof_due = false;
	if (self->lost || self->closing || self->protocol == NULL)
		return;
	kl_transport_debug(self, "received EOF", NULL);
	if (self->tls != NULL)
		kl_transport_tls_note_eof(self);
	result = kl_transport_call(self, self->loop->state->names.eof_received, NULL);
	if (result != NULL) {
		keep_open = PyObject_IsTrue(result);
		Py_DECREF(result);
	}
	if (keep_open < 0) {
		kl_transport_fatal(self, self->tls != NULL
						 ? "Error calling eof_received()"
						 : "Fatal error: protocol.eof_received() call failed.");
		/* What ends the run does not end the transport: nobody hears of this end again. */
		keep_open = 0;
	}
	if (self->tls != NULL)
		kl_transport_tls_eof(self, keep_open != 0);
	else if (keep_open == 0 && kl_transport_close_now(self) < 0)
		kl_transport_fatal(self, "Fatal error on transport");
}

/*
 * What data_received() scheduled runs before eof_received(), as it does where
 * each is read by a select of its own: aiohttp's handler, for one, takes a
 * connection that is lost before its first step for a mistake.
 */
void kl_transport_on_eof(struct kloop_stream *stream, void *user)
{
	TransportObject *self = user;

	(void)stream;
	kl_py_enter(self->loop);
	kl_transport_release_lent(self);
	if (self->lost || self->closing || self->protocol == NULL)
		return;
	self->eof_due = true;
	if (kl_call_soon_c(self->loop, run_eof, (PyObject *)self) < 0)
		kl_transport_fatal(self, "Fatal error on transport");
}

/* ---- pausing --------------------------------------------------------- */

/* 0, or -1 with an error set. A stream that has ended is no error. */
int kl_transport_start_read(TransportObject *self)
{
	int result;

	self->reading = true;
	if (self->stream == NULL || self->closing || self->paused)
		return 0;
	result = kloop_stream_start_read(self->stream);
	if (result < 0 && result != -ESTALE) {
		kl_raise(self->loop->state, result);
		return -1;
	}
	return 0;
}

/* What was held comes before anything new. */
static void run_held(PyObject *owner)
{
	TransportObject *self = (TransportObject *)owner;
	PyObject *held = self->held;

	self->resuming = false;
	if (held == NULL || self->paused)
		return;
	self->held = NULL;
	deliver(self, PyBytes_AS_STRING(held), (size_t)PyBytes_GET_SIZE(held));
	Py_DECREF(held);
	if (self->held == NULL && kl_transport_start_read(self) < 0)
		kl_transport_fatal(self, "Fatal read error on socket transport");
}

PyObject *kl_transport_is_reading(PyObject *op, PyObject *unused)
{
	TransportObject *self = (TransportObject *)op;

	(void)unused;
	return PyBool_FromLong(!self->paused && !self->closing);
}

PyObject *kl_transport_pause_reading(PyObject *op, PyObject *unused)
{
	TransportObject *self = (TransportObject *)op;

	(void)unused;
	if (!kl_on_loop_thread(self->loop) && kl_raise_wrong_thread() < 0)
		return NULL;
	if (self->closing || self->paused)
		Py_RETURN_NONE;
	self->paused = true;
	if (self->stream != NULL && self->reading)
		(void)kloop_stream_stop_read(self->stream);
	kl_transport_debug(self, "pauses reading", NULL);
	Py_RETURN_NONE;
}

PyObject *kl_transport_resume_reading(PyObject *op, PyObject *unused)
{
	TransportObject *self = (TransportObject *)op;

	(void)unused;
	if (!kl_on_loop_thread(self->loop) && kl_raise_wrong_thread() < 0)
		return NULL;
	if (self->closing || !self->paused)
		Py_RETURN_NONE;
	self->paused = false;
	if (self->held != NULL) {
		if (!self->resuming) {
			if (kl_call_soon_c(self->loop, run_held, op) < 0)
				return NULL;
			self->resuming = true;
		}
	} else if (self->eof_due) {
		if (kl_call_soon_c(self->loop, run_eof, op) < 0)
			return NULL;
	} else if (self->reading && kl_transport_start_read(self) < 0) {
		/* Before connection_made() it is that one's end which starts to read. */
		return NULL;
	}
	kl_transport_debug(self, "resumes reading", NULL);
	Py_RETURN_NONE;
}
