/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Faults while two streams speak TLS: contexts and sessions, the handshake,
 * data in both directions, a file, and the end; with KT_FAKE_KTLS in the kernel
 * of tests/lib/fakektls.h.
 */
#include "sweep-talk.h"

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

static struct {
	struct kloop_loop *loop;
	struct kloop_tls_context *contexts[2];
	int files_sent, files_expected;
} w;

static struct kt_end *const client = &kt_talk.client, *const server = &kt_talk.server;

static void put(struct kt_end *end, const void *data, size_t bytes)
{
	if (!end->over && !kt_took(kloop_stream_write(end->stream, data, bytes, NULL, NULL)))
		kt_end_give_up(end);
}

static void on_handshake(struct kloop_stream *stream, int result, void *user)
{
	struct kt_end *end = user;

	KT_HOLDS(end->stream == stream && end->connected++ == 0);
	KT_HOLDS(result <= 0);
	KT_HOLDS(result == 0 || kt_sweep_ending ||
		 (kt_sweep_happened() && !kt_sweep_must_succeed()));
	if (result < 0)
		kt_end_give_up(end);
	else
		end->ready = true;
}

static void file_sent(void *owner, int status, uint64_t bytes, void *user)
{
	(void)user;
	KT_HOLDS(owner == &w.files_sent && (status == 0 || kt_sweep_ending || kt_sweep_happened()));
	KT_HOLDS(status < 0 || bytes == FILE_BYTES);
	w.files_sent++;
}

/* The server answers what it got with a file. */
static void answer(struct kt_end *end)
{
	if (kt_took(kloop_stream_send_file(end->stream, file, 0, KLOOP_FILE_END, 0, file_sent,
					   &w.files_sent)))
		w.files_expected++;
	else
		kt_end_give_up(end);
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	struct kt_end *end = user;
	bool is_client = end == client;
	size_t most = is_client ? TOTAL + FILE_BYTES : TOTAL;

	KT_HOLDS(end->stream == stream && end->ready && !end->eofs && !end->over);
	KT_HOLDS(end->received + bytes <= most);
	if (!is_client || end->received + bytes <= TOTAL)
		KT_HOLDS(memcmp(data, pattern + end->received, bytes) == 0);
	end->received += bytes;
	if (!is_client) {
		put(end, data, bytes);
		if (end->received == TOTAL && !end->over)
			answer(end);
	}
}

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_data = on_data,
	.on_eof = kt_end_on_eof,
	.on_error = kt_end_on_error,
	.on_close = kt_end_on_close,
};

/* ---- the world -------------------------------------------------------- */

static bool make_context(int which, unsigned version)
{
	const char *pem = kt_cert_pem(which == 0 ? KT_CERT_CA : KT_CERT_SERVER);
	const char *key = kt_cert_key_pem(KT_CERT_SERVER);
	struct kloop_tls_context **context = &w.contexts[which];

	if (!kt_took(kloop_tls_context_new(which == 0 ? KLOOP_TLS_CLIENT : KLOOP_TLS_SERVER,
					   context)))
		return false;
	KT_HOLDS(kloop_tls_context_set_versions(*context, version, version) == 0);
	if (which == 0)
		return kt_took(kloop_tls_context_use_trust(*context, pem, strlen(pem)));
	return kt_took(kloop_tls_context_use_certificate(*context, pem, strlen(pem), key,
							 strlen(key)));
}

static void upgrade(struct kt_end *end, int which)
{
	struct kloop_tls *tls = NULL;

	if (!kt_took(kloop_tls_new(w.contexts[which], &tls)))
		goto failed;
	if (which == 0 && !kt_took(kloop_tls_set_name(tls, "localhost")))
		goto failed;
#ifdef KT_FAKE_KTLS
	KT_HOLDS(kloop_tls_set_ktls(tls, KLOOP_KTLS_ON) == 0);
#endif
	if (!kt_took(kloop_tls_start(tls, end->stream, on_handshake)))
		goto failed;
	if (!kt_took(kloop_stream_start_read(end->stream)))
		kt_end_give_up(end);
	return;

failed:
	kloop_tls_free(tls);
	kt_end_give_up(end);
}

static void open_end(struct kt_end *end, int which, int fd)
{
	if (kt_took(kloop_stream_new(w.loop, fd, 0, &handlers, end, &end->stream)))
		upgrade(end, which);
	else
		KT_PLAIN(close(fd));
}

static void converse(bool cut)
{
	int fds[2];

	KT_PLAIN(kt_tcp_pair(fds));
	open_end(client, 0, fds[0]);
	open_end(server, 1, fds[1]);
	if (client->stream) {
		put(client, pattern, SMALL);
		put(client, pattern + SMALL, LARGE);
		if (!client->over && !kt_took(kloop_stream_shutdown(client->stream)))
			kt_end_give_up(client);
	}
	if (cut)
		kt_sweep_turns(w.loop, 6);
	else
		kt_sweep_until(w.loop, kt_talk_closed, NULL);
}

static void run(int mode, unsigned version, bool cut)
{
	memset(&w, 0, sizeof(w));
	w.loop = kt_talk_open(mode);
	if (!w.loop)
		return;
	if (make_context(0, version) && make_context(1, version))
		converse(cut);
	kt_sweep_ending = true;
	kloop_timer_stop(&kt_talk.patience);
	KT_HOLDS(kloop_loop_free(w.loop) == 0);
	KT_HOLDS(kt_talk_closed(NULL) && w.files_sent == w.files_expected);
	for (int i = 0; i < 2; i++)
		kloop_tls_context_unref(w.contexts[i]);
	if (!cut && (kt_sweep_must_succeed() || !kt_sweep_happened()))
		KT_HOLDS(client->received == TOTAL + FILE_BYTES && client->eofs == 1);
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
