/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Faults while two streams speak TLS: contexts and sessions, the handshake,
 * data in both directions, a file, and the end; with KT_FAKE_KTLS in the kernel
 * of tests/lib/fakektls.h.
 */
#include "sweep.h"

#include "files.h"
#include "tlsstream.h"
#ifdef KT_FAKE_KTLS
#include "fakelink.h"
#endif

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define SMALL 500
#define LARGE 90000
#define FILE_BYTES 100000
#define TOTAL (SMALL + LARGE)

static unsigned char pattern[TOTAL + FILE_BYTES];
static int file;

struct end {
	struct kloop_stream *stream;
	int handshakes, eofs, errors, closed;
	size_t received;
	bool over, shaken;
};

static struct {
	struct kloop_loop *loop;
	struct kloop_tls_context *contexts[2];
	struct kloop_timer patience;
	struct end client, server;
	int files_sent, files_expected;
	bool ending;
} w;

static bool took(int r)
{
	KT_HOLDS(r == 0 || (r < 0 && (kt_sweep_happened() || w.ending)));
	return r == 0;
}

static void give_up(struct end *end)
{
	KT_HOLDS(kt_sweep_happened() || w.ending);
	end->over = true;
	if (end->stream)
		kloop_stream_abort(end->stream);
}

static void put(struct end *end, const void *data, size_t bytes)
{
	if (!end->over && !took(kloop_stream_write(end->stream, data, bytes, NULL, NULL)))
		give_up(end);
}

static void on_handshake(struct kloop_stream *stream, int result, void *user)
{
	struct end *end = user;

	KT_HOLDS(end->stream == stream && end->handshakes++ == 0);
	KT_HOLDS(result <= 0);
	KT_HOLDS(result == 0 || w.ending || (kt_sweep_happened() && !kt_sweep_must_succeed()));
	if (result < 0)
		give_up(end);
	else
		end->shaken = true;
}

static void file_sent(void *owner, int status, uint64_t bytes, void *user)
{
	(void)user;
	KT_HOLDS(owner == &w.files_sent && (status == 0 || w.ending || kt_sweep_happened()));
	KT_HOLDS(status < 0 || bytes == FILE_BYTES);
	w.files_sent++;
}

/* The server answers what it got with a file. */
static void answer(struct end *end)
{
	if (took(kloop_stream_send_file(end->stream, file, 0, KLOOP_FILE_END, 0, file_sent,
					&w.files_sent)))
		w.files_expected++;
	else
		give_up(end);
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	struct end *end = user;
	bool client = end == &w.client;
	size_t most = client ? TOTAL + FILE_BYTES : TOTAL;

	KT_HOLDS(end->stream == stream && end->shaken && !end->eofs && !end->over);
	KT_HOLDS(end->received + bytes <= most);
	if (!client || end->received + bytes <= TOTAL)
		KT_HOLDS(memcmp(data, pattern + end->received, bytes) == 0);
	end->received += bytes;
	if (!client) {
		put(end, data, bytes);
		if (end->received == TOTAL && !end->over)
			answer(end);
	}
}

static void on_eof(struct kloop_stream *stream, void *user)
{
	struct end *end = user;

	KT_HOLDS(end->stream == stream && !end->errors && end->eofs++ == 0);
	end->over = true;
	kloop_stream_close(stream);
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	struct end *end = user;

	KT_HOLDS(end->stream == stream && error < 0 && end->errors++ == 0);
	KT_HOLDS(!kt_sweep_must_succeed() || w.ending);
	give_up(end);
}

static void on_close(struct kloop_stream *stream, void *user)
{
	struct end *end = user;

	KT_HOLDS(end->stream == stream && end->closed++ == 0);
	end->stream = NULL;
}

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_data = on_data,
	.on_eof = on_eof,
	.on_error = on_error,
	.on_close = on_close,
};

/* ---- the world -------------------------------------------------------- */

static void start_patience(struct kloop_timer *timer)
{
	KT_PLAIN(ck_assert_int_eq(kloop_timer_start(w.loop, timer, kloop_now() + 400 * KT_MS), 0));
}

static void out_of_patience(struct kloop_timer *timer)
{
	/* Without a fault it ends by itself. */
	if (!kt_sweep_happened() || kt_sweep_must_succeed()) {
		start_patience(timer);
		return;
	}
	if (w.client.stream)
		give_up(&w.client);
	if (w.server.stream)
		give_up(&w.server);
}

static bool both_closed(void *data)
{
	(void)data;
	return !w.client.stream && !w.server.stream;
}

static bool make_context(int which, unsigned version)
{
	const char *pem = kt_cert_pem(which == 0 ? KT_CERT_CA : KT_CERT_SERVER);
	const char *key = kt_cert_key_pem(KT_CERT_SERVER);
	struct kloop_tls_context **context = &w.contexts[which];

	if (!took(kloop_tls_context_new(which == 0 ? KLOOP_TLS_CLIENT : KLOOP_TLS_SERVER, context)))
		return false;
	KT_HOLDS(kloop_tls_context_set_versions(*context, version, version) == 0);
	if (which == 0)
		return took(kloop_tls_context_use_trust(*context, pem, strlen(pem)));
	return took(kloop_tls_context_use_certificate(*context, pem, strlen(pem), key, strlen(key)));
}

static void upgrade(struct end *end, int which)
{
	struct kloop_tls *tls = NULL;

	if (!took(kloop_tls_new(w.contexts[which], &tls)))
		goto failed;
	if (which == 0 && !took(kloop_tls_set_name(tls, "localhost")))
		goto failed;
#ifdef KT_FAKE_KTLS
	KT_HOLDS(kloop_tls_set_ktls(tls, KLOOP_KTLS_ON) == 0);
#endif
	if (!took(kloop_tls_start(tls, end->stream, on_handshake)))
		goto failed;
	if (!took(kloop_stream_start_read(end->stream)))
		give_up(end);
	return;

failed:
	kloop_tls_free(tls);
	give_up(end);
}

static void open_end(struct end *end, int which, int fd)
{
	if (took(kloop_stream_new(w.loop, fd, 0, &handlers, end, &end->stream)))
		upgrade(end, which);
	else
		KT_PLAIN(close(fd));
}

static void converse(bool cut)
{
	int fds[2];

	KT_PLAIN(kt_tcp_pair(fds));
	open_end(&w.client, 0, fds[0]);
	open_end(&w.server, 1, fds[1]);
	if (w.client.stream) {
		put(&w.client, pattern, SMALL);
		put(&w.client, pattern + SMALL, LARGE);
		if (!w.client.over && !took(kloop_stream_shutdown(w.client.stream)))
			give_up(&w.client);
	}
	if (cut)
		kt_sweep_turns(w.loop, 6);
	else
		kt_sweep_until(w.loop, both_closed, NULL);
}

static void run(int mode, unsigned version, bool cut)
{
	memset(&w, 0, sizeof(w));
	w.loop = kt_sweep_loop(mode);
	if (!w.loop)
		return;
	kloop_timer_init(&w.patience, out_of_patience);
	start_patience(&w.patience);
	if (make_context(0, version) && make_context(1, version))
		converse(cut);
	w.ending = true;
	kloop_timer_stop(&w.patience);
	KT_HOLDS(kloop_loop_free(w.loop) == 0);
	KT_HOLDS(both_closed(NULL) && w.files_sent == w.files_expected);
	for (int i = 0; i < 2; i++)
		kloop_tls_context_unref(w.contexts[i]);
	if (!cut && (kt_sweep_must_succeed() || !kt_sweep_happened()))
		KT_HOLDS(w.client.received == TOTAL + FILE_BYTES && w.client.eofs == 1);
}

static void tls12(int mode)
{
	run(mode, KLOOP_TLS_1_2, false);
}

static void tls13(int mode)
{
	run(mode, KLOOP_TLS_1_3, false);
}

static void cut_off(int mode)
{
	run(mode, KLOOP_TLS_1_3, true);
}

static void sweep(const char *name, kt_scenario_fn *scenario, int mode)
{
	file = kt_file_make(FILE_BYTES);
	kt_sweep(name, scenario, mode);
	kt_close(file);
}

START_TEST(sweep_tls12)
{
	sweep("TLS 1.2", tls12, _i);
}
END_TEST

START_TEST(sweep_tls13)
{
	sweep("TLS 1.3", tls13, _i);
}
END_TEST

START_TEST(sweep_cut_off)
{
	sweep("TLS, loop freed", cut_off, _i);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("sweep_tls");

#ifdef KT_FAKE_KTLS
	kt_ktls_install(&kt_linux_6_14);
	kt_assume_ktls();
#endif
	kt_fill(pattern, sizeof(pattern), 0);
	tcase_add_loop_test(kt_case(suite, "tls12", 1200), sweep_tls12, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "tls13", 1200), sweep_tls13, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "cut_off", 1200), sweep_cut_off, 0, KT_SWEEP_MODES);
	return kt_main(suite);
}
