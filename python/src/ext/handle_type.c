/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Handle as Python sees it: its methods and attributes, which are those of asyncio.Handle. */
#include "handle.h"

static const char handle_doc[] =
	"A callback that call_soon() scheduled.\n\n"
	"cancel() takes it back; it behaves as asyncio.Handle does.";

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

	if (h->rare != NULL && h->rare->repr != NULL)
		return Py_NewRef(h->rare->repr);
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

	if (!shows_call(h))
		Py_RETURN_NONE;
	return kl_handle_copy_args(h);
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
	struct kl_handle_rare *rare = ((struct kl_handle *)op)->rare;

	return or_none(rare != NULL ? rare->source_traceback : NULL);
}

static PyObject *get_repr(PyObject *op, void *Py_UNUSED(closure))
{
	struct kl_handle_rare *rare = ((struct kl_handle *)op)->rare;

	return or_none(rare != NULL ? rare->repr : NULL);
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
	{ Py_tp_dealloc, kl_handle_dealloc },
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
