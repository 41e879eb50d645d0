/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Handles: what call_soon() and call_later() return, and what the ready ring holds. */
#ifndef KL_HANDLE_H
#define KL_HANDLE_H

#include "ext.h"

/* Objects of each type that are kept for reuse. */
#define KL_FREE_HANDLES 4096

/* Arguments that fit into a handle; more go into a tuple. */
#define KL_INLINE_ARGS 3

/* What few handles have, so that the others are without room for it. */
struct kl_handle_rare {
	PyObject *source_traceback; /* in debug mode */
	PyObject *repr;             /* kept by a cancel in debug mode, as asyncio does */
	PyObject *when; /* of a TimerHandle: as passed to call_at(), if that was no float */
};

struct kl_handle {
	PyObject_HEAD
	PyObject *weakrefs;
	LoopObject *loop;   /* strong */
	PyObject *callback; /* NULL once cancelled, and for a C call; links the free list */
	PyObject *context;
	struct kl_handle_rare *rare; /* mostly NULL */
	uint8_t nargs;       /* inline ones */
	bool packed : 1;     /* there were too many: args[1] is a tuple of them */
	bool cancelled : 1;
	bool scheduled : 1;  /* of a TimerHandle: its timer is started */
	bool running : 1;    /* a cancel must leave callback and arguments to the caller, */
	bool hidden : 1;     /* and only hide them */
	bool threadsafe : 1; /* handle_threads.c: of call_soon_threadsafe(), if this Python's waits, */
	bool locked : 1;     /* and its callback runs */
	bool c_call : 1;     /* of call.run; its owner is args[1] */
	union {
		void (*run)(PyObject *owner);
		PyObject *args[1 + KL_INLINE_ARGS]; /* args[0] is scratch space of the vectorcall */
	} call;
};

struct kl_timer_handle {
	struct kl_handle base;
	struct kloop_timer timer;
	double when;
	struct kl_timer_handle *next, **link; /* in LoopObject.timers while started */
};

/*
 * context may be NULL for a copy of the current one. Returns a new reference, or NULL. It is for
 * the ready ring: the collector does not track it.
 */
struct kl_handle *kl_handle_new(LoopObject *self, PyObject *callback, PyObject *const *args,
				Py_ssize_t nargs, PyObject *context);

/* Call it. 0, also if the callback failed and that was reported; -1 to leave run_forever. */
int kl_handle_run(struct kl_handle *handle);

/* What handle.cancel() does; never fails. */
void kl_handle_cancel(struct kl_handle *handle);

/* handle_threads.c: others must wait while it runs, if this Python's asyncio has it so. */
void kl_handle_share(struct kl_handle *handle);
/* Until it does not run, from another thread than the loop's. 0, or -1 with an error set. */
int kl_handle_wait(struct kl_handle *handle);
/* It ran: wake those who wait. */
void kl_handle_unlock(struct kl_handle *handle);
/* asyncio's class for it. */
PyObject *kl_handle_get_class(PyObject *handle, void *closure);
/* asyncio's classes: 0, or -1 with an error set. */
int kl_handle_import(struct kl_state *state);

/* A started timer at when, seconds on the loop's clock. Returns a new reference, or NULL. */
PyObject *kl_timer_handle_new(LoopObject *self, double when, PyObject *when_object,
			      PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
			      PyObject *context);

/* Room for what is rare, or NULL with an error set. */
struct kl_handle_rare *kl_handle_get_rare(struct kl_handle *handle);

/* The arguments as a tuple: new, or NULL with an error set. */
PyObject *kl_handle_copy_args(struct kl_handle *handle);

/* What both types share; the struct is new or from a free list, with all fields cleared. */
PyObject *kl_handle_context(PyObject *context); /* a new reference: it, or a copy of the current */
int kl_handle_fill(struct kl_handle *handle, LoopObject *self, PyObject *callback,
		   PyObject *const *args, Py_ssize_t nargs, PyObject *context); /* steals context */
/* The module's state, for the free lists; NULL once the collector has cleared the handle. */
struct kl_state *kl_handle_state(PyObject *handle);
int kl_handle_traverse(PyObject *handle, visitproc visit, void *arg);
int kl_handle_clear(PyObject *handle);
void kl_handle_dealloc(PyObject *handle);
/*
 * The begin and the end of a tp_dealloc: false if too many are at work, and
 * this handle, whose weak references are gone, is freed after the outermost.
 */
bool kl_handle_begin_dealloc(struct kl_state *state, struct kl_handle *handle);
void kl_handle_end_dealloc(struct kl_state *state);
PyObject *kl_handle_repr_info(PyObject *handle, PyObject *ignored);
PyObject *kl_handle_get_callback(PyObject *handle, void *closure);
PyObject *kl_handle_get_args(PyObject *handle, void *closure);
int kl_timer_handle_init(PyObject *module, struct kl_state *state);
void kl_timer_handle_fini(struct kl_state *state);

/* The loop closes: forget the timers that are started, without a call. */
void kl_timers_close(LoopObject *self);

/* asyncio's source_traceback, in debug mode: a new reference, or NULL with an error set. */
PyObject *kl_extract_stack(struct kl_state *state);

#endif
