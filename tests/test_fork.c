/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A forked child frees a loop on which everything is going on: nothing of it
 * stays there, all owners are told, and the parent and its peers notice nothing.
 */
#include "datagrams.h"
#include "dns.h"
#include "fault.h"
#include "tlsstream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define LARGE 1000000 /* more than a socket's buffers hold */
#define SECRET 300000

static const struct kt_record zone[] = {
	{ "www.test", "A", "192.0.2.1" },
};

static unsigned char words[LARGE];

static struct {
	struct kloop_loop *loop, *server_loop;
	/* [0] is a stream's, [1] the test's. */
	int full[2], ended[2], secret[2], packets[2], pipe[2];
	struct kt_stream writer, shutter;
	struct kt_lent lent;
	struct kloop_tls_context *context;
	struct kt_tls tls;
	struct kt_peer peer;
	struct kt_datagram datagram;
	struct kloop_listener *listener;
	int accepted, listener_closed;
	uint16_t port;
	struct kt_dns dns;
	struct kt_files files;
	struct kloop_resolver *udp, *tcp;
	struct kt_lookup by_udp, by_tcp;
	struct kt_timer timer;
	struct kt_op poll, unsubmitted;
	struct kloop_call call;
	int called;
	/* Without the loop: descriptors that are open, and the library's blocks. */
	int before;
	size_t blocks;
} w;

static void on_accept(struct kloop_listener *listener, int fd, void *user)
{
	(void)listener;
	(void)user;
	kt_close(fd);
	w.accepted++;
}

static void on_listener_close(struct kloop_listener *listener, void *user)
{
	(void)listener;
	(void)user;
	w.listener_closed++;
}

static const struct kloop_listener_handlers listener_handlers = {
	.size = sizeof(listener_handlers),
	.on_accept = on_accept,
	.on_close = on_listener_close,
};

static void count_call(struct kloop_call *call)
{
	(void)call;
	w.called++;
}

/* ---- everything at once ------------------------------------------------ */

static void open_peers(void)
{
	kt_socketpair(w.full);
	kt_socketpair(w.ended);
	kt_socketpair(w.secret);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, w.packets), 0);
	kt_pipe(w.pipe);
	w.server_loop = kt_loop_new(NULL);
	kt_dns_open(&w.dns, w.server_loop, zone, KT_COUNT(zone), true);
	kt_files_open(&w.files);
	kt_peer_open(&w.peer, w.secret[1], true, 0);
	w.context = kt_tls_setup_context(&(struct kt_tls_setup){ .kind = KT_LOCAL },
					 KLOOP_TLS_CLIENT);
	w.before = kt_fd_count() - 4;
	w.blocks = kt_fault_blocks();
}

static void open_resolvers(void)
{
	struct kt_dns *servers[] = { &w.dns };
	struct kloop_resolver_options *options = kt_resolver_options(&w.files, servers, 0);
	struct kloop_address address = kt_dns_address(&w.dns);

	w.udp = kt_resolver_new(w.loop, kt_resolver_options(&w.files, servers, 1));
	ck_assert_int_eq(kloop_resolver_options_add_server(options, &address, KLOOP_DNS_TCP), 0);
	w.tcp = kt_resolver_new(w.loop, options);
}

static void open_listener(void)
{
	struct kloop_address address;

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", 0, &address), 0);
	ck_assert_int_eq(kloop_listener_open(w.loop, &address, 4, 0, &listener_handlers, NULL,
					     &w.listener),
			 0);
	ck_assert_int_eq(kloop_listener_get_address(w.listener, &address), 0);
	w.port = ntohs(address.u.ip4.sin_port);
}

static void open_all(int rung)
{
	memset(&w, 0, sizeof(w));
	kt_fill(words, sizeof(words), 0);
	open_peers();
	w.loop = kt_loop_on_rung(rung);
	open_resolvers();
	open_listener();
	kt_stream_open(&w.writer, w.loop, w.full[0], 0);
	kt_stream_open(&w.shutter, w.loop, w.ended[0], 0);
	kt_stream_start(&w.shutter);
	kt_stream_open(&w.tls.s, w.loop, w.secret[0], 0);
	kt_tls_upgrade(&w.tls, w.context, "localhost", KLOOP_KTLS_OFF);
	kt_stream_start(&w.tls.s);
	kt_peer_until(&w.peer, w.loop, &w.tls.handshakes, 1);
	ck_assert_int_eq(w.tls.result, 0);
	kt_datagram_new(&w.datagram, w.loop, w.packets[0], 0);
}

/* Half of it is on its way, the other half would be with the next turn. */
static void begin_all(void)
{
	kt_lend(&w.writer, &w.lent, words, sizeof(words));
	kt_tls_put(&w.tls, SECRET, 0);
	kt_lookup_start(&w.by_udp, w.udp, "www.test", NULL, NULL);
	kt_lookup_start(&w.by_tcp, w.tcp, "www.test", NULL, NULL);
	kt_op_init(&w.poll);
	KT_ACCEPTED(kloop_op_poll(w.loop, &w.poll.op, w.pipe[0], POLLIN));
	for (int i = 0; i < 5; i++)
		kt_turn(w.loop, 0);
	kt_stream_put(&w.shutter, "bye", 3);
	ck_assert_int_eq(kloop_stream_shutdown(w.shutter.stream), 0);
	kt_datagram_put(&w.datagram, "once", 4, NULL);
	kt_timer_init(&w.timer);
	ck_assert_int_eq(kloop_timer_start(w.loop, &w.timer.timer, kloop_now()), 0);
	kt_op_init(&w.unsubmitted);
	KT_ACCEPTED(kloop_op_nop(w.loop, &w.unsubmitted.op));
	w.call.call = count_call;
	ck_assert_int_eq(kloop_loop_post(w.loop, &w.call), 0);
}

/* ---- the child --------------------------------------------------------- */

static int free_in_child(void *data)
{
	(void)data;
	KT_CHILD_CHECK(w.lent.released == 0 && w.timer.fired == 0);
	KT_CHILD_CHECK(kloop_loop_free(w.loop) == 0);
	KT_CHILD_CHECK(w.writer.count[KT_ON_CLOSE] == 1 && w.writer.close_fd == -1);
	KT_CHILD_CHECK(w.writer.count[KT_ON_ERROR] == 0);
	KT_CHILD_CHECK(w.shutter.count[KT_ON_CLOSE] == 1);
	KT_CHILD_CHECK(w.tls.s.count[KT_ON_CLOSE] == 1);
	KT_CHILD_CHECK(w.datagram.count[KT_DATAGRAM_CLOSE] == 1);
	KT_CHILD_CHECK(w.listener_closed == 1 && w.accepted == 0);
	KT_CHILD_CHECK(w.lent.released == 1 && w.lent.status == -ECANCELED);
	KT_CHILD_CHECK(w.by_udp.done == 1 && w.by_udp.result < 0);
	KT_CHILD_CHECK(w.by_tcp.done == 1 && w.by_tcp.result < 0);
	KT_CHILD_CHECK(w.poll.last == 1 && w.poll.result == -ECANCELED);
	KT_CHILD_CHECK(w.unsubmitted.last == 1 && w.unsubmitted.result == -ECANCELED);
	KT_CHILD_CHECK(w.timer.fired == 0 && w.called == 1);
	kt_lookup_clear(&w.by_udp);
	kt_lookup_clear(&w.by_tcp);
	KT_CHILD_CHECK(kt_fd_count() == w.before);
	KT_CHILD_CHECK(kt_fault_blocks() == w.blocks);
	kt_stream_forget(&w.writer);
	kt_stream_forget(&w.shutter);
	kt_stream_forget(&w.tls.s);
	kt_datagram_forget(&w.datagram);
	return 0;
}

/* ---- the parent, afterwards -------------------------------------------- */

static void check_undisturbed(void)
{
	ck_assert_int_eq(w.writer.count[KT_ON_CLOSE] + w.shutter.count[KT_ON_CLOSE] +
				 w.tls.s.count[KT_ON_CLOSE] + w.datagram.count[KT_DATAGRAM_CLOSE] +
				 w.listener_closed,
			 0);
	ck_assert_int_eq(w.lent.released + w.called + w.poll.completions +
				 w.unsubmitted.completions + w.by_udp.done + w.by_tcp.done,
			 0);
}

static void check_writer(void)
{
	unsigned char *got = malloc(LARGE);

	ck_assert_ptr_nonnull(got);
	ck_assert_uint_eq(kt_turn_read(w.loop, w.full[1], got, LARGE), LARGE);
	ck_assert(kt_is_fill(got, LARGE, 0));
	free(got);
	kt_turn_until(w.loop, &w.lent.released, 1);
	ck_assert_int_eq(w.lent.status, 0);
}

/* The last words, the end, and then the other direction. */
static void check_shutter(void)
{
	char got[8];

	ck_assert_uint_eq(kt_turn_read(w.loop, w.ended[1], got, sizeof(got)), 3);
	ck_assert_mem_eq(got, "bye", 3);
	kt_write_all(w.ended[1], "heard", 5);
	kt_stream_await(&w.shutter, 5);
}

static void check_datagram(void)
{
	char got[8];

	while (recv(w.packets[1], got, sizeof(got), MSG_DONTWAIT | MSG_PEEK) < 0)
		kt_turn(w.loop, KT_MS);
	ck_assert_int_eq(recv(w.packets[1], got, sizeof(got), MSG_DONTWAIT), 4);
	ck_assert_mem_eq(got, "once", 4);
	ck_assert_int_eq(write(w.packets[1], "back", 4), 4);
	kt_turn_until(w.loop, &w.datagram.count[KT_DATAGRAM], 1);
	/* It was not sent by the child as well. */
	ck_assert_int_lt(recv(w.packets[1], got, sizeof(got), MSG_DONTWAIT), 0);
}

static void check_lookups(void)
{
	while (!w.by_udp.done || !w.by_tcp.done) {
		kt_turn(w.server_loop, 0);
		kt_turn(w.loop, KT_MS);
	}
	ck_assert_int_eq(w.by_udp.result, 0);
	ck_assert_int_eq(w.by_tcp.result, 0);
}

static void check_listener(void)
{
	struct kloop_address address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", w.port, &address), 0);
	ck_assert_int_eq(connect(fd, &address.u.any, address.length), 0);
	kt_turn_until(w.loop, &w.accepted, 1);
	kt_close(fd);
}

static void check_tls(void)
{
	kt_peer_await(&w.peer, w.loop, SECRET);
	kt_peer_put(&w.peer, w.loop, 1000, 0);
	kt_stream_await(&w.tls.s, 1000);
	kt_tls_put(&w.tls, 1000, SECRET);
	kt_peer_await(&w.peer, w.loop, SECRET + 1000);
}

static void check_rest(void)
{
	kt_turn_until(w.loop, &w.timer.fired, 1);
	kt_turn_until(w.loop, &w.called, 1);
	ck_assert_int_eq(kt_op_wait(w.loop, &w.unsubmitted), 0);
	ck_assert_int_eq(write(w.pipe[1], "x", 1), 1);
	ck_assert_int_eq(kt_op_wait(w.loop, &w.poll), POLLIN);
	ck_assert_int_eq(w.called, 1);
}

static void close_all(void)
{
	kt_lookup_clear(&w.by_udp);
	kt_lookup_clear(&w.by_tcp);
	kt_loop_free(w.loop);
	ck_assert_int_eq(w.listener_closed, 1);
	/* The name server still has its end of the connection. */
	ck_assert_int_eq(kt_fd_count() - w.dns.connections, w.before);
	kt_stream_forget(&w.writer);
	kt_stream_forget(&w.shutter);
	kt_stream_forget(&w.tls.s);
	kt_datagram_forget(&w.datagram);
	kloop_tls_context_unref(w.context);
	kt_peer_free(&w.peer);
	kt_dns_close(&w.dns);
	kt_loop_free(w.server_loop);
	kt_files_close(&w.files);
	kt_close(w.full[1]);
	kt_close(w.ended[1]);
	kt_close(w.packets[1]);
	kt_close(w.pipe[0]);
	kt_close(w.pipe[1]);
}

START_TEST(everything_is_freed_in_a_child)
{
	kt_fault_install();
	open_all(_i);
	begin_all();
	kt_fork_ok(free_in_child, NULL);
	check_undisturbed();
	check_writer();
	check_shutter();
	check_datagram();
	check_tls();
	check_lookups();
	check_listener();
	check_rest();
	close_all();
	kt_fault_remove();
}
END_TEST

/* ---- inside a callback -------------------------------------------------- */

static int free_inside(void *data)
{
	KT_CHILD_CHECK(kloop_loop_free(data) == 0);
	KT_CHILD_CHECK(w.poll.last == 1 && w.poll.result == -ECANCELED);
	return 0;
}

static void fork_and_free(struct kt_timer *timer)
{
	kt_fork_ok(free_inside, timer->data);
}

START_TEST(a_child_frees_inside)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct kt_timer timer;

	kt_pipe(w.pipe);
	kt_op_init(&w.poll);
	kt_timer_init(&timer);
	timer.then = fork_and_free;
	timer.data = loop;
	KT_ACCEPTED(kloop_op_poll(loop, &w.poll.op, w.pipe[0], POLLIN));
	ck_assert_int_eq(kloop_timer_start(loop, &timer.timer, kloop_now()), 0);
	kt_turn_until(loop, &timer.fired, 1);
	ck_assert_int_eq(write(w.pipe[1], "x", 1), 1);
	ck_assert_int_eq(kt_op_wait(loop, &w.poll), POLLIN);
	kt_loop_free(loop);
	kt_close(w.pipe[0]);
	kt_close(w.pipe[1]);
}
END_TEST

/* The child's answer is its exit status: it is in the middle of the test, and leaves here. */
static pid_t child;

/* The timer would be called in the same turn. */
static void fork_here(struct kt_op *op)
{
	struct kt_timer *timer = op->data;

	ck_assert_int_eq(kloop_timer_start(op->op.loop, &timer->timer, kloop_now()), 0);
	child = fork();
	ck_assert_int_ge(child, 0);
}

/* It goes back into the turn: completions that are there are its parent's. */
START_TEST(a_child_returns_from_a_callback)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct kt_timer timer;
	struct kt_op ops[4];
	int r = 0, status;

	child = -1;
	kt_turn(loop, 0);
	kt_timer_init(&timer);
	for (size_t i = 0; i < KT_COUNT(ops); i++) {
		kt_op_init(&ops[i]);
		KT_ACCEPTED(kloop_op_nop(loop, &ops[i].op));
	}
	ops[0].then = fork_here;
	ops[0].data = &timer;
	while (child < 0)
		r = kloop_loop_turn(loop, KT_MS);
	if (child == 0) {
		KT_CHILD_CHECK(r == -ECHILD && ops[0].last == 1 && timer.fired == 0);
		KT_CHILD_CHECK(ops[1].completions + ops[2].completions + ops[3].completions == 0);
		KT_CHILD_CHECK(kloop_loop_turn(loop, 0) == -ECHILD);
		KT_CHILD_CHECK(kloop_loop_free(loop) == 0);
		KT_CHILD_CHECK(ops[0].last == 1 && ops[3].last == 1);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	for (size_t i = 0; i < KT_COUNT(ops); i++) {
		ck_assert_int_eq(kt_op_wait(loop, &ops[i]), 0);
		ck_assert_int_eq(ops[i].completions, 1);
	}
	kt_turn_until(loop, &timer.fired, 1);
	kt_loop_free(loop);
}
END_TEST

static struct kloop_call calls[3];
static int call_order[3], call_count;

static void note_call(struct kloop_call *call)
{
	call_order[call_count++] = (int)(call - calls);
	if (call == &calls[0]) {
		/* Behind those that wait. */
		ck_assert_int_eq(kloop_loop_post(w.loop, &calls[2]), 0);
		child = fork();
		ck_assert_int_ge(child, 0);
	}
}

/* What is posted behind it is its parent's, too, until it frees the loop. */
START_TEST(a_child_returns_from_a_posted_call)
{
	int r = 0, status;

	w.loop = kt_loop_on_rung(_i);
	child = -1;
	call_count = 0;
	for (int i = 0; i < 3; i++)
		calls[i].call = note_call;
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(kloop_loop_post(w.loop, &calls[i]), 0);
	while (child < 0)
		r = kloop_loop_turn(w.loop, KT_MS);
	if (child == 0) {
		KT_CHILD_CHECK(r == -ECHILD && call_count == 1);
		KT_CHILD_CHECK(kloop_loop_free(w.loop) == 0);
		KT_CHILD_CHECK(call_count == 3 && call_order[1] == 1 && call_order[2] == 2);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	kt_turn_until(w.loop, &call_count, 3);
	ck_assert(call_order[1] == 1 && call_order[2] == 2);
	kt_loop_free(w.loop);
	ck_assert_int_eq(call_count, 3);
}
END_TEST

static int signals_seen;

static void fork_at_signal(struct kloop_signal *watcher, int number, void *data)
{
	(void)watcher;
	(void)number;
	(void)data;
	signals_seen++;
	if (child < 0)
		child = fork();
	ck_assert_int_ge(child, 0);
}

START_TEST(a_child_returns_from_a_signal)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct kloop_signal *watchers[2];
	int r = 0, status;

	child = -1;
	signals_seen = 0;
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(kloop_signal_new(loop, SIGUSR1, fork_at_signal, NULL, &watchers[i]),
				 0);
	ck_assert_int_eq(raise(SIGUSR1), 0);
	while (child < 0)
		r = kloop_loop_turn(loop, KT_MS);
	if (child == 0) {
		KT_CHILD_CHECK(r == -ECHILD && signals_seen == 1);
		KT_CHILD_CHECK(kloop_loop_free(loop) == 0 && signals_seen == 1);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(signals_seen, 2);
	kt_loop_free(loop);
}
END_TEST

static void fork_once(struct kt_op *op)
{
	(void)op;
	child = fork();
	ck_assert_int_ge(child, 0);
}

/* Completions that no ring brings: of calls that were made in place of operations. */
START_TEST(a_child_returns_from_a_plain_completion)
{
	struct kloop_loop *loop = kt_loop_without(KLOOP_FEATURE_FTRUNCATE);
	struct kt_op ops[3];
	int r = 0, status;

	child = -1;
	for (size_t i = 0; i < KT_COUNT(ops); i++) {
		kt_op_init(&ops[i]);
		ck_assert_int_eq(kloop_op_ftruncate(loop, &ops[i].op, -1, 0), 0);
	}
	ops[0].then = fork_once;
	while (child < 0)
		r = kloop_loop_turn(loop, KT_MS);
	if (child == 0) {
		KT_CHILD_CHECK(r == -ECHILD && ops[0].last == 1);
		KT_CHILD_CHECK(ops[1].completions + ops[2].completions == 0);
		KT_CHILD_CHECK(kloop_loop_free(loop) == 0);
		KT_CHILD_CHECK(ops[1].last == 1 && ops[2].last == 1);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(kt_op_wait(loop, &ops[2]), -EBADF);
	ck_assert_int_eq(ops[1].last, 1);
	kt_loop_free(loop);
}
END_TEST

static Suite *fork_suite(void)
{
	Suite *suite = suite_create("fork");
	TCase *ends = kt_case(suite, "ends", 60);

	tcase_add_loop_test(ends, everything_is_freed_in_a_child, 0, KT_RUNGS);
	tcase_add_loop_test(ends, a_child_frees_inside, 0, KT_RUNGS);
	tcase_add_loop_test(ends, a_child_returns_from_a_callback, 0, KT_RUNGS);
	tcase_add_loop_test(ends, a_child_returns_from_a_posted_call, 0, KT_RUNGS);
	tcase_add_loop_test(ends, a_child_returns_from_a_signal, 0, KT_RUNGS);
	tcase_add_test(ends, a_child_returns_from_a_plain_completion);
	return suite;
}

int main(void)
{
	return kt_main(fork_suite());
}
