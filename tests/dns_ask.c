/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Lookups by the line, for check_dns.py: reads a call from each line of its
 * input and prints what it came to. Fields are separated by tabs, "\1" is NULL.
 *
 *   A node service family socktype protocol flags
 *   N address port scope flags
 *
 * Arguments: number=path for a file in place of the system's.
 */
#include <kloop.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct kloop_loop *loop;
static struct kloop_resolver *resolver;
static bool done;

static void print_addresses(struct kloop_lookup *lookup, int result,
			    struct kloop_addresses *addresses)
{
	(void)lookup;
	done = true;
	if (result < 0) {
		printf("E %d\n", kloop_dns_get_eai(result));
		return;
	}
	printf("A");
	for (const struct addrinfo *at = addresses->first; at; at = at->ai_next) {
		const struct sockaddr_in *ip4 = (const struct sockaddr_in *)at->ai_addr;
		const struct sockaddr_in6 *ip6 = (const struct sockaddr_in6 *)at->ai_addr;
		bool four = at->ai_family == AF_INET;
		char text[INET6_ADDRSTRLEN];

		inet_ntop(at->ai_family, four ? (const void *)&ip4->sin_addr : &ip6->sin6_addr,
			  text, sizeof(text));
		printf(" %d/%d/%d/%s/%s/%u/%u", at->ai_family, at->ai_socktype, at->ai_protocol,
		       at->ai_canonname ? at->ai_canonname : "", text,
		       ntohs(four ? ip4->sin_port : ip6->sin6_port),
		       four ? 0 : ip6->sin6_scope_id);
	}
	printf("\n");
	kloop_addresses_free(addresses);
}

static void print_names(struct kloop_lookup *lookup, int result, const char *host,
			const char *service)
{
	(void)lookup;
	done = true;
	if (result < 0)
		printf("E %d\n", kloop_dns_get_eai(result));
	else
		printf("N %s %s\n", host, service);
}

static int start(struct kloop_lookup *lookup, char **fields)
{
	struct kloop_address address;
	struct addrinfo hints = { 0 };

	for (int i = 1; i < 7; i++) {
		if (fields[i] && strcmp(fields[i], "\1") == 0)
			fields[i] = NULL;
	}
	if (strcmp(fields[0], "N") == 0) {
		if (kloop_address_parse(fields[1], (uint16_t)atoi(fields[2]), &address) < 0)
			return -1;
		if (address.u.any.sa_family == AF_INET6)
			address.u.ip6.sin6_scope_id = (uint32_t)atoi(fields[3]);
		return kloop_resolver_getnameinfo(resolver, lookup, &address.u.any, address.length,
						  atoi(fields[4]), print_names);
	}
	hints.ai_family = atoi(fields[3]);
	hints.ai_socktype = atoi(fields[4]);
	hints.ai_protocol = atoi(fields[5]);
	hints.ai_flags = atoi(fields[6]);
	return kloop_resolver_getaddrinfo(resolver, lookup, fields[1], fields[2], &hints,
					  print_addresses);
}

static int run_line(char *line)
{
	char *fields[8] = { NULL };
	struct kloop_lookup lookup;
	int count = 0;

	line[strcspn(line, "\n")] = '\0';
	while (count < 7 && line)
		fields[count++] = strsep(&line, "\t");
	kloop_lookup_init(&lookup);
	done = false;
	if (start(&lookup, fields) < 0)
		return -1;
	while (!done) {
		if (kloop_loop_turn(loop, KLOOP_FOREVER) < 0)
			return -1;
	}
	return fflush(stdout);
}

int main(int argc, char **argv)
{
	struct kloop_resolver_options *options;
	char *line = NULL;
	size_t room = 0;
	int status = 0;

	if (kloop_resolver_options_new(&options) < 0)
		return 1;
	kloop_resolver_options_set_flags(options, KLOOP_RESOLVER_NO_CACHE);
	for (int i = 1; i < argc; i++) {
		if (kloop_resolver_options_set_file(options, (unsigned)atoi(argv[i]),
						    strchr(argv[i], '=') + 1) < 0)
			return 1;
	}
	if (kloop_loop_new(NULL, &loop) < 0 || kloop_resolver_new(loop, options, &resolver) < 0)
		return 1;
	while (status == 0 && getline(&line, &room, stdin) > 0)
		status = run_line(line);
	free(line);
	kloop_resolver_close(resolver);
	kloop_loop_free(loop);
	kloop_resolver_options_free(options);
	return status != 0;
}
