/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * An echo server on bare liburing: what io_uring gives without a library in
 * between. It does by hand what libkloop's streams do:
 *
 * - SINGLE_ISSUER and DEFER_TASKRUN, the ring's descriptor registered;
 * - multishot accept; multishot receive into one ring of provided buffers,
 *   each echoed by a send SQE from where it lies and then given back;
 * - a connection whose messages fill their buffers changes to readiness and
 *   recv(2) into one hot buffer, and back when its messages are small again.
 *
 * A peer that never reads its echo can hold every buffer: this is a measure,
 * not a server to copy.
 */
#include "common.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The same pool as libkloop's default. */
#define BUFFERS 256
#define BUFFER_BYTES 16384
#define GROUP 1
#define SQ_ENTRIES 1024
#define CQ_ENTRIES 8192
#define NO_BUFFER UINT16_MAX

/* After so many full, or short, reads in a row the way of reading changes. */
#define FULL_READS 2
#define SHORT_READS 8
#define SHORT_BYTES 4096

/* What a completion is of: the low bits of user_data, beside the connection. */
enum kind { KIND_ACCEPT, KIND_RECEIVE, KIND_SEND, KIND_POLL, KIND_CANCEL, KIND_MASK = 7 };

struct connection {
	int fd;
	unsigned in_flight; /* operations; the connection is freed at 0 */
	bool closing;
	bool receiving; /* a multishot receive is armed */
	bool sending;
	bool polling;
	bool cancelling;
	bool direct; /* reads go into the hot buffer, or will once the receive has ended */
	unsigned streak;
	/* Buffers to be echoed, oldest first, linked through next_buffer[]. */
	uint16_t first_buffer, last_buffer;
	size_t buffer_sent;
	/* Direct mode: what send(2) did not take. */
	char *rest;
	size_t rest_bytes, rest_sent;
	struct connection *next_hungry;
};

static struct io_uring ring;
static struct io_uring_buf_ring *buffer_ring;
static char *buffers;
static uint16_t next_buffer[BUFFERS];
static unsigned buffer_used[BUFFERS];
static char hot[KL_BENCH_HOT_BYTES] __attribute__((aligned(KL_BENCH_HOT_ALIGNMENT)));
static int listener;

/* Connections that found no buffer; they receive again after some came back. */
static struct connection *hungry;
static unsigned given_back;

static struct io_uring_sqe *prepare(void)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	if (sqe == NULL) {
		int result = io_uring_submit(&ring);

		sqe = io_uring_get_sqe(&ring);
		if (result < 0 || sqe == NULL)
			kl_bench_die("io_uring_submit: %s", strerror(-result));
	}
	return sqe;
}

/* To be called after the operation was prepared, which clears user_data. */
static void tag(struct io_uring_sqe *sqe, struct connection *connection, enum kind kind)
{
	io_uring_sqe_set_data64(sqe, (uintptr_t)connection | (unsigned)kind);
	if (connection != NULL)
		connection->in_flight++;
}

static void arm_accept(void)
{
	struct io_uring_sqe *sqe = prepare();

	io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, SOCK_CLOEXEC);
	tag(sqe, NULL, KIND_ACCEPT);
}

static void arm_receive(struct connection *connection)
{
	struct io_uring_sqe *sqe = prepare();

	io_uring_prep_recv_multishot(sqe, connection->fd, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	tag(sqe, connection, KIND_RECEIVE);
	connection->receiving = true;
}

static void arm_poll(struct connection *connection)
{
	struct io_uring_sqe *sqe = prepare();

	io_uring_prep_poll_add(sqe, connection->fd, POLLIN);
	tag(sqe, connection, KIND_POLL);
	connection->polling = true;
}

static void cancel_receive(struct connection *connection)
{
	struct io_uring_sqe *sqe = prepare();

	io_uring_prep_cancel64(sqe, (uintptr_t)connection | KIND_RECEIVE, 0);
	tag(sqe, connection, KIND_CANCEL);
	connection->cancelling = true;
}

static void arm_send(struct connection *connection)
{
	struct io_uring_sqe *sqe;
	const char *data;
	size_t bytes;

	if (connection->rest != NULL) {
		data = connection->rest + connection->rest_sent;
		bytes = connection->rest_bytes - connection->rest_sent;
	} else {
		uint16_t id = connection->first_buffer;

		data = buffers + (size_t)id * BUFFER_BYTES + connection->buffer_sent;
		bytes = buffer_used[id] - connection->buffer_sent;
	}
	sqe = prepare();
	io_uring_prep_send(sqe, connection->fd, data, bytes, MSG_WAITALL | MSG_NOSIGNAL);
	tag(sqe, connection, KIND_SEND);
	connection->sending = true;
}

static void give_buffer(uint16_t id)
{
	io_uring_buf_ring_add(buffer_ring, buffers + (size_t)id * BUFFER_BYTES, BUFFER_BYTES, id,
			      io_uring_buf_ring_mask(BUFFERS), 0);
	io_uring_buf_ring_advance(buffer_ring, 1);
	given_back++;
}

static void drop_first_buffer(struct connection *connection)
{
	uint16_t id = connection->first_buffer;

	connection->first_buffer = next_buffer[id];
	connection->buffer_sent = 0;
	give_buffer(id);
}

/* Shut the socket, so that what is in flight ends; the last completion frees. */
static void connection_end(struct connection *connection)
{
	if (!connection->closing) {
		connection->closing = true;
		shutdown(connection->fd, SHUT_RDWR);
	}
}

static void connection_free(struct connection *connection)
{
	close(connection->fd);
	free(connection->rest);
	free(connection);
}

/* Arm what the connection needs next, if it is not armed; one that ends drops its buffers. */
static void connection_resume(struct connection *connection)
{
	bool unsent = connection->rest != NULL || connection->first_buffer != NO_BUFFER;

	if (connection->closing) {
		while (!connection->sending && connection->first_buffer != NO_BUFFER)
			drop_first_buffer(connection);
		return;
	}
	if (unsent && !connection->sending)
		arm_send(connection);
	if (!connection->direct) {
		if (!connection->receiving && connection->next_hungry == NULL)
			arm_receive(connection);
	} else if (connection->receiving) {
		if (!connection->cancelling)
			cancel_receive(connection);
	} else if (!unsent && !connection->polling) {
		arm_poll(connection);
	}
}

static void on_accept(const struct io_uring_cqe *cqe)
{
	struct connection *connection;

	if (cqe->res >= 0) {
		/* Aligned for the kind in the low bits of its address. */
		connection = aligned_alloc(16, (sizeof(*connection) + 15) / 16 * 16);
		if (connection == NULL)
			kl_bench_die("out of memory");
		memset(connection, 0, sizeof(*connection));
		connection->fd = cqe->res;
		connection->first_buffer = NO_BUFFER;
		connection_resume(connection);
	} else if (cqe->res != -ECONNABORTED) {
		kl_bench_die("accept: %s", strerror(-cqe->res));
	}
	if (!(cqe->flags & IORING_CQE_F_MORE))
		arm_accept();
}

static void queue_buffer(struct connection *connection, uint16_t id, unsigned bytes)
{
	buffer_used[id] = bytes;
	next_buffer[id] = NO_BUFFER;
	if (connection->first_buffer == NO_BUFFER)
		connection->first_buffer = id;
	else
		next_buffer[connection->last_buffer] = id;
	connection->last_buffer = id;
}

static void on_receive(struct connection *connection, const struct io_uring_cqe *cqe)
{
	if (!(cqe->flags & IORING_CQE_F_MORE)) {
		connection->receiving = false;
		connection->cancelling = false;
	}
	if (cqe->res > 0) {
		queue_buffer(connection, (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT),
			     (unsigned)cqe->res);
		connection->streak = cqe->res == BUFFER_BYTES ? connection->streak + 1 : 0;
		if (connection->streak >= FULL_READS) {
			connection->direct = true;
			connection->streak = 0;
		}
		return;
	}
	if (cqe->flags & IORING_CQE_F_BUFFER)
		give_buffer((uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT));
	if (cqe->res == -ENOBUFS && !connection->closing && !connection->direct) {
		/* The list ends in its own last element, so that NULL means "not in it". */
		connection->next_hungry = hungry != NULL ? hungry : connection;
		hungry = connection;
	} else if (cqe->res != -ECANCELED && cqe->res != -ENOBUFS) {
		connection_end(connection);
	}
}

static void on_send(struct connection *connection, int result)
{
	connection->sending = false;
	if (result <= 0) {
		connection_end(connection);
	} else if (connection->rest != NULL) {
		connection->rest_sent += (size_t)result;
		if (connection->rest_sent == connection->rest_bytes) {
			free(connection->rest);
			connection->rest = NULL;
		}
	} else {
		connection->buffer_sent += (size_t)result;
		if (connection->buffer_sent == buffer_used[connection->first_buffer])
			drop_first_buffer(connection);
	}
}

/* Direct mode: echo what is there from the hot buffer, and keep what does not fit. */
static void on_readable(struct connection *connection)
{
	ssize_t received = recv(connection->fd, hot, sizeof(hot), MSG_DONTWAIT);
	ssize_t sent;

	connection->polling = false;
	if (received < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (received <= 0) {
		connection_end(connection);
		return;
	}
	connection->streak = received < SHORT_BYTES ? connection->streak + 1 : 0;
	if (connection->streak >= SHORT_READS) {
		connection->direct = false;
		connection->streak = 0;
	}
	sent = send(connection->fd, hot, (size_t)received, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0 && errno == EAGAIN)
		sent = 0;
	if (sent < 0) {
		connection_end(connection);
	} else if (sent < received) {
		connection->rest_bytes = (size_t)(received - sent);
		connection->rest_sent = 0;
		connection->rest = malloc(connection->rest_bytes);
		if (connection->rest == NULL)
			kl_bench_die("out of memory");
		memcpy(connection->rest, hot + sent, connection->rest_bytes);
	}
}

static void complete(const struct io_uring_cqe *cqe)
{
	uint64_t data = io_uring_cqe_get_data64(cqe);
	struct connection *connection = (void *)(uintptr_t)(data & ~(uint64_t)KIND_MASK);
	enum kind kind = (enum kind)(data & KIND_MASK);

	if (kind == KIND_ACCEPT) {
		on_accept(cqe);
		return;
	}
	if (!(cqe->flags & IORING_CQE_F_MORE))
		connection->in_flight--;
	if (kind == KIND_RECEIVE)
		on_receive(connection, cqe);
	else if (kind == KIND_SEND)
		on_send(connection, cqe->res);
	else if (kind == KIND_POLL)
		on_readable(connection);
	connection_resume(connection);
	/* One that is in the list of the hungry is freed when the list is gone through. */
	if (connection->closing && connection->in_flight == 0 && connection->next_hungry == NULL)
		connection_free(connection);
}

/* Let those that found the pool empty receive again, once something came back. */
static void feed_hungry(void)
{
	struct connection *connection = hungry;

	if (given_back > 0 && connection != NULL) {
		hungry = NULL;
		while (connection != NULL) {
			struct connection *next = connection->next_hungry;

			connection->next_hungry = NULL;
			/* Its send may have failed meanwhile; nothing else is in flight then. */
			if (connection->closing && connection->in_flight == 0)
				connection_free(connection);
			else
				connection_resume(connection);
			connection = next != connection ? next : NULL;
		}
	}
	given_back = 0;
}

static void set_up(void)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_CQSIZE,
		.cq_entries = CQ_ENTRIES,
	};
	struct io_uring_buf_reg registration = {.ring_entries = BUFFERS, .bgid = GROUP};
	int result = io_uring_queue_init_params(SQ_ENTRIES, &ring, &params);

	if (result < 0)
		kl_bench_die("io_uring_queue_init_params: %s", strerror(-result));
	result = io_uring_register_ring_fd(&ring);
	if (result != 1)
		kl_bench_die("io_uring_register_ring_fd: %s", strerror(-result));
	if (posix_memalign((void **)&buffer_ring, 4096, BUFFERS * sizeof(struct io_uring_buf)) ||
	    posix_memalign((void **)&buffers, 4096, (size_t)BUFFERS * BUFFER_BYTES))
		kl_bench_die("out of memory");
	registration.ring_addr = (uintptr_t)buffer_ring;
	result = io_uring_register_buf_ring(&ring, &registration, 0);
	if (result < 0)
		kl_bench_die("io_uring_register_buf_ring: %s", strerror(-result));
	io_uring_buf_ring_init(buffer_ring);
	for (unsigned id = 0; id < BUFFERS; id++)
		give_buffer((uint16_t)id);
}

int main(int argc, char **argv)
{
	struct kl_bench_options options;
	struct io_uring_cqe *cqe;

	kl_bench_parse(argc, argv, &options);
	if (options.sqpoll || options.stats)
		kl_bench_die("--sqpoll and --stats are for echo_kloop");
	set_up();
	listener = kl_bench_listen(&options);
	arm_accept();
	for (;;) {
		int result = io_uring_submit_and_wait(&ring, 1);
		unsigned head, count = 0;

		if (result < 0 && result != -EINTR)
			kl_bench_die("io_uring_submit_and_wait: %s", strerror(-result));
		io_uring_for_each_cqe(&ring, head, cqe) {
			complete(cqe);
			count++;
		}
		io_uring_cq_advance(&ring, count);
		feed_hungry();
	}
}
