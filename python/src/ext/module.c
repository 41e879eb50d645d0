/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The module kloop._kloop: its state, imports, and functions that need no loop. */
#include "tls.h"

#include <string.h>

static struct kl_state *state_of(PyObject *module)
{
	return PyModule_GetState(module);
}

struct kl_state *kl_state_of_type(PyTypeObject *type)
{
#if PY_VERSION_HEX >= 0x030B0000
	PyObject *module = PyType_GetModuleByDef(type, &kl_module_def);

	return module == NULL ? NULL : state_of(module);
#else
	/* 3.10 has no PyType_GetModuleByDef(): look at the base types ourselves. */
	PyObject *mro = type->tp_mro;
	Py_ssize_t i;

	for (i = 0; mro != NULL && i < PyTuple_GET_SIZE(mro); i++) {
		PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
		PyObject *module = NULL;

		if (base->tp_flags & Py_TPFLAGS_HEAPTYPE)
			module = PyType_GetModule(base);
		if (module != NULL && PyModule_GetDef(module) == &kl_module_def)
			return state_of(module);
		PyErr_Clear();
	}
	PyErr_SetString(PyExc_TypeError, "not a type of kloop");
	return NULL;
#endif
}

/* ---- info() ------------------------------------------------------------ */

static PyObject *info_value(enum kloop_info_type type, const char *text)
{
	switch (type) {
	case KLOOP_INFO_BOOL:
		return PyBool_FromLong(strcmp(text, "true") == 0);
	case KLOOP_INFO_NUMBER:
		return PyLong_FromString(text, NULL, 10);
	default:
		return PyUnicode_DecodeFSDefault(text);
	}
}

static PyObject *module_info(PyObject *module, PyObject *Py_UNUSED(ignored))
{
	struct kloop_info *info;
	const char *name, *text;
	enum kloop_info_type type;
	PyObject *dict;
	size_t i;
	int code;

	Py_BEGIN_ALLOW_THREADS
	code = kloop_info_new(&info);
	Py_END_ALLOW_THREADS
	if (code < 0)
		return kl_raise(state_of(module), code);
	dict = PyDict_New();
	for (i = 0; dict != NULL && kloop_info_get(info, i, &name, &type, &text) == 0; i++) {
		PyObject *value = info_value(type, text);

		if (value == NULL || PyDict_SetItemString(dict, name, value) < 0)
			Py_CLEAR(dict);
		Py_XDECREF(value);
	}
	kloop_info_free(info);
	return dict;
}

static PyMethodDef module_methods[] = {
	{ "info", module_info, METH_NOARGS,
	  "info()\n--\n\n"
	  "What this machine allows, as kloop-info(1) prints it: a dict of dotted names." },
	{ "_tls_refusal", kl_tls_refusal_py, METH_NOARGS,
	  "Why TLS goes through asyncio's sslproto; None if it does not." },
	{ "_tls_refuse", kl_tls_refuse_py, METH_O,
	  "_tls_refuse($module, why, /)\n--\n\n"
	  "For tests: have it go there for this reason, or not (None)." },
	{ "_dns_text", kl_dns_text_py, METH_O,
	  "_dns_text($module, code, /)\n--\n\n"
	  "The code of getaddrinfo(3) for one of libkloop, and what it means." },
	{ "_tls_prove", kl_tls_prove_py, METH_VARARGS,
	  "_tls_prove(path, context, inner): the proof behind _tls_refusal(), of these objects." },
	{ NULL, NULL, 0, NULL },
};

/* ---- state ------------------------------------------------------------- */

/* module.name[.name]: a new reference, or NULL with an error set. */
static PyObject *import_from(const char *module_name, const char *name)
{
	PyObject *module = PyImport_ImportModule(module_name);
	PyObject *object;

	if (module == NULL)
		return NULL;
	object = PyObject_GetAttrString(module, name);
	Py_DECREF(module);
	return object;
}

/* Does asyncio's formatter take debug=? It came within the life of Python 3.13. */
static int probe_format_callback(struct kl_state *state)
{
	PyObject *defaults = PyObject_GetAttrString(state->format_callback, "__kwdefaults__");

	if (defaults == NULL)
		return -1;
	state->format_callback_debug =
		PyDict_Check(defaults) && PyDict_Contains(defaults, state->names.debug) == 1;
	Py_DECREF(defaults);
	return 0;
}

/* Python's own functions, by which a replacement can be told; None if one is in place already. */
static int import_socket(struct kl_state *state)
{
	PyObject *module = PyImport_ImportModule("socket"), *globals;

	if (module == NULL)
		return -1;
	globals = PyModule_GetDict(module);
	state->socket_getaddrinfo = PyObject_GetAttr(module, state->names.getaddrinfo);
	state->socket_getnameinfo = PyObject_GetAttr(module, state->names.getnameinfo);
	Py_DECREF(module);
	if (state->socket_getaddrinfo == NULL || state->socket_getnameinfo == NULL)
		return -1;
	if (!PyFunction_Check(state->socket_getaddrinfo) ||
	    PyFunction_GetGlobals(state->socket_getaddrinfo) != globals)
		Py_SETREF(state->socket_getaddrinfo, Py_NewRef(Py_None));
	if (!PyCFunction_Check(state->socket_getnameinfo))
		Py_SETREF(state->socket_getnameinfo, Py_NewRef(Py_None));
	return 0;
}

/* asyncio's class of tasks in C; a Python without it has one in Python. */
static int import_tasks(struct kl_state *state)
{
	state->asyncio_tasks = import_from("asyncio.tasks", "__dict__");
	if (state->asyncio_tasks == NULL)
		return -1;
	state->task_class = import_from("_asyncio", "Task");
	if (state->task_class == NULL) {
		if (!PyErr_ExceptionMatches(PyExc_ImportError))
			return -1;
		PyErr_Clear();
		state->task_class = Py_NewRef(Py_None);
	}
	return 0;
}

/* What asyncio has for names. */
static int import_resolvers(struct kl_state *state)
{
	PyObject *loop = import_from("asyncio", "BaseEventLoop");

	if (loop == NULL)
		return -1;
	state->base_getaddrinfo = PyObject_GetAttr(loop, state->names.getaddrinfo);
	state->base_getnameinfo = PyObject_GetAttr(loop, state->names.getnameinfo);
	state->base_create_task = PyObject_GetAttr(loop, state->names.create_task);
	Py_DECREF(loop);
	state->base_events = import_from("asyncio.base_events", "__dict__");
	state->empty_text = PyUnicode_FromString("");
	if (state->base_getaddrinfo == NULL || state->base_getnameinfo == NULL ||
	    state->base_create_task == NULL || state->base_events == NULL || state->empty_text == NULL)
		return -1;
	if (import_tasks(state) < 0)
		return -1;
	return import_socket(state);
}

static int import_all(struct kl_state *state)
{
	const struct {
		PyObject **object;
		const char *module, *name;
	} imports[] = {
		{ &state->asyncio_transport, "asyncio", "Transport" },
		{ &state->asyncio_read_transport, "asyncio", "ReadTransport" },
		{ &state->asyncio_write_transport, "asyncio", "WriteTransport" },
		{ &state->asyncio_datagram_transport, "asyncio", "DatagramTransport" },
		{ &state->asyncio_buffered_protocol, "asyncio", "BufferedProtocol" },
		{ &state->transport_socket, "asyncio.trsock", "TransportSocket" },
		{ &state->socket_type, "socket", "socket" },
		{ &state->extract_stack, "asyncio.format_helpers", "extract_stack" },
		{ &state->format_callback, "asyncio.format_helpers", "_format_callback_source" },
		{ &state->get_running_loop, "asyncio", "get_running_loop" },
		{ &state->check_ssl_socket, "asyncio.base_events", "_check_ssl_socket" },
		{ &state->cancelled_error, "asyncio", "CancelledError" },
		{ &state->timeout_error, "asyncio", "TimeoutError" },
		{ &state->invalid_state_error, "asyncio", "InvalidStateError" },
		{ &state->gaierror, "socket", "gaierror" },
		{ &state->address_family, "socket", "AddressFamily" },
		{ &state->socket_kind, "socket", "SocketKind" },
		{ &state->family_ip4, "socket", "AF_INET" },
		{ &state->family_ip6, "socket", "AF_INET6" },
		{ &state->kind_stream, "socket", "SOCK_STREAM" },
		{ &state->kind_datagram, "socket", "SOCK_DGRAM" },
		{ &state->kind_raw, "socket", "SOCK_RAW" },
	};
	size_t i;

	for (i = 0; i < sizeof(imports) / sizeof(imports[0]); i++) {
		*imports[i].object = import_from(imports[i].module, imports[i].name);
		if (*imports[i].object == NULL)
			return -1;
	}
	return probe_format_callback(state) < 0 ? -1 : import_resolvers(state);
}

static int intern_names(struct kl_state *state)
{
#define INTERN(n)                                                                            \
	state->names.n = PyUnicode_InternFromString(#n);                                     \
	if (state->names.n == NULL)                                                          \
		return -1;
	KL_NAMES(INTERN)
#undef INTERN
	return 0;
}

static int module_exec(PyObject *module)
{
	struct kl_state *state = state_of(module);

	state->module = module;
	if (intern_names(state) < 0 || import_all(state) < 0)
		return -1;
	if (kl_errors_init(module, state) < 0 || kl_handle_init(module, state) < 0 ||
	    kl_sock_init(module, state) < 0 || kl_resolver_init(module, state) < 0 ||
	    kl_file_init(module, state) < 0 ||
	    kl_loop_init(module, state) < 0 ||
	    kl_transport_init(module, state) < 0 || kl_dgram_init(module, state) < 0 ||
	    kl_pipe_init(module, state) < 0 || kl_listener_init(module, state) < 0 ||
	    kl_streams_init(module, state) < 0)
		return -1;
	if (PyModule_AddStringConstant(module, "library_version", kloop_version()) < 0 ||
	    PyModule_AddStringConstant(module, "header_version", KLOOP_VERSION_STRING) < 0)
		return -1;
	return 0;
}

/* Everything but the names, whose order and number the X macro knows. */
#define KL_STATE_OBJECTS(X)                                                                  \
	X(loop_type) X(handle_type) X(timer_handle_type) X(transport_type) X(listener_type)        \
	X(ssl_transport_type)                                                                      \
	X(read_pipe_type) X(write_pipe_type) X(asyncio_read_transport) X(asyncio_write_transport)   \
	X(datagram_transport_type) X(asyncio_datagram_transport)                                   \
	X(sock_op_type) X(file_call_type) X(asyncio_transport) X(asyncio_buffered_protocol)        \
	X(transport_socket)                                                                        \
	X(socket_type) X(extract_stack) X(get_running_loop) X(handle_repr_info)                    \
	X(asyncio_handle) X(asyncio_timer_handle) X(asyncio_threadsafe_handle)                     \
	X(format_callback) X(check_ssl_socket) X(cancelled_error) X(invalid_state_error)           \
	X(timeout_error) X(unavailable_error) X(resolve_type) X(base_events)                       \
	X(socket_getaddrinfo) X(socket_getnameinfo) X(gaierror) X(address_family) X(socket_kind)   \
	X(family_ip4) X(family_ip6) X(kind_stream) X(kind_datagram) X(kind_raw) X(empty_text)      \
	X(base_getaddrinfo) X(base_getnameinfo) X(base_create_task) X(asyncio_tasks) X(task_class)

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
	struct kl_state *state = state_of(module);
	int result;

	if (state == NULL)
		return 0;
#define VISIT(n) Py_VISIT(state->n);
	KL_STATE_OBJECTS(VISIT)
#undef VISIT
	result = kl_streams_traverse(state, visit, arg);
	if (result != 0)
		return result;
	return kl_tls_traverse(state, visit, arg);
}

static int module_clear(PyObject *module)
{
	struct kl_state *state = state_of(module);

	if (state == NULL)
		return 0;
	/* While the types are there: freeing an object looks at its type. */
	kl_handle_fini(state);
	kl_sock_fini(state);
	kl_tls_fini(state);
	kl_streams_clear(state);
#define CLEAR(n) Py_CLEAR(state->n);
	KL_STATE_OBJECTS(CLEAR)
#undef CLEAR
#define CLEAR_NAME(n) Py_CLEAR(state->names.n);
	KL_NAMES(CLEAR_NAME)
#undef CLEAR_NAME
	return 0;
}

static void module_free(void *module)
{
	(void)module_clear(module);
	if (state_of(module) != NULL)
		kl_streams_free(state_of(module));
}

static PyModuleDef_Slot module_slots[] = {
	{ Py_mod_exec, module_exec },
#if PY_VERSION_HEX >= 0x030C0000
	/* Nobody has tested it with a GIL for each interpreter: importing says so. */
	{ Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED },
#endif
	{ 0, NULL },
};

struct PyModuleDef kl_module_def = {
	PyModuleDef_HEAD_INIT,
	.m_name = "kloop._kloop",
	.m_doc = "The C part of kloop: an asyncio event loop on io_uring.",
	.m_size = sizeof(struct kl_state),
	.m_methods = module_methods,
	.m_slots = module_slots,
	.m_traverse = module_traverse,
	.m_clear = module_clear,
	.m_free = module_free,
};

PyMODINIT_FUNC PyInit__kloop(void);

PyMODINIT_FUNC PyInit__kloop(void)
{
	return PyModuleDef_Init(&kl_module_def);
}
