/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Loop.getaddrinfo(), getnameinfo() and queries: calls that are awaited.
 *
 * Nothing happens before the await, as with a coroutine. What is known already
 * comes back at once; else the task sleeps until the lookup completes. Where the
 * system's resolver is to be asked, asyncio's own method does it, in the
 * executor: all names if the user wants it or there can be no resolver, one name
 * if nsswitch.conf gives it to a module that libkloop does not have.
 */
#include "resolver.h"

#include <errno.h>

#define KINDS 3

static const struct kl_await_kind kinds[KINDS];

/* ---- life -------------------------------------------------------------- */

static void drop(struct kl_await *base)
{
	struct kl_resolve *self = (struct kl_resolve *)base;

	kloop_addresses_free(self->addresses);
	self->addresses = NULL;
	kloop_dns_message_unref(self->message);
	self->message = NULL;
	Py_CLEAR(self->names);
	Py_CLEAR(self->first);
	Py_CLEAR(self->second);
}

static int resolve_traverse(PyObject *op, visitproc visit, void *arg)
{
	struct kl_resolve *self = (struct kl_resolve *)op;

	Py_VISIT(self->first);
	Py_VISIT(self->second);
	Py_VISIT(self->names);
	return kl_await_traverse(&self->base, visit, arg);
}

static int resolve_clear(PyObject *op)
{
	kl_await_clear((struct kl_await *)op);
	return 0;
}

static void resolve_dealloc(PyObject *op)
{
	static const char *const names[] = { "getaddrinfo", "getnameinfo", "query" };
	struct kl_resolve *self = (struct kl_resolve *)op;
	PyTypeObject *type = Py_TYPE(op);
	LoopObject *loop = self->base.loop;

	PyObject_GC_UnTrack(op);
	kl_await_warn_unused(&self->base, names[self->kind]);
	kl_await_clear(&self->base);
	drop(&self->base);
	PyObject_GC_Del(op);
	Py_DECREF(type);
	Py_DECREF(loop);
}

static struct kl_resolve *make(PyObject *op, enum kl_resolve_kind kind, PyObject *first,
			       PyObject *second)
{
	LoopObject *loop = (LoopObject *)op;
	struct kl_resolve *self = PyObject_GC_New(struct kl_resolve, loop->state->resolve_type);

	if (self == NULL)
		return NULL;
	memset((char *)self + sizeof(PyObject), 0, sizeof(*self) - sizeof(PyObject));
	kl_await_init(&self->base, loop);
	self->base.kind = &kinds[kind];
	self->kind = kind;
	self->first = Py_NewRef(first);
	self->second = Py_XNewRef(second);
	kloop_lookup_init(&self->lookup);
	PyObject_GC_Track(self);
	return self;
}

/* ---- completions ------------------------------------------------------- */

static struct kl_resolve *of_lookup(struct kloop_lookup *lookup)
{
	return (struct kl_resolve *)((char *)lookup - offsetof(struct kl_resolve, lookup));
}

/* The result is there. True, with the GIL, if somebody waits for it. */
static bool completed(struct kl_resolve *self, int result)
{
	bool wanted;

	/* Another thread's collector may be walking the loop's list of lookups. */
	kl_py_enter(self->base.loop);
	wanted = self->base.state == KL_AWAIT_WAITING;
	kl_resolve_ended(self);
	if (!wanted) {
		kl_drop_later(self->base.loop, (PyObject *)self);
		return false;
	}
	self->result = result;
	return true;
}

static void resume(struct kl_resolve *self)
{
	self->base.state = KL_AWAIT_READY;
	kl_await_wake(&self->base);
	Py_DECREF((PyObject *)self);
}

static void on_addresses(struct kloop_lookup *lookup, int result, struct kloop_addresses *addresses)
{
	struct kl_resolve *self = of_lookup(lookup);

	if (!completed(self, result)) {
		kloop_addresses_free(addresses);
		return;
	}
	self->addresses = addresses;
	resume(self);
}

static void on_names(struct kloop_lookup *lookup, int result, const char *host, const char *service)
{
	struct kl_resolve *self = of_lookup(lookup);

	if (!completed(self, result))
		return;
	if (result == 0) {
		PyObject *name = PyUnicode_DecodeLocale(host, "surrogateescape");

		if (name != NULL)
			self->names = Py_BuildValue("Ns", name, service);
		if (self->names == NULL) {
			PyErr_Clear();
			self->result = -ENOMEM;
		}
	}
	resume(self);
}

static void on_message(struct kloop_lookup *lookup, int result, struct kloop_dns_message *message)
{
	struct kl_resolve *self = of_lookup(lookup);

	if (!completed(self, result))
		return;
	self->message = message == NULL ? NULL : kloop_dns_message_ref(message);
	resume(self);
}

static void stop(struct kl_await *base)
{
	(void)kloop_lookup_cancel(&((struct kl_resolve *)base)->lookup);
}

/* ---- the system's resolver --------------------------------------------- */

/*
 * Has somebody put another function in place of socket's, or another module in
 * place of it for asyncio? It is to be called then, as by asyncio.
 */
static int is_replaced(struct kl_state *state, PyObject *name, PyObject *original)
{
	PyObject *module = PyDict_GetItemWithError(state->base_events, state->names.socket);
	PyObject *now;

	if (module == NULL)
		return PyErr_Occurred() ? -1 : 1;
	Py_INCREF(module);
	now = PyObject_GetAttr(module, name);
	Py_DECREF(module);
	if (now == NULL)
		return -1;
	Py_DECREF(now);
	return now != original;
}

/* Have asyncio's own method do it: 0, or -1 with an error set. */
static int delegate_addresses(struct kl_resolve *self)
{
	LoopObject *loop = self->base.loop;
	PyObject *args = Py_BuildValue("(OOO)", (PyObject *)loop, self->first, self->second);
	PyObject *kwargs = Py_BuildValue("{sisisisi}", "family", self->family, "type",
					 self->socktype, "proto", self->protocol, "flags",
					 self->flags);

	if (args != NULL && kwargs != NULL)
		self->base.delegate = PyObject_Call(loop->state->base_getaddrinfo, args, kwargs);
	Py_XDECREF(args);
	Py_XDECREF(kwargs);
	loop->system_lookups++;
	return self->base.delegate == NULL ? -1 : 0;
}

static int delegate_names(struct kl_resolve *self)
{
	LoopObject *loop = self->base.loop;

	self->base.delegate = PyObject_CallFunction(loop->state->base_getnameinfo, "OOi",
						    (PyObject *)loop, self->first, self->flags);
	loop->system_lookups++;
	return self->base.delegate == NULL ? -1 : 0;
}

/*
 * Results that say nothing of the name: libkloop cannot find out here. Who asked
 * for TLS is not served without.
 */
static bool is_beyond_us(const struct kl_resolve *self, int result)
{
	return !self->base.loop->strict_resolver &&
	       (result == KLOOP_ERROR_DNS_NSS || result == -EOPNOTSUPP || result == -ENOSYS);
}

/* ---- getaddrinfo() ----------------------------------------------------- */

static int log_lookup(struct kl_resolve *self, PyObject *list)
{
	double seconds = (double)(kloop_now() - self->start_ns) / 1e9;
	PyObject *done;

	if (self->start_ns == 0)
		return 0;
	done = PyObject_CallMethod((PyObject *)self->base.loop, "_log_lookup", "OOiiiidO",
				   self->first, self->second, self->family, self->socktype,
				   self->protocol, self->flags, seconds, list);
	Py_XDECREF(done);
	return done == NULL ? -1 : 0;
}

/* 1 with *ret_result, 0 if asyncio's method does it, -1 with an error set. */
static int take_addresses(struct kl_resolve *self, int result, PyObject **ret_result)
{
	struct kl_state *state = self->base.loop->state;

	if (is_beyond_us(self, result))
		return delegate_addresses(self);
	if (result < 0)
		return kl_raise_lookup(state, result);
	*ret_result = kl_addresses_to_python(state, self->addresses);
	kloop_addresses_free(self->addresses);
	self->addresses = NULL;
	if (*ret_result != NULL && log_lookup(self, *ret_result) < 0)
		Py_CLEAR(*ret_result);
	return *ret_result == NULL ? -1 : 1;
}

/* With texts: what is known at once, or the lookup begins. */
static int begin_addresses(struct kl_resolve *self, const char *host, const char *port,
			   PyObject **ret_result)
{
	LoopObject *loop = self->base.loop;
	const struct addrinfo hints = { .ai_flags = self->flags,
					.ai_family = self->family,
					.ai_socktype = self->socktype,
					.ai_protocol = self->protocol };
	struct kl_resolver_use *use;
	int code = kl_resolver_get(loop, &use);

	if (code <= 0)
		return code < 0 ? -1 : delegate_addresses(self);
	code = kloop_resolver_getaddrinfo_now(use->resolver, host, port, &hints, &self->addresses);
	if (code != -EAGAIN) {
		if (code == -EPERM || code == -ECHILD || code == -ESTALE) {
			kl_raise(loop->state, code);
			return -1;
		}
		return take_addresses(self, code, ret_result);
	}
	code = kloop_resolver_getaddrinfo(use->resolver, &self->lookup, host, port, &hints,
					  on_addresses);
	if (code < 0) {
		kl_raise(loop->state, code);
		return -1;
	}
	kl_resolve_began(self, use);
	return 0;
}

static int start_addresses(struct kl_resolve *self, PyObject **ret_result)
{
	LoopObject *loop = self->base.loop;
	struct kl_state *state = loop->state;
	PyObject *keep_host = NULL, *keep_port = NULL;
	const char *host, *port;
	int result;

	if (kl_check_closed(loop) < 0)
		return -1;
	result = is_replaced(state, state->names.getaddrinfo, state->socket_getaddrinfo);
	if (result != 0 || loop->system_resolver)
		return result < 0 ? -1 : delegate_addresses(self);
	if (PySys_Audit("socket.getaddrinfo", "OOiii", self->first, self->second, self->family,
			self->socktype, self->protocol) < 0)
		return -1;
	if (loop->debug)
		self->start_ns = kloop_now();
	result = kl_resolve_host(self->first, &host, &keep_host);
	if (result == 0)
		result = kl_resolve_port(self->second, &port, &keep_port);
	if (result == 0)
		result = begin_addresses(self, host, port, ret_result);
	Py_XDECREF(keep_host);
	Py_XDECREF(keep_port);
	return result;
}

static int go_addresses(struct kl_await *base, PyObject **ret_result)
{
	struct kl_resolve *self = (struct kl_resolve *)base;

	if (base->state == KL_AWAIT_NEW)
		return start_addresses(self, ret_result);
	return take_addresses(self, self->result, ret_result);
}

/* ---- getnameinfo() ----------------------------------------------------- */

static int start_names(struct kl_resolve *self)
{
	LoopObject *loop = self->base.loop;
	struct kl_state *state = loop->state;
	struct kl_resolver_use *use;
	struct sockaddr_in6 address; /* or an IPv4 one, which is smaller */
	socklen_t length;
	int code;

	if (kl_check_closed(loop) < 0)
		return -1;
	code = is_replaced(state, state->names.getnameinfo, state->socket_getnameinfo);
	if (code != 0 || loop->system_resolver)
		return code < 0 ? -1 : delegate_names(self);
	if (kl_resolve_sockaddr(state, self->first, &address, &length) < 0 ||
	    PySys_Audit("socket.getnameinfo", "(O)", self->first) < 0)
		return -1;
	code = kl_resolver_get(loop, &use);
	if (code <= 0)
		return code < 0 ? -1 : delegate_names(self);
	code = kloop_resolver_getnameinfo(use->resolver, &self->lookup,
					  (const struct sockaddr *)&address, length, self->flags,
					  on_names);
	if (code < 0) {
		kl_raise(state, code);
		return -1;
	}
	kl_resolve_began(self, use);
	return 0;
}

static int go_names(struct kl_await *base, PyObject **ret_result)
{
	struct kl_resolve *self = (struct kl_resolve *)base;

	if (base->state == KL_AWAIT_NEW)
		return start_names(self);
	if (is_beyond_us(self, self->result))
		return delegate_names(self);
	if (self->result < 0)
		return kl_raise_lookup(base->loop->state, self->result);
	*ret_result = self->names;
	self->names = NULL;
	return 1;
}

/* ---- queries ----------------------------------------------------------- */

static int start_query(struct kl_resolve *self)
{
	LoopObject *loop = self->base.loop;
	struct kl_resolver_use *use;
	PyObject *keep;
	const char *name;
	int code;

	if (kl_check_closed(loop) < 0 || kl_resolve_text(self->first, &name, &keep) < 0)
		return -1;
	code = kl_resolver_get(loop, &use);
	if (code == 0)
		PyErr_SetObject(PyExc_OSError, loop->resolver_failure);
	if (code <= 0) {
		Py_DECREF(keep);
		return -1;
	}
	code = kloop_resolver_query(use->resolver, &self->lookup, name, self->type,
				    (unsigned)self->flags, on_message);
	Py_DECREF(keep);
	if (code < 0) {
		if (code == -EINVAL)
			PyErr_Format(PyExc_ValueError, "%R is no domain name", self->first);
		else if (code == -EOPNOTSUPP)
			PyErr_Format(PyExc_ValueError, "records of type %u cannot be asked for",
				     self->type);
		else
			kl_raise(loop->state, code);
		return -1;
	}
	kl_resolve_began(self, use);
	return 0;
}

static int go_query(struct kl_await *base, PyObject **ret_result)
{
	struct kl_resolve *self = (struct kl_resolve *)base;

	if (base->state == KL_AWAIT_NEW)
		return start_query(self);
	*ret_result = kl_message_to_python(self->result, self->message);
	return *ret_result == NULL ? -1 : 1;
}

/* ---- methods of the loop ----------------------------------------------- */

/* An int as PyArg_ParseTuple() takes it; NULL leaves what is there. */
static int take_int(PyObject *object, int *number)
{
	return object == NULL || PyArg_Parse(object, "i", number) ? 0 : -1;
}

/* It failed before it could be awaited: no warning about that. */
static PyObject *discard(struct kl_resolve *self)
{
	self->base.state = KL_AWAIT_DONE;
	Py_DECREF((PyObject *)self);
	return NULL;
}

KL_LOOP_METHOD(kl_loop_getaddrinfo)
{
	static const struct kl_signature signature = {
		"getaddrinfo", 2, 2, 6, { "host", "port", "family", "type", "proto", "flags" }
	};
	PyObject *values[6];
	struct kl_resolve *call;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	call = make(self, KL_RESOLVE_ADDRESSES, values[0], values[1]);
	if (call != NULL &&
	    (take_int(values[2], &call->family) < 0 || take_int(values[3], &call->socktype) < 0 ||
	     take_int(values[4], &call->protocol) < 0 || take_int(values[5], &call->flags) < 0))
		return discard(call);
	return (PyObject *)call;
}

KL_LOOP_METHOD(kl_loop_getnameinfo)
{
	static const struct kl_signature signature = { "getnameinfo", 1, 2, 2,
						       { "sockaddr", "flags" } };
	PyObject *values[2];
	struct kl_resolve *call;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	call = make(self, KL_RESOLVE_NAMES, values[0], NULL);
	if (call != NULL && take_int(values[1], &call->flags) < 0)
		return discard(call);
	return (PyObject *)call;
}

KL_LOOP_METHOD(kl_loop_query)
{
	static const struct kl_signature signature = { "_query", 3, 3, 3,
						       { "name", "type", "flags" } };
	PyObject *values[3];
	struct kl_resolve *call;

	if (kl_signature_unpack(&signature, args, nargs, kwnames, values) < 0)
		return NULL;
	call = make(self, KL_RESOLVE_QUERY, values[0], NULL);
	if (call != NULL && (!PyArg_Parse(values[1], "I", &call->type) ||
			     take_int(values[2], &call->flags) < 0))
		return discard(call);
	return (PyObject *)call;
}

/* ---- the type ---------------------------------------------------------- */

#define FAILURE "A lookup cannot be finished"

static const struct kl_await_kind kinds[KINDS] = {
	[KL_RESOLVE_ADDRESSES] = { "Loop.getaddrinfo", FAILURE, go_addresses, stop, drop },
	[KL_RESOLVE_NAMES] = { "Loop.getnameinfo", FAILURE, go_names, stop, drop },
	[KL_RESOLVE_QUERY] = { "Loop._query", FAILURE, go_query, stop, drop },
};

static PyType_Slot slots[] = {
	{ Py_tp_doc, (void *)"A lookup of a name or an address, to be awaited." },
	{ Py_tp_dealloc, resolve_dealloc },
	{ Py_tp_traverse, resolve_traverse },
	{ Py_tp_clear, resolve_clear },
	KL_AWAIT_SLOTS,
	{ 0, NULL },
};

static PyType_Spec spec = {
	.name = "kloop._kloop.ResolveCall",
	.basicsize = sizeof(struct kl_resolve),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
		 Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = slots,
};

int kl_resolver_init(PyObject *module, struct kl_state *state)
{
	state->resolve_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
	return state->resolve_type == NULL ? -1 : 0;
}
