/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Ask for records of a name: query NAME [TYPE [SERVER [PORT]]], by default those
 * of type 15 (MX), from the servers of resolv.conf.
 */
#include <kloop.h>
#include <stdio.h>
#include <stdlib.h>

static struct kloop_resolver *resolver;
static int failed;

static void print_record(const struct kloop_dns_record *record)
{
	char name[KLOOP_DNS_NAME_TEXT_BYTES];

	if (kloop_dns_name_format(record->owner, record->owner_bytes, name, sizeof(name)) < 0)
		return;
	printf("%s %u %u", name, record->ttl_s, record->type);
	/* MX is a number of 16 bits and a name; other data is shown as bytes. */
	if (record->type == 15 && record->data_bytes > 2 &&
	    kloop_dns_name_format(record->data + 2, record->data_bytes - 2, name, sizeof(name)) > 0) {
		printf(" %u %s\n", record->data[0] * 256u + record->data[1], name);
		return;
	}
	putchar(' ');
	for (size_t i = 0; i < record->data_bytes; i++)
		printf("%02x", record->data[i]);
	putchar('\n');
}

/* The message is ours until this returns. */
static void on_message(struct kloop_lookup *lookup, int result, struct kloop_dns_message *message)
{
	struct kloop_dns_record record;
	struct kloop_dns_info info;

	(void)lookup;
	if (result < 0) {
		printf("%s\n", kloop_strerror(result));
		failed = 1;
	} else if (kloop_dns_message_get_info(message, &info, sizeof(info)) == 0) {
		printf("valid for %u s%s\n", info.ttl_s,
		       info.flags & KLOOP_DNS_AUTHENTIC ? ", authentic" : "");
	}
	for (size_t i = 0; result == 0 && i < kloop_dns_message_get_count(message, KLOOP_DNS_ANSWER); i++)
		if (kloop_dns_message_get_record(message, KLOOP_DNS_ANSWER, i, &record) == 0)
			print_record(&record);
	/* A server that is asked by TCP stays connected for a while; we have all we want. */
	kloop_resolver_close(resolver);
}

static int add_server(struct kloop_resolver_options *options, const char *host, const char *port)
{
	struct kloop_address address;
	int result = kloop_address_parse(host, port ? (uint16_t)atoi(port) : 0, &address);

	return result < 0 ? result :
			    kloop_resolver_options_add_server(options, &address, KLOOP_DNS_UDP);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "example.org";
	unsigned type = argc > 2 ? (unsigned)atoi(argv[2]) : 15;
	struct kloop_resolver_options *options = NULL;
	struct kloop_lookup lookup;
	struct kloop_loop *loop;
	int result = kloop_loop_new(NULL, &loop);

	if (result == 0)
		result = kloop_resolver_options_new(&options);
	if (result == 0 && argc > 3)
		result = add_server(options, argv[3], argc > 4 ? argv[4] : NULL);
	if (result == 0)
		result = kloop_resolver_new(loop, options, &resolver);
	kloop_resolver_options_free(options);
	kloop_lookup_init(&lookup);
	if (result == 0)
		result = kloop_resolver_query(resolver, &lookup, name, type, 0, on_message);
	if (result == 0)
		result = kloop_loop_run(loop);
	if (result < 0) {
		fprintf(stderr, "%s\n", kloop_strerror(result));
		return 1;
	}
	kloop_loop_free(loop);
	return failed;
}
