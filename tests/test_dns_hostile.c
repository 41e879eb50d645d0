/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Servers that lie, stammer or cut off: forgers, and what comes over TCP. */
#include "dnsservers.h"

#include <arpa/inet.h>
#include <string.h>
#include <unistd.h>

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
	ck_assert_uint_ge(STAT(packets_received), 1);
	ck_assert_uint_le(STAT(packets_received), 1 + STAT(retries));
}
END_TEST

static int flood(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes = kt_dns_add(wire, kt_dns_empty(question, 0, wire), 1, 300, "\6\6\6\6", 4);

	if (question->tcp)
		return -1;
	wire[0] ^= 0x80;
	for (int i = 0; i < 3000; i++) {
		wire[1] ^= (uint8_t)i;
		kt_dns_send(server, question, wire, (size_t)bytes);
	}
	return -1;
}

START_TEST(a_flood_of_forged_answers)
{
	struct kloop_resolver_options *options = options_for(1);

	/* The buffer of the socket is full of them: TCP, or a second question, brings the truth. */
	ck_assert_int_eq(kloop_resolver_options_set_timeout(options, 30000 * KT_MS, 2), 0);
	use(options);
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
	return kt_main(suite);
}
