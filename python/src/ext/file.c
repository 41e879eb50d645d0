/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Calls on files, to be awaited, and their way through the ring: see file.h. */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct kl_await_kind kind;

struct kl_file_call *kl_file_new(LoopObject *loop, enum kl_file_kind what)
{
	struct kl_file_call *self = PyObject_GC_New(struct kl_file_call, loop->state->file_call_type);

	if (self == NULL)
		return NULL;
	memset((char *)self + sizeof(PyObject), 0, sizeof(*self) - sizeof(PyObject));
	kl_await_init(&self->base, loop);
	self->base.kind = &kind;
	self->kind = what;
	self->fd = -1;
	PyObject_GC_Track(self);
	return self;
}

static int file_call_traverse(PyObject *op, visitproc visit, void *arg)
{
	struct kl_file_call *self = (struct kl_file_call *)op;

	/* Not what is lent to the kernel: it stays pinned. */
	Py_VISIT(self->name);
	Py_VISIT(self->name2);
	return kl_await_traverse(&self->base, visit, arg);
}

static int file_call_clear(PyObject *op)
{
	kl_await_clear((struct kl_await *)op);
	return 0;
}

static void file_call_dealloc(PyObject *op)
{
	struct kl_file_call *self = (struct kl_file_call *)op;
	PyTypeObject *type = Py_TYPE(op);

	PyObject_GC_UnTrack(op);
	kl_file_drop_descriptor(self);
	kl_await_clear(&self->base);
	kl_file_drop_lent(self);
	Py_CLEAR(self->data);
	Py_CLEAR(self->name);
	Py_CLEAR(self->name2);
	Py_CLEAR(self->base.loop);
	PyObject_GC_Del(op);
	Py_DECREF(type);
}

int kl_file_calls_traverse(LoopObject *loop, visitproc visit, void *arg)
{
	struct kl_file_call *self;

	for (self = loop->file_calls; self != NULL; self = self->next)
		Py_VISIT(self);
	return 0;
}

/* ---- through the ring --------------------------------------------------- */

/* The completion; maybe without the GIL. */
static void complete(struct kl_file_call *self, int result)
{
	struct kl_await *base = &self->base;

	kl_py_enter(base->loop);
	KL_LIST_REMOVE(self);
	self->result = result;
	self->complete = true;
	if (base->state == KL_AWAIT_WAITING)
		base->state = self->cancelled ? KL_AWAIT_CANCELLED : KL_AWAIT_READY;
	if (base->state != KL_AWAIT_READY)
		kl_file_drop_descriptor(self);
	kl_await_wake(base);
	Py_DECREF(self);
}

static void op_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	(void)flags;
	complete((struct kl_file_call *)((char *)op - offsetof(struct kl_file_call, op)), result);
}

static void transfer_done(struct kloop_transfer *transfer, int result)
{
	complete((struct kl_file_call *)((char *)transfer -
					 offsetof(struct kl_file_call, transfer)),
		 result);
}

static int submit_transfer(struct kl_file_call *self)
{
	struct kloop_loop *loop = self->base.loop->loop;
	struct kloop_transfer *transfer = &self->transfer;
	size_t bytes = self->kind == KL_FILE_READ ? (size_t)self->bytes : (size_t)self->buffer.len;

	kloop_transfer_init(transfer, transfer_done);
	if (self->kind == KL_FILE_WRITE)
		return kloop_transfer_write(loop, transfer, self->fd, self->buffer.buf, bytes,
					    self->offset);
	return kloop_transfer_read(loop, transfer, self->fd,
				   self->kind == KL_FILE_READ ? PyBytes_AS_STRING(self->data) :
								self->buffer.buf,
				   bytes, self->full ? bytes : 0, self->offset);
}

static int submit_name(struct kl_file_call *self)
{
	struct kloop_loop *loop = self->base.loop->loop;
	const char *path = self->path == NULL ? "" : PyBytes_AS_STRING(self->path);

	switch (self->kind) {
	case KL_FILE_OPEN:
		return kloop_op_openat(loop, &self->op, AT_FDCWD, path, self->flags, self->mode);
	case KL_FILE_STAT:
		return kloop_op_statx(loop, &self->op, self->path == NULL ? self->fd : AT_FDCWD, path,
				      self->flags | (self->path == NULL ? AT_EMPTY_PATH : 0),
				      STATX_BASIC_STATS, self->status);
	case KL_FILE_RENAME:
		return kloop_op_renameat(loop, &self->op, AT_FDCWD, path, AT_FDCWD,
					 PyBytes_AS_STRING(self->path2), (unsigned)self->flags);
	case KL_FILE_UNLINK:
		return kloop_op_unlinkat(loop, &self->op, AT_FDCWD, path, self->flags);
	default:
		return kloop_op_mkdirat(loop, &self->op, AT_FDCWD, path, self->mode);
	}
}

static int submit(struct kl_file_call *self)
{
	struct kloop_loop *loop = self->base.loop->loop;

	if (kl_file_is_transfer(self))
		return submit_transfer(self);
	kloop_op_init(&self->op, op_done);
	switch (self->kind) {
	case KL_FILE_CLOSE:
		return kloop_op_close(loop, &self->op, self->fd);
	case KL_FILE_SYNC:
		return kloop_op_fsync(loop, &self->op, self->fd, self->flags != 0);
	case KL_FILE_TRUNCATE:
		return kloop_op_ftruncate(loop, &self->op, self->fd, self->bytes);
	case KL_FILE_ALLOCATE:
		return kloop_op_fallocate(loop, &self->op, self->fd, self->flags, self->offset,
					  self->bytes);
	default:
		return submit_name(self);
	}
}

/* 0, or -1 with an error set: nothing was submitted. */
static int try_submit(struct kl_file_call *self)
{
	int code;

	if (kl_check_closed(self->base.loop) < 0)
		return -1;
	if (!kl_on_loop_thread(self->base.loop))
		return kl_raise_wrong_thread();
	code = submit(self);
	if (code < 0)
		kl_raise(self->base.loop->state, code);
	return code < 0 ? -1 : 0;
}

static int begin(struct kl_file_call *self)
{
	LoopObject *loop = self->base.loop;

	if (try_submit(self) < 0) {
		/* Nobody will close it a second time: the descriptor has to go. */
		if (self->kind == KL_FILE_CLOSE)
			close(self->fd);
		return -1;
	}
	Py_INCREF(self);
	KL_LIST_PUSH(loop->file_calls, self);
	self->base.state = KL_AWAIT_WAITING;
	return 0;
}

static int go(struct kl_await *base, PyObject **ret_result)
{
	struct kl_file_call *self = (struct kl_file_call *)base;

	if (base->state == KL_AWAIT_NEW)
		return begin(self);
	*ret_result = kl_file_collect(self);
	return *ret_result == NULL ? -1 : 1;
}

static void stop(struct kl_await *base)
{
	struct kl_file_call *self = (struct kl_file_call *)base;

	if (self->cancelled || self->link == NULL)
		return;
	self->cancelled = true;
	if (self->kind == KL_FILE_CLOSE)
		return; /* the descriptor has to go */
	if (kl_file_is_transfer(self))
		(void)kloop_transfer_cancel(&self->transfer);
	else
		(void)kloop_op_cancel(&self->op);
}

/* What the kernel still works with stays until it has answered. */
static void drop(struct kl_await *base)
{
	struct kl_file_call *self = (struct kl_file_call *)base;

	if (self->link == NULL)
		kl_file_drop_lent(self);
}

static const struct kl_await_kind kind = {
	.qualname = "Loop.file_call",
	.failure = "A call on a file cannot be finished",
	.go = go,
	.stop = stop,
	.drop = drop,
	.patient = true,
};

static PyType_Slot slots[] = {
	{ Py_tp_doc, (void *)"A call of kloop's files, to be awaited." },
	{ Py_tp_dealloc, file_call_dealloc },
	{ Py_tp_traverse, file_call_traverse },
	{ Py_tp_clear, file_call_clear },
	KL_AWAIT_SLOTS,
	{ 0, NULL },
};

static PyType_Spec spec = {
	.name = "kloop._kloop.FileCall",
	.basicsize = sizeof(struct kl_file_call),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
		 Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = slots,
};

int kl_file_init(PyObject *module, struct kl_state *state)
{
	state->file_call_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
	return state->file_call_type == NULL ? -1 : 0;
}
