/* SPDX-License-Identifier: MulanPSL-2.0 */
/* For the tests that send files: files, and what their owner is told. */
#ifndef KT_FILES_H
#define KT_FILES_H

#include "streams.h"

/*
 * A file of so many bytes, as kt_fill() makes them: in memory, because a busy
 * disk may hold a test up for longer than it has, or on the disk.
 */
int kt_file_make(size_t bytes);
int kt_file_make_on_disk(size_t bytes);

/* kt_sum() of a part of it. */
uint64_t kt_file_sum(size_t position, size_t bytes);

struct kt_sent {
	struct kt_stream *stream;
	int done;
	int status;
	uint64_t bytes;
	int *total; /* counted up as well, may be NULL */
	void (*then)(struct kt_sent *sent);
};

/* kloop_stream_send_file(), whose done must come once, not inside, and before on_close. */
int kt_send_file(struct kt_stream *stream, int fd, uint64_t offset, uint64_t bytes, unsigned flags,
		 struct kt_sent *sent);

/* kloop_stream_cancel_file() of it, likewise. */
int kt_cancel_file(struct kt_sent *sent);

/* Two streams, the second of which reads and keeps what comes. */
struct kt_ends {
	struct kloop_loop *loop;
	struct kt_stream out, in;
};

void kt_ends_open(struct kt_ends *ends, int mode, int kind);
void kt_ends_close(struct kt_ends *ends);

#endif
