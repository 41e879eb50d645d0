/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Streams with TLS against peers that do the unusual: OpenSSL by hand, and worse. */
#include "fault.h"
#include "tlsstream.h"
#ifdef KT_FAKE_KTLS
#include "fakelink.h"
#endif

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- handshakes that fail ---------------------------------------------- */

static const char *const garbage[] = {
	"GET / HTTP/1.0\r\n\r\n",
	"\x16\x03\x01\xff\xff\x01",             /* a record beyond any limit */
	"\x16\x03\x01\x00\x04\x01\x00\x00\x00x", /* a hello without content */
	"\x15\x03\x01\x00\x02\x02\x28",          /* an alert at once */
	"\x17\x03\x03\x00\x03xyz",               /* data before keys */
	"\xff\xff\xff\xff\xff\xff\xff\xff",
};

START_TEST(not_tls)
{
	enum kloop_tls_role role = _i % 2 ? KLOOP_TLS_CLIENT : KLOOP_TLS_SERVER;
	struct kt_tls_setup setup = { .ktls = KLOOP_KTLS_AUTO };
	struct kt_half half;
	const char *text = garbage[_i / 2];
	size_t bytes = _i / 2 == 2 ? 10 : _i / 2 == 3 ? 7 : _i / 2 == 4 ? 8 : strlen(text);

	kt_half_open(&half, role, KT_MODE_BEST, &setup);
	kt_write_all(half.fd, text, bytes);
	shutdown(half.fd, SHUT_WR);
	kt_tls_await(&half.end);
	ck_assert_msg(half.end.result == KLOOP_ERROR_TLS_PROTOCOL ||
			      half.end.result == KLOOP_ERROR_TLS_ALERT ||
			      half.end.result == KLOOP_ERROR_TLS_TRUNCATED,
		      "%s", kloop_error_name(half.end.result));
	if (_i == 7) {
		ck_assert_int_eq(half.end.result, KLOOP_ERROR_TLS_ALERT);
		ck_assert_int_eq(kloop_tls_get_alert(half.end.tls), 40);
	}
	if (_i / 2 == 0)
		ck_assert_ptr_nonnull(strstr(kloop_tls_get_error_text(half.end.tls), ": "));
	ck_assert_int_eq(kloop_stream_write(half.end.s.stream, "x", 1, NULL, NULL), -ESTALE);
	ck_assert_int_eq(half.end.s.count[KT_ON_ERROR], 0);
	kt_close(half.fd);
	kt_half_end(&half);
}
END_TEST

/* Every byte of a true hello, changed: an error or a handshake that waits, never worse. */
START_TEST(broken_hello)
{
	struct kt_tls_setup setup = { .ktls = KLOOP_KTLS_AUTO };
	unsigned char hello[2048];
	struct kt_peer peer;
	struct kt_half half;
	ssize_t bytes;
	int fds[2];

	kt_pair(KT_LOCAL, fds);
	kt_peer_open(&peer, fds[0], false, 0);
	kt_peer_step(&peer);
	bytes = recv(fds[1], hello, sizeof(hello), 0);
	ck_assert_int_gt(bytes, 100);
	kt_peer_free(&peer);
	kt_close(fds[1]);
	for (ssize_t i = _i; i < bytes; i += 8) {
		hello[i] ^= 0x55;
		kt_half_open(&half, KLOOP_TLS_SERVER, KT_MODE_BEST, &setup);
		kt_write_all(half.fd, hello, (size_t)bytes);
		shutdown(half.fd, SHUT_WR);
		kt_tls_await(&half.end);
		ck_assert_int_lt(half.end.result, 0);
		hello[i] ^= 0x55;
		kt_close(half.fd);
		kt_half_end(&half);
	}
}
END_TEST

START_TEST(time_out)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = { .ktls = KLOOP_KTLS_AUTO };
	struct kloop_tls_context *context = kt_tls_setup_context(&setup, KLOOP_TLS_CLIENT);
	struct kt_stream stream;
	struct kloop_tls *tls;
	int fds[2];

	kt_pair(KT_TCP, fds);
	kt_stream_open(&stream, loop, fds[1], 0);
	ck_assert_int_eq(kloop_tls_new(context, &tls), 0);
	ck_assert_int_eq(kloop_tls_set_name(tls, "localhost"), 0);
	ck_assert_int_eq(kloop_tls_set_timeouts(tls, 30 * KT_MS, KLOOP_FOREVER), 0);
	/* Without a function of its own the failure is told by on_error. */
	ck_assert_int_eq(kloop_tls_start(tls, stream.stream, NULL), 0);
	ck_assert_int_eq(kloop_tls_set_timeouts(tls, 0, 0), -EINVAL);
	kt_turn_until(loop, &stream.count[KT_ON_ERROR], 1);
	ck_assert_int_eq(stream.error, -ETIMEDOUT);
	kloop_tls_context_unref(context);
	kt_stream_end(&stream);
	kt_close(fds[0]);
	kt_loop_free(loop);
}
END_TEST

START_TEST(peer_leaves)
{
	struct kt_tls_setup setup = { .ktls = KLOOP_KTLS_AUTO };
	struct kt_half half;

	kt_half_open(&half, _i % 2 ? KLOOP_TLS_CLIENT : KLOOP_TLS_SERVER, KT_MODE_BEST, &setup);
	kt_close(half.fd);
	kt_tls_await(&half.end);
	ck_assert(half.end.result == KLOOP_ERROR_TLS_TRUNCATED || half.end.result == -ECONNRESET);
	kt_half_end(&half);
}
END_TEST

/* A certificate that must not be accepted: the client says why, the server hears an alert. */
START_TEST(bad_certificate)
{
	static const struct {
		enum kt_cert certificate;
		long verify;
		int alert; /* RFC 8446, 6.2 */
	} bad[] = {
		{ KT_CERT_EXPIRED, X509_V_ERR_CERT_HAS_EXPIRED, 45 },
		{ KT_CERT_OTHER_NAME, X509_V_ERR_HOSTNAME_MISMATCH, 42 },
		{ KT_CERT_SELF_SIGNED, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, 48 },
		{ KT_CERT_UNTRUSTED, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, 48 },
		{ KT_CERT_FUTURE, X509_V_ERR_CERT_NOT_YET_VALID, 42 },
	};
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = {
		.kind = KT_TCP,
		.server = bad[_i / 2].certificate,
		.version = _i % 2 ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3,
	};
	struct kt_tls ends[2];

	kt_tls_open(ends, loop, &setup);
	kt_tls_await(&ends[0]);
	ck_assert_int_eq(ends[0].result, KLOOP_ERROR_TLS_VERIFY);
	ck_assert_int_eq(kloop_tls_get_verify_result(ends[0].tls), bad[_i / 2].verify);
	kt_tls_await(&ends[1]);
	/* TLS 1.3: a server may be done before it hears of it. */
	if (ends[1].result == 0)
		kt_turn_until(loop, &ends[1].s.count[KT_ON_ERROR], 1);
	ck_assert_int_eq(ends[1].result ? ends[1].result : ends[1].s.error,
			 KLOOP_ERROR_TLS_ALERT);
	ck_assert_int_eq(kloop_tls_get_alert(ends[1].tls), bad[_i / 2].alert);
	kt_tls_end(ends);
	kt_loop_free(loop);
}
END_TEST
#define BAD_CERTIFICATES 10

/* ---- data from a difficult peer ---------------------------------------- */

/* Everything in pieces of one byte: records are put together as they come. */
START_TEST(single_bytes)
{
	struct kt_tls_setup setup = {
		.version = _i % 2 ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3,
		.ktls = _i / 2 ? KLOOP_KTLS_ON : KLOOP_KTLS_OFF,
	};
	struct kt_half half;
	struct kt_peer peer;
	unsigned char byte, back[1024];
	bool put = false;
	ssize_t bytes;
	int fds[2];
	uint64_t limit = kloop_now() + KT_PATIENCE_MS * KT_MS;

	kt_half_open(&half, KLOOP_TLS_SERVER, KT_MODE_BEST, &setup);
	ck_assert_int_eq(setsockopt(half.fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)),
			 0);
	kt_pair(KT_LOCAL, fds);
	kt_peer_open(&peer, fds[0], false, setup.version);
	while (half.end.s.received < 700) {
		ck_assert(kloop_now() < limit);
		kt_peer_step(&peer);
		if (SSL_is_init_finished(peer.ssl) && half.end.handshakes == 1 && !put) {
			kt_peer_put(&peer, half.loop, 700, 0);
			put = true;
		}
		while (recv(fds[1], &byte, 1, MSG_DONTWAIT) == 1) {
			ck_assert_int_eq(send(half.fd, &byte, 1, 0), 1);
			kt_turn(half.loop, 0);
		}
		kt_turn(half.loop, KT_MS);
		while ((bytes = recv(half.fd, back, sizeof(back), MSG_DONTWAIT)) > 0)
			ck_assert_int_eq(send(fds[1], back, (size_t)bytes, 0), bytes);
	}
	ck_assert_int_eq(half.end.result, 0);
	kt_peer_free(&peer);
	kt_close(fds[1]);
	kt_close(half.fd);
	kt_half_end(&half);
}
END_TEST

/* A record that was changed on the way: an end with an alert, whoever decrypts. */
START_TEST(forged_record)
{
	struct kt_tls_setup setup = {
		.version = _i % 2 ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3,
		.ktls = _i / 2 ? KLOOP_KTLS_ON : KLOOP_KTLS_OFF,
	};
	unsigned char record[60] = "\x17\x03\x03\x00\x37";
	struct kt_peer peer;
	struct kt_half half;

	kt_half_open(&half, KLOOP_TLS_SERVER, KT_MODE_BEST, &setup);
	kt_peer_open(&peer, half.fd, false, setup.version);
	kt_peer_until(&peer, half.loop, &half.end.handshakes, 1);
	kt_peer_step(&peer);
	kt_peer_put(&peer, half.loop, 100, 0);
	ck_assert_int_eq(send(half.fd, record, sizeof(record), 0), sizeof(record));
	kt_turn_until(half.loop, &half.end.s.count[KT_ON_ERROR], 1);
	ck_assert_uint_eq(half.end.s.received, 100);
	ck_assert_int_eq(half.end.s.error, KLOOP_ERROR_TLS_PROTOCOL);
	/* The kernel decrypts and has no alert to send; OpenSSL has. */
	if (setup.ktls == KLOOP_KTLS_OFF) {
		kt_peer_until(&peer, half.loop, &peer.error, 1);
		ck_assert_int_eq(peer.error, SSL_ERROR_SSL);
		ck_assert_int_eq(ERR_GET_REASON(peer.reason), SSL_R_SSLV3_ALERT_BAD_RECORD_MAC);
	}
	kt_peer_free(&peer);
	kt_half_end(&half);
}
END_TEST

/* A fatal alert in the middle of data. */
START_TEST(alert_midway)
{
	struct kt_tls_setup setup = {
		.version = _i % 2 ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3,
		.ktls = _i / 2 ? KLOOP_KTLS_ON : KLOOP_KTLS_OFF,
	};
	unsigned char record[60] = "\x17\x03\x03\x00\x37";
	struct kt_peer peer;
	struct kt_half half;

	kt_half_open(&half, KLOOP_TLS_SERVER, KT_MODE_BEST, &setup);
	kt_peer_open(&peer, half.fd, false, setup.version);
	kt_peer_until(&peer, half.loop, &half.end.handshakes, 1);
	kt_peer_step(&peer);
	kt_peer_put(&peer, half.loop, 5000, 0);
	kt_stream_await(&half.end.s, 5000);
	/* Something unreadable for the peer has it send one: written past the library. */
	if (kloop_tls_get_ktls(half.end.tls, KLOOP_TLS_SEND) == 1) {
		kt_peer_free(&peer);
		kt_half_end(&half);
		return; /* the kernel would seal it; the forged record above covers this end */
	}
	ck_assert_int_eq(send(kloop_stream_get_fd(half.end.s.stream), record, sizeof(record), 0),
			 sizeof(record));
	kt_peer_until(&peer, half.loop, &half.end.s.count[KT_ON_ERROR], 1);
	ck_assert_int_eq(half.end.s.error, KLOOP_ERROR_TLS_ALERT);
	ck_assert_int_eq(kloop_tls_get_alert(half.end.tls), 20);
	kt_peer_free(&peer);
	kt_half_end(&half);
}
END_TEST

/* TLS 1.2: a client that wants to renegotiate is refused, and the connection goes on. */
START_TEST(renegotiation)
{
	struct kt_tls_setup setup = {
		.version = KLOOP_TLS_1_2,
		.ktls = _i ? KLOOP_KTLS_ON : KLOOP_KTLS_OFF,
	};
	struct kt_peer peer;
	struct kt_half half;

	kt_half_open(&half, KLOOP_TLS_SERVER, KT_MODE_BEST, &setup);
	kt_peer_open(&peer, half.fd, false, setup.version);
	kt_peer_until(&peer, half.loop, &half.end.handshakes, 1);
	kt_peer_step(&peer);
	kt_peer_put(&peer, half.loop, 5000, 0);
	kt_stream_await(&half.end.s, 5000);
	ck_assert_int_eq(SSL_renegotiate(peer.ssl), 1);
	kt_peer_until(&peer, half.loop, &peer.error, 1);
	/* OpenSSL's client takes the refusal as an end of its own. */
	ck_assert_int_eq(peer.error, SSL_ERROR_SSL);
	ck_assert_int_eq(ERR_GET_REASON(peer.reason), SSL_R_NO_RENEGOTIATION);
	ck_assert_int_eq(half.end.handshakes, 1);
	kt_peer_free(&peer);
	kt_half_end(&half);
}
END_TEST

/* ---- KeyUpdate ----------------------------------------------------------- */

/* May keys be renewed where a direction is in the kernel? Told by a session that is. */
static bool cannot_renew(const struct kt_tls *end)
{
	return kloop_tls_get_ktls(end->tls, KLOOP_TLS_SEND) == 1 &&
	       !kt_can_rekey();
}

/* The peer renews its keys, and may ask for ours, again and again. */
START_TEST(peer_updates)
{
	static const char *const ciphers[] = {
		"TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256",
	};
	struct kt_tls_setup setup = {
		.version = KLOOP_TLS_1_3,
		.cipher = ciphers[_i / 4],
		.ktls = _i / 2 % 2 ? KLOOP_KTLS_ON : KLOOP_KTLS_OFF,
	};
	struct kt_peer peer;
	struct kt_half half;
	size_t sent = 0, written = 0;
	bool ends;

	kt_half_open(&half, KLOOP_TLS_SERVER, KT_MODE_BEST, &setup);
	kt_peer_open(&peer, half.fd, false, setup.version);
	kt_peer_until(&peer, half.loop, &half.end.handshakes, 1);
	kt_peer_step(&peer);
	kt_peer_put(&peer, half.loop, 1000, 0);
	sent += 1000;
	kt_stream_await(&half.end.s, sent);
	kt_tls_put(&half.end, 1000, 0);
	written += 1000;
	kt_peer_await(&peer, half.loop, written);
	ck_assert_str_eq(kloop_tls_get_cipher(half.end.tls), setup.cipher);
	ends = cannot_renew(&half.end);
	for (int round = 0; round < 5; round++) {
		ck_assert_int_eq(SSL_key_update(peer.ssl, _i % 2 ? SSL_KEY_UPDATE_REQUESTED
								 : SSL_KEY_UPDATE_NOT_REQUESTED),
				 1);
		kt_peer_put(&peer, half.loop, 20000, sent);
		sent += 20000;
		if (ends)
			break;
		kt_stream_await(&half.end.s, sent);
		kt_tls_put(&half.end, 20000, written);
		written += 20000;
		kt_peer_await(&peer, half.loop, written);
	}
	if (ends) {
		/* A clear error and a close_notify; never wrong keys. */
		kt_turn_until(half.loop, &half.end.s.count[KT_ON_ERROR], 1);
		ck_assert_int_eq(half.end.s.error, KLOOP_ERROR_TLS_KEY_UPDATE);
		kt_peer_until(&peer, half.loop, &peer.error, 1);
		ck_assert_int_eq(peer.error, SSL_ERROR_ZERO_RETURN);
	} else {
		ck_assert_int_eq(half.end.s.count[KT_ON_ERROR], 0);
		ck_assert_int_eq(peer.updates, _i % 2 ? 5 : 0);
	}
	if (getenv("KLOOP_TEST_VM"))
		printf("# KeyUpdate of the peer, %s, %s, receive in the %s: %s\n", setup.cipher,
		       _i % 2 ? "requested" : "not requested",
		       kloop_tls_get_ktls(half.end.tls, KLOOP_TLS_RECEIVE) == 1 ? "kernel" : "library",
		       ends ? kloop_strerror(half.end.s.error) : "5 renewals");
	kt_peer_free(&peer);
	kt_half_end(&half);
}
END_TEST

/* Our own renewal, with data on the way in both directions. */
START_TEST(own_update)
{
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	struct kt_tls_setup setup = {
		.kind = KT_TCP,
		.version = KLOOP_TLS_1_3,
		.ktls = _i / KT_MODES / 2 ? KLOOP_KTLS_ON : KLOOP_KTLS_OFF,
	};
	bool request = _i / KT_MODES % 2;
	struct kt_tls ends[2];
	size_t sent = 0;

	kt_tls_connect(ends, loop, &setup);
	ends[0].s.then = ends[1].s.then = kt_check_fill;
	for (int round = 0; round < 6; round++) {
		for (int i = 0; i < 2; i++)
			kt_tls_put(&ends[i], 50000, sent);
		sent += 50000;
		for (int i = 0; i < 2; i++)
			kt_stream_await(&ends[i].s, sent);
		if (cannot_renew(&ends[round % 2])) {
			ck_assert_int_eq(kloop_tls_update_keys(ends[round % 2].tls, request),
					 -EOPNOTSUPP);
			continue;
		}
		for (int i = 0; i < 2; i++)
			kt_tls_put(&ends[i], 40000, sent);
		ck_assert_int_eq(kloop_tls_update_keys(ends[round % 2].tls, request), 0);
		for (int i = 0; i < 2; i++)
			kt_tls_put(&ends[i], 40000, sent + 40000);
		sent += 80000;
		for (int i = 0; i < 2; i++)
			kt_stream_await(&ends[i].s, sent);
	}
	kt_tls_end(ends);
	ck_assert_int_eq(ends[0].s.count[KT_ON_ERROR] + ends[1].s.count[KT_ON_ERROR], 0);
	kt_loop_free(loop);
}
END_TEST

START_TEST(update_misuse)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = { .kind = KT_TCP, .version = KLOOP_TLS_1_2 };
	struct kt_tls ends[2];

	ck_assert_int_eq(kloop_tls_update_keys(NULL, false), -EINVAL);
	kt_tls_open(ends, loop, &setup);
	ck_assert_int_eq(kloop_tls_update_keys(ends[0].tls, false), -ENOTCONN);
	kt_tls_await(&ends[0]);
	kt_tls_await(&ends[1]);
	ck_assert_int_eq(kloop_tls_update_keys(ends[0].tls, false), -EOPNOTSUPP);
	kloop_stream_close(ends[0].s.stream);
	ck_assert_int_eq(kloop_tls_update_keys(ends[0].tls, false), -ESTALE);
	kt_tls_end(ends);
	kt_loop_free(loop);
}
END_TEST

/* ---- resumption ----------------------------------------------------------- */

START_TEST(resumption)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = {
		.kind = KT_TCP,
		.version = _i % 2 ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3,
		.ktls = _i / 2 ? KLOOP_KTLS_ON : KLOOP_KTLS_OFF,
	};
	struct kloop_tls_context *contexts[2] = {
		kt_tls_setup_context(&setup, KLOOP_TLS_CLIENT),
		kt_tls_setup_context(&setup, KLOOP_TLS_SERVER),
	};
	struct kloop_tls_ticket *ticket = NULL;
	struct kt_tls ends[2];
	int fds[2];

	for (int round = 0; round < 3; round++) {
		kt_pair(KT_TCP, fds);
		memset(ends, 0, sizeof(ends));
		for (int i = 0; i < 2; i++) {
			kt_stream_open(&ends[i].s, loop, fds[i], 0);
			ends[i].s.then = kt_check_fill;
			ck_assert_int_eq(kloop_tls_new(contexts[i], &ends[i].tls), 0);
			ck_assert_int_eq(kloop_tls_set_ktls(ends[i].tls,
							    (enum kloop_ktls_mode)setup.ktls), 0);
		}
		ck_assert_int_eq(kloop_tls_set_name(ends[0].tls, "localhost"), 0);
		if (ticket)
			ck_assert_int_eq(kloop_tls_set_ticket(ends[0].tls, ticket), 0);
		for (int i = 0; i < 2; i++) {
			ck_assert_int_eq(kloop_tls_start(ends[i].tls, ends[i].s.stream, NULL), 0);
			kt_stream_start(&ends[i].s);
			kt_tls_put(&ends[i], 3000, 0);
		}
		for (int i = 0; i < 2; i++) {
			kt_stream_await(&ends[i].s, 3000);
			ck_assert_int_eq(kloop_tls_is_resumed(ends[i].tls), round > 0);
		}
		kloop_tls_ticket_free(ticket);
		ck_assert_int_eq(kloop_tls_get_ticket(ends[0].tls, &ticket), 0);
		kt_tls_end(ends);
	}
	kloop_tls_ticket_free(ticket);
	for (int i = 0; i < 2; i++)
		kloop_tls_context_unref(contexts[i]);
	kt_loop_free(loop);
}
END_TEST

/* ---- memory ---------------------------------------------------------------- */

static bool try_once(struct kloop_tls_context *contexts[2], int ktls)
{
	struct kloop_loop *loop = NULL;
	struct kloop_stream *streams[2] = { NULL, NULL };
	struct kt_stream records[2];
	struct kloop_tls *tls;
	bool good = false;
	int fds[2], r = 0;

	kt_fault_pause();
	kt_pair(KT_TCP, fds);
	loop = kt_loop_new(NULL);
	kt_fault_resume();
	memset(records, 0, sizeof(records));
	for (int i = 0; i < 2 && r == 0; i++) {
		records[i].reading = true;
		r = kloop_stream_new(loop, fds[i], KLOOP_STREAM_KEEP_FD, &kt_stream_handlers,
				     &records[i], &streams[i]);
		if (r == 0)
			r = kloop_tls_new(contexts[i], &tls);
		if (r < 0)
			break;
		if (i == 0)
			r = kloop_tls_set_name(tls, "localhost");
		if (r == 0)
			r = kloop_tls_set_ktls(tls, (enum kloop_ktls_mode)ktls);
		if (r == 0)
			r = kloop_tls_start(tls, streams[i], NULL);
		if (r < 0)
			kloop_tls_free(tls);
		if (r == 0)
			r = kloop_stream_start_read(streams[i]);
		if (r == 0)
			r = kloop_stream_write(streams[i], "hello", 5, NULL, NULL);
	}
	for (int i = 0; i < 200 && r == 0 && !good; i++) {
		kt_turn(loop, 5 * KT_MS);
		good = records[0].received == 5 && records[1].received == 5;
		if (records[0].error || records[1].error)
			break;
	}
	kt_fault_pause();
	kt_loop_free(loop);
	kt_fault_resume();
	kt_close(fds[0]);
	kt_close(fds[1]);
	return good;
}

/* Each allocation fails once: a clear end, nothing lost, nothing leaked. */
START_TEST(no_memory)
{
	struct kt_tls_setup setup = { .kind = KT_TCP };
	struct kloop_tls_context *contexts[2];
	size_t countdown, failed = 0, blocks;

	kt_fault_install();
	contexts[0] = kt_tls_setup_context(&setup, KLOOP_TLS_CLIENT);
	contexts[1] = kt_tls_setup_context(&setup, KLOOP_TLS_SERVER);
	ck_assert(try_once(contexts, KLOOP_KTLS_ON));
	blocks = kt_fault_blocks();
	for (countdown = 1;; countdown++) {
		kt_fault_arm(countdown, 1);
		if (!try_once(contexts, KLOOP_KTLS_ON))
			failed++;
		ck_assert_uint_eq(kt_fault_blocks(), blocks);
		if (kt_fault_hits() == 0)
			break;
	}
	ck_assert_uint_gt(countdown, 10);
	ck_assert_uint_gt(failed, 3);
	kt_fault_arm(0, 0);
	kloop_tls_context_unref(contexts[0]);
	kloop_tls_context_unref(contexts[1]);
	kt_fault_remove();
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("tls_peer");
	TCase *handshake = kt_case(suite, "handshake", 60);
	TCase *data = kt_case(suite, "data", 60);
	TCase *update = kt_case(suite, "update", 60);
	TCase *memory = kt_case(suite, "memory", 120);

	tcase_add_loop_test(handshake, not_tls, 0, 2 * (int)KT_COUNT(garbage));
	tcase_add_loop_test(handshake, broken_hello, 0, 8);
	tcase_add_test(handshake, time_out);
	tcase_add_loop_test(handshake, peer_leaves, 0, 2);
	tcase_add_loop_test(handshake, bad_certificate, 0, BAD_CERTIFICATES);
	tcase_add_loop_test(data, single_bytes, 0, 4);
	tcase_add_loop_test(data, forged_record, 0, 4);
	tcase_add_loop_test(data, alert_midway, 0, 4);
	tcase_add_loop_test(data, renegotiation, 0, 2);
	tcase_add_loop_test(update, peer_updates, 0, 12);
	tcase_add_loop_test(update, own_update, 0, KT_MODES * 4);
	tcase_add_test(update, update_misuse);
	tcase_add_loop_test(update, resumption, 0, 4);
	tcase_add_test(memory, no_memory);
	return suite;
}

int main(void)
{
#ifdef KT_FAKE_KTLS
	kt_ktls_install(KT_FAKE_KTLS > 1 ? &kt_linux_6_14 : &kt_linux_6_1);
	kt_assume_ktls();
#endif
	return kt_main(make_suite());
}
