/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Names: one call of getaddrinfo(), getnameinfo() or a query, the resolver
 * behind it, and what becomes of results.
 */
#ifndef KL_RESOLVER_H
#define KL_RESOLVER_H

#include "await.h"

#include <netdb.h>
#include <netinet/in.h>

/* A resolver, and how many lookups are on with it. */
struct kl_resolver_use {
	struct kloop_resolver *resolver;
	size_t lookups;
	bool retired; /* it was replaced, and is closed with its last lookup */
};

enum kl_resolve_kind {
	KL_RESOLVE_ADDRESSES,
	KL_RESOLVE_NAMES,
	KL_RESOLVE_QUERY,
};

/* base.state is KL_AWAIT_WAITING while lookup is in flight. */
struct kl_resolve {
	struct kl_await base;
	uint8_t kind;
	PyObject *first, *second; /* host and port; sockaddr; the query's name as bytes */
	int family, socktype, protocol;
	int flags;
	unsigned type;      /* of a query */
	uint64_t start_ns;  /* in debug mode */
	struct kl_resolver_use *use;
	struct kloop_lookup lookup;
	int result;         /* of the completion; and with 0: */
	struct kloop_addresses *addresses;
	struct kloop_dns_message *message; /* also with some errors */
	PyObject *names;                   /* (host, service) */
	struct kl_resolve *next, **link;   /* in LoopObject.resolves while in flight */
};

/* ---- resolver.c -------------------------------------------------------- */

/*
 * The loop's resolver, made now if there is none: 1. 0 if there can be none, of
 * which resolver_failure tells. -1 with an error set.
 */
int kl_resolver_get(LoopObject *loop, struct kl_resolver_use **ret_use);

/* A lookup was accepted: the loop keeps the call until it completes. */
void kl_resolve_began(struct kl_resolve *self, struct kl_resolver_use *use);

/* The opposite, in the completion, maybe without the GIL: the caller owns the reference again. */
void kl_resolve_ended(struct kl_resolve *self);

/* ---- resolver_text.c --------------------------------------------------- */

/*
 * Text for C out of str or bytes, with a new reference to what holds it: 0, or
 * -1 with an error set. A host is encoded by "idna"; it and a port may be None,
 * which gives NULL for both, and a port may be a number.
 */
int kl_resolve_text(PyObject *object, const char **ret_text, PyObject **ret_keep);
int kl_resolve_host(PyObject *host, const char **ret_text, PyObject **ret_keep);
int kl_resolve_port(PyObject *port, const char **ret_text, PyObject **ret_keep);

/* The argument of getnameinfo(). */
int kl_resolve_sockaddr(struct kl_state *state, PyObject *tuple, struct sockaddr_in6 *ret_address,
			socklen_t *ret_length);

/* ---- resolver_info.c --------------------------------------------------- */

/* As socket.getaddrinfo() returns them. */
PyObject *kl_addresses_to_python(struct kl_state *state, const struct kloop_addresses *addresses);

/* (result, None), or with what the message says. */
PyObject *kl_message_to_python(int result, const struct kloop_dns_message *message);

/* The socket.gaierror or OSError for a result of libkloop. Returns -1. */
int kl_raise_lookup(struct kl_state *state, int result);

/* The same for a code of getaddrinfo(3). Returns -1. */
int kl_raise_gai(struct kl_state *state, int code);

#endif
