/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Streams with TLS: data, upgrades, the end, in every mode of the loop. */
#include "tlsstream.h"
#ifdef KT_FAKE_KTLS
#include "fakelink.h"
#endif
#include "ports.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Versions and kTLS, as loop tests number them. */
#define VARIANTS 4
static struct kt_tls_setup variant(int number)
{
	return (struct kt_tls_setup){
		.kind = KT_TCP,
		.version = number % 2 ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3,
		.ktls = number / 2 ? KLOOP_KTLS_ON : KLOOP_KTLS_OFF,
	};
}

/* Data that arrives must continue the pattern. */
static void check_fill(struct kt_stream *self, enum kt_event event, const void *data, size_t bytes)
{
	if (event == KT_ON_DATA)
		ck_assert(kt_is_fill(data, bytes, self->received - bytes));
}

/* Where the kernel has TLS it must have been used. */
static void check_ktls(struct kt_tls ends[2], const struct kt_tls_setup *setup)
{
	for (int i = 0; i < 2; i++)
		for (int direction = 0; direction < 2; direction++) {
			int r = kloop_tls_get_ktls(ends[i].tls, (enum kloop_tls_direction)direction);

			if (setup->ktls == KLOOP_KTLS_OFF)
				ck_assert_int_eq(r, KLOOP_ERROR_KTLS_OFF);
			else if (kt_has_ktls() && setup->kind == KT_TCP)
				ck_assert_msg(r == 1, "end %d direction %d: %s", i, direction,
					      kloop_strerror(r));
		}
}

/* ---- data -------------------------------------------------------------- */

static const size_t sizes[] = { 1, 100, 16384, 16385, 70000, 1500000 };

/* Both directions at once, each size; loop number: mode, kind, variant. */
START_TEST(exchange)
{
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	struct kt_tls_setup setup = variant(_i / KT_MODES % VARIANTS);
	struct kt_tls ends[2];
	size_t total = 0;

	setup.kind = _i / KT_MODES / VARIANTS;
	kt_tls_connect(ends, loop, &setup);
	for (int i = 0; i < 2; i++)
		ends[i].s.then = check_fill;
	for (size_t i = 0; i < KT_COUNT(sizes); i++) {
		for (int end = 0; end < 2; end++)
			kt_tls_put(&ends[end], sizes[i], total);
		total += sizes[i];
		for (int end = 0; end < 2; end++)
			kt_stream_await(&ends[end].s, total);
	}
	ck_assert_uint_eq(kloop_tls_get_version(ends[0].tls), setup.version);
	check_ktls(ends, &setup);
	kt_tls_end(ends);
	ck_assert_int_eq(ends[0].s.count[KT_ON_ERROR] + ends[1].s.count[KT_ON_ERROR], 0);
	kt_loop_free(loop);
}
END_TEST

/* Small writes share records, large ones are cut; releases come in order, once. */
START_TEST(lent_writes)
{
	enum { COUNT = 300 };
	static struct kt_lent lents[COUNT];
	static unsigned char data[COUNT * 1000];
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = variant(_i);
	struct kt_tls ends[2];
	size_t position = 0, bytes;
	int released = 0;

	kt_fill(data, sizeof(data), 0);
	kt_tls_connect(ends, loop, &setup);
	ends[1].s.then = check_fill;
	for (int i = 0; i < COUNT; i++) {
		bytes = (size_t)(i * 37) % 1000;
		kt_lend(&ends[0].s, &lents[i], data + position, bytes);
		lents[i].total = &released;
		position += bytes;
	}
	kt_stream_await(&ends[1].s, position);
	kt_turn_until(loop, &released, COUNT);
	for (int i = 0; i < COUNT; i++)
		ck_assert_int_eq(lents[i].status, 0);
	kt_tls_end(ends);
	kt_loop_free(loop);
}
END_TEST

/* While the owner does not read nothing is delivered, and nothing is lost. */
START_TEST(paused)
{
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	struct kt_tls_setup setup = variant(_i / KT_MODES);
	struct kt_tls ends[2];
	size_t before;

	kt_tls_connect(ends, loop, &setup);
	ends[1].s.then = check_fill;
	kt_tls_put(&ends[0], 3000000, 0);
	kt_stream_await(&ends[1].s, 20000);
	kt_stream_stop(&ends[1].s);
	before = ends[1].s.received;
	kt_turn_for(loop, 30);
	ck_assert_uint_eq(ends[1].s.received, before);
	ck_assert_uint_lt(before, 3000000);
	kt_stream_start(&ends[1].s);
	kt_stream_await(&ends[1].s, 3000000);
	kt_tls_end(ends);
	kt_loop_free(loop);
}
END_TEST

/* Large reads go into the owner's memory. */
START_TEST(owner_memory)
{
	static char memory[400000];
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = variant(0);
	struct kt_tls ends[2];

	kt_tls_connect(ends, loop, &setup);
	ends[1].s.then = check_fill;
	ends[1].s.offer = memory;
	ends[1].s.offer_bytes = sizeof(memory);
	kt_tls_put(&ends[0], 3000000, 0);
	kt_stream_await(&ends[1].s, 3000000);
	ck_assert_int_gt(ends[1].s.offer_used, 0);
	kt_tls_end(ends);
	kt_loop_free(loop);
}
END_TEST

static void take_at_data(struct kt_stream *self, enum kt_event event, const void *data,
			 size_t bytes)
{
	unsigned id;
	int r;

	check_fill(self, event, data, bytes);
	if (event != KT_ON_DATA)
		return;
	r = kloop_stream_take_buffer(self->stream, &id);
	if (r == 0) /* from the kernel, decrypted: it is the pool's */
		kloop_stream_give_buffer(kloop_stream_get_loop(self->stream), id);
	if (kloop_tls_get_ktls(kloop_tls_get(self->stream), KLOOP_TLS_RECEIVE) != 1)
		ck_assert_int_eq(r, -ENOENT);
}

/* What OpenSSL decrypted lies in no buffer that can be taken. */
START_TEST(take_buffer)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = variant(_i);
	struct kt_tls ends[2];

	kt_tls_connect(ends, loop, &setup);
	ends[1].s.then = take_at_data;
	kt_tls_put(&ends[0], 1000, 0);
	kt_stream_await(&ends[1].s, 1000);
	kt_tls_put(&ends[0], 500000, 1000);
	kt_stream_await(&ends[1].s, 501000);
	kt_tls_end(ends);
	kt_loop_free(loop);
}
END_TEST

static void stop_at_first(struct kt_stream *self, enum kt_event event, const void *data,
			  size_t bytes)
{
	check_fill(self, event, data, bytes);
	if (event == KT_ON_DATA)
		kt_stream_stop(self);
}

/* Stopped in each callback: what is left stays, in pieces of what one read gave. */
START_TEST(stop_in_callback)
{
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	struct kt_tls_setup setup = variant(_i / KT_MODES);
	struct kt_tls ends[2];
	size_t before;

	kt_tls_connect(ends, loop, &setup);
	ends[1].s.then = stop_at_first;
	kt_tls_put(&ends[0], 600000, 0);
	while (ends[1].s.received < 600000) {
		before = ends[1].s.received;
		if (!ends[1].s.reading)
			kt_stream_start(&ends[1].s);
		kt_stream_await(&ends[1].s, before + 1);
	}
	kt_tls_end(ends);
	kt_loop_free(loop);
}
END_TEST

/* ---- upgrades ---------------------------------------------------------- */

/* What was written before leaves in the clear; what arrived while paused is not lost. */
START_TEST(upgrade_midway)
{
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	struct kt_tls_setup setup = variant(_i / KT_MODES);
	struct kloop_tls_context *contexts[2] = {
		kt_tls_setup_context(&setup, KLOOP_TLS_CLIENT),
		kt_tls_setup_context(&setup, KLOOP_TLS_SERVER),
	};
	struct kt_tls ends[2];
	char memory[5000];
	int fds[2];

	memset(ends, 0, sizeof(ends));
	kt_pair(setup.kind, fds);
	for (int i = 0; i < 2; i++) {
		kt_stream_open(&ends[i].s, loop, fds[i], 0);
		ends[i].s.then = check_fill;
	}
	kt_stream_start(&ends[1].s);
	/* The client sends in the clear, a lot, and goes on with TLS at once. */
	kt_fill(memory, sizeof(memory), 0);
	for (int i = 0; i < 10; i++)
		kt_stream_put(&ends[0].s, memory, 10 * 251);
	kt_stream_await(&ends[1].s, 251);
	kt_stream_await(&ends[1].s, 25100);
	kt_stream_stop(&ends[1].s);
	kt_tls_upgrade(&ends[0], contexts[0], "localhost", setup.ktls);
	kt_stream_start(&ends[0].s);
	kt_turn_for(loop, 20); /* the hello is there, and is held */
	kt_tls_upgrade(&ends[1], contexts[1], NULL, setup.ktls);
	kt_tls_await(&ends[0]);
	kt_tls_await(&ends[1]);
	ck_assert_int_eq(ends[0].result, 0);
	ck_assert_int_eq(ends[1].result, 0);
	kt_stream_start(&ends[1].s);
	kt_tls_put(&ends[0], 50000, 25100);
	kt_stream_await(&ends[1].s, 75100);
	for (int i = 0; i < 2; i++)
		kloop_tls_context_unref(contexts[i]);
	kt_tls_end(ends);
	kt_loop_free(loop);
}
END_TEST

/* The owner read the beginning of the handshake by himself, and hands it over. */
START_TEST(upgrade_fed)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = variant(_i);
	struct kloop_tls_context *context = kt_tls_setup_context(&setup, KLOOP_TLS_SERVER);
	struct kt_tls end = { .handshakes = 0 };
	struct kt_peer peer;
	int fds[2];

	kt_pair(setup.kind, fds);
	kt_stream_open(&end.s, loop, fds[1], 0);
	end.s.keep = true;
	kt_stream_start(&end.s);
	kt_peer_open(&peer, fds[0], false, setup.version);
	kt_peer_step(&peer);
	kt_stream_await(&end.s, 100);
	ck_assert_int_eq(kloop_tls_new(context, &end.tls), 0);
	ck_assert_int_eq(kloop_tls_feed(end.tls, end.s.data, 50), 0);
	ck_assert_int_eq(kloop_tls_feed(end.tls, end.s.data + 50, end.s.received - 50), 0);
	kloop_tls_free(end.tls); /* and once more, with a session that starts */
	kt_stream_stop(&end.s);
	ck_assert_int_eq(kloop_tls_new(context, &end.tls), 0);
	ck_assert_int_eq(kloop_tls_feed(end.tls, end.s.data, end.s.received), 0);
	ck_assert_int_eq(kloop_tls_start(end.tls, end.s.stream, NULL), 0);
	kloop_tls_context_unref(context);
	end.s.keep = false;
	end.s.received = 0;
	kt_tls_put(&end, 100000, 0);
	kt_peer_await(&peer, loop, 100000);
	kt_stream_abort(&end.s);
	kt_peer_free(&peer);
	kt_loop_free(loop);
}
END_TEST

START_TEST(connecting)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = variant(_i);
	struct kloop_tls_context *contexts[2] = {
		kt_tls_setup_context(&setup, KLOOP_TLS_CLIENT),
		kt_tls_setup_context(&setup, KLOOP_TLS_SERVER),
	};
	struct kloop_address address;
	struct kt_tls ends[2];
	uint16_t port;
	int listener = kt_listen(1, &port);

	memset(ends, 0, sizeof(ends));
	ck_assert_int_eq(kloop_address_parse("127.0.0.1", port, &address), 0);
	kt_stream_connect(&ends[0].s, loop, &address);
	kt_tls_upgrade(&ends[0], contexts[0], "localhost", setup.ktls);
	kt_stream_start(&ends[0].s);
	kt_tls_put(&ends[0], 3000, 0); /* before anything stands */
	kt_turn_until(loop, &ends[0].s.count[KT_ON_CONNECT], 1);
	kt_stream_open(&ends[1].s, loop, accept(listener, NULL, NULL), 0);
	ends[1].s.then = check_fill;
	kt_tls_upgrade(&ends[1], contexts[1], NULL, setup.ktls);
	kt_stream_start(&ends[1].s);
	kt_stream_await(&ends[1].s, 3000);
	kt_close(listener);
	for (int i = 0; i < 2; i++)
		kloop_tls_context_unref(contexts[i]);
	kt_tls_end(ends);
	kt_loop_free(loop);
}
END_TEST

START_TEST(connect_fails)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = variant(0);
	struct kloop_tls_context *context = kt_tls_setup_context(&setup, KLOOP_TLS_CLIENT);
	struct kt_tls end = { .handshakes = 0 };
	struct kloop_address address;

	kt_free_address("127.0.0.1", &address);
	kt_stream_connect(&end.s, loop, &address);
	kt_tls_upgrade(&end, context, "localhost", KLOOP_KTLS_AUTO);
	kt_turn_until(loop, &end.s.count[KT_ON_CONNECT], 1);
	ck_assert_int_eq(end.s.connect_result, -ECONNREFUSED);
	ck_assert_int_eq(end.handshakes, 0);
	kloop_tls_context_unref(context);
	kt_stream_end(&end.s);
	kt_loop_free(loop);
}
END_TEST

START_TEST(misuse)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = variant(0);
	struct kloop_tls_context *context = kt_tls_setup_context(&setup, KLOOP_TLS_CLIENT);
	struct kt_stream stream, pipe;
	struct kloop_tls *tls;
	int fds[2], ends[2];

	kt_pair(KT_TCP, fds);
	kt_pipe(ends);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_stream_open(&pipe, loop, ends[0], KLOOP_STREAM_PIPE);
	ck_assert_int_eq(kloop_tls_new(context, &tls), 0);
	ck_assert_int_eq(kloop_tls_start(NULL, stream.stream, NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_start(tls, NULL, NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_start(tls, pipe.stream, NULL), -EOPNOTSUPP);
	ck_assert_int_eq(kloop_tls_update_keys(tls, false), -EINVAL);
	ck_assert_ptr_null(kloop_tls_get(stream.stream));
	ck_assert_ptr_null(kloop_tls_get(NULL));
	kloop_stream_close(stream.stream);
	ck_assert_int_eq(kloop_tls_start(tls, stream.stream, NULL), -ESTALE);
	kloop_tls_free(tls);
	kt_stream_end(&stream);
	kt_stream_end(&pipe);
	kt_close(fds[1]);
	kt_close(ends[1]);
	kloop_tls_context_unref(context);
	kt_loop_free(loop);
}
END_TEST

/* ---- the end ------------------------------------------------------------ */

/* One direction ends, the other goes on. */
START_TEST(half_close)
{
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	struct kt_tls_setup setup = variant(_i / KT_MODES);
	struct kt_tls ends[2];

	kt_tls_connect(ends, loop, &setup);
	ends[0].s.then = ends[1].s.then = check_fill;
	kt_tls_put(&ends[0], 100000, 0);
	ck_assert_int_eq(kloop_stream_shutdown(ends[0].s.stream), 0);
	kt_turn_until(loop, &ends[1].s.count[KT_ON_EOF], 1);
	ck_assert_uint_eq(ends[1].s.received, 100000);
	ck_assert_int_eq(kloop_stream_write(ends[0].s.stream, "x", 1, NULL, NULL), -EPIPE);
	kt_tls_put(&ends[1], 200000, 0);
	ck_assert_int_eq(kloop_stream_shutdown(ends[1].s.stream), 0);
	kt_turn_until(loop, &ends[0].s.count[KT_ON_EOF], 1);
	ck_assert_uint_eq(ends[0].s.received, 200000);
	kt_tls_end(ends);
	ck_assert_int_eq(ends[0].s.count[KT_ON_ERROR] + ends[1].s.count[KT_ON_ERROR], 0);
	kt_loop_free(loop);
}
END_TEST

/* A shutdown that is asked for before the handshake is done waits for it. */
START_TEST(early_shutdown)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = variant(_i);
	struct kt_tls ends[2];

	kt_tls_open(ends, loop, &setup);
	ck_assert_int_eq(kloop_stream_shutdown(ends[0].s.stream), 0);
	kt_turn_until(loop, &ends[1].s.count[KT_ON_EOF], 1);
	ck_assert_int_eq(ends[0].result + ends[1].result, 0);
	kt_tls_end(ends);
	kt_loop_free(loop);
}
END_TEST

/* Closing sends everything first, and the peer sees a clean end. */
START_TEST(close_with_queue)
{
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	struct kt_tls_setup setup = variant(_i / KT_MODES);
	struct kt_tls ends[2];

	kt_tls_connect(ends, loop, &setup);
	ends[1].s.then = check_fill;
	kt_tls_put(&ends[0], 2000000, 0);
	kt_tls_put(&ends[1], 1000000, 0); /* nobody will get it, and it stops nothing */
	kloop_stream_close(ends[0].s.stream);
	kt_turn_until(loop, &ends[1].s.count[KT_ON_EOF], 1);
	ck_assert_uint_eq(ends[1].s.received, 2000000);
	ck_assert_int_eq(ends[0].s.count[KT_ON_CLOSE], 0);
	kt_tls_end(ends);
	ck_assert_int_eq(ends[0].s.count[KT_ON_ERROR], 0);
	kt_loop_free(loop);
}
END_TEST

/* A peer that does not answer close_notify is waited for as long as was said. */
START_TEST(close_deadline)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = variant(0);
	struct kloop_tls_context *context = kt_tls_setup_context(&setup, KLOOP_TLS_SERVER);
	uint64_t shutdown_ns = _i == 0 ? 0 : 50 * KT_MS;
	struct kt_tls end = { .handshakes = 0 };
	struct kt_peer peer;
	int fds[2];

	kt_pair(KT_TCP, fds);
	kt_peer_open(&peer, fds[0], false, 0);
	kt_stream_open(&end.s, loop, fds[1], 0);
	ck_assert_int_eq(kloop_tls_new(context, &end.tls), 0);
	ck_assert_int_eq(kloop_tls_set_timeouts(end.tls, KLOOP_FOREVER, shutdown_ns), 0);
	ck_assert_int_eq(kloop_tls_start(end.tls, end.s.stream, NULL), 0);
	kloop_tls_context_unref(context);
	kt_tls_put(&end, 10, 0);
	kt_peer_await(&peer, loop, 10);
	kloop_stream_close(end.s.stream);
	kt_turn_until(loop, &end.s.count[KT_ON_CLOSE], 1);
	ck_assert_int_eq(end.s.error, shutdown_ns ? -ETIMEDOUT : 0);
	kt_peer_until(&peer, loop, &peer.error, 1);
	ck_assert_int_eq(peer.error, SSL_ERROR_ZERO_RETURN); /* close_notify came all the same */
	kt_peer_free(&peer);
	kt_loop_free(loop);
}
END_TEST

/* An end without close_notify, between records and inside one. */
START_TEST(truncation)
{
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	struct kt_tls_setup setup = variant(0);
	struct kloop_tls_context *context = kt_tls_setup_context(&setup, KLOOP_TLS_SERVER);
	struct kt_tls end = { .handshakes = 0 };
	struct kt_peer peer;
	int fds[2];

	kt_pair(KT_TCP, fds);
	kt_peer_open(&peer, fds[0], false, 0);
	kt_stream_open(&end.s, loop, fds[1], 0);
	end.s.then = check_fill;
	kt_tls_upgrade(&end, context, NULL, KLOOP_KTLS_OFF);
	kt_stream_start(&end.s);
	kt_peer_until(&peer, loop, &end.handshakes, 1);
	kt_peer_put(&peer, loop, 5000, 0);
	if (_i / KT_MODES == 1)
		ck_assert_int_eq(send(peer.fd, "\x17\x03\x03\x01\x00half", 9, 0), 9);
	shutdown(peer.fd, SHUT_WR);
	kt_turn_until(loop, &end.s.count[KT_ON_ERROR], 1);
	ck_assert_uint_eq(end.s.received, 5000);
	ck_assert_int_eq(end.s.error, KLOOP_ERROR_TLS_TRUNCATED);
	kloop_tls_context_unref(context);
	kt_stream_end(&end.s);
	kt_peer_free(&peer);
	kt_loop_free(loop);
}
END_TEST

/* The truncation waits until the owner has read what came before it. */
START_TEST(truncation_paused)
{
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	struct kt_tls_setup setup = variant(_i / KT_MODES);
	struct kloop_tls_context *context = kt_tls_setup_context(&setup, KLOOP_TLS_SERVER);
	struct kt_tls end = { .handshakes = 0 };
	struct kt_peer peer;
	int fds[2];

	kt_pair(KT_TCP, fds);
	kt_peer_open(&peer, fds[0], false, setup.version);
	kt_stream_open(&end.s, loop, fds[1], 0);
	end.s.then = check_fill;
	kt_tls_upgrade(&end, context, NULL, setup.ktls);
	kt_peer_until(&peer, loop, &end.handshakes, 1);
	kt_peer_put(&peer, loop, 50000, 0);
	shutdown(peer.fd, SHUT_WR);
	kt_turn_for(loop, 20);
	ck_assert_int_eq(end.s.count[KT_ON_ERROR], 0);
	kt_stream_start(&end.s);
	kt_turn_until(loop, &end.s.count[KT_ON_ERROR], 1);
	ck_assert_uint_eq(end.s.received, 50000);
	ck_assert_int_eq(end.s.error, KLOOP_ERROR_TLS_TRUNCATED);
	kloop_tls_context_unref(context);
	kt_stream_end(&end.s);
	kt_peer_free(&peer);
	kt_loop_free(loop);
}
END_TEST

/* The loop is freed in any state: every stream is closed, nothing leaks. */
START_TEST(loop_ends)
{
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	struct kt_tls_setup setup = variant(_i / KT_MODES % VARIANTS);
	struct kt_tls ends[2];

	kt_tls_open(ends, loop, &setup);
	if (_i / KT_MODES / VARIANTS > 0) {
		kt_tls_await(&ends[0]);
		kt_tls_await(&ends[1]);
		kt_tls_put(&ends[0], 1000000, 0);
		kt_turn(loop, 0);
		kt_tls_put(&ends[1], 10, 0);
	}
	kt_loop_free(loop);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(ends[i].s.count[KT_ON_CLOSE], 1);
		kt_stream_forget(&ends[i].s);
	}
}
END_TEST

static void close_self(struct kt_tls *self)
{
	kloop_stream_close(self->s.stream);
}

static void abort_self(struct kt_tls *self)
{
	kloop_stream_abort(self->s.stream);
}

/* Ended from inside on_handshake. */
START_TEST(end_in_handshake)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kt_tls_setup setup = variant(_i / 2);
	struct kt_tls ends[2];

	kt_tls_open(ends, loop, &setup);
	ends[0].then = _i % 2 ? abort_self : close_self;
	kt_tls_await(&ends[1]);
	/* TLS 1.3: the client's last message is lost with it. */
	if (_i % 2 && ends[1].result != 0)
		ck_assert(setup.version == KLOOP_TLS_1_3);
	else
		kt_turn_until(loop, &ends[1].s.count[_i % 2 ? KT_ON_ERROR : KT_ON_EOF], 1);
	kt_tls_end(ends);
	kt_loop_free(loop);
}
END_TEST

/*
 * The virtual machine is slow, and its kernel is what is tested there: of the
 * variants, those that use it.
 */
static int first(int modes)
{
	return getenv("KLOOP_TEST_VM") ? modes * VARIANTS / 2 : 0;
}

/* valgrind is slow as well, and sees no kernel: of the variants, those without. */
static int last(int modes)
{
	return kt_under_valgrind() ? modes * VARIANTS / 2 : modes * VARIANTS;
}

static Suite *make_suite(void)
{
	Suite *suite = suite_create("tls_stream");
	TCase *data = kt_case(suite, "data", 120);
	TCase *upgrade = kt_case(suite, "upgrade", 60);
	TCase *ending = kt_case(suite, "end", 60);

	tcase_add_loop_test(data, exchange, first(KT_MODES),
			    first(1) || kt_under_valgrind() ? last(KT_MODES)
							     : last(KT_MODES) * KT_KINDS);
	tcase_add_loop_test(data, lent_writes, first(1), last(1));
	tcase_add_loop_test(data, paused, first(KT_MODES), last(KT_MODES));
	tcase_add_test(data, owner_memory);
	tcase_add_loop_test(data, stop_in_callback, first(KT_MODES), last(KT_MODES));
	tcase_add_loop_test(upgrade, upgrade_midway, first(KT_MODES), last(KT_MODES));
	tcase_add_loop_test(upgrade, upgrade_fed, first(1), last(1));
	tcase_add_loop_test(upgrade, connecting, first(1), last(1));
	tcase_add_loop_test(data, take_buffer, 0, VARIANTS);
	tcase_add_test(upgrade, connect_fails);
	tcase_add_test(upgrade, misuse);
	tcase_add_loop_test(ending, half_close, first(KT_MODES), last(KT_MODES));
	tcase_add_loop_test(ending, early_shutdown, first(1), last(1));
	tcase_add_loop_test(ending, close_with_queue, first(KT_MODES), last(KT_MODES));
	tcase_add_loop_test(ending, close_deadline, 0, 2);
	tcase_add_loop_test(ending, truncation, 0, KT_MODES * 2);
	tcase_add_loop_test(ending, truncation_paused, first(KT_MODES), last(KT_MODES));
	tcase_add_loop_test(ending, loop_ends, first(KT_MODES), last(KT_MODES) * 2);
	tcase_add_loop_test(ending, end_in_handshake, 0, VARIANTS * 2);
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
