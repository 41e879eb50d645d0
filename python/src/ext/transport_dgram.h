/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The datagram transport, as its files share it.
 *
 * transport_dgram.c       the type, how it comes to be, what it tells of itself
 * transport_dgram_io.c    to the protocol and from the caller, flow control
 * transport_dgram_end.c   close, abort, errors, connection_lost
 *
 * Life: as that of stream transports (transport.h).
 */
#ifndef KL_TRANSPORT_DGRAM_H
#define KL_TRANSPORT_DGRAM_H

#include "transport.h"

typedef struct {
	TransportBase base;
	PyObject *weakrefs;
	PyObject *dict; /* attributes of the user's, as asyncio's objects can have */
	LoopObject *loop;
	struct kl_open open;
	struct kloop_datagram *datagram; /* NULL once it is closed */

	PyObject *protocol;
	PyObject *receive; /* bound datagram_received() */
	PyObject *context; /* callbacks run in it */
	PyObject *sock;    /* socket.socket */
	PyObject *waiter;  /* a future to wake after connection_made() */
	PyObject *error;   /* for connection_lost() */
	PyObject *address; /* remote_addr: the only one to send to; or NULL */

	PyObject *pending; /* a list of (data, sender) and exceptions, which wait for their turn; or NULL */

	/* The last sender: an answer to it, and its next datagram, need no conversion. */
	PyObject *sender;
	struct kloop_address sender_address;

	size_t low_bytes, high_bytes; /* water marks */
	int fd;                       /* stays after close, for repr */
	int family;
	unsigned dropped;             /* sent after the end */

	bool connected : 1;    /* the socket is: no address is passed to the kernel */
	bool reading : 1;      /* connection_made() was called */
	bool paused : 1;       /* pause_reading() */
	bool due : 1;          /* what is pending is scheduled */
	bool full : 1;         /* so much is pending that the socket is not read */
	bool write_paused : 1; /* the protocol was told to stop */
	bool closing : 1;      /* close() or an error */
	bool lost : 1;         /* connection_lost() is scheduled or was called */
	bool lost_done : 1;    /* connection_lost() was called */
	bool fd_closed : 1;    /* the descriptor is given up */
	bool abandoned : 1;    /* the loop was closed first */
} DatagramObject;

/* transport_dgram_io.c */
void kl_dgram_on_datagram(struct kloop_datagram *datagram, const void *data, size_t bytes,
			  const struct kloop_address *from, unsigned flags, void *user);
void kl_dgram_on_error(struct kloop_datagram *datagram, int error,
		       const struct kloop_address *peer, void *user);
void kl_dgram_on_drain(struct kloop_datagram *datagram, void *user);
/* As asyncio counts: the queue's bytes. */
size_t kl_dgram_write_bytes(const DatagramObject *self);
/* Begin or go on to receive, if nothing speaks against it. 0, or -1 with an error set. */
int kl_dgram_start_read(DatagramObject *self);
/* protocol.name(*args) in the transport's context; method: looked up before, or NULL. */
PyObject *kl_dgram_call(DatagramObject *self, PyObject *method, PyObject *name,
			PyObject **args, size_t count);
/* As kl_transport_report(). */
static inline void kl_dgram_report(DatagramObject *self, const char *message)
{
	kl_report_callback(self->loop, (PyObject *)self, self->protocol, message);
}

PyObject *kl_dgram_sendto(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
			  PyObject *kwnames);
PyObject *kl_dgram_set_write_buffer_limits(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
					   PyObject *kwnames);
PyObject *kl_dgram_pause_reading(PyObject *op, PyObject *unused);
PyObject *kl_dgram_resume_reading(PyObject *op, PyObject *unused);
PyObject *kl_dgram_is_reading(PyObject *op, PyObject *unused);

/* transport_dgram_end.c */
void kl_dgram_on_close(struct kloop_datagram *datagram, void *user);
void kl_dgram_abandon(struct kl_open *open);
void kl_dgram_close_fd(DatagramObject *self);
/* The exception that is set ends the transport, as asyncio's _fatal_error(). Clears it. */
void kl_dgram_fatal(DatagramObject *self, const char *message);
PyObject *kl_dgram_close(PyObject *op, PyObject *unused);
PyObject *kl_dgram_abort(PyObject *op, PyObject *unused);
PyObject *kl_dgram_force_close(PyObject *op, PyObject *error);
PyObject *kl_dgram_is_closing(PyObject *op, PyObject *unused);

#endif
