/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Streams that record: see streams.h. */
#include "streams.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

/* ---- modes ------------------------------------------------------------ */

struct kloop_loop *kt_mode_loop(int mode)
{
	static const uint64_t setup = KLOOP_FEATURE_SINGLE_ISSUER | KLOOP_FEATURE_DEFER_TASKRUN;
	static const uint64_t newer = KLOOP_FEATURE_BUFFER_RING | KLOOP_FEATURE_RECV_MULTISHOT |
				      KLOOP_FEATURE_ACCEPT_MULTISHOT | KLOOP_FEATURE_CQE_SKIP;
	struct kloop_loop_options *options;
	struct kloop_loop *loop;

	ck_assert_int_eq(kloop_loop_options_new(&options), 0);
	if (mode == KT_MODE_TINY_POOL)
		ck_assert_int_eq(kloop_loop_options_set_receive_pool(options, 1, 256), 0);
	if (mode == KT_MODE_SMALL_POOL)
		ck_assert_int_eq(kloop_loop_options_set_receive_pool(options, 4, 1024), 0);
	if (mode == KT_MODE_SQPOLL || mode == KT_MODE_SQPOLL_OLD)
		ck_assert_int_eq(kloop_loop_options_set_sqpoll(options, true, 20, -1), 0);
	if (mode == KT_MODE_NO_MULTISHOT || mode == KT_MODE_SQPOLL_OLD)
		kloop_loop_options_set_without(options, newer);
	if (mode == KT_MODE_COOP)
		kloop_loop_options_set_without(options, setup);
	if (mode == KT_MODE_OLD)
		kloop_loop_options_set_without(options, setup | newer | KLOOP_FEATURE_COOP_TASKRUN |
								KLOOP_FEATURE_TASKRUN_FLAG |
								KLOOP_FEATURE_REGISTERED_RING);
	loop = kt_loop_new(options);
	kloop_loop_options_free(options);
	return loop;
}

void kt_pair(int kind, int fds[2])
{
	if (kind == KT_TCP)
		kt_tcp_pair(fds);
	else
		kt_socketpair(fds);
}

/* ---- bytes ------------------------------------------------------------ */

/* The period is a prime, so that a lost or doubled buffer shows. */
#define PERIOD 251

void kt_fill(void *data, size_t bytes, size_t position)
{
	unsigned char *out = data;

	for (size_t i = 0; i < bytes; i++)
		out[i] = (unsigned char)((position + i) % PERIOD);
}

bool kt_is_fill(const void *data, size_t bytes, size_t position)
{
	const unsigned char *in = data;

	for (size_t i = 0; i < bytes; i++) {
		if (in[i] != (position + i) % PERIOD)
			return false;
	}
	return true;
}

uint64_t kt_sum(uint64_t sum, const void *data, size_t bytes)
{
	const unsigned char *in = data;

	for (size_t i = 0; i < bytes; i++)
		sum = sum * 31 + in[i] + 1;
	return sum;
}

static void await_fd(int fd, short events)
{
	struct pollfd waiting = { .fd = fd, .events = events };

	ck_assert_int_eq(poll(&waiting, 1, KT_PATIENCE_MS), 1);
}

void kt_write_all(int fd, const void *data, size_t bytes)
{
	const char *next = data;

	while (bytes > 0) {
		ssize_t result = write(fd, next, bytes);

		if (result < 0 && errno == EAGAIN) {
			await_fd(fd, POLLOUT);
			continue;
		}
		ck_assert_int_gt(result, 0);
		next += result;
		bytes -= (size_t)result;
	}
}

void kt_read_all(int fd, void *data, size_t bytes)
{
	char *next = data;

	while (bytes > 0) {
		ssize_t result = read(fd, next, bytes);

		if (result < 0 && errno == EAGAIN) {
			await_fd(fd, POLLIN);
			continue;
		}
		ck_assert_int_gt(result, 0);
		next += result;
		bytes -= (size_t)result;
	}
}

size_t kt_turn_read(struct kloop_loop *loop, int fd, void *data, size_t bytes)
{
	uint64_t end = kloop_now() + KT_PATIENCE_MS * KT_MS;
	size_t had = 0;

	while (had < bytes) {
		ssize_t result = recv(fd, (char *)data + had, bytes - had, MSG_DONTWAIT);

		if (result == 0)
			break;
		if (result > 0) {
			had += (size_t)result;
			continue;
		}
		ck_assert_int_eq(errno, EAGAIN);
		ck_assert_msg(kloop_now() < end, "only %zu of %zu bytes after %d ms", had, bytes,
			      KT_PATIENCE_MS);
		kt_turn(loop, KT_MS);
	}
	return had;
}

/* ---- handlers --------------------------------------------------------- */

/* Inside a call made by the test no handler may run. */
static _Thread_local int calling;
#define QUIET(call) (calling++, quiet_end(call))

static int quiet_end(int result)
{
	calling--;
	return result;
}

static bool inside_call(void)
{
	return calling > 0;
}

static struct kt_stream *begin(struct kloop_stream *stream, void *user, enum kt_event event)
{
	struct kt_stream *self = user;

	ck_assert_msg(!inside_call(), "event %d inside a call of the owner", (int)event);
	if (self->stream)
		ck_assert_ptr_eq(self->stream, stream);
	ck_assert_msg(self->count[KT_ON_CLOSE] == 0, "event %d after on_close", (int)event);
	self->count[event]++;
	return self;
}

static void end(struct kt_stream *self, enum kt_event event, const void *data, size_t bytes)
{
	if (self->then)
		self->then(self, event, data, bytes);
}

static void on_connect(struct kloop_stream *stream, int result, void *user)
{
	struct kt_stream *self = begin(stream, user, KT_ON_CONNECT);

	ck_assert_int_eq(self->count[KT_ON_CONNECT], 1);
	ck_assert_int_eq(self->count[KT_ON_DATA] + self->count[KT_ON_EOF] +
			 self->count[KT_ON_ERROR], 0);
	self->connect_result = result;
	end(self, KT_ON_CONNECT, NULL, 0);
}

static void record(struct kt_stream *self, const void *data, size_t bytes)
{
	if (self->keep) {
		if (self->received + bytes > self->capacity) {
			self->capacity = (self->received + bytes) * 2;
			self->data = realloc(self->data, self->capacity);
			ck_assert_ptr_nonnull(self->data);
		}
		memcpy(self->data + self->received, data, bytes);
	} else {
		self->sum = kt_sum(self->sum, data, bytes);
	}
	self->received += bytes;
	self->received_kib = (int)(self->received >> 10);
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	struct kt_stream *self = begin(stream, user, KT_ON_DATA);

	ck_assert_msg(self->reading, "data while reading is stopped");
	ck_assert_int_eq(self->count[KT_ON_EOF] + self->count[KT_ON_ERROR], 0);
	ck_assert_uint_gt(bytes, 0);
	if (data == self->offer) {
		ck_assert_uint_le(bytes, self->offer_bytes);
		self->offer_used++;
	}
	record(self, data, bytes);
	end(self, KT_ON_DATA, data, bytes);
}

static int on_alloc(struct kloop_stream *stream, size_t suggested, void **ret_buffer,
		    size_t *ret_bytes, void *user)
{
	struct kt_stream *self = begin(stream, user, KT_ON_ALLOC);

	ck_assert(self->reading);
	self->last_suggested = suggested;
	end(self, KT_ON_ALLOC, NULL, 0);
	if (!self->offer)
		return -ENOMEM;
	*ret_buffer = self->offer;
	*ret_bytes = self->offer_bytes;
	return 0;
}

static void on_eof(struct kloop_stream *stream, void *user)
{
	struct kt_stream *self = begin(stream, user, KT_ON_EOF);

	ck_assert_msg(self->reading, "the end while reading is stopped");
	ck_assert_int_eq(self->count[KT_ON_EOF], 1);
	ck_assert_int_eq(self->count[KT_ON_ERROR], 0);
	end(self, KT_ON_EOF, NULL, 0);
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	struct kt_stream *self = begin(stream, user, KT_ON_ERROR);

	ck_assert_int_eq(self->count[KT_ON_ERROR], 1);
	ck_assert_int_lt(error, 0);
	ck_assert_uint_eq(kloop_stream_get_write_bytes(stream), 0);
	self->error = error;
	end(self, KT_ON_ERROR, NULL, 0);
}

static void on_drain(struct kloop_stream *stream, void *user)
{
	end(begin(stream, user, KT_ON_DRAIN), KT_ON_DRAIN, NULL, 0);
}

static void on_close(struct kloop_stream *stream, void *user)
{
	struct kt_stream *self = begin(stream, user, KT_ON_CLOSE);

	self->close_fd = kloop_stream_get_fd(stream);
	ck_assert_uint_eq(kloop_stream_get_write_bytes(stream), 0);
	ck_assert_int_eq(kloop_stream_start_read(stream), -ESTALE);
	end(self, KT_ON_CLOSE, NULL, 0);
	self->stream = NULL;
}

const struct kloop_stream_handlers kt_stream_handlers = {
	.size = sizeof(struct kloop_stream_handlers),
	.on_connect = on_connect,
	.on_data = on_data,
	.on_alloc = on_alloc,
	.on_eof = on_eof,
	.on_error = on_error,
	.on_drain = on_drain,
	.on_close = on_close,
};

/* ---- calls ------------------------------------------------------------ */

void kt_stream_open(struct kt_stream *stream, struct kloop_loop *loop, int fd, unsigned flags)
{
	memset(stream, 0, sizeof(*stream));
	stream->loop = loop;
	ck_assert_int_eq(QUIET(kloop_stream_new(loop, fd, flags, &kt_stream_handlers, stream,
						&stream->stream)), 0);
	ck_assert_int_eq(kloop_stream_get_fd(stream->stream), fd);
}

void kt_stream_connect(struct kt_stream *stream, struct kloop_loop *loop,
		       const struct kloop_address *address)
{
	memset(stream, 0, sizeof(*stream));
	stream->loop = loop;
	ck_assert_int_eq(QUIET(kloop_stream_connect(loop, address, &kt_stream_handlers, stream,
						    &stream->stream)), 0);
}

void kt_stream_start(struct kt_stream *stream)
{
	stream->reading = true;
	ck_assert_int_eq(QUIET(kloop_stream_start_read(stream->stream)), 0);
}

void kt_stream_stop(struct kt_stream *stream)
{
	stream->reading = false;
	ck_assert_int_eq(QUIET(kloop_stream_stop_read(stream->stream)), 0);
}

void kt_stream_put(struct kt_stream *stream, const void *data, size_t bytes)
{
	ck_assert_int_eq(QUIET(kloop_stream_write(stream->stream, data, bytes, NULL, NULL)), 0);
}

void kt_stream_forget(struct kt_stream *stream)
{
	free(stream->data);
	stream->data = NULL;
}

static void wait_close(struct kt_stream *stream)
{
	kt_turn_until(stream->loop, &stream->count[KT_ON_CLOSE], 1);
	ck_assert_int_eq(stream->close_fd, -1);
	kt_stream_forget(stream);
}

void kt_stream_end(struct kt_stream *stream)
{
	if (stream->stream)
		(void)QUIET((kloop_stream_close(stream->stream), 0));
	wait_close(stream);
}

void kt_stream_abort(struct kt_stream *stream)
{
	if (stream->stream)
		(void)QUIET((kloop_stream_abort(stream->stream), 0));
	wait_close(stream);
}

void kt_stream_await(struct kt_stream *stream, size_t bytes)
{
	uint64_t limit = kloop_now() + KT_PATIENCE_MS * KT_MS;

	while (stream->received < bytes) {
		uint64_t now = kloop_now();

		ck_assert_msg(now < limit, "still %zu of %zu bytes", stream->received, bytes);
		ck_assert_int_eq(stream->count[KT_ON_ERROR], 0);
		kt_turn(stream->loop, kt_slice(limit - now));
	}
}

/* ---- lent memory ------------------------------------------------------ */

void kt_release(void *owner, int status, void *user)
{
	struct kt_lent *lent = owner;

	ck_assert_msg(!inside_call(), "a release inside a call of the owner");
	ck_assert_ptr_eq(user, lent->stream);
	ck_assert_int_eq(lent->stream->count[KT_ON_CLOSE], 0);
	ck_assert_int_eq(lent->released, 0);
	lent->released++;
	lent->status = status;
	if (lent->total)
		(*lent->total)++;
	lent->stream->count[KT_ON_RELEASE]++;
	end(lent->stream, KT_ON_RELEASE, NULL, 0);
}

void kt_lend(struct kt_stream *stream, struct kt_lent *lent, const void *data, size_t bytes)
{
	memset(lent, 0, sizeof(*lent));
	lent->stream = stream;
	ck_assert_int_eq(QUIET(kloop_stream_write(stream->stream, data, bytes, kt_release, lent)),
			 0);
}
