/* SPDX-License-Identifier: MulanPSL-2.0 */
/* What lookups came to, as Python knows it: addresses, messages, exceptions. */
#include "resolver.h"

#include <errno.h>

/* ---- exceptions -------------------------------------------------------- */

int kl_raise_gai(struct kl_state *state, int code)
{
	PyObject *arguments;

	if (code == EAI_SYSTEM) {
		PyErr_SetFromErrno(PyExc_OSError);
		return -1;
	}
	arguments = Py_BuildValue("(is)", code, gai_strerror(code));
	if (arguments != NULL)
		PyErr_SetObject(state->gaierror, arguments);
	Py_XDECREF(arguments);
	return -1;
}

int kl_raise_lookup(struct kl_state *state, int result)
{
	int code = kloop_dns_get_eai(result);

	if (code != EAI_SYSTEM)
		return kl_raise_gai(state, code);
	if (result < -4095) {
		kl_raise(state, result);
		return -1;
	}
	errno = -result;
	return kl_raise_gai(state, code);
}

/* _dns_text(code): (code of getaddrinfo(3), what it means) */
PyObject *kl_dns_text_py(PyObject *Py_UNUSED(module), PyObject *code)
{
	int result;

	if (!PyArg_Parse(code, "i", &result))
		return NULL;
	return Py_BuildValue("is", kloop_dns_get_eai(result), kloop_strerror(result));
}

/* ---- addresses --------------------------------------------------------- */

/* socket's enumerations where it has a member, else the number. */
static PyObject *member(PyObject *enumeration, int number)
{
	PyObject *object = PyObject_CallFunction(enumeration, "i", number);

	if (object != NULL || !PyErr_ExceptionMatches(PyExc_ValueError))
		return object;
	PyErr_Clear();
	return PyLong_FromLong(number);
}

static PyObject *family_of(struct kl_state *state, int family)
{
	if (family == AF_INET)
		return Py_NewRef(state->family_ip4);
	if (family == AF_INET6)
		return Py_NewRef(state->family_ip6);
	return member(state->address_family, family);
}

static PyObject *kind_of(struct kl_state *state, int socktype)
{
	if (socktype == SOCK_STREAM)
		return Py_NewRef(state->kind_stream);
	if (socktype == SOCK_DGRAM)
		return Py_NewRef(state->kind_datagram);
	if (socktype == SOCK_RAW)
		return Py_NewRef(state->kind_raw);
	return member(state->socket_kind, socktype);
}

static PyObject *address_of(const struct addrinfo *info)
{
	struct kloop_address address = { .length = info->ai_addrlen };

	if (info->ai_addrlen > sizeof(address.u)) {
		PyErr_SetString(PyExc_OSError, "an address is too long");
		return NULL;
	}
	memcpy(&address.u, info->ai_addr, info->ai_addrlen);
	return kl_address_to_python(&address);
}

/* (family, type, proto, canonname, address) */
static PyObject *info_to_python(struct kl_state *state, const struct addrinfo *info)
{
	PyObject *items[5], *tuple;
	size_t i;

	items[0] = family_of(state, info->ai_family);
	items[1] = kind_of(state, info->ai_socktype);
	items[2] = PyLong_FromLong(info->ai_protocol);
	items[3] = info->ai_canonname == NULL ? Py_NewRef(state->empty_text)
					      : PyUnicode_FromString(info->ai_canonname);
	items[4] = address_of(info);
	tuple = PyTuple_New(5);
	for (i = 0; i < 5; i++) {
		if (items[i] == NULL)
			Py_CLEAR(tuple);
	}
	for (i = 0; i < 5; i++) {
		if (tuple != NULL)
			PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, items[i]);
		else
			Py_XDECREF(items[i]);
	}
	return tuple;
}

PyObject *kl_addresses_to_python(struct kl_state *state, const struct kloop_addresses *addresses)
{
	PyObject *list = PyList_New(0);
	const struct addrinfo *at;

	for (at = addresses->first; list != NULL && at != NULL; at = at->ai_next) {
		PyObject *info = info_to_python(state, at);

		if (info == NULL || PyList_Append(list, info) < 0)
			Py_CLEAR(list);
		Py_XDECREF(info);
	}
	return list;
}

/* ---- messages ---------------------------------------------------------- */

/* (owner, type, class, ttl, data) */
static PyObject *record_to_python(const struct kloop_dns_record *record)
{
	return Py_BuildValue("(y#HHIy#)", (const char *)record->owner,
			     (Py_ssize_t)record->owner_bytes, record->type, record->rr_class,
			     (unsigned)record->ttl_s, (const char *)record->data,
			     (Py_ssize_t)record->data_bytes);
}

static PyObject *section_to_python(const struct kloop_dns_message *message, unsigned section)
{
	size_t i, count = kloop_dns_message_get_count(message, section);
	PyObject *tuple = PyTuple_New((Py_ssize_t)count);

	for (i = 0; tuple != NULL && i < count; i++) {
		struct kloop_dns_record record;
		PyObject *item = NULL;

		if (kloop_dns_message_get_record(message, section, i, &record) < 0)
			PyErr_SetString(PyExc_SystemError, "a record is missing");
		else
			item = record_to_python(&record);
		if (item == NULL)
			Py_CLEAR(tuple);
		else
			PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, item);
	}
	return tuple;
}

PyObject *kl_message_to_python(int result, const struct kloop_dns_message *message)
{
	struct kloop_dns_info info;
	PyObject *ede;

	if (message == NULL)
		return Py_BuildValue("(iO)", result, Py_None);
	if (kloop_dns_message_get_info(message, &info, sizeof(info)) < 0) {
		PyErr_SetString(PyExc_SystemError, "a message tells nothing");
		return NULL;
	}
	ede = info.ede < 0 ? Py_NewRef(Py_None) : PyLong_FromLong(info.ede);
	if (ede == NULL)
		return NULL;
	/* The server may have sent anything as a text. */
	return Py_BuildValue("(i(IIINNNNN))", result, info.rcode, info.flags, (unsigned)info.ttl_s,
			     ede,
			     PyUnicode_DecodeUTF8(info.ede_text, (Py_ssize_t)strlen(info.ede_text),
						  "replace"),
			     section_to_python(message, KLOOP_DNS_ANSWER),
			     section_to_python(message, KLOOP_DNS_AUTHORITY),
			     section_to_python(message, KLOOP_DNS_ADDITIONAL));
}
