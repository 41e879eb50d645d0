/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Faults among datagrams: UDP with its errors and without, and Unix sockets. */
#include "sweep.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define COUNT 60

struct end {
	struct kloop_datagram *datagram;
	int received, errors, closed, queued;
	bool echoes, over;
};

static struct {
	struct kloop_loop *loop;
	struct kloop_timer patience;
	struct end client, server;
	bool ending;
} w;

/* A datagram's bytes say its number, and how long it is. */
static size_t fill(unsigned char *data, int number)
{
	size_t bytes = (size_t)number * 23 % 900;

	memset(data, number, bytes + 1);
	return bytes;
}

static void on_datagram(struct kloop_datagram *datagram, const void *data, size_t bytes,
			const struct kloop_address *from, unsigned flags, void *user)
{
	struct end *end = user;
	unsigned char expected[1024];

	KT_HOLDS(end->datagram == datagram && !end->over && flags == 0);
	if (bytes > 0) {
		KT_HOLDS(fill(expected, *(const unsigned char *)data) == bytes);
		KT_HOLDS(memcmp(expected, data, bytes) == 0);
	}
	end->received++;
	if (end->echoes)
		end->queued += kt_took(kloop_datagram_send(datagram, data, bytes,
							   from->length > 0 ? from : NULL));
	if (end->received % 20 == 0) {
		KT_HOLDS(kloop_datagram_stop_read(datagram) == 0);
		(void)!kt_took(kloop_datagram_start_read(datagram));
	}
}

static void on_error(struct kloop_datagram *datagram, int error, const struct kloop_address *peer,
		     void *user)
{
	struct end *end = user;

	(void)peer;
	KT_HOLDS(end->datagram == datagram && error < 0);
	KT_HOLDS((kt_sweep_happened() && !kt_sweep_must_succeed()) || w.ending);
	end->errors++;
	/* Some errors end receiving until it is asked for again. */
	if (!end->over)
		(void)!kt_took(kloop_datagram_start_read(datagram));
}

static void on_close(struct kloop_datagram *datagram, void *user)
{
	struct end *end = user;

	KT_HOLDS(end->datagram == datagram && end->closed++ == 0);
	end->datagram = NULL;
}

static const struct kloop_datagram_handlers handlers = {
	.size = sizeof(handlers),
	.on_datagram = on_datagram,
	.on_error = on_error,
	.on_close = on_close,
};

/* ---- scenarios -------------------------------------------------------- */

static void run_patience(struct kloop_timer *timer)
{
	(void)timer;
	w.ending = true;
}

/* Datagrams may get lost by a fault: then nothing tells, but that nothing more comes. */
static bool all_came(void *data)
{
	(void)data;
	if (w.client.received >= COUNT && w.client.received == w.server.queued)
		return true;
	if (kt_sweep_happened() && !kt_sweep_must_succeed() &&
	    !kloop_timer_is_active(&w.patience) && !w.ending)
		KT_PLAIN(ck_assert_int_eq(kloop_timer_start(w.loop, &w.patience,
							    kloop_now() + 30 * KT_MS), 0));
	return w.ending;
}

static bool all_closed(void *data)
{
	(void)data;
	return !w.client.datagram && !w.server.datagram;
}

static void open_end(struct end *end, int fd, unsigned flags)
{
	if (!kt_took(kloop_datagram_new(w.loop, fd, flags, &handlers, end, &end->datagram)))
		KT_PLAIN(close(fd));
	else if (!kt_took(kloop_datagram_start_read(end->datagram)))
		w.ending = true;
}

/* UDP by the library's own calls. */
static bool open_udp(unsigned flags)
{
	struct kloop_address address;
	int r;

	KT_PLAIN(r = kloop_address_parse("127.0.0.1", 0, &address));
	KT_HOLDS(r == 0);
	if (!kt_took(kloop_datagram_open(w.loop, &address, NULL, flags, &handlers, &w.server,
					 &w.server.datagram)) ||
	    !kt_took(kloop_datagram_get_address(w.server.datagram, &address)) ||
	    !kt_took(kloop_datagram_open(w.loop, NULL, &address, flags, &handlers, &w.client,
					 &w.client.datagram)))
		return false;
	return kt_took(kloop_datagram_start_read(w.server.datagram)) &&
	       kt_took(kloop_datagram_start_read(w.client.datagram));
}

static bool open_unix(void)
{
	int fds[2];

	KT_PLAIN(ck_assert_int_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds), 0));
	open_end(&w.server, fds[0], 0);
	open_end(&w.client, fds[1], 0);
	return w.server.datagram && w.client.datagram;
}

static void send_all(void)
{
	unsigned char data[1024];

	for (int i = 0; i < COUNT; i++) {
		size_t bytes = fill(data, i);
		int tried = i % 10 == 0 ? kloop_datagram_try_send(w.client.datagram, data, bytes, NULL)
					: 0;

		KT_HOLDS(tried >= 0 || kt_sweep_happened());
		if (tried == 1)
			w.client.queued++;
		else
			w.client.queued += kt_took(
				kloop_datagram_send(w.client.datagram, data, bytes, NULL));
	}
}

static void close_all(void)
{
	w.client.over = w.server.over = true;
	if (w.client.datagram)
		kloop_datagram_close(w.client.datagram);
	if (w.server.datagram)
		kloop_datagram_abort(w.server.datagram);
	kt_sweep_until(w.loop, all_closed, NULL);
	kloop_timer_stop(&w.patience);
	KT_HOLDS(kloop_loop_free(w.loop) == 0);
	/* What was queued came once, or not at all; a datagram is not made twice. */
	KT_HOLDS(w.server.received <= w.client.queued && w.client.received <= w.server.queued);
	if (kt_sweep_must_succeed())
		KT_HOLDS(w.client.received == COUNT && w.client.errors + w.server.errors == 0);
}

static void converse(int mode, bool local, unsigned flags)
{
	memset(&w, 0, sizeof(w));
	w.loop = kt_sweep_loop(mode);
	if (!w.loop)
		return;
	kloop_timer_init(&w.patience, run_patience);
	w.server.echoes = true;
	if (local ? open_unix() : open_udp(flags)) {
		send_all();
		kt_sweep_until(w.loop, all_came, NULL);
	}
	close_all();
}

static void udp(int mode)
{
	converse(mode, false, 0);
}

static void udp_errors(int mode)
{
	converse(mode, false, KLOOP_DATAGRAM_PEER_ERRORS);
}

static void local(int mode)
{
	converse(mode, true, 0);
}

START_TEST(sweep_udp)
{
	kt_sweep("datagrams, UDP", udp, _i);
}
END_TEST

START_TEST(sweep_udp_errors)
{
	kt_sweep("datagrams, error queue", udp_errors, _i);
}
END_TEST

START_TEST(sweep_local)
{
	kt_sweep("datagrams, Unix", local, _i);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("sweep_datagram");

	tcase_add_loop_test(kt_case(suite, "udp", 1200), sweep_udp, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "udp_errors", 1200), sweep_udp_errors, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "local", 1200), sweep_local, 0, KT_SWEEP_MODES);
	return kt_main(suite);
}
