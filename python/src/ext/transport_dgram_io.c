/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Datagrams from the socket to the protocol, and from the caller to the socket.
 *
 * sendto() sends at once, as asyncio's does, so that an error is told by
 * error_received() inside of it; what the socket has no room for is queued in
 * the library. Addresses that are not simply numbers go through the socket
 * object, which resolves them and knows the words of every mistake.
 */
#include "transport_dgram.h"

#include <errno.h>
#include <string.h>

/* asyncio's constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES */
#define LOST_WRITES_BEFORE_WARNING 5

/* Datagrams that wait until what was scheduled before them ran. */
#define MOST_PENDING 64

/* asyncio counts the header of each datagram from Python 3.13 on, and sends empty ones. */
#if PY_VERSION_HEX >= 0x030D0000
#define COUNTED_EXTRA_BYTES KLOOP_DATAGRAM_EXTRA_BYTES
#define SENDS_EMPTY true
#else
#define COUNTED_EXTRA_BYTES 0
#define SENDS_EMPTY false
#endif

/* ---- calls ------------------------------------------------------------- */

PyObject *kl_dgram_call(DatagramObject *self, PyObject *method, PyObject *name, PyObject **args,
			size_t count)
{
	PyObject *stack[4] = {NULL, self->protocol};
	PyObject *callee = method != NULL ? method : self->protocol;
	PyObject *protocol = self->protocol;
	uint64_t begin_ns = self->loop->debug ? kloop_now() : 0;
	PyObject *result;

	if (count > 0)
		memcpy(stack + 2, args, count * sizeof(args[0]));
	if (PyContext_Enter(self->context) < 0)
		return NULL;
	Py_INCREF(callee); /* the call may replace it */
	Py_XINCREF(protocol);
	if (method != NULL)
		result = PyObject_Vectorcall(method, stack + 2,
					     count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
	else
		result = PyObject_VectorcallMethod(
			name, stack + 1, (count + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
	if (PyContext_Exit(self->context) < 0)
		Py_CLEAR(result);
	if (begin_ns != 0 && protocol != NULL)
		kl_log_if_slow(self->loop, protocol, name, begin_ns);
	Py_DECREF(callee);
	Py_XDECREF(protocol);
	return result;
}

/* ---- receiving --------------------------------------------------------- */

/* The sender as Python shows it: that of the datagram before, if it is the same. New. */
static PyObject *to_sender(DatagramObject *self, const struct kloop_address *from)
{
	struct kloop_address *last = &self->sender_address;

	if (self->sender == NULL || last->length != from->length ||
	    memcmp(&last->u, &from->u, from->length) != 0) {
		PyObject *sender = kl_address_to_python(from);

		if (sender == NULL)
			return NULL;
		last->length = from->length;
		memcpy(&last->u, &from->u, from->length);
		Py_XSETREF(self->sender, sender);
	}
	return Py_NewRef(self->sender);
}

/* Call the protocol: item is (data, sender) or an exception. */
static void deliver(DatagramObject *self, PyObject *item)
{
	struct kl_state *state = self->loop->state;
	PyObject *args[2] = {item, NULL}, *result;

	if (PyTuple_CheckExact(item)) {
		args[0] = PyTuple_GET_ITEM(item, 0);
		args[1] = PyTuple_GET_ITEM(item, 1);
		result = kl_dgram_call(self, self->receive, state->names.datagram_received, args, 2);
		if (result == NULL)
			kl_dgram_report(self, "Exception in callback protocol.datagram_received()");
	} else {
		result = kl_dgram_call(self, NULL, state->names.error_received, args, 1);
		if (result == NULL)
			kl_dgram_report(self, "Exception in callback protocol.error_received()");
	}
	Py_XDECREF(result);
}

static void run_pending(PyObject *owner);

static void schedule(DatagramObject *self)
{
	if (self->due)
		return;
	self->due = kl_call_soon_c(self->loop, run_pending, (PyObject *)self) == 0;
	if (!self->due)
		kl_dgram_fatal(self, "Fatal read error on datagram transport");
}

/* Deliver until a callback schedules something, which comes before the next datagram. */
static void run_pending(PyObject *owner)
{
	DatagramObject *self = (DatagramObject *)owner;
	size_t ready = self->loop->ready_count;
	PyObject *item;

	self->due = false;
	while (self->pending != NULL && PyList_GET_SIZE(self->pending) > 0 && !self->lost &&
	       !self->closing && !self->paused && self->protocol != NULL) {
		if (self->loop->ready_count != ready || self->loop->pending_exception != NULL) {
			schedule(self);
			return;
		}
		item = Py_NewRef(PyList_GET_ITEM(self->pending, 0));
		if (PyList_SetSlice(self->pending, 0, 1, NULL) < 0)
			PyErr_WriteUnraisable(owner);
		deliver(self, item);
		Py_DECREF(item);
	}
	/* Also if the last one paused: resume_reading() then finds nothing to schedule. */
	if (self->full && !self->lost &&
	    (self->pending == NULL || PyList_GET_SIZE(self->pending) == 0)) {
		self->full = false;
		if (kl_dgram_start_read(self) < 0)
			kl_dgram_fatal(self, "Fatal read error on datagram transport");
	}
}

/*
 * What was scheduled before a datagram came runs before it is delivered, as
 * with asyncio. Mostly nothing was. Steals the item.
 */
static void deliver_in_turn(DatagramObject *self, PyObject *item)
{
	bool waits = self->pending != NULL && PyList_GET_SIZE(self->pending) > 0;

	if (item != NULL && !waits && self->loop->ready_count == 0) {
		deliver(self, item);
		Py_DECREF(item);
		return;
	}
	if (item != NULL && self->pending == NULL)
		self->pending = PyList_New(0);
	if (item == NULL || self->pending == NULL || PyList_Append(self->pending, item) < 0) {
		Py_XDECREF(item);
		kl_dgram_fatal(self, "Fatal read error on datagram transport");
		return;
	}
	Py_DECREF(item);
	/* The rest stays in the socket, which drops what it has no room for. */
	if (PyList_GET_SIZE(self->pending) >= MOST_PENDING && !self->full &&
	    self->datagram != NULL) {
		self->full = true;
		(void)kloop_datagram_stop_read(self->datagram);
	}
	schedule(self);
}

void kl_dgram_on_datagram(struct kloop_datagram *datagram, const void *data, size_t bytes,
			  const struct kloop_address *from, unsigned flags, void *user)
{
	DatagramObject *self = user;
	PyObject *item, *object, *sender;

	(void)datagram;
	(void)flags; /* asyncio does not tell of what was cut either */
	kl_py_enter(self->loop);
	if (self->lost || self->closing || self->protocol == NULL)
		return;
	object = PyBytes_FromStringAndSize(data, (Py_ssize_t)bytes);
	sender = object != NULL ? to_sender(self, from) : NULL;
	item = sender != NULL ? PyTuple_Pack(2, object, sender) : NULL;
	Py_XDECREF(object);
	Py_XDECREF(sender);
	deliver_in_turn(self, item);
}

void kl_dgram_on_error(struct kloop_datagram *datagram, int error,
		       const struct kloop_address *peer, void *user)
{
	DatagramObject *self = user;
	PyObject *exception;

	(void)datagram;
	(void)peer;
	kl_py_enter(self->loop);
	if (self->lost || self->protocol == NULL)
		return;
	exception = kl_os_exception(error);
	/* While it closes, nothing pending is delivered any more. */
	if (exception != NULL && self->closing) {
		deliver(self, exception);
		Py_DECREF(exception);
		return;
	}
	deliver_in_turn(self, exception);
}

int kl_dgram_start_read(DatagramObject *self)
{
	int result;

	self->reading = true;
	if (self->datagram == NULL || self->closing || self->paused)
		return 0;
	result = kloop_datagram_start_read(self->datagram);
	if (result < 0 && result != -ESTALE) {
		kl_raise(self->loop->state, result);
		return -1;
	}
	return 0;
}

PyObject *kl_dgram_is_reading(PyObject *op, PyObject *unused)
{
	DatagramObject *self = (DatagramObject *)op;

	(void)unused;
	return PyBool_FromLong(!self->paused && !self->closing);
}

PyObject *kl_dgram_pause_reading(PyObject *op, PyObject *unused)
{
	DatagramObject *self = (DatagramObject *)op;

	(void)unused;
	if (!kl_on_loop_thread(self->loop) && kl_raise_wrong_thread() < 0)
		return NULL;
	if (self->closing || self->paused)
		Py_RETURN_NONE;
	self->paused = true;
	if (self->datagram != NULL)
		(void)kloop_datagram_stop_read(self->datagram);
	kl_debug(self->loop, op, "debug", "pauses reading", NULL);
	Py_RETURN_NONE;
}

PyObject *kl_dgram_resume_reading(PyObject *op, PyObject *unused)
{
	DatagramObject *self = (DatagramObject *)op;

	(void)unused;
	if (!kl_on_loop_thread(self->loop) && kl_raise_wrong_thread() < 0)
		return NULL;
	if (self->closing || !self->paused)
		Py_RETURN_NONE;
	self->paused = false;
	if (self->pending != NULL && PyList_GET_SIZE(self->pending) > 0)
		schedule(self);
	/* Before connection_made() it is that one's end which starts to receive. */
	if (self->reading && !self->full && kl_dgram_start_read(self) < 0)
		return NULL;
	kl_debug(self->loop, op, "debug", "resumes reading", NULL);
	Py_RETURN_NONE;
}

/* ---- flow control ------------------------------------------------------ */

size_t kl_dgram_write_bytes(const DatagramObject *self)
{
	if (self->datagram == NULL)
		return 0;
	return kloop_datagram_get_send_bytes(self->datagram) -
	       (KLOOP_DATAGRAM_EXTRA_BYTES - COUNTED_EXTRA_BYTES) *
		       kloop_datagram_get_send_count(self->datagram);
}

/* 0, or -1 with KeyboardInterrupt or SystemExit set. */
static int maybe_pause(DatagramObject *self)
{
	PyObject *protocol = self->protocol;
	PyObject *result;

	if (self->write_paused || kl_dgram_write_bytes(self) <= self->high_bytes ||
	    protocol == NULL)
		return 0;
	self->write_paused = true;
	Py_INCREF(protocol);
	result = PyObject_CallMethodNoArgs(protocol, self->loop->state->names.pause_writing);
	Py_DECREF(protocol);
	Py_XDECREF(result);
	if (result == NULL && kl_exception_is_exit())
		return -1;
	if (result == NULL)
		kl_dgram_report(self, "protocol.pause_writing() failed");
	return 0;
}

void kl_dgram_on_drain(struct kloop_datagram *datagram, void *user)
{
	DatagramObject *self = user;
	PyObject *result;

	(void)datagram;
	if (!self->write_paused)
		return;
	kl_py_enter(self->loop);
	self->write_paused = false;
	if (self->protocol == NULL || self->lost)
		return;
	result = kl_dgram_call(self, NULL, self->loop->state->names.resume_writing, NULL, 0);
	if (result == NULL)
		kl_dgram_report(self, "protocol.resume_writing() failed");
	Py_XDECREF(result);
}

PyObject *kl_dgram_set_write_buffer_limits(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
					   PyObject *kwnames)
{
	DatagramObject *self = (DatagramObject *)op;
	Py_ssize_t high, low;

	if (kl_limits_unpack(args, nargs, kwnames, &high, &low) < 0 ||
	    kl_limits_settle(high, low, 64 * 1024, &self->high_bytes, &self->low_bytes) < 0)
		return NULL;
	if (self->datagram != NULL && kloop_datagram_set_send_marks(self->datagram, self->low_bytes,
								    self->high_bytes) < 0) {
		PyErr_SetString(PyExc_RuntimeError, "the socket refused its water marks");
		return NULL;
	}
	if (maybe_pause(self) < 0)
		return NULL;
	Py_RETURN_NONE;
}

/* ---- sending ----------------------------------------------------------- */

/* The exception that is set is error_received()'s if it is an OSError. 0, or -1 with one set. */
static int tell_error(DatagramObject *self)
{
	PyObject *error, *protocol, *result;

	if (!PyErr_ExceptionMatches(PyExc_OSError) || self->protocol == NULL) {
		if (kl_exception_is_exit())
			return -1;
		kl_dgram_fatal(self, "Fatal write error on datagram transport");
		return 0;
	}
	error = kl_exception_take();
	protocol = Py_NewRef(self->protocol);
	result = PyObject_CallMethodOneArg(protocol, self->loop->state->names.error_received, error);
	Py_DECREF(protocol);
	Py_DECREF(error);
	Py_XDECREF(result);
	return result != NULL ? 0 : -1;
}

/* Nobody is there to send to: count, and warn when the caller does not notice. */
static int drop(DatagramObject *self)
{
	if (self->dropped < LOST_WRITES_BEFORE_WARNING)
		self->dropped++;
	else
		kl_transport_log("warning", "socket.send() raised exception.");
	return 0;
}

/* What the library answered to a send. 0, or -1 with an error set. */
static int settle(DatagramObject *self, int code)
{
	switch (code) {
	case -ESTALE:
		return drop(self);
	case -ECHILD:
	case -ENOMEM:
		kl_raise(self->loop->state, code);
		return -1;
	default:
		errno = -code;
		PyErr_SetFromErrno(PyExc_OSError);
		return tell_error(self);
	}
}

/* Queue it behind the others. 0, or -1 with an error set. */
static int queue(DatagramObject *self, const Py_buffer *view, const struct kloop_address *peer)
{
	int code = kloop_datagram_send(self->datagram, view->buf, (size_t)view->len, peer);

	return code < 0 ? settle(self, code) : maybe_pause(self);
}

static int send_or_queue(DatagramObject *self, const Py_buffer *view,
			 const struct kloop_address *peer)
{
	int code = kloop_datagram_try_send(self->datagram, view->buf, (size_t)view->len, peer);

	if (code < 0)
		return settle(self, code);
	return code > 0 ? 0 : queue(self, view, peer);
}

/* Resolve an address by the socket module, and queue. 0, or -1 with an error set. */
static int resolve_and_queue(DatagramObject *self, const Py_buffer *view, PyObject *address)
{
	PyObject *resolved = PyObject_CallMethod((PyObject *)self->loop, "_resolve_datagram_address",
						 "OO", self->sock, address);
	struct kloop_address peer;
	bool simple;

	if (resolved == NULL)
		return tell_error(self);
	simple = kl_address_from_python(self->family, resolved, &peer);
	Py_DECREF(resolved);
	if (!simple) {
		PyErr_Format(PyExc_TypeError, "cannot send to the address %R", address);
		return tell_error(self);
	}
	/* Calls of Python may have ended it. */
	return self->datagram != NULL ? queue(self, view, &peer) : drop(self);
}

/* An address that is not simply numbers, or a transport that closes: sock.sendto(). */
static int send_by_socket(DatagramObject *self, PyObject *data, const Py_buffer *view,
			  PyObject *address)
{
	PyObject *result;

	if (self->fd_closed || self->lost_done)
		return drop(self);
	if (self->datagram != NULL && !self->closing &&
	    kloop_datagram_get_send_count(self->datagram) > 0)
		return resolve_and_queue(self, view, address);
	result = PyObject_CallMethodObjArgs(self->sock, self->loop->state->names.sendto, data,
					    address, NULL);
	if (result != NULL) {
		Py_DECREF(result);
		return 0;
	}
	if (!PyErr_ExceptionMatches(PyExc_BlockingIOError) &&
	    !PyErr_ExceptionMatches(PyExc_InterruptedError))
		return tell_error(self);
	PyErr_Clear();
	if (self->datagram == NULL || self->closing)
		return drop(self);
	return resolve_and_queue(self, view, address);
}

static int send_to(DatagramObject *self, PyObject *data, const Py_buffer *view, PyObject *address)
{
	struct kloop_address peer;

	if (self->datagram == NULL || self->closing)
		return self->connected ? drop(self) : send_by_socket(self, data, view, address);
	if (self->connected)
		return send_or_queue(self, view, NULL);
	if (address == self->sender && address != Py_None)
		return send_or_queue(self, view, &self->sender_address);
	if (kl_address_from_python(self->family, address, &peer))
		return send_or_queue(self, view, &peer);
	return send_by_socket(self, data, view, address);
}

/* remote_addr allows one address only: borrowed, or NULL with ValueError. */
static PyObject *check_address(DatagramObject *self, PyObject *address)
{
	int same = 1;

	if (self->address == NULL)
		return address;
	if (address != Py_None)
		same = PyObject_RichCompareBool(address, self->address, Py_EQ);
	if (same == 0)
		PyErr_Format(PyExc_ValueError, "Invalid address: must be None or %S",
			     self->address);
	return same > 0 ? self->address : NULL;
}

static bool is_bytes_like(PyObject *data)
{
	return PyBytes_Check(data) || PyByteArray_Check(data) || PyMemoryView_Check(data);
}

PyObject *kl_dgram_sendto(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
	static const struct kl_signature signature = {"sendto", 1, 2, 2, {"data", "addr"}};
	DatagramObject *self = (DatagramObject *)op;
	PyObject *values[2], *address;
	Py_buffer view;
	int result = 0;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	if (!is_bytes_like(values[0])) {
		PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(values[0]), "__name__");

		if (name != NULL)
			PyErr_Format(PyExc_TypeError,
				     "data argument must be a bytes-like object, not %R", name);
		Py_XDECREF(name);
		return NULL;
	}
	if (!kl_on_loop_thread(self->loop) && kl_raise_wrong_thread() < 0)
		return NULL;
	if (PyObject_GetBuffer(values[0], &view, PyBUF_SIMPLE) < 0)
		return NULL;
	if (view.len > 0 || SENDS_EMPTY) {
		address = check_address(self, values[1] != NULL ? values[1] : Py_None);
		if (address == NULL)
			result = -1;
		else if (self->lost && self->address != NULL)
			result = drop(self);
		else
			result = send_to(self, values[0], &view, address);
	}
	PyBuffer_Release(&view);
	if (result < 0)
		return NULL;
	Py_RETURN_NONE;
}
