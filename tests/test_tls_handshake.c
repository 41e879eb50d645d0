/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Handshakes over streams: who is refused and what is told, names, tickets, steps. */
#include "tlspair.h"
#include "tlsstream.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>

static struct kloop_tls_context *client_context, *server_context, *other_context;
static struct kloop_loop *loop;
static struct kt_tls ends[2]; /* client and server */
static int name_calls;
static bool open_ends;

#define CLIENT (&ends[0])
#define SERVER (&ends[1])

static void make_world(void)
{
	loop = kt_loop_new(NULL);
	client_context = kt_tls_client(KT_CERT_CA);
	server_context = kt_tls_server(KT_CERT_SERVER);
	other_context = kt_tls_server(KT_CERT_OTHER_NAME);
	name_calls = 0;
}

static void end_connection(void)
{
	if (open_ends)
		kt_tls_end(ends);
	open_ends = false;
}

static void free_world(void)
{
	end_connection();
	client_context = kloop_tls_context_unref(client_context);
	server_context = kloop_tls_context_unref(server_context);
	other_context = kloop_tls_context_unref(other_context);
	kt_loop_free(loop);
	ck_assert_uint_eq(ERR_peek_error(), 0);
}

/* A new connection, upgraded on both ends; nothing of it has happened yet. */
static void make_connection(const char *name)
{
	int fds[2];

	end_connection();
	open_ends = true;
	kt_tcp_pair(fds);
	memset(ends, 0, sizeof(ends));
	for (int i = 0; i < 2; i++) {
		kt_stream_open(&ends[i].s, loop, fds[i], 0);
		kt_tls_upgrade(&ends[i], i ? server_context : client_context, i ? NULL : name,
			       KLOOP_KTLS_AUTO);
		kt_stream_start(&ends[i].s);
	}
}

static void shake(const char *name)
{
	make_connection(name);
	kt_tls_await(CLIENT);
	kt_tls_await(SERVER);
}

/* Data in both directions; tickets come with it. */
static void check_open(void)
{
	ck_assert_msg(CLIENT->result == 0, "%s", kloop_tls_get_error_text(CLIENT->tls));
	ck_assert_msg(SERVER->result == 0, "%s", kloop_tls_get_error_text(SERVER->tls));
	kt_tls_put(CLIENT, 1000, 0);
	kt_tls_put(SERVER, 1000, 0);
	kt_stream_await(&CLIENT->s, 1000);
	kt_stream_await(&SERVER->s, 1000);
}

/* ---- verification ----------------------------------------------------- */

static const struct {
	enum kt_cert certificate;
	const char *name;
	long verify_result;
} refused_servers[] = {
	{ KT_CERT_EXPIRED, "localhost", X509_V_ERR_CERT_HAS_EXPIRED },
	{ KT_CERT_SELF_SIGNED, "localhost", X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT },
	{ KT_CERT_OTHER_NAME, "localhost", X509_V_ERR_HOSTNAME_MISMATCH },
	{ KT_CERT_SERVER, "127.0.0.2", X509_V_ERR_IP_ADDRESS_MISMATCH },
};
#define REFUSED_SERVERS (int)KT_COUNT(refused_servers)

START_TEST(server_is_refused)
{
	enum kt_cert certificate = refused_servers[_i % REFUSED_SERVERS].certificate;
	unsigned maximum = _i < REFUSED_SERVERS ? KLOOP_TLS_1_3 : KLOOP_TLS_1_2;

	kt_tls_use(server_context, certificate);
	ck_assert_int_eq(kloop_tls_context_set_versions(server_context, 0, maximum), 0);
	shake(refused_servers[_i % REFUSED_SERVERS].name);
	ck_assert_int_eq(CLIENT->result, KLOOP_ERROR_TLS_VERIFY);
	ck_assert_int_eq(kloop_tls_get_verify_result(CLIENT->tls),
			 refused_servers[_i % REFUSED_SERVERS].verify_result);
	/* The server learns why. */
	ck_assert_int_eq(SERVER->result, KLOOP_ERROR_TLS_ALERT);
	ck_assert_int_ge(kloop_tls_get_alert(SERVER->tls), SSL_AD_BAD_CERTIFICATE);
	ck_assert_int_eq(CLIENT->s.count[KT_ON_ERROR] + SERVER->s.count[KT_ON_ERROR], 0);
}
END_TEST

START_TEST(client_without_name)
{
	make_connection(NULL);
	kt_tls_await(CLIENT);
	ck_assert_int_eq(CLIENT->result, KLOOP_ERROR_TLS_VERIFY);
	ck_assert_ptr_nonnull(strstr(kloop_tls_get_error_text(CLIENT->tls), "no name"));
	/* Nothing was sent, not even an alert: the server sees the end alone. */
	kloop_stream_close(CLIENT->s.stream);
	kt_tls_await(SERVER);
	ck_assert_int_eq(SERVER->result, KLOOP_ERROR_TLS_TRUNCATED);
}
END_TEST

START_TEST(client_is_refused)
{
	kt_tls_trust(server_context, KT_CERT_CA);
	ck_assert_int_eq(kloop_tls_context_set_verify(server_context, KLOOP_TLS_VERIFY_REQUIRED),
			 0);
	kt_tls_use(client_context, KT_CERT_CLIENT_EXPIRED);
	shake("localhost");
	ck_assert_int_eq(SERVER->result, KLOOP_ERROR_TLS_VERIFY);
	ck_assert_int_eq(kloop_tls_get_verify_result(SERVER->tls), X509_V_ERR_CERT_HAS_EXPIRED);
	/* In TLS 1.3 the client was done before it was looked at. */
	ck_assert_int_eq(CLIENT->result, 0);
	kt_turn_until(loop, &CLIENT->s.count[KT_ON_ERROR], 1);
	ck_assert_int_eq(CLIENT->s.error, KLOOP_ERROR_TLS_ALERT);
	ck_assert_int_eq(kloop_tls_get_alert(CLIENT->tls), SSL_AD_CERTIFICATE_EXPIRED);
	kt_tls_use(client_context, KT_CERT_CLIENT);
	shake("localhost");
	check_open();
	ck_assert_int_gt(kloop_tls_copy_peer_certificate(SERVER->tls, NULL, 0), 0);
}
END_TEST

START_TEST(no_version_in_common)
{
	ck_assert_int_eq(kloop_tls_context_set_versions(client_context, KLOOP_TLS_1_3, 0), 0);
	ck_assert_int_eq(kloop_tls_context_set_versions(server_context, 0, KLOOP_TLS_1_2), 0);
	shake("localhost");
	ck_assert_int_eq(SERVER->result, KLOOP_ERROR_TLS_PROTOCOL);
	ck_assert_int_eq(CLIENT->result, KLOOP_ERROR_TLS_ALERT);
	ck_assert_int_eq(kloop_tls_get_alert(CLIENT->tls), SSL_AD_PROTOCOL_VERSION);
}
END_TEST

/* ---- names and protocols ---------------------------------------------- */

enum answer { GO_ON, REFUSE, CLOSE, ABORT };

static int on_name(struct kloop_tls *tls, const char *name, void *user)
{
	const enum answer *answer = user;

	name_calls++;
	ck_assert_ptr_eq(tls, SERVER->tls);
	if (name && strcmp(name, "other.test") == 0)
		ck_assert_int_eq(kloop_tls_use_context(tls, other_context), 0);
	if (*answer == CLOSE)
		kloop_stream_close(SERVER->s.stream);
	else if (*answer == ABORT)
		kloop_stream_abort(SERVER->s.stream);
	return *answer == REFUSE ? -1 : 0;
}

START_TEST(names)
{
	static const char *const protocols[] = { "h2", "http/1.1" };
	enum answer answer = GO_ON;
	const char *protocol;

	ck_assert_int_eq(kloop_tls_context_set_name_function(server_context, on_name, &answer), 0);
	ck_assert_int_eq(kloop_tls_context_set_alpn(client_context, protocols, 2), 0);
	ck_assert_int_eq(kloop_tls_context_set_alpn(other_context, protocols + 1, 1), 0);
	shake("localhost");
	check_open();
	ck_assert_str_eq(kloop_tls_get_name(SERVER->tls), "localhost");
	ck_assert_uint_eq(kloop_tls_get_alpn(CLIENT->tls, &protocol), 0);
	shake("other.test");
	check_open();
	ck_assert_uint_eq(kloop_tls_get_alpn(CLIENT->tls, &protocol), strlen("http/1.1"));
	ck_assert_mem_eq(protocol, "http/1.1", strlen("http/1.1"));
	ck_assert_int_eq(name_calls, 2);
	answer = REFUSE;
	shake("localhost");
	ck_assert_int_lt(SERVER->result, 0);
	ck_assert_int_eq(CLIENT->result, KLOOP_ERROR_TLS_ALERT);
	ck_assert_int_eq(kloop_tls_get_alert(CLIENT->tls), SSL_AD_UNRECOGNIZED_NAME);
}
END_TEST

/* The stream ends from inside OpenSSL. */
START_TEST(end_in_name_function)
{
	enum answer answer = _i ? ABORT : CLOSE;

	ck_assert_int_eq(kloop_tls_context_set_name_function(server_context, on_name, &answer), 0);
	make_connection("localhost");
	kt_turn_until(loop, &SERVER->s.count[KT_ON_CLOSE], 1);
	ck_assert_int_eq(SERVER->handshakes, 0);
	kt_tls_await(CLIENT);
	ck_assert_int_eq(name_calls, 1);
}
END_TEST

/* ---- a client of its own ---------------------------------------------- */

static int steps;
static struct kloop_tls_ticket *resumed_from; /* of the next client; may be NULL */

static int count_step(struct kloop_tls *tls, void *user)
{
	SSL *ssl = kloop_tls_get_ssl(tls);
	int r = SSL_do_handshake(ssl);

	ck_assert_ptr_eq(user, &steps);
	steps++;
	if (r == 1)
		return 1;
	r = SSL_get_error(ssl, r);
	ERR_clear_error();
	return r == SSL_ERROR_WANT_READ ? 0 : -EBADMSG;
}

/* Take the place of the client that kt_tls_upgrade() would make. */
static void start_client(const char *name, kloop_tls_handshake_fn *on_handshake,
			 uint64_t handshake_ns, kloop_tls_step_fn *step)
{
	struct kloop_tls *tls;

	ck_assert_int_eq(kloop_tls_new(client_context, &tls), 0);
	ck_assert_int_eq(kloop_tls_set_name(tls, name), 0);
	if (resumed_from)
		ck_assert_int_eq(kloop_tls_set_ticket(tls, resumed_from), 0);
	resumed_from = NULL;
	ck_assert_int_eq(kloop_tls_set_timeouts(tls, handshake_ns, 0), 0);
	ck_assert_int_eq(kloop_tls_set_step(tls, step, &steps), 0);
	ck_assert_int_eq(kloop_tls_start(tls, CLIENT->s.stream, on_handshake), 0);
	kt_stream_start(&CLIENT->s);
	CLIENT->tls = tls;
}

static void open_streams(void)
{
	int fds[2];

	kt_tcp_pair(fds);
	memset(ends, 0, sizeof(ends));
	for (int i = 0; i < 2; i++)
		kt_stream_open(&ends[i].s, loop, fds[i], 0);
	open_ends = true;
	steps = 0;
}

/* ---- tickets ---------------------------------------------------------- */

START_TEST(resume)
{
	unsigned maximum = _i ? KLOOP_TLS_1_2 : KLOOP_TLS_1_3;
	struct kloop_tls_ticket *ticket;

	ck_assert_int_eq(kloop_tls_context_set_versions(server_context, 0, maximum), 0);
	shake("localhost");
	check_open();
	ck_assert_int_eq(kloop_tls_get_ticket(CLIENT->tls, &ticket), 0);
	/* However the connection ends. */
	kt_stream_abort(&CLIENT->s);
	kt_stream_abort(&SERVER->s);
	open_ends = false;
	make_connection("localhost");
	/* Started already. */
	ck_assert_int_eq(kloop_tls_set_ticket(CLIENT->tls, ticket), -EINVAL);
	ck_assert_int_eq(kloop_tls_set_name(CLIENT->tls, "localhost"), -EINVAL);
	ck_assert_int_eq(kloop_tls_set_timeouts(CLIENT->tls, 1, 1), -EINVAL);
	ck_assert_int_eq(kloop_tls_set_ktls(CLIENT->tls, KLOOP_KTLS_OFF), -EINVAL);
	ck_assert_int_eq(kloop_tls_set_step(CLIENT->tls, NULL, NULL), -EINVAL);
	ck_assert_int_eq(kloop_tls_feed(CLIENT->tls, "x", 1), -EINVAL);
	kloop_tls_free(CLIENT->tls); /* does nothing: it is the stream's */
	kt_stream_abort(&CLIENT->s);
	kt_stream_abort(&SERVER->s);
	open_ends = false;

	open_streams();
	kt_tls_upgrade(SERVER, server_context, NULL, KLOOP_KTLS_AUTO);
	kt_stream_start(&SERVER->s);
	resumed_from = ticket;
	start_client("localhost", NULL, KLOOP_FOREVER, NULL);
	kloop_tls_ticket_free(ticket);
	kt_tls_await(SERVER);
	check_open();
	ck_assert(kloop_tls_is_resumed(CLIENT->tls));
	ck_assert(kloop_tls_is_resumed(SERVER->tls));
}
END_TEST

/* ---- steps and time --------------------------------------------------- */

START_TEST(own_steps)
{
	open_streams();
	kt_tls_upgrade(SERVER, server_context, NULL, KLOOP_KTLS_AUTO);
	kt_stream_start(&SERVER->s);
	start_client("localhost", NULL, KLOOP_FOREVER, count_step);
	kt_tls_await(SERVER);
	check_open();
	ck_assert_int_ge(steps, 2);
}
END_TEST

/* What a step returns is what the stream ends with; without on_handshake, by on_error. */
START_TEST(own_steps_fail)
{
	open_streams();
	kt_tls_upgrade(SERVER, server_context, NULL, KLOOP_KTLS_AUTO);
	kt_stream_start(&SERVER->s);
	start_client("wrong.test", NULL, KLOOP_FOREVER, count_step);
	kt_turn_until(loop, &CLIENT->s.count[KT_ON_ERROR], 1);
	ck_assert_int_eq(CLIENT->s.error, -EBADMSG);
	kt_tls_await(SERVER);
	ck_assert_int_eq(SERVER->result, KLOOP_ERROR_TLS_ALERT);
}
END_TEST

/* A peer that says nothing. */
START_TEST(timeout)
{
	open_streams();
	start_client("localhost", NULL, KT_MS * 20, NULL);
	kt_turn_until(loop, &CLIENT->s.count[KT_ON_ERROR], 1);
	ck_assert_int_eq(CLIENT->s.error, -ETIMEDOUT);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tls handshake");
	TCase *tcase = kt_case(suite, "handshake", 60);

	tcase_add_checked_fixture(tcase, make_world, free_world);
	tcase_add_loop_test(tcase, server_is_refused, 0, 2 * REFUSED_SERVERS);
	tcase_add_test(tcase, client_without_name);
	tcase_add_test(tcase, client_is_refused);
	tcase_add_test(tcase, no_version_in_common);
	tcase_add_test(tcase, names);
	tcase_add_loop_test(tcase, end_in_name_function, 0, 2);
	tcase_add_loop_test(tcase, resume, 0, 2);
	tcase_add_test(tcase, own_steps);
	tcase_add_test(tcase, own_steps_fail);
	tcase_add_test(tcase, timeout);
	return kt_main(suite);
}
