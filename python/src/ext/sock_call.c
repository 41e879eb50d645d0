/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The system calls of sock_*(). recv, recv_into and sendall are made here,
 * unless a subclass of Python's socket has methods of its own for them; the
 * others, which have to do with addresses or new sockets, are the methods of
 * Python's socket object.
 */
#include "sock.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

/* Results up to this size are copied out of the spare object, which stays. */
#define COPY_BYTES 4096

unsigned kl_sock_events(const struct kl_sock_op *self)
{
	switch (self->kind) {
	case KL_SOCK_SENDALL:
	case KL_SOCK_SENDTO:
	case KL_SOCK_CONNECT:
		return POLLOUT;
	default:
		return POLLIN;
	}
}

static bool would_block(int error)
{
	return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

static int fail_errno(int error)
{
	errno = error;
	PyErr_SetFromErrno(PyExc_OSError);
	return -1;
}

/* ---- recv -------------------------------------------------------------- */

/* An object of this size that nobody else has: the spare one if it fits, or new. */
static PyObject *take_spare(LoopObject *loop, size_t bytes)
{
	PyObject *spare = loop->sock_spare;

	if (spare != NULL && PyBytes_GET_SIZE(spare) == (Py_ssize_t)bytes) {
		loop->sock_spare = NULL;
		return spare;
	}
	return PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes);
}

static void give_spare(LoopObject *loop, PyObject *spare)
{
	if (loop->sock_spare == NULL && !loop->closed) {
		loop->sock_spare = spare;
		return;
	}
	Py_XSETREF(loop->sock_spare, spare);
}

static int attempt_recv(struct kl_sock_op *self, PyObject **ret_result)
{
	PyObject *buffer;
	ssize_t n;
	int error;

	if (self->bytes == 0) {
		*ret_result = PyBytes_FromStringAndSize(NULL, 0);
		return *ret_result == NULL ? -1 : 1;
	}
	buffer = take_spare(self->base.loop, self->bytes);
	if (buffer == NULL)
		return -1;
	n = recv(self->fd, PyBytes_AS_STRING(buffer), self->bytes, MSG_DONTWAIT);
	error = errno;
	if (n < 0) {
		give_spare(self->base.loop, buffer);
		return would_block(error) ? 0 : fail_errno(error);
	}
	if ((size_t)n <= COPY_BYTES && (size_t)n < self->bytes) {
		*ret_result = PyBytes_FromStringAndSize(PyBytes_AS_STRING(buffer), n);
		give_spare(self->base.loop, buffer);
		return *ret_result == NULL ? -1 : 1;
	}
	if ((size_t)n < self->bytes && _PyBytes_Resize(&buffer, n) < 0)
		return -1;
	*ret_result = buffer;
	return 1;
}

static int attempt_recv_into(struct kl_sock_op *self, PyObject **ret_result)
{
	ssize_t n = recv(self->fd, self->buffer.buf, (size_t)self->buffer.len, MSG_DONTWAIT);

	if (n < 0)
		return would_block(errno) ? 0 : fail_errno(errno);
	*ret_result = PyLong_FromSsize_t(n);
	return *ret_result == NULL ? -1 : 1;
}

/* ---- sendall ----------------------------------------------------------- */

int kl_sock_send_rest(struct kl_sock_op *self)
{
	size_t total = (size_t)self->buffer.len;

	do {
		ssize_t n = send(self->fd, (char *)self->buffer.buf + self->bytes,
				 total - self->bytes, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0)
			return would_block(errno) ? 0 : -errno;
		self->bytes += (size_t)n;
	} while (self->bytes < total);
	return 1;
}

static int attempt_sendall(struct kl_sock_op *self, PyObject **ret_result)
{
	int sent;

	/* While it waited the ring's completion sent the rest. */
	if (self->base.state == KL_AWAIT_READY && self->bytes == (size_t)self->buffer.len)
		sent = 1;
	else
		sent = kl_sock_send_rest(self);
	if (sent < 0)
		return fail_errno(-sent);
	if (sent > 0)
		*ret_result = Py_NewRef(Py_None);
	return sent;
}

/* ---- methods of the socket object -------------------------------------- */

/* The result of a method: 1, 0 if it would block, or -1 with an error set. */
static int method_result(PyObject *result, PyObject **ret_result)
{
	*ret_result = result;
	if (result != NULL)
		return 1;
	if (!PyErr_ExceptionMatches(PyExc_BlockingIOError) &&
	    !PyErr_ExceptionMatches(PyExc_InterruptedError))
		return -1;
	PyErr_Clear();
	return 0;
}

/* sock.name(first, second), arguments as far as they are there. */
static int attempt_method(struct kl_sock_op *self, PyObject *name, PyObject **ret_result)
{
	PyObject *stack[] = { self->sock, self->first, self->second };
	size_t count = self->first == NULL ? 1 : self->second == NULL ? 2 : 3;

	return method_result(PyObject_VectorcallMethod(name, stack, count, NULL), ret_result);
}

/* sock.send() of the data, then of what is left of it, with a wait before each, as asyncio. */
static int attempt_send(struct kl_sock_op *self, PyObject **ret_result)
{
	PyObject *rest = self->bytes == 0 ? Py_NewRef(self->second)
					  : PySequence_GetSlice(self->first, (Py_ssize_t)self->bytes,
								self->buffer.len);
	PyObject *stack[] = { self->sock, rest }, *count;
	Py_ssize_t sent;
	int result;

	if (rest == NULL)
		return -1;
	result = method_result(PyObject_VectorcallMethod(self->base.loop->state->names.send, stack,
							 2, NULL), &count);
	Py_DECREF(rest);
	if (result <= 0)
		return result;
	sent = PyLong_AsSsize_t(count);
	Py_DECREF(count);
	if (sent == -1 && PyErr_Occurred())
		return -1;
	if (sent < 0 || sent > self->buffer.len - (Py_ssize_t)self->bytes) {
		PyErr_Format(PyExc_ValueError, "send() returned %zd", sent);
		return -1;
	}
	self->bytes += (size_t)sent;
	if (self->bytes < (size_t)self->buffer.len)
		return 0;
	*ret_result = Py_NewRef(Py_None);
	return 1;
}

static int attempt_accept(struct kl_sock_op *self, PyObject **ret_result)
{
	PyObject *pair, *done = NULL;
	int result = attempt_method(self, self->base.loop->state->names.accept, &pair);

	if (result <= 0)
		return result;
	if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2)
		done = PyObject_CallMethodOneArg(PyTuple_GET_ITEM(pair, 0),
						 self->base.loop->state->names.setblocking, Py_False);
	else
		PyErr_SetString(PyExc_TypeError, "accept() must return (socket, address)");
	if (done == NULL) {
		Py_DECREF(pair);
		return -1;
	}
	Py_DECREF(done);
	*ret_result = pair;
	return 1;
}

/* The connection stands, or failed: SO_ERROR tells. */
static int finish_connect(struct kl_sock_op *self, PyObject **ret_result)
{
	int error = 0;
	socklen_t size = sizeof(error);

	if (getsockopt(self->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
		return fail_errno(errno);
	if (error != 0) {
		PyObject *text = PyUnicode_FromFormat("Connect call failed %S", self->first);
		PyObject *exception = NULL;

		if (text != NULL)
			exception = PyObject_CallFunction(PyExc_OSError, "iN", error, text);
		if (exception != NULL)
			PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
		Py_XDECREF(exception);
		return -1;
	}
	*ret_result = Py_NewRef(Py_None);
	return 1;
}

int kl_sock_attempt(struct kl_sock_op *self, PyObject **ret_result)
{
	struct kl_state *state = self->base.loop->state;

	if (self->error != 0)
		return fail_errno(self->error);
	switch (self->kind) {
	case KL_SOCK_RECV:
		return self->by_method ? attempt_method(self, state->names.recv, ret_result)
				       : attempt_recv(self, ret_result);
	case KL_SOCK_RECV_INTO:
		return self->by_method ? attempt_method(self, state->names.recv_into, ret_result)
				       : attempt_recv_into(self, ret_result);
	case KL_SOCK_RECVFROM:
		return attempt_method(self, state->names.recvfrom, ret_result);
	case KL_SOCK_RECVFROM_INTO:
		return attempt_method(self, state->names.recvfrom_into, ret_result);
	case KL_SOCK_SENDALL:
		return self->by_method ? attempt_send(self, ret_result)
				       : attempt_sendall(self, ret_result);
	case KL_SOCK_SENDTO:
		return attempt_method(self, state->names.sendto, ret_result);
	case KL_SOCK_ACCEPT:
		return attempt_accept(self, ret_result);
	default:
		if (self->base.state == KL_AWAIT_READY)
			return finish_connect(self, ret_result);
		return attempt_method(self, state->names.connect, ret_result);
	}
}
