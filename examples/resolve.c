/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Look up the names given as arguments, all at the same time, and print each
 * address as it comes. Without arguments: the name "localhost".
 */
#include <kloop.h>
#include <stdio.h>

#define NAMES_MAX 64

struct job {
	struct kloop_lookup lookup; /* the first member: the completion gets its address */
	const char *name;
};

static int left, failed;

static void on_addresses(struct kloop_lookup *lookup, int result,
			 struct kloop_addresses *addresses)
{
	struct job *job = (struct job *)lookup;
	char text[KLOOP_ADDRESS_TEXT_BYTES];

	left--;
	if (result < 0) {
		printf("%s: %s\n", job->name, gai_strerror(kloop_dns_get_eai(result)));
		failed = 1;
		return;
	}
	for (const struct addrinfo *at = addresses->first; at; at = at->ai_next) {
		struct kloop_address address = { .length = at->ai_addrlen };

		if (at->ai_family == AF_INET)
			address.u.ip4 = *(const struct sockaddr_in *)at->ai_addr;
		else
			address.u.ip6 = *(const struct sockaddr_in6 *)at->ai_addr;
		if (kloop_address_format(&address, text, sizeof(text)) > 0)
			printf("%s: %s\n", job->name, text);
	}
	kloop_addresses_free(addresses);
}

int main(int argc, char **argv)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	static struct job jobs[NAMES_MAX];
	struct kloop_resolver *resolver;
	struct kloop_loop *loop;
	int result = kloop_loop_new(NULL, &loop);

	if (result == 0)
		result = kloop_resolver_new(loop, NULL, &resolver);
	for (int i = 0; result == 0 && i < NAMES_MAX && (i == 0 || i + 1 < argc); i++) {
		jobs[i].name = argc > 1 ? argv[i + 1] : "localhost";
		kloop_lookup_init(&jobs[i].lookup);
		result = kloop_resolver_getaddrinfo(resolver, &jobs[i].lookup, jobs[i].name, "80",
						    &hints, on_addresses);
		left += result == 0;
	}
	/* Nothing is left to wait for when all lookups are done. */
	if (result == 0)
		result = kloop_loop_run(loop);
	if (result < 0) {
		fprintf(stderr, "%s\n", kloop_strerror(result));
		return 1;
	}
	kloop_resolver_close(resolver);
	kloop_loop_free(loop);
	return failed || left != 0;
}
