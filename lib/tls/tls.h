/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the files of the session share.
 *
 * context.c  contexts: made, set up, freed; OpenSSL's callbacks
 * pem.c      certificates, keys and trust for contexts
 * session.c  sessions: made, set up, freed; tickets
 * info.c     what sessions are asked, and what failures mean
 * bio.c      OpenSSL's view of the stream: it reads what arrived, and its
 *            output is gathered for the next send
 * layer.c    the session as the stream's layer: start, handshake, end
 * data.c     application data while OpenSSL encrypts
 * offload.c  directions that move into the kernel, control records, KeyUpdate
 * keys.c, record.c, ktls.c  keys, single records, system calls of kernel TLS
 *
 * All of it runs on the loop's thread, inside the stream's bracket, but for
 * what sets up and asks.
 */
#ifndef KL_TLS_H
#define KL_TLS_H

#include <kloop/loop.h>
#include <kloop/op.h>
#include <kloop/timer.h>
#include <kloop/tls.h>

#include <openssl/ssl.h>

#include "ktls.h"
#include "net/stream.h"
#include "record.h"

enum kl_tls_state {
	KL_TLS_STARTED = 1 << 0,
	KL_TLS_OPEN = 1 << 1,        /* the handshake is done */
	KL_TLS_TOLD = 1 << 2,        /* and the owner knows, or needs not */
	KL_TLS_SENT_CLOSE = 1 << 3,  /* close_notify is written */
	KL_TLS_GOT_CLOSE = 1 << 4,   /* the peer's was read */
	KL_TLS_RAW_ENDED = 1 << 5,   /* the kernel said that nothing more comes */
	KL_TLS_SERVER = 1 << 6,
	KL_TLS_NO_NAME = 1 << 7,     /* a client that was given no name */
	KL_TLS_WATCHED = 1 << 8,     /* secrets are being stored */
	KL_TLS_IN_SSL = 1 << 9,      /* OpenSSL runs: it may call us back */

	/* Directions in the kernel, and on the way there. */
	KL_TLS_SEND_KERNEL = 1 << 10,
	KL_TLS_RECEIVE_KERNEL = 1 << 11,
	KL_TLS_WANT_SEND = 1 << 12,
	KL_TLS_WANT_RECEIVE = 1 << 13,
	KL_TLS_SEND_REKEY = 1 << 14, /* a KeyUpdate is on its way to the kernel; its key comes next */
	KL_TLS_ZERO_COPY = 1 << 15,  /* the kernel is to be told that files do not change */
	KL_TLS_TIMED = 1 << 16,      /* the timer bounds the end, not the handshake */
	KL_TLS_RENEWED = 1 << 17,    /* keys changed before they could be told to the kernel */

	/* The name function of a server. */
	KL_TLS_NAMING = 1 << 24, /* it runs */
	KL_TLS_NAMED = 1 << 25,  /* it has run: a second ClientHello does not call it again */
};

/* Bytes that wait to be read by OpenSSL, in memory of ours. */
struct kl_tls_kept {
	uint8_t *data;
	size_t head;
	size_t end;
	size_t capacity;
};

/* For directions in the kernel; made when the first one goes there. */
struct kl_tls_offload {
	struct kl_tls_key send;    /* as OpenSSL counts */
	struct kl_tls_key kernel;  /* with which the kernel sends: it may be behind */
	struct kl_tls_key receive; /* the same */
	uint64_t send_records;     /* at most so many the kernel has sealed with this key */
	struct msghdr message;     /* of the record that is being received */
	struct iovec vector;
	struct kl_batch *renewing; /* of the control records, the KeyUpdate */
	uint8_t message_header[4]; /* of the handshake message that is being received */
	uint32_t message_left;
	uint8_t message_have;
	uint8_t *sealed;           /* memory for one record, KL_TLS_RECORD_MAX + 64 */
	uint8_t *partial;          /* OpenSSL's output, until a record is complete: the same */
	size_t partial_bytes;
	uint8_t *received;         /* what the kernel received: the same */
	union {
		struct cmsghdr align;
		char bytes[KL_KTLS_CONTROL_BYTES];
	} control;
};

struct kloop_tls {
	struct kl_layer layer; /* what the stream knows */
	struct kloop_stream *stream; /* NULL before the start */
	struct kloop_tls_context *context; /* NULL for wrapped objects */
	SSL *ssl;
	uint32_t state;     /* enum kl_tls_state */
	uint8_t ktls_mode;  /* enum kloop_ktls_mode */
	uint8_t reads;      /* of data, up to BUSY_READS */
	kloop_tls_step_fn *step;
	void *step_user;
	kloop_tls_handshake_fn *on_handshake;
	uint64_t handshake_ns;
	uint64_t shutdown_ns;
	struct kloop_timer timer;

	/* bio.c */
	const uint8_t *in; /* what arrived, during the call that brought it */
	size_t in_bytes;
	struct kl_tls_kept kept; /* before `in` */
	struct kl_batch *out;    /* OpenSSL's output, not yet with the stream */
	size_t out_room;         /* what the next batch is made to hold */
	bool out_now;            /* the next record may go to the socket by a call of its own */
	int out_error;           /* it could not be gathered */
	int raw_error;           /* with KL_TLS_RAW_ENDED: 0 in good order, or what the kernel said */
	struct kl_tls_framing in_framing;
	struct kl_tls_framing out_framing;
	uint64_t out_records_at_read; /* records written when the last byte was read */
	uint64_t in_base, out_base;   /* records before the first with the keys in use */

	/* offload.c */
	struct kl_tls_secrets *secrets;
	struct kl_tls_offload *offload;
	struct kl_batch *controls; /* control records for the kernel: a list */
	int ktls_reason[2];        /* by direction: 1, or why not */

	/* Failures. */
	int error;
	int alert; /* -1: none */
	unsigned long openssl_error;
	char text[200];
};

static inline bool kl_tls_has(const struct kloop_tls *tls, uint32_t bits)
{
	return (tls->state & bits) != 0;
}

static inline struct kloop_tls *kl_tls_of_layer(struct kl_layer *layer)
{
	return kl_container_of(layer, struct kloop_tls, layer);
}

/*
 * Its SSL_CTX leads back to it by ex_data, until it is freed: OpenSSL's
 * callbacks find it by the connection, which holds a reference.
 */
struct kloop_tls_context {
	SSL_CTX *ssl_ctx;
	unsigned references; /* atomic */
	enum kloop_tls_role role;
	enum kloop_ktls_mode ktls_mode;
	bool system_trust; /* a client's, to be read before the first session */
	bool own_trust;    /* certificates were given: further ones are added */
	bool has_keylog;   /* our callback is with OpenSSL; others may stand before it */
	kloop_tls_name_fn *name_function;
	void *name_user;
	kloop_tls_keylog_fn *keylog_function;
	void *keylog_user;
	unsigned char *alpn; /* length, bytes, length, bytes ... */
	size_t alpn_bytes;
};

/* context.c */

/* The context of an SSL_CTX; NULL for one that is not ours. */
struct kloop_tls_context *kl_tls_context_of_ssl_ctx(const SSL_CTX *ssl_ctx);

/* Before the first session: read the system's trust store, if it is wanted. */
void kl_tls_context_complete(struct kloop_tls_context *context);

/* session.c */

/* The session of an SSL object; NULL for one that is not ours. */
struct kloop_tls *kl_tls_of_ssl(const SSL *ssl);

/* Have kl_tls_of_ssl() find it, or NULL. Returns: 0; -ENOMEM. */
int kl_tls_attach_ssl(SSL *ssl, struct kloop_tls *tls);

/*
 * Before the first step of the handshake, whoever takes it: may it be tried?
 *
 * Returns: 0; KLOOP_ERROR_TLS_VERIFY, which is noted, for a client that is to
 * verify its peer and was given no name to do so by.
 */
int kl_tls_check_ready(struct kloop_tls *tls);

/*
 * Note a failure: the first one is kept, with the newest error of OpenSSL's
 * queue, which is emptied. KLOOP_ERROR_TLS_PROTOCOL and _LIBRARY are refined by
 * what OpenSSL said: an alert, a certificate, an end, no memory, whose fault;
 * other codes stay as they are.
 *
 * Returns: the code for the stream, of the first failure.
 */
int kl_tls_note_failure(struct kloop_tls *tls, int error);

/* The same for a step that OpenSSL could not take: the end of the peer's bytes may be the reason. */
int kl_tls_note_refusal(struct kloop_tls *tls);

/* Everything the session owns; the struct too. */
void kl_tls_destroy(struct kloop_tls *tls);

/* bio.c */

/* The BIO of a session: read and write side. NULL without memory. */
BIO *kl_tls_bio_new(struct kloop_tls *tls);

/* Keep bytes for later. Returns: 0; -ENOMEM; -EMSGSIZE beyond 1 MiB before the handshake is done. */
int kl_tls_keep(struct kloop_tls *tls, const void *data, size_t bytes);

/* Keep what of the current arrival was not read. Returns: as kl_tls_keep(). */
int kl_tls_keep_rest(struct kloop_tls *tls);

/* Nobody will read what arrived and is left. */
void kl_tls_drop_input(struct kloop_tls *tls);

/* How much of OpenSSL's output waits: its bytes, and what it takes to keep small ones. */
size_t kl_tls_count_output(const struct kloop_tls *tls);

/* Are there bytes that OpenSSL did not read? */
static inline bool kl_tls_has_input(const struct kloop_tls *tls)
{
	return tls->in_bytes > 0 || tls->kept.end > tls->kept.head;
}

/* layer.c */

/*
 * Has OpenSSL read a part of a message that comes after the handshake, a ticket
 * cut into several records? Until it has the rest it writes nothing. It is the
 * same with one that it has to write first: the question for a certificate
 * after SSL_verify_client_post_handshake(3).
 */
static inline bool kl_tls_is_in_message(const struct kloop_tls *tls)
{
	return kl_tls_has(tls, KL_TLS_OPEN) && !kl_tls_has(tls, KL_TLS_GOT_CLOSE) &&
	       SSL_in_init(tls->ssl);
}

/*
 * More of such a message: whether the owner reads or not, for what he writes
 * waits for it.
 */
void kl_tls_continue_message(struct kloop_tls *tls);

/* Take the steps that arrived bytes, or their end, make possible. */
void kl_tls_run(struct kloop_tls *tls);

/* The connection ends with this code; an alert that OpenSSL wrote is sent if it can be at once. */
void kl_tls_fail(struct kloop_tls *tls, int error);

/* Before each call of OpenSSL's: its error queue is the thread's, and shared. */
void kl_tls_enter_ssl(struct kloop_tls *tls);
/* After it: returns 0, or what kept its output from being gathered. */
int kl_tls_leave_ssl(struct kloop_tls *tls);

/* Set layer.has_output as things stand. */
void kl_tls_note_output(struct kloop_tls *tls);

/* Something is to be sent: have the stream look. */
void kl_tls_flush(struct kloop_tls *tls);

/* data.c */

/* Decrypt what is there and deliver it, as far as the owner reads. */
void kl_tls_pump(struct kloop_tls *tls);

/* The end of the peer's data, if all of it was delivered. */
void kl_tls_tell_end(struct kloop_tls *tls);

/*
 * Have OpenSSL read into buffer until it is full or nothing is left. Returns:
 * the bytes read; *ret_error is 0, or the failure that follows them.
 */
size_t kl_tls_read(struct kloop_tls *tls, void *buffer, size_t capacity, int *ret_error);

/* Encrypt what is written, as far as one send should carry. */
void kl_tls_encrypt(struct kloop_tls *tls);

/* offload.c */

/* Before the handshake: is the kernel wanted, and able? */
void kl_tls_offload_prepare(struct kloop_tls *tls);

/* The handshake is done. */
void kl_tls_offload_begin(struct kloop_tls *tls);

/* Nothing is in flight: have the kernel encrypt from here on, if that is wanted. */
void kl_tls_offload_send(struct kloop_tls *tls);

/* May a receive be armed now? Makes the move to the kernel if this is the moment. */
bool kl_tls_offload_may_receive(struct kloop_tls *tls);

/* The peer asked for new keys: answer, where OpenSSL does not write by itself. */
void kl_tls_offload_answer(struct kloop_tls *tls);

/* A receive failed with -EIO or -EKEYEXPIRED: take the control record. Returns: whether it is ours. */
bool kl_tls_offload_control(struct kloop_tls *tls, int error);

/* OpenSSL wrote bytes while the kernel sends: hand the records over. Returns: 0 or a failure. */
int kl_tls_offload_output(struct kloop_tls *tls, const uint8_t *data, size_t bytes);

/* A file of so many bytes is to be sent: does it pay to move? */
void kl_tls_offload_note_file(struct kloop_tls *tls, uint64_t bytes, bool zero_copy);

/* So many bytes of a file go to the kernel next. Returns: as kl_tls_offload_run_write(). */
bool kl_tls_offload_run_file(struct kloop_tls *tls, size_t bytes);

/* What is to be sent before data: a control record, a new key. Returns: whether data may follow. */
bool kl_tls_offload_run_write(struct kloop_tls *tls);

/* So many bytes go to the kernel to be encrypted. */
void kl_tls_offload_count(struct kloop_tls *tls, size_t bytes);

void kl_tls_offload_free(struct kloop_tls *tls);

#endif
