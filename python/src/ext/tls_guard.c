/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * May libkloop use the SSL objects of Python's ssl module?
 *
 * The module does not offer the SSL behind an SSLObject, but in each Python
 * from 3.10 on it lies at the same place. Two things are proved before anything
 * is taken from there. The extension module behind ssl calls the very OpenSSL
 * that libkloop calls; one that was linked with a copy of its own does not. And
 * the objects have the layout that is expected: what lies behind the object
 * made of a context leads to that context, by Python's pointer and by OpenSSL's.
 *
 * Where one of them fails, asyncio's own sslproto serves.
 */
#include "tls.h"

#include <dlfcn.h>

/* How a context and the inner object of an SSLObject begin, in all supported versions. */
struct context_head {
	PyObject_HEAD
	struct ssl_ctx_st *ctx;
};

struct inner_head {
	PyObject_HEAD
	PyObject *socket; /* a weak reference; NULL with memory BIOs */
	struct ssl_st *ssl;
	PyObject *context;
};

/* ---- the proof -------------------------------------------------------- */

/* A function pointer of what dlsym() returned, which C has no cast for. */
static void store(void *symbol, void *ret_function)
{
	memcpy(ret_function, &symbol, sizeof(symbol));
}

static const char *prove_library(const char *path, struct kl_tls_library *library)
{
	void *module = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
	void *local, *global;

	if (module == NULL)
		return "the module behind ssl is not a shared object";
	/* What the whole process sees comes first, and is mostly nothing. */
	local = dlsym(module, "SSL_new");
	global = dlsym(RTLD_DEFAULT, "SSL_new");
	if (local == NULL)
		return "the ssl module brings an OpenSSL of its own";
	if (local != kloop_tls_get_library() || (global != NULL && global != local))
		return "the ssl module and libkloop use different OpenSSL libraries";
	store(dlsym(module, "SSL_get_SSL_CTX"), &library->get_ctx);
	store(dlsym(module, "SSL_set_options"), &library->set_options);
	store(dlsym(module, "ERR_new"), &library->error_new);
	store(dlsym(module, "ERR_set_error"), &library->error_set);
	store(dlsym(module, "ERR_clear_error"), &library->error_clear);
	if (library->get_ctx == NULL || library->set_options == NULL ||
	    library->error_new == NULL || library->error_set == NULL ||
	    library->error_clear == NULL)
		return "the OpenSSL of the ssl module lacks a function";
	return NULL;
}

static const char *prove_layout(PyObject *context, PyObject *inner,
				const struct kl_tls_library *library)
{
	static const char unknown[] = "the objects of the ssl module have an unknown layout";
	const struct context_head *c = (const struct context_head *)context;
	const struct inner_head *i = (const struct inner_head *)inner;

	if (Py_TYPE(context)->tp_basicsize < (Py_ssize_t)sizeof(*c) ||
	    Py_TYPE(inner)->tp_basicsize < (Py_ssize_t)sizeof(*i))
		return unknown;
	/* Nothing is followed before its neighbours are what they should be. */
	if (c->ctx == NULL || i->socket != NULL || i->context != context || i->ssl == NULL)
		return unknown;
	return library->get_ctx(i->ssl) == c->ctx ? NULL : unknown;
}

const char *kl_tls_prove(const char *path, PyObject *sslcontext, PyObject *inner,
			 struct kl_tls_library *ret_library)
{
	struct kl_tls_library library;
	const char *refusal = prove_library(path, &library);

	if (refusal == NULL)
		refusal = prove_layout(sslcontext, inner, &library);
	if (refusal == NULL)
		*ret_library = library;
	return refusal;
}

/* ---- the state -------------------------------------------------------- */

/* ssl.MemoryBIO twice and wrap_bio(): a new SSLObject, or NULL with an error set. */
static PyObject *wrap_bio(struct kl_state *state, PyObject *memory_bio, PyObject *context,
			  bool server_side, PyObject *server_hostname)
{
	PyObject *method = PyObject_GetAttr(context, state->names.wrap_bio);
	PyObject *in = method != NULL ? PyObject_CallNoArgs(memory_bio) : NULL;
	PyObject *out = in != NULL ? PyObject_CallNoArgs(memory_bio) : NULL;
	PyObject *args = NULL, *names = NULL, *result = NULL;

	if (out != NULL)
		args = PyTuple_Pack(2, in, out);
	if (args != NULL)
		names = Py_BuildValue("{sOsO}", "server_side", server_side ? Py_True : Py_False,
				      "server_hostname",
				      server_hostname != NULL ? server_hostname : Py_None);
	if (names != NULL)
		result = PyObject_Call(method, args, names);
	Py_XDECREF(method);
	Py_XDECREF(in);
	Py_XDECREF(out);
	Py_XDECREF(args);
	Py_XDECREF(names);
	return result;
}

/* The file of the extension module, or "" if it has none. NULL with an error set. */
static PyObject *extension_path(void)
{
	PyObject *module = PyImport_ImportModule("_ssl");
	PyObject *path;

	if (module == NULL)
		return NULL;
	path = PyModule_GetFilenameObject(module);
	Py_DECREF(module);
	if (path == NULL && PyErr_ExceptionMatches(PyExc_SystemError)) {
		PyErr_Clear();
		path = PyUnicode_FromString("");
	}
	if (path != NULL)
		Py_SETREF(path, PyUnicode_EncodeFSDefault(path));
	return path;
}

/* Prove it on a context that is made for the purpose. 0, or -1 with an error set. */
static int prove(struct kl_state *state, struct kl_tls_module *tls)
{
	PyObject *path = extension_path();
	PyObject *context = NULL, *object = NULL, *inner = NULL;
	int result = -1;

	if (path != NULL)
		context = PyObject_CallMethod(tls->ssl, "SSLContext", "N",
					      PyObject_GetAttrString(tls->ssl, "PROTOCOL_TLS_SERVER"));
	if (context != NULL)
		object = wrap_bio(state, tls->memory_bio, context, true, NULL);
	if (object != NULL)
		inner = PyObject_GetAttr(object, state->names._sslobj);
	if (inner != NULL) {
		tls->refusal = PyBytes_GET_SIZE(path) == 0
				       ? "the ssl module is built into Python"
				       : kl_tls_prove(PyBytes_AS_STRING(path), context, inner,
						      &tls->library);
		Py_INCREF(Py_TYPE(inner));
		tls->inner_type = Py_TYPE(inner);
		result = 0;
	}
	Py_XDECREF(path);
	Py_XDECREF(context);
	Py_XDECREF(object);
	Py_XDECREF(inner);
	return result;
}

static int find_classes(struct kl_tls_module *tls)
{
	static const char *const names[KL_TLS_CLASSES] = {
		[KL_TLS_SSL_ERROR] = "SSLError",
		[KL_TLS_WANT_READ] = "SSLWantReadError",
		[KL_TLS_WANT_WRITE] = "SSLWantWriteError",
		[KL_TLS_EOF] = "SSLEOFError",
		[KL_TLS_ZERO_RETURN] = "SSLZeroReturnError",
		[KL_TLS_VERIFICATION] = "SSLCertVerificationError",
	};
	int i;

	for (i = 0; i < KL_TLS_CLASSES; i++) {
		tls->classes[i] = PyObject_GetAttrString(tls->ssl, names[i]);
		if (tls->classes[i] == NULL)
			return -1;
	}
	return 0;
}

static void tls_free(struct kl_tls_module *tls)
{
	int i;

	for (i = 0; i < KL_TLS_CLASSES; i++)
		Py_XDECREF(tls->classes[i]);
	Py_XDECREF(tls->ssl);
	Py_XDECREF(tls->memory_bio);
	Py_XDECREF(tls->object_type);
	Py_XDECREF(tls->inner_type);
	Py_XDECREF(tls->forced);
	PyMem_Free(tls);
}

struct kl_tls_module *kl_tls_module_get(struct kl_state *state)
{
	struct kl_tls_module *tls = state->tls;

	if (tls != NULL)
		return tls;
	tls = PyMem_Calloc(1, sizeof(*tls));
	if (tls == NULL) {
		PyErr_NoMemory();
		return NULL;
	}
	tls->ssl = PyImport_ImportModule("ssl");
	tls->memory_bio = tls->ssl != NULL ? PyObject_GetAttrString(tls->ssl, "MemoryBIO") : NULL;
	tls->object_type =
		tls->memory_bio != NULL ? PyObject_GetAttrString(tls->ssl, "SSLObject") : NULL;
	if (tls->object_type == NULL || find_classes(tls) < 0 || prove(state, tls) < 0) {
		tls_free(tls);
		return NULL;
	}
	state->tls = tls;
	return tls;
}

void kl_tls_fini(struct kl_state *state)
{
	struct kl_tls_module *tls = state->tls;

	state->tls = NULL;
	if (tls != NULL)
		tls_free(tls);
}

int kl_tls_traverse(struct kl_state *state, visitproc visit, void *arg)
{
	int i;

	if (state->tls == NULL)
		return 0;
	for (i = 0; i < KL_TLS_CLASSES; i++)
		Py_VISIT(state->tls->classes[i]);
	Py_VISIT(state->tls->ssl);
	Py_VISIT(state->tls->memory_bio);
	Py_VISIT(state->tls->object_type);
	Py_VISIT(state->tls->inner_type);
	Py_VISIT(state->tls->forced);
	return 0;
}

/* ---- connections ------------------------------------------------------ */

/* SSL_OP_IGNORE_UNEXPECTED_EOF, which is ssl.OP_IGNORE_UNEXPECTED_EOF as well. */
#define IGNORE_UNEXPECTED_EOF ((uint64_t)1 << 7)

/* Has the class (SSLContext.sslobject_class) a method of its own that libkloop would not call? */
static bool overrides(const struct kl_tls_module *tls, PyObject *object)
{
	static const char *const names[] = {"read", "write", "unwrap"};
	bool differ = false;
	size_t i;

	if ((PyObject *)Py_TYPE(object) == tls->object_type)
		return false;
	for (i = 0; !differ && i < sizeof(names) / sizeof(names[0]); i++) {
		PyObject *theirs = PyObject_GetAttrString((PyObject *)Py_TYPE(object), names[i]);
		PyObject *common = PyObject_GetAttrString(tls->object_type, names[i]);

		/* In doubt sslproto serves, and raises what there is to raise. */
		differ = theirs == NULL || theirs != common;
		Py_XDECREF(theirs);
		Py_XDECREF(common);
		PyErr_Clear();
	}
	return differ;
}

int kl_tls_wrap(struct kl_state *state, const struct kl_tls_options *options,
		PyObject **ret_ssl_object, struct ssl_st **ret_ssl)
{
	struct kl_tls_module *tls = kl_tls_module_get(state);
	PyObject *object, *inner;
	int usable;

	if (tls == NULL)
		return -1;
	if (tls->refusal != NULL || tls->forced != NULL)
		return 0;
	object = wrap_bio(state, tls->memory_bio, options->sslcontext, options->server_side,
			  options->server_hostname);
	if (object == NULL)
		return -1;
	/* A context of somebody else may make what it likes. */
	inner = PyObject_GetAttr(object, state->names._sslobj);
	if (inner == NULL)
		PyErr_Clear();
	usable = inner != NULL && Py_TYPE(inner) == tls->inner_type &&
		 ((struct inner_head *)inner)->socket == NULL && !overrides(tls, object);
	if (usable) {
		*ret_ssl = ((struct inner_head *)inner)->ssl;
		/*
		 * asyncio takes any end for the end, after which what was
		 * written is still sent, and libkloop does so with this.
		 */
		tls->library.set_options(*ret_ssl, IGNORE_UNEXPECTED_EOF);
		*ret_ssl_object = object;
	} else {
		Py_DECREF(object);
	}
	Py_XDECREF(inner);
	return usable;
}

/* ---- for the Python layer and tests ------------------------------------ */

PyObject *kl_tls_refusal_py(PyObject *module, PyObject *unused)
{
	struct kl_tls_module *tls = kl_tls_module_get(PyModule_GetState(module));

	(void)unused;
	if (tls == NULL)
		return NULL;
	if (tls->forced != NULL)
		return Py_NewRef(tls->forced);
	if (tls->refusal == NULL)
		Py_RETURN_NONE;
	return PyUnicode_FromString(tls->refusal);
}

PyObject *kl_tls_refuse_py(PyObject *module, PyObject *why)
{
	struct kl_tls_module *tls = kl_tls_module_get(PyModule_GetState(module));

	if (tls == NULL)
		return NULL;
	Py_XSETREF(tls->forced, why == Py_None ? NULL : Py_NewRef(why));
	Py_RETURN_NONE;
}

PyObject *kl_tls_prove_py(PyObject *module, PyObject *args)
{
	struct kl_tls_library library;
	PyObject *path, *context, *inner, *result;
	const char *refusal;

	(void)module;
	if (!PyArg_ParseTuple(args, "O&OO:_tls_prove", PyUnicode_FSConverter, &path, &context,
			      &inner))
		return NULL;
	refusal = kl_tls_prove(PyBytes_AS_STRING(path), context, inner, &library);
	Py_DECREF(path);
	result = refusal == NULL ? Py_NewRef(Py_None) : PyUnicode_FromString(refusal);
	return result;
}
