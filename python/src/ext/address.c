/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Socket addresses as Python's socket module shows them. */
#include "ext.h"

#include <arpa/inet.h>
#include <stddef.h>

static PyObject *ip4_to_python(const struct sockaddr_in *address)
{
	char text[INET_ADDRSTRLEN];

	if (inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text)) == NULL)
		return PyErr_SetFromErrno(PyExc_OSError);
	return Py_BuildValue("(si)", text, ntohs(address->sin_port));
}

static PyObject *ip6_to_python(const struct sockaddr_in6 *address)
{
	char text[INET6_ADDRSTRLEN];

	if (inet_ntop(AF_INET6, &address->sin6_addr, text, sizeof(text)) == NULL)
		return PyErr_SetFromErrno(PyExc_OSError);
	return Py_BuildValue("(siII)", text, ntohs(address->sin6_port),
			     (unsigned)ntohl(address->sin6_flowinfo),
			     (unsigned)address->sin6_scope_id);
}

/* A name in the abstract space is bytes, a path is str, unnamed is ''. */
static PyObject *local_to_python(const struct sockaddr_un *address, socklen_t length)
{
	size_t bytes = 0;

	if (length > offsetof(struct sockaddr_un, sun_path))
		bytes = length - offsetof(struct sockaddr_un, sun_path);
	if (bytes > sizeof(address->sun_path))
		bytes = sizeof(address->sun_path);
	if (bytes > 0 && address->sun_path[0] == 0)
		return PyBytes_FromStringAndSize(address->sun_path, (Py_ssize_t)bytes);
	return PyUnicode_DecodeFSDefaultAndSize(address->sun_path,
						(Py_ssize_t)strnlen(address->sun_path, bytes));
}

/* ---- from Python ------------------------------------------------------- */

/* A host as numbers, or one of the two words that stand for some. */
static bool ip4_from_host(const char *host, struct in_addr *ret_address)
{
	if (host[0] == 0)
		ret_address->s_addr = htonl(INADDR_ANY);
	else if (strcmp(host, "<broadcast>") == 0)
		ret_address->s_addr = htonl(INADDR_BROADCAST);
	else
		return inet_pton(AF_INET, host, ret_address) == 1;
	return true;
}

/* An integer that is not above a limit. */
static bool number_from_python(PyObject *object, unsigned long most, unsigned long *ret_number)
{
	if (!PyLong_CheckExact(object))
		return false;
	*ret_number = PyLong_AsUnsignedLong(object);
	if (*ret_number == (unsigned long)-1 && PyErr_Occurred()) {
		PyErr_Clear();
		return false;
	}
	return *ret_number <= most;
}

static bool ip_from_python(int family, PyObject *object, struct kloop_address *ret_address)
{
	unsigned long port, flow = 0, scope = 0;
	Py_ssize_t size, length;
	const char *host;

	if (!PyTuple_CheckExact(object))
		return false;
	size = PyTuple_GET_SIZE(object);
	if (size < 2 || size > (family == AF_INET ? 2 : 4) ||
	    !PyUnicode_CheckExact(PyTuple_GET_ITEM(object, 0)) ||
	    !number_from_python(PyTuple_GET_ITEM(object, 1), UINT16_MAX, &port) ||
	    (size > 2 && !number_from_python(PyTuple_GET_ITEM(object, 2), 0xfffff, &flow)) ||
	    (size > 3 && !number_from_python(PyTuple_GET_ITEM(object, 3), UINT32_MAX, &scope)))
		return false;
	host = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(object, 0), &length);
	if (host == NULL || strlen(host) != (size_t)length) {
		PyErr_Clear();
		return false;
	}
	memset(&ret_address->u.ip6, 0, sizeof(ret_address->u.ip6));
	if (family == AF_INET) {
		ret_address->length = sizeof(ret_address->u.ip4);
		ret_address->u.ip4.sin_family = AF_INET;
		ret_address->u.ip4.sin_port = htons((uint16_t)port);
		return ip4_from_host(host, &ret_address->u.ip4.sin_addr);
	}
	ret_address->length = sizeof(ret_address->u.ip6);
	ret_address->u.ip6.sin6_family = AF_INET6;
	ret_address->u.ip6.sin6_port = htons((uint16_t)port);
	ret_address->u.ip6.sin6_flowinfo = htonl((uint32_t)flow);
	ret_address->u.ip6.sin6_scope_id = (uint32_t)scope;
	return inet_pton(AF_INET6, host, &ret_address->u.ip6.sin6_addr) == 1;
}

static bool local_from_python(PyObject *object, struct kloop_address *ret_address)
{
	PyObject *bytes = NULL;
	bool result = false;

	if (PyUnicode_CheckExact(object))
		bytes = PyUnicode_EncodeFSDefault(object);
	else if (PyBytes_CheckExact(object))
		bytes = Py_NewRef(object);
	if (bytes != NULL)
		result = PyBytes_GET_SIZE(bytes) > 0 &&
			 kloop_address_set_local(PyBytes_AS_STRING(bytes),
						 (size_t)PyBytes_GET_SIZE(bytes), ret_address) == 0;
	else
		PyErr_Clear();
	Py_XDECREF(bytes);
	return result;
}

bool kl_address_from_python(int family, PyObject *object, struct kloop_address *ret_address)
{
	if (family == AF_UNIX)
		return local_from_python(object, ret_address);
	return ip_from_python(family, object, ret_address);
}

/* ---- to Python --------------------------------------------------------- */

PyObject *kl_address_to_python(const struct kloop_address *address)
{
	if (address->length == 0)
		Py_RETURN_NONE;
	switch (address->u.any.sa_family) {
	case AF_INET:
		return ip4_to_python(&address->u.ip4);
	case AF_INET6:
		return ip6_to_python(&address->u.ip6);
	case AF_UNIX:
		return local_to_python(&address->u.local, address->length);
	default:
		return Py_BuildValue("(iy#)", (int)address->u.any.sa_family,
				     address->u.any.sa_data,
				     (Py_ssize_t)sizeof(address->u.any.sa_data));
	}
}
