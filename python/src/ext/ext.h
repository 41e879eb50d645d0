/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the files of the extension share: module state, the Loop object, the
 * hand-over of the GIL, and conversions.
 *
 * Two rules hold everywhere. Functions named py_* and all C functions called
 * from Python have the GIL; completion functions called by libkloop may not,
 * and call kl_py_enter() before they touch any Python object. Once taken in a
 * turn, the GIL is kept until the loop sleeps again.
 */
#ifndef KL_EXT_H
#define KL_EXT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <kloop.h>

#include <stdatomic.h>
#include <stdbool.h>

/* ---- module state ---------------------------------------------------- */

struct kl_handle;
struct kl_timer_handle;
struct kl_sock_op;
struct kl_resolve;      /* resolver.h */
struct kl_resolver_use; /* resolver.h */
struct kl_file_call;
struct kl_tls_module; /* tls.h */
struct kl_streams;    /* streams.h */

struct kl_state {
	PyObject *module;

	/* Types of this module. */
	PyTypeObject *loop_type;
	PyTypeObject *handle_type;
	PyTypeObject *timer_handle_type;
	PyTypeObject *transport_type; /* StreamTransport, a subclass of asyncio.Transport */
	PyTypeObject *ssl_transport_type; /* SSLStreamTransport, of that one */
	PyTypeObject *read_pipe_type;
	PyTypeObject *write_pipe_type;
	PyTypeObject *datagram_transport_type; /* DatagramTransport, of asyncio.DatagramTransport too */
	PyTypeObject *listener_type;  /* what _start_serving makes of a listening socket */
	PyTypeObject *sock_op_type;   /* one sock_* call in flight */
	PyTypeObject *resolve_type;   /* one getaddrinfo(), getnameinfo() or query in flight */
	PyTypeObject *file_call_type; /* one call on a file */

	/* From asyncio and friends, imported once. */
	PyObject *asyncio_transport;        /* asyncio.Transport */
	PyObject *asyncio_read_transport;   /* asyncio.ReadTransport and so on */
	PyObject *asyncio_write_transport;
	PyObject *asyncio_datagram_transport;
	PyObject *asyncio_buffered_protocol; /* asyncio.BufferedProtocol */
	PyObject *transport_socket;         /* asyncio.trsock.TransportSocket */
	PyObject *socket_type;              /* socket.socket */
	PyObject *extract_stack;            /* asyncio.format_helpers.extract_stack */
	PyObject *get_running_loop;
	PyObject *asyncio_handle;           /* asyncio.Handle, and asyncio.TimerHandle */
	PyObject *asyncio_timer_handle;
	PyObject *asyncio_threadsafe_handle; /* NULL before Python 3.14 */
	PyObject *handle_repr_info;         /* asyncio.Handle._repr_info, the function */
	PyObject *format_callback;          /* asyncio.format_helpers._format_callback_source */
	bool format_callback_debug;         /* it takes debug= (Python 3.13.1 and newer) */
	PyObject *check_ssl_socket;         /* asyncio.base_events._check_ssl_socket */
	PyObject *cancelled_error;          /* asyncio.CancelledError */
	PyObject *timeout_error;            /* asyncio.TimeoutError */
	PyObject *invalid_state_error;      /* asyncio.InvalidStateError */

	/* For names: resolver.c. */
	PyObject *base_events; /* the names of asyncio.base_events, "socket" among them */
	PyObject *socket_getaddrinfo; /* as CPython made them; None if they were replaced before */
	PyObject *socket_getnameinfo;
	PyObject *gaierror;
	PyObject *address_family; /* socket.AddressFamily and SocketKind, and members of them */
	PyObject *socket_kind;
	PyObject *family_ip4, *family_ip6, *kind_stream, *kind_datagram, *kind_raw;
	PyObject *empty_text;
	PyObject *base_getaddrinfo; /* asyncio.BaseEventLoop.getaddrinfo: in the executor */
	PyObject *base_getnameinfo;

	/* For tasks: task.c. */
	PyObject *base_create_task; /* asyncio.BaseEventLoop.create_task */
	PyObject *asyncio_tasks;    /* the names of asyncio.tasks, "Task" among them */
	PyObject *task_class;       /* _asyncio.Task, or None in a Python without */

	struct kl_tls_module *tls; /* NULL until the first TLS connection */
	struct kl_streams *streams; /* what is known of asyncio's streams */

	/* kloop.IoUringUnavailable, made by errors.c. */
	PyObject *unavailable_error;

	/* Interned names of methods and keywords that hot paths use. */
#define KL_NAMES(X)                                                                          \
	X(call_exception_handler) X(connection_made) X(connection_lost) X(data_received)         \
	X(eof_received) X(pause_writing) X(resume_writing) X(get_buffer) X(buffer_updated)        \
	X(message) X(exception) X(handle) X(transport) X(protocol) X(context) X(future)            \
	X(source_traceback) X(set_result) X(set_exception) X(cancelled) X(done)                    \
	X(create_future) X(fileno) X(close) X(detach) X(_attach) X(_detach) X(_source_traceback)  \
	X(_log_slow_handle) X(_asyncgen_firstiter_hook) X(_run) X(_cancelled) X(_current_handle)   \
	X(_check_callback) X(_check_thread) X(_ensure_fd_no_transport) X(debug) X(data)            \
	X(callback) X(delay) X(when) X(fd) X(sock) X(n) X(buf) X(bufsize) X(nbytes) X(address)     \
	X(recv) X(recv_into) X(recvfrom) X(recvfrom_into) X(send) X(sendto) X(accept) X(connect)   \
	X(setblocking) X(gettimeout) X(getsockopt) X(code) X(reason)                                \
	X(datagram_received) X(error_received) X(pipe)                                             \
	X(wrap_bio) X(do_handshake) X(_sslobj) X(read)                                             \
	X(getaddrinfo) X(getnameinfo) X(_log_lookup) X(throw) X(socket) X(mode)                    \
	X(create_task) X(_task_factory) X(Task) X(loop)
#define KL_NAME_FIELD(n) PyObject *n;
	struct { KL_NAMES(KL_NAME_FIELD) } names;

	/* Free lists: objects of exact type, linked through a field of their own. */
	struct kl_handle *free_handles;
	unsigned free_handle_count;
	unsigned nested_deallocs;       /* of handles: handle.c */
	struct kl_handle *late_handles; /* linked through their weakrefs */
	struct kl_timer_handle *free_timer_handles;
	unsigned free_timer_handle_count;
	struct kl_sock_op *free_sock_ops;
	unsigned free_sock_op_count;
};

struct kl_state *kl_state_of_type(PyTypeObject *type); /* by PyType_GetModuleByDef or its like */
extern struct PyModuleDef kl_module_def;

/* ---- loop ------------------------------------------------------------ */

struct kl_child; /* a process whose end is watched: child.c */
struct kl_watch; /* readers and writers of one descriptor: poll.c */

typedef struct {
	PyObject_HEAD
	PyObject *weakrefs;
	struct kl_state *state; /* of the module, below */
	PyObject *module;       /* strong: the collector may take the type's away first */
	struct kloop_loop *loop; /* NULL before __init__ and after close */

	/* Handles that run in the next iteration: a ring of strong references. */
	PyObject **ready;
	size_t ready_head;
	size_t ready_count;
	size_t ready_capacity; /* a power of two */
	unsigned long long callbacks; /* taken from there and run, since the loop was made */
	uint32_t turns;               /* iterations; it wraps */

	/*
	 * Non-NULL while the loop's thread runs without the GIL; taken back by
	 * kl_py_enter(). Only the loop's thread reads or writes it.
	 */
	PyThreadState *saved;

	/* References to drop at the next time the GIL is held: released writes. */
	PyObject **garbage;
	size_t garbage_count;
	size_t garbage_capacity;

	/*
	 * Set by other threads, with the GIL, when they append to the ring: the
	 * loop's thread must look there even if nothing else brought it the GIL.
	 */
	atomic_bool woken;

	PyObject *debug_obj; /* what set_debug() was given */
	bool debug;
	bool stopping;
	bool closed;
	bool running; /* inside _run() */
	/* An exception that must leave run_forever (KeyboardInterrupt, SystemExit) is set aside here. */
	PyObject *pending_exception;

	unsigned long thread_ident; /* of the running thread; 0: not running */
	double slow_callback_duration;
	enum kloop_ktls_mode ktls; /* of TLS connections */

	/* handle.c: timers that are started, each with a reference of the loop's. */
	struct kl_timer_handle *timers;

	struct kl_handle_waiter *waiters; /* handle_threads.c */

	PyObject *task_keywords; /* task.c */

	/* poll.c */
	struct kl_watch **watches; /* indexed by descriptor */
	size_t watch_capacity;
	struct kl_watch *orphan_watches; /* removed, their last completion still to come */

	struct kl_child *children; /* child.c */

	/* sock.c: calls that wait in the ring, each with a reference of the loop's. */
	struct kl_sock_op *sock_ops;
	PyObject *sock_spare; /* a bytes object to receive into */

	/* resolver.c */
	struct kl_resolver_use *resolver; /* NULL until the first lookup, and after a change */
	struct kloop_resolver_options *resolver_options; /* NULL: the defaults */
	struct kl_resolve *resolves; /* lookups in the ring, each with a reference of the loop's */
	PyObject *resolver_failure;  /* str: why there can be no resolver; or NULL */
	unsigned long long system_lookups; /* that went to the executor */
	bool system_resolver;              /* all go there */
	bool strict_resolver; /* none goes there by itself: TLS was asked for, and it has none */

	/* file.c: calls on files in the ring, each with a reference of the loop's. */
	struct kl_file_call *file_calls;

	/*
	 * The WeakValueDictionary of transports by descriptor that asyncio's own
	 * transports write to, and the dict inside it: usually empty.
	 */
	PyObject *transports;
	PyObject *transports_data;

	/* transport.c: spare bytes object that large receives go into */
	PyObject *spare_bytes;

	/* Linked list of open transports and listeners, so that close() can end them. */
	void *open_objects;
} LoopObject;

/* Take the GIL if this thread runs without it. Cheap when it is held. */
static inline void kl_py_enter(LoopObject *self)
{
	if (self->saved != NULL) {
		PyThreadState *saved = self->saved;

		self->saved = NULL;
		PyEval_RestoreThread(saved);
	}
}

/*
 * Drop a reference from a place that may not have the GIL: it is set aside and
 * dropped when the loop has it next. Never fails: if the list cannot grow the
 * GIL is taken at once.
 */
void kl_drop_later(LoopObject *self, PyObject *object);
void kl_drop_now(LoopObject *self); /* with the GIL */

/* 0, or -1 with RuntimeError("Event loop is closed"). */
int kl_check_closed(LoopObject *self);

/* Is the caller on a thread that may use the ring now? Not the case while another one runs it. */
static inline bool kl_on_loop_thread(const LoopObject *self)
{
	return self->thread_ident == 0 || self->thread_ident == PyThread_get_thread_ident();
}

/* RuntimeError with asyncio's words for a call from a wrong thread. Returns -1. */
int kl_raise_wrong_thread(void);

/* Append an object with _run() to the ring of what is ready. Steals it, also on failure: 0 or -1. */
int kl_ready_push(LoopObject *self, PyObject *handle);

/*
 * Schedule callback(*args) for the next iteration: what call_soon does, for C.
 * context may be NULL (a copy of the current one). Steals nothing. 0 or -1.
 */
int kl_call_soon(LoopObject *self, PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
		 PyObject *context);

/*
 * Schedule a C function instead: run(owner) with a strong reference on owner,
 * through the same queue and order, without any Python callable. 0 or -1.
 */
int kl_call_soon_c(LoopObject *self, void (*run)(PyObject *owner), PyObject *owner);

/*
 * An exception is set and came out of a callback that asyncio's rules route to
 * call_exception_handler({message, exception, key: object}); key may be NULL.
 * KeyboardInterrupt and SystemExit are set aside and stop the run instead.
 * Clears the exception.
 */
void kl_report_exception(LoopObject *self, const char *message, const char *key, PyObject *object);

/* call_exception_handler with an exception object (may be NULL) and up to two more keys. */
void kl_call_exception_handler(LoopObject *self, const char *message, PyObject *exception,
			       const char *key1, PyObject *object1, const char *key2,
			       PyObject *object2);

/* ---- errors ---------------------------------------------------------- */

/* The exception that is set, normalized and with its traceback; clears it. NULL if none is. */
PyObject *kl_exception_take(void);

/* The opposite; steals. */
void kl_exception_give(PyObject *exception);

/*
 * Raise what a negative code of libkloop means: the OSError subclass of an
 * errno, MemoryError for -ENOMEM, RuntimeError for -ECHILD and -EPERM of the
 * loop, kloop.IoUringUnavailable for KLOOP_ERROR_RING_*. Returns NULL.
 */
PyObject *kl_raise(struct kl_state *state, int code);

/* The exception object that kl_raise would raise: a new reference, or NULL with an error set. */
PyObject *kl_exception(struct kl_state *state, int code);

/*
 * The OSError of a negated errno that the kernel gave for a descriptor, where
 * -EPERM and -ECHILD mean what they say. -ENOMEM stays an OSError too.
 */
PyObject *kl_os_exception(int error);

/*
 * __reduce__(): TypeError. What is tied to a ring can be neither copied nor
 * pickled; Python itself refuses in the newer protocols only.
 */
PyObject *kl_refuse_reduce(PyObject *op, PyObject *unused);
#define KL_NO_PICKLE { "__reduce__", kl_refuse_reduce, METH_NOARGS, "TypeError." }

/* ---- lists ------------------------------------------------------------- */

/* What can leave its list by itself: next, and link, which points at what points at it. */
#define KL_LIST_PUSH(head, node)                                                              \
	do {                                                                                  \
		(node)->next = (head);                                                        \
		(node)->link = &(head);                                                       \
		if ((node)->next != NULL)                                                     \
			(node)->next->link = &(node)->next;                                   \
		(head) = (node);                                                              \
	} while (0)

#define KL_LIST_REMOVE(node)                                                                  \
	do {                                                                                  \
		*(node)->link = (node)->next;                                                 \
		if ((node)->next != NULL)                                                     \
			(node)->next->link = (node)->link;                                    \
		(node)->link = NULL;                                                          \
		(node)->next = NULL;                                                          \
	} while (0)

/* ---- arguments: transport_call.c ------------------------------------- */

/* Names of positional parameters, in order; the first `required` must be there. */
struct kl_signature {
	const char *function;
	int required;
	int positional;
	int total;
	const char *names[12];
};

/* Sort FASTCALL arguments into out (borrowed; NULL where absent). 0, or -1 with TypeError. */
int kl_signature_unpack(const struct kl_signature *signature, PyObject *const *args,
			Py_ssize_t nargs, PyObject *kwnames, PyObject **out);

/* ---- addresses: address.c -------------------------------------------- */

/* As socket.getsockname() returns it: ('127.0.0.1', 80), 4-tuples for IPv6, str or bytes for Unix. */
PyObject *kl_address_to_python(const struct kloop_address *address);

/*
 * The usual forms of an address that need no resolver and no exception. False,
 * without an error set: the socket module must look at it.
 */
bool kl_address_from_python(int family, PyObject *object, struct kloop_address *ret_address);

/* ---- one .c per object; each adds its types or methods to the module --- */

int kl_errors_init(PyObject *module, struct kl_state *state);    /* errors.c */
int kl_streams_init(PyObject *module, struct kl_state *state);   /* streams_attach.c */
int kl_streams_traverse(struct kl_state *state, visitproc visit, void *arg);
void kl_streams_clear(struct kl_state *state); /* the memory stays */
void kl_streams_free(struct kl_state *state);
/* Empty the free lists for good: while the types are still there. */
void kl_handle_fini(struct kl_state *state);
void kl_sock_fini(struct kl_state *state);
void kl_tls_fini(struct kl_state *state); /* tls_guard.c */
int kl_tls_traverse(struct kl_state *state, visitproc visit, void *arg);
int kl_handle_init(PyObject *module, struct kl_state *state);    /* handle.c */
int kl_loop_init(PyObject *module, struct kl_state *state);      /* loop.c */
int kl_transport_init(PyObject *module, struct kl_state *state); /* transport.c */
int kl_pipe_init(PyObject *module, struct kl_state *state);      /* transport_pipe.c */
int kl_dgram_init(PyObject *module, struct kl_state *state);     /* transport_dgram.c */
int kl_listener_init(PyObject *module, struct kl_state *state);  /* listener.c */
int kl_sock_init(PyObject *module, struct kl_state *state);      /* sock.c */
int kl_resolver_init(PyObject *module, struct kl_state *state);  /* resolver_call.c */
int kl_file_init(PyObject *module, struct kl_state *state);      /* file.c */

/* Methods of Loop that other files implement, METH_FASTCALL | METH_KEYWORDS. */
#define KL_LOOP_METHOD(name) \
	PyObject *name(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
/* poll.c, poll_methods.c */
KL_LOOP_METHOD(kl_loop_add_reader);
KL_LOOP_METHOD(kl_loop_remove_reader);
KL_LOOP_METHOD(kl_loop_add_writer);
KL_LOOP_METHOD(kl_loop_remove_writer);
/* The same without the check for transports: what asyncio's own classes call. */
KL_LOOP_METHOD(kl_loop_add_reader_c);
KL_LOOP_METHOD(kl_loop_remove_reader_c);
KL_LOOP_METHOD(kl_loop_add_writer_c);
KL_LOOP_METHOD(kl_loop_remove_writer_c);
KL_LOOP_METHOD(kl_loop_watched_events);
void kl_poll_close(LoopObject *self);
int kl_poll_traverse(LoopObject *self, visitproc visit, void *arg);
int kl_sock_ops_traverse(LoopObject *self, visitproc visit, void *arg); /* sock.c */
int kl_resolves_traverse(LoopObject *self, visitproc visit, void *arg); /* resolver.c */
/* RuntimeError if a transport uses the descriptor (asyncio's rule): 0 or -1. */
int kl_ensure_no_transport(LoopObject *self, PyObject *fd_object, int fd);
/* child.c: (pid, callback, argument): callback(argument, status) when it has ended */
KL_LOOP_METHOD(kl_loop_watch_pid);
int kl_children_traverse(LoopObject *self, visitproc visit, void *arg);
/* loop_run.c */
/*
 * Run what is ready in the middle of a turn. To be called from completion
 * functions, and only if nothing was ready before, so that the order of
 * callbacks is kept: it is as if the turn ended here and the next began.
 */
void kl_run_ready_early(LoopObject *self);
PyObject *kl_loop_run(PyObject *self, PyObject *ignored);
void kl_before_wait(void *loop_object);
/* task.c */
KL_LOOP_METHOD(kl_loop_create_task);
/* sock.c */
KL_LOOP_METHOD(kl_loop_sock_recv);
KL_LOOP_METHOD(kl_loop_sock_recv_into);
KL_LOOP_METHOD(kl_loop_sock_recvfrom);
KL_LOOP_METHOD(kl_loop_sock_recvfrom_into);
KL_LOOP_METHOD(kl_loop_sock_sendall);
KL_LOOP_METHOD(kl_loop_sock_sendto);
KL_LOOP_METHOD(kl_loop_sock_accept);
KL_LOOP_METHOD(kl_loop_sock_connect_c);
/* resolver_call.c */
KL_LOOP_METHOD(kl_loop_getaddrinfo);
KL_LOOP_METHOD(kl_loop_getnameinfo);
KL_LOOP_METHOD(kl_loop_query);
/* resolver.c */
PyObject *kl_loop_set_resolver(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *kl_loop_flush_names(PyObject *self, PyObject *name);
PyObject *kl_loop_reload_names(PyObject *self, PyObject *ignored);
PyObject *kl_loop_resolver_stats(PyObject *self, PyObject *ignored);
PyObject *kl_loop_name_servers(PyObject *self, PyObject *ignored);
PyObject *kl_dns_text_py(PyObject *module, PyObject *code);
/* After the ring is gone, and with it all lookups. */
void kl_resolver_close(LoopObject *self);
/* file_methods.c */
int kl_file_calls_traverse(LoopObject *self, visitproc visit, void *arg); /* file.c */
KL_LOOP_METHOD(kl_loop_file_open);
KL_LOOP_METHOD(kl_loop_file_close);
KL_LOOP_METHOD(kl_loop_file_read);
KL_LOOP_METHOD(kl_loop_file_readinto);
KL_LOOP_METHOD(kl_loop_file_write);
KL_LOOP_METHOD(kl_loop_file_sync);
KL_LOOP_METHOD(kl_loop_file_stat);
KL_LOOP_METHOD(kl_loop_file_truncate);
KL_LOOP_METHOD(kl_loop_file_allocate);
KL_LOOP_METHOD(kl_loop_file_rename);
KL_LOOP_METHOD(kl_loop_file_unlink);
KL_LOOP_METHOD(kl_loop_file_mkdir);
KL_LOOP_METHOD(kl_loop_file_rest);
/* transport_new.c: _make_socket_transport(sock, protocol, waiter=None, *, extra=None, ...) */
KL_LOOP_METHOD(kl_loop_make_socket_transport);
/* transport_dgram.c: sock, protocol, address, waiter, extra, family */
KL_LOOP_METHOD(kl_loop_make_datagram_transport);
/* transport_pipe.c: pipe, protocol, waiter, extra */
KL_LOOP_METHOD(kl_loop_make_read_pipe);
KL_LOOP_METHOD(kl_loop_make_write_pipe);
/* transport_tls_new.c: the same with TLS, and the upgrade of a transport */
KL_LOOP_METHOD(kl_loop_make_tls_transport);
KL_LOOP_METHOD(kl_loop_upgrade_tls);
/* Make a transport of an accepted descriptor: owns fd in any case. 0, or -1 with an error set. */
int kl_transport_accept(LoopObject *loop, int fd, PyObject *protocol_factory, PyObject *server,
			PyObject *context);
/* listener.c: _start_serving(protocol_factory, sock, sslcontext=None, server=None, backlog=100, ...) */
KL_LOOP_METHOD(kl_loop_start_serving_c);
KL_LOOP_METHOD(kl_loop_stop_serving_c);
/* Transports and listeners still open when the loop closes: abort them. */
void kl_open_objects_close(LoopObject *self);

#endif
