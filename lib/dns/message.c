/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Queries of any type, and the messages that they bring. */
#include <errno.h>
#include <string.h>

#include "gai.h"
#include "ldns.h"
#include "lookup.h"
#include "query.h"

/* Records with all their names whole, at most: a small message can blow up to more. */
#define RECORD_BYTES_MAX ((size_t)512 << 10)
#define EDE_TEXT_BYTES 256

/* A record: offsets into the message's store until it is complete. */
struct record {
	size_t owner;
	size_t data;
	uint16_t owner_bytes;
	uint16_t type;
	uint16_t rr_class;
	size_t data_bytes;
	uint32_t ttl_s;
};

struct kloop_dns_message {
	unsigned refs;
	struct kl_answer *answer;
	unsigned flags;
	int ede;
	char ede_text[EDE_TEXT_BYTES];
	struct kl_store store;
	size_t first[4]; /* record of each section; [3] is their number */
	struct record *records;
	size_t room;
};

/* ---- making a message ---------------------------------------------------------- */

static int add_data(struct kloop_dns_message *message, const struct kl_record *from,
		    struct record *to)
{
	const struct kl_answer *answer = message->answer;
	/* Three names at most, and what stands around them. */
	uint8_t data[4 * 256 + 64];
	const void *bytes = answer->wire + from->data;
	int64_t at;
	int ret;

	to->data_bytes = from->data_bytes;
	if (kl_scan_has_names(from->type)) {
		ret = kl_ldns_decode(answer->wire, answer->bytes, from->type, from->data, data,
				     sizeof(data));
		if (ret < 0)
			return KLOOP_ERROR_DNS_FAIL;
		to->data_bytes = (size_t)ret;
		bytes = data;
	}
	at = kl_store_add(&message->store, bytes, to->data_bytes);
	to->data = (size_t)at;
	return at < 0 ? -ENOMEM : 0;
}

static int add_record(struct kloop_dns_message *message, const struct kl_record *from)
{
	const struct kl_answer *answer = message->answer;
	uint8_t owner[KL_NAME_BYTES + 1];
	struct record *to;
	int64_t at;
	int ret = kl_reserve((void **)&message->records, &message->room, message->first[3],
			     sizeof(*message->records));

	if (ret < 0)
		return ret;
	to = &message->records[message->first[3]];
	to->type = from->type;
	to->rr_class = from->rr_class;
	to->ttl_s = from->ttl_s;
	to->owner_bytes = (uint16_t)kl_scan_name(answer->wire, answer->bytes, from->owner, owner);
	at = kl_store_add(&message->store, owner, to->owner_bytes);
	if (at < 0)
		return -ENOMEM;
	to->owner = (size_t)at;
	ret = add_data(message, from, to);
	if (ret < 0)
		return ret;
	message->first[3]++;
	return message->store.used > RECORD_BYTES_MAX ? KLOOP_ERROR_DNS_FAIL : 0;
}

static void take_ede(struct kloop_dns_message *message)
{
	const struct kl_answer *answer = message->answer;
	size_t bytes = 0;
	const uint8_t *option = kl_option_find(answer->wire, &answer->scan, KL_OPTION_EDE, &bytes);

	message->ede = -1;
	if (!option || bytes < 2)
		return;
	message->ede = kl_get16(option);
	bytes = bytes - 2 < EDE_TEXT_BYTES - 1 ? bytes - 2 : EDE_TEXT_BYTES - 1;
	for (size_t i = 0; i < bytes; i++) {
		uint8_t c = option[2 + i];

		message->ede_text[i] = c < 0x20 || c == 0x7f ? '?' : (char)c;
	}
}

int kl_message_make(const struct kl_reply *reply, struct kloop_dns_message **ret_message)
{
	struct kloop_dns_message *message = kl_calloc(1, sizeof(*message));
	struct kl_record record;
	struct kl_walk walk;
	unsigned section = 0;
	int ret = 0;

	if (!message)
		return -ENOMEM;
	message->refs = 1;
	message->answer = kl_answer_ref(reply->answer);
	message->flags = reply->answer->scan.flags &
			 (KLOOP_DNS_CHECKING_DISABLED | KLOOP_DNS_RECURSION_AVAILABLE |
			  KLOOP_DNS_AUTHORITATIVE);
	message->flags |= (reply->answer->authentic ? (unsigned)KLOOP_DNS_AUTHENTIC : 0) |
			  (reply->cached ? (unsigned)KLOOP_DNS_CACHED : 0) |
			  (reply->stale ? (unsigned)KLOOP_DNS_STALE : 0);
	take_ede(message);
	kl_walk_begin(&walk, reply->answer->wire, reply->answer->bytes, &reply->answer->scan);
	while (ret == 0 && kl_walk_next(&walk, &record)) {
		while (section < record.section)
			message->first[++section] = message->first[3];
		if (record.type != KL_TYPE_OPT)
			ret = add_record(message, &record);
	}
	while (section < 2)
		message->first[++section] = message->first[3];
	if (ret < 0)
		kloop_dns_message_unref(message);
	else
		*ret_message = message;
	return ret;
}

/* ---- looking at a message ------------------------------------------------------- */

struct kloop_dns_message *kloop_dns_message_ref(struct kloop_dns_message *message)
{
	message->refs++;
	return message;
}

void kloop_dns_message_unref(struct kloop_dns_message *message)
{
	if (!message || --message->refs != 0)
		return;
	kl_answer_unref(message->answer);
	kl_free(message->store.bytes);
	kl_free(message->records);
	kl_free(message);
}

int kloop_dns_message_get_info(const struct kloop_dns_message *message,
			       struct kloop_dns_info *ret_info, size_t bytes)
{
	struct kloop_dns_info info;

	if (!message || !ret_info)
		return -EINVAL;
	memset(&info, 0, sizeof(info));
	info.rcode = message->answer->scan.rcode;
	info.flags = message->flags;
	info.ttl_s = message->flags & KLOOP_DNS_STALE ? 0 :
							kl_answer_ttl(message->answer, kloop_now());
	info.ede = message->ede;
	info.ede_text = message->ede_text;
	memset(ret_info, 0, bytes);
	memcpy(ret_info, &info, bytes < sizeof(info) ? bytes : sizeof(info));
	return 0;
}

size_t kloop_dns_message_get_count(const struct kloop_dns_message *message, unsigned section)
{
	if (!message || section > KLOOP_DNS_ADDITIONAL)
		return 0;
	return message->first[section + 1] - message->first[section];
}

int kloop_dns_message_get_record(const struct kloop_dns_message *message, unsigned section,
				 size_t position, struct kloop_dns_record *ret_record)
{
	const uint8_t *store;
	const struct record *from;

	if (!message || !ret_record || section > KLOOP_DNS_ADDITIONAL)
		return -EINVAL;
	if (position >= kloop_dns_message_get_count(message, section))
		return -ENOENT;
	from = &message->records[message->first[section] + position];
	store = (const uint8_t *)message->store.bytes;
	*ret_record = (struct kloop_dns_record){
		.owner = store + from->owner,
		.owner_bytes = from->owner_bytes,
		.data = store + from->data,
		.data_bytes = from->data_bytes,
		.ttl_s = from->ttl_s,
		.type = from->type,
		.rr_class = from->rr_class,
	};
	return 0;
}

/* ---- the lookup ------------------------------------------------------------------ */

struct message_lookup {
	struct kl_lookup base;
	struct kl_wait wait;
	kloop_message_fn *complete;
	uint16_t type;
	unsigned flags;
	struct kloop_dns_message *message;
	struct kl_search search;
	uint8_t name[KL_NAME_BYTES];
	char text[];
};

/* Flags that make another answer of the same question. */
static unsigned key_flags(const struct message_lookup *lookup)
{
	return lookup->flags & (KLOOP_QUERY_DNSSEC | KLOOP_QUERY_CHECKING_DISABLED |
				KLOOP_QUERY_NO_RECURSION);
}

static void run(struct message_lookup *lookup);

/* What was said about the name in turn: the end, or another name. */
static void take(struct message_lookup *lookup, const struct kl_reply *reply)
{
	int result = reply->result, ret;

	kloop_dns_message_unref(lookup->message);
	lookup->message = NULL;
	if (reply->answer) {
		ret = kl_message_make(reply, &lookup->message);
		/* Of a failure the message is an extra. */
		if (ret < 0 && (result == 0 || result == KLOOP_ERROR_DNS_NONAME ||
				result == KLOOP_ERROR_DNS_NODATA)) {
			kl_lookup_end(&lookup->base, ret);
			return;
		}
	}
	if (result != 0 &&
	    kl_search_go_on(&lookup->search, result, reply->rcode == KL_SERVFAIL)) {
		run(lookup);
		return;
	}
	kl_lookup_end(&lookup->base, result);
}

static void notify(struct kl_wait *wait, struct kl_query *query)
{
	struct message_lookup *lookup = kl_container_of(wait, struct message_lookup, wait);
	const struct kl_question *question = kl_query_find(query, lookup->type);
	struct kl_reply reply = { .result = question->result,
				  .rcode = question->rcode,
				  .stale = question->stale,
				  .answer = question->answer ? question->answer :
							       question->refusal };

	if (!question->done)
		return;
	if (reply.answer)
		kl_answer_ref(reply.answer); /* the query may go */
	kl_wait_end(wait);
	take(lookup, &reply);
	kl_answer_unref(reply.answer);
}

static void run(struct message_lookup *lookup)
{
	struct kl_lookup *base = &lookup->base;
	int bytes = kl_search_next(&lookup->search, lookup->name), ret;
	struct kl_reply reply;

	if (bytes == 0) {
		kl_lookup_end(base, kl_search_result(&lookup->search));
		return;
	}
	if (!(lookup->flags & KLOOP_QUERY_NO_CACHE) &&
	    kl_reply_cached(base->resolver, base->config, lookup->name, (size_t)bytes,
			    lookup->type, key_flags(lookup), &reply)) {
		take(lookup, &reply);
		return;
	}
	ret = kl_query_start(base->resolver, base->config, lookup->name, (size_t)bytes,
			     &lookup->type, 1, key_flags(lookup), &lookup->wait);
	if (ret < 0)
		kl_lookup_end(base, ret);
}

static void start(struct kl_lookup *base)
{
	struct message_lookup *lookup = kl_container_of(base, struct message_lookup, base);

	if (kl_search_begin(&lookup->search, base->config, lookup->text, true,
			    !(lookup->flags & KLOOP_QUERY_SEARCH)) < 0)
		kl_lookup_end(base, KLOOP_ERROR_DNS_NONAME);
	else
		run(lookup);
}

static void stop(struct kl_lookup *base)
{
	kl_wait_end(&kl_container_of(base, struct message_lookup, base)->wait);
}

/* Is it the message that goes with the result? Of a search it may be another name's. */
static bool tells(const struct kloop_dns_message *message, int result)
{
	unsigned rcode = message->answer->scan.rcode;

	switch (result) {
	case 0:
	case KLOOP_ERROR_DNS_NONAME:
	case KLOOP_ERROR_DNS_NODATA:
		return rcode == KL_NOERROR || rcode == KL_NXDOMAIN;
	case KLOOP_ERROR_DNS_AGAIN:
	case KLOOP_ERROR_DNS_FAIL:
		return rcode != KL_NOERROR && rcode != KL_NXDOMAIN;
	default:
		return false;
	}
}

static void deliver(struct kl_lookup *base, struct kloop_lookup *user)
{
	struct message_lookup *lookup = kl_container_of(base, struct message_lookup, base);
	bool told = lookup->message && tells(lookup->message, base->result);

	lookup->complete(user, base->result, told ? lookup->message : NULL);
}

static void free_lookup(struct kl_lookup *base)
{
	struct message_lookup *lookup = kl_container_of(base, struct message_lookup, base);

	kloop_dns_message_unref(lookup->message);
	kl_free(lookup);
}

static const struct kl_lookup_kind kind = {
	.start = start,
	.stop = stop,
	.deliver = deliver,
	.free = free_lookup,
};

int kloop_resolver_query(struct kloop_resolver *resolver, struct kloop_lookup *user,
			 const char *name, unsigned type, unsigned flags,
			 kloop_message_fn *complete)
{
	const unsigned known = KLOOP_QUERY_SEARCH | KLOOP_QUERY_NO_CACHE | KLOOP_QUERY_DNSSEC |
			       KLOOP_QUERY_CHECKING_DISABLED | KLOOP_QUERY_NO_RECURSION;
	struct message_lookup *lookup;
	int ret = kl_resolver_check(resolver);

	if (ret < 0)
		return ret;
	if (!user || !name || !complete || type > 65535 || (flags & ~known) ||
	    strlen(name) >= KLOOP_DNS_NAME_TEXT_BYTES)
		return -EINVAL;
	if (type == 0 || type == KL_TYPE_OPT || (type >= KL_TYPE_TKEY && type <= KL_TYPE_ANY))
		return -EOPNOTSUPP;
	if (user->state)
		return -EBUSY;
	lookup = kl_calloc(1, sizeof(*lookup) + strlen(name) + 1);
	if (!lookup)
		return -ENOMEM;
	strcpy(lookup->text, name);
	lookup->wait.notify = notify;
	lookup->complete = complete;
	lookup->type = (uint16_t)type;
	lookup->flags = flags;
	kl_lookup_begin(&lookup->base, &kind, resolver, user);
	return 0;
}
