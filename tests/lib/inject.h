/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * One fault at one place: the n-th system call that the library makes by itself
 * fails, or the n-th operation that it hands to the ring ends in another way.
 *
 * Programs that use it have inject.c (and inject-calls.c) among their sources
 * and are linked with $(inject_wraps). Faults are faithful: a short transfer is
 * made short before the kernel sees it, so that no byte is lost; an operation
 * that fails is replaced by one that does nothing, so that none is moved; and
 * a close that fails has closed.
 *
 * Thread: one at a time.
 */
#ifndef KT_INJECT_H
#define KT_INJECT_H

#include <stdbool.h>
#include <stddef.h>

/* What becomes of an operation, beside negative errnos. */
#define KT_SHORT 1 /* one byte only; of a multishot operation one shot only */

/* What the n-th call or operation since kt_inject_arm() was; 0: nothing to be failed. */
struct kt_inject_counts {
	size_t calls, operations;
};

/* Count from 0 on, without a fault. */
void kt_inject_count(void);

/*
 * Count from 0 on, and let the call-th call fail in the way number variant
 * (modulo how many that call has), or the operation-th operation end with
 * result; 0: none.
 */
void kt_inject_call(size_t call, size_t variant);
void kt_inject_operation(size_t operation, int result);

/* Both, and another order: completions that are there at the same time change places. 0: none. */
void kt_inject_all(size_t call, size_t variant, size_t operation, int result, unsigned shuffle);

/* No faults, and no counting. Returns: whether the fault took place. */
bool kt_inject_end(void);
bool kt_inject_happened(void);

/* Counted since. */
struct kt_inject_counts kt_inject_get_counts(void);

/* In how many ways the n-th call can fail, and its name; of the last count. */
size_t kt_inject_variants(size_t call);
const char *kt_inject_name(size_t call);

/*
 * Does the kernel (6.11) let an operation end with any result? On older ones
 * the results are put in when a submission returns, which does not work with
 * SQPOLL.
 */
bool kt_inject_knows_results(void);

/* What the test does by itself is not counted; calls nest. */
void kt_inject_pause(void);
void kt_inject_resume(void);

/*
 * For wrappers: is this call to fail? Returns 0, an errno, or KT_INJECT_CUT if
 * one byte of the transfer is to be moved. names: of a table in inject-calls.c.
 */
#define KT_INJECT_CUT (-1)
struct kt_inject_site {
	const char *name;
	int errors[8]; /* ends with 0 */
};
int kt_inject_look(const struct kt_inject_site *site);

#endif
