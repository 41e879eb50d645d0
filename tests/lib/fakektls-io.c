/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Records of the fake kernel on their way: cut, sent, gathered, given out. */
#include "fakektls-internal.h"
#include "support.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#define DATA 23
#define HANDSHAKE 22
#define KEY_UPDATE 24
/* What Linux takes there; MSG_NOSIGNAL and MSG_DONTWAIT are always meant here. */
#define SEND_FLAGS (MSG_MORE | MSG_DONTWAIT | MSG_NOSIGNAL | MSG_EOR)

/* ---- sending ---------------------------------------------------------- */

static bool is_writable(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLOUT };

	return poll(&wait, 1, 0) == 1;
}

/* The send buffer is large and was found to have room, so a record fits. */
static int put_record(int fd, const unsigned char *record, size_t bytes)
{
	struct pollfd wait = { .fd = fd, .events = POLLOUT };
	ssize_t sent;

	while (bytes > 0) {
		sent = __real_send(fd, record, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (sent < 0) {
			ck_assert_msg(poll(&wait, 1, 1000) == 1, "a record is stuck");
			continue;
		}
		record += sent;
		bytes -= (size_t)sent;
	}
	return 0;
}

/* Bytes of a vector from a place on, as many as fit. Returns: how many. */
static size_t gather(const struct msghdr *message, size_t skip, void *out, size_t capacity)
{
	unsigned char *next = out;
	size_t i, bytes;

	for (i = 0; i < message->msg_iovlen && capacity > 0; i++) {
		const struct iovec *vector = &message->msg_iov[i];

		if (skip >= vector->iov_len) {
			skip -= vector->iov_len;
			continue;
		}
		bytes = vector->iov_len - skip;
		if (bytes > capacity)
			bytes = capacity;
		memcpy(next, (char *)vector->iov_base + skip, bytes);
		next += bytes;
		capacity -= bytes;
		skip = 0;
	}
	return (size_t)(next - (unsigned char *)out);
}

/* The type that a message asks for. Returns: it; -EINVAL for what Linux refuses. */
static int find_type(const struct msghdr *message, int flags)
{
	struct msghdr *readable = (struct msghdr *)(uintptr_t)message;
	struct cmsghdr *header;
	int type = DATA;

	for (header = message->msg_controllen ? CMSG_FIRSTHDR(message) : NULL; header;
	     header = CMSG_NXTHDR(readable, header)) {
		if (header->cmsg_level != KT_KTLS_SOL)
			continue;
		if (header->cmsg_type != TLS_SET_RECORD_TYPE || header->cmsg_len < CMSG_LEN(1) ||
		    (flags & MSG_MORE))
			return -EINVAL;
		type = *CMSG_DATA(header);
	}
	return type;
}

ssize_t kt_ktls_send(struct kt_ktls_socket *socket, const struct msghdr *message, int flags)
{
	unsigned char record[KT_KTLS_RECORD + 64], text[KT_KTLS_PLAIN];
	size_t limit = kt_ktls_kernel.send_max ? kt_ktls_kernel.send_max : SIZE_MAX;
	size_t sent = 0, room, bytes;
	int type = find_type(message, flags);
	int r;

	if (flags & ~SEND_FLAGS & ~(kt_ktls_kernel.any_flag ? MSG_WAITALL : 0))
		return -EOPNOTSUPP;
	if (type < 0)
		return type;
	for (;;) {
		room = limit - sent < sizeof(text) ? limit - sent : sizeof(text);
		/* What is no data is never cut short. */
		bytes = gather(message, sent, text, type == DATA ? room : sizeof(text));
		if (bytes == 0)
			return (ssize_t)sent;
		if (!is_writable(socket->fd))
			return sent > 0 ? (ssize_t)sent : -EAGAIN;
		bytes = gather(message, sent, text, bytes);
		r = put_record(socket->fd, record,
			       kt_ktls_seal(&socket->send, type, text, bytes, record));
		if (r < 0)
			return sent > 0 ? (ssize_t)sent : r;
		socket->state.sent_records++;
		socket->state.sent_controls += type != DATA;
		sent += bytes;
		if (type == DATA && sent >= limit)
			return (ssize_t)sent;
	}
}

/* ---- receiving -------------------------------------------------------- */

/* How long the record is, as far as that is known. Returns: bytes; a negative errno. */
static ssize_t measure(const struct kt_ktls_socket *socket)
{
	const int overhead = kt_ktls_overhead(&socket->receive);
	const bool inner = socket->receive.info.info.version == TLS_1_3_VERSION;
	size_t body;

	if (socket->have < 5)
		return 5;
	body = (size_t)socket->raw[3] << 8 | socket->raw[4];
	if (body > (size_t)(KT_KTLS_PLAIN + overhead + inner))
		return -EMSGSIZE;
	if (body < (size_t)overhead)
		return -EBADMSG;
	if (socket->raw[1] != 3 || socket->raw[2] != 3)
		return -EINVAL;
	return (ssize_t)(5 + body);
}

/* Have a record open. Returns: 1; 0 at the end of the connection; a negative errno. */
static int have_record(struct kt_ktls_socket *socket)
{
	ssize_t whole, got;

	if (socket->text)
		return 1;
	if (socket->expired)
		return -EKEYEXPIRED;
	while (socket->error == 0) {
		whole = measure(socket);
		if (whole < 0) {
			socket->error = (int)whole;
		} else if (socket->have >= 5 && socket->have == (size_t)whole) {
			socket->error = kt_ktls_open(socket);
			if (socket->error < 0)
				break;
			socket->state.received_records++;
			socket->state.received_controls += socket->type != DATA;
			if (socket->type != DATA || socket->text_bytes > 0)
				return 1;
			/* Data without bytes: Linux looks at the next one. */
			socket->text = NULL;
			socket->have = 0;
		} else {
			got = __real_recv(socket->fd, socket->raw + socket->have,
					  (size_t)whole - socket->have, MSG_DONTWAIT);
			if (got <= 0)
				return got < 0 ? -errno : 0;
			socket->have += (size_t)got;
		}
	}
	return socket->error;
}

bool kt_ktls_is_readable(struct kt_ktls_socket *socket)
{
	int r = have_record(socket);

	return r != -EAGAIN && r != -EINTR;
}

/* The record is given out, or a part of it. */
static void consume(struct kt_ktls_socket *socket, size_t bytes)
{
	bool renews = socket->type == HANDSHAKE && socket->text_bytes > 0 &&
		      socket->text[0] == KEY_UPDATE &&
		      socket->receive.info.info.version == TLS_1_3_VERSION;

	if (renews && kt_ktls_kernel.rekey)
		socket->expired = true;
	socket->text += bytes;
	socket->text_bytes -= bytes;
	if (socket->text_bytes > 0)
		return;
	socket->text = NULL;
	socket->have = 0;
}

/* Into a vector from a place on. Returns: how many bytes fitted. */
static size_t scatter(const struct msghdr *message, size_t skip, const unsigned char *data,
		      size_t bytes)
{
	size_t done = 0, part;

	for (size_t i = 0; i < message->msg_iovlen && done < bytes; i++) {
		const struct iovec *vector = &message->msg_iov[i];

		if (skip >= vector->iov_len) {
			skip -= vector->iov_len;
			continue;
		}
		part = vector->iov_len - skip;
		if (part > bytes - done)
			part = bytes - done;
		memcpy((char *)vector->iov_base + skip, data + done, part);
		done += part;
		skip = 0;
	}
	return done;
}

/* Say the type, if there is room for it. */
static bool tell_type(struct msghdr *message, int type)
{
	struct cmsghdr header = {
		.cmsg_len = CMSG_LEN(1),
		.cmsg_level = KT_KTLS_SOL,
		.cmsg_type = TLS_GET_RECORD_TYPE,
	};
	unsigned char byte = (unsigned char)type;

	if (!message->msg_control || message->msg_controllen < CMSG_LEN(1)) {
		message->msg_flags |= MSG_CTRUNC;
		message->msg_controllen = 0;
		return false;
	}
	memcpy(message->msg_control, &header, sizeof(header));
	memcpy((char *)message->msg_control + CMSG_LEN(0), &byte, 1);
	if (message->msg_controllen > CMSG_SPACE(1))
		message->msg_controllen = CMSG_SPACE(1);
	return true;
}

ssize_t kt_ktls_receive(struct kt_ktls_socket *socket, struct msghdr *message, int flags)
{
	size_t limit = kt_ktls_kernel.receive_max ? kt_ktls_kernel.receive_max : SIZE_MAX;
	size_t done = 0, part;
	int r = have_record(socket);
	int type = socket->type;

	ck_assert_msg(!(flags & (MSG_PEEK | MSG_ERRQUEUE)), "the fake does not know this flag");
	message->msg_flags = 0;
	if (r <= 0) {
		message->msg_controllen = 0;
		return r;
	}
	if (!tell_type(message, type) && type != DATA)
		return -EIO;
	do {
		part = socket->text_bytes < limit - done ? socket->text_bytes : limit - done;
		part = scatter(message, done, socket->text, part);
		done += part;
		if (part == 0 && socket->text_bytes > 0)
			break; /* the room is used up */
		consume(socket, part);
		if (!socket->text && type != DATA)
			message->msg_flags |= MSG_EOR;
	} while (type == DATA && done < limit && have_record(socket) == 1 && socket->type == DATA);
	return (ssize_t)done;
}
