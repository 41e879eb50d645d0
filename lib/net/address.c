/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Socket addresses as numeric text and back: no name is ever looked up here. */
#include <kloop/address.h>

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Longest numeric address without its scope: INET6_ADDRSTRLEN counts the 0. */
#define TEXT_BYTES INET6_ADDRSTRLEN

/*
 * The index of an interface by name or by number. A number must belong to an
 * interface as well, so that a mistake shows here and not at connect(2).
 */
static int find_interface(const char *text, uint32_t *ret_index)
{
	unsigned long number;
	char name[IF_NAMESIZE];
	char *end;
	unsigned index = if_nametoindex(text);

	if (index != 0) {
		*ret_index = index;
		return 0;
	}
	if (text[0] < '0' || text[0] > '9')
		return -ENODEV;
	number = strtoul(text, &end, 10);
	if (*end != '\0' || number == 0 || number > INT32_MAX || !if_indextoname(number, name))
		return -ENODEV;
	*ret_index = (uint32_t)number;
	return 0;
}

static int parse_ip6(const char *host, uint16_t port, struct kloop_address *ret_address)
{
	struct kloop_address address = { .length = sizeof(address.u.ip6) };
	const char *scope = strchr(host, '%');
	size_t bytes = scope ? (size_t)(scope - host) : strlen(host);
	char text[TEXT_BYTES];
	int r;

	if (bytes >= sizeof(text))
		return -EINVAL;
	memcpy(text, host, bytes);
	text[bytes] = '\0';
	if (inet_pton(AF_INET6, text, &address.u.ip6.sin6_addr) != 1)
		return -EINVAL;
	if (scope) {
		if (scope[1] == '\0')
			return -EINVAL;
		r = find_interface(scope + 1, &address.u.ip6.sin6_scope_id);
		if (r < 0)
			return r;
	}
	address.u.ip6.sin6_family = AF_INET6;
	address.u.ip6.sin6_port = htons(port);
	*ret_address = address;
	return 0;
}

int kloop_address_parse(const char *host, uint16_t port, struct kloop_address *ret_address)
{
	struct kloop_address address = { .length = sizeof(address.u.ip4) };

	if (!host || !ret_address)
		return -EINVAL;
	if (strchr(host, ':'))
		return parse_ip6(host, port, ret_address);
	/* inet_pton() takes four decimal parts only: no "127.1", no octal. */
	if (inet_pton(AF_INET, host, &address.u.ip4.sin_addr) != 1)
		return -EINVAL;
	address.u.ip4.sin_family = AF_INET;
	address.u.ip4.sin_port = htons(port);
	*ret_address = address;
	return 0;
}

int kloop_address_set_local(const void *path, size_t bytes, struct kloop_address *ret_address)
{
	struct kloop_address address = { .length = offsetof(struct sockaddr_un, sun_path) };
	bool abstract;

	if (!ret_address || (!path && bytes > 0))
		return -EINVAL;
	address.u.local.sun_family = AF_UNIX;
	if (bytes > 0) {
		abstract = *(const char *)path == '\0';
		/* A path keeps room for its final 0; a name has none. */
		if (bytes > sizeof(address.u.local.sun_path) - (abstract ? 0 : 1))
			return -ENAMETOOLONG;
		if (!abstract && memchr(path, '\0', bytes))
			return -EINVAL;
		memcpy(address.u.local.sun_path, path, bytes);
		address.length += (socklen_t)(bytes + (abstract ? 0 : 1));
	}
	*ret_address = address;
	return 0;
}

static int format_ip4(const struct kloop_address *address, char *text, size_t bytes)
{
	char host[TEXT_BYTES];

	if (address->length < sizeof(address->u.ip4))
		return -EINVAL;
	inet_ntop(AF_INET, &address->u.ip4.sin_addr, host, sizeof(host));
	return snprintf(text, bytes, "%s:%u", host, ntohs(address->u.ip4.sin_port));
}

static int format_ip6(const struct kloop_address *address, char *text, size_t bytes)
{
	const struct sockaddr_in6 *ip6 = &address->u.ip6;
	char host[TEXT_BYTES], name[IF_NAMESIZE], scope[IF_NAMESIZE + 16] = "";

	if (address->length < sizeof(*ip6))
		return -EINVAL;
	inet_ntop(AF_INET6, &ip6->sin6_addr, host, sizeof(host));
	/* An interface that is gone meanwhile still has its number. */
	if (ip6->sin6_scope_id != 0 && if_indextoname(ip6->sin6_scope_id, name))
		snprintf(scope, sizeof(scope), "%%%s", name);
	else if (ip6->sin6_scope_id != 0)
		snprintf(scope, sizeof(scope), "%%%u", ip6->sin6_scope_id);
	return snprintf(text, bytes, "[%s%s]:%u", host, scope, ntohs(ip6->sin6_port));
}

static int format_local(const struct kloop_address *address, char *text, size_t bytes)
{
	const char *path = address->u.local.sun_path;
	size_t head = offsetof(struct sockaddr_un, sun_path);
	size_t count = address->length > head ? address->length - head : 0;
	char name[sizeof(address->u.local.sun_path) + 1];
	bool abstract;
	size_t i;

	if (count > sizeof(address->u.local.sun_path))
		return -EINVAL;
	abstract = count > 0 && path[0] == '\0';
	if (!abstract)
		count = strnlen(path, count);
	for (i = 0; i < count; i++)
		name[i] = path[i] >= ' ' && path[i] <= '~' ? path[i] : '?';
	name[count] = '\0';
	if (abstract)
		name[0] = '@';
	return snprintf(text, bytes, "unix:%s", name);
}

int kloop_address_format(const struct kloop_address *address, char *buffer, size_t bytes)
{
	char text[KLOOP_ADDRESS_TEXT_BYTES];
	int length;

	if (!address || !buffer || address->length < sizeof(sa_family_t))
		return -EINVAL;
	switch (address->u.any.sa_family) {
	case AF_INET:
		length = format_ip4(address, text, sizeof(text));
		break;
	case AF_INET6:
		length = format_ip6(address, text, sizeof(text));
		break;
	case AF_UNIX:
		length = format_local(address, text, sizeof(text));
		break;
	default:
		return -EAFNOSUPPORT;
	}
	if (length < 0)
		return length;
	if ((size_t)length >= bytes)
		return -ENOSPC;
	memcpy(buffer, text, (size_t)length + 1);
	return length;
}

uint16_t kloop_address_get_port(const struct kloop_address *address)
{
	if (address && address->length >= sizeof(address->u.ip4) &&
	    address->u.any.sa_family == AF_INET)
		return ntohs(address->u.ip4.sin_port);
	if (address && address->length >= sizeof(address->u.ip6) &&
	    address->u.any.sa_family == AF_INET6)
		return ntohs(address->u.ip6.sin6_port);
	return 0;
}
