/* SPDX-License-Identifier: MulanPSL-2.0 */
/* One sock_*() call: its object, and the attempts at its system call. */
#ifndef KL_SOCK_H
#define KL_SOCK_H

#include "ext.h"

enum kl_sock_kind {
	KL_SOCK_RECV,
	KL_SOCK_RECV_INTO,
	KL_SOCK_RECVFROM,
	KL_SOCK_RECVFROM_INTO,
	KL_SOCK_SENDALL,
	KL_SOCK_SENDTO,
	KL_SOCK_ACCEPT,
	KL_SOCK_CONNECT,
};

enum kl_sock_state {
	KL_SOCK_NEW,       /* not awaited yet */
	KL_SOCK_WAITING,   /* its poll is in the ring, its task sleeps */
	KL_SOCK_READY,     /* the task is to be resumed, and will try again */
	KL_SOCK_CANCELLED, /* cancel() was called while it waited */
	KL_SOCK_DONE,
};

/*
 * Awaitable and coroutine in one (send, throw, close), and the future that its
 * task waits for (_asyncio_future_blocking, add_done_callback, cancel, result).
 */
struct kl_sock_op {
	PyObject_HEAD
	LoopObject *loop; /* strong */
	PyObject *sock;   /* links the free list */
	PyObject *first, *second; /* arguments of the socket's method, by kind */
	PyObject *callback, *context; /* of the task; further ones in more */
	PyObject *more;           /* list of (callback, context), or NULL */
	PyObject *cancel_message;
	Py_buffer buffer;         /* of recv_into and sendall; obj is NULL when there is none */
	size_t bytes;             /* to receive; or sent so far */
	int fd;
	int error;                /* an errno that the ring or send(2) gave while waiting */
	uint8_t kind;
	uint8_t state;
	bool blocking; /* _asyncio_future_blocking: yielded to a task that has not said it waits */
	bool exposed;  /* was yielded at least once */
	struct kloop_op op;
	struct kl_sock_op *next, **link; /* in LoopObject.sock_ops while the poll is in flight */
};

/* sock.c: life, and waiting in the ring. */
struct kl_sock_op *kl_sock_allocate(struct kl_state *state); /* fields of its own cleared */
void kl_sock_drop_callbacks(struct kl_sock_op *self);
void kl_sock_drop_arguments(struct kl_sock_op *self);
int kl_sock_op_traverse(PyObject *op, visitproc visit, void *arg);
int kl_sock_op_clear(PyObject *op);
void kl_sock_op_dealloc(PyObject *op);
/* Sleep until the descriptor is ready: 0, or -1 with an error set. */
int kl_sock_begin_wait(struct kl_sock_op *self);
/* Ask the ring to end the wait early. */
void kl_sock_cancel_poll(struct kl_sock_op *self);
/* Schedule callback(self); the failure is reported. */
void kl_sock_schedule(struct kl_sock_op *self, PyObject *callback, PyObject *context);
/* Whoever waits is to be told. */
void kl_sock_wake_waiters(struct kl_sock_op *self);

/* sock_call.c. Try the system call. 1 with *ret_result, 0 if it would block, -1 with an error set. */
int kl_sock_attempt(struct kl_sock_op *self, PyObject **ret_result);

/* Send what is left of a sendall: 1 all sent, 0 it would block, or a negative errno. No GIL. */
int kl_sock_send_rest(struct kl_sock_op *self);

/* What to poll for. */
unsigned kl_sock_events(const struct kl_sock_op *self);

#endif
