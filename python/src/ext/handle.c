/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Handle: a callback with its arguments and context, in asyncio's semantics.
 *
 * A handle that nobody else keeps lives from call_soon() to its call, so
 * making and dropping one is the hot path: objects come from a free list and
 * hold their arguments inline. The collector does not know a handle while it is
 * in the ready ring: the loop stands in for it (kl_ready_traverse), and one
 * that outlives the ring is made known then (kl_ready_drop). Where many tasks
 * start at once, collections take most of the time, and a fifth of what they
 * look at would be handles.
 */
#include "handle.h"

/* So many handles may free each other, as arguments, one inside the other: the stack is finite. */
#define MOST_NESTED 50

/* ---- life -------------------------------------------------------------- */

PyObject *kl_extract_stack(struct kl_state *state)
{
	return PyObject_CallNoArgs(state->extract_stack);
}

/* An object with all fields of its own cleared, from the free list or new. */
static struct kl_handle *allocate(struct kl_state *state)
{
	struct kl_handle *h = state->free_handles;

	if (h != NULL) {
		state->free_handles = (struct kl_handle *)h->callback;
		state->free_handle_count--;
		h->callback = NULL;
		PyObject_Init((PyObject *)h, state->handle_type);
		return h;
	}
	h = PyObject_GC_New(struct kl_handle, state->handle_type);
	if (h != NULL)
		memset((char *)h + sizeof(PyObject), 0, sizeof(*h) - sizeof(PyObject));
	return h;
}

struct kl_handle_rare *kl_handle_get_rare(struct kl_handle *h)
{
	if (h->rare == NULL)
		h->rare = PyMem_Calloc(1, sizeof(*h->rare));
	if (h->rare == NULL)
		PyErr_NoMemory();
	return h->rare;
}

/* In debug mode: where it was made. 0, or -1 with an error set. */
static int note_source(struct kl_handle *h)
{
	struct kl_handle_rare *rare = kl_handle_get_rare(h);

	if (rare != NULL)
		rare->source_traceback = kl_extract_stack(h->loop->state);
	return rare != NULL && rare->source_traceback != NULL ? 0 : -1;
}

/* Fill in what both types share. Steals context. 0, or -1 with an error set. */
int kl_handle_fill(struct kl_handle *h, LoopObject *self, PyObject *callback, PyObject *const *args,
		Py_ssize_t nargs, PyObject *context)
{
	Py_ssize_t i;

	Py_INCREF(self);
	h->loop = self;
	h->context = context;
	h->callback = Py_NewRef(callback);
	h->cancelled = false;
	h->scheduled = false;
	h->running = false;
	h->hidden = false;
	h->threadsafe = false;
	h->c_call = false;
	h->nargs = 0;
	h->packed = nargs > KL_INLINE_ARGS;
	if (!h->packed) {
		for (i = 0; i < nargs; i++)
			h->call.args[1 + i] = Py_NewRef(args[i]);
		h->nargs = (uint8_t)nargs;
	} else {
		PyObject *tuple = PyTuple_New(nargs);

		if (tuple == NULL)
			return -1;
		for (i = 0; i < nargs; i++)
			PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
		h->call.args[1] = tuple;
		h->nargs = 1;
	}
	return self->debug ? note_source(h) : 0;
}

PyObject *kl_handle_context(PyObject *context)
{
	if (context == NULL)
		return PyContext_CopyCurrent();
	return Py_NewRef(context);
}

struct kl_handle *kl_handle_new(LoopObject *self, PyObject *callback, PyObject *const *args,
				Py_ssize_t nargs, PyObject *context)
{
	struct kl_handle *h;

	context = kl_handle_context(context);
	if (context == NULL)
		return NULL;
	h = allocate(self->state);
	if (h == NULL) {
		Py_DECREF(context);
		return NULL;
	}
	if (kl_handle_fill(h, self, callback, args, nargs, context) < 0) {
		Py_DECREF(h);
		return NULL;
	}
	return h;
}

int kl_handle_traverse(PyObject *op, visitproc visit, void *arg)
{
	struct kl_handle *h = (struct kl_handle *)op;
	int i;

	Py_VISIT(Py_TYPE(op));
	Py_VISIT(h->loop);
	Py_VISIT(h->callback);
	Py_VISIT(h->context);
	if (h->rare != NULL) {
		Py_VISIT(h->rare->source_traceback);
		Py_VISIT(h->rare->when);
	}
	for (i = 0; i < h->nargs; i++)
		Py_VISIT(h->call.args[1 + i]);
	return 0;
}

/* Drop the callback and its arguments. */
static void drop_call(struct kl_handle *h)
{
	int i, n = h->nargs;

	h->nargs = 0;
	h->packed = false;
	h->c_call = false;
	Py_CLEAR(h->callback);
	for (i = 1; i <= n; i++)
		Py_CLEAR(h->call.args[i]);
}

/* Drop what is rare. Its values are of classes that anybody may have written. */
static void drop_rare(struct kl_handle *h)
{
	struct kl_handle_rare *rare = h->rare;

	if (rare == NULL)
		return;
	h->rare = NULL;
	Py_XDECREF(rare->source_traceback);
	Py_XDECREF(rare->repr);
	Py_XDECREF(rare->when);
	PyMem_Free(rare);
}

int kl_handle_clear(PyObject *op)
{
	struct kl_handle *h = (struct kl_handle *)op;

	drop_call(h);
	Py_CLEAR(h->context);
	drop_rare(h);
	Py_CLEAR(h->loop);
	return 0;
}

/*
 * The module's state, for the free lists; NULL once the collector has cleared the handle. At the
 * interpreter's end its type may have been cleared, too, and cannot be asked.
 */
struct kl_state *kl_handle_state(PyObject *op)
{
	LoopObject *loop = ((struct kl_handle *)op)->loop;

	return loop != NULL ? loop->state : NULL;
}

bool kl_handle_begin_dealloc(struct kl_state *state, struct kl_handle *h)
{
	if (state == NULL || state->nested_deallocs < MOST_NESTED) {
		if (state != NULL)
			state->nested_deallocs++;
		return true;
	}
	h->weakrefs = (PyObject *)state->late_handles;
	state->late_handles = h;
	return false;
}

void kl_handle_end_dealloc(struct kl_state *state)
{
	struct kl_handle *h;

	if (state == NULL)
		return;
	while (state->nested_deallocs == 1 && state->late_handles != NULL) {
		h = state->late_handles;
		state->late_handles = (struct kl_handle *)h->weakrefs;
		h->weakrefs = NULL;
		Py_TYPE(h)->tp_dealloc((PyObject *)h);
	}
	state->nested_deallocs--;
}

void kl_handle_dealloc(PyObject *op)
{
	struct kl_handle *h = (struct kl_handle *)op;
	PyTypeObject *type = Py_TYPE(op);
	struct kl_state *state = kl_handle_state(op);
	LoopObject *loop = h->loop; /* keeps the state alive until the end */

	PyObject_GC_UnTrack(op);
	if (h->weakrefs != NULL)
		PyObject_ClearWeakRefs(op);
	if (!kl_handle_begin_dealloc(state, h))
		return;
	h->loop = NULL;
	drop_call(h);
	Py_CLEAR(h->context);
	drop_rare(h);
	if (state != NULL && state->free_handle_count < KL_FREE_HANDLES) {
		h->callback = (PyObject *)state->free_handles;
		state->free_handles = h;
		state->free_handle_count++;
	} else {
		PyObject_GC_Del(op);
	}
	kl_handle_end_dealloc(state);
	Py_DECREF(type);
	Py_XDECREF(loop);
}

/* ---- the call ---------------------------------------------------------- */

PyObject *kl_handle_copy_args(struct kl_handle *h)
{
	PyObject *args;
	int i;

	if (h->packed)
		return Py_NewRef(h->call.args[1]);
	args = PyTuple_New(h->nargs);
	for (i = 0; args != NULL && i < h->nargs; i++)
		PyTuple_SET_ITEM(args, i, Py_NewRef(h->call.args[1 + i]));
	return args;
}

/* The callback's text for messages, as asyncio writes it. */
static PyObject *format_call(struct kl_handle *h)
{
	struct kl_state *state = h->loop->state;
	PyObject *args, *text;

	args = kl_handle_copy_args(h);
	if (args == NULL)
		return NULL;
	if (state->format_callback_debug) {
		PyObject *stack[] = { h->callback, args, h->loop->debug ? Py_True : Py_False };
		PyObject *names = PyTuple_Pack(1, state->names.debug);

		text = names == NULL ? NULL
				     : PyObject_Vectorcall(state->format_callback, stack, 2, names);
		Py_XDECREF(names);
	} else {
		text = PyObject_CallFunctionObjArgs(state->format_callback, h->callback, args, NULL);
	}
	Py_DECREF(args);
	return text;
}

/* Tell the loop's exception handler of the exception that is set. */
static int report_failure(struct kl_handle *h)
{
	LoopObject *self = h->loop;
	PyObject *exception, *text, *message = NULL;
	const char *utf8 = NULL;

	if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) ||
	    PyErr_ExceptionMatches(PyExc_SystemExit))
		return -1;
	exception = kl_exception_take();
	text = format_call(h);
	if (text != NULL)
		message = PyUnicode_FromFormat("Exception in callback %U", text);
	if (message != NULL)
		utf8 = PyUnicode_AsUTF8(message);
	if (utf8 == NULL) {
		PyErr_Clear();
		utf8 = "Exception in callback";
	}
	kl_call_exception_handler(self, utf8, exception, "handle", (PyObject *)h,
				  "source_traceback",
				  h->rare != NULL ? h->rare->source_traceback : NULL);
	Py_XDECREF(text);
	Py_XDECREF(message);
	Py_DECREF(exception);
	return 0;
}

static PyObject *call(struct kl_handle *h)
{
	if (h->packed)
		return PyObject_CallObject(h->callback, h->call.args[1]);
	return PyObject_Vectorcall(h->callback, &h->call.args[1],
				   (size_t)h->nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

static int run_c(struct kl_handle *h)
{
	void (*run)(PyObject *owner) = h->call.run;
	PyObject *owner = h->call.args[1];

	h->nargs = 0;
	h->call.args[1] = NULL;
	h->c_call = false;
	run(owner);
	Py_DECREF(owner);
	return 0;
}

int kl_handle_run(struct kl_handle *h)
{
	PyObject *context = h->context, *result = NULL;
	bool outer = h->running; /* the callback itself may call _run(), which cannot enter */
	int failed = 0;

	if (h->c_call)
		return run_c(h);
	if (h->callback == NULL || context == NULL)
		return 0;
	/* A cancel from inside the callback must not take the arguments from under it. */
	h->running = true;
	h->locked = h->threadsafe;
	if (PyContext_Enter(context) == 0) {
		result = call(h);
		if (PyContext_Exit(context) < 0)
			Py_CLEAR(result);
	}
	h->running = outer;
	if (result == NULL)
		failed = report_failure(h);
	else
		Py_DECREF(result);
	if (outer)
		return failed;
	if (h->locked)
		kl_handle_unlock(h);
	if (h->cancelled)
		drop_call(h);
	return failed;
}

static void keep_repr(struct kl_handle *h)
{
	struct kl_handle_rare *rare = kl_handle_get_rare(h);
	PyObject *text = rare != NULL ? PyObject_Repr((PyObject *)h) : NULL;

	if (text == NULL)
		PyErr_WriteUnraisable((PyObject *)h);
	else
		Py_XSETREF(rare->repr, text);
}

void kl_handle_cancel(struct kl_handle *h)
{
	if (h->cancelled)
		return;
	if (h->loop != NULL && h->loop->debug) {
		h->cancelled = true;
		keep_repr(h);
	}
	h->cancelled = true;
	h->hidden = true;
	if (!h->running)
		drop_call(h);
}

int kl_call_soon(LoopObject *self, PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
		 PyObject *context)
{
	struct kl_handle *h = kl_handle_new(self, callback, args, nargs, context);

	return h == NULL ? -1 : kl_ready_push(self, (PyObject *)h);
}

int kl_call_soon_c(LoopObject *self, void (*run)(PyObject *owner), PyObject *owner)
{
	struct kl_handle *h = allocate(self->state);

	if (h == NULL)
		return -1;
	Py_INCREF(self);
	h->loop = self;
	h->cancelled = false;
	h->scheduled = false;
	h->running = false;
	h->hidden = false;
	h->threadsafe = false;
	h->packed = false;
	h->c_call = true;
	h->call.run = run;
	h->call.args[1] = Py_NewRef(owner);
	h->nargs = 1;
	return kl_ready_push(self, (PyObject *)h);
}

void kl_handle_fini(struct kl_state *state)
{
	while (state->free_handles != NULL) {
		struct kl_handle *h = state->free_handles;

		state->free_handles = (struct kl_handle *)h->callback;
		PyObject_GC_Del(h);
	}
	/* Full, so that nothing is put there any more. */
	state->free_handle_count = KL_FREE_HANDLES;
	kl_timer_handle_fini(state);
}
