/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Which readers change their class, and when. */
#include "streams.h"

/* Room for a large read, at least. */
#define MIN_OFFER_BYTES ((size_t)16 << 10)

/* ---- is it what we know? ------------------------------------------------- */

/* Has nobody replaced a method of asyncio's classes? An error counts as no, and is cleared. */
static bool is_original(struct kl_streams *streams)
{
	Py_ssize_t i;

	for (i = 0; i < PyTuple_GET_SIZE(streams->originals); i++) {
		PyObject *original = PyTuple_GET_ITEM(streams->originals, i);
		PyObject *value = PyObject_GetAttr(PyTuple_GET_ITEM(original, 0),
						   PyTuple_GET_ITEM(original, 1));

		Py_XDECREF(value);
		if (value == NULL)
			PyErr_Clear();
		if (value != PyTuple_GET_ITEM(original, 2))
			return false;
	}
	return true;
}

/* An attribute of its own that the subclass has too would be hidden, or hide. 1, 0, or -1. */
static int has_own_methods(struct kl_streams *streams, PyObject *attributes)
{
	PyObject *key, *value;
	Py_ssize_t position = 0;

	while (PyDict_Next(attributes, &position, &key, &value)) {
		int guarded = PySet_Contains(streams->guarded, key);

		if (guarded < 0)
			return -1;
		if (guarded > 0 && key != streams->names._buffer && key != streams->names._limit &&
		    key != streams->names._loop)
			return 1;
	}
	return 0;
}

/* What __init__ sets, or NULL: borrowed. */
static PyObject *get(PyObject *attributes, PyObject *name)
{
	PyObject *value = PyDict_GetItemWithError(attributes, name);

	if (value == NULL)
		PyErr_Clear();
	return value;
}

/* A reader that was made and not yet used: 1, with its limit, or 0, or -1 with an error set. */
static int is_new(struct kl_streams *streams, LoopObject *loop, PyObject *attributes,
		  size_t *ret_limit)
{
	PyObject *buffer = get(attributes, streams->names._buffer);
	PyObject *limit = get(attributes, streams->names._limit);
	Py_ssize_t bytes;

	if (buffer == NULL || !PyByteArray_CheckExact(buffer) || PyByteArray_GET_SIZE(buffer) != 0 ||
	    limit == NULL || !PyLong_CheckExact(limit) ||
	    get(attributes, streams->names._loop) != (PyObject *)loop ||
	    get(attributes, streams->names._waiter) != Py_None ||
	    get(attributes, streams->names._exception) != Py_None ||
	    get(attributes, streams->names._eof) != Py_False ||
	    get(attributes, streams->names._paused) != Py_False ||
	    get(attributes, streams->names._transport) == NULL ||
	    get(attributes, streams->names._kloop_state) != NULL)
		return 0;
	bytes = PyLong_AsSsize_t(limit);
	if (bytes <= 0) {
		PyErr_Clear();
		return 0;
	}
	*ret_limit = (size_t)bytes;
	return has_own_methods(streams, attributes) == 0;
}

/* ---- the change ---------------------------------------------------------- */

/* The new state of a reader that has changed; NULL if it must not, or with an error set. */
static ReaderObject *change(struct kl_streams *streams, LoopObject *loop, PyObject *reader)
{
	PyObject *attributes = PyObject_GenericGetDict(reader, NULL);
	PyObject *transport;
	ReaderObject *state = NULL;
	size_t limit;

	if (attributes == NULL)
		return NULL;
	if (is_new(streams, loop, attributes, &limit) > 0 && is_original(streams))
		state = kl_reader_new(streams, loop);
	if (state != NULL) {
		transport = get(attributes, streams->names._transport);
		state->limit = limit;
		state->transport = transport == Py_None ? NULL : Py_NewRef(transport);
		if (PyObject_SetAttr(reader, streams->names._kloop_state, (PyObject *)state) < 0 ||
		    PyObject_SetAttr(reader, streams->names.__class__, streams->fast_class) < 0) {
			PyObject *error = kl_exception_take();

			(void)PyObject_DelAttr(reader, streams->names._kloop_state);
			kl_exception_give(error);
			Py_CLEAR(state);
		}
	}
	Py_DECREF(attributes);
	return state;
}

/* The reader's state, new; NULL if it cannot be fed directly, or with an error set. */
static ReaderObject *find_state(struct kl_streams *streams, TransportObject *transport,
				PyObject *protocol)
{
	PyObject *reader = PyObject_GetAttr(protocol, streams->names._stream_reader);
	ReaderObject *state = NULL;

	if (reader == NULL)
		return NULL;
	if ((PyObject *)Py_TYPE(reader) == streams->reader_class)
		state = change(streams, transport->loop, reader);
	else if ((PyObject *)Py_TYPE(reader) == streams->fast_class && is_original(streams))
		state = kl_reader_of(streams, reader);
	Py_DECREF(reader);
	return state;
}

/* Is its data_received() asyncio's? */
static bool is_plain_protocol(struct kl_streams *streams, TransportObject *transport,
			      PyObject *protocol)
{
	return (PyObject *)Py_TYPE(protocol) == streams->protocol_class &&
	       transport->receive != NULL && PyMethod_Check(transport->receive) &&
	       PyMethod_GET_SELF(transport->receive) == protocol &&
	       PyMethod_GET_FUNCTION(transport->receive) == streams->data_received;
}

void kl_streams_attach(TransportObject *transport, PyObject *protocol)
{
	struct kl_streams *streams = transport->loop->state->streams;
	ReaderObject *state = NULL;

	if (streams->fast_class != NULL && is_plain_protocol(streams, transport, protocol))
		state = find_state(streams, transport, protocol);
	if (state == NULL)
		PyErr_Clear();
	kl_reader_link(transport, state);
	Py_XDECREF(state);
}

void kl_streams_detach(TransportObject *transport)
{
	kl_reader_link(transport, NULL);
}

/*
 * What is read is kept until somebody takes it: memory of about the right size
 * lets malloc() give the same places again, which are in the caches still.
 */
size_t kl_streams_suggest(TransportObject *transport, size_t suggested)
{
	ReaderObject *state = transport->reader;
	size_t bytes = (state->recent + state->recent / 4 + 4095) & ~(size_t)4095;

	if (bytes < MIN_OFFER_BYTES)
		bytes = MIN_OFFER_BYTES;
	state->offered = bytes < suggested ? bytes : suggested;
	return state->offered;
}

/* So much came: is there more where the room was full? */
static void note_size(ReaderObject *state, size_t bytes)
{
	if (bytes >= state->offered)
		state->recent = 2 * bytes;
	else if (bytes >= state->recent)
		state->recent = bytes;
	else
		state->recent -= (state->recent - bytes) / 8;
}

int kl_streams_feed(TransportObject *transport, PyObject *object)
{
	ReaderObject *state = transport->reader;
	LoopObject *loop = transport->loop;
	bool first = loop->ready_count == 0;
	int result;

	/* After the end it is asyncio which complains. */
	if (state == NULL || state->eof)
		return 0;
	if (state->offered != 0)
		note_size(state, (size_t)PyBytes_GET_SIZE(object));
	Py_INCREF(state);
	result = kl_reader_append(state, object);
	Py_DECREF(state);
	if (first && result == 0 && loop->ready_count > 0)
		kl_run_ready_early(loop);
	return result < 0 ? -1 : 1;
}

/* ---- the module ---------------------------------------------------------- */

static int intern_names(struct kl_streams *streams)
{
#define INTERN(n)                                                                            \
	streams->names.n = PyUnicode_InternFromString(#n);                                   \
	if (streams->names.n == NULL)                                                        \
		return -1;
	KL_READER_NAMES(INTERN)
#undef INTERN
	return 0;
}

static int import_all(struct kl_streams *streams)
{
	const struct {
		PyObject **object;
		const char *module, *name;
		bool optional;
	} imports[] = {
		{ &streams->reader_class, "asyncio", "StreamReader", false },
		{ &streams->protocol_class, "asyncio", "StreamReaderProtocol", false },
		{ &streams->incomplete_read_error, "asyncio", "IncompleteReadError", false },
		{ &streams->limit_overrun_error, "asyncio", "LimitOverrunError", false },
		{ &streams->is_coroutine, "asyncio.coroutines", "_is_coroutine", true },
		{ &streams->coroutine_mark, "inspect", "_is_coroutine_mark", true },
	};
	size_t i;

	for (i = 0; i < sizeof(imports) / sizeof(imports[0]); i++) {
		PyObject *module = PyImport_ImportModule(imports[i].module);

		if (module == NULL)
			return -1;
		*imports[i].object = PyObject_GetAttrString(module, imports[i].name);
		Py_DECREF(module);
		if (*imports[i].object == NULL && !imports[i].optional)
			return -1;
		PyErr_Clear();
	}
	streams->data_received = PyObject_GetAttrString(streams->protocol_class, "data_received");
	streams->newline = PyBytes_FromString("\n");
	return streams->data_received != NULL && streams->newline != NULL ? 0 : -1;
}

/* (class, name, value) for all that the classes define. 0, or -1 with an error set. */
static int note_originals(struct kl_streams *streams)
{
	PyObject *classes[] = { streams->reader_class, streams->protocol_class };
	PyObject *list = PyList_New(0);
	size_t i;

	for (i = 0; list != NULL && i < sizeof(classes) / sizeof(classes[0]); i++) {
		PyObject *attributes = ((PyTypeObject *)classes[i])->tp_dict;
		PyObject *name, *unused;
		Py_ssize_t position = 0;

		while (list != NULL && PyDict_Next(attributes, &position, &name, &unused)) {
			PyObject *value, *original = NULL;

			/* What type() made is computed anew each time, or is of no interest. */
			if (!PyFunction_Check(unused) && !PyObject_TypeCheck(unused, &PyProperty_Type))
				continue;
			value = PyObject_GetAttr(classes[i], name);
			if (value != NULL)
				original = PyTuple_Pack(3, classes[i], name, value);
			if (original == NULL || PyList_Append(list, original) < 0)
				Py_CLEAR(list);
			Py_XDECREF(value);
			Py_XDECREF(original);
		}
	}
	if (list != NULL)
		streams->originals = PyList_AsTuple(list);
	Py_XDECREF(list);
	return streams->originals != NULL ? 0 : -1;
}

/* The names of what the subclass has, but for attributes that it lets be set; and __init__'s. */
static int note_guarded(struct kl_streams *streams)
{
	struct { PyObject *name; bool in; } extra[] = {
		{ streams->names.__class__, true }, { streams->names._loop, true },
		{ streams->names._limit, true }, { streams->names._kloop_state, true },
		{ streams->names._eof, false }, { streams->names._paused, false },
		{ streams->names._waiter, false }, { streams->names._exception, false },
		{ streams->names._transport, false }, { streams->names._source_traceback, false },
	};
	PyObject *names = PyObject_Dir(streams->fast_class);
	PyObject *set = names != NULL ? PySet_New(names) : NULL;
	size_t i;

	for (i = 0; set != NULL && i < sizeof(extra) / sizeof(extra[0]); i++) {
		int result = extra[i].in ? PySet_Add(set, extra[i].name)
					 : PySet_Discard(set, extra[i].name);

		if (result < 0)
			Py_CLEAR(set);
	}
	if (set != NULL)
		streams->guarded = PyFrozenSet_New(set);
	Py_XDECREF(names);
	Py_XDECREF(set);
	return streams->guarded != NULL ? 0 : -1;
}

int kl_streams_init(PyObject *module, struct kl_state *state)
{
	struct kl_streams *streams = PyMem_Calloc(1, sizeof(*streams));

	state->streams = streams;
	if (streams == NULL) {
		PyErr_NoMemory();
		return -1;
	}
	if (intern_names(streams) < 0 || import_all(streams) < 0 || note_originals(streams) < 0 ||
	    kl_reader_init_state(module, streams) < 0 || kl_method_init(module, streams) < 0 ||
	    kl_read_init(module, streams) < 0 || kl_reader_init_class(module, streams) < 0)
		return -1;
	return note_guarded(streams);
}

#define STREAMS_OBJECTS(X)                                                                   \
	X(reader_class) X(protocol_class) X(fast_class) X(state_type) X(read_type) X(method_type)  \
	X(incomplete_read_error) X(limit_overrun_error) X(is_coroutine) X(coroutine_mark)          \
	X(guarded) X(originals) X(data_received)

int kl_streams_traverse(struct kl_state *state, visitproc visit, void *arg)
{
	if (state->streams == NULL)
		return 0;
#define VISIT(n) Py_VISIT(state->streams->n);
	STREAMS_OBJECTS(VISIT)
#undef VISIT
	return 0;
}

void kl_streams_clear(struct kl_state *state)
{
	if (state->streams == NULL)
		return;
	kl_read_fini(state->streams);
#define CLEAR(n) Py_CLEAR(state->streams->n);
	STREAMS_OBJECTS(CLEAR)
#undef CLEAR
}

void kl_streams_free(struct kl_state *state)
{
	struct kl_streams *streams = state->streams;

	if (streams == NULL)
		return;
	kl_streams_clear(state);
#define CLEAR_NAME(n) Py_CLEAR(streams->names.n);
	KL_READER_NAMES(CLEAR_NAME)
#undef CLEAR_NAME
	Py_CLEAR(streams->newline);
	PyMem_Free(streams->attributes);
	PyMem_Free(streams);
	state->streams = NULL;
}
