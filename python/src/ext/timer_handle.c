/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * TimerHandle: a Handle with a time. Its timer is one of libkloop's, inside
 * the object; a cancel takes it out of the heap at once, so that cancelled
 * timers cost nothing.
 */
#include "handle.h"

#include <errno.h>
#include <math.h>

static const char timer_handle_doc[] =
	"A callback that call_later() or call_at() scheduled.\n\n"
	"cancel() takes it back, when() is its time; it behaves as asyncio.TimerHandle does.";

/* Python's clock is a double of seconds. "Never" is 292 years. */
static uint64_t deadline_ns(double when)
{
	double seconds;
	double fraction;

	if (!(when > 0)) /* the past, and NaN, which asyncio calls at once */
		return 0;
	if (when >= 9.2e9)
		return INT64_MAX;
	fraction = modf(when, &seconds) * 1e9;
	return (uint64_t)seconds * 1000000000u + (uint64_t)ceil(fraction);
}

static void unlink_timer(struct kl_timer_handle *h)
{
	KL_LIST_REMOVE(h);
	h->base.scheduled = false;
}

/* The time has come; maybe without the GIL. */
static void expire(struct kloop_timer *timer)
{
	struct kl_timer_handle *h =
		(struct kl_timer_handle *)((char *)timer - offsetof(struct kl_timer_handle, timer));
	LoopObject *self = h->base.loop;

	kl_py_enter(self);
	unlink_timer(h);
	if (h->base.cancelled)
		Py_DECREF(h);
	else if (kl_ready_push(self, (PyObject *)h) < 0)
		kl_report_exception(self, "A timer is lost", NULL, NULL);
}

/* Hand the timer to the ring, with a reference: 0 or a negative code. */
static int start(LoopObject *self, struct kl_timer_handle *h)
{
	int code = kloop_timer_start(self->loop, &h->timer, deadline_ns(h->when));

	if (code < 0)
		return code;
	Py_INCREF(h);
	KL_LIST_PUSH(self->timers, h);
	h->base.scheduled = true;
	return 0;
}

/* The first iteration on a new thread: see kl_timer_handle_new(). */
static void start_later(PyObject *op)
{
	struct kl_timer_handle *h = (struct kl_timer_handle *)op;
	int code;

	if (h->base.cancelled)
		return;
	code = start(h->base.loop, h);
	if (code < 0) {
		kl_raise(h->base.loop->state, code);
		kl_report_exception(h->base.loop, "A timer could not be started", "handle", op);
	}
}

static struct kl_timer_handle *allocate_timer(struct kl_state *state)
{
	struct kl_timer_handle *h = state->free_timer_handles;

	if (h != NULL) {
		state->free_timer_handles = (struct kl_timer_handle *)h->base.callback;
		state->free_timer_handle_count--;
		h->base.callback = NULL;
		PyObject_Init((PyObject *)h, state->timer_handle_type);
		return h;
	}
	h = PyObject_GC_New(struct kl_timer_handle, state->timer_handle_type);
	if (h == NULL)
		return NULL;
	memset((char *)h + sizeof(PyObject), 0, sizeof(*h) - sizeof(PyObject));
	kloop_timer_init(&h->timer, expire);
	return h;
}

/* What call_at() was given, where when() is not just as good. 0, or -1 with an error set. */
static int keep_when(struct kl_timer_handle *h, PyObject *when_object)
{
	struct kl_handle_rare *rare;

	if (when_object == NULL || PyFloat_CheckExact(when_object))
		return 0;
	rare = kl_handle_get_rare(&h->base);
	if (rare == NULL)
		return -1;
	rare->when = Py_NewRef(when_object);
	return 0;
}

PyObject *kl_timer_handle_new(LoopObject *self, double when, PyObject *when_object,
			      PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
			      PyObject *context)
{
	struct kl_timer_handle *h;
	int code;

	if (!kl_on_loop_thread(self)) {
		kl_raise_wrong_thread();
		return NULL;
	}
	context = kl_handle_context(context);
	if (context == NULL)
		return NULL;
	h = allocate_timer(self->state);
	if (h == NULL) {
		Py_DECREF(context);
		return NULL;
	}
	h->when = when;
	code = kl_handle_fill(&h->base, self, callback, args, nargs, context);
	if (code == 0)
		code = keep_when(h, when_object);
	PyObject_GC_Track(h);
	if (code < 0)
		goto fail;
	code = start(self, h);
	/* The loop is not running and was on another thread: the next run takes it over. */
	if (code == -EPERM && kl_call_soon_c(self, start_later, (PyObject *)h) == 0)
		return (PyObject *)h;
	if (code < 0 && !PyErr_Occurred())
		kl_raise(self->state, code);
	if (code == 0)
		return (PyObject *)h;
fail:
	Py_DECREF(h);
	return NULL;
}

void kl_timers_close(LoopObject *self)
{
	while (self->timers != NULL) {
		struct kl_timer_handle *h = self->timers;

		unlink_timer(h);
		kloop_timer_stop(&h->timer);
		Py_DECREF(h);
	}
}

static void timer_dealloc(PyObject *op)
{
	struct kl_timer_handle *h = (struct kl_timer_handle *)op;
	PyTypeObject *type = Py_TYPE(op);
	struct kl_state *state = kl_handle_state(op);
	LoopObject *loop = h->base.loop;

	PyObject_GC_UnTrack(op);
	if (h->base.weakrefs != NULL)
		PyObject_ClearWeakRefs(op);
	if (!kl_handle_begin_dealloc(state, &h->base))
		return;
	h->base.loop = NULL;
	kl_handle_clear(op);
	if (state != NULL && state->free_timer_handle_count < KL_FREE_HANDLES) {
		h->base.callback = (PyObject *)state->free_timer_handles;
		state->free_timer_handles = h;
		state->free_timer_handle_count++;
	} else {
		PyObject_GC_Del(op);
	}
	kl_handle_end_dealloc(state);
	Py_DECREF(type);
	Py_XDECREF(loop);
}

static PyObject *timer_cancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	struct kl_timer_handle *h = (struct kl_timer_handle *)op;

	/* From a wrong thread the timer stays in the heap, and expires as cancelled. */
	if (h->base.scheduled && kl_on_loop_thread(h->base.loop)) {
		kloop_timer_stop(&h->timer);
		unlink_timer(h);
		kl_handle_cancel(&h->base);
		Py_DECREF(h);
	} else {
		kl_handle_cancel(&h->base);
	}
	Py_RETURN_NONE;
}

static PyObject *timer_when(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	struct kl_timer_handle *h = (struct kl_timer_handle *)op;

	if (h->base.rare != NULL && h->base.rare->when != NULL)
		return Py_NewRef(h->base.rare->when);
	return PyFloat_FromDouble(h->when);
}

static PyObject *get_when(PyObject *op, void *Py_UNUSED(closure))
{
	return timer_when(op, NULL);
}

static PyObject *get_scheduled(PyObject *op, void *Py_UNUSED(closure))
{
	return PyBool_FromLong(((struct kl_handle *)op)->scheduled);
}

/* asyncio's words with when=... after the type's name or "cancelled". */
static PyObject *timer_repr_info(PyObject *op, PyObject *ignored)
{
	struct kl_timer_handle *h = (struct kl_timer_handle *)op;
	PyObject *info = kl_handle_repr_info(op, ignored), *when, *word = NULL;

	if (info == NULL)
		return NULL;
	when = timer_when(op, NULL);
	if (when != NULL)
		word = PyUnicode_FromFormat("when=%S", when);
	Py_XDECREF(when);
	if (word == NULL || PyList_Insert(info, h->base.cancelled ? 2 : 1, word) < 0)
		Py_CLEAR(info);
	Py_XDECREF(word);
	return info;
}

static Py_hash_t timer_hash(PyObject *op)
{
	PyObject *when = timer_when(op, NULL);
	Py_hash_t hash;

	if (when == NULL)
		return -1;
	hash = PyObject_Hash(when);
	Py_DECREF(when);
	return hash;
}

/* Are when, callback, arguments and state the same? 1, 0, or -1 with an error set. */
static int same_timer(struct kl_timer_handle *a, struct kl_timer_handle *b)
{
	PyObject *left, *right;
	int same;

	if (a->when != b->when || a->base.cancelled != b->base.cancelled)
		return 0;
	left = kl_handle_get_callback((PyObject *)a, NULL);
	right = kl_handle_get_callback((PyObject *)b, NULL);
	same = PyObject_RichCompareBool(left, right, Py_EQ);
	Py_DECREF(left);
	Py_DECREF(right);
	if (same <= 0)
		return same;
	left = kl_handle_get_args((PyObject *)a, NULL);
	right = kl_handle_get_args((PyObject *)b, NULL);
	same = left == NULL || right == NULL ? -1 : PyObject_RichCompareBool(left, right, Py_EQ);
	Py_XDECREF(left);
	Py_XDECREF(right);
	return same;
}

static PyObject *timer_richcompare(PyObject *op, PyObject *other, int compare)
{
	struct kl_timer_handle *a = (struct kl_timer_handle *)op;
	struct kl_timer_handle *b = (struct kl_timer_handle *)other;
	int result;

	if (Py_TYPE(op) != Py_TYPE(other))
		Py_RETURN_NOTIMPLEMENTED;
	if (compare == Py_LT || (compare == Py_LE && a->when < b->when))
		return PyBool_FromLong(a->when < b->when);
	if (compare == Py_GT || (compare == Py_GE && a->when > b->when))
		return PyBool_FromLong(a->when > b->when);
	result = same_timer(a, b);
	if (result < 0)
		return NULL;
	return PyBool_FromLong(compare == Py_NE ? !result : result);
}

static PyMethodDef timer_methods[] = {
	{ "cancel", timer_cancel, METH_NOARGS, "Take the callback back; it will not be called." },
	{ "when", timer_when, METH_NOARGS, "The time of the call, on the clock of loop.time()." },
	{ "_repr_info", timer_repr_info, METH_NOARGS, "The words of repr()." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef timer_getset[] = {
	{ "_when", get_when, NULL, "The time of the call.", NULL },
	{ "_scheduled", get_scheduled, NULL, "Is it waiting for its time?", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot timer_slots[] = {
	{ Py_tp_doc, (void *)timer_handle_doc },
	{ Py_tp_dealloc, timer_dealloc },
	{ Py_tp_traverse, kl_handle_traverse },
	{ Py_tp_clear, kl_handle_clear },
	{ Py_tp_hash, timer_hash },
	{ Py_tp_richcompare, timer_richcompare },
	{ Py_tp_methods, timer_methods },
	{ Py_tp_getset, timer_getset },
	{ 0, NULL },
};

static PyType_Spec timer_spec = {
	.name = "kloop.TimerHandle",
	.basicsize = sizeof(struct kl_timer_handle),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
		 Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = timer_slots,
};

int kl_timer_handle_init(PyObject *module, struct kl_state *state)
{
	PyObject *bases = PyTuple_Pack(1, state->handle_type);

	if (bases == NULL)
		return -1;
	state->timer_handle_type =
		(PyTypeObject *)PyType_FromModuleAndSpec(module, &timer_spec, bases);
	Py_DECREF(bases);
	if (state->timer_handle_type == NULL)
		return -1;
	return PyModule_AddType(module, state->timer_handle_type);
}

void kl_timer_handle_fini(struct kl_state *state)
{
	while (state->free_timer_handles != NULL) {
		struct kl_timer_handle *h = state->free_timer_handles;

		state->free_timer_handles = (struct kl_timer_handle *)h->base.callback;
		PyObject_GC_Del(h);
	}
	state->free_timer_handle_count = KL_FREE_HANDLES;
}
