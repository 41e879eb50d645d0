/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Calls from transports and listeners into Python, and arguments from it. */
#include "transport.h"

#include <string.h>

/* ---- arguments ------------------------------------------------------- */

static int find_name(const struct kl_signature *signature, PyObject *name)
{
	int i;

	for (i = 0; i < signature->total; i++)
		if (PyUnicode_CompareWithASCIIString(name, signature->names[i]) == 0)
			return i;
	return -1;
}

int kl_signature_unpack(const struct kl_signature *signature, PyObject *const *args,
			Py_ssize_t nargs, PyObject *kwnames, PyObject **out)
{
	Py_ssize_t count = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
	Py_ssize_t i;

	memset(out, 0, (size_t)signature->total * sizeof(out[0]));
	if (nargs > signature->positional) {
		PyErr_Format(PyExc_TypeError, "%s() takes at most %d positional arguments (%zd given)",
			     signature->function, signature->positional, nargs);
		return -1;
	}
	for (i = 0; i < nargs; i++)
		out[i] = args[i];
	for (i = 0; i < count; i++) {
		PyObject *name = PyTuple_GET_ITEM(kwnames, i);
		int position = find_name(signature, name);

		if (position < 0) {
			PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R",
				     signature->function, name);
			return -1;
		}
		if (out[position] != NULL) {
			PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument %R",
				     signature->function, name);
			return -1;
		}
		out[position] = args[nargs + i];
	}
	for (i = 0; i < signature->required; i++) {
		if (out[i] == NULL) {
			PyErr_Format(PyExc_TypeError, "%s() missing required argument '%s'",
				     signature->function, signature->names[i]);
			return -1;
		}
	}
	return 0;
}

/* ---- asyncio's log ---------------------------------------------------- */

/* logger.level("%s", text, exc_info=error); error may be NULL. */
static void log_line(const char *level, PyObject *text, PyObject *error)
{
	PyObject *module = PyImport_ImportModule("asyncio.log");
	PyObject *logger = NULL, *method = NULL, *args = NULL, *names = NULL, *result = NULL;

	if (module != NULL)
		logger = PyObject_GetAttrString(module, "logger");
	if (logger != NULL)
		method = PyObject_GetAttrString(logger, level);
	if (method != NULL)
		args = Py_BuildValue("(sO)", "%s", text);
	if (args != NULL)
		names = Py_BuildValue("{sO}", "exc_info", error != NULL ? error : Py_None);
	if (names != NULL)
		result = PyObject_Call(method, args, names);
	if (result == NULL)
		PyErr_WriteUnraisable(text);
	Py_XDECREF(module);
	Py_XDECREF(logger);
	Py_XDECREF(method);
	Py_XDECREF(args);
	Py_XDECREF(names);
	Py_XDECREF(result);
}

void kl_transport_log(const char *level, const char *text)
{
	PyObject *line = PyUnicode_FromString(text);

	if (line != NULL)
		log_line(level, line, NULL);
	else
		PyErr_WriteUnraisable(NULL);
	Py_XDECREF(line);
}

void kl_debug(LoopObject *loop, PyObject *transport, const char *level, const char *text,
	      PyObject *error)
{
	PyObject *line;

	if (!loop->debug)
		return;
	line = PyUnicode_FromFormat(error != NULL ? "%R: %s" : "%R %s", transport, text);
	if (line != NULL)
		log_line(level, line, error);
	else
		PyErr_WriteUnraisable(transport);
	Py_XDECREF(line);
}

void kl_transport_debug(TransportObject *self, const char *text, PyObject *error)
{
	kl_debug(self->loop, (PyObject *)self, "debug", text, error);
}

/* ---- calls ----------------------------------------------------------- */

PyObject *kl_call_in_context(PyObject *context, PyObject *callable, PyObject **args,
			     Py_ssize_t nargs)
{
	PyObject *result;

	if (PyContext_Enter(context) < 0)
		return NULL;
	result = PyObject_Vectorcall(callable, args,
				     (size_t)nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
	if (PyContext_Exit(context) < 0)
		Py_CLEAR(result);
	return result;
}

PyObject *kl_transport_call_server(TransportObject *self, PyObject *server, PyObject *name)
{
#if PY_VERSION_HEX >= 0x030D0000
	return PyObject_CallMethodOneArg(server, name, (PyObject *)self);
#else
	(void)self;
	return PyObject_CallMethodNoArgs(server, name);
#endif
}

/* As asyncio's loop in debug mode tells of callbacks that keep it from its work. */
void kl_log_if_slow(LoopObject *loop, PyObject *protocol, PyObject *name, uint64_t begin_ns)
{
	PyObject *pending, *text, *seconds;
	double took = (double)(kloop_now() - begin_ns) / 1e9;

	if (took < loop->slow_callback_duration)
		return;
	pending = kl_exception_take();
	seconds = PyFloat_FromDouble(took);
	text = seconds == NULL ? NULL
			       : PyUnicode_FromFormat("Executing %R.%U() took %S seconds",
						      protocol, name, seconds);
	if (text != NULL)
		log_line("warning", text, NULL);
	else
		PyErr_WriteUnraisable((PyObject *)loop);
	Py_XDECREF(seconds);
	Py_XDECREF(text);
	if (pending != NULL)
		kl_exception_give(pending);
}

PyObject *kl_transport_call_method(TransportObject *self, PyObject *method, PyObject *name,
				   PyObject *argument)
{
	PyObject *stack[3] = {NULL, self->protocol, argument};
	PyObject *callee = method != NULL ? method : self->protocol;
	size_t count = argument != NULL ? 1 : 0;
	uint64_t begin_ns = self->loop->debug ? kloop_now() : 0;
	PyObject *result;

	if (PyContext_Enter(self->context) < 0)
		return NULL;
	Py_INCREF(callee); /* the call may replace it */
	if (method != NULL)
		result = PyObject_Vectorcall(method, stack + 2,
					     count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
	else
		result = PyObject_VectorcallMethod(
			name, stack + 1, (count + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
	Py_DECREF(callee);
	if (PyContext_Exit(self->context) < 0)
		Py_CLEAR(result);
	if (begin_ns != 0 && self->loop->debug && self->protocol != NULL)
		kl_log_if_slow(self->loop, self->protocol, name, begin_ns);
	return result;
}

/* ---- exceptions ------------------------------------------------------ */

PyObject *kl_take_fatal(LoopObject *loop, PyObject *transport, const char *message)
{
	if (!kl_exception_is_exit())
		return kl_exception_take();
	kl_report_exception(loop, message, "transport", transport);
	return NULL;
}

static void call_handler(LoopObject *loop, PyObject *transport, PyObject *protocol,
			 PyObject *error, const char *message)
{
	kl_call_exception_handler(loop, message, error, "transport", transport, "protocol",
				  protocol != NULL ? protocol : Py_None);
}

void kl_report_callback(LoopObject *loop, PyObject *transport, PyObject *protocol,
			const char *message)
{
	PyObject *error = kl_take_fatal(loop, transport, message);

	if (error == NULL)
		return;
	call_handler(loop, transport, protocol, error, message);
	Py_DECREF(error);
}

void kl_report_end(LoopObject *loop, PyObject *transport, PyObject *protocol, PyObject *error,
		   const char *message)
{
	if (PyErr_GivenExceptionMatches(error, PyExc_OSError))
		kl_debug(loop, transport, "debug", message, error);
	else
		call_handler(loop, transport, protocol, error, message);
}
