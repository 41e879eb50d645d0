/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Transfers: reads and writes that go on until all is done. */
#include "ring.h"

#include <kloop/file.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

/* The most that one read or write of Linux moves (MAX_RW_COUNT). */
#define MAX_STEP 0x7ffff000u

/* What becomes of the file's position. */
enum { KL_STAYS, KL_MOVES, KL_MOVES_TO_END };

static void step_done(struct kloop_op *op, int32_t result, uint32_t flags);

static struct kloop_transfer *transfer_of(struct kloop_op *op)
{
	return (struct kloop_transfer *)((char *)op - offsetof(struct kloop_transfer, op));
}

/*
 * The file's own position is read before a transfer and set after it. Left to
 * the kernel, it stays where it was after a write that fails half-way (a full
 * disk, seen with Linux 6.18): the next attempt would write the same place once
 * more, and look like progress.
 */
static void take_position(struct kloop_transfer *t)
{
	off_t position;

	t->moves = KL_STAYS;
	if (t->offset != UINT64_MAX)
		return;
	position = lseek(t->fd, 0, SEEK_CUR);
	if (position < 0)
		return; /* a pipe and its like */
	t->offset = (uint64_t)position;
	t->moves = t->writes && (fcntl(t->fd, F_GETFL) & O_APPEND) ? KL_MOVES_TO_END : KL_MOVES;
}

static void give_position(const struct kloop_transfer *t)
{
	if (t->done == 0 || t->moves == KL_STAYS || kl_loop_is_forked(t->op.loop))
		return;
	if (t->moves == KL_MOVES)
		(void)lseek(t->fd, (off_t)(t->offset + t->done), SEEK_SET);
	else
		(void)lseek(t->fd, 0, SEEK_END);
}

/* Have the ring move what is left, or wait until the descriptor is ready to. */
static int submit(struct kloop_loop *loop, struct kloop_transfer *t)
{
	size_t left = t->bytes - t->done;
	uint64_t offset = t->offset == UINT64_MAX ? UINT64_MAX : t->offset + t->done;

	if (t->polls)
		return kloop_op_poll(loop, &t->op, t->fd, t->writes ? POLLOUT : POLLIN);
	if (left > MAX_STEP)
		left = MAX_STEP;
	if (t->writes)
		return kloop_op_write(loop, &t->op, t->fd, t->buffer + t->done, left, offset);
	return kloop_op_read(loop, &t->op, t->fd, t->buffer + t->done, left, offset);
}

/* What the kernel answered to a poll: true if the transfer goes on. */
static bool go_on_after_poll(struct kloop_transfer *t, int32_t result, int *ret_result)
{
	/* A poll that nobody cancelled ended with the ring of another thread: once more. */
	if (result == -ECANCELED && !t->cancelled)
		return true;
	t->polls = false;
	*ret_result = result < 0 ? result : 0;
	return result >= 0;
}

/* What it answered to a read or a write. */
static bool go_on_after_step(struct kloop_transfer *t, int32_t result, int *ret_result)
{
	*ret_result = 0;
	if (result > 0) {
		t->done += (size_t)result;
		return t->done < t->least;
	}
	/* By a signal; or because the thread for which the kernel worked is gone. */
	if (result == -EINTR || (result == -ECANCELED && !t->cancelled))
		return true;
	if (result == -EAGAIN) {
		t->polls = true;
		return true;
	}
	/* A file that takes nothing and says nothing would be asked forever. */
	if (result == 0 && t->writes && t->done < t->bytes)
		result = -EIO;
	*ret_result = result;
	return false;
}

static void step_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_transfer *t = transfer_of(op);
	bool more = t->polls;
	int ret;

	(void)flags;
	more = more ? go_on_after_poll(t, result, &ret) : go_on_after_step(t, result, &ret);
	if (more) {
		ret = t->cancelled ? -ECANCELED : submit(op->loop, t);
		if (ret == 0)
			return;
		if (ret == -ESTALE)
			ret = -ECANCELED;
	}
	give_position(t);
	t->complete(t, ret);
}

static int begin(struct kloop_loop *loop, struct kloop_transfer *t, int fd)
{
	t->fd = fd;
	t->done = 0;
	t->polls = false;
	t->cancelled = false;
	t->op.complete = step_done;
	take_position(t);
	return submit(loop, t);
}

static bool is_bad(const struct kloop_transfer *t, const void *buffer, size_t bytes)
{
	return t == NULL || t->complete == NULL || (buffer == NULL && bytes != 0);
}

int kloop_transfer_read(struct kloop_loop *loop, struct kloop_transfer *transfer, int fd,
			void *buffer, size_t bytes, size_t least, uint64_t offset)
{
	if (is_bad(transfer, buffer, bytes) || least > bytes)
		return -EINVAL;
	if (kloop_transfer_is_active(transfer))
		return -EBUSY;
	transfer->writes = false;
	transfer->buffer = buffer;
	transfer->bytes = bytes;
	transfer->least = least;
	transfer->offset = offset;
	return begin(loop, transfer, fd);
}

int kloop_transfer_write(struct kloop_loop *loop, struct kloop_transfer *transfer, int fd,
			 const void *buffer, size_t bytes, uint64_t offset)
{
	if (is_bad(transfer, buffer, bytes))
		return -EINVAL;
	if (kloop_transfer_is_active(transfer))
		return -EBUSY;
	transfer->writes = true;
	transfer->buffer = (char *)(uintptr_t)buffer;
	transfer->bytes = bytes;
	transfer->least = bytes;
	transfer->offset = offset;
	return begin(loop, transfer, fd);
}

int kloop_transfer_cancel(struct kloop_transfer *transfer)
{
	int ret;

	if (transfer == NULL)
		return -EINVAL;
	ret = kloop_op_cancel(&transfer->op);
	if (ret == 0)
		transfer->cancelled = true;
	return ret;
}
