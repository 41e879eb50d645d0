/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Application data while OpenSSL encrypts and decrypts it. */
#include "tls.h"

#include <errno.h>
#include <string.h>

/* Plaintext that is encrypted for one send: more would only wait in memory. */
#define ENCRYPT_MAX ((size_t)256 << 10)
/* Writes below this size are gathered into one record; larger ones are not copied. */
#define GATHER_MAX ((size_t)8 << 10)
/* From here on a record that is all there is to send is not copied, but sent at once. */
#define SEND_NOW_MIN ((size_t)2 << 10)
/* What OpenSSL answers by itself, and the peer does not read: beyond it something is wrong. */
#define ANSWERS_MAX ((size_t)1 << 20)
/* What a record adds, with room to spare: header, nonce, tag, inner type. */
#define RECORD_OVERHEAD 64
/* From here on a read is worth asking the owner for memory: it saves a copy. */
#define ASK_MIN ((size_t)4 << 10)
/*
 * A connection that has read so often is busy: OpenSSL then keeps its buffers,
 * 16 KiB each way, instead of getting them anew for each record.
 */
#define BUSY_READS 16
/*
 * Records with one AES-GCM key: RFC 8446 (5.5) and RFC 9846 allow 2^24.5 full
 * ones.
 */
#define RECORDS_MAX ((uint64_t)1 << 24)

/* ---- reading ---------------------------------------------------------- */

/* What OpenSSL says about a read that gave nothing. Returns: 0, or the failure. */
static int check_read(struct kloop_tls *tls, int result)
{
	switch (SSL_get_error(tls->ssl, result)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return 0;
	case SSL_ERROR_ZERO_RETURN:
		tls->state |= KL_TLS_GOT_CLOSE;
		return 0;
	}
	return kl_tls_note_refusal(tls);
}

/* Has the peer drawn more alerts and KeyUpdates than it reads? */
static bool answers_too_much(const struct kloop_tls *tls)
{
	return tls->layer.has_output && kl_tls_count_output(tls) > ANSWERS_MAX;
}

size_t kl_tls_read(struct kloop_tls *tls, void *buffer, size_t capacity, int *ret_error)
{
	size_t bytes = 0, got;
	int result;

	*ret_error = 0;
	while (bytes < capacity) {
		kl_tls_enter_ssl(tls);
		result = SSL_read_ex(tls->ssl, (char *)buffer + bytes, capacity - bytes, &got);
		if (result <= 0)
			*ret_error = check_read(tls, result);
		/* What could not be written is a failure too, after the data. */
		if (kl_tls_leave_ssl(tls) < 0 && *ret_error == 0)
			*ret_error = tls->out_error;
		if (*ret_error == 0 && answers_too_much(tls))
			*ret_error = kl_tls_note_failure(tls, KLOOP_ERROR_TLS_PROTOCOL);
		if (result <= 0 || *ret_error < 0)
			break;
		bytes += got;
		/* At the end of a record with nothing behind it: no need to ask again. */
		if (!kl_tls_has_input(tls) && !SSL_pending(tls->ssl))
			break;
	}
	return bytes;
}

/* At most so much plaintext is there. */
static size_t estimate(const struct kloop_tls *tls)
{
	return tls->in_bytes + (tls->kept.end - tls->kept.head) + (size_t)SSL_pending(tls->ssl);
}

/* Memory to decrypt into: the owner's for large reads that he has memory for, or the loop's. */
static void *get_buffer(struct kloop_tls *tls, size_t expected, size_t *ret_bytes)
{
	void *buffer;

	if (expected >= ASK_MIN &&
	    kl_stream_ask_owner(tls->stream, expected, &buffer, ret_bytes))
		return buffer;
	return kl_loop_get_hot_buffer(tls->stream->loop, KL_HOT_PLAIN, ret_bytes);
}

/* Is there somebody to read for? While the stream closes, data is read and dropped. */
static bool reads(const struct kloop_tls *tls)
{
	const struct kloop_stream *stream = tls->stream;

	if (kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED) ||
	    kl_tls_has(tls, KL_TLS_GOT_CLOSE | KL_TLS_RECEIVE_KERNEL))
		return false;
	return kl_stream_has(stream, KL_STREAM_CLOSING) || kl_stream_can_deliver(stream);
}

void kl_tls_tell_end(struct kloop_tls *tls)
{
	if (kl_tls_has(tls, KL_TLS_GOT_CLOSE))
		kl_stream_end_read(tls->stream, 0);
	else if (tls->raw_error < 0)
		kl_stream_end_read(tls->stream, tls->raw_error);
	else if (kl_tls_has(tls, KL_TLS_RAW_ENDED))
		/* Whoever configured the object may take any end for an orderly one. */
		kl_stream_end_read(tls->stream,
				   SSL_get_options(tls->ssl) & SSL_OP_IGNORE_UNEXPECTED_EOF
					   ? 0
					   : KLOOP_ERROR_TLS_TRUNCATED);
}

void kl_tls_pump(struct kloop_tls *tls)
{
	struct kloop_stream *stream = tls->stream;
	size_t bytes, capacity;
	void *buffer;
	int error;

	if (tls->reads < BUSY_READS && ++tls->reads == BUSY_READS)
		SSL_clear_mode(tls->ssl, SSL_MODE_RELEASE_BUFFERS);
	while (reads(tls) && (kl_tls_has_input(tls) || SSL_pending(tls->ssl))) {
		buffer = get_buffer(tls, estimate(tls), &capacity);
		if (!reads(tls))
			return;
		if (!buffer) {
			kl_tls_fail(tls, -ENOMEM);
			return;
		}
		bytes = kl_tls_read(tls, buffer, capacity, &error);
		if (bytes > 0 && kl_stream_can_deliver(stream))
			kl_stream_deliver(stream, buffer, bytes);
		if (error < 0) {
			kl_tls_fail(tls, error);
			return;
		}
		kl_tls_offload_answer(tls);
	}
	/* RFC 8446, 6.1: what comes behind close_notify is ignored. */
	if (kl_tls_has(tls, KL_TLS_GOT_CLOSE))
		kl_tls_drop_input(tls);
	if (!kl_tls_has_input(tls) && !SSL_pending(tls->ssl))
		kl_tls_tell_end(tls);
}

/* ---- writing ---------------------------------------------------------- */

static int encrypt(struct kloop_tls *tls, const void *data, size_t bytes)
{
	size_t written;
	int result, r;

	tls->out_room = bytes + (bytes / KL_TLS_PLAIN_MAX + 1) * RECORD_OVERHEAD;
	kl_tls_enter_ssl(tls);
	result = SSL_write_ex(tls->ssl, data, bytes, &written);
	r = kl_tls_leave_ssl(tls);
	tls->out_now = false;
	if (r == 0 && result <= 0)
		r = kl_tls_note_failure(tls, KLOOP_ERROR_TLS_LIBRARY);
	return r;
}

/*
 * Copy small writes that follow each other into one buffer, and a file behind
 * them, if it can be read at once. Returns: their bytes.
 */
static size_t gather(struct kloop_stream *stream, char *buffer, size_t room)
{
	const void *data;
	size_t bytes, gathered = 0;

	while (kl_stream_peek_pending(stream, &data, &bytes) > 0) {
		if (gathered + bytes > KL_TLS_PLAIN_MAX)
			return gathered;
		if (bytes > 0) /* of an empty write there is no address */
			memcpy(buffer + gathered, data, bytes);
		gathered += bytes;
		kl_stream_skip_pending(stream, bytes);
	}
	return gathered + kl_stream_read_pending(stream, buffer + gathered, room - gathered);
}

/* RFC 8446, 5.5: renew the key before it has sealed too much. */
static int check_limit(struct kloop_tls *tls)
{
	if (tls->out_framing.records - tls->out_base < RECORDS_MAX)
		return 0;
	if (SSL_version(tls->ssl) < TLS1_3_VERSION)
		return 0; /* it has no means for it, and its records count on */
	tls->out_base = tls->out_framing.records;
	tls->state |= KL_TLS_RENEWED;
	return SSL_key_update(tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED)
		       ? 0
		       : kl_tls_note_failure(tls, KLOOP_ERROR_TLS_LIBRARY);
}

/* Is it one record, behind nothing else, large enough, and may system calls be made for it? */
static bool is_worth_a_call(const struct kloop_tls *tls, size_t before, size_t bytes)
{
	return before == 0 && bytes >= SEND_NOW_MIN && bytes <= KL_TLS_PLAIN_MAX &&
	       !kl_stream_has(tls->stream, KL_STREAM_SQPOLL);
}

void kl_tls_encrypt(struct kloop_tls *tls)
{
	struct kloop_stream *stream = tls->stream;
	size_t bytes, room, total = 0;
	const void *data;
	unsigned segments;
	char *buffer;
	int r;

	if (kl_tls_is_in_message(tls) && stream->pending)
		kl_tls_continue_message(tls);
	if (kl_tls_is_in_message(tls) || kl_stream_has(stream, KL_STREAM_FAILED))
		return; /* with the rest of the message the stream comes back */
	r = check_limit(tls);
	while (r == 0 && total < ENCRYPT_MAX) {
		if (!stream->pending)
			break;
		segments = kl_stream_peek_pending(stream, &data, &bytes);
		buffer = segments == 0 || (segments > 1 && bytes < GATHER_MAX)
				 ? kl_loop_get_hot_buffer(stream->loop, KL_HOT_PLAIN, &room)
				 : NULL;
		if (buffer) {
			bytes = gather(stream, buffer, room);
			tls->out_now = !stream->pending && is_worth_a_call(tls, total, bytes);
			r = bytes > 0 ? encrypt(tls, buffer, bytes) : 0;
			/* A file that must be waited for, or ended. */
			if (segments == 0 && bytes == 0)
				break;
		} else if (segments == 0) {
			break;
		} else {
			if (bytes > ENCRYPT_MAX - total)
				bytes = ENCRYPT_MAX - total;
			tls->out_now = segments == 1 && is_worth_a_call(tls, total, bytes);
			r = bytes > 0 ? encrypt(tls, data, bytes) : 0;
			if (r == 0)
				kl_stream_skip_pending(stream, bytes);
		}
		total += bytes;
	}
	if (r < 0)
		kl_tls_fail(tls, r);
}
