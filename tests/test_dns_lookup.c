/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Lookups against a server that means well: addresses, names, records, cancelling, the end. */
#include "dns.h"
#include "fault.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const struct kt_record zone[] = {
	{ "www.test", "A", "192.0.2.1" },
	{ "www.test", "AAAA", "2001:db8::1" },
	{ "a4.test", "A", "192.0.2.4" },
	{ "a6.test", "AAAA", "2001:db8::6" },
	{ "alias.test", "CNAME", "www.test" },
	{ "dangling.test", "CNAME", "nowhere.test" },
	{ "loop1.test", "CNAME", "loop2.test" },
	{ "loop2.test", "CNAME", "loop1.test" },
	{ "bad.test", "CNAME", "a b.test" },
	{ "a b.test", "A", "192.0.2.66" },
	{ "*.wild.test", "A", "192.0.2.77" },
	{ "mail.test", "MX", "www.test" },
	{ "text.test", "TXT", "hello" },
	{ "1.2.0.192.in-addr.arpa", "PTR", "www.test" },
	{ "2.2.0.192.in-addr.arpa", "PTR", "a;b.test" },
	{ "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "PTR",
	  "six.test" },
};

static struct kloop_loop *loop;
static struct kt_dns server;
static struct kt_files files;
static struct kloop_resolver *resolver;

static struct kloop_resolver_options *usual_options(void)
{
	struct kt_dns *servers[] = { &server };

	return kt_resolver_options(&files, servers, 1);
}

static void set_up(void)
{
	loop = kt_loop_new(NULL);
	kt_files_open(&files);
	kt_files_write(&files, KLOOP_DNS_FILE_RESOLV_CONF, "search test\n");
	kt_files_write(&files, KLOOP_DNS_FILE_HOSTS,
		       "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"
		       "10.0.0.1 fixed.host fixed # one\n10.0.0.2 fixed\n10.0.0.3 only4\n");
	kt_files_write(&files, KLOOP_DNS_FILE_SERVICES,
		       "http 80/tcp www\ndomain 53/tcp\ndomain 53/udp\n");
	kt_files_write(&files, KLOOP_DNS_FILE_HOST_CONF, "multi on\n");
	kt_dns_open(&server, loop, zone, KT_COUNT(zone), true);
	resolver = kt_resolver_new(loop, usual_options());
}

static void tear_down(void)
{
	kloop_resolver_close(resolver);
	kt_dns_close(&server);
	kt_loop_free(loop);
	kt_files_close(&files);
}

static const char *resolve(const char *node, int family)
{
	return kt_resolve(loop, resolver, node, family);
}

START_TEST(addresses_of_names)
{
	ck_assert_str_eq(resolve("www.test", AF_INET), "192.0.2.1");
	ck_assert_str_eq(resolve("www.test", AF_INET6), "2001:db8::1");
	ck_assert_str_eq(resolve("a4.test", AF_UNSPEC), "192.0.2.4");
	ck_assert_str_eq(resolve("a6.test", AF_UNSPEC), "2001:db8::6");
	ck_assert_str_eq(resolve("alias.test", AF_INET), "192.0.2.1");
	ck_assert_str_eq(resolve("x.wild.test", AF_INET), "192.0.2.77");
	ck_assert_str_eq(resolve("WWW.Test.", AF_INET), "192.0.2.1");
	ck_assert_str_eq(resolve("www", AF_INET), "192.0.2.1");
}
END_TEST

START_TEST(failures)
{
	ck_assert_str_eq(resolve("nosuch.test", AF_UNSPEC), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_str_eq(resolve("a4.test", AF_INET6), "KLOOP_ERROR_DNS_NODATA");
	ck_assert_str_eq(resolve("dangling.test", AF_INET), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_str_eq(resolve("loop1.test", AF_INET), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_str_eq(resolve("x..test", AF_INET), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_str_eq(resolve("", AF_INET), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_str_eq(resolve("some.invalid", AF_INET), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_str_eq(resolve("some.onion.", AF_INET), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_str_eq(resolve("a\\.b", AF_INET), "KLOOP_ERROR_DNS_NSS");
	/* An alias that is no host's name is not handed on. */
	ck_assert_str_eq(resolve("bad.test", AF_INET), "KLOOP_ERROR_DNS_NONAME");
}
END_TEST

START_TEST(local_names)
{
	ck_assert_str_eq(resolve("fixed", AF_UNSPEC), "10.0.0.1 10.0.0.2");
	ck_assert_str_eq(resolve("FIXED.host", AF_INET), "10.0.0.1");
	ck_assert_str_eq(resolve("localhost", AF_INET6), "::1");
	ck_assert_str_eq(resolve("localhost.", AF_INET), "127.0.0.1");
	ck_assert_str_eq(resolve("any.localhost", AF_INET6), "::1");
	ck_assert_str_eq(resolve("ip6-localhost", AF_INET), "127.0.0.1");
	ck_assert_str_eq(resolve("127.1", AF_UNSPEC), "127.0.0.1");
	ck_assert_str_eq(resolve("0x7f.1", AF_UNSPEC), "127.0.0.1");
	ck_assert_str_eq(resolve("192.0.2.1", AF_INET6), "KLOOP_ERROR_DNS_ADDRFAMILY");
	ck_assert_str_eq(resolve("::ffff:192.0.2.1", AF_INET), "192.0.2.1");
	ck_assert_str_eq(resolve("fe80::1%nosuch", AF_UNSPEC), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_str_eq(resolve(NULL, AF_UNSPEC), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_int_eq(server.questions, 0);
	/* A name with IPv4 in the file only is asked for where IPv6 is wanted. */
	ck_assert_str_eq(resolve("only4", AF_INET6), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_int_gt(server.questions, 0);
}
END_TEST

START_TEST(canonical_names_and_flags)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_CANONNAME };
	struct kt_lookup lookup;

	kt_lookup_init(&lookup);
	kt_lookup_start(&lookup, resolver, "alias", "http", &hints);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	ck_assert_str_eq(lookup.addresses->first->ai_canonname, "www.test");
	ck_assert_uint_eq(lookup.addresses->count, 2);
	ck_assert_uint_gt(lookup.addresses->ttl_s, 290);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	ck_assert_uint_eq(ntohs(((struct sockaddr_in *)lookup.addresses->first->ai_addr)->sin_port),
			  80);
	kt_lookup_clear(&lookup);
	hints.ai_flags = AI_V4MAPPED;
	hints.ai_family = AF_INET6;
	kt_lookup_init(&lookup);
	kt_lookup_start(&lookup, resolver, "a4.test", NULL, &hints);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	ck_assert_str_eq(kt_addresses_text(lookup.addresses), "::ffff:192.0.2.4");
	kt_lookup_clear(&lookup);
	hints.ai_flags = 0x8000;
	kt_lookup_init(&lookup);
	kt_lookup_start(&lookup, resolver, "a4.test", NULL, &hints);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), KLOOP_ERROR_DNS_FLAGS);
}
END_TEST

START_TEST(services)
{
	static const struct {
		int socktype, protocol;
		const char *service;
		int result;
		size_t count;
	} cases[] = {
		{ 0, 0, "80", 0, 3 },
		{ 0, 0, "domain", 0, 2 },
		{ 0, 0, "http", 0, 1 },
		{ SOCK_STREAM, 0, "http", 0, 1 },
		{ SOCK_DGRAM, 0, "http", KLOOP_ERROR_DNS_SERVICE, 0 },
		{ SOCK_RAW, 0, "http", KLOOP_ERROR_DNS_SERVICE, 0 },
		{ SOCK_RAW, 0, "80", KLOOP_ERROR_DNS_SERVICE, 0 },
		{ SOCK_RAW, 0, NULL, 0, 1 },
		{ SOCK_STREAM, 0, "nosuch", KLOOP_ERROR_DNS_SERVICE, 0 },
		{ SOCK_STREAM, 0, "-1", KLOOP_ERROR_DNS_SERVICE, 0 },
		{ SOCK_STREAM, 0, "65536", KLOOP_ERROR_DNS_SERVICE, 0 },
		{ SOCK_STREAM, 17, "80", KLOOP_ERROR_DNS_SOCKTYPE, 0 },
		{ 99, 0, "80", KLOOP_ERROR_DNS_SOCKTYPE, 0 },
		{ 0, 6, "80", 0, 1 },
		{ SOCK_STREAM, 0, "", 0, 1 },
	};

	for (size_t i = 0; i < KT_COUNT(cases); i++) {
		struct addrinfo hints = { .ai_socktype = cases[i].socktype,
					  .ai_protocol = cases[i].protocol };
		struct kt_lookup lookup;

		kt_lookup_init(&lookup);
		kt_lookup_start(&lookup, resolver, "192.0.2.1", cases[i].service, &hints);
		ck_assert_msg(kt_lookup_wait(&lookup, loop) == cases[i].result, "case %zu: %s", i,
			      kloop_error_name(lookup.result));
		if (cases[i].result == 0)
			ck_assert_uint_eq(lookup.addresses->count, cases[i].count);
		kt_lookup_clear(&lookup);
	}
}
END_TEST

START_TEST(the_call_that_answers_at_once)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct kloop_addresses *addresses = NULL;
	struct kloop_resolver_stats before, after;

	/* Nothing was read so far. */
	ck_assert_int_eq(kloop_resolver_getaddrinfo_now(resolver, "fixed", NULL, &hints, &addresses),
			 -EAGAIN);
	ck_assert_int_eq(strncmp(resolve("www.test", AF_UNSPEC), "KLOOP", 5) == 0, 0);
	ck_assert_int_eq(kloop_resolver_getaddrinfo_now(resolver, "fixed", NULL, &hints, &addresses),
			 0);
	ck_assert_str_eq(kt_addresses_text(addresses), "10.0.0.1 10.0.0.2");
	ck_assert(addresses->flags & KLOOP_ADDRESSES_LOCAL);
	kloop_addresses_free(addresses);
	ck_assert_int_eq(
		kloop_resolver_getaddrinfo_now(resolver, "www.test", NULL, &hints, &addresses), 0);
	ck_assert(addresses->flags & KLOOP_ADDRESSES_CACHED);
	ck_assert_uint_eq(addresses->count, 2);
	kloop_addresses_free(addresses);
	/* Not knowing counts for nothing: the lookup that follows does. */
	ck_assert_int_eq(kloop_resolver_get_stats(resolver, &before, sizeof(before)), 0);
	ck_assert_int_eq(kloop_resolver_getaddrinfo_now(resolver, "a4.test", NULL, &hints, &addresses),
			 -EAGAIN);
	ck_assert_int_eq(kloop_resolver_get_stats(resolver, &after, sizeof(after)), 0);
	ck_assert_mem_eq(&before, &after, sizeof(before));
	ck_assert_int_eq(
		kloop_resolver_getaddrinfo_now(resolver, "x.invalid", NULL, &hints, &addresses),
		KLOOP_ERROR_DNS_NONAME);
}
END_TEST

START_TEST(parts)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	static const char *const names[] = { "www.test", "www.test", "a4.test", "fixed" };
	static const int counts[] = { 2, 2, 1, 1 };

	for (size_t i = 0; i < KT_COUNT(names); i++) {
		struct kt_lookup lookup;

		kt_lookup_init(&lookup);
		kt_lookup_stream(&lookup, resolver, names[i], NULL, &hints);
		ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
		ck_assert_int_eq(lookup.parts, counts[i]);
		kt_lookup_clear(&lookup);
	}
}
END_TEST

static int only_a(struct kt_dns *dns, const struct kt_question *question, uint8_t *wire)
{
	(void)dns;
	(void)wire;
	return question->type == 1 ? -1 : 0;
}

START_TEST(a_part_comes_before_the_end)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct kt_lookup lookup;

	server.hook = only_a;
	kt_lookup_init(&lookup);
	kt_lookup_stream(&lookup, resolver, "www.test", NULL, &hints);
	kt_turn_until(loop, &lookup.parts, 1);
	ck_assert_str_eq(lookup.first_part, "192.0.2.1");
	ck_assert_int_eq(lookup.done, 0);
	server.hook = NULL;
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0); /* it is asked again */
	ck_assert_int_eq(lookup.parts, 2);
	ck_assert_uint_eq(lookup.addresses->count, 2);
	kt_lookup_clear(&lookup);
}
END_TEST

static const char *name_of(const char *text, int flags)
{
	static char both[1200];
	struct kt_lookup lookup;
	struct kloop_address address;

	ck_assert_int_eq(kloop_address_parse(text, 80, &address), 0);
	kt_lookup_init(&lookup);
	kt_lookup_name(&lookup, resolver, &address.u.any, address.length, flags);
	if (kt_lookup_wait(&lookup, loop) < 0)
		return kloop_error_name(lookup.result);
	snprintf(both, sizeof(both), "%s %s", lookup.host, lookup.service);
	return both;
}

START_TEST(names_of_addresses)
{
	ck_assert_str_eq(name_of("127.0.0.1", 0), "localhost http");
	ck_assert_str_eq(name_of("192.0.2.1", 0), "www.test http");
	ck_assert_str_eq(name_of("2001:db8::1", 0), "six.test http");
	ck_assert_str_eq(name_of("::ffff:192.0.2.1", 0), "www.test http");
	ck_assert_str_eq(name_of("192.0.2.9", 0), "192.0.2.9 http");
	ck_assert_str_eq(name_of("192.0.2.9", NI_NAMEREQD), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_str_eq(name_of("192.0.2.1", NI_NUMERICHOST | NI_NUMERICSERV), "192.0.2.1 80");
	ck_assert_str_eq(name_of("192.0.2.1", NI_DGRAM), "www.test 80");
	ck_assert_str_eq(name_of("fe80::1%lo", NI_NUMERICHOST), "fe80::1%lo http");
	ck_assert_str_eq(name_of("192.0.2.1", 0x10000), "KLOOP_ERROR_DNS_FLAGS");
	/* Its owner may write there what he likes: only what is a host's name counts. */
	ck_assert_str_eq(name_of("192.0.2.2", 0), "192.0.2.2 http");
	ck_assert_str_eq(name_of("192.0.2.2", NI_NAMEREQD), "KLOOP_ERROR_DNS_NONAME");
}
END_TEST

START_TEST(records)
{
	struct kt_lookup lookup;
	struct kloop_dns_record record;
	struct kloop_dns_info info;
	char text[KLOOP_DNS_NAME_TEXT_BYTES];

	kt_lookup_init(&lookup);
	kt_lookup_query(&lookup, resolver, "mail.test", 15, 0);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	ck_assert_uint_eq(kloop_dns_message_get_count(lookup.message, KLOOP_DNS_ANSWER), 1);
	ck_assert_int_eq(kloop_dns_message_get_record(lookup.message, 0, 0, &record), 0);
	ck_assert_uint_eq(record.type, 15);
	ck_assert_uint_eq(record.data_bytes, 2 + 10);
	ck_assert_int_eq(kloop_dns_name_format(record.data + 2, record.data_bytes - 2, text,
					       sizeof(text)),
			 8);
	ck_assert_str_eq(text, "www.test");
	ck_assert_int_gt(kloop_dns_name_format(record.owner, record.owner_bytes, text, sizeof(text)),
			 0);
	ck_assert_str_eq(text, "mail.test");
	ck_assert_int_eq(kloop_dns_message_get_record(lookup.message, 0, 1, &record), -ENOENT);
	ck_assert_int_eq(kloop_dns_message_get_info(lookup.message, &info, sizeof(info)), 0);
	ck_assert_uint_eq(info.rcode, 0);
	ck_assert_int_eq(info.ede, -1);
	ck_assert(!(info.flags & KLOOP_DNS_CACHED));
	kt_lookup_clear(&lookup);

	kt_lookup_init(&lookup);
	kt_lookup_query(&lookup, resolver, "text", 16, KLOOP_QUERY_SEARCH);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	ck_assert_int_eq(kloop_dns_message_get_record(lookup.message, 0, 0, &record), 0);
	ck_assert_uint_eq(record.data_bytes, 6);
	ck_assert_int_eq(memcmp(record.data, "\5hello", 6), 0);
	kt_lookup_clear(&lookup);

	kt_lookup_init(&lookup);
	kt_lookup_query(&lookup, resolver, "nosuch.test", 16, 0);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), KLOOP_ERROR_DNS_NONAME);
	ck_assert_ptr_nonnull(lookup.message);
	ck_assert_uint_eq(kloop_dns_message_get_count(lookup.message, KLOOP_DNS_AUTHORITY), 1);
	kt_lookup_clear(&lookup);

	kt_lookup_init(&lookup);
	ck_assert_int_eq(kloop_resolver_query(resolver, &lookup.lookup, "a.test", 255, 0,
					      (kloop_message_fn *)1),
			 -EOPNOTSUPP);
}
END_TEST

/* ---- cancelling, the end ----------------------------------------------------- */

START_TEST(cancelled)
{
	struct kt_lookup lookups[3];
	int fds;

	ck_assert_str_eq(resolve("www.test", AF_INET), "192.0.2.1");
	fds = kt_fd_count();
	server.quiet = true;
	for (int i = 0; i < 3; i++) {
		kt_lookup_init(&lookups[i]);
		kt_lookup_start(&lookups[i], resolver, i < 2 ? "same.test" : "other.test", NULL,
				NULL);
	}
	kt_turn_for(loop, 5);
	ck_assert_uint_eq(kt_resolver_stats(resolver).in_flight, 2);
	ck_assert_uint_eq(kt_resolver_stats(resolver).joined, 1);
	ck_assert_int_eq(kloop_lookup_cancel(&lookups[0].lookup), 0);
	ck_assert_int_eq(lookups[0].done, 0);
	ck_assert_int_eq(kt_lookup_wait(&lookups[0], loop), -ECANCELED);
	ck_assert_int_eq(kloop_lookup_cancel(&lookups[0].lookup), -ENOENT);
	/* The other one still waits for the same query. */
	ck_assert_uint_eq(kt_resolver_stats(resolver).in_flight, 2);
	server.quiet = false;
	ck_assert_int_eq(kloop_lookup_cancel(&lookups[1].lookup), 0);
	ck_assert_int_eq(kloop_lookup_cancel(&lookups[2].lookup), 0);
	ck_assert_uint_eq(kt_resolver_stats(resolver).in_flight, 0);
	ck_assert_int_eq(kt_lookup_wait(&lookups[1], loop), -ECANCELED);
	ck_assert_int_eq(kt_lookup_wait(&lookups[2], loop), -ECANCELED);
	kt_turn_for(loop, 1);
	ck_assert_int_le(kt_fd_count(), fds + 2); /* what is kept for the next query */
}
END_TEST

static void cancel_other(struct kt_lookup *lookup)
{
	struct kt_lookup *other = lookup->data;

	if (other->done == 0)
		ck_assert_int_eq(kloop_lookup_cancel(&other->lookup), 0);
}

START_TEST(cancelled_by_another_ones_completion)
{
	struct kt_lookup one, two;

	kt_lookup_init(&one);
	kt_lookup_init(&two);
	one.then = two.then = cancel_other;
	one.data = &two;
	two.data = &one;
	kt_lookup_start(&one, resolver, "www.test", NULL, NULL);
	kt_lookup_start(&two, resolver, "www.test", NULL, NULL);
	kt_lookup_wait(&one, loop);
	kt_lookup_wait(&two, loop);
	/* Both had their result in the same turn; the first to be told cancelled the other. */
	ck_assert_int_eq(one.result + two.result, -ECANCELED);
	kt_lookup_clear(&one);
	kt_lookup_clear(&two);
}
END_TEST

static void start_next(struct kt_lookup *lookup)
{
	struct kt_lookup *next = lookup->data;

	kt_lookup_clear(lookup);
	kt_lookup_start(next, resolver, "a4.test", NULL, NULL);
}

static void close_it(struct kt_lookup *lookup)
{
	kt_lookup_clear(lookup);
	kloop_resolver_close(resolver);
	ck_assert_int_eq(kloop_resolver_reload(resolver), -ESTALE);
}

START_TEST(started_and_closed_by_completions)
{
	struct kt_lookup one, two, three;

	kt_lookup_init(&one);
	kt_lookup_init(&two);
	kt_lookup_init(&three);
	one.then = start_next;
	one.data = &two;
	two.then = close_it;
	kt_lookup_start(&one, resolver, "www.test", NULL, NULL);
	ck_assert_int_eq(kt_lookup_wait(&one, loop), 0);
	server.hook = NULL;
	kt_lookup_start(&three, resolver, "www.wild.test", NULL, NULL);
	kt_lookup_wait(&two, loop);
	kt_lookup_wait(&three, loop);
	kt_lookup_clear(&three);
	ck_assert(two.result == 0 || two.result == -ECANCELED);
	resolver = NULL;
}
END_TEST

START_TEST(closed_with_lookups)
{
	struct kt_lookup lookups[4];

	server.quiet = true;
	for (int i = 0; i < 4; i++) {
		char name[32];

		snprintf(name, sizeof(name), "name%d.test", i);
		kt_lookup_init(&lookups[i]);
		kt_lookup_start(&lookups[i], resolver, name, NULL, NULL);
		if (i == 1)
			kt_turn_for(loop, 3); /* two wait for answers, two for the files */
	}
	kloop_resolver_close(resolver);
	resolver = NULL;
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(kt_lookup_wait(&lookups[i], loop), -ECANCELED);
}
END_TEST

/* A result that waits to be told is not told any more. */
START_TEST(closed_with_results)
{
	struct kt_lookup lookups[2];

	ck_assert_str_eq(resolve("www.test", AF_INET), "192.0.2.1");
	for (int i = 0; i < 2; i++) {
		kt_lookup_init(&lookups[i]);
		/* The name is known, and the address needs no server. */
		kt_lookup_start(&lookups[i], resolver, i == 0 ? "www.test" : "192.0.2.9", NULL, NULL);
	}
	kloop_resolver_close(resolver);
	resolver = NULL;
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(kt_lookup_wait(&lookups[i], loop), -ECANCELED);
		ck_assert_ptr_null(lookups[i].addresses);
	}
}
END_TEST

START_TEST(the_loop_goes_first)
{
	struct kt_lookup lookup, early;
	struct kt_dns *servers[] = { &server };

	server.quiet = true;
	kt_lookup_init(&lookup);
	kt_lookup_init(&early);
	kt_lookup_start(&lookup, resolver, "www.test", NULL, NULL);
	kt_turn_for(loop, 3);
	kt_lookup_start(&early, kt_resolver_new(loop, kt_resolver_options(&files, servers, 1)),
			"www.test", NULL, NULL);
	/* The server's own operations end as well. */
	server.closing = 1;
	kt_loop_free(loop);
	ck_assert_int_eq(lookup.done, 1);
	ck_assert_int_eq(lookup.result, -ECANCELED);
	ck_assert_int_eq(early.result, -ECANCELED);
	close(server.udp);
	close(server.tcp);
	loop = kt_loop_new(NULL);
	resolver = NULL;
	kt_dns_open(&server, loop, zone, KT_COUNT(zone), false);
}
END_TEST

START_TEST(misuse)
{
	struct kt_lookup lookup;

	kt_lookup_init(&lookup);
	server.quiet = true;
	kt_lookup_start(&lookup, resolver, "www.test", NULL, NULL);
	ck_assert_int_eq(kloop_resolver_getaddrinfo(resolver, &lookup.lookup, "a", NULL, NULL,
						    (kloop_addresses_fn *)1),
			 -EBUSY);
	ck_assert_int_eq(kloop_resolver_getaddrinfo(NULL, &lookup.lookup, "a", NULL, NULL,
						    (kloop_addresses_fn *)1),
			 -EINVAL);
	ck_assert_int_eq(kloop_resolver_getaddrinfo(resolver, NULL, "a", NULL, NULL,
						    (kloop_addresses_fn *)1),
			 -EINVAL);
	ck_assert_int_eq(kloop_resolver_getaddrinfo_now(resolver, "a", NULL, NULL, NULL), -EINVAL);
	ck_assert_int_eq(kloop_resolver_flush(resolver, "a..b"), -EINVAL);
	ck_assert_int_eq(kloop_resolver_new(NULL, NULL, &resolver), -EINVAL);
	ck_assert_int_eq(kloop_lookup_cancel(NULL), -EINVAL);
	ck_assert_int_eq(kloop_lookup_cancel(&lookup.lookup), 0);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), -ECANCELED);
}
END_TEST

static int use_in_child(void *data)
{
	struct kloop_lookup lookup;

	(void)data;
	kloop_lookup_init(&lookup);
	KT_CHILD_CHECK(kloop_resolver_getaddrinfo(resolver, &lookup, "www.test", NULL, NULL,
						  (kloop_addresses_fn *)1) == -ECHILD);
	KT_CHILD_CHECK(kloop_resolver_reload(resolver) == -ECHILD);
	kloop_resolver_close(resolver);
	return 0;
}

START_TEST(forked)
{
	struct kt_lookup lookup;

	server.quiet = true;
	kt_lookup_init(&lookup);
	kt_lookup_start(&lookup, resolver, "www.test", NULL, NULL);
	kt_turn_for(loop, 3);
	kt_fork_ok(use_in_child, NULL);
	server.quiet = false;
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	kt_lookup_clear(&lookup);
}
END_TEST

/* ---- resources ------------------------------------------------------------------- */

START_TEST(a_queue_of_queries)
{
	struct kloop_resolver_options *options = usual_options();
	struct kt_lookup *lookups = calloc(200, sizeof(*lookups));

	kloop_resolver_close(resolver);
	ck_assert_int_eq(kloop_resolver_options_set_max_queries(options, 4), 0);
	resolver = kt_resolver_new(loop, options);
	for (int i = 0; i < 200; i++) {
		char name[32];

		snprintf(name, sizeof(name), "n%d.wild.test", i);
		kt_lookup_init(&lookups[i]);
		kt_lookup_start(&lookups[i], resolver, name, NULL, NULL);
	}
	for (int i = 0; i < 200; i++) {
		ck_assert_int_eq(kt_lookup_wait(&lookups[i], loop), 0);
		ck_assert_uint_le(kt_resolver_stats(resolver).in_flight, 4);
		kt_lookup_clear(&lookups[i]);
	}
	free(lookups);
}
END_TEST

START_TEST(no_descriptors)
{
	struct kt_lookup lookups[20];
	struct rlimit limit, less;
	int open_now, ok = 0;

	ck_assert_str_eq(resolve("www.test", AF_INET), "192.0.2.1");
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	open_now = kt_fd_count();
	less = limit;
	less.rlim_cur = (rlim_t)open_now + 4;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &less), 0);
	for (int i = 0; i < 20; i++) {
		char name[32];

		snprintf(name, sizeof(name), "n%d.wild.test", i);
		kt_lookup_init(&lookups[i]);
		kt_lookup_start(&lookups[i], resolver, name, NULL, NULL);
	}
	for (int i = 0; i < 20; i++) {
		kt_lookup_wait(&lookups[i], loop);
		ok += lookups[i].result == 0;
		kt_lookup_clear(&lookups[i]);
	}
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	/* They wait for the descriptors of one another. */
	ck_assert_int_eq(ok, 20);
}
END_TEST

START_TEST(memory_fails)
{
	size_t calls;

	kloop_resolver_close(resolver);
	kt_turn_for(loop, 1);
	kt_dns_close(&server);
	kt_loop_free(loop);
	kt_fault_install();
	loop = kt_loop_new(NULL);
	kt_dns_open(&server, loop, zone, KT_COUNT(zone), true);
	for (calls = 1; calls < 400; calls++) {
		struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
		struct kloop_resolver_options *options = usual_options();
		struct kloop_resolver *fresh = NULL;
		struct kt_lookup lookup;
		int ret;

		kt_lookup_init(&lookup);
		kt_fault_arm(calls, 1);
		ret = kloop_resolver_new(loop, options, &fresh);
		ck_assert(ret == 0 || ret == -ENOMEM);
		lookup.data = loop;
		if (ret == 0)
			kt_lookup_try(&lookup, fresh, "alias", &hints);
		kt_fault_arm(0, 0);
		ck_assert(lookup.result == 0 || lookup.result == -ENOMEM ||
			  lookup.result == KLOOP_ERROR_DNS_AGAIN ||
			  lookup.result == KLOOP_ERROR_DNS_NONAME);
		kt_lookup_clear(&lookup);
		kloop_resolver_close(fresh);
		kloop_resolver_options_free(options);
		kt_turn_for(loop, 0);
		if (kt_fault_hits() == 0 && calls > 20)
			break;
	}
	ck_assert_uint_lt(calls, 400);
	kt_turn_for(loop, 1);
	kt_dns_close(&server);
	kt_loop_free(loop);
	kt_fault_remove();
	loop = kt_loop_new(NULL);
	resolver = NULL;
	kt_dns_open(&server, loop, zone, KT_COUNT(zone), false);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dns lookup");
	TCase *tcase = kt_case(suite, "answers", 60);

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, addresses_of_names);
	tcase_add_test(tcase, failures);
	tcase_add_test(tcase, local_names);
	tcase_add_test(tcase, canonical_names_and_flags);
	tcase_add_test(tcase, services);
	tcase_add_test(tcase, the_call_that_answers_at_once);
	tcase_add_test(tcase, parts);
	tcase_add_test(tcase, a_part_comes_before_the_end);
	tcase_add_test(tcase, names_of_addresses);
	tcase_add_test(tcase, records);
	tcase = kt_case(suite, "life", 60);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, cancelled);
	tcase_add_test(tcase, cancelled_by_another_ones_completion);
	tcase_add_test(tcase, started_and_closed_by_completions);
	tcase_add_test(tcase, closed_with_lookups);
	tcase_add_test(tcase, closed_with_results);
	tcase_add_test(tcase, the_loop_goes_first);
	tcase_add_test(tcase, misuse);
	tcase_add_test(tcase, forked);
	tcase = kt_case(suite, "resources", 120);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, a_queue_of_queries);
	tcase_add_test(tcase, no_descriptors);
	tcase_add_test(tcase, memory_fails);
	return kt_main(suite);
}
