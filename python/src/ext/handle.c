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

static const char handle_doc[] =
	"A callback that call_soon() scheduled.\n\n"
	"cancel() takes it back; it behaves as asyncio.Handle does.";

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
	h->nargs = 0;
	if (nargs <= KL_INLINE_ARGS) {
		for (i = 0; i < nargs; i++)
			h->args[1 + i] = Py_NewRef(args[i]);
		h->nargs = (uint8_t)nargs;
	} else {
		h->more = PyTuple_New(nargs);
		if (h->more == NULL)
			return -1;
		for (i = 0; i < nargs; i++)
			PyTuple_SET_ITEM(h->more, i, Py_NewRef(args[i]));
	}
	if (self->debug) {
		h->source_traceback = kl_extract_stack(self->state);
		if (h->source_traceback == NULL)
			return -1;
	}
	return 0;
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
	Py_VISIT(h->more);
	Py_VISIT(h->source_traceback);
	for (i = 0; i < h->nargs; i++)
		Py_VISIT(h->args[1 + i]);
	return 0;
}

/* Drop the callback and its arguments. */
static void drop_call(struct kl_handle *h)
{
	int i, n = h->nargs;

	h->nargs = 0;
	h->run_c = NULL;
	Py_CLEAR(h->callback);
	for (i = 1; i <= n; i++)
		Py_CLEAR(h->args[i]);
	Py_CLEAR(h->more);
}

int kl_handle_clear(PyObject *op)
{
	struct kl_handle *h = (struct kl_handle *)op;

	drop_call(h);
	Py_CLEAR(h->context);
	Py_CLEAR(h->source_traceback);
	Py_CLEAR(h->repr);
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

static void handle_dealloc(PyObject *op)
{
	struct kl_handle *h = (struct kl_handle *)op;
	PyTypeObject *type = Py_TYPE(op);
	struct kl_state *state = kl_handle_state(op);
	LoopObject *loop = h->loop; /* keeps the state alive until the end */

	PyObject_GC_UnTrack(op);
	if (h->weakrefs != NULL)
		PyObject_ClearWeakRefs(op);
	h->loop = NULL;
	drop_call(h);
	Py_CLEAR(h->context);
	Py_CLEAR(h->source_traceback);
	Py_CLEAR(h->repr);
	if (state != NULL && state->free_handle_count < KL_FREE_HANDLES) {
		h->callback = (PyObject *)state->free_handles;
		state->free_handles = h;
		state->free_handle_count++;
	} else {
		PyObject_GC_Del(op);
	}
	Py_DECREF(type);
	Py_XDECREF(loop);
}

/* ---- the call ---------------------------------------------------------- */

/* The callback's text for messages, as asyncio writes it. */
static PyObject *format_call(struct kl_handle *h)
{
	struct kl_state *state = h->loop->state;
	PyObject *args, *text;

	args = h->more != NULL ? Py_NewRef(h->more) : PyTuple_New(h->nargs);
	if (args == NULL)
		return NULL;
	if (h->more == NULL) {
		int i;

		for (i = 0; i < h->nargs; i++)
			PyTuple_SET_ITEM(args, i, Py_NewRef(h->args[1 + i]));
	}
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
				  "source_traceback", h->source_traceback);
	Py_XDECREF(text);
	Py_XDECREF(message);
	Py_DECREF(exception);
	return 0;
}

static PyObject *call(struct kl_handle *h)
{
	if (h->more != NULL)
		return PyObject_CallObject(h->callback, h->more);
	return PyObject_Vectorcall(h->callback, &h->args[1],
				   (size_t)h->nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

static int run_c(struct kl_handle *h)
{
	void (*run)(PyObject *owner) = h->run_c;
	PyObject *owner = h->args[1];

	h->nargs = 0;
	h->args[1] = NULL;
	h->run_c = NULL;
	run(owner);
	Py_DECREF(owner);
	return 0;
}

int kl_handle_run(struct kl_handle *h)
{
	PyObject *context = h->context, *result = NULL;
	int failed = 0;

	if (h->run_c != NULL)
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
	h->running = false;
	if (result == NULL)
		failed = report_failure(h);
	else
		Py_DECREF(result);
	if (h->locked)
		kl_handle_unlock(h);
	if (h->cancelled)
		drop_call(h);
	return failed;
}

void kl_handle_cancel(struct kl_handle *h)
{
	if (h->cancelled)
		return;
	if (h->loop != NULL && h->loop->debug) {
		h->cancelled = true;
		h->repr = PyObject_Repr((PyObject *)h);
		if (h->repr == NULL)
			PyErr_WriteUnraisable((PyObject *)h);
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
	h->run_c = run;
	h->args[1] = Py_NewRef(owner);
	h->nargs = 1;
	return kl_ready_push(self, (PyObject *)h);
}

/* ---- Python's view ----------------------------------------------------- */

static PyObject *handle_cancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	if (kl_handle_wait((struct kl_handle *)op) < 0)
		return NULL;
	kl_handle_cancel((struct kl_handle *)op);
	Py_RETURN_NONE;
}

static PyObject *handle_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	if (kl_handle_wait((struct kl_handle *)op) < 0)
		return NULL;
	return PyBool_FromLong(((struct kl_handle *)op)->cancelled);
}

static PyObject *handle_run(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	struct kl_handle *h = (struct kl_handle *)op;
	int failed;

	Py_INCREF(h);
	failed = kl_handle_run(h);
	Py_DECREF(h);
	if (failed == 0)
		Py_RETURN_NONE;
	return NULL;
}

static PyObject *handle_get_context(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	PyObject *context = ((struct kl_handle *)op)->context;

	return Py_NewRef(context == NULL ? Py_None : context);
}

PyObject *kl_handle_repr_info(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	struct kl_handle *h = (struct kl_handle *)op;

	return PyObject_CallOneArg(h->loop->state->handle_repr_info, op);
}

static PyObject *handle_repr(PyObject *op)
{
	struct kl_handle *h = (struct kl_handle *)op;
	PyObject *info, *space, *words, *text = NULL;

	if (h->repr != NULL)
		return Py_NewRef(h->repr);
	if (h->loop == NULL)
		return PyUnicode_FromString("<Handle>");
	info = PyObject_CallMethod(op, "_repr_info", NULL);
	if (info == NULL)
		return NULL;
	space = PyUnicode_FromString(" ");
	words = space == NULL ? NULL : PyUnicode_Join(space, info);
	if (words != NULL)
		text = PyUnicode_FromFormat("<%U>", words);
	Py_XDECREF(words);
	Py_XDECREF(space);
	Py_DECREF(info);
	return text;
}

/* A cancelled handle shows no callback, also while that is still running. */
static bool shows_call(const struct kl_handle *h)
{
	return h->callback != NULL && !h->hidden;
}

PyObject *kl_handle_get_callback(PyObject *op, void *Py_UNUSED(closure))
{
	struct kl_handle *h = (struct kl_handle *)op;

	return Py_NewRef(shows_call(h) ? h->callback : Py_None);
}

PyObject *kl_handle_get_args(PyObject *op, void *Py_UNUSED(closure))
{
	struct kl_handle *h = (struct kl_handle *)op;
	PyObject *args;
	int i;

	if (!shows_call(h))
		Py_RETURN_NONE;
	if (h->more != NULL)
		return Py_NewRef(h->more);
	args = PyTuple_New(h->nargs);
	for (i = 0; args != NULL && i < h->nargs; i++)
		PyTuple_SET_ITEM(args, i, Py_NewRef(h->args[1 + i]));
	return args;
}

static PyObject *or_none(PyObject *object)
{
	return Py_NewRef(object == NULL ? Py_None : object);
}

static PyObject *get_context(PyObject *op, void *Py_UNUSED(closure))
{
	return or_none(((struct kl_handle *)op)->context);
}

static PyObject *get_loop(PyObject *op, void *Py_UNUSED(closure))
{
	return or_none((PyObject *)((struct kl_handle *)op)->loop);
}

static PyObject *get_source_traceback(PyObject *op, void *Py_UNUSED(closure))
{
	return or_none(((struct kl_handle *)op)->source_traceback);
}

static PyObject *get_repr(PyObject *op, void *Py_UNUSED(closure))
{
	return or_none(((struct kl_handle *)op)->repr);
}

static PyObject *get_cancelled(PyObject *op, void *Py_UNUSED(closure))
{
	return PyBool_FromLong(((struct kl_handle *)op)->cancelled);
}

static PyMethodDef handle_methods[] = {
	{ "cancel", handle_cancel, METH_NOARGS, "Take the callback back; it will not be called." },
	{ "cancelled", handle_cancelled, METH_NOARGS, "Was it cancelled?" },
	{ "get_context", handle_get_context, METH_NOARGS, "The contextvars.Context of the call." },
	{ "_run", handle_run, METH_NOARGS, "Call the callback in its context." },
	{ "_repr_info", kl_handle_repr_info, METH_NOARGS, "The words of repr()." },
	KL_NO_PICKLE,
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef handle_getset[] = {
	{ "_callback", kl_handle_get_callback, NULL, "The callback, None once cancelled.", NULL },
	{ "_args", kl_handle_get_args, NULL, "Its arguments, None once cancelled.", NULL },
	{ "_context", get_context, NULL, "The contextvars.Context of the call.", NULL },
	{ "_loop", get_loop, NULL, "The loop.", NULL },
	{ "_source_traceback", get_source_traceback, NULL,
	  "Where it was made, in debug mode; else None.", NULL },
	{ "_repr", get_repr, NULL, "What repr() was when it was cancelled in debug mode.", NULL },
	{ "_cancelled", get_cancelled, NULL, "Was it cancelled?", NULL },
	{ "__class__", kl_handle_get_class, NULL, "asyncio's class for it.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyMemberDef handle_members[] = {
	{ "__weaklistoffset__", T_PYSSIZET, offsetof(struct kl_handle, weakrefs), READONLY, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot handle_slots[] = {
	{ Py_tp_doc, (void *)handle_doc },
	{ Py_tp_dealloc, handle_dealloc },
	{ Py_tp_traverse, kl_handle_traverse },
	{ Py_tp_clear, kl_handle_clear },
	{ Py_tp_repr, handle_repr },
	{ Py_tp_methods, handle_methods },
	{ Py_tp_getset, handle_getset },
	{ Py_tp_members, handle_members },
	{ 0, NULL },
};

static PyType_Spec handle_spec = {
	.name = "kloop.Handle",
	.basicsize = sizeof(struct kl_handle),
	/* BASETYPE is for TimerHandle, and taken away when that is made. */
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
		 Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_BASETYPE,
	.slots = handle_slots,
};

int kl_handle_init(PyObject *module, struct kl_state *state)
{
	if (kl_handle_import(state) < 0)
		return -1;
	state->handle_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &handle_spec, NULL);
	if (state->handle_type == NULL || kl_timer_handle_init(module, state) < 0)
		return -1;
	state->handle_type->tp_flags &= ~Py_TPFLAGS_BASETYPE;
	return PyModule_AddType(module, state->handle_type);
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
