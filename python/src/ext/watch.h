/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Readers and writers of descriptors: poll.c has the watches, poll_methods.c the loop's methods. */
#ifndef KL_WATCH_H
#define KL_WATCH_H

#include "ext.h"

/* The directions of a descriptor. */
enum kl_side {
	KL_READER,
	KL_WRITER,
};

/* A new handle for one side of a descriptor; it is returned, borrowed. context may be NULL. */
PyObject *kl_poll_add(LoopObject *self, int fd, enum kl_side which, PyObject *callback,
		      PyObject *const *args, Py_ssize_t nargs, PyObject *context);
/* True, or False if there was none. */
PyObject *kl_poll_remove(LoopObject *self, int fd, enum kl_side which);
/* Bit 0: it has a reader; bit 1: a writer. */
long kl_poll_watched(const LoopObject *self, int fd);

#endif
