/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A counting allocator for kloop_set_allocator() that can be told to fail.
 *
 * Every block carries its size and a mark, so that the outstanding bytes are
 * known to the byte, and a block that is freed twice or was never given ends
 * the program. Fresh memory is filled with a pattern and released memory with
 * another; a realloc always moves: code that relies on old contents or on an
 * old address fails under these tests instead of in the field.
 *
 * Thread: all functions may be called from any thread; the counters are atomic.
 */
#ifndef KT_FAULT_H
#define KT_FAULT_H

#include <stdbool.h>
#include <stddef.h>

/* Put the allocator in force and zero all counters; no failures yet. */
void kt_fault_install(void);

/* Restore libc's functions. Nothing may be outstanding. */
void kt_fault_remove(void);

/*
 * From here on the countdown-th allocation fails, and repeat - 1 after it.
 *
 * countdown: from 1; 0 switches failures off.
 * repeat: how many fail in a row; 0 for all that follow.
 */
void kt_fault_arm(size_t countdown, size_t repeat);

/* Let allocations pass uncounted until kt_fault_resume(); calls nest. */
void kt_fault_pause(void);
void kt_fault_resume(void);

/* How many allocations were made to fail since kt_fault_arm(). */
size_t kt_fault_hits(void);

/* Allocations since kt_fault_install(), failed ones included. */
size_t kt_fault_calls(void);

/* Blocks and bytes that were given and not yet taken back. */
size_t kt_fault_blocks(void);
size_t kt_fault_bytes(void);

/* Does the block at memory belong to the allocator, and is it in use? */
bool kt_fault_owns(const void *memory);

#endif
