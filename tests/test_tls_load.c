/* SPDX-License-Identifier: MulanPSL-2.0 */
/* TLS in quantity: every cipher, many connections at once, large files, peers that vanish. */
#include "tlsstream.h"
#ifdef KT_FAKE_KTLS
#include "fakelink.h"
#endif
#include "net/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* Once, where the kernel is real; but each byte is dear there. */
#define FILE_BYTES ((size_t)100 << 20)
#define FILE_BYTES_SMALL ((size_t)5 << 20)
#define BURST_BYTES 3000000

static void check_fill(struct kt_stream *self, enum kt_event event, const void *data, size_t bytes)
{
	if (event == KT_ON_DATA)
		ck_assert(kt_is_fill(data, bytes, self->received - bytes));
}

/* ---- ciphers -------------------------------------------------------------- */

/* For the virtual machine's report: who encrypts, or why the kernel does not. */
static const char *who(struct kloop_tls *tls, enum kloop_tls_direction direction)
{
	int r = kloop_tls_get_ktls(tls, direction);

	return r == 1 ? "kernel" : kloop_strerror(r);
}

/*
 * Our own KeyUpdate, answered by another, behind 200,000 bytes each way: it
 * works, or it is refused and the connection goes on with the old keys.
 */
static int renew(struct kt_tls ends[2])
{
	bool refused = kloop_tls_get_ktls(ends[0].tls, KLOOP_TLS_SEND) == 1 && !kt_can_rekey();
	int r = kloop_tls_update_keys(ends[0].tls, true);

	ck_assert_int_eq(r, refused ? -EOPNOTSUPP : 0);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 2; i++)
			kt_tls_put(&ends[i], 50000, 200000 + 50000 * (size_t)round);
		for (int i = 0; i < 2; i++)
			kt_stream_await(&ends[i].s, 250000 + 50000 * (size_t)round);
	}
	return r;
}

/* Every cipher that the kernel may know, and two that it does not. */
START_TEST(every_cipher)
{
	static const struct {
		unsigned version;
		const char *name;
		bool kernel;
	} ciphers[] = {
		{ KLOOP_TLS_1_3, "TLS_AES_128_GCM_SHA256", true },
		{ KLOOP_TLS_1_3, "TLS_AES_256_GCM_SHA384", true },
		{ KLOOP_TLS_1_3, "TLS_CHACHA20_POLY1305_SHA256", true },
		{ KLOOP_TLS_1_3, "TLS_AES_128_CCM_SHA256", false },
		{ KLOOP_TLS_1_2, "ECDHE-ECDSA-AES128-GCM-SHA256", true },
		{ KLOOP_TLS_1_2, "ECDHE-ECDSA-AES256-GCM-SHA384", true },
		{ KLOOP_TLS_1_2, "ECDHE-ECDSA-CHACHA20-POLY1305", true },
		{ KLOOP_TLS_1_2, "ECDHE-ECDSA-AES128-SHA256", false },
	};
	struct kt_tls_setup setup = {
		.kind = KT_TCP,
		.version = ciphers[_i].version,
		.cipher = ciphers[_i].name,
		.ktls = KLOOP_KTLS_ON,
	};
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls ends[2];
	int renewed = 1;

	kt_tls_connect(ends, loop, &setup);
	for (int i = 0; i < 2; i++) {
		ends[i].s.then = check_fill;
		ck_assert_str_eq(kloop_tls_get_cipher(ends[i].tls), ciphers[_i].name);
		kt_tls_put(&ends[i], 200000, 0);
	}
	for (int i = 0; i < 2; i++)
		kt_stream_await(&ends[i].s, 200000);
	for (int i = 0; i < 4; i++) {
		int r = kloop_tls_get_ktls(ends[i / 2].tls, (enum kloop_tls_direction)(i % 2));

		if (kt_has_ktls() && ciphers[_i].kernel)
			ck_assert_msg(r == 1, "%s: %s", ciphers[_i].name, kloop_strerror(r));
		else if (kt_has_ktls())
			ck_assert_int_eq(r, KLOOP_ERROR_KTLS_CIPHER);
		else
			ck_assert_int_le(r, 1);
	}
	if (ciphers[_i].version == KLOOP_TLS_1_3)
		renewed = renew(ends);
	if (getenv("KLOOP_TEST_VM"))
		printf("# %-29s  send: %s; receive: %s; KeyUpdate: %s\n", ciphers[_i].name,
		       who(ends[0].tls, KLOOP_TLS_SEND), who(ends[0].tls, KLOOP_TLS_RECEIVE),
		       renewed == 0 ? "both renewed" : renewed < 0 ? kloop_strerror(renewed) : "-");
	kt_tls_end(ends);
	ck_assert_int_eq(ends[0].s.count[KT_ON_ERROR] + ends[1].s.count[KT_ON_ERROR], 0);
	kt_loop_free(loop);
}
END_TEST
#define CIPHERS 8

/* ---- many ---------------------------------------------------------------- */

#define MANY 200

START_TEST(many_connections)
{
	static struct kt_tls ends[MANY][2];
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	struct kt_tls_setup setup = {
		.kind = KT_TCP,
		.version = _i / KT_MODES ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3,
		.ktls = KLOOP_KTLS_ON,
	};
	int many = kt_under_valgrind() ? 20 : MANY;

	for (int i = 0; i < many; i++) {
		kt_tls_open(ends[i], loop, &setup);
		for (int end = 0; end < 2; end++) {
			ends[i][end].s.then = check_fill;
			kt_tls_put(&ends[i][end], 10000, 0);
		}
	}
	for (int i = 0; i < many; i++)
		for (int end = 0; end < 2; end++) {
			kt_stream_await(&ends[i][end].s, 10000);
			ck_assert_int_eq(ends[i][end].result, 0);
			for (int direction = 0; kt_has_ktls() && direction < 2; direction++)
				ck_assert_int_eq(kloop_tls_get_ktls(ends[i][end].tls,
								    (enum kloop_tls_direction)direction),
						 1);
		}
	for (int i = 0; i < many; i++)
		for (int end = 0; end < 2; end++)
			kloop_stream_close(ends[i][end].s.stream);
	for (int i = 0; i < many; i++)
		for (int end = 0; end < 2; end++) {
			kt_stream_end(&ends[i][end].s);
			ck_assert_int_eq(ends[i][end].s.count[KT_ON_ERROR], 0);
		}
	kt_loop_free(loop);
}
END_TEST

/* ---- files ---------------------------------------------------------------- */

struct sent {
	int calls;
	int status;
	uint64_t bytes;
};

static void file_done(void *owner, int status, uint64_t sent_bytes, void *user)
{
	struct sent *sent = owner;

	(void)user;
	sent->calls++;
	sent->status = status;
	sent->bytes = sent_bytes;
}

static int make_file(size_t bytes)
{
	static unsigned char data[251 * 1024];
	int fd = memfd_create("kloop-test", MFD_CLOEXEC);
	size_t done = 0, part;

	ck_assert_int_ge(fd, 0);
	kt_fill(data, sizeof(data), 0); /* whole periods: each piece is the same */
	while (done < bytes) {
		part = bytes - done < sizeof(data) ? bytes - done : sizeof(data);
		ck_assert_int_eq(write(fd, data, part), (ssize_t)part);
		done += part;
	}
	return fd;
}

/* A file between two writes; the kernel encrypts it where it can, and says so. */
START_TEST(large_file)
{
	struct kt_tls_setup setup = {
		.kind = KT_TCP,
		.version = _i % 2 ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3,
		.ktls = KLOOP_KTLS_AUTO,
	};
	unsigned flags = _i / 2 ? KLOOP_SEND_FILE_ZERO_COPY : 0;
	size_t bytes = getenv("KLOOP_TEST_VM") && _i == 0 ? FILE_BYTES : FILE_BYTES_SMALL;
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct sent sent = { .calls = 0 };
	struct kt_tls ends[2];
	int fd = make_file(bytes);

	kt_tls_connect(ends, loop, &setup);
	ends[0].s.then = check_fill;
	kt_tls_put(&ends[1], 2510, 0);
	ck_assert_int_eq(kloop_stream_send_file(ends[1].s.stream, fd, 0, KLOOP_FILE_END, flags,
						file_done, &sent), 0);
	kt_tls_put(&ends[1], 1000, bytes + 2510);
	while (ends[0].s.received < bytes + 3510)
		kt_stream_await(&ends[0].s, ends[0].s.received + 1);
	kt_turn_until(loop, &sent.calls, 1);
	ck_assert_int_eq(sent.status, 0);
	ck_assert_uint_eq(sent.bytes, bytes);
	if (kt_has_ktls())
		ck_assert_int_eq(kloop_tls_get_ktls(ends[1].tls, KLOOP_TLS_SEND), 1);
	kt_tls_end(ends);
	ck_assert_int_eq(ends[0].s.count[KT_ON_ERROR] + ends[1].s.count[KT_ON_ERROR], 0);
	kt_close(fd);
	kt_loop_free(loop);
}
END_TEST

/* ---- peers that vanish ------------------------------------------------------ */

/* With a queue in flight, by a reset or by an end without a word. */
START_TEST(peer_vanishes)
{
	struct kt_tls_setup setup = {
		.kind = KT_TCP,
		.version = _i % 2 ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3,
		.ktls = _i / 4 ? KLOOP_KTLS_ON : KLOOP_KTLS_OFF,
	};
	bool reset = _i / 2 % 2;
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct linger linger = { .l_onoff = reset, .l_linger = 0 };
	struct kt_tls ends[2];

	kt_tls_connect(ends, loop, &setup);
	kt_tls_put(&ends[0], 100, 0);
	kt_tls_put(&ends[1], 100, 0);
	kt_stream_await(&ends[0].s, 100);
	kt_stream_await(&ends[1].s, 100);
	kt_tls_put(&ends[0], 5000000, 0);
	ck_assert_int_eq(setsockopt(kloop_stream_get_fd(ends[1].s.stream), SOL_SOCKET, SO_LINGER,
				    &linger, sizeof(linger)), 0);
	kt_stream_stop(&ends[1].s);
	kt_stream_abort(&ends[1].s);
	kt_turn_until(loop, &ends[0].s.count[KT_ON_ERROR], 1);
	ck_assert(ends[0].s.error == -ECONNRESET || ends[0].s.error == -EPIPE ||
		  ends[0].s.error == KLOOP_ERROR_TLS_TRUNCATED);
	ck_assert_str_eq(kloop_tls_get_error_text(kloop_tls_get(ends[0].s.stream)),
			 kloop_strerror(ends[0].s.error));
	kt_stream_end(&ends[0].s);
	kt_loop_free(loop);
}
END_TEST

/*
 * More than a MiB that came while the owner did not read: a multishot receive
 * brings as much before it is taken back, where the peer is fast.
 */
START_TEST(burst_while_stopped)
{
	struct kt_tls_setup setup = { .version = _i ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3,
				      .ktls = KLOOP_KTLS_OFF };
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_tls_context *context = kt_tls_setup_context(&setup, KLOOP_TLS_SERVER);
	struct kt_tls end = { .handshakes = 0 };
	struct kt_peer peer;
	BIO *memory = BIO_new(BIO_s_mem());
	char *wire;
	long bytes;
	int fds[2];

	kt_pair(KT_LOCAL, fds);
	kt_peer_open(&peer, fds[0], false, setup.version);
	kt_stream_open(&end.s, loop, fds[1], 0);
	end.s.then = check_fill;
	kt_tls_upgrade(&end, context, NULL, setup.ktls);
	kt_stream_start(&end.s);
	kt_peer_until(&peer, loop, &end.handshakes, 1);
	kt_peer_put(&peer, loop, 100, 0);
	kt_stream_await(&end.s, 100);
	kt_stream_stop(&end.s);
	SSL_set0_wbio(peer.ssl, memory);
	kt_peer_put(&peer, loop, BURST_BYTES, 100);
	bytes = BIO_get_mem_data(memory, &wire);
	ck_assert_int_gt(bytes, BURST_BYTES);
	kl_stream_enter(end.s.stream);
	for (long i = 0; i < bytes; i += 16384)
		kl_stream_receive(end.s.stream, wire + i,
				  (size_t)(bytes - i < 16384 ? bytes - i : 16384));
	kl_stream_leave(end.s.stream);
	kt_turn_for(loop, 5);
	ck_assert_uint_eq(end.s.received, 100);
	kt_stream_start(&end.s);
	kt_stream_await(&end.s, 100 + BURST_BYTES);
	kt_peer_free(&peer);
	kt_stream_stop(&end.s);
	kt_stream_abort(&end.s);
	kloop_tls_context_unref(context);
	kt_loop_free(loop);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("tls_load");
	TCase *tcase = kt_case(suite, "load", 200);

	tcase_add_loop_test(tcase, every_cipher, 0, CIPHERS);
	tcase_add_loop_test(tcase, many_connections, 0, getenv("KLOOP_TEST_VM") || kt_under_valgrind() ? 1
							   : KT_MODES * 2);
	tcase_add_loop_test(tcase, large_file, 0, 4);
	tcase_add_loop_test(tcase, peer_vanishes, 0, 8);
	tcase_add_loop_test(tcase, burst_while_stopped, 0, 2);
	return suite;
}

int main(void)
{
#ifdef KT_FAKE_KTLS
	kt_ktls_install(&kt_linux_6_14);
	kt_assume_ktls();
#endif
	return kt_main(make_suite());
}
