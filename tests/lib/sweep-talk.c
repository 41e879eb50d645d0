/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The ends of sweep-talk.h. */
#include "sweep-talk.h"

#include <string.h>

struct kt_talk kt_talk;

void kt_end_finish(struct kt_end *end)
{
	end->over = true;
	if (end->stream)
		kloop_stream_close(end->stream);
}

void kt_end_give_up(struct kt_end *end)
{
	KT_HOLDS(kt_sweep_happened() || kt_sweep_ending);
	end->over = true;
	if (end->stream)
		kloop_stream_abort(end->stream);
}

void kt_end_on_eof(struct kloop_stream *stream, void *user)
{
	struct kt_end *end = user;

	KT_HOLDS(end->stream == stream && !end->errors && end->eofs++ == 0);
	kt_end_finish(end);
}

void kt_end_on_error(struct kloop_stream *stream, int error, void *user)
{
	struct kt_end *end = user;

	KT_HOLDS(end->stream == stream && error < 0 && end->errors++ == 0);
	KT_HOLDS(!kt_sweep_must_succeed() || kt_sweep_ending);
	kt_end_give_up(end);
}

void kt_end_on_close(struct kloop_stream *stream, void *user)
{
	struct kt_end *end = user;

	KT_HOLDS(end->stream == stream && end->closed++ == 0);
	end->stream = NULL;
}

bool kt_talk_closed(void *data)
{
	(void)data;
	return !kt_talk.client.stream && !kt_talk.server.stream;
}

/* A listener tries again after a tenth of a second. */
static void start_patience(struct kloop_timer *timer)
{
	uint64_t deadline_ns = kloop_now() + 400 * KT_MS;

	KT_PLAIN(ck_assert_int_eq(kloop_timer_start(kt_talk.loop, timer, deadline_ns), 0));
}

/*
 * A fault can make the other side wait for what will not come (a connection
 * that nobody accepts any more): then the end is made here, by aborts.
 */
static void out_of_patience(struct kloop_timer *timer)
{
	/* Without a fault it ends by itself. */
	if (!kt_sweep_happened() || kt_sweep_must_succeed()) {
		start_patience(timer);
		return;
	}
	if (kt_talk.client.stream)
		kt_end_give_up(&kt_talk.client);
	if (kt_talk.server.stream)
		kt_end_give_up(&kt_talk.server);
}

struct kloop_loop *kt_talk_open(int mode)
{
	memset(&kt_talk, 0, sizeof(kt_talk));
	kt_talk.loop = kt_sweep_loop(mode);
	if (kt_talk.loop) {
		kloop_timer_init(&kt_talk.patience, out_of_patience);
		start_patience(&kt_talk.patience);
	}
	return kt_talk.loop;
}
