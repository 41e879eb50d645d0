/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The end of child processes, through pidfd_open(2) and the ring: no SIGCHLD
 * handler, no thread.
 */
#ifndef KLOOP_CHILD_H
#define KLOOP_CHILD_H

#include <kloop/base.h>
#include <sys/types.h>

KLOOP_BEGIN_DECLS

struct kloop_loop;
struct kloop_child;

/*
 * Called once when the child has ended and was reaped.
 *
 * status: as waitpid(2) stores it: WIFEXITED and so on apply; or a negative
 * errno, -ECHILD if somebody else reaped it, -ECANCELED if the loop was freed
 * first. The watcher is freed when the function returns.
 */
typedef void kloop_child_fn(struct kloop_child *watcher, pid_t pid, int status, void *data);

/*
 * Watch a child process of this process, and reap it.
 *
 * Ownership: the watcher belongs to the library until its function was called
 * or kloop_child_free() gave it back.
 * Thread: the owner of the loop.
 * Returns: 0; -EINVAL; -ESRCH or -ECHILD if there is no such child; -EMFILE;
 * -ENOMEM; -EPERM, -ECHILD, -ESTALE as everywhere.
 * Kernel: 5.3 (pidfd_open), 5.4 (waitid with P_PIDFD). -ENOSYS under valgrind
 * that does not know pidfd_open (3.19).
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_child_new(struct kloop_loop *loop, pid_t pid, kloop_child_fn *fn, void *data,
				 struct kloop_child **ret_watcher) KLOOP_MUST_CHECK;

/* Stop watching: the function is not called, the child is not reaped. Thread: the owner. */
KLOOP_EXPORT void kloop_child_free(struct kloop_child *watcher);

KLOOP_END_DECLS

#endif
