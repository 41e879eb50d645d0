/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * From the caller to the stream, and flow control.
 *
 * What is written during one iteration leaves as one send at the start of the
 * next turn. A large message goes to the socket at once, as far as the socket
 * takes it: no memory is held then, and a protocol is not paused for data that
 * is gone already. One of some KiB does so if it is the first of the iteration:
 * it is in the caches still, and its memory serves the next one. A bytes object
 * is lent to the kernel rather than copied; memory that the caller may change is
 * copied.
 */
#include "transport.h"

#include <errno.h>

/* Up to this size copying costs less than keeping the object and dropping it later. */
#define COPY_MAX_BYTES 256

/* From this size a message with nothing before it is sent at once. */
#define SEND_NOW_BYTES (64 * 1024)

/* From this size the first of an iteration is. More of them wait for each other: one send for all. */
#define SEND_FIRST_BYTES (4 * 1024)

/* asyncio's constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES */
#define LOST_WRITES_BEFORE_WARNING 5

size_t kl_transport_write_bytes(const TransportObject *self)
{
	return self->stream != NULL ? kloop_stream_get_write_bytes(self->stream) : 0;
}

/* A write was completed, failed or given up: runs without the GIL perhaps. */
static void release_bytes(void *owner, int status, void *user)
{
	TransportObject *self = user;

	(void)status;
	kl_drop_later(self->loop, owner);
}

int kl_transport_lend(TransportObject *self, PyObject *bytes)
{
	return kloop_stream_write(self->stream, PyBytes_AS_STRING(bytes),
				  (size_t)PyBytes_GET_SIZE(bytes), release_bytes, bytes);
}

/* ---- flow control ---------------------------------------------------- */

/*
 * The result of pause_writing() or resume_writing(). 0, or -1 with the one
 * kind of exception set that is not the handler's business.
 */
static int check_flow_call(TransportObject *self, PyObject *result, const char *message)
{
	if (result != NULL) {
		Py_DECREF(result);
		return 0;
	}
	if (kl_exception_is_exit())
		return -1;
	kl_transport_report(self, message);
	return 0;
}

/* 0, or -1 with KeyboardInterrupt or SystemExit set. */
static int maybe_pause(TransportObject *self)
{
	PyObject *protocol = self->protocol;
	PyObject *result;

	if (self->write_paused || kl_transport_write_bytes(self) <= self->high_bytes ||
	    protocol == NULL)
		return 0;
	self->write_paused = true;
	Py_INCREF(protocol);
	result = PyObject_CallMethodNoArgs(protocol, self->loop->state->names.pause_writing);
	Py_DECREF(protocol);
	return check_flow_call(self, result, "protocol.pause_writing() failed");
}

static void resume_writing(TransportObject *self)
{
	PyObject *result;

	kl_py_enter(self->loop);
	self->write_paused = false;
	if (self->protocol == NULL || self->lost)
		return;
	result = kl_transport_call(self, self->loop->state->names.resume_writing, NULL);
	if (check_flow_call(self, result, "protocol.resume_writing() failed") < 0)
		kl_transport_fatal(self, "protocol.resume_writing() failed");
}

void kl_transport_on_drain(struct kloop_stream *stream, void *user)
{
	TransportObject *self = user;

	if (self->write_paused)
		resume_writing(self);
	/* What the protocol has written just now goes first. */
	if (self->lingering && kloop_stream_get_write_bytes(stream) == 0) {
		self->lingering = false;
		kloop_stream_close(stream);
	}
}

/*
 * After close() asyncio goes on to take what is written while the socket has
 * not taken all that was written before. What waits here for the end of the
 * iteration only would be gone there, and then it takes nothing.
 */
bool kl_transport_linger(TransportObject *self)
{
	if (self->tls != NULL || self->pipe || self->eof || self->stream == NULL ||
	    self->file_waiter != NULL || kl_transport_write_bytes(self) == 0 ||
	    !(self->full || self->loop->turns - self->queued_turn > 1) ||
	    kloop_stream_stop_read(self->stream) < 0 ||
	    kloop_stream_set_write_marks(self->stream, 0, 0) < 0)
		return false;
	self->lingering = true;
	return true;
}

PyObject *kl_transport_get_write_buffer_size(PyObject *op, PyObject *unused)
{
	(void)unused;
	return PyLong_FromSize_t(kl_transport_write_bytes((TransportObject *)op));
}

PyObject *kl_transport_get_write_buffer_limits(PyObject *op, PyObject *unused)
{
	TransportObject *self = (TransportObject *)op;

	(void)unused;
	return Py_BuildValue("(nn)", (Py_ssize_t)self->low_bytes, (Py_ssize_t)self->high_bytes);
}

/* A limit as a number; absent or None is the default. 0, or -1 with an error set. */
static int limit_argument(PyObject *value, Py_ssize_t *ret_bytes)
{
	PyObject *whole;

	*ret_bytes = KL_DEFAULT_LIMIT;
	if (value == NULL || value == Py_None)
		return 0;
	/* asyncio compares whatever number it is given: 1e6, or half of another limit. */
	whole = PyFloat_Check(value) ? PyNumber_Long(value) : Py_NewRef(value);
	if (whole == NULL)
		return -1;
	*ret_bytes = PyNumber_AsSsize_t(whole, NULL);
	Py_DECREF(whole);
	return *ret_bytes == -1 && PyErr_Occurred() ? -1 : 0;
}

/* asyncio lets more wait where it encrypts, from Python 3.11 on. */
static Py_ssize_t default_high(const TransportObject *self)
{
#if PY_VERSION_HEX >= 0x030B0000
	if (self->tls != NULL)
		return 512 * 1024;
#else
	(void)self;
#endif
	return 64 * 1024;
}

int kl_limits_settle(Py_ssize_t high, Py_ssize_t low, Py_ssize_t default_bytes, size_t *ret_high,
		     size_t *ret_low)
{
	bool has_low = low != KL_DEFAULT_LIMIT;

	if (high == KL_DEFAULT_LIMIT && !has_low)
		high = default_bytes;
	else if (high == KL_DEFAULT_LIMIT)
		high = low > PY_SSIZE_T_MAX / 4 ? PY_SSIZE_T_MAX : 4 * low;
	if (!has_low)
		low = high / 4;
	if (!(high >= low && low >= 0)) {
		PyErr_Format(PyExc_ValueError, "high (%zd) must be >= low (%zd) must be >= 0",
			     high, low);
		return -1;
	}
	*ret_high = (size_t)high;
	*ret_low = (size_t)low;
	return 0;
}

int kl_transport_set_limits(TransportObject *self, Py_ssize_t high, Py_ssize_t low)
{
	if (kl_limits_settle(high, low, default_high(self), &self->high_bytes,
			     &self->low_bytes) < 0)
		return -1;
	if (self->stream != NULL && !self->lingering &&
	    kloop_stream_set_write_marks(self->stream, self->low_bytes, self->high_bytes) < 0) {
		PyErr_SetString(PyExc_RuntimeError, "the stream refused its water marks");
		return -1;
	}
	return maybe_pause(self);
}

int kl_limits_unpack(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
		     Py_ssize_t *ret_high, Py_ssize_t *ret_low)
{
	static const struct kl_signature signature = {
		"set_write_buffer_limits", 0, 2, 2, {"high", "low"}};
	PyObject *values[2];

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0 ||
	    limit_argument(values[0], ret_high) < 0 || limit_argument(values[1], ret_low) < 0)
		return -1;
	return 0;
}

PyObject *kl_transport_set_write_buffer_limits(PyObject *op, PyObject *const *args,
					       Py_ssize_t nargs, PyObject *kwnames)
{
	Py_ssize_t high, low;

	if (kl_limits_unpack(args, nargs, kwnames, &high, &low) < 0 ||
	    kl_transport_set_limits((TransportObject *)op, high, low) < 0)
		return NULL;
	Py_RETURN_NONE;
}

/* ---- writing --------------------------------------------------------- */

/* A write that goes nowhere: count, and warn when the caller does not notice. */
static int drop_write(TransportObject *self)
{
	PyObject *module, *logger, *result;

	if (self->dropped < LOST_WRITES_BEFORE_WARNING) {
		self->dropped++;
		return 0;
	}
	module = PyImport_ImportModule("asyncio.log");
	logger = module != NULL ? PyObject_GetAttrString(module, "logger") : NULL;
	result = logger != NULL
			 ? PyObject_CallMethod(logger, "warning", "s",
					       self->pipe ? "pipe closed by peer or os.write(pipe, "
							    "data) raised exception."
							  : "socket.send() raised exception.")
			 : NULL;
	Py_XDECREF(module);
	Py_XDECREF(logger);
	Py_XDECREF(result);
	return result != NULL ? 0 : -1;
}

/* The stream took nothing: 0, or -1 with an error set where the caller must know at once. */
static int refused(TransportObject *self, int error)
{
	switch (error) {
	case -ESTALE:
		return drop_write(self);
	case -EPERM:
		return kl_raise_wrong_thread();
	case -ENOMEM:
	case -EINVAL:
	case -ECHILD:
		kl_raise(self->loop->state, error);
		return -1;
	default:
		/*
		 * The connection broke. From here on the transport is closing, as with asyncio,
		 * so that a caller which only writes and drains is given a turn, and its end.
		 */
		if (self->pipe)
			kl_pipe_write_failed(self, error);
		else
			kl_transport_broke(self, error, "Fatal write error on socket transport");
		return 0;
	}
}

/* Is it better sent now than with what else is written in this iteration? */
static bool sends_now(TransportObject *self, size_t bytes)
{
	/* A pipe is written to in the call, as by asyncio: who reads it may not be asynchronous. */
	if (bytes >= SEND_NOW_BYTES || bytes > self->high_bytes || self->pipe)
		return true;
	if (bytes < SEND_FIRST_BYTES || self->sent_turn == self->loop->turns)
		return false;
	self->sent_turn = self->loop->turns;
	return true;
}

/*
 * Queue bytes. owner: a bytes object that holds them and can be lent, or NULL
 * to have them copied. 0, or -1 with an error set; a broken connection is no
 * error here, connection_lost() tells about it.
 */
static int queue(TransportObject *self, const char *data, size_t bytes, PyObject *owner)
{
	struct kloop_stream *stream = self->stream;
	bool now;
	int result;

	if (bytes == 0)
		return 0;
	if ((self->closing && !self->lingering) || stream == NULL)
		return drop_write(self);
	now = sends_now(self, bytes);
	if (now) {
		ptrdiff_t taken = kloop_stream_try_write(stream, data, bytes);

		if (taken < 0)
			return refused(self, (int)taken);
		data += taken;
		bytes -= (size_t)taken;
		if (bytes == 0)
			return 0;
	}
	if (kloop_stream_get_write_bytes(stream) == 0) {
		self->queued_turn = self->loop->turns;
		self->full = now;
	}
	if (owner != NULL && bytes > COPY_MAX_BYTES) {
		result = kloop_stream_write(stream, data, bytes, release_bytes, owner);
		if (result == 0)
			Py_INCREF(owner);
	} else {
		result = kloop_stream_write(stream, data, bytes, NULL, NULL);
	}
	return result < 0 ? refused(self, result) : 0;
}

/* Queue any bytes-like object. 0, or -1 with an error set. */
static int queue_object(TransportObject *self, PyObject *data)
{
	Py_buffer view;
	int result;

	if (PyBytes_CheckExact(data))
		return queue(self, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), data);
	if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
		return -1;
	result = queue(self, view.buf, (size_t)view.len, NULL);
	PyBuffer_Release(&view);
	return result;
}

static bool is_bytes_like(PyObject *data)
{
	return PyBytes_Check(data) || PyByteArray_Check(data) || PyMemoryView_Check(data);
}

PyObject *kl_transport_write(PyObject *op, PyObject *data)
{
	TransportObject *self = (TransportObject *)op;

	if (!is_bytes_like(data)) {
		PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(data), "__name__");

		if (name != NULL)
			PyErr_Format(PyExc_TypeError,
				     "data argument must be a bytes-like object, not %R", name);
		Py_XDECREF(name);
		return NULL;
	}
	if (self->eof) {
		PyErr_SetString(PyExc_RuntimeError, "Cannot call write() after write_eof()");
		return NULL;
	}
	if (kl_transport_check_file(self) < 0 || queue_object(self, data) < 0 || maybe_pause(self) < 0)
		return NULL;
	Py_RETURN_NONE;
}

PyObject *kl_transport_writelines(PyObject *op, PyObject *list)
{
	TransportObject *self = (TransportObject *)op;
	PyObject *items;
	Py_ssize_t i;

	if (self->eof) {
#if PY_VERSION_HEX >= 0x030C0000
		PyErr_SetString(PyExc_RuntimeError, "Cannot call writelines() after write_eof()");
#else
		PyErr_SetString(PyExc_RuntimeError, "Cannot call write() after write_eof()");
#endif
		return NULL;
	}
	if (kl_transport_check_file(self) < 0)
		return NULL;
	items = PySequence_Tuple(list);
	if (items == NULL)
		return NULL;
	/* All or nothing: look at every item before the first one is queued. */
	for (i = 0; i < PyTuple_GET_SIZE(items); i++) {
		PyObject *item = PyTuple_GET_ITEM(items, i);

		if (!PyObject_CheckBuffer(item)) {
			PyErr_Format(PyExc_TypeError,
				     "sequence item %zd: expected a bytes-like object, %.80s found",
				     i, Py_TYPE(item)->tp_name);
			Py_DECREF(items);
			return NULL;
		}
	}
	/* They belong together. */
	self->sent_turn = self->loop->turns;
	for (i = 0; i < PyTuple_GET_SIZE(items); i++) {
		if (queue_object(self, PyTuple_GET_ITEM(items, i)) < 0) {
			Py_DECREF(items);
			return NULL;
		}
	}
	Py_DECREF(items);
	if (maybe_pause(self) < 0)
		return NULL;
	Py_RETURN_NONE;
}

PyObject *kl_transport_write_eof(PyObject *op, PyObject *unused)
{
	TransportObject *self = (TransportObject *)op;
	int result;

	(void)unused;
	/* asyncio's has none: the close_notify of one direction is what many peers cannot bear. */
	if (self->tls != NULL) {
		PyErr_SetNone(PyExc_NotImplementedError);
		return NULL;
	}
	if (self->closing || self->eof)
		Py_RETURN_NONE;
	self->eof = true;
	result = self->stream != NULL ? kloop_stream_shutdown(self->stream) : 0;
	if (result < 0 && result != -ESTALE)
		return kl_raise(self->loop->state, result);
	Py_RETURN_NONE;
}

PyObject *kl_transport_can_write_eof(PyObject *op, PyObject *unused)
{
	(void)unused;
	return PyBool_FromLong(((TransportObject *)op)->tls == NULL);
}
