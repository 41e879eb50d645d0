/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * add_reader() and add_writer(): readiness of descriptors.
 *
 * Each direction of a descriptor has a poll operation of its own, of one shot,
 * which is prepared again when it has fired. The ring takes it with the next
 * turn, after the callback ran: so a descriptor that stays ready fires once in
 * each iteration, as with asyncio.
 *
 * A watch lives until neither direction has a handle and no operation is in
 * flight. A poll in flight keeps the file open behind a closed descriptor, so
 * it is cancelled as soon as its handle is gone.
 */
#include "handle.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

struct side {
	struct kloop_op op;
	struct kl_watch *watch;
	PyObject *handle; /* NULL: not wanted */
	unsigned events;
};

enum { READER, WRITER };

struct kl_watch {
	LoopObject *loop; /* borrowed: watches end before the loop does */
	int fd;
	struct side side[2];
	struct kl_watch *next, **link; /* in orphan_watches, once it is in the table no more */
};

static struct kl_watch *find(const LoopObject *self, int fd)
{
	return fd >= 0 && (size_t)fd < self->watch_capacity ? self->watches[fd] : NULL;
}

/* ---- life of a watch --------------------------------------------------- */

static bool in_flight(const struct kl_watch *watch)
{
	return kloop_op_is_active(&watch->side[READER].op) ||
	       kloop_op_is_active(&watch->side[WRITER].op);
}

static void free_watch(struct kl_watch *watch)
{
	if (watch->link != NULL) {
		*watch->link = watch->next;
		if (watch->next != NULL)
			watch->next->link = watch->link;
	} else {
		watch->loop->watches[watch->fd] = NULL;
	}
	PyMem_RawFree(watch);
}

/* Free it if nothing needs it any more. Works without the GIL. */
static void settle(struct kl_watch *watch)
{
	if (watch->side[READER].handle == NULL && watch->side[WRITER].handle == NULL &&
	    !in_flight(watch))
		free_watch(watch);
}

static void arm_all(PyObject *loop);

/* Prepare the poll of a side: 0, or -1 with an error set. */
static int arm(struct side *side)
{
	LoopObject *self = side->watch->loop;
	int code;

	if (kloop_op_is_active(&side->op))
		return 0;
	code = kloop_op_poll(self->loop, &side->op, side->watch->fd, side->events);
	/* The ring belongs to a thread that is not running: the next run takes it over. */
	if (code == -EPERM && self->thread_ident == 0)
		return kl_call_soon_c(self, arm_all, (PyObject *)self);
	if (code == 0)
		return 0;
	kl_raise(self->state, code);
	return -1;
}

static void arm_side(struct side *side)
{
	if (side->handle != NULL && arm(side) < 0)
		kl_report_exception(side->watch->loop, "A descriptor cannot be watched", NULL, NULL);
}

static void arm_all(PyObject *op)
{
	LoopObject *self = (LoopObject *)op;
	size_t fd;

	for (fd = 0; fd < self->watch_capacity; fd++) {
		if (self->watches[fd] != NULL) {
			arm_side(&self->watches[fd]->side[READER]);
			arm_side(&self->watches[fd]->side[WRITER]);
		}
	}
}

/* Give up the handle of a side and its poll; returns the handle, the caller's now. */
static PyObject *disarm(struct side *side)
{
	PyObject *handle = side->handle;

	side->handle = NULL;
	if (kloop_op_is_active(&side->op))
		(void)kloop_op_cancel(&side->op);
	return handle;
}

/* ---- readiness --------------------------------------------------------- */

/* The descriptor is ready: with the GIL. */
static void fire(struct side *side)
{
	LoopObject *self = side->watch->loop;
	struct kl_handle *h = (struct kl_handle *)side->handle;

	if (h->cancelled) {
		Py_DECREF(disarm(side));
		settle(side->watch);
		return;
	}
	if (kl_ready_push(self, Py_NewRef(side->handle)) < 0)
		kl_report_exception(self, "A readiness is lost", NULL, NULL);
	arm_side(side);
}

/* Completion of a poll; maybe without the GIL. */
static void poll_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct side *side = (struct side *)((char *)op - offsetof(struct side, op));
	LoopObject *self = side->watch->loop;

	(void)flags;
	if (side->handle == NULL) {
		settle(side->watch);
		return;
	}
	if (self->closed)
		return;
	/*
	 * -EBADF: it was closed before the ring looked. asyncio never hears of such
	 * a descriptor again; the watch stays until it is removed or replaced.
	 */
	if (result == -EBADF)
		return;
	kl_py_enter(self);
	/* Cancelled although wanted: replaced meanwhile, or the ring changed threads. */
	if (result == -ECANCELED)
		arm_side(side);
	else
		fire(side);
}

/* ---- descriptors ------------------------------------------------------- */

/* What epoll_ctl(2) would say: EPERM for what cannot be polled. 0, or -1 with an error set. */
static int check_pollable(int fd)
{
	struct epoll_event event = { .events = 0 };
	struct stat status;
	int epoll, result;

	if (fstat(fd, &status) < 0)
		goto fail;
	if (S_ISSOCK(status.st_mode) || S_ISFIFO(status.st_mode))
		return 0;
	if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode) || S_ISBLK(status.st_mode)) {
		errno = EPERM;
		goto fail;
	}
	/* Devices and anonymous files: only the kernel knows. */
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0)
		return 0;
	result = epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
	if (result < 0 && errno != EPERM)
		result = 0;
	close(epoll);
	if (result == 0)
		return 0;
	errno = EPERM;
fail:
	PyErr_SetFromErrno(PyExc_OSError);
	return -1;
}

/* A number, or an object with fileno(): the rules and words of selectors. -1 with an error set. */
static int to_fd(LoopObject *self, PyObject *object)
{
	PyObject *number;
	long fd = -1;

	if (PyLong_Check(object)) {
		number = Py_NewRef(object);
	} else {
		number = PyObject_CallMethodNoArgs(object, self->state->names.fileno);
		if (number != NULL && !PyLong_Check(number))
			Py_SETREF(number, PyNumber_Long(number));
	}
	if (number != NULL) {
		fd = PyLong_AsLong(number);
		Py_DECREF(number);
	}
	if (PyErr_Occurred()) {
		if (PyErr_ExceptionMatches(PyExc_AttributeError) ||
		    PyErr_ExceptionMatches(PyExc_TypeError) ||
		    PyErr_ExceptionMatches(PyExc_ValueError))
			PyErr_Format(PyExc_ValueError, "Invalid file object: %R", object);
		return -1;
	}
	if (fd < 0 || fd > INT_MAX) {
		PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %ld", fd);
		return -1;
	}
	return (int)fd;
}

int kl_ensure_no_transport(LoopObject *self, PyObject *fd_object, int fd)
{
	PyObject *key, *result;
	int found;

	if (self->transports_data == NULL || PyDict_GET_SIZE(self->transports_data) == 0)
		return 0;
	key = PyLong_FromLong(fd);
	if (key == NULL)
		return -1;
	found = PyDict_Contains(self->transports_data, key);
	Py_DECREF(key);
	if (found <= 0)
		return found;
	result = PyObject_CallMethodOneArg((PyObject *)self,
					   self->state->names._ensure_fd_no_transport, fd_object);
	if (result == NULL)
		return -1;
	Py_DECREF(result);
	return 0;
}

/* ---- adding and removing ----------------------------------------------- */

static int grow_table(LoopObject *self, int fd)
{
	size_t capacity = self->watch_capacity == 0 ? 64 : self->watch_capacity;
	struct kl_watch **watches;

	while (capacity <= (size_t)fd)
		capacity *= 2;
	watches = PyMem_Realloc(self->watches, capacity * sizeof(*watches));
	if (watches == NULL) {
		PyErr_NoMemory();
		return -1;
	}
	memset(watches + self->watch_capacity, 0,
	       (capacity - self->watch_capacity) * sizeof(*watches));
	self->watches = watches;
	self->watch_capacity = capacity;
	return 0;
}

static struct kl_watch *make_watch(LoopObject *self, int fd)
{
	struct kl_watch *watch;
	int i;

	if ((size_t)fd >= self->watch_capacity && grow_table(self, fd) < 0)
		return NULL;
	watch = PyMem_RawCalloc(1, sizeof(*watch));
	if (watch == NULL) {
		PyErr_NoMemory();
		return NULL;
	}
	watch->loop = self;
	watch->fd = fd;
	for (i = 0; i < 2; i++) {
		kloop_op_init(&watch->side[i].op, poll_done);
		watch->side[i].watch = watch;
	}
	watch->side[READER].events = POLLIN;
	watch->side[WRITER].events = POLLOUT;
	self->watches[fd] = watch;
	return watch;
}

/* A new handle for one side of a descriptor; it is returned, borrowed. */
static PyObject *add(LoopObject *self, int fd, int which, PyObject *callback,
		     PyObject *const *args, Py_ssize_t nargs)
{
	struct kl_watch *watch;
	struct side *side;
	PyObject *handle, *old;

	if (kl_check_closed(self) < 0 || check_pollable(fd) < 0)
		return NULL;
	if (!kl_on_loop_thread(self)) {
		kl_raise_wrong_thread();
		return NULL;
	}
	handle = (PyObject *)kl_handle_new(self, callback, args, nargs, NULL);
	if (handle == NULL)
		return NULL;
	PyObject_GC_Track(handle);
	watch = find(self, fd);
	if (watch == NULL)
		watch = make_watch(self, fd);
	if (watch == NULL) {
		Py_DECREF(handle);
		return NULL;
	}
	side = &watch->side[which];
	/* A poll of a former handle may watch a file that is closed: it starts anew. */
	old = disarm(side);
	side->handle = handle;
	if (arm(side) < 0) {
		side->handle = NULL;
		settle(watch);
		Py_CLEAR(handle);
	}
	if (old != NULL) {
		kl_handle_cancel((struct kl_handle *)old);
		Py_DECREF(old);
	}
	return handle;
}

static PyObject *remove_side(LoopObject *self, int fd, int which)
{
	struct kl_watch *watch = self->closed ? NULL : find(self, fd);
	PyObject *handle;

	if (watch == NULL || watch->side[which].handle == NULL)
		Py_RETURN_FALSE;
	if (!kl_on_loop_thread(self)) {
		kl_raise_wrong_thread();
		return NULL;
	}
	handle = disarm(&watch->side[which]);
	settle(watch);
	kl_handle_cancel((struct kl_handle *)handle);
	Py_DECREF(handle);
	Py_RETURN_TRUE;
}

/* ---- methods ----------------------------------------------------------- */

/* fd, callback and further arguments; callback only if it is wanted. 0, or -1 with TypeError. */
static int parse(const char *function, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
		 bool callback, PyObject **ret_fd, PyObject **ret_callback)
{
	static const char *const names[] = { "fd", "callback" };
	PyObject *values[2] = { nargs > 0 ? args[0] : NULL, nargs > 1 ? args[1] : NULL };
	Py_ssize_t i, wanted = callback ? 2 : 1;

	for (i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
		PyObject *name = PyTuple_GET_ITEM(kwnames, i);
		int which = PyUnicode_CompareWithASCIIString(name, names[0]) == 0 ? 0 : 1;

		if (which >= wanted ||
		    (which == 1 && PyUnicode_CompareWithASCIIString(name, names[1]) != 0)) {
			PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'",
				     function, name);
			return -1;
		}
		if (values[which] != NULL) {
			PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'",
				     function, name);
			return -1;
		}
		values[which] = args[nargs + i];
	}
	if (!callback && nargs > 1) {
		PyErr_Format(PyExc_TypeError, "%s() takes 1 positional argument but %zd were given",
			     function, nargs);
		return -1;
	}
	for (i = 0; i < wanted; i++) {
		if (values[i] == NULL) {
			PyErr_Format(PyExc_TypeError,
				     "%s() missing 1 required positional argument: '%s'", function,
				     names[i]);
			return -1;
		}
	}
	*ret_fd = values[0];
	if (callback)
		*ret_callback = values[1];
	return 0;
}

static PyObject *add_method(PyObject *op, const char *function, int which, bool check,
			    PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
	LoopObject *self = (LoopObject *)op;
	PyObject *object, *callback, *handle;
	Py_ssize_t rest = nargs > 2 ? nargs - 2 : 0;
	int fd;

	if (parse(function, args, nargs, kwnames, true, &object, &callback) < 0)
		return NULL;
	fd = to_fd(self, object);
	if (fd < 0 || (check && kl_ensure_no_transport(self, object, fd) < 0))
		return NULL;
	handle = add(self, fd, which, callback, args + nargs - rest, rest);
	if (handle == NULL)
		return NULL;
	return Py_NewRef(check ? Py_None : handle);
}

static PyObject *remove_method(PyObject *op, const char *function, int which, bool check,
			       PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
	LoopObject *self = (LoopObject *)op;
	PyObject *object;
	int fd;

	if (parse(function, args, nargs, kwnames, false, &object, NULL) < 0)
		return NULL;
	/* asyncio's transports remove readers of sockets that are closed: those are none. */
	if (!check && PyLong_Check(object) && PyLong_AsLong(object) < 0 && !PyErr_Occurred())
		Py_RETURN_FALSE;
	fd = to_fd(self, object);
	if (fd < 0 || (check && kl_ensure_no_transport(self, object, fd) < 0))
		return NULL;
	return remove_side(self, fd, which);
}

KL_LOOP_METHOD(kl_loop_add_reader)
{
	return add_method(self, "add_reader", READER, true, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_add_writer)
{
	return add_method(self, "add_writer", WRITER, true, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_remove_reader)
{
	return remove_method(self, "remove_reader", READER, true, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_remove_writer)
{
	return remove_method(self, "remove_writer", WRITER, true, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_add_reader_c)
{
	return add_method(self, "_add_reader", READER, false, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_add_writer_c)
{
	return add_method(self, "_add_writer", WRITER, false, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_remove_reader_c)
{
	return remove_method(self, "_remove_reader", READER, false, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_remove_writer_c)
{
	return remove_method(self, "_remove_writer", WRITER, false, args, nargs, kwnames);
}

KL_LOOP_METHOD(kl_loop_watched_events)
{
	PyObject *object;
	struct kl_watch *watch;
	int fd;

	if (parse("_watched_events", args, nargs, kwnames, false, &object, NULL) < 0)
		return NULL;
	fd = to_fd((LoopObject *)self, object);
	if (fd < 0)
		return NULL;
	watch = find((LoopObject *)self, fd);
	if (watch == NULL)
		return PyLong_FromLong(0);
	return PyLong_FromLong((watch->side[READER].handle != NULL) |
			       (watch->side[WRITER].handle != NULL) << 1);
}

/* ---- the loop's end and the collector ---------------------------------- */

int kl_poll_traverse(LoopObject *self, visitproc visit, void *arg)
{
	size_t fd;

	for (fd = 0; fd < self->watch_capacity; fd++) {
		if (self->watches[fd] != NULL) {
			Py_VISIT(self->watches[fd]->side[READER].handle);
			Py_VISIT(self->watches[fd]->side[WRITER].handle);
		}
	}
	return 0;
}

/* Watches with polls in flight leave the table and are freed by their last completion. */
static void orphan(LoopObject *self, struct kl_watch *watch)
{
	self->watches[watch->fd] = NULL;
	watch->next = self->orphan_watches;
	watch->link = &self->orphan_watches;
	if (watch->next != NULL)
		watch->next->link = &watch->next;
	self->orphan_watches = watch;
}

void kl_poll_close(LoopObject *self)
{
	size_t fd;

	for (fd = 0; fd < self->watch_capacity; fd++) {
		struct kl_watch *watch = self->watches[fd];
		PyObject *reader, *writer;

		if (watch == NULL)
			continue;
		reader = disarm(&watch->side[READER]);
		writer = disarm(&watch->side[WRITER]);
		if (in_flight(watch))
			orphan(self, watch);
		else
			free_watch(watch);
		Py_XDECREF(reader);
		Py_XDECREF(writer);
	}
}
