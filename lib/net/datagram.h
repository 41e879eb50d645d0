/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the files of the datagram socket share.
 *
 * datagram.c owns life and death, datagram-read.c receives, datagram-send.c
 * sends. As with streams, public functions only set state, prepare operations
 * and schedule the defer; callbacks come from completions and from the defer,
 * each bracketed by kl_datagram_enter() and kl_datagram_leave(), and only the
 * end of a bracket closes and frees.
 */
#ifndef KL_DATAGRAM_H
#define KL_DATAGRAM_H

#include <kloop/datagram.h>

#include "ring/ring.h"

enum kl_datagram_state {
	KL_DATAGRAM_WANT_READ = 1 << 0,   /* the owner started to receive */
	KL_DATAGRAM_DIRECT = 1 << 1,      /* by readiness, not through the pool */
	KL_DATAGRAM_CANCEL_READ = 1 << 2, /* the read operation was asked to end */
	KL_DATAGRAM_SQPOLL = 1 << 3,      /* send by the ring */
	KL_DATAGRAM_CANCEL_SEND = 1 << 4, /* the send operation was asked to end */
	KL_DATAGRAM_ABOVE_HIGH = 1 << 5,  /* on_drain is owed */
	KL_DATAGRAM_RETRIED = 1 << 6,     /* the first of the queue met an error that was not its own */
	KL_DATAGRAM_CLOSING = 1 << 7,
	KL_DATAGRAM_ABORTED = 1 << 8,
	KL_DATAGRAM_CLOSED = 1 << 9,   /* the descriptor is closed, or the operation to do so is on */
	KL_DATAGRAM_SETTLED = 1 << 10, /* with SQPOLL: the polling thread let go of the socket, too */
	KL_DATAGRAM_EXITING = 1 << 11, /* freed by the loop's exit hook */
	KL_DATAGRAM_BUSY = 1 << 12,    /* inside the bracket */
	/* CLOSED, but for close(2), which waits until the receive has ended. */
	KL_DATAGRAM_CLOSE_LATER = 1 << 13,
};

/* A datagram with an address, in one piece of memory: queued to be sent, or held. */
struct kl_packet {
	struct kl_packet *next;
	size_t bytes;
	socklen_t address_length;
	bool truncated;
	char address[]; /* and behind it the data */
};

struct kl_packet_queue {
	struct kl_packet *first;
	struct kl_packet *last;
};

struct kloop_datagram {
	struct kloop_loop *loop;
	const struct kloop_datagram_handlers *handlers;
	void *user;
	struct kloop_op read_op; /* the multishot receive, or a wait for readiness */
	struct kloop_op send_op; /* a wait for room, or a send with SQPOLL; at last the close */
	struct kloop_timer retry; /* while the peer of a Unix socket is full */
	uint64_t retry_ns;
	struct kl_defer defer;
	struct kl_exit exit;
	struct msghdr shape; /* of what is received into the pool */
	struct kl_packet_queue queue;
	struct kl_packet_queue held; /* came while receiving was stopped */
	size_t send_bytes;
	size_t send_count;
	size_t low_bytes;
	size_t high_bytes;
	struct msghdr message; /* with send_op: the first of the queue */
	struct iovec vector;
	uint32_t state; /* enum kl_datagram_state */
	int fd;
	sa_family_t family;
	uint8_t flags; /* enum kloop_datagram_flag */
};

static inline bool kl_datagram_has(const struct kloop_datagram *datagram, uint32_t bits)
{
	return (datagram->state & bits) != 0;
}

static inline void *kl_packet_get_data(struct kl_packet *message)
{
	return message->address + message->address_length;
}

/* datagram.c */

/* Copy one; NULL without memory. */
struct kl_packet *kl_packet_make(const void *address, socklen_t address_length, const void *data,
				   size_t bytes);
void kl_packet_put(struct kl_packet_queue *queue, struct kl_packet *message);
struct kl_packet *kl_packet_take(struct kl_packet_queue *queue); /* the first; there is one */

/* Have the defer run at the start of the next turn. */
void kl_datagram_schedule(struct kloop_datagram *datagram);
void kl_datagram_tell_error(struct kloop_datagram *datagram, int error,
			    const struct kloop_address *peer);
void kl_datagram_cancel_read(struct kloop_datagram *datagram);

static inline void kl_datagram_enter(struct kloop_datagram *datagram)
{
	datagram->state |= KL_DATAGRAM_BUSY;
}

/* The socket must not be touched afterwards. */
void kl_datagram_leave(struct kloop_datagram *datagram);

/* datagram-read.c; inside the bracket */

/* Deliver what is held, then have an operation armed if receiving is wanted. */
void kl_datagram_run_read(struct kloop_datagram *datagram);

/* Tell what waits in the error queue (KLOOP_DATAGRAM_PEER_ERRORS); whether there was anything. */
bool kl_datagram_read_errors(struct kloop_datagram *datagram);

/* datagram-send.c; inside the bracket */

/* Send what is queued, as far as that goes; on_drain if it is due. */
void kl_datagram_run_send(struct kloop_datagram *datagram);

#endif
