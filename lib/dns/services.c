/* SPDX-License-Identifier: MulanPSL-2.0 */
/* services(5). */
#include "config.h"

#include <errno.h>
#include <string.h>

#include "ring/memory.h"

static int64_t store_text(struct kl_store *store, const struct kl_word *word)
{
	int64_t at = kl_store_add(store, word->text, word->bytes);

	return at < 0 ? at : kl_store_add(store, "", 1) < 0 ? -ENOMEM : at;
}

static int add_name(struct kl_services *services, uint32_t service, uint32_t name, size_t bytes)
{
	size_t count = services->by_name.count;
	int ret = kl_reserve((void **)&services->names, &services->name_room, count,
			     sizeof(*services->names));

	if (ret < 0)
		return ret;
	services->names[count].service = service;
	services->names[count].name = name;
	return kl_index_add(&services->by_name, kl_hash(0, services->store.bytes + name, bytes));
}

/* "80/tcp" */
static bool parse_port(const struct kl_word *word, unsigned *ret_port,
		       struct kl_word *ret_protocol)
{
	size_t slash = kl_cut(word->text, word->bytes, "/");
	struct kl_word number = { word->text, slash };

	if (slash + 1 >= word->bytes || !kl_word_number(&number, 65535, ret_port))
		return false;
	ret_protocol->text = word->text + slash + 1;
	ret_protocol->bytes = word->bytes - slash - 1;
	return true;
}

static int add_service(struct kl_services *services, const struct kl_word *name, unsigned port,
		       const struct kl_word *protocol)
{
	struct kl_service *service;
	int64_t canonical = store_text(&services->store, name);
	int64_t proto = store_text(&services->store, protocol);
	int ret = kl_reserve((void **)&services->services, &services->service_room,
			     services->service_count, sizeof(*services->services));

	if (canonical < 0 || proto < 0 || ret < 0)
		return -ENOMEM;
	ret = kl_index_add(&services->by_port, (uint32_t)port);
	if (ret < 0)
		return ret;
	service = &services->services[services->service_count++];
	service->port = (uint16_t)port;
	service->canonical = (uint32_t)canonical;
	service->protocol = (uint32_t)proto;
	return add_name(services, (uint32_t)services->service_count - 1, service->canonical,
			name->bytes);
}

int kl_services_line(struct kl_services *services, const char *text, size_t bytes)
{
	struct kl_word rest = { text, kl_cut(text, bytes, "#") };
	struct kl_word name, word, protocol;
	unsigned port;
	int ret;

	if (memchr(text, '\0', rest.bytes) || !kl_word_next(&rest, &name) ||
	    !kl_word_next(&rest, &word) || !parse_port(&word, &port, &protocol))
		return 0;
	ret = add_service(services, &name, port, &protocol);
	while (ret == 0 && kl_word_next(&rest, &word)) {
		int64_t at = store_text(&services->store, &word);

		ret = at < 0 ? -ENOMEM :
			       add_name(services, (uint32_t)services->service_count - 1,
					(uint32_t)at, word.bytes);
	}
	return ret;
}

/* Names of services and protocols know upper and lower case. */
int kl_services_find(const struct kl_services *services, const char *name, const char *protocol)
{
	uint32_t item = kl_index_first(&services->by_name, kl_hash(0, name, strlen(name)));

	for (; item != KL_INDEX_END; item = kl_index_next(&services->by_name, item)) {
		const struct kl_service *service =
			&services->services[services->names[item].service];

		if (strcmp(services->store.bytes + services->names[item].name, name) == 0 &&
		    strcmp(services->store.bytes + service->protocol, protocol) == 0)
			return service->port;
	}
	return -ENOENT;
}

const char *kl_services_reverse(const struct kl_services *services, unsigned port,
				const char *protocol)
{
	uint32_t item = kl_index_first(&services->by_port, (uint32_t)port);

	for (; item != KL_INDEX_END; item = kl_index_next(&services->by_port, item)) {
		const struct kl_service *service = &services->services[item];

		if (strcmp(services->store.bytes + service->protocol, protocol) == 0)
			return services->store.bytes + service->canonical;
	}
	return NULL;
}

void kl_services_free(struct kl_services *services)
{
	kl_free(services->services);
	kl_free(services->names);
	kl_index_free(&services->by_name);
	kl_index_free(&services->by_port);
	kl_free(services->store.bytes);
	memset(services, 0, sizeof(*services));
}
