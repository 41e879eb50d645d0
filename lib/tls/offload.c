/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Directions that move into the kernel.
 *
 * A direction moves between two records: then the kernel is told the key and
 * the number of the next record, and OpenSSL's own count stands still. From
 * there on application data takes the stream's plain path. Control records
 * (alerts, tickets, KeyUpdate) stay OpenSSL's business: those that the kernel
 * received are sealed again as OpenSSL expects them and fed to it, and what
 * OpenSSL writes is opened and given to the kernel with its type. See record.h.
 */
#include "tls.h"

#include <errno.h>
#include <linux/tls.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/uio.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

/* Room for one record in any form. */
#define RECORD_ROOM (KL_TLS_RECORD_MAX + 64)
/* The handshake message that announces new keys: RFC 8446, 4.6.3. */
#define KEY_UPDATE 24
/* As in data.c, but an upper bound: the kernel cuts the records. */
#define RECORDS_MAX ((uint64_t)1 << 24)
/* For smaller files the system calls of a move cost more than it saves. */
#define FILE_MIN ((uint64_t)64 << 10)

/* ---- preparation ------------------------------------------------------ */

static void set_reasons(struct kloop_tls *tls, int reason)
{
	tls->ktls_reason[KLOOP_TLS_SEND] = reason;
	tls->ktls_reason[KLOOP_TLS_RECEIVE] = reason;
}

void kl_tls_offload_prepare(struct kloop_tls *tls)
{
	int r = KLOOP_ERROR_KTLS_UNUSED;

	if (tls->ktls_mode == KLOOP_KTLS_OFF || kl_ktls_is_off())
		r = KLOOP_ERROR_KTLS_OFF;
	else if (!(kl_ktls_get_abilities() & KL_KTLS_ULP))
		r = KLOOP_ERROR_KTLS_MISSING;
	set_reasons(tls, r);
	if (r != KLOOP_ERROR_KTLS_UNUSED)
		return;
	tls->secrets = kl_calloc(1, sizeof(*tls->secrets));
	if (!tls->secrets || kl_tls_secrets_watch(tls->ssl, tls->secrets) < 0)
		set_reasons(tls, -ENOMEM); /* it works without */
	else
		tls->state |= KL_TLS_WATCHED;
}

void kl_tls_offload_begin(struct kloop_tls *tls)
{
	bool server = SSL_is_server(tls->ssl);

	/* TLS 1.2 counts from its ChangeCipherSpec: see kl_tls_framing_pass(). */
	if (SSL_version(tls->ssl) >= TLS1_3_VERSION) {
		tls->in_base = tls->in_framing.records;
		/* A server's tickets follow the client's last message, with the keys of the data. */
		tls->out_base = server ? tls->out_records_at_read : tls->out_framing.records;
	}
	if (tls->ktls_mode == KLOOP_KTLS_ON && kl_tls_has(tls, KL_TLS_WATCHED))
		tls->state |= KL_TLS_WANT_SEND | KL_TLS_WANT_RECEIVE;
}

static void free_offload(struct kl_tls_offload *offload)
{
	kl_tls_key_wipe(&offload->send);
	kl_tls_key_wipe(&offload->kernel);
	kl_tls_key_wipe(&offload->receive);
	kl_free(offload->sealed);
	kl_free(offload->partial);
	kl_free(offload->received);
	kl_free(offload);
}

static int make_offload(struct kloop_tls *tls)
{
	struct kl_tls_offload *offload = tls->offload;

	if (kl_tls_has(tls, KL_TLS_RENEWED) || tls->secrets->renewed)
		return KLOOP_ERROR_KTLS_SECRETS;
	if (offload)
		return 0;
	offload = kl_calloc(1, sizeof(*offload));
	if (!offload)
		return -ENOMEM;
	offload->sealed = kl_malloc(RECORD_ROOM);
	offload->partial = kl_malloc(RECORD_ROOM);
	offload->received = kl_malloc(RECORD_ROOM);
	if (!offload->sealed || !offload->partial || !offload->received) {
		free_offload(offload);
		return -ENOMEM;
	}
	tls->offload = offload;
	return 0;
}

void kl_tls_offload_free(struct kloop_tls *tls)
{
	if (kl_tls_has(tls, KL_TLS_WATCHED))
		kl_tls_secrets_unwatch(tls->ssl);
	tls->state &= ~(uint32_t)KL_TLS_WATCHED;
	if (tls->secrets)
		OPENSSL_cleanse(tls->secrets, sizeof(*tls->secrets));
	kl_free(tls->secrets);
	tls->secrets = NULL;
	if (tls->offload)
		free_offload(tls->offload);
	tls->offload = NULL;
}

/* ---- the move --------------------------------------------------------- */

/* Derive the key of a direction, and have the kernel take it. Returns: 0, or why not. */
static int move(struct kloop_tls *tls, bool send, struct kl_tls_key *key, uint64_t sequence)
{
	bool of_client = SSL_is_server(tls->ssl) ? !send : send;
	const struct kl_tls_framing *framing = &tls->out_framing;
	uint64_t nonce = 0;
	unsigned i;
	int r = kl_tls_key_derive(key, tls->ssl, tls->secrets, of_client);

	if (r < 0)
		return r;
	key->sequence = sequence;
	/* TLS 1.2: never the same nonce twice. OpenSSL's began at random. */
	for (i = 0; i < sizeof(framing->nonce); i++)
		nonce = nonce << 8 | framing->nonce[i];
	r = kl_ktls_attach(tls->stream->fd);
	if (r == 0)
		r = kl_ktls_set_key(tls->stream->fd, send, key, nonce + 1);
	if (r < 0)
		kl_tls_key_wipe(key);
	return r;
}

void kl_tls_offload_send(struct kloop_tls *tls)
{
	int r;

	if (!kl_tls_has(tls, KL_TLS_WANT_SEND))
		return;
	tls->state &= ~(uint32_t)KL_TLS_WANT_SEND;
	r = make_offload(tls);
	if (r == 0)
		r = move(tls, true, &tls->offload->send, tls->out_framing.records - tls->out_base);
	tls->ktls_reason[KLOOP_TLS_SEND] = r < 0 ? r : 1;
	if (r < 0)
		return;
	tls->offload->kernel = tls->offload->send;
	tls->state |= KL_TLS_SEND_KERNEL;
	tls->layer.plain_write = true;
}

void kl_tls_offload_note_file(struct kloop_tls *tls, uint64_t bytes, bool zero_copy)
{
	if (zero_copy)
		tls->state |= KL_TLS_ZERO_COPY;
	if (bytes >= FILE_MIN && tls->ktls_mode == KLOOP_KTLS_AUTO &&
	    kl_tls_has(tls, KL_TLS_WATCHED) && !kl_tls_has(tls, KL_TLS_SEND_KERNEL) &&
	    tls->ktls_reason[KLOOP_TLS_SEND] == KLOOP_ERROR_KTLS_UNUSED)
		tls->state |= KL_TLS_WANT_SEND;
}

static void move_receive(struct kloop_tls *tls)
{
	int r = make_offload(tls);

	tls->state &= ~(uint32_t)KL_TLS_WANT_RECEIVE;
	if (r == 0)
		r = move(tls, false, &tls->offload->receive,
			 tls->in_framing.records - tls->in_base);
	tls->ktls_reason[KLOOP_TLS_RECEIVE] = r < 0 ? r : 1;
	if (r < 0)
		return;
	tls->state |= KL_TLS_RECEIVE_KERNEL;
	tls->stream->state &= ~(uint32_t)KL_STREAM_READ_LAYER;
}

/* No bytes came: the end or an error, or it is to be tried again. */
static void received_nothing(struct kloop_stream *stream, int32_t result)
{
	if (result != -ECANCELED && result != -EAGAIN && result != -EINTR)
		kl_stream_end_receive(stream, result);
}

/* ---- the rest of a record, before the move ----------------------------- */

static void exact_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_stream *stream = kl_container_of(op, struct kloop_stream, read_op);
	struct kloop_tls *tls = kl_tls_of_layer(stream->layer);

	(void)flags;
	kl_stream_enter(stream);
	stream->state &= ~(uint32_t)KL_STREAM_CANCEL_READ;
	if (result > 0)
		kl_stream_receive(stream, tls->offload->received, (size_t)result);
	else
		received_nothing(stream, result);
	kl_stream_continue_read(stream);
	kl_stream_leave(stream);
}

/* Receive what completes the record that has begun, and not a byte more. */
static void receive_exact(struct kloop_tls *tls)
{
	struct kloop_stream *stream = tls->stream;
	size_t bytes = kl_tls_framing_missing(&tls->in_framing);
	int r = make_offload(tls);

	if (r == 0) {
		stream->read_op.complete = exact_done;
		r = kloop_op_recv(stream->loop, &stream->read_op, stream->fd,
				  tls->offload->received, bytes, 0);
		if (r < 0 && !kl_loop_is_closing(stream->loop))
			kl_tls_fail(tls, r);
	} else {
		tls->state &= ~(uint32_t)KL_TLS_WANT_RECEIVE;
		tls->ktls_reason[KLOOP_TLS_RECEIVE] = r;
	}
}

bool kl_tls_offload_may_receive(struct kloop_tls *tls)
{
	struct kloop_stream *stream = tls->stream;

	if (!kl_tls_has(tls, KL_TLS_WANT_RECEIVE) || kl_stream_has(stream, KL_STREAM_CLOSING))
		return true;
	/* The pool may deliver more than OpenSSL has seen, up to its last word. */
	if (kloop_op_is_active(&stream->read_op)) {
		if (stream->read_op.complete != exact_done)
			kl_stream_cancel_read(stream);
		return false;
	}
	if (kl_tls_has_input(tls) || SSL_pending(tls->ssl))
		return true; /* the owner does not read: nothing is armed anyway */
	if (kl_tls_framing_is_between(&tls->in_framing))
		move_receive(tls);
	else
		receive_exact(tls);
	return !kloop_op_is_active(&stream->read_op);
}

/* ---- control records, received ----------------------------------------- */

/*
 * Does the record hold a KeyUpdate? Messages may be cut into records anywhere,
 * so they are followed from their headers on. RFC 8446 (5.1) has a KeyUpdate
 * end its record; OpenSSL checks that.
 */
static bool finds_key_update(struct kl_tls_offload *offload, const uint8_t *data, size_t bytes)
{
	bool found = false;
	size_t skip;

	while (bytes > 0) {
		if (offload->message_left > 0) {
			skip = offload->message_left < bytes ? offload->message_left : bytes;
			offload->message_left -= (uint32_t)skip;
			data += skip;
			bytes -= skip;
			continue;
		}
		offload->message_header[offload->message_have++] = *data++;
		bytes--;
		if (offload->message_have < sizeof(offload->message_header))
			continue;
		offload->message_have = 0;
		offload->message_left = (uint32_t)offload->message_header[1] << 16 |
					(uint32_t)offload->message_header[2] << 8 |
					offload->message_header[3];
		if (offload->message_header[0] == KEY_UPDATE)
			found = true;
	}
	return found;
}

static bool can_renew(void)
{
	return kl_ktls_get_abilities() & KL_KTLS_REKEY;
}

/* Keys had to change and cannot: say goodbye with the old ones, and end. */
static void fail_renewal(struct kloop_tls *tls)
{
	if (!kl_tls_has(tls, KL_TLS_SENT_CLOSE)) {
		tls->state |= KL_TLS_SENT_CLOSE;
		kl_tls_enter_ssl(tls);
		(void)SSL_shutdown(tls->ssl);
		(void)kl_tls_leave_ssl(tls);
	}
	kl_tls_fail(tls, KLOOP_ERROR_TLS_KEY_UPDATE);
}

static int renew_receive(struct kloop_tls *tls)
{
	struct kl_tls_key *key = &tls->offload->receive;
	int r = kl_tls_key_update(key);

	if (r == 0)
		r = kl_ktls_set_key(tls->stream->fd, false, key, 0);
	return r < 0 ? KLOOP_ERROR_TLS_KEY_UPDATE : 0;
}

/* Have OpenSSL write a KeyUpdate. Returns: 0; or a failure, which is noted. */
static int write_key_update(struct kloop_tls *tls, int type)
{
	int r = 0;

	kl_tls_enter_ssl(tls);
	if (!SSL_key_update(tls->ssl, type) || SSL_do_handshake(tls->ssl) <= 0)
		r = kl_tls_note_failure(tls, KLOOP_ERROR_TLS_LIBRARY);
	if (kl_tls_leave_ssl(tls) < 0 && r == 0)
		r = kl_tls_note_failure(tls, tls->out_error);
	return r;
}

void kl_tls_offload_answer(struct kloop_tls *tls)
{
	if (!kl_tls_has(tls, KL_TLS_SEND_KERNEL) ||
	    SSL_get_key_update_type(tls->ssl) == SSL_KEY_UPDATE_NONE ||
	    kl_stream_has(tls->stream, KL_STREAM_FAILED | KL_STREAM_ABORTED) ||
	    kl_tls_has(tls, KL_TLS_SENT_CLOSE) || kl_tls_is_in_message(tls))
		return;
	if (!can_renew()) {
		fail_renewal(tls);
		return;
	}
	/* By itself OpenSSL answers with its next write, and there is none. */
	if (write_key_update(tls, SSL_KEY_UPDATE_NOT_REQUESTED) < 0)
		kl_tls_fail(tls, tls->error);
}

/* A record that is no data: let OpenSSL see it as it would have arrived. */
static void take_control(struct kloop_tls *tls, uint8_t type, const uint8_t *data, size_t bytes)
{
	struct kl_tls_offload *offload = tls->offload;
	bool renewal = type == KL_TLS_HANDSHAKE && offload->receive.version >= TLS1_3_VERSION &&
		       finds_key_update(offload, data, bytes);
	ptrdiff_t sealed;
	uint8_t byte;
	int error = 0;

	if (renewal && !can_renew()) {
		fail_renewal(tls);
		return;
	}
	sealed = kl_tls_record_seal(&offload->receive, type, data, bytes, offload->sealed);
	if (sealed < 0) {
		kl_tls_fail(tls, (int)sealed);
		return;
	}
	tls->in = offload->sealed;
	tls->in_bytes = (size_t)sealed;
	if (kl_tls_read(tls, &byte, sizeof(byte), &error) > 0 && error == 0)
		error = KLOOP_ERROR_TLS_PROTOCOL; /* data it cannot be */
	tls->in = NULL;
	tls->in_bytes = 0;
	OPENSSL_cleanse(offload->sealed, (size_t)sealed);
	if (error == 0 && renewal)
		error = renew_receive(tls);
	if (error < 0) {
		kl_tls_fail(tls, error);
		return;
	}
	kl_tls_offload_answer(tls);
	if (kl_tls_has(tls, KL_TLS_GOT_CLOSE))
		kl_tls_tell_end(tls);
}

static void control_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_stream *stream = kl_container_of(op, struct kloop_stream, read_op);
	struct kloop_tls *tls = kl_tls_of_layer(stream->layer);
	struct kl_tls_offload *offload = tls->offload;
	int type;

	(void)flags;
	kl_stream_enter(stream);
	stream->state &= ~(uint32_t)KL_STREAM_CANCEL_READ;
	type = result > 0 ? kl_ktls_get_type(&offload->message) : -1;
	if (kl_stream_has(stream, KL_STREAM_FAILED | KL_STREAM_ABORTED | KL_STREAM_CLOSED))
		type = -1;
	else if (result > 0 && type == KL_TLS_DATA)
		kl_stream_receive(stream, offload->received, (size_t)result);
	else if (result > 0 && type >= 0)
		take_control(tls, (uint8_t)type, offload->received, (size_t)result);
	else if (result > 0)
		kl_tls_fail(tls, KLOOP_ERROR_TLS_PROTOCOL);
	else
		received_nothing(stream, result);
	kl_stream_continue_read(stream);
	kl_stream_leave(stream);
}

static int receive_control(struct kloop_tls *tls)
{
	struct kl_tls_offload *offload = tls->offload;
	struct kloop_stream *stream = tls->stream;

	memset(&offload->message, 0, sizeof(offload->message));
	offload->vector.iov_base = offload->received;
	offload->vector.iov_len = RECORD_ROOM;
	offload->message.msg_iov = &offload->vector;
	offload->message.msg_iovlen = 1;
	offload->message.msg_control = &offload->control;
	offload->message.msg_controllen = sizeof(offload->control);
	stream->read_op.complete = control_done;
	return kloop_op_recvmsg(stream->loop, &stream->read_op, stream->fd, &offload->message, 0);
}

bool kl_tls_offload_control(struct kloop_tls *tls, int error)
{
	int r;

	if (!kl_tls_has(tls, KL_TLS_RECEIVE_KERNEL))
		return false;
	if (error == -EBADMSG || error == -EMSGSIZE || error == -EINVAL) {
		/* The kernel could not open a record: forged, or cut wrongly. */
		tls->state |= KL_TLS_RAW_ENDED;
		kl_tls_fail(tls, KLOOP_ERROR_TLS_PROTOCOL);
		return true;
	}
	/* A completed receive that does not say its type means the same here. */
	if (error != -EIO || tls->stream->read_op.complete == control_done)
		return false;
	r = receive_control(tls);
	if (r < 0 && !kl_loop_is_closing(tls->stream->loop))
		kl_tls_fail(tls, r);
	return true;
}

/* ---- control records, to be sent --------------------------------------- */

static void append_control(struct kloop_tls *tls, struct kl_batch *batch)
{
	struct kl_batch *last = tls->controls;

	if (!last) {
		tls->controls = batch;
		return;
	}
	while (kl_batch_get_next(last))
		last = kl_batch_get_next(last);
	kl_batch_set_next(last, batch);
}

/* One whole record of OpenSSL's stands in offload->partial. */
static int hand_over(struct kloop_tls *tls)
{
	struct kl_tls_offload *offload = tls->offload;
	struct kl_batch *batch = NULL;
	uint8_t type, *data;
	bool renewal;
	ptrdiff_t bytes;
	int r;

	bytes = kl_tls_record_open(&offload->send, offload->partial, offload->partial_bytes, &type,
				   &data);
	offload->partial_bytes = 0;
	if (bytes < 0)
		return KLOOP_ERROR_TLS_LIBRARY;
	if (bytes == 0)
		return 0;
	renewal = type == KL_TLS_HANDSHAKE && data[0] == KEY_UPDATE;
	/* One that waits to be sent answers all who asked until then (RFC 8446, 4.6.3). */
	if (renewal && offload->renewing)
		return kl_tls_key_update(&offload->send);
	r = kl_batch_append(tls->stream->loop, &batch, data, (size_t)bytes, 0);
	if (r == 0)
		r = kl_batch_set_control(batch, SOL_TLS, TLS_SET_RECORD_TYPE, type);
	if (r < 0) {
		if (batch)
			kl_batch_drop(tls->stream, batch, r);
		return r;
	}
	append_control(tls, batch);
	if (!renewal)
		return 0;
	/* OpenSSL seals with the next key from here on; the kernel follows once this is sent. */
	offload->renewing = batch;
	return kl_tls_key_update(&offload->send);
}

int kl_tls_offload_output(struct kloop_tls *tls, const uint8_t *data, size_t bytes)
{
	struct kl_tls_offload *offload = tls->offload;
	size_t whole, part;
	int r;

	while (bytes > 0) {
		whole = KL_TLS_HEADER_BYTES;
		if (offload->partial_bytes >= KL_TLS_HEADER_BYTES)
			whole += (size_t)offload->partial[3] << 8 | offload->partial[4];
		if (whole > RECORD_ROOM)
			return KLOOP_ERROR_TLS_LIBRARY;
		part = whole - offload->partial_bytes;
		if (part > bytes)
			part = bytes;
		memcpy(offload->partial + offload->partial_bytes, data, part);
		offload->partial_bytes += part;
		data += part;
		bytes -= part;
		if (offload->partial_bytes <= KL_TLS_HEADER_BYTES ||
		    offload->partial_bytes < whole)
			continue;
		r = hand_over(tls);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The KeyUpdate has been sent with the old key: the new one comes. */
static bool renew_send(struct kloop_tls *tls)
{
	struct kl_tls_key *kernel = &tls->offload->kernel;

	tls->state &= ~(uint32_t)KL_TLS_SEND_REKEY;
	kl_tls_note_output(tls);
	tls->offload->send_records = 0;
	if (kl_tls_key_update(kernel) == 0 &&
	    kl_ktls_set_key(tls->stream->fd, true, kernel, 0) == 0)
		return true;
	/* No goodbye: the peer expects a key that the kernel does not have. */
	kl_tls_fail(tls, KLOOP_ERROR_TLS_KEY_UPDATE);
	return false;
}

/* Renew the key before it has sealed too many records. Returns: whether to go on. */
static bool check_limit(struct kloop_tls *tls)
{
	struct kl_tls_offload *offload = tls->offload;

	if (offload->send_records + tls->layer.tried_bytes / 64 < RECORDS_MAX ||
	    offload->send.aead == KL_TLS_CHACHA20_POLY1305 || offload->renewing ||
	    kl_tls_is_in_message(tls))
		return true;
	if (offload->send.version < TLS1_3_VERSION)
		return true; /* it has no means for it */
	if (!can_renew()) {
		fail_renewal(tls);
		return false;
	}
	offload->send_records = 0;
	tls->layer.tried_bytes = 0;
	if (write_key_update(tls, SSL_KEY_UPDATE_NOT_REQUESTED) < 0)
		kl_tls_fail(tls, tls->error);
	return !kl_stream_has(tls->stream, KL_STREAM_FAILED);
}

bool kl_tls_offload_run_write(struct kloop_tls *tls)
{
	struct kl_batch *batch;

	if (kl_tls_has(tls, KL_TLS_SEND_REKEY) && !renew_send(tls))
		return false;
	if (!check_limit(tls))
		return false;
	batch = tls->controls;
	if (!batch)
		return true;
	tls->controls = kl_batch_get_next(batch);
	if (batch == tls->offload->renewing) {
		tls->offload->renewing = NULL;
		tls->state |= KL_TLS_SEND_REKEY;
	}
	kl_tls_note_output(tls);
	kl_stream_send(tls->stream, batch);
	return false;
}

bool kl_tls_offload_run_file(struct kloop_tls *tls, size_t bytes)
{
	if (!kl_tls_offload_run_write(tls))
		return false;
	if (kl_tls_has(tls, KL_TLS_ZERO_COPY)) {
		/* Refused by kernels before 5.19: then it copies. */
		tls->state &= ~(uint32_t)KL_TLS_ZERO_COPY;
		(void)kl_ktls_set_zero_copy(tls->stream->fd);
	}
	kl_tls_offload_count(tls, bytes);
	return true;
}

void kl_tls_offload_count(struct kloop_tls *tls, size_t bytes)
{
	/* Each send closes a record, and a short one is continued: two more at most count. */
	tls->offload->send_records += bytes / KL_TLS_PLAIN_MAX + 2;
}

/* ---- public ----------------------------------------------------------- */

int kloop_tls_update_keys(struct kloop_tls *tls, bool request_peer)
{
	int type = request_peer ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED;
	int r;

	if (!tls || !tls->stream)
		return -EINVAL;
	r = kl_loop_check(tls->stream->loop);
	if (r < 0)
		return r;
	if (kl_stream_has(tls->stream, KL_STREAM_OVER) || kl_tls_has(tls, KL_TLS_SENT_CLOSE))
		return -ESTALE;
	if (!kl_tls_has(tls, KL_TLS_OPEN))
		return -ENOTCONN;
	if (SSL_version(tls->ssl) < TLS1_3_VERSION ||
	    (kl_tls_has(tls, KL_TLS_SEND_KERNEL | KL_TLS_RECEIVE_KERNEL) && !can_renew()))
		return -EOPNOTSUPP;
	if (kl_tls_has(tls, KL_TLS_SEND_REKEY) || (tls->offload && tls->offload->renewing) ||
	    kl_tls_is_in_message(tls))
		return -EALREADY;
	if (!kl_tls_has(tls, KL_TLS_SEND_KERNEL))
		tls->state |= KL_TLS_RENEWED;
	r = write_key_update(tls, type);
	if (r < 0)
		kl_tls_fail(tls, r);
	return r;
}
