/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Streams with TLS for tests: see tlsstream.h. */
#include "tlsstream.h"

#include "tls/ktls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <string.h>
#include <unistd.h>

static bool assumed;

void kt_assume_ktls(void)
{
	assumed = true;
}

bool kt_has_ktls(void)
{
	const char *value = getenv("KLOOP_TEST_VM");

	return assumed || (value && strcmp(value, "1") == 0);
}

bool kt_can_rekey(void)
{
	return kl_ktls_get_abilities() & KL_KTLS_REKEY;
}

/* ---- kLoop on both ends ------------------------------------------------ */

struct kloop_tls_context *kt_tls_setup_context(const struct kt_tls_setup *setup,
					       enum kloop_tls_role role)
{
	enum kt_cert server = setup->server ? setup->server : KT_CERT_SERVER;
	bool tls13 = setup->version == KLOOP_TLS_1_3;
	struct kloop_tls_context *context;
	const char *pem;

	ck_assert_int_eq(kloop_tls_context_new(role, &context), 0);
	if (role == KLOOP_TLS_SERVER) {
		pem = kt_cert_pem(server);
		ck_assert_int_eq(kloop_tls_context_use_certificate(context, pem, strlen(pem),
								   kt_cert_key_pem(server),
								   strlen(kt_cert_key_pem(server))),
				 0);
	} else {
		pem = kt_cert_pem(KT_CERT_CA);
		ck_assert_int_eq(kloop_tls_context_use_trust(context, pem, strlen(pem)), 0);
	}
	if (setup->version)
		ck_assert_int_eq(kloop_tls_context_set_versions(context, setup->version,
								setup->version), 0);
	if (setup->cipher)
		ck_assert_int_eq(kloop_tls_context_set_ciphers(context,
							       tls13 ? NULL : setup->cipher,
							       tls13 ? setup->cipher : NULL), 0);
	return context;
}

static void on_handshake(struct kloop_stream *stream, int result, void *user)
{
	struct kt_tls *self = user;

	ck_assert_ptr_eq(self->s.stream, stream);
	ck_assert_int_eq(self->handshakes, 0);
	ck_assert_int_eq(self->s.count[KT_ON_EOF] + self->s.count[KT_ON_ERROR], 0);
	ck_assert_int_eq(self->s.count[KT_ON_DATA], self->plain_reads);
	self->handshakes++;
	self->result = result;
	if (self->then)
		self->then(self);
}

void kt_tls_upgrade(struct kt_tls *self, struct kloop_tls_context *context, const char *name,
		    int ktls)
{
	self->plain_reads = self->s.count[KT_ON_DATA];
	ck_assert_int_eq(kloop_tls_new(context, &self->tls), 0);
	if (name)
		ck_assert_int_eq(kloop_tls_set_name(self->tls, name), 0);
	ck_assert_int_eq(kloop_tls_set_ktls(self->tls, (enum kloop_ktls_mode)ktls), 0);
	ck_assert_ptr_null(kloop_tls_get(self->s.stream));
	ck_assert_int_eq(kloop_tls_start(self->tls, self->s.stream, on_handshake), 0);
	ck_assert_ptr_eq(kloop_tls_get(self->s.stream), self->tls);
}

void kt_tls_open(struct kt_tls ends[2], struct kloop_loop *loop, const struct kt_tls_setup *setup)
{
	struct kloop_tls_context *context;
	int fds[2], i;

	kt_pair(setup->kind, fds);
	for (i = 0; i < 2; i++) {
		memset(&ends[i], 0, sizeof(ends[i]));
		kt_stream_open(&ends[i].s, loop, fds[i], 0);
		context = kt_tls_setup_context(setup, i == 0 ? KLOOP_TLS_CLIENT : KLOOP_TLS_SERVER);
		kt_tls_upgrade(&ends[i], context, i == 0 ? "localhost" : NULL, setup->ktls);
		kloop_tls_context_unref(context);
		kt_stream_start(&ends[i].s);
	}
}

void kt_tls_connect(struct kt_tls ends[2], struct kloop_loop *loop,
		    const struct kt_tls_setup *setup)
{
	kt_tls_open(ends, loop, setup);
	for (int i = 0; i < 2; i++) {
		kt_tls_await(&ends[i]);
		ck_assert_msg(ends[i].result == 0, "end %d: %s", i,
			      kloop_tls_get_error_text(ends[i].tls));
	}
}

void kt_tls_end(struct kt_tls ends[2])
{
	/* Each waits for the other's close_notify. */
	for (int i = 0; i < 2; i++)
		if (ends[i].s.stream)
			kloop_stream_close(ends[i].s.stream);
	for (int i = 0; i < 2; i++)
		kt_stream_end(&ends[i].s);
}

void kt_tls_await(struct kt_tls *self)
{
	kt_turn_until(self->s.loop, &self->handshakes, 1);
}

void kt_tls_put(struct kt_tls *self, size_t bytes, size_t position)
{
	char *data = malloc(bytes + 1);

	ck_assert_ptr_nonnull(data);
	kt_fill(data, bytes, position);
	kt_stream_put(&self->s, data, bytes);
	free(data);
}

/* ---- OpenSSL as a peer -------------------------------------------------- */

static void on_message(int write_p, int version, int content_type, const void *data,
		       size_t bytes, SSL *ssl, void *user)
{
	struct kt_peer *peer = user;

	(void)version;
	(void)ssl;
	if (!write_p && content_type == SSL3_RT_HANDSHAKE && bytes > 0 &&
	    *(const unsigned char *)data == SSL3_MT_KEY_UPDATE)
		peer->updates++;
}

void kt_peer_open(struct kt_peer *peer, int fd, bool server, unsigned version)
{
	int flags = fcntl(fd, F_GETFL);

	memset(peer, 0, sizeof(*peer));
	peer->fd = fd;
	ck_assert_int_eq(fcntl(fd, F_SETFL, flags | O_NONBLOCK), 0);
	peer->ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	ck_assert_ptr_nonnull(peer->ctx);
	SSL_CTX_set_mode(peer->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE |
					    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (version) {
		SSL_CTX_set_min_proto_version(peer->ctx, (int)version);
		SSL_CTX_set_max_proto_version(peer->ctx, (int)version);
	}
	if (server) {
		ck_assert_int_eq(SSL_CTX_use_certificate(peer->ctx,
							 kt_cert_get(KT_CERT_SERVER)), 1);
		ck_assert_int_eq(SSL_CTX_use_PrivateKey(peer->ctx,
							kt_cert_get_key(KT_CERT_SERVER)), 1);
	}
	peer->ssl = SSL_new(peer->ctx);
	ck_assert_ptr_nonnull(peer->ssl);
	ck_assert_int_eq(SSL_set_fd(peer->ssl, fd), 1);
	SSL_set_msg_callback(peer->ssl, on_message);
	SSL_set_msg_callback_arg(peer->ssl, peer);
	if (server)
		SSL_set_accept_state(peer->ssl);
	else
		SSL_set_connect_state(peer->ssl);
}

void kt_peer_free(struct kt_peer *peer)
{
	SSL_free(peer->ssl);
	SSL_CTX_free(peer->ctx);
	if (peer->fd >= 0)
		kt_close(peer->fd);
	ERR_clear_error();
}

static bool note(struct kt_peer *peer, int result)
{
	int error = SSL_get_error(peer->ssl, result);

	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		return false;
	if (!peer->error) {
		peer->error = error;
		peer->reason = ERR_get_error();
	}
	return false;
}

void kt_peer_step(struct kt_peer *peer)
{
	unsigned char data[4096];
	size_t bytes;
	int result;

	ERR_clear_error();
	if (peer->error)
		return;
	result = SSL_do_handshake(peer->ssl);
	if (result <= 0) {
		note(peer, result);
		return;
	}
	for (;;) {
		result = SSL_read_ex(peer->ssl, data, sizeof(data), &bytes);
		if (result <= 0) {
			note(peer, result);
			return;
		}
		ck_assert(kt_is_fill(data, bytes, peer->received));
		peer->received += bytes;
	}
}

void kt_peer_until(struct kt_peer *peer, struct kloop_loop *loop, const int *value, int target)
{
	uint64_t limit = kloop_now() + KT_PATIENCE_MS * KT_MS;

	while (*value < target) {
		ck_assert_msg(kloop_now() < limit, "still %d of %d", *value, target);
		kt_peer_step(peer);
		kt_turn(loop, KT_MS);
	}
}

void kt_peer_await(struct kt_peer *peer, struct kloop_loop *loop, size_t bytes)
{
	uint64_t limit = kloop_now() + KT_PATIENCE_MS * KT_MS;

	while (peer->received < bytes) {
		ck_assert_msg(kloop_now() < limit, "the peer has %zu of %zu bytes",
			      peer->received, bytes);
		ck_assert_int_eq(peer->error, 0);
		kt_peer_step(peer);
		kt_turn(loop, KT_MS);
	}
}

void kt_peer_put(struct kt_peer *peer, struct kloop_loop *loop, size_t bytes, size_t position)
{
	uint64_t limit = kloop_now() + KT_PATIENCE_MS * KT_MS;
	unsigned char data[16384];
	size_t part, written;
	int result;

	while (bytes > 0) {
		part = bytes < sizeof(data) ? bytes : sizeof(data);
		kt_fill(data, part, position);
		ERR_clear_error();
		if (SSL_write_ex(peer->ssl, data, part, &written) <= 0) {
			result = SSL_get_error(peer->ssl, 0);
			ck_assert(result == SSL_ERROR_WANT_WRITE || result == SSL_ERROR_WANT_READ);
			ck_assert(kloop_now() < limit);
			kt_turn(loop, KT_MS);
			continue;
		}
		position += written;
		bytes -= written;
	}
}

/* ---- half a connection ------------------------------------------------- */

void kt_check_fill(struct kt_stream *self, enum kt_event event, const void *data, size_t bytes)
{
	if (event == KT_ON_DATA)
		ck_assert(kt_is_fill(data, bytes, self->received - bytes));
}

void kt_half_open(struct kt_half *half, enum kloop_tls_role role, int mode,
		  const struct kt_tls_setup *setup)
{
	struct kloop_tls_context *context = kt_tls_setup_context(setup, role);
	int fds[2];

	memset(half, 0, sizeof(*half));
	half->loop = kt_mode_loop(mode);
	kt_pair(KT_TCP, fds);
	half->fd = fds[0];
	kt_stream_open(&half->end.s, half->loop, fds[1], 0);
	half->end.s.then = kt_check_fill;
	kt_tls_upgrade(&half->end, context, role == KLOOP_TLS_CLIENT ? "localhost" : NULL,
		       setup->ktls);
	kloop_tls_context_unref(context);
	kt_stream_start(&half->end.s);
}

void kt_half_end(struct kt_half *half)
{
	kt_stream_abort(&half->end.s);
	kt_loop_free(half->loop);
}
