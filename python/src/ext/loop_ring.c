/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The kernel side of a loop (options, opening, closing, counters), the ready ring and garbage. */
#include "handle.h"
#include "loop.h"
#include "transport.h"

#include <errno.h>
#include <sys/resource.h>

/* ---- the ready ring ---------------------------------------------------- */

static int grow(LoopObject *self)
{
	size_t capacity = self->ready_capacity == 0 ? 256 : 2 * self->ready_capacity;
	PyObject **ready = PyMem_New(PyObject *, capacity);
	size_t i;

	if (ready == NULL) {
		PyErr_NoMemory();
		return -1;
	}
	for (i = 0; i < self->ready_count; i++)
		ready[i] = self->ready[(self->ready_head + i) & (self->ready_capacity - 1)];
	PyMem_Free(self->ready);
	self->ready = ready;
	self->ready_head = 0;
	self->ready_capacity = capacity;
	return 0;
}

int kl_ready_push(LoopObject *self, PyObject *handle)
{
	if (self->ready_count == self->ready_capacity && grow(self) < 0) {
		Py_DECREF(handle);
		return -1;
	}
	self->ready[(self->ready_head + self->ready_count) & (self->ready_capacity - 1)] = handle;
	self->ready_count++;
	return 0;
}

void kl_ready_clear(LoopObject *self)
{
	while (self->ready_count > 0) {
		PyObject *handle = self->ready[self->ready_head];

		self->ready_head = (self->ready_head + 1) & (self->ready_capacity - 1);
		self->ready_count--;
		kl_ready_drop(self, handle);
	}
}

static bool is_untracked(LoopObject *self, PyObject *handle)
{
	return Py_TYPE(handle) == self->state->handle_type && !PyObject_GC_IsTracked(handle);
}

void kl_ready_drop(LoopObject *self, PyObject *handle)
{
	if (Py_REFCNT(handle) > 1 && is_untracked(self, handle))
		PyObject_GC_Track(handle);
	Py_DECREF(handle);
}

int kl_ready_traverse(LoopObject *self, visitproc visit, void *arg)
{
	size_t i;

	for (i = 0; i < self->ready_count; i++) {
		PyObject *handle =
			self->ready[(self->ready_head + i) & (self->ready_capacity - 1)];

		/* What it refers to is this loop's alone. If others keep it, it stays alive. */
		if (Py_REFCNT(handle) == 1 && is_untracked(self, handle)) {
			int result = kl_handle_traverse(handle, visit, arg);

			if (result != 0)
				return result;
		} else {
			Py_VISIT(handle);
		}
	}
	return 0;
}

/* ---- garbage ----------------------------------------------------------- */

void kl_drop_later(LoopObject *self, PyObject *object)
{
	if (self->saved == NULL) {
		Py_DECREF(object);
		return;
	}
	if (self->garbage_count == self->garbage_capacity) {
		size_t capacity = self->garbage_capacity == 0 ? 64 : 2 * self->garbage_capacity;
		PyObject **garbage =
			PyMem_RawRealloc(self->garbage, capacity * sizeof(*self->garbage));

		if (garbage == NULL) {
			kl_py_enter(self);
			Py_DECREF(object);
			return;
		}
		self->garbage = garbage;
		self->garbage_capacity = capacity;
	}
	self->garbage[self->garbage_count++] = object;
}

void kl_drop_now(LoopObject *self)
{
	while (self->garbage_count > 0) {
		PyObject *object = self->garbage[--self->garbage_count];

		Py_DECREF(object);
	}
}

/* ---- opening ----------------------------------------------------------- */

/* None keeps the default that is there; anything else must be an integer not below minimum. */
static int to_number(PyObject *object, long long minimum, long long *ret_number)
{
	long long number;

	if (object == NULL || object == Py_None)
		return 0;
	number = PyLong_AsLongLong(object);
	if (number == -1 && PyErr_Occurred())
		return -1;
	if (number < minimum || number > INT64_MAX / 2) {
		PyErr_Format(PyExc_ValueError, "option out of range: %R", object);
		return -1;
	}
	*ret_number = number;
	return 0;
}

enum { IDLE_MS, CPU, SPIN_NS, SUBMISSIONS, COMPLETIONS, BUFFERS, BUFFER_BYTES, WITHOUT, NUMBERS };

/* "off", "auto", "on", or a bool. 0, or -1 with an error set. */
static int to_ktls(PyObject *object, enum kloop_ktls_mode *ret_mode)
{
	static const char *const names[] = {"off", "auto", "on"};
	static const enum kloop_ktls_mode modes[] = {KLOOP_KTLS_OFF, KLOOP_KTLS_AUTO, KLOOP_KTLS_ON};
	size_t i;

	if (object == NULL || PyBool_Check(object)) {
		*ret_mode = object == NULL	? KLOOP_KTLS_AUTO
			    : object == Py_True ? KLOOP_KTLS_ON
						: KLOOP_KTLS_OFF;
		return 0;
	}
	for (i = 0; PyUnicode_Check(object) && i < 3; i++) {
		if (PyUnicode_CompareWithASCIIString(object, names[i]) == 0) {
			*ret_mode = modes[i];
			return 0;
		}
	}
	PyErr_Format(PyExc_ValueError, "ktls must be 'auto', 'on' or 'off', not %R", object);
	return -1;
}

/* Into libkloop's option set: 0, a negative code, or 1 with a Python error set. */
static int set_options(struct kloop_loop_options *options, int sqpoll, PyObject **objects)
{
	long long n[NUMBERS] = { 0, -1, -1, 1024, 8192, 256, 16384, 0 };
	int i, code = 0;

	for (i = 0; i < NUMBERS; i++) {
		if (to_number(objects[i], i == CPU ? -1 : i >= SUBMISSIONS && i != WITHOUT, &n[i]) < 0)
			return 1;
		if (n[i] > UINT32_MAX) {
			PyErr_Format(PyExc_ValueError, "option out of range: %R", objects[i]);
			return 1;
		}
	}
	if (n[COMPLETIONS] < n[SUBMISSIONS] &&
	    (objects[COMPLETIONS] == NULL || objects[COMPLETIONS] == Py_None))
		n[COMPLETIONS] = n[SUBMISSIONS];
	code = kloop_loop_options_set_entries(options, (unsigned)n[SUBMISSIONS],
					      (unsigned)n[COMPLETIONS]);
	if (code == 0)
		code = kloop_loop_options_set_sqpoll(options, sqpoll, (unsigned)n[IDLE_MS],
						     (int)n[CPU]);
	if (code == 0 && n[SPIN_NS] >= 0)
		code = kloop_loop_options_set_spin(options, (uint64_t)n[SPIN_NS]);
	if (code == 0)
		code = kloop_loop_options_set_receive_pool(options, (unsigned)n[BUFFERS],
							   (size_t)n[BUFFER_BYTES]);
	kloop_loop_options_set_without(options, (uint64_t)n[WITHOUT]);
	return code;
}

/*
 * Teach the allocator that large blocks come and go. glibc gives blocks over
 * 128 KiB back to the kernel at each free, and the top of the heap as well, so
 * that every large message costs hundreds of page faults; it raises both
 * thresholds to what a program frees. Freeing one block of 4 MiB, never
 * touched, gets there at once (and respects thresholds that a user has set).
 */
static void warm_heap(void)
{
	static bool done;
	void *volatile block;

	if (done)
		return;
	done = true;
	block = PyMem_RawMalloc((size_t)4 << 20);
	PyMem_RawFree(block);
}

/* The kernel may count a ring as locked memory, and says ENOMEM then: MemoryError with that in it. */
static PyObject *raise_no_memory(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
		return PyErr_NoMemory();
	PyErr_Format(PyExc_MemoryError,
		     "no memory for an io_uring; some kernels count it as locked memory, some 200 KiB "
		     "for each loop, and all processes of this user may lock %llu KiB (RLIMIT_MEMLOCK: "
		     "ulimit -l, LimitMEMLOCK=)",
		     (unsigned long long)limit.rlim_cur / 1024);
	return NULL;
}

PyObject *kl_loop_open(PyObject *op, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "sqpoll", "sq_thread_idle_ms", "sq_thread_cpu", "spin_ns",
				 "submission_entries", "completion_entries", "receive_buffers",
				 "receive_buffer_bytes", "without", "ktls", NULL };
	LoopObject *self = (LoopObject *)op;
	struct kloop_loop_options *options;
	PyObject *o[NUMBERS] = { NULL }, *ktls = NULL;
	int code, sqpoll = 0;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$pOOOOOOOOO:Loop", names, &sqpoll,
					 &o[IDLE_MS], &o[CPU], &o[SPIN_NS], &o[SUBMISSIONS],
					 &o[COMPLETIONS], &o[BUFFERS], &o[BUFFER_BYTES],
					 &o[WITHOUT], &ktls) ||
	    to_ktls(ktls, &self->ktls) < 0)
		return NULL;
	if (self->loop != NULL || self->closed) {
		PyErr_SetString(PyExc_RuntimeError, "this loop was opened already");
		return NULL;
	}
	warm_heap();
	code = kloop_loop_options_new(&options);
	if (code < 0)
		return kl_raise(self->state, code);
	code = set_options(options, sqpoll, o);
	if (code == -EINVAL)
		PyErr_SetString(PyExc_ValueError,
				"an option is out of range: submission_entries 1 to 32768, "
				"completion_entries at least as many and at most 65536, spin_ns to "
				"10**9, receive_buffers a power of two to 32768, "
				"receive_buffer_bytes 256 to 2**20, sq_thread_cpu -1 or more");
	else if (code == 0)
		code = kloop_loop_new(options, &self->loop);
	kloop_loop_options_free(options);
	if (code == 0) {
		kloop_loop_set_before_wait(self->loop, kl_before_wait, self);
		Py_RETURN_NONE;
	}
	if (PyErr_Occurred())
		return NULL;
	return code == -ENOMEM ? raise_no_memory() : kl_raise(self->state, code);
}

/* ---- closing ----------------------------------------------------------- */

/* 0, or a negative code with the loop still there. */
static int close_ring(LoopObject *self)
{
	int code = 0;

	self->closed = true;
	if (self->loop == NULL)
		return 0;
	kl_open_objects_close(self);
	kl_timers_close(self);
	kl_poll_close(self);
	code = kloop_loop_free(self->loop);
	if (code < 0)
		return code;
	self->loop = NULL;
	kl_resolver_close(self);
	kl_ready_clear(self);
	kl_drop_now(self);
	Py_CLEAR(self->sock_spare);
	Py_CLEAR(self->spare_bytes);
	Py_CLEAR(self->task_keywords);
	return 0;
}

PyObject *kl_loop_close_ring(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	LoopObject *self = (LoopObject *)op;
	int code;

	if (self->running) {
		PyErr_SetString(PyExc_RuntimeError, "Cannot close a running event loop");
		return NULL;
	}
	code = close_ring(self);
	if (code < 0)
		return kl_raise(self->state, code);
	Py_RETURN_NONE;
}

void kl_loop_finish(LoopObject *self)
{
	PyObject *exception = kl_exception_take();
	int code = close_ring(self);

	if (code < 0) {
		kl_raise(self->state, code);
		PyErr_WriteUnraisable(NULL);
	}
	if (exception != NULL)
		kl_exception_give(exception);
}

/* ---- counters ---------------------------------------------------------- */

PyObject *kl_loop_stats(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	LoopObject *self = (LoopObject *)op;
	struct kloop_stats s;
	int code;

	if (kl_check_closed(self) < 0)
		return NULL;
	code = kloop_loop_get_stats(self->loop, &s, sizeof(s));
	if (code < 0)
		return kl_raise(self->state, code);
#define COUNTER(name) #name, (unsigned long long)s.name
	return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsKsKsKsKsKsKsn}", COUNTER(turns),
			     COUNTER(enters), COUNTER(waits), COUNTER(submissions),
			     COUNTER(completions), COUNTER(overflows), COUNTER(queue_full),
			     COUNTER(wakes), COUNTER(timers_fired), COUNTER(timers_active),
			     COUNTER(in_flight), COUNTER(buffers), COUNTER(buffers_lent),
			     COUNTER(buffers_empty), COUNTER(direct_calls), "callbacks",
			     self->callbacks, "ready", (Py_ssize_t)self->ready_count);
#undef COUNTER
}

PyObject *kl_loop_features(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	LoopObject *self = (LoopObject *)op;

	if (kl_check_closed(self) < 0)
		return NULL;
	return PyLong_FromUnsignedLongLong(kloop_loop_get_features(self->loop));
}
