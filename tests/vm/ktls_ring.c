/* SPDX-License-Identifier: MulanPSL-2.0 */
/* io_uring on sockets with TLS in the kernel, for ktls_probe: see ktls.h. */
#include "ktls.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFERS 16 /* a power of two */
#define BUFFER_BYTES 4096
#define GROUP 1
#define LARGE 40000

struct ring {
	struct io_uring ring;
	struct io_uring_buf_ring *buffers;
	unsigned char *memory;
	int fds[2];
};

static void *pages(size_t bytes)
{
	void *memory = NULL;

	if (posix_memalign(&memory, 4096, bytes) != 0)
		abort();
	memset(memory, 0, bytes);
	return memory;
}

static void give_buffer(struct ring *self, unsigned id)
{
	io_uring_buf_ring_add(self->buffers, self->memory + (size_t)id * BUFFER_BYTES, BUFFER_BYTES,
			      (unsigned short)id, io_uring_buf_ring_mask(BUFFERS), 0);
	io_uring_buf_ring_advance(self->buffers, 1);
}

/* A ring as kLoop's, a ring of buffers, and a pair of sockets: [0] writes. */
static bool open_ring(struct ring *self, const struct ktls_suite *suite)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
	};
	struct io_uring_buf_reg reg = { .ring_entries = BUFFERS, .bgid = GROUP };

	memset(self, 0, sizeof(*self));
	self->memory = pages((size_t)BUFFERS * BUFFER_BYTES);
	self->buffers = pages(BUFFERS * sizeof(struct io_uring_buf));
	reg.ring_addr = (uintptr_t)self->buffers;
	if (io_uring_queue_init_params(32, &self->ring, &params) != 0 ||
	    io_uring_register_buf_ring(&self->ring, &reg, 0) != 0)
		abort();
	io_uring_buf_ring_init(self->buffers);
	for (unsigned i = 0; i < BUFFERS; i++)
		give_buffer(self, i);
	return ktls_pair(suite, self->fds) == 0;
}

static void close_ring(struct ring *self)
{
	ktls_close(self->fds);
	io_uring_queue_exit(&self->ring);
	free(self->buffers);
	free(self->memory);
}

struct completion {
	int res;
	unsigned flags;
};

/* The next completion, or -ETIME as its result. */
static struct completion next(struct ring *self)
{
	struct __kernel_timespec patience = { .tv_sec = 20 };
	struct completion completion = { .res = -ETIME };
	struct io_uring_cqe *cqe;

	int r;

	do
		r = io_uring_submit_and_wait_timeout(&self->ring, &cqe, 1, &patience, NULL);
	while (r == -EINTR);
	if (r >= 0) {
		completion.res = cqe->res;
		completion.flags = cqe->flags;
		io_uring_cqe_seen(&self->ring, cqe);
	}
	return completion;
}

static struct io_uring_sqe *prepare(struct ring *self)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);

	if (!sqe)
		abort();
	return sqe;
}

static unsigned char *buffer_of(struct ring *self, const struct completion *cqe, unsigned *ret_id)
{
	*ret_id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
	return self->memory + (size_t)*ret_id * BUFFER_BYTES;
}

/* ---- receiving --------------------------------------------------------- */

static void arm_recv(struct ring *self)
{
	struct io_uring_sqe *sqe = prepare(self);

	io_uring_prep_recv_multishot(sqe, self->fds[1], NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	io_uring_submit(&self->ring);
}

/* Completions of a multishot receive until so many bytes are there, and are these. */
static bool comes(struct ring *self, const unsigned char *expected, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		struct completion cqe = next(self);
		unsigned char *got;
		unsigned id;
		bool same;

		if (cqe.res <= 0 || !(cqe.flags & IORING_CQE_F_BUFFER) ||
		    !(cqe.flags & IORING_CQE_F_MORE) || done + (size_t)cqe.res > bytes) {
			printf("# completion with result %d, flags %#x after %zu of %zu bytes\n",
			       cqe.res, cqe.flags, done, bytes);
			return false;
		}
		got = buffer_of(self, &cqe, &id);
		same = memcmp(got, expected + done, (size_t)cqe.res) == 0;
		give_buffer(self, id);
		if (!same)
			return false;
		done += (size_t)cqe.res;
	}
	return true;
}

/* One RECVMSG on the ring, which takes the control record. */
static bool take_record(struct ring *self, uint8_t type, const void *expected, size_t bytes)
{
	unsigned char got[16];
	union ktls_control control = { .align = 0 };
	struct iovec part = { .iov_base = got, .iov_len = sizeof(got) };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1,
		.msg_control = control.bytes, .msg_controllen = sizeof(control),
	};
	struct completion cqe;

	io_uring_prep_recvmsg(prepare(self), self->fds[1], &message, 0);
	cqe = next(self);
	return cqe.res == (int)bytes && ktls_record_type(&message) == type &&
	       memcmp(got, expected, bytes) == 0;
}

static bool recv_multishot(struct ring *self)
{
	static unsigned char large[LARGE];
	struct completion cqe;
	bool ok;

	for (size_t i = 0; i < LARGE; i++)
		large[i] = (unsigned char)(i * 31 >> 3);
	arm_recv(self);
	ok = ktls_ok(ktls_send_all(self->fds[0], "first", 5) == 0 &&
		     comes(self, (const unsigned char *)"first", 5) &&
		     ktls_send_all(self->fds[0], large, LARGE) == 0 && comes(self, large, LARGE),
		     "multishot recv into a buffer ring delivers data");
	ktls_send_record(self->fds[0], KTLS_ALERT, "\1\0", 2);
	cqe = next(self);
	ok = ktls_is(cqe.res, -EIO, "a control record ends it with EIO") && ok;
	ok = ktls_ok(!(cqe.flags & IORING_CQE_F_MORE), "for good") && ok;
	ktls_send_all(self->fds[0], "second", 6);
	ok = ktls_ok(take_record(self, KTLS_ALERT, "\1\0", 2), "one RECVMSG takes the record") && ok;
	arm_recv(self);
	ok = ktls_ok(comes(self, (const unsigned char *)"second", 6), "armed again, it goes on") && ok;
	shutdown(self->fds[0], SHUT_WR);
	cqe = next(self);
	ok = ktls_ok(cqe.res == 0 && !(cqe.flags & IORING_CQE_F_MORE), "the end is 0") && ok;
	return ok;
}

/* One completion of a multishot RECVMSG: its record is this one. */
static bool record_comes(struct ring *self, struct msghdr *message, uint8_t type, const char *text)
{
	struct completion cqe = next(self);
	struct io_uring_recvmsg_out *out;
	struct cmsghdr *header;
	unsigned char *got;
	unsigned id;
	bool ok;

	if (cqe.res < 0 || !(cqe.flags & IORING_CQE_F_BUFFER)) {
		printf("# completion with result %d, flags %#x\n", cqe.res, cqe.flags);
		return false;
	}
	got = buffer_of(self, &cqe, &id);
	out = io_uring_recvmsg_validate(got, cqe.res, message);
	header = out ? io_uring_recvmsg_cmsg_firsthdr(out, message) : NULL;
	ok = header && *CMSG_DATA(header) == type &&
	     io_uring_recvmsg_payload_length(out, cqe.res, message) == strlen(text) &&
	     memcmp(io_uring_recvmsg_payload(out, message), text, strlen(text)) == 0 &&
	     (cqe.flags & IORING_CQE_F_MORE);
	give_buffer(self, id);
	return ok;
}

static void arm_recvmsg(struct ring *self, struct msghdr *message)
{
	struct io_uring_sqe *sqe = prepare(self);

	io_uring_prep_recvmsg_multishot(sqe, self->fds[1], message, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	io_uring_submit(&self->ring);
}

/* The alternative that needs no second way to read: each record with its type. */
static bool recvmsg_multishot(struct ring *self)
{
	struct msghdr message = { .msg_controllen = CMSG_SPACE(1) };
	bool ok;

	arm_recvmsg(self, &message);
	ok = ktls_send_all(self->fds[0], "first", 5) == 0 &&
	     record_comes(self, &message, KTLS_DATA, "first") &&
	     ktls_send_record(self->fds[0], KTLS_ALERT, "\1\1", 2) == 2 &&
	     record_comes(self, &message, KTLS_ALERT, "\1\1") &&
	     ktls_send_all(self->fds[0], "second", 6) == 0 &&
	     record_comes(self, &message, KTLS_DATA, "second");
	return ktls_ok(ok, "multishot recvmsg delivers each record with its type");
}

/* A new key while a multishot receive is armed, where the kernel takes one. */
static void rekey_multishot(struct ring *self, const struct ktls_suite *suite)
{
	static const char key_update[] = { 24, 0, 0, 1, 0 };
	struct msghdr message = { .msg_controllen = CMSG_SPACE(1) };
	struct completion last;
	unsigned char got[8];
	uint8_t type = 0;
	bool ok;

	ktls_send_record(self->fds[0], KTLS_HANDSHAKE, key_update, 5);
	if (ktls_set_keys(self->fds[0], TLS_TX, suite, 3) != 0)
		return;
	ktls_send_all(self->fds[0], "new", 3);
	arm_recv(self);
	ktls_is(next(self).res, -EIO, "KeyUpdate ends a multishot recv with EIO");
	ok = ktls_recv_record(self->fds[1], got, sizeof(got), &type) == 5;
	ktls_ok(ok && type == KTLS_HANDSHAKE && memcmp(got, key_update, 5) == 0, "it is there");
	arm_recv(self);
	ktls_is(next(self).res, -EKEYEXPIRED, "armed again without a key it ends with EKEYEXPIRED");
	ktls_is(ktls_set_keys(self->fds[1], TLS_RX, suite, 3), 0, "the key is set");
	arm_recvmsg(self, &message);
	ktls_ok(record_comes(self, &message, KTLS_DATA, "new"), "and data comes");
	ktls_send_record(self->fds[0], KTLS_HANDSHAKE, key_update, 5);
	ktls_set_keys(self->fds[0], TLS_TX, suite, 4);
	ok = false;
	last = next(self);
	if (last.res > 0) {
		unsigned id;

		ok = memcmp(buffer_of(self, &last, &id) + last.res - 5, key_update, 5) == 0;
		give_buffer(self, id);
		last = next(self);
	}
	ktls_ok(ok, "multishot recvmsg delivers KeyUpdate");
	ktls_is(last.res, -EKEYEXPIRED, "and then ends with EKEYEXPIRED");
}

/* ---- sending ----------------------------------------------------------- */

static bool arrives(struct ring *self, const char *text)
{
	return ktls_arrives(self->fds[1], text);
}

static void sends(struct ring *self, struct ktls_ring_facts *facts)
{
	union ktls_control control = { .align = 0 };
	struct iovec part = { .iov_base = "\1\0", .iov_len = 2 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	struct completion cqe;
	unsigned char got[4];
	uint8_t type = 0;

	io_uring_prep_send(prepare(self), self->fds[0], "by the ring", 11, MSG_NOSIGNAL);
	ktls_is(next(self).res, 11, "SEND");
	ktls_ok(arrives(self, "by the ring"), "what it sent arrives");

	ktls_prepare_send(&message, &control, KTLS_ALERT);
	io_uring_prep_sendmsg(prepare(self), self->fds[0], &message, MSG_NOSIGNAL);
	ktls_is(next(self).res, 2, "SENDMSG with a record type");
	ktls_is(ktls_recv_record(self->fds[1], got, sizeof(got), &type), 2, "its record arrives");
	ktls_is(type, KTLS_ALERT, "with that type");

	io_uring_prep_send(prepare(self), self->fds[0], "wait for all", 12, MSG_NOSIGNAL | MSG_WAITALL);
	cqe = next(self);
	snprintf(facts->send_waitall, sizeof(facts->send_waitall), "%s", ktls_word(cqe.res));
	ktls_fact("SEND with MSG_WAITALL", "%s", ktls_word(cqe.res));
	ktls_ok(cqe.res == 12 ? arrives(self, "wait for all") : cqe.res == -EOPNOTSUPP,
		"SEND with MSG_WAITALL works, or is EOPNOTSUPP");
}

static void sends_zero_copy(struct ring *self, struct ktls_ring_facts *facts)
{
	struct completion cqe;

	io_uring_prep_send_zc(prepare(self), self->fds[0], "zero copy", 9, MSG_NOSIGNAL, 0);
	cqe = next(self);
	snprintf(facts->send_zc, sizeof(facts->send_zc), "%s", ktls_word(cqe.res));
	ktls_fact("SEND_ZC", "%s", ktls_word(cqe.res));
	ktls_ok(cqe.res == 9 ? arrives(self, "zero copy") : cqe.res == -EOPNOTSUPP,
		"SEND_ZC works, or is EOPNOTSUPP");
	if (cqe.flags & IORING_CQE_F_MORE)
		ktls_ok(next(self).flags & IORING_CQE_F_NOTIF, "SEND_ZC tells when it is done");
	ktls_ok(ktls_send_all(self->fds[0], "after it", 8) == 0 && arrives(self, "after it"),
		"the connection goes on");
}

static void splices(struct ring *self, struct ktls_ring_facts *facts)
{
	struct completion cqe;
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) != 0 || write(ends[1], "through a pipe", 14) != 14)
		abort();
	io_uring_prep_splice(prepare(self), ends[0], -1, self->fds[0], -1, 14, SPLICE_F_MOVE);
	cqe = next(self);
	snprintf(facts->splice, sizeof(facts->splice), "%s", ktls_word(cqe.res));
	ktls_is(cqe.res, 14, "SPLICE from a pipe");
	ktls_ok(arrives(self, "through a pipe"), "what it moved arrives");
	close(ends[0]);
	close(ends[1]);
}

void ktls_ring_checks(const struct ktls_suite *suite, struct ktls_ring_facts *facts)
{
	struct ring ring;
	bool ok;

	ok = open_ring(&ring, suite) && recv_multishot(&ring);
	snprintf(facts->recv_multishot, sizeof(facts->recv_multishot), "%s", ok ? "yes" : "NO");
	close_ring(&ring);

	ok = open_ring(&ring, suite) && recvmsg_multishot(&ring);
	snprintf(facts->recvmsg_multishot, sizeof(facts->recvmsg_multishot), "%s", ok ? "yes" : "NO");
	close_ring(&ring);

	if (ktls_ok(open_ring(&ring, suite), "a pair to change keys on"))
		rekey_multishot(&ring, suite);
	close_ring(&ring);

	if (ktls_ok(open_ring(&ring, suite), "a pair to send on")) {
		sends(&ring, facts);
		sends_zero_copy(&ring, facts);
		splices(&ring, facts);
	}
	close_ring(&ring);
}
