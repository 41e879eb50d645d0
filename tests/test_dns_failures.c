/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Servers that fail, lack something, keep silent or are not there: codes, cookies,
 * extended errors; several servers.
 */
#include "dnsservers.h"

#include "ports.h"

#include <string.h>

/* ---- codes ------------------------------------------------------------------------------- */

START_TEST(codes_of_failure)
{
	static const struct {
		unsigned rcode;
		const char *result;
	} codes[] = {
		{ 1, "KLOOP_ERROR_DNS_FAIL" },	{ 2, "KLOOP_ERROR_DNS_AGAIN" },
		{ 4, "KLOOP_ERROR_DNS_FAIL" },	{ 5, "KLOOP_ERROR_DNS_AGAIN" },
		{ 9, "KLOOP_ERROR_DNS_AGAIN" },
	};
	unsigned rcode = codes[_i].rcode;

	first.hook = say;
	first.data = &rcode;
	ck_assert_str_eq(resolve("www.test"), codes[_i].result);
	/* The next server is asked at once. */
	use(options_for(2));
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_uint_eq(STAT(timeouts), 0);
}
END_TEST

static int no_edns(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	(void)server;
	if (question->wire[11] == 0)
		return -1;
	return kt_dns_empty(question, 1, wire);
}

static int bare(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	(void)server;
	if (question->wire[11] == 0)
		return -1;
	memcpy(wire, question->wire, 12);
	memset(wire + 4, 0, 8);
	wire[2] = 0x80;
	wire[3] = 1;
	return 12;
}

START_TEST(a_server_without_edns)
{
	first.hook = _i == 0 ? no_edns : bare;
	ck_assert_int_ne(strncmp(kt_resolve(loop, resolver, "www.test", AF_UNSPEC), "KLOOP", 5), 0);
	ck_assert_int_le(first.questions, 4 + 2 * (int)STAT(retries));
	first.questions = 0;
	ck_assert_str_eq(resolve("text.test"), "KLOOP_ERROR_DNS_NODATA");
	kt_assert_asked(resolver, first.questions, 1); /* it is known now */
}
END_TEST

static int lame(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes = kt_dns_empty(question, 0, wire);

	(void)server;
	wire[2] &= (uint8_t)~4;
	wire[3] &= 0x7f;
	return bytes;
}

START_TEST(a_lame_server)
{
	first.hook = lame;
	use(options_for(2));
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
}
END_TEST

/* One type fails, the other one is there. */
static int half(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	(void)server;
	return question->type == 28 ? kt_dns_empty(question, 2, wire) : -1;
}

START_TEST(one_family_is_enough)
{
	first.hook = half;
	ck_assert_str_eq(kt_resolve(loop, resolver, "www.test", AF_UNSPEC), "192.0.2.1");
}
END_TEST

/* ---- cookies ------------------------------------------------------------------------------ */

static int cookie_at(const struct kt_question *question)
{
	/* Header, question, the fixed part of OPT, the option's head. */
	int at = (int)question->end + 11;

	return (int)question->bytes >= at + 12 && question->wire[at + 1] == 10 ? at : 0;
}

/* A server with cookies: without its own it answers BADCOOKIE; mode 1 leaves them out then. */
static int cookies(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int mode = *(int *)server->data, at = cookie_at(question), bytes;
	bool known = at != 0 && question->wire[at + 3] == 16 &&
		     memcmp(question->wire + at + 12, "SERVERCO", 8) == 0;

	if (at == 0)
		return -1;
	bytes = known ? kt_dns_answer(server, question, wire) : kt_dns_empty(question, 7, wire);
	if (known && mode == 1)
		return bytes; /* a forger does not know it */
	memcpy(wire + bytes, "\0\0\x29\4\xd0\0\0\0\0\0\x14\0\x0a\0\x10", 15);
	if (!known)
		wire[bytes + 5] = 1; /* 16 + 7: BADCOOKIE */
	memcpy(wire + bytes + 15, question->wire + at + 4, 8);
	if (mode == 2)
		wire[bytes + 15] ^= 1; /* somebody else's */
	memcpy(wire + bytes + 23, "SERVERCO", 8);
	wire[11]++;
	return bytes + 31;
}

START_TEST(dns_cookies)
{
	struct kloop_resolver_options *options = options_for(1);
	int mode = 0;

	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 1500 * KT_MS, 1), 0);
	use(options);
	first.hook = cookies;
	first.data = &mode;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_int_eq(first.questions, 2);
	ck_assert_str_eq(resolve("text.test"), "KLOOP_ERROR_DNS_NODATA");
	ck_assert_int_eq(first.questions, 3);
	/* It sends cookies: an answer without one is somebody else's. */
	mode = 1;
	ck_assert_str_eq(resolve("other.test"), "KLOOP_ERROR_DNS_TIMEOUT");
	ck_assert_uint_ge(STAT(packets_refused), 1);
	mode = 2;
	ck_assert_str_eq(resolve("another.test"), "KLOOP_ERROR_DNS_TIMEOUT");
}
END_TEST

/* ---- extended errors ------------------------------------------------------------------------ */

static int extended_error(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes = kt_dns_answer(server, question, wire);

	wire[3] |= 0x20; /* AD */
	memcpy(wire + bytes, "\0\0\x29\4\xd0\0\0\0\0\0\x0a\0\x0f\0\x06\0\x12hi\n!", 21);
	wire[11]++;
	return bytes + 21;
}

START_TEST(extended_errors_and_ad)
{
	struct kt_lookup lookup;
	struct kloop_dns_info info;
	struct kloop_resolver_options *options = options_for(1);

	kloop_resolver_options_set_flags(options, KLOOP_RESOLVER_NO_COOKIES |
							  KLOOP_RESOLVER_NO_ENVIRONMENT);
	use(options);
	first.hook = extended_error;
	kt_lookup_init(&lookup);
	kt_lookup_query(&lookup, resolver, "text.test", 16, KLOOP_QUERY_DNSSEC);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	ck_assert_int_eq(kloop_dns_message_get_info(lookup.message, &info, sizeof(info)), 0);
	ck_assert_int_eq(info.ede, 18);
	ck_assert_str_eq(info.ede_text, "hi?!");
	ck_assert(info.flags & KLOOP_DNS_AUTHENTIC); /* it is on loopback */
	ck_assert_uint_eq(kloop_dns_message_get_count(lookup.message, KLOOP_DNS_ADDITIONAL), 0);
	kt_lookup_clear(&lookup);
}
END_TEST

/* SERVFAIL that says why, then REFUSED that does not. */
static int say_why(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes = kt_dns_empty(question, server == &first ? 2 : 5, wire);

	if (server != &first)
		return bytes;
	memcpy(wire + bytes, "\0\0\x29\4\xd0\0\0\0\0\0\x0a\0\x0f\0\x06\0\x06oops", 21);
	wire[11]++;
	return bytes + 21;
}

START_TEST(extended_errors_of_failures)
{
	struct kloop_resolver_options *options = options_for(2);
	struct kt_lookup lookup;
	struct kloop_dns_info info;

	kloop_resolver_options_set_flags(options, KLOOP_RESOLVER_NO_COOKIES |
							  KLOOP_RESOLVER_NO_ENVIRONMENT);
	use(options);
	first.hook = second.hook = say_why;
	kt_lookup_init(&lookup);
	kt_lookup_query(&lookup, resolver, "text.test", 16, 0);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), KLOOP_ERROR_DNS_AGAIN);
	ck_assert_ptr_nonnull(lookup.message);
	ck_assert_int_eq(kloop_dns_message_get_info(lookup.message, &info, sizeof(info)), 0);
	ck_assert_uint_eq(info.rcode, 2);
	ck_assert_int_eq(info.ede, 6);
	ck_assert_str_eq(info.ede_text, "oops");
	ck_assert_uint_eq(info.ttl_s, 0);
	kt_lookup_clear(&lookup);
	/* Somebody who does not answer sends no message. */
	first.hook = second.hook = NULL;
	first.quiet = second.quiet = true;
	options = options_for(1);
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 50 * KT_MS, 1), 0);
	use(options);
	kt_lookup_init(&lookup);
	kt_lookup_query(&lookup, resolver, "text.test", 16, 0);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), KLOOP_ERROR_DNS_TIMEOUT);
	ck_assert_ptr_null(lookup.message);
	kt_lookup_clear(&lookup);
}
END_TEST

/* ---- several servers ------------------------------------------------------------------------ */

START_TEST(a_silent_first_server)
{
	struct kloop_resolver_options *options = options_for(2);
	uint64_t start = kloop_now();

	first.quiet = true;
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 30000 * KT_MS, 2), 0);
	use(options);
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	/* Far from the timeout, whatever the machine does. */
	ck_assert_uint_lt(kloop_now() - start, 20000 * KT_MS);
	for (int i = 0; i < 4; i++) {
		char name[32];

		snprintf(name, sizeof(name), "n%d.test", i);
		ck_assert_str_eq(resolve(name), "KLOOP_ERROR_DNS_NONAME");
	}
	/* By now it is known to be down, and is asked in passing only. */
	for (int i = 10, counted = 0, asked = 0; counted < 10; i++) {
		uint64_t retries = STAT(retries);
		char name[32];

		ck_assert_int_lt(i, 200);
		first.questions = 0;
		snprintf(name, sizeof(name), "n%d.test", i);
		ck_assert_str_eq(resolve(name), "KLOOP_ERROR_DNS_NONAME");
		/* Where the machine stood still, both are asked. */
		if (STAT(retries) != retries)
			continue;
		counted++;
		asked += first.questions;
		ck_assert_int_le(asked, 2);
	}
}
END_TEST

START_TEST(nobody_listens)
{
	struct kloop_resolver_options *options = options_for(1);
	struct kt_dns gone = { .port = kt_free_port() }; /* refused by the kernel */

	kloop_resolver_options_free(options);
	options = kt_resolver_options(NULL, (struct kt_dns *[]){ &gone, &second }, 2);
	use(options);
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	options = kt_resolver_options(NULL, (struct kt_dns *[]){ &gone }, 1);
	use(options);
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_AGAIN");
	/* Of two questions sent together the second meets the first one's refusal. */
	ck_assert_str_eq(kt_resolve(loop, resolver, "www.test", AF_UNSPEC),
			 "KLOOP_ERROR_DNS_AGAIN");
	ck_assert_uint_eq(STAT(timeouts), 0);
}
END_TEST

START_TEST(nobody_answers)
{
	struct kloop_resolver_options *options;

	first.quiet = second.quiet = true;
	/* Twice each in short order, and once more before it is given up, if there is time left. */
	for (uint64_t timeout_ns = 100 * KT_MS;; timeout_ns *= 2) {
		options = options_for(2);
		ck_assert_int_eq(kloop_resolver_options_set_timeout(options, timeout_ns, 2), 0);
		use(options);
		first.questions = second.questions = 0;
		ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_TIMEOUT");
		ck_assert_uint_eq(STAT(timeouts), 1);
		ck_assert_uint_eq(STAT(in_flight), 0);
		ck_assert_int_eq(first.questions, second.questions);
		if (first.questions == 3)
			break;
		ck_assert_int_eq(first.questions, 2);
		ck_assert_uint_lt(timeout_ns, 10000 * KT_MS);
	}
	for (unsigned flags = 0; flags <= KLOOP_RESOLVER_NO_RACE; flags += KLOOP_RESOLVER_NO_RACE) {
		/* Whoever wants to ask once, or each server in its turn, gets that. */
		options = options_for(2);
		kloop_resolver_options_set_flags(options, flags | KLOOP_RESOLVER_NO_ENVIRONMENT);
		ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 50 * KT_MS,
								    flags != 0 ? 2 : 1),
				 0);
		use(options);
		first.questions = second.questions = 0;
		ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_TIMEOUT");
		ck_assert_int_eq(first.questions, flags != 0 ? 2 : 1);
		ck_assert_int_eq(second.questions, flags != 0 ? 2 : 1);
	}
}
END_TEST

/* A queue that is full, a path that comes up: all that is sent in short order is lost. */
static int lose_two(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	(void)server;
	(void)wire;
	return question->number <= 2 ? 0 : -1;
}

START_TEST(a_burst_that_is_lost)
{
	first.hook = lose_two;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_int_eq(first.questions, 3);
	ck_assert_uint_eq(STAT(retries), 2); /* there are no more, whatever the machine does */
	ck_assert_uint_eq(STAT(timeouts), 0);
}
END_TEST

static int lose_first(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	(void)server;
	(void)wire;
	return question->number == 1 ? 0 : -1;
}

START_TEST(a_lost_question)
{
	struct kloop_resolver_options *options = options_for(1);
	uint64_t start = kloop_now();

	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 30000 * KT_MS, 2), 0);
	use(options);
	first.hook = lose_first;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_uint_lt(kloop_now() - start, 20000 * KT_MS);
	ck_assert_int_eq(first.questions, 1 + (int)STAT(retries));
	ck_assert_uint_ge(STAT(retries), 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dns failures");
	TCase *tcase = kt_case(suite, "codes", 60);

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_loop_test(tcase, codes_of_failure, 0, 5);
	tcase_add_loop_test(tcase, a_server_without_edns, 0, 2);
	tcase_add_test(tcase, a_lame_server);
	tcase_add_test(tcase, one_family_is_enough);
	tcase_add_test(tcase, dns_cookies);
	tcase_add_test(tcase, extended_errors_and_ad);
	tcase_add_test(tcase, extended_errors_of_failures);
	tcase = kt_case(suite, "servers", 60);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, a_silent_first_server);
	tcase_add_test(tcase, nobody_listens);
	tcase_add_test(tcase, nobody_answers);
	tcase_add_test(tcase, a_lost_question);
	tcase_add_test(tcase, a_burst_that_is_lost);
	return kt_main(suite);
}
