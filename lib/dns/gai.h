/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * getaddrinfo(3) in parts: the request, checked; the search for addresses, which
 * stops where the network has to be asked; the list that is handed out. No part
 * waits, so that all of them serve the call that answers at once as well.
 */
#ifndef KL_DNS_GAI_H
#define KL_DNS_GAI_H

#include "answer.h"
#include "resolver.h"
#include "search.h"

/* Addresses of a name that are handed out; further ones are left out. */
#define KL_ADDRESSES_MAX 4096
#define KL_SOCKTYPES_MAX 16

/* A request: what the caller asked for. */
struct kl_request {
	int flags;
	int family;
	int socktype;
	int protocol;
	bool has_node;
	bool has_service;
	char *service;
	char node[]; /* and behind it the service */
};

/* Check what needs no configuration, and copy. 0, -EINVAL, -ENOMEM, -EAGAIN never. */
int kl_request_new(const char *node, const char *service, const struct addrinfo *hints,
		   struct kl_request **ret_request);

struct kl_socktype {
	int type;
	int protocol;
	uint16_t port; /* in network order */
};

enum kl_find {
	KL_FIND_DONE = 0,
	KL_FIND_ASK = 1, /* the network has to be asked for name and types */
};

/* The search for the addresses of a request. */
struct kl_finder {
	struct kloop_resolver *resolver;
	struct kl_config *config; /* borrowed */
	struct kl_request *request; /* borrowed */
	int family; /* of the request; AI_ADDRCONFIG may narrow it */
	unsigned module; /* of nsswitch.conf, the one in turn */
	bool searching; /* in the midst of a search list */
	int error;      /* the worst that modules said so far */
	struct kl_search search;

	/* What to ask for. */
	uint8_t name[KL_NAME_BYTES];
	size_t name_bytes;
	uint16_t types[2];
	unsigned type_count;

	/* What was found. */
	struct kl_found_address *found;
	size_t count;
	size_t room;
	const char *canonical; /* NULL: the node itself; points to what the config has, or text */
	uint32_t ttl_s;
	unsigned flags; /* enum kloop_addresses_flag */

	struct kl_socktype socktypes[KL_SOCKTYPES_MAX];
	unsigned socktype_count;
	char *text; /* room for a canonical name that is not the configuration's; NULL */
};

/* What is known about one of the types after asking. */
struct kl_reply {
	int result;
	unsigned rcode;
	bool stale;
	bool cached;
	struct kl_answer *answer; /* with 0 and negative results; borrowed */
};

/*
 * Begin: check all arguments, in the order in which glibc does. 0, or the error
 * to be told.
 */
int kl_finder_begin(struct kl_finder *finder, struct kloop_resolver *resolver,
		    struct kl_config *config, struct kl_request *request);
/* Go on without the network: KL_FIND_DONE, KL_FIND_ASK, or the error to be told. */
int kl_finder_run(struct kl_finder *finder);
/* What the network said to KL_FIND_ASK, one reply for each type; as kl_finder_run(). */
int kl_finder_feed(struct kl_finder *finder, const struct kl_reply replies[2]);
/* Only the addresses of one reply, for those who want them early. 0 or -ENOMEM. */
int kl_finder_peek(const struct kl_finder *finder, unsigned type,
		   const struct kl_reply *reply, struct kloop_addresses **ret_addresses);
void kl_finder_end(struct kl_finder *finder);

/*
 * The message of a reply that has an answer, with all names whole. 0, -ENOMEM, or
 * KLOOP_ERROR_DNS_FAIL if it would be too large.
 */
int kl_message_make(const struct kl_reply *reply, struct kloop_dns_message **ret_message);

/* Is everything about this reply in the cache? */
bool kl_reply_cached(struct kloop_resolver *resolver, struct kl_config *config,
		     const uint8_t *name, size_t name_bytes, unsigned type, unsigned flags,
		     struct kl_reply *ret_reply);

/* Order what was found and make the list. family: one only, or AF_UNSPEC. 0 or -ENOMEM. */
int kl_finder_list(const struct kl_finder *finder, int family,
		   struct kloop_addresses **ret_addresses);

#endif
