/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Files for tests: see files.h. */
#include "files.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void fill_file(int fd, size_t bytes)
{
	static unsigned char block[256 * 251]; /* whole periods */

	ck_assert_int_ge(fd, 0);
	kt_fill(block, sizeof(block), 0);
	while (bytes > 0) {
		size_t part = bytes < sizeof(block) ? bytes : sizeof(block);

		ck_assert_int_eq(write(fd, block, part), (ssize_t)part);
		bytes -= part;
	}
}

int kt_file_make(size_t bytes)
{
	int fd = memfd_create("kloop-test", MFD_CLOEXEC);

	fill_file(fd, bytes);
	return fd;
}

int kt_file_make_on_disk(size_t bytes)
{
	char path[] = "/tmp/kloop-test-XXXXXX";
	int fd = mkstemp(path);

	fill_file(fd, bytes);
	ck_assert_int_eq(unlink(path), 0);
	return fd;
}

uint64_t kt_file_sum(size_t position, size_t bytes)
{
	static unsigned char block[64 << 10];
	uint64_t sum = 0;

	while (bytes > 0) {
		size_t part = bytes < sizeof(block) ? bytes : sizeof(block);

		kt_fill(block, part, position);
		sum = kt_sum(sum, block, part);
		position += part;
		bytes -= part;
	}
	return sum;
}

static _Thread_local int calling;

static void file_done(void *owner, int status, uint64_t bytes, void *user)
{
	struct kt_sent *sent = owner;

	ck_assert_msg(!calling, "done inside the call");
	ck_assert_ptr_eq(user, sent->stream);
	ck_assert_int_eq(sent->stream->count[KT_ON_CLOSE], 0);
	ck_assert_int_eq(sent->done, 0);
	sent->done++;
	sent->status = status;
	sent->bytes = bytes;
	if (sent->total)
		(*sent->total)++;
	if (sent->then)
		sent->then(sent);
}

int kt_send_file(struct kt_stream *stream, int fd, uint64_t offset, uint64_t bytes,
		 unsigned flags, struct kt_sent *sent)
{
	int r;

	memset(sent, 0, sizeof(*sent));
	sent->stream = stream;
	calling++;
	r = kloop_stream_send_file(stream->stream, fd, offset, bytes, flags, file_done, sent);
	calling--;
	return r;
}

int kt_cancel_file(struct kt_sent *sent)
{
	int r;

	calling++;
	r = kloop_stream_cancel_file(sent->stream->stream, sent);
	calling--;
	return r;
}

void kt_ends_open(struct kt_ends *ends, int mode, int kind)
{
	int fds[2];

	ends->loop = kt_mode_loop(mode);
	kt_pair(kind, fds);
	kt_stream_open(&ends->out, ends->loop, fds[0], 0);
	kt_stream_open(&ends->in, ends->loop, fds[1], 0);
	ends->in.keep = true;
	kt_stream_start(&ends->in);
}

void kt_ends_close(struct kt_ends *ends)
{
	kt_stream_end(&ends->out);
	kt_stream_end(&ends->in);
	kt_loop_free(ends->loop);
}
