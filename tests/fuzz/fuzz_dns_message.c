/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Packets: the scan, and all that walks what it let pass, ldns included. */
#include "dns/answer.h"
#include "dns/gai.h"
#include "dns/ldns.h"
#include "fuzz.h"

#include <stdlib.h>

/* As it is handed on: each record has whole names, of which text can be made. */
static void hand_on(struct kl_answer *answer)
{
	const struct kl_reply reply = { .answer = answer };
	char text[KLOOP_DNS_NAME_TEXT_BYTES];
	struct kloop_dns_message *message;
	struct kloop_dns_record record;
	size_t total = 0;

	if (kl_message_make(&reply, &message) < 0)
		return;
	for (unsigned section = 0; section < 3; section++) {
		size_t count = kloop_dns_message_get_count(message, section);

		for (size_t i = 0; i < count; i++) {
			if (kloop_dns_message_get_record(message, section, i, &record) < 0 ||
			    kloop_dns_name_format(record.owner, record.owner_bytes, text,
						  sizeof(text)) < 0)
				abort();
			total += record.owner_bytes + record.data_bytes;
		}
	}
	if (total > (512 + 64) * 1024)
		abort();
	kloop_dns_message_unref(message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct kl_ttl_limits limits = { 3600, 300 };
	uint8_t name[KL_NAME_BYTES + 1], decoded[2048];
	struct kl_answer_walk found;
	struct kl_answer *answer;
	struct kl_record record;
	struct kl_scan scan;
	struct kl_walk walk;
	size_t bytes;

	if (kl_scan(data, size, &scan) < 0)
		return 0;
	kl_walk_begin(&walk, data, size, &scan);
	while (kl_walk_next(&walk, &record)) {
		bytes = kl_scan_name(data, size, record.owner, name);
		if (bytes > KL_NAME_BYTES || bytes != kl_name_length(name) ||
		    !kl_scan_name_is(data, size, record.owner, name) ||
		    record.data + record.data_bytes > size)
			abort();
		(void)kl_name_is_host(name);
		/* What passed can be decoded, but for names that ldns thinks too long. */
		if (kl_scan_has_names(record.type) &&
		    kl_ldns_decode(data, size, record.type, record.data, decoded,
				   sizeof(decoded)) == 0)
			abort();
	}
	(void)kl_option_find(data, &scan, KL_OPTION_EDE, &bytes);
	(void)kl_option_find(data, &scan, KL_OPTION_COOKIE, &bytes);
	answer = kl_answer_new(data, size, &scan, data + KL_HEADER_BYTES, &limits, 0);
	if (!answer)
		return 0;
	kl_answer_begin(answer, &found);
	while (kl_answer_next(answer, &found, &bytes)) {
		if (answer->result != 0 && answer->cacheable)
			abort(); /* "there is none", and here it is */
	}
	hand_on(answer);
	kl_answer_unref(answer);
	return 0;
}
