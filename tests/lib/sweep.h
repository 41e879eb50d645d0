/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Sweeps: a scenario, the whole life of a loop and of what it does, is run
 * again and again; each time one thing goes wrong, at the next place: an
 * allocation, a system call, an operation of the ring.
 *
 * After each run no block is outstanding and no descriptor open. What else must
 * hold the scenario checks by KT_HOLDS(): whatever was accepted completed once,
 * and it came to an end.
 *
 * Without KLOOP_SWEEP=full only some of the places are visited, always the
 * same. KLOOP_SWEEP_ONLY=operation:12:-5 has one run, as a failure names it.
 */
#ifndef KT_SWEEP_H
#define KT_SWEEP_H

#include "support.h"

/* A scenario. mode: what it was given in kt_sweep(). */
typedef void kt_scenario_fn(int mode);

/* Run it with each fault. Prints how many there were. */
void kt_sweep(const char *name, kt_scenario_fn *scenario, int mode);

/* Run it with each operation, one at a time, ending with this result, which it must get over. */
void kt_sweep_result(const char *name, kt_scenario_fn *scenario, int mode, int result);

/* What goes wrong in this run, as text; "nothing". */
const char *kt_sweep_fault(void);

/* Is there one at all? */
bool kt_sweep_has_fault(void);

/* Did it go wrong already? */
bool kt_sweep_happened(void);

/* Is the fault, if there is one, one of those that a stream has to get over? */
bool kt_sweep_must_succeed(void);

/*
 * Set while the loop is freed: what arrives then is still delivered, and no
 * call succeeds any more. Each run begins without it.
 */
extern bool kt_sweep_ending;

/* Did a call succeed? Without a fault, or the end, it must. */
bool kt_took(int r);

/* Fails the test, and says which fault it was. */
#define KT_HOLDS(condition)                                                              \
	ck_assert_msg(condition, "%s, after %s", #condition, kt_sweep_fault())

/* What is done by the test itself, in which nothing fails; calls nest. */
void kt_sweep_pause(void);
void kt_sweep_resume(void);

/* Evaluate without faults. */
#define KT_PLAIN(statement)          \
	do {                         \
		kt_sweep_pause();    \
		statement;           \
		kt_sweep_resume();   \
	} while (0)

/* How many modes kt_sweep_loop() knows, and which. */
enum kt_sweep_mode {
	KT_SWEEP_BEST,
	KT_SWEEP_TINY, /* two entries in each queue, a pool of one buffer */
	KT_SWEEP_OLD,  /* no newer feature */
	KT_SWEEP_POLLED, /* SQPOLL */
	KT_SWEEP_MODES,
};

/* A loop, or NULL if the fault keeps it from being made. */
struct kloop_loop *kt_sweep_loop(int mode);

/* How long kt_sweep_until() waits in a turn; for scenarios with a peer that done() drives. */
extern uint64_t kt_sweep_wait_ns;

/*
 * Turn until done says so. It ends with the test if that takes too long, or if
 * a turn fails without reason.
 */
void kt_sweep_until(struct kloop_loop *loop, bool (*done)(void *data), void *data);

/* A few turns without waiting for anything. */
void kt_sweep_turns(struct kloop_loop *loop, int count);

#endif
