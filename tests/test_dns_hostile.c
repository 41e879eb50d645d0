/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Servers that lie, stammer, keep silent or are not there; forgers; several
 * servers; the cache as lookups see it.
 */
#include "dns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct kt_record zone[] = {
	{ "www.test", "A", "192.0.2.1" },
	{ "www.test", "AAAA", "2001:db8::1" },
	{ "text.test", "TXT", "hello" },
};

static struct kloop_loop *loop;
static struct kt_dns first, second;
static struct kloop_resolver *resolver;

static struct kloop_resolver_options *options_for(size_t servers)
{
	struct kt_dns *both[] = { &first, &second };

	return kt_resolver_options(NULL, both, servers);
}

static void use(struct kloop_resolver_options *options)
{
	kloop_resolver_close(resolver);
	resolver = kt_resolver_new(loop, options);
}

static void set_up(void)
{
	loop = kt_loop_new(NULL);
	kt_dns_open(&first, loop, zone, KT_COUNT(zone), true);
	kt_dns_open(&second, loop, zone, KT_COUNT(zone), true);
	resolver = NULL;
	use(options_for(1));
}

static void tear_down(void)
{
	kloop_resolver_close(resolver);
	kt_dns_close(&first);
	kt_dns_close(&second);
	kt_loop_free(loop);
}

static const char *resolve(const char *name)
{
	return kt_resolve(loop, resolver, name, AF_INET);
}

#define STAT(field) (kt_resolver_stats(resolver).field)

/* ---- what is no answer -------------------------------------------------------------- */

/* A reply with a forged address, changed by a case, and behind it the right one. */
static int lie(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int what = *(int *)server->data;
	int bytes = kt_dns_empty(question, 0, wire);

	bytes = kt_dns_add(wire, bytes, question->type, 300, "\6\6\6\6", 4);
	switch (what) {
	case 0: /* another id */
		wire[0] ^= 0x55;
		break;
	case 1: /* a question in place of an answer */
		wire[2] &= 0x7f;
		break;
	case 2: /* another name */
		wire[13] ^= 1;
		break;
	case 3: /* another type */
		wire[question->end - 3] = 16;
		break;
	case 4: /* another class */
		wire[question->end - 1] = 3;
		break;
	case 5: /* cut off */
		bytes -= 3;
		break;
	case 6: /* not even a header */
		bytes = 5;
		break;
	case 7: /* a pointer to itself */
		wire[question->end + 1] = (uint8_t)question->end;
		break;
	case 8: /* another opcode */
		wire[2] |= 0x20;
		break;
	case 9: /* no question */
		wire[5] = 0;
		break;
	case 10: /* an address of one byte */
		wire[question->end + 11] = 1;
		break;
	default:
		break;
	}
	kt_dns_send(server, question, wire, (size_t)bytes);
	return -1;
}

START_TEST(lies_are_not_believed)
{
	int what = _i;

	first.hook = lie;
	first.data = &what;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_uint_ge(STAT(packets_refused), 1);
}
END_TEST

static int from_elsewhere(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	int bytes = kt_dns_add(wire, kt_dns_empty(question, 0, wire), 1, 300, "\6\6\6\6", 4);

	(void)server;
	ck_assert_int_ge(sendto(fd, wire, (size_t)bytes, 0,
				(const struct sockaddr *)&question->from, sizeof(question->from)),
			 0);
	close(fd);
	return -1;
}

START_TEST(another_port_is_not_heard)
{
	first.hook = from_elsewhere;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_uint_eq(STAT(packets_refused), 0);
	ck_assert_uint_eq(STAT(packets_received), 1);
}
END_TEST

static int flood(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes = kt_dns_add(wire, kt_dns_empty(question, 0, wire), 1, 300, "\6\6\6\6", 4);

	if (question->tcp)
		return -1;
	wire[0] ^= 0x80;
	for (int i = 0; i < 20000; i++) {
		wire[1] ^= (uint8_t)i;
		kt_dns_send(server, question, wire, (size_t)bytes);
	}
	return -1;
}

START_TEST(a_flood_of_forged_answers)
{
	/* The buffer of the socket is full of them: TCP, or a second question, brings the truth. */
	first.hook = flood;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_uint_gt(STAT(packets_refused), 10);
	ck_assert_uint_le(STAT(packets_sent), 4);
}
END_TEST

static int fold_case(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes = kt_dns_answer(server, question, wire);

	for (size_t i = 12; i < question->end - 5; i++) {
		if (wire[i] >= 'A' && wire[i] <= 'Z')
			wire[i] = (uint8_t)(wire[i] + 32);
	}
	return bytes;
}

START_TEST(a_server_that_changes_the_case)
{
	first.hook = fold_case;
	ck_assert_str_eq(resolve("a-name-of-many-letters.test"), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_int_eq(first.by_tcp, 1); /* TCP decides */
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_int_eq(first.by_tcp, 1); /* and afterwards it is known */
}
END_TEST

static uint16_t ids[64];
static uint16_t ports[64];
static char cases[64][32];

static int note(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int number = (question->number - 1) % 64;

	(void)server;
	(void)wire;
	ids[number] = (uint16_t)(question->wire[0] << 8 | question->wire[1]);
	ports[number] = ntohs(question->from.sin_port);
	memcpy(cases[number], question->wire + 12, 24);
	return -1;
}

START_TEST(nothing_can_be_guessed)
{
	int same_id = 0, same_port = 0, same_case = 0;

	first.hook = note;
	for (int i = 0; i < 64; i++) {
		ck_assert_int_eq(kloop_resolver_flush(resolver, NULL), i == 0 ? 0 : 1);
		ck_assert_str_eq(resolve("www.test") ? "" : "", "");
		kt_turn_for(loop, 0);
		if (i == 0)
			continue;
	}
	for (int i = 1; i < 64; i++) {
		same_id += ids[i] == ids[i - 1];
		same_port += ports[i] == ports[i - 1];
		same_case += memcmp(cases[i], cases[i - 1], 10) == 0;
	}
	/* Of 2^16, about 2^15 and 2^7 each: a few may be the same by chance. */
	ck_assert_int_le(same_id, 2);
	ck_assert_int_le(same_port, 2);
	ck_assert_int_le(same_case, 8);
}
END_TEST

/* ---- TCP ------------------------------------------------------------------------------- */

static int big(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes = kt_dns_empty(question, 0, wire);
	int records = *(int *)server->data;

	if (!question->tcp) {
		wire[2] |= 2;
		return bytes;
	}
	for (int i = 0; i < records; i++) {
		uint8_t address[4] = { 10, 0, (uint8_t)(i >> 8), (uint8_t)i };

		bytes = kt_dns_add(wire, bytes, 1, 300, address, 4);
	}
	return bytes;
}

START_TEST(truncated_answers)
{
	int records = 400;
	struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM };
	struct kt_lookup lookup;

	first.hook = big;
	first.data = &records;
	kt_lookup_init(&lookup);
	kt_lookup_start(&lookup, resolver, "big.test", NULL, &hints);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	ck_assert_uint_eq(lookup.addresses->count, 400);
	kt_lookup_clear(&lookup);
	ck_assert_int_eq(first.connections, 1);
	/* The largest message there is. */
	records = 4050;
	kt_lookup_init(&lookup);
	kt_lookup_start(&lookup, resolver, "huge.test", NULL, &hints);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	ck_assert_uint_eq(lookup.addresses->count, 4050);
	kt_lookup_clear(&lookup);
}
END_TEST

static int held[8];
static int held_count;
static struct {
	uint8_t wire[512];
	int bytes;
	struct kt_question question;
} later[8];

/* Over TCP answer in reverse order, once four are there. */
static int reverse(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	if (!question->tcp) {
		int bytes = kt_dns_empty(question, 0, wire);

		wire[2] |= 2;
		return bytes;
	}
	later[held_count].bytes = kt_dns_empty(question, 0, later[held_count].wire);
	later[held_count].bytes = kt_dns_add(later[held_count].wire, later[held_count].bytes, 1, 300,
					     "\1\1\1\1", 4);
	later[held_count].wire[later[held_count].bytes - 1] = (uint8_t)question->name[1];
	later[held_count].question = *question;
	if (++held_count == 4) {
		while (held_count-- != 0)
			kt_dns_send(server, &later[held_count].question, later[held_count].wire,
				    (size_t)later[held_count].bytes);
	}
	return 0;
}

START_TEST(answers_out_of_order)
{
	static const char *const names[] = { "a1.test", "b2.test", "c3.test", "d4.test" };
	struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM };
	struct kt_lookup lookups[4];

	(void)held;
	first.hook = reverse;
	for (int i = 0; i < 4; i++) {
		kt_lookup_init(&lookups[i]);
		kt_lookup_start(&lookups[i], resolver, names[i], NULL, &hints);
	}
	for (int i = 0; i < 4; i++) {
		char expected[32];

		ck_assert_int_eq(kt_lookup_wait(&lookups[i], loop), 0);
		snprintf(expected, sizeof(expected), "1.1.1.%d", '1' + i);
		ck_assert_str_eq(kt_addresses_text(lookups[i].addresses), expected);
		kt_lookup_clear(&lookups[i]);
	}
	ck_assert_int_eq(first.connections, 1); /* one for all */
}
END_TEST

static int cut(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes = kt_dns_empty(question, 0, wire);
	int what = *(int *)server->data;

	if (!question->tcp) {
		wire[2] |= 2;
		return bytes;
	}
	switch (what) {
	case 0: /* half a length */
		(void)send(question->fd, "\0", 1, MSG_DONTWAIT);
		shutdown(question->fd, SHUT_RDWR);
		return 0;
	case 1: /* a length, and the end */
		(void)send(question->fd, "\xff\xff\0\0", 4, MSG_DONTWAIT);
		shutdown(question->fd, SHUT_RDWR);
		return 0;
	case 2: { /* reset */
		struct linger linger = { 1, 0 };

		setsockopt(question->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
		shutdown(question->fd, SHUT_RDWR);
		return 0;
	}
	case 3: /* truncated over TCP as well */
		wire[2] |= 2;
		return bytes;
	case 4: /* another question */
		wire[13] ^= 1;
		return bytes;
	case 5: /* ids that nobody asked with */
		wire[0] ^= 0x55;
		for (int i = 0; i < 40; i++)
			kt_dns_send(server, question, wire, (size_t)bytes);
		return 0;
	default: /* an empty frame */
		(void)send(question->fd, "\0\0", 2, MSG_DONTWAIT);
		shutdown(question->fd, SHUT_RDWR);
		return 0;
	}
}

START_TEST(connections_that_break)
{
	int what = _i;

	first.hook = cut;
	first.data = &what;
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_AGAIN");
	/* With another server that does not matter. */
	use(options_for(2));
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
}
END_TEST

START_TEST(tcp_only)
{
	struct kloop_resolver_options *options = kt_resolver_options(NULL, NULL, 0);
	struct kloop_address address = kt_dns_address(&first);

	ck_assert_int_eq(kloop_resolver_options_add_server(options, &address, KLOOP_DNS_TCP), 0);
	use(options);
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_int_eq(first.by_tcp, first.questions);
	ck_assert_uint_eq(STAT(packets_sent), 0);
}
END_TEST

/* ---- codes ------------------------------------------------------------------------------- */

static int say(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	return kt_dns_empty(question, *(unsigned *)server->data, wire);
}

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
	ck_assert_int_le(first.questions, 4);
	first.questions = 0;
	ck_assert_str_eq(resolve("text.test"), "KLOOP_ERROR_DNS_NODATA");
	ck_assert_int_eq(first.questions, 1); /* it is known now */
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
	if (known && mode == 2)
		wire[0] ^= 0; /* the same as mode 0 */
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

/* ---- several servers ------------------------------------------------------------------------ */

START_TEST(a_silent_first_server)
{
	uint64_t start = kloop_now();

	first.quiet = true;
	use(options_for(2));
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	/* Far from the five seconds of resolv.conf, whatever the machine does. */
	ck_assert_uint_lt(kloop_now() - start, 4000 * KT_MS);
	for (int i = 0; i < 4; i++) {
		char name[32];

		snprintf(name, sizeof(name), "n%d.test", i);
		ck_assert_str_eq(resolve(name), "KLOOP_ERROR_DNS_NONAME");
	}
	/* By now it is known to be down, and is asked in passing only. */
	first.questions = 0;
	for (int i = 10; i < 20; i++) {
		char name[32];

		snprintf(name, sizeof(name), "n%d.test", i);
		ck_assert_str_eq(resolve(name), "KLOOP_ERROR_DNS_NONAME");
	}
	ck_assert_int_le(first.questions, 2);
}
END_TEST

START_TEST(nobody_listens)
{
	struct kloop_resolver_options *options = options_for(1);
	struct kt_dns gone;

	/* The port of a server that was there: refused by the kernel. */
	kt_dns_open(&gone, loop, NULL, 0, false);
	kt_dns_close(&gone);
	kloop_resolver_options_free(options);
	options = kt_resolver_options(NULL, (struct kt_dns *[]){ &gone, &second }, 2);
	use(options);
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	options = kt_resolver_options(NULL, (struct kt_dns *[]){ &gone }, 1);
	use(options);
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_AGAIN");
}
END_TEST

START_TEST(nobody_answers)
{
	struct kloop_resolver_options *options = options_for(2);

	first.quiet = second.quiet = true;
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 100 * KT_MS, 2), 0);
	use(options);
	ck_assert_str_eq(resolve("www.test"), "KLOOP_ERROR_DNS_TIMEOUT");
	/* Twice each in short order, and once more before it is given up. */
	ck_assert_int_eq(first.questions, 3);
	ck_assert_int_eq(second.questions, 3);
	ck_assert_uint_eq(STAT(timeouts), 1);
	ck_assert_uint_eq(STAT(in_flight), 0);
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
	ck_assert_uint_eq(STAT(retries), 2);
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
	uint64_t start = kloop_now();

	first.hook = lose_first;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_uint_lt(kloop_now() - start, 4000 * KT_MS);
	ck_assert_int_eq(first.questions, 2);
}
END_TEST

/* ---- the cache ------------------------------------------------------------------------------- */

START_TEST(answers_are_kept)
{
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_str_eq(resolve("WWW.test"), "192.0.2.1");
	ck_assert_str_eq(resolve("nosuch.test"), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_str_eq(resolve("nosuch.test"), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_int_eq(first.questions, 2);
	ck_assert_uint_eq(STAT(cache_entries), 2);
	ck_assert_int_eq(kloop_resolver_flush(resolver, "www.TEST"), 1);
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_int_eq(first.questions, 3);
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
	ck_assert_int_eq(first.questions, 2);
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
	ck_assert_int_eq(first.questions, 1);
}
END_TEST

START_TEST(hot_names_are_fetched_early)
{
	int questions;

	first.ttl_s = 2;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	for (int i = 0; i < 8; i++)
		ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_int_eq(first.questions, 1);
	kt_turn_for(loop, 1850);
	questions = first.questions;
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	kt_turn_for(loop, 200);
	ck_assert_str_eq(resolve("www.test"), "192.0.2.1");
	ck_assert_int_eq(first.questions, questions + 1);
	/* Unless the machine was asleep meanwhile, nobody waited. */
	ck_assert_uint_le(STAT(prefetches), 1);
}
END_TEST

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
	Suite *suite = suite_create("dns hostile");
	TCase *tcase = kt_case(suite, "lies", 60);

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_loop_test(tcase, lies_are_not_believed, 0, 11);
	tcase_add_test(tcase, another_port_is_not_heard);
	tcase_add_test(tcase, a_flood_of_forged_answers);
	tcase_add_test(tcase, a_server_that_changes_the_case);
	tcase_add_test(tcase, nothing_can_be_guessed);
	tcase = kt_case(suite, "tcp", 60);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, truncated_answers);
	tcase_add_test(tcase, answers_out_of_order);
	tcase_add_loop_test(tcase, connections_that_break, 0, 7);
	tcase_add_test(tcase, tcp_only);
	tcase = kt_case(suite, "codes", 60);
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
	tcase = kt_case(suite, "cache", 60);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, answers_are_kept);
	tcase_add_test(tcase, no_time_no_cache);
	tcase_add_test(tcase, stale_answers);
	tcase_add_test(tcase, hot_names_are_fetched_early);
	tcase_add_test(tcase, memory_stays);
	return kt_main(suite);
}
