/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * For the tests of streams: a stream that records what its owner is told and
 * checks the order on the way, lent memory that counts its releases, loops in
 * every mode, and descriptors of every kind.
 */
#ifndef KT_STREAMS_H
#define KT_STREAMS_H

#include "support.h"

/* ---- modes ------------------------------------------------------------ */

/* Ways in which streams can work: what the kernel offers, and pools of any size. */
enum kt_mode {
	KT_MODE_BEST,
	KT_MODE_TINY_POOL,    /* one buffer of 256 bytes */
	KT_MODE_SMALL_POOL,   /* four buffers of 1 KiB */
	KT_MODE_NO_MULTISHOT, /* readiness and recv(2) only; single accepts */
	KT_MODE_COOP,
	KT_MODE_OLD, /* no set-up flag, no newer feature */
	KT_MODE_SQPOLL,
	KT_MODE_SQPOLL_OLD, /* SQPOLL without multishot */
	KT_MODES,
};

struct kloop_loop *kt_mode_loop(int mode);

enum kt_kind {
	KT_TCP,
	KT_LOCAL,
	KT_KINDS,
};

/* A connected pair. */
void kt_pair(int kind, int fds[2]);

/* ---- a stream that records -------------------------------------------- */

enum kt_event {
	KT_ON_CONNECT,
	KT_ON_DATA,
	KT_ON_ALLOC,
	KT_ON_EOF,
	KT_ON_ERROR,
	KT_ON_DRAIN,
	KT_ON_CLOSE,
	KT_ON_RELEASE, /* of memory lent by kt_lend() */
	KT_EVENTS,
};

struct kt_stream {
	struct kloop_stream *stream; /* NULL after on_close */
	struct kloop_loop *loop;
	int count[KT_EVENTS];
	int connect_result;
	int error;
	int close_fd; /* kloop_stream_get_fd() inside on_close */

	/* What arrived: all of it, or a sum only. */
	bool keep;
	unsigned char *data;
	size_t capacity;
	size_t received;
	uint64_t sum;
	int received_kib; /* for kt_turn_until() */

	bool reading; /* between start and stop: elsewhere no data may come */

	/* What on_alloc offers; NULL declines. */
	void *offer;
	size_t offer_bytes;
	size_t last_suggested;
	int offer_used; /* how often on_data came with it */

	/* Called at the end of each event; data and bytes with KT_ON_DATA only. */
	void (*then)(struct kt_stream *stream, enum kt_event event, const void *data, size_t bytes);
	void *user;
};

/* The handlers that record; user must be a struct kt_stream. */
extern const struct kloop_stream_handlers kt_stream_handlers;

/* Zero it, make the stream, and take over the descriptor. */
void kt_stream_open(struct kt_stream *stream, struct kloop_loop *loop, int fd, unsigned flags);
void kt_stream_connect(struct kt_stream *stream, struct kloop_loop *loop,
		       const struct kloop_address *address);

/* start and stop, which must succeed. */
void kt_stream_start(struct kt_stream *stream);
void kt_stream_stop(struct kt_stream *stream);

/* Copying write that must succeed. */
void kt_stream_put(struct kt_stream *stream, const void *data, size_t bytes);

/* Close or abort, wait for on_close, free what was recorded. */
void kt_stream_end(struct kt_stream *stream);
void kt_stream_abort(struct kt_stream *stream);
void kt_stream_forget(struct kt_stream *stream);

/* Turns until so many bytes were received. */
void kt_stream_await(struct kt_stream *stream, size_t bytes);

/* ---- lent memory ------------------------------------------------------ */

struct kt_lent {
	struct kt_stream *stream;
	int released;
	int status;
	int *total; /* counted up as well, may be NULL */
};

/* Write lent memory; the release must come once, not inside, and in the order of writing. */
void kt_lend(struct kt_stream *stream, struct kt_lent *lent, const void *data, size_t bytes);

/* The release function behind it, for writes that may fail. */
void kt_release(void *owner, int status, void *user);

/* ---- bytes ------------------------------------------------------------ */

/* Bytes that differ from place to place; position is where in the whole. */
void kt_fill(void *data, size_t bytes, size_t position);
/* Are they what kt_fill() makes? */
bool kt_is_fill(const void *data, size_t bytes, size_t position);
/* A sum that depends on the order, to be continued from 0. */
uint64_t kt_sum(uint64_t sum, const void *data, size_t bytes);

/* Blocking transfers that must succeed. */
void kt_write_all(int fd, const void *data, size_t bytes);
void kt_read_all(int fd, void *data, size_t bytes);

/* Turn the loop until so many bytes came, or the end. Returns: how many. */
size_t kt_turn_read(struct kloop_loop *loop, int fd, void *data, size_t bytes);

#endif
