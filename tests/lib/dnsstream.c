/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The name server of dnsstream.h. */
#include "dnsstream.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- one connection --------------------------------------------------------------- */

static void free_peer(struct kt_dot_peer *peer, bool gently)
{
	struct kt_dot *server = peer->server;

	for (int i = 0; i < KT_DOT_PEERS; i++) {
		if (server->peers[i] == peer)
			server->peers[i] = NULL;
	}
	for (int i = 0; i < peer->held_count; i++)
		free(peer->held[i].frame);
	if (peer->ssl && gently)
		(void)SSL_shutdown(peer->ssl);
	SSL_free(peer->ssl);
	ERR_clear_error();
	close(peer->fd);
	server->closed++;
	free(peer);
}

static void put(struct kt_dot_peer *peer, const void *data, size_t bytes)
{
	int ret;

	if (!peer->ssl) {
		(void)!send(peer->fd, data, bytes, MSG_NOSIGNAL);
		return;
	}
	ret = SSL_write(peer->ssl, data, (int)bytes);
	/* The other side may be gone; what is sent here fits every buffer. */
	ck_assert(ret == (int)bytes || SSL_get_error(peer->ssl, ret) != SSL_ERROR_WANT_WRITE);
	ERR_clear_error();
}

/* False: that ended the connection. */
static bool send_frame(struct kt_dot_peer *peer, const uint8_t *frame, size_t bytes)
{
	struct linger hard = { .l_onoff = 1 };
	struct kt_dot *server = peer->server;

	switch (server->mode) {
	case KT_DOT_BYTES:
		for (size_t i = 0; i < bytes; i++)
			put(peer, frame + i, 1);
		break;
	case KT_DOT_CUT:
		put(peer, frame, bytes / 2);
		free_peer(peer, false);
		return false;
	case KT_DOT_RESET:
		(void)setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
		free_peer(peer, false);
		return false;
	default:
		put(peer, frame, bytes);
	}
	if (++peer->answers != server->limit)
		return true;
	free_peer(peer, true);
	return false;
}

/* False: the connection is gone. */
static bool answer(struct kt_dot_peer *peer, struct kt_question *question)
{
	struct kt_dot *server = peer->server;
	uint8_t *frame = malloc(2 + KT_DNS_BYTES + 512);
	int bytes = -1;
	bool on = true;

	server->questions++;
	question->number = server->questions;
	server->last_bytes = question->bytes;
	if (question->bytes <= sizeof(server->last))
		memcpy(server->last, question->wire, question->bytes);
	kt_dns_read(question);
	if (server->hook)
		bytes = server->hook(server, question, frame + 2);
	if (bytes < 0)
		bytes = kt_dns_answer(&server->zone, question, frame + 2);
	frame[0] = (uint8_t)(bytes >> 8);
	frame[1] = (uint8_t)bytes;
	if (server->mode == KT_DOT_MUTE || bytes == 0) {
		free(frame);
		return true;
	}
	if (server->hold == 0) {
		on = send_frame(peer, frame, 2 + (size_t)bytes);
		free(frame);
		return on;
	}
	ck_assert_int_lt(peer->held_count, KT_DOT_HELD);
	peer->held[peer->held_count].frame = frame;
	peer->held[peer->held_count++].bytes = 2 + (size_t)bytes;
	if (peer->held_count < server->hold)
		return true;
	while (on && peer->held_count != 0) {
		uint8_t *last = peer->held[--peer->held_count].frame;

		on = send_frame(peer, last, peer->held[peer->held_count].bytes);
		free(last);
	}
	return on;
}

/* False: the connection is gone. */
static bool take_frames(struct kt_dot_peer *peer)
{
	for (;;) {
		size_t frame = 2u + ((size_t)peer->buffer[0] << 8 | peer->buffer[1]);
		struct kt_question question = { .wire = peer->buffer + 2,
						.bytes = frame - 2,
						.tcp = true,
						.fd = peer->fd };

		if (peer->used < 2 || peer->used < frame)
			return true;
		if (!answer(peer, &question))
			return false;
		memmove(peer->buffer, peer->buffer + frame, peer->used - frame);
		peer->used -= frame;
	}
}

/* What is there: its length; 0 if nothing is; -1 if the connection is at its end. */
static ssize_t get(struct kt_dot_peer *peer)
{
	uint8_t *to = peer->buffer + peer->used;
	size_t room = sizeof(peer->buffer) - peer->used;
	ssize_t bytes;
	int error;

	if (!peer->ssl) {
		bytes = recv(peer->fd, to, room, MSG_DONTWAIT);
		return bytes > 0 ? bytes : bytes < 0 && errno == EAGAIN ? 0 : -1;
	}
	bytes = SSL_read(peer->ssl, to, (int)room);
	if (bytes > 0)
		return bytes;
	error = SSL_get_error(peer->ssl, (int)bytes);
	if (error == SSL_ERROR_ZERO_RETURN)
		peer->server->notified++;
	ERR_clear_error();
	return error == SSL_ERROR_WANT_READ ? 0 : -1;
}

/* One step of the handshake. False: it failed, and the connection is gone. */
static bool shake(struct kt_dot_peer *peer)
{
	struct kt_dot *server = peer->server;
	const char *name;
	int ret = SSL_accept(peer->ssl);

	if (ret != 1) {
		ret = SSL_get_error(peer->ssl, ret);
		ERR_clear_error();
		if (ret == SSL_ERROR_WANT_READ)
			return true;
		server->endings++;
		free_peer(peer, false);
		return false;
	}
	peer->open = true;
	server->handshakes++;
	server->resumed += SSL_session_reused(peer->ssl);
	name = SSL_get_servername(peer->ssl, TLSEXT_NAMETYPE_host_name);
	snprintf(server->name, sizeof(server->name), "%s", name ? name : "");
	return true;
}

static void peer_ready(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kt_dot_peer *peer =
		(struct kt_dot_peer *)((char *)op - offsetof(struct kt_dot_peer, op));
	struct kt_dot *server = peer->server;
	ssize_t bytes = 0;

	(void)flags;
	if (result < 0 || server->closing || server->mode == KT_DOT_GARBAGE) {
		free_peer(peer, false);
		return;
	}
	if (peer->ssl && !peer->open && !shake(peer))
		return;
	while ((!peer->ssl || peer->open) && (bytes = get(peer)) > 0) {
		peer->used += (size_t)bytes;
		if (!take_frames(peer))
			return;
	}
	if (bytes < 0) {
		server->endings++;
		free_peer(peer, false);
		return;
	}
	ck_assert_int_eq(kloop_op_poll(server->loop, op, peer->fd, POLLIN), 0);
}

/* ---- the server --------------------------------------------------------------------- */

static void new_peer(struct kt_dot *server, int fd)
{
	static const char garbage[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
	struct kt_dot_peer *peer = calloc(1, sizeof(*peer));
	int i = 0, on = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	while (i < KT_DOT_PEERS && server->peers[i])
		i++;
	ck_assert_int_lt(i, KT_DOT_PEERS);
	peer->server = server;
	peer->fd = fd;
	server->peers[i] = peer;
	server->connections++;
	if (server->ctx) {
		peer->ssl = SSL_new(server->ctx);
		ck_assert_ptr_nonnull(peer->ssl);
		ck_assert_int_eq(SSL_set_fd(peer->ssl, fd), 1);
	}
	if (server->mode == KT_DOT_GARBAGE)
		ck_assert_int_gt(send(fd, garbage, sizeof(garbage), MSG_NOSIGNAL), 0);
	kloop_op_init(&peer->op, peer_ready);
	/* One that hangs waits for what does not come. */
	ck_assert_int_eq(kloop_op_poll(server->loop, &peer->op, fd,
				       server->mode == KT_DOT_HANG ? POLLPRI : POLLIN),
			 0);
}

static void accept_ready(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kt_dot *server = (struct kt_dot *)((char *)op - offsetof(struct kt_dot, op));
	int fd;

	(void)flags;
	if (result < 0 || server->closing) {
		server->closed++;
		return;
	}
	while ((fd = accept4(server->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
		new_peer(server, fd);
	ck_assert_int_eq(kloop_op_poll(server->loop, op, server->fd, POLLIN), 0);
}

static SSL_CTX *make_context(enum kt_cert certificate)
{
	static const unsigned char id[] = "dot";
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

	ck_assert_ptr_nonnull(ctx);
	ck_assert_int_eq(SSL_CTX_use_certificate(ctx, kt_cert_get(certificate)), 1);
	ck_assert_int_eq(SSL_CTX_use_PrivateKey(ctx, kt_cert_get_key(certificate)), 1);
	ck_assert_int_eq(SSL_CTX_set_session_id_context(ctx, id, sizeof(id)), 1);
	return ctx;
}

void kt_dot_open(struct kt_dot *server, struct kloop_loop *loop, const struct kt_record *zone,
		 size_t count, enum kt_cert certificate)
{
	/* OpenSSL writes to those who have left as well. */
	(void)signal(SIGPIPE, SIG_IGN);
	memset(server, 0, sizeof(*server));
	server->loop = loop;
	server->zone.zone = zone;
	server->zone.zone_count = count;
	server->zone.ttl_s = 300;
	if (certificate != KT_CERT_COUNT)
		server->ctx = make_context(certificate);
	server->fd = kt_listen(64, &server->port);
	ck_assert_int_eq(fcntl(server->fd, F_SETFL, O_NONBLOCK), 0);
	kloop_op_init(&server->op, accept_ready);
	ck_assert_int_eq(kloop_op_poll(loop, &server->op, server->fd, POLLIN), 0);
}

void kt_dot_end_peers(struct kt_dot *server, bool gently)
{
	for (int i = 0; i < KT_DOT_PEERS; i++) {
		struct kt_dot_peer *peer = server->peers[i];

		if (!peer)
			continue;
		/* Its operation then finds the end. */
		if (gently && peer->ssl)
			(void)SSL_shutdown(peer->ssl);
		(void)shutdown(peer->fd, SHUT_RDWR);
	}
}

void kt_dot_close(struct kt_dot *server)
{
	int wanted = server->closed + 1;

	server->closing = 1;
	ck_assert_int_eq(kloop_op_cancel(&server->op), 0);
	for (int i = 0; i < KT_DOT_PEERS; i++) {
		if (!server->peers[i])
			continue;
		ck_assert_int_eq(kloop_op_cancel(&server->peers[i]->op), 0);
		wanted++;
	}
	kt_turn_until(server->loop, &server->closed, wanted);
	close(server->fd);
	SSL_CTX_free(server->ctx);
}

struct kloop_address kt_dot_address(const struct kt_dot *server)
{
	struct kloop_address address;

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", server->port, &address), 0);
	return address;
}
