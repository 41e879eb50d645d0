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
#include "watch.h"

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
	return kloop_op_is_active(&watch->side[KL_READER].op) ||
	       kloop_op_is_active(&watch->side[KL_WRITER].op);
}

static void free_watch(struct kl_watch *watch)
{
	if (watch->link != NULL)
		KL_LIST_REMOVE(watch);
	else
		watch->loop->watches[watch->fd] = NULL;
	PyMem_RawFree(watch);
}

/* Free it if nothing needs it any more. With the GIL: the collector looks at the watches. */
static void settle(struct kl_watch *watch)
{
	if (watch->side[KL_READER].handle == NULL && watch->side[KL_WRITER].handle == NULL &&
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
			arm_side(&self->watches[fd]->side[KL_READER]);
			arm_side(&self->watches[fd]->side[KL_WRITER]);
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
		/* Another thread's collector may be looking at the watches. */
		kl_py_enter(self);
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

/* ---- adding and removing ----------------------------------------------- */

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
	watch->side[KL_READER].events = POLLIN;
	watch->side[KL_WRITER].events = POLLOUT;
	self->watches[fd] = watch;
	return watch;
}

PyObject *kl_poll_add(LoopObject *self, int fd, enum kl_side which, PyObject *callback,
		      PyObject *const *args, Py_ssize_t nargs, PyObject *context)
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
	handle = (PyObject *)kl_handle_new(self, callback, args, nargs, context);
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

PyObject *kl_poll_remove(LoopObject *self, int fd, enum kl_side which)
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

long kl_poll_watched(const LoopObject *self, int fd)
{
	const struct kl_watch *watch = find(self, fd);

	if (watch == NULL)
		return 0;
	return (watch->side[KL_READER].handle != NULL) |
	       (watch->side[KL_WRITER].handle != NULL) << 1;
}

/* ---- the loop's end and the collector ---------------------------------- */

int kl_poll_traverse(LoopObject *self, visitproc visit, void *arg)
{
	size_t fd;

	for (fd = 0; fd < self->watch_capacity; fd++) {
		if (self->watches[fd] != NULL) {
			Py_VISIT(self->watches[fd]->side[KL_READER].handle);
			Py_VISIT(self->watches[fd]->side[KL_WRITER].handle);
		}
	}
	return 0;
}

/* Watches with polls in flight leave the table and are freed by their last completion. */
static void orphan(LoopObject *self, struct kl_watch *watch)
{
	self->watches[watch->fd] = NULL;
	KL_LIST_PUSH(self->orphan_watches, watch);
}

void kl_poll_close(LoopObject *self)
{
	size_t fd;

	for (fd = 0; fd < self->watch_capacity; fd++) {
		struct kl_watch *watch = self->watches[fd];
		PyObject *reader, *writer;

		if (watch == NULL)
			continue;
		reader = disarm(&watch->side[KL_READER]);
		writer = disarm(&watch->side[KL_WRITER]);
		if (in_flight(watch))
			orphan(self, watch);
		else
			free_watch(watch);
		Py_XDECREF(reader);
		Py_XDECREF(writer);
	}
}
