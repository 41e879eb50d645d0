/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Addresses: text and back, and everything that is not an address. */
#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <string.h>

static void check_text(const struct kloop_address *address, const char *expected)
{
	char text[KLOOP_ADDRESS_TEXT_BYTES];
	int length = kloop_address_format(address, text, sizeof(text));

	ck_assert_int_eq(length, (int)strlen(expected));
	ck_assert_str_eq(text, expected);
}

static const struct {
	const char *host;
	uint16_t port;
	const char *text;
} good[] = {
	{ "127.0.0.1", 80, "127.0.0.1:80" },
	{ "0.0.0.0", 0, "0.0.0.0:0" },
	{ "255.255.255.255", 65535, "255.255.255.255:65535" },
	{ "::", 0, "[::]:0" },
	{ "::1", 443, "[::1]:443" },
	{ "2001:DB8:0:0::1", 1, "[2001:db8::1]:1" },
	{ "::ffff:192.0.2.1", 9, "[::ffff:192.0.2.1]:9" },
	{ "fe80::1%lo", 5, "[fe80::1%lo]:5" },
	{ "fe80::1%1", 5, "[fe80::1%lo]:5" },
	{ "1111:2222:3333:4444:5555:6666:123.123.123.123", 65535,
	  "[1111:2222:3333:4444:5555:6666:7b7b:7b7b]:65535" },
};

START_TEST(parse_and_format)
{
	struct kloop_address address;

	ck_assert_int_eq(kloop_address_parse(good[_i].host, good[_i].port, &address), 0);
	check_text(&address, good[_i].text);
	ck_assert_uint_eq(kloop_address_get_port(&address), good[_i].port);
	ck_assert_uint_eq(address.length, address.u.any.sa_family == AF_INET
						  ? sizeof(struct sockaddr_in)
						  : sizeof(struct sockaddr_in6));
}
END_TEST

static const struct {
	const char *host;
	int error;
} bad[] = {
	{ NULL, -EINVAL },
	{ "", -EINVAL },
	{ "localhost", -EINVAL },
	{ "127.1", -EINVAL },
	{ "127.0.0.01", -EINVAL },
	{ "0x7f.0.0.1", -EINVAL },
	{ "127.0.0.256", -EINVAL },
	{ "127.0.0.1 ", -EINVAL },
	{ " 127.0.0.1", -EINVAL },
	{ "127.0.0.1%lo", -EINVAL },
	{ "[::1]", -EINVAL },
	{ ":::1", -EINVAL },
	{ "1:2:3:4:5:6:7:8:9", -EINVAL },
	{ "::1%", -EINVAL },
	{ "%lo", -EINVAL },
	{ ":%lo", -EINVAL },
	{ "fe80::1%nosuchif0", -ENODEV },
	{ "fe80::1%0", -ENODEV },
	{ "fe80::1%4000000000", -ENODEV },
	{ "fe80::1%1x", -ENODEV },
	{ "fe80::1%-1", -ENODEV },
	{ "fe80::1%999999999999999999999999", -ENODEV },
	{ "1111:2222:3333:4444:5555:6666:7777:8888:1111:2222:3333:4444:5555:6666", -EINVAL },
};

START_TEST(parse_refuses)
{
	struct kloop_address address, before;

	memset(&address, 0x5a, sizeof(address));
	before = address;
	ck_assert_int_eq(kloop_address_parse(bad[_i].host, 1, &address), bad[_i].error);
	ck_assert_msg(memcmp(&address, &before, sizeof(address)) == 0, "written on failure");
}
END_TEST

START_TEST(parse_needs_result)
{
	ck_assert_int_eq(kloop_address_parse("127.0.0.1", 1, NULL), -EINVAL);
	ck_assert_int_eq(kloop_address_parse("::1", 1, NULL), -EINVAL);
}
END_TEST

START_TEST(local_path)
{
	struct kloop_address address;
	char path[200], text[KLOOP_ADDRESS_TEXT_BYTES];
	char expected[KLOOP_ADDRESS_TEXT_BYTES];

	ck_assert_int_eq(kloop_address_set_local("/run/x", 6, &address), 0);
	ck_assert_int_eq(address.u.any.sa_family, AF_UNIX);
	ck_assert_uint_eq(address.length, offsetof(struct sockaddr_un, sun_path) + 7);
	check_text(&address, "unix:/run/x");
	ck_assert_uint_eq(kloop_address_get_port(&address), 0);

	memset(path, 'p', sizeof(path));
	ck_assert_int_eq(kloop_address_set_local(path, 107, &address), 0);
	ck_assert_uint_eq(address.length, sizeof(struct sockaddr_un));
	snprintf(expected, sizeof(expected), "unix:%.107s", path);
	check_text(&address, expected);
	ck_assert_int_eq(kloop_address_format(&address, text, sizeof(text)), 112);
	ck_assert_int_eq(kloop_address_set_local(path, 108, &address), -ENAMETOOLONG);
	ck_assert_int_eq(kloop_address_set_local(path, SIZE_MAX, &address), -ENAMETOOLONG);

	/* A 0 inside would silently cut the path. */
	ck_assert_int_eq(kloop_address_set_local("a\0b", 3, &address), -EINVAL);
	ck_assert_int_eq(kloop_address_set_local(NULL, 3, &address), -EINVAL);
	ck_assert_int_eq(kloop_address_set_local("a", 1, NULL), -EINVAL);
	ck_assert_int_eq(kloop_address_set_local("a\tb\xff", 4, &address), 0);
	check_text(&address, "unix:a?b?");
}
END_TEST

START_TEST(local_abstract)
{
	struct kloop_address address;
	char name[200] = "";

	ck_assert_int_eq(kloop_address_set_local("\0name", 5, &address), 0);
	ck_assert_uint_eq(address.length, offsetof(struct sockaddr_un, sun_path) + 5);
	check_text(&address, "unix:@name");
	ck_assert_int_eq(kloop_address_set_local("\0a\0b", 4, &address), 0);
	check_text(&address, "unix:@a?b");

	memset(name + 1, 'n', sizeof(name) - 1);
	ck_assert_int_eq(kloop_address_set_local(name, 108, &address), 0);
	ck_assert_uint_eq(address.length, sizeof(struct sockaddr_un));
	ck_assert_int_eq(kloop_address_set_local(name, 109, &address), -ENAMETOOLONG);

	ck_assert_int_eq(kloop_address_set_local(NULL, 0, &address), 0);
	ck_assert_uint_eq(address.length, sizeof(sa_family_t));
	check_text(&address, "unix:");
}
END_TEST

START_TEST(format_bounds)
{
	struct kloop_address address;
	char text[KLOOP_ADDRESS_TEXT_BYTES];

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", 80, &address), 0);
	memset(text, 'x', sizeof(text));
	ck_assert_int_eq(kloop_address_format(&address, text, 12), -ENOSPC);
	ck_assert_int_eq(text[0], 'x');
	ck_assert_int_eq(kloop_address_format(&address, text, 0), -ENOSPC);
	ck_assert_int_eq(kloop_address_format(&address, text, 13), 12);
	ck_assert_str_eq(text, "127.0.0.1:80");
	ck_assert_int_eq(text[13], 'x');

	ck_assert_int_eq(kloop_address_format(NULL, text, sizeof(text)), -EINVAL);
	ck_assert_int_eq(kloop_address_format(&address, NULL, 80), -EINVAL);
	address.length = 0;
	ck_assert_int_eq(kloop_address_format(&address, text, sizeof(text)), -EINVAL);
	address.length = sizeof(sa_family_t);
	ck_assert_int_eq(kloop_address_format(&address, text, sizeof(text)), -EINVAL);
	ck_assert_uint_eq(kloop_address_get_port(&address), 0);
	address.u.any.sa_family = AF_INET6;
	ck_assert_int_eq(kloop_address_format(&address, text, sizeof(text)), -EINVAL);
	address.u.any.sa_family = AF_NETLINK;
	ck_assert_int_eq(kloop_address_format(&address, text, sizeof(text)), -EAFNOSUPPORT);
	address.u.any.sa_family = AF_UNIX;
	address.length = sizeof(address.u);
	ck_assert_int_eq(kloop_address_format(&address, text, sizeof(text)), -EINVAL);
	ck_assert_uint_eq(kloop_address_get_port(NULL), 0);
}
END_TEST

/* An interface that is gone leaves its number. */
START_TEST(format_unknown_scope)
{
	struct kloop_address address;
	char name[IF_NAMESIZE];

	ck_assert_int_eq(kloop_address_parse("fe80::1", 1, &address), 0);
	address.u.ip6.sin6_scope_id = 2000000000;
	ck_assert_ptr_null(if_indextoname(2000000000, name));
	check_text(&address, "[fe80::1%2000000000]:1");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("address");
	TCase *tcase = kt_case(suite, "address", 10);

	tcase_add_loop_test(tcase, parse_and_format, 0, KT_COUNT(good));
	tcase_add_loop_test(tcase, parse_refuses, 0, KT_COUNT(bad));
	tcase_add_test(tcase, parse_needs_result);
	tcase_add_test(tcase, local_path);
	tcase_add_test(tcase, local_abstract);
	tcase_add_test(tcase, format_bounds);
	tcase_add_test(tcase, format_unknown_scope);
	return kt_main(suite);
}
