/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * asyncio's streams, fast.
 *
 * streams_buffer.c  what a reader holds: pieces as they were received
 * streams_state.c   the C state of a reader, its attributes, feeding
 * streams_class.c   the class that readers change to
 * streams_method.c  its methods, as objects
 * streams_attach.c  which readers change, and when
 * streams_call.c    a read as a coroutine
 * streams_read.c    the reads themselves
 *
 * asyncio.open_connection() and start_server() make a StreamReader and a
 * StreamReaderProtocol of their own. When such a protocol is given to a
 * transport of ours, and both are of asyncio's exact classes, unchanged, its
 * reader becomes an instance of a subclass whose methods are C, and the
 * transport feeds it directly. What was received is kept as it came, and a read
 * that takes a whole piece gets that very object.
 *
 * Nothing of asyncio is patched, and nothing is lost: as soon as anybody does
 * what the subclass does not do itself (touches _buffer, replaces a method,
 * passes an argument out of the ordinary), the reader becomes a plain
 * asyncio.StreamReader again, with all of its state, for good.
 */
#ifndef KL_STREAMS_H
#define KL_STREAMS_H

#include "transport.h"

#define KL_FREE_READS 256

/* ---- streams_buffer.c ------------------------------------------------- */

/* A part of a bytes object. Where the object is longer than `end` there is room to append. */
struct kl_piece {
	PyObject *object;
	size_t begin, end;
};

struct kl_pieces {
	struct kl_piece *items;
	size_t head, count, capacity;
	size_t bytes; /* in all pieces */
};

/* Append a bytes object, which is stolen in any case. 0, or -1 with MemoryError. */
int kl_pieces_append(struct kl_pieces *pieces, PyObject *object);
/* The first `bytes` of it (or all there are), removed: new, or NULL with MemoryError. */
PyObject *kl_pieces_take(struct kl_pieces *pieces, size_t bytes);
/* Remove the first `bytes` of it. */
void kl_pieces_drop(struct kl_pieces *pieces, size_t bytes);
void kl_pieces_clear(struct kl_pieces *pieces);
/* All of it in one place, until the next call; not for an empty one. NULL with MemoryError. */
const char *kl_pieces_join(struct kl_pieces *pieces);
/* Copy all of it to where there is room for `bytes`. */
void kl_pieces_copy(const struct kl_pieces *pieces, char *to);

static inline struct kl_piece *kl_pieces_first(const struct kl_pieces *pieces)
{
	return &pieces->items[pieces->head];
}

/* ---- the C state of a reader ------------------------------------------ */

/*
 * It lives in the reader's __dict__. `plain` is set when the reader turned
 * back; reads that wait at that time then find all of it in the reader again.
 */
typedef struct kl_reader {
	PyObject_HEAD
	LoopObject *loop;
	PyObject *transport;    /* the reader's attributes; NULL is None */
	PyObject *waiter;
	PyObject *exception;
	TransportObject *feeder; /* borrowed: its `reader` is this */
	struct kl_pieces pieces;
	size_t limit;
	size_t offered, recent; /* large reads: room for the next one, about how much they bring */
	bool eof;
	bool paused;
	bool plain;
} ReaderObject;

struct kl_read; /* below */

/* What asyncio's classes had when kloop was imported. */
struct kl_original {
	PyObject *name, *value;
};

#define KL_READER_NAMES(X)                                                                   \
	X(_kloop_state) X(__class__) X(_buffer) X(_eof) X(_waiter) X(_exception) X(_transport)     \
	X(_paused) X(_limit) X(_loop) X(_stream_reader) X(resume_reading) X(pause_reading)         \
	X(partial) X(consumed) X(args) X(cancelled) X(set_result) X(create_future) X(read)         \
	X(readexactly) X(readuntil) X(readline) X(__anext__) X(n) X(separator) X(data)             \
	X(_is_coroutine) X(_is_coroutine_mark) X(close) X(throw)                                  \
	X(_source_traceback)

/* Of the module; the memory stays as long as the module does. */
struct kl_streams {
	PyObject *reader_class;    /* asyncio.StreamReader */
	PyObject *protocol_class;  /* asyncio.StreamReaderProtocol */
	PyObject *fast_class;      /* the subclass */
	PyTypeObject *state_type;  /* ReaderObject */
	PyTypeObject *read_type;   /* struct kl_read */
	PyTypeObject *method_type; /* of the subclass's methods */
	PyObject *incomplete_read_error, *limit_overrun_error;
	PyObject *is_coroutine, *coroutine_mark; /* what tells that a function is async; or NULL */
	PyObject *data_received;   /* of protocol_class */
	PyObject *guarded;         /* a frozenset: when such an attribute is set, a reader turns back */
	PyObject *originals;       /* a tuple of (class, name, value): all unchanged? */
	PyObject *newline;         /* b"\n" */
	PyGetSetDef *attributes;   /* of the subclass; their closure is this */
	struct kl_read *free_reads;
	unsigned free_read_count;
#define KL_NAME_FIELD_(n) PyObject *n;
	struct { KL_READER_NAMES(KL_NAME_FIELD_) } names;
#undef KL_NAME_FIELD_
};

/* ---- streams_state.c --------------------------------------------------- */

/* The state of a reader that has not turned back: new, or NULL with an error set. */
ReaderObject *kl_reader_of(struct kl_streams *streams, PyObject *object);
ReaderObject *kl_reader_new(struct kl_streams *streams, LoopObject *loop);
/* Make it a plain asyncio.StreamReader for good. 0, or -1 with an error set. */
int kl_reader_turn_back(struct kl_streams *streams, ReaderObject *self, PyObject *object);
/* As feed_data(): steals the object, of type bytes and not empty. 0, or -1 with an error set. */
int kl_reader_append(ReaderObject *self, PyObject *object);
/* As _maybe_resume_transport(). 0, or -1 with an error set. */
int kl_reader_maybe_resume(ReaderObject *self);
/* Go on to receive, before a wait. 0, or -1 with an error set. */
int kl_reader_resume(ReaderObject *self);
/* The transport feeds this reader; or none, if that is NULL. */
void kl_reader_link(TransportObject *transport, ReaderObject *self);
int kl_reader_init_state(PyObject *module, struct kl_streams *streams);

/* ---- streams_method.c, streams_class.c ---------------------------------- */

/*
 * One method of the subclass. args[0] is a reader of it with that state. What
 * it cannot do it leaves to asyncio: kl_method_leave(), which returns its result.
 */
typedef struct kl_method MethodObject;
typedef PyObject *(*kl_method_function)(MethodObject *method, ReaderObject *state,
					PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
struct kl_method_def {
	const char *name;
	kl_method_function function;
	bool async;
};

struct kl_method {
	PyObject_HEAD
	vectorcallfunc vectorcall;
	struct kl_streams *streams;
	PyObject *module;   /* keeps that in memory */
	PyObject *original; /* the method of asyncio.StreamReader */
	const struct kl_method_def *def;
};

PyObject *kl_method_leave(MethodObject *method, PyObject *const *args, Py_ssize_t nargs,
			  PyObject *kwnames);
/* Set it as the class's attribute. 0, or -1 with an error set. */
int kl_method_add(struct kl_streams *streams, PyObject *module, const struct kl_method_def *def);
int kl_method_init(PyObject *module, struct kl_streams *streams);

/* streams->fast_class with all but the reads. 0, or -1 with an error set. */
int kl_reader_init_class(PyObject *module, struct kl_streams *streams);

/* ---- streams_call.c, streams_read.c ------------------------------------- */

enum kl_read_kind {
	KL_READ,
	KL_READ_ALL,
	KL_READ_EXACTLY,
	KL_READ_UNTIL,
	KL_READ_LINE,
	KL_READ_NEXT, /* __anext__() */
};

enum kl_read_stage {
	KL_READ_NEW,
	KL_READ_WAITING,  /* for data, by the iterator of a future */
	KL_READ_HANDED,   /* the iterator is a coroutine of asyncio's, which does the rest */
	KL_READ_DONE,
};

/* One read: what a method call returns, and what is awaited. */
struct kl_read {
	PyObject_HEAD
	struct kl_streams *streams;
	ReaderObject *state;
	PyObject *reader;
	PyObject *separator; /* bytes, or a tuple of them */
	PyObject *blocks;    /* of a read to the end */
	PyObject *iterator;  /* links the free list */
	size_t bytes;        /* wanted */
	size_t offset;       /* where a separator may begin */
	uint8_t kind;
	uint8_t stage;
};

/* A new read; separator may be NULL. NULL with an error set. */
PyObject *kl_read_new(struct kl_streams *streams, ReaderObject *state, PyObject *reader,
		      enum kl_read_kind kind, size_t bytes, PyObject *separator);
int kl_read_init(PyObject *module, struct kl_streams *streams);
void kl_read_fini(struct kl_streams *streams); /* empty the free list, for good */

/* 1 with *ret_result, 0 if it must wait, -1 with an error set. woken: it has waited before. */
int kl_read_attempt(struct kl_read *self, bool woken, PyObject **ret_result);
/* An error is set: what readline() makes of it. 1 with *ret_result, or -1 with an error set. */
int kl_read_map_error(struct kl_read *self, PyObject **ret_result);
/* The method of asyncio's that waits for data, by the name that its errors have. */
const char *kl_read_waiter_name(const struct kl_read *self);
/* The same read by asyncio, after the reader turned back: a coroutine, or NULL with an error set. */
PyObject *kl_read_hand_over(struct kl_read *self);
/*
 * A read that was woken after that takes what one wait is good for: 1 with
 * *ret_result, 0 if it is to be handed over, or -1 with an error set.
 */
int kl_read_take_plain(struct kl_read *self, PyObject **ret_result);

extern const struct kl_method_def kl_read_methods[]; /* the last has no name */

#endif
