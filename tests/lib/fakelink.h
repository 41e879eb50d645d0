/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Two sockets of the fake kernel (fakektls.h) that are connected and have keys. */
#ifndef KT_FAKELINK_H
#define KT_FAKELINK_H

#include "fakektls.h"
#include "tls/ktls.h"
#include "tls/record.h"

#include <sys/types.h>

extern const struct kt_ktls_kernel kt_linux_6_1, kt_linux_6_14;

struct kt_link {
	int fds[2];
	struct kl_tls_key keys[2]; /* with which each end sends */
};

/* A key for AES-128-GCM whose bytes follow from the seed; its next record is number 5. */
struct kl_tls_key kt_link_key(unsigned version, int seed);

/* Install the kernel, connect, give both ends their keys; and the reverse. */
void kt_link_begin(struct kt_link *link, unsigned version, const struct kt_ktls_kernel *kernel);
void kt_link_end(struct kt_link *link);

/* sendmsg(2) and recvmsg(2) with a record type, without waiting; -1 and errno. */
ssize_t kt_send_control(int fd, uint8_t type, const void *data, size_t bytes);
ssize_t kt_receive_typed(int fd, void *buffer, size_t bytes, int *ret_type, int *ret_flags);

#endif
