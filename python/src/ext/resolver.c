/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The loop's resolver: its options, its life, its counters.
 *
 * It is made by the first lookup. New options replace it: what is on finishes
 * with the old one, which is closed after its last lookup.
 */
#include "resolver.h"

#include <errno.h>

/* ---- life -------------------------------------------------------------- */

static void free_use(struct kl_resolver_use *use)
{
	kloop_resolver_close(use->resolver);
	PyMem_RawFree(use);
}

static void retire(LoopObject *loop)
{
	struct kl_resolver_use *use = loop->resolver;

	loop->resolver = NULL;
	if (use == NULL)
		return;
	use->retired = true;
	if (use->lookups == 0)
		free_use(use);
}

void kl_resolver_close(LoopObject *loop)
{
	/* kloop_loop_free() has closed it, and completed what was on. */
	PyMem_RawFree(loop->resolver);
	loop->resolver = NULL;
	kloop_resolver_options_free(loop->resolver_options);
	loop->resolver_options = NULL;
	Py_CLEAR(loop->resolver_failure);
}

int kl_resolver_get(LoopObject *loop, struct kl_resolver_use **ret_use)
{
	struct kl_resolver_use *use = loop->resolver;
	int code;

	if (use == NULL) {
		use = PyMem_RawCalloc(1, sizeof(*use));
		code = use == NULL ? -ENOMEM
				   : kloop_resolver_new(loop->loop, loop->resolver_options,
							&use->resolver);
		if (code < 0) {
			PyMem_RawFree(use);
			if (code == -EPERM || code == -ECHILD || code == -ESTALE) {
				kl_raise(loop->state, code);
				return -1;
			}
			Py_XSETREF(loop->resolver_failure,
				   PyUnicode_FromFormat("libkloop can make no resolver: %s",
							kloop_strerror(code)));
			if (loop->strict_resolver && loop->resolver_failure != NULL)
				PyErr_SetObject(PyExc_OSError, loop->resolver_failure);
			return loop->resolver_failure == NULL || loop->strict_resolver ? -1 : 0;
		}
		Py_CLEAR(loop->resolver_failure);
		loop->resolver = use;
	}
	*ret_use = use;
	return 1;
}

void kl_resolve_began(struct kl_resolve *self, struct kl_resolver_use *use)
{
	LoopObject *loop = self->base.loop;

	Py_INCREF((PyObject *)self);
	self->use = use;
	use->lookups++;
	KL_LIST_PUSH(loop->resolves, self);
	self->base.state = KL_AWAIT_WAITING;
}

void kl_resolve_ended(struct kl_resolve *self)
{
	struct kl_resolver_use *use = self->use;

	KL_LIST_REMOVE(self);
	self->use = NULL;
	if (--use->lookups == 0 && use->retired)
		free_use(use);
}

int kl_resolves_traverse(LoopObject *loop, visitproc visit, void *arg)
{
	struct kl_resolve *self;

	for (self = loop->resolves; self != NULL; self = self->next)
		Py_VISIT((PyObject *)self);
	return 0;
}

/* ---- options ----------------------------------------------------------- */

/* (address, port, transport, name, flags) each; 0, a negative code, or 1 with an error set. */
static int set_servers(struct kloop_resolver_options *options, PyObject *servers)
{
	Py_ssize_t i;
	int code = 0;

	for (i = 0; code == 0 && i < PyTuple_GET_SIZE(servers); i++) {
		struct kloop_address address;
		unsigned short port;
		unsigned transport, flags;
		const char *text, *name;

		if (!PyArg_ParseTuple(PyTuple_GET_ITEM(servers, i), "sHIzI", &text, &port,
				      &transport, &name, &flags))
			return 1;
		code = kloop_address_parse(text, port, &address);
		if (code == 0 && transport == KLOOP_DNS_TLS)
			code = kloop_resolver_options_add_tls_server(options, &address, name,
								     flags);
		else if (code == 0)
			code = kloop_resolver_options_add_server(options, &address, transport);
		if (code < 0) {
			PyErr_Format(PyExc_ValueError, "%s is no server for names: %s", text,
				     kloop_strerror(code));
			return 1;
		}
	}
	return code;
}

/* Paths, in the order of enum kloop_dns_file; None for the system's own. */
static int set_files(struct kloop_resolver_options *options, PyObject *files)
{
	Py_ssize_t i;
	int code = 0;

	for (i = 0; code == 0 && i < PyTuple_GET_SIZE(files); i++) {
		PyObject *path = PyTuple_GET_ITEM(files, i), *bytes;

		if (path == Py_None)
			continue;
		if (!PyUnicode_FSConverter(path, &bytes))
			return 1;
		code = kloop_resolver_options_set_file(options, (unsigned)i,
						       PyBytes_AS_STRING(bytes));
		Py_DECREF(bytes);
		if (code == -EINVAL || code == -ENAMETOOLONG) {
			PyErr_Format(PyExc_ValueError, "%R is no absolute path: %s", path,
				     kloop_strerror(code));
			return 1;
		}
	}
	return code;
}

/* Certificates to trust in place of the system's: as set_servers(). */
static int set_trust(struct kloop_resolver_options *options, PyObject *path)
{
	struct kloop_tls_context *context;
	PyObject *bytes;
	int code;

	if (path == Py_None)
		return 0;
	if (!PyUnicode_FSConverter(path, &bytes))
		return 1;
	code = kloop_tls_context_new(KLOOP_TLS_CLIENT, &context);
	if (code == 0) {
		code = kloop_tls_context_load_trust(context, PyBytes_AS_STRING(bytes), NULL);
		if (code == 0)
			kloop_resolver_options_set_tls_context(options, context);
		kloop_tls_context_unref(context);
	}
	Py_DECREF(bytes);
	if (code >= 0)
		return code;
	if (code < -4095) {
		PyErr_Format(PyExc_ValueError, "%R: %s", path, kloop_strerror(code));
	} else {
		errno = -code;
		PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
	}
	return 1;
}

static bool has_tls(PyObject *servers)
{
	Py_ssize_t i;

	for (i = 0; i < PyTuple_GET_SIZE(servers); i++) {
		PyObject *transport = PyTuple_GET_ITEM(PyTuple_GET_ITEM(servers, i), 2);

		if (PyLong_AsLong(transport) == KLOOP_DNS_TLS)
			return true;
	}
	return false;
}

/* _set_resolver(*, servers, files, timeout_ns, attempts, ...): see Resolver.configure(). */
PyObject *kl_loop_set_resolver(PyObject *op, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "servers", "files", "timeout_ns", "attempts", "cache_bytes",
				 "max_ttl", "max_negative_ttl", "serve_stale", "max_queries",
				 "check_ns", "flags", "trust", "idle_ns", NULL };
	LoopObject *self = (LoopObject *)op;
	struct kloop_resolver_options *options = NULL;
	PyObject *servers, *files, *trust;
	unsigned long long timeout_ns, check_ns, idle_ns;
	unsigned attempts, max_ttl, max_negative_ttl, stale, max_queries, flags;
	Py_ssize_t cache_bytes;
	int code;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!O!KInIIIIKIOK:_set_resolver", names,
					 &PyTuple_Type, &servers, &PyTuple_Type, &files,
					 &timeout_ns, &attempts, &cache_bytes, &max_ttl,
					 &max_negative_ttl, &stale, &max_queries, &check_ns, &flags,
					 &trust, &idle_ns))
		return NULL;
	if (kl_check_closed(self) < 0)
		return NULL;
	if (!kl_on_loop_thread(self)) {
		kl_raise_wrong_thread();
		return NULL;
	}
	code = kloop_resolver_options_new(&options);
	if (code == 0)
		code = set_servers(options, servers);
	if (code == 0)
		code = set_files(options, files);
	if (code == 0)
		code = set_trust(options, trust);
	if (code == 0)
		code = kloop_resolver_options_set_timeout(options, timeout_ns, attempts);
	if (code == 0)
		code = kloop_resolver_options_set_cache(options, (size_t)cache_bytes, max_ttl,
							max_negative_ttl, stale);
	if (code == 0)
		code = kloop_resolver_options_set_max_queries(options, max_queries);
	if (code != 0) {
		kloop_resolver_options_free(options);
		if (code == -EINVAL)
			PyErr_SetString(PyExc_ValueError, "an option is out of range");
		return code > 0 || code == -EINVAL ? NULL : kl_raise(self->state, code);
	}
	kloop_resolver_options_set_check(options, check_ns);
	kloop_resolver_options_set_flags(options, flags);
	kloop_resolver_options_set_idle_timeout(options, idle_ns);
	self->strict_resolver = has_tls(servers);
	kloop_resolver_options_free(self->resolver_options);
	self->resolver_options = options;
	retire(self);
	Py_RETURN_NONE;
}

/* ---- calls ------------------------------------------------------------- */

PyObject *kl_loop_flush_names(PyObject *op, PyObject *name)
{
	LoopObject *self = (LoopObject *)op;
	PyObject *keep = NULL;
	const char *text = NULL;
	int code;

	if (kl_check_closed(self) < 0)
		return NULL;
	if (name != Py_None && kl_resolve_text(name, &text, &keep) < 0)
		return NULL;
	code = self->resolver == NULL ? 0 : kloop_resolver_flush(self->resolver->resolver, text);
	if (code == -EINVAL)
		PyErr_Format(PyExc_ValueError, "%R is no domain name", name);
	Py_XDECREF(keep);
	if (code >= 0)
		return PyLong_FromLong(code);
	return code == -EINVAL ? NULL : kl_raise(self->state, code);
}

PyObject *kl_loop_reload_names(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	LoopObject *self = (LoopObject *)op;
	int code;

	if (kl_check_closed(self) < 0)
		return NULL;
	code = self->resolver == NULL ? 0 : kloop_resolver_reload(self->resolver->resolver);
	if (code < 0)
		return kl_raise(self->state, code);
	Py_RETURN_NONE;
}

PyObject *kl_loop_resolver_stats(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	LoopObject *self = (LoopObject *)op;
	struct kloop_resolver_stats s = { 0 };
	int code;

	if (kl_check_closed(self) < 0)
		return NULL;
	code = self->resolver == NULL
		       ? 0
		       : kloop_resolver_get_stats(self->resolver->resolver, &s, sizeof(s));
	if (code < 0)
		return kl_raise(self->state, code);
#define COUNTER(name) #name, (unsigned long long)s.name
	return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsKsKsKsKsKsKsKsKsKsKsKsKsK}", COUNTER(lookups),
			     COUNTER(immediate), COUNTER(queries), COUNTER(joined),
			     COUNTER(packets_sent), COUNTER(packets_received),
			     COUNTER(packets_refused), COUNTER(retries), COUNTER(timeouts),
			     COUNTER(tcp_connections), COUNTER(cache_hits), COUNTER(cache_misses),
			     COUNTER(cache_stale), COUNTER(cache_entries), COUNTER(cache_bytes),
			     COUNTER(prefetches), COUNTER(reloads), COUNTER(in_flight),
			     COUNTER(waiting), COUNTER(tls_connections), COUNTER(tls_resumed),
			     COUNTER(tls_failures), "system", self->system_lookups);
#undef COUNTER
}

/* ((address, port), transport, name, flags, usual time in ns, error) */
static PyObject *server_to_python(const struct kloop_dns_server_info *info)
{
	PyObject *address = kl_address_to_python(&info->address);

	return address == NULL ? NULL
			       : Py_BuildValue("(NIzIKs)", address, info->transport, info->name,
					       info->flags, (unsigned long long)info->rtt_ns,
					       info->reason);
}

PyObject *kl_loop_name_servers(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	LoopObject *self = (LoopObject *)op;
	struct kloop_dns_server_info info;
	PyObject *list;
	unsigned i;
	int code = 0;

	if (kl_check_closed(self) < 0)
		return NULL;
	list = PyList_New(0);
	for (i = 0; list != NULL && self->resolver != NULL; i++) {
		PyObject *server;

		code = kloop_resolver_get_server(self->resolver->resolver, i, &info, sizeof(info));
		if (code < 0)
			break;
		server = server_to_python(&info);
		if (server == NULL || PyList_Append(list, server) < 0)
			Py_CLEAR(list);
		Py_XDECREF(server);
	}
	if (code == 0 || code == -ENOENT || code == -EAGAIN)
		return list;
	Py_XDECREF(list);
	return kl_raise(self->state, code);
}
