/* SPDX-License-Identifier: MulanPSL-2.0 */
/* For the tests of datagram sockets: one that records what its owner is told, and pairs of them. */
#ifndef KT_DATAGRAMS_H
#define KT_DATAGRAMS_H

#include "streams.h"

enum kt_datagram_kind {
	KT_UDP4,
	KT_UDP6,
	KT_LOCAL_DATAGRAM,
	KT_DATAGRAM_KINDS,
};

enum kt_datagram_event {
	KT_DATAGRAM,
	KT_DATAGRAM_ERROR,
	KT_DATAGRAM_DRAIN,
	KT_DATAGRAM_CLOSE,
	KT_DATAGRAM_EVENTS,
};

#define KT_MOST_DATAGRAMS 512
#define KT_MOST_ERRORS 16

struct kt_received {
	char *data;
	size_t bytes;
	struct kloop_address from;
	unsigned flags;
};

struct kt_datagram {
	struct kloop_datagram *datagram; /* NULL after on_close */
	struct kloop_loop *loop;
	struct kloop_address address; /* its own */
	int count[KT_DATAGRAM_EVENTS];
	struct kt_received received[KT_MOST_DATAGRAMS];
	int errors[KT_MOST_ERRORS]; /* the first */
	struct kloop_address peers[KT_MOST_ERRORS]; /* that they are about */
	int close_fd; /* kloop_datagram_get_fd() inside on_close */
	bool reading; /* elsewhere no datagram may come */
	/* Called at the end of each event. */
	void (*then)(struct kt_datagram *datagram, enum kt_datagram_event event);
	void *user;
};

extern const struct kloop_datagram_handlers kt_datagram_handlers;

/* Zero it, make it, receive. */
void kt_datagram_new(struct kt_datagram *datagram, struct kloop_loop *loop, int fd,
		     unsigned flags);
void kt_datagram_open(struct kt_datagram *datagram, struct kloop_loop *loop,
		      const struct kloop_address *local, const struct kloop_address *peer,
		      unsigned flags);

/* Queue one, which must succeed. */
void kt_datagram_put(struct kt_datagram *datagram, const void *data, size_t bytes,
		     const struct kloop_address *peer);

/* Close or abort, wait for on_close, free what was recorded. */
void kt_datagram_end(struct kt_datagram *datagram);
void kt_datagram_abort(struct kt_datagram *datagram);
void kt_datagram_forget(struct kt_datagram *datagram);

/* Two that can reach each other, not connected. */
struct kt_datagrams {
	struct kloop_loop *loop;
	struct kt_datagram client;
	struct kt_datagram server;
};

void kt_datagrams_open(struct kt_datagrams *pair, int kind, struct kloop_loop *loop,
		       unsigned flags);
/* Both, and the loop. */
void kt_datagrams_close(struct kt_datagrams *pair);

void kt_assert_address(const struct kloop_address *address, const struct kloop_address *expected);

/* For kt_on_thread(): adopt the loop there, then call the function. */
struct kt_adoption {
	struct kloop_loop *loop;
	void *(*function)(void *data);
	void *data;
};
void *kt_adopt_and(void *adoption);

#endif
