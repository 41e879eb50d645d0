/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The engine of sweep.h. */
#include "sweep.h"

#include "fault.h"
#include "inject.h"

#include <errno.h>
#include <string.h>

/* Runs of one kind in the short form. */
#define SHORT_RUNS 12

enum kind {
	KIND_NONE,
	KIND_ALLOCATION,
	KIND_CALL,
	KIND_OPERATION,
};

static const char *const kind_names[] = { "nothing", "allocation", "call", "operation" };

/* What the kernel may say of any operation. */
static const int results[] = { KT_SHORT, -EINTR,  -ECANCELED,  -EAGAIN, -ENOBUFS,
			       -ENOMEM,	 -EMFILE, -ECONNRESET, -EIO };

static struct {
	kt_scenario_fn *scenario;
	int mode;
	enum kind kind;
	size_t place;
	int variant; /* of a call its number, of an operation its result */
	bool repeats; /* kt_sweep_result() */
	size_t faults;
	char text[160];
} now;

const char *kt_sweep_fault(void)
{
	return now.text;
}

bool kt_sweep_has_fault(void)
{
	return now.kind != KIND_NONE;
}

bool kt_sweep_happened(void)
{
	return kt_fault_hits() > 0 || kt_inject_happened();
}

bool kt_sweep_ending;

bool kt_took(int r)
{
	KT_HOLDS(r == 0 || (r < 0 && (kt_sweep_happened() || kt_sweep_ending)));
	return r == 0;
}

bool kt_sweep_must_succeed(void)
{
	if (now.kind == KIND_OPERATION)
		return now.repeats || now.variant == KT_SHORT || now.variant == -EINTR;
	return now.kind == KIND_NONE;
}

void kt_sweep_pause(void)
{
	kt_fault_pause();
	kt_inject_pause();
}

void kt_sweep_resume(void)
{
	kt_inject_resume();
	kt_fault_resume();
}

/* ---- loops ------------------------------------------------------------ */

struct kloop_loop *kt_sweep_loop(int mode)
{
	static const uint64_t newer =
		KLOOP_FEATURE_SINGLE_ISSUER | KLOOP_FEATURE_DEFER_TASKRUN |
		KLOOP_FEATURE_COOP_TASKRUN | KLOOP_FEATURE_TASKRUN_FLAG |
		KLOOP_FEATURE_REGISTERED_RING | KLOOP_FEATURE_CQE_SKIP |
		KLOOP_FEATURE_RECV_MULTISHOT | KLOOP_FEATURE_ACCEPT_MULTISHOT |
		KLOOP_FEATURE_MKDIRAT | KLOOP_FEATURE_FTRUNCATE;
	struct kloop_loop_options *options;
	struct kloop_loop *loop = NULL;
	int r;

	kt_sweep_pause();
	ck_assert_int_eq(kloop_loop_options_new(&options), 0);
	if (mode == KT_SWEEP_TINY) {
		ck_assert_int_eq(kloop_loop_options_set_entries(options, 2, 2), 0);
		ck_assert_int_eq(kloop_loop_options_set_receive_pool(options, 1, 1024), 0);
	} else if (mode == KT_SWEEP_OLD) {
		kloop_loop_options_set_without(options, newer);
	} else if (mode == KT_SWEEP_POLLED) {
		ck_assert_int_eq(kloop_loop_options_set_sqpoll(options, true, 5, -1), 0);
	}
	kt_sweep_resume();
	r = kloop_loop_new(options, &loop);
	KT_PLAIN(kloop_loop_options_free(options));
	KT_HOLDS(r == 0 || (kt_sweep_happened() && !loop));
	return loop;
}

uint64_t kt_sweep_wait_ns = 20 * KT_MS;

static void turn(struct kloop_loop *loop, uint64_t timeout_ns)
{
	int r = kloop_loop_turn(loop, timeout_ns);

	ck_assert_msg(r >= 0 || r == -EINTR || kt_sweep_happened(), "a turn failed with %s after %s",
		      kloop_error_name(r), now.text);
}

void kt_sweep_until(struct kloop_loop *loop, bool (*done)(void *data), void *data)
{
	uint64_t end = kloop_now() + KT_PATIENCE_MS * KT_MS;

	while (!done(data)) {
		ck_assert_msg(kloop_now() < end, "it does not come to an end after %s", now.text);
		turn(loop, kt_sweep_wait_ns);
	}
}

void kt_sweep_turns(struct kloop_loop *loop, int count)
{
	while (count-- > 0)
		turn(loop, 0);
}

/* ---- runs ------------------------------------------------------------- */

static void describe(void)
{
	switch (now.kind) {
	case KIND_NONE:
		snprintf(now.text, sizeof(now.text), "nothing");
		break;
	case KIND_ALLOCATION:
		snprintf(now.text, sizeof(now.text), "mode %d: allocation:%zu:%d", now.mode,
			 now.place, now.variant);
		break;
	case KIND_CALL:
		snprintf(now.text, sizeof(now.text), "mode %d: call:%zu:%d (%s)", now.mode,
			 now.place, now.variant, kt_inject_name(now.place));
		break;
	case KIND_OPERATION:
		snprintf(now.text, sizeof(now.text), "mode %d: operation:%zu:%d (%s)", now.mode,
			 now.place, now.variant,
			 now.variant == KT_SHORT ? "short" : kloop_error_name(now.variant));
		break;
	}
	if (getenv("KLOOP_SWEEP_VERBOSE"))
		fprintf(stderr, "# %s\n", now.text);
}

/* Returns: whether the fault took place. */
static bool run(enum kind kind, size_t place, int variant)
{
	int before;
	bool hit;

	now.kind = kind;
	now.place = place;
	now.variant = variant;
	describe();
	kt_inject_pause();
	before = kt_fd_count();
	kt_inject_resume();
	kt_fault_arm(kind == KIND_ALLOCATION ? place : 0, (size_t)variant);
	if (kind == KIND_CALL)
		kt_inject_call(place, (size_t)variant);
	else if (kind == KIND_OPERATION)
		kt_inject_operation(place, variant);
	else
		kt_inject_count();
	kt_sweep_ending = false;
	now.scenario(now.mode);
	hit = kt_sweep_happened();
	kt_inject_end();
	kt_fault_arm(0, 0);
	KT_HOLDS(kt_fault_blocks() == 0);
	KT_HOLDS(kt_fault_bytes() == 0);
	ck_assert_msg(kt_fd_count() == before, "%d descriptors became %d after %s", before,
		      kt_fd_count(), now.text);
	now.faults += hit;
	return hit;
}

static size_t stride(size_t places)
{
	const char *form = getenv("KLOOP_SWEEP");

	if ((form && strcmp(form, "full") == 0) || places <= SHORT_RUNS)
		return 1;
	/* Odd, so that the kinds of faults take turns at a place. */
	return places / SHORT_RUNS | 1;
}

/* Single failures, and memory that is gone for good. */
static size_t sweep_allocations(size_t places)
{
	size_t step = stride(2 * places);

	for (size_t i = 0; i < 2 * places; i += step)
		run(KIND_ALLOCATION, i / 2 + 1, i % 2 == 0);
	return places;
}

static size_t sweep_calls(size_t places)
{
	size_t all = 0, step, at = 0;

	for (size_t i = 1; i <= places; i++)
		all += kt_inject_variants(i);
	step = stride(all);
	for (size_t i = 1; i <= places; i++) {
		size_t variants = kt_inject_variants(i);

		for (size_t j = 0; j < variants; j++, at++)
			if (at % step == 0)
				run(KIND_CALL, i, (int)j);
	}
	return all;
}

static size_t sweep_operations(size_t places)
{
	size_t all = places * KT_COUNT(results), step = stride(all);

	for (size_t i = 0; i < all; i += step)
		run(KIND_OPERATION, i / KT_COUNT(results) + 1, results[i % KT_COUNT(results)]);
	return all;
}

/* KLOOP_SWEEP_ONLY=KIND:PLACE:VARIANT. Returns: whether it is set. */
static bool run_only(void)
{
	const char *only = getenv("KLOOP_SWEEP_ONLY");
	unsigned place;
	int variant, kind;
	char name[16];

	if (!only || sscanf(only, "%15[a-z]:%u:%d", name, &place, &variant) != 3)
		return false;
	for (kind = 1; kind <= KIND_OPERATION; kind++)
		if (strcmp(name, kind_names[kind]) == 0)
			run((enum kind)kind, place, variant);
	return true;
}

static bool begin(const char *name, kt_scenario_fn *scenario, int mode)
{
	if (mode == KT_SWEEP_POLLED && !kt_inject_knows_results()) {
		printf("left out before Linux 6.11: %s, mode %d\n", name, mode);
		return false;
	}
	memset(&now, 0, sizeof(now));
	now.scenario = scenario;
	now.mode = mode;
	kt_fault_install();
	/* The first run makes what a process makes once. */
	run(KIND_NONE, 0, 0);
	return true;
}

void kt_sweep(const char *name, kt_scenario_fn *scenario, int mode)
{
	struct kt_inject_counts counts;
	size_t allocations;

	if (!begin(name, scenario, mode))
		return;
	allocations = kt_fault_calls();
	run(KIND_NONE, 0, 0);
	allocations = kt_fault_calls() - allocations;
	counts = kt_inject_get_counts();
	if (!run_only()) {
		ck_assert_uint_gt(counts.operations, 0);
		sweep_allocations(allocations);
		sweep_calls(counts.calls);
		sweep_operations(counts.operations);
		printf("# %s, mode %d: %zu faults injected (%zu allocations, %zu calls, %zu operations)\n",
		       name, mode, now.faults, allocations, counts.calls, counts.operations);
		fflush(stdout);
	}
	kt_fault_remove();
}

void kt_sweep_result(const char *name, kt_scenario_fn *scenario, int mode, int result)
{
	size_t place = 1;

	if (!begin(name, scenario, mode))
		return;
	now.repeats = true;
	while (run(KIND_OPERATION, place, result))
		place++;
	printf("# %s, mode %d: %zu operations ended with %s\n", name, mode, now.faults,
	       kloop_error_name(result));
	fflush(stdout);
	kt_fault_remove();
}
