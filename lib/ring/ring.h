/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the ring offers to the rooms above it beyond the public headers: hooks
 * into the turn, the shared pool, direct-call accounting. No type of liburing
 * appears here.
 */
#ifndef KL_RING_H
#define KL_RING_H

#include <kloop/loop.h>
#include <kloop/op.h>
#include <kloop/pool.h>
#include <kloop/timer.h>

#include <errno.h>

#include "memory.h"

struct kl_defer;

/* Memory that is given back and not freed yet, all of one size: the last first. */
struct kl_spares {
	struct kl_spare *first;
	unsigned count;
};

/* Up to so many bytes each, as malloc(3) has no waste of; larger ones come from kl_malloc(). */
enum { KL_SPARE_SMALL = 264, KL_SPARE_MIDDLE = 1032, KL_SPARE_LARGE = 2040, KL_SPARE_SIZES = 3 };

/*
 * What each message needs of the loop: the first part of its struct, in sight of all rooms, so
 * that functions of a line or two are no calls.
 */
struct kl_loop_front {
	const void *owner; /* token of the owning thread */
	unsigned fork_generation;
	bool closing;
	bool called; /* kl_loop_note_call() since the turn began */
	struct kl_defer *defers;
	struct kl_defer **defers_tail;
	struct kloop_pool *receive_pool; /* NULL until it is asked for */
	struct kl_spares spares[KL_SPARE_SIZES];
};

static inline struct kl_loop_front *kl_loop_get_front(const struct kloop_loop *loop)
{
	return (struct kl_loop_front *)(uintptr_t)loop;
}

/*
 * musl refuses to load a library later that has its variables at a fixed place in each thread's
 * memory; with glibc, where there is room for a few such bytes, that saves a call at each check.
 */
#ifdef __GLIBC__
#define KL_THREAD_MODEL __attribute__((visibility("hidden"), tls_model("initial-exec")))
#else
#define KL_THREAD_MODEL __attribute__((visibility("hidden")))
#endif

extern __thread uintptr_t kl_thread_number KL_THREAD_MODEL;
extern unsigned kl_fork_count __attribute__((visibility("hidden")));
const void *kl_thread_number_make(void);

/*
 * A number that no other thread of the process has, before or after: the address
 * of a variable of the thread's own, or its id, are those of a later thread again,
 * to which a ring of the former does not belong.
 */
static inline const void *kl_thread_token(void)
{
	return kl_thread_number != 0 ? (const void *)kl_thread_number : kl_thread_number_make();
}

/*
 * 0 if the calling thread may use the loop now, or -ECHILD, -EPERM, -ESTALE.
 * Cheap: no system call. Submitting functions check by themselves.
 */
static inline int kl_loop_check(const struct kloop_loop *loop)
{
	const struct kl_loop_front *front = kl_loop_get_front(loop);

	if (loop == NULL)
		return -EINVAL;
	if (front->fork_generation != kl_fork_count)
		return -ECHILD;
	if (front->closing)
		return -ESTALE;
	return front->owner == kl_thread_token() ? 0 : -EPERM;
}

/*
 * A call at the start of the next turn, before its submission: streams flush
 * their writes there, deliver what was held, and so on. One that is scheduled
 * again from inside its own call runs in the turn after.
 */
struct kl_defer {
	void (*run)(struct kl_defer *defer);
	struct kl_defer *next; /* private */
	bool scheduled;
};

/* Schedule; scheduling twice is one. The struct is lent until it ran or was dropped. */
static inline void kl_loop_defer(struct kloop_loop *loop, struct kl_defer *defer)
{
	struct kl_loop_front *front = kl_loop_get_front(loop);

	if (defer->scheduled)
		return;
	defer->scheduled = true;
	defer->next = NULL;
	*front->defers_tail = defer;
	front->defers_tail = &defer->next;
}

/*
 * To be said by whoever calls a function of the user: a turn whose start
 * called one does not wait, because the function may have asked for what the
 * wait would keep from happening (a stop, work in a queue of its own).
 */
static inline void kl_loop_note_call(struct kloop_loop *loop)
{
	kl_loop_get_front(loop)->called = true;
}

/*
 * Memory that comes and goes with each message. A few pieces of each size stay with the loop, so
 * that the next to ask gets what is in the processor's cache still. *bytes: as many as are needed;
 * it becomes as many as there are, which is to be told when they are given back. NULL without
 * memory. With AddressSanitizer nothing is kept, so that it sees what is used too long.
 */
void *kl_spare_take(struct kloop_loop *loop, size_t *bytes);
void kl_spare_give(struct kloop_loop *loop, void *memory, size_t bytes);

/* Take back a scheduled call. Cost grows with the number scheduled. */
void kl_loop_drop_defer(struct kloop_loop *loop, struct kl_defer *defer);

/*
 * A call when the loop is freed, after operations in flight have completed:
 * owners that hang on the loop free themselves there. Runs each hook once.
 */
struct kl_exit {
	void (*run)(struct kl_exit *hook);
	struct kl_exit *next, *prev; /* private */
};

void kl_loop_add_exit(struct kloop_loop *loop, struct kl_exit *hook);
void kl_loop_remove_exit(struct kloop_loop *loop, struct kl_exit *hook);

/* Is the loop being freed? Completions arrive with -ECANCELED, nothing new is taken. */
static inline bool kl_loop_is_closing(const struct kloop_loop *loop)
{
	return kl_loop_get_front(loop)->closing;
}

/*
 * Is it being freed in a forked child? Its descriptors mean the parent's sockets and
 * files: nothing is done to them but close(2).
 */
bool kl_loop_is_forked(const struct kloop_loop *loop);

/*
 * The pool of receive buffers that streams share, made at the first call.
 * Fails as kloop_pool_new().
 */
int kl_loop_make_receive_pool(struct kloop_loop *loop);
static inline int kl_loop_get_receive_pool(struct kloop_loop *loop, struct kloop_pool **ret_pool)
{
	struct kl_loop_front *front = kl_loop_get_front(loop);
	int ret = front->receive_pool == NULL ? kl_loop_make_receive_pool(loop) : 0;

	if (ret < 0)
		return ret;
	*ret_pool = front->receive_pool;
	return 0;
}

/*
 * The pool that datagram sockets share: each buffer takes the longest UDP
 * datagram with its sender's address. Fails as kloop_pool_new().
 */
int kl_loop_get_datagram_pool(struct kloop_loop *loop, struct kloop_pool **ret_pool);

/* The size of one buffer of a pool. */
size_t kl_pool_get_buffer_bytes(const struct kloop_pool *pool);

/* The kernel found no buffer: hand it more. Returns: whether there were more. */
bool kl_pool_grow(struct kloop_pool *pool);

/*
 * The loop's large buffers ("hot": they stay in the cache because all streams
 * use them), each made at its first call: NULL if there is no memory. Their
 * contents last until the next callback.
 */
enum kl_hot {
	KL_HOT_RECEIVED, /* as it came from the kernel */
	KL_HOT_PLAIN,    /* what a layer made of it, or gathers to be sent */
	KL_HOT_COUNT,
};

void *kl_loop_get_hot_buffer(struct kloop_loop *loop, enum kl_hot which, size_t *ret_bytes);

/* Count a send(2) or recv(2) made outside the ring. */
void kl_loop_count_direct(struct kloop_loop *loop);

/*
 * Operations of kLoop's own that keep no kloop_loop_run() going: mark before
 * the submission, lasts until the completion.
 */
void kl_op_set_internal(struct kloop_op *op);

/*
 * splice(2) from one descriptor to another, one of them a pipe. offset: in the
 * first, or UINT64_MAX for a pipe. A thread of the kernel does it, always.
 *
 * Returns: as the functions of kloop/op.h.
 */
int kl_op_splice(struct kloop_loop *loop, struct kloop_op *op, int from, uint64_t offset, int to,
		 size_t bytes);

/*
 * recvmsg(2) again and again into buffers of a pool, with KLOOP_OP_MORE while it
 * goes on; an empty datagram ends it as well, as do errors. message: says how
 * much room the address gets (msg_namelen), and has no memory; lent.
 *
 * Returns: as kloop_op_recv_multishot().
 */
int kl_op_recvmsg_multishot(struct kloop_loop *loop, struct kloop_op *op, int fd,
			    struct msghdr *message, struct kloop_pool *pool);

/* A datagram in a buffer of a pool. */
struct kl_received {
	const void *data;
	size_t bytes;
	const void *address;
	socklen_t address_length;
	bool truncated;
};

/* Find it, by a completion's result of at least 0. False: the buffer has none. */
bool kl_pool_read_message(void *buffer, int32_t result, struct msghdr *message,
			  struct kl_received *ret_received);

/*
 * Submit without the checks of the public functions, for code that runs inside
 * a turn anyway, and during the loop's end (a close, a cancel). These return
 * only 0 or -ENOMEM.
 */
int kl_op_close(struct kloop_loop *loop, struct kloop_op *op, int fd);

/*
 * openat(2) and statx(2), for paths from the root and for descriptors; path and
 * buffer are lent. The kernel may give them to a worker of its own. They return
 * as public submissions do; op must not be in flight. A descriptor that arrives
 * although the operation was cancelled is the caller's to close.
 */
struct statx;
int kl_op_open(struct kloop_loop *loop, struct kloop_op *op, const char *path, int flags);
int kl_op_statx(struct kloop_loop *loop, struct kloop_op *op, int fd, const char *path, int flags,
		unsigned mask, struct statx *buffer);

#endif
