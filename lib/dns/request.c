/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The request of getaddrinfo(3): its arguments, its socket types, its service. */
#include "gai.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Longer texts are no names of anything. */
#define TEXT_MAX 1024

static const struct kind {
	int socktype;
	int protocol;
	bool any_protocol; /* takes the caller's */
	bool no_service;
	bool by_default;   /* where neither type nor protocol is asked for */
	const char *name;
} kinds[] = {
	{ SOCK_STREAM, IPPROTO_TCP, false, false, true, "tcp" },
	{ SOCK_DGRAM, IPPROTO_UDP, false, false, true, "udp" },
	{ SOCK_DCCP, IPPROTO_DCCP, false, false, false, "dccp" },
	{ SOCK_DGRAM, IPPROTO_UDPLITE, false, false, false, "udplite" },
	{ SOCK_STREAM, IPPROTO_SCTP, false, false, false, "sctp" },
	{ SOCK_SEQPACKET, IPPROTO_SCTP, false, false, false, "sctp" },
	{ SOCK_RAW, 0, true, true, true, "raw" },
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

int kl_request_new(const char *node, const char *service, const struct addrinfo *hints,
		   struct kl_request **ret_request)
{
	size_t node_bytes = node ? strlen(node) + 1 : 1;
	size_t service_bytes = service ? strlen(service) + 1 : 1;
	struct kl_request *request;

	if (node_bytes > TEXT_MAX || service_bytes > TEXT_MAX)
		return KLOOP_ERROR_DNS_NONAME;
	request = kl_malloc(sizeof(*request) + node_bytes + service_bytes);
	if (!request)
		return -ENOMEM;
	/* As glibc: "*" is none. */
	request->has_node = node && strcmp(node, "*") != 0;
	request->has_service = service && strcmp(service, "*") != 0;
	request->service = request->node + node_bytes;
	memcpy(request->node, node ? node : "", node_bytes);
	memcpy(request->service, service ? service : "", service_bytes);
	request->flags = hints ? hints->ai_flags : 0;
	request->family = hints ? hints->ai_family : AF_UNSPEC;
	request->socktype = hints ? hints->ai_socktype : 0;
	request->protocol = hints ? hints->ai_protocol : 0;
	*ret_request = request;
	return 0;
}

static bool suits(const struct kl_request *request, const struct kind *kind)
{
	return (request->socktype == 0 || request->socktype == kind->socktype) &&
	       (request->protocol == 0 || kind->any_protocol ||
		request->protocol == kind->protocol);
}

static void add(struct kl_finder *finder, const struct kind *kind, int port)
{
	struct kl_socktype *type = &finder->socktypes[finder->socktype_count++];

	type->type = kind->socktype;
	type->protocol = kind->any_protocol ? finder->request->protocol : kind->protocol;
	type->port = htons((uint16_t)port);
}

/* A service by its name: for each kind of socket that has it. */
static int add_named(struct kl_finder *finder)
{
	const struct kl_request *request = finder->request;
	bool any = request->socktype == 0 && request->protocol == 0;

	for (size_t i = 0; i < KINDS; i++) {
		int port;

		if (!suits(request, &kinds[i]))
			continue;
		if (kinds[i].no_service) {
			if (any)
				continue;
			return KLOOP_ERROR_DNS_SERVICE;
		}
		port = kl_services_find(&finder->config->services, request->service,
					kinds[i].name);
		if (port >= 0)
			add(finder, &kinds[i], port);
		if (!any)
			break;
	}
	return finder->socktype_count != 0 ? 0 : KLOOP_ERROR_DNS_SERVICE;
}

/* A port in decimal, as strtoul(3) takes it: *ret_port -1 for the name of a service. */
static int parse_port(const char *text, int *ret_port)
{
	char *end;
	unsigned long port;

	errno = 0;
	port = strtoul(text, &end, 10);
	if (*end != '\0') {
		*ret_port = -1;
		return 0;
	}
	/* glibc takes it modulo 65536, and "-1" as a name. */
	if (port > 65535 || errno == ERANGE || strchr(text, '-'))
		return KLOOP_ERROR_DNS_SERVICE;
	*ret_port = (int)port;
	return 0;
}

static int find_socktypes(struct kl_finder *finder)
{
	const struct kl_request *request = finder->request;
	bool service = request->has_service && *request->service != '\0';
	int port = 0, ret;
	size_t first = 0;

	while (first < KINDS && !suits(request, &kinds[first]))
		first++;
	if (first == KINDS)
		return request->socktype != 0 ? KLOOP_ERROR_DNS_SOCKTYPE : KLOOP_ERROR_DNS_SERVICE;
	if (service) {
		ret = parse_port(request->service, &port);
		if (ret == 0 && port < 0 && (request->flags & AI_NUMERICSERV))
			ret = KLOOP_ERROR_DNS_NONAME;
		if (ret < 0)
			return ret;
		if (port < 0)
			return add_named(finder);
	}
	if (request->socktype != 0 || request->protocol != 0) {
		if (service && kinds[first].no_service)
			return KLOOP_ERROR_DNS_SERVICE;
		add(finder, &kinds[first], port);
		return 0;
	}
	for (size_t i = 0; i < KINDS; i++) {
		if (kinds[i].by_default)
			add(finder, &kinds[i], port);
	}
	return 0;
}

int kl_finder_begin(struct kl_finder *finder, struct kloop_resolver *resolver,
		    struct kl_config *config, struct kl_request *request)
{
	const int known = AI_PASSIVE | AI_CANONNAME | AI_NUMERICHOST | AI_ADDRCONFIG | AI_V4MAPPED |
			  AI_NUMERICSERV | AI_ALL | AI_IDN | AI_CANONIDN | 0x300;
	bool has4, has6;
	int ret;

	memset(finder, 0, sizeof(*finder));
	finder->resolver = resolver;
	finder->config = config;
	finder->request = request;
	finder->family = request->family;
	finder->ttl_s = UINT32_MAX;
	if (!request->has_node && !request->has_service)
		return KLOOP_ERROR_DNS_NONAME;
	if ((request->flags & ~known) || ((request->flags & AI_CANONNAME) && !request->has_node))
		return KLOOP_ERROR_DNS_FLAGS;
	if (request->flags & AI_ADDRCONFIG) {
		kl_routes_families(&resolver->routes, &has4, &has6);
		if (finder->family == AF_UNSPEC && has4 != has6)
			finder->family = has4 ? AF_INET : AF_INET6;
		else if ((finder->family == AF_INET && !has4) ||
			 (finder->family == AF_INET6 && !has6))
			return KLOOP_ERROR_DNS_NONAME;
	}
	if (finder->family != AF_UNSPEC && finder->family != AF_INET && finder->family != AF_INET6)
		return KLOOP_ERROR_DNS_FAMILY;
	if (request->has_service && *request->service != '\0' &&
	    (request->flags & AI_NUMERICSERV)) {
		int port;

		ret = parse_port(request->service, &port);
		if (ret == 0 && port < 0)
			return KLOOP_ERROR_DNS_NONAME;
	}
	return find_socktypes(finder);
}
