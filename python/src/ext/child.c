/* SPDX-License-Identifier: MulanPSL-2.0 */
/* loop._watch_pid(): the end of a child process, by a pidfd in the ring. */
#include "ext.h"

#include <errno.h>

struct kl_child {
	struct kloop_child *watcher;
	LoopObject *loop; /* borrowed: its children end before it does */
	PyObject *callback;
	PyObject *argument;
	PyObject *context;
	struct kl_child *next, **link; /* loop->children */
};

static struct kl_child *make_child(LoopObject *loop, PyObject *callback, PyObject *argument)
{
	struct kl_child *child = PyMem_Calloc(1, sizeof(*child));

	if (child == NULL) {
		PyErr_NoMemory();
		return NULL;
	}
	child->context = PyContext_CopyCurrent();
	if (child->context == NULL) {
		PyMem_Free(child);
		return NULL;
	}
	child->loop = loop;
	child->callback = Py_NewRef(callback);
	child->argument = Py_NewRef(argument);
	KL_LIST_PUSH(loop->children, child);
	return child;
}

static void free_child(struct kl_child *child)
{
	KL_LIST_REMOVE(child);
	Py_DECREF(child->callback);
	Py_DECREF(child->argument);
	Py_DECREF(child->context);
	PyMem_Free(child);
}

/* It has ended, or the loop is closed: maybe without the GIL. */
static void ended(struct kloop_child *watcher, pid_t pid, int status, void *data)
{
	struct kl_child *child = data;
	LoopObject *loop = child->loop;
	PyObject *args[2];

	(void)watcher;
	(void)pid;
	kl_py_enter(loop);
	if (status == -ECANCELED && loop->closed) {
		free_child(child);
		return;
	}
	args[0] = child->argument;
	args[1] = PyLong_FromLong(status);
	/* After what the child wrote and this iteration found. */
	if (args[1] == NULL ||
	    kl_call_soon(loop, child->callback, args, 2, child->context) < 0)
		kl_report_exception(loop, "The end of a child process is lost", NULL, NULL);
	Py_XDECREF(args[1]);
	free_child(child);
}

KL_LOOP_METHOD(kl_loop_watch_pid)
{
	LoopObject *loop = (LoopObject *)self;
	struct kl_child *child;
	long pid;
	int code;

	if (nargs != 3 || kwnames != NULL) {
		PyErr_SetString(PyExc_TypeError, "_watch_pid() takes a pid, a callback and an argument");
		return NULL;
	}
	pid = PyLong_AsLong(args[0]);
	if ((pid == -1 && PyErr_Occurred()) || kl_check_closed(loop) < 0)
		return NULL;
	if (!kl_on_loop_thread(loop)) {
		kl_raise_wrong_thread();
		return NULL;
	}
	child = make_child(loop, args[1], args[2]);
	if (child == NULL)
		return NULL;
	code = kloop_child_new(loop->loop, (pid_t)pid, ended, child, &child->watcher);
	if (code == 0)
		Py_RETURN_NONE;
	free_child(child);
	/* A sandbox says -EPERM, and -ECHILD is about the process: not as elsewhere. */
	errno = -code;
	return PyErr_SetFromErrno(PyExc_OSError);
}

int kl_children_traverse(LoopObject *self, visitproc visit, void *arg)
{
	struct kl_child *child;

	for (child = self->children; child != NULL; child = child->next) {
		Py_VISIT(child->callback);
		Py_VISIT(child->argument);
		Py_VISIT(child->context);
	}
	return 0;
}
