/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Configuration files: the first byte says which, the second how large the
 * pieces are in which it comes.
 */
#include "dns/config.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

static void look_up(struct kl_config *config)
{
	static const char *const names[] = { "localhost", "a", "www", "http" };
	uint8_t address[16] = { 0x20, 1 };
	uint32_t position;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		unsigned count = 0;

		position = 0;
		while (kl_hosts_find(&config->hosts, names[i], &position)) {
			if (++count > config->hosts.line_count)
				abort();
		}
		(void)kl_services_find(&config->services, names[i], "tcp");
	}
	(void)kl_hosts_reverse(&config->hosts, AF_INET6, address);
	(void)kl_services_reverse(&config->services, 80, "tcp");
	kl_gai_finish(&config->gai);
	(void)kl_prefixes_match(&config->gai.labels, address);
	(void)kl_prefixes_match(&config->gai.scopes4, address);
	(void)kl_resolv_finish(&config->resolv, "host.example");
	if (config->resolv.server_count == 0 || config->resolv.attempts == 0 ||
	    config->resolv.timeout_s == 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kl_config *config;
	struct kl_lines lines;
	size_t piece;

	if (size < 2)
		return 0;
	config = kl_config_new();
	if (!config)
		return 0;
	kl_config_parser(config, data[0] % KL_FILES, &lines);
	piece = 1u + data[1];
	data += 2;
	size -= 2;
	while (size != 0) {
		size_t part = piece < size ? piece : size;

		if (kl_lines_feed(&lines, (const char *)data, part) < 0)
			break;
		data += part;
		size -= part;
	}
	(void)kl_lines_end(&lines);
	look_up(config);
	kl_config_unref(config);
	return 0;
}
