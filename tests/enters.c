/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A loop under load, for check_enters.py to count its system calls from
 * outside: enters MODE TURNS. Prints how many turns were taken and how many
 * calls of io_uring_enter(2) the library counted.
 *
 * echo: messages go round a ring of socket pairs, one receive and one send
 * each; all connections are busy in every turn.
 * timers: a timer a turn. sqpoll: echo with SQPOLL.
 */
#include <kloop.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PAIRS 32

struct connection {
	struct kloop_op receive;
	struct kloop_op send;
	struct kloop_loop *loop;
	int fds[2];
	char in[64], out[64];
};

static struct connection connections[PAIRS];
static struct kloop_timer timer;
static struct kloop_loop *the_loop;
static bool ending;

static void check(int ret, const char *what)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, kloop_strerror(ret));
	exit(1);
}

static void sent(struct kloop_op *op, int32_t result, uint32_t flags)
{
	(void)op;
	(void)flags;
	if (!ending)
		check(result, "send");
}

static void received(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct connection *c = (struct connection *)op;

	(void)flags;
	if (ending)
		return;
	check(result, "receive");
	memcpy(c->out, c->in, (size_t)result);
	/* The send of the turn before has always completed: its bytes are what just arrived. */
	if (!kloop_op_is_active(&c->send))
		check(kloop_op_send(c->loop, &c->send, c->fds[1], c->out, (size_t)result, 0), "send");
	check(kloop_op_recv(c->loop, &c->receive, c->fds[0], c->in, sizeof(c->in), 0), "receive");
}

static void open_connection(struct connection *c)
{
	c->loop = the_loop;
	kloop_op_init(&c->receive, received);
	kloop_op_init(&c->send, sent);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, c->fds) < 0) {
		perror("socketpair");
		exit(1);
	}
	check(kloop_op_recv(the_loop, &c->receive, c->fds[0], c->in, sizeof(c->in), 0), "receive");
	check(kloop_op_send(the_loop, &c->send, c->fds[1], "hello", 5, 0), "send");
}

static void again(struct kloop_timer *t)
{
	check(kloop_timer_start(the_loop, t, kloop_now() + 20000), "timer");
}

static void make_loop(bool sqpoll)
{
	struct kloop_loop_options *options;

	check(kloop_loop_options_new(&options), "options");
	check(kloop_loop_options_set_sqpoll(options, sqpoll, 2000, -1), "sqpoll");
	if (sqpoll)
		check(kloop_loop_options_set_spin(options, 1000000000), "spin");
	check(kloop_loop_new(options, &the_loop), "loop");
	kloop_loop_options_free(options);
}

int main(int argc, char **argv)
{
	struct kloop_stats stats;
	long turns = argc == 3 ? atol(argv[2]) : -1;

	if (turns < 0) {
		fprintf(stderr, "usage: %s echo|timers|sqpoll TURNS\n", argv[0]);
		return 2;
	}
	make_loop(strcmp(argv[1], "sqpoll") == 0);
	if (strcmp(argv[1], "timers") == 0) {
		kloop_timer_init(&timer, again);
		again(&timer);
	} else {
		for (int i = 0; i < PAIRS; i++)
			open_connection(&connections[i]);
	}
	for (long i = 0; i < turns; i++)
		check(kloop_loop_turn(the_loop, KLOOP_FOREVER), "turn");
	check(kloop_loop_get_stats(the_loop, &stats, sizeof(stats)), "stats");
	ending = true;
	check(kloop_loop_free(the_loop), "free");
	printf("%llu %llu\n", (unsigned long long)stats.turns, (unsigned long long)stats.enters);
	return 0;
}
