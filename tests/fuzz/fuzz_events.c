/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The order of events: the input is a program that drives a loop, with streams,
 * a listener, datagrams, transfers, timers, calls and plain operations, also
 * from inside their callbacks. Completions that are there together change
 * places, and one operation, one system call and one allocation may fail
 * (tests/lib/inject.h).
 *
 * Whatever it does: what was accepted completes once, bytes come in order and
 * only those that were written, nothing is told after the end, all that is
 * aborted comes to its end, and no memory and no descriptor is left.
 */
#include "fuzz.h"
#include "inject.h"

#include <kloop.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define STREAMS 8
#define DATAGRAMS 4
#define TIMERS 4
#define CALLS 4
#define OPS 6
#define TRANSFERS 3
#define LENT 64
#define STEPS 300
#define PATTERN 300000
#define DESCRIPTORS 128

#define CHECK(condition)          \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

struct end {
	struct kloop_stream *stream;
	struct end *peer; /* NULL: not known, or gone */
	size_t sent, received;
	bool closing, over, connecting;
	bool gap; /* what comes may leave out a part of the pattern */
};

static struct {
	struct kloop_loop *loop;
	struct kloop_listener *listener;
	struct end ends[STREAMS];
	struct kloop_datagram *datagrams[DATAGRAMS];
	bool datagram_closing[DATAGRAMS];
	struct kloop_timer timers[TIMERS];
	bool due[TIMERS];
	struct kloop_call calls[CALLS];
	bool posted[CALLS];
	struct kloop_op ops[OPS];
	bool in_flight[OPS];
	struct kloop_transfer transfers[TRANSFERS];
	bool moving[TRANSFERS];
	char room[TRANSFERS][4096], words[OPS][16];
	unsigned lent, released, files_queued, files_done;
	int pipe[2], file;
	unsigned steps;
	int depth;
	bool ending;
} w;

static unsigned char pattern[PATTERN];
static const uint8_t *program;
static size_t program_bytes;

static unsigned next(void)
{
	if (program_bytes == 0)
		return 0;
	program_bytes--;
	return *program++;
}

static void act(void);

/* From a callback: the program says whether something is done. */
static void reenter(void)
{
	if (w.ending || w.depth > 2 || program_bytes == 0)
		return;
	w.depth++;
	for (unsigned count = next() % 4; count > 1; count--)
		act();
	w.depth--;
}

/* ---- memory ----------------------------------------------------------- */

static size_t blocks, allocation, allocation_due;

static void *counted_malloc(size_t bytes, void *data)
{
	void *memory;

	(void)data;
	if (++allocation == allocation_due)
		return NULL;
	memory = malloc(bytes);
	CHECK(memory);
	blocks++;
	return memory;
}

static void counted_free(void *memory, void *data)
{
	(void)data;
	blocks -= memory != NULL;
	free(memory);
}

static void *counted_realloc(void *memory, size_t bytes, void *data)
{
	void *grown;

	if (!memory)
		return counted_malloc(bytes, data);
	if (++allocation == allocation_due)
		return NULL;
	grown = realloc(memory, bytes);
	CHECK(grown);
	return grown;
}

/* ---- streams ---------------------------------------------------------- */

static void on_connect(struct kloop_stream *stream, int result, void *user)
{
	struct end *end = user;

	CHECK(end->stream == stream && end->connecting && !end->closing && result <= 0);
	end->connecting = false;
	reenter();
}

static void on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	struct end *end = user;

	CHECK(end->stream == stream && !end->closing && !end->over && bytes > 0);
	if (!end->gap) {
		CHECK(end->received + bytes <= PATTERN);
		CHECK(!end->peer || end->received + bytes <= end->peer->sent);
		CHECK(memcmp(data, pattern + end->received, bytes) == 0);
	}
	end->received += bytes;
	reenter();
}

static int on_alloc(struct kloop_stream *stream, size_t suggested, void **ret_buffer,
		    size_t *ret_bytes, void *user)
{
	static char own[5000];
	struct end *end = user;

	(void)suggested;
	CHECK(end->stream == stream && !end->closing);
	if (next() % 2)
		return -1;
	*ret_buffer = own;
	*ret_bytes = sizeof(own);
	return 0;
}

static void on_eof(struct kloop_stream *stream, void *user)
{
	struct end *end = user;

	CHECK(end->stream == stream && !end->closing && !end->over);
	end->over = true;
	reenter();
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	struct end *end = user;

	CHECK(end->stream == stream && error < 0);
	end->over = true;
	reenter();
}

static void on_drain(struct kloop_stream *stream, void *user)
{
	struct end *end = user;

	CHECK(end->stream == stream && !end->closing);
	reenter();
}

static void on_close(struct kloop_stream *stream, void *user)
{
	struct end *end = user;

	CHECK(end->stream == stream);
	if (end->peer)
		end->peer->peer = NULL;
	memset(end, 0, sizeof(*end));
	reenter();
}

static const struct kloop_stream_handlers handlers = {
	.size = sizeof(handlers),
	.on_connect = on_connect,
	.on_data = on_data,
	.on_alloc = on_alloc,
	.on_eof = on_eof,
	.on_error = on_error,
	.on_drain = on_drain,
	.on_close = on_close,
};

static struct end *free_end(const struct end *but)
{
	for (int i = 0; i < STREAMS; i++)
		if (!w.ends[i].stream && &w.ends[i] != but)
			return &w.ends[i];
	return NULL;
}

static bool open_end(struct end *end, int fd, unsigned flags)
{
	if (kloop_stream_new(w.loop, fd, flags, &handlers, end, &end->stream) == 0)
		return true;
	close(fd);
	return false;
}

static void open_pair(unsigned kind)
{
	struct end *one = free_end(NULL), *other = one ? free_end(one) : NULL;
	unsigned flags = kind ? KLOOP_STREAM_PIPE : 0;
	int fds[2], ret;

	if (!other)
		return;
	kt_inject_pause();
	ret = kind ? pipe2(fds, O_CLOEXEC)
		   : socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds);
	kt_inject_resume();
	CHECK(ret == 0);
	/* Of a pipe, the first one reads. */
	if (!open_end(one, fds[0], flags)) {
		close(fds[1]);
		return;
	}
	if (open_end(other, fds[1], flags)) {
		one->peer = other;
		other->peer = one;
	}
}

static void connect_end(void)
{
	struct kloop_address address;
	struct end *end = free_end(NULL);

	if (!end || !w.listener || kloop_listener_get_address(w.listener, &address) < 0)
		return;
	if (kloop_stream_connect(w.loop, &address, &handlers, end, &end->stream) == 0)
		end->connecting = true;
}

static void release(void *owner, int status, void *user)
{
	(void)user;
	CHECK(owner == &w && status <= 0);
	w.released++;
	reenter();
}

static void file_done(void *owner, int status, uint64_t bytes, void *user)
{
	(void)user;
	(void)bytes;
	CHECK(owner == &w && status <= 0);
	w.files_done++;
	reenter();
}

static void write_some(struct end *end, unsigned how)
{
	size_t bytes = next() * (how % 3 == 0 ? 1u : 300u);
	ptrdiff_t tried;

	if (bytes > PATTERN - end->sent)
		bytes = PATTERN - end->sent;
	if (how % 4 == 3) {
		tried = kloop_stream_try_write(end->stream, pattern + end->sent, bytes);
		CHECK(tried <= (ptrdiff_t)bytes);
		end->sent += tried > 0 ? (size_t)tried : 0;
	} else if (how % 4 == 2) {
		if (kloop_stream_write(end->stream, pattern + end->sent, bytes, release, &w) == 0) {
			w.lent++;
			end->sent += bytes;
		}
	} else if (kloop_stream_write(end->stream, pattern + end->sent, bytes, NULL, NULL) == 0) {
		end->sent += bytes;
	}
}

/* The file is the pattern as well. */
static void write_file(struct end *end)
{
	size_t bytes = next() * 400u;

	/* Nobody could be told that it may be cut short. */
	if (!end->peer)
		return;
	if (bytes > PATTERN - end->sent)
		bytes = PATTERN - end->sent;
	if (kloop_stream_send_file(end->stream, w.file, end->sent, bytes, next() % 2, file_done, &w) ==
	    0) {
		w.files_queued++;
		end->sent += bytes;
		end->peer->gap = true;
	}
}

static void close_end(struct end *end, bool at_once)
{
	end->closing = true;
	if (at_once)
		kloop_stream_abort(end->stream);
	else
		kloop_stream_close(end->stream);
}

static void act_on_stream(unsigned what)
{
	struct end *end = &w.ends[next() % STREAMS];

	if (!end->stream)
		return;
	switch (what) {
	case 0:
	case 1:
	case 2:
	case 3:
		write_some(end, what);
		break;
	case 4:
		(void)!kloop_stream_start_read(end->stream);
		break;
	case 5:
		(void)kloop_stream_stop_read(end->stream);
		break;
	case 6:
		(void)!kloop_stream_shutdown(end->stream);
		break;
	case 7:
		close_end(end, false);
		break;
	case 8:
		close_end(end, true);
		break;
	case 9:
		write_file(end);
		break;
	default:
		(void)kloop_stream_cancel_file(end->stream, &w);
	}
}

/* ---- the listener ----------------------------------------------------- */

static void on_accept(struct kloop_listener *listener, int fd, void *user)
{
	struct end *end = free_end(NULL);

	(void)user;
	CHECK(listener == w.listener);
	if (!end)
		close(fd);
	else
		(void)open_end(end, fd, 0);
	reenter();
}

static void on_listener_error(struct kloop_listener *listener, int error, void *user)
{
	(void)user;
	CHECK(listener == w.listener && error < 0);
	reenter();
}

static void on_listener_close(struct kloop_listener *listener, void *user)
{
	(void)user;
	CHECK(listener == w.listener);
	w.listener = NULL;
}

static const struct kloop_listener_handlers listener_handlers = {
	.size = sizeof(listener_handlers),
	.on_accept = on_accept,
	.on_error = on_listener_error,
	.on_close = on_listener_close,
};

static void act_on_listener(unsigned what)
{
	struct kloop_address address;

	if (!w.listener) {
		/* A name that the kernel chooses: no port of the machine is taken. */
		memset(&address, 0, sizeof(address));
		address.u.any.sa_family = AF_UNIX;
		address.length = sizeof(sa_family_t);
		if (kloop_listener_open(w.loop, &address, 4, 0, &listener_handlers, NULL,
					&w.listener) < 0)
			w.listener = NULL;
		return;
	}
	switch (what) {
	case 0:
		(void)kloop_listener_pause(w.listener);
		break;
	case 1:
		(void)!kloop_listener_resume(w.listener);
		break;
	case 2:
		if (next() % 4 == 0)
			kloop_listener_close(w.listener);
		break;
	default:
		connect_end();
	}
}

/* ---- datagrams -------------------------------------------------------- */

static void on_datagram(struct kloop_datagram *datagram, const void *data, size_t bytes,
			const struct kloop_address *from, unsigned flags, void *user)
{
	size_t which = (size_t)((struct kloop_datagram **)user - w.datagrams);

	CHECK(*(struct kloop_datagram **)user == datagram && !w.datagram_closing[which]);
	CHECK(bytes <= 65536 && from && flags == 0);
	CHECK(memcmp(data, pattern, bytes) == 0);
	reenter();
}

static void on_datagram_error(struct kloop_datagram *datagram, int error,
			      const struct kloop_address *peer, void *user)
{
	(void)peer;
	CHECK(*(struct kloop_datagram **)user == datagram && error < 0);
	reenter();
}

static void on_datagram_drain(struct kloop_datagram *datagram, void *user)
{
	CHECK(*(struct kloop_datagram **)user == datagram);
	reenter();
}

static void on_datagram_close(struct kloop_datagram *datagram, void *user)
{
	struct kloop_datagram **slot = user;

	CHECK(*slot == datagram);
	*slot = NULL;
	w.datagram_closing[slot - w.datagrams] = false;
	reenter();
}

static const struct kloop_datagram_handlers datagram_handlers = {
	.size = sizeof(datagram_handlers),
	.on_datagram = on_datagram,
	.on_error = on_datagram_error,
	.on_drain = on_datagram_drain,
	.on_close = on_datagram_close,
};

static void open_datagrams(void)
{
	int fds[2], ret;

	if (w.datagrams[0] || w.datagrams[1])
		return;
	kt_inject_pause();
	ret = socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds);
	kt_inject_resume();
	CHECK(ret == 0);
	for (int i = 0; i < 2; i++)
		if (kloop_datagram_new(w.loop, fds[i], 0, &datagram_handlers, &w.datagrams[i],
				       &w.datagrams[i]) < 0)
			close(fds[i]);
}

/* To itself, by UDP. */
static void open_udp(void)
{
	struct kloop_address address;
	struct kloop_datagram **slot = w.datagrams[2] ? &w.datagrams[3] : &w.datagrams[2];

	if (*slot || kloop_address_parse("127.0.0.1", 0, &address) < 0)
		return;
	(void)!kloop_datagram_open(w.loop, &address, NULL, 0, &datagram_handlers, slot, slot);
}

static void act_on_datagram(unsigned what)
{
	unsigned which = next() % DATAGRAMS;
	struct kloop_datagram *datagram = w.datagrams[which];
	struct kloop_address self, *peer = NULL;

	if (!datagram) {
		if (which < 2)
			open_datagrams();
		else
			open_udp();
		return;
	}
	if (which >= 2 && kloop_datagram_get_address(datagram, &self) == 0)
		peer = &self;
	switch (what) {
	case 0:
	case 1:
		(void)!kloop_datagram_send(datagram, pattern, next() * 8u, peer);
		break;
	case 2:
		(void)!kloop_datagram_try_send(datagram, pattern, next() * 8u, peer);
		break;
	case 3:
	case 4:
		(void)!kloop_datagram_start_read(datagram);
		break;
	case 5:
		(void)kloop_datagram_stop_read(datagram);
		break;
	case 6:
		w.datagram_closing[which] = true;
		kloop_datagram_close(datagram);
		break;
	default:
		w.datagram_closing[which] = true;
		kloop_datagram_abort(datagram);
	}
}

/* ---- timers, calls, operations, transfers ----------------------------- */

static void expire(struct kloop_timer *timer)
{
	size_t which = (size_t)(timer - w.timers);

	CHECK(w.due[which] && !kloop_timer_is_active(timer));
	w.due[which] = false;
	reenter();
}

static void called(struct kloop_call *call)
{
	size_t which = (size_t)(call - w.calls);

	CHECK(w.posted[which]);
	w.posted[which] = false;
	reenter();
}

static void op_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	size_t which = (size_t)(op - w.ops);

	(void)result;
	CHECK(w.in_flight[which] && !(flags & KLOOP_OP_MORE) && !kloop_op_is_active(op));
	w.in_flight[which] = false;
	reenter();
}

static void moved(struct kloop_transfer *transfer, int result)
{
	size_t which = (size_t)(transfer - w.transfers);

	CHECK(w.moving[which] && result <= 0 && !kloop_transfer_is_active(transfer));
	w.moving[which] = false;
	reenter();
}

static void act_on_timer(unsigned what)
{
	unsigned which = next() % TIMERS;

	if (what % 3 == 2) {
		kloop_timer_stop(&w.timers[which]);
		w.due[which] = false;
	} else if (kloop_timer_start(w.loop, &w.timers[which],
				     kloop_now() + (what % 3 ? next() * 1000u : 0)) == 0) {
		w.due[which] = true;
	}
}

static void act_on_call(unsigned what)
{
	unsigned which = next() % CALLS;

	(void)what;
	if (w.posted[which])
		return;
	if (kloop_loop_post(w.loop, &w.calls[which]) == 0)
		w.posted[which] = true;
}

static void act_on_op(unsigned what)
{
	unsigned which = next() % OPS;
	struct kloop_op *op = &w.ops[which];
	int r;

	if (w.in_flight[which]) {
		CHECK(kloop_op_nop(w.loop, op) == -EBUSY);
		CHECK(kloop_op_cancel(op) != -ENOENT);
		return;
	}
	CHECK(kloop_op_cancel(op) == -ENOENT);
	switch (what) {
	case 0:
		r = kloop_op_nop(w.loop, op);
		break;
	case 1:
		r = kloop_op_poll(w.loop, op, w.pipe[0], POLLIN);
		break;
	case 2:
		r = kloop_op_read(w.loop, op, w.pipe[0], w.words[which], sizeof(w.words[which]),
				  UINT64_MAX);
		break;
	default:
		r = kloop_op_write(w.loop, op, w.pipe[1], "0123456789abcdef", 1 + next() % 16,
				   UINT64_MAX);
	}
	w.in_flight[which] = r == 0;
}

static void act_on_transfer(unsigned what)
{
	unsigned which = next() % TRANSFERS;
	struct kloop_transfer *transfer = &w.transfers[which];
	size_t bytes = next() * 16u;
	int r;

	if (w.moving[which]) {
		CHECK(kloop_transfer_cancel(transfer) != -ENOENT);
		return;
	}
	if (what % 2)
		r = kloop_transfer_write(w.loop, transfer, w.pipe[1], pattern, bytes, UINT64_MAX);
	else
		r = kloop_transfer_read(w.loop, transfer, w.pipe[0], w.room[which], bytes, bytes,
					UINT64_MAX);
	w.moving[which] = r == 0;
}

/* ---- the program ------------------------------------------------------ */

static void turn(uint64_t timeout_ns)
{
	if (w.depth == 0)
		(void)!kloop_loop_turn(w.loop, timeout_ns);
	else
		CHECK(kloop_loop_turn(w.loop, 0) == -EDEADLK);
}

static void act(void)
{
	unsigned what = next(), how = what / 16;

	if (w.steps++ >= STEPS)
		return;
	switch (what % 16) {
	case 0:
	case 1:
	case 2:
		turn(0);
		break;
	case 3:
		turn(how * 2000);
		break;
	case 4:
		open_pair(how % 2);
		break;
	case 5:
	case 6:
	case 7:
		act_on_stream(how % 11);
		break;
	case 8:
		act_on_stream(how % 4);
		break;
	case 9:
		act_on_listener(how % 6);
		break;
	case 10:
	case 11:
		act_on_datagram(how % 8);
		break;
	case 12:
		act_on_timer(how);
		break;
	case 13:
		act_on_call(how);
		break;
	case 14:
		act_on_op(how % 4);
		break;
	default:
		if (how == 15)
			(void)!kloop_loop_submit(w.loop);
		else
			act_on_transfer(how);
	}
}

/* What was aborted must come to its end, in a bounded number of turns. */
static bool abort_all(void)
{
	bool any = w.listener != NULL;

	for (int i = 0; i < STREAMS; i++)
		if (w.ends[i].stream) {
			any = true;
			close_end(&w.ends[i], true);
		}
	for (int i = 0; i < DATAGRAMS; i++)
		if (w.datagrams[i]) {
			any = true;
			w.datagram_closing[i] = true;
			kloop_datagram_abort(w.datagrams[i]);
		}
	if (w.listener)
		kloop_listener_close(w.listener);
	return any;
}

static void check_end(void)
{
	CHECK(w.lent == w.released && w.files_queued == w.files_done && !w.listener);
	for (int i = 0; i < STREAMS; i++)
		CHECK(!w.ends[i].stream);
	for (int i = 0; i < DATAGRAMS; i++)
		CHECK(!w.datagrams[i]);
	for (int i = 0; i < OPS; i++)
		CHECK(!w.in_flight[i]);
	for (int i = 0; i < TRANSFERS; i++)
		CHECK(!w.moving[i]);
	for (int i = 0; i < CALLS; i++)
		CHECK(!w.posted[i]);
}

static void finish(bool orderly)
{
	w.ending = true;
	if (orderly)
		for (int i = 0; abort_all(); i++) {
			CHECK(i < 5000);
			turn(100000);
		}
	CHECK(kloop_loop_free(w.loop) == 0);
	check_end();
}

static struct kloop_loop *make_loop(unsigned kind)
{
	struct kloop_loop_options *options = NULL;
	struct kloop_loop *loop = NULL;

	if (kloop_loop_options_new(&options) < 0)
		return NULL;
	CHECK(kloop_loop_options_set_receive_pool(options, kind % 2 ? 1 : 16, 512) == 0);
	if (kind % 4 == 3)
		CHECK(kloop_loop_options_set_entries(options, 2, 2) == 0);
	else
		CHECK(kloop_loop_options_set_entries(options, 64, 128) == 0);
	if (kind / 4 % 4 == 1)
		kloop_loop_options_set_without(options, KLOOP_FEATURE_RECV_MULTISHOT |
								KLOOP_FEATURE_ACCEPT_MULTISHOT);
	else if (kind / 4 % 4 == 2)
		kloop_loop_options_set_without(options, KLOOP_FEATURE_SINGLE_ISSUER |
								KLOOP_FEATURE_DEFER_TASKRUN);
	if (kloop_loop_new(options, &loop) < 0)
		loop = NULL;
	kloop_loop_options_free(options);
	return loop;
}

static void begin(unsigned kind)
{
	static const int results[] = { 0, KT_SHORT, -EINTR, -ECANCELED, -EAGAIN, -ENOBUFS, -ENOMEM,
				       -EMFILE, -ECONNRESET, -EIO };
	static bool knows, asked;
	size_t call, variant, operation;
	int result;

	if (!asked)
		knows = kt_inject_knows_results();
	asked = true;
	memset(&w, 0, sizeof(w));
	CHECK(pipe2(w.pipe, O_CLOEXEC | O_NONBLOCK) == 0);
	w.file = memfd_create("pattern", MFD_CLOEXEC);
	CHECK(w.file >= 0 && write(w.file, pattern, PATTERN) == PATTERN);
	for (int i = 0; i < TIMERS; i++)
		kloop_timer_init(&w.timers[i], expire);
	for (int i = 0; i < CALLS; i++)
		w.calls[i].call = called;
	for (int i = 0; i < OPS; i++)
		kloop_op_init(&w.ops[i], op_done);
	for (int i = 0; i < TRANSFERS; i++)
		kloop_transfer_init(&w.transfers[i], moved);
	allocation = 0;
	allocation_due = next();
	call = next();
	variant = next();
	operation = next();
	result = results[next() % (sizeof(results) / sizeof(results[0]))];
	/* Each of the faults takes place in one program of four, or so. */
	if (kind / 16 % 4 != 1)
		allocation_due = 0;
	if (kind / 16 % 4 != 2)
		call = 0;
	if (kind / 16 % 4 != 3 || result == 0 || !knows)
		operation = 0;
	kt_inject_all(call, variant, operation, result, next());
}

/* The descriptors that are open, as bits. */
static void note_descriptors(uint64_t bits[DESCRIPTORS / 64])
{
	memset(bits, 0, DESCRIPTORS / 8);
	for (int fd = 0; fd < DESCRIPTORS; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			bits[fd / 64] |= UINT64_C(1) << fd % 64;
}

static void set_up(void)
{
	static const struct kloop_allocator allocator = {
		.malloc = counted_malloc,
		.realloc = counted_realloc,
		.free = counted_free,
	};

	CHECK(kloop_set_allocator(&allocator) == 0);
	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < PATTERN; i++)
		pattern[i] = (unsigned char)(i * 31 + i / 251);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t before[DESCRIPTORS / 64], after[DESCRIPTORS / 64];
	unsigned kind;

	if (pattern[1] == 0)
		set_up();
	program = data;
	program_bytes = size;
	note_descriptors(before);
	kind = next();
	begin(kind);
	w.loop = make_loop(kind);
	if (w.loop) {
		while (program_bytes > 0 && w.steps < STEPS)
			act();
		finish(kind / 64 % 2);
	}
	kt_inject_end();
	close(w.pipe[0]);
	close(w.pipe[1]);
	close(w.file);
	note_descriptors(after);
	CHECK(memcmp(before, after, sizeof(before)) == 0);
	CHECK(blocks == 0);
	return 0;
}
