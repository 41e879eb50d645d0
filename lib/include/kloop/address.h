/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Socket addresses: numeric text to struct sockaddr and back. Names are the
 * resolver's business.
 */
#ifndef KLOOP_ADDRESS_H
#define KLOOP_ADDRESS_H

#include <kloop/base.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

KLOOP_BEGIN_DECLS

/* A socket address with its length. */
struct kloop_address {
	socklen_t length; /* bytes of the member in use; 0: none */
	union {
		struct sockaddr any;
		struct sockaddr_in ip4;
		struct sockaddr_in6 ip6;
		struct sockaddr_un local;
		struct sockaddr_storage storage;
	} u;
};

/* Room that kloop_address_format() never exceeds, the final 0 included. */
#define KLOOP_ADDRESS_TEXT_BYTES 128

/*
 * Read a numeric IPv4 or IPv6 address.
 *
 * host: "192.0.2.1", "2001:db8::1", "fe80::1%eth0" or "fe80::1%2"; no brackets.
 * port: in host order.
 *
 * Returns: 0; -EINVAL if host is NULL or not an address; -ENODEV if the
 * interface after % does not exist.
 * Thread: any.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_address_parse(const char *host, uint16_t port,
				     struct kloop_address *ret_address) KLOOP_MUST_CHECK;

/*
 * Make the address of a Unix socket.
 *
 * path, bytes: a path; if its first byte is 0, a name in the abstract space.
 * No bytes at all make the unnamed address, which a bind turns into a name of
 * the kernel's choice.
 *
 * Returns: 0; -EINVAL; -ENAMETOOLONG over 107 bytes of path or 108 of a name.
 * Thread: any.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_address_set_local(const void *path, size_t bytes,
					 struct kloop_address *ret_address) KLOOP_MUST_CHECK;

/*
 * Write an address as text: "192.0.2.1:80", "[fe80::1%eth0]:80",
 * "unix:/run/x", "unix:@name".
 *
 * buffer, bytes: at least KLOOP_ADDRESS_TEXT_BYTES fit every address; bytes of
 * a name that are not printable ASCII become '?'.
 *
 * Returns: the length without the final 0; -ENOSPC if the buffer is too small;
 * -EAFNOSUPPORT for another family; -EINVAL.
 * Thread: any.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_address_format(const struct kloop_address *address, char *buffer,
				      size_t bytes) KLOOP_MUST_CHECK;

/* The port in host order; 0 for a Unix socket. Thread: any. Since: 0.1. */
KLOOP_EXPORT uint16_t kloop_address_get_port(const struct kloop_address *address);

KLOOP_END_DECLS

#endif
