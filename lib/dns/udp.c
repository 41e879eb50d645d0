/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Questions over UDP. Each attempt has a socket of its own, connected, with a
 * port that the kernel draws: it takes datagrams of that server only, and is
 * told when nobody listens there. A and AAAA share it. The ring waits for the
 * answer; sends and receives are calls that never wait, so that no query that
 * waits lends memory to the kernel.
 */
#include "query.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ldns.h"

/* Datagrams that are looked at for one readiness: a flood must not keep the loop. */
#define DATAGRAMS_PER_TURN 32
/* Answers that are none, after which TCP is tried as well. */
#define BAD_MAX 2

struct kl_flight {
	struct kloop_op op;
	struct kloop_resolver *resolver;
	struct kl_query *query; /* NULL: given up, waits for the operation's end */
	struct kl_flight *next; /* of the query */
	uint64_t sent_ns;
	int fd;
	uint16_t ids[2];
	bool asked[2];
	bool edns;
	bool cased;
	bool busy; /* its datagrams are being looked at */
	bool family6;
	bool shut; /* given up, and there was no memory to cancel the operation */
	uint8_t bad;
	uint8_t server;
};

static void ready(struct kloop_op *op, int32_t result, uint32_t flags);

/* ---- sockets ------------------------------------------------------------ */

/*
 * Take the socket out of its association; with drain what came late goes.
 * False: it is of no use.
 */
static bool clean(int fd, bool drain)
{
	const struct sockaddr none = { .sa_family = AF_UNSPEC };
	uint8_t byte;

	if (connect(fd, &none, sizeof(none)) < 0)
		return false;
	if (!drain)
		return true;
	for (int i = 0; i < 16; i++) {
		if (recv(fd, &byte, sizeof(byte), MSG_DONTWAIT) < 0 && errno == EAGAIN)
			return true;
	}
	return false;
}

static int make_socket(int family)
{
	int value = IP_PMTUDISC_OMIT;
	int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	/* Do not believe in path MTUs that others tell: no forged fragments. */
	if (family == AF_INET)
		(void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &value, sizeof(value));
	else
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &value, sizeof(value));
	return fd;
}

static int get_socket(struct kloop_resolver *resolver, const struct kloop_address *address)
{
	struct kl_idle_sockets *idle = &resolver->idle[address->u.any.sa_family == AF_INET6];
	int fd = idle->count != 0 ? idle->fds[--idle->count] :
				    make_socket(address->u.any.sa_family);

	if (fd < 0)
		return fd;
	/* An unconnected socket gets a new port with each association. */
	if (connect(fd, &address->u.any, address->length) < 0) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

static void put_socket(struct kl_flight *flight)
{
	struct kl_idle_sockets *idle = &flight->resolver->idle[flight->family6];

	if (flight->fd < 0)
		return;
	/* One that an operation still refers to cannot serve again. */
	if (!kloop_op_is_active(&flight->op) && idle->count < KL_IDLE_SOCKETS &&
	    !flight->resolver->closing && !flight->shut &&
	    clean(flight->fd, flight->asked[0] || flight->asked[1] || flight->bad != 0))
		idle->fds[idle->count++] = flight->fd;
	else
		close(flight->fd);
	flight->fd = -1;
	flight->resolver->flights--;
}

void kl_udp_close_idle(struct kloop_resolver *resolver)
{
	for (int i = 0; i < 2; i++) {
		while (resolver->idle[i].count != 0)
			close(resolver->idle[i].fds[--resolver->idle[i].count]);
	}
}

/* ---- flights ------------------------------------------------------------ */

static void free_flight(struct kl_flight *flight)
{
	struct kloop_resolver *resolver = flight->resolver;

	kl_free(flight);
	kl_resolver_release(resolver);
}

/*
 * The query needs it no more; its memory goes when the kernel has let go of it. Without
 * memory to ask for that, the socket is shut down, which ends the wait, and closed then.
 */
static void give_up(struct kl_flight *flight)
{
	bool waits = kloop_op_is_active(&flight->op);

	flight->query = NULL;
	if (waits && kloop_op_cancel(&flight->op) < 0) {
		flight->shut = true;
		(void)shutdown(flight->fd, SHUT_RDWR);
		return;
	}
	put_socket(flight);
	if (!waits && !flight->busy)
		free_flight(flight);
}

void kl_udp_forget(struct kl_query *query)
{
	while (query->flights) {
		struct kl_flight *flight = query->flights;

		query->flights = flight->next;
		give_up(flight);
	}
}

/* Is the flight's answer to this question still to come? */
static bool awaits(const struct kl_flight *flight, const struct kl_query *query, unsigned index)
{
	return flight->asked[index] && !query->questions[index].done &&
	       !(query->questions[index].failed & 1u << flight->server);
}

bool kl_udp_hopes(const struct kl_query *query, unsigned index)
{
	for (const struct kl_flight *flight = query->flights; flight; flight = flight->next) {
		if (awaits(flight, query, index))
			return true;
	}
	return false;
}

unsigned kl_udp_silent(const struct kl_query *query)
{
	unsigned servers = 0;

	for (const struct kl_flight *flight = query->flights; flight; flight = flight->next) {
		if (awaits(flight, query, 0) || (query->count > 1 && awaits(flight, query, 1)))
			servers |= 1u << flight->server;
	}
	return servers;
}

unsigned kl_udp_overtaken(const struct kl_query *query, unsigned index, uint64_t sent_ns)
{
	unsigned servers = 0;

	for (const struct kl_flight *flight = query->flights; flight; flight = flight->next) {
		if (awaits(flight, query, index) && flight->sent_ns < sent_ns)
			servers |= 1u << flight->server;
	}
	return servers;
}

/* Both questions with one call. */
static int send_wires(struct kl_flight *flight, struct iovec *wires, unsigned count)
{
	struct mmsghdr messages[2] = { 0 };
	int sent;

	for (unsigned i = 0; i < count; i++) {
		messages[i].msg_hdr.msg_iov = &wires[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	kl_loop_count_direct(flight->resolver->loop);
	flight->resolver->stats.packets_sent += count;
	sent = sendmmsg(flight->fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
	/*
	 * The error that kept the second one back is told by nobody, and the socket
	 * has forgotten it: on loopback that nobody listens, which came back at once.
	 */
	if (sent > 0 && (unsigned)sent < count) {
		kl_loop_count_direct(flight->resolver->loop);
		sent = sendmmsg(flight->fd, &messages[sent], count - (unsigned)sent,
				MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	/* A full queue is as good as a lost packet, and so is a second one that did not leave. */
	return sent >= 0 || errno == EAGAIN || errno == ENOBUFS ? 0 : -errno;
}

/* Both questions differ in id and type only: encoded once, and copied. */
static int send_questions(struct kl_flight *flight, struct kl_query *query)
{
	struct kl_server *server = &query->config->servers[flight->server];
	bool single = query->config->resolv.options & KL_RESOLV_SINGLE_REQUEST;
	uint8_t wires[2][KL_QUERY_BYTES];
	struct iovec vectors[2];
	unsigned count = 0;
	int bytes = 0, ret;

	ret = kl_random_fill(&flight->resolver->random, flight->ids, sizeof(flight->ids));
	if (ret < 0)
		return ret;
	if (flight->ids[0] == flight->ids[1])
		flight->ids[1] ^= 1;
	flight->cased = server->keeps_case &&
			!(query->resolver->options.flags & KLOOP_RESOLVER_NO_CASE);
	flight->sent_ns = query->resolver->now_ns;
	for (unsigned i = 0; i < query->count; i++) {
		struct kl_question *question = &query->questions[i];

		if (question->done || (question->tcp & 1u << flight->server))
			continue;
		if (count == 0) {
			bytes = kl_query_encode(query, i, server, flight->ids[i], false, wires[0],
						&flight->edns);
			if (bytes < 0)
				return bytes;
		} else {
			memcpy(wires[1], wires[0], (size_t)bytes);
			kl_put16(wires[1], flight->ids[i]);
			kl_put16(wires[1] + KL_HEADER_BYTES + query->name_bytes, question->type);
		}
		vectors[count] = (struct iovec){ wires[count], (size_t)bytes };
		count++;
		question->failed &= (uint8_t)~(1u << flight->server);
		flight->asked[i] = true;
		if (single)
			break;
	}
	return count != 0 ? send_wires(flight, vectors, count) : -EALREADY;
}

int kl_udp_ask(struct kl_query *query, unsigned server)
{
	struct kloop_resolver *resolver = query->resolver;
	const struct kloop_address *address = &query->config->servers[server].address;
	struct kl_flight *flight;
	int ret;

	/* A connection that ends with the loop is no reason to ask elsewhere. */
	if (kl_loop_is_closing(resolver->loop))
		return -ESTALE;
	flight = kl_calloc(1, sizeof(*flight));
	if (!flight)
		return -ENOMEM;
	kloop_op_init(&flight->op, ready);
	flight->resolver = resolver;
	flight->server = (uint8_t)server;
	flight->family6 = address->u.any.sa_family == AF_INET6;
	flight->fd = get_socket(resolver, address);
	if (flight->fd < 0) {
		ret = flight->fd;
		kl_free(flight);
		return ret;
	}
	resolver->flights++;
	resolver->holds++;
	ret = send_questions(flight, query);
	if (ret == 0)
		ret = kloop_op_poll(resolver->loop, &flight->op, flight->fd, POLLIN);
	if (ret < 0) {
		give_up(flight);
		return ret;
	}
	flight->query = query;
	flight->next = query->flights;
	query->flights = flight;
	return 0;
}

/* ---- answers ------------------------------------------------------------ */

/* Take it out of its query and let it go. */
static void end_flight(struct kl_flight *flight)
{
	struct kl_flight **link = &flight->query->flights;

	while (*link != flight)
		link = &(*link)->next;
	*link = flight->next;
	give_up(flight);
}

/* Somebody guesses, or the server is confused: a connection cannot be forged that way. */
static void doubt(struct kl_flight *flight)
{
	struct kl_query *query = flight->query;

	flight->resolver->stats.packets_refused++;
	if (++flight->bad != BAD_MAX)
		return;
	for (unsigned i = 0; i < query->count; i++) {
		if (awaits(flight, query, i) && !(query->questions[i].tcp & 1u << flight->server))
			(void)kl_tcp_ask(query, flight->server, i);
	}
}

static void receive(struct kl_flight *flight, const uint8_t *wire, size_t bytes)
{
	struct kl_query *query = flight->query;
	struct kl_incoming incoming = {
		.server = flight->server,
		.wire = wire,
		.bytes = bytes < KL_DATAGRAM_BYTES ? bytes : KL_DATAGRAM_BYTES,
		.truncated = bytes > KL_DATAGRAM_BYTES,
		.edns = flight->edns,
		.cased = flight->cased,
		.timed = true,
		.sent_ns = flight->sent_ns,
	};

	flight->resolver->stats.packets_received++;
	for (unsigned i = 0; i < query->count && bytes >= KL_HEADER_BYTES; i++) {
		if (!flight->asked[i] || kl_get16(wire) != flight->ids[i])
			continue;
		/* A second copy of what is settled. */
		if (query->questions[i].done)
			return;
		flight->asked[i] = false;
		if (kl_query_receive(query, i, &incoming) == KL_VERDICT_DONE)
			return;
		flight->asked[i] = true;
		break;
	}
	if (flight->query)
		doubt(flight);
}

/* Is anything left to wait for? */
static bool is_open(const struct kl_flight *flight)
{
	const struct kl_query *query = flight->query;

	return awaits(flight, query, 0) || (query->count > 1 && awaits(flight, query, 1));
}

/* As many datagrams as there can be answers. 0 or a negative errno. */
static int receive_some(struct kl_flight *flight)
{
	struct kloop_resolver *resolver = flight->resolver;
	struct mmsghdr messages[2] = { 0 };
	struct iovec vectors[2];
	int count;

	for (int i = 0; i < 2; i++) {
		vectors[i] = (struct iovec){ resolver->datagrams[i], KL_DATAGRAM_BYTES };
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	kl_loop_count_direct(resolver->loop);
	count = recvmmsg(flight->fd, messages, flight->query->count, MSG_DONTWAIT | MSG_TRUNC,
			 NULL);
	if (count < 0)
		return -errno;
	for (int i = 0; i < count && flight->query && is_open(flight); i++)
		receive(flight, resolver->datagrams[i], messages[i].msg_len);
	return 0;
}

/* With "single-request" the other question follows the first answer. */
static void ask_rest(struct kl_flight *flight)
{
	struct kl_query *query = flight->query;

	for (unsigned i = 0; i < query->count; i++) {
		if (!query->questions[i].done && !query->questions[i].tcp && !kl_udp_hopes(query, i) &&
		    !(query->questions[i].failed & 1u << flight->server)) {
			(void)kl_udp_ask(query, flight->server);
			return;
		}
	}
}

/* The socket has an error: nobody listens there, or there is no way to it. */
static void fail(struct kl_flight *flight)
{
	struct kl_query *query = flight->query;
	unsigned server = flight->server;
	unsigned open = 0;

	for (unsigned i = 0; i < query->count; i++)
		open |= awaits(flight, query, i) ? 1u << i : 0;
	end_flight(flight);
	/* The first call may end the query only if it is the last that is open. */
	if (open == 3) {
		query->questions[1].failed |= (uint8_t)(1u << server);
		query->questions[1].failure = KLOOP_ERROR_DNS_AGAIN;
	}
	if (open == 0)
		return;
	kl_server_missed(&query->config->servers[server], query->resolver->now_ns, true);
	kl_query_failed(query, open == 2, server, KLOOP_ERROR_DNS_AGAIN);
}

static void ready(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kl_flight *flight = kl_container_of(op, struct kl_flight, op);
	struct kloop_resolver *resolver = flight->resolver;
	int error = 0;

	(void)result;
	(void)flags;
	if (!flight->query) {
		put_socket(flight);
		free_flight(flight);
		return;
	}
	/* At the loop's end the exit hook does what is left. */
	if (kl_loop_is_closing(resolver->loop))
		return;
	kl_resolver_tick(resolver);
	flight->busy = true;
	for (int i = 0; i < DATAGRAMS_PER_TURN && error == 0; i++) {
		if (!flight->query || !is_open(flight))
			break;
		error = receive_some(flight);
	}
	flight->busy = false;
	if (!flight->query) {
		free_flight(flight);
	} else if (error != 0 && error != -EAGAIN && error != -EINTR) {
		fail(flight);
	} else if (!is_open(flight)) {
		if (flight->query->config->resolv.options & KL_RESOLV_SINGLE_REQUEST)
			ask_rest(flight);
		end_flight(flight);
	} else if (kloop_op_poll(resolver->loop, op, flight->fd, POLLIN) < 0) {
		fail(flight);
	}
}
