/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * sock_*(): calls on plain sockets.
 *
 * Nothing happens before the await, as with a coroutine. Then the system call
 * is tried; only if it would block, the ring polls the descriptor and the task
 * sleeps. Data is received when the task runs again, so a cancelled call can
 * lose none. A sendall goes on in the completion, without the GIL, until all
 * is sent.
 */
#include "sock.h"

#include <errno.h>

#define FREE_SOCK_OPS 1024

/* ---- life -------------------------------------------------------------- */

static void poll_done(struct kloop_op *op, int32_t result, uint32_t flags);

struct kl_sock_op *kl_sock_allocate(struct kl_state *state)
{
	struct kl_sock_op *self = state->free_sock_ops;

	if (self != NULL) {
		state->free_sock_ops = (struct kl_sock_op *)self->sock;
		state->free_sock_op_count--;
		self->sock = NULL;
		PyObject_Init((PyObject *)self, state->sock_op_type);
		return self;
	}
	self = PyObject_GC_New(struct kl_sock_op, state->sock_op_type);
	if (self == NULL)
		return NULL;
	memset((char *)self + sizeof(PyObject), 0, sizeof(*self) - sizeof(PyObject));
	kloop_op_init(&self->op, poll_done);
	return self;
}

void kl_sock_drop_callbacks(struct kl_sock_op *self)
{
	Py_CLEAR(self->callback);
	Py_CLEAR(self->context);
	Py_CLEAR(self->more);
}

void kl_sock_drop_arguments(struct kl_sock_op *self)
{
	if (self->buffer.obj != NULL)
		PyBuffer_Release(&self->buffer);
	Py_CLEAR(self->sock);
	Py_CLEAR(self->first);
	Py_CLEAR(self->second);
}

int kl_sock_op_traverse(PyObject *op, visitproc visit, void *arg)
{
	struct kl_sock_op *self = (struct kl_sock_op *)op;

	/* Not the buffer: it stays pinned for as long as the call is not done. */
	Py_VISIT(Py_TYPE(op));
	Py_VISIT(self->loop);
	Py_VISIT(self->sock);
	Py_VISIT(self->first);
	Py_VISIT(self->second);
	Py_VISIT(self->callback);
	Py_VISIT(self->context);
	Py_VISIT(self->more);
	Py_VISIT(self->cancel_message);
	return 0;
}

int kl_sock_op_clear(PyObject *op)
{
	struct kl_sock_op *self = (struct kl_sock_op *)op;

	kl_sock_drop_callbacks(self);
	Py_CLEAR(self->cancel_message);
	return 0;
}

/* As Python says of a coroutine: a call that nobody awaited did nothing. */
static void warn_if_unused(struct kl_sock_op *self)
{
	static const char *const names[] = { "sock_recv",    "sock_recv_into", "sock_recvfrom",
					     "sock_recvfrom_into", "sock_sendall", "sock_sendto",
					     "sock_accept",  "sock_connect" };
	PyObject *exception;

	if (self->state != KL_SOCK_NEW || self->sock == NULL)
		return;
	exception = kl_exception_take();
	if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine 'Loop.%s' was never awaited",
			     names[self->kind]) < 0)
		PyErr_WriteUnraisable(NULL);
	if (exception != NULL)
		kl_exception_give(exception);
}

void kl_sock_op_dealloc(PyObject *op)
{
	struct kl_sock_op *self = (struct kl_sock_op *)op;
	PyTypeObject *type = Py_TYPE(op);
	struct kl_state *state = self->loop->state;
	LoopObject *loop = self->loop;

	PyObject_GC_UnTrack(op);
	warn_if_unused(self);
	kl_sock_drop_callbacks(self);
	kl_sock_drop_arguments(self);
	Py_CLEAR(self->cancel_message);
	if (state->free_sock_op_count < FREE_SOCK_OPS) {
		self->loop = NULL;
		self->sock = (PyObject *)state->free_sock_ops;
		state->free_sock_ops = self;
		state->free_sock_op_count++;
	} else {
		PyObject_GC_Del(op);
	}
	Py_DECREF(type);
	Py_DECREF(loop);
}

void kl_sock_fini(struct kl_state *state)
{
	while (state->free_sock_ops != NULL) {
		struct kl_sock_op *self = state->free_sock_ops;

		state->free_sock_ops = (struct kl_sock_op *)self->sock;
		PyObject_GC_Del(self);
	}
	state->free_sock_op_count = FREE_SOCK_OPS; /* full, for good */
}

int kl_sock_ops_traverse(LoopObject *loop, visitproc visit, void *arg)
{
	struct kl_sock_op *self;

	for (self = loop->sock_ops; self != NULL; self = self->next)
		Py_VISIT(self);
	return 0;
}

/* ---- waiting in the ring ----------------------------------------------- */

static int submit(struct kl_sock_op *self)
{
	return kloop_op_poll(self->loop->loop, &self->op, self->fd, kl_sock_events(self));
}

/* Sleep until the descriptor is ready: 0, or -1 with an error set. */
int kl_sock_begin_wait(struct kl_sock_op *self)
{
	LoopObject *loop = self->loop;
	PyObject *fd_object;
	int code;

	if (loop->transports_data != NULL && PyDict_GET_SIZE(loop->transports_data) != 0) {
		fd_object = PyLong_FromLong(self->fd);
		code = fd_object == NULL ? -1 : kl_ensure_no_transport(loop, fd_object, self->fd);
		Py_XDECREF(fd_object);
		if (code < 0)
			return -1;
	}
	if (kl_check_closed(loop) < 0)
		return -1;
	code = submit(self);
	if (code < 0) {
		kl_raise(loop->state, code);
		return -1;
	}
	Py_INCREF(self);
	self->next = loop->sock_ops;
	self->link = &loop->sock_ops;
	if (self->next != NULL)
		self->next->link = &self->next;
	loop->sock_ops = self;
	self->state = KL_SOCK_WAITING;
	return 0;
}

void kl_sock_schedule(struct kl_sock_op *self, PyObject *callback, PyObject *context)
{
	PyObject *argument = (PyObject *)self;

	if (kl_call_soon(self->loop, callback, &argument, 1, context) < 0)
		kl_report_exception(self->loop, "A sock_*() call cannot be finished", NULL, NULL);
}

/* Whoever waits is to be told: with the GIL. */
void kl_sock_wake_waiters(struct kl_sock_op *self)
{
	PyObject *callback = self->callback, *context = self->context, *more = self->more;
	Py_ssize_t i;

	self->callback = self->context = self->more = NULL;
	if (callback != NULL && !self->loop->closed)
		kl_sock_schedule(self, callback, context);
	for (i = 0; more != NULL && !self->loop->closed && i < PyList_GET_SIZE(more); i++) {
		PyObject *pair = PyList_GET_ITEM(more, i);

		kl_sock_schedule(self, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1));
	}
	Py_XDECREF(callback);
	Py_XDECREF(context);
	Py_XDECREF(more);
}

static void unlink_op(struct kl_sock_op *self)
{
	*self->link = self->next;
	if (self->next != NULL)
		self->next->link = self->link;
	self->link = NULL;
	self->next = NULL;
}

/* Go on in the ring if that is possible: true if it is in flight again. No GIL. */
static bool go_on(struct kl_sock_op *self, int32_t result)
{
	int code;

	/* Not by us: the ring changed threads. */
	if (result == -ECANCELED && !self->loop->closed) {
		code = submit(self);
	} else if (result < 0) {
		code = result;
	} else if (self->kind == KL_SOCK_SENDALL) {
		int sent = kl_sock_send_rest(self);

		if (sent > 0)
			return false;
		code = sent < 0 ? sent : submit(self);
	} else {
		return false;
	}
	if (code == 0)
		return true;
	self->error = code >= -4095 ? -code : EIO;
	return false;
}

/* Completion of the poll; maybe without the GIL. */
static void poll_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kl_sock_op *self =
		(struct kl_sock_op *)((char *)op - offsetof(struct kl_sock_op, op));
	LoopObject *loop = self->loop;

	(void)flags;
	if (self->state != KL_SOCK_WAITING) {
		unlink_op(self);
		kl_drop_later(loop, (PyObject *)self);
		return;
	}
	if (go_on(self, result))
		return;
	kl_py_enter(loop);
	unlink_op(self);
	self->state = KL_SOCK_READY;
	kl_sock_wake_waiters(self);
	Py_DECREF(self);
}

void kl_sock_cancel_poll(struct kl_sock_op *self)
{
	if (kloop_op_is_active(&self->op))
		(void)kloop_op_cancel(&self->op);
}
