/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The whole client: a resolver on its loop asks a server on loopback, by UDP and
 * TCP, which answers as the input says, part by part: a byte for what to do, a
 * byte for how much follows. Lookups are cancelled and joined meanwhile. Each
 * must complete, once.
 */
#include "fuzz.h"

#include <kloop.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOOKUPS 6
#define PEERS 4
#define WIRE_BYTES 2048

static struct kloop_loop *loop;
static struct kloop_resolver *resolver;
static int udp = -1, listener = -1, peers[PEERS];
static struct kloop_address address;

static const uint8_t *script;
static size_t script_bytes;

static struct {
	struct kloop_lookup lookup;
	unsigned completed;
} lookups[LOOKUPS];
static unsigned started, completed;

/* ---- lookups ------------------------------------------------------------- */

static void complete(struct kloop_lookup *lookup)
{
	for (unsigned i = 0; i < started; i++) {
		if (&lookups[i].lookup == lookup && lookups[i].completed++ != 0)
			abort();
	}
	completed++;
}

static void on_addresses(struct kloop_lookup *lookup, int result,
			 struct kloop_addresses *addresses)
{
	if ((result == 0) != (addresses != NULL) || result > 0)
		abort();
	kloop_addresses_free(addresses);
	complete(lookup);
}

static void on_part(struct kloop_lookup *lookup, int result, struct kloop_addresses *addresses)
{
	if (result != 0 || !addresses || !kloop_lookup_is_active(lookup))
		abort();
	kloop_addresses_free(addresses);
}

static void look_at(struct kloop_dns_message *message)
{
	char text[KLOOP_DNS_NAME_TEXT_BYTES];
	struct kloop_dns_record record;
	struct kloop_dns_info info;

	if (kloop_dns_message_get_info(message, &info, sizeof(info)) < 0)
		abort();
	for (unsigned section = 0; section < 3; section++) {
		size_t count = kloop_dns_message_get_count(message, section);

		for (size_t i = 0; i < count; i++) {
			if (kloop_dns_message_get_record(message, section, i, &record) < 0 ||
			    kloop_dns_name_format(record.owner, record.owner_bytes, text,
						  sizeof(text)) < 0)
				abort();
		}
		if (kloop_dns_message_get_record(message, section, count, &record) != -ENOENT)
			abort();
	}
}

static void on_message(struct kloop_lookup *lookup, int result, struct kloop_dns_message *message)
{
	if (result == 0 && !message)
		abort();
	if (message)
		look_at(message);
	complete(lookup);
}

static void on_names(struct kloop_lookup *lookup, int result, const char *host,
		     const char *service)
{
	if ((result == 0) != (host != NULL))
		abort();
	(void)service;
	complete(lookup);
}

static void start(unsigned what)
{
	static const unsigned types[] = { 1, 28, 5, 12, 15, 16, 33, 35, 6, 65, 48, 39, 257 };
	static const char *const names[] = { "www.test", "a.test", "www.test.", "Sub.www.test" };
	const char *name = names[what >> 6];
	struct kloop_lookup *lookup;
	int ret;

	if (started == LOOKUPS)
		return;
	lookup = &lookups[started].lookup;
	lookups[started].completed = 0;
	kloop_lookup_init(lookup);
	if ((what & 3) == 0) {
		struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
					  .ai_family = what & 4 ? AF_INET : AF_UNSPEC,
					  .ai_flags = what & 8 ? AI_CANONNAME : 0 };

		ret = what & 16 ? kloop_resolver_getaddrinfo_stream(resolver, lookup, name, "80",
								    &hints, on_part,
								    on_addresses) :
				  kloop_resolver_getaddrinfo(resolver, lookup, name, "80", &hints,
							     on_addresses);
	} else if ((what & 3) == 1) {
		struct sockaddr_in ip4 = { .sin_family = AF_INET };

		ip4.sin_addr.s_addr = htonl(0xc0000201);
		ret = kloop_resolver_getnameinfo(resolver, lookup, (struct sockaddr *)&ip4,
						 sizeof(ip4), NI_NAMEREQD, on_names);
	} else {
		ret = kloop_resolver_query(resolver, lookup, name, types[(what >> 2 & 15) % 13],
					   what & 1 ? KLOOP_QUERY_DNSSEC : 0, on_message);
	}
	if (ret < 0)
		abort();
	started++;
}

/* ---- the server ---------------------------------------------------------- */

/* A socket at the address, or -1 where the port is taken. */
static int bind_at(int type)
{
	int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		abort();
	if (bind(fd, &address.u.any, address.length) == 0 &&
	    getsockname(fd, &address.u.any, &address.length) == 0)
		return fd;
	close(fd);
	return -1;
}

static void set_up(void)
{
	address.u.ip4.sin_family = AF_INET;
	address.u.ip4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.length = sizeof(address.u.ip4);
	/* UDP and TCP at the same port: try until both are free. */
	for (udp = -1; udp < 0;) {
		address.u.ip4.sin_port = 0;
		listener = bind_at(SOCK_STREAM);
		if (listener < 0)
			abort();
		udp = bind_at(SOCK_DGRAM);
		if (udp < 0)
			close(listener);
	}
	if (listen(listener, 16) < 0 || kloop_loop_new(NULL, &loop) < 0)
		abort();
	for (int i = 0; i < PEERS; i++)
		peers[i] = -1;
}

/* The end of the question. */
static size_t question_end(const uint8_t *query, size_t bytes)
{
	size_t at = 12;

	while (at < bytes && query[at] != 0)
		at += 1u + query[at];
	return at + 5 <= bytes ? at + 5 : 12;
}

/* The client's own cookie, and one of this server. */
static size_t add_cookie(const uint8_t *query, size_t bytes, uint8_t *wire, size_t used)
{
	size_t end = question_end(query, bytes);

	if (bytes < end + 23 || query[end + 12] != 10 || used + 35 > WIRE_BYTES)
		return used;
	memcpy(wire + used, "\0\0\x29\4\xd0\0\0\0\0\0\x14\0\x0a\0\x10", 15);
	memcpy(wire + used + 15, query + end + 15, 8);
	memcpy(wire + used + 23, "SERVERCO", 8);
	wire[11]++;
	return used + 31;
}

/* The next part of the script as a reply; its length, 0 for none. */
static size_t reply(const uint8_t *query, size_t bytes, uint8_t *wire, uint8_t *ret_what)
{
	uint8_t what = script_bytes >= 2 ? script[0] : 2;
	size_t part = script_bytes >= 2 ? script[1] : 0, used = 0, end;

	/* What comes when the script is over ends the question. */
	static const uint8_t servfail[3] = { 0x81, 0x82, 0 };
	const uint8_t *data = script_bytes >= 2 ? script + 2 : servfail;

	if (script_bytes < 2)
		part = 3;
	else if (part > script_bytes - 2)
		part = script_bytes - 2;
	if (script_bytes >= 2) {
		script += 2 + part;
		script_bytes -= 2 + part;
	}
	*ret_what = what;
	switch (what & 7) {
	case 0: /* bytes as they are */
	case 1: /* with the right id */
		memcpy(wire, data, part);
		used = part;
		if ((what & 1) && used >= 2)
			memcpy(wire, query, 2);
		break;
	case 2: /* flags, the number of answers, and what stands behind the question */
	case 3: /* with a cookie */
	case 4: /* twice */
		end = question_end(query, bytes);
		memcpy(wire, query, end);
		memset(wire + 6, 0, 6);
		wire[2] = part > 0 ? data[0] : 0x81;
		wire[3] = part > 1 ? data[1] : 0x80;
		if (part > 2) {
			wire[7] = data[2] & 15;
			wire[9] = data[2] >> 4 & 3;
			memcpy(wire + end, data + 3, part - 3);
			end += part - 3;
		}
		used = (what & 7) == 3 ? add_cookie(query, bytes, wire, end) : end;
		break;
	case 5:
		if (started != 0)
			(void)kloop_lookup_cancel(&lookups[what >> 3 & 1 ? 0 : started - 1].lookup);
		break;
	case 6:
		start(part > 0 ? data[0] : 0);
		break;
	default: /* silence */
		break;
	}
	return used;
}

static void serve_udp(void)
{
	uint8_t query[512], wire[WIRE_BYTES], what;
	struct sockaddr_in from;
	socklen_t length = sizeof(from);
	ssize_t bytes;

	while ((bytes = recvfrom(udp, query, sizeof(query), 0, (struct sockaddr *)&from,
				 &length)) >= 12) {
		size_t used = reply(query, (size_t)bytes, wire, &what);

		for (int i = 0; i < ((what & 7) == 4 ? 2 : 1) && used != 0; i++)
			(void)sendto(udp, wire, used, 0, (struct sockaddr *)&from, length);
	}
}

static void serve_peer(int *fd)
{
	uint8_t query[600], wire[2 + WIRE_BYTES], what = 0;
	/* Questions are small: each comes whole, several perhaps in one. */
	ssize_t bytes = recv(*fd, query, sizeof(query), MSG_PEEK);
	size_t length, used;

	if (bytes < 14) {
		if (bytes == 0 || (bytes < 0 && errno != EAGAIN)) {
			close(*fd);
			*fd = -1;
		}
		return;
	}
	length = 2u + (size_t)(query[0] << 8 | query[1]);
	if (length > (size_t)bytes || recv(*fd, query, length, 0) < 0)
		return;
	used = reply(query + 2, length - 2, wire + 2, &what);
	if (used == 0)
		return;
	wire[0] = (uint8_t)(used >> 8);
	wire[1] = (uint8_t)used;
	/* In two pieces, or cut off. */
	(void)send(*fd, wire, 1 + (used + 1) / 2, MSG_NOSIGNAL);
	if (!(what & 0x40))
		(void)send(*fd, wire + 1 + (used + 1) / 2, used + 1 - (used + 1) / 2, MSG_NOSIGNAL);
	if (what & 0x80) {
		close(*fd);
		*fd = -1;
	}
}

static void serve(void)
{
	serve_udp();
	for (int i = 0; i < PEERS; i++) {
		if (peers[i] < 0)
			peers[i] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (peers[i] >= 0)
			serve_peer(&peers[i]);
	}
}

/* ---- one input ----------------------------------------------------------- */

static void make_resolver(uint8_t flags)
{
	struct kloop_resolver_options *options;
	int ret = kloop_resolver_options_new(&options);

	for (unsigned file = 0; ret == 0 && file <= KLOOP_DNS_FILE_HOST_CONF; file++)
		ret = kloop_resolver_options_set_file(options, file, "");
	/* NO_CASE to NO_EDNS, NO_CACHE, and a server by TCP. */
	kloop_resolver_options_set_flags(options, (flags & 7) | (flags & 8 ? 16 : 0) |
							  KLOOP_RESOLVER_NO_ENVIRONMENT);
	if (ret == 0)
		ret = kloop_resolver_options_add_server(
			options, &address, flags & 0x10 ? KLOOP_DNS_TCP : KLOOP_DNS_UDP);
	if (ret == 0 && (flags & 0x20))
		ret = kloop_resolver_options_add_server(options, &address, KLOOP_DNS_UDP);
	if (ret == 0)
		ret = kloop_resolver_options_set_timeout(options, 2000000, flags & 0x40 ? 2 : 1);
	if (ret == 0)
		ret = kloop_resolver_options_set_cache(options, 1 << 16, 3600, 300,
						       flags & 0x80 ? 60 : 0);
	if (ret < 0 || kloop_resolver_new(loop, options, &resolver) < 0)
		abort();
	kloop_resolver_options_free(options);
}

static void turn(uint64_t timeout_ns)
{
	int ret = kloop_loop_turn(loop, timeout_ns);

	if (ret < 0 && ret != -EINTR)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	if (!loop)
		set_up();
	make_resolver(data[0]);
	started = completed = 0;
	script = data + 2;
	script_bytes = size - 2;
	start(data[1]);
	for (int i = 0; i < 200 && completed < started; i++) {
		turn(i < 8 ? 0 : 500000);
		serve();
	}
	kloop_resolver_close(resolver);
	/* What is still on ends with the resolver. */
	for (int i = 0; i < 1000 && completed < started; i++)
		turn(1000000);
	if (completed != started)
		abort();
	for (int i = 0; i < PEERS; i++) {
		if (peers[i] >= 0)
			close(peers[i]);
		peers[i] = -1;
	}
	for (int i = 0; i < 3; i++)
		turn(0);
	serve_udp();
	return 0;
}
