/* SPDX-License-Identifier: MulanPSL-2.0 */
/* What is known about each server: how fast it is, whether it lives, cookies. */
#ifndef KL_DNS_SERVER_H
#define KL_DNS_SERVER_H

#include <kloop/dns.h>

#include "config.h"
#include "random.h"

#define KL_CLIENT_COOKIE_BYTES 8
#define KL_COOKIE_BYTES 40 /* both parts at most */
#define KL_REASON_BYTES 160

struct kl_tcp;

/* A server as it was added. */
struct kl_server_choice {
	struct kloop_address address;
	unsigned transport; /* enum kloop_dns_transport */
	unsigned tls_flags; /* enum kloop_dns_tls_flag */
	char *name;         /* to be authenticated; NULL: the address */
};

/* Questions to a server differ in id, name and type only: the rest is kept. */
struct kl_template {
	unsigned key; /* what it was made for; 0: nothing */
	unsigned tail_bytes;
	uint8_t header[12];
	uint8_t tail[64]; /* OPT */
};

struct kl_server {
	struct kloop_address address;
	unsigned transport; /* enum kloop_dns_transport */
	unsigned tls_flags;
	const char *name; /* of the choice */
	bool loopback;

	/* Round trips, smoothed as by RFC 6298; 0: none seen. */
	uint64_t rtt_ns;
	uint64_t rtt_variance_ns;
	unsigned misses; /* in a row: another server, or nobody, answered */
	uint64_t down_until_ns; /* 0: it is up */

	uint64_t no_edns_until_ns;
	bool keeps_case; /* false: it changes the case of questions */

	uint8_t cookie[KL_COOKIE_BYTES];
	unsigned cookie_bytes;       /* 0: none made yet; 8: ours only */
	uint64_t cookie_seen_ns;     /* it sends cookies: the last one came then; 0: never */

	struct kl_template question;
	struct kl_tcp *tcp; /* the connection that takes questions, or NULL */
	struct kloop_tls_ticket *ticket; /* to resume with, or NULL */
	bool idle_told;   /* it said how long it keeps connections */
	uint64_t idle_ns; /* that */
	int error;        /* why the last connection failed */
	char reason[KL_REASON_BYTES];
};

/* Make the servers of a configuration. 0 or -ENOMEM. */
int kl_servers_make(struct kl_config *config, const struct kl_server_choice *choices,
		    unsigned count);
void kl_servers_free(struct kl_config *config);
/* Keep what was learned about servers that were there before. */
void kl_servers_inherit(struct kl_config *config, struct kl_config *old);

/* Does what is asked there pass in the clear? */
static inline bool kl_server_is_clear(const struct kl_server *server)
{
	return server->transport != KLOOP_DNS_TLS;
}

/*
 * In which order to ask: those that live first. *ret_probe: a server to ask as
 * well, beside the first, to see whether it is back; or -1.
 */
void kl_servers_order(struct kl_config *config, uint64_t now_ns, uint8_t order[KL_SERVERS_MAX],
		      int *ret_probe);

/* How long to wait for this server before another is asked. */
uint64_t kl_server_patience(const struct kl_server *server, uint64_t limit_ns);

void kl_server_answered(struct kl_server *server, uint64_t rtt_ns);
/* It did not answer in time; dead: its host says that nobody listens. */
void kl_server_missed(struct kl_server *server, uint64_t now_ns, bool dead);

/* The cookie to send: its length, or 0 if there are no random numbers. */
unsigned kl_server_cookie(struct kl_server *server, struct kl_random *random);
/*
 * Look at the cookie of a response, NULL if it has none. False: it does not
 * prove what it has to, and the response is nobody's.
 */
bool kl_server_check_cookie(struct kl_server *server, uint64_t now_ns, const uint8_t *cookie,
			    size_t bytes);

#endif
