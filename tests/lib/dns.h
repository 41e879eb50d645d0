/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A name server for tests, on the test's own loop: UDP and TCP at one port of a
 * loopback address, a zone of a few records, and a hook through which a test
 * makes it lie, stammer or keep silent. And a resolver whose files the test
 * writes.
 */
#ifndef KT_DNS_H
#define KT_DNS_H

#include "support.h"

#include <netinet/in.h>

#define KT_DNS_BYTES 65535
#define KT_DNS_PEERS 32

/* One record of a zone: its data as text (an address, a name, a text). */
struct kt_record {
	const char *name; /* "*.wild.test" stands for all names below that have none */
	const char *type; /* A, AAAA, CNAME, PTR, TXT, MX (preference 10), NS */
	const char *data;
};

/* A question that came. */
struct kt_question {
	const uint8_t *wire;
	size_t bytes;
	bool tcp;
	struct sockaddr_in from; /* of UDP */
	int fd;                  /* of TCP */
	char name[1024];         /* as text, in small letters */
	unsigned type;
	size_t end; /* where the question ends */
	int number; /* from 1 */
};

struct kt_dns;
struct kt_dns_peer {
	struct kt_dns *server;
	struct kloop_op op;
	int fd;
	size_t used;
	uint8_t buffer[2 + KT_DNS_BYTES];
};

struct kt_dns {
	struct kloop_loop *loop;
	int udp;
	int tcp;
	bool listens; /* to TCP as well; otherwise its port is kept from others */
	uint16_t port;
	const struct kt_record *zone;
	size_t zone_count;
	uint32_t ttl_s; /* of all records; 300 */
	/*
	 * Called for each question. Returns the length of a reply in wire, 0
	 * for none (or one that was sent by itself), or -1 to have the zone
	 * answer.
	 */
	int (*hook)(struct kt_dns *server, const struct kt_question *question, uint8_t *wire);
	void *data;
	bool quiet;   /* say nothing to anybody */
	int questions;
	int by_tcp;   /* of these */
	int connections;
	struct kloop_op udp_op;
	struct kloop_op tcp_op;
	struct kt_dns_peer *peers[KT_DNS_PEERS];
	int closing;
	int closed;
};

/* Begin; address 127.0.0.N, 0 for 1. with_tcp: listen there as well. */
void kt_dns_open(struct kt_dns *server, struct kloop_loop *loop, const struct kt_record *zone,
		 size_t count, bool with_tcp);
/* End, before the loop is freed. */
void kt_dns_close(struct kt_dns *server);
struct kloop_address kt_dns_address(const struct kt_dns *server);

/* What the zone says; the length. */
int kt_dns_answer(struct kt_dns *server, const struct kt_question *question, uint8_t *wire);
/* Fill in name, type and end out of the wire. */
void kt_dns_read(struct kt_question *question);
/* A reply without records. */
int kt_dns_empty(const struct kt_question *question, unsigned rcode, uint8_t *wire);
/* Send a reply now. */
void kt_dns_send(struct kt_dns *server, const struct kt_question *question, const uint8_t *wire,
		 size_t bytes);
/* Append a record to a reply, with the question's name as its owner: the new length. */
int kt_dns_add(uint8_t *wire, int bytes, unsigned type, uint32_t ttl_s, const void *data,
	       size_t data_bytes);

/* ---- a resolver --------------------------------------------------------------- */

/* Files of a test, in a folder of its own. */
struct kt_files {
	char folder[64];
};

void kt_files_open(struct kt_files *files);
void kt_files_close(struct kt_files *files);
/* Write one, by its number in enum kloop_dns_file; NULL removes it. Replaced by rename. */
void kt_files_write(struct kt_files *files, unsigned file, const char *text);
const char *kt_files_path(const struct kt_files *files, unsigned file);

/* Options that read the test's files only, ask these servers, and look at no environment. */
struct kloop_resolver_options *kt_resolver_options(const struct kt_files *files,
						   struct kt_dns *const *servers, size_t count);
struct kloop_resolver *kt_resolver_new(struct kloop_loop *loop,
				       struct kloop_resolver_options *options);
/* Counters of a resolver. */
struct kloop_resolver_stats kt_resolver_stats(const struct kloop_resolver *resolver);

/* A lookup that records, and checks the promises. */
struct kt_lookup {
	struct kloop_lookup lookup;
	int done;
	int result;
	struct kloop_addresses *addresses; /* freed by kt_lookup_clear() */
	char host[1024];
	char service[64];
	struct kloop_dns_message *message; /* the same */
	int parts;
	char first_part[1024]; /* the addresses of the first one, as text */
	void (*then)(struct kt_lookup *lookup);
	void *data;
};

void kt_lookup_init(struct kt_lookup *lookup);
void kt_lookup_clear(struct kt_lookup *lookup);
/* Start one; it must be accepted. */
void kt_lookup_start(struct kt_lookup *lookup, struct kloop_resolver *resolver, const char *node,
		     const char *service, const struct addrinfo *hints);
/* The same and wait on the loop in data; a call that is refused leaves its code in result. */
void kt_lookup_try(struct kt_lookup *lookup, struct kloop_resolver *resolver, const char *node,
		   const struct addrinfo *hints);
void kt_lookup_stream(struct kt_lookup *lookup, struct kloop_resolver *resolver, const char *node,
		      const char *service, const struct addrinfo *hints);
void kt_lookup_query(struct kt_lookup *lookup, struct kloop_resolver *resolver, const char *name,
		     unsigned type, unsigned flags);
void kt_lookup_name(struct kt_lookup *lookup, struct kloop_resolver *resolver,
		    const struct sockaddr *address, socklen_t length, int flags);
/* Turns until it is done; its result. */
int kt_lookup_wait(struct kt_lookup *lookup, struct kloop_loop *loop);
/*
 * Start, wait, and give the addresses as text: "192.0.2.1 2001:db8::1", or the
 * name of the error. Stream sockets only. Valid until the next call.
 */
const char *kt_resolve(struct kloop_loop *loop, struct kloop_resolver *resolver, const char *node,
		       int family);
/* The addresses of a list as text. */
const char *kt_addresses_text(const struct kloop_addresses *addresses);

#endif
