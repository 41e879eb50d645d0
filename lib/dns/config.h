/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the files of the system say, as one object that does not change once it
 * was read: lookups hold a reference and finish with what they began with.
 */
#ifndef KL_DNS_CONFIG_H
#define KL_DNS_CONFIG_H

#include <kloop/dns.h>

#include <endian.h>
#include <netinet/in.h>
#include <string.h>

#include "name.h"
#include "text.h"

#define KL_FILES 6
#define KL_SERVERS_MAX 8
/* As glibc: more in resolv.conf are not looked at. */
#define KL_CONF_SERVERS_MAX 3
#define KL_SEARCH_MAX 32
#define KL_PREFIXES_MAX 256
#define KL_MODULES_MAX 16

/* ---- resolv.conf -------------------------------------------------------- */

enum kl_resolv_option {
	KL_RESOLV_ROTATE = 1 << 0,
	KL_RESOLV_SINGLE_REQUEST = 1 << 1, /* and -reopen: one question at a time */
	KL_RESOLV_NO_TLD_QUERY = 1 << 2,
	KL_RESOLV_USE_VC = 1 << 3,
	KL_RESOLV_TRUST_AD = 1 << 4,
	KL_RESOLV_NO_AAAA = 1 << 5,
	KL_RESOLV_NO_RELOAD = 1 << 6,
	KL_RESOLV_EDNS0 = 1 << 7,
};

struct kl_resolv {
	struct kloop_address servers[KL_CONF_SERVERS_MAX];
	unsigned server_count;
	unsigned options; /* enum kl_resolv_option */
	unsigned ndots;
	unsigned timeout_s;
	unsigned attempts;
	unsigned search_count;
	bool search_given;
	char *search[KL_SEARCH_MAX];
};

void kl_resolv_init(struct kl_resolv *resolv);
int kl_resolv_line(struct kl_resolv *resolv, const char *text, size_t bytes);
/* The environment's LOCALDOMAIN and RES_OPTIONS; each may be NULL. */
int kl_resolv_environment(struct kl_resolv *resolv, const char *localdomain, const char *options);
/* What holds where the file says nothing: a server, a domain out of the host's name. */
int kl_resolv_finish(struct kl_resolv *resolv, const char *hostname);
void kl_resolv_free(struct kl_resolv *resolv);

/* ---- hosts -------------------------------------------------------------- */

/* One line: an address and its names. */
struct kl_hosts_line {
	uint8_t address[16];
	uint8_t family; /* AF_INET, AF_INET6 */
	uint32_t canonical; /* offset of its first name */
};

struct kl_hosts {
	struct kl_hosts_line *lines;
	size_t line_count;
	size_t line_room;
	/* Names: which line, and where in the store. */
	struct kl_hosts_name {
		uint32_t line;
		uint32_t name;
	} *names;
	size_t name_room;
	struct kl_index by_name;
	struct kl_index by_address; /* items are lines */
	struct kl_store store;
};

int kl_hosts_line(struct kl_hosts *hosts, const char *text, size_t bytes);
void kl_hosts_free(struct kl_hosts *hosts);

/*
 * The lines with this name, in the order of the file: start with *position 0.
 * NULL when there are no more.
 */
const struct kl_hosts_line *kl_hosts_find(const struct kl_hosts *hosts, const char *name,
					  uint32_t *position);
/* The first name of the first line with this address, or NULL. */
const char *kl_hosts_reverse(const struct kl_hosts *hosts, int family, const void *address);
const char *kl_hosts_canonical(const struct kl_hosts *hosts, const struct kl_hosts_line *line);

/* ---- services ----------------------------------------------------------- */

struct kl_services {
	struct kl_service {
		uint16_t port;
		uint32_t protocol;  /* offsets into the store */
		uint32_t canonical;
	} *services;
	size_t service_count;
	size_t service_room;
	struct kl_service_name {
		uint32_t service;
		uint32_t name;
	} *names;
	size_t name_room;
	struct kl_index by_name;
	struct kl_index by_port;
	struct kl_store store;
};

int kl_services_line(struct kl_services *services, const char *text, size_t bytes);
void kl_services_free(struct kl_services *services);
/* The port of a service over a protocol ("tcp"), or -ENOENT. */
int kl_services_find(const struct kl_services *services, const char *name, const char *protocol);
/* The name of a port, or NULL. */
const char *kl_services_reverse(const struct kl_services *services, unsigned port,
				const char *protocol);

/* ---- nsswitch.conf, host.conf ------------------------------------------- */

enum kl_module {
	KL_MODULE_FILES,
	KL_MODULE_DNS,       /* "resolve" as well */
	KL_MODULE_MYHOSTNAME,
	KL_MODULE_MDNS,      /* any of its kinds: only for names under .local */
	KL_MODULE_FOREIGN,   /* some other, which the library does not have */
};

enum kl_nss_status {
	KL_NSS_SUCCESS,
	KL_NSS_NOTFOUND,
	KL_NSS_UNAVAIL,
	KL_NSS_TRYAGAIN,
};

struct kl_nsswitch {
	unsigned count;
	struct {
		uint8_t module;  /* enum kl_module */
		uint8_t returns; /* bits 1 << enum kl_nss_status that end the search */
		bool merges;     /* an action that the library does not have */
	} modules[KL_MODULES_MAX];
	bool given;
	bool multi; /* of host.conf */
};

void kl_nsswitch_init(struct kl_nsswitch *nsswitch);
int kl_nsswitch_line(struct kl_nsswitch *nsswitch, const char *text, size_t bytes);
int kl_host_conf_line(struct kl_nsswitch *nsswitch, const char *text, size_t bytes);

/* ---- gai.conf ----------------------------------------------------------- */

struct kl_prefix {
	uint8_t address[16];
	unsigned bits;
	int value;
};

struct kl_prefixes {
	struct kl_prefix prefixes[KL_PREFIXES_MAX];
	unsigned count;
	bool given; /* the file has its own, which replace the default */
};

/* The policy of RFC 6724, as rfc3484.h of the C library has it. */
struct kl_gai {
	struct kl_prefixes labels;
	struct kl_prefixes precedences;
	struct kl_prefixes scopes4;
};

int kl_gai_line(struct kl_gai *gai, const char *text, size_t bytes);
/* Defaults, a last prefix that matches all, the longest first. */
void kl_gai_finish(struct kl_gai *gai);
int kl_prefixes_match(const struct kl_prefixes *prefixes, const uint8_t address[16]);

/* ---- all of it ---------------------------------------------------------- */

/*
 * What tells one version of a file from another. All 0 if there is none. It is
 * compared as bytes, and has no padding for that.
 */
struct kl_stamp {
	uint64_t device;
	uint64_t inode;
	uint64_t bytes;
	int64_t changed_s;
	int64_t modified_s;
	uint32_t changed_ns;
	uint32_t modified_ns;
};

struct kl_server;

struct kl_config {
	unsigned refs;
	struct kl_resolv resolv;
	struct kl_hosts hosts;
	struct kl_services services;
	struct kl_nsswitch nsswitch;
	struct kl_gai gai;
	struct kl_stamp stamps[KL_FILES];
	struct kl_server *servers; /* server.c */
	unsigned server_count;
	uint64_t timeout_ns;
	unsigned attempts;
	unsigned rotation; /* next server to begin with, for "rotate" */
};

struct kl_config *kl_config_new(void);
struct kl_config *kl_config_ref(struct kl_config *config);
void kl_config_unref(struct kl_config *config);

/* The parser for lines of a file, and what it gets as its owner. */
void kl_config_parser(struct kl_config *config, unsigned file, struct kl_lines *ret_lines);
/* How many bytes of a file are read; the rest is left out. */
size_t kl_config_limit(unsigned file);

/* The bytes of an IPv6 address, wherever they stand, for the macros of <netinet/in.h>. */
static inline struct in6_addr kl_ip6(const void *bytes)
{
	struct in6_addr address;

	memcpy(&address, bytes, sizeof(address));
	return address;
}

/* How many bits two addresses have in common, from the first one on. */
static inline unsigned kl_common_bits(const uint8_t a[16], const uint8_t b[16])
{
	uint64_t x[2], y[2];

	memcpy(x, a, sizeof(x));
	memcpy(y, b, sizeof(y));
	if (x[0] != y[0])
		return (unsigned)__builtin_clzll(be64toh(x[0] ^ y[0]));
	return x[1] != y[1] ? 64 + (unsigned)__builtin_clzll(be64toh(x[1] ^ y[1])) : 128;
}

/* ---- numeric addresses -------------------------------------------------- */

/* As getaddrinfo(3) takes them: "127.1", "0x7f.1", "fe80::1%lo". 0, -EINVAL, -ENODEV. */
int kl_numeric_parse(const char *text, struct kloop_address *ret_address);

#endif
