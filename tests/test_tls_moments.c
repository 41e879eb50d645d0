/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What a peer may send at a moment at which few do: behind its close_notify, in
 * the middle of a message, much faster than it reads, or before it resets the
 * connection. The kernel that encrypts is tests/lib/fakektls.h.
 */
#include "fakelink.h"
#include "tlsstream.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* More than any socket's buffers take. */
#define LARGE ((size_t)24 << 20)

/* A server that has shaken hands with a peer over TCP. */
static void open_server(struct kt_half *half, struct kt_peer *peer, const struct kt_tls_setup *setup)
{
	kt_half_open(half, KLOOP_TLS_SERVER, KT_MODE_BEST, setup);
	kt_peer_open(peer, half->fd, false, setup->version);
	kt_peer_until(peer, half->loop, &half->end.handshakes, 1);
	kt_peer_step(peer);
	ck_assert_int_eq(half->end.result, 0);
}

static void set_option(int fd, int level, int option, int value)
{
	ck_assert_int_eq(setsockopt(fd, level, option, &value, sizeof(value)), 0);
}

/* ---- the end ------------------------------------------------------------ */

/* RFC 8446, 6.1: what comes behind close_notify is ignored; the end is told all the same. */
START_TEST(more_behind_the_close)
{
	struct kt_tls_setup setup = {
		.version = _i % 2 ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3,
		.ktls = KLOOP_KTLS_OFF,
	};
	struct kt_peer peer;
	struct kt_half half;
	bool paused = _i / 2;

	open_server(&half, &peer, &setup);
	if (paused)
		kt_stream_stop(&half.end.s);
	set_option(half.fd, IPPROTO_TCP, TCP_CORK, 1);
	kt_peer_put(&peer, half.loop, 100, 0);
	ck_assert_int_ge(SSL_shutdown(peer.ssl), 0);
	kt_write_all(half.fd, "plain words again\n", 18);
	set_option(half.fd, IPPROTO_TCP, TCP_CORK, 0);
	if (paused) {
		kt_turn_for(half.loop, 20);
		kt_stream_start(&half.end.s);
	}
	kt_turn_until(half.loop, &half.end.s.count[KT_ON_EOF], 1);
	ck_assert_uint_eq(half.end.s.received, 100);
	ck_assert_int_eq(half.end.s.count[KT_ON_ERROR], 0);
	/* The other direction is open still. */
	kt_tls_put(&half.end, 1000, 0);
	kt_peer_await(&peer, half.loop, 1000);
	kt_stream_end(&half.end.s);
	kt_peer_free(&peer);
	kt_loop_free(half.loop);
}
END_TEST

/* A reset that comes while nothing is read is told as what it is, behind the data. */
START_TEST(reset_while_paused)
{
	struct kt_tls_setup setup = { .version = KLOOP_TLS_1_3, .ktls = KLOOP_KTLS_OFF };
	struct linger linger = { .l_onoff = 1 };
	struct kt_peer peer;
	struct kt_half half;

	open_server(&half, &peer, &setup);
	kt_turn_for(half.loop, 20); /* its tickets leave */
	kt_stream_stop(&half.end.s);
	if (_i) { /* is kept, for the receive is armed still */
		kt_peer_put(&peer, half.loop, 100, 0);
		kt_turn_for(half.loop, 20);
	}
	ck_assert_int_eq(setsockopt(half.fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	SSL_set_quiet_shutdown(peer.ssl, 1);
	kt_peer_free(&peer);
	kt_turn_for(half.loop, 20);
	kt_stream_start(&half.end.s);
	kt_turn_until(half.loop, &half.end.s.count[KT_ON_ERROR], 1);
	ck_assert_uint_eq(half.end.s.received, _i ? 100 : 0);
	ck_assert_msg(half.end.s.error == -ECONNRESET, "%s", kloop_error_name(half.end.s.error));
	kt_half_end(&half);
}
END_TEST

/* Why the peer gives up is told, though it is read later, when the connection has ended too. */
START_TEST(alert_before_the_end)
{
	static const unsigned char alert[2] = { 2, SSL_AD_CERTIFICATE_UNKNOWN };
	struct kt_tls_setup setup = {
		.version = KLOOP_TLS_1_2,
		.ktls = KLOOP_KTLS_OFF,
		.cipher = "ECDHE-ECDSA-AES128-GCM-SHA256",
	};
	unsigned char record[KL_TLS_HEADER_BYTES + sizeof(alert) + 32];
	struct linger linger = { .l_onoff = 1 };
	struct kl_tls_key key;
	struct kt_peer peer;
	struct kt_half half;
	ptrdiff_t bytes;

	open_server(&half, &peer, &setup);
	kt_turn_for(half.loop, 20);
	ck_assert_int_eq(kl_tls_key_derive(&key, peer.ssl, NULL, true), 0);
	key.sequence = 1;
	bytes = kl_tls_record_seal(&key, KL_TLS_ALERT, alert, sizeof(alert), record);
	ck_assert_int_gt(bytes, 0);
	kl_tls_key_wipe(&key);
	kt_stream_stop(&half.end.s);
	kt_write_all(half.fd, record, (size_t)bytes);
	kt_turn_for(half.loop, 20);
	SSL_set_quiet_shutdown(peer.ssl, 1);
	if (_i) {
		ck_assert_int_eq(
			setsockopt(half.fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
		kt_peer_free(&peer);
	} else {
		ck_assert_int_eq(shutdown(half.fd, SHUT_WR), 0);
	}
	kt_turn_for(half.loop, 20);
	kt_stream_start(&half.end.s);
	kt_turn_until(half.loop, &half.end.s.count[KT_ON_ERROR], 1);
	if (!_i)
		kt_peer_free(&peer);
	ck_assert_msg(half.end.s.error == KLOOP_ERROR_TLS_ALERT, "%s",
		      kloop_error_name(half.end.s.error));
	ck_assert_int_eq(kloop_tls_get_alert(half.end.tls), SSL_AD_CERTIFICATE_UNKNOWN);
	kt_half_end(&half);
}
END_TEST

/* ---- in the middle of a message ------------------------------------------- */

/* A ticket that takes several records, as of servers that keep a certificate in it. */
static int fill_ticket(SSL *ssl, void *user)
{
	static const unsigned char data[3000];

	(void)user;
	return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), data, sizeof(data));
}

static SSL_TICKET_RETURN use_ticket(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
				    size_t name_bytes, SSL_TICKET_STATUS status, void *user)
{
	(void)ssl;
	(void)session;
	(void)name;
	(void)name_bytes;
	(void)status;
	(void)user;
	return SSL_TICKET_RETURN_IGNORE;
}

/* At most so many bytes from one socket to the other. Returns: how many it were. */
static size_t relay(int from, int to, size_t most)
{
	char data[4096];
	size_t total = 0;
	ssize_t bytes;

	while (total < most) {
		bytes = recv(from, data, most - total < sizeof(data) ? most - total : sizeof(data),
			     MSG_DONTWAIT);
		if (bytes <= 0)
			break;
		kt_write_all(to, data, (size_t)bytes);
		total += (size_t)bytes;
	}
	return total;
}

/* A client writes, closes or renews while a part of a ticket is there: all of it waits or goes. */
START_TEST(half_a_ticket)
{
	struct kt_tls_setup setup = { .version = KLOOP_TLS_1_3, .ktls = KLOOP_KTLS_OFF };
	uint64_t limit = kloop_now() + KT_PATIENCE_MS * KT_MS;
	struct kt_peer peer;
	struct kt_half half;
	int fds[2];

	kt_half_open(&half, KLOOP_TLS_CLIENT, KT_MODE_BEST, &setup);
	set_option(half.fd, IPPROTO_TCP, TCP_NODELAY, 1);
	kt_pair(KT_LOCAL, fds);
	kt_peer_open(&peer, fds[0], true, setup.version);
	SSL_CTX_set_session_ticket_cb(peer.ctx, fill_ticket, use_ticket, NULL);
	SSL_set_max_send_fragment(peer.ssl, 512);
	while (half.end.handshakes == 0) {
		ck_assert(kloop_now() < limit);
		kt_peer_step(&peer);
		relay(fds[1], half.fd, SIZE_MAX);
		kt_turn(half.loop, KT_MS);
		relay(half.fd, fds[1], SIZE_MAX);
	}
	ck_assert_int_eq(half.end.result, 0);
	/* The last flight of the client, and the tickets that follow it. */
	while (!SSL_is_init_finished(peer.ssl)) {
		ck_assert(kloop_now() < limit);
		kt_turn(half.loop, KT_MS);
		relay(half.fd, fds[1], SIZE_MAX);
		kt_peer_step(&peer);
	}
	ck_assert_uint_eq(relay(fds[1], half.fd, 1300), 1300);
	kt_turn_for(half.loop, 20);
	if (_i % 2)
		kt_stream_stop(&half.end.s);
	kt_tls_put(&half.end, 5000, 0);
	if (_i / 2)
		kloop_stream_close(half.end.s.stream);
	kt_turn_for(half.loop, 20);
	ck_assert_int_eq(half.end.s.count[KT_ON_ERROR], 0);
	kt_peer_put(&peer, half.loop, 700, 0);
	while (peer.received < 5000 || (_i / 2 == 0 && _i % 2 == 0 && half.end.s.received < 700)) {
		ck_assert_msg(kloop_now() < limit, "%zu, %zu, %d", peer.received,
			      half.end.s.received, half.end.s.error);
		relay(fds[1], half.fd, SIZE_MAX);
		kt_turn(half.loop, KT_MS);
		relay(half.fd, fds[1], SIZE_MAX);
		kt_peer_step(&peer);
	}
	ck_assert_int_eq(half.end.s.count[KT_ON_ERROR], 0);
	kt_peer_free(&peer);
	kt_close(fds[1]);
	kt_close(half.fd);
	kt_half_end(&half);
}
END_TEST

/* A server asks who its client is, by OpenSSL's own call: the question goes before what it writes. */
START_TEST(who_are_you)
{
	struct kt_tls_setup setup = {
		.version = KLOOP_TLS_1_3,
		.ktls = _i % 2 ? KLOOP_KTLS_ON : KLOOP_KTLS_OFF,
	};
	const bool closes = _i & 2, while_sending = _i & 4;
	const size_t bytes = while_sending ? LARGE : 1000;
	struct kt_peer peer;
	struct kt_half half;
	SSL *ssl;

	kt_ktls_install(&kt_linux_6_14);
	kt_half_open(&half, KLOOP_TLS_SERVER, KT_MODE_BEST, &setup);
	kt_peer_open(&peer, half.fd, false, setup.version);
	SSL_set_post_handshake_auth(peer.ssl, 1);
	kt_peer_until(&peer, half.loop, &half.end.handshakes, 1);
	kt_peer_step(&peer);
	ck_assert_int_eq(half.end.result, 0);
	ssl = kloop_tls_get_ssl(half.end.tls);
	SSL_set_verify(ssl, SSL_VERIFY_PEER, NULL);
	kt_tls_put(&half.end, bytes, 0);
	if (while_sending) {
		kt_turn_for(half.loop, 20);
		ck_assert_uint_gt(kloop_stream_get_write_bytes(half.end.s.stream), 0);
	}
	ck_assert_int_eq(SSL_verify_client_post_handshake(ssl), 1);
	if (closes)
		kloop_stream_close(half.end.s.stream);
	kt_peer_await(&peer, half.loop, bytes);
	if (closes) {
		kt_peer_until(&peer, half.loop, &peer.error, SSL_ERROR_ZERO_RETURN);
		ck_assert_int_eq(peer.error, SSL_ERROR_ZERO_RETURN);
	} else {
		kt_peer_put(&peer, half.loop, 100, 0);
		kt_stream_await(&half.end.s, 100);
		kt_tls_put(&half.end, 1000, bytes);
		kt_peer_await(&peer, half.loop, bytes + 1000);
		/* It was asked, and answered before it wrote again. */
		kt_peer_put(&peer, half.loop, 100, 100);
		kt_stream_await(&half.end.s, 200);
		ck_assert_int_eq(SSL_verify_client_post_handshake(ssl), 1);
	}
	ck_assert_int_eq(half.end.s.count[KT_ON_ERROR], 0);
	kt_peer_free(&peer);
	kt_half_end(&half);
	kt_ktls_remove();
}
END_TEST

/* ---- more than is read ------------------------------------------------------ */

/* The peer asks for new keys again while the answer to the first time cannot leave. */
START_TEST(keys_asked_for_twice)
{
	struct kt_tls_setup setup = {
		.version = KLOOP_TLS_1_3,
		.ktls = _i ? KLOOP_KTLS_ON : KLOOP_KTLS_OFF,
	};
	struct kt_peer peer;
	struct kt_half half;

	kt_ktls_install(&kt_linux_6_14);
	open_server(&half, &peer, &setup);
	kt_peer_put(&peer, half.loop, 100, 0);
	kt_stream_await(&half.end.s, 100);
	kt_tls_put(&half.end, LARGE, 0);
	kt_turn_for(half.loop, 20);
	ck_assert_uint_gt(kloop_stream_get_write_bytes(half.end.s.stream), 0);
	for (size_t round = 1; round < 8; round++) {
		ck_assert_int_eq(SSL_key_update(peer.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
		kt_peer_put(&peer, half.loop, 100, round * 100);
		kt_stream_await(&half.end.s, (round + 1) * 100);
	}
	ck_assert_uint_gt(kloop_stream_get_write_bytes(half.end.s.stream), 0);
	kt_peer_await(&peer, half.loop, LARGE);
	kt_tls_put(&half.end, 1000, LARGE);
	kt_peer_await(&peer, half.loop, LARGE + 1000);
	ck_assert_int_ge(peer.updates, 1);
	ck_assert_int_eq(half.end.s.count[KT_ON_ERROR], 0);
	kt_peer_free(&peer);
	kt_half_end(&half);
	kt_ktls_remove();
}
END_TEST

/* TLS 1.2: each of these is answered by an alert, which a peer that reads nothing lets pile up. */
START_TEST(hellos_without_end)
{
	static const unsigned char hello[4] = { 1 };
	struct kt_tls_setup setup = {
		.version = KLOOP_TLS_1_2,
		.ktls = _i ? KLOOP_KTLS_ON : KLOOP_KTLS_OFF,
		.cipher = "ECDHE-ECDSA-AES128-GCM-SHA256",
	};
	struct kl_tls_key key;
	unsigned char record[KL_TLS_HEADER_BYTES + sizeof(hello) + 32];
	struct kt_peer peer;
	struct kt_half half;
	uint64_t limit;
	ptrdiff_t bytes;
	unsigned sent = 0;

	kt_ktls_install(&kt_linux_6_14);
	open_server(&half, &peer, &setup);
	kt_tls_put(&half.end, LARGE, 0); /* behind which nothing leaves */
	kt_turn_for(half.loop, 20);
	ck_assert_int_eq(kl_tls_key_derive(&key, peer.ssl, NULL, true), 0);
	key.sequence = 1;
	/* Until the answers are more than waits for anybody. */
	limit = kloop_now() + KT_PATIENCE_MS * KT_MS;
	while (half.end.s.count[KT_ON_ERROR] == 0) {
		bytes = kl_tls_record_seal(&key, KL_TLS_HANDSHAKE, hello, sizeof(hello), record);
		ck_assert_int_gt(bytes, 0);
		for (ptrdiff_t at = 0; at < bytes && half.end.s.count[KT_ON_ERROR] == 0;) {
			ssize_t r = send(half.fd, record + at, (size_t)(bytes - at),
					 MSG_DONTWAIT | MSG_NOSIGNAL);

			if (r > 0)
				at += r;
			else
				kt_turn(half.loop, KT_MS);
			ck_assert_msg(kloop_now() < limit, "after %u hellos", sent);
		}
		/* The kernel's are taken one by one, in several turns each. */
		for (int turns = _i ? 4 : sent % 64 == 0; turns > 0; turns--)
			kt_turn(half.loop, 0);
		sent++;
	}
	ck_assert_int_eq(half.end.s.error, KLOOP_ERROR_TLS_PROTOCOL);
	/* OpenSSL has nothing against any of them. */
	ck_assert_uint_eq(kloop_tls_get_openssl_error(half.end.tls), 0);
	kl_tls_key_wipe(&key);
	kt_peer_free(&peer);
	kt_half_end(&half);
	kt_ktls_remove();
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("tls_moments");
	TCase *end = kt_case(suite, "end", 60);
	TCase *middle = kt_case(suite, "middle", 60);
	TCase *more = kt_case(suite, "more", 120);

	tcase_add_loop_test(end, more_behind_the_close, 0, 4);
	tcase_add_loop_test(end, reset_while_paused, 0, 2);
	tcase_add_loop_test(end, alert_before_the_end, 0, 2);
	tcase_add_loop_test(middle, half_a_ticket, 0, 4);
	tcase_add_loop_test(middle, who_are_you, 0, 8);
	tcase_add_loop_test(more, keys_asked_for_twice, 0, 2);
	tcase_add_loop_test(more, hellos_without_end, 0, 2);
	return suite;
}

int main(void)
{
	return kt_main(make_suite());
}
