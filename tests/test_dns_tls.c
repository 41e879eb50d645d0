/* SPDX-License-Identifier: MulanPSL-2.0 */
/* DNS over TLS: who is asked, who is not, and what may pass in the clear. */
#include "dnsfixture.h"

#include "ports.h"

#include <errno.h>

/* ---- who is asked -------------------------------------------------------------------- */

START_TEST(a_server_by_its_address)
{
	use_first();
	check_www();
	ck_assert_str_eq(first.name, "");
	ck_assert_uint_eq(info_of(0).flags,
			  KLOOP_DNS_SERVER_CONNECTED | KLOOP_DNS_SERVER_AUTHENTICATED);
	ck_assert_int_eq(info_of(0).error, 0);
	ck_assert_str_eq(info_of(0).reason, "");
	ck_assert_uint_eq(info_of(0).transport, KLOOP_DNS_TLS);
	ck_assert_uint_eq(STAT(tls_connections), 1);
	ck_assert_uint_eq(STAT(tls_failures), 0);
	ck_assert_uint_eq(STAT(packets_sent), 0);
	ck_assert_int_eq(first.questions, 2);
}
END_TEST

START_TEST(a_server_by_its_name)
{
	trust();
	add(&first, _i == 0 ? "example.test" : "some.wild.test.", 0);
	use();
	check_www();
	ck_assert_str_eq(first.name, _i == 0 ? "example.test" : "some.wild.test");
	ck_assert_str_eq(info_of(0).name, _i == 0 ? "example.test" : "some.wild.test.");
	ck_assert(info_of(0).flags & KLOOP_DNS_SERVER_AUTHENTICATED);
}
END_TEST

START_TEST(by_add_server_as_well)
{
	struct kloop_address address = kt_dot_address(&first);

	trust();
	ck_assert_int_eq(kloop_resolver_options_add_server(options, &address, KLOOP_DNS_TLS), 0);
	use();
	check_www();
	ck_assert(info_of(0).flags & KLOOP_DNS_SERVER_AUTHENTICATED);
}
END_TEST

static const struct {
	enum kt_cert certificate;
	const char *name;
	const char *reason;
} refused[] = {
	{ KT_CERT_OTHER_NAME, "example.test", "hostname mismatch" },
	{ KT_CERT_OTHER_NAME, NULL, "IP address mismatch" },
	{ KT_CERT_COMMON_NAME, "example.test", "hostname mismatch" },
	{ KT_CERT_EXPIRED, "example.test", "expired" },
	{ KT_CERT_FUTURE, "example.test", "not yet valid" },
	{ KT_CERT_SELF_SIGNED, "example.test", "self" },
	{ KT_CERT_UNTRUSTED, "example.test", "issuer" },
	{ KT_CERT_SERVER, "elsewhere.test", "hostname mismatch" },
};

START_TEST(who_is_not_authenticated_is_not_asked)
{
	struct kloop_dns_server_info info;

	reopen(&first, refused[_i].certificate);
	trust();
	add(&first, refused[_i].name, 0);
	use();
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_TLS");
	ck_assert_int_eq(kloop_dns_get_eai(KLOOP_ERROR_DNS_TLS), EAI_AGAIN);
	info = info_of(0);
	ck_assert_int_eq(info.error, KLOOP_ERROR_TLS_VERIFY);
	ck_assert_msg(strstr(info.reason, refused[_i].reason), "%s", info.reason);
	ck_assert(info.flags & KLOOP_DNS_SERVER_DOWN);
	ck_assert(!(info.flags & KLOOP_DNS_SERVER_CONNECTED));
	ck_assert_int_eq(first.questions, 0);
	ck_assert_uint_eq(STAT(tls_failures), 1);
	ck_assert_uint_eq(STAT(packets_sent), 0);
}
END_TEST

START_TEST(the_system_trusts_others)
{
	add(&first, NULL, 0);
	use();
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_TLS");
	ck_assert_int_eq(first.questions, 0);
}
END_TEST

START_TEST(opportunistic_takes_all)
{
	reopen(&first, refused[_i].certificate);
	add(&first, refused[_i].name, KLOOP_DNS_TLS_OPPORTUNISTIC);
	use();
	check_www();
	ck_assert_str_eq(first.name, refused[_i].name ? refused[_i].name : "");
	ck_assert_uint_eq(info_of(0).flags, KLOOP_DNS_SERVER_CONNECTED);
}
END_TEST

START_TEST(both_kinds_together)
{
	reopen(&first, KT_CERT_UNTRUSTED);
	reopen(&second, KT_CERT_UNTRUSTED);
	trust();
	add(&first, "example.test", 0);
	add(&second, "example.test", KLOOP_DNS_TLS_OPPORTUNISTIC);
	use();
	check_www();
	ck_assert_int_eq(first.questions, 0);
	ck_assert_int_eq(second.questions, 2);
}
END_TEST

/* ---- never in the clear by itself -------------------------------------------------------- */

START_TEST(no_tls_there)
{
	/* A server that would answer in the clear, at the same port. */
	struct kloop_address address = kt_dns_address(&clear);

	ck_assert_int_eq(kloop_resolver_options_add_tls_server(
				 options, &address, NULL, _i == 0 ? 0 : KLOOP_DNS_TLS_OPPORTUNISTIC),
			 0);
	trust();
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 200 * KT_MS, 1), 0);
	use();
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_TIMEOUT");
	ck_assert_int_eq(clear.questions, 0);
}
END_TEST

START_TEST(nobody_listens)
{
	uint16_t port = first.port;

	first.port = kt_free_port();
	add(&first, NULL, _i == 0 ? 0 : KLOOP_DNS_TLS_OPPORTUNISTIC);
	trust();
	use();
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_AGAIN");
	ck_assert_int_eq(info_of(0).error, -ECONNREFUSED);
	ck_assert_uint_eq(STAT(packets_sent), 0);
	first.port = port;
}
END_TEST

START_TEST(in_the_clear_if_that_was_said)
{
	reopen(&first, KT_CERT_EXPIRED);
	trust();
	add_clear(); /* it comes first in the list, and is asked last */
	add(&first, "example.test", 0);
	use();
	check_www();
	ck_assert_int_eq(first.questions, 0);
	ck_assert_int_eq(clear.questions, 2);
}
END_TEST

START_TEST(not_in_the_clear_while_tls_works)
{
	trust();
	add_clear();
	add(&first, NULL, 0);
	use();
	for (int i = 0; i < 10; i++)
		check_www();
	ck_assert_int_eq(clear.questions, 0);
	ck_assert_int_eq(first.questions, 20);
}
END_TEST

START_TEST(in_the_clear_after_the_time)
{
	trust();
	add(&first, NULL, 0);
	add_clear();
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 300 * KT_MS, 1), 0);
	use();
	first.mode = KT_DOT_MUTE;
	check_www();
	ck_assert_int_eq(clear.questions, 2);
}
END_TEST

START_TEST(resolv_conf_does_not_switch_tls_off)
{
	struct kt_files files;

	kt_files_open(&files);
	kt_files_write(&files, KLOOP_DNS_FILE_RESOLV_CONF,
		       "nameserver 127.0.0.1\noptions use-vc\n");
	ck_assert_int_eq(kloop_resolver_options_set_file(
				 options, KLOOP_DNS_FILE_RESOLV_CONF,
				 kt_files_path(&files, KLOOP_DNS_FILE_RESOLV_CONF)),
			 0);
	use_first();
	check_www();
	ck_assert_uint_eq(info_of(0).transport, KLOOP_DNS_TLS);
	ck_assert_int_eq(first.handshakes, 1);
	kt_files_close(&files);
}
END_TEST

/* ---- options ------------------------------------------------------------------------------------ */

START_TEST(bad_arguments)
{
	struct kloop_address address = kt_dot_address(&first);
	static const char *const bad[] = { "", ".", "a..b", "a b", "-x.test", "*.test", "x\ny" };
	static const char *const good[] = { "a", "a.test", "a.test.", "192.0.2.1", "2001:db8::1" };
	struct kloop_dns_server_info info;

	for (size_t i = 0; i < KT_COUNT(bad); i++)
		ck_assert_int_eq(
			kloop_resolver_options_add_tls_server(options, &address, bad[i], 0), -EINVAL);
	ck_assert_int_eq(kloop_resolver_options_add_tls_server(options, &address, NULL, 2), -EINVAL);
	ck_assert_int_eq(kloop_resolver_options_add_tls_server(options, NULL, NULL, 0), -EINVAL);
	ck_assert_int_eq(kloop_resolver_options_add_tls_server(NULL, &address, NULL, 0), -EINVAL);
	ck_assert_int_eq(kloop_resolver_options_add_server(options, &address, 3), -EINVAL);
	for (size_t i = 0; i < KT_COUNT(good); i++)
		ck_assert_int_eq(
			kloop_resolver_options_add_tls_server(options, &address, good[i], 0), 0);
	for (int i = 0; i < 3; i++)
		add_clear();
	ck_assert_int_eq(kloop_resolver_options_add_tls_server(options, &address, NULL, 0), -ENOSPC);
	kloop_resolver_options_set_tls_context(NULL, NULL);
	kloop_resolver_options_set_idle_timeout(NULL, 0);
	trust();
	trust();
	use();
	ck_assert_int_eq(kloop_resolver_get_server(resolver, 0, &info, sizeof(info)), -EAGAIN);
	ck_assert_int_eq(kloop_resolver_get_server(resolver, 0, NULL, sizeof(info)), -EINVAL);
	ck_assert_int_eq(kloop_resolver_get_server(NULL, 0, &info, sizeof(info)), -EINVAL);
	check_found("localhost", "127.0.0.1", "::1");
	ck_assert_int_eq(kloop_resolver_get_server(resolver, 8, &info, sizeof(info)), -ENOENT);
	ck_assert_str_eq(info_of(3).name, "192.0.2.1");
	ck_assert_uint_eq(info_of(7).transport, KLOOP_DNS_UDP);
	ck_assert_ptr_null(info_of(7).name);
	/* An older program's struct, and a newer one's. */
	memset(&info, 0xff, sizeof(info));
	ck_assert_int_eq(kloop_resolver_get_server(resolver, 0, &info, sizeof(info.address)), 0);
	ck_assert_uint_eq(info.transport, UINT32_MAX);
}
END_TEST

static uint16_t port_of(unsigned position)
{
	struct kloop_dns_server_info info = info_of(position);

	return kloop_address_get_port(&info.address);
}

START_TEST(the_port_of_tls)
{
	struct kloop_address address;

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", 0, &address), 0);
	ck_assert_int_eq(kloop_resolver_options_add_tls_server(options, &address, NULL, 0), 0);
	ck_assert_int_eq(kloop_resolver_options_add_server(options, &address, KLOOP_DNS_TCP), 0);
	trust();
	use();
	(void)resolve("localhost");
	ck_assert_uint_eq(port_of(0), 853);
	ck_assert_uint_eq(port_of(1), 53);
}
END_TEST

START_TEST(a_context_of_a_server)
{
	struct kloop_tls_context *context = kt_tls_server(KT_CERT_SERVER);
	struct kloop_resolver *none = NULL;

	kloop_resolver_options_set_tls_context(options, context);
	kloop_tls_context_unref(context);
	add(&first, NULL, 0);
	ck_assert_int_eq(kloop_resolver_new(loop, options, &none), -EINVAL);
	ck_assert_ptr_null(none);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dns tls");
	TCase *tcase = kt_case(suite, "servers", 120);

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, a_server_by_its_address);
	tcase_add_loop_test(tcase, a_server_by_its_name, 0, 2);
	tcase_add_test(tcase, by_add_server_as_well);
	tcase_add_loop_test(tcase, who_is_not_authenticated_is_not_asked, 0, KT_COUNT(refused));
	tcase_add_test(tcase, the_system_trusts_others);
	tcase_add_loop_test(tcase, opportunistic_takes_all, 0, KT_COUNT(refused));
	tcase_add_test(tcase, both_kinds_together);
	tcase = kt_case(suite, "clear", 120);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_loop_test(tcase, no_tls_there, 0, 2);
	tcase_add_loop_test(tcase, nobody_listens, 0, 2);
	tcase_add_test(tcase, in_the_clear_if_that_was_said);
	tcase_add_test(tcase, not_in_the_clear_while_tls_works);
	tcase_add_test(tcase, in_the_clear_after_the_time);
	tcase_add_test(tcase, resolv_conf_does_not_switch_tls_off);
	tcase = kt_case(suite, "options", 120);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, bad_arguments);
	tcase_add_test(tcase, the_port_of_tls);
	tcase_add_test(tcase, a_context_of_a_server);
	return kt_main(suite);
}
