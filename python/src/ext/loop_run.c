/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The run: turns of the ring, then what is ready, until stop().
 *
 * The GIL is given up right before the ring sleeps (kl_before_wait) and taken
 * back by the first completion that is Python's business. Turns that bring
 * nothing for Python follow each other without it.
 */
#include "handle.h"
#include "loop.h"

#include <errno.h>

void kl_before_wait(void *loop_object)
{
	LoopObject *self = loop_object;

	if (self->saved != NULL)
		return;
	if (self->garbage_count > 0)
		kl_drop_now(self);
	/*
	 * What ran at the start of this turn may have scheduled something, after
	 * the decision to wait: then the wait must end at once.
	 */
	if (self->ready_count > 0 || self->stopping || self->pending_exception != NULL) {
		kloop_loop_wake(self->loop);
		return;
	}
	self->saved = PyEval_SaveThread();
}

/* Turn until something is there for Python. Returns with the GIL: a count, or a negative code. */
static int wait_for_work(LoopObject *self)
{
	int result;

	/* Whatever was pushed so far is in sight: only a later wake-up counts. */
	atomic_store_explicit(&self->woken, false, memory_order_relaxed);
	do {
		result = kloop_loop_turn(self->loop, KLOOP_FOREVER);
	} while (self->saved != NULL && result >= 0 && self->garbage_count == 0 &&
		 !atomic_load_explicit(&self->woken, memory_order_acquire));
	kl_py_enter(self);
	return result;
}

/* One turn. Returns with the GIL: 0, or -1 with an error set. */
static int turn(LoopObject *self)
{
	int result;

	self->turns++;
	if (self->ready_count > 0 || self->stopping) {
		result = kloop_loop_turn(self->loop, 0);
		kl_py_enter(self);
	} else {
		result = wait_for_work(self);
	}
	if (self->garbage_count > 0)
		kl_drop_now(self);
	if (self->pending_exception != NULL) {
		PyObject *exception = self->pending_exception;

		self->pending_exception = NULL;
		kl_exception_give(exception);
		return -1;
	}
	if (result < 0 && result != -EINTR) {
		kl_raise(self->state, result);
		return -1;
	}
	return PyErr_CheckSignals();
}

/* A handle that is not ours: asyncio.Handle, which signal handlers are. */
static int run_foreign(LoopObject *self, PyObject *handle)
{
	PyObject *cancelled = PyObject_GetAttr(handle, self->state->names._cancelled);
	PyObject *result;
	int skip;

	if (cancelled == NULL)
		return -1;
	skip = PyObject_IsTrue(cancelled);
	Py_DECREF(cancelled);
	if (skip != 0)
		return skip < 0 ? -1 : 0;
	result = PyObject_CallMethodNoArgs(handle, self->state->names._run);
	if (result == NULL)
		return -1;
	Py_DECREF(result);
	return 0;
}

static int run_handle(LoopObject *self, PyObject *handle)
{
	struct kl_handle *h = (struct kl_handle *)handle;

	if (Py_TYPE(handle) != self->state->handle_type &&
	    Py_TYPE(handle) != self->state->timer_handle_type)
		return run_foreign(self, handle);
	if (h->cancelled)
		return 0;
	return kl_handle_run(h);
}

/* The same in debug mode: slow callbacks are logged, and the handle is known meanwhile. */
static int run_handle_debug(LoopObject *self, PyObject *handle)
{
	PyObject *names = self->state->names._current_handle;
	uint64_t begin = kloop_now();
	double seconds;
	PyObject *result;
	int failed;

	if (PyObject_SetAttr((PyObject *)self, names, handle) < 0)
		return -1;
	failed = run_handle(self, handle);
	seconds = (double)(kloop_now() - begin) / 1e9;
	if (failed == 0 && seconds >= self->slow_callback_duration) {
		PyObject *took = PyFloat_FromDouble(seconds);

		result = took == NULL ? NULL
				      : PyObject_CallMethodObjArgs((PyObject *)self,
								   self->state->names._log_slow_handle,
								   handle, took, NULL);
		Py_XDECREF(took);
		failed = result == NULL ? -1 : 0;
		Py_XDECREF(result);
	}
	if (failed < 0) {
		PyObject *exception = kl_exception_take();

		if (PyObject_SetAttr((PyObject *)self, names, Py_None) < 0)
			PyErr_Clear();
		if (exception != NULL)
			kl_exception_give(exception);
		return -1;
	}
	return PyObject_SetAttr((PyObject *)self, names, Py_None);
}

/*
 * Run what is ready now; what callbacks add waits for the next iteration, so
 * that the ring gets its turn in between.
 */
static int run_ready(LoopObject *self)
{
	size_t todo = self->ready_count;

	while (todo-- > 0 && self->ready_count > 0) {
		PyObject *handle = self->ready[self->ready_head];
		int failed;

		self->ready_head = (self->ready_head + 1) & (self->ready_capacity - 1);
		self->ready_count--;
		self->callbacks++;
		if (self->debug)
			failed = run_handle_debug(self, handle);
		else
			failed = run_handle(self, handle);
		kl_ready_drop(self, handle);
		if (self->pending_exception != NULL && failed == 0) {
			PyObject *exception = self->pending_exception;

			self->pending_exception = NULL;
			kl_exception_give(exception);
			failed = -1;
		}
		if (failed < 0)
			return -1;
	}
	return 0;
}

void kl_run_ready_early(LoopObject *self)
{
	PyObject *exception;

	if (!self->running || self->stopping || self->pending_exception != NULL)
		return;
	if (run_ready(self) == 0)
		return;
	exception = kl_exception_take();
	if (self->pending_exception == NULL)
		self->pending_exception = exception;
	else
		Py_XDECREF(exception);
}

PyObject *kl_loop_run(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	LoopObject *self = (LoopObject *)op;
	int failed;

	if (kl_check_closed(self) < 0)
		return NULL;
	if (self->running) {
		PyErr_SetString(PyExc_RuntimeError, "This event loop is already running");
		return NULL;
	}
	self->running = true;
	do {
		failed = turn(self);
		if (failed == 0)
			failed = run_ready(self);
	} while (failed == 0 && !self->stopping);
	self->running = false;
	/* Another thread may be the next, and close what hangs on the ring while this one lives. */
	if (!self->closed)
		(void)!kloop_loop_leave(self->loop);
	/* It refers to the loop, which must not need the collector once nobody wants it. */
	Py_CLEAR(self->task_keywords);
	if (failed < 0)
		return NULL;
	Py_RETURN_NONE;
}
