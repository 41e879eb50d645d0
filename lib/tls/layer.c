/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The session as the layer of its stream: the start, the handshake, the end. */
#include "tls.h"

#include <errno.h>
#include <openssl/err.h>

/* ---- around OpenSSL --------------------------------------------------- */

void kl_tls_enter_ssl(struct kloop_tls *tls)
{
	/* What others left there would be taken for the reason of a failure. */
	if (ERR_peek_error())
		ERR_clear_error();
	tls->state |= KL_TLS_IN_SSL;
}

int kl_tls_leave_ssl(struct kloop_tls *tls)
{
	tls->state &= ~(uint32_t)KL_TLS_IN_SSL;
	if (tls->layer.has_output)
		kl_tls_flush(tls);
	return tls->out_error;
}

void kl_tls_note_output(struct kloop_tls *tls)
{
	tls->layer.has_output = tls->out || tls->controls || kl_tls_has(tls, KL_TLS_SEND_REKEY);
}

void kl_tls_flush(struct kloop_tls *tls)
{
	kl_tls_note_output(tls);
	if (tls->stream && tls->layer.has_output)
		kl_stream_schedule(tls->stream);
}

/* ---- failure ---------------------------------------------------------- */

/* An alert that OpenSSL wrote would not leave any more by the usual way. */
static void send_last(struct kloop_tls *tls)
{
	struct kloop_stream *stream = tls->stream;

	if (!kl_stream_has(stream, KL_STREAM_CONNECTED) || stream->out.sending)
		return;
	if (tls->out)
		kl_stream_send_last(stream, tls->out);
	else if (tls->controls)
		kl_stream_send_last(stream, tls->controls);
}

void kl_tls_fail(struct kloop_tls *tls, int error)
{
	struct kloop_stream *stream = tls->stream;

	/* Behind the close the descriptor may be somebody else's, and nobody is left to be told. */
	if (kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_CLOSED))
		return;
	tls->error = error;
	if (!kl_stream_has(stream, KL_STREAM_ABORTED))
		send_last(tls);
	kl_stream_fail(stream, error);
}

static bool tell_failure(struct kloop_stream *stream)
{
	struct kloop_tls *tls = kl_tls_of_layer(stream->layer);

	kloop_timer_stop(&tls->timer);
	/* What the connection died of is told by the session's functions as well. */
	if (tls->error == 0)
		tls->error = stream->error;
	if (kl_tls_has(tls, KL_TLS_TOLD) || kl_stream_has(stream, KL_STREAM_CONNECTING) ||
	    !tls->on_handshake)
		return false;
	tls->state |= KL_TLS_TOLD;
	if (!kl_stream_has(stream, KL_STREAM_CLOSING))
		tls->on_handshake(stream, stream->error, stream->user);
	return true;
}

static void expired(struct kloop_timer *timer)
{
	struct kloop_tls *tls = kl_container_of(timer, struct kloop_tls, timer);
	struct kloop_stream *stream = tls->stream;

	kl_stream_enter(stream);
	kl_tls_fail(tls, -ETIMEDOUT);
	kl_stream_leave(stream);
}

static void start_timer(struct kloop_tls *tls, uint64_t timeout_ns)
{
	uint64_t now = kloop_now();
	int r;

	if (timeout_ns >= KLOOP_FOREVER - now)
		return;
	r = kloop_timer_start(tls->stream->loop, &tls->timer, now + timeout_ns);
	if (r < 0 && !kl_loop_is_closing(tls->stream->loop))
		kl_tls_fail(tls, r);
}

/* ---- handshake -------------------------------------------------------- */

/* Returns: 1 when it is done, 0 to go on, or the failure. */
static int step(struct kloop_tls *tls)
{
	int result;

	if (tls->step)
		return tls->step(tls, tls->step_user);
	result = SSL_do_handshake(tls->ssl);
	if (result == 1)
		return 1;
	switch (SSL_get_error(tls->ssl, result)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return 0;
	}
	return kl_tls_note_refusal(tls);
}

static void handshake_done(struct kloop_tls *tls)
{
	struct kloop_stream *stream = tls->stream;

	kloop_timer_stop(&tls->timer);
	tls->state |= KL_TLS_OPEN | KL_TLS_TOLD;
	kl_tls_offload_begin(tls);
	if (tls->on_handshake && !kl_stream_has(stream, KL_STREAM_CLOSING)) {
		kl_loop_note_call(stream->loop);
		tls->on_handshake(stream, 0, stream->user);
	}
	/* What was written meanwhile. */
	kl_stream_schedule(stream);
}

static void handshake(struct kloop_tls *tls)
{
	int r, written;

	kl_tls_enter_ssl(tls);
	r = step(tls);
	written = kl_tls_leave_ssl(tls);
	if (r >= 0 && written < 0)
		r = written;
	if (r < 0)
		kl_tls_fail(tls, r);
	else if (r > 0)
		handshake_done(tls);
}

void kl_tls_continue_message(struct kloop_tls *tls)
{
	int r = 0, result;

	kl_tls_enter_ssl(tls);
	result = SSL_do_handshake(tls->ssl);
	switch (result == 1 ? SSL_ERROR_NONE : SSL_get_error(tls->ssl, result)) {
	case SSL_ERROR_NONE:
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		break;
	case SSL_ERROR_ZERO_RETURN:
		tls->state |= KL_TLS_GOT_CLOSE;
		break;
	default:
		r = kl_tls_note_refusal(tls);
	}
	if (kl_tls_leave_ssl(tls) < 0 && r == 0)
		r = tls->out_error;
	if (r < 0)
		kl_tls_fail(tls, r);
	else if (result == 1)
		kl_stream_schedule(tls->stream);
}

void kl_tls_run(struct kloop_tls *tls)
{
	struct kloop_stream *stream = tls->stream;

	if (kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED))
		return;
	if (!kl_tls_has(tls, KL_TLS_OPEN))
		handshake(tls);
	/* At the end of a stream that closes nobody waits for the rest, unless to write. */
	if (kl_tls_is_in_message(tls) &&
	    (kl_tls_has_input(tls) || !kl_tls_has(tls, KL_TLS_RAW_ENDED) ||
	     !kl_stream_has(stream, KL_STREAM_CLOSING) || stream->pending))
		kl_tls_continue_message(tls);
	if (kl_tls_has(tls, KL_TLS_OPEN))
		kl_tls_pump(tls);
}

/* ---- the layer: reading ----------------------------------------------- */

static void receive(struct kloop_stream *stream, const void *data, size_t bytes)
{
	struct kloop_tls *tls = kl_tls_of_layer(stream->layer);
	bool had_input = kl_tls_has_input(tls);
	int r;

	if (kl_tls_has(tls, KL_TLS_GOT_CLOSE)) {
		kl_stream_cancel_read(stream);
		return;
	}
	tls->in = data;
	tls->in_bytes = bytes;
	kl_tls_run(tls);
	r = kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED) ? 0 : kl_tls_keep_rest(tls);
	tls->in = NULL;
	tls->in_bytes = 0;
	if (r < 0)
		kl_tls_fail(tls, r == -EMSGSIZE ? KLOOP_ERROR_TLS_PROTOCOL : r);
	/* The pool goes on to deliver until it is told to stop: short pauses are not worth it. */
	if (had_input && kl_tls_has_input(tls))
		kl_stream_cancel_read(stream);
}

static bool wants_receive(struct kloop_stream *stream)
{
	struct kloop_tls *tls = kl_tls_of_layer(stream->layer);

	if (kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED) ||
	    kl_tls_has(tls, KL_TLS_RAW_ENDED | KL_TLS_GOT_CLOSE))
		return false;
	if (!kl_tls_has(tls, KL_TLS_OPEN))
		return true;
	if (!kl_tls_offload_may_receive(tls))
		return false;
	/* What a kernel that opens records brings in the middle of a message is kept: not without end. */
	return kl_stream_has(stream, KL_STREAM_CLOSING) ||
	       (kl_tls_is_in_message(tls) && !stream->held) ||
	       (kl_stream_can_deliver(stream) && !kl_tls_has_input(tls));
}

static bool end_receive(struct kloop_stream *stream, int error)
{
	struct kloop_tls *tls = kl_tls_of_layer(stream->layer);

	if (kl_tls_offload_control(tls, error))
		return true;
	tls->state |= KL_TLS_RAW_ENDED;
	tls->raw_error = error;
	if (error < 0 && !kl_tls_has(tls, KL_TLS_OPEN))
		kl_tls_fail(tls, error);
	/* The error is told behind what came before it. */
	kl_tls_run(tls);
	return true;
}

static void run_read(struct kloop_stream *stream)
{
	struct kloop_tls *tls = kl_tls_of_layer(stream->layer);

	if (!kl_stream_has(stream, KL_STREAM_CONNECTED))
		return;
	if (!kl_tls_has(tls, KL_TLS_STARTED)) {
		int r = kl_tls_check_ready(tls);

		tls->state |= KL_TLS_STARTED;
		start_timer(tls, tls->handshake_ns);
		if (r < 0)
			kl_tls_fail(tls, r);
		kl_tls_run(tls);
	} else if (kl_tls_has(tls, KL_TLS_OPEN)) {
		kl_tls_run(tls);
	}
}

/* ---- the layer: writing ----------------------------------------------- */

static void run_write(struct kloop_stream *stream)
{
	struct kloop_tls *tls = kl_tls_of_layer(stream->layer);
	struct kl_batch *batch = tls->out;

	if (!batch && kl_tls_has(tls, KL_TLS_OPEN) && !kl_tls_has(tls, KL_TLS_SENT_CLOSE)) {
		kl_tls_offload_send(tls);
		if (!kl_tls_has(tls, KL_TLS_SEND_KERNEL)) {
			kl_tls_encrypt(tls);
			batch = tls->out;
		}
	}
	if (kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED))
		return;
	if (batch) {
		tls->out = NULL;
		kl_tls_note_output(tls);
		kl_stream_send(stream, batch);
	} else if (kl_tls_has(tls, KL_TLS_SEND_KERNEL) && kl_tls_offload_run_write(tls) &&
		   stream->pending) {
		kl_tls_offload_count(tls, kl_batch_count_bytes(stream->pending));
		kl_stream_send_pending(stream);
	}
}

static void note_file(struct kloop_stream *stream, uint64_t bytes, unsigned flags)
{
	kl_tls_offload_note_file(kl_tls_of_layer(stream->layer), bytes,
				 flags & KLOOP_SEND_FILE_ZERO_COPY);
}

static bool run_file(struct kloop_stream *stream, size_t bytes)
{
	return kl_tls_offload_run_file(kl_tls_of_layer(stream->layer), bytes);
}

static void send_close(struct kloop_tls *tls)
{
	tls->state |= KL_TLS_SENT_CLOSE;
	kl_tls_enter_ssl(tls);
	/* It returns 0 when the peer's close_notify is missing, which is the rule. */
	if (SSL_shutdown(tls->ssl) < 0)
		ERR_clear_error();
	if (kl_tls_leave_ssl(tls) < 0)
		kl_tls_fail(tls, tls->out_error);
}

/* Wait for the peer's close_notify: it may be among what was kept, or still to come. */
static void await_close(struct kloop_tls *tls)
{
	tls->state |= KL_TLS_TIMED;
	start_timer(tls, tls->shutdown_ns);
	kl_tls_run(tls);
	kl_stream_continue_read(tls->stream);
}

/*
 * In the middle of a message OpenSSL writes no close_notify. The rest has as
 * much time as the peer's close_notify has.
 */
static bool awaits_message(struct kloop_tls *tls, bool closing)
{
	if (kl_tls_has(tls, KL_TLS_SENT_CLOSE | KL_TLS_RAW_ENDED) || !kl_tls_is_in_message(tls) ||
	    (closing && tls->shutdown_ns == 0))
		return false;
	if (closing && !kl_tls_has(tls, KL_TLS_TIMED))
		await_close(tls);
	if (kl_stream_has(tls->stream, KL_STREAM_FAILED))
		kl_stream_schedule(tls->stream); /* for the owner is to be told first */
	return kl_stream_has(tls->stream, KL_STREAM_FAILED) || kl_tls_is_in_message(tls);
}

static bool end_write(struct kloop_stream *stream, bool closing)
{
	struct kloop_tls *tls = kl_tls_of_layer(stream->layer);

	if (!kl_tls_has(tls, KL_TLS_OPEN))
		return closing;
	if (awaits_message(tls, closing))
		return false;
	if (!kl_tls_has(tls, KL_TLS_SENT_CLOSE))
		send_close(tls);
	if (closing && tls->shutdown_ns > 0 && !kl_stream_has_queue(stream) &&
	    !kl_tls_has(tls, KL_TLS_TIMED | KL_TLS_GOT_CLOSE | KL_TLS_RAW_ENDED))
		await_close(tls);
	if (kl_stream_has(stream, KL_STREAM_FAILED)) {
		kl_stream_schedule(stream); /* for the owner is to be told first */
		return false;
	}
	if (kl_stream_has_queue(stream))
		return false;
	return !closing || tls->shutdown_ns == 0 ||
	       kl_tls_has(tls, KL_TLS_GOT_CLOSE | KL_TLS_RAW_ENDED);
}

/* ---- the layer: the end ----------------------------------------------- */

static struct kl_batch *get_taken(struct kloop_stream *stream)
{
	return kl_tls_of_layer(stream->layer)->out;
}

static void release_all(struct kloop_stream *stream, int status)
{
	struct kloop_tls *tls = kl_tls_of_layer(stream->layer);
	struct kl_batch *batch;

	while (tls->out || tls->controls) {
		batch = tls->out ? tls->out : tls->controls;
		if (tls->out)
			tls->out = NULL;
		else
			tls->controls = kl_batch_get_next(batch);
		kl_batch_drop(stream, batch, status);
	}
	tls->state &= ~(uint32_t)KL_TLS_SEND_REKEY;
	tls->layer.has_output = false;
}

static void free_layer(struct kloop_stream *stream)
{
	struct kloop_tls *tls = kl_tls_of_layer(stream->layer);

	kloop_timer_stop(&tls->timer);
	release_all(stream, -ECANCELED);
	stream->layer = NULL;
	kl_tls_destroy(tls);
}

static const struct kl_layer_ops layer_ops = {
	.receive = receive,
	.wants_receive = wants_receive,
	.end_receive = end_receive,
	.run_read = run_read,
	.run_write = run_write,
	.note_file = note_file,
	.run_file = run_file,
	.end_write = end_write,
	.get_taken = get_taken,
	.release_all = release_all,
	.tell_failure = tell_failure,
	.free = free_layer,
};

/* ---- start ------------------------------------------------------------ */

static int check_start(const struct kloop_tls *tls, const struct kloop_stream *stream)
{
	int r;

	if (!tls || !stream || tls->stream || stream->layer)
		return -EINVAL;
	r = kl_loop_check(stream->loop);
	if (r < 0)
		return r;
	if (stream->flags & KLOOP_STREAM_PIPE)
		return -EOPNOTSUPP;
	if (kl_stream_has(stream, KL_STREAM_OVER | KL_STREAM_SHUT | KL_STREAM_EOF_TOLD))
		return -ESTALE;
	return 0;
}

/* What the stream holds already is the beginning of the handshake. */
static int take_held(struct kloop_tls *tls, struct kloop_stream *stream)
{
	void *memory, *data;
	size_t bytes;
	int r = 0;

	while (r == 0 && kl_stream_take_held(stream, &memory, &data, &bytes)) {
		r = kl_tls_keep(tls, data, bytes);
		kl_free(memory);
	}
	return r;
}

int kloop_tls_start(struct kloop_tls *tls, struct kloop_stream *stream,
		    kloop_tls_handshake_fn *on_handshake)
{
	BIO *bio;
	int r = check_start(tls, stream);

	if (r < 0)
		return r;
	bio = kl_tls_bio_new(tls);
	if (!bio)
		return -ENOMEM;
	SSL_set_bio(tls->ssl, bio, bio);
	r = take_held(tls, stream);
	if (r < 0) {
		/* Bytes of the peer are lost to the stream: it cannot go on either. */
		kl_stream_fail(stream, r);
		return r;
	}
	tls->stream = stream;
	tls->on_handshake = on_handshake;
	kloop_timer_init(&tls->timer, expired);
	tls->layer.ops = &layer_ops;
	stream->layer = &tls->layer;
	stream->state |= KL_STREAM_READ_LAYER | KL_STREAM_WRITE_LAYER;
	tls->out = kl_stream_take_pending(stream);
	if (kl_stream_has(stream, KL_STREAM_READ_ENDED)) {
		stream->state &= ~(uint32_t)KL_STREAM_READ_ENDED;
		tls->state |= KL_TLS_RAW_ENDED;
	}
	kl_tls_offload_prepare(tls);
	kl_tls_flush(tls);
	kl_stream_schedule(stream);
	return 0;
}

struct kloop_tls *kloop_tls_get(const struct kloop_stream *stream)
{
	if (!stream || !stream->layer || stream->layer->ops != &layer_ops)
		return NULL;
	return kl_tls_of_layer(stream->layer);
}
