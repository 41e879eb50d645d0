/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What a handle shows of asyncio: its class, and from Python 3.14 on what
 * asyncio's thread-safe handles promise.
 *
 * cancel() of a handle that call_soon_threadsafe() made, called in another
 * thread while the callback runs, returns after that: the caller may then free
 * what the callback uses. cancelled() waits, too. The loop's own thread never
 * does. No lock is made unless somebody has to wait.
 */
#include "handle.h"

#include <pythread.h>

/* Somebody who waits; lives on his stack, and is linked and unlinked with the GIL held. */
struct kl_handle_waiter {
	PyThread_type_lock lock; /* released when the callback has ended */
	const struct kl_handle *handle;
	bool woken;
	struct kl_handle_waiter *next;
};

static void unlink_waiter(LoopObject *loop, const struct kl_handle_waiter *waiter)
{
	struct kl_handle_waiter **link = &loop->waiters;

	while (*link != NULL && *link != waiter)
		link = &(*link)->next;
	if (*link != NULL)
		*link = waiter->next;
}

/* Wait once. 0, or -1 with an error set: that of a signal's handler, or MemoryError. */
static int wait_once(struct kl_handle *h)
{
	struct kl_handle_waiter waiter = { .lock = PyThread_allocate_lock(), .handle = h };
	LoopObject *loop = h->loop;
	PyLockStatus status;

	if (waiter.lock == NULL) {
		PyErr_NoMemory();
		return -1;
	}
	PyThread_acquire_lock(waiter.lock, WAIT_LOCK);
	waiter.next = loop->waiters;
	loop->waiters = &waiter;
	Py_INCREF(loop);
	Py_BEGIN_ALLOW_THREADS
	status = PyThread_acquire_lock_timed(waiter.lock, -1, 1);
	Py_END_ALLOW_THREADS
	/* A signal ends the wait of the main thread alone; it may have come after the end. */
	if (!waiter.woken)
		unlink_waiter(loop, &waiter);
	Py_DECREF(loop);
	PyThread_release_lock(waiter.lock);
	PyThread_free_lock(waiter.lock);
	return status == PY_LOCK_INTR ? PyErr_CheckSignals() : 0;
}

int kl_handle_wait(struct kl_handle *h)
{
	while (h->locked && h->loop != NULL && h->loop->thread_ident != 0 &&
	       h->loop->thread_ident != PyThread_get_thread_ident()) {
		if (wait_once(h) < 0)
			return -1;
	}
	return 0;
}

void kl_handle_unlock(struct kl_handle *h)
{
	struct kl_handle_waiter **link = &h->loop->waiters;

	h->locked = false;
	while (*link != NULL) {
		struct kl_handle_waiter *waiter = *link;

		if (waiter->handle != h) {
			link = &waiter->next;
			continue;
		}
		*link = waiter->next;
		waiter->woken = true;
		PyThread_release_lock(waiter->lock);
	}
}

void kl_handle_share(struct kl_handle *h)
{
	h->threadsafe = h->loop->state->asyncio_threadsafe_handle != NULL;
}

/* isinstance(handle, asyncio.Handle) asks for the type, and then for this. */
PyObject *kl_handle_get_class(PyObject *op, void *Py_UNUSED(closure))
{
	struct kl_handle *h = (struct kl_handle *)op;
	struct kl_state *state = kl_handle_state(op);

	if (state == NULL)
		return Py_NewRef(Py_TYPE(op));
	if (Py_TYPE(op) == state->timer_handle_type)
		return Py_NewRef(state->asyncio_timer_handle);
	return Py_NewRef(h->threadsafe ? state->asyncio_threadsafe_handle : state->asyncio_handle);
}

int kl_handle_import(struct kl_state *state)
{
	PyObject *events = PyImport_ImportModule("asyncio.events");

	if (events == NULL)
		return -1;
	state->asyncio_handle = PyObject_GetAttrString(events, "Handle");
	state->asyncio_timer_handle = PyObject_GetAttrString(events, "TimerHandle");
	/* Since Python 3.14. */
	state->asyncio_threadsafe_handle = PyObject_GetAttrString(events, "_ThreadSafeHandle");
	if (state->asyncio_threadsafe_handle == NULL)
		PyErr_Clear();
	Py_DECREF(events);
	if (state->asyncio_handle == NULL || state->asyncio_timer_handle == NULL)
		return -1;
	state->handle_repr_info = PyObject_GetAttrString(state->asyncio_handle, "_repr_info");
	return state->handle_repr_info != NULL ? 0 : -1;
}
