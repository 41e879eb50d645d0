/* SPDX-License-Identifier: MulanPSL-2.0 */
/* One sock_*() call: its object, and the attempts at its system call. */
#ifndef KL_SOCK_H
#define KL_SOCK_H

#include "await.h"

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

/* base.state is KL_AWAIT_WAITING while its poll is in the ring. */
struct kl_sock_op {
	struct kl_await base;
	PyObject *sock;           /* links the free list */
	PyObject *first, *second; /* arguments of the socket's method, by kind */
	Py_buffer buffer;         /* of recv_into and sendall; obj is NULL when there is none */
	size_t bytes;             /* to receive; or sent so far */
	int fd;
	int error;                /* an errno that the ring or send(2) gave while waiting */
	uint8_t kind;
	bool by_method; /* recv, recv_into, sendall: the socket's class has a method of its own */
	struct kloop_op op;
	struct kl_sock_op *next, **link; /* in LoopObject.sock_ops while the poll is in flight */
};

/* sock.c: life, and waiting in the ring. */
struct kl_sock_op *kl_sock_allocate(struct kl_state *state); /* fields of its own cleared */
/* Sleep until the descriptor is ready: 0, or -1 with an error set. */
int kl_sock_begin_wait(struct kl_sock_op *self);

/* sock_call.c. Try the system call. 1 with *ret_result, 0 if it would block, -1 with an error set. */
int kl_sock_attempt(struct kl_sock_op *self, PyObject **ret_result);

/* Send what is left of a sendall: 1 all sent, 0 it would block, or a negative errno. No GIL. */
int kl_sock_send_rest(struct kl_sock_op *self);

/* What to poll for. */
unsigned kl_sock_events(const struct kl_sock_op *self);

#endif
