/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Faults of inject.h: counting, and what is done to entries on their way to the ring. */
#include "inject.h"

#include "wrapped.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_CALLS 8192
/* Linux 6.11: a NOP that says its result; older ones ignore it, see patch(). */
#define NOP_INJECT_RESULT 1u

static const struct kt_inject_site *sites[MAX_CALLS];
static struct kt_inject_counts counts;
static size_t call_due, call_variant, operation_due;
static int operation_result;
static unsigned shuffle_state;
static bool counting, happened;
static int paused;
static __u64 patched; /* user_data of the entry that was replaced; 0 for none */

static void begin(void)
{
	memset(&counts, 0, sizeof(counts));
	call_due = call_variant = operation_due = 0;
	shuffle_state = 0;
	happened = false;
	patched = 0;
	counting = true;
}

void kt_inject_count(void)
{
	begin();
}

void kt_inject_call(size_t call, size_t variant)
{
	begin();
	call_due = call;
	call_variant = variant;
}

void kt_inject_operation(size_t operation, int result)
{
	begin();
	operation_due = operation;
	operation_result = result;
}

void kt_inject_all(size_t call, size_t variant, size_t operation, int result, unsigned shuffle)
{
	begin();
	call_due = call;
	call_variant = variant;
	operation_due = operation;
	operation_result = result;
	shuffle_state = shuffle;
}

bool kt_inject_end(void)
{
	counting = false;
	return happened;
}

bool kt_inject_happened(void)
{
	return happened;
}

struct kt_inject_counts kt_inject_get_counts(void)
{
	return counts;
}

void kt_inject_pause(void)
{
	paused++;
}

void kt_inject_resume(void)
{
	paused--;
}

/* ---- calls ------------------------------------------------------------ */

static size_t count_errors(const struct kt_inject_site *site)
{
	size_t count = 0;

	while (site->errors[count] != 0)
		count++;
	return count;
}

size_t kt_inject_variants(size_t call)
{
	return call > 0 && call <= MAX_CALLS && sites[call - 1] ? count_errors(sites[call - 1]) : 0;
}

const char *kt_inject_name(size_t call)
{
	return call > 0 && call <= MAX_CALLS && sites[call - 1] ? sites[call - 1]->name : "?";
}

int kt_inject_look(const struct kt_inject_site *site)
{
	if (!counting || paused)
		return 0;
	if (counts.calls < MAX_CALLS && call_due == 0 && operation_due == 0)
		sites[counts.calls] = site;
	if (++counts.calls != call_due)
		return 0;
	happened = true;
	return site->errors[call_variant % count_errors(site)];
}

/* ---- operations ------------------------------------------------------- */

/* A vector and a message of one byte, of the one that is made short; the kernel reads it later. */
static struct iovec short_vector;
static struct msghdr short_message;

static bool shorten_message(struct io_uring_sqe *sqe)
{
	const struct msghdr *message = (const struct msghdr *)(uintptr_t)sqe->addr;
	socklen_t length = sizeof(int);
	int type = SOCK_DGRAM;

	/* A datagram is never short. */
	if (getsockopt(sqe->fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 || type != SOCK_STREAM ||
	    message->msg_iovlen == 0 || message->msg_iov->iov_len < 2)
		return false;
	short_message = *message;
	short_vector = *message->msg_iov;
	short_vector.iov_len = 1;
	short_message.msg_iov = &short_vector;
	short_message.msg_iovlen = 1;
	sqe->addr = (uintptr_t)&short_message;
	return true;
}

/* Returns: whether it can end that way. */
static bool shorten(struct io_uring_sqe *sqe)
{
	switch (sqe->opcode) {
	case IORING_OP_RECV:
		if (sqe->ioprio & IORING_RECV_MULTISHOT) {
			/* As if the completion queue were full: the kernel ends it with a result. */
			sqe->ioprio &= (__u16)~IORING_RECV_MULTISHOT;
			return true;
		}
		if (sqe->len < 2)
			return false;
		sqe->len = 1;
		return true;
	case IORING_OP_ACCEPT:
		if (!(sqe->ioprio & IORING_ACCEPT_MULTISHOT))
			return false;
		sqe->ioprio &= (__u16)~IORING_ACCEPT_MULTISHOT;
		return true;
	case IORING_OP_READ:
	case IORING_OP_WRITE:
	case IORING_OP_SEND:
	case IORING_OP_SPLICE:
		if (sqe->len < 2)
			return false;
		sqe->len = 1;
		return true;
	case IORING_OP_READV:
	case IORING_OP_WRITEV:
		short_vector = *(const struct iovec *)(uintptr_t)sqe->addr;
		if (short_vector.iov_len == 0)
			return false;
		short_vector.iov_len = 1;
		sqe->addr = (uintptr_t)&short_vector;
		sqe->len = 1;
		return true;
	case IORING_OP_SENDMSG:
		return shorten_message(sqe);
	default:
		return false;
	}
}

/* It ends with this result, and nothing is done. */
static void replace(struct io_uring_sqe *sqe, int result)
{
	__u64 user_data = sqe->user_data;

	/* A descriptor is gone after each close(2) that the kernel began. */
	if (sqe->opcode == IORING_OP_CLOSE && result != -ECANCELED)
		close(sqe->fd);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_NOP;
	sqe->fd = -1;
	sqe->user_data = user_data;
	sqe->len = (__u32)result;
	sqe->rw_flags = NOP_INJECT_RESULT;
	patched = user_data;
}

bool kt_inject_knows_results(void)
{
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	bool known = false;

	if (__real_io_uring_queue_init_params(1, &ring, &(struct io_uring_params){ 0 }) < 0)
		return false;
	sqe = io_uring_get_sqe(&ring);
	replace(sqe, -EIO);
	patched = 0;
	if (__real_io_uring_submit(&ring) == 1 && io_uring_wait_cqe(&ring, &cqe) == 0)
		known = cqe->res == -EIO;
	io_uring_queue_exit(&ring);
	return known;
}

/* The entries that the next call hands over. */
static void look_at_entries(struct io_uring *ring)
{
	struct io_uring_sq *sq = &ring->sq;
	unsigned i;

	if (!counting || paused)
		return;
	for (i = sq->sqe_head; i != sq->sqe_tail; i++) {
		struct io_uring_sqe *sqe = &sq->sqes[i & sq->ring_mask];

		/* Cancels have no completion of their own; what they end has. */
		if (sqe->opcode == IORING_OP_ASYNC_CANCEL || ++counts.operations != operation_due)
			continue;
		kt_inject_pause();
		if (operation_result != KT_SHORT) {
			replace(sqe, operation_result);
			happened = true;
		} else {
			happened = shorten(sqe);
		}
		kt_inject_resume();
	}
}

/* Where the kernel does not know the flag, its completion says 0: it is there now, or overflowed. */
static void patch(struct io_uring *ring)
{
	struct io_uring_cq *cq = &ring->cq;
	unsigned tail = __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE);
	unsigned i;

	/* A polling thread completes at a time of its own. */
	if (ring->flags & IORING_SETUP_SQPOLL)
		patched = 0;
	if (patched == 0)
		return;
	for (i = *cq->khead; i != tail; i++) {
		struct io_uring_cqe *cqe = &cq->cqes[i & cq->ring_mask];

		if (cqe->user_data == patched) {
			cqe->res = operation_result;
			patched = 0;
			return;
		}
	}
}

/* ---- order ------------------------------------------------------------ */

#define SHUFFLED 64

static unsigned draw(unsigned below)
{
	shuffle_state ^= shuffle_state << 13;
	shuffle_state ^= shuffle_state >> 17;
	shuffle_state ^= shuffle_state << 5;
	return shuffle_state % below;
}

/*
 * The kernel promises an order for the completions of one operation only, so
 * those of others may change places.
 */
static void shuffle(struct io_uring *ring)
{
	struct io_uring_cqe former[SHUFFLED], *cqes = ring->cq.cqes;
	unsigned head = *ring->cq.khead, mask = ring->cq.ring_mask;
	unsigned count = io_uring_cq_ready(ring);
	bool taken[SHUFFLED] = { false };
	__u64 order[SHUFFLED];

	if (!counting || shuffle_state == 0 || (ring->flags & IORING_SETUP_CQE32))
		return;
	if (count > SHUFFLED)
		count = SHUFFLED;
	for (unsigned i = 0; i < count; i++) {
		unsigned other = draw(i + 1);

		former[i] = cqes[(head + i) & mask];
		order[i] = order[other];
		order[other] = former[i].user_data;
	}
	for (unsigned i = 0; i < count; i++) {
		unsigned j = 0;

		while (taken[j] || former[j].user_data != order[i])
			j++;
		taken[j] = true;
		memcpy(&cqes[(head + i) & mask], &former[j], sizeof(former[j]));
	}
}

static const struct kt_inject_site enter_site = { "io_uring_enter",
						  { EINTR, EAGAIN, EBUSY, ENOMEM } };

/* What hands entries over, and may find completions. */
#define WRAP_ENTER(name, parameters, arguments)                                \
	int __wrap_##name parameters                                           \
	{                                                                      \
		int error = kt_inject_look(&enter_site);                       \
                                                                               \
		if (error != 0)                                                \
			return -error;                                         \
		look_at_entries(ring);                                         \
		error = __real_##name arguments;                               \
		patch(ring);                                                   \
		shuffle(ring);                                                 \
		return error;                                                  \
	}

WRAP_ENTER(io_uring_submit, (struct io_uring *ring), (ring))
WRAP_ENTER(io_uring_submit_and_get_events, (struct io_uring *ring), (ring))
WRAP_ENTER(io_uring_submit_and_wait_timeout,
	   (struct io_uring *ring, struct io_uring_cqe **cqe, unsigned count,
	    struct __kernel_timespec *time, sigset_t *mask),
	   (ring, cqe, count, time, mask))

/* It hands nothing over. What did not fit comes now, and is looked for here as well. */
int __real_io_uring_get_events(struct io_uring *ring);
int __wrap_io_uring_get_events(struct io_uring *ring);
int __wrap_io_uring_get_events(struct io_uring *ring)
{
	int error = kt_inject_look(&enter_site);

	if (error != 0)
		return -error;
	error = __real_io_uring_get_events(ring);
	patch(ring);
	shuffle(ring);
	return error;
}
