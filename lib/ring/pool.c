/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Provided-buffer rings: IORING_REGISTER_PBUF_RING, Linux 5.19. */
#include "pool.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/*
 * The kernel takes buffers in the order in which they were given back, so each
 * of them comes round, and the more there are, the colder is each. The pool of
 * the streams starts with what fits a processor's cache.
 */
#define FIRST_RECEIVE_BUFFERS 32

#define HOT_BUFFER_BYTES (256 * 1024)
/*
 * Where in a page the hot buffer begins. What it receives begins mostly at the
 * start of a page, and processors that copy by "rep movsb" take three times as
 * long when target and source differ by a few bytes modulo the page (measured:
 * 16 bytes, which is what malloc(3) gives for large blocks).
 */
#define HOT_BUFFER_OFFSET 2048

/*
 * For 65,507 bytes, the address, and what the kernel says about both. Not a
 * multiple of the page: the first lines of all buffers must not fall into the
 * same few sets of the processor's cache. Only pages that are written to exist.
 */
#define DATAGRAM_BUFFERS 64
#define DATAGRAM_BUFFER_BYTES (65536 + 512)

static void add(struct kloop_pool *pool, unsigned id)
{
	io_uring_buf_ring_add(pool->entries, pool->memory + (size_t)id * pool->buffer_bytes,
			      (unsigned)pool->buffer_bytes, (unsigned short)id, pool->mask, 0);
	io_uring_buf_ring_advance(pool->entries, 1);
}

/* Register with the ring and hand over every buffer that is not lent. */
static int enlist(struct kloop_pool *pool)
{
	struct io_uring_buf_reg reg = {
		.ring_addr = (uint64_t)(uintptr_t)pool->entries,
		.ring_entries = pool->count,
		.bgid = pool->group,
	};
	int ret;

	io_uring_buf_ring_init(pool->entries);
	ret = io_uring_register_buf_ring(&pool->loop->ring, &reg, 0);
	if (ret < 0)
		return ret;
	for (unsigned id = 0; id < pool->used; id++) {
		if (!(pool->lent_bits[id / 64] >> (id % 64) & 1))
			add(pool, id);
	}
	return 0;
}

static void release(struct kloop_pool *pool)
{
	if (pool->entries != NULL)
		munmap(pool->entries, pool->entries_bytes);
	if (pool->memory != NULL)
		munmap(pool->memory, pool->count * pool->buffer_bytes);
	kl_free(pool->lent_bits);
	kl_free(pool);
}

/*
 * Both areas are mapped, not allocated: the ring must be page-aligned, and
 * buffers that were never used then cost no memory.
 */
static int map(struct kloop_pool *pool)
{
	int protection = PROT_READ | PROT_WRITE;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	void *area;

	pool->entries_bytes = pool->count * sizeof(struct io_uring_buf);
	area = mmap(NULL, pool->entries_bytes, protection, flags, -1, 0);
	if (area == MAP_FAILED)
		return -ENOMEM;
	pool->entries = area;
	area = mmap(NULL, pool->count * pool->buffer_bytes, protection, flags, -1, 0);
	if (area == MAP_FAILED)
		return -ENOMEM;
	pool->memory = area;
	return 0;
}

static bool group_in_use(const struct kloop_loop *loop, unsigned group)
{
	for (const struct kloop_pool *pool = loop->pools; pool != NULL; pool = pool->next) {
		if (pool->group == group)
			return true;
	}
	return false;
}

/* A number that no other pool has; those of freed pools are used again as late as possible. */
static int pick_group(struct kloop_loop *loop, uint16_t *ret_group)
{
	for (unsigned tries = 0; tries <= UINT16_MAX; tries++) {
		unsigned group = loop->next_pool_group++ & UINT16_MAX;

		if (!group_in_use(loop, group)) {
			*ret_group = (uint16_t)group;
			return 0;
		}
	}
	return -ENOSPC;
}

/* With the first used buffers only for the kernel; kl_pool_grow() hands over more. */
static int new_pool(struct kloop_loop *loop, unsigned count, unsigned used, size_t buffer_bytes,
		    struct kloop_pool **ret_pool)
{
	struct kloop_pool *pool;
	int ret = kl_loop_check(loop);

	if (ret < 0)
		return ret;
	if (ret_pool == NULL || count < 1 || count > 32768 || (count & (count - 1)) != 0 ||
	    buffer_bytes < 256 || buffer_bytes > 1 << 20)
		return -EINVAL;
	/* With 32 bits there are sizes that no address space has. */
	if (buffer_bytes > PTRDIFF_MAX / count)
		return -ENOMEM;
	if (!(loop->features & KLOOP_FEATURE_BUFFER_RING))
		return -EOPNOTSUPP;
	pool = kl_calloc(1, sizeof(*pool));
	if (pool == NULL)
		return -ENOMEM;
	pool->loop = loop;
	pool->count = count;
	pool->used = used < count ? used : count;
	pool->buffer_bytes = buffer_bytes;
	pool->mask = io_uring_buf_ring_mask(count);
	pool->lent_bits = kl_calloc((count + 63) / 64, sizeof(uint64_t));
	ret = pool->lent_bits != NULL ? map(pool) : -ENOMEM;
	if (ret == 0)
		ret = pick_group(loop, &pool->group);
	/* Without a ring, since no new one could be made: with the next. */
	if (ret == 0 && loop->ring_open)
		ret = enlist(pool);
	if (ret < 0) {
		release(pool);
		return ret == -EINVAL ? -EOPNOTSUPP : ret;
	}
	pool->next = loop->pools;
	loop->pools = pool;
	*ret_pool = pool;
	return 0;
}

int kloop_pool_new(struct kloop_loop *loop, unsigned count, size_t buffer_bytes,
		   struct kloop_pool **ret_pool)
{
	return new_pool(loop, count, count, buffer_bytes, ret_pool);
}

bool kl_pool_grow(struct kloop_pool *pool)
{
	unsigned before = pool->used;

	if (before == pool->count || !pool->loop->ring_open)
		return false;
	pool->used = before <= pool->count / 2 ? before * 2 : pool->count;
	for (unsigned id = before; id < pool->used; id++)
		add(pool, id);
	return true;
}

void kloop_pool_free(struct kloop_pool *pool)
{
	struct kloop_pool **link;

	if (pool == NULL)
		return;
	link = &pool->loop->pools;
	while (*link != pool)
		link = &(*link)->next;
	*link = pool->next;
	if (pool->loop->ring_open && pool->loop->front.fork_generation == kl_fork_generation())
		(void)io_uring_unregister_buf_ring(&pool->loop->ring, pool->group);
	release(pool);
}

int kloop_pool_get(struct kloop_pool *pool, uint32_t flags, void **ret_buffer, unsigned *ret_id)
{
	unsigned id = flags >> IORING_CQE_BUFFER_SHIFT;

	if (!(flags & IORING_CQE_F_BUFFER) || id >= pool->count)
		return -ENOENT;
	pool->lent++;
	pool->lent_bits[id / 64] |= 1ull << (id % 64);
	*ret_buffer = pool->memory + (size_t)id * pool->buffer_bytes;
	*ret_id = id;
	return 0;
}

void kloop_pool_give(struct kloop_pool *pool, unsigned id)
{
	if (id >= pool->used || !(pool->lent_bits[id / 64] >> (id % 64) & 1))
		return;
	pool->lent_bits[id / 64] &= ~(1ull << (id % 64));
	pool->lent--;
	add(pool, id);
}

size_t kl_pool_get_buffer_bytes(const struct kloop_pool *pool)
{
	return pool->buffer_bytes;
}

int kl_loop_make_receive_pool(struct kloop_loop *loop)
{
	return new_pool(loop, loop->options.pool_count, FIRST_RECEIVE_BUFFERS,
			loop->options.pool_buffer_bytes, &loop->front.receive_pool);
}

int kl_loop_get_datagram_pool(struct kloop_loop *loop, struct kloop_pool **ret_pool)
{
	int ret;

	if (loop->datagram_pool == NULL) {
		ret = kloop_pool_new(loop, DATAGRAM_BUFFERS, DATAGRAM_BUFFER_BYTES,
				     &loop->datagram_pool);
		if (ret < 0)
			return ret;
	}
	*ret_pool = loop->datagram_pool;
	return 0;
}

bool kl_pool_read_message(void *buffer, int32_t result, struct msghdr *message,
			  struct kl_received *ret_received)
{
	struct io_uring_recvmsg_out *out = io_uring_recvmsg_validate(buffer, result, message);

	if (out == NULL)
		return false;
	ret_received->data = io_uring_recvmsg_payload(out, message);
	ret_received->bytes = io_uring_recvmsg_payload_length(out, result, message);
	ret_received->address = io_uring_recvmsg_name(out);
	/* The kernel says how long it is, even if it had to cut it. */
	ret_received->address_length =
		out->namelen < message->msg_namelen ? out->namelen : message->msg_namelen;
	ret_received->truncated = out->flags & MSG_TRUNC;
	return true;
}

void *kl_loop_get_hot_buffer(struct kloop_loop *loop, enum kl_hot which, size_t *ret_bytes)
{
	void *area;

	*ret_bytes = HOT_BUFFER_BYTES;
	if (loop->hot_areas[which] == NULL) {
		area = mmap(NULL, HOT_BUFFER_OFFSET + HOT_BUFFER_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (area == MAP_FAILED)
			return NULL;
		loop->hot_areas[which] = area;
	}
	return loop->hot_areas[which] + HOT_BUFFER_OFFSET;
}

/* Register all pools with a new ring. */
int kl_pools_register(struct kloop_loop *loop)
{
	for (struct kloop_pool *pool = loop->pools; pool != NULL; pool = pool->next) {
		int ret = enlist(pool);

		if (ret < 0)
			return ret;
	}
	return 0;
}

void kl_pools_free(struct kloop_loop *loop)
{
	while (loop->pools != NULL)
		kloop_pool_free(loop->pools);
	loop->front.receive_pool = NULL;
	loop->datagram_pool = NULL;
	for (int i = 0; i < KL_HOT_COUNT; i++) {
		if (loop->hot_areas[i] != NULL)
			munmap(loop->hot_areas[i], HOT_BUFFER_OFFSET + HOT_BUFFER_BYTES);
		loop->hot_areas[i] = NULL;
	}
}

void kl_pools_stats(const struct kloop_loop *loop, struct kloop_stats *stats)
{
	for (const struct kloop_pool *pool = loop->pools; pool != NULL; pool = pool->next) {
		stats->buffers += pool->count;
		stats->buffers_lent += pool->lent;
	}
}
