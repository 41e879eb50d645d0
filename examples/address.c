/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Addresses: read some from text, write them back. Names are not addresses.
 */
#include <kloop.h>
#include <stdio.h>
#include <string.h>

static int show(const char *text, uint16_t port)
{
	char buffer[KLOOP_ADDRESS_TEXT_BYTES];
	struct kloop_address address;
	int result;

	if (text[0] == '/')
		result = kloop_address_set_local(text, strlen(text), &address);
	else
		result = kloop_address_parse(text, port, &address);
	if (result == 0)
		result = kloop_address_format(&address, buffer, sizeof(buffer));
	if (result < 0) {
		printf("%s: %s\n", text, kloop_strerror(result));
		return result;
	}
	printf("%s: %s, port %u, family %d\n", text, buffer,
	       (unsigned)kloop_address_get_port(&address), address.u.any.sa_family);
	return 0;
}

int main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++)
		failed |= show(argv[i], 80) < 0;
	if (argc > 1)
		return failed;
	if (show("192.0.2.1", 80) < 0 || show("2001:db8::1", 443) < 0 ||
	    show("/run/example", 0) < 0)
		return 1;
	/* This one must fail. */
	return show("example.org", 80) == 0;
}
