/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Where a measured stretch of a load begins and ends; and what was allocated
 * between. libguard.so is preloaded, so that it sees every malloc().
 */
#ifndef KL_GUARD_MARK_H
#define KL_GUARD_MARK_H

/*
 * From here on it counts. callgrind(1) starts its count anew, strace(1) sees a
 * write(2) of "begin" to descriptor -1, allocations are counted from here.
 */
void kl_guard_begin(void);

/*
 * Up to here it counted, for this load. callgrind dumps what it counted under
 * the name, strace sees the name. Returns the number of allocations since begin.
 */
unsigned long kl_guard_end(const char *name);

#endif
