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
