/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Arguments of lookups as C wants them, with the checks of CPython's socket module. */
#include "resolver.h"

#include <arpa/inet.h>
#include <errno.h>

/* What CPython hands on cut off at the NUL: that would be another name than the one given. */
static int check_whole(const char *text, Py_ssize_t bytes)
{
	if (strlen(text) == (size_t)bytes)
		return 0;
	PyErr_SetString(PyExc_ValueError, "embedded null character");
	return -1;
}

int kl_resolve_text(PyObject *object, const char **ret_text, PyObject **ret_keep)
{
	const char *text;
	Py_ssize_t bytes;

	if (PyUnicode_Check(object)) {
		text = PyUnicode_AsUTF8AndSize(object, &bytes);
		if (text == NULL)
			return -1;
	} else if (PyBytes_Check(object)) {
		text = PyBytes_AS_STRING(object);
		bytes = PyBytes_GET_SIZE(object);
	} else {
		PyErr_Format(PyExc_TypeError, "a str or bytes is expected, not %.100s",
			     Py_TYPE(object)->tp_name);
		return -1;
	}
	if (check_whole(text, bytes) < 0)
		return -1;
	*ret_text = text;
	*ret_keep = Py_NewRef(object);
	return 0;
}

/* Would the codec "idna" return this text as it is? Where it would complain, it shall. */
static bool is_plain(PyObject *text)
{
	const char *at, *end;
	size_t label = 0;

	if (!PyUnicode_IS_ASCII(text))
		return false;
	at = (const char *)PyUnicode_1BYTE_DATA(text);
	end = at + PyUnicode_GET_LENGTH(text);
	for (; at < end; at++) {
		if (*at != '.')
			label++;
		else if (label == 0 || label > 63)
			return false;
		else
			label = 0;
	}
	return label <= 63;
}

int kl_resolve_host(PyObject *host, const char **ret_text, PyObject **ret_keep)
{
	PyObject *encoded;
	int result;

	if (host == Py_None) {
		*ret_text = NULL;
		*ret_keep = NULL;
		return 0;
	}
	if (PyBytes_Check(host) || (PyUnicode_Check(host) && is_plain(host)))
		return kl_resolve_text(host, ret_text, ret_keep);
	if (!PyUnicode_Check(host)) {
		PyErr_SetString(PyExc_TypeError, "getaddrinfo() argument 1 must be string or None");
		return -1;
	}
	encoded = PyUnicode_AsEncodedString(host, "idna", NULL);
	if (encoded == NULL)
		return -1;
	result = kl_resolve_text(encoded, ret_text, ret_keep);
	Py_DECREF(encoded);
	return result;
}

/* Python 3.14 takes what is derived from int, too: True, members of an IntEnum. */
static bool is_int(PyObject *port)
{
#if PY_VERSION_HEX >= 0x030E0000
	return PyLong_Check(port);
#else
	return PyLong_CheckExact(port);
#endif
}

/* The digits of an int: new, or NULL with an error set. */
static PyObject *write_digits(PyObject *number)
{
	PyObject *plain = PyNumber_Long(number);
	PyObject *digits = plain != NULL ? PyObject_Str(plain) : NULL;

	Py_XDECREF(plain);
	return digits;
}

int kl_resolve_port(PyObject *port, const char **ret_text, PyObject **ret_keep)
{
	PyObject *digits;
	int result;

	if (port == Py_None) {
		*ret_text = NULL;
		*ret_keep = NULL;
		return 0;
	}
	if (PyUnicode_Check(port) || PyBytes_Check(port))
		return kl_resolve_text(port, ret_text, ret_keep);
	if (!is_int(port)) {
		PyErr_SetString(PyExc_OSError, "Int or String expected");
		return -1;
	}
#if PY_VERSION_HEX < 0x030C0000
	/* Newer ones leave it to getaddrinfo(3). */
	if (PyLong_AsLong(port) == -1 && PyErr_Occurred())
		return -1;
#endif
	digits = write_digits(port);
	if (digits == NULL)
		return -1;
	result = kl_resolve_text(digits, ret_text, ret_keep);
	Py_DECREF(digits);
	return result;
}

/* ---- the address of getnameinfo() -------------------------------------- */

static int take_address(const struct addrinfo *info, PyObject *tuple, unsigned flowinfo,
			unsigned scope_id, struct sockaddr_in6 *ret_address, socklen_t *ret_length)
{
	if (info->ai_addrlen > sizeof(*ret_address)) {
		PyErr_SetString(PyExc_OSError, "unknown family");
		return -1;
	}
	if (info->ai_family == AF_INET && PyTuple_GET_SIZE(tuple) != 2) {
		PyErr_SetString(PyExc_OSError, "IPv4 sockaddr must be 2 tuple");
		return -1;
	}
	memcpy(ret_address, info->ai_addr, info->ai_addrlen);
	*ret_length = info->ai_addrlen;
	if (info->ai_family == AF_INET6) {
		ret_address->sin6_flowinfo = htonl(flowinfo);
		ret_address->sin6_scope_id = scope_id;
	}
	return 0;
}

int kl_resolve_sockaddr(struct kl_state *state, PyObject *tuple, struct sockaddr_in6 *ret_address,
			socklen_t *ret_length)
{
	/* As CPython does: this reads numbers and nothing else, and asks nobody. */
	const struct addrinfo hints = { .ai_socktype = SOCK_DGRAM,
					.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
	struct addrinfo *info;
	unsigned flowinfo = 0, scope_id = 0;
	char digits[8];
	const char *host;
	int port, code;

	if (!PyTuple_Check(tuple)) {
		PyErr_SetString(PyExc_TypeError, "getnameinfo() argument 1 must be a tuple");
		return -1;
	}
	if (!PyArg_ParseTuple(tuple, "si|II;getnameinfo(): illegal sockaddr argument", &host,
			      &port, &flowinfo, &scope_id))
		return -1;
	if (flowinfo > 0xfffff) {
		PyErr_SetString(PyExc_OverflowError,
				"getnameinfo(): flowinfo must be 0-1048575.");
		return -1;
	}
	if (port < 0 || port > 65535)
		return kl_raise_gai(state, EAI_SERVICE);
	PyOS_snprintf(digits, sizeof(digits), "%d", port);
	code = getaddrinfo(host, digits, &hints, &info);
	if (code != 0)
		return kl_raise_gai(state, code);
	code = take_address(info, tuple, flowinfo, scope_id, ret_address, ret_length);
	freeaddrinfo(info);
	return code;
}
