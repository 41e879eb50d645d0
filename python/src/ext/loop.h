/* SPDX-License-Identifier: MulanPSL-2.0 */
/* What the files of the Loop type share: loop.c, loop_run.c, loop_ring.c, loop_schedule.c. */
#ifndef KL_LOOP_H
#define KL_LOOP_H

#include "ext.h"

/* The arguments of call_soon() and its kin, sorted. All borrowed. */
struct kl_call {
	PyObject *first;    /* delay or when; NULL for call_soon() */
	PyObject *callback;
	PyObject *const *args;
	Py_ssize_t nargs;
	PyObject *context; /* NULL for None or none */
};

/* first: the interned name of an argument before the callback, or NULL. 0, or -1 with TypeError. */
int kl_call_parse(LoopObject *self, const char *function, PyObject *first, PyObject *const *args,
		  Py_ssize_t nargs, PyObject *kwnames, struct kl_call *call);

/* What a caller gave as context=, or NULL for None or none. 0, or -1 with TypeError. */
static inline int kl_context_check(const char *function, PyObject *context)
{
	if (context == NULL || PyContext_CheckExact(context))
		return 0;
	PyErr_Format(PyExc_TypeError, "%s() needs a contextvars.Context, not %R", function,
		     context);
	return -1;
}

/* loop_ring.c: the ready ring, garbage, and what the kernel side of a loop is. */
PyObject *kl_loop_open(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *kl_loop_close_ring(PyObject *self, PyObject *ignored);
PyObject *kl_loop_stats(PyObject *self, PyObject *ignored);
PyObject *kl_loop_features(PyObject *self, PyObject *ignored);
/* Drop all that is ready. */
void kl_ready_clear(LoopObject *self);
/* What was taken from the ready ring is over: drop the reference. */
void kl_ready_drop(LoopObject *self, PyObject *handle);
/* For the collector: what is in the ready ring, and what untracked handles there refer to. */
int kl_ready_traverse(LoopObject *self, visitproc visit, void *arg);
/* Close without an exception; what cannot be closed is leaked and said so. */
void kl_loop_finish(LoopObject *self);

/* loop_schedule.c */
KL_LOOP_METHOD(kl_loop_call_soon);
KL_LOOP_METHOD(kl_loop_call_soon_threadsafe);
KL_LOOP_METHOD(kl_loop_call_later);
KL_LOOP_METHOD(kl_loop_call_at);
PyObject *kl_loop_add_callback(PyObject *self, PyObject *handle);
PyObject *kl_loop_add_callback_signalsafe(PyObject *self, PyObject *handle);

#endif
