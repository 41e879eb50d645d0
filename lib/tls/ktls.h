/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The kernel's TLS, as system calls: probe, switch on, keys, record types. */
#ifndef KL_TLS_KTLS_H
#define KL_TLS_KTLS_H

#include "keys.h"

#include <sys/socket.h>

enum kl_ktls_ability {
	KL_KTLS_ULP = 1 << 0,    /* the kernel has TLS */
	KL_KTLS_REKEY = 1 << 1,  /* it takes a second key (6.14) */
};

/*
 * What this kernel can, of enum kl_ktls_ability. Asked once in a process, on a
 * connection to ourselves, within a second; 0 also if the environment has
 * KLOOP_KTLS=0.
 *
 * Thread: any.
 */
unsigned kl_ktls_get_abilities(void);

/*
 * Ask the kernel now, whatever the environment says.
 *
 * Returns: 0; -ENOENT if it has no TLS; another negative errno if the question
 * could not be asked. *ret_abilities is written on success only.
 */
int kl_ktls_probe(unsigned *ret_abilities);

/* Is kernel TLS switched off, by KLOOP_KTLS=0? */
bool kl_ktls_is_off(void);

/*
 * Attach the ULP to a connected TCP socket; harmless if it is attached.
 *
 * Returns: 0; KLOOP_ERROR_KTLS_MISSING; KLOOP_ERROR_KTLS_OFF by environment;
 * KLOOP_ERROR_KTLS_SOCKET for what is not TCP; another negative errno:
 * -ENOTCONN...
 */
int kl_ktls_attach(int fd);

/*
 * Hand a key to the kernel, for sending or for receiving. From the next byte
 * on that direction is the kernel's. A second call renews the key.
 *
 * nonce: TLS 1.2 with GCM, sending: the explicit nonce of the next record.
 *
 * Returns: 0; KLOOP_ERROR_KTLS_CIPHER if the kernel has not got the cipher
 * (-ENOENT, -EINVAL, -EOPNOTSUPP); -EBUSY for a second key before 6.14;
 * another negative errno.
 */
int kl_ktls_set_key(int fd, bool send, const struct kl_tls_key *key, uint64_t nonce);

/*
 * Let sendfile(2) skip a copy of pages (TLS_TX_ZEROCOPY_RO, 5.19). Returns: 0 or
 * a negative errno.
 */
int kl_ktls_set_zero_copy(int fd);

#define KL_KTLS_CONTROL_BYTES CMSG_SPACE(sizeof(unsigned char))

/*
 * Write the record type as a control message.
 *
 * control: KL_KTLS_CONTROL_BYTES, aligned as struct cmsghdr.
 */
void kl_ktls_put_type(struct msghdr *message, void *control, uint8_t type);

/* The type of the record that recvmsg(2) returned; -1 if it is not said. */
int kl_ktls_get_type(struct msghdr *message);

#endif
