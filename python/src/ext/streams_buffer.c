/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What a stream reader holds: bytes objects as they were received.
 *
 * A large piece is kept as it is, so that a read can have it without a copy.
 * Small ones that come while others wait are gathered, lest a peer that sends
 * single bytes makes an object of each. What is joined for a search gets as
 * much room again behind it, so that appending and searching cost the same
 * however long it becomes.
 */
#include "streams.h"

#include <string.h>

#define SMALL_BYTES 2048  /* below it a piece is gathered with what follows */
#define GATHER_BYTES 8192 /* room for such pieces */

static int push(struct kl_pieces *pieces, PyObject *object, size_t end)
{
	struct kl_piece *piece;

	if (pieces->head + pieces->count == pieces->capacity) {
		if (pieces->head > pieces->capacity / 2) {
			memmove(pieces->items, kl_pieces_first(pieces),
				pieces->count * sizeof(pieces->items[0]));
		} else {
			size_t capacity = pieces->capacity == 0 ? 4 : 2 * pieces->capacity;
			struct kl_piece *items = PyMem_New(struct kl_piece, capacity);

			if (items == NULL) {
				Py_DECREF(object);
				PyErr_NoMemory();
				return -1;
			}
			if (pieces->count != 0)
				memcpy(items, kl_pieces_first(pieces),
				       pieces->count * sizeof(items[0]));
			PyMem_Free(pieces->items);
			pieces->items = items;
			pieces->capacity = capacity;
		}
		pieces->head = 0;
	}
	piece = &pieces->items[pieces->head + pieces->count++];
	piece->object = object;
	piece->begin = 0;
	piece->end = end;
	pieces->bytes += end;
	return 0;
}

int kl_pieces_append(struct kl_pieces *pieces, PyObject *object)
{
	size_t bytes = (size_t)PyBytes_GET_SIZE(object);
	struct kl_piece *last;
	PyObject *room;

	if (pieces->count == 0)
		return push(pieces, object, bytes);
	last = &pieces->items[pieces->head + pieces->count - 1];
	if ((size_t)PyBytes_GET_SIZE(last->object) - last->end >= bytes) {
		memcpy(PyBytes_AS_STRING(last->object) + last->end, PyBytes_AS_STRING(object), bytes);
		last->end += bytes;
		pieces->bytes += bytes;
		Py_DECREF(object);
		return 0;
	}
	if (bytes >= SMALL_BYTES)
		return push(pieces, object, bytes);
	room = PyBytes_FromStringAndSize(NULL, GATHER_BYTES);
	if (room != NULL)
		memcpy(PyBytes_AS_STRING(room), PyBytes_AS_STRING(object), bytes);
	Py_DECREF(object);
	return room != NULL ? push(pieces, room, bytes) : -1;
}

/* The first piece is used up: whose it is now is the caller's business. */
static PyObject *shift(struct kl_pieces *pieces)
{
	PyObject *object = kl_pieces_first(pieces)->object;

	pieces->head++;
	if (--pieces->count == 0)
		pieces->head = 0;
	return object;
}

/* Remove `bytes`, at most what there is; copy them to `to` unless that is NULL. */
static void consume(struct kl_pieces *pieces, char *to, size_t bytes)
{
	pieces->bytes -= bytes;
	while (bytes != 0) {
		struct kl_piece *first = kl_pieces_first(pieces);
		size_t here = first->end - first->begin;

		if (here > bytes)
			here = bytes;
		if (to != NULL) {
			memcpy(to, PyBytes_AS_STRING(first->object) + first->begin, here);
			to += here;
		}
		first->begin += here;
		bytes -= here;
		if (first->begin == first->end)
			Py_DECREF(shift(pieces));
	}
}

PyObject *kl_pieces_take(struct kl_pieces *pieces, size_t bytes)
{
	struct kl_piece *first;
	PyObject *object;

	if (bytes > pieces->bytes)
		bytes = pieces->bytes;
	if (bytes == 0)
		return PyBytes_FromStringAndSize(NULL, 0);
	first = kl_pieces_first(pieces);
	if (first->begin == 0 && first->end == bytes) {
		pieces->bytes -= bytes;
		object = shift(pieces);
		/* Only what has room is longer, and that nobody else has seen. */
		if ((size_t)PyBytes_GET_SIZE(object) != bytes)
			(void)_PyBytes_Resize(&object, (Py_ssize_t)bytes);
		return object;
	}
	object = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes);
	if (object != NULL)
		consume(pieces, PyBytes_AS_STRING(object), bytes);
	return object;
}

void kl_pieces_drop(struct kl_pieces *pieces, size_t bytes)
{
	consume(pieces, NULL, bytes < pieces->bytes ? bytes : pieces->bytes);
}

void kl_pieces_clear(struct kl_pieces *pieces)
{
	consume(pieces, NULL, pieces->bytes);
	PyMem_Free(pieces->items);
	memset(pieces, 0, sizeof(*pieces));
}

void kl_pieces_copy(const struct kl_pieces *pieces, char *to)
{
	const struct kl_piece *piece = pieces->items + pieces->head;
	const struct kl_piece *end = piece + pieces->count;

	for (; piece != end; piece++) {
		memcpy(to, PyBytes_AS_STRING(piece->object) + piece->begin,
		       piece->end - piece->begin);
		to += piece->end - piece->begin;
	}
}

const char *kl_pieces_join(struct kl_pieces *pieces)
{
	struct kl_piece *first = kl_pieces_first(pieces);
	size_t bytes = pieces->bytes;
	PyObject *object;

	if (pieces->count > 1) {
		object = PyBytes_FromStringAndSize(
			NULL, (Py_ssize_t)(bytes < GATHER_BYTES / 2 ? GATHER_BYTES : 2 * bytes));
		if (object == NULL)
			return NULL;
		consume(pieces, PyBytes_AS_STRING(object), bytes);
		pieces->head = 0; /* there was a piece, so there is a place for one */
		if (push(pieces, object, bytes) < 0)
			return NULL;
		first = kl_pieces_first(pieces);
	}
	return PyBytes_AS_STRING(first->object) + first->begin;
}
