/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The name server and the resolver of dns.h. */
#include "dns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- wire ---------------------------------------------------------------------- */

static unsigned get16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

static void put16(uint8_t *p, unsigned value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static size_t put_name(uint8_t *to, const char *name)
{
	size_t used = 0;

	while (*name != '\0' && strcmp(name, ".") != 0) {
		size_t bytes = strcspn(name, ".");

		to[used++] = (uint8_t)bytes;
		memcpy(to + used, name, bytes);
		used += bytes;
		name += bytes + (name[bytes] == '.');
	}
	to[used++] = 0;
	return used;
}

static unsigned type_number(const char *name)
{
	static const struct {
		const char *name;
		unsigned number;
	} types[] = { { "A", 1 },  { "NS", 2 },	  { "CNAME", 5 }, { "PTR", 12 },
		      { "MX", 15 }, { "TXT", 16 }, { "AAAA", 28 } };

	for (size_t i = 0; i < KT_COUNT(types); i++) {
		if (strcmp(types[i].name, name) == 0)
			return types[i].number;
	}
	return 0;
}

static size_t put_data(uint8_t *to, const struct kt_record *record)
{
	switch (type_number(record->type)) {
	case 1:
		ck_assert_int_eq(inet_pton(AF_INET, record->data, to), 1);
		return 4;
	case 28:
		ck_assert_int_eq(inet_pton(AF_INET6, record->data, to), 1);
		return 16;
	case 15:
		put16(to, 10);
		return 2 + put_name(to + 2, record->data);
	case 16:
		to[0] = (uint8_t)strlen(record->data);
		memcpy(to + 1, record->data, to[0]);
		return 1u + to[0];
	default:
		return put_name(to, record->data);
	}
}

static int put_record(uint8_t *wire, int at, const char *owner, unsigned type, uint32_t ttl_s,
		      const uint8_t *data, size_t bytes)
{
	size_t used = (size_t)at;

	used += put_name(wire + used, owner);
	put16(wire + used, type);
	put16(wire + used + 2, 1);
	put16(wire + used + 4, ttl_s >> 16);
	put16(wire + used + 6, ttl_s & 0xffff);
	put16(wire + used + 8, (unsigned)bytes);
	memcpy(wire + used + 10, data, bytes);
	return (int)(used + 10 + bytes);
}

int kt_dns_add(uint8_t *wire, int bytes, unsigned type, uint32_t ttl_s, const void *data,
	       size_t data_bytes)
{
	uint8_t *to = wire + bytes;

	put16(to, 0xc00c);
	put16(to + 2, type);
	put16(to + 4, 1);
	put16(to + 6, ttl_s >> 16);
	put16(to + 8, ttl_s & 0xffff);
	put16(to + 10, (unsigned)data_bytes);
	memcpy(to + 12, data, data_bytes);
	put16(wire + 6, get16(wire + 6) + 1);
	return bytes + 12 + (int)data_bytes;
}

int kt_dns_empty(const struct kt_question *question, unsigned rcode, uint8_t *wire)
{
	memcpy(wire, question->wire, question->end);
	wire[2] = (uint8_t)(0x84 | (question->wire[2] & 1)); /* QR, AA, RD */
	wire[3] = (uint8_t)(0x80 | (rcode & 15));
	memset(wire + 6, 0, 6);
	return (int)question->end;
}

/* ---- the zone --------------------------------------------------------------------- */

static bool owns(const struct kt_record *record, const char *name)
{
	size_t bytes = strlen(name), wanted = strlen(record->name);

	if (record->name[0] != '*')
		return strcasecmp(record->name, name) == 0;
	return bytes >= wanted && strcasecmp(name + bytes - (wanted - 1), record->name + 1) == 0;
}

static int add_soa(uint8_t *wire, int bytes)
{
	uint8_t data[512];
	size_t used = put_name(data, "ns.test");

	used += put_name(data + used, "admin.test");
	memset(data + used, 0, 20);
	data[used + 19] = 30; /* how long "there is none" holds */
	put16(wire + 8, 1);
	return put_record(wire, bytes, ".", 6, 60, data, used + 20);
}

int kt_dns_answer(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes = kt_dns_empty(question, 0, wire), count = 0;
	const char *name = question->name;
	bool known = false;

	for (int hops = 0; hops < 24; hops++) {
		const char *next = NULL;

		for (size_t i = 0; i < server->zone_count; i++) {
			const struct kt_record *record = &server->zone[i];
			unsigned type = type_number(record->type);
			uint8_t data[512];

			if (!owns(record, name))
				continue;
			known = true;
			if (type == 5 && question->type != 5)
				next = record->data;
			else if (type != question->type)
				continue;
			bytes = put_record(wire, bytes, name, type, server->ttl_s, data,
					   put_data(data, record));
			count++;
		}
		if (!next)
			break;
		name = next;
		known = false;
	}
	put16(wire + 6, (unsigned)count);
	if (!known)
		wire[3] |= 3;
	return count == 0 ? add_soa(wire, bytes) : bytes;
}

/* ---- the server --------------------------------------------------------------------- */

void kt_dns_send(struct kt_dns *server, const struct kt_question *question, const uint8_t *wire,
		 size_t bytes)
{
	uint8_t length[2];

	if (!question->tcp) {
		(void)sendto(server->udp, wire, bytes, MSG_DONTWAIT,
			     (const struct sockaddr *)&question->from, sizeof(question->from));
		return;
	}
	put16(length, (unsigned)bytes);
	(void)send(question->fd, length, 2, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE);
	(void)send(question->fd, wire, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void kt_dns_read(struct kt_question *question)
{
	const uint8_t *wire = question->wire;
	size_t at = 12, used = 0;

	while (at < question->bytes && wire[at] != 0) {
		size_t label = wire[at++];

		for (; label != 0; label--, at++)
			question->name[used++] = (char)(wire[at] >= 'A' && wire[at] <= 'Z' ?
								wire[at] + 32 :
								wire[at]);
		question->name[used++] = '.';
	}
	question->name[used != 0 ? used - 1 : 0] = '\0';
	question->type = get16(wire + at + 1);
	question->end = at + 5;
}

static void handle(struct kt_dns *server, struct kt_question *question)
{
	static uint8_t reply[KT_DNS_BYTES + 512];
	int bytes = -1;

	server->questions++;
	server->by_tcp += question->tcp;
	question->number = server->questions;
	if (server->quiet)
		return;
	kt_dns_read(question);
	if (server->hook)
		bytes = server->hook(server, question, reply);
	if (bytes < 0) {
		bytes = kt_dns_answer(server, question, reply);
		if (bytes > 1232 && !question->tcp) {
			bytes = kt_dns_empty(question, 0, reply);
			reply[2] |= 2; /* TC */
		}
	}
	if (bytes > 0)
		kt_dns_send(server, question, reply, (size_t)bytes);
}

static void udp_ready(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kt_dns *server = (struct kt_dns *)((char *)op - offsetof(struct kt_dns, udp_op));
	uint8_t wire[4096];

	(void)flags;
	if (result < 0 || server->closing) {
		server->closed++;
		return;
	}
	for (;;) {
		struct kt_question question = { .fd = -1 };
		socklen_t length = sizeof(question.from);
		ssize_t bytes = recvfrom(server->udp, wire, sizeof(wire), MSG_DONTWAIT,
					 (struct sockaddr *)&question.from, &length);

		if (bytes < 0)
			break;
		question.wire = wire;
		question.bytes = (size_t)bytes;
		if (bytes > 16)
			handle(server, &question);
	}
	ck_assert_int_eq(kloop_op_poll(server->loop, op, server->udp, POLLIN), 0);
}

static void drop_peer(struct kt_dns_peer *peer)
{
	close(peer->fd);
	for (int i = 0; i < KT_DNS_PEERS; i++) {
		if (peer->server->peers[i] == peer)
			peer->server->peers[i] = NULL;
	}
	peer->server->closed++;
	free(peer);
}

static void peer_ready(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kt_dns_peer *peer =
		(struct kt_dns_peer *)((char *)op - offsetof(struct kt_dns_peer, op));
	ssize_t bytes;

	(void)flags;
	if (result < 0 || peer->server->closing) {
		drop_peer(peer);
		return;
	}
	bytes = recv(peer->fd, peer->buffer + peer->used, sizeof(peer->buffer) - peer->used,
		     MSG_DONTWAIT);
	if (bytes <= 0) {
		drop_peer(peer);
		return;
	}
	peer->used += (size_t)bytes;
	while (peer->used >= 2 && peer->used >= 2u + get16(peer->buffer)) {
		size_t frame = 2u + get16(peer->buffer);
		struct kt_question question = { .wire = peer->buffer + 2,
						.bytes = frame - 2,
						.tcp = true,
						.fd = peer->fd };

		handle(peer->server, &question);
		memmove(peer->buffer, peer->buffer + frame, peer->used - frame);
		peer->used -= frame;
	}
	ck_assert_int_eq(kloop_op_poll(peer->server->loop, op, peer->fd, POLLIN), 0);
}

static void tcp_ready(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kt_dns *server = (struct kt_dns *)((char *)op - offsetof(struct kt_dns, tcp_op));
	struct kt_dns_peer *peer;
	int fd, i;

	(void)flags;
	if (result < 0 || server->closing) {
		server->closed++;
		return;
	}
	while ((fd = accept4(server->tcp, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		for (i = 0; i < KT_DNS_PEERS && server->peers[i]; i++)
			;
		ck_assert_int_lt(i, KT_DNS_PEERS);
		peer = calloc(1, sizeof(*peer));
		peer->server = server;
		peer->fd = fd;
		server->peers[i] = peer;
		server->connections++;
		kloop_op_init(&peer->op, peer_ready);
		ck_assert_int_eq(kloop_op_poll(server->loop, &peer->op, fd, POLLIN), 0);
	}
	ck_assert_int_eq(kloop_op_poll(server->loop, op, server->tcp, POLLIN), 0);
}

/* UDP and TCP at the same port: try until both are free. */
static void bind_both(struct kt_dns *server)
{
	for (int i = 0; i < 100; i++) {
		struct sockaddr_in address = { .sin_family = AF_INET };
		socklen_t length = sizeof(address);
		int size = 1 << 20;

		address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		server->udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		ck_assert_int_ge(server->udp, 0);
		(void)setsockopt(server->udp, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
		ck_assert_int_eq(bind(server->udp, (struct sockaddr *)&address, length), 0);
		ck_assert_int_eq(getsockname(server->udp, (struct sockaddr *)&address, &length), 0);
		server->port = ntohs(address.sin_port);
		server->tcp = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		ck_assert_int_ge(server->tcp, 0);
		if (bind(server->tcp, (struct sockaddr *)&address, length) == 0 &&
		    (!server->listens || listen(server->tcp, 64) == 0))
			return;
		close(server->tcp);
		close(server->udp);
	}
	ck_abort_msg("no port is free for both UDP and TCP");
}

void kt_dns_open(struct kt_dns *server, struct kloop_loop *loop, const struct kt_record *zone,
		 size_t count, bool with_tcp)
{
	memset(server, 0, sizeof(*server));
	server->loop = loop;
	server->zone = zone;
	server->zone_count = count;
	server->ttl_s = 300;
	server->listens = with_tcp;
	bind_both(server);
	kloop_op_init(&server->udp_op, udp_ready);
	kloop_op_init(&server->tcp_op, tcp_ready);
	ck_assert_int_eq(kloop_op_poll(loop, &server->udp_op, server->udp, POLLIN), 0);
	if (with_tcp)
		ck_assert_int_eq(kloop_op_poll(loop, &server->tcp_op, server->tcp, POLLIN), 0);
}

void kt_dns_close(struct kt_dns *server)
{
	int wanted = server->closed + 1 + server->listens;

	server->closing = 1;
	ck_assert_int_eq(kloop_op_cancel(&server->udp_op), 0);
	if (server->listens)
		ck_assert_int_eq(kloop_op_cancel(&server->tcp_op), 0);
	for (int i = 0; i < KT_DNS_PEERS; i++) {
		if (!server->peers[i])
			continue;
		ck_assert_int_eq(kloop_op_cancel(&server->peers[i]->op), 0);
		wanted++;
	}
	kt_turn_until(server->loop, &server->closed, wanted);
	close(server->udp);
	close(server->tcp);
}

struct kloop_address kt_dns_address(const struct kt_dns *server)
{
	struct kloop_address address;

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", server->port, &address), 0);
	return address;
}

/* ---- files ------------------------------------------------------------------------ */

static const char *const file_names[] = { "resolv.conf", "hosts",    "nsswitch.conf",
					  "services",	 "gai.conf", "host.conf" };

void kt_files_open(struct kt_files *files)
{
	const char *parent = getenv("TMPDIR");

	snprintf(files->folder, sizeof(files->folder), "%.40s/kloop-dns-XXXXXX",
		 parent ? parent : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(files->folder));
}

const char *kt_files_path(const struct kt_files *files, unsigned file)
{
	static char paths[KT_COUNT(file_names)][128];

	snprintf(paths[file], sizeof(paths[file]), "%s/%s", files->folder, file_names[file]);
	return paths[file];
}

void kt_files_write(struct kt_files *files, unsigned file, const char *text)
{
	const char *path = kt_files_path(files, file);
	char fresh[160];
	FILE *stream;

	if (!text) {
		(void)unlink(path);
		return;
	}
	snprintf(fresh, sizeof(fresh), "%s.new", path);
	stream = fopen(fresh, "w");
	ck_assert_ptr_nonnull(stream);
	ck_assert_int_ge(fputs(text, stream), 0);
	ck_assert_int_eq(fclose(stream), 0);
	ck_assert_int_eq(rename(fresh, path), 0);
}

void kt_files_close(struct kt_files *files)
{
	for (unsigned i = 0; i < KT_COUNT(file_names); i++)
		kt_files_write(files, i, NULL);
	ck_assert_int_eq(rmdir(files->folder), 0);
}

/* ---- a resolver --------------------------------------------------------------------- */

struct kloop_resolver_options *kt_resolver_options(const struct kt_files *files,
						   struct kt_dns *const *servers, size_t count)
{
	struct kloop_resolver_options *options;

	ck_assert_int_eq(kloop_resolver_options_new(&options), 0);
	for (unsigned i = 0; i < KT_COUNT(file_names); i++)
		ck_assert_int_eq(kloop_resolver_options_set_file(
					 options, i, files ? kt_files_path(files, i) : ""),
				 0);
	for (size_t i = 0; i < count; i++) {
		struct kloop_address address = kt_dns_address(servers[i]);

		ck_assert_int_eq(kloop_resolver_options_add_server(options, &address, 0), 0);
	}
	kloop_resolver_options_set_flags(options, KLOOP_RESOLVER_NO_ENVIRONMENT);
	return options;
}

struct kloop_resolver *kt_resolver_new(struct kloop_loop *loop,
				       struct kloop_resolver_options *options)
{
	struct kloop_resolver *resolver;

	ck_assert_int_eq(kloop_resolver_new(loop, options, &resolver), 0);
	kloop_resolver_options_free(options);
	return resolver;
}

struct kloop_resolver_stats kt_resolver_stats(const struct kloop_resolver *resolver)
{
	struct kloop_resolver_stats stats;

	ck_assert_int_eq(kloop_resolver_get_stats(resolver, &stats, sizeof(stats)), 0);
	return stats;
}

/* ---- lookups ------------------------------------------------------------------------- */

static int starting;

void kt_lookup_init(struct kt_lookup *lookup)
{
	memset(lookup, 0, sizeof(*lookup));
	kloop_lookup_init(&lookup->lookup);
}

void kt_lookup_clear(struct kt_lookup *lookup)
{
	kloop_addresses_free(lookup->addresses);
	kloop_dns_message_unref(lookup->message);
	lookup->addresses = NULL;
	lookup->message = NULL;
}

static void ended(struct kt_lookup *lookup, int result)
{
	ck_assert_msg(starting == 0, "a completion inside a submitting call");
	ck_assert_int_eq(lookup->done, 0);
	ck_assert(!kloop_lookup_is_active(&lookup->lookup));
	lookup->result = result;
	lookup->done++;
	if (lookup->then)
		lookup->then(lookup);
}

static void on_addresses(struct kloop_lookup *base, int result, struct kloop_addresses *addresses)
{
	struct kt_lookup *lookup = (struct kt_lookup *)base;

	ck_assert((result == 0) == (addresses != NULL));
	lookup->addresses = addresses;
	ended(lookup, result);
}

static void on_part(struct kloop_lookup *base, int result, struct kloop_addresses *addresses)
{
	struct kt_lookup *lookup = (struct kt_lookup *)base;

	ck_assert_int_eq(result, 0);
	ck_assert_int_eq(starting, 0);
	ck_assert_int_eq(lookup->done, 0);
	if (lookup->parts++ == 0)
		snprintf(lookup->first_part, sizeof(lookup->first_part), "%s",
			 kt_addresses_text(addresses));
	kloop_addresses_free(addresses);
}

static void on_names(struct kloop_lookup *base, int result, const char *host, const char *service)
{
	struct kt_lookup *lookup = (struct kt_lookup *)base;

	ck_assert((result == 0) == (host != NULL && service != NULL));
	snprintf(lookup->host, sizeof(lookup->host), "%s", host ? host : "");
	snprintf(lookup->service, sizeof(lookup->service), "%s", service ? service : "");
	ended(lookup, result);
}

static void on_message(struct kloop_lookup *base, int result, struct kloop_dns_message *message)
{
	struct kt_lookup *lookup = (struct kt_lookup *)base;

	lookup->message = message ? kloop_dns_message_ref(message) : NULL;
	ended(lookup, result);
}

static void accepted(int result)
{
	starting--;
	ck_assert_msg(result == 0, "refused: %s", kloop_error_name(result));
}

void kt_lookup_start(struct kt_lookup *lookup, struct kloop_resolver *resolver, const char *node,
		     const char *service, const struct addrinfo *hints)
{
	starting++;
	accepted(kloop_resolver_getaddrinfo(resolver, &lookup->lookup, node, service, hints,
					    on_addresses));
}

void kt_lookup_try(struct kt_lookup *lookup, struct kloop_resolver *resolver, const char *node,
		   const struct addrinfo *hints)
{
	int ret;

	starting++;
	ret = kloop_resolver_getaddrinfo(resolver, &lookup->lookup, node, NULL, hints,
					 on_addresses);
	starting--;
	lookup->result = ret;
	if (ret == 0)
		kt_lookup_wait(lookup, lookup->data);
}

void kt_lookup_stream(struct kt_lookup *lookup, struct kloop_resolver *resolver, const char *node,
		      const char *service, const struct addrinfo *hints)
{
	starting++;
	accepted(kloop_resolver_getaddrinfo_stream(resolver, &lookup->lookup, node, service, hints,
						   on_part, on_addresses));
}

void kt_lookup_query(struct kt_lookup *lookup, struct kloop_resolver *resolver, const char *name,
		     unsigned type, unsigned flags)
{
	starting++;
	accepted(kloop_resolver_query(resolver, &lookup->lookup, name, type, flags, on_message));
}

void kt_lookup_name(struct kt_lookup *lookup, struct kloop_resolver *resolver,
		    const struct sockaddr *address, socklen_t length, int flags)
{
	starting++;
	accepted(kloop_resolver_getnameinfo(resolver, &lookup->lookup, address, length, flags,
					    on_names));
}

int kt_lookup_wait(struct kt_lookup *lookup, struct kloop_loop *loop)
{
	kt_turn_until(loop, &lookup->done, 1);
	return lookup->result;
}

const char *kt_addresses_text(const struct kloop_addresses *addresses)
{
	static char text[65536];
	size_t used = 0;

	text[0] = '\0';
	for (const struct addrinfo *at = addresses->first; at; at = at->ai_next) {
		char address[INET6_ADDRSTRLEN];

		if (at->ai_family == AF_INET)
			inet_ntop(AF_INET, &((struct sockaddr_in *)at->ai_addr)->sin_addr, address,
				  sizeof(address));
		else
			inet_ntop(AF_INET6, &((struct sockaddr_in6 *)at->ai_addr)->sin6_addr,
				  address, sizeof(address));
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s",
					 used != 0 ? " " : "", address);
		ck_assert_uint_lt(used, sizeof(text));
	}
	return text;
}

const char *kt_resolve(struct kloop_loop *loop, struct kloop_resolver *resolver, const char *node,
		       int family)
{
	struct addrinfo hints = { .ai_family = family, .ai_socktype = SOCK_STREAM };
	struct kt_lookup lookup;
	const char *text;

	kt_lookup_init(&lookup);
	kt_lookup_start(&lookup, resolver, node, NULL, &hints);
	if (kt_lookup_wait(&lookup, loop) == 0)
		text = kt_addresses_text(lookup.addresses);
	else
		text = kloop_error_name(lookup.result);
	kt_lookup_clear(&lookup);
	return text;
}
