/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Names, the scan of packets, answers and the cache: what passes, what does not.
 * What hostile packets of 64 KiB cost is in test_dns_bombs.c.
 */
#include "dnspacket.h"
#include "dns/answer.h"
#include "dns/cache.h"
#include "dns/ldns.h"
#include "dns/search.h"

#include <errno.h>
#include <string.h>

static const struct kl_ttl_limits limits = { 3600, 300 };

/* ---- names ---------------------------------------------------------------------- */

START_TEST(names)
{
	uint8_t wire[KL_NAME_BYTES + 1], other[KL_NAME_BYTES + 1];
	char text[300], back[KLOOP_DNS_NAME_TEXT_BYTES];

	ck_assert_int_eq(kl_name_parse("www.test", 8, false, wire), 10);
	ck_assert_int_eq(memcmp(wire, "\3www\4test\0", 10), 0);
	ck_assert_int_eq(kl_name_parse("www.test.", 9, false, wire), 10);
	ck_assert_int_eq(kl_name_parse(".", 1, false, wire), 1);
	ck_assert_int_eq(kl_name_parse("", 0, false, wire), -EINVAL);
	ck_assert_int_eq(kl_name_parse("a..b", 4, false, wire), -EINVAL);
	ck_assert_int_eq(kl_name_parse(".a", 2, false, wire), -EINVAL);
	ck_assert_int_eq(kl_name_parse("a..", 3, false, wire), -EINVAL);
	ck_assert_int_eq(kl_name_parse("\\065\\.b", 7, true, wire), 5);
	ck_assert_int_eq(memcmp(wire, "\3A.b\0", 5), 0);
	ck_assert_int_eq(kl_name_parse("\\256", 4, true, wire), -EINVAL);
	ck_assert_int_eq(kl_name_parse("\\", 1, true, wire), -EINVAL);
	memset(text, 'a', sizeof(text));
	ck_assert_int_eq(kl_name_parse(text, 63, false, wire), 65);
	ck_assert_int_eq(kl_name_parse(text, 64, false, wire), -EINVAL);
	text[63] = text[127] = text[191] = '.';
	ck_assert_int_eq(kl_name_parse(text, 253, false, wire), 255);
	ck_assert_int_eq(kl_name_parse(text, 254, false, wire), -EINVAL);
	text[253] = '.';
	ck_assert_int_eq(kl_name_parse(text, 254, false, wire), 255);

	ck_assert_int_gt(kl_name_parse("WwW.TeSt", 8, false, wire), 0);
	ck_assert_int_gt(kl_name_parse("www.test", 8, false, other), 0);
	ck_assert(kl_name_equal(wire, other));
	ck_assert_uint_eq(kl_hash(7, wire, 10), kl_hash(7, other, 10));
	ck_assert(kl_name_is_below(wire, other + 4));
	ck_assert(!kl_name_is_below(other + 4, wire));
	ck_assert_int_gt(kl_name_parse("wwwtest", 7, false, wire), 0);
	ck_assert(!kl_name_is_below(wire, other + 4));
	ck_assert(!kl_name_equal(wire, other));
	ck_assert(!kl_same_text((const uint8_t *)"abcdefg@", (const uint8_t *)"abcdefg`", 8));
	ck_assert(!kl_same_text((const uint8_t *)"abcdefg[", (const uint8_t *)"abcdefg{", 8));
	ck_assert(kl_same_text((const uint8_t *)"ABCDEFGZ", (const uint8_t *)"abcdefgz", 8));

	ck_assert_int_eq(kloop_dns_name_format((const uint8_t *)"\5a b.\x80\2-_", 10, back,
					       sizeof(back)),
			 17);
	ck_assert_str_eq(back, "a\\032b\\046\\128.-_");
	ck_assert_int_eq(kloop_dns_name_format((const uint8_t *)"", 1, back, sizeof(back)), 1);
	ck_assert_str_eq(back, ".");
	ck_assert_int_eq(kloop_dns_name_format((const uint8_t *)"\5abc", 4, back, sizeof(back)),
			 -EINVAL);
	ck_assert_int_eq(kloop_dns_name_format((const uint8_t *)"\xc0\x0c", 2, back, sizeof(back)),
			 -EINVAL);
	ck_assert_int_eq(kloop_dns_name_format((const uint8_t *)"\3abc", 5, back, 3), -ENOSPC);
}
END_TEST

/* ---- packets ---------------------------------------------------------------------- */

/* A response to "www.test A". */
static void begin(void)
{
	memset(packet, 0, sizeof(packet));
	used = 0;
	put("\x12\x34\x81\x80\0\1\0\0\0\0\0\0\3www\4test\0\0\1\0\1", 26);
}

/* A record whose owner is given in wire format. */
static void add(int section, const char *owner, size_t owner_bytes, unsigned type,
		const void *data, size_t bytes)
{
	kl_put16(packet + 6 + 2 * section, kl_get16(packet + 6 + 2 * section) + 1u);
	put(owner, owner_bytes);
	put_16(type);
	put_16(1);
	put_16(0);
	put_16(60);
	put_16((unsigned)bytes);
	put(data, bytes);
}

#define OWNER "\xc0\x0c", 2

static int scan(struct kl_scan *ret_scan)
{
	/* At the end of a page of its own, so that a read behind it shows under ASan. */
	uint8_t *copy = malloc(used);
	int ret;

	memcpy(copy, packet, used);
	ret = kl_scan(copy, used, ret_scan);
	free(copy);
	return ret;
}

static int result(void)
{
	struct kl_scan unused;

	return scan(&unused);
}

START_TEST(packets_that_pass)
{
	struct kl_scan scanned;
	struct kl_walk walk;
	struct kl_record record;
	uint8_t name[256];

	begin();
	ck_assert_int_eq(result(), 0);
	add(0, OWNER, KL_TYPE_CNAME, "\1x\xc0\x10", 4);
	add(0, "\1x\xc0\x10", 4, KL_TYPE_A, "\1\2\3\4", 4);
	add(1, "\0", 1, KL_TYPE_SOA, "\xc0\x0c\xc0\x0c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\7", 24);
	add(2, "\0", 1, KL_TYPE_OPT, "\0\x0a\0\2ab", 6);
	ck_assert_int_eq(scan(&scanned), 0);
	ck_assert(scanned.has_opt);
	ck_assert_uint_eq(scanned.opt_bytes, 6);
	ck_assert_uint_eq(scanned.question_bytes, 10);
	kl_walk_begin(&walk, packet, used, &scanned);
	ck_assert(kl_walk_next(&walk, &record));
	ck_assert_uint_eq(kl_scan_name(packet, used, record.data, name), 8);
	ck_assert_int_eq(memcmp(name, "\1x\4test\0", 8), 0);
	ck_assert(kl_walk_next(&walk, &record));
	ck_assert(kl_scan_name_is(packet, used, record.owner, name));
	ck_assert_uint_eq(record.type, KL_TYPE_A);
	ck_assert(kl_walk_next(&walk, &record) && record.section == 1);
	ck_assert(kl_walk_next(&walk, &record) && record.section == 2);
	ck_assert(!kl_walk_next(&walk, &record));
	put("garbage", 7); /* tolerated behind the end */
	ck_assert_int_eq(result(), 0);
}
END_TEST

START_TEST(packets_that_do_not)
{
	static const struct {
		const char *what;
		int section;
		const char *owner;
		size_t owner_bytes;
		unsigned type;
		const char *data;
		size_t bytes;
	} cases[] = {
		{ "A of 0 bytes", 0, OWNER, 1, "", 0 },
		{ "A of 8 bytes", 0, OWNER, 1, "12345678", 8 },
		{ "AAAA of 4", 0, OWNER, 28, "1234", 4 },
		{ "CNAME beyond its end", 0, OWNER, 5, "\7abc", 4 },
		{ "CNAME with a rest", 0, OWNER, 5, "\1a\0x", 4 },
		{ "pointer forward", 0, "\xc0\xff", 2, 1, "1234", 4 },
		{ "pointer to itself", 0, "\xc0\x1a", 2, 1, "1234", 4 },
		{ "pointer into the header", 0, "\xc0\x02", 2, 1, "1234", 4 },
		{ "reserved label", 0, "\x40" "a\0", 3, 1, "1234", 4 },
		{ "TXT without a string", 0, OWNER, 16, "", 0 },
		{ "TXT beyond its end", 0, OWNER, 16, "\5abc", 4 },
		{ "OPT among answers", 0, "\0", 1, 41, "", 0 },
		{ "OPT not at the root", 2, OWNER, 41, "", 0 },
		{ "OPT with half an option", 2, "\0", 1, 41, "\0\x0a\0\5ab", 6 },
		{ "TSIG", 2, OWNER, 250, "", 0 },
		{ "type ANY", 0, OWNER, 255, "", 0 },
		{ "type 0", 0, OWNER, 0, "", 0 },
		{ "SOA cut off", 1, OWNER, 6, "\0\0abc", 5 },
		{ "MX without a name", 0, OWNER, 15, "\0\1", 2 },
		{ "SRV cut off", 0, OWNER, 33, "\0\1\0", 3 },
		{ "NAPTR cut off", 0, OWNER, 35, "\0\1\0\1\1", 5 },
		{ "HTTPS, keys not in order", 0, OWNER, 65, "\0\1\0\0\3\0\0\0\1\0\0", 11 },
		{ "HTTPS, a value beyond its end", 0, OWNER, 65, "\0\1\0\0\3\0\5a", 8 },
		{ "RRSIG cut off", 0, OWNER, 46, "\0\1", 2 },
		{ "NSEC3, a salt beyond its end", 1, OWNER, 50, "\1\0\0\1\x20" "ab", 7 },
		{ "DS cut off", 0, OWNER, 43, "\0\1\1", 3 },
	};

	for (size_t i = 0; i < KT_COUNT(cases); i++) {
		begin();
		add(cases[i].section, cases[i].owner, cases[i].owner_bytes, cases[i].type,
		    cases[i].data, cases[i].bytes);
		ck_assert_msg(result() == -EBADMSG, "%s passed", cases[i].what);
	}
}
END_TEST

START_TEST(bad_headers)
{
	size_t whole;

	begin();
	packet[2] &= 0x7f; /* a question */
	ck_assert_int_eq(result(), -EBADMSG);
	begin();
	packet[2] |= 0x10; /* another opcode */
	ck_assert_int_eq(result(), -EBADMSG);
	begin();
	packet[5] = 0;
	ck_assert_int_eq(result(), -EBADMSG);
	begin();
	packet[5] = 2;
	ck_assert_int_eq(result(), -EBADMSG);
	begin();
	packet[7] = 1; /* a record that is not there */
	ck_assert_int_eq(result(), -EBADMSG);
	begin();
	packet[12] = 0xc0; /* a question with a pointer */
	ck_assert_int_eq(result(), -EBADMSG);
	begin();
	add(2, "\0", 1, 41, "", 0);
	ck_assert_int_eq(result(), 0);
	add(2, "\0", 1, 41, "", 0);
	ck_assert_int_eq(result(), -EBADMSG); /* two OPT */
	/* Every cut of a good packet is bad. */
	begin();
	add(0, OWNER, 5, "\1x\xc0\x10", 4);
	add(0, "\1x\xc0\x10", 4, 1, "1234", 4);
	whole = used;
	for (used = 0; used < whole; used++)
		ck_assert_int_eq(result(), -EBADMSG);
	ck_assert_int_eq(result(), 0);
}
END_TEST

/* ---- answers ------------------------------------------------------------------------ */

static struct kl_answer *answer(void)
{
	static const uint8_t name[] = "\3WWW\4test";
	struct kl_scan scanned;
	struct kl_answer *made;

	ck_assert_int_eq(scan(&scanned), 0);
	made = kl_answer_new(packet, used, &scanned, name, &limits, 1000000000);
	ck_assert_ptr_nonnull(made);
	return made;
}

static int count(const struct kl_answer *made)
{
	struct kl_answer_walk walk;
	size_t bytes;
	int found = 0;

	kl_answer_begin(made, &walk);
	while (kl_answer_next(made, &walk, &bytes))
		found++;
	return found;
}

START_TEST(chains)
{
	struct kl_answer *made;
	char owner[3] = "\1a", target[3] = "\1b";

	/* In reverse order, with records that are nobody's business. */
	begin();
	add(0, "\1b", 3, 1, "\1\1\1\1", 4);
	add(0, "\1z", 3, 1, "\6\6\6\6", 4);
	add(0, "\1a", 3, 5, "\1b", 3);
	add(0, OWNER, 5, "\1a", 3);
	add(1, "\1b", 3, 1, "\7\7\7\7", 4);
	made = answer();
	ck_assert_int_eq(made->result, 0);
	ck_assert(made->aliased);
	ck_assert_int_eq(count(made), 1);
	ck_assert_uint_eq(made->ttl_s, 60);
	/* The question is the caller's, not what was sent. */
	ck_assert_int_eq(memcmp(made->wire + 12, "\3WWW", 4), 0);
	kl_answer_unref(made);
	/* A loop, and a chain that is too long. */
	begin();
	add(0, OWNER, 5, "\1a", 3);
	add(0, "\1a", 3, 5, "\xc0\x0c", 2);
	made = answer();
	ck_assert_int_eq(made->result, KLOOP_ERROR_DNS_NONAME);
	ck_assert(!made->cacheable);
	kl_answer_unref(made);
	for (int length = KL_CHAIN_MAX; length <= KL_CHAIN_MAX + 1; length++) {
		begin();
		add(0, OWNER, 5, "\1a", 3);
		for (int i = 0; i < length - 1; i++) {
			owner[1] = (char)('a' + i);
			target[1] = (char)('a' + i + 1);
			add(0, owner, 3, 5, target, 3);
		}
		add(0, target, 3, 1, "\1\1\1\1", 4);
		made = answer();
		ck_assert_int_eq(made->result, length == KL_CHAIN_MAX ? 0 : KLOOP_ERROR_DNS_NONAME);
		kl_answer_unref(made);
	}
	/* More aliases than anybody needs. */
	begin();
	for (int i = 0; i < KL_ALIASES_MAX + 1; i++)
		add(0, OWNER, 5, "\1a", 3);
	ck_assert_int_eq(result(), -EBADMSG);
}
END_TEST

/* An alias that a server makes of a DNAME has the letters of the question in it. */
START_TEST(letters_of_aliases)
{
	static const uint8_t asked[] = "\3www\4test";
	struct kl_scan scanned;
	struct kl_answer *made;
	uint8_t name[KL_NAME_BYTES + 1];

	begin();
	memcpy(packet + 12, "\3wWw\4tESt", 9);
	add(0, "\4test", 6, KL_TYPE_DNAME, "\3NEW", 5);
	add(0, OWNER, 5, "\3wWw\3NEW", 9);
	add(0, "\3www\3new", 9, 5, "\3wWW\1B", 7); /* not of the question */
	add(0, "\3www\1b", 7, 1, "\1\1\1\1", 4);
	ck_assert_int_eq(scan(&scanned), 0);
	made = kl_answer_new(packet, used, &scanned, asked, &limits, 0);
	ck_assert_int_eq(made->result, 0);
	ck_assert_int_eq(count(made), 1);
	ck_assert_uint_eq(kl_scan_name(made->wire, used, 26 + 6 + 10 + 5 + 2 + 10, name), 9);
	ck_assert_int_eq(memcmp(name, "\3www\3NEW", 9), 0);
	kl_scan_name(made->wire, used, made->target, name);
	ck_assert_int_eq(memcmp(name, "\3wWW\1B", 7), 0);
	kl_answer_unref(made);
}
END_TEST

START_TEST(negative_answers)
{
	static const char soa[] = "\0\0\0\0\0\1\0\0\0\1\0\0\0\1\0\0\0\1\0\0\0\x1e";
	struct kl_answer *made;

	begin();
	packet[3] |= 3;
	made = answer();
	ck_assert_int_eq(made->result, KLOOP_ERROR_DNS_NONAME);
	ck_assert(!made->cacheable); /* without SOA nobody knows for how long */
	kl_answer_unref(made);
	begin();
	add(1, "\xc0\x10", 2, 6, soa, 22);
	made = answer();
	ck_assert_int_eq(made->result, KLOOP_ERROR_DNS_NODATA);
	ck_assert(made->cacheable);
	ck_assert_uint_eq(made->ttl_s, 30);
	kl_answer_unref(made);
	begin(); /* of somebody else's zone */
	add(1, "\5other", 7, 6, soa, 22);
	made = answer();
	ck_assert(!made->cacheable);
	kl_answer_unref(made);
	begin(); /* the highest bit of a time means 0 */
	add(0, OWNER, 1, "1234", 4);
	packet[used - 10] = 0x80;
	made = answer();
	ck_assert_uint_eq(made->ttl_s, 0);
	kl_answer_unref(made);
}
END_TEST

/* ---- ldns ------------------------------------------------------------------------------- */

START_TEST(questions_and_records)
{
	uint8_t wire[KL_QUERY_BYTES], data[300], name[KL_NAME_BYTES];
	struct kl_ldns_query query = { .name = (const uint8_t *)"\3wWw\4test",
				       .name_bytes = 10,
				       .id = 0x1234,
				       .type = 28,
				       .recursion = true };
	struct kl_scan scanned;
	int bytes = kl_ldns_encode(&query, wire);

	ck_assert_int_eq(bytes, 26);
	ck_assert_int_eq(memcmp(wire, "\x12\x34\1\0\0\1\0\0\0\0\0\0\3wWw\4test\0\0\x1c\0\1", 26), 0);
	query.edns_bytes = 1232;
	query.dnssec = true;
	query.authentic = true;
	query.checking_disabled = true;
	query.cookie = (const uint8_t *)"12345678";
	query.cookie_bytes = 8;
	bytes = kl_ldns_encode(&query, wire);
	ck_assert_int_eq(bytes, 26 + 11 + 12);
	ck_assert_uint_eq(wire[3], 0x30);
	ck_assert_int_eq(memcmp(wire + 26,
				"\0\0\x29\4\xd0\0\0\x80\0\0\x0c\0\x0a\0\x08" "12345678", 23),
			 0);
	wire[2] |= 0x80;
	ck_assert_int_eq(kl_scan(wire, (size_t)bytes, &scanned), 0);
	ck_assert(scanned.has_opt);
	begin();
	add(0, OWNER, 15, "\0\5\1x\xc0\x10", 6);
	ck_assert_int_eq(result(), 0);
	ck_assert_int_eq(kl_ldns_decode(packet, used, 15, 38, data, sizeof(data)), 10);
	ck_assert_int_eq(memcmp(data, "\0\5\1x\4test\0", 10), 0);
	ck_assert_int_eq(kl_ldns_decode(packet, used, 15, 38, data, 5), -ENOSPC);
	ck_assert_int_eq(kl_ldns_reverse(AF_INET, "\xc0\0\2\1", name), 24);
	ck_assert_int_eq(memcmp(name, "\1" "1\1" "2\1" "0\3" "192\7in-addr\4arpa", 24), 0);
	ck_assert_int_eq(kl_ldns_reverse(AF_UNIX, "", name), -EAFNOSUPPORT);
}
END_TEST

/* ---- the cache --------------------------------------------------------------------------- */

static struct kl_answer *make_answer(uint32_t ttl_s, size_t bytes)
{
	struct kl_answer *made = calloc(1, sizeof(*made) + bytes);

	made->refs = 1;
	made->ttl_s = ttl_s;
	made->bytes = bytes;
	made->cacheable = true;
	return made;
}

START_TEST(cache)
{
	struct kl_cache store = { .max_bytes = 100000, .seed = 5 };
	const uint64_t second = 1000000000;
	struct kl_answer *one = make_answer(10, 100), *found;
	struct kl_key key = { (const uint8_t *)"\1a", 3, 1, 0 };
	struct kl_key upper = { (const uint8_t *)"\1A", 3, 1, 0 };
	struct kl_key type = { (const uint8_t *)"\1a", 3, 28, 0 };
	uint8_t name[16];

	ck_assert_int_eq(kl_cache_find(&store, &key, 0, &found), KL_FOUND_NOTHING);
	kl_cache_put(&store, &key, one);
	ck_assert_int_eq(kl_cache_find(&store, &upper, second, &found), KL_FOUND_FRESH);
	ck_assert_ptr_eq(found, one);
	ck_assert_int_eq(kl_cache_find(&store, &type, second, &found), KL_FOUND_NOTHING);
	ck_assert_int_eq(kl_cache_find(&store, &key, 10 * second, &found), KL_FOUND_NOTHING);
	ck_assert_uint_eq(store.entries, 0);
	/* Used often, and in the last tenth of its time. */
	kl_cache_put(&store, &key, one);
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(kl_cache_find(&store, &key, second, &found), KL_FOUND_FRESH);
	ck_assert_int_eq(kl_cache_find(&store, &key, 9 * second + 1, &found), KL_FOUND_HOT);
	ck_assert_int_eq(kl_cache_find(&store, &key, 9 * second + 1, &found), KL_FOUND_FRESH);
	/* Stale. */
	store.stale_s = 100;
	ck_assert_int_eq(kl_cache_find(&store, &key, 50 * second, &found), KL_FOUND_STALE);
	ck_assert_int_eq(kl_cache_find(&store, &key, 110 * second, &found), KL_FOUND_NOTHING);
	/* Bounded: the least recently used goes first. */
	for (int i = 0; i < 2000; i++) {
		struct kl_answer *other = make_answer(10, 100);
		struct kl_key many = { name, 0, 1, 0 };

		many.name_bytes = (size_t)snprintf((char *)name + 1, 14, "n%d", i) + 2;
		name[0] = (uint8_t)(many.name_bytes - 2);
		kl_cache_put(&store, &many, other);
		kl_cache_put(&store, &key, one);
		kl_answer_unref(other);
		ck_assert_uint_le(store.bytes, store.max_bytes);
	}
	ck_assert_uint_gt(store.entries, 100);
	ck_assert_int_eq(kl_cache_find(&store, &key, second, &found), KL_FOUND_FRESH);
	ck_assert_int_eq(kl_cache_flush(&store, upper.name), 1);
	ck_assert_int_eq(kl_cache_find(&store, &key, second, &found), KL_FOUND_NOTHING);
	one->ttl_s = 0;
	kl_cache_put(&store, &key, one);
	ck_assert_int_eq(kl_cache_find(&store, &key, 0, &found), KL_FOUND_NOTHING);
	ck_assert_int_gt(kl_cache_flush(&store, NULL), 100);
	ck_assert_uint_eq(store.bytes, 0);
	kl_answer_unref(one);
	kl_cache_free(&store);
}
END_TEST

/* ---- the search list ------------------------------------------------------------------------ */

/* The names asked for, with these results one after the other: "a.one.test a.two.test a". */
static const char *searched(struct kl_config *config, const char *text, int said, bool servfail,
			    int *ret_result)
{
	static char names_text[2048];
	struct kl_search search;
	uint8_t name[KL_NAME_BYTES];
	size_t length = 0;

	names_text[0] = '\0';
	ck_assert_int_eq(kl_search_begin(&search, config, text, false, false), 0);
	while (kl_search_next(&search, name) > 0) {
		char one[KLOOP_DNS_NAME_TEXT_BYTES];

		ck_assert_int_gt(kloop_dns_name_format(name, sizeof(name), one, sizeof(one)), 0);
		length += (size_t)snprintf(names_text + length, sizeof(names_text) - length, "%s%s",
					   length != 0 ? " " : "", one);
		if (!kl_search_go_on(&search, said, servfail))
			break;
	}
	*ret_result = kl_search_result(&search);
	return names_text;
}

START_TEST(search_list)
{
	struct kl_config *config = kl_config_new();
	int ret;

	ck_assert_int_eq(kl_resolv_line(&config->resolv, "search one.test two.test", 24), 0);
	ck_assert_str_eq(searched(config, "a", KLOOP_ERROR_DNS_NONAME, false, &ret),
			 "a.one.test a.two.test a");
	ck_assert_int_eq(ret, KLOOP_ERROR_DNS_NONAME);
	ck_assert_str_eq(searched(config, "a.b", KLOOP_ERROR_DNS_NODATA, false, &ret),
			 "a.b a.b.one.test a.b.two.test");
	ck_assert_int_eq(ret, KLOOP_ERROR_DNS_NODATA);
	ck_assert_str_eq(searched(config, "a.", KLOOP_ERROR_DNS_NONAME, false, &ret), "a");
	ck_assert_str_eq(searched(config, "a", KLOOP_ERROR_DNS_AGAIN, true, &ret),
			 "a.one.test a.two.test a");
	ck_assert_int_eq(ret, KLOOP_ERROR_DNS_AGAIN);
	ck_assert_str_eq(searched(config, "a", KLOOP_ERROR_DNS_TIMEOUT, false, &ret), "a.one.test");
	ck_assert_int_eq(ret, KLOOP_ERROR_DNS_TIMEOUT);
	ck_assert_int_eq(kl_resolv_line(&config->resolv, "options ndots:2 no-tld-query", 28), 0);
	ck_assert_str_eq(searched(config, "a.b", KLOOP_ERROR_DNS_NONAME, false, &ret),
			 "a.b.one.test a.b.two.test a.b");
	ck_assert_str_eq(searched(config, "a", KLOOP_ERROR_DNS_NONAME, false, &ret),
			 "a.one.test a.two.test");
	ck_assert_int_eq(kl_resolv_line(&config->resolv, "search .", 8), 0);
	ck_assert_str_eq(searched(config, "a", KLOOP_ERROR_DNS_NONAME, false, &ret), "a");
	kl_config_unref(config);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dns wire");
	TCase *tcase = kt_case(suite, "wire", 60);

	tcase_add_test(tcase, names);
	tcase_add_test(tcase, packets_that_pass);
	tcase_add_test(tcase, packets_that_do_not);
	tcase_add_test(tcase, bad_headers);
	tcase_add_test(tcase, chains);
	tcase_add_test(tcase, letters_of_aliases);
	tcase_add_test(tcase, negative_answers);
	tcase_add_test(tcase, questions_and_records);
	tcase_add_test(tcase, cache);
	tcase_add_test(tcase, search_list);
	return kt_main(suite);
}
