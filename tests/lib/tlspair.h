/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A client's and a server's session that talk through memory, without a loop:
 * for what contexts and sessions are set up to do.
 */
#ifndef KT_TLSPAIR_H
#define KT_TLSPAIR_H

#include "certs.h"

#include <kloop/tls.h>

struct kt_tls_pair {
	struct kloop_tls_context *client_context;
	struct kloop_tls_context *server_context;
	struct kloop_tls *client;
	struct kloop_tls *server;
	int client_result; /* 1: the handshake is done; or the failure */
	int server_result;
};

/* A context, or the end of the test. */
struct kloop_tls_context *kt_tls_context(enum kloop_tls_role role);

/* A server's with a certificate; a client's that trusts a CA. */
struct kloop_tls_context *kt_tls_server(enum kt_cert certificate);
struct kloop_tls_context *kt_tls_client(enum kt_cert ca);

/* Use a certificate, trust one: must succeed. */
void kt_tls_use(struct kloop_tls_context *context, enum kt_cert certificate);
void kt_tls_trust(struct kloop_tls_context *context, enum kt_cert ca);

/* A session of a context; NULL stands for "no name". */
struct kloop_tls *kt_tls_session(struct kloop_tls_context *context, const char *name);

/* Contexts for a client that trusts KT_CERT_CA, and a server with KT_CERT_SERVER. */
void kt_tls_pair_init(struct kt_tls_pair *pair);

/*
 * Have new sessions shake hands, the client's for this name; the former pair's
 * are freed. Afterwards each has read what the other sent last, tickets and
 * alerts.
 */
void kt_tls_pair_shake(struct kt_tls_pair *pair, const char *name);

/* The same in steps: sessions, which may be set up further; then the handshake. */
void kt_tls_pair_make(struct kt_tls_pair *pair, const char *name);
void kt_tls_pair_run(struct kt_tls_pair *pair);

/* Both ends are done, and data passes in both directions. */
void kt_tls_pair_check_open(struct kt_tls_pair *pair);

void kt_tls_pair_free(struct kt_tls_pair *pair);

#endif
