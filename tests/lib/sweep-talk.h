/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * For sweeps of conversations: the two ends, each a stream and what it was told,
 * and the patience that ends what a fault has brought to a halt.
 */
#ifndef KT_SWEEP_TALK_H
#define KT_SWEEP_TALK_H

#include "sweep.h"

/* One end; a stream's user is its end. */
struct kt_end {
	struct kloop_stream *stream; /* NULL after on_close */
	int eofs, errors, closed;
	size_t received;
	bool over; /* nothing more is expected of it */
	/* For handlers of the program. */
	int connected; /* how often on_connect, or the end of a handshake, came */
	bool connects, echoes, reading, ready;
};

/* There is one at a time. */
struct kt_talk {
	struct kloop_loop *loop;
	struct kloop_timer patience;
	struct kt_end client, server;
};
extern struct kt_talk kt_talk;

/* All of it anew. Returns: a loop, or NULL if the fault keeps it from being made. */
struct kloop_loop *kt_talk_open(int mode);

/*
 * Aborts the stream, if there is one: only after a fault, or where the loop is
 * being freed.
 */
void kt_end_give_up(struct kt_end *end);

/* Closes it: nothing more is expected. */
void kt_end_finish(struct kt_end *end);

/* Handlers: each is called at most once, on_eof closes and on_error aborts. */
void kt_end_on_eof(struct kloop_stream *stream, void *user);
void kt_end_on_error(struct kloop_stream *stream, int error, void *user);
void kt_end_on_close(struct kloop_stream *stream, void *user);

/* Are both streams gone? For kt_sweep_until(). */
bool kt_talk_closed(void *data);

#endif
