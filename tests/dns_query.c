/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A resolver by the line, for check_dns_servers.py: reads commands from its
 * input, and writes one line of JSON for each. Fields are separated by spaces.
 *
 *   query NAME TYPE FLAGS       of any type, by its number
 *   addresses NAME FAMILY       getaddrinfo
 *   name ADDRESS                getnameinfo
 *   start COUNT PREFIX TYPE     PREFIX with 0 to COUNT-1 behind it, all at once
 *   wait                        until those are done: how many came to what
 *   stats                       counters
 *   server POSITION             what is known about it
 *   flush                       the cache
 *
 * Arguments: server=ADDRESS@PORT, with "/tcp", "/tls", "/tls:NAME" or
 * "/opportunistic" behind it (in their order), trust=FILE of certificates,
 * flags=NUMBER of enum kloop_resolver_flag, timeout=MILLISECONDS,
 * attempts=NUMBER, stale=SECONDS, idle=MILLISECONDS. No file and nothing of the
 * environment is read.
 */
#include <kloop.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT_ONCE 1024
#define RESULTS 8

static struct kloop_loop *loop;
static struct kloop_resolver *resolver;
static bool done;

/* ---- many at once ------------------------------------------------------ */

static struct kloop_lookup many[AT_ONCE];
static unsigned many_open;
static struct {
	int result;
	unsigned count;
} results[RESULTS];
static unsigned result_count;

static void count_result(int result)
{
	unsigned i = 0;

	while (i < result_count && results[i].result != result)
		i++;
	if (i == RESULTS)
		return;
	if (i == result_count)
		results[result_count++].result = result;
	results[i].count++;
}

static void on_one_of_many(struct kloop_lookup *lookup, int result,
			   struct kloop_dns_message *message)
{
	(void)lookup;
	(void)message;
	many_open--;
	count_result(result);
}

static int start_many(unsigned count, const char *prefix, unsigned type)
{
	char name[256];

	result_count = 0;
	memset(results, 0, sizeof(results));
	for (unsigned i = 0; i < count && i < AT_ONCE; i++) {
		const char *dot = strchr(prefix, '.');
		int head = dot ? (int)(dot - prefix) : (int)strlen(prefix);

		snprintf(name, sizeof(name), "%.*s%u%s", head, prefix, i, dot ? dot : "");
		kloop_lookup_init(&many[i]);
		if (kloop_resolver_query(resolver, &many[i], name, type, 0, on_one_of_many) < 0)
			return -1;
		many_open++;
	}
	/* They are on their way when this returns. */
	for (int i = 0; i < 3; i++) {
		if (kloop_loop_turn(loop, 0) < 0)
			return -1;
	}
	printf("{\"open\": %u}\n", many_open);
	return 0;
}

static int wait_many(void)
{
	while (many_open != 0) {
		if (kloop_loop_turn(loop, KLOOP_FOREVER) < 0)
			return -1;
	}
	printf("{");
	for (unsigned i = 0; i < result_count; i++)
		printf("%s\"%s\": %u", i != 0 ? ", " : "",
		       results[i].result == 0 ? "0" : kloop_error_name(results[i].result),
		       results[i].count);
	printf("}\n");
	return 0;
}

/* ---- what comes back --------------------------------------------------- */

static void print_text(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			putchar('\\');
		putchar(*text);
	}
	putchar('"');
}

static void print_result(int result)
{
	done = true;
	printf("{\"result\": \"%s\"", result == 0 ? "0" : kloop_error_name(result));
}

static void print_section(struct kloop_dns_message *message, const char *name, unsigned section)
{
	size_t count = kloop_dns_message_get_count(message, section);
	char owner[KLOOP_DNS_NAME_TEXT_BYTES];
	struct kloop_dns_record record;

	printf(", \"%s\": [", name);
	for (size_t i = 0; i < count; i++) {
		if (kloop_dns_message_get_record(message, section, i, &record) < 0 ||
		    kloop_dns_name_format(record.owner, record.owner_bytes, owner,
					  sizeof(owner)) < 0)
			abort();
		printf("%s[", i != 0 ? ", " : "");
		print_text(owner);
		printf(", %u, %u, \"", record.type, record.ttl_s);
		for (size_t j = 0; j < record.data_bytes; j++)
			printf("%02x", record.data[j]);
		printf("\"]");
	}
	printf("]");
}

static void on_message(struct kloop_lookup *lookup, int result, struct kloop_dns_message *message)
{
	struct kloop_dns_info info;

	(void)lookup;
	print_result(result);
	if (message) {
		if (kloop_dns_message_get_info(message, &info, sizeof(info)) < 0)
			abort();
		printf(", \"rcode\": %u, \"ttl\": %u, \"ede\": %d, \"ede_text\": ", info.rcode,
		       info.ttl_s, info.ede);
		print_text(info.ede_text);
		printf(", \"ad\": %d, \"aa\": %d, \"ra\": %d, \"cached\": %d, \"stale\": %d",
		       !!(info.flags & KLOOP_DNS_AUTHENTIC),
		       !!(info.flags & KLOOP_DNS_AUTHORITATIVE),
		       !!(info.flags & KLOOP_DNS_RECURSION_AVAILABLE),
		       !!(info.flags & KLOOP_DNS_CACHED), !!(info.flags & KLOOP_DNS_STALE));
		print_section(message, "answer", KLOOP_DNS_ANSWER);
		print_section(message, "authority", KLOOP_DNS_AUTHORITY);
		print_section(message, "additional", KLOOP_DNS_ADDITIONAL);
	}
	printf("}\n");
}

static void on_addresses(struct kloop_lookup *lookup, int result,
			 struct kloop_addresses *addresses)
{
	(void)lookup;
	print_result(result);
	if (result == 0) {
		printf(", \"ttl\": %u, \"secure\": %d, \"canonical\": ", addresses->ttl_s,
		       !!(addresses->flags & KLOOP_ADDRESSES_SECURE));
		print_text(addresses->first->ai_canonname ? addresses->first->ai_canonname : "");
		printf(", \"addresses\": [");
		for (const struct addrinfo *at = addresses->first; at; at = at->ai_next) {
			const struct sockaddr_in *ip4 = (const struct sockaddr_in *)at->ai_addr;
			const struct sockaddr_in6 *ip6 = (const struct sockaddr_in6 *)at->ai_addr;
			char text[INET6_ADDRSTRLEN];

			inet_ntop(at->ai_family,
				  at->ai_family == AF_INET ? (const void *)&ip4->sin_addr :
							     &ip6->sin6_addr,
				  text, sizeof(text));
			printf("%s\"%s\"", at == addresses->first ? "" : ", ", text);
		}
		printf("]");
		kloop_addresses_free(addresses);
	}
	printf("}\n");
}

static void on_name(struct kloop_lookup *lookup, int result, const char *host,
		    const char *service)
{
	(void)lookup;
	(void)service;
	print_result(result);
	if (result == 0) {
		printf(", \"host\": ");
		print_text(host);
	}
	printf("}\n");
}

static int print_stats(void)
{
	struct kloop_resolver_stats stats;

	if (kloop_resolver_get_stats(resolver, &stats, sizeof(stats)) < 0)
		return -1;
	printf("{\"queries\": %llu, \"sent\": %llu, \"received\": %llu, \"refused\": %llu, "
	       "\"retries\": %llu, \"timeouts\": %llu, \"tcp\": %llu, \"hits\": %llu, "
	       "\"stale\": %llu, \"entries\": %llu, \"in_flight\": %llu, "
	       "\"tls\": %llu, \"resumed\": %llu, \"tls_failures\": %llu}\n",
	       (unsigned long long)stats.queries, (unsigned long long)stats.packets_sent,
	       (unsigned long long)stats.packets_received,
	       (unsigned long long)stats.packets_refused, (unsigned long long)stats.retries,
	       (unsigned long long)stats.timeouts, (unsigned long long)stats.tcp_connections,
	       (unsigned long long)stats.cache_hits, (unsigned long long)stats.cache_stale,
	       (unsigned long long)stats.cache_entries, (unsigned long long)stats.in_flight,
	       (unsigned long long)stats.tls_connections, (unsigned long long)stats.tls_resumed,
	       (unsigned long long)stats.tls_failures);
	return 0;
}

static int print_server(unsigned position)
{
	struct kloop_dns_server_info info;

	if (kloop_resolver_get_server(resolver, position, &info, sizeof(info)) < 0)
		return -1;
	printf("{\"down\": %d, \"connected\": %d, \"authenticated\": %d, \"error\": \"%s\"}\n",
	       !!(info.flags & KLOOP_DNS_SERVER_DOWN), !!(info.flags & KLOOP_DNS_SERVER_CONNECTED),
	       !!(info.flags & KLOOP_DNS_SERVER_AUTHENTICATED),
	       info.error == 0 ? "0" : kloop_error_name(info.error));
	return 0;
}

/* ---- commands ---------------------------------------------------------- */

static int start_lookup(struct kloop_lookup *lookup, const char *command, const char *name,
			const char *second, const char *third)
{
	struct kloop_address address;
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_CANONNAME };

	kloop_lookup_init(lookup);
	if (strcmp(command, "query") == 0)
		return kloop_resolver_query(resolver, lookup, name, (unsigned)atoi(second),
					    (unsigned)atoi(third), on_message);
	if (strcmp(command, "addresses") == 0) {
		hints.ai_family = atoi(second);
		return kloop_resolver_getaddrinfo(resolver, lookup, name, NULL, &hints,
						  on_addresses);
	}
	if (strcmp(command, "name") == 0 && kloop_address_parse(name, 0, &address) == 0)
		return kloop_resolver_getnameinfo(resolver, lookup, &address.u.any, address.length,
						  NI_NAMEREQD, on_name);
	return -1;
}

static int run_line(char *line)
{
	const char *fields[4] = { "", "", "0", "0" };
	struct kloop_lookup lookup;
	char *rest = line, *field;
	int ret;

	for (int i = 0; i < 4 && (field = strsep(&rest, " \n")) && *field; i++)
		fields[i] = field;
	if (strcmp(fields[0], "stats") == 0) {
		ret = print_stats();
	} else if (strcmp(fields[0], "server") == 0) {
		ret = print_server((unsigned)atoi(fields[1]));
	} else if (strcmp(fields[0], "flush") == 0) {
		ret = kloop_resolver_flush(resolver, NULL);
		printf("{\"flushed\": %d}\n", ret);
	} else if (strcmp(fields[0], "start") == 0) {
		ret = start_many((unsigned)atoi(fields[1]), fields[2], (unsigned)atoi(fields[3]));
	} else if (strcmp(fields[0], "wait") == 0) {
		ret = wait_many();
	} else {
		done = false;
		ret = start_lookup(&lookup, fields[0], fields[1], fields[2], fields[3]);
		while (ret >= 0 && !done)
			ret = kloop_loop_turn(loop, KLOOP_FOREVER);
	}
	return ret < 0 ? ret : fflush(stdout);
}

static int add_server(struct kloop_resolver_options *options, char *text)
{
	char *port = strchr(text, '@'), *transport = strchr(text, '/');
	const char *name;
	struct kloop_address address;

	if (!port)
		return -1;
	*port++ = '\0';
	if (kloop_address_parse(text, (uint16_t)atoi(port), &address) < 0)
		return -1;
	if (!transport)
		return kloop_resolver_options_add_server(options, &address, KLOOP_DNS_UDP);
	if (strcmp(transport, "/tcp") == 0)
		return kloop_resolver_options_add_server(options, &address, KLOOP_DNS_TCP);
	if (strcmp(transport, "/opportunistic") == 0)
		return kloop_resolver_options_add_tls_server(options, &address, NULL,
							     KLOOP_DNS_TLS_OPPORTUNISTIC);
	name = strchr(transport, ':');
	return kloop_resolver_options_add_tls_server(options, &address, name ? name + 1 : NULL, 0);
}

static int add_trust(struct kloop_resolver_options *options, const char *path)
{
	struct kloop_tls_context *context;
	int ret = kloop_tls_context_new(KLOOP_TLS_CLIENT, &context);

	if (ret < 0)
		return ret;
	ret = kloop_tls_context_load_trust(context, path, NULL);
	kloop_resolver_options_set_tls_context(options, context);
	kloop_tls_context_unref(context);
	return ret;
}

static int take_arguments(struct kloop_resolver_options *options, int argc, char **argv)
{
	unsigned flags = KLOOP_RESOLVER_NO_ENVIRONMENT, attempts = 0, stale_s = 0;
	uint64_t timeout_ms = 0;
	int ret = 0;

	for (int i = 1; i < argc && ret == 0; i++) {
		char *value = strchr(argv[i], '=');

		if (!value)
			return -1;
		*value++ = '\0';
		if (strcmp(argv[i], "server") == 0)
			ret = add_server(options, value);
		else if (strcmp(argv[i], "trust") == 0)
			ret = add_trust(options, value);
		else if (strcmp(argv[i], "idle") == 0)
			kloop_resolver_options_set_idle_timeout(
				options, (uint64_t)atoi(value) * 1000000);
		else if (strcmp(argv[i], "flags") == 0)
			flags |= (unsigned)atoi(value);
		else if (strcmp(argv[i], "timeout") == 0)
			timeout_ms = (uint64_t)atoi(value);
		else if (strcmp(argv[i], "attempts") == 0)
			attempts = (unsigned)atoi(value);
		else if (strcmp(argv[i], "stale") == 0)
			stale_s = (unsigned)atoi(value);
		else
			ret = -1;
	}
	kloop_resolver_options_set_flags(options, flags);
	for (unsigned file = 0; file <= KLOOP_DNS_FILE_HOST_CONF && ret == 0; file++)
		ret = kloop_resolver_options_set_file(options, file, "");
	if (ret == 0)
		ret = kloop_resolver_options_set_cache(options, 4 << 20, 3600, 300, stale_s);
	if (ret == 0)
		ret = kloop_resolver_options_set_timeout(options, timeout_ms * 1000000, attempts);
	return ret;
}

int main(int argc, char **argv)
{
	struct kloop_resolver_options *options;
	char *line = NULL;
	size_t room = 0;
	int status = 0;

	if (kloop_resolver_options_new(&options) < 0 || take_arguments(options, argc, argv) < 0 ||
	    kloop_loop_new(NULL, &loop) < 0 || kloop_resolver_new(loop, options, &resolver) < 0)
		return 1;
	while (status == 0 && getline(&line, &room, stdin) > 0)
		status = run_line(line);
	free(line);
	kloop_resolver_close(resolver);
	kloop_loop_free(loop);
	kloop_resolver_options_free(options);
	return status != 0;
}
