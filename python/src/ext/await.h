/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What calls of a loop are to Python that wait in the ring: a coroutine that is
 * awaited or made a task, and, once it waits, the future that its task waits
 * for. One object for both costs half of what a coroutine and a future cost.
 *
 * A call begins with a struct kl_await. Its type has the methods and slots here,
 * and its kind says what to do.
 */
#ifndef KL_AWAIT_H
#define KL_AWAIT_H

#include "ext.h"

enum kl_await_state {
	KL_AWAIT_NEW,       /* not awaited yet */
	KL_AWAIT_WAITING,   /* something of it is in the ring, its task sleeps */
	KL_AWAIT_READY,     /* the task is to be resumed, and will try again */
	KL_AWAIT_CANCELLED, /* cancel() was called while it waited */
	KL_AWAIT_DELEGATED, /* another awaitable does it: delegate */
	KL_AWAIT_DONE,
};

struct kl_await;

struct kl_await_kind {
	const char *qualname;
	const char *failure; /* the message for the loop's exception handler */
	/*
	 * Begin, or go on after the wait. 1 with *ret_result; 0 if it waits now,
	 * with the state KL_AWAIT_WAITING, or if delegate shall do it; -1 with an
	 * error set.
	 */
	int (*go)(struct kl_await *self, PyObject **ret_result);
	void (*stop)(struct kl_await *self); /* ask the ring to end the wait early */
	void (*drop)(struct kl_await *self); /* it is over: let go of arguments */
	/*
	 * A wait that is cancelled lasts until the ring has answered, since it
	 * matters what was done by then: the call sets KL_AWAIT_CANCELLED itself.
	 */
	bool patient;
};

struct kl_await {
	PyObject_HEAD
	LoopObject *loop; /* strong */
	const struct kl_await_kind *kind;
	PyObject *callback, *context; /* of the task; further ones in more */
	PyObject *more;               /* list of (callback, context), or NULL */
	PyObject *cancel_message;
	PyObject *delegate;
	uint8_t state;
	bool blocking; /* _asyncio_future_blocking: yielded to a task that has not said it waits */
	bool exposed;  /* was yielded at least once */
	bool running;  /* inside of go(), which may call what the user wrote */
};

/* For a new one; the pointers are NULL already. */
void kl_await_init(struct kl_await *self, LoopObject *loop);

/* Whoever waits is to be told: with the GIL. */
void kl_await_wake(struct kl_await *self);

/* For tp_traverse, tp_clear and tp_dealloc of the types; the loop is the type's to drop. */
int kl_await_traverse(struct kl_await *self, visitproc visit, void *arg);
void kl_await_clear(struct kl_await *self);

/* A call that nobody awaited did nothing: a warning, as Python gives for a coroutine. */
void kl_await_warn_unused(struct kl_await *self, const char *name);

/* Slots and methods of the types. */
PySendResult kl_await_send(PyObject *op, PyObject *value, PyObject **ret_result);
PyObject *kl_await_next(PyObject *op);
PyObject *kl_await_itself(PyObject *op);
extern PyMethodDef kl_await_methods[];
extern PyGetSetDef kl_await_getset[];

#define KL_AWAIT_SLOTS                                                                       \
	{ Py_tp_iter, kl_await_itself }, { Py_tp_iternext, kl_await_next },                    \
		{ Py_am_await, kl_await_itself }, { Py_am_send, kl_await_send },               \
		{ Py_tp_methods, kl_await_methods }, { Py_tp_getset, kl_await_getset }

#endif
