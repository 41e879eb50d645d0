/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A method of the reader's subclass, as an object: it knows the function of
 * asyncio that it stands for, has its name, signature and documentation, and
 * hands over to it whatever is out of the ordinary. So nothing but the
 * ordinary needs to be done, and be right, in C.
 */
#include "streams.h"

PyObject *kl_method_leave(MethodObject *method, PyObject *const *args, Py_ssize_t nargs,
			  PyObject *kwnames)
{
	return PyObject_Vectorcall(method->original, args, (size_t)nargs, kwnames);
}

static PyObject *method_call(PyObject *op, PyObject *const *args, size_t flagged,
			     PyObject *kwnames)
{
	MethodObject *self = (MethodObject *)op;
	Py_ssize_t nargs = PyVectorcall_NARGS(flagged);
	ReaderObject *state;
	PyObject *result;

	if (nargs < 1 || (PyObject *)Py_TYPE(args[0]) != self->streams->fast_class)
		return kl_method_leave(self, args, nargs, kwnames);
	state = kl_reader_of(self->streams, args[0]);
	if (state == NULL)
		return NULL;
	result = self->def->function(self, state, args, nargs, kwnames);
	Py_DECREF(state);
	return result;
}

static PyObject *method_get(PyObject *op, PyObject *object, PyObject *Py_UNUSED(type))
{
	return object == NULL || object == Py_None ? Py_NewRef(op) : PyMethod_New(op, object);
}

/* Attributes are those of the original, so that help() and inspect see it. */
static PyObject *method_getattr(PyObject *op, PyObject *name)
{
	MethodObject *self = (MethodObject *)op;
	struct kl_streams *streams = self->streams;
	PyObject *mark = NULL;

	if (PyUnicode_CompareWithASCIIString(name, "__class__") == 0)
		return PyObject_GenericGetAttr(op, name);
	if (PyUnicode_CompareWithASCIIString(name, "__wrapped__") == 0)
		return Py_NewRef(self->original);
	/* Is it async? asyncio and inspect ask these. */
	if (self->def->async && PyUnicode_Compare(name, streams->names._is_coroutine) == 0)
		mark = streams->is_coroutine;
	else if (self->def->async && PyUnicode_Compare(name, streams->names._is_coroutine_mark) == 0)
		mark = streams->coroutine_mark;
	return mark != NULL ? Py_NewRef(mark) : PyObject_GetAttr(self->original, name);
}

static PyObject *method_repr(PyObject *op)
{
	return PyUnicode_FromFormat("<kloop's %R>", ((MethodObject *)op)->original);
}

static int method_traverse(PyObject *op, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(op));
	Py_VISIT(((MethodObject *)op)->module);
	Py_VISIT(((MethodObject *)op)->original);
	return 0;
}

static void method_dealloc(PyObject *op)
{
	MethodObject *self = (MethodObject *)op;
	PyTypeObject *type = Py_TYPE(op);

	PyObject_GC_UnTrack(op);
	Py_CLEAR(self->original);
	Py_CLEAR(self->module);
	PyObject_GC_Del(op);
	Py_DECREF(type);
}

static PyMemberDef members[] = {
	{ "__vectorcalloffset__", T_PYSSIZET, offsetof(MethodObject, vectorcall), READONLY, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot slots[] = {
	{ Py_tp_doc, (void *)"A method of StreamReader." },
	{ Py_tp_dealloc, method_dealloc },
	{ Py_tp_traverse, method_traverse },
	{ Py_tp_members, members },
	{ Py_tp_repr, method_repr },
	{ Py_tp_getattro, method_getattr },
	{ Py_tp_descr_get, method_get },
	{ Py_tp_call, PyVectorcall_Call },
	{ 0, NULL },
};

/* Its tp_clear is that of the class that has it: cycles end there. */
static PyType_Spec spec = {
	.name = "kloop._kloop.ReaderMethod",
	.basicsize = sizeof(MethodObject),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
		 Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL |
		 Py_TPFLAGS_METHOD_DESCRIPTOR,
	.slots = slots,
};

int kl_method_add(struct kl_streams *streams, PyObject *module, const struct kl_method_def *def)
{
	MethodObject *self = PyObject_GC_New(MethodObject, streams->method_type);
	int result;

	if (self == NULL)
		return -1;
	self->vectorcall = method_call;
	self->streams = streams;
	self->module = Py_NewRef(module);
	self->def = def;
	self->original = PyObject_GetAttrString(streams->reader_class, def->name);
	PyObject_GC_Track(self);
	result = self->original == NULL ? -1
					: PyObject_SetAttrString(streams->fast_class, def->name,
								 (PyObject *)self);
	Py_DECREF(self);
	return result;
}

int kl_method_init(PyObject *module, struct kl_streams *streams)
{
	streams->method_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
	return streams->method_type != NULL ? 0 : -1;
}
