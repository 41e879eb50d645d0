/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The stream transport of the extension, as its files share it.
 *
 * transport.c        the type, and the loop's list of open objects
 * transport_new.c    accepted connections, loop._make_socket_transport()
 * transport_call.c   arguments, calls into Python, the log
 * transport_info.c   get_extra_info, repr, attributes
 * transport_read.c   from the stream to the protocol
 * transport_write.c  from the caller to the stream, flow control
 * transport_file.c   files, for loop.sendfile()
 * transport_close.c  close, abort, errors, connection_lost
 * transport_pipe.c   the same object as a reading or a writing end of a pipe
 * tls.h              what a transport with TLS has beyond this
 *
 * Life: a transport is pinned by one reference of its own, taken when it is
 * linked into the loop's list of open objects and dropped when both the stream
 * is closed and connection_lost() has run. What the kernel reads or writes
 * (bytes being sent, memory being received into) is pinned by references that
 * the collector does not see.
 */
#ifndef KL_TRANSPORT_H
#define KL_TRANSPORT_H

#include "ext.h"

#include <netinet/in.h>

/* A member of LoopObject.open_objects. */
struct kl_open {
	struct kl_open *next;
	struct kl_open **link; /* the pointer that points here; NULL when not linked */
	/* The loop closes: let go of everything, without a call of user code. */
	void (*abandon)(struct kl_open *open);
	/* The object that this is part of, for the collector. */
	PyObject *owner;
};

/* Both move one reference on the owner: link takes it, unlink drops it. */
void kl_open_link(LoopObject *loop, struct kl_open *open, PyObject *owner);
void kl_open_unlink(struct kl_open *open);

/*
 * Visit the references that the list holds. A loop that calls it from its
 * tp_traverse can be collected together with its open transports.
 */
int kl_open_objects_traverse(LoopObject *loop, visitproc visit, void *arg);

/*
 * The layout of asyncio's transports._FlowControlMixin, which every stream
 * transport must be an instance of (loop.sendfile() checks it). Its slots but
 * the first are shadowed by attributes of ours and stay empty.
 */
typedef struct {
	PyObject_HEAD
	PyObject *extra;
	PyObject *shadowed[4];
} TransportBase;

/* What the type and these slots refer to, for the collector. */
static inline int kl_transport_base_traverse(TransportBase *base, visitproc visit, void *arg)
{
	size_t i;

	Py_VISIT(Py_TYPE(base));
	Py_VISIT(base->extra);
	for (i = 0; i < sizeof(base->shadowed) / sizeof(base->shadowed[0]); i++)
		Py_VISIT(base->shadowed[i]);
	return 0;
}

static inline void kl_transport_base_clear(TransportBase *base)
{
	size_t i;

	Py_CLEAR(base->extra);
	for (i = 0; i < sizeof(base->shadowed) / sizeof(base->shadowed[0]); i++)
		Py_CLEAR(base->shadowed[i]);
}

typedef struct {
	TransportBase base;
	PyObject *weakrefs;
	LoopObject *loop;
	struct kl_open open;
	struct kloop_stream *stream; /* NULL once it is closed */

	PyObject *protocol;
	PyObject *receive; /* bound data_received(), or get_buffer() if buffered */
	PyObject *updated; /* bound buffer_updated(), if buffered */
	PyObject *context; /* callbacks run in it */
	PyObject *server;
	PyObject *sock;   /* socket.socket; NULL until somebody asks for it. The file of a pipe */
	PyObject *waiter; /* a future to wake after connection_made() */
	PyObject *error;  /* for connection_lost() */
	PyObject *lent;   /* for the next large read: a bytes object, or a BufferedProtocol's memoryview */
	PyObject *file_waiter; /* a future, while a file is being sent */
	PyObject *held;   /* bytes that came when a BufferedProtocol paused between two pieces */
	struct kl_transport_tls *tls; /* tls.h; NULL without TLS */
	struct kl_reader *reader; /* streams.h; borrowed: a StreamReader to feed, or NULL */

	size_t low_bytes, high_bytes; /* water marks */
	int fd;                       /* stays after close, for repr */
	uint32_t sent_turn;           /* the loop's turn in which write() last sent at once */
	uint32_t queued_turn;         /* and in which something was queued where nothing was */
	uint64_t file_offset;         /* with file_waiter: where it began */
	int file_fd;
	unsigned dropped;             /* writes after the end */

	bool buffered : 1;       /* the protocol is a BufferedProtocol */
	bool reading : 1;        /* connection_made() was called, reading began */
	bool paused : 1;         /* pause_reading() */
	bool resuming : 1;       /* held bytes are scheduled for delivery */
	bool eof_due : 1;        /* the peer ended, eof_received() is scheduled or awaits a resume */
	bool stale : 1;          /* lent belongs to a protocol that was replaced */
	bool write_paused : 1;   /* the protocol was told to stop */
	bool eof : 1;            /* write_eof() */
	bool full : 1;           /* the socket did not take all when the queue began */
	bool closing : 1;        /* close() or an error */
	bool lingering : 1;      /* close() waits for the queue, to which write() may still add */
	bool lost : 1;           /* connection_lost() is scheduled or was called */
	bool lost_done : 1;      /* connection_lost() was called */
	bool fd_closed : 1;      /* the descriptor is given up */
	bool abandoned : 1;      /* the loop was closed first */
	bool pipe : 1;           /* an end of a pipe: transport_pipe.c */
	bool deaf : 1;           /* whose reader's end cannot be noticed */

	unsigned char peer_length; /* of peer; 0: not known */
	unsigned char peer[sizeof(struct sockaddr_in6)];
} TransportObject;

/* Does the exception that is set leave run_forever()? */
static inline bool kl_exception_is_exit(void)
{
	return PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) ||
	       PyErr_ExceptionMatches(PyExc_SystemExit);
}

/* callable(*args) inside a context; args[-1] must be writable. */
PyObject *kl_call_in_context(PyObject *context, PyObject *callable, PyObject **args,
			     Py_ssize_t nargs);

/*
 * method(argument) in the transport's context; without a method that was looked
 * up before, protocol.name(argument). argument may be NULL. In debug mode a
 * call that takes long is logged.
 */
PyObject *kl_transport_call_method(TransportObject *self, PyObject *method, PyObject *name,
				   PyObject *argument);

static inline PyObject *kl_transport_call(TransportObject *self, PyObject *name,
					  PyObject *argument)
{
	return kl_transport_call_method(self, NULL, name, argument);
}

/* server._attach() or server._detach(), which take the transport from Python 3.13 on. */
PyObject *kl_transport_call_server(TransportObject *self, PyObject *server, PyObject *name);

/* An exception of a callback whose failure closes nothing: tell the handler. Clears it. */
void kl_report_callback(LoopObject *loop, PyObject *transport, PyObject *protocol,
			const char *message);

static inline void kl_transport_report(TransportObject *self, const char *message)
{
	kl_report_callback(self->loop, (PyObject *)self, self->protocol, message);
}

/* A line in asyncio's log, of the level "warning" and so on. */
void kl_transport_log(const char *level, const char *text);

/* In debug mode, after a call that began then: as asyncio tells of slow callbacks. */
void kl_log_if_slow(LoopObject *loop, PyObject *protocol, PyObject *name, uint64_t begin_ns);

/* A line in debug mode only, with the transport's repr; error may be NULL. */
void kl_debug(LoopObject *loop, PyObject *transport, const char *level, const char *text,
	      PyObject *error);
void kl_transport_debug(TransportObject *self, const char *text, PyObject *error);

/*
 * What transports of datagrams share with these. protocol may be NULL.
 *
 * What ends a transport is told as by asyncio's _fatal_error(): a broken
 * connection in debug mode only.
 */
void kl_report_end(LoopObject *loop, PyObject *transport, PyObject *protocol, PyObject *error,
		   const char *message);
/*
 * The exception that is set, which ends a transport, or NULL if it ends the run
 * instead (KeyboardInterrupt, SystemExit). Clears it.
 */
PyObject *kl_take_fatal(LoopObject *loop, PyObject *transport, const char *message);
/* sock.close(). Keeps a set exception. */
void kl_close_sock(LoopObject *loop, PyObject *sock);
/* The ResourceWarning of one that nobody closed. Keeps a set exception. */
void kl_warn_unclosed(PyObject *transport);
/* Make it visible to the loop's check for descriptors that transports use. 0, or -1. */
int kl_register_transport(LoopObject *loop, int fd, PyObject *transport);

/* transport.c */
/* asyncio.transports._FlowControlMixin, if its layout is the one that we extend. */
PyObject *kl_transport_import_base(void);
/* A method that a protocol may lack until it is called: then NULL. 0, or -1 with an error set. */
int kl_lookup_method(PyObject *object, PyObject *name, PyObject **ret_method);
int kl_transport_set_protocol(TransportObject *self, PyObject *protocol);

PyObject *kl_transport_get_protocol_py(PyObject *op, PyObject *unused);
PyObject *kl_transport_set_protocol_py(PyObject *op, PyObject *protocol);
/* What the types of pipes have in common with it. */
int kl_transport_traverse(PyObject *op, visitproc visit, void *arg);
int kl_transport_clear(PyObject *op);
void kl_transport_finalize(PyObject *op);
void kl_transport_dealloc(PyObject *op);

/* transport_new.c: the parts of which transports are made, in their order */

/*
 * The context of a connection's calls: a copy of the one that was given, which
 * asyncio does from Python 3.15 on, or else of the current one.
 */
PyObject *kl_transport_context(PyObject *given);
/* A transport that is not yet connected with anything; takes the context's reference. */
TransportObject *kl_transport_alloc(LoopObject *loop, PyTypeObject *type, int fd,
				    PyObject *context);
/* Everything that can fail before the descriptor is taken over. 0, or -1 with an error set. */
int kl_transport_prepare(TransportObject *self, PyObject *protocol, PyObject *waiter,
			 PyObject *extra);
/*
 * Open the stream, attach to the server, and link into the loop. From then on
 * the transport owns the descriptor. 0, or -1 with an error set.
 */
int kl_transport_open(TransportObject *self, PyObject *server);
/* Let go of a transport that never opened: no warning, the descriptor stays the caller's. */
void kl_transport_discard(TransportObject *self);
/* Let go of one that is open, and of which nobody was told. */
void kl_transport_undo(TransportObject *self);
/* waiter.set_result(argument), or set_exception(), unless it was cancelled. 0, or -1 with an error set. */
int kl_wake(struct kl_state *state, PyObject *waiter, PyObject *method, PyObject *argument);
/* protocol.connection_made(), if there is still a protocol. */
void kl_transport_call_made(TransportObject *self);
/* Give the waiter, if there is one, a result or an exception. */
void kl_transport_wake_waiter(TransportObject *self);
/* The waiter goes on, and data may come. */
void kl_transport_begin(TransportObject *self);
void kl_transport_fail_waiter(TransportObject *self, PyObject *exception);

/* transport_info.c */
extern PyGetSetDef kl_transport_getset[];
PyObject *kl_transport_repr(PyObject *op);
PyObject *kl_transport_get_extra_info(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
				      PyObject *kwnames);
void kl_transport_capture_peer(TransportObject *self);

/* transport_read.c */
void kl_transport_on_data(struct kloop_stream *stream, void *data, size_t bytes, void *user);
int kl_transport_on_alloc(struct kloop_stream *stream, size_t suggested, void **ret_buffer,
			  size_t *ret_bytes, void *user);
void kl_transport_on_eof(struct kloop_stream *stream, void *user);
void kl_transport_release_lent(TransportObject *self);
int kl_transport_start_read(TransportObject *self);
PyObject *kl_transport_pause_reading(PyObject *op, PyObject *unused);
PyObject *kl_transport_resume_reading(PyObject *op, PyObject *unused);
PyObject *kl_transport_is_reading(PyObject *op, PyObject *unused);

/* transport_write.c */
void kl_transport_on_drain(struct kloop_stream *stream, void *user);
size_t kl_transport_write_bytes(const TransportObject *self);
/* close() with data queued: must the stream stay open until that is sent? Reading ends. */
bool kl_transport_linger(TransportObject *self);
/* Queue a bytes object, whose reference is taken if the result is 0; a code of kloop_stream_write(). */
int kl_transport_lend(TransportObject *self, PyObject *bytes);
#define KL_DEFAULT_LIMIT PY_SSIZE_T_MIN
/* The arguments of set_write_buffer_limits(), and the marks that they mean. 0, or -1 with an error set. */
int kl_limits_unpack(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
		     Py_ssize_t *ret_high, Py_ssize_t *ret_low);
int kl_limits_settle(Py_ssize_t high, Py_ssize_t low, Py_ssize_t default_bytes, size_t *ret_high,
		     size_t *ret_low);
/* Set the water marks. 0, or -1 with an error set. */
int kl_transport_set_limits(TransportObject *self, Py_ssize_t high, Py_ssize_t low);
PyObject *kl_transport_write(PyObject *op, PyObject *data);
PyObject *kl_transport_writelines(PyObject *op, PyObject *list);
PyObject *kl_transport_write_eof(PyObject *op, PyObject *unused);
PyObject *kl_transport_can_write_eof(PyObject *op, PyObject *unused);
PyObject *kl_transport_get_write_buffer_size(PyObject *op, PyObject *unused);
PyObject *kl_transport_get_write_buffer_limits(PyObject *op, PyObject *unused);
PyObject *kl_transport_set_write_buffer_limits(PyObject *op, PyObject *const *args,
					       Py_ssize_t nargs, PyObject *kwnames);

/* transport_file.c */
/* While a file is sent nothing is written: 0, or -1 with RuntimeError. */
int kl_transport_check_file(TransportObject *self);
/* (fd, offset, count; 0: all): a future whose result is (exception or None, bytes sent). */
PyObject *kl_transport_send_file(PyObject *op, PyObject *args);
/* (file, offset, count or None): how many bytes were written, or None: _send_file() is to do it. */
PyObject *kl_transport_send_small(PyObject *op, PyObject *const *args, Py_ssize_t nargs);
/* Let that come to its end soon. */
PyObject *kl_transport_cancel_file(PyObject *op, PyObject *unused);

/* transport_close.c */
void kl_transport_on_error(struct kloop_stream *stream, int error, void *user);
void kl_transport_on_close(struct kloop_stream *stream, void *user);
void kl_transport_abandon(struct kl_open *open);
int kl_transport_close_now(TransportObject *self);
/* As abort(): 0, or -1 with an error set. */
int kl_transport_end_quietly(TransportObject *self);
/* As _force_close(error), which may be NULL: 0, or -1 with an error set. */
int kl_transport_end_with(TransportObject *self, PyObject *error);
/* An exception ends the transport: tell whom it concerns and schedule connection_lost(). */
void kl_transport_end(TransportObject *self, PyObject *error, const char *message);
/* The same with an error of the stream; nothing if the end is scheduled already. */
void kl_transport_broke(TransportObject *self, int error, const char *message);
void kl_transport_close_fd(TransportObject *self);
PyObject *kl_transport_close(PyObject *op, PyObject *unused);
PyObject *kl_transport_abort(PyObject *op, PyObject *unused);
PyObject *kl_transport_is_closing(PyObject *op, PyObject *unused);
PyObject *kl_transport_force_close(PyObject *op, PyObject *exception);
/*
 * The exception that is set ends the transport: tell whom it concerns and
 * schedule connection_lost(). KeyboardInterrupt and SystemExit end the run
 * instead. Clears the exception.
 */
void kl_transport_fatal(TransportObject *self, const char *message);

/* transport_pipe.c: a write failed. */
void kl_pipe_write_failed(TransportObject *self, int error);
/* streams_*.c */
/*
 * A protocol was set: have the transport feed its reader directly, if it is an
 * asyncio.StreamReaderProtocol that allows it. Never fails.
 */
void kl_streams_attach(TransportObject *self, PyObject *protocol);
void kl_streams_detach(TransportObject *self);
/* How much the next large read may bring, which is at most what is suggested. */
size_t kl_streams_suggest(TransportObject *self, size_t suggested);
/* Feed that reader; steals the bytes object. 1, 0 if the protocol must get it, or -1 with an error set. */
int kl_streams_feed(TransportObject *self, PyObject *object);

/* transport_tls.c, where a transport has TLS: */
int kl_transport_tls_traverse(struct kl_transport_tls *tls, visitproc visit, void *arg);
void kl_transport_tls_free(TransportObject *self);
/* close() was called: the time of ssl_shutdown_timeout begins. */
void kl_transport_tls_closing(TransportObject *self);
/* close() is called: must the handshake be given up? */
bool kl_transport_tls_is_handshaking(const TransportObject *self);
/* Shall the protocol hear of the end? */
bool kl_transport_tls_is_known(const TransportObject *self);
/* on_error told this. */
void kl_transport_tls_error(TransportObject *self, int error);
/* eof_received() will be called, and has returned. */
void kl_transport_tls_note_eof(TransportObject *self);
void kl_transport_tls_eof(TransportObject *self, bool keep_open);
/* The stream ended as close() wanted it to. */
void kl_transport_tls_closed(TransportObject *self);
/* The stream is closed. */
void kl_transport_tls_detach(TransportObject *self);

/*
 * tls_info.c: for get_extra_info(), of any transport. New; NULL without an
 * error set for what is not known (yet).
 */
PyObject *kl_transport_tls_sslcontext(TransportObject *self);
PyObject *kl_transport_tls_ssl_object(TransportObject *self);
PyObject *kl_transport_tls_peercert(TransportObject *self);
PyObject *kl_transport_tls_cipher(TransportObject *self);
PyObject *kl_transport_tls_compression(TransportObject *self);
PyObject *kl_transport_tls_ktls(TransportObject *self, PyObject *name);

#endif
