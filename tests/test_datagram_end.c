/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Datagram sockets: queues that fill, and the ends. */
#include "datagrams.h"

#include "fault.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* More than a Unix socket's receiver lets wait (net.unix.max_dgram_qlen), by far. */
#define MANY 400

/* A peer that nobody reads: plain, blocking. */
static int deaf_peer(struct kloop_address *ret_address)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	static int made;
	char name[40];

	ck_assert_int_ge(fd, 0);
	/* Nobody gets it whom the kernel gives one, when this one is gone. */
	name[0] = '\0';
	snprintf(name + 1, sizeof(name) - 1, "kloop-deaf-%d-%d", (int)getpid(), ++made);
	ck_assert_int_eq(kloop_address_set_local(name, 1 + strlen(name + 1), ret_address), 0);
	ck_assert_int_eq(bind(fd, &ret_address->u.any, ret_address->length), 0);
	return fd;
}

/* A client of it, connected or not. */
static const struct kloop_address *open_client(struct kt_datagram *client, struct kloop_loop *loop,
					       const struct kloop_address *peer, bool connected)
{
	struct kloop_address any;

	ck_assert_int_eq(kloop_address_set_local(NULL, 0, &any), 0);
	kt_datagram_open(client, loop, &any, connected ? peer : NULL, 0);
	return connected ? NULL : peer;
}

static void put_numbers(struct kt_datagram *client, const struct kloop_address *peer)
{
	for (int i = 0; i < MANY; i++)
		kt_datagram_put(client, &i, sizeof(i), peer);
}

/* Read as many as are there, in order; returns the next number. */
static int take_numbers(int fd, int next)
{
	int number;

	ssize_t result;

	while ((result = recv(fd, &number, sizeof(number), MSG_DONTWAIT)) >= 0) {
		ck_assert_int_eq(result, sizeof(number));
		ck_assert_int_eq(number, next);
		next++;
	}
	ck_assert_int_eq(errno, EAGAIN);
	return next;
}

START_TEST(marks)
{
	const size_t each = sizeof(int) + KLOOP_DATAGRAM_EXTRA_BYTES;
	struct kloop_loop *loop = kt_mode_loop(_i / 2);
	struct kloop_address address;
	struct kt_datagram client;
	const struct kloop_address *peer;
	int fd = deaf_peer(&address), next = 0;
	size_t left;

	peer = open_client(&client, loop, &address, _i % 2);
	ck_assert_int_eq(kloop_datagram_set_send_marks(client.datagram, 10 * each, 20 * each), 0);
	put_numbers(&client, peer);
	ck_assert_uint_eq(kloop_datagram_get_send_count(client.datagram), MANY);
	ck_assert_uint_eq(kloop_datagram_get_send_bytes(client.datagram), MANY * each);
	kt_turn_for(loop, 20);
	left = kloop_datagram_get_send_count(client.datagram);
	ck_assert_uint_gt(left, 20);
	ck_assert_int_eq(client.count[KT_DATAGRAM_DRAIN], 0);
	/* With others queued this one must not overtake. */
	ck_assert_int_eq(kloop_datagram_try_send(client.datagram, "x", 1, peer), 0);
	while (client.count[KT_DATAGRAM_DRAIN] == 0) {
		next = take_numbers(fd, next);
		kt_turn(loop, 10 * KT_MS);
	}
	ck_assert_uint_le(kloop_datagram_get_send_bytes(client.datagram), 10 * each);
	while (next < MANY) {
		next = take_numbers(fd, next);
		kt_turn(loop, KT_MS);
	}
	ck_assert_uint_eq(kloop_datagram_get_send_bytes(client.datagram), 0);
	ck_assert_int_eq(client.count[KT_DATAGRAM_DRAIN], 1);
	ck_assert_int_eq(client.count[KT_DATAGRAM_ERROR], 0);
	kt_datagram_end(&client);
	kt_close(fd);
	kt_loop_free(loop);
}
END_TEST

/* A wait for a full peer must not turn in circles. */
START_TEST(waits_quietly)
{
	struct kloop_loop *loop = kt_mode_loop(_i / 2);
	struct kloop_address address;
	struct kt_datagram client;
	int fd = deaf_peer(&address);
	uint64_t turns;

	put_numbers(&client, open_client(&client, loop, &address, _i % 2));
	kt_turn_for(loop, 20);
	turns = KT_STAT(loop, turns);
	kt_turn_for(loop, 50);
	/* A few attempts, if no event tells of room. */
	ck_assert_uint_lt(KT_STAT(loop, turns) - turns, 30);
	kt_datagram_abort(&client);
	kt_close(fd);
	kt_loop_free(loop);
}
END_TEST

START_TEST(close_sends_first)
{
	int before = kt_fd_count(), next = 0;
	struct kloop_loop *loop = kt_mode_loop(_i / 2);
	struct kloop_address address;
	struct kt_datagram client;
	int fd = deaf_peer(&address);

	put_numbers(&client, open_client(&client, loop, &address, _i % 2));
	kloop_datagram_close(client.datagram);
	kt_turn_for(loop, 5);
	ck_assert_int_eq(client.count[KT_DATAGRAM_CLOSE], 0);
	while (client.count[KT_DATAGRAM_CLOSE] == 0) {
		next = take_numbers(fd, next);
		kt_turn(loop, KT_MS);
	}
	ck_assert_int_eq(take_numbers(fd, next), MANY);
	ck_assert_int_eq(client.close_fd, -1);
	kt_datagram_forget(&client);
	kt_close(fd);
	kt_loop_free(loop);
	ck_assert_int_eq(kt_fd_count(), before);
}
END_TEST

START_TEST(abort_does_not)
{
	int before = kt_fd_count();
	struct kloop_loop *loop = kt_mode_loop(_i / 2);
	struct kloop_address address;
	struct kt_datagram client;
	int fd = deaf_peer(&address);

	put_numbers(&client, open_client(&client, loop, &address, _i % 2));
	kt_turn_for(loop, 5);
	/* Also after a close that waits. */
	kloop_datagram_close(client.datagram);
	kt_turn_for(loop, 5);
	kt_datagram_abort(&client);
	ck_assert_int_lt(take_numbers(fd, 0), MANY);
	kt_close(fd);
	kt_loop_free(loop);
	ck_assert_int_eq(kt_fd_count(), before);
}
END_TEST

/* Whose peer goes away while it waits. */
START_TEST(peer_goes)
{
	struct kloop_loop *loop = kt_mode_loop(_i / 2);
	struct kloop_address address;
	struct kt_datagram client;
	int fd = deaf_peer(&address);
	const struct kloop_address *peer = open_client(&client, loop, &address, _i % 2);

	for (int i = 0; i < 20; i++)
		kt_datagram_put(&client, &i, sizeof(i), peer);
	kt_turn_for(loop, 5);
	kt_close(fd);
	kt_turn_until(loop, &client.count[KT_DATAGRAM_ERROR], 1);
	ck_assert_int_eq(client.errors[0], -ECONNREFUSED);
	if (peer)
		kt_assert_address(&client.peers[0], peer);
	kt_datagram_end(&client);
	ck_assert_int_le(client.count[KT_DATAGRAM_ERROR], 20);
	kt_loop_free(loop);
}
END_TEST

START_TEST(keeps_fd)
{
	struct kloop_loop *loop = kt_mode_loop(_i);
	struct kt_datagram server;
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
	kt_datagram_new(&server, loop, fds[0], KLOOP_DATAGRAM_KEEP_FD);
	kt_turn_for(loop, 2);
	kt_datagram_end(&server);
	ck_assert_int_eq(server.close_fd, fds[0]);
	/* Nothing of it reads any more. */
	kt_write_all(fds[1], "x", 1);
	kt_turn_for(loop, 5);
	kt_read_all(fds[0], (char[1]){ 0 }, 1);
	kt_close(fds[0]);
	kt_close(fds[1]);
	kt_loop_free(loop);
}
END_TEST

static void end_inside(struct kt_datagram *datagram, enum kt_datagram_event event)
{
	int what = *(int *)datagram->user;

	if (event == KT_DATAGRAM_CLOSE)
		return;
	if (what == 0)
		kloop_datagram_close(datagram->datagram);
	else if (what == 1)
		kloop_datagram_abort(datagram->datagram);
	else
		ck_assert_int_eq(kloop_datagram_stop_read(datagram->datagram), 0);
	datagram->reading = false;
}

START_TEST(inside_on_datagram)
{
	struct kt_datagrams pair;
	int what = _i % 3;

	kt_datagrams_open(&pair, _i / 3 / KT_MODES, kt_mode_loop(_i / 3 % KT_MODES), 0);
	pair.server.then = end_inside;
	pair.server.user = &what;
	for (int i = 0; i < 100; i++)
		kt_datagram_put(&pair.client, &i, sizeof(i), &pair.server.address);
	kt_turn_until(pair.loop, &pair.server.count[KT_DATAGRAM], 1);
	kt_turn_for(pair.loop, 5);
	ck_assert_int_eq(pair.server.count[KT_DATAGRAM], 1);
	if (what == 2) {
		pair.server.then = NULL;
		pair.server.reading = true;
		ck_assert_int_eq(kloop_datagram_start_read(pair.server.datagram), 0);
		kt_turn_until(pair.loop, &pair.server.count[KT_DATAGRAM], 100);
		for (int i = 0; i < 100; i++)
			ck_assert_mem_eq(pair.server.received[i].data, &i, sizeof(i));
		kt_datagram_end(&pair.server);
	} else {
		kt_turn_until(pair.loop, &pair.server.count[KT_DATAGRAM_CLOSE], 1);
		kt_datagram_forget(&pair.server);
	}
	kt_datagram_abort(&pair.client);
	kt_loop_free(pair.loop);
}
END_TEST

static void send_again(struct kt_datagram *datagram, enum kt_datagram_event event)
{
	char data[66000] = { 0 };

	if (event == KT_DATAGRAM_ERROR && datagram->count[event] < 10)
		kt_datagram_put(datagram, data, sizeof(data), &datagram->address);
	else if (event == KT_DATAGRAM_ERROR)
		kloop_datagram_abort(datagram->datagram);
}

START_TEST(inside_on_error)
{
	struct kt_datagrams pair;

	kt_datagrams_open(&pair, KT_UDP4, kt_mode_loop(_i), 0);
	pair.client.then = send_again;
	kt_datagram_put(&pair.client, (char[66000]){ 0 }, 66000, &pair.server.address);
	kt_datagram_put(&pair.client, "x", 1, &pair.server.address);
	kt_turn_until(pair.loop, &pair.client.count[KT_DATAGRAM_CLOSE], 1);
	ck_assert_int_eq(pair.client.count[KT_DATAGRAM_ERROR], 10);
	kt_datagram_forget(&pair.client);
	kt_datagram_end(&pair.server);
	kt_loop_free(pair.loop);
}
END_TEST

START_TEST(loop_ends_first)
{
	int before = kt_fd_count();
	struct kloop_loop *loop = kt_mode_loop(_i / 4);
	struct kloop_address address;
	struct kt_datagram client, server;
	int fd = deaf_peer(&address);

	put_numbers(&client, open_client(&client, loop, &address, false));
	ck_assert_int_eq(kloop_address_parse("127.0.0.1", 0, &address), 0);
	kt_datagram_open(&server, loop, &address, NULL, 0);
	if (_i % 4 >= 1)
		kt_turn_for(loop, 3);
	if (_i % 4 == 2)
		kloop_datagram_close(client.datagram);
	if (_i % 4 == 3)
		kloop_datagram_abort(client.datagram);
	kt_loop_free(loop);
	ck_assert_int_eq(client.count[KT_DATAGRAM_CLOSE], 1);
	ck_assert_int_eq(server.count[KT_DATAGRAM_CLOSE], 1);
	kt_datagram_forget(&client);
	kt_datagram_forget(&server);
	kt_close(fd);
	ck_assert_int_eq(kt_fd_count(), before);
}
END_TEST

/* The n-th allocation fails: something is refused or told, the rest goes on. */
START_TEST(no_memory)
{
	struct kloop_address any;

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", 0, &any), 0);
	kt_fault_install();
	for (size_t n = 1;; n++) {
		struct kloop_datagram *made = NULL;
		struct kt_datagram server;
		struct kloop_loop *loop;
		int result;
		bool hit;

		kt_fault_pause();
		loop = kt_mode_loop(_i);
		memset(&server, 0, sizeof(server));
		server.loop = loop;
		server.reading = true;
		kt_fault_resume();
		kt_fault_arm(n, 1);
		result = kloop_datagram_open(loop, &any, NULL, 0, &kt_datagram_handlers, &server, &made);
		server.datagram = made;
		if (result == 0)
			result = kloop_datagram_start_read(made);
		if (result == 0)
			result = kloop_datagram_get_address(made, &server.address);
		if (result == 0)
			result = kloop_datagram_send(made, "x", 1, &server.address);
		if (result == 0)
			kt_turn_until(loop, &server.count[KT_DATAGRAM], 1);
		else
			ck_assert_int_eq(result, -ENOMEM);
		hit = kt_fault_hits() > 0;
		kt_fault_arm(0, 0);
		if (made)
			kt_datagram_end(&server);
		kt_loop_free(loop);
		if (!hit)
			break;
	}
	kt_fault_remove();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("datagram_end");
	TCase *tcase = kt_case(suite, "queue", 120);

	tcase_add_loop_test(tcase, marks, 0, 2 * KT_MODES);
	tcase_add_loop_test(tcase, waits_quietly, 0, 2 * KT_MODES);

	tcase = kt_case(suite, "end", 120);
	tcase_add_loop_test(tcase, close_sends_first, 0, 2 * KT_MODES);
	tcase_add_loop_test(tcase, abort_does_not, 0, 2 * KT_MODES);
	tcase_add_loop_test(tcase, peer_goes, 0, 2 * KT_MODES);
	tcase_add_loop_test(tcase, keeps_fd, 0, KT_MODES);
	tcase_add_loop_test(tcase, inside_on_datagram, 0, 3 * KT_MODES * KT_DATAGRAM_KINDS);
	tcase_add_loop_test(tcase, inside_on_error, 0, KT_MODES);
	tcase_add_loop_test(tcase, loop_ends_first, 0, 4 * KT_MODES);
	tcase_add_loop_test(tcase, no_memory, 0, KT_MODES);
	return kt_main(suite);
}
