/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Listeners. As with streams, public functions only set state and prepare
 * operations; callbacks come from completions, the timer and the defer, and
 * only the end of such a call (leave()) frees.
 */
#include <kloop/listener.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include "ring/ring.h"

/* How long to wait when descriptors or memory ran out. */
#define RETRY_NS UINT64_C(100000000)
/* After the loop changed its thread: when to look again, first and at most. */
#define FIRST_LOOK_NS UINT64_C(20000000)
#define LONGEST_LOOK_NS UINT64_C(1000000000)
/* Of a shared socket's connections, how many are taken before others have their turn. */
#define SHARED_BATCH 8
/* Passing errors in a row after which the listener waits as well. */
#define PASSING_ERRORS 64

struct kloop_listener {
	struct kloop_loop *loop;
	const struct kloop_listener_handlers *handlers;
	void *user;
	struct kloop_op accept_op; /* or the wait for readiness */
	struct kloop_op close_op;
	struct kloop_timer retry;
	struct kloop_timer look;
	uint64_t look_ns;
	struct kl_defer defer;
	struct kl_exit exit;
	int fd;
	unsigned flags;
	unsigned passing_errors; /* in a row */
	bool paused;
	bool multishot;
	bool cancelled; /* the accept was asked to end */
	bool failed;    /* on_error told an error for good */
	bool closing;
	bool closed;  /* the descriptor is closed, or the operation to do so is on */
	bool close_later; /* but for close(2), which waits until the accept has ended */
	bool settled; /* with SQPOLL: the polling thread let go of the socket, too */
	bool exiting; /* freed by the loop's exit hook */
	bool busy;    /* inside a callback */
};

static int arm(struct kloop_listener *listener);
static void leave(struct kloop_listener *listener);

/* ---- the end ---------------------------------------------------------- */

static void schedule(struct kloop_listener *listener)
{
	if (!listener->defer.scheduled && !kl_loop_is_closing(listener->loop))
		kl_loop_defer(listener->loop, &listener->defer);
}

static void cancel(struct kloop_listener *listener)
{
	if (!kloop_op_is_active(&listener->accept_op) || listener->cancelled)
		return;
	if (kloop_op_cancel(&listener->accept_op) == 0)
		listener->cancelled = true;
	else
		schedule(listener); /* no memory for it now: try again */
}

static void close_done(struct kloop_op *op, int32_t result, uint32_t flags);

static void settle_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_listener *listener = kl_container_of(op, struct kloop_listener, close_op);

	(void)result;
	(void)flags;
	listener->busy = true;
	leave(listener);
}

/*
 * A polling thread tells completions some microseconds before it drops its
 * references to the socket, which keep the port taken. One more round through
 * the thread makes on_close mean that the port is free. Returns whether it is on.
 */
static bool settle(struct kloop_listener *listener)
{
	if (listener->settled || (listener->flags & KLOOP_LISTENER_KEEP_FD) ||
	    !(kloop_loop_get_features(listener->loop) & KLOOP_FEATURE_SQPOLL))
		return false;
	listener->settled = true;
	listener->close_op.complete = settle_done;
	return kloop_op_nop(listener->loop, &listener->close_op) == 0;
}

/* The cancel and the close go with one submission; returns whether it is over. */
static bool close_step(struct kloop_listener *listener)
{
	bool ending = kl_loop_is_closing(listener->loop);

	cancel(listener);
	if (!listener->closed) {
		listener->closed = true;
		listener->close_op.complete = close_done;
		/*
		 * Where there is no room for the operation, there may be none for the accept: one
		 * that the kernel does not have yet would meet the next file of this number.
		 */
		listener->close_later =
			!(listener->flags & KLOOP_LISTENER_KEEP_FD) &&
			(ending ||
			 kl_op_close(listener->loop, &listener->close_op, listener->fd) < 0);
	}
	if (kloop_op_is_active(&listener->accept_op) || kloop_op_is_active(&listener->close_op))
		return false;
	if (listener->close_later) {
		listener->close_later = false;
		close(listener->fd);
	}
	if (listener->defer.scheduled && !ending)
		return false;
	if (!ending && settle(listener))
		return false;
	if (listener->defer.scheduled)
		kl_loop_drop_defer(listener->loop, &listener->defer);
	if (!listener->exiting)
		kl_loop_remove_exit(listener->loop, &listener->exit);
	kloop_timer_stop(&listener->retry);
	kloop_timer_stop(&listener->look);
	kl_loop_note_call(listener->loop);
	listener->handlers->on_close(listener, listener->user);
	kl_free(listener);
	return true;
}

/* The listener must not be touched afterwards. */
static void leave(struct kloop_listener *listener)
{
	if (!listener->closing || !close_step(listener))
		listener->busy = false;
}

static void close_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_listener *listener = kl_container_of(op, struct kloop_listener, close_op);

	(void)flags;
	listener->busy = true;
	/* Any other error of close(2) has closed the descriptor all the same. */
	if (result == -ECANCELED)
		close(listener->fd);
	leave(listener);
}

static void run_exit(struct kl_exit *hook)
{
	struct kloop_listener *listener = kl_container_of(hook, struct kloop_listener, exit);

	listener->busy = true;
	listener->exiting = true;
	listener->closing = true;
	leave(listener);
}

/* ---- accept ----------------------------------------------------------- */

static bool wanted(const struct kloop_listener *listener)
{
	return !listener->paused && !listener->closing && !listener->failed;
}

static void tell_error(struct kloop_listener *listener, int error)
{
	kl_loop_note_call(listener->loop);
	if (!listener->closing && listener->handlers->on_error)
		listener->handlers->on_error(listener, error, listener->user);
}

/* Try again in a while: at once would only turn in circles. */
static void wait_and_retry(struct kloop_listener *listener)
{
	/* Without memory for a timer the next turn is the while. */
	if (wanted(listener) && kloop_timer_start(listener->loop, &listener->retry,
						  kloop_now() + RETRY_NS) < 0)
		schedule(listener);
}

static void fail(struct kloop_listener *listener, int error)
{
	listener->failed = true;
	tell_error(listener, error);
}

/* Accept goes on, if it should and does not already. */
static void go_on(struct kloop_listener *listener)
{
	int r;

	if (!wanted(listener) || kloop_timer_is_active(&listener->retry) ||
	    kloop_op_is_active(&listener->accept_op) || kl_loop_is_closing(listener->loop))
		return;
	r = arm(listener);
	if (r == -ENOMEM) {
		tell_error(listener, r);
		wait_and_retry(listener);
	} else if (r < 0) {
		fail(listener, r);
	}
}

/* What remains of an error after the operation has ended. */
static void handle_error(struct kloop_listener *listener, int error)
{
	switch (error) {
	case -ECANCELED: /* by us, or because the loop changed its thread */
	case -EINTR:
		break;
	case -EMFILE:
	case -ENFILE:
	case -ENOBUFS:
	case -ENOMEM:
		tell_error(listener, error);
		wait_and_retry(listener);
		break;
	case -ECONNABORTED:
	/* Errors of the new connection's network, which accept(2) hands on. */
	case -ENETDOWN:
	case -EPROTO:
	case -ENOPROTOOPT:
	case -EHOSTDOWN:
	case -ENONET:
	case -EHOSTUNREACH:
	case -EOPNOTSUPP:
	case -ENETUNREACH:
	case -ETIMEDOUT:
	case -EPERM: /* a firewall */
		if (++listener->passing_errors >= PASSING_ERRORS)
			wait_and_retry(listener);
		break;
	default:
		if (!listener->closing)
			fail(listener, error);
	}
}

/*
 * A shared socket is ready, and all who wait for that know. An accept in the
 * ring would not do: such waits are exclusive, and the kernel wakes the first
 * of the queue, where a multishot stays.
 */
static void accept_shared(struct kloop_listener *listener)
{
	int fd, i;

	for (i = 0; i < SHARED_BATCH && wanted(listener); i++) {
		fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		kl_loop_count_direct(listener->loop);
		if (fd < 0) {
			if (errno != EAGAIN) /* somebody else took it */
				handle_error(listener, -errno);
			return;
		}
		listener->passing_errors = 0;
		listener->handlers->on_accept(listener, fd, listener->user);
	}
}

static void accept_done(struct kloop_op *op, int32_t result, uint32_t flags);

static void ready_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_listener *listener = kl_container_of(op, struct kloop_listener, accept_op);

	(void)flags;
	listener->busy = true;
	listener->cancelled = false;
	if (result < 0)
		handle_error(listener, result);
	else if ((listener->flags & KLOOP_LISTENER_SHARED) && !kl_loop_is_closing(listener->loop))
		accept_shared(listener);
	go_on(listener);
	leave(listener);
}

/* Before 5.19 an accept on a non-blocking socket does not wait by itself. */
static void wait_ready(struct kloop_listener *listener)
{
	int r;

	if (!wanted(listener) || kl_loop_is_closing(listener->loop))
		return;
	listener->accept_op.complete = ready_done;
	r = kloop_op_poll(listener->loop, &listener->accept_op, listener->fd, POLLIN);
	if (r < 0)
		wait_and_retry(listener);
}

/*
 * An accept that nobody cancelled ended with the ring of another thread. That ring
 * goes a while after its close, and not before its thread does if it has registered
 * it; until then the accept that it has is still the first in the socket's queue, and
 * the kernel wakes the first one only: a connection would wait for the next. So the
 * accept is begun anew now and then, by which it takes what waits.
 */
static void look_again(struct kloop_listener *listener)
{
	if (listener->look_ns == 0)
		listener->look_ns = FIRST_LOOK_NS;
	/* Without memory the next connection brings it. */
	if (wanted(listener) && !kl_loop_is_closing(listener->loop))
		(void)!kloop_timer_start(listener->loop, &listener->look,
					 kloop_now() + listener->look_ns);
	if (listener->look_ns < LONGEST_LOOK_NS)
		listener->look_ns *= 2;
}

static void run_look(struct kloop_timer *timer)
{
	struct kloop_listener *listener = kl_container_of(timer, struct kloop_listener, look);

	listener->busy = true;
	cancel(listener);
	look_again(listener);
	leave(listener);
}

static void accept_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_listener *listener = kl_container_of(op, struct kloop_listener, accept_op);

	listener->busy = true;
	if (result == -ECANCELED && !listener->cancelled)
		look_again(listener);
	if (!(flags & KLOOP_OP_MORE))
		listener->cancelled = false;
	if (result >= 0) {
		listener->passing_errors = 0;
		/* After a pause too: what was accepted has no other way to its owner. */
		if (listener->closing || kl_loop_is_closing(listener->loop))
			close(result);
		else
			listener->handlers->on_accept(listener, result, listener->user);
	} else if (result == -EAGAIN) {
		wait_ready(listener);
	} else {
		handle_error(listener, result);
	}
	go_on(listener);
	leave(listener);
}

static int arm(struct kloop_listener *listener)
{
	int flags = SOCK_NONBLOCK | SOCK_CLOEXEC;

	if (listener->flags & KLOOP_LISTENER_SHARED) {
		listener->accept_op.complete = ready_done;
		return kloop_op_poll(listener->loop, &listener->accept_op, listener->fd, POLLIN);
	}
	listener->accept_op.complete = accept_done;
	if (listener->multishot)
		return kloop_op_accept_multishot(listener->loop, &listener->accept_op,
						 listener->fd, flags);
	return kloop_op_accept(listener->loop, &listener->accept_op, listener->fd, NULL, NULL,
			       flags);
}

static void run_retry(struct kloop_timer *timer)
{
	struct kloop_listener *listener = kl_container_of(timer, struct kloop_listener, retry);

	listener->busy = true;
	listener->passing_errors = 0;
	go_on(listener);
	leave(listener);
}

static void run_defer(struct kl_defer *defer)
{
	struct kloop_listener *listener = kl_container_of(defer, struct kloop_listener, defer);

	listener->busy = true;
	if (listener->paused)
		cancel(listener);
	go_on(listener);
	leave(listener);
}

/* ---- the beginning ---------------------------------------------------- */

static int check_new(struct kloop_loop *loop, const struct kloop_listener_handlers *handlers,
		     unsigned flags, struct kloop_listener **ret_listener)
{
	if (!loop || !handlers || handlers->size < sizeof(*handlers) || !handlers->on_accept ||
	    !handlers->on_close || !ret_listener ||
	    (flags & ~(unsigned)(KLOOP_LISTENER_KEEP_FD | KLOOP_LISTENER_REUSE_PORT |
				 KLOOP_LISTENER_IP6_ONLY | KLOOP_LISTENER_SHARED)))
		return -EINVAL;
	return kl_loop_check(loop);
}

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || (flags & O_NONBLOCK) ? flags : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

int kloop_listener_new(struct kloop_loop *loop, int fd, unsigned flags,
		       const struct kloop_listener_handlers *handlers, void *user,
		       struct kloop_listener **ret_listener)
{
	struct kloop_listener *listener;
	int r = check_new(loop, handlers, flags, ret_listener);
	socklen_t length = sizeof(int);
	int listens = 0;

	if (r < 0)
		return r;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) < 0)
		return errno == EBADF ? -EBADF : -EINVAL;
	if (!listens)
		return -EINVAL;
	if ((flags & KLOOP_LISTENER_SHARED) && set_nonblocking(fd) < 0)
		return -EINVAL;
	listener = kl_calloc(1, sizeof(*listener));
	if (!listener)
		return -ENOMEM;
	listener->loop = loop;
	listener->handlers = handlers;
	listener->user = user;
	listener->fd = fd;
	listener->flags = flags;
	listener->multishot = kloop_loop_get_features(loop) & KLOOP_FEATURE_ACCEPT_MULTISHOT;
	listener->defer.run = run_defer;
	listener->exit.run = run_exit;
	kloop_op_init(&listener->accept_op, NULL);
	kloop_op_init(&listener->close_op, NULL);
	kloop_timer_init(&listener->retry, run_retry);
	kloop_timer_init(&listener->look, run_look);
	r = arm(listener);
	if (r < 0) {
		kl_free(listener);
		return r;
	}
	kl_loop_add_exit(loop, &listener->exit);
	*ret_listener = listener;
	return 0;
}

static int set_option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int prepare_socket(int fd, int family, unsigned flags)
{
	int r = 0;

	if (family != AF_INET && family != AF_INET6)
		return 0;
	r = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (r == 0 && (flags & KLOOP_LISTENER_REUSE_PORT))
		r = set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	/* Said either way, so that no sysctl changes what a program means. */
	if (r == 0 && family == AF_INET6)
		r = set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY,
			       (flags & KLOOP_LISTENER_IP6_ONLY) != 0);
	if (r == 0)
		r = set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	return r;
}

int kloop_listener_open(struct kloop_loop *loop, const struct kloop_address *address, int backlog,
			unsigned flags, const struct kloop_listener_handlers *handlers, void *user,
			struct kloop_listener **ret_listener)
{
	int r = check_new(loop, handlers, flags, ret_listener);
	int fd;

	if (r < 0)
		return r;
	if (!address || address->length < sizeof(sa_family_t) ||
	    address->length > sizeof(address->u) || backlog < 0)
		return -EINVAL;
	fd = socket(address->u.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	r = prepare_socket(fd, address->u.any.sa_family, flags);
	if (r == 0 && (bind(fd, &address->u.any, address->length) < 0 ||
		       listen(fd, backlog > 0 ? backlog : SOMAXCONN) < 0))
		r = -errno;
	if (r == 0)
		r = kloop_listener_new(loop, fd, flags, handlers, user, ret_listener);
	if (r < 0)
		close(fd);
	return r;
}

/* ---- control ---------------------------------------------------------- */

static int check(const struct kloop_listener *listener)
{
	int r = listener ? kl_loop_check(listener->loop) : -EINVAL;

	if (r == 0 && listener->closing)
		return -ESTALE;
	return r;
}

int kloop_listener_pause(struct kloop_listener *listener)
{
	int r = check(listener);

	if (r < 0 || listener->paused)
		return r;
	listener->paused = true;
	kloop_timer_stop(&listener->retry);
	kloop_timer_stop(&listener->look);
	cancel(listener);
	return 0;
}

int kloop_listener_resume(struct kloop_listener *listener)
{
	int r = check(listener);

	if (r < 0 || !listener->paused)
		return r;
	listener->paused = false;
	/* Still in flight, cancelled or not: its last completion goes on from there. */
	if (listener->look_ns != 0)
		look_again(listener);
	if (!wanted(listener) || kloop_op_is_active(&listener->accept_op))
		return 0;
	r = arm(listener);
	if (r < 0)
		listener->paused = true;
	return r;
}

void kloop_listener_close(struct kloop_listener *listener)
{
	int r;

	if (!listener || listener->closing)
		return;
	r = kl_loop_check(listener->loop);
	if (r < 0 && r != -ESTALE)
		return;
	listener->closing = true;
	kloop_timer_stop(&listener->retry);
	kloop_timer_stop(&listener->look);
	/* Now, not with the turn: kloop_loop_submit() may follow to make it take effect. */
	cancel(listener);
	if (!listener->busy)
		schedule(listener);
}

/* ---- accessors -------------------------------------------------------- */

int kloop_listener_get_fd(const struct kloop_listener *listener)
{
	return listener->closed && !(listener->flags & KLOOP_LISTENER_KEEP_FD) ? -1 : listener->fd;
}

int kloop_listener_get_address(const struct kloop_listener *listener,
			       struct kloop_address *ret_address)
{
	struct kloop_address address = { .length = sizeof(address.u) };

	if (!listener || !ret_address)
		return -EINVAL;
	if (listener->closing)
		return -ESTALE;
	if (getsockname(listener->fd, &address.u.any, &address.length) < 0)
		return -errno;
	*ret_address = address;
	return 0;
}
