/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Batches: a vector of segments, memory for what is copied, and what to do when each is sent. */
#include "batch.h"

#include <errno.h>
#include <string.h>

/* The least room in a further piece of memory for copies. */
#define MORE_ROOM ((size_t)4096)

struct kl_batch *kl_batch_make(struct kloop_loop *loop, size_t room_bytes)
{
	size_t bytes = sizeof(struct kl_batch) + room_bytes;
	struct kl_batch *batch = kl_spare_take(loop, &bytes);

	if (!batch)
		return NULL;
	batch->loop = loop;
	batch->bytes = bytes;
	batch->vector = batch->first_vector;
	batch->ends = batch->first_ends;
	batch->head = 0;
	batch->count = 0;
	batch->capacity = KL_BATCH_FIRST;
	batch->room_segment = 0;
	batch->room = batch->first_room;
	batch->room_bytes = bytes - sizeof(*batch);
	batch->next = NULL;
	batch->control = NULL;
	return batch;
}

void kl_batch_free(struct kl_batch *batch)
{
	if (batch->vector != batch->first_vector)
		kl_free(batch->vector);
	kl_free(batch->control);
	kl_spare_give(batch->loop, batch, batch->bytes);
}

static int grow_batch(struct kl_batch *batch)
{
	uint32_t capacity = batch->capacity * 2;
	struct iovec *vector;
	struct kl_segment_end *ends;

	vector = kl_malloc((sizeof(*vector) + sizeof(*ends)) * capacity);
	if (!vector)
		return -ENOMEM;
	ends = (struct kl_segment_end *)(void *)(vector + capacity);
	memcpy(vector, batch->vector, sizeof(*vector) * batch->count);
	memcpy(ends, batch->ends, sizeof(*ends) * batch->count);
	if (batch->vector != batch->first_vector)
		kl_free(batch->vector);
	batch->vector = vector;
	batch->ends = ends;
	batch->capacity = capacity;
	return 0;
}

int kl_batch_add_segment(struct kl_batch *batch, const void *data, size_t bytes,
			 kloop_release_fn *release, void *owner)
{
	if (batch->count == batch->capacity && grow_batch(batch) < 0)
		return -ENOMEM;
	batch->vector[batch->count].iov_base = (void *)(uintptr_t)data;
	batch->vector[batch->count].iov_len = bytes;
	batch->ends[batch->count].release = release;
	batch->ends[batch->count].owner = owner;
	batch->count++;
	return 0;
}

/* A segment of copied bytes in new memory. */
static int add_room(struct kl_batch *batch, size_t bytes)
{
	size_t room_bytes = bytes > MORE_ROOM ? bytes : MORE_ROOM;
	char *room = kl_malloc(room_bytes);

	if (!room)
		return -ENOMEM;
	if (kl_batch_add_segment(batch, room, bytes, NULL, room) < 0) {
		kl_free(room);
		return -ENOMEM;
	}
	batch->room_segment = batch->count - 1;
	batch->room = room;
	batch->room_bytes = room_bytes;
	return 0;
}

/*
 * A further segment in the same memory, behind lent ones. The memory is freed
 * with the last segment that lies in it.
 */
static int share_room(struct kl_batch *batch, size_t bytes)
{
	struct kl_segment_end *owning;

	if (kl_batch_add_segment(batch, batch->room, bytes, NULL, NULL) < 0)
		return -ENOMEM;
	/* Of the batch's own room the owner is NULL, or a lent segment stands there. */
	owning = &batch->ends[batch->room_segment];
	if (!owning->release && batch->room_segment != batch->count - 1) {
		batch->ends[batch->count - 1].owner = owning->owner;
		owning->owner = NULL;
	}
	batch->room_segment = batch->count - 1;
	return 0;
}

/* Copy bytes, directly behind those of the last write where that is possible. */
int kl_batch_add_copy(struct kl_batch *batch, const void *data, size_t bytes)
{
	struct iovec *last = batch->count > 0 ? &batch->vector[batch->count - 1] : NULL;
	int r = 0;

	if (batch->room_bytes < bytes)
		r = add_room(batch, bytes);
	else if (last && !batch->ends[batch->count - 1].release &&
		 (char *)last->iov_base + last->iov_len == batch->room)
		last->iov_len += bytes;
	else
		r = share_room(batch, bytes);
	if (r < 0)
		return r;
	memcpy(batch->room, data, bytes);
	batch->room += bytes;
	batch->room_bytes -= bytes;
	return 0;
}

unsigned kl_batch_count_segments(const struct kl_batch *batch)
{
	uint32_t i = batch->head;

	do
		i++;
	while (i < batch->count && batch->ends[i].release != kl_file_end);
	return i - batch->head;
}

int kl_batch_append(struct kloop_loop *loop, struct kl_batch **batch, const void *data,
		    size_t bytes, size_t room_bytes)
{
	struct kl_batch *made = *batch;
	int r;

	if (!made) {
		made = kl_batch_make(loop, room_bytes > bytes ? room_bytes : bytes);
		if (!made)
			return -ENOMEM;
	}
	r = kl_batch_add_copy(made, data, bytes);
	if (r < 0 && !*batch)
		kl_batch_free(made);
	else
		*batch = made;
	return r;
}

int kl_batch_set_control(struct kl_batch *batch, int level, int type, unsigned char value)
{
	struct cmsghdr *header = kl_calloc(1, KL_BATCH_CONTROL_BYTES);

	if (!header)
		return -ENOMEM;
	header->cmsg_level = level;
	header->cmsg_type = type;
	header->cmsg_len = CMSG_LEN(sizeof(value));
	*CMSG_DATA(header) = value;
	batch->control = header;
	return 0;
}

struct kl_batch *kl_batch_get_next(const struct kl_batch *batch)
{
	return batch->next;
}

void kl_batch_set_next(struct kl_batch *batch, struct kl_batch *next)
{
	batch->next = next;
}

size_t kl_batch_count_bytes(const struct kl_batch *batch)
{
	size_t bytes = 0;
	uint32_t i;

	for (i = batch->head; i < batch->count; i++)
		bytes += batch->vector[i].iov_len;
	return bytes;
}
