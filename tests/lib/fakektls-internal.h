/* SPDX-License-Identifier: MulanPSL-2.0 */
/* What the files of the fake kernel share: sockets and their records, without waiting. */
#ifndef KT_FAKEKTLS_INTERNAL_H
#define KT_FAKEKTLS_INTERNAL_H

#include "fakektls.h"

#include <linux/tls.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#define KT_KTLS_PLAIN 16384
#define KT_KTLS_RECORD (5 + KT_KTLS_PLAIN + 256)
#define KT_KTLS_SOL 282

union kt_ktls_info {
	struct tls_crypto_info info;
	struct tls12_crypto_info_aes_gcm_128 gcm128;
	struct tls12_crypto_info_aes_gcm_256 gcm256;
	struct tls12_crypto_info_chacha20_poly1305 chacha;
};

/* One direction: what setsockopt(2) brought, and counted on in place. */
struct kt_ktls_direction {
	bool on;
	union kt_ktls_info info;
};

struct kt_ktls_socket {
	struct kt_ktls_socket *next;
	int fd;
	dev_t device; /* with the inode: is the descriptor still this socket? */
	ino_t inode;
	struct kt_ktls_direction send, receive;
	struct kt_ktls_state state;

	/* The record that is being received. */
	unsigned char raw[KT_KTLS_RECORD];
	size_t have;         /* of raw */
	unsigned char *text; /* inside raw, while a record is open */
	size_t text_bytes;
	int type;
	bool expired; /* a KeyUpdate was given out */
	int error;    /* for good */
};

/* fakektls.c */
extern struct kt_ktls_kernel kt_ktls_kernel;

/* The socket behind a descriptor; NULL if it has no TLS. */
struct kt_ktls_socket *kt_ktls_find(int fd);

/* fakektls-record.c; all of it returns bytes, or a negative errno, and never waits */

/* The overhead of a record beside its header; negative if it is no cipher. */
int kt_ktls_overhead(const struct kt_ktls_direction *direction);

/* Seal one record; out: KT_KTLS_RECORD. Returns: its bytes. */
size_t kt_ktls_seal(struct kt_ktls_direction *direction, int type, const void *data, size_t bytes,
		    unsigned char *out);

/* Open socket->raw, which is complete. Returns: 0; -EBADMSG. */
int kt_ktls_open(struct kt_ktls_socket *socket);

/* fakektls-io.c: -EAGAIN where it would wait */
ssize_t kt_ktls_send(struct kt_ktls_socket *socket, const struct msghdr *message, int flags);
ssize_t kt_ktls_receive(struct kt_ktls_socket *socket, struct msghdr *message, int flags);

/* Would a receive answer now? */
bool kt_ktls_is_readable(struct kt_ktls_socket *socket);

/* fakektls-ops.c: take back buffers that were never given back. Nothing may be in flight. */
void kt_ktls_forget_buffers(void);

/* The calls behind the wraps. */
ssize_t __real_send(int fd, const void *data, size_t bytes, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __real_recv(int fd, void *buffer, size_t bytes, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *message, int flags);
int __real_setsockopt(int fd, int level, int option, const void *value, socklen_t bytes);

#endif
