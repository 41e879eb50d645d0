/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Datagrams: UDP and Unix datagram sockets, connected or not.
 *
 * UDP is received by one multishot operation into buffers that all datagram
 * sockets of the loop share, where the kernel can (Linux 6.0); by readiness and
 * recvmsg(2) elsewhere. What is sent leaves at the start of the next turn, many
 * datagrams with one call, in the order in which it was queued.
 *
 * No error ends a datagram socket: one that the kernel tells is told to the
 * owner, and the next datagram goes on.
 */
#ifndef KLOOP_DATAGRAM_H
#define KLOOP_DATAGRAM_H

#include <kloop/address.h>
#include <kloop/base.h>

KLOOP_BEGIN_DECLS

struct kloop_loop;
struct kloop_datagram;

/* In the flags of on_datagram: it was longer, and what did not fit is lost. */
#define KLOOP_DATAGRAM_TRUNCATED (1u << 0)

/* The longest datagram that a Unix socket receives whole; UDP has none that long. */
#define KLOOP_DATAGRAM_MAX_BYTES ((size_t)256 << 10)

/* What each queued datagram counts beside its own bytes. */
#define KLOOP_DATAGRAM_EXTRA_BYTES 8

/*
 * What a datagram socket tells its owner. Each function is called from a turn
 * of the loop, never from inside a call made by the owner; any may be NULL but
 * on_close. Inside each, every function of the socket may be called.
 */
struct kloop_datagram_handlers {
	/* sizeof(struct kloop_datagram_handlers), so that later versions can add to it. */
	size_t size;

	/*
	 * A datagram arrived, maybe an empty one. data and from are valid until
	 * the function returns; from->length is 0 if the sender has no address
	 * (an unbound Unix socket). flags: KLOOP_DATAGRAM_TRUNCATED.
	 */
	void (*on_datagram)(struct kloop_datagram *datagram, const void *data, size_t bytes,
			    const struct kloop_address *from, unsigned flags, void *user);

	/*
	 * Something failed with this negative errno, and the rest goes on.
	 * peer: to whom what failed was sent; NULL if that is not known, which
	 * is the case with errors that receiving told. -ECONNREFUSED: nobody
	 * has the port to which an earlier datagram went; only connected sockets
	 * hear of it, and those with KLOOP_DATAGRAM_PEER_ERRORS. After -EBADF,
	 * -ENOTSOCK, -EINVAL, -EOPNOTSUPP and -ENOMEM from receiving nothing
	 * more is received until kloop_datagram_start_read().
	 */
	void (*on_error)(struct kloop_datagram *datagram, int error,
			 const struct kloop_address *peer, void *user);

	/* The bytes queued for sending fell to the low mark after passing the high one. */
	void (*on_drain)(struct kloop_datagram *datagram, void *user);

	/*
	 * The socket is closed: nothing is lent any more, its descriptor is
	 * closed (or given back), and its memory is freed when this returns.
	 */
	void (*on_close)(struct kloop_datagram *datagram, void *user);
};

enum kloop_datagram_flag {
	/* Do not close the descriptor with the socket: on_close gives it back. */
	KLOOP_DATAGRAM_KEEP_FD = 1 << 0,
	/* kloop_datagram_open(): SO_REUSEPORT, so that several sockets share a port. */
	KLOOP_DATAGRAM_REUSE_PORT = 1 << 1,
	/* kloop_datagram_open(): SO_BROADCAST. */
	KLOOP_DATAGRAM_BROADCAST = 1 << 2,
	/*
	 * Have errors that routers and peers tell by ICMP reported with the peer
	 * that they are about, on sockets that are not connected too (IP_RECVERR,
	 * IPV6_RECVERR). Not for Unix sockets.
	 */
	KLOOP_DATAGRAM_PEER_ERRORS = 1 << 3,
};

/*
 * Make a datagram socket of an open descriptor.
 *
 * fd: a socket of IPv4, IPv6 or Unix that is no stream.
 * flags: of enum kloop_datagram_flag.
 * handlers: must stay valid and unchanged for the life of the socket.
 * user: handed to each handler.
 *
 * Receiving begins with kloop_datagram_start_read().
 *
 * Ownership: the object owns the descriptor from here on. The caller owns the
 * object until kloop_datagram_close() or kloop_datagram_abort(); the library
 * frees it after on_close. If the call fails the descriptor is still the
 * caller's.
 * Thread: the owner of the loop, as for all functions of datagram sockets.
 * Returns: 0; -EINVAL, also for a stream socket; -EBADF; -ENOTSOCK;
 * -EAFNOSUPPORT for other families; -ENOMEM; -EPERM, -ECHILD, -ESTALE as
 * everywhere.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_datagram_new(struct kloop_loop *loop, int fd, unsigned flags,
				    const struct kloop_datagram_handlers *handlers, void *user,
				    struct kloop_datagram **ret_datagram) KLOOP_MUST_CHECK;

/*
 * Make a socket, bind it, and connect it.
 *
 * local: where to receive, with port 0 at a free port; NULL: wherever the
 * kernel chooses. peer: the only one to send to and to hear of; NULL: anyone.
 * One of them must be there, and both of one family.
 *
 * A path of a Unix socket must not exist, and stays when the socket is closed.
 *
 * Returns: as kloop_datagram_new(), and what socket(2), bind(2) and connect(2)
 * return: -EADDRINUSE, -EACCES, -EADDRNOTAVAIL, -ENETUNREACH, ...
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_datagram_open(struct kloop_loop *loop, const struct kloop_address *local,
				     const struct kloop_address *peer, unsigned flags,
				     const struct kloop_datagram_handlers *handlers, void *user,
				     struct kloop_datagram **ret_datagram) KLOOP_MUST_CHECK;

/*
 * Begin, or go on, to receive.
 *
 * Returns: 0, also if it receives already; -ESTALE after close; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_datagram_start_read(struct kloop_datagram *datagram) KLOOP_MUST_CHECK;

/*
 * Stop to receive: no on_datagram until kloop_datagram_start_read(). What the
 * kernel had delivered already is kept, at most the shared buffers; the rest
 * stays in the socket, which drops what it has no room for.
 *
 * Returns: 0; -ESTALE after close.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_datagram_stop_read(struct kloop_datagram *datagram);

/*
 * Send a datagram, after all that were queued before. It is copied.
 *
 * data, bytes: none at all are a datagram too.
 * peer: to whom, copied; NULL for a connected socket.
 *
 * Completion: none; on_error tells if it could not be sent.
 * Returns: 0; -EINVAL; -ENOMEM (it is not queued); -ESTALE after close.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_datagram_send(struct kloop_datagram *datagram, const void *data,
				     size_t bytes,
				     const struct kloop_address *peer) KLOOP_MUST_CHECK;

/*
 * Send a datagram by a system call of its own, now.
 *
 * Returns: 1 if the kernel has it; 0 if the socket is full, if others are
 * queued, or over IP with SQPOLL: kloop_datagram_send() is to be used then; -EINVAL;
 * -ESTALE after close; a negative errno of sendto(2), which on_error will not
 * tell.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_datagram_try_send(struct kloop_datagram *datagram, const void *data,
					 size_t bytes,
					 const struct kloop_address *peer) KLOOP_MUST_CHECK;

/*
 * What is queued and not yet handed to the kernel: bytes, of which each
 * datagram counts KLOOP_DATAGRAM_EXTRA_BYTES more than it has; datagrams.
 * Since: 0.1.
 */
KLOOP_EXPORT size_t kloop_datagram_get_send_bytes(const struct kloop_datagram *datagram);
KLOOP_EXPORT size_t kloop_datagram_get_send_count(const struct kloop_datagram *datagram);

/*
 * Set the marks of the queue; the defaults are 16 KiB and 64 KiB.
 *
 * When more than high bytes are queued the owner should stop sending;
 * on_drain tells when they fell to low or below.
 *
 * Returns: 0; -EINVAL if low is above high.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_datagram_set_send_marks(struct kloop_datagram *datagram, size_t low_bytes,
					       size_t high_bytes) KLOOP_MUST_CHECK;

/*
 * Close a socket: stop receiving, send what is queued, close.
 *
 * A full peer (Unix) or interface can delay the end without limit;
 * kloop_datagram_abort() may follow at any time.
 *
 * Completion: on_close. A second call does nothing.
 * Since: 0.1.
 */
KLOOP_EXPORT void kloop_datagram_close(struct kloop_datagram *datagram);

/*
 * Close a socket at once; what is queued is lost.
 *
 * Completion: on_close.
 * Since: 0.1.
 */
KLOOP_EXPORT void kloop_datagram_abort(struct kloop_datagram *datagram);

/* The descriptor; -1 once it is closed. It stays the object's. Since: 0.1. */
KLOOP_EXPORT int kloop_datagram_get_fd(const struct kloop_datagram *datagram);

/*
 * The address that the socket is bound to, with the port that was taken.
 *
 * Returns: 0; -ESTALE after close; a negative errno of getsockname(2).
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_datagram_get_address(const struct kloop_datagram *datagram,
					    struct kloop_address *ret_address) KLOOP_MUST_CHECK;

KLOOP_END_DECLS

#endif
