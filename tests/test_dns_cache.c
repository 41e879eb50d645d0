/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The cache as lookups see it. */
#include "dnsservers.h"

START_TEST(answers_are_kept)
{
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_str_eq(resolve("WWW.test"), "192.0.2.1");
	ck_assert_str_eq(resolve("nosuch.test"), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_str_eq(resolve("nosuch.test"), "KLOOP_ERROR_DNS_NONAME");
	kt_assert_asked(resolver, first.questions, 2);
	ck_assert_uint_eq(STAT(cache_entries), 2);
	ck_assert_int_eq(kloop_resolver_flush(resolver, "www.TEST"), 1);
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	kt_assert_asked(resolver, first.questions, 3);
	ck_assert_int_eq(kloop_resolver_flush(resolver, NULL), 2);
	/* Failures are not. */
	first.hook = say;
	first.data = &(unsigned){ 2 };
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_AGAIN");
	first.hook = NULL;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
}
END_TEST

START_TEST(no_time_no_cache)
{
	first.ttl_s = 0;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	kt_assert_asked(resolver, first.questions, 2);
}
END_TEST

START_TEST(stale_answers)
{
	struct kloop_resolver_options *options = options_for(1);
	struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM };
	struct kt_lookup lookup;

	ck_assert_int_eq(kloop_resolver_options_set_cache(options, 1 << 20, 3600, 300, 600), 0);
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 1500 * KT_MS, 1), 0);
	use(options);
	first.ttl_s = 1;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	kt_turn_for(loop, 1100);
	first.quiet = true;
	kt_lookup_init(&lookup);
	kt_lookup_start(&lookup, resolver, "www.test", NULL, &hints);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	ck_assert(lookup.addresses->flags & KLOOP_ADDRESSES_STALE);
	ck_assert_uint_eq(lookup.addresses->ttl_s, 0);
	kt_lookup_clear(&lookup);
	ck_assert_uint_eq(STAT(cache_stale), 1);
	/* One who is there is asked. */
	first.quiet = false;
	first.questions = 0;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	kt_assert_asked(resolver, first.questions, 1);
}
END_TEST

/* False: it took so long that the answer was too old in the midst of it. */
static bool fetch_early(void)
{
	uint64_t start = kloop_now();

	first.questions = 0;
	for (int i = 0; i < 9; i++)
		ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	kt_turn_for(loop, 1850);
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	if (kloop_now() - start >= 2000 * KT_MS)
		return false;
	kt_turn_until(loop, &first.questions, 2);
	kt_turn_for(loop, 200);
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	if (kloop_now() - start >= 3800 * KT_MS)
		return false;
	kt_assert_asked(resolver, first.questions, 2);
	ck_assert_uint_eq(STAT(prefetches), 1);
	return true;
}

START_TEST(hot_names_are_fetched_early)
{
	first.ttl_s = 2;
	for (int i = 0; !fetch_early(); i++) {
		ck_assert_int_lt(i, 20);
		use(options_for(1));
	}
}
END_TEST

START_TEST(memory_stays)
{
	struct kloop_resolver_stats stats;
	int fds;

	for (int i = 0; i < 2000; i++) {
		char name[32];

		snprintf(name, sizeof(name), "n%d.test", i % 500);
		if (i == 1000)
			fds = kt_fd_count();
		if (i % 100 == 0)
			ck_assert_int_ge(kloop_resolver_flush(resolver, NULL), 0);
		ck_assert_str_eq(resolve(name), "KLOOP_ERROR_DNS_NONAME");
	}
	ck_assert_int_eq(kt_fd_count(), fds);
	stats = kt_resolver_stats(resolver);
	ck_assert_uint_eq(stats.in_flight, 0);
	ck_assert_uint_le(stats.cache_bytes, 4 << 20);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dns cache");
	TCase *tcase = kt_case(suite, "cache", 60);

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, answers_are_kept);
	tcase_add_test(tcase, no_time_no_cache);
	tcase_add_test(tcase, stale_answers);
	tcase_add_test(tcase, hot_names_are_fetched_early);
	tcase_add_test(tcase, memory_stays);
	return kt_main(suite);
}
