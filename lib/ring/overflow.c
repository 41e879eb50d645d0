/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Completions beyond their queue's room. The kernel keeps them in a list of its
 * own, and moves them to the queue in a call; that of the ring's own thread where
 * there is only one (SINGLE_ISSUER). If another thread is to take the loop over,
 * or to free it, it could not make that call, and they were lost: connections that
 * nobody closes, bytes that nobody gets. So on such a ring no call returns while
 * the kernel's list holds anything: it is kept here until the next dispatch.
 */
#include "internal.h"

#include <string.h>

static bool kernel_has_more(const struct kloop_loop *loop)
{
	return (__atomic_load_n(loop->ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_CQ_OVERFLOW) != 0;
}

static bool make_room(struct kloop_loop *loop, size_t count)
{
	struct kl_completion *grown;
	size_t capacity;

	if (loop->kept_head != 0)
		memmove(loop->kept, loop->kept + loop->kept_head,
			loop->kept_count * sizeof(*loop->kept));
	loop->kept_head = 0;
	if (loop->kept_count + count <= loop->kept_capacity)
		return true;
	capacity = 2 * (loop->kept_count + count);
	grown = kl_realloc(loop->kept, capacity * sizeof(*grown));
	if (grown == NULL)
		return false;
	loop->kept = grown;
	loop->kept_capacity = capacity;
	return true;
}

/* Move what is in the queue behind what is kept. False: no memory. */
static bool keep_queue(struct kloop_loop *loop)
{
	unsigned count = io_uring_cq_ready(&loop->ring);
	struct io_uring_cqe *cqe;

	if (!make_room(loop, count))
		return false;
	while (count-- != 0 && io_uring_peek_cqe(&loop->ring, &cqe) == 0) {
		loop->kept[loop->kept_head + loop->kept_count++] =
			(struct kl_completion){ cqe->user_data, cqe->res, cqe->flags };
		io_uring_cqe_seen(&loop->ring, cqe);
	}
	return true;
}

/*
 * To be called after each call that enters the ring. It ends: what overflows is
 * the last completion of its operation, and nothing is submitted meanwhile; so
 * no more is kept than operations are in flight, and one queue. Without memory
 * the kernel keeps it until the next call.
 */
void kl_overflow_keep(struct kloop_loop *loop)
{
	if (!(loop->features & KLOOP_FEATURE_SINGLE_ISSUER) || !kernel_has_more(loop))
		return;
	loop->stats.overflows++;
	while (kernel_has_more(loop) && keep_queue(loop)) {
		loop->stats.enters++;
		if (io_uring_get_events(&loop->ring) < 0)
			return;
	}
}

/*
 * Have the kernel fill the queue once more from what did not fit, on a ring that
 * is given up: by its descriptor, which any thread may use where there is not a
 * single issuer. Returns: whether there is something new.
 */
bool kl_overflow_flush(struct kloop_loop *loop)
{
	return kernel_has_more(loop) &&
	       io_uring_enter((unsigned)loop->ring.ring_fd, 0, 0, IORING_ENTER_GETEVENTS, NULL) >= 0 &&
	       io_uring_cq_ready(&loop->ring) != 0;
}
