/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Making the ring: a ladder of flags, tried from the best down, never judged
 * by version strings, which distributions' kernels make meaningless.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#define REGISTER_AFTER_WAITS 64

struct rung {
	unsigned flags;
	uint64_t features;
};

static const struct rung plain_rungs[] = {
	{ IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
		  IORING_SETUP_SUBMIT_ALL | IORING_SETUP_R_DISABLED,
	  KLOOP_FEATURE_SINGLE_ISSUER | KLOOP_FEATURE_DEFER_TASKRUN | KLOOP_FEATURE_TASKRUN_FLAG },
	{ IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
	  KLOOP_FEATURE_COOP_TASKRUN | KLOOP_FEATURE_TASKRUN_FLAG },
	{ 0, 0 },
};

/* No SINGLE_ISSUER: it saves nothing here and keeps a thread that takes over from cancelling. */
static const struct rung sqpoll_rungs[] = {
	{ IORING_SETUP_SQPOLL | IORING_SETUP_SUBMIT_ALL, KLOOP_FEATURE_SQPOLL },
	{ IORING_SETUP_SQPOLL, KLOOP_FEATURE_SQPOLL },
};

static int unavailable(int error)
{
	switch (error) {
	case -EPERM:
	case -EACCES:
		return KLOOP_ERROR_RING_DENIED;
	case -ENOSYS:
		return KLOOP_ERROR_RING_MISSING;
	default:
		return error;
	}
}

static int try_rung(struct kloop_loop *loop, const struct rung *rung, struct io_uring_params *params)
{
	const struct kloop_loop_options *options = &loop->options;

	memset(params, 0, sizeof(*params));
	params->flags = rung->flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
	params->cq_entries = options->completions;
	if (rung->flags & IORING_SETUP_SQPOLL) {
		params->sq_thread_idle = options->sqpoll_idle_ms;
		if (options->sqpoll_cpu >= 0) {
			params->flags |= IORING_SETUP_SQ_AFF;
			params->sq_thread_cpu = (unsigned)options->sqpoll_cpu;
		}
	}
	return io_uring_queue_init_params(options->submissions, &loop->ring, params);
}

/*
 * Features that no set-up flag shows, told by an operation of the same kernel
 * release: SOCKET came with multishot accept and buffer rings (5.19), SEND_ZC
 * with multishot receive (6.0).
 */
static uint64_t probe_features(struct kloop_loop *loop, const struct io_uring_params *params)
{
	uint64_t features = 0;
	struct io_uring_probe *probe = io_uring_get_probe_ring(&loop->ring);

	if (params->features & IORING_FEAT_CQE_SKIP)
		features |= KLOOP_FEATURE_CQE_SKIP;
	if (probe != NULL) {
		if (io_uring_opcode_supported(probe, IORING_OP_SOCKET))
			features |= KLOOP_FEATURE_BUFFER_RING | KLOOP_FEATURE_ACCEPT_MULTISHOT;
		if (io_uring_opcode_supported(probe, IORING_OP_SEND_ZC))
			features |= KLOOP_FEATURE_RECV_MULTISHOT;
		if (io_uring_opcode_supported(probe, IORING_OP_MKDIRAT))
			features |= KLOOP_FEATURE_MKDIRAT;
		if (io_uring_opcode_supported(probe, KL_IORING_OP_FTRUNCATE))
			features |= KLOOP_FEATURE_FTRUNCATE;
		io_uring_free_probe(probe);
	}
	features &= ~loop->options.without;
	if (!(features & KLOOP_FEATURE_BUFFER_RING))
		features &= ~(uint64_t)KLOOP_FEATURE_RECV_MULTISHOT;
	return features;
}

static int check_processor(const struct kloop_loop *loop)
{
	long count = sysconf(_SC_NPROCESSORS_CONF);

	if (loop->options.sqpoll && count > 0 && loop->options.sqpoll_cpu >= count)
		return -EINVAL;
	return 0;
}

/* Make the ring, not bound to a thread yet where the kernel can put that off. */
int kl_ring_open(struct kloop_loop *loop)
{
	const struct rung *rungs = loop->options.sqpoll ? sqpoll_rungs : plain_rungs;
	size_t count = loop->options.sqpoll ? sizeof(sqpoll_rungs) / sizeof(sqpoll_rungs[0]) :
					      sizeof(plain_rungs) / sizeof(plain_rungs[0]);
	const char *off = getenv("KLOOP_IO_URING");
	struct io_uring_params params;
	uint64_t features = 0;
	int ret;

	if (off != NULL && strcmp(off, "0") == 0)
		return KLOOP_ERROR_RING_OFF;
	ret = check_processor(loop);
	if (ret < 0)
		return ret;
	ret = -EINVAL;
	for (size_t i = 0; i < count && ret == -EINVAL; i++) {
		if (rungs[i].features & loop->options.without & ~(uint64_t)KLOOP_FEATURE_TASKRUN_FLAG)
			continue;
		ret = try_rung(loop, &rungs[i], &params);
		if (ret == 0) {
			features = rungs[i].features & ~loop->options.without;
			loop->ring_enabled = !(rungs[i].flags & IORING_SETUP_R_DISABLED);
		}
	}
	if (ret == -EINVAL)
		return KLOOP_ERROR_RING_TOO_OLD;
	if (ret < 0)
		return unavailable(ret);
	if (!(params.features & IORING_FEAT_EXT_ARG) || !(params.features & IORING_FEAT_NODROP)) {
		io_uring_queue_exit(&loop->ring);
		return KLOOP_ERROR_RING_TOO_OLD;
	}
	loop->ring_open = true;
	features |= probe_features(loop, &params);
	/* At once: other threads may ask, also while the loop changes its thread. */
	__atomic_store_n(&loop->features, features, __ATOMIC_RELAXED);
	return 0;
}

/*
 * How late the kernel may end a sleep of the calling thread, so that timers next to each other
 * share one: 50 us if nobody changed it, nothing with real-time scheduling. The calls that sleep
 * otherwise, epoll_wait(2) among them, all heed it; a wait in io_uring does not.
 */
static uint64_t timer_slack_ns(void)
{
	int slack = prctl(PR_GET_TIMERSLACK);

	return slack > 0 ? (uint64_t)slack : 0;
}

/* Have the calling thread name the ring by a number of its own, which saves a look-up per call. */
static void register_descriptor(struct kloop_loop *loop)
{
	loop->unregistered_waits = 0;
	if (io_uring_register_ring_fd(&loop->ring) != 1)
		return;
	loop->registrant = kl_thread_token();
	__atomic_fetch_or(&loop->features, (uint64_t)KLOOP_FEATURE_REGISTERED_RING,
			  __ATOMIC_RELAXED);
}

/*
 * A registered descriptor keeps the ring, and with it every socket that it has an
 * operation on, until its thread ends: no other thread can take it back, nor
 * cancel on a ring of DEFER_TASKRUN. So a thread that leaves the loop takes it back.
 */
void kl_ring_leave(struct kloop_loop *loop)
{
	if (!loop->ring_open || loop->registrant != kl_thread_token())
		return;
	if (io_uring_unregister_ring_fd(&loop->ring) == 1)
		loop->registrant = NULL;
}

/* A thread that is back registers it again when it has stayed for some waits: short runs do not pay. */
void kl_ring_count_wait(struct kloop_loop *loop)
{
	if (loop->registrant == NULL && loop->features & KLOOP_FEATURE_REGISTERED_RING &&
	    ++loop->unregistered_waits == REGISTER_AFTER_WAITS)
		register_descriptor(loop);
}

/*
 * Bind the ring to the calling thread: single-issuer rings are enabled here,
 * and the ring's descriptor is registered, which belongs to the thread.
 */
int kl_ring_bind(struct kloop_loop *loop)
{
	int ret;

	if (!loop->ring_enabled) {
		/* liburing 2.3 declares io_uring_enable_rings() and does not export it. */
		ret = io_uring_register((unsigned)loop->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
		if (ret < 0)
			return ret;
		loop->ring_enabled = true;
	}
	loop->timer_slack_ns = timer_slack_ns();
	if (!(loop->options.without & KLOOP_FEATURE_REGISTERED_RING))
		register_descriptor(loop);
	return 0;
}

/*
 * The number under which a thread has registered the ring means another ring in
 * any other thread, or in a forked child: enter none by it, and remove none.
 */
void kl_ring_disown(struct kloop_loop *loop)
{
	if (loop->registrant != NULL && (loop->registrant != kl_thread_token() ||
					 loop->front.fork_generation != kl_fork_generation()))
		loop->ring.enter_ring_fd = -1;
}

void kl_ring_close(struct kloop_loop *loop)
{
	if (!loop->ring_open)
		return;
	kl_ring_disown(loop);
	io_uring_queue_exit(&loop->ring);
	loop->registrant = NULL;
	loop->ring_open = false;
}
