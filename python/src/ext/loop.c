/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The type Loop: fields, methods, life and death.
 *
 * kloop.Loop inherits from it and from asyncio.BaseEventLoop, in this order,
 * so that what is written here replaces asyncio's: also attributes like
 * _closed and _thread_id, which asyncio's own methods read and write.
 */
#include "handle.h"
#include "loop.h"
#include "transport.h"

static const char loop_doc[] =
	"The part of kloop.Loop that is written in C: the ring, callbacks, timers,\n"
	"readers and writers, sockets and streams.";

int kl_check_closed(LoopObject *self)
{
	if (!self->closed && self->loop != NULL)
		return 0;
	PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
	return -1;
}

/* ---- life -------------------------------------------------------------- */

static PyObject *loop_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
	struct kl_state *state = kl_state_of_type(type);
	LoopObject *self;

	if (state == NULL)
		return NULL;
	self = (LoopObject *)type->tp_alloc(type, 0);
	if (self == NULL)
		return NULL;
	self->state = state;
	self->module = Py_NewRef(state->module);
	self->debug_obj = Py_NewRef(Py_False);
	self->slow_callback_duration = 0.1;
	atomic_init(&self->woken, false);
	return (PyObject *)self;
}

static int loop_traverse(PyObject *op, visitproc visit, void *arg)
{
	LoopObject *self = (LoopObject *)op;
	struct kl_timer_handle *timer;
	int result;

	Py_VISIT(Py_TYPE(op));
	result = kl_ready_traverse(self, visit, arg);
	if (result != 0)
		return result;
	for (timer = self->timers; timer != NULL; timer = timer->next)
		Py_VISIT(timer);
	Py_VISIT(self->module);
	Py_VISIT(self->debug_obj);
	Py_VISIT(self->pending_exception);
	Py_VISIT(self->task_keywords);
	Py_VISIT(self->transports);
	Py_VISIT(self->transports_data);
	result = kl_poll_traverse(self, visit, arg);
	if (result == 0)
		result = kl_sock_ops_traverse(self, visit, arg);
	if (result == 0)
		result = kl_children_traverse(self, visit, arg);
	if (result == 0)
		result = kl_resolves_traverse(self, visit, arg);
	if (result == 0)
		result = kl_file_calls_traverse(self, visit, arg);
	if (result == 0)
		result = kl_open_objects_traverse(self, visit, arg);
	return result;
}

static int loop_clear(PyObject *op)
{
	LoopObject *self = (LoopObject *)op;

	kl_loop_finish(self);
	kl_ready_clear(self);
	Py_CLEAR(self->pending_exception);
	Py_CLEAR(self->task_keywords);
	Py_CLEAR(self->transports);
	Py_CLEAR(self->transports_data);
	return 0;
}

static void loop_dealloc(PyObject *op)
{
	LoopObject *self = (LoopObject *)op;
	PyTypeObject *type = Py_TYPE(op);

	PyObject_GC_UnTrack(op);
	if (self->weakrefs != NULL)
		PyObject_ClearWeakRefs(op);
	loop_clear(op);
	Py_CLEAR(self->debug_obj);
	PyMem_Free(self->ready);
	PyMem_RawFree(self->garbage);
	PyMem_Free(self->watches);
	Py_CLEAR(self->module);
	type->tp_free(op);
	Py_DECREF(type);
}

/* ---- attributes that asyncio's methods use ----------------------------- */

static PyObject *get_debug_attribute(PyObject *op, void *Py_UNUSED(closure))
{
	return Py_NewRef(((LoopObject *)op)->debug_obj);
}

static int set_debug_attribute(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
	LoopObject *self = (LoopObject *)op;
	int debug = value == NULL ? 0 : PyObject_IsTrue(value);

	if (debug < 0)
		return -1;
	self->debug = debug;
	Py_XSETREF(self->debug_obj, Py_NewRef(value == NULL ? Py_False : value));
	return 0;
}

static PyObject *get_thread_id(PyObject *op, void *Py_UNUSED(closure))
{
	LoopObject *self = (LoopObject *)op;

	if (self->thread_ident == 0)
		Py_RETURN_NONE;
	return PyLong_FromUnsignedLong(self->thread_ident);
}

static int set_thread_id(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
	LoopObject *self = (LoopObject *)op;
	unsigned long ident = 0;

	if (value != NULL && value != Py_None) {
		ident = PyLong_AsUnsignedLong(value);
		if (ident == (unsigned long)-1 && PyErr_Occurred())
			return -1;
	}
	self->thread_ident = ident;
	return 0;
}

static PyObject *get_transports(PyObject *op, void *Py_UNUSED(closure))
{
	LoopObject *self = (LoopObject *)op;

	return Py_NewRef(self->transports == NULL ? Py_None : self->transports);
}

static int set_transports(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
	LoopObject *self = (LoopObject *)op;
	PyObject *data = NULL;

	if (value != NULL && value != Py_None) {
		data = PyObject_GetAttr(value, self->state->names.data);
		if (data == NULL)
			return -1;
		if (!PyDict_CheckExact(data)) {
			Py_DECREF(data);
			PyErr_SetString(PyExc_TypeError, "a WeakValueDictionary is needed");
			return -1;
		}
	}
	Py_XSETREF(self->transports, Py_XNewRef(value));
	Py_XSETREF(self->transports_data, data);
	return 0;
}

/* ---- small methods ----------------------------------------------------- */

static PyObject *loop_time(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
	return PyFloat_FromDouble((double)kloop_now() / 1e9);
}

static PyObject *loop_stop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	((LoopObject *)op)->stopping = true;
	Py_RETURN_NONE;
}

static PyObject *loop_is_running(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	return PyBool_FromLong(((LoopObject *)op)->thread_ident != 0);
}

static PyObject *loop_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	LoopObject *self = (LoopObject *)op;

	/* One that was never opened, because __init__() failed, is as good as closed. */
	return PyBool_FromLong(self->closed || self->loop == NULL);
}

static PyObject *loop_get_debug(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	return Py_NewRef(((LoopObject *)op)->debug_obj);
}

static PyObject *loop_check_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	if (kl_check_closed((LoopObject *)op) < 0)
		return NULL;
	Py_RETURN_NONE;
}

/* asyncio's name for "end the wait": its classes call it after touching the queue. */
static PyObject *loop_write_to_self(PyObject *op, PyObject *Py_UNUSED(ignored))
{
	LoopObject *self = (LoopObject *)op;

	if (self->loop != NULL) {
		atomic_store(&self->woken, true);
		kloop_loop_wake(self->loop);
	}
	Py_RETURN_NONE;
}

#define FAST(name, function, doc) \
	{ name, (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS, doc }

static PyMethodDef loop_methods[] = {
	KL_NO_PICKLE,
	FAST("call_soon", kl_loop_call_soon,
	     "call_soon($self, callback, *args, context=None)\n--\n\n"
	     "Have callback(*args) called in the next iteration; returns a Handle."),
	FAST("call_soon_threadsafe", kl_loop_call_soon_threadsafe,
	     "call_soon_threadsafe($self, callback, *args, context=None)\n--\n\n"
	     "As call_soon(), from any thread."),
	FAST("call_later", kl_loop_call_later,
	     "call_later($self, delay, callback, *args, context=None)\n--\n\n"
	     "Have callback(*args) called after delay seconds; returns a TimerHandle."),
	FAST("call_at", kl_loop_call_at,
	     "call_at($self, when, callback, *args, context=None)\n--\n\n"
	     "Have callback(*args) called when time() reaches when; returns a TimerHandle."),
	FAST("create_task", kl_loop_create_task,
	     "create_task($self, coro, *, name=None, context=None)\n--\n\n"
	     "Schedule a coroutine; returns a Task, or what the task factory makes."),
	{ "time", loop_time, METH_NOARGS, "The loop's clock in seconds: time.monotonic()." },
	{ "stop", loop_stop, METH_NOARGS, "End run_forever() after the iteration in progress." },
	{ "is_running", loop_is_running, METH_NOARGS, "Does the loop run?" },
	{ "is_closed", loop_is_closed, METH_NOARGS, "Was the loop closed?" },
	{ "get_debug", loop_get_debug, METH_NOARGS, "Is debug mode on?" },
	{ "stats", kl_loop_stats, METH_NOARGS,
	  "Counters since the loop was made, as a dict: those of the ring, which\n"
	  "kloop_loop_get_stats(3) explains, the callbacks that ran, and how many are ready now." },
	{ "_features", kl_loop_features, METH_NOARGS,
	  "What the ring got from the kernel, bits of enum kloop_feature." },
	{ "_check_closed", loop_check_closed, METH_NOARGS, "RuntimeError if the loop is closed." },
	{ "_write_to_self", loop_write_to_self, METH_NOARGS, "End the wait; from any thread." },
	{ "_add_callback", kl_loop_add_callback, METH_O,
	  "_add_callback($self, handle, /)\n--\n\nAppend a handle that is not cancelled." },
	{ "_add_callback_signalsafe", kl_loop_add_callback_signalsafe, METH_O,
	  "_add_callback_signalsafe($self, handle, /)\n--\n\n"
	  "As _add_callback(), from any thread." },
	{ "_open", (PyCFunction)(void (*)(void))kl_loop_open, METH_VARARGS | METH_KEYWORDS,
	  "Make the ring." },
	{ "_run", kl_loop_run, METH_NOARGS, "Run iterations until stop()." },
	{ "_close_ring", kl_loop_close_ring, METH_NOARGS,
	  "Abort what is open, free the ring; the loop is closed." },

	FAST("add_reader", kl_loop_add_reader,
	     "add_reader($self, fd, callback, *args)\n--\n\n"
	     "Have callback(*args) called whenever fd is ready to be read."),
	FAST("remove_reader", kl_loop_remove_reader,
	     "remove_reader($self, fd)\n--\n\nForget the reader of fd; False if there was none."),
	FAST("add_writer", kl_loop_add_writer,
	     "add_writer($self, fd, callback, *args)\n--\n\n"
	     "Have callback(*args) called whenever fd is ready to be written."),
	FAST("remove_writer", kl_loop_remove_writer,
	     "remove_writer($self, fd)\n--\n\nForget the writer of fd; False if there was none."),
	FAST("_add_reader", kl_loop_add_reader_c, "add_reader() for a transport; returns the handle."),
	FAST("_remove_reader", kl_loop_remove_reader_c, "remove_reader() for a transport."),
	FAST("_add_writer", kl_loop_add_writer_c, "add_writer() for a transport; returns the handle."),
	FAST("_remove_writer", kl_loop_remove_writer_c, "remove_writer() for a transport."),
	FAST("_watched_events", kl_loop_watched_events,
	     "What add_reader() (1) and add_writer() (2) watch of a descriptor."),

	FAST("_watch_pid", kl_loop_watch_pid,
	     "Have callback(argument, status) called when a child process has ended."),

	FAST("sock_recv", kl_loop_sock_recv,
	     "sock_recv($self, sock, n)\n--\n\nReceive up to n bytes; to be awaited."),
	FAST("sock_recv_into", kl_loop_sock_recv_into,
	     "sock_recv_into($self, sock, buf)\n--\n\nReceive into buf; to be awaited."),
	FAST("sock_recvfrom", kl_loop_sock_recvfrom,
	     "sock_recvfrom($self, sock, bufsize)\n--\n\n"
	     "Receive a datagram: (bytes, address); to be awaited."),
	FAST("sock_recvfrom_into", kl_loop_sock_recvfrom_into,
	     "sock_recvfrom_into($self, sock, buf, nbytes=0)\n--\n\n"
	     "Receive a datagram into buf: (count, address); to be awaited."),
	FAST("sock_sendall", kl_loop_sock_sendall,
	     "sock_sendall($self, sock, data)\n--\n\nSend all of data; to be awaited."),
	FAST("sock_sendto", kl_loop_sock_sendto,
	     "sock_sendto($self, sock, data, address)\n--\n\nSend a datagram; to be awaited."),
	FAST("sock_accept", kl_loop_sock_accept,
	     "sock_accept($self, sock)\n--\n\nAccept: (connection, address); to be awaited."),
	FAST("_sock_connect", kl_loop_sock_connect_c,
	     "_sock_connect($self, sock, address)\n--\n\nConnect to a resolved address."),

	FAST("getaddrinfo", kl_loop_getaddrinfo,
	     "getaddrinfo($self, host, port, *, family=0, type=0, proto=0, flags=0)\n--\n\n"
	     "As socket.getaddrinfo(), without a thread; to be awaited. See Loop.resolver."),
	FAST("getnameinfo", kl_loop_getnameinfo,
	     "getnameinfo($self, sockaddr, flags=0)\n--\n\n"
	     "As socket.getnameinfo(), without a thread; to be awaited."),
	FAST("_query", kl_loop_query,
	     "_query($self, name, type, flags)\n--\n\n"
	     "Ask for records: (result, message or None); to be awaited."),
	{ "_set_resolver", (PyCFunction)(void (*)(void))kl_loop_set_resolver,
	  METH_VARARGS | METH_KEYWORDS, "Have another resolver from now on, with these options." },
	{ "_flush_names", kl_loop_flush_names, METH_O,
	  "_flush_names($self, name, /)\n--\n\nForget answers for a name, or all (None)." },
	{ "_reload_names", kl_loop_reload_names, METH_NOARGS, "Have the system's files read again." },
	{ "_name_servers", kl_loop_name_servers, METH_NOARGS, "What is known about servers." },
	{ "_resolver_stats", kl_loop_resolver_stats, METH_NOARGS, "The resolver's counters." },
	FAST("_file_open", kl_loop_file_open,
	     "_file_open($self, path, flags, mode, /)\n--\n\nOpen a file; its descriptor."),
	FAST("_file_close", kl_loop_file_close,
	     "_file_close($self, fd, /)\n--\n\nClose a descriptor."),
	FAST("_file_read", kl_loop_file_read,
	     "_file_read($self, fd, bytes, offset, full, /)\n--\n\nRead: bytes; full waits for all of them or the end of the file."),
	FAST("_file_readinto", kl_loop_file_readinto,
	     "_file_readinto($self, fd, buffer, offset, full, /)\n--\n\nRead into a buffer; the number of bytes."),
	FAST("_file_write", kl_loop_file_write,
	     "_file_write($self, fd, data, offset, /)\n--\n\nWrite all of data; the number of bytes."),
	FAST("_file_sync", kl_loop_file_sync,
	     "_file_sync($self, fd, data_only, /)\n--\n\nfsync or fdatasync."),
	FAST("_file_stat", kl_loop_file_stat,
	     "_file_stat($self, file, flags, /)\n--\n\nstatx of a path or descriptor; a tuple."),
	FAST("_file_truncate", kl_loop_file_truncate,
	     "_file_truncate($self, fd, bytes, /)\n--\n\nSet the size of a file."),
	FAST("_file_allocate", kl_loop_file_allocate,
	     "_file_allocate($self, fd, mode, offset, bytes, /)\n--\n\nfallocate."),
	FAST("_file_rename", kl_loop_file_rename,
	     "_file_rename($self, old, new, flags, /)\n--\n\nRename a file."),
	FAST("_file_unlink", kl_loop_file_unlink,
	     "_file_unlink($self, path, flags, /)\n--\n\nRemove a name."),
	FAST("_file_mkdir", kl_loop_file_mkdir,
	     "_file_mkdir($self, path, mode, /)\n--\n\nMake a directory."),
	FAST("_file_rest", kl_loop_file_rest,
	     "_file_rest($self, call, /)\n--\n\nBytes moved and data of a call that failed."),

	FAST("_make_socket_transport", kl_loop_make_socket_transport,
	     "A stream transport of a connected socket."),
	FAST("_make_datagram_transport_c", kl_loop_make_datagram_transport,
	     "A datagram transport of a socket."),
	FAST("_make_read_pipe_transport", kl_loop_make_read_pipe,
	     "A transport of the reading end of a pipe."),
	FAST("_make_write_pipe_transport", kl_loop_make_write_pipe,
	     "A transport of the writing end of a pipe."),
	FAST("_make_tls_transport", kl_loop_make_tls_transport,
	     "A TLS transport of a connected socket; None where asyncio's sslproto must serve."),
	FAST("_upgrade_tls", kl_loop_upgrade_tls,
	     "Begin TLS on a plain transport; False where asyncio's sslproto must serve."),
	FAST("_start_serving", kl_loop_start_serving_c, "Accept connections of a listening socket."),
	FAST("_stop_serving_c", kl_loop_stop_serving_c, "End _start_serving(), close the socket."),
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef loop_getset[] = {
	{ "_debug", get_debug_attribute, set_debug_attribute, "Is debug mode on?", NULL },
	{ "_thread_id", get_thread_id, set_thread_id, "The running thread, or None.", NULL },
	{ "_transports", get_transports, set_transports,
	  "Transports of asyncio's own classes, by descriptor.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyMemberDef loop_members[] = {
	{ "_system_resolver", T_BOOL, offsetof(LoopObject, system_resolver), 0,
	  "All lookups go to the executor." },
	{ "_resolver_failure", T_OBJECT, offsetof(LoopObject, resolver_failure), READONLY,
	  "Why there can be no resolver, or None." },
	{ "_stopping", T_BOOL, offsetof(LoopObject, stopping), 0, "stop() was called." },
	{ "_closed", T_BOOL, offsetof(LoopObject, closed), 0, "close() was called." },
	{ "slow_callback_duration", T_DOUBLE, offsetof(LoopObject, slow_callback_duration), 0,
	  "In debug mode, callbacks that take longer are logged; seconds." },
	{ "__weaklistoffset__", T_PYSSIZET, offsetof(LoopObject, weakrefs), READONLY, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot loop_slots[] = {
	{ Py_tp_doc, (void *)loop_doc },
	{ Py_tp_new, loop_new },
	{ Py_tp_dealloc, loop_dealloc },
	{ Py_tp_traverse, loop_traverse },
	{ Py_tp_clear, loop_clear },
	{ Py_tp_methods, loop_methods },
	{ Py_tp_getset, loop_getset },
	{ Py_tp_members, loop_members },
	{ 0, NULL },
};

static PyType_Spec loop_spec = {
	.name = "kloop._kloop.Loop",
	.basicsize = sizeof(LoopObject),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
		 Py_TPFLAGS_BASETYPE,
	.slots = loop_slots,
};

int kl_loop_init(PyObject *module, struct kl_state *state)
{
	state->loop_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &loop_spec, NULL);
	if (state->loop_type == NULL)
		return -1;
	return PyModule_AddType(module, state->loop_type);
}
