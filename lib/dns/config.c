/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "config.h"

#include <string.h>

#include "ring/memory.h"
#include "server.h"

struct kl_config *kl_config_new(void)
{
	struct kl_config *config = kl_calloc(1, sizeof(*config));

	if (!config)
		return NULL;
	config->refs = 1;
	kl_resolv_init(&config->resolv);
	kl_nsswitch_init(&config->nsswitch);
	return config;
}

struct kl_config *kl_config_ref(struct kl_config *config)
{
	config->refs++;
	return config;
}

void kl_config_unref(struct kl_config *config)
{
	if (!config || --config->refs != 0)
		return;
	kl_resolv_free(&config->resolv);
	kl_hosts_free(&config->hosts);
	kl_services_free(&config->services);
	kl_servers_free(config);
	kl_free(config);
}

static int resolv_line(void *owner, const char *text, size_t bytes)
{
	return kl_resolv_line(owner, text, bytes);
}

static int hosts_line(void *owner, const char *text, size_t bytes)
{
	return kl_hosts_line(owner, text, bytes);
}

static int nsswitch_line(void *owner, const char *text, size_t bytes)
{
	return kl_nsswitch_line(owner, text, bytes);
}

static int services_line(void *owner, const char *text, size_t bytes)
{
	return kl_services_line(owner, text, bytes);
}

static int gai_line(void *owner, const char *text, size_t bytes)
{
	return kl_gai_line(owner, text, bytes);
}

static int host_conf_line(void *owner, const char *text, size_t bytes)
{
	return kl_host_conf_line(owner, text, bytes);
}

void kl_config_parser(struct kl_config *config, unsigned file, struct kl_lines *ret_lines)
{
	const struct {
		int (*line)(void *owner, const char *text, size_t bytes);
		void *owner;
	} parsers[KL_FILES] = {
		[KLOOP_DNS_FILE_RESOLV_CONF] = { resolv_line, &config->resolv },
		[KLOOP_DNS_FILE_HOSTS] = { hosts_line, &config->hosts },
		[KLOOP_DNS_FILE_NSSWITCH] = { nsswitch_line, &config->nsswitch },
		[KLOOP_DNS_FILE_SERVICES] = { services_line, &config->services },
		[KLOOP_DNS_FILE_GAI_CONF] = { gai_line, &config->gai },
		[KLOOP_DNS_FILE_HOST_CONF] = { host_conf_line, &config->nsswitch },
	};

	*ret_lines = (struct kl_lines){ .line = parsers[file].line, .owner = parsers[file].owner };
}

size_t kl_config_limit(unsigned file)
{
	if (file == KLOOP_DNS_FILE_HOSTS)
		return (size_t)64 << 20;
	return file == KLOOP_DNS_FILE_SERVICES ? (size_t)4 << 20 : (size_t)64 << 10;
}
