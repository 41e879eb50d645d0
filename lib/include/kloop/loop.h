/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The loop: one io_uring, the operations in flight on it, timers, wake-ups.
 *
 * A loop belongs to one thread at a time: the one that called
 * kloop_loop_turn() or kloop_loop_run() last; before the first such call, the
 * one that made it. Functions that may be called from any thread say so.
 */
#ifndef KLOOP_LOOP_H
#define KLOOP_LOOP_H

#include <kloop/base.h>

KLOOP_BEGIN_DECLS

struct kloop_loop;
struct kloop_loop_options;

/* What a loop got from the kernel: bits of kloop_loop_get_features(). */
enum kloop_feature {
	KLOOP_FEATURE_SINGLE_ISSUER = 1 << 0,  /* Linux 6.0 */
	KLOOP_FEATURE_DEFER_TASKRUN = 1 << 1,  /* Linux 6.1 */
	KLOOP_FEATURE_COOP_TASKRUN = 1 << 2,   /* Linux 5.19 */
	KLOOP_FEATURE_TASKRUN_FLAG = 1 << 3,   /* Linux 5.19: pending work is visible without a call */
	KLOOP_FEATURE_SQPOLL = 1 << 4,         /* asked for, and granted */
	KLOOP_FEATURE_REGISTERED_RING = 1 << 5, /* Linux 5.18 */
	KLOOP_FEATURE_BUFFER_RING = 1 << 6,    /* Linux 5.19 */
	KLOOP_FEATURE_RECV_MULTISHOT = 1 << 7, /* Linux 6.0 */
	KLOOP_FEATURE_ACCEPT_MULTISHOT = 1 << 8, /* Linux 5.19 */
	KLOOP_FEATURE_CQE_SKIP = 1 << 9,       /* Linux 5.17 */
	KLOOP_FEATURE_MKDIRAT = 1 << 10,       /* Linux 5.15 */
	KLOOP_FEATURE_FTRUNCATE = 1 << 11,     /* Linux 6.9 */
};

/*
 * Make a set of options that says "default" everywhere.
 *
 * ret_options: the new set.
 *
 * Ownership: the caller frees it with kloop_loop_options_free(); a loop copies
 * what it needs.
 * Thread: any; one set is used by one thread at a time.
 * Returns: 0; -EINVAL if ret_options is NULL; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_options_new(struct kloop_loop_options **ret_options) KLOOP_MUST_CHECK;

/* Free a set of options; NULL is permitted. */
KLOOP_EXPORT void kloop_loop_options_free(struct kloop_loop_options *options);

/*
 * The size of the submission queue, and of the completion queue.
 *
 * submissions: 1 to 32768 entries, rounded up to a power of two; default 1024.
 * completions: at least as many, to 65536; default 8192. A full queue loses
 * nothing: the kernel keeps what does not fit.
 *
 * Returns: 0; -EINVAL if a number is out of range.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_options_set_entries(struct kloop_loop_options *options,
						unsigned submissions,
						unsigned completions) KLOOP_MUST_CHECK;

/*
 * Let a thread of the kernel poll the submission queue (IORING_SETUP_SQPOLL).
 *
 * on: default false. It pays on a processor of its own only; where processors
 * are shared it halves throughput.
 * idle_ms: after so many milliseconds without work the thread sleeps, and the
 * next submission costs one system call; 0 means 1000.
 * cpu: the processor to pin it to, or -1.
 *
 * The thread acts with the credentials that the process had when it made the
 * loop: make it after dropping privileges.
 *
 * Returns: 0; -EINVAL if cpu is below -1.
 * Kernel: 5.11 with CAP_SYS_NICE, 5.13 without privilege.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_options_set_sqpoll(struct kloop_loop_options *options, bool on,
					       unsigned idle_ms, int cpu) KLOOP_MUST_CHECK;

/*
 * Look for completions in user space before sleeping in the kernel.
 *
 * spin_ns: for so long, in nanoseconds, to 1 second. Default 0, and 50000 with
 * SQPOLL. It trades processor time for latency and system calls.
 *
 * Returns: 0; -EINVAL if out of range.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_options_set_spin(struct kloop_loop_options *options,
					     uint64_t spin_ns) KLOOP_MUST_CHECK;

/*
 * The pool of receive buffers that the loop's streams share.
 *
 * count: buffers, a power of two from 1 to 32768; default 256.
 * buffer_bytes: the size of each, 256 to 1 MiB; default 16384.
 *
 * Returns: 0; -EINVAL if a number is out of range.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_options_set_receive_pool(struct kloop_loop_options *options,
						     unsigned count,
						     size_t buffer_bytes) KLOOP_MUST_CHECK;

/*
 * Make the loop do without features of newer kernels, to test what lies below.
 *
 * features: bits of enum kloop_feature that must not be used.
 *
 * Since: 0.1.
 */
KLOOP_EXPORT void kloop_loop_options_set_without(struct kloop_loop_options *options,
						 uint64_t features);

/*
 * Make a loop.
 *
 * options: a set of options, or NULL for the defaults.
 * ret_loop: the new loop.
 *
 * The ring is made at once; each flag that the kernel does not know is left
 * out and the set-up tried again. Where nothing works the return value says
 * why. The environment variable KLOOP_IO_URING=0 is read before the first
 * system call, for sandboxes that kill the process at io_uring_setup(2).
 *
 * Ownership: the caller frees it with kloop_loop_free().
 * Thread: any. The thread of the first turn owns the loop.
 * Returns: 0; -EINVAL if ret_loop is NULL or SQPOLL's processor does not exist;
 * -ENOMEM, also when RLIMIT_MEMLOCK is too low for the rings of this user
 * without CAP_IPC_LOCK (before Linux 5.12, and on newest kernels again, where a
 * ring of the default size counts some 200 KiB); -EMFILE or -ENFILE for lack of
 * descriptors; KLOOP_ERROR_RING_OFF, KLOOP_ERROR_RING_DENIED,
 * KLOOP_ERROR_RING_MISSING, KLOOP_ERROR_RING_TOO_OLD.
 * Kernel: 5.11.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_new(const struct kloop_loop_options *options,
				struct kloop_loop **ret_loop) KLOOP_MUST_CHECK;

/*
 * Free a loop; NULL is permitted.
 *
 * Whatever is in flight is cancelled first and completes (with -ECANCELED, or
 * with its result if it was faster) inside this call; streams that read or
 * write have on_error with -ECANCELED, and on_close; timers are dropped
 * without a call. A completion function that submits again is refused with
 * -ESTALE.
 *
 * By another thread while the owner lives: it cannot wait for what a thread of
 * the kernel is in the middle of. Such an operation (a read or write of a file,
 * mostly) completes with -ECANCELED, and may use the memory lent to it for a
 * moment longer. The owner waits, and an owner that ended has waited.
 *
 * In a forked child it frees there what the child has copies of: operations
 * complete with -ECANCELED, lent memory is released, streams and the like end
 * as if aborted, with on_close alone, lookups end, calls that were posted are
 * made. Descriptors are closed, as far as they are the library's to close.
 * Nothing is sent, shut down or cancelled: the parent and its peers notice
 * nothing. From inside a callback it frees as well, after which the child must
 * not return from that callback. Without freeing it may return: the turn then
 * ends with -ECHILD. What the kernel had accepted before the fork, and the
 * parent was not told of, stays open in the child until it execs or ends.
 *
 * Thread: the owner, or any thread while no other is inside the loop.
 * Returns: 0; -EBUSY inside a callback of the loop, but not in a forked child.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_free(struct kloop_loop *loop);

/*
 * One turn: submit what was prepared, wait, and call what is due.
 *
 * timeout_ns: how long to wait at most; 0 does not wait, KLOOP_FOREVER has no
 * limit. The nearest timer ends the wait as well.
 *
 * Completions come first, then timers that are due, then calls posted by other
 * threads. What these prepare is submitted by the next turn. A turn that need
 * not wait and finds nothing to submit or to reap makes no system call.
 *
 * Thread: the owner. Another thread takes the loop over if the owner is not
 * inside it; operations that are in flight then complete with -ECANCELED.
 * Returns: the number of callbacks called, 0 after a time-out; -EINTR if a
 * signal handler ran during the wait (nothing is lost: call again); -EDEADLK
 * from inside a callback of the loop; -ECHILD in a forked child; -EPERM while
 * another thread is inside the loop; -ESTALE while it is being freed; another
 * negative errno if io_uring_enter(2) fails for good.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_turn(struct kloop_loop *loop, uint64_t timeout_ns) KLOOP_MUST_CHECK;

/*
 * Run turns until kloop_loop_stop() is called or nothing is left to wait for.
 *
 * "Left" are operations in flight, active timers, signal and child watchers.
 *
 * Returns: 0; as kloop_loop_turn(), but -EINTR is retried.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_run(struct kloop_loop *loop) KLOOP_MUST_CHECK;

/*
 * Make the calling thread the loop's owner before its first turn, so that it
 * may submit; kloop_loop_turn() does the same by itself.
 *
 * The ring belongs to a thread from its first turn on, and a new one is made
 * for another thread. What the kernel had completed for the former owner is
 * delivered from inside this call; what is in flight completes with -ECANCELED
 * in the next turn. Streams and listeners go on by themselves.
 *
 * Thread: any; no other may be inside the loop.
 * Returns: 0, also if it is the owner already; -EBUSY if operations are in
 * flight to whose memory the kernel may still write (reads, sends, ...);
 * -EPERM while another thread is inside the loop; -ECHILD, -ESTALE as
 * everywhere; errors as kloop_loop_new(), after which it can be tried again:
 * until then what is submitted waits.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_adopt(struct kloop_loop *loop) KLOOP_MUST_CHECK;

/*
 * Say that the calling thread, which turns the loop by kloop_loop_turn(), is done
 * with it for a while, or for good.
 *
 * Where the kernel knows the loop's ring by a number of this thread
 * (KLOOP_FEATURE_REGISTERED_RING), that keeps the ring until the thread ends, also
 * when another thread has taken the loop over or freed it: connections that were
 * in flight stay open for their peers, and listeners listen. This call gives it
 * back. The thread remains the owner and may turn the loop again at any time.
 * kloop_loop_run() does the same at its end.
 *
 * Thread: the owner.
 * Returns: 0; -EBUSY from inside a callback; -EINVAL, -EPERM, -ECHILD, -ESTALE as
 * everywhere.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_leave(struct kloop_loop *loop) KLOOP_MUST_CHECK;

/* End kloop_loop_run() after the turn in progress. Thread: the owner. Since: 0.1. */
KLOOP_EXPORT void kloop_loop_stop(struct kloop_loop *loop);

/*
 * Hand what was prepared to the kernel now, without waiting for the turn.
 *
 * For what must have taken effect when the caller goes on: after a cancel or a
 * close, say, the kernel has let go of the descriptor. Completions are kept
 * for the next turn. What streams gather until the turn (writes, closes) is not
 * yet prepared. With SQPOLL the kernel's thread takes it a little later.
 *
 * Thread: the owner; also from inside a callback.
 * Returns: 0; -EINVAL; -EPERM, -ECHILD, -ESTALE as everywhere; another negative
 * errno if io_uring_enter(2) fails for good.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_submit(struct kloop_loop *loop) KLOOP_MUST_CHECK;

/*
 * Would a turn find something to do without waiting?
 *
 * True if completions are there, the kernel has work waiting for this thread,
 * or operations wait to be submitted. Makes no system call. Timers are not
 * looked at.
 *
 * Thread: the owner.
 * Since: 0.1.
 */
KLOOP_EXPORT bool kloop_loop_is_ready(const struct kloop_loop *loop);

/*
 * Call a function right before the loop sleeps in the kernel.
 *
 * before_wait: called with data, in each turn that waits; NULL for none. For a
 * lock that callbacks need and that must not be held in sleep. It may not call
 * the loop.
 *
 * Thread: the owner.
 * Since: 0.1.
 */
KLOOP_EXPORT void kloop_loop_set_before_wait(struct kloop_loop *loop,
					     void (*before_wait)(void *data), void *data);

/*
 * The time of the loop's clock now: CLOCK_MONOTONIC in nanoseconds.
 *
 * Thread: any.
 * Since: 0.1.
 */
KLOOP_EXPORT uint64_t kloop_now(void);

/*
 * End the wait of the turn in progress, or of the next one.
 *
 * Wakes that come before the loop looks are one. Makes a system call only if
 * the loop sleeps or is about to.
 *
 * Thread: any; also from a signal handler.
 * Returns: 0; -ECHILD in a forked child; a negative errno from write(2).
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_wake(struct kloop_loop *loop);

/* A call to be made on the loop's thread. The caller provides the memory. */
struct kloop_call;
typedef void kloop_call_fn(struct kloop_call *call);
struct kloop_call {
	kloop_call_fn *call; /* set by the caller */
	struct kloop_call *next; /* private */
};

/*
 * Have a function called on the loop's thread.
 *
 * call: its function is set; it is lent until that function is called, and
 * must not be posted twice before.
 *
 * Calls run in the order in which they were posted.
 *
 * Completion: once, in a later turn. A loop that is freed first calls it from
 * kloop_loop_free().
 * Thread: any.
 * Returns: 0; -EINVAL; -ECHILD in a forked child; -ESTALE if the loop is being
 * freed (nothing is lent).
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_post(struct kloop_loop *loop, struct kloop_call *call) KLOOP_MUST_CHECK;

/* What the loop got from the kernel: bits of enum kloop_feature. Thread: any. Since: 0.1. */
KLOOP_EXPORT uint64_t kloop_loop_get_features(const struct kloop_loop *loop);

/* Counters since the loop was made. Later versions add fields at the end. */
struct kloop_stats {
	uint64_t turns;        /* calls of kloop_loop_turn() that got to work */
	uint64_t enters;       /* calls of io_uring_enter(2) */
	uint64_t waits;        /* those that slept, or may have */
	uint64_t submissions;  /* operations handed to the kernel */
	uint64_t completions;  /* completions taken from it */
	uint64_t overflows;    /* times the completion queue was found overflown */
	uint64_t queue_full;   /* operations that found the submission queue full */
	uint64_t wakes;        /* wake-ups by other threads that cost a system call */
	uint64_t timers_fired;
	uint64_t timers_active; /* now */
	uint64_t in_flight;     /* operations now, the loop's own not counted */
	uint64_t buffers;       /* receive buffers in pools now */
	uint64_t buffers_lent;  /* of these, in use by kernel results or callers now */
	uint64_t buffers_empty; /* receives that found their pool empty (ENOBUFS) */
	uint64_t direct_calls;  /* send(2) and recv(2) made outside the ring */
};

/*
 * Read the counters.
 *
 * ret_stats: filled as far as bytes reaches; the rest of it is set to 0 if it
 * is longer than what this version knows.
 * bytes: sizeof(struct kloop_stats) as the caller knows it.
 *
 * Thread: the owner.
 * Returns: 0; -EINVAL.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_loop_get_stats(const struct kloop_loop *loop, struct kloop_stats *ret_stats,
				      size_t bytes) KLOOP_MUST_CHECK;

KLOOP_END_DECLS

#endif
