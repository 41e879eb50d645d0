/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Signals, delivered as calls on the loop's thread.
 *
 * kLoop installs a handler with sigaction(2) while at least one watcher of a
 * signal exists, and puts the former one back afterwards. Several loops may
 * watch the same signal. Signals that come faster than the loop turns are one.
 */
#ifndef KLOOP_SIGNAL_H
#define KLOOP_SIGNAL_H

#include <kloop/base.h>

KLOOP_BEGIN_DECLS

struct kloop_loop;
struct kloop_signal;
typedef void kloop_signal_fn(struct kloop_signal *watcher, int signal_number, void *data);

/*
 * Watch a signal.
 *
 * signal_number: as in signal(7); not SIGKILL or SIGSTOP.
 * fn, data: called in a turn after the signal came.
 * ret_watcher: the new watcher.
 *
 * Ownership: the caller frees it with kloop_signal_free(), before the loop.
 * Thread: the owner of the loop.
 * Returns: 0; -EINVAL for a bad argument or a signal that cannot be caught;
 * -EBUSY if 64 loops watch signals already; -ENOMEM; -EPERM, -ECHILD, -ESTALE
 * as everywhere.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_signal_new(struct kloop_loop *loop, int signal_number, kloop_signal_fn *fn,
				  void *data, struct kloop_signal **ret_watcher) KLOOP_MUST_CHECK;

/* Stop watching; also from inside the watcher's function. NULL is permitted. Thread: the owner. */
KLOOP_EXPORT void kloop_signal_free(struct kloop_signal *watcher);

KLOOP_END_DECLS

#endif
