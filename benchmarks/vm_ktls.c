/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * TLS in the kernel against TLS in user space, on the same machine and in
 * turns: processor time of server and client. benchmarks/vm-ktls runs it in a
 * virtual machine.
 *
 *   vm_ktls CERTIFICATE KEY FILE [ROUNDS [CELL]]
 *
 * CELL picks those whose titles contain it.
 *
 * A sample forks a server and a client, which are connected over loopback and
 * use libkloop's streams. The client reads both clocks before and after the
 * measured part, while nothing is on its way; they count all threads of a
 * process, those of io_uring too. FILE has at least 64 MiB.
 */
#include "client.h"
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <kloop.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 4
#define ROUNDS_MAX 99
#define SAMPLE_SECONDS 300
#define MIB ((size_t)1 << 20)
/* What a client asks for a file with: the beginning to warm up, or all. */
#define ASK_LITTLE 'l'
#define ASK_ALL 'a'

struct cell {
	const char *title;
	bool file; /* files by kloop_stream_send_file(), or echoes */
	size_t bytes;
	unsigned connections;
	unsigned count; /* of messages or files, in sum */
};

static const struct cell cells[] = {
	{"file 10 MiB", true, 10 * MIB, 1, 1},
	{"file 64 MiB", true, 64 * MIB, 1, 1},
	{"echo 1 KiB", false, 1024, CONNECTIONS_MAX, 2000},
	{"echo 10 KiB", false, 10 * 1024, CONNECTIONS_MAX, 600},
	{"echo 100 KiB", false, 100 * 1024, CONNECTIONS_MAX, 80},
};
#define CELLS (sizeof(cells) / sizeof(cells[0]))

struct variant {
	const char *title;
	enum kloop_ktls_mode server, client;
	bool echoes; /* also where no file is sent */
};

/* The first is what the others are compared with. */
static const struct variant variants[] = {
	{"user space", KLOOP_KTLS_OFF, KLOOP_KTLS_OFF, true},
	{"server sends by kernel", KLOOP_KTLS_AUTO, KLOOP_KTLS_OFF, false},
	{"kernel on both ends", KLOOP_KTLS_ON, KLOOP_KTLS_ON, true},
};
#define VARIANTS (sizeof(variants) / sizeof(variants[0]))

enum side { SERVER, CLIENT, SIDES };

struct sample {
	uint64_t cpu_ns[SIDES];
	int ktls[SIDES][2]; /* by direction: 1, or why not */
	bool complete;
};

/* What a process has to know; in the shared memory only what the client reports. */
static struct {
	const struct cell *cell;
	struct sample *sample;
	struct kloop_loop *loop;
	struct kloop_stream *streams[CONNECTIONS_MAX];
	enum side side;
	pid_t server;
	int file;
	unsigned char *pattern; /* of the client: messages, and what files hold */
	unsigned open;          /* connections that live */
	/* The client's */
	size_t received[CONNECTIONS_MAX];
	unsigned left;    /* messages of this phase to begin */
	unsigned running; /* and to end */
	size_t answer;    /* bytes of each */
	bool measured;    /* this phase counts */
	uint64_t before_ns[SIDES];
} self;

static void check(int result, const char *what)
{
	if (result < 0)
		kl_bench_die("%s: %s", what, kloop_strerror(result));
}

/* The index of a connection travels in the user pointer. */
static unsigned index_of(void *user)
{
	return (unsigned)(uintptr_t)user;
}

/* ---- both ------------------------------------------------------------- */

static void note_ktls(struct kloop_stream *stream)
{
	struct kloop_tls *tls = kloop_tls_get(stream);

	for (int direction = 0; direction < 2; direction++)
		self.sample->ktls[self.side][direction] =
			kloop_tls_get_ktls(tls, (enum kloop_tls_direction)direction);
}

static void on_error(struct kloop_stream *stream, int error, void *user)
{
	(void)user;
	kl_bench_die("%s: %s", self.side == SERVER ? "server" : "client",
		     kloop_tls_get(stream) != NULL ? kloop_tls_get_error_text(kloop_tls_get(stream))
						   : kloop_strerror(error));
}

static void on_close(struct kloop_stream *stream, void *user)
{
	(void)stream;
	(void)user;
	if (--self.open == 0)
		kloop_loop_stop(self.loop);
}

/* ---- the server ------------------------------------------------------- */

static void on_sent(void *owner, int status, uint64_t sent_bytes, void *user)
{
	(void)user;
	if (status < 0 || sent_bytes != (uintptr_t)owner)
		kl_bench_die("send_file: %s", kloop_strerror(status));
}

static void server_on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	size_t wanted = *(const char *)data == ASK_LITTLE ? MIB : self.cell->bytes;

	(void)user;
	if (self.cell->file)
		check(kloop_stream_send_file(stream, self.file, 0, wanted, 0, on_sent,
					     (void *)(uintptr_t)wanted),
		      "kloop_stream_send_file");
	else
		check(kloop_stream_write(stream, data, bytes, NULL, NULL), "kloop_stream_write");
}

static void server_on_eof(struct kloop_stream *stream, void *user)
{
	(void)user;
	note_ktls(stream);
	kloop_stream_close(stream);
}

/* ---- the client ------------------------------------------------------- */

static uint64_t clock_of(pid_t pid)
{
	struct timespec now;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &now) != 0)
		kl_bench_die("process %d has no clock", (int)pid);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void ask(unsigned index)
{
	static const char little = ASK_LITTLE, all = ASK_ALL;
	const void *data = self.pattern;
	size_t bytes = self.cell->bytes;

	if (self.cell->file) {
		data = self.measured ? &all : &little;
		bytes = 1;
	}
	self.left--;
	self.received[index] = 0;
	check(kloop_stream_write(self.streams[index], data, bytes, NULL, NULL),
	      "kloop_stream_write");
}

/* Begin a phase on all connections, with the clocks read in silence. */
static void begin_phase(unsigned count, bool measured)
{
	usleep(5 * KL_BENCH_SETTLE_US);
	self.before_ns[SERVER] = clock_of(self.server);
	self.before_ns[CLIENT] = clock_of(0);
	self.measured = measured;
	self.answer = self.cell->file && !measured ? MIB : self.cell->bytes;
	self.left = count;
	self.running = count;
	for (unsigned i = 0; i < self.cell->connections; i++)
		ask(i);
}

static void end_phase(void)
{
	uint64_t mine = clock_of(0);

	if (!self.measured) {
		begin_phase(self.cell->count, true);
		return;
	}
	usleep(5 * KL_BENCH_SETTLE_US);
	self.sample->cpu_ns[SERVER] = clock_of(self.server) - self.before_ns[SERVER];
	self.sample->cpu_ns[CLIENT] = mine - self.before_ns[CLIENT];
	self.sample->complete = true;
	note_ktls(self.streams[0]);
	for (unsigned i = 0; i < self.cell->connections; i++)
		kloop_stream_close(self.streams[i]);
}

static void client_on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user)
{
	unsigned index = index_of(user);

	(void)stream;
	if (bytes > self.answer - self.received[index])
		kl_bench_die("too much came");
	if (!self.measured && memcmp(data, self.pattern + self.received[index], bytes) != 0)
		kl_bench_die("the contents are wrong");
	self.received[index] += bytes;
	if (self.received[index] < self.answer)
		return;
	if (--self.running == 0)
		end_phase();
	else if (self.left > 0)
		ask(index);
}

static void client_on_eof(struct kloop_stream *stream, void *user)
{
	(void)stream;
	(void)user;
	if (!self.sample->complete)
		kl_bench_die("the server closed early");
}

static void client_on_handshake(struct kloop_stream *stream, int result, void *user)
{
	static unsigned done;

	(void)stream;
	(void)user;
	check(result, "handshake");
	if (++done == self.cell->connections)
		begin_phase(self.cell->connections, false);
}

/* ---- a sample --------------------------------------------------------- */

static const struct kloop_stream_handlers handlers[SIDES] = {
	{
		.size = sizeof(handlers[0]),
		.on_data = server_on_data,
		.on_eof = server_on_eof,
		.on_error = on_error,
		.on_close = on_close,
	},
	{
		.size = sizeof(handlers[0]),
		.on_data = client_on_data,
		.on_eof = client_on_eof,
		.on_error = on_error,
		.on_close = on_close,
	},
};

static struct kloop_tls_context *make_context(enum side side, char **names,
					      enum kloop_ktls_mode mode)
{
	struct kloop_tls_context *context;

	check(kloop_tls_context_new(side == SERVER ? KLOOP_TLS_SERVER : KLOOP_TLS_CLIENT, &context),
	      "kloop_tls_context_new");
	check(kloop_tls_context_set_versions(context, KLOOP_TLS_1_3, 0), "versions");
	check(kloop_tls_context_set_ktls(context, mode), "ktls");
	if (side == SERVER)
		check(kloop_tls_context_load_certificate(context, names[0], names[1]), names[0]);
	else
		check(kloop_tls_context_set_verify(context, KLOOP_TLS_VERIFY_NONE), "verify");
	return context;
}

/* The life of a process of a sample; it exits. */
static void run_side(enum side side, int *fds, char **names, enum kloop_ktls_mode mode)
{
	struct kloop_tls_context *context = make_context(side, names, mode);
	struct kloop_tls *tls;
	cpu_set_t set;

	self.side = side;
	alarm(SAMPLE_SECONDS);
	CPU_ZERO(&set);
	CPU_SET(side, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		fprintf(stderr, "processor %d: %s\n", (int)side, strerror(errno));
	check(kloop_loop_new(NULL, &self.loop), "kloop_loop_new");
	for (unsigned i = 0; i < self.cell->connections; i++) {
		check(kloop_stream_new(self.loop, fds[i], 0, &handlers[side],
				       (void *)(uintptr_t)i, &self.streams[i]),
		      "kloop_stream_new");
		self.open++;
		check(kloop_tls_new(context, &tls), "kloop_tls_new");
		if (side == CLIENT)
			check(kloop_tls_set_name(tls, "localhost"), "kloop_tls_set_name");
		check(kloop_tls_start(tls, self.streams[i],
				      side == CLIENT ? client_on_handshake : NULL),
		      "kloop_tls_start");
		check(kloop_stream_start_read(self.streams[i]), "kloop_stream_start_read");
	}
	check(kloop_loop_run(self.loop), "kloop_loop_run");
	exit(0);
}

/* Two ends of a connection over loopback, with the congestion control of all benchmarks. */
static void tcp_pair(int *ret_server, int *ret_client)
{
	struct kl_bench_options options = {.congestion = "cubic"};
	struct sockaddr_in address;
	socklen_t bytes = sizeof(address);
	int listener = kl_bench_listen_quiet(&options);
	struct pollfd waiting = {.fd = listener, .events = POLLIN};

	*ret_server = -1;
	*ret_client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*ret_client < 0 || getsockname(listener, (struct sockaddr *)&address, &bytes) < 0)
		kl_bench_die("socket: %s", strerror(errno));
	kl_bench_set_congestion(*ret_client, options.congestion);
	if (connect(*ret_client, (struct sockaddr *)&address, bytes) < 0)
		kl_bench_die("connect: %s", strerror(errno));
	if (poll(&waiting, 1, -1) == 1)
		*ret_server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (*ret_server < 0)
		kl_bench_die("accept: %s", strerror(errno));
	close(listener);
}

static void wait_for(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
		kl_bench_die("a sample failed");
}

static void measure(const struct cell *cell, const struct variant *variant, char **names,
		    struct sample *ret_sample)
{
	int fds[SIDES][CONNECTIONS_MAX];
	pid_t client;

	memset(ret_sample, 0, sizeof(*ret_sample));
	self.cell = cell;
	self.sample = ret_sample;
	for (unsigned i = 0; i < cell->connections; i++)
		tcp_pair(&fds[SERVER][i], &fds[CLIENT][i]);
	fflush(NULL);
	self.server = fork();
	if (self.server == 0) {
		for (unsigned i = 0; i < cell->connections; i++)
			close(fds[CLIENT][i]);
		run_side(SERVER, fds[SERVER], names, variant->server);
	}
	for (unsigned i = 0; i < cell->connections; i++)
		close(fds[SERVER][i]);
	client = fork();
	if (client == 0)
		run_side(CLIENT, fds[CLIENT], names, variant->client);
	if (self.server < 0 || client < 0)
		kl_bench_die("fork: %s", strerror(errno));
	for (unsigned i = 0; i < cell->connections; i++)
		close(fds[CLIENT][i]);
	wait_for(client);
	wait_for(self.server);
	if (!ret_sample->complete)
		kl_bench_die("a sample is not complete");
}

/* ---- the table -------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct figure {
	double median;
	double spread; /* the middle half, relative to it */
};

/* Microseconds per MiB that went each way. */
static struct figure figure_of(const struct cell *cell, const struct sample *samples,
			       unsigned rounds, enum side side)
{
	double values[ROUNDS_MAX], mib = (double)cell->bytes * cell->count / MIB;

	for (unsigned i = 0; i < rounds; i++)
		values[i] = (double)samples[i].cpu_ns[side] / 1000 / mib;
	qsort(values, rounds, sizeof(values[0]), compare);
	return (struct figure){
		values[rounds / 2],
		(values[rounds * 3 / 4] - values[rounds / 4]) / values[rounds / 2],
	};
}

static const char *ktls_text(int state)
{
	return state == 1 ? "kernel" : state == KLOOP_ERROR_KTLS_OFF ? "user" : kloop_strerror(state);
}

static void print_cell(const struct cell *cell, struct sample (*samples)[ROUNDS_MAX],
		       unsigned rounds)
{
	double base[SIDES] = {0, 0};

	printf("%s\n", cell->title);
	for (unsigned v = 0; v < VARIANTS; v++) {
		const struct sample *first = &samples[v][0];

		if (!cell->file && !variants[v].echoes)
			continue;
		printf("  %-24s", variants[v].title);
		for (int side = 0; side < SIDES; side++) {
			struct figure figure =
				figure_of(cell, samples[v], rounds, (enum side)side);

			if (v == 0)
				base[side] = figure.median;
			printf("%s %9.0f us/MiB (spread %2.0f%%) ratio %.2f",
			       side == SERVER ? " server" : "  client", figure.median,
			       100 * figure.spread, figure.median / base[side]);
		}
		printf("  [server sends by %s, receives by %s; client sends by %s, receives by %s]\n",
		       ktls_text(first->ktls[SERVER][0]), ktls_text(first->ktls[SERVER][1]),
		       ktls_text(first->ktls[CLIENT][0]), ktls_text(first->ktls[CLIENT][1]));
	}
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static struct sample samples[VARIANTS][ROUNDS_MAX];
	struct sample *shared;
	unsigned rounds = 5;

	if (argc < 4 || argc > 6)
		kl_bench_die("usage: vm_ktls CERTIFICATE KEY FILE [ROUNDS [CELL]]");
	if (argc >= 5)
		rounds = (unsigned)kl_bench_number("ROUNDS", argv[4], 1, ROUNDS_MAX);
	signal(SIGPIPE, SIG_IGN);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	self.file = open(argv[3], O_RDONLY | O_CLOEXEC);
	if (shared == MAP_FAILED || self.file < 0)
		kl_bench_die("%s: %s", argv[3], strerror(errno));
	self.pattern = kl_bench_pattern_new(64 * MIB);
	for (unsigned c = 0; c < CELLS; c++) {
		if (argc == 6 && strstr(cells[c].title, argv[5]) == NULL)
			continue;
		for (unsigned i = 0; i < rounds * VARIANTS; i++) {
			unsigned v = i % VARIANTS;

			if (!cells[c].file && !variants[v].echoes)
				continue;
			measure(&cells[c], &variants[v], argv + 1, shared);
			samples[v][i / VARIANTS] = *shared;
			fprintf(stderr, "%s, %s\n", cells[c].title, variants[v].title);
		}
		print_cell(&cells[c], samples, rounds);
	}
	return 0;
}
