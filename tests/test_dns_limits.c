/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The resolver where little is left: descriptors, memory, room in the ring; on
 * every kind of ring; with the options of resolv.conf that change how it asks;
 * and for long.
 */
#include "dnsfixture.h"
#include "fault.h"

#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>

static struct kt_files files;

/* One of the fixture's files, with these lines. */
static void use_conf(const char *lines)
{
	kt_files_open(&files);
	kt_files_write(&files, KLOOP_DNS_FILE_RESOLV_CONF, lines);
	ck_assert_int_eq(kloop_resolver_options_set_file(
				 options, KLOOP_DNS_FILE_RESOLV_CONF,
				 kt_files_path(&files, KLOOP_DNS_FILE_RESOLV_CONF)),
			 0);
}

/* ---- options of resolv.conf ---------------------------------------------------------- */

static uint16_t ports[16];
static unsigned types[16];
static int answered_before[16];
static int noted, answered;

static int note(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	(void)server;
	(void)wire;
	ck_assert_int_lt(noted, 16);
	ports[noted] = question->from.sin_port;
	types[noted] = question->type;
	answered_before[noted++] = answered;
	answered++;
	return -1;
}

START_TEST(one_question_at_a_time)
{
	static const char *const lines[] = { "options single-request\n",
					     "options single-request-reopen\n", "" };

	add_clear();
	use_conf(lines[_i]);
	use();
	clear.hook = note;
	/* Both on one socket, or one after the other on two, whose ports may be the same by chance. */
	for (int counted = 0, same = 0; counted < 4;) {
		uint64_t retries = STAT(retries);

		noted = answered = 0;
		check_www();
		if (STAT(retries) != retries)
			continue; /* the machine stood still, and it asked once more */
		ck_assert_int_eq(noted, 2);
		ck_assert_uint_ne(types[0], types[1]);
		counted++;
		same += ports[0] == ports[1];
		ck_assert_int_ge(same, _i == 2 ? counted : 0);
		ck_assert_int_le(same, _i == 2 ? 4 : 2);
	}
	kt_files_close(&files);
}
END_TEST

static int quiet_once(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	(void)wire;
	(*(int *)server->data)++;
	return question->number == 2 ? 0 : -1;
}

START_TEST(the_second_of_two_is_lost)
{
	int count = 0;

	add_clear();
	use_conf("options single-request\n");
	use();
	clear.hook = quiet_once;
	clear.data = &count;
	check_www();
	ck_assert_int_ge(count, 3);
	kt_files_close(&files);
}
END_TEST

START_TEST(servers_take_turns)
{
	struct kt_dns other;
	struct kloop_address address;

	kt_dns_open(&other, loop, zone, KT_COUNT(zone), false);
	address = kt_dns_address(&other);
	add_clear();
	ck_assert_int_eq(kloop_resolver_options_add_server(options, &address, KLOOP_DNS_UDP), 0);
	use_conf(_i == 0 ? "options rotate\n" : "");
	use();
	for (int i = 0; i < 10; i++)
		check_www();
	kt_assert_asked(resolver, clear.questions, _i == 0 ? 10 : 20);
	kt_assert_asked(resolver, other.questions, _i == 0 ? 10 : 0);
	kt_dns_close(&other);
	kt_files_close(&files);
}
END_TEST

START_TEST(by_tcp_only)
{
	add_clear();
	use_conf("options use-vc\n");
	use();
	for (int i = 0; i < 5; i++)
		check_www();
	ck_assert_int_eq(clear.by_tcp, 10);
	ck_assert_int_eq(clear.connections, 1);
	ck_assert_uint_eq(info_of(0).transport, KLOOP_DNS_TCP);
	ck_assert_uint_eq(STAT(packets_sent), 0);
	kt_files_close(&files);
}
END_TEST

/* ---- rings ---------------------------------------------------------------------------- */

#define CROWD 100

/* Many names at a time, of the server in the clear and of the one by TLS. */
static void crowd_in(void)
{
	struct kt_lookup *lookups = calloc(CROWD, sizeof(*lookups));
	char name[32];

	for (int i = 0; i < CROWD; i++) {
		snprintf(name, sizeof(name), "n%d.many.test", i);
		kt_lookup_init(&lookups[i]);
		kt_lookup_start(&lookups[i], resolver, name, NULL, NULL);
	}
	for (int i = 0; i < CROWD; i++) {
		ck_assert_int_eq(kt_lookup_wait(&lookups[i], loop), 0);
		kt_lookup_clear(&lookups[i]);
	}
	free(lookups);
}

static void leave_loop(void)
{
	tear_down();
	options = NULL;
	resolver = NULL;
}

static void enter_loop(struct kloop_loop *other)
{
	loop = other;
	set_up_on_loop();
	add_clear();
}

START_TEST(on_every_rung)
{
	leave_loop();
	enter_loop(kt_loop_on_rung(_i % KT_RUNGS));
	if (_i >= KT_RUNGS) {
		kloop_resolver_options_free(options);
		options = kt_resolver_options(NULL, NULL, 0);
		be_patient();
		use_first();
	} else {
		use();
	}
	for (int i = 0; i < 3; i++)
		crowd_in();
	check_www();
}
END_TEST

START_TEST(a_tiny_ring)
{
	leave_loop();
	enter_loop(kt_loop_sized(2, 2));
	use();
	for (int i = 0; i < 5; i++)
		crowd_in();
}
END_TEST

/* ---- descriptors ------------------------------------------------------------------------ */

static int truncate_it(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes;

	(void)server;
	if (question->tcp)
		return -1;
	bytes = kt_dns_empty(question, 0, wire);
	wire[2] |= 2;
	return bytes;
}

/* How a lookup may end for want of something, and nothing else. */
static bool is_want(int result)
{
	return result == -EMFILE || result == -ENOMEM || result == KLOOP_ERROR_DNS_AGAIN ||
	       result == KLOOP_ERROR_DNS_TIMEOUT || result == KLOOP_ERROR_DNS_TLS;
}

/* A server, and what becomes of a question to it. */
static void choose(int which)
{
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, short_ns(), 1), 0);
	if (which == 2) {
		trust();
		add(&first, NULL, 0);
	} else {
		add_clear();
	}
	clear.hook = which == 1 ? truncate_it : NULL;
}

/* The descriptors once those that are on their way to be closed are. */
static int settled_fd_count(void)
{
	int count, before;

	do {
		before = kt_fd_count();
		kt_turn_for(loop, 20);
		count = kt_fd_count();
	} while (count < before);
	return count;
}

/* From none on, until there are as many as it takes. */
START_TEST(one_descriptor_more_each_time)
{
	struct rlimit limit, less;
	int more, base, done = 0;

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	choose(_i);
	use();
	check_www_in_time();
	kloop_resolver_close(resolver);
	resolver = NULL;
	base = settled_fd_count();
	for (more = 0; more < 40 && done < 3; more++) {
		struct kt_lookup lookup;

		kloop_resolver_close(resolver);
		options = kt_resolver_options(NULL, NULL, 0);
		choose(_i);
		use();
		kt_turn_for(loop, 1);
		less = limit;
		less.rlim_cur = (rlim_t)base + (rlim_t)more;
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &less), 0);
		kt_lookup_init(&lookup);
		kt_lookup_start(&lookup, resolver, "www.test", NULL, NULL);
		kt_lookup_wait(&lookup, loop);
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
		ck_assert_msg(lookup.result == 0 || is_want(lookup.result), "%s",
			      kloop_error_name(lookup.result));
		done += lookup.result == 0;
		kt_lookup_clear(&lookup);
		/* And with enough of them it goes on. */
		check_www_in_time();
	}
	ck_assert_int_eq(done, 3);
}
END_TEST

/*
 * A socket of the other family, which lies idle, is no help to a query that has
 * none: it waits like others, instead of trying without end.
 */
START_TEST(no_descriptor_of_the_family)
{
	struct kloop_address silent6 = { .length = sizeof(struct sockaddr_in6) };
	socklen_t length = sizeof(silent6.u.ip6);
	int silent = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct addrinfo hints = { .ai_family = AF_INET };
	struct kt_lookup lookups[2];
	struct rlimit limit, less;

	memset(&silent6.u, 0, sizeof(silent6.u));
	silent6.u.ip6.sin6_family = AF_INET6;
	silent6.u.ip6.sin6_addr = in6addr_loopback;
	ck_assert_int_eq(bind(silent, &silent6.u.any, length), 0);
	ck_assert_int_eq(getsockname(silent, &silent6.u.any, &length), 0);
	ck_assert_int_eq(kloop_resolver_options_add_server(options, &silent6, KLOOP_DNS_UDP), 0);
	add_clear();
	use();
	/* The second server answers in the first one's place; its socket is kept. */
	check_www();
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	for (int i = 0; i < 2; i++) {
		less = limit;
		less.rlim_cur = i == 0 ? limit.rlim_cur : 0;
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &less), 0);
		kt_lookup_init(&lookups[i]);
		kt_lookup_start(&lookups[i], resolver, i == 0 ? "a.many.test" : "b.many.test", NULL,
				&hints);
	}
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(kt_lookup_wait(&lookups[i], loop), 0);
		kt_lookup_clear(&lookups[i]);
	}
	kt_close(silent);
}
END_TEST

/* ---- what others wait for ------------------------------------------------------------------ */

/* Of the second family nothing is heard. */
static int answer_ip4(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	(void)server;
	(void)wire;
	return question->type == 28 ? 0 : -1;
}

/* Who asks for what has an answer already does not wait for what others still wait for. */
START_TEST(not_joined_to_what_is_answered)
{
	struct addrinfo hints = { .ai_family = AF_INET };
	struct kt_lookup both, one;

	add_clear();
	use();
	clear.hook = answer_ip4;
	kt_lookup_init(&both);
	kt_lookup_init(&one);
	kt_lookup_stream(&both, resolver, "www.test", NULL, NULL);
	kt_turn_until(loop, &both.parts, 1);
	kt_lookup_start(&one, resolver, "www.test", NULL, &hints);
	ck_assert_int_eq(kt_lookup_wait(&one, loop), 0);
	ck_assert_int_eq(both.done, 0);
	kloop_resolver_close(resolver);
	resolver = NULL;
	ck_assert_int_eq(kt_lookup_wait(&both, loop), -ECANCELED);
	kt_lookup_clear(&both);
	kt_lookup_clear(&one);
}
END_TEST

/* ---- memory -------------------------------------------------------------------------------- */

START_TEST(each_allocation_fails_once)
{
	size_t calls;

	leave_loop();
	kt_fault_install();
	enter_loop(kt_loop_new(NULL));
	kloop_resolver_options_free(options);
	options = NULL;
	for (calls = 1; calls < 1000; calls++) {
		struct kt_lookup lookup;
		int ret;

		kt_fault_pause();
		options = kt_resolver_options(NULL, NULL, 0);
		choose(_i);
		kt_fault_resume();
		kt_fault_arm(calls, 1);
		ret = kloop_resolver_new(loop, options, &resolver);
		ck_assert(ret == 0 || ret == -ENOMEM);
		kt_lookup_init(&lookup);
		lookup.data = loop;
		if (ret == 0)
			kt_lookup_try(&lookup, resolver, "www.test", NULL);
		kt_fault_arm(0, 0);
		ck_assert_msg(lookup.result == 0 || is_want(lookup.result), "%s",
			      kloop_error_name(lookup.result));
		kt_lookup_clear(&lookup);
		if (ret == 0)
			check_www_in_time();
		kloop_resolver_close(ret == 0 ? resolver : NULL);
		resolver = NULL;
		kloop_resolver_options_free(options);
		options = NULL;
		kt_turn_for(loop, 0);
		if (kt_fault_hits() == 0 && calls > 20)
			break;
	}
	ck_assert_uint_lt(calls, 1000);
	leave_loop();
	kt_fault_remove();
	set_up();
}
END_TEST

/* ---- for long -------------------------------------------------------------------------------- */

/* The caller's memory may go inside the completion. */
static void free_it(struct kt_lookup *lookup)
{
	int *done = lookup->data;

	(*done)++;
	kt_lookup_clear(lookup);
	free(lookup);
}

static void start_freed(int number, int *done)
{
	struct kt_lookup *lookup = malloc(sizeof(*lookup));
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	char name[32];

	kt_lookup_init(lookup);
	lookup->then = free_it;
	lookup->data = done;
	snprintf(name, sizeof(name), "n%d.many.test", number);
	kt_lookup_start(lookup, resolver, name, NULL, &hints);
	if (number % 7 == 0)
		ck_assert_int_eq(kloop_lookup_cancel(&lookup->lookup), 0);
}

START_TEST(many_lookups_in_flat_memory)
{
	enum { ROUNDS = 30, EACH = 200 };
	int done = 0, started = 0, fds = 0;
	size_t bytes = 0;

	leave_loop();
	kt_fault_install();
	enter_loop(kt_loop_new(NULL));
	kloop_resolver_options_free(options);
	options = kt_resolver_options(NULL, NULL, 0);
	ck_assert_int_eq(kloop_resolver_options_set_cache(options, 65536, 3600, 300, 0), 0);
	if (_i == 0)
		add_clear();
	else
		choose(2);
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 20000 * KT_MS, 2), 0);
	use();
	for (int i = 0; i < ROUNDS; i++) {
		for (int j = 0; j < EACH; j++)
			start_freed(started++, &done);
		kt_turn_until(loop, &done, started);
		/* What the kernel still had of those that were cancelled comes back. */
		while (KT_STAT(loop, in_flight) > 8)
			kt_turn(loop, KT_MS);
		ck_assert_uint_le(STAT(cache_bytes), 65536);
		if (i == ROUNDS / 2) {
			fds = settled_fd_count();
			bytes = kt_fault_bytes();
		}
	}
	/* The cache may be fuller by an answer, and have a few buckets. */
	/* So many sockets may stay for the next questions: more were repeated in one half. */
	ck_assert_int_le(settled_fd_count(), fds + 64);
	ck_assert_uint_le(kt_fault_bytes(), bytes + 16384);
	leave_loop();
	kt_fault_remove();
	set_up();
}
END_TEST

static int close_in_child(void *data)
{
	struct kt_lookup *lookup = data;
	struct kloop_lookup other;

	kloop_lookup_init(&other);
	KT_CHILD_CHECK(kloop_resolver_getaddrinfo(resolver, &other, "www.test", NULL, NULL,
						  (kloop_addresses_fn *)1) == -ECHILD);
	KT_CHILD_CHECK(kloop_lookup_cancel(&lookup->lookup) == -ECHILD);
	kloop_resolver_close(resolver);
	return 0;
}

START_TEST(forked_with_a_connection)
{
	struct kt_lookup lookup;

	use_first();
	check_www();
	first.hold = 2;
	kt_lookup_init(&lookup);
	kt_lookup_start(&lookup, resolver, "www.test", NULL, NULL);
	kt_turn(loop, 0);
	kt_fork_ok(close_in_child, &lookup);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	kt_lookup_clear(&lookup);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dns limits");
	TCase *tcase = kt_case(suite, "options", 120);

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_loop_test(tcase, one_question_at_a_time, 0, 3);
	tcase_add_test(tcase, the_second_of_two_is_lost);
	tcase_add_loop_test(tcase, servers_take_turns, 0, 2);
	tcase_add_test(tcase, by_tcp_only);
	tcase = kt_case(suite, "rings", 120);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_loop_test(tcase, on_every_rung, 0, 2 * KT_RUNGS);
	tcase_add_test(tcase, a_tiny_ring);
	tcase = kt_case(suite, "want", 240);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_loop_test(tcase, one_descriptor_more_each_time, 0, 3);
	tcase_add_test(tcase, no_descriptor_of_the_family);
	tcase_add_test(tcase, not_joined_to_what_is_answered);
	tcase_add_loop_test(tcase, each_allocation_fails_once, 0, 3);
	tcase = kt_case(suite, "long", 240);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_loop_test(tcase, many_lookups_in_flat_memory, 0, 2);
	tcase_add_test(tcase, forked_with_a_connection);
	return kt_main(suite);
}
