/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The resolver: names to addresses and back as getaddrinfo(3) and
 * getnameinfo(3) of glibc do it, and queries of any type, without threads and
 * without a blocking call.
 *
 * A resolver belongs to a loop. It reads resolv.conf(5), hosts(5),
 * nsswitch.conf(5), host.conf(5), services(5) and gai.conf(5) through the ring,
 * reads them again when they change, and keeps a cache. kloop-dns(7) tells what
 * it does with them and where it differs from glibc.
 *
 * A lookup is an operation: it completes exactly once and never inside the call
 * that started it; cancelling only requests the end.
 *
 * Common to all functions that take a resolver or a lookup:
 *
 * Thread: the owner of the loop.
 * Returns: 0; -EINVAL for a bad argument; -EPERM from a wrong thread; -ECHILD
 * in a forked child; -ESTALE after kloop_resolver_close() or if the loop is
 * being freed.
 */
#ifndef KLOOP_DNS_H
#define KLOOP_DNS_H

#include <kloop/address.h>
#include <kloop/base.h>
#include <netdb.h>

KLOOP_BEGIN_DECLS

struct addrinfo; /* <netdb.h> hides it from strict C11 without _POSIX_C_SOURCE */
struct kloop_dns_message;
struct kloop_loop;
struct kloop_resolver;
struct kloop_resolver_options;
struct kloop_tls_context;

/* ---- options ----------------------------------------------------------- */

/* How a server is asked. */
enum kloop_dns_transport {
	KLOOP_DNS_UDP = 0, /* and by TCP what does not fit */
	KLOOP_DNS_TCP = 1,
	KLOOP_DNS_TLS = 2, /* encrypted (RFC 7858) */
};

/* How a server is asked by TLS: bits for kloop_resolver_options_add_tls_server(). */
enum kloop_dns_tls_flag {
	/*
	 * Encrypt, and authenticate nobody: no protection from those who can
	 * take the server's place.
	 */
	KLOOP_DNS_TLS_OPPORTUNISTIC = 1 << 0,
};

/* The files that a resolver reads. */
enum kloop_dns_file {
	KLOOP_DNS_FILE_RESOLV_CONF = 0, /* /etc/resolv.conf, to 64 KiB */
	KLOOP_DNS_FILE_HOSTS = 1,       /* /etc/hosts, to 64 MiB */
	KLOOP_DNS_FILE_NSSWITCH = 2,    /* /etc/nsswitch.conf, to 64 KiB */
	KLOOP_DNS_FILE_SERVICES = 3,    /* /etc/services, to 4 MiB */
	KLOOP_DNS_FILE_GAI_CONF = 4,    /* /etc/gai.conf, to 64 KiB */
	KLOOP_DNS_FILE_HOST_CONF = 5,   /* /etc/host.conf, to 64 KiB */
};

/* What a resolver does differently: bits for kloop_resolver_options_set_flags(). */
enum kloop_resolver_flag {
	KLOOP_RESOLVER_NO_CASE = 1 << 0,     /* no random case of letters in questions (0x20) */
	KLOOP_RESOLVER_NO_COOKIES = 1 << 1,  /* no DNS cookies (RFC 7873) */
	KLOOP_RESOLVER_NO_EDNS = 1 << 2,     /* plain DNS: answers over 512 bytes take TCP */
	KLOOP_RESOLVER_NO_RELOAD = 1 << 3,   /* files are read once, or by kloop_resolver_reload() */
	KLOOP_RESOLVER_NO_CACHE = 1 << 4,    /* every lookup asks */
	KLOOP_RESOLVER_NO_PREFETCH = 1 << 5, /* hot names expire like others */
	KLOOP_RESOLVER_NO_RACE = 1 << 6,     /* one server at a time, as glibc does */
	/* RES_OPTIONS and LOCALDOMAIN of the environment are not looked at. */
	KLOOP_RESOLVER_NO_ENVIRONMENT = 1 << 7,
};

/*
 * Make a set of options that says "default" everywhere.
 *
 * ret_options: the new set.
 *
 * Ownership: the caller frees it with kloop_resolver_options_free(); a resolver
 * copies what it needs.
 * Thread: any; one set is used by one thread at a time.
 * Returns: 0; -EINVAL if ret_options is NULL; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_options_new(struct kloop_resolver_options **ret_options)
	KLOOP_MUST_CHECK;

/* Free a set of options; NULL is permitted. */
KLOOP_EXPORT void kloop_resolver_options_free(struct kloop_resolver_options *options);

/*
 * Ask this server, and those added before, in place of resolv.conf's.
 *
 * address: IPv4 or IPv6; its port counts, 0 means 53, and 853 with TLS.
 * transport: of enum kloop_dns_transport. KLOOP_DNS_TLS is the same as
 * kloop_resolver_options_add_tls_server() without a name and flags.
 *
 * Returns: 0; -EINVAL; -ENOSPC over 8 servers.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_options_add_server(struct kloop_resolver_options *options,
						   const struct kloop_address *address,
						   unsigned transport) KLOOP_MUST_CHECK;

/*
 * Ask this server by TLS, in the order of the servers that are added.
 *
 * address: IPv4 or IPv6; its port counts, 0 means 853.
 * name: what its certificate must be for, sent along as SNI; NULL: the address.
 * flags: of enum kloop_dns_tls_flag.
 *
 * A server that cannot be authenticated is not asked, and never without TLS. A
 * resolver asks in the clear only servers that were added so. Such a server
 * behind one by TLS is asked when that one failed or let the whole time-out
 * pass, not as soon as others are: it is the way to say that an answer counts
 * more than secrecy.
 *
 * Returns: 0; -EINVAL, also for what is no host name; -ENOSPC over 8 servers;
 * -ENOMEM.
 * Since: 0.1.
 * See also: kloop_resolver_options_set_tls_context(), kloop_resolver_get_server().
 */
KLOOP_EXPORT int kloop_resolver_options_add_tls_server(struct kloop_resolver_options *options,
						       const struct kloop_address *address,
						       const char *name,
						       unsigned flags) KLOOP_MUST_CHECK;

/*
 * Whom to trust, what to present: the context for servers that are
 * authenticated.
 *
 * context: a client's; what it verifies is what is verified. NULL, the default,
 * has kloop_resolver_new() make one that trusts whom the system trusts.
 * Opportunistic servers have a context of the library's own.
 *
 * Ownership: the options, and each resolver, take a reference.
 * Since: 0.1.
 */
KLOOP_EXPORT void kloop_resolver_options_set_tls_context(struct kloop_resolver_options *options,
							 struct kloop_tls_context *context);

/*
 * How long a connection by TCP or TLS is kept for the next question.
 *
 * idle_ns: after the last answer; default 10 seconds, 0: not at all. The server
 * may say less (RFC 7828). A connection that UDP had to be left for is not kept.
 *
 * A kept connection keeps a kloop_loop_run() going.
 *
 * Since: 0.1.
 */
KLOOP_EXPORT void
kloop_resolver_options_set_idle_timeout(struct kloop_resolver_options *options, uint64_t idle_ns);

/*
 * Read another file, or none.
 *
 * file: of enum kloop_dns_file.
 * path: absolute; "" for none, which counts as a file that does not exist.
 *
 * Returns: 0; -EINVAL; -ENAMETOOLONG; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_options_set_file(struct kloop_resolver_options *options,
						 unsigned file, const char *path) KLOOP_MUST_CHECK;

/*
 * How long to wait, and how often to ask, in place of resolv.conf's "timeout"
 * and "attempts".
 *
 * timeout_ns: after the last question to the last server; 1 ms to 30 s. Other
 * servers are tried, and questions repeated, long before. 0: as resolv.conf says.
 * attempts: how often each server is asked, to 5, while the others are, too;
 * with two or more, one that stays silent is asked once again half-way through
 * timeout_ns. 0: as resolv.conf says.
 *
 * Returns: 0; -EINVAL if a number is out of range.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_options_set_timeout(struct kloop_resolver_options *options,
						    uint64_t timeout_ns,
						    unsigned attempts) KLOOP_MUST_CHECK;

/*
 * The cache.
 *
 * max_bytes: its size, to 1 GiB; default 4 MiB.
 * max_ttl_s: how long answers are kept at most, to a day; default 3600.
 * max_negative_ttl_s: the same for "there is no such name"; default 300.
 * stale_s: for how long an expired answer still serves when no server gives a
 * new one, to a day; default 0, which switches that off (RFC 8767).
 *
 * Returns: 0; -EINVAL if a number is out of range.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_options_set_cache(struct kloop_resolver_options *options,
						  size_t max_bytes, unsigned max_ttl_s,
						  unsigned max_negative_ttl_s,
						  unsigned stale_s) KLOOP_MUST_CHECK;

/*
 * How many names are asked for at the same time; further ones wait in a queue.
 *
 * max_queries: 1 to 65536; default 256. Each holds a socket, two while another
 * server or TCP is tried. Those of a burst are asked for at once, two datagrams
 * for both families: a server whose socket holds fewer, some 270 by the default
 * of Linux, loses the others, which are repeated; what is lost each time times
 * out.
 *
 * Returns: 0; -EINVAL if out of range.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_options_set_max_queries(struct kloop_resolver_options *options,
							unsigned max_queries) KLOOP_MUST_CHECK;

/*
 * How long it may take until a changed file is noticed.
 *
 * check_ns: a lookup that comes later than this after the last look at the
 * files has the ring look again, and waits for it. Default 1 second; 0: each
 * lookup, so that kloop_resolver_getaddrinfo_now() knows nothing by files or cache.
 *
 * Since: 0.1.
 */
KLOOP_EXPORT void kloop_resolver_options_set_check(struct kloop_resolver_options *options,
						   uint64_t check_ns);

/* Bits of enum kloop_resolver_flag. Since: 0.1. */
KLOOP_EXPORT void kloop_resolver_options_set_flags(struct kloop_resolver_options *options,
						   unsigned flags);

/* ---- the resolver ------------------------------------------------------ */

/*
 * Make a resolver. Its files are read when the first lookup comes.
 *
 * options: a set of options, or NULL for the defaults.
 * ret_resolver: the new resolver.
 *
 * With a server to be authenticated by TLS and no context it reads the system's
 * trust store, which takes tens of milliseconds.
 *
 * Ownership: the caller closes it with kloop_resolver_close(); a loop that is
 * freed first does the same by itself, inside kloop_loop_free().
 * Returns: also -ENOMEM; -EINVAL if the context is a server's;
 * KLOOP_ERROR_TLS_LIBRARY.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_new(struct kloop_loop *loop,
				    const struct kloop_resolver_options *options,
				    struct kloop_resolver **ret_resolver) KLOOP_MUST_CHECK;

/*
 * Close a resolver; NULL is permitted. It must not be used afterwards.
 *
 * Completion: lookups that are on complete with -ECANCELED in the next turn,
 * or inside kloop_loop_free(). The library frees its memory when the kernel
 * has given back what was lent.
 * Since: 0.1.
 */
KLOOP_EXPORT void kloop_resolver_close(struct kloop_resolver *resolver);

/*
 * Read all files again, and forget what was learned about servers.
 *
 * Lookups that are on finish with what was in force when they began; those that
 * come wait for the new configuration. The cache is emptied.
 *
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_reload(struct kloop_resolver *resolver) KLOOP_MUST_CHECK;

/*
 * Forget answers.
 *
 * name: the name whose answers of all types are dropped; NULL drops all.
 *
 * Returns: the number of answers dropped, or as everywhere; -EINVAL if name is
 * no domain name.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_flush(struct kloop_resolver *resolver, const char *name);

/* Counters since the resolver was made. Later versions add fields at the end. */
struct kloop_resolver_stats {
	uint64_t lookups;      /* started: addresses, names and queries */
	uint64_t immediate;    /* answered without a question: numeric, files, cache */
	uint64_t queries;      /* names asked for, A and AAAA together being one */
	uint64_t joined;       /* lookups that waited for the query of another one */
	uint64_t packets_sent; /* over UDP */
	uint64_t packets_received;
	uint64_t packets_refused; /* that were not the answer to a question, or malformed */
	uint64_t retries;         /* questions repeated, or put to another server */
	uint64_t timeouts;        /* queries that no server answered */
	uint64_t tcp_connections;
	uint64_t cache_hits;
	uint64_t cache_misses;
	uint64_t cache_stale; /* answers served after their time */
	uint64_t cache_entries;
	uint64_t cache_bytes;
	uint64_t prefetches;
	uint64_t reloads;   /* configurations read */
	uint64_t in_flight; /* queries now */
	uint64_t waiting;   /* queries that wait for their turn now */
	uint64_t tls_connections; /* of tcp_connections, whose handshake was done */
	uint64_t tls_resumed;     /* of these, by a ticket of an earlier one */
	uint64_t tls_failures;    /* of tcp_connections, whose handshake failed */
};

/*
 * Read the counters.
 *
 * bytes: sizeof(struct kloop_resolver_stats); what this version of the library
 * does not know is set to 0.
 *
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_get_stats(const struct kloop_resolver *resolver,
					  struct kloop_resolver_stats *ret_stats,
					  size_t bytes) KLOOP_MUST_CHECK;

/* Bits of kloop_dns_server_info.flags. */
enum kloop_dns_server_flag {
	KLOOP_DNS_SERVER_DOWN = 1 << 0,      /* did not answer lately, and is asked last */
	KLOOP_DNS_SERVER_CONNECTED = 1 << 1, /* there is a connection by TCP or TLS */
	/* There is one by TLS, and the server is who it should be. */
	KLOOP_DNS_SERVER_AUTHENTICATED = 1 << 2,
};

/* About a server. Later versions add fields at the end. */
struct kloop_dns_server_info {
	struct kloop_address address;
	unsigned transport; /* enum kloop_dns_transport */
	unsigned flags;     /* enum kloop_dns_server_flag */
	const char *name;   /* to be authenticated; NULL for none */
	uint64_t rtt_ns;    /* its usual time for an answer; 0: not known */
	/*
	 * Why the last connection by TCP or TLS failed: a negative errno or
	 * KLOOP_ERROR_TLS_*; 0 once one stands.
	 */
	int error;
	const char *reason; /* that in words, with OpenSSL's own; "" for none */
};

/*
 * Read what is known about a server: one that was added, or of resolv.conf.
 *
 * position: from 0.
 * bytes: sizeof(struct kloop_dns_server_info).
 *
 * Ownership: texts last until the next turn.
 * Returns: also -ENOENT behind the last; -EAGAIN before the first lookup has
 * had the files read.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_get_server(const struct kloop_resolver *resolver,
					   unsigned position,
					   struct kloop_dns_server_info *ret_info,
					   size_t bytes) KLOOP_MUST_CHECK;

/* ---- lookups ----------------------------------------------------------- */

/* A lookup, in memory of the caller, which is lent until the completion. */
struct kloop_lookup {
	void *state; /* private; NULL when not in flight */
};

/* To be done once before use. */
static inline void kloop_lookup_init(struct kloop_lookup *lookup)
{
	lookup->state = NULL;
}

/* Is the lookup in flight? */
static inline bool kloop_lookup_is_active(const struct kloop_lookup *lookup)
{
	return lookup->state != NULL;
}

/*
 * Request that a lookup end early. What it held (sockets, timers) is given back
 * at once; a query that others wait for goes on for them.
 *
 * Completion: the lookup's own, with -ECANCELED, in a later turn.
 * Returns: 0; -ENOENT if it is not in flight.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_lookup_cancel(struct kloop_lookup *lookup);

/* Where addresses came from: bits of kloop_addresses.flags. */
enum kloop_addresses_flag {
	KLOOP_ADDRESSES_LOCAL = 1 << 0,  /* numeric, or by /etc/hosts */
	KLOOP_ADDRESSES_CACHED = 1 << 1, /* all of them out of the cache */
	KLOOP_ADDRESSES_STALE = 1 << 2,  /* their time is over, and no server answered */
	KLOOP_ADDRESSES_SECURE = 1 << 3, /* the server said AD, and resolv.conf trusts it */
};

/* The addresses of a name. */
struct kloop_addresses {
	struct addrinfo *first; /* as of getaddrinfo(3); a list of count members */
	size_t count;
	uint32_t ttl_s; /* how long they hold; 0 for local ones */
	unsigned flags; /* enum kloop_addresses_flag */
};

/* Free addresses; NULL is permitted. Thread: any. */
KLOOP_EXPORT void kloop_addresses_free(struct kloop_addresses *addresses);

/*
 * The completion of a lookup for addresses.
 *
 * result: 0, or why there are none: KLOOP_ERROR_DNS_*, -ENOMEM, -ECANCELED,
 * another negative errno of the system. kloop_dns_get_eai() gives the code that
 * getaddrinfo(3) would return.
 * addresses: with 0; the receiver frees them with kloop_addresses_free().
 */
typedef void kloop_addresses_fn(struct kloop_lookup *lookup, int result,
				struct kloop_addresses *addresses);

/*
 * Look up the addresses of a name, as getaddrinfo(3) of glibc does.
 *
 * node: a name, a numeric address, or NULL.
 * service: a name, a decimal port, or NULL.
 * hints: as of getaddrinfo(3): ai_flags, ai_family, ai_socktype, ai_protocol;
 * NULL means none, and no flags.
 *
 * Bad arguments (KLOOP_ERROR_DNS_FLAGS and so on) are told by the completion as
 * well. Names that nsswitch.conf gives to a module which the library does not
 * have complete with KLOOP_ERROR_DNS_NSS.
 *
 * Ownership: node, service and hints are copied; the lookup is lent.
 * Completion: complete, once, in a later turn.
 * Returns: also -EBUSY if the lookup is in flight; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_getaddrinfo(struct kloop_resolver *resolver,
					    struct kloop_lookup *lookup, const char *node,
					    const char *service, const struct addrinfo *hints,
					    kloop_addresses_fn *complete) KLOOP_MUST_CHECK;

/*
 * The same, and tell addresses of a family as soon as they are known, for happy
 * eyeballs (RFC 8305).
 *
 * each: called with 0 and the addresses of one family, in their order, for each
 * family that has some; then comes complete with all. What it gets is the
 * receiver's to free.
 *
 * Completion: each, at most twice; complete, once, after them; both in a later
 * turn.
 * Returns: as kloop_resolver_getaddrinfo().
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_getaddrinfo_stream(struct kloop_resolver *resolver,
						   struct kloop_lookup *lookup, const char *node,
						   const char *service,
						   const struct addrinfo *hints,
						   kloop_addresses_fn *each,
						   kloop_addresses_fn *complete) KLOOP_MUST_CHECK;

/*
 * Look up addresses that are known already: numeric ones, names in /etc/hosts,
 * answers in the cache. Nothing is sent and nothing lent.
 *
 * ret_addresses: the caller's to free.
 *
 * Returns: 0; -EAGAIN if it takes kloop_resolver_getaddrinfo() to find out;
 * what that would complete with, KLOOP_ERROR_DNS_NONAME for example; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_getaddrinfo_now(struct kloop_resolver *resolver, const char *node,
						const char *service, const struct addrinfo *hints,
						struct kloop_addresses **ret_addresses)
	KLOOP_MUST_CHECK;

/*
 * The completion of kloop_resolver_getnameinfo().
 *
 * result: as of kloop_addresses_fn.
 * host, service: with 0; valid until the function returns; NULL if not asked for.
 */
typedef void kloop_names_fn(struct kloop_lookup *lookup, int result, const char *host,
			    const char *service);

/*
 * Look up the name of an address and of its port, as getnameinfo(3) of glibc.
 *
 * address, length: IPv4 or IPv6; copied.
 * flags: NI_NUMERICHOST and so on.
 *
 * Completion: complete, once, in a later turn.
 * Returns: also -EBUSY if the lookup is in flight; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_getnameinfo(struct kloop_resolver *resolver,
					    struct kloop_lookup *lookup,
					    const struct sockaddr *address, socklen_t length,
					    int flags, kloop_names_fn *complete) KLOOP_MUST_CHECK;

/* ---- queries of any type ----------------------------------------------- */

/* Bits for kloop_resolver_query(). */
enum kloop_query_flag {
	KLOOP_QUERY_SEARCH = 1 << 0,   /* complete the name by resolv.conf's search list */
	KLOOP_QUERY_NO_CACHE = 1 << 1, /* ask, whatever the cache holds */
	KLOOP_QUERY_DNSSEC = 1 << 2,   /* set DO: have signatures sent along */
	KLOOP_QUERY_CHECKING_DISABLED = 1 << 3, /* set CD: the server shall not validate */
	KLOOP_QUERY_NO_RECURSION = 1 << 4,      /* leave RD out */
};

/*
 * The completion of a query.
 *
 * result: 0 with an answer section for the question; KLOOP_ERROR_DNS_NONAME or
 * KLOOP_ERROR_DNS_NODATA with the message that said so; KLOOP_ERROR_DNS_AGAIN or
 * KLOOP_ERROR_DNS_FAIL, with the message of a server that failed, if one came:
 * its rcode and EDE tell more; else as of kloop_addresses_fn, without a message.
 * message: valid until the function returns, unless kloop_dns_message_ref()
 * keeps it.
 */
typedef void kloop_message_fn(struct kloop_lookup *lookup, int result,
			      struct kloop_dns_message *message);

/*
 * Ask for records of any type in class IN. Files are not looked at.
 *
 * name: a domain name; bytes other than letters in it may stand as \DDD.
 * type: 1 for A, 16 for TXT and so on; not 0, 41 (OPT) and 249 to 255 (TKEY to
 * ANY).
 * flags: of enum kloop_query_flag.
 *
 * Completion: complete, once, in a later turn.
 * Returns: also -EBUSY if the lookup is in flight; -ENOMEM; -EOPNOTSUPP for a
 * type that cannot be asked for.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_resolver_query(struct kloop_resolver *resolver, struct kloop_lookup *lookup,
				      const char *name, unsigned type, unsigned flags,
				      kloop_message_fn *complete) KLOOP_MUST_CHECK;

/* The sections of a message. */
enum kloop_dns_section {
	KLOOP_DNS_ANSWER = 0,
	KLOOP_DNS_AUTHORITY = 1,
	KLOOP_DNS_ADDITIONAL = 2, /* without OPT */
};

/* Bits of kloop_dns_info.flags. */
enum kloop_dns_flag {
	KLOOP_DNS_CHECKING_DISABLED = 1 << 4,
	/* The server validated by DNSSEC, and resolv.conf has "trust-ad" (or it is on loopback). */
	KLOOP_DNS_AUTHENTIC = 1 << 5,
	KLOOP_DNS_RECURSION_AVAILABLE = 1 << 7,
	KLOOP_DNS_AUTHORITATIVE = 1 << 10,
	KLOOP_DNS_CACHED = 1 << 16,
	KLOOP_DNS_STALE = 1 << 17, /* its time is over, and no server answered */
};

/* About a message as a whole. Later versions add fields at the end. */
struct kloop_dns_info {
	unsigned rcode;   /* the extended one: 0 NOERROR, 3 NXDOMAIN and so on */
	unsigned flags;   /* enum kloop_dns_flag */
	uint32_t ttl_s;   /* how long it holds, from now */
	int ede;          /* Extended DNS Error (RFC 8914): its code, or -1 */
	const char *ede_text; /* "" if there is none; control characters became '?' */
};

/* One record. Names inside are without compression. */
struct kloop_dns_record {
	const uint8_t *owner; /* in wire format: for kloop_dns_name_format() */
	size_t owner_bytes;
	const uint8_t *data;
	size_t data_bytes;
	uint32_t ttl_s; /* as the server sent it */
	uint16_t type;
	uint16_t rr_class;
};

/* Keep a message; give it up again. unref takes NULL. Thread: any one at a time. */
KLOOP_EXPORT struct kloop_dns_message *kloop_dns_message_ref(struct kloop_dns_message *message);
KLOOP_EXPORT void kloop_dns_message_unref(struct kloop_dns_message *message);

/*
 * About the message.
 *
 * bytes: sizeof(struct kloop_dns_info).
 *
 * Ownership: texts last as long as the message.
 * Returns: 0; -EINVAL.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_dns_message_get_info(const struct kloop_dns_message *message,
					    struct kloop_dns_info *ret_info,
					    size_t bytes) KLOOP_MUST_CHECK;

/* The number of records in a section. Since: 0.1. */
KLOOP_EXPORT size_t kloop_dns_message_get_count(const struct kloop_dns_message *message,
						unsigned section);

/*
 * One record of a section.
 *
 * position: from 0.
 *
 * Ownership: what the record points to lasts as long as the message.
 * Returns: 0; -EINVAL; -ENOENT behind the last.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_dns_message_get_record(const struct kloop_dns_message *message,
					      unsigned section, size_t position,
					      struct kloop_dns_record *ret_record) KLOOP_MUST_CHECK;

/* Room for every name that kloop_dns_name_format() writes, the final 0 included. */
#define KLOOP_DNS_NAME_TEXT_BYTES 1024

/*
 * Write a name in wire format as text, without a dot at the end; the root is ".".
 *
 * wire, wire_bytes: it ends at the first label of length 0.
 *
 * Bytes that are no letter, digit, '-' or '_' are written as \DDD, so that the
 * text is safe to print and to hand on.
 *
 * Returns: the length without the final 0; -EINVAL if it is no whole name;
 * -ENOSPC.
 * Thread: any.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_dns_name_format(const uint8_t *wire, size_t wire_bytes, char *buffer,
				       size_t bytes) KLOOP_MUST_CHECK;

/*
 * The EAI_* code of getaddrinfo(3) for a result: 0 for 0, EAI_SYSTEM for an
 * errno (EAI_MEMORY for -ENOMEM). gai_strerror(3) has its text. Thread: any. Since: 0.1.
 */
KLOOP_EXPORT int kloop_dns_get_eai(int result);

KLOOP_END_DECLS

#endif
