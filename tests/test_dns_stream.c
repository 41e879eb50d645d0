/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * DNS over connections, with TLS and without: what questions look like, how
 * connections are shared, kept and ended, and what servers can do to them.
 */
#include "dnsfixture.h"

#include <errno.h>

/* ---- what questions look like ------------------------------------------------------------ */

/* The options of the newest question's OPT, which ends it: the data of one, or NULL. */
static const uint8_t *find_option(const struct kt_dot *server, unsigned code, size_t *ret_bytes)
{
	struct kt_question question = { .wire = server->last, .bytes = server->last_bytes };
	const uint8_t *at, *end = server->last + server->last_bytes;

	kt_dns_read(&question);
	at = server->last + question.end;
	ck_assert_mem_eq(at, "\0\0\x29", 3);
	ck_assert_uint_eq(at[9] << 8 | at[10], (unsigned)(end - at - 11));
	for (at += 11; at < end; at += 4 + *ret_bytes) {
		*ret_bytes = (size_t)(at[2] << 8 | at[3]);
		if ((unsigned)(at[0] << 8 | at[1]) == code)
			return at + 4;
	}
	return NULL;
}

START_TEST(questions_are_padded)
{
	char name[200] = "";
	size_t bytes;

	use_first();
	for (int i = 0; i < 60; i++) {
		const uint8_t *padding;

		snprintf(name + strlen(name), sizeof(name) - strlen(name), i % 9 == 8 ? "." : "x");
		ck_assert_str_eq(resolve(name), "KLOOP_ERROR_DNS_NONAME");
		ck_assert_uint_eq(first.last_bytes % 128, 0);
		padding = find_option(&first, 12, &bytes);
		ck_assert_ptr_nonnull(padding);
		for (size_t j = 0; j < bytes; j++)
			ck_assert_uint_eq(padding[j], 0);
		ck_assert_ptr_nonnull(find_option(&first, 11, &bytes)); /* it would be kept */
		ck_assert_ptr_null(find_option(&first, 10, &bytes));    /* a cookie is not needed */
	}
}
END_TEST

START_TEST(in_the_clear_they_are_not_padded)
{
	struct kloop_address address;
	size_t bytes;

	reopen(&first, KT_CERT_COUNT);
	address = kt_dot_address(&first);
	ck_assert_int_eq(kloop_resolver_options_add_server(options, &address, KLOOP_DNS_TCP), 0);
	use();
	check_www();
	ck_assert_ptr_null(find_option(&first, 12, &bytes));
	ck_assert_ptr_nonnull(find_option(&first, 11, &bytes));
	ck_assert_ptr_nonnull(find_option(&first, 10, &bytes));
}
END_TEST

/* ---- connections are shared and kept ------------------------------------------------------ */

#define CROWD 40

static struct kt_lookup crowd[CROWD];

/* Many names at a time; each must be found. */
static void crowd_in(void)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	char name[32];

	for (int i = 0; i < CROWD; i++) {
		snprintf(name, sizeof(name), "n%d.many.test", i);
		kt_lookup_init(&crowd[i]);
		kt_lookup_start(&crowd[i], resolver, name, NULL, &hints);
	}
	for (int i = 0; i < CROWD; i++) {
		ck_assert_int_eq(kt_lookup_wait(&crowd[i], loop), 0);
		ck_assert_uint_eq(crowd[i].addresses->count, 2);
		kt_lookup_clear(&crowd[i]);
	}
}

START_TEST(one_connection_for_all)
{
	use_first();
	crowd_in();
	for (int i = 0; i < 10; i++)
		check_www();
	ck_assert_int_eq(first.connections, 1);
	ck_assert_int_eq(first.handshakes, 1);
	ck_assert_int_eq(first.questions, 2 * CROWD + 20);
	ck_assert_uint_eq(STAT(tcp_connections), 1);
	ck_assert_uint_gt(info_of(0).rtt_ns, 0);
}
END_TEST

START_TEST(answers_out_of_order)
{
	if (_i == 1) /* the same without TLS */
		reopen(&first, KT_CERT_COUNT);
	if (_i == 1) {
		struct kloop_address address = kt_dot_address(&first);

		ck_assert_int_eq(
			kloop_resolver_options_add_server(options, &address, KLOOP_DNS_TCP), 0);
		use();
	} else {
		use_first();
	}
	first.hold = CROWD;
	crowd_in();
	ck_assert_int_eq(first.connections, 1);
	ck_assert_uint_eq(STAT(packets_refused), 0);
}
END_TEST

START_TEST(idle_connections_end)
{
	kloop_resolver_options_set_idle_timeout(options, 20 * KT_MS);
	use_first();
	check_www();
	kt_turn_until(loop, &first.endings, 1);
	ck_assert_int_eq(first.notified, 1);
	ck_assert(!(info_of(0).flags & KLOOP_DNS_SERVER_CONNECTED));
	/* And the next one resumes. */
	check_www();
	ck_assert_int_eq(first.handshakes, 2);
	ck_assert_int_eq(first.resumed, 1);
	ck_assert_uint_eq(STAT(tls_resumed), 1);
}
END_TEST

START_TEST(not_kept_at_all)
{
	kloop_resolver_options_set_idle_timeout(options, 0);
	use_first();
	for (int i = 0; i < 3; i++)
		check_www();
	kt_turn_until(loop, &first.endings, 3);
	ck_assert_int_eq(first.connections, 3);
	ck_assert_int_eq(first.resumed, 2);
}
END_TEST

static int end_it(struct kt_dot *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes = kt_dns_answer(&server->zone, question, wire);

	memcpy(wire + bytes, "\0\0\x29\4\xd0\0\0\0\0\0\6\0\x0b\0\2\0\0", 17);
	wire[11]++;
	return bytes + 17;
}

START_TEST(a_server_that_keeps_no_connection)
{
	use_first();
	first.hook = end_it;
	check_www();
	kt_turn_until(loop, &first.endings, 1);
	ck_assert_int_eq(first.notified, 1);
}
END_TEST

/* ---- servers that end connections ----------------------------------------------------------- */

START_TEST(a_few_answers_a_connection)
{
	use_first();
	first.limit = 30; /* so that each lookup is on few enough of them */
	crowd_in();
	ck_assert_int_ge(first.connections, 3);
	ck_assert_int_le(first.connections, 4);
	ck_assert_int_eq(info_of(0).error, 0);
	ck_assert(!(info_of(0).flags & KLOOP_DNS_SERVER_DOWN));
}
END_TEST

START_TEST(ended_while_idle)
{
	use_first();
	for (int i = 1; i <= 4; i++) {
		check_www();
		kt_dot_end_peers(&first, i % 2 == 0);
		ck_assert_int_eq(first.connections, i);
		ck_assert(!(info_of(0).flags & KLOOP_DNS_SERVER_DOWN));
	}
	check_www();
}
END_TEST

START_TEST(cut_inside_an_answer)
{
	use_first();
	first.mode = _i == 0 ? KT_DOT_CUT : KT_DOT_RESET;
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_AGAIN");
	ck_assert_int_lt(info_of(0).error, 0);
	ck_assert_str_ne(info_of(0).reason, "");
	first.mode = KT_DOT_NORMAL;
	check_www();
	ck_assert_int_eq(info_of(0).error, 0);
}
END_TEST

START_TEST(the_other_server_answers)
{
	static const int modes[] = { KT_DOT_HANG, KT_DOT_MUTE, KT_DOT_GARBAGE, KT_DOT_CUT,
				     KT_DOT_RESET };

	trust();
	add(&first, NULL, 0);
	add(&second, NULL, 0);
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 2000 * KT_MS, 2), 0);
	use();
	first.mode = modes[_i];
	for (int i = 0; i < 4; i++)
		check_www();
	ck_assert(info_of(0).flags & KLOOP_DNS_SERVER_DOWN);
	ck_assert(!(info_of(1).flags & KLOOP_DNS_SERVER_DOWN));
	ck_assert_int_eq(second.questions, 8);
}
END_TEST

START_TEST(a_handshake_that_hangs)
{
	trust();
	add(&first, NULL, 0);
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, short_ns(), 1), 0);
	use();
	first.mode = KT_DOT_HANG;
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_TIMEOUT");
	first.mode = KT_DOT_NORMAL;
	check_www_in_time();
}
END_TEST

START_TEST(garbage)
{
	use_first();
	first.mode = KT_DOT_GARBAGE;
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_TLS");
	ck_assert_int_eq(info_of(0).error, KLOOP_ERROR_TLS_PROTOCOL);
	ck_assert_str_ne(info_of(0).reason, "");
	first.mode = KT_DOT_NORMAL;
	check_www();
	ck_assert_int_eq(info_of(0).error, 0);
}
END_TEST

START_TEST(one_byte_at_a_time)
{
	if (_i == 1) {
		struct kloop_address address;

		reopen(&first, KT_CERT_COUNT);
		address = kt_dot_address(&first);
		ck_assert_int_eq(
			kloop_resolver_options_add_server(options, &address, KLOOP_DNS_TCP), 0);
		use();
	} else {
		use_first();
	}
	first.mode = KT_DOT_BYTES;
	check_www();
	crowd_in();
	ck_assert_int_eq(first.connections, 1);
	ck_assert_uint_eq(STAT(packets_refused), 0);
}
END_TEST

START_TEST(a_connection_that_went_silent)
{
	int before;

	trust();
	add(&first, NULL, 0);
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, short_ns(), 1), 0);
	use();
	check_www_in_time();
	before = first.connections;
	first.mode = KT_DOT_MUTE;
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_TIMEOUT");
	first.mode = KT_DOT_NORMAL;
	check_www_in_time();
	ck_assert_int_gt(first.connections, before);
}
END_TEST

static int unasked(struct kt_dot *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes = kt_dns_answer(&server->zone, question, wire);

	switch (*(int *)server->data) {
	case 0: /* another id */
		wire[0] ^= 0x80;
		return bytes;
	case 1: /* another name */
		wire[13] ^= 1;
		return bytes;
	case 2: /* less than a header */
		return 3;
	case 3: /* truncated, although there is no end to what fits */
		wire[2] |= 2;
		return bytes;
	default: /* nonsense behind the question */
		memset(wire + question->end, 0xc0, 40);
		wire[7] = 3;
		return (int)question->end + 40;
	}
}

START_TEST(answers_to_nothing)
{
	int what = _i;
	bool waits = what == 0 || what == 2;

	trust();
	add(&first, NULL, 0);
	ck_assert_int_eq(kloop_resolver_options_set_timeout(
				 options, waits ? short_ns() : 30000 * KT_MS, 1),
			 0);
	use();
	first.hook = unasked;
	first.data = &what;
	/* Of both families, where the machine does not stand still for so long that none comes. */
	for (int i = 0; STAT(packets_refused) < 2; i++) {
		ck_assert_int_lt(i, 100);
		ck_assert_str_eq(resolve("www.test"),
				 waits ? "KLOOP_ERROR_DNS_TIMEOUT" : "KLOOP_ERROR_DNS_AGAIN");
	}
}
END_TEST

/* ---- cancelling, closing ---------------------------------------------------------------------- */

static void start_one(struct kt_lookup *lookup, const char *name)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_family = AF_INET };

	kt_lookup_init(lookup);
	kt_lookup_start(lookup, resolver, name, NULL, &hints);
}

START_TEST(late_answers_are_nobodys)
{
	struct kt_lookup one, two;

	use_first();
	ck_assert_str_eq(kt_resolve(loop, resolver, "one.test", AF_INET), "192.0.2.11");
	/*
	 * Where the machine stands still for longer than answers take, the connection counts as
	 * dead at the cancel, and the second question goes on another one: that is once more.
	 */
	for (int i = 0;; i++) {
		ck_assert_int_lt(i, 100);
		first.connections = 1;
		first.questions = 0;
		first.hold = 2;
		start_one(&one, "one.test");
		kt_turn_until(loop, &first.questions, 1);
		ck_assert_int_eq(kloop_lookup_cancel(&one.lookup), 0);
		ck_assert_int_eq(kt_lookup_wait(&one, loop), -ECANCELED);
		start_one(&two, "two.test");
		kt_turn_until(loop, &first.questions, 2);
		if (first.connections == 1)
			break;
		first.hold = 0;
		ck_assert_int_eq(kloop_lookup_cancel(&two.lookup), 0);
		ck_assert_int_eq(kt_lookup_wait(&two, loop), -ECANCELED);
		ck_assert_str_eq(kt_resolve(loop, resolver, "one.test", AF_INET), "192.0.2.11");
	}
	ck_assert_int_eq(kt_lookup_wait(&two, loop), 0);
	ck_assert_str_eq(kt_addresses_text(two.addresses), "192.0.2.22");
	kt_lookup_clear(&two);
	first.hold = 0;
	ck_assert_str_eq(kt_resolve(loop, resolver, "one.test", AF_INET), "192.0.2.11");
	ck_assert_int_eq(first.connections, 1);
	ck_assert_uint_eq(STAT(packets_refused), 0);
}
END_TEST

START_TEST(cancelled_at_any_time)
{
	use_first();
	for (int turns = 0; turns < 12; turns++) {
		struct kt_lookup lookup;

		start_one(&lookup, "one.test");
		for (int i = 0; i < turns && !lookup.done; i++)
			kt_turn(loop, 20 * KT_MS);
		if (!lookup.done)
			ck_assert_int_eq(kloop_lookup_cancel(&lookup.lookup), 0);
		kt_lookup_wait(&lookup, loop);
		ck_assert(lookup.result == 0 || lookup.result == -ECANCELED);
		kt_lookup_clear(&lookup);
	}
	check_www();
}
END_TEST

START_TEST(closed_at_any_time)
{
	struct kt_lookup lookup;

	use_first();
	start_one(&lookup, "one.test");
	for (int i = 0; i < _i && !lookup.done; i++)
		kt_turn(loop, 20 * KT_MS);
	kloop_resolver_close(resolver);
	resolver = NULL;
	kt_lookup_wait(&lookup, loop);
	ck_assert(lookup.result == 0 || lookup.result == -ECANCELED);
	kt_lookup_clear(&lookup);
}
END_TEST

/* The loop is freed first; the servers have one of their own. */
START_TEST(the_loop_goes_first)
{
	struct kloop_loop *other = kt_loop_new(NULL);
	struct kt_lookup lookup;

	trust();
	add(&first, NULL, 0);
	resolver = kt_resolver_new(other, options);
	options = NULL;
	start_one(&lookup, "one.test");
	for (int i = 0; i < _i && !lookup.done; i++) {
		kt_turn(other, 5 * KT_MS);
		kt_turn(loop, 5 * KT_MS);
	}
	kt_loop_free(other);
	resolver = NULL;
	ck_assert_int_eq(lookup.done, 1);
	kt_lookup_clear(&lookup);
}
END_TEST

START_TEST(a_new_configuration_connects_anew)
{
	use_first();
	check_www();
	ck_assert_int_eq(kloop_resolver_reload(resolver), 0);
	check_www();
	kt_turn_until(loop, &first.endings, 1);
	ck_assert_int_eq(first.connections, 2);
	ck_assert_int_eq(first.notified, 1);
}
END_TEST

static void count_done(struct kt_lookup *lookup)
{
	(*(int *)lookup->data)++;
}

static uint64_t prefetched;

static int delay(struct kt_dot *server, const struct kt_question *question, uint8_t *wire)
{
	(void)question;
	(void)wire;
	if (STAT(prefetches) == prefetched)
		return -1; /* somebody waits for it: it came too late to be early */
	server->hook = NULL; /* the next one is answered */
	return 0;
}

/* False: it took so long that the name was too old to be fetched early. */
static bool renew_early(void)
{
	struct kt_lookup lookup;
	const struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM };

	kt_lookup_init(&lookup);
	for (int i = 0; i < 9; i++)
		ck_assert_str_eq(kt_resolve(loop, resolver, "www.test", AF_INET), "192.0.2.1");
	kt_turn_for(loop, 1850);
	prefetched = STAT(prefetches);
	first.hook = delay;
	kt_lookup_start(&lookup, resolver, "www.test", NULL, &hints);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	kt_lookup_clear(&lookup);
	return STAT(prefetches) == prefetched + 1;
}

/*
 * A name is asked for early, on nobody's behalf, when the configuration is
 * exchanged: until its answer is there the old one is needed by that connection.
 */
START_TEST(asked_by_nobody_for_an_old_configuration)
{
	const int connections = _i == 0 ? 3 : 2;

	kloop_resolver_options_set_flags(options, KLOOP_RESOLVER_NO_ENVIRONMENT);
	first.zone.ttl_s = 2;
	use_first();
	for (int i = 0; !renew_early(); i++) {
		ck_assert_int_lt(i, 20);
		first.hook = NULL;
		ck_assert_int_ge(kloop_resolver_flush(resolver, NULL), 0);
	}
	kt_turn_until(loop, &first.questions, first.questions + (first.hook != NULL));
	ck_assert_ptr_null(first.hook);
	ck_assert_int_eq(kloop_resolver_reload(resolver), 0);
	ck_assert_str_eq(kt_resolve(loop, resolver, "one.test", AF_INET), "192.0.2.11");
	ck_assert_int_eq(first.connections, 2);
	/* It asks again by another connection, or is given up with the resolver. */
	if (_i == 0)
		kt_dot_end_peers(&first, true);
	kt_turn_until(loop, &first.connections, connections);
	for (int i = 0; _i == 0 && STAT(in_flight) != 0; i++) {
		ck_assert_int_lt(i, KT_PATIENCE_MS);
		kt_turn(loop, KT_MS);
	}
	ck_assert_str_eq(kt_resolve(loop, resolver, "two.test", AF_INET), "192.0.2.22");
}
END_TEST

START_TEST(more_questions_than_a_connection_takes)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	enum { LOOKUPS = 2100 };
	struct kt_lookup *lookups = calloc(LOOKUPS, sizeof(*lookups));
	int done = 0;

	ck_assert_int_eq(kloop_resolver_options_set_max_queries(options, LOOKUPS), 0);
	use_first();
	first.mode = KT_DOT_MUTE;
	for (int i = 0; i < LOOKUPS; i++) {
		char name[32];

		snprintf(name, sizeof(name), "n%d.many.test", i);
		kt_lookup_init(&lookups[i]);
		lookups[i].then = count_done;
		lookups[i].data = &done;
		kt_lookup_start(&lookups[i], resolver, name, NULL, &hints);
	}
	kt_turn_until(loop, &first.questions, 2 * LOOKUPS);
	ck_assert_int_eq(first.connections, 2);
	for (int i = 0; i < LOOKUPS; i++)
		ck_assert_int_eq(kloop_lookup_cancel(&lookups[i].lookup), 0);
	kt_turn_until(loop, &done, LOOKUPS);
	free(lookups);
	first.mode = KT_DOT_NORMAL;
	check_www();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dns stream");
	TCase *tcase = kt_case(suite, "connections", 120);

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, questions_are_padded);
	tcase_add_test(tcase, in_the_clear_they_are_not_padded);
	tcase_add_test(tcase, one_connection_for_all);
	tcase_add_loop_test(tcase, answers_out_of_order, 0, 2);
	tcase_add_test(tcase, idle_connections_end);
	tcase_add_test(tcase, not_kept_at_all);
	tcase_add_test(tcase, a_server_that_keeps_no_connection);
	tcase = kt_case(suite, "ends", 120);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, a_few_answers_a_connection);
	tcase_add_test(tcase, ended_while_idle);
	tcase_add_loop_test(tcase, cut_inside_an_answer, 0, 2);
	tcase_add_loop_test(tcase, the_other_server_answers, 0, 5);
	tcase_add_test(tcase, a_handshake_that_hangs);
	tcase_add_test(tcase, garbage);
	tcase_add_loop_test(tcase, one_byte_at_a_time, 0, 2);
	tcase_add_test(tcase, a_connection_that_went_silent);
	tcase_add_loop_test(tcase, answers_to_nothing, 0, 5);
	tcase = kt_case(suite, "cancel", 120);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, late_answers_are_nobodys);
	tcase_add_test(tcase, cancelled_at_any_time);
	tcase_add_loop_test(tcase, closed_at_any_time, 0, 10);
	tcase_add_loop_test(tcase, the_loop_goes_first, 0, 10);
	tcase_add_test(tcase, a_new_configuration_connects_anew);
	tcase_add_loop_test(tcase, asked_by_nobody_for_an_old_configuration, 0, 2);
	tcase_add_test(tcase, more_questions_than_a_connection_takes);
	return kt_main(suite);
}
