/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "sources.h"

#include <endian.h>
#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/if_addrlabel.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAPPED_BITS 96

int kl_netlink_open(unsigned groups)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = groups };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd >= 0 && bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* ---- prefixes ------------------------------------------------------------- */

static unsigned common_bits(const uint8_t a[16], const uint8_t b[16])
{
	uint64_t x[2], y[2];

	memcpy(x, a, sizeof(x));
	memcpy(y, b, sizeof(y));
	if (x[0] != y[0])
		return (unsigned)__builtin_clzll(be64toh(x[0] ^ y[0]));
	return x[1] != y[1] ? 64 + (unsigned)__builtin_clzll(be64toh(x[1] ^ y[1])) : 128;
}

static void add(struct kl_sources *sources, int family, const void *address, size_t bytes,
		unsigned bits)
{
	struct kl_source_prefix *prefix = &sources->prefixes[sources->count];
	uint8_t whole[16] = { 0 };

	if (family == AF_INET && bytes >= 4 && bits <= 32) {
		memset(whole + 10, 0xff, 2);
		memcpy(whole + 12, address, 4);
		bits += MAPPED_BITS;
	} else if (family == AF_INET6 && bytes >= 16 && bits <= 128) {
		memcpy(whole, address, 16);
	} else {
		return;
	}
	for (unsigned i = 0; i < sources->count; i++) {
		if (sources->prefixes[i].bits == bits &&
		    memcmp(sources->prefixes[i].address, whole, 16) == 0)
			return;
	}
	if (sources->count == KL_SOURCE_PREFIXES_MAX) {
		sources->usable = false;
		return;
	}
	memcpy(prefix->address, whole, 16);
	prefix->bits = (uint8_t)bits;
	sources->count++;
}

void kl_sources_add_local(struct kl_sources *sources, const uint8_t address[16])
{
	/* Of two, the source of an IPv6 address is the one with more bits in common. */
	add(sources, AF_INET6, address, 16, 128);
}

/* ---- what the kernel has -------------------------------------------------- */

static void take_attributes(struct kl_sources *sources, int family, unsigned bits,
			    const struct rtattr *attribute, int left, const int wanted)
{
	for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
		if (attribute->rta_type == wanted)
			add(sources, family, RTA_DATA(attribute), RTA_PAYLOAD(attribute), bits);
	}
}

/* Where packets are spread over ways, each address may have a source of its own. */
static bool is_spread(const struct rtmsg *route, int left)
{
	const struct rtattr *attribute = RTM_RTA(route);

	for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
		if (attribute->rta_type == RTA_MULTIPATH || attribute->rta_type == RTA_NH_ID)
			return true;
	}
	return false;
}

static void take(struct kl_sources *sources, const struct nlmsghdr *header)
{
	const void *data = NLMSG_DATA(header);
	const struct rtmsg *route = data; /* a rule's header has the same beginning */
	const struct fib_rule_hdr *rule = data;
	const struct ifaddrlblmsg *label = data;
	int left;

	switch (header->nlmsg_type) {
	case RTM_NEWROUTE:
		left = (int)RTM_PAYLOAD(header);
		if (is_spread(route, left))
			sources->usable = false;
		take_attributes(sources, route->rtm_family, route->rtm_dst_len, RTM_RTA(route),
				left, RTA_DST);
		break;
	case RTM_NEWRULE:
		left = (int)NLMSG_PAYLOAD(header, sizeof(*rule));
		take_attributes(sources, rule->family, rule->dst_len,
				(const struct rtattr *)(const void *)((const char *)data +
								       NLMSG_ALIGN(sizeof(*rule))),
				left, FRA_DST);
		break;
	case RTM_NEWADDRLABEL:
		left = (int)NLMSG_PAYLOAD(header, sizeof(*label));
		take_attributes(sources, label->ifal_family, label->ifal_prefixlen,
				(const struct rtattr *)(const void *)((const char *)data +
								       NLMSG_ALIGN(sizeof(*label))),
				left, IFAL_ADDRESS);
		break;
	default:
		break;
	}
}

static bool is_missing(const struct nlmsghdr *header)
{
	const struct nlmsgerr *error = NLMSG_DATA(header);

	return NLMSG_PAYLOAD(header, 0) >= sizeof(error->error) &&
	       (error->error == -EOPNOTSUPP || error->error == -EAFNOSUPPORT);
}

/* True at the end of the dump. */
static bool take_all(struct kl_sources *sources, const char *buffer, size_t bytes)
{
	const struct nlmsghdr *header = (const struct nlmsghdr *)(const void *)buffer;
	unsigned left = (unsigned)bytes;

	for (; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
		if (header->nlmsg_flags & NLM_F_DUMP_INTR)
			sources->usable = false;
		if (header->nlmsg_type == NLMSG_DONE)
			return true;
		if (header->nlmsg_type == NLMSG_ERROR) {
			/* What this kernel does not have tells nothing apart. */
			if (!is_missing(header))
				sources->usable = false;
			return true;
		}
		take(sources, header);
	}
	return false;
}

/* The kernel makes a dump while it is read: nothing here waits. */
static void dump(struct kl_sources *sources, int fd, unsigned type, int family)
{
	struct {
		struct nlmsghdr header;
		struct rtmsg message; /* the longest of the three kinds */
	} request = {
		.header = { .nlmsg_type = (uint16_t)type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.message = { .rtm_family = (uint8_t)family },
	};
	_Alignas(struct nlmsghdr) char buffer[32768];
	ssize_t bytes;

	if (!sources->usable)
		return;
	request.header.nlmsg_len = sizeof(request);
	if (send(fd, &request, sizeof(request), MSG_DONTWAIT) != (ssize_t)sizeof(request)) {
		sources->usable = false;
		return;
	}
	while (sources->usable) {
		bytes = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
		if (bytes <= 0)
			sources->usable = false;
		else if (take_all(sources, buffer, (size_t)bytes))
			return;
	}
}

void kl_sources_load(struct kl_sources *sources)
{
	/* Scopes: link and site. */
	static const uint8_t link[16] = { 0xfe, 0x80 }, site[16] = { 0xfe, 0xc0 };
	int fd = kl_netlink_open(0);

	memset(sources, 0, offsetof(struct kl_sources, prefixes));
	memset(sources->slots, 0, sizeof(sources->slots));
	if (fd < 0)
		return;
	sources->usable = true;
	add(sources, AF_INET6, link, sizeof(link), 10);
	add(sources, AF_INET6, site, sizeof(site), 10);
	add(sources, AF_INET, "\0\0\0\0", 4, 0); /* no IPv4 address is one of IPv6 */
	dump(sources, fd, RTM_GETROUTE, AF_INET);
	dump(sources, fd, RTM_GETROUTE, AF_INET6);
	dump(sources, fd, RTM_GETRULE, AF_INET);
	dump(sources, fd, RTM_GETRULE, AF_INET6);
	dump(sources, fd, RTM_GETADDRLABEL, AF_INET6);
	close(fd);
}

/* ---- the answers ---------------------------------------------------------- */

/*
 * How many bits of an address matter: up to the longest prefix it has, and up to
 * where it leaves the last local address that it follows.
 */
static unsigned depth(const struct kl_sources *sources, const uint8_t address[16])
{
	unsigned deepest = 0;

	for (unsigned i = 0; i < sources->count; i++) {
		const struct kl_source_prefix *prefix = &sources->prefixes[i];
		unsigned common = common_bits(prefix->address, address);

		if (common >= prefix->bits)
			common = prefix->bits;
		else if (prefix->bits != 128)
			continue;
		if (common > deepest)
			deepest = common;
	}
	return deepest;
}

static uint32_t hash(const uint8_t prefix[16], unsigned bits)
{
	uint64_t halves[2];

	memcpy(halves, prefix, sizeof(halves));
	halves[0] = (halves[0] ^ bits) * UINT64_C(0x9e3779b97f4a7c15);
	halves[0] = (halves[0] ^ halves[0] >> 29 ^ halves[1]) * UINT64_C(0xbf58476d1ce4e5b9);
	return (uint32_t)(halves[0] >> 40);
}

/* Multicast and broadcast, and "no address", which stands for the machine itself. */
static bool is_special(const uint8_t address[16])
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff }, none[16];

	if (memcmp(address, mapped, sizeof(mapped)) == 0)
		return address[12] == 0 || address[12] >= 224;
	return address[0] == 0xff || memcmp(address, none, sizeof(none)) == 0;
}

struct kl_source *kl_sources_find(struct kl_sources *sources, const uint8_t address[16])
{
	uint8_t prefix[16];
	struct kl_source *slot;
	unsigned bits;

	if (!sources->usable || is_special(address))
		return NULL;
	bits = depth(sources, address);
	memset(prefix, 0, sizeof(prefix));
	memcpy(prefix, address, (bits + 7) / 8);
	if (bits % 8 != 0)
		prefix[bits / 8] &= (uint8_t)(0xff00 >> bits % 8);
	slot = &sources->slots[hash(prefix, bits) % KL_SOURCE_SLOTS];
	if (slot->state != KL_SOURCE_UNKNOWN && slot->bits == bits &&
	    memcmp(slot->prefix, prefix, sizeof(prefix)) == 0)
		return slot;
	memcpy(slot->prefix, prefix, sizeof(prefix));
	slot->bits = (uint8_t)bits;
	slot->state = KL_SOURCE_UNKNOWN;
	return slot;
}

void kl_sources_set(struct kl_source *slot, const uint8_t address[16], const uint8_t *source)
{
	if (!source) {
		slot->state = KL_SOURCE_NONE;
		return;
	}
	/* A way to oneself: the others of a whole network would each be their own source. */
	if (memcmp(address, source, sizeof(slot->address)) == 0 && slot->bits != 128)
		return;
	slot->state = KL_SOURCE_KNOWN;
	memcpy(slot->address, source, sizeof(slot->address));
}
