/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Sources of addresses: what is remembered for many is what the kernel says for
 * each. In a network of its own with routes of all kinds where that is
 * permitted, and with the machine's own routes in any case.
 */
#include "dns/config.h"
#include "dns/order.h"
#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

/* What the kernel says. False: there is no way. */
static bool ask_kernel(const uint8_t address[16], uint8_t source[16])
{
	bool ip4 = memcmp(address, mapped, 12) == 0;
	struct kloop_address to, from = { .length = sizeof(from.u) };
	int fd = socket(ip4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool way;

	ck_assert_int_ge(fd, 0);
	memset(&to, 0, sizeof(to));
	if (ip4) {
		to.u.ip4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(1) };
		memcpy(&to.u.ip4.sin_addr, address + 12, 4);
	} else {
		to.u.ip6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(1) };
		memcpy(&to.u.ip6.sin6_addr, address, 16);
	}
	way = connect(fd, &to.u.any, ip4 ? sizeof(to.u.ip4) : sizeof(to.u.ip6)) == 0;
	if (way) {
		ck_assert_int_eq(getsockname(fd, &from.u.any, &from.length), 0);
		memcpy(source, mapped, 12);
		memcpy(ip4 ? source + 12 : source,
		       ip4 ? (void *)&from.u.ip4.sin_addr : (void *)&from.u.ip6.sin6_addr,
		       ip4 ? 4 : 16);
	}
	close(fd);
	return way;
}

static int remembered, asked;

/* A sandbox that refuses netlink, as RestrictAddressFamilies= of systemd may. */
static bool netlink_refused;

int __real_kl_netlink_open(unsigned groups);
int __wrap_kl_netlink_open(unsigned groups);

int __wrap_kl_netlink_open(unsigned groups)
{
	return netlink_refused ? -1 : __real_kl_netlink_open(groups);
}

static void check(struct kl_sources *sources, const uint8_t address[16])
{
	struct kl_source *slot = kl_sources_find(sources, address);
	char text[INET6_ADDRSTRLEN];
	uint8_t source[16];
	bool way = ask_kernel(address, source);

	inet_ntop(AF_INET6, address, text, sizeof(text));
	if (slot && slot->state != KL_SOURCE_UNKNOWN) {
		remembered++;
		ck_assert_msg((slot->state == KL_SOURCE_KNOWN) == way, "a way to %s", text);
		ck_assert_msg(!way || memcmp(slot->address, source, 16) == 0, "the source for %s",
			      text);
		return;
	}
	asked++;
	if (slot)
		kl_sources_set(slot, address, way ? source : NULL);
}

/* Addresses on all sides of the borders of what the kernel has, and any others. */
static void draw(const struct kl_sources *sources, uint64_t *state, uint8_t address[16])
{
	static const uint8_t first[] = { 10, 127, 192, 172, 0, 224, 255 };
	unsigned which = kt_random(state) % 4;

	for (int i = 0; i < 16; i++)
		address[i] = (uint8_t)kt_random(state);
	if (which == 0 && sources->count != 0) {
		const struct kl_source_prefix *prefix =
			&sources->prefixes[kt_random(state) % sources->count];
		unsigned keep = kt_random(state) % 129;

		if (keep / 8 != 0)
			memcpy(address, prefix->address, keep / 8);
		if (kt_random(state) % 2)
			memcpy(address, prefix->address, prefix->bits / 8);
	} else if (which == 1) {
		memcpy(address, "\x20\1\x0d\xb8", 4);
	}
	if (which == 2 || (which == 3 && kt_random(state) % 2)) {
		memcpy(address, mapped, 12);
		if (kt_random(state) % 2)
			address[12] = first[kt_random(state) % KT_COUNT(first)];
	}
}

static void compare_all(void)
{
	static struct kl_sources sources;
	struct kl_routes routes;
	uint64_t state = 99;
	bool has4, has6;

	kl_routes_init(&routes);
	kl_routes_families(&routes, &has4, &has6);
	kl_sources_load(&sources);
	for (unsigned i = 0; i < routes.count; i++) {
		if (routes.locals[i].family == AF_INET6)
			kl_sources_add_local(&sources, routes.locals[i].address);
	}
	remembered = asked = 0;
	for (int i = 0; i < 20000; i++) {
		uint8_t address[16];

		draw(&sources, &state, address);
		check(&sources, address);
	}
	kl_routes_free(&routes);
	if (sources.usable)
		ck_assert_int_gt(remembered, asked);
	else
		ck_assert_int_eq(remembered, 0);
}

START_TEST(this_machine)
{
	compare_all();
}
END_TEST

/* ---- a network of our own --------------------------------------------------------------- */

static void write_file(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	KT_CHILD_CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* False if that is not permitted here. */
static bool enter_network(void)
{
	char map[64];
	unsigned uid = getuid(), gid = getgid();

	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		return false;
	write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "0 %u 1", uid);
	write_file("/proc/self/uid_map", map);
	snprintf(map, sizeof(map), "0 %u 1", gid);
	write_file("/proc/self/gid_map", map);
	return true;
}

static void run(const char *command)
{
	if (system(command) != 0) {
		fprintf(stderr, "failed: %s\n", command);
		_exit(98);
	}
}

static void make_routes(void)
{
	static const char *const commands[] = {
		"ip link set lo up",
		"ip addr add 192.0.2.200/24 dev lo",
		"ip addr add 198.51.100.7/28 dev lo",
		"ip addr add 2001:db8::200/64 dev lo nodad",
		"ip addr add 2001:db8:0:1::200/64 dev lo nodad",
		"ip addr add 2001:db8:8000::5/48 dev lo nodad",
		"ip addr add fd00:1::1/64 dev lo nodad",
		"ip addr add 2002:c000:201::1/64 dev lo nodad",
		"ip route add 10.0.0.0/8 dev lo src 192.0.2.200",
		"ip route add 10.1.0.0/16 dev lo src 198.51.100.7",
		"ip route add unreachable 10.1.2.0/24",
		"ip route add blackhole 10.9.0.0/16",
		"ip route add local 203.0.113.0/24 dev lo",
		"ip route add default dev lo src 192.0.2.200",
		"ip -6 route add default dev lo",
		"ip -6 route add 2001:db8:2::/48 dev lo src 2001:db8:8000::5",
		"ip -6 route add unreachable 2001:db8:3::/48",
		"ip route add 172.16.0.0/12 dev lo src 198.51.100.7 table 77",
		"ip rule add to 172.16.0.0/16 lookup 77",
		"ip -6 rule add to fd00:2::/32 unreachable",
	};

	for (size_t i = 0; i < KT_COUNT(commands); i++)
		run(commands[i]);
}

static int own_network(void *data)
{
	(void)data;
	if (!enter_network())
		return 77;
	make_routes();
	compare_all();
	/* Ways that are spread over several ends: nothing may be remembered. */
	run("ip route add 10.7.0.0/16 nexthop dev lo weight 1 nexthop dev lo weight 2");
	compare_all();
	return remembered == 0 ? 0 : 1;
}

/* In the order that RFC 6724 gives two destinations: the first of them as text. */
static const char *first_of(struct kl_routes *routes, const char *one, const char *two)
{
	static const struct kl_gai *made;
	static struct kl_gai gai;
	static char text[INET6_ADDRSTRLEN];
	struct kl_found_address found[2];

	if (!made)
		kl_gai_finish(&gai);
	made = &gai;
	memset(found, 0, sizeof(found));
	found[0].family = found[1].family = AF_INET;
	KT_CHILD_CHECK(inet_pton(AF_INET, one, found[0].address) == 1 &&
		       inet_pton(AF_INET, two, found[1].address) == 1);
	kl_order(routes, &gai, found, 2);
	inet_ntop(AF_INET, found[0].address, text, sizeof(text));
	return text;
}

/* A change of the ways is noticed soon, whatever was remembered. */
static int changed_routes(void *data)
{
	struct kl_routes routes;

	(void)data;
	if (!enter_network())
		return 77;
	make_routes();
	kl_routes_init(&routes);
	KT_CHILD_CHECK(strcmp(first_of(&routes, "10.1.2.3", "10.3.3.3"), "10.3.3.3") == 0);
	KT_CHILD_CHECK(strcmp(first_of(&routes, "10.3.3.3", "10.9.3.3"), "10.3.3.3") == 0);
	run("ip route del unreachable 10.1.2.0/24");
	run("ip route add unreachable 10.3.0.0/16");
	for (int i = 0; strcmp(first_of(&routes, "10.3.3.3", "10.1.2.3"), "10.1.2.3") != 0; i++) {
		KT_CHILD_CHECK(i < 10000);
		kt_sleep_ms(1);
	}
	run("ip rule add to 10.1.2.0/24 unreachable");
	run("ip route del unreachable 10.3.0.0/16");
	for (int i = 0; strcmp(first_of(&routes, "10.1.2.3", "10.3.3.3"), "10.3.3.3") != 0; i++) {
		KT_CHILD_CHECK(i < 10000);
		kt_sleep_ms(1);
	}
	kl_routes_free(&routes);
	return 0;
}

static void in_child(int (*function)(void *data))
{
	int status = kt_fork(function, NULL);

	ck_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		printf("left out: networks of one's own are not permitted\n");
	else
		ck_assert_int_eq(WEXITSTATUS(status), 0);
}

START_TEST(a_network_of_its_own)
{
	in_child(own_network);
}
END_TEST

START_TEST(routes_that_change)
{
	in_child(changed_routes);
}
END_TEST

/* ---- parts -------------------------------------------------------------------------------- */

START_TEST(too_many_prefixes)
{
	static struct kl_sources sources;
	uint8_t address[16] = { 0x20, 1 };

	sources.usable = true;
	for (int i = 0; i < KL_SOURCE_PREFIXES_MAX; i++) {
		address[14] = (uint8_t)(i >> 8);
		address[15] = (uint8_t)i;
		kl_sources_add_local(&sources, address);
		kl_sources_add_local(&sources, address); /* the same is one */
	}
	ck_assert_uint_eq(sources.count, KL_SOURCE_PREFIXES_MAX);
	ck_assert_ptr_nonnull(kl_sources_find(&sources, address));
	address[0] = 0x30;
	kl_sources_add_local(&sources, address);
	ck_assert_ptr_null(kl_sources_find(&sources, address));
}
END_TEST

START_TEST(what_is_never_remembered)
{
	static const char *const texts[] = { "::ffff:0.0.0.0", "::ffff:224.0.0.1",
					     "::ffff:255.255.255.255", "ff02::1", "::" };
	static struct kl_sources sources = { .usable = true };
	uint8_t address[16];

	for (size_t i = 0; i < KT_COUNT(texts); i++) {
		ck_assert_int_eq(inet_pton(AF_INET6, texts[i], address), 1);
		ck_assert_ptr_null(kl_sources_find(&sources, address));
	}
	ck_assert_int_eq(inet_pton(AF_INET6, "::ffff:192.0.2.1", address), 1);
	ck_assert_ptr_nonnull(kl_sources_find(&sources, address));
}
END_TEST
/* AI_ADDRCONFIG leaves no family out, and the kernel is asked for a way to each address. */
START_TEST(without_netlink)
{
	struct kl_found_address found[] = {
		{ .family = AF_INET, .address = { 127, 0, 0, 1 } },
		{ .family = AF_INET, .address = { 127, 0, 0, 2 } },
	};
	struct kl_found_address turns[] = {
		{ .family = AF_INET, .address = { 127, 128, 0, 9 } },
		{ .family = AF_INET, .address = { 127, 2, 0, 9 } },
		{ .family = AF_INET, .address = { 127, 0, 0, 9 } },
	};
	struct kl_gai gai = { 0 };
	struct kl_routes routes;
	bool has4 = false, has6 = false;

	kl_gai_finish(&gai);
	kl_routes_init(&routes);
	netlink_refused = true;
	kl_routes_families(&routes, &has4, &has6);
	ck_assert(has4);
	ck_assert(has6);
	kl_order(&routes, &gai, found, KT_COUNT(found));
	ck_assert(found[0].reachable && found[1].reachable);
	/* Nor is anything known of networks: what a server puts first stays there. */
	kl_order(&routes, &gai, turns, KT_COUNT(turns));
	for (unsigned i = 0; i < KT_COUNT(turns); i++)
		ck_assert_uint_eq(turns[i].position, i);
	netlink_refused = false;
	kl_routes_free(&routes);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dns sources");
	TCase *tcase = kt_case(suite, "sources", 120);

	tcase_add_test(tcase, this_machine);
	tcase_add_test(tcase, a_network_of_its_own);
	tcase_add_test(tcase, routes_that_change);
	tcase_add_test(tcase, too_many_prefixes);
	tcase_add_test(tcase, what_is_never_remembered);
	tcase_add_test(tcase, without_netlink);
	return kt_main(suite);
}
