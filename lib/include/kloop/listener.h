/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Listeners: sockets that accept connections.
 *
 * One multishot accept serves for the life of the listener, unless the socket
 * is shared (KLOOP_LISTENER_SHARED). When descriptors
 * or memory run out (EMFILE, ENFILE, ENOBUFS, ENOMEM) the listener tells its
 * owner, waits and tries again by itself; connections wait in the kernel's
 * backlog meanwhile.
 */
#ifndef KLOOP_LISTENER_H
#define KLOOP_LISTENER_H

#include <kloop/address.h>
#include <kloop/base.h>

KLOOP_BEGIN_DECLS

struct kloop_loop;
struct kloop_listener;

/* What a listener tells its owner; any may be NULL but on_accept and on_close. */
struct kloop_listener_handlers {
	/* sizeof(struct kloop_listener_handlers) */
	size_t size;

	/*
	 * A connection came. fd is non-blocking and close-on-exec, and belongs
	 * to the callee.
	 */
	void (*on_accept)(struct kloop_listener *listener, int fd, void *user);

	/*
	 * Accepting failed with this negative errno. After -EMFILE, -ENFILE,
	 * -ENOBUFS and -ENOMEM it is tried again in a tenth of a second, other
	 * errors end it.
	 */
	void (*on_error)(struct kloop_listener *listener, int error, void *user);

	/* The listener is closed, and its memory is freed when this returns. */
	void (*on_close)(struct kloop_listener *listener, void *user);
};

enum kloop_listener_flag {
	KLOOP_LISTENER_KEEP_FD = 1 << 0,    /* do not close the descriptor */
	KLOOP_LISTENER_REUSE_PORT = 1 << 1, /* kloop_listener_open(): SO_REUSEPORT */
	KLOOP_LISTENER_IP6_ONLY = 1 << 2,   /* kloop_listener_open(): IPV6_V6ONLY */

	/*
	 * Other processes, or other loops, accept from the same socket: take turns
	 * with them. Without it the kernel gives connections to whichever waited
	 * first, also while that one is busy. Sets O_NONBLOCK on the socket.
	 */
	KLOOP_LISTENER_SHARED = 1 << 3,
};

/*
 * Make a listener of a socket on which listen(2) was called, and accept.
 *
 * handlers: must stay valid for the life of the listener.
 *
 * Ownership: the descriptor is the listener's; the caller owns the listener
 * until kloop_listener_close(), the library frees it after on_close. If the
 * call fails the descriptor is still the caller's.
 * Thread: the owner of the loop, as for all functions of listeners.
 * Returns: 0; -EINVAL; -EBADF; -ENOMEM; -EPERM, -ECHILD, -ESTALE as everywhere.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_listener_new(struct kloop_loop *loop, int fd, unsigned flags,
				    const struct kloop_listener_handlers *handlers, void *user,
				    struct kloop_listener **ret_listener) KLOOP_MUST_CHECK;

/*
 * Make a socket, bind it, listen, and accept.
 *
 * address: of any family that kloop_address_*() makes; port 0 takes a free
 * one. SO_REUSEADDR is set for IP, TCP_NODELAY too (accepted sockets inherit
 * it). A path of a Unix socket must not exist.
 * backlog: as listen(2); 0 means SOMAXCONN.
 *
 * Returns: as kloop_listener_new(), and what socket(2), bind(2) and listen(2)
 * return: -EADDRINUSE, -EACCES, -EADDRNOTAVAIL, ...
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_listener_open(struct kloop_loop *loop, const struct kloop_address *address,
				     int backlog, unsigned flags,
				     const struct kloop_listener_handlers *handlers, void *user,
				     struct kloop_listener **ret_listener) KLOOP_MUST_CHECK;

/*
 * Stop accepting for a while, and go on.
 *
 * Connections that the kernel had accepted already are still delivered after
 * a pause; none is lost.
 *
 * Returns: 0; -ESTALE after close; resume also -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_listener_pause(struct kloop_listener *listener);
KLOOP_EXPORT int kloop_listener_resume(struct kloop_listener *listener) KLOOP_MUST_CHECK;

/*
 * Close a listener.
 *
 * Connections accepted and not yet delivered are closed.
 *
 * Completion: on_close. A second call does nothing.
 * Since: 0.1.
 */
KLOOP_EXPORT void kloop_listener_close(struct kloop_listener *listener);

/* The descriptor; -1 once it is closed. Since: 0.1. */
KLOOP_EXPORT int kloop_listener_get_fd(const struct kloop_listener *listener);

/*
 * The address that the listener is bound to, with the port that was taken.
 *
 * Returns: 0; -ESTALE after close; a negative errno of getsockname(2).
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_listener_get_address(const struct kloop_listener *listener,
					    struct kloop_address *ret_address) KLOOP_MUST_CHECK;

KLOOP_END_DECLS

#endif
