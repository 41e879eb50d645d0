/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Packets that are made to cost much, of 64 KiB most of them: what is looked at,
 * and what is kept, is counted. "test_dns_bombs time" measures them instead.
 *
 * Among them is each hazard that ldns 1.8.3 has with foreign packets: memory
 * without bound for TXT, chains of pointers, RDLENGTH that nobody enforces,
 * leaks of TSIG, a crash at EDNS CHAIN, an abort at NSEC3.
 */
#include "dnspacket.h"
#include "dns/answer.h"
#include "dns/cache.h"
#include "dns/gai.h"
#include "fault.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define MEBIBYTE ((size_t)1 << 20)
/* What a packet may cost in steps of the scan: about a byte each. */
#define STEPS_MAX 80000

static const struct kl_ttl_limits limits = { 3600, 300 };

/* ---- packets ---------------------------------------------------------------------- */

static unsigned records;

/* A response to "www.test" of a type. */
static void begin(unsigned type)
{
	memset(packet, 0, sizeof(packet));
	used = 0;
	records = 0;
	put("\x12\x34\x81\x80\0\1\0\0\0\0\0\0\3www\4test\0", 22);
	put_16(type);
	put_16(1);
}

static void count_record(int section)
{
	records++;
	kl_put16(packet + 6 + 2 * section, kl_get16(packet + 6 + 2 * section) + 1u);
}

/* A record up to its data, whose owner is at an offset. */
static void head(int section, size_t owner, unsigned type, size_t bytes)
{
	count_record(section);
	put_16(0xc000 | (unsigned)owner);
	put_16(type);
	put_16(1);
	put_16(0);
	put_16(60);
	put_16((unsigned)bytes);
}

static bool fits(size_t bytes)
{
	return used + bytes <= KL_MESSAGE_BYTES && records < KL_RECORDS_MAX;
}

/* A record of a type that nobody knows, whose data is a name of so many labels of a byte. */
static size_t put_labels(unsigned labels)
{
	size_t at;

	head(0, 12, 65000, 2 * (size_t)labels + 1);
	at = used;
	for (unsigned i = 0; i < labels; i++)
		put("\1a", 2);
	put("", 1);
	return at;
}

/* ---- bombs ------------------------------------------------------------------------ */

/* 65 KB of empty strings: ldns 1.8.3 takes 7 s and 3 GB for it. */
static void strings(size_t bytes)
{
	begin(16);
	head(0, 12, 16, bytes - used - 12);
	used = bytes;
}

static void strings_tcp(void)
{
	strings(KL_MESSAGE_BYTES);
}

static void strings_udp(void)
{
	strings(1232);
}

/* The most strings that pass, and as large as that can be. */
static void strings_that_pass(void)
{
	uint8_t text[128] = { 127 };

	begin(16);
	head(0, 12, 16, 511 * sizeof(text));
	for (int i = 0; i < 511; i++)
		put(text, sizeof(text));
}

/* Thousands of names that all walk one long chain of pointers. */
static void pointers(void)
{
	size_t last;

	begin(10);
	head(0, 12, 65000, 16000 - used - 12);
	last = used;
	put("\1a\0", 3);
	while (used + 4 <= 16000) {
		size_t here = used;

		put_16(0xc000 | (unsigned)last);
		last = here;
	}
	used = 16000;
	while (fits(12))
		head(0, last, 10, 0);
}

/* The longest chains that pass. */
static void pointers_that_pass(void)
{
	size_t last;

	begin(10);
	head(0, 12, 65000, 11);
	last = used;
	put("\1a\0", 3);
	for (int i = 0; i < 4; i++) {
		size_t here = used;

		put_16(0xc000 | (unsigned)last);
		last = i < 2 ? here : last;
	}
	while (fits(12))
		head(0, last, 10, 0);
}

static void pointer_to_itself(void)
{
	begin(10);
	head(0, used, 10, 0);
}

static void pointer_forward(void)
{
	begin(10);
	head(0, used + 12, 10, 3);
	put("\1a", 3);
}

/* Thousands of names of 127 labels each, by way of one pointer; of 12, which pass. */
static void labels(unsigned count)
{
	size_t at;

	begin(10);
	at = put_labels(count);
	while (fits(12))
		head(0, at, 10, 0);
}

static void labels_127(void)
{
	labels(127);
}

static void labels_that_pass(void)
{
	labels(12);
}

/* As many records as fit, of the name. */
static void addresses(void)
{
	begin(1);
	while (fits(16)) {
		head(0, 12, 1, 4);
		put(&records, 4);
	}
}

/* Records of a type with names inside, which ldns makes whole, the longest that pass. */
static void names_inside(unsigned type, size_t before, unsigned names, size_t after)
{
	size_t at;

	begin(type);
	at = put_labels(names == 1 ? 6 : 4);
	while (fits(12 + before + 2 * (size_t)names + after)) {
		head(0, at, type, before + 2 * names + after);
		used += before;
		for (unsigned i = 0; i < names; i++)
			put_16(0xc000 | (unsigned)at);
		used += after;
	}
}

static void name_servers(void)
{
	names_inside(2, 0, 1, 0);
}

static void mail(void)
{
	names_inside(15, 2, 1, 0);
}

static void authorities(void)
{
	names_inside(6, 0, 2, 20);
}

/* Names of 255 bytes in four labels: few steps, and many bytes. */
static void blow_up(void)
{
	size_t at;

	begin(2);
	head(0, 12, 65000, 255);
	at = used;
	for (int i = 0; i < 4; i++) {
		packet[used] = i < 3 ? 63 : 61;
		memset(packet + used + 1, 'a' + i, packet[used]);
		used += 1u + packet[used];
	}
	put("", 1);
	while (fits(14)) {
		head(0, at, 2, 2);
		put_16(0xc000 | (unsigned)at);
	}
}

/* A chain of aliases in reverse, so that each step searches all of them again, and addresses. */
static void aliases(void)
{
	begin(1);
	for (int i = KL_CHAIN_MAX - 1; i >= 0; i--) {
		uint8_t owner[3] = { 1, (uint8_t)('a' + i), 0 };
		uint8_t target[3] = { 1, (uint8_t)('a' + i + 1), 0 };

		count_record(0);
		if (i == 0)
			put("\xc0\x0c", 2);
		else
			put(owner, 3);
		put("\0\5\0\1\0\0\0\x3c\0\3", 10);
		put(target, 3);
	}
	while (fits(16)) {
		head(0, 12, 1, 4);
		put("\1\2\3\4", 4);
	}
}

static void too_many_aliases(void)
{
	begin(1);
	while (fits(14)) {
		head(0, 12, 5, 2);
		put("\xc0\x0c", 2);
	}
}

/* Options, and parameters of HTTPS, without content. */
static void options(void)
{
	begin(1);
	count_record(2);
	put("\0\0\x29\4\xd0\0\0\0\0", 9);
	put_16((KL_MESSAGE_BYTES - (unsigned)used - 2) / 4 * 4);
	used = KL_MESSAGE_BYTES;
}

static void parameters(void)
{
	begin(65);
	head(0, 12, 65, (KL_MESSAGE_BYTES - used - 12 - 3) / 4 * 4 + 3);
	put("\0\1\0", 3);
	for (unsigned key = 0; used + 4 <= KL_MESSAGE_BYTES; key++) {
		put_16(key);
		put_16(0);
	}
}

/* ---- what ldns does not check, or does not survive ------------------------------------ */

static void one_record(unsigned type, const void *data, size_t bytes)
{
	begin(type);
	head(0, 12, type, bytes);
	put(data, bytes);
}

static void address_of_0(void)
{
	one_record(1, "", 0);
}

static void address_of_8(void)
{
	one_record(1, "12345678", 8);
}

static void alias_beyond_its_end(void)
{
	one_record(5, "\7abc", 4);
	put("def\0", 5);
}

static void no_question(void)
{
	one_record(1, "1234", 4);
	packet[5] = 0;
}

static void a_question(void)
{
	one_record(1, "1234", 4);
	packet[2] &= 0x7f;
}

static void rest(void)
{
	one_record(1, "1234", 4);
	put("garbage", 7); /* tolerated, and looked at by nobody */
}

static void two_tsig(void)
{
	begin(1);
	for (int i = 0; i < 2; i++) {
		head(2, 12, 250, 17);
		used += 17;
	}
}

static void two_opt(void)
{
	begin(1);
	for (int i = 0; i < 2; i++) {
		count_record(2);
		put("\0\0\x29\4\xd0\0\0\0\0\0\0", 11);
	}
}

static void chain_option(void)
{
	begin(1);
	count_record(2);
	put("\0\0\x29\4\xd0\0\0\0\0\0\4\0\x0d\0\0", 15);
}

static void malformed_nsec3(void)
{
	begin(1);
	head(1, 12, 50, 7);
	put("\1\0\0\1\x20" "ab", 7);
}

/* ---- all of them ---------------------------------------------------------------------- */

static const struct bomb {
	const char *name;
	void (*make)(void);
	int result; /* of the scan */
	int message; /* whether it can be handed on whole, once it passed */
} bombs[] = {
	{ "TXT of 65 KB of empty strings", strings_tcp, -EBADMSG, 0 },
	{ "TXT of 1232 bytes of empty strings", strings_udp, -EBADMSG, 0 },
	{ "TXT of 511 strings", strings_that_pass, 0, 0 },
	{ "a chain of 8000 pointers, 4000 times", pointers, -EBADMSG, 0 },
	{ "a chain of 4 pointers, 4095 times", pointers_that_pass, 0, 0 },
	{ "a pointer to itself", pointer_to_itself, -EBADMSG, 0 },
	{ "a pointer forward", pointer_forward, -EBADMSG, 0 },
	{ "127 labels, 4095 times", labels_127, -EBADMSG, 0 },
	{ "12 labels, 4095 times", labels_that_pass, 0, 0 },
	{ "4094 addresses", addresses, 0, 0 },
	{ "4000 NS", name_servers, 0, 0 },
	{ "4000 MX", mail, 0, 0 },
	{ "1800 SOA", authorities, 0, 0 },
	{ "4000 names of 255 bytes, twice", blow_up, 0, KLOOP_ERROR_DNS_FAIL },
	{ "16 aliases and 4000 addresses", aliases, 0, 0 },
	{ "4000 aliases", too_many_aliases, -EBADMSG, 0 },
	{ "OPT of 16000 options", options, 0, 0 },
	{ "HTTPS of 16000 parameters", parameters, 0, 0 },
	{ "A of 0 bytes", address_of_0, -EBADMSG, 0 },
	{ "A of 8 bytes", address_of_8, -EBADMSG, 0 },
	{ "CNAME beyond its RDLENGTH", alias_beyond_its_end, -EBADMSG, 0 },
	{ "no question", no_question, -EBADMSG, 0 },
	{ "not a response", a_question, -EBADMSG, 0 },
	{ "garbage behind the end", rest, 0, 0 },
	{ "two TSIG", two_tsig, -EBADMSG, 0 },
	{ "two OPT", two_opt, -EBADMSG, 0 },
	{ "EDNS CHAIN", chain_option, 0, 0 },
	{ "a malformed NSEC3", malformed_nsec3, -EBADMSG, 0 },
};

/* As a response that came: 0, or what refused it. */
static int take(struct kl_answer **ret_answer, struct kloop_dns_message **ret_message)
{
	struct kl_answer_walk walk;
	struct kl_reply reply;
	struct kl_scan scan;
	size_t bytes;
	int ret = kl_scan(packet, used, &scan);

	if (ret < 0)
		return ret;
	*ret_answer = kl_answer_new(packet, used, &scan, packet + 12, &limits, 0);
	if (!*ret_answer)
		return -ENOMEM;
	kl_answer_begin(*ret_answer, &walk);
	while (kl_answer_next(*ret_answer, &walk, &bytes))
		;
	reply = (struct kl_reply){ .answer = *ret_answer };
	return kl_message_make(&reply, ret_message);
}

/* The packet in memory of just its size, so that a read behind it is seen. */
static unsigned count_steps(int expected)
{
	uint8_t *copy = malloc(used);
	struct kl_scan scan;
	unsigned steps = 0;

	memcpy(copy, packet, used);
	ck_assert_int_eq(kl_scan_counted(copy, used, &scan, &steps), expected);
	free(copy);
	return steps;
}

START_TEST(bombs_are_cheap)
{
	const struct bomb *bomb = &bombs[_i];
	struct kloop_dns_message *message = NULL;
	struct kl_answer *answer = NULL;
	size_t calls;
	int ret;

	bomb->make();
	ck_assert_uint_le(used, KL_MESSAGE_BYTES);
	ck_assert_uint_le(count_steps(bomb->result), STEPS_MAX);
	kt_fault_install();
	calls = kt_fault_calls();
	ret = take(&answer, &message);
	ck_assert_msg(ret == (bomb->result != 0 ? bomb->result : bomb->message), "%s: %d",
		      bomb->name, ret);
	/* What is refused has cost no memory; what passes some, in a few pieces. */
	ck_assert_uint_le(kt_fault_calls() - calls, bomb->result != 0 ? 0 : 40);
	ck_assert_uint_lt(kt_fault_bytes(), MEBIBYTE);
	kloop_dns_message_unref(message);
	kl_answer_unref(answer);
	ck_assert_uint_eq(kt_fault_blocks(), 0);
	kt_fault_remove();
}
END_TEST

/* ---- the same from a server ------------------------------------------------------------- */

/* By TCP the packet, with the question's id and name. */
static int throw_bomb(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	(void)server;
	if (!question->tcp) {
		int bytes = kt_dns_empty(question, 0, wire);

		wire[2] |= 2; /* TC */
		return bytes;
	}
	memcpy(wire, packet, used);
	memcpy(wire, question->wire, 2);
	if (used >= question->end)
		memcpy(wire + 12, question->wire + 12, 10);
	return (int)used;
}

START_TEST(bombs_do_no_harm)
{
	static const struct kt_record zone[] = { { "text.test", "TXT", "hello" } };
	const struct bomb *bomb = &bombs[_i];
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_resolver *resolver;
	struct kt_lookup lookup;
	struct kt_dns server;
	int ret;

	bomb->make();
	kt_dns_open(&server, loop, zone, KT_COUNT(zone), true);
	server.hook = throw_bomb;
	resolver = kt_resolver_new(loop, kt_resolver_options(NULL, (struct kt_dns *[]){ &server }, 1));
	kt_lookup_init(&lookup);
	kt_lookup_query(&lookup, resolver, "www.test", kl_get16(packet + 22), 0);
	ret = kt_lookup_wait(&lookup, loop);
	if (bomb->result != 0)
		ck_assert_int_eq(ret, KLOOP_ERROR_DNS_AGAIN);
	else if (bomb->message != 0)
		ck_assert_int_eq(ret, bomb->message);
	else
		ck_assert_msg(ret == 0 || ret == KLOOP_ERROR_DNS_NODATA, "%s: %d", bomb->name, ret);
	ck_assert_int_ge(server.by_tcp, 1);
	kt_lookup_clear(&lookup);
	/* And who is honest afterwards is believed. */
	server.hook = NULL;
	kt_lookup_init(&lookup);
	kt_lookup_query(&lookup, resolver, "text.test", 16, 0);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	kt_lookup_clear(&lookup);
	kloop_resolver_close(resolver);
	kt_dns_close(&server);
	kt_loop_free(loop);
}
END_TEST

/* ---- the same by the clock --------------------------------------------------------------- */

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int print_times(void)
{
	printf("%-38s %7s %7s %9s %9s %9s\n", "", "bytes", "steps", "scan us", "all us", "bytes");
	for (size_t i = 0; i < KT_COUNT(bombs); i++) {
		double scanned = 1e9, all = 1e9, start;
		size_t held = 0;
		unsigned steps = 0;

		bombs[i].make();
		/* The best of some: others use the machine as well. */
		for (int j = 0; j < 50; j++) {
			struct kloop_dns_message *message = NULL;
			struct kl_answer *answer = NULL;
			struct kl_scan scan;
			double took;

			start = now_us();
			(void)kl_scan_counted(packet, used, &scan, &steps);
			took = now_us() - start;
			scanned = took < scanned ? took : scanned;
			start = now_us();
			(void)take(&answer, &message);
			kloop_dns_message_unref(message);
			kl_answer_unref(answer);
			took = now_us() - start;
			all = took < all ? took : all;
		}
		kt_fault_install();
		{
			struct kloop_dns_message *message = NULL;
			struct kl_answer *answer = NULL;

			(void)take(&answer, &message);
			held = kt_fault_bytes();
			kloop_dns_message_unref(message);
			kl_answer_unref(answer);
		}
		kt_fault_remove();
		printf("%-38s %7zu %7u %9.1f %9.1f %9zu\n", bombs[i].name, used, steps, scanned,
		       all, held);
	}
	return 0;
}

int main(int argc, char **argv)
{
	Suite *suite = suite_create("dns bombs");
	TCase *tcase = kt_case(suite, "bombs", 60);

	if (argc > 1 && strcmp(argv[1], "time") == 0) {
		srunner_free(srunner_create(suite));
		return print_times();
	}
	tcase_add_loop_test(tcase, bombs_are_cheap, 0, (int)KT_COUNT(bombs));
	tcase_add_loop_test(tcase, bombs_do_no_harm, 0, (int)KT_COUNT(bombs));
	return kt_main(suite);
}
