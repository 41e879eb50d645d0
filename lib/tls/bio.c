/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * OpenSSL's view of the stream. Reading takes from what has arrived; nothing
 * there means "try again". Writing always succeeds: the bytes are gathered for
 * the stream's next send, or sent at once, or, once the kernel encrypts, handed
 * over as records.
 */
#include "tls.h"

#include <errno.h>
#include <limits.h>
#include <openssl/bio.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

/* Arrived bytes that are kept before the handshake is done: beyond it something is wrong. */
#define KEPT_MAX ((size_t)1 << 20)
#define KEPT_MIN ((size_t)1024)
/* About what a control record takes while it waits. */
#define CONTROL_BYTES 1024

static BIO_METHOD *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

/* ---- kept bytes ------------------------------------------------------- */

/*
 * How much may be kept. In the handshake the receive stays armed; after it, who
 * does not read has it cancelled, and what came before is the pool's at most.
 */
static size_t get_limit(const struct kloop_tls *tls)
{
	return kl_tls_has(tls, KL_TLS_OPEN) ? SIZE_MAX / 4 : KEPT_MAX;
}

/* Room for so many bytes more, at the end. */
static int make_room(struct kl_tls_kept *kept, size_t bytes, size_t limit)
{
	size_t have = kept->end - kept->head;
	size_t capacity = kept->capacity;
	uint8_t *data;

	if (bytes > limit || have + bytes > limit)
		return -EMSGSIZE;
	if (capacity - kept->end >= bytes)
		return 0;
	if (capacity < have + bytes) {
		capacity = have + bytes < KEPT_MIN ? KEPT_MIN : (have + bytes) * 2;
		data = kl_malloc(capacity);
		if (!data)
			return -ENOMEM;
		if (have > 0)
			memcpy(data, kept->data + kept->head, have);
		kl_free(kept->data);
		kept->data = data;
		kept->capacity = capacity;
	} else {
		memmove(kept->data, kept->data + kept->head, have);
	}
	kept->head = 0;
	kept->end = have;
	return 0;
}

int kl_tls_keep(struct kloop_tls *tls, const void *data, size_t bytes)
{
	int r;

	if (bytes == 0)
		return 0;
	r = make_room(&tls->kept, bytes, get_limit(tls));
	if (r < 0)
		return r;
	memcpy(tls->kept.data + tls->kept.end, data, bytes);
	tls->kept.end += bytes;
	return 0;
}

int kl_tls_keep_rest(struct kloop_tls *tls)
{
	int r = kl_tls_keep(tls, tls->in, tls->in_bytes);

	tls->in = NULL;
	tls->in_bytes = 0;
	return r;
}

void kl_tls_drop_input(struct kloop_tls *tls)
{
	tls->in = NULL;
	tls->in_bytes = 0;
	kl_free(tls->kept.data);
	tls->kept = (struct kl_tls_kept){ 0 };
}

static size_t read_kept(struct kl_tls_kept *kept, void *buffer, size_t bytes)
{
	size_t have = kept->end - kept->head;

	if (bytes > have)
		bytes = have;
	memcpy(buffer, kept->data + kept->head, bytes);
	kept->head += bytes;
	if (kept->head == kept->end) {
		kl_free(kept->data);
		*kept = (struct kl_tls_kept){ 0 };
	}
	return bytes;
}

/* ---- the BIO ---------------------------------------------------------- */

static int bio_read(BIO *bio, char *buffer, size_t bytes, size_t *ret_bytes)
{
	struct kloop_tls *tls = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	*ret_bytes = 0;
	if (!kl_tls_has_input(tls)) {
		if (!kl_tls_has(tls, KL_TLS_RAW_ENDED))
			BIO_set_retry_read(bio);
		return 0;
	}
	if (tls->kept.end > tls->kept.head) {
		bytes = read_kept(&tls->kept, buffer, bytes);
	} else {
		if (bytes > tls->in_bytes)
			bytes = tls->in_bytes;
		memcpy(buffer, tls->in, bytes);
		tls->in += bytes;
		tls->in_bytes -= bytes;
	}
	kl_tls_framing_pass(&tls->in_framing, buffer, bytes, true);
	tls->out_records_at_read = tls->out_framing.records;
	*ret_bytes = bytes;
	return 1;
}

/*
 * A record of some size goes from OpenSSL's own memory to the socket, where nothing is before
 * it: that costs less than to gather it for the ring, which means a copy. Returns: how many bytes
 * are dealt with; an error of the socket's ends the stream, as one of a send by the ring does.
 */
static size_t send_now(struct kloop_tls *tls, const char *data, size_t bytes)
{
	struct kloop_stream *stream = tls->stream;
	ssize_t sent;

	if (!tls->out_now || tls->out)
		return 0;
	tls->out_now = false;
	sent = send(stream->fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
	kl_loop_count_direct(stream->loop);
	if (sent >= 0)
		return (size_t)sent;
	if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS)
		return 0;
	kl_stream_fail(stream, -errno);
	return bytes;
}

size_t kl_tls_count_output(const struct kloop_tls *tls)
{
	size_t bytes = tls->out ? kl_batch_count_bytes(tls->out) : 0;
	const struct kl_batch *batch;

	for (batch = tls->controls; batch; batch = kl_batch_get_next(batch))
		bytes += CONTROL_BYTES + kl_batch_count_bytes(batch);
	return bytes;
}

/* Take OpenSSL's output, whole or not at all. */
static int take_output(struct kloop_tls *tls, const char *data, size_t bytes)
{
	size_t sent;
	int r;

	if (tls->out_error < 0)
		return tls->out_error;
	if (kl_tls_has(tls, KL_TLS_SEND_KERNEL)) {
		r = kl_tls_offload_output(tls, (const uint8_t *)data, bytes);
	} else {
		sent = send_now(tls, data, bytes);
		if (sent == bytes)
			return 0;
		r = kl_batch_append(tls->stream->loop, &tls->out, data + sent, bytes - sent,
				    tls->out_room);
	}
	if (r == 0)
		tls->layer.has_output = true;
	return r;
}

static int bio_write(BIO *bio, const char *data, size_t bytes, size_t *ret_bytes)
{
	struct kloop_tls *tls = BIO_get_data(bio);
	int r = take_output(tls, data, bytes);

	BIO_clear_retry_flags(bio);
	tls->out_room = 0;
	if (r < 0) {
		tls->out_error = r;
		*ret_bytes = 0;
		return 0;
	}
	kl_tls_framing_pass(&tls->out_framing, data, bytes, true);
	*ret_bytes = bytes;
	return 1;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
	struct kloop_tls *tls = BIO_get_data(bio);
	size_t bytes;

	(void)number;
	(void)pointer;
	switch (command) {
	case BIO_CTRL_FLUSH:
		return 1;
	case BIO_CTRL_EOF:
		return tls && kl_tls_has(tls, KL_TLS_RAW_ENDED) && !kl_tls_has_input(tls);
	case BIO_CTRL_PENDING:
		bytes = tls ? tls->in_bytes + tls->kept.end - tls->kept.head : 0;
		return bytes < LONG_MAX ? (long)bytes : LONG_MAX;
	default:
		/* Among them BIO_CTRL_SET_KTLS: kLoop moves directions by itself. */
		return 0;
	}
}

static int bio_create(BIO *bio)
{
	BIO_set_init(bio, 1);
	return 1;
}

static int bio_destroy(BIO *bio)
{
	BIO_set_data(bio, NULL);
	return 1;
}

static void make_method(void)
{
	BIO_METHOD *made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "kloop stream");

	if (!made)
		return;
	if (BIO_meth_set_read_ex(made, bio_read) && BIO_meth_set_write_ex(made, bio_write) &&
	    BIO_meth_set_ctrl(made, bio_ctrl) && BIO_meth_set_create(made, bio_create) &&
	    BIO_meth_set_destroy(made, bio_destroy))
		method = made;
	else
		BIO_meth_free(made);
}

/* OpenSSL unloads with the process: what it may call must go before it. */
__attribute__((destructor)) static void free_method(void)
{
	BIO_meth_free(method);
	method = NULL;
}

BIO *kl_tls_bio_new(struct kloop_tls *tls)
{
	BIO *bio;

	pthread_once(&method_once, make_method);
	bio = method ? BIO_new(method) : NULL;
	if (bio)
		BIO_set_data(bio, tls);
	return bio;
}
