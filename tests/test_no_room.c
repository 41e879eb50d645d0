/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The submission queue is full, the kernel takes nothing, and there is no memory to keep
 * operations for later: what ends in that moment ends properly all the same.
 */
#include "datagrams.h"
#include "dns.h"
#include "fake.h"
#include "fault.h"
#include "ring/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct kloop_loop *loop;
static struct kt_op nops[64];
static int accepted, closes;

static void setup(void)
{
	kt_fault_install();
	loop = kt_loop_sized(8, 64);
	kt_turn(loop, 0);
	accepted = 0;
	closes = 0;
}

static void teardown(void)
{
	kt_loop_free(loop);
	kt_fault_remove();
}

/* From here on no operation is accepted; what was and is in the queue stays there. */
static void take_room(void)
{
	int r = 0;

	kt_fake.submit_error = -EAGAIN;
	kt_fake.submit_failures = -1;
	kt_fault_arm(1, 0);
	for (accepted = 0; r == 0 && accepted < (int)KT_COUNT(nops); accepted++) {
		kt_op_init(&nops[accepted]);
		r = KT_SUBMIT(kloop_op_nop(loop, &nops[accepted].op));
	}
	accepted--;
	ck_assert_int_eq(r, -ENOMEM);
}

static void give_room(void)
{
	kt_fault_arm(0, 0);
	kt_fake_reset();
	for (int i = 0; i < accepted; i++)
		ck_assert_int_eq(kt_op_wait(loop, &nops[i]), 0);
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

/* ---- closing ---------------------------------------------------------- */

/*
 * A receive that waits for its place in the queue names its descriptor by number: that must
 * not become somebody else's before the kernel has seen the receive.
 */
START_TEST(a_stream_closes)
{
	struct kt_stream stream;
	char byte = 0;
	int fds[2], other[2];

	kt_pair(_i, fds);
	kt_stream_open(&stream, loop, fds[0], 0);
	kt_stream_start(&stream);
	take_room();
	kloop_stream_abort(stream.stream);
	kt_turn(loop, 0);
	kt_turn(loop, 0);
	/* Would be the number of the stream's, if that was free. */
	kt_socketpair(other);
	ck_assert(is_open(fds[0]));
	ck_assert_int_ne(other[0], fds[0]);
	kt_write_all(other[1], "x", 1);
	give_room();
	kt_turn_until(loop, &stream.count[KT_ON_CLOSE], 1);
	ck_assert(!is_open(fds[0]));
	ck_assert_int_eq(recv(other[0], &byte, 1, MSG_DONTWAIT), 1);
	ck_assert_int_eq(byte, 'x');
	kt_stream_forget(&stream);
	kt_close(other[0]);
	kt_close(other[1]);
	kt_close(fds[1]);
}
END_TEST

START_TEST(a_datagram_socket_closes)
{
	struct kt_datagrams pair;
	int fd;

	kt_datagrams_open(&pair, _i, loop, 0);
	fd = kloop_datagram_get_fd(pair.server.datagram);
	take_room();
	kloop_datagram_close(pair.server.datagram);
	kt_turn(loop, 0);
	kt_turn(loop, 0);
	ck_assert(is_open(fd));
	ck_assert_int_eq(pair.server.count[KT_DATAGRAM_CLOSE], 0);
	give_room();
	kt_turn_until(loop, &pair.server.count[KT_DATAGRAM_CLOSE], 1);
	ck_assert(!is_open(fd));
	kt_datagram_forget(&pair.server);
	kt_datagram_end(&pair.client);
}
END_TEST

static void on_accept(struct kloop_listener *listener, int fd, void *user)
{
	(void)listener;
	(void)user;
	kt_close(fd);
	ck_abort_msg("a connection that nobody made");
}

static void on_close(struct kloop_listener *listener, void *user)
{
	(void)listener;
	(void)user;
	closes++;
}

static const struct kloop_listener_handlers handlers = {
	.size = sizeof(handlers),
	.on_accept = on_accept,
	.on_close = on_close,
};

START_TEST(a_listener_closes)
{
	struct kloop_listener *listener;
	uint16_t port;
	int fd = kt_listen(8, &port);

	ck_assert_int_eq(kloop_listener_new(loop, fd, 0, &handlers, NULL, &listener), 0);
	take_room();
	kloop_listener_close(listener);
	kt_turn(loop, 0);
	kt_turn(loop, 0);
	ck_assert(is_open(fd));
	ck_assert_int_eq(closes, 0);
	give_room();
	kt_turn_until(loop, &closes, 1);
	ck_assert(!is_open(fd));
}
END_TEST

/* A server that says nothing; the resolver waits for it by an operation. */
START_TEST(a_resolver_closes)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct kloop_address address = { .length = sizeof(in) };
	struct kloop_resolver_options *options = kt_resolver_options(NULL, NULL, 0);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), fds = 0;
	struct kloop_resolver *resolver;
	struct kt_lookup lookup;
	uint64_t end;

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	ck_assert_int_eq(getsockname(fd, &address.u.any, &address.length), 0);
	ck_assert_int_eq(kloop_resolver_options_add_server(options, &address, KLOOP_DNS_UDP), 0);
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 30000 * KT_MS, 1), 0);
	resolver = kt_resolver_new(loop, options);
	fds = kt_fd_count();
	kt_lookup_init(&lookup);
	kt_lookup_start(&lookup, resolver, "www.test", NULL, NULL);
	end = kloop_now() + (uint64_t)KT_PATIENCE_MS * KT_MS;
	while (kt_resolver_stats(resolver).packets_sent == 0 && kloop_now() < end)
		kt_turn(loop, kt_slice(10 * KT_MS));
	ck_assert_uint_gt(kt_resolver_stats(resolver).packets_sent, 0);
	/* With 1 the kernel knows the operation already. */
	if (_i)
		kt_turn(loop, 0);
	take_room();
	kloop_resolver_close(resolver);
	give_room();
	/* It returns, since nothing is left to wait for. */
	ck_assert_int_eq(kloop_loop_run(loop), 0);
	ck_assert_int_eq(lookup.done, 1);
	ck_assert_int_eq(lookup.result, -ECANCELED);
	ck_assert_int_eq(kt_fd_count(), fds);
	kt_close(fd);
}
END_TEST

/* ---- cancelling ------------------------------------------------------- */

/*
 * The kernel's answer to a cancel may come behind the operation's own completion: one that
 * was submitted meanwhile in the same memory is not meant.
 */
START_TEST(an_answer_that_is_late)
{
	struct kt_op op;
	int fds[2];

	kt_pipe(fds);
	kt_op_init(&op);
	KT_ACCEPTED(kloop_op_poll(loop, &op.op, fds[0], POLLIN));
	kt_turn(loop, 0);
	kl_op_note_cancel(loop, (uint64_t)(uintptr_t)&op.op | KL_CANCEL_BIT, -EALREADY);
	ck_assert(!kloop_timer_is_active(&loop->again));
	ck_assert_int_eq(op.op.state & KL_OP_STUBBORN, 0);
	/* One that somebody wants to end is asked again. */
	ck_assert_int_eq(kloop_op_cancel(&op.op), 0);
	kl_op_note_cancel(loop, (uint64_t)(uintptr_t)&op.op | KL_CANCEL_BIT, -EALREADY);
	ck_assert(kloop_timer_is_active(&loop->again));
	ck_assert_int_eq(kt_op_wait(loop, &op), -ECANCELED);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

static Suite *no_room_suite(void)
{
	Suite *suite = suite_create("no room");
	TCase *close = kt_case(suite, "close", 30);
	TCase *cancel = kt_case(suite, "cancel", 30);

	tcase_add_checked_fixture(close, setup, teardown);
	tcase_add_loop_test(close, a_stream_closes, 0, KT_KINDS);
	tcase_add_loop_test(close, a_datagram_socket_closes, 0, KT_DATAGRAM_KINDS);
	tcase_add_test(close, a_listener_closes);
	tcase_add_loop_test(close, a_resolver_closes, 0, 2);

	tcase_add_checked_fixture(cancel, setup, teardown);
	tcase_add_test(cancel, an_answer_that_is_late);
	return suite;
}

int main(void)
{
	return kt_main(no_room_suite());
}
