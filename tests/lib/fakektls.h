/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A kernel with TLS for hosts whose kernel has none: connected TCP sockets take
 * the ULP and keys, and from then on the library's operations and system calls
 * on them seal and open records as Linux does. Link with $(fakektls_wraps).
 *
 * It knows only what it was told by setsockopt(2), and has cryptography of its
 * own: a wrong key, nonce or number of a record is found by the peer, or here.
 *
 * What it does as Linux does:
 * - TCP_ULP: -ENOTCONN unless connected, -EEXIST the second time, -ENOENT where
 *   the kernel has no TLS. A second key: -EBUSY before 6.14 and for TLS 1.2.
 * - Sending cuts data into records of 16384 bytes; with a control message it is
 *   a record of that type. Flags that Linux does not know there, MSG_WAITALL
 *   among them, get -EOPNOTSUPP.
 * - Receiving gives data of one or more records; a control record needs a
 *   control message: without one it is -EIO before the record, which stays. It
 *   is never mixed with data, and one larger than the buffer comes in pieces.
 * - A broken record is -EBADMSG, one too long -EMSGSIZE, another version
 *   -EINVAL, for good. The end of the connection is 0, wherever it comes.
 * - From 6.14 on, nothing is received after a KeyUpdate but -EKEYEXPIRED until
 *   there is a new key.
 *
 * What it does not: sendfile(2) beyond simple files, MSG_PEEK, MSG_MORE,
 * devices. The socket's send buffer is enlarged, so that no record gets stuck.
 *
 * Thread: each socket is used by one thread at a time; several sockets by several.
 */
#ifndef KT_FAKEKTLS_H
#define KT_FAKEKTLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kt_ktls_kernel {
	bool missing;       /* it has no TLS at all */
	bool rekey;         /* 6.14: it takes further keys */
	int refuse_send;    /* an errno for TLS_TX; 0 */
	int refuse_receive; /* an errno for TLS_RX; 0 */
	size_t send_max;    /* bytes that a single send takes; 0: no such limit */
	size_t receive_max; /* bytes that a single receive gives; 0: no such limit */
	bool any_flag;      /* unlike Linux it ignores MSG_WAITALL, for users that know no TLS */
};

/* Put a kernel in force. kt_ktls_remove() forgets all sockets. */
void kt_ktls_install(const struct kt_ktls_kernel *kernel);
void kt_ktls_remove(void);

/* What became of a socket. */
struct kt_ktls_state {
	bool sends;    /* has a key for sending */
	bool receives; /* for receiving */
	unsigned send_keys, receive_keys;
	uint64_t sent_records, sent_controls; /* records; those that were no data */
	uint64_t received_records, received_controls;
	uint64_t first_nonce; /* of the newest key for sending: the iv as it was told */
	bool zero_copy;
};

/* Returns: whether the socket took the ULP. */
bool kt_ktls_get_state(int fd, struct kt_ktls_state *ret_state);

#endif
