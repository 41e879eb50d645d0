/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Batches from the inside, for stream-batch.c and stream-write.c. */
#ifndef KL_BATCH_H
#define KL_BATCH_H

#include "stream.h"

#include <sys/socket.h>
#include <sys/uio.h>

#define KL_BATCH_FIRST 4

/* A control message of one byte. */
#define KL_BATCH_CONTROL_BYTES CMSG_SPACE(sizeof(unsigned char))

/* What to do when a segment is sent. release NULL: free the owner, if any. */
struct kl_segment_end {
	kloop_release_fn *release;
	void *owner;
};

struct kl_batch {
	struct iovec *vector;
	struct kl_segment_end *ends; /* lies behind the vector in the same memory */
	uint32_t head;               /* the first segment that is not yet sent */
	uint32_t count;
	uint32_t capacity;
	uint32_t room_segment; /* of the segments in the room, the last: it owns the memory */
	char *room;            /* for copies */
	size_t room_bytes;
	struct kloop_loop *loop;
	size_t bytes;                /* of this memory, see kl_spare_take() */
	struct kl_batch *next;       /* for layers; of one that is sent: what was interrupted */
	struct cmsghdr *control;     /* for layers; mostly NULL */
	struct msghdr message;
	struct iovec first_vector[KL_BATCH_FIRST];
	struct kl_segment_end first_ends[KL_BATCH_FIRST];
	char first_room[];
};

_Static_assert(sizeof(struct kl_batch) <= KL_SPARE_SMALL, "a write that is lent takes the smallest");

/* With at least so much room for copies. NULL without memory. */
struct kl_batch *kl_batch_make(struct kloop_loop *loop, size_t room_bytes);
void kl_batch_free(struct kl_batch *batch);

/* A segment of lent bytes, or of a file; of copied bytes. Returns: 0; -ENOMEM. */
int kl_batch_add_segment(struct kl_batch *batch, const void *data, size_t bytes,
			 kloop_release_fn *release, void *owner);
int kl_batch_add_copy(struct kl_batch *batch, const void *data, size_t bytes);

/* The file that is next to be sent, if what is next is a file: a segment without bytes. */
static inline struct kl_file *kl_batch_get_file(const struct kl_batch *batch)
{
	const struct kl_segment_end *end = &batch->ends[batch->head];

	return batch->head < batch->count && end->release == kl_file_end ? end->owner : NULL;
}

/* Segments that can leave as one: up to a file. There is at least one. */
unsigned kl_batch_count_segments(const struct kl_batch *batch);

#endif
