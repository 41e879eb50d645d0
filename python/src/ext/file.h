/* SPDX-License-Identifier: MulanPSL-2.0 */
/* One call on a file: its object, its way through the ring, its result. */
#ifndef KL_FILE_H
#define KL_FILE_H

#include "await.h"

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

/*
 * A call that is cancelled asks the kernel to end it and stays in flight until
 * that has answered: what it did by then is known, and CancelledError comes
 * after.
 */
struct kl_file_call {
	struct kl_await base;
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
	bool full;      /* a read that ends at the end of the file only, or when all is there */
	bool cancelled; /* the kernel was asked to end it */
	bool complete;
	union {
		struct kloop_op op;
		struct kloop_transfer transfer;
	};
	struct kl_file_call *next, **link; /* in LoopObject.file_calls while in flight */
};

/* file.c */
struct kl_file_call *kl_file_new(LoopObject *loop, enum kl_file_kind kind);

/* file_result.c */
/* A descriptor that nobody will take, and what was lent to the kernel: of a call out of flight. */
void kl_file_drop_descriptor(struct kl_file_call *self);
void kl_file_drop_lent(struct kl_file_call *self);
/* Is it a read or a write? */
bool kl_file_is_transfer(const struct kl_file_call *self);
/* Bytes that a read or write moved so far. */
size_t kl_file_moved(const struct kl_file_call *self);
/* The data of a read as far as it came: a new reference, or NULL, with an error set or without. */
PyObject *kl_file_take_data(struct kl_file_call *self);
/* What a complete call gives: a new reference, or NULL with an error set. */
PyObject *kl_file_collect(struct kl_file_call *self);

#endif
