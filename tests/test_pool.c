/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Pools of receive buffers: picking, giving back, running dry. */
#include "support.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define COUNT 4
#define BYTES 256

/* A connection that receives into a pool; what arrives is gathered or kept. */
struct flow {
	struct kloop_loop *loop;
	struct kloop_pool *pool;
	struct kt_op op;
	int fds[2];
	bool keep;          /* keep the buffers */
	unsigned kept[64];
	int kept_count;
	char received[64 * 1024];
	size_t received_bytes;
	int ended;          /* last completions */
};

static void on_receive(struct kt_op *op)
{
	struct flow *flow = op->data;
	void *buffer;
	unsigned id;
	int r = kloop_pool_get(flow->pool, op->flags, &buffer, &id);

	if (!(op->flags & KLOOP_OP_MORE))
		flow->ended++;
	if (op->result <= 0) {
		ck_assert_int_eq(r, -ENOENT);
		return;
	}
	ck_assert_int_eq(r, 0);
	ck_assert_int_le(op->result, BYTES);
	ck_assert_uint_le(flow->received_bytes + (size_t)op->result, sizeof(flow->received));
	memcpy(flow->received + flow->received_bytes, buffer, (size_t)op->result);
	flow->received_bytes += (size_t)op->result;
	if (flow->keep) {
		for (int i = 0; i < flow->kept_count; i++)
			ck_assert_uint_ne(flow->kept[i], id); /* in our hands already */
		flow->kept[flow->kept_count++] = id;
	} else {
		memset(buffer, 0xdd, BYTES);
		kloop_pool_give(flow->pool, id);
	}
}

static void flow_submit(struct flow *flow)
{
	kt_op_init(&flow->op);
	flow->op.then = on_receive;
	flow->op.data = flow;
	KT_ACCEPTED(kloop_op_recv_multishot(flow->loop, &flow->op.op, flow->fds[0], flow->pool));
}

static struct flow *flow_open(struct kloop_loop *loop, struct kloop_pool *pool, bool keep)
{
	struct flow *flow = calloc(1, sizeof(*flow));

	ck_assert_ptr_nonnull(flow);
	flow->loop = loop;
	flow->pool = pool;
	flow->keep = keep;
	kt_socketpair(flow->fds);
	flow_submit(flow);
	return flow;
}

static void flow_close(struct flow *flow)
{
	if (kloop_op_is_active(&flow->op.op)) {
		ck_assert_int_eq(KT_SUBMIT(kloop_op_cancel(&flow->op.op)), 0);
		kt_op_wait(flow->loop, &flow->op);
	}
	kt_close(flow->fds[0]);
	kt_close(flow->fds[1]);
	free(flow);
}

static struct kloop_pool *pool_new(struct kloop_loop *loop, unsigned count, size_t bytes)
{
	struct kloop_pool *pool = NULL;

	ck_assert_int_eq(kloop_pool_new(loop, count, bytes, &pool), 0);
	ck_assert_ptr_nonnull(pool);
	return pool;
}

/* Send one datagram's worth and see it arrive. */
static void pass(struct flow *flow, char mark, size_t bytes)
{
	size_t target = flow->received_bytes + bytes;
	char block[BYTES];

	memset(block, mark, bytes);
	ck_assert_int_eq(write(flow->fds[1], block, bytes), (ssize_t)bytes);
	while (flow->received_bytes < target)
		kt_turn(flow->loop, 1000 * KT_MS);
	ck_assert_mem_eq(flow->received + target - bytes, block, bytes);
}

START_TEST(receives_again_and_again)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct kloop_pool *pool = pool_new(loop, COUNT, BYTES);
	struct flow *flow = flow_open(loop, pool, false);

	ck_assert_uint_eq(KT_STAT(loop, buffers), COUNT);
	for (int i = 0; i < 100; i++)
		pass(flow, (char)i, 1 + (size_t)i);
	ck_assert_int_eq(flow->op.last, 0);
	ck_assert_uint_eq(KT_STAT(loop, buffers_lent), 0);
	/* The end of the stream ends it. */
	ck_assert_int_eq(shutdown(flow->fds[1], SHUT_WR), 0);
	ck_assert_int_eq(kt_op_wait(loop, &flow->op), 0);
	flow_close(flow);
	kloop_pool_free(pool);
	ck_assert_uint_eq(KT_STAT(loop, buffers), 0);
	kt_loop_free(loop);
}
END_TEST

START_TEST(an_empty_pool_ends_it_and_it_recovers)
{
	struct kloop_loop *loop = kt_loop_on_rung(_i);
	struct kloop_pool *pool = pool_new(loop, COUNT, BYTES);
	struct flow *flow = flow_open(loop, pool, true);

	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < COUNT; i++)
			pass(flow, (char)i, BYTES);
		ck_assert_int_eq(flow->kept_count, COUNT);
		ck_assert_uint_eq(KT_STAT(loop, buffers_lent), COUNT);
		ck_assert_int_eq(write(flow->fds[1], "more", 4), 4);
		ck_assert_int_eq(kt_op_wait(loop, &flow->op), -ENOBUFS);
		ck_assert_uint_eq(KT_STAT(loop, buffers_empty), (unsigned)round + 1);

		/* Give back out of order; the bytes waited in the socket. */
		for (int i = 0; i < COUNT; i++)
			kloop_pool_give(pool, flow->kept[(i * 3 + 1) % COUNT]);
		flow->kept_count = 0;
		flow->received_bytes = 0;
		ck_assert_uint_eq(KT_STAT(loop, buffers_lent), 0);
		flow_submit(flow);
		while (flow->received_bytes < 4)
			kt_turn(loop, 1000 * KT_MS);
		ck_assert_mem_eq(flow->received, "more", 4);
		kloop_pool_give(pool, flow->kept[0]);
		flow->kept_count = 0;
		flow->received_bytes = 0;
	}
	flow_close(flow);
	kloop_pool_free(pool);
	kt_loop_free(loop);
}
END_TEST

START_TEST(given_back_out_of_order)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_pool *pool = pool_new(loop, 16, BYTES);
	struct flow *flow = flow_open(loop, pool, true);
	uint64_t state = 4711;

	/* Keep some, give some back at random, for long: each buffer is in one place at a time. */
	for (int i = 0; i < 2000; i++) {
		flow->received_bytes = 0;
		pass(flow, (char)i, 100);
		while (flow->kept_count > (int)(kt_random(&state) % 15)) {
			int victim = (int)(kt_random(&state) % (unsigned)flow->kept_count);

			kloop_pool_give(pool, flow->kept[victim]);
			flow->kept[victim] = flow->kept[--flow->kept_count];
		}
		ck_assert_uint_eq(KT_STAT(loop, buffers_lent), (uint64_t)flow->kept_count);
	}
	ck_assert_int_eq(flow->op.last, 0);
	flow_close(flow);
	kloop_pool_free(pool);
	kt_loop_free(loop);
}
END_TEST

START_TEST(many_connections_share_one)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_pool *pool = pool_new(loop, 8, BYTES);
	struct flow *flows[20];

	for (size_t i = 0; i < KT_COUNT(flows); i++)
		flows[i] = flow_open(loop, pool, false);
	for (int round = 0; round < 20; round++) {
		for (size_t i = 0; i < KT_COUNT(flows); i++)
			pass(flows[i], (char)(round + (int)i), 64);
	}
	for (size_t i = 0; i < KT_COUNT(flows); i++)
		flow_close(flows[i]);
	ck_assert_uint_eq(KT_STAT(loop, buffers_lent), 0);
	kloop_pool_free(pool);
	kt_loop_free(loop);
}
END_TEST

START_TEST(several_pools)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_pool *pools[10];
	struct flow *flows[10];

	for (size_t i = 0; i < KT_COUNT(pools); i++) {
		pools[i] = pool_new(loop, 1u << (i % 4), BYTES << (i % 3));
		flows[i] = flow_open(loop, pools[i], false);
	}
	/* Freed from the middle and made again: the others are not disturbed. */
	flow_close(flows[4]);
	kloop_pool_free(pools[4]);
	pools[4] = pool_new(loop, 1, BYTES);
	flows[4] = flow_open(loop, pools[4], false);
	for (size_t i = 0; i < KT_COUNT(pools); i++)
		pass(flows[i], 'x', 64);
	for (size_t i = 0; i < KT_COUNT(pools); i++) {
		flow_close(flows[i]);
		kloop_pool_free(pools[i]);
	}
	kt_loop_free(loop);
}
END_TEST

START_TEST(numbers_do_not_run_out)
{
	struct kloop_loop *loop = kt_loop_new(NULL);

	/* More pools than there are numbers for them, though never many at a time. */
	for (int i = 0; i < 70000; i++)
		kloop_pool_free(pool_new(loop, 1, BYTES));
	kt_loop_free(loop);
}
END_TEST

START_TEST(largest_and_smallest)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_pool *small = pool_new(loop, 1, 256);
	struct kloop_pool *many = pool_new(loop, 32768, 256);
	struct kloop_pool *large = pool_new(loop, 2, 1 << 20);
	struct flow *flow = flow_open(loop, small, false);

	ck_assert_uint_eq(KT_STAT(loop, buffers), 1 + 32768 + 2);
	for (int i = 0; i < 10; i++)
		pass(flow, (char)i, 256);
	flow_close(flow);
	kloop_pool_free(large);
	kloop_pool_free(many);
	kloop_pool_free(small);
	kloop_pool_free(NULL);
	kt_loop_free(loop);
}
END_TEST

static void *adopt(void *data)
{
	ck_assert_int_eq(kloop_loop_adopt(data), 0);
	return NULL;
}

START_TEST(survives_a_change_of_thread)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_pool *pool = pool_new(loop, COUNT, BYTES);
	struct flow *flow = flow_open(loop, pool, true);

	pass(flow, 'a', 10); /* one buffer is in our hands during the change */
	ck_assert_int_eq(KT_SUBMIT(kloop_op_cancel(&flow->op.op)), 0);
	kt_op_wait(loop, &flow->op);
	flow->kept_count = 1;
	kt_on_thread(adopt, loop);
	ck_assert_int_eq(kloop_loop_adopt(loop), 0);
	flow_submit(flow);
	for (int i = 0; i < COUNT - 1; i++)
		pass(flow, (char)i, 10);
	ck_assert_int_eq(flow->kept_count, COUNT);
	ck_assert_int_eq(write(flow->fds[1], "x", 1), 1);
	ck_assert_int_eq(kt_op_wait(loop, &flow->op), -ENOBUFS);
	flow_close(flow);
	kloop_pool_free(pool);
	kt_loop_free(loop);
}
END_TEST

START_TEST(refusals)
{
	struct kloop_loop *loop = kt_loop_new(NULL);
	struct kloop_loop *other = kt_loop_new(NULL);
	struct kloop_loop *without = kt_loop_without(KLOOP_FEATURE_BUFFER_RING);
	struct kloop_loop *single = kt_loop_without(KLOOP_FEATURE_RECV_MULTISHOT);
	struct kloop_pool *pool = NULL;
	struct kt_op op;
	void *buffer;
	unsigned id;

	ck_assert_int_eq(kloop_pool_new(loop, 0, BYTES, &pool), -EINVAL);
	ck_assert_int_eq(kloop_pool_new(loop, 3, BYTES, &pool), -EINVAL);
	ck_assert_int_eq(kloop_pool_new(loop, 65536, BYTES, &pool), -EINVAL);
	ck_assert_int_eq(kloop_pool_new(loop, 4, 255, &pool), -EINVAL);
	ck_assert_int_eq(kloop_pool_new(loop, 4, (1 << 20) + 1, &pool), -EINVAL);
	ck_assert_int_eq(kloop_pool_new(loop, 4, BYTES, NULL), -EINVAL);
	ck_assert_int_eq(kloop_pool_new(NULL, 4, BYTES, &pool), -EINVAL);
	ck_assert_int_eq(kloop_pool_new(without, 4, BYTES, &pool), -EOPNOTSUPP);
	ck_assert_ptr_null(pool);

	pool = pool_new(loop, 4, BYTES);
	kt_op_init(&op);
	ck_assert_int_eq(kloop_op_recv_multishot(loop, &op.op, 0, NULL), -EINVAL);
	ck_assert_int_eq(kloop_op_recv_multishot(other, &op.op, 0, pool), -EINVAL);
	ck_assert_int_eq(kloop_pool_get(pool, 0, &buffer, &id), -ENOENT);
	/* Numbers that were not lent do no harm. */
	kloop_pool_give(pool, 0);
	kloop_pool_give(pool, 4000000000u);
	ck_assert_uint_eq(KT_STAT(loop, buffers_lent), 0);
	kloop_pool_free(pool);

	pool = pool_new(single, 4, BYTES);
	ck_assert_int_eq(kloop_op_recv_multishot(single, &op.op, 0, pool), -EOPNOTSUPP);
	kloop_pool_free(pool);
	kt_loop_free(loop);
	kt_loop_free(other);
	kt_loop_free(without);
	kt_loop_free(single);
}
END_TEST

static Suite *pool_suite(void)
{
	Suite *suite = suite_create("pool");
	TCase *receive = kt_case(suite, "receive", 30);
	TCase *life = kt_case(suite, "life", 60);

	tcase_add_loop_test(receive, receives_again_and_again, 0, KT_RUNGS);
	tcase_add_loop_test(receive, an_empty_pool_ends_it_and_it_recovers, 0, KT_RUNGS);
	tcase_add_test(receive, given_back_out_of_order);
	tcase_add_test(receive, many_connections_share_one);
	tcase_add_test(receive, several_pools);

	tcase_add_test(life, largest_and_smallest);
	tcase_add_test(life, numbers_do_not_run_out);
	tcase_add_test(life, survives_a_change_of_thread);
	tcase_add_test(life, refusals);
	return suite;
}

int main(void)
{
	return kt_main(pool_suite());
}
