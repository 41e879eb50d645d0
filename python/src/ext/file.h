/* SPDX-License-Identifier: MulanPSL-2.0 */
/* One call on a file: its object, its way through the ring, its result. */
#ifndef KL_FILE_H
#define KL_FILE_H

#include "ext.h"

struct statx;

enum kl_file_kind {
	KL_FILE_OPEN,
	KL_FILE_CLOSE,
	KL_FILE_READ,
	KL_FILE_READINTO,
	KL_FILE_WRITE,
	KL_FILE_SYNC,
	KL_FILE_STAT,
	KL_FILE_TRUNCATE,
	KL_FILE_ALLOCATE,
	KL_FILE_RENAME,
	KL_FILE_UNLINK,
	KL_FILE_MKDIR,
};

enum kl_file_state {
	KL_FILE_NEW,     /* not awaited yet */
	KL_FILE_WAITING, /* in the ring, its task sleeps */
	KL_FILE_READY,   /* complete; the task is to be resumed */
	KL_FILE_DONE,
};

/*
 * Awaitable, and the future that its task waits for. A call that is cancelled
 * asks the kernel to end it and stays in flight until that has answered: what it
 * did by then is known, and CancelledError comes after.
 */
struct kl_file_call {
	PyObject_HEAD
	LoopObject *loop; /* strong */
	PyObject *callback, *context; /* of the task */
	PyObject *cancel_message;
	PyObject *name, *name2; /* as the user gave them: for exceptions */
	PyObject *path, *path2; /* bytes of the same, lent to the kernel */
	PyObject *data;         /* the bytes object that a read goes into */
	Py_buffer buffer;       /* of readinto and write */
	struct statx *status;
	uint64_t offset, bytes;
	int fd;
	int flags;
	unsigned mode;
	int result;
	uint8_t kind;
	uint8_t state;
	bool full;      /* a read that ends at the end of the file only, or when all is there */
	bool blocking;  /* _asyncio_future_blocking */
	bool exposed;   /* was yielded */
	bool cancelled;
	union {
		struct kloop_op op;
		struct kloop_transfer transfer;
	};
	struct kl_file_call *next, **link; /* in LoopObject.file_calls while in flight */
};

/* file.c */
struct kl_file_call *kl_file_new(LoopObject *loop, enum kl_file_kind kind);
int kl_file_traverse(PyObject *op, visitproc visit, void *arg);
int kl_file_clear(PyObject *op);
void kl_file_dealloc(PyObject *op);
/* Put it in the ring: 0, or -1 with an error set. */
int kl_file_begin(struct kl_file_call *self);
/* Ask the kernel to end it. */
void kl_file_request_cancel(struct kl_file_call *self);
/* What a complete call gives: a new reference, or NULL with an error set. */
PyObject *kl_file_collect(struct kl_file_call *self);
/* Bytes that were moved so far, and the data of a read as far as it came (or NULL). */
size_t kl_file_moved(const struct kl_file_call *self);
PyObject *kl_file_take_data(struct kl_file_call *self);

#endif
