/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * create_task(): asyncio's own, in few steps where nothing special is asked for.
 *
 * That is a coroutine and nothing else, no task factory, and no debug mode; asyncio's method does
 * all the rest, in the way of each Python version.
 */
#include "loop.h"

/* asyncio.BaseEventLoop.create_task(self, *args, **kwargs) */
static PyObject *create_by_asyncio(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
				   PyObject *kwnames)
{
	Py_ssize_t i, count = nargs + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames));
	PyObject **stack = PyMem_New(PyObject *, count + 1);
	PyObject *task;

	if (stack == NULL)
		return PyErr_NoMemory();
	stack[0] = (PyObject *)self;
	for (i = 0; i < count; i++)
		stack[1 + i] = args[i];
	task = PyObject_Vectorcall(self->state->base_create_task, stack, (size_t)nargs + 1, kwnames);
	PyMem_Free(stack);
	return task;
}

/* 1 without a task factory, 0 with one, or -1 with an error set. */
static int makes_plain_tasks(LoopObject *self)
{
	PyObject *factory = PyObject_GetAttr((PyObject *)self, self->state->names._task_factory);

	if (factory == NULL)
		return -1;
	Py_DECREF(factory);
	return factory == Py_None;
}

/* loop=self, made once: what asyncio's class in C is called with. It looks, and keeps nothing. */
static PyObject *task_keywords(LoopObject *self)
{
	if (self->task_keywords == NULL) {
		self->task_keywords = PyDict_New();
		if (self->task_keywords != NULL &&
		    PyDict_SetItem(self->task_keywords, self->state->names.loop,
				   (PyObject *)self) < 0)
			Py_CLEAR(self->task_keywords);
	}
	return Py_XNewRef(self->task_keywords);
}

PyObject *kl_loop_create_task(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
			      PyObject *kwnames)
{
	LoopObject *self = (LoopObject *)op;
	PyObject *class, *keywords, *one, *task = NULL;
	int plain;

	if (nargs != 1 || kwnames != NULL || self->debug)
		return create_by_asyncio(self, args, nargs, kwnames);
	if (kl_check_closed(self) < 0)
		return NULL;
	plain = makes_plain_tasks(self);
	if (plain < 0)
		return NULL;
	/* A program may have put a class of its own there, as for asyncio's loop. */
	class = PyDict_GetItemWithError(self->state->asyncio_tasks, self->state->names.Task);
	if (class == NULL && PyErr_Occurred())
		return NULL;
	if (!plain || class != self->state->task_class)
		return create_by_asyncio(self, args, nargs, kwnames);
	Py_INCREF(class);
	keywords = task_keywords(self);
	one = keywords == NULL ? NULL : PyTuple_Pack(1, args[0]);
	if (one != NULL)
		task = PyObject_Call(class, one, keywords);
	Py_XDECREF(one);
	Py_XDECREF(keywords);
	Py_DECREF(class);
	return task;
}
