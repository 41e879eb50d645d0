/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "fakelink.h"
#include "support.h"

#include <string.h>
#include <sys/socket.h>

const struct kt_ktls_kernel kt_linux_6_1, kt_linux_6_14 = { .rekey = true };

struct kl_tls_key kt_link_key(unsigned version, int seed)
{
	struct kl_tls_key key = {
		.version = (uint16_t)version,
		.aead = KL_TLS_AES_128_GCM,
		.key_bytes = 16,
		.secret_bytes = 32,
		.sequence = 5,
	};

	memset(key.secret, seed, 32);
	memset(key.key, seed, 16);
	memset(key.iv, seed + 1, 12);
	return key;
}

void kt_link_begin(struct kt_link *link, unsigned version, const struct kt_ktls_kernel *kernel)
{
	kt_ktls_install(kernel);
	kt_tcp_pair(link->fds);
	for (int end = 0; end < 2; end++)
		link->keys[end] = kt_link_key(version, 17 * end + 3);
	for (int end = 0; end < 2; end++) {
		ck_assert_int_eq(kl_ktls_attach(link->fds[end]), 0);
		ck_assert_int_eq(kl_ktls_set_key(link->fds[end], true, &link->keys[end], 9), 0);
		ck_assert_int_eq(kl_ktls_set_key(link->fds[end], false, &link->keys[!end], 0), 0);
	}
}

void kt_link_end(struct kt_link *link)
{
	for (int end = 0; end < 2; end++)
		if (link->fds[end] >= 0)
			kt_close(link->fds[end]);
	kt_ktls_remove();
}

ssize_t kt_send_control(int fd, uint8_t type, const void *data, size_t bytes)
{
	union {
		struct cmsghdr align;
		char bytes[KL_KTLS_CONTROL_BYTES];
	} control;
	struct iovec vector = { (void *)(uintptr_t)data, bytes };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };

	kl_ktls_put_type(&message, &control, type);
	return sendmsg(fd, &message, MSG_DONTWAIT);
}

ssize_t kt_receive_typed(int fd, void *buffer, size_t bytes, int *ret_type, int *ret_flags)
{
	union {
		struct cmsghdr align;
		char bytes[KL_KTLS_CONTROL_BYTES];
	} control;
	struct iovec vector = { buffer, bytes };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	ssize_t r = recvmsg(fd, &message, MSG_DONTWAIT);

	*ret_type = r < 0 ? -1 : kl_ktls_get_type(&message);
	*ret_flags = message.msg_flags;
	return r;
}
