/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The fake kernel TLS under the operations of a loop, and under whole streams. */
#include "fakelink.h"
#include "streams.h"
#include "support.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEGABYTE ((size_t)1 << 20)

struct flow {
	struct kloop_loop *loop;
	struct kloop_pool *pool;
	char data[256];
	size_t bytes;
	unsigned kept[8];
	size_t kept_count;
	bool keep;
};

static void on_piece(struct kt_op *op)
{
	struct flow *flow = op->data;
	void *buffer;
	unsigned id;

	if (op->result <= 0)
		return;
	ck_assert_int_eq(kloop_pool_get(flow->pool, op->flags, &buffer, &id), 0);
	memcpy(flow->data + flow->bytes, buffer, (size_t)op->result);
	flow->bytes += (size_t)op->result;
	if (flow->keep)
		flow->kept[flow->kept_count++] = id;
	else
		kloop_pool_give(flow->pool, id);
}

static void flow_begin(struct flow *flow)
{
	memset(flow, 0, sizeof(*flow));
	flow->loop = kt_loop_new(NULL);
	ck_assert_int_eq(kloop_pool_new(flow->loop, 2, 256, &flow->pool), 0);
}

static void flow_end(struct flow *flow)
{
	kloop_pool_free(flow->pool);
	kt_loop_free(flow->loop);
}

START_TEST(a_multishot_ends_at_a_control_record)
{
	struct kt_op op, control_op;
	struct flow flow;
	struct kt_link link;
	union {
		struct cmsghdr align;
		char bytes[KL_KTLS_CONTROL_BYTES];
	} control;
	char buffer[64];
	struct iovec vector = { buffer, sizeof(buffer) };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };

	kt_link_begin(&link, KLOOP_TLS_1_3, &kt_linux_6_1);
	flow_begin(&flow);
	kt_op_init(&op);
	op.then = on_piece;
	op.data = &flow;
	KT_ACCEPTED(kloop_op_recv_multishot(flow.loop, &op.op, link.fds[1], flow.pool));
	for (int i = 1; i <= 5; i++) {
		ck_assert_int_eq(send(link.fds[0], "data", 4, 0), 4);
		kt_turn_until(flow.loop, &op.completions, i);
		ck_assert_int_eq(op.last, 0);
		ck_assert(kloop_op_is_active(&op.op));
	}
	ck_assert_int_eq(send(link.fds[0], "last", 4, 0), 4);
	ck_assert_int_eq(kt_send_control(link.fds[0], KL_TLS_HANDSHAKE, "ticket", 6), 6);
	ck_assert_int_eq(send(link.fds[0], "more", 4, 0), 4);
	ck_assert_int_eq(kt_op_wait(flow.loop, &op), -EIO);
	ck_assert_uint_eq(flow.bytes, 24);
	ck_assert_mem_eq(flow.data + 20, "last", 4);

	kt_op_init(&control_op);
	KT_ACCEPTED(kloop_op_recvmsg(flow.loop, &control_op.op, link.fds[1], &message, 0));
	ck_assert_int_eq(kt_op_wait(flow.loop, &control_op), 6);
	ck_assert_int_eq(kl_ktls_get_type(&message), KL_TLS_HANDSHAKE);

	op.completions = op.last = 0;
	KT_ACCEPTED(kloop_op_recv_multishot(flow.loop, &op.op, link.fds[1], flow.pool));
	kt_turn_until(flow.loop, &op.completions, 1);
	ck_assert_uint_eq(flow.bytes, 28);
	kt_close(link.fds[0]);
	link.fds[0] = -1;
	ck_assert_int_eq(kt_op_wait(flow.loop, &op), 0);
	flow_end(&flow);
	kt_link_end(&link);
}
END_TEST

START_TEST(a_pool_runs_dry)
{
	const struct kt_ktls_kernel kernel = { .receive_max = 2 };
	struct flow flow;
	struct kt_link link;
	struct kt_op op;

	kt_link_begin(&link, KLOOP_TLS_1_3, &kernel);
	flow_begin(&flow);
	flow.keep = true;
	kt_op_init(&op);
	op.then = on_piece;
	op.data = &flow;
	ck_assert_int_eq(send(link.fds[0], "abcdefgh", 8, 0), 8);
	KT_ACCEPTED(kloop_op_recv_multishot(flow.loop, &op.op, link.fds[1], flow.pool));
	ck_assert_int_eq(kt_op_wait(flow.loop, &op), -ENOBUFS);
	ck_assert_uint_eq(flow.bytes, 4);
	ck_assert_uint_eq(flow.kept_count, 2);
	ck_assert_uint_ne(flow.kept[0], flow.kept[1]);
	for (size_t i = 0; i < 2; i++)
		kloop_pool_give(flow.pool, flow.kept[i]);
	kloop_pool_give(flow.pool, flow.kept[0]); /* twice: no harm */
	flow.keep = false;
	op.completions = op.last = 0;
	KT_ACCEPTED(kloop_op_recv_multishot(flow.loop, &op.op, link.fds[1], flow.pool));
	kt_turn_until(flow.loop, &op.completions, 2);
	ck_assert_mem_eq(flow.data, "abcdefgh", 8);
	ck_assert_int_eq(kloop_op_cancel(&op.op), 0);
	ck_assert_int_eq(kt_op_wait(flow.loop, &op), -ECANCELED);
	ck_assert_int_eq(op.last, 1);
	flow_end(&flow);
	kt_link_end(&link);
}
END_TEST

START_TEST(single_operations)
{
	struct kt_op receiving, sending, polling, again;
	struct flow flow;
	struct kt_link link;
	char buffer[64];

	kt_link_begin(&link, KLOOP_TLS_1_2, &kt_linux_6_1);
	flow_begin(&flow);
	kt_op_init(&receiving);
	kt_op_init(&sending);
	kt_op_init(&polling);
	kt_op_init(&again);
	KT_ACCEPTED(kloop_op_recv(flow.loop, &receiving.op, link.fds[1], buffer, 64, 0));
	ck_assert_int_eq(kloop_op_recv(flow.loop, &receiving.op, link.fds[1], buffer, 64, 0), -EBUSY);
	KT_ACCEPTED(kloop_op_send(flow.loop, &sending.op, link.fds[0], "hello", 5, 0));
	ck_assert_int_eq(kt_op_wait(flow.loop, &sending), 5);
	ck_assert_int_eq(kt_op_wait(flow.loop, &receiving), 5);
	ck_assert_mem_eq(buffer, "hello", 5);
	/* Refused by Linux, as a completion. */
	KT_ACCEPTED(kloop_op_send(flow.loop, &again.op, link.fds[0], "x", 1, MSG_WAITALL));
	ck_assert_int_eq(kt_op_wait(flow.loop, &again), -EOPNOTSUPP);
	/* Readable: not before a whole record is there; and still, if half of it was taken. */
	KT_ACCEPTED(kloop_op_poll(flow.loop, &polling.op, link.fds[1], POLLIN));
	ck_assert_int_eq(send(link.fds[0], "0123", 4, 0), 4);
	ck_assert_int_eq(kt_op_wait(flow.loop, &polling), POLLIN);
	ck_assert_int_eq(recv(link.fds[1], buffer, 2, 0), 2);
	kt_op_init(&polling);
	KT_ACCEPTED(kloop_op_poll(flow.loop, &polling.op, link.fds[1], POLLIN | POLLRDHUP));
	ck_assert_int_eq(kt_op_wait(flow.loop, &polling), POLLIN);
	ck_assert_int_eq(recv(link.fds[1], buffer, 64, 0), 2);
	kt_op_init(&polling);
	KT_ACCEPTED(kloop_op_poll(flow.loop, &polling.op, link.fds[1], POLLOUT));
	ck_assert_int_eq(kt_op_wait(flow.loop, &polling), POLLOUT);
	/* In flight when the loop goes: -ECANCELED. */
	kt_op_init(&receiving);
	KT_ACCEPTED(kloop_op_recv(flow.loop, &receiving.op, link.fds[1], buffer, 64, 0));
	kt_turn_for(flow.loop, 1);
	flow_end(&flow);
	ck_assert_int_eq(receiving.last, 1);
	ck_assert_int_eq(receiving.result, -ECANCELED);
	kt_link_end(&link);
}
END_TEST

/* Two streams above it, which know nothing of it, in every mode: some megabytes both ways. */
START_TEST(streams_in_every_mode)
{
	const struct kt_ktls_kernel kernel = { .send_max = _i % 2 ? 10000 : 0, .any_flag = true };
	struct kt_stream ends[2];
	struct kloop_loop *loop;
	struct kt_link link;
	char *data = malloc(MEGABYTE);

	ck_assert_ptr_nonnull(data);
	kt_link_begin(&link, KLOOP_TLS_1_3, &kernel);
	loop = kt_mode_loop(_i);
	kt_fill(data, MEGABYTE, 0);
	for (int end = 0; end < 2; end++) {
		kt_stream_open(&ends[end], loop, link.fds[end], 0);
		kt_stream_start(&ends[end]);
	}
	for (int i = 0; i < 100; i++) {
		kt_stream_put(&ends[0], data, 100);
		kt_stream_await(&ends[1], 100 * ((size_t)i + 1));
	}
	kt_stream_put(&ends[0], data, MEGABYTE);
	kt_stream_put(&ends[1], data, MEGABYTE);
	kt_stream_await(&ends[1], MEGABYTE + 10000);
	kt_stream_await(&ends[0], MEGABYTE);
	ck_assert(ends[0].sum == kt_sum(0, data, MEGABYTE));
	for (int end = 0; end < 2; end++) {
		ck_assert_int_eq(ends[end].error, 0);
		kt_stream_end(&ends[end]);
		link.fds[end] = -1;
	}
	kt_loop_free(loop);
	kt_link_end(&link);
	free(data);
}
END_TEST

static Suite *fakektls_ops_suite(void)
{
	Suite *suite = suite_create("fakektls-ops");
	TCase *ops = kt_case(suite, "ops", 120);

	tcase_add_test(ops, a_multishot_ends_at_a_control_record);
	tcase_add_test(ops, a_pool_runs_dry);
	tcase_add_test(ops, single_operations);
	tcase_add_loop_test(ops, streams_in_every_mode, 0, KT_MODES);
	return suite;
}

int main(void)
{
	return kt_main(fakektls_ops_suite());
}
