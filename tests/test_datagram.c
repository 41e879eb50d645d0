/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Datagram sockets: what arrives, who is told of errors, how they end. */
#include "datagrams.h"

#include "ports.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define EACH(kinds) (KT_MODES * (kinds))

/* ---- what arrives ------------------------------------------------------ */

static void echo(struct kt_datagram *datagram, enum kt_datagram_event event)
{
	struct kt_received *last = &datagram->received[datagram->count[KT_DATAGRAM] - 1];

	if (event == KT_DATAGRAM)
		ck_assert_int_eq(kloop_datagram_send(datagram->datagram, last->data, last->bytes,
						     &last->from), 0);
}

START_TEST(there_and_back)
{
	enum { COUNT = 150 };
	struct kt_datagrams pair;
	char data[COUNT];

	kt_datagrams_open(&pair, _i / KT_MODES, kt_mode_loop(_i % KT_MODES), 0);
	pair.server.then = echo;
	memset(data, 'x', sizeof(data));
	/* Of every length from 0, by one turn each and by one turn for all. */
	for (size_t i = 0; i < COUNT; i++) {
		data[0] = (char)i;
		kt_datagram_put(&pair.client, data, i, &pair.server.address);
		if (i < COUNT / 2)
			kt_turn_until(pair.loop, &pair.client.count[KT_DATAGRAM], (int)i + 1);
	}
	kt_turn_until(pair.loop, &pair.client.count[KT_DATAGRAM], COUNT);
	for (size_t i = 0; i < COUNT; i++) {
		const struct kt_received *received = &pair.client.received[i];

		ck_assert_uint_eq(received->bytes, i);
		ck_assert_uint_eq(received->flags, 0);
		if (i > 0)
			ck_assert_int_eq(received->data[0], (char)i);
		kt_assert_address(&received->from, &pair.server.address);
		kt_assert_address(&pair.server.received[i].from, &pair.client.address);
	}
	ck_assert_uint_eq(kloop_datagram_get_send_count(pair.client.datagram), 0);
	ck_assert_uint_eq(kloop_datagram_get_send_bytes(pair.client.datagram), 0);
	kt_datagrams_close(&pair);
}
END_TEST

/* More than there are buffers, and before anybody looks. */
START_TEST(burst)
{
	enum { COUNT = 180 };
	struct kt_datagrams pair;
	int fd;

	kt_datagrams_open(&pair, KT_UDP4, kt_mode_loop(_i), 0);
	fd = kloop_datagram_get_fd(pair.client.datagram);
	for (int i = 0; i < COUNT; i++)
		ck_assert_int_eq(sendto(fd, &i, sizeof(i), 0, &pair.server.address.u.any,
					pair.server.address.length), sizeof(i));
	kt_turn_until(pair.loop, &pair.server.count[KT_DATAGRAM], COUNT);
	for (int i = 0; i < COUNT; i++)
		ck_assert_mem_eq(pair.server.received[i].data, &i, sizeof(i));
	kt_datagrams_close(&pair);
}
END_TEST

START_TEST(largest)
{
	static const size_t most[] = { 65507, 65527, 150000 };
	struct kt_datagrams pair;
	size_t bytes = most[_i / KT_MODES];
	char *data = malloc(bytes);

	kt_fill(data, bytes, 0);
	kt_datagrams_open(&pair, _i / KT_MODES, kt_mode_loop(_i % KT_MODES), 0);
	for (int i = 0; i < 3; i++) {
		kt_datagram_put(&pair.client, data, bytes, &pair.server.address);
		kt_turn_until(pair.loop, &pair.server.count[KT_DATAGRAM], i + 1);
		ck_assert_uint_eq(pair.server.received[i].bytes, bytes);
		ck_assert(kt_is_fill(pair.server.received[i].data, bytes, 0));
		ck_assert_uint_eq(pair.server.received[i].flags, 0);
	}
	free(data);
	kt_datagrams_close(&pair);
}
END_TEST

START_TEST(too_long_to_receive)
{
	const size_t bytes = 300000;
	struct kt_datagrams pair;
	char *data = malloc(bytes);
	int room = 212992, fd;

	kt_fill(data, bytes, 0);
	kt_datagrams_open(&pair, KT_LOCAL_DATAGRAM, kt_mode_loop(_i), 0);
	fd = kloop_datagram_get_fd(pair.client.datagram);
	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)), 0);
	kt_datagram_put(&pair.client, data, bytes, &pair.server.address);
	kt_datagram_put(&pair.client, data, 5, &pair.server.address);
	kt_turn_until(pair.loop, &pair.server.count[KT_DATAGRAM], 2);
	ck_assert_uint_eq(pair.server.received[0].bytes, KLOOP_DATAGRAM_MAX_BYTES);
	ck_assert(kt_is_fill(pair.server.received[0].data, KLOOP_DATAGRAM_MAX_BYTES, 0));
	ck_assert_uint_eq(pair.server.received[0].flags, KLOOP_DATAGRAM_TRUNCATED);
	ck_assert_uint_eq(pair.server.received[1].bytes, 5);
	ck_assert_uint_eq(pair.server.received[1].flags, 0);
	free(data);
	kt_datagrams_close(&pair);
}
END_TEST

START_TEST(without_a_name)
{
	struct kt_datagram server;
	struct kloop_loop *loop = kt_mode_loop(_i);
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
	kt_datagram_new(&server, loop, fds[0], 0);
	ck_assert_int_eq(write(fds[1], "a", 1), 1);
	kt_turn_until(loop, &server.count[KT_DATAGRAM], 1);
	ck_assert_uint_eq(server.received[0].from.length, 0);
	/* It is connected: no address is needed. */
	kt_datagram_put(&server, "bc", 2, NULL);
	kt_datagram_end(&server);
	kt_loop_free(loop);
	kt_read_all(fds[1], (char[2]){ 0 }, 2);
	kt_close(fds[1]);
}
END_TEST

START_TEST(stop_and_start)
{
	enum { COUNT = 30 };
	struct kt_datagrams pair;
	int fd;

	kt_datagrams_open(&pair, _i / KT_MODES, kt_mode_loop(_i % KT_MODES), 0);
	fd = kloop_datagram_get_fd(pair.client.datagram);
	for (char i = 0; i < COUNT; i++) {
		bool stopped = i % 3 == 1;

		if (stopped) {
			ck_assert_int_eq(kloop_datagram_stop_read(pair.server.datagram), 0);
			pair.server.reading = false;
			/* Most of the time the operation is still armed, and brings it. */
			if (i % 2)
				kt_turn_for(pair.loop, 2);
		}
		ck_assert_int_eq(sendto(fd, &i, 1, 0, &pair.server.address.u.any,
					pair.server.address.length), 1);
		kt_turn_for(pair.loop, 2);
		if (stopped) {
			ck_assert_int_eq(pair.server.count[KT_DATAGRAM], i);
			pair.server.reading = true;
			ck_assert_int_eq(kloop_datagram_start_read(pair.server.datagram), 0);
			ck_assert_int_eq(kloop_datagram_start_read(pair.server.datagram), 0);
			ck_assert_int_eq(pair.server.count[KT_DATAGRAM], i);
		}
		kt_turn_until(pair.loop, &pair.server.count[KT_DATAGRAM], i + 1);
		ck_assert_int_eq(pair.server.received[(int)i].data[0], i);
	}
	kt_datagrams_close(&pair);
}
END_TEST

static void *turn_elsewhere(void *data)
{
	struct kt_datagrams *pair = data;

	kt_datagram_put(&pair->client, "other", 5, &pair->server.address);
	kt_turn_until(pair->loop, &pair->server.count[KT_DATAGRAM], 2);
	return NULL;
}

START_TEST(another_thread)
{
	struct kt_datagrams pair;

	kt_datagrams_open(&pair, KT_UDP4, kt_mode_loop(_i), 0);
	kt_datagram_put(&pair.client, "one", 3, &pair.server.address);
	kt_turn_until(pair.loop, &pair.server.count[KT_DATAGRAM], 1);
	while (kloop_datagram_get_send_count(pair.client.datagram) > 0)
		kt_turn(pair.loop, 10 * KT_MS);
	ck_assert_int_eq(kloop_loop_adopt(pair.loop), 0);
	kt_on_thread(kt_adopt_and, &(struct kt_adoption){ pair.loop, turn_elsewhere, &pair });
	ck_assert_int_eq(kloop_loop_adopt(pair.loop), 0);
	ck_assert_mem_eq(pair.server.received[1].data, "other", 5);
	kt_datagrams_close(&pair);
}
END_TEST

/* ---- errors ------------------------------------------------------------ */

START_TEST(refused_when_connected)
{
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	const char *host = _i / KT_MODES == KT_UDP6 ? "::1" : "127.0.0.1";
	struct kloop_address nobody;
	struct kt_datagram client, server;

	kt_free_address(host, &nobody);
	kt_datagram_open(&client, loop, NULL, &nobody, 0);
	kt_datagram_put(&client, "1", 1, NULL);
	kt_turn_until(loop, &client.count[KT_DATAGRAM_ERROR], 1);
	ck_assert_int_eq(client.errors[0], -ECONNREFUSED);
	/* The next one leaves all the same. */
	kt_datagram_open(&server, loop, &nobody, NULL, 0);
	kt_datagram_put(&client, "2", 1, NULL);
	kt_turn_until(loop, &server.count[KT_DATAGRAM], 1);
	ck_assert_mem_eq(server.received[0].data, "2", 1);
	kt_datagram_put(&server, "3", 1, &client.address);
	kt_turn_until(loop, &client.count[KT_DATAGRAM], 1);
	kt_datagram_end(&client);
	kt_datagram_end(&server);
	kt_loop_free(loop);
}
END_TEST

START_TEST(refused_is_not_the_next_ones_fault)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kloop_address nobody;
	struct kt_datagram client, server;
	int fd;

	kt_free_address("127.0.0.1", &nobody);
	kt_datagram_open(&client, loop, NULL, &nobody, 0);
	ck_assert_int_eq(kloop_datagram_stop_read(client.datagram), 0);
	kt_turn_for(loop, 2);
	/* The error is there when the queue is sent, and one of the two calls is told. */
	fd = kloop_datagram_get_fd(client.datagram);
	ck_assert_int_eq(send(fd, "1", 1, 0), 1);
	kt_datagram_open(&server, loop, &nobody, NULL, 0);
	kt_datagram_put(&client, "2", 1, NULL);
	kt_datagram_put(&client, "3", 1, NULL);
	kt_turn_until(loop, &server.count[KT_DATAGRAM], 2);
	ck_assert_mem_eq(server.received[0].data, "2", 1);
	ck_assert_mem_eq(server.received[1].data, "3", 1);
	kt_turn_until(loop, &client.count[KT_DATAGRAM_ERROR], 1);
	ck_assert_int_eq(client.errors[0], -ECONNREFUSED);
	kt_datagram_end(&client);
	kt_datagram_end(&server);
	kt_loop_free(loop);
}
END_TEST

START_TEST(told_by_peer)
{
	struct kloop_loop *loop = kt_mode_loop(_i % KT_MODES);
	const char *host = _i / KT_MODES == KT_UDP6 ? "::1" : "127.0.0.1";
	struct kloop_address any, nobody[3];
	struct kt_datagram client, server;

	ck_assert_int_eq(kloop_address_parse(host, 0, &any), 0);
	for (int i = 0; i < 3; i++)
		kt_free_address(host, &nobody[i]);
	kt_datagram_open(&server, loop, &any, NULL, 0);
	kt_datagram_open(&client, loop, &any, NULL, KLOOP_DATAGRAM_PEER_ERRORS);
	for (int i = 0; i < 3; i++) {
		kt_datagram_put(&client, "x", 1, &nobody[i]);
		kt_datagram_put(&client, "y", 1, &server.address);
		kt_turn_until(loop, &client.count[KT_DATAGRAM_ERROR], i + 1);
		ck_assert_int_eq(client.errors[i], -ECONNREFUSED);
		kt_assert_address(&client.peers[i], &nobody[i]);
	}
	kt_turn_until(loop, &server.count[KT_DATAGRAM], 3);
	ck_assert_int_eq(client.count[KT_DATAGRAM_ERROR], 3);
	kt_datagram_end(&client);
	kt_datagram_end(&server);
	kt_loop_free(loop);
}
END_TEST

START_TEST(cannot_be_sent)
{
	struct kt_datagrams pair;
	struct kloop_address broadcast;
	char *data = calloc(1, 400000);
	bool local = _i / KT_MODES == KT_LOCAL_DATAGRAM;
	struct kloop_address *peer = &pair.server.address;
	int errors = 1;

	kt_datagrams_open(&pair, _i / KT_MODES, kt_mode_loop(_i % KT_MODES), 0);
	kt_datagram_put(&pair.client, "1", 1, peer);
	kt_datagram_put(&pair.client, data, local ? 400000 : 66000, peer);
	kt_datagram_put(&pair.client, "2", 1, peer);
	if (_i / KT_MODES == KT_UDP4) {
		ck_assert_int_eq(kloop_address_parse("127.255.255.255", 9, &broadcast), 0);
		kt_datagram_put(&pair.client, "x", 1, &broadcast);
		errors++;
	}
	kt_datagram_put(&pair.client, "3", 1, peer);
	kt_turn_until(pair.loop, &pair.server.count[KT_DATAGRAM], 3);
	kt_turn_until(pair.loop, &pair.client.count[KT_DATAGRAM_ERROR], errors);
	ck_assert_int_eq(pair.client.count[KT_DATAGRAM_ERROR], errors);
	ck_assert_int_eq(pair.client.errors[0], -EMSGSIZE);
	kt_assert_address(&pair.client.peers[0], peer);
	if (errors == 2) {
		ck_assert_int_eq(pair.client.errors[1], -EACCES);
		kt_assert_address(&pair.client.peers[1], &broadcast);
	}
	/* By a call of its own it is the caller who is told. */
	if (local || (_i % KT_MODES != KT_MODE_SQPOLL && _i % KT_MODES != KT_MODE_SQPOLL_OLD)) {
		ck_assert_int_eq(kloop_datagram_try_send(pair.client.datagram, data, 400000, peer),
				 -EMSGSIZE);
		ck_assert_int_eq(kloop_datagram_try_send(pair.client.datagram, "4", 1, peer), 1);
		kt_turn_until(pair.loop, &pair.server.count[KT_DATAGRAM], 4);
	} else {
		ck_assert_int_eq(kloop_datagram_try_send(pair.client.datagram, "4", 1, peer), 0);
	}
	ck_assert_int_eq(pair.client.count[KT_DATAGRAM_ERROR], errors);
	free(data);
	kt_datagrams_close(&pair);
}
END_TEST

/* ---- addresses --------------------------------------------------------- */

START_TEST(connected_hears_its_peer_only)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kloop_address any;
	struct kt_datagram client, server, other;

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", 0, &any), 0);
	kt_datagram_open(&server, loop, &any, NULL, 0);
	kt_datagram_open(&other, loop, &any, NULL, 0);
	kt_datagram_open(&client, loop, &any, &server.address, 0);
	kt_datagram_put(&other, "no", 2, &client.address);
	while (kloop_datagram_get_send_count(other.datagram) > 0)
		kt_turn(loop, 10 * KT_MS);
	kt_datagram_put(&server, "yes", 3, &client.address);
	kt_turn_until(loop, &client.count[KT_DATAGRAM], 1);
	ck_assert_mem_eq(client.received[0].data, "yes", 3);
	kt_datagram_put(&client, "back", 4, NULL);
	kt_turn_until(loop, &server.count[KT_DATAGRAM], 1);
	kt_datagram_end(&client);
	kt_datagram_end(&server);
	kt_datagram_end(&other);
	kt_loop_free(loop);
}
END_TEST

START_TEST(broadcast)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kloop_address any, to;
	struct kt_datagram client, server;

	ck_assert_int_eq(kloop_address_parse("0.0.0.0", 0, &any), 0);
	kt_datagram_open(&server, loop, &any, NULL, 0);
	kt_datagram_open(&client, loop, &any, NULL, KLOOP_DATAGRAM_BROADCAST);
	ck_assert_int_eq(kloop_address_parse("127.255.255.255",
					     kloop_address_get_port(&server.address), &to), 0);
	kt_datagram_put(&client, "all", 3, &to);
	kt_turn_until(loop, &server.count[KT_DATAGRAM], 1);
	ck_assert_mem_eq(server.received[0].data, "all", 3);
	kt_datagram_end(&client);
	kt_datagram_end(&server);
	kt_loop_free(loop);
}
END_TEST

START_TEST(port_is_shared)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kloop_datagram *refused;
	struct kloop_address any;
	struct kt_datagram first, second, third;

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", 0, &any), 0);
	kt_datagram_open(&first, loop, &any, NULL, KLOOP_DATAGRAM_REUSE_PORT);
	kt_datagram_open(&second, loop, &first.address, NULL, KLOOP_DATAGRAM_REUSE_PORT);
	ck_assert_int_eq(kloop_datagram_open(loop, &first.address, NULL, 0, &kt_datagram_handlers,
					     NULL, &refused), -EADDRINUSE);
	kt_datagram_end(&first);
	kt_datagram_end(&second);
	/* on_close means that the port is free. */
	kt_datagram_open(&third, loop, &first.address, NULL, 0);
	kt_datagram_end(&third);
	kt_loop_free(loop);
}
END_TEST

START_TEST(arguments)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	const struct kloop_datagram_handlers none = { .size = sizeof(none) };
	const struct kloop_datagram_handlers *all = &kt_datagram_handlers;
	struct kloop_address any, six, bad = { .length = 1 };
	struct kloop_datagram *made = NULL;
	struct kt_datagram open;
	int fds[2], fd;

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", 0, &any), 0);
	ck_assert_int_eq(kloop_address_parse("::1", 0, &six), 0);
	ck_assert_int_eq(kloop_datagram_open(NULL, &any, NULL, 0, all, NULL, &made), -EINVAL);
	ck_assert_int_eq(kloop_datagram_open(loop, NULL, NULL, 0, all, NULL, &made), -EINVAL);
	ck_assert_int_eq(kloop_datagram_open(loop, &any, &six, 0, all, NULL, &made), -EINVAL);
	ck_assert_int_eq(kloop_datagram_open(loop, &bad, NULL, 0, all, NULL, &made), -EINVAL);
	ck_assert_int_eq(kloop_datagram_open(loop, &any, NULL, 1 << 7, all, NULL, &made), -EINVAL);
	ck_assert_int_eq(kloop_datagram_open(loop, &any, NULL, 0, &none, NULL, &made), -EINVAL);
	kt_socketpair(fds);
	ck_assert_int_eq(kloop_datagram_new(loop, fds[0], 0, all, NULL, &made), -EINVAL);
	kt_close(fds[0]);
	kt_close(fds[1]);
	ck_assert_int_eq(kloop_datagram_new(loop, fds[1], 0, all, NULL, &made), -EBADF);
	kt_pipe(fds);
	ck_assert_int_eq(kloop_datagram_new(loop, fds[0], 0, all, NULL, &made), -ENOTSOCK);
	kt_close(fds[0]);
	kt_close(fds[1]);
	fd = socket(AF_NETLINK, SOCK_DGRAM, 0);
	ck_assert_int_eq(kloop_datagram_new(loop, fd, 0, all, NULL, &made), -EAFNOSUPPORT);
	kt_close(fd);
	fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	ck_assert_int_eq(kloop_datagram_new(loop, fd, KLOOP_DATAGRAM_PEER_ERRORS, all, NULL, &made),
			 -EINVAL);
	kt_close(fd);
	ck_assert_ptr_null(made);

	kt_datagram_open(&open, loop, &any, NULL, 0);
	ck_assert_int_eq(kloop_datagram_send(open.datagram, NULL, 1, &any), -EINVAL);
	ck_assert_int_eq(kloop_datagram_send(open.datagram, "x", 1, &bad), -EINVAL);
	ck_assert_int_eq(kloop_datagram_set_send_marks(open.datagram, 2, 1), -EINVAL);
	/* Nobody to send to. */
	kt_datagram_put(&open, "x", 1, NULL);
	kt_turn_until(loop, &open.count[KT_DATAGRAM_ERROR], 1);
	ck_assert_int_eq(open.errors[0], -EDESTADDRREQ);
	ck_assert_uint_eq(open.peers[0].length, 0);
	kloop_datagram_close(open.datagram);
	kloop_datagram_close(open.datagram);
	ck_assert_int_eq(kloop_datagram_send(open.datagram, "x", 1, &any), -ESTALE);
	ck_assert_int_eq(kloop_datagram_try_send(open.datagram, "x", 1, &any), -ESTALE);
	ck_assert_int_eq(kloop_datagram_start_read(open.datagram), -ESTALE);
	ck_assert_int_eq(kloop_datagram_stop_read(open.datagram), -ESTALE);
	kt_turn_until(loop, &open.count[KT_DATAGRAM_CLOSE], 1);
	kt_datagram_forget(&open);
	kloop_datagram_close(NULL);
	kt_loop_free(loop);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("datagram");
	TCase *tcase = kt_case(suite, "arrives", 120);

	tcase_add_loop_test(tcase, there_and_back, 0, EACH(KT_DATAGRAM_KINDS));
	tcase_add_loop_test(tcase, burst, 0, KT_MODES);
	tcase_add_loop_test(tcase, largest, 0, EACH(KT_DATAGRAM_KINDS));
	tcase_add_loop_test(tcase, too_long_to_receive, 0, KT_MODES);
	tcase_add_loop_test(tcase, without_a_name, 0, KT_MODES);
	tcase_add_loop_test(tcase, stop_and_start, 0, EACH(KT_DATAGRAM_KINDS));
	tcase_add_loop_test(tcase, another_thread, 0, KT_MODES);

	tcase = kt_case(suite, "errors", 120);
	tcase_add_loop_test(tcase, refused_when_connected, 0, EACH(KT_LOCAL_DATAGRAM));
	tcase_add_loop_test(tcase, refused_is_not_the_next_ones_fault, 0, KT_MODES);
	tcase_add_loop_test(tcase, told_by_peer, 0, EACH(KT_LOCAL_DATAGRAM));
	tcase_add_loop_test(tcase, cannot_be_sent, 0, EACH(KT_DATAGRAM_KINDS));

	tcase = kt_case(suite, "addresses", 120);
	tcase_add_loop_test(tcase, connected_hears_its_peer_only, 0, KT_MODES);
	tcase_add_loop_test(tcase, broadcast, 0, KT_MODES);
	tcase_add_loop_test(tcase, port_is_shared, 0, KT_MODES);
	tcase_add_test(tcase, arguments);
	return kt_main(suite);
}
