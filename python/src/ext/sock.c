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
static const struct kl_await_kind kind;

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
	self->base.kind = &kind;
	kloop_op_init(&self->op, poll_done);
	return self;
}

static void drop_arguments(struct kl_await *base)
{
	struct kl_sock_op *self = (struct kl_sock_op *)base;

	if (self->buffer.obj != NULL)
		PyBuffer_Release(&self->buffer);
	Py_CLEAR(self->sock);
	Py_CLEAR(self->first);
	Py_CLEAR(self->second);
}

static int sock_op_traverse(PyObject *op, visitproc visit, void *arg)
{
	struct kl_sock_op *self = (struct kl_sock_op *)op;

	/* Not the buffer: it stays pinned for as long as the call is not done. */
	Py_VISIT(self->sock);
	Py_VISIT(self->first);
	Py_VISIT(self->second);
	return kl_await_traverse(&self->base, visit, arg);
}

static int sock_op_clear(PyObject *op)
{
	kl_await_clear((struct kl_await *)op);
	return 0;
}

static void sock_op_dealloc(PyObject *op)
{
	static const char *const names[] = { "sock_recv",    "sock_recv_into", "sock_recvfrom",
					     "sock_recvfrom_into", "sock_sendall", "sock_sendto",
					     "sock_accept",  "sock_connect" };
	struct kl_sock_op *self = (struct kl_sock_op *)op;
	PyTypeObject *type = Py_TYPE(op);
	LoopObject *loop = self->base.loop;
	struct kl_state *state = loop->state;

	PyObject_GC_UnTrack(op);
	if (self->sock != NULL)
		kl_await_warn_unused(&self->base, names[self->kind]);
	kl_await_clear(&self->base);
	drop_arguments(&self->base);
	if (state->free_sock_op_count < FREE_SOCK_OPS) {
		self->base.loop = NULL;
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
	return kloop_op_poll(self->base.loop->loop, &self->op, self->fd, kl_sock_events(self));
}

int kl_sock_begin_wait(struct kl_sock_op *self)
{
	LoopObject *loop = self->base.loop;
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
	KL_LIST_PUSH(loop->sock_ops, self);
	self->base.state = KL_AWAIT_WAITING;
	return 0;
}

static void unlink_op(struct kl_sock_op *self)
{
	KL_LIST_REMOVE(self);
}

/* Go on in the ring if that is possible: true if it is in flight again. No GIL. */
static bool go_on(struct kl_sock_op *self, int32_t result)
{
	int code;

	/* Not by us: the ring changed threads. */
	if (result == -ECANCELED && !self->base.loop->closed) {
		code = submit(self);
	} else if (result < 0) {
		code = result;
	} else if (self->kind == KL_SOCK_SENDALL && !self->by_method) {
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
	LoopObject *loop = self->base.loop;

	(void)flags;
	if (self->base.state != KL_AWAIT_WAITING) {
		/* Another thread's collector may be walking the loop's list of calls. */
		kl_py_enter(loop);
		unlink_op(self);
		kl_drop_later(loop, (PyObject *)self);
		return;
	}
	if (go_on(self, result))
		return;
	kl_py_enter(loop);
	unlink_op(self);
	self->base.state = KL_AWAIT_READY;
	kl_await_wake(&self->base);
	Py_DECREF(self);
}

static void stop(struct kl_await *base)
{
	struct kl_sock_op *self = (struct kl_sock_op *)base;

	if (kloop_op_is_active(&self->op))
		(void)kloop_op_cancel(&self->op);
}

/* ---- the type ---------------------------------------------------------- */

static int go(struct kl_await *base, PyObject **ret_result)
{
	struct kl_sock_op *self = (struct kl_sock_op *)base;
	int result = kl_sock_attempt(self, ret_result);

	return result == 0 ? kl_sock_begin_wait(self) : result;
}

static const struct kl_await_kind kind = {
	.qualname = "Loop.sock_call",
	.failure = "A sock_*() call cannot be finished",
	.go = go,
	.stop = stop,
	.drop = drop_arguments,
};

static PyType_Slot slots[] = {
	{ Py_tp_doc, (void *)"A call of Loop.sock_*(), to be awaited." },
	{ Py_tp_dealloc, sock_op_dealloc },
	{ Py_tp_traverse, sock_op_traverse },
	{ Py_tp_clear, sock_op_clear },
	KL_AWAIT_SLOTS,
	{ 0, NULL },
};

static PyType_Spec spec = {
	.name = "kloop._kloop.SockCall",
	.basicsize = sizeof(struct kl_sock_op),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
		 Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = slots,
};

int kl_sock_init(PyObject *module, struct kl_state *state)
{
	state->sock_op_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
	return state->sock_op_type == NULL ? -1 : 0;
}
