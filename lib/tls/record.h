/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Records on the wire: where each begins and ends, and single ones sealed and
 * opened with a key of our own.
 *
 * Once a direction is in the kernel, OpenSSL still speaks for alerts and
 * handshake messages. What it writes is sealed with a key and sequence of its
 * own view: such a record is opened here and given to the kernel with its type.
 * What the kernel received is sealed here and fed to OpenSSL. Both sides then
 * agree about the state of the connection, and OpenSSL's whole logic holds.
 */
#ifndef KL_TLS_RECORD_H
#define KL_TLS_RECORD_H

#include "keys.h"

#define KL_TLS_HEADER_BYTES 5
#define KL_TLS_PLAIN_MAX 16384
/* The largest record on the wire: RFC 5246 allows 2048 bytes beyond the plaintext. */
#define KL_TLS_RECORD_MAX (KL_TLS_HEADER_BYTES + KL_TLS_PLAIN_MAX + 2048)

enum kl_tls_content {
	KL_TLS_CHANGE_CIPHER = 20,
	KL_TLS_ALERT = 21,
	KL_TLS_HANDSHAKE = 22,
	KL_TLS_DATA = 23,
};

/* Where a stream of records stands, by the bytes that passed. All zero to begin with. */
struct kl_tls_framing {
	uint64_t records; /* complete ones since the last reset */
	uint32_t left;    /* of the current record's body, once its header is complete */
	uint8_t have;     /* bytes of the header, below KL_TLS_HEADER_BYTES + 1 */
	uint8_t header[KL_TLS_HEADER_BYTES];
	uint8_t nonce_bytes;
	uint8_t nonce[8]; /* the first bytes of the newest record's body: TLS 1.2's explicit nonce */
	bool broken;      /* a length beyond KL_TLS_RECORD_MAX: not TLS */
};

/*
 * Pass bytes, any number at any cut. In TLS 1.2 a ChangeCipherSpec record
 * resets the count (records after it are 0, 1, ...): tell by reset_at_change.
 * Nothing passes once it is broken.
 */
void kl_tls_framing_pass(struct kl_tls_framing *framing, const void *data, size_t bytes,
			 bool reset_at_change);

/* Between two records? */
static inline bool kl_tls_framing_is_between(const struct kl_tls_framing *framing)
{
	return framing->have == 0;
}

/*
 * How many bytes complete the header, or the body once that is known; 0 between
 * records, and if it is broken.
 */
size_t kl_tls_framing_missing(const struct kl_tls_framing *framing);

/*
 * Seal one record, and count the key's sequence on.
 *
 * TLS 1.2's explicit nonce is the sequence. OpenSSL's error queue is left as it
 * was, here and below.
 *
 * bytes: at most KL_TLS_PLAIN_MAX. out: room for KL_TLS_HEADER_BYTES + bytes +
 * 32, apart from data.
 *
 * Returns: the bytes of the record; KLOOP_ERROR_TLS_LIBRARY; -EMSGSIZE.
 */
ptrdiff_t kl_tls_record_seal(struct kl_tls_key *key, uint8_t type, const void *data, size_t bytes,
			     uint8_t *out);

/*
 * Open one whole record in place, and count the key's sequence on.
 *
 * record: header and body. ret_data points into it.
 *
 * Returns: the bytes of plaintext; KLOOP_ERROR_TLS_PROTOCOL if it is no record
 * of this key (nothing is counted then, but its bytes may be spoilt).
 */
ptrdiff_t kl_tls_record_open(struct kl_tls_key *key, uint8_t *record, size_t bytes,
			     uint8_t *ret_type, uint8_t **ret_data);

#endif
