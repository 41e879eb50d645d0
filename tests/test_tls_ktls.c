/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What is told to the kernel, and how its answers are read. The kernel here is
 * a stand-in (-Wl,--wrap), so that each answer can be had on any machine.
 */
#include "support.h"
#include "tls/ktls.h"
#include "tls/record.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the stand-in ----------------------------------------------------- */

enum answer {
	REAL = 1, /* in place of an errno: ask the real kernel */
};

static struct {
	int attach;         /* to TCP_ULP: 0, or an errno, or REAL */
	int key;            /* to the first key */
	int next_key;       /* to further ones */
	int zero_copy;
	int no_socket;      /* socket(2): an errno, or 0 for the real one */
	int no_connection;  /* connect(2): the same */
	bool never_ready;   /* poll(2) */
} kernel;

static int attaches, keys, options, sockets;
static int last_fd, last_level, last_option;
static uint8_t last_value[64];
static socklen_t last_bytes;

int __real_setsockopt(int fd, int level, int option, const void *value, socklen_t bytes);
int __real_socket(int domain, int type, int protocol);
int __real_connect(int fd, const struct sockaddr *address, socklen_t length);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t bytes);
int __wrap_socket(int domain, int type, int protocol);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);

static int answer(int error)
{
	errno = error;
	return error ? -1 : 0;
}

int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t bytes)
{
	bool attach = level == IPPROTO_TCP && option == 31;

	if (!attach && level != 282)
		return __real_setsockopt(fd, level, option, value, bytes);
	last_fd = fd;
	last_level = level;
	last_option = option;
	last_bytes = bytes;
	ck_assert_uint_le(bytes, sizeof(last_value));
	memcpy(last_value, value, bytes);
	options++;
	if (attach) {
		attaches++;
		ck_assert_str_eq(value, "tls");
		if (kernel.attach == REAL)
			return __real_setsockopt(fd, level, option, value, bytes);
		return answer(kernel.attach);
	}
	if (option == 3)
		return answer(kernel.zero_copy);
	return answer(keys++ == 0 ? kernel.key : kernel.next_key);
}

int __wrap_socket(int domain, int type, int protocol)
{
	sockets++;
	return kernel.no_socket ? answer(kernel.no_socket) : __real_socket(domain, type, protocol);
}

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	if (kernel.no_connection)
		return answer(kernel.no_connection);
	return __real_connect(fd, address, length);
}

int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	if (!kernel.never_ready)
		return __real_poll(fds, count, timeout);
	ck_assert_int_ge(timeout, 0);
	ck_assert_int_le(timeout, 1000);
	return 0;
}

static void set_up(void)
{
	memset(&kernel, 0, sizeof(kernel));
	attaches = keys = options = sockets = 0;
	unsetenv("KLOOP_KTLS");
}

/* ---- keys ------------------------------------------------------------- */

static struct kl_tls_key make_key(unsigned version, int aead)
{
	struct kl_tls_key key = {
		.version = (uint16_t)version,
		.aead = (uint8_t)aead,
		.key_bytes = aead == KL_TLS_AES_128_GCM ? 16 : 32,
		.sequence = UINT64_C(0x1122334455667788),
	};

	for (uint8_t i = 0; i < 32; i++)
		key.key[i] = (uint8_t)(0x40 + i);
	for (uint8_t i = 0; i < 12; i++)
		key.iv[i] = (uint8_t)(0xc0 + i);
	return key;
}

/* Byte for byte what the kernel's interface says: version, cipher, iv, key, salt, sequence. */
START_TEST(a_key_for_the_kernel)
{
	static const uint8_t sequence[] = { 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88 };
	static const uint8_t nonce[] = { 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8 };
	const unsigned version = _i / 2 % 2 ? KLOOP_TLS_1_3 : KLOOP_TLS_1_2;
	const int aead = 1 + _i / 4;
	const bool send = _i % 2, chacha = aead == KL_TLS_CHACHA20_POLY1305;
	const struct kl_tls_key key = make_key(version, aead);
	const uint16_t head[] = { (uint16_t)version, chacha ? 54 : aead == 1 ? 51 : 52 };
	uint8_t expected[64], *next = expected;

	memcpy(next, head, 4);
	next += 4;
	if (chacha) {
		memcpy(next, key.iv, 12);
		next += 12;
	} else {
		memcpy(next, version == KLOOP_TLS_1_3 ? key.iv + 4 : nonce, 8);
		next += 8;
	}
	memcpy(next, key.key, key.key_bytes);
	next += key.key_bytes;
	if (!chacha) {
		memcpy(next, key.iv, 4);
		next += 4;
	}
	memcpy(next, sequence, 8);
	next += 8;

	ck_assert_int_eq(kl_ktls_set_key(77, send, &key, UINT64_C(0xa1a2a3a4a5a6a7a8)), 0);
	ck_assert_int_eq(options, 1);
	ck_assert_int_eq(last_fd, 77);
	ck_assert_int_eq(last_level, 282);
	ck_assert_int_eq(last_option, send ? 1 : 2);
	ck_assert_uint_eq(last_bytes, next - expected);
	ck_assert_mem_eq(last_value, expected, last_bytes);
}
END_TEST

START_TEST(why_a_key_is_refused)
{
	static const struct {
		int error, code;
	} cases[] = {
		{ ENOENT, KLOOP_ERROR_KTLS_CIPHER },
		{ EINVAL, KLOOP_ERROR_KTLS_CIPHER },
		{ EOPNOTSUPP, KLOOP_ERROR_KTLS_CIPHER },
		{ EBUSY, -EBUSY },
		{ ENOMEM, -ENOMEM },
		{ ENOPROTOOPT, -ENOPROTOOPT },
	};
	struct kl_tls_key key = make_key(KLOOP_TLS_1_3, KL_TLS_AES_256_GCM);

	for (size_t i = 0; i < KT_COUNT(cases); i++) {
		kernel.key = kernel.next_key = cases[i].error;
		ck_assert_int_eq(kl_ktls_set_key(5, true, &key, 0), cases[i].code);
	}
	ck_assert_int_eq(options, (int)KT_COUNT(cases));
	key.aead = 9;
	ck_assert_int_eq(kl_ktls_set_key(5, true, &key, 0), KLOOP_ERROR_KTLS_CIPHER);
	ck_assert_int_eq(options, (int)KT_COUNT(cases));
}
END_TEST

/* ---- attach ----------------------------------------------------------- */

START_TEST(why_it_is_not_attached)
{
	static const struct {
		int error, code;
	} cases[] = {
		{ 0, 0 },
		{ EEXIST, 0 },
		{ ENOENT, KLOOP_ERROR_KTLS_MISSING },
		{ EOPNOTSUPP, KLOOP_ERROR_KTLS_SOCKET },
		{ ENOPROTOOPT, KLOOP_ERROR_KTLS_SOCKET },
		{ ENOTCONN, -ENOTCONN },
		{ ENOMEM, -ENOMEM },
	};

	for (size_t i = 0; i < KT_COUNT(cases); i++) {
		kernel.attach = cases[i].error;
		ck_assert_int_eq(kl_ktls_attach(5), cases[i].code);
	}
}
END_TEST

START_TEST(switched_off_by_the_environment)
{
	setenv("KLOOP_KTLS", "0", 1);
	ck_assert(kl_ktls_is_off());
	ck_assert_int_eq(kl_ktls_attach(5), KLOOP_ERROR_KTLS_OFF);
	ck_assert_uint_eq(kl_ktls_get_abilities(), 0);
	ck_assert_int_eq(options, 0);
	ck_assert_int_eq(sockets, 0);
	setenv("KLOOP_KTLS", "1", 1);
	ck_assert(!kl_ktls_is_off());
	ck_assert_int_eq(kl_ktls_attach(5), 0);
	setenv("KLOOP_KTLS", "", 1);
	ck_assert_int_eq(kl_ktls_attach(5), 0);
	unsetenv("KLOOP_KTLS");
}
END_TEST

START_TEST(zero_copy)
{
	ck_assert_int_eq(kl_ktls_set_zero_copy(6), 0);
	ck_assert_int_eq(last_fd, 6);
	ck_assert_int_eq(last_level, 282);
	ck_assert_int_eq(last_option, 3);
	ck_assert_uint_eq(last_bytes, sizeof(int));
	ck_assert_int_eq(*(int *)last_value, 1);
	kernel.zero_copy = EINVAL;
	ck_assert_int_eq(kl_ktls_set_zero_copy(6), -EINVAL);
}
END_TEST

/* The kernel of this machine, whether it has TLS or not. */
START_TEST(the_real_kernel)
{
	unsigned abilities = 0;
	int fds[2], probed;

	kernel.attach = REAL;
	probed = kl_ktls_probe(&abilities);
	ck_assert_msg(probed == 0 || probed == -ENOENT, "%s", kloop_error_name(probed));
	kt_tcp_pair(fds);
	ck_assert_int_eq(kl_ktls_attach(fds[0]), probed == 0 ? 0 : KLOOP_ERROR_KTLS_MISSING);
	ck_assert_int_eq(kl_ktls_attach(fds[0]), probed == 0 ? 0 : KLOOP_ERROR_KTLS_MISSING);
	kt_close(fds[0]);
	kt_close(fds[1]);
	kt_socketpair(fds);
	ck_assert_int_eq(kl_ktls_attach(fds[0]), KLOOP_ERROR_KTLS_SOCKET);
	kt_close(fds[0]);
	kt_close(fds[1]);
}
END_TEST

/* ---- the probe -------------------------------------------------------- */

START_TEST(what_the_probe_finds)
{
	static const struct {
		int attach, key, next_key, result;
		unsigned abilities;
	} cases[] = {
		{ ENOENT, 0, 0, -ENOENT, 0 },
		{ ENOTCONN, 0, 0, -ENOTCONN, 0 },
		{ 0, 0, EBUSY, 0, KL_KTLS_ULP },
		{ 0, ENOENT, ENOENT, 0, KL_KTLS_ULP },
		{ 0, 0, 0, 0, KL_KTLS_ULP | KL_KTLS_REKEY },
	};
	int fds = kt_fd_count();

	for (size_t i = 0; i < KT_COUNT(cases); i++) {
		unsigned abilities = 0;

		keys = 0;
		kernel.attach = cases[i].attach;
		kernel.key = cases[i].key;
		kernel.next_key = cases[i].next_key;
		ck_assert_int_eq(kl_ktls_probe(&abilities), cases[i].result);
		ck_assert_uint_eq(abilities, cases[i].abilities);
	}
	ck_assert_int_eq(kt_fd_count(), fds);
}
END_TEST

START_TEST(a_probe_that_cannot_ask)
{
	int fds = kt_fd_count();
	unsigned abilities = 77;

	kernel.no_socket = EMFILE;
	ck_assert_int_eq(kl_ktls_probe(&abilities), -EMFILE);
	kernel.no_socket = 0;
	kernel.no_connection = ENETUNREACH;
	ck_assert_int_eq(kl_ktls_probe(&abilities), -ENETUNREACH);
	/* A packet filter swallows the connection: the wait has an end. */
	kernel.no_connection = EINPROGRESS;
	kernel.never_ready = true;
	ck_assert_int_eq(kl_ktls_probe(&abilities), -ETIMEDOUT);
	ck_assert_uint_eq(abilities, 77);
	ck_assert_int_eq(options, 0);
	ck_assert_int_eq(kt_fd_count(), fds);
}
END_TEST

/* The only test that asks: the answer stays for the life of a process. */
START_TEST(asked_once)
{
	int asked;

	kernel.no_socket = EMFILE;
	ck_assert_uint_eq(kl_ktls_get_abilities(), 0);
	kernel.no_socket = 0; /* a want of descriptors is no answer */
	ck_assert_uint_eq(kl_ktls_get_abilities(), KL_KTLS_ULP | KL_KTLS_REKEY);
	asked = sockets;
	kernel.attach = ENOENT;
	ck_assert_uint_eq(kl_ktls_get_abilities(), KL_KTLS_ULP | KL_KTLS_REKEY);
	ck_assert_int_eq(sockets, asked);
	setenv("KLOOP_KTLS", "0", 1);
	ck_assert_uint_eq(kl_ktls_get_abilities(), 0);
	unsetenv("KLOOP_KTLS");
	ck_assert_uint_eq(kl_ktls_get_abilities(), KL_KTLS_ULP | KL_KTLS_REKEY);
}
END_TEST

/* ---- control messages ------------------------------------------------- */

union control {
	struct cmsghdr align;
	char bytes[256];
};

START_TEST(a_type_is_put)
{
	struct msghdr message = { 0 };
	union control control;
	struct cmsghdr *header;

	memset(&control, 0xff, sizeof(control));
	kl_ktls_put_type(&message, &control, KL_TLS_ALERT);
	ck_assert_uint_eq(message.msg_controllen, KL_KTLS_CONTROL_BYTES);
	header = CMSG_FIRSTHDR(&message);
	ck_assert_ptr_nonnull(header);
	ck_assert_int_eq(header->cmsg_level, 282);
	ck_assert_int_eq(header->cmsg_type, 1);
	ck_assert_uint_eq(header->cmsg_len, CMSG_LEN(1));
	ck_assert_uint_eq(*CMSG_DATA(header), KL_TLS_ALERT);
	ck_assert_ptr_null(CMSG_NXTHDR(&message, header));
	/* Nothing beyond what is promised. */
	ck_assert_uint_eq((uint8_t)control.bytes[KL_KTLS_CONTROL_BYTES], 0xff);
	/* What is set is not what is got. */
	ck_assert_int_eq(kl_ktls_get_type(&message), -1);
	header->cmsg_type = 2;
	ck_assert_int_eq(kl_ktls_get_type(&message), KL_TLS_ALERT);
}
END_TEST

static struct cmsghdr *add(struct msghdr *message, struct cmsghdr *before, int level, int type,
			   const void *data, size_t bytes)
{
	struct cmsghdr *header = before ? CMSG_NXTHDR(message, before) : CMSG_FIRSTHDR(message);

	ck_assert_ptr_nonnull(header);
	header->cmsg_level = level;
	header->cmsg_type = type;
	header->cmsg_len = CMSG_LEN(bytes);
	memcpy(CMSG_DATA(header), data, bytes);
	return header;
}

START_TEST(a_type_is_found)
{
	union control control = { 0 };
	struct msghdr message = { .msg_control = &control, .msg_controllen = sizeof(control) };
	uint8_t type = KL_TLS_HANDSHAKE;
	struct cmsghdr *header;

	/* Behind one of somebody else, of any length. */
	header = add(&message, NULL, SOL_SOCKET, 2, "0123456789", (size_t)_i);
	header = add(&message, header, 282, 1, &type, 1);
	header = add(&message, header, 282, 2, &type, 1);
	message.msg_controllen = (size_t)((char *)header - control.bytes) + CMSG_SPACE(1);
	ck_assert_int_eq(kl_ktls_get_type(&message), KL_TLS_HANDSHAKE);
	/* Cut off before its data. */
	message.msg_controllen = (size_t)((char *)CMSG_DATA(header) - control.bytes);
	ck_assert_int_eq(kl_ktls_get_type(&message), -1);
	message.msg_controllen = sizeof(struct cmsghdr) - 1;
	ck_assert_int_eq(kl_ktls_get_type(&message), -1);
	message.msg_controllen = 0;
	ck_assert_int_eq(kl_ktls_get_type(&message), -1);
	message.msg_control = NULL;
	ck_assert_int_eq(kl_ktls_get_type(&message), -1);
}
END_TEST

START_TEST(a_type_without_data)
{
	union control control = { 0 };
	struct msghdr message = { .msg_control = &control, .msg_controllen = CMSG_SPACE(1) };

	add(&message, NULL, 282, 2, "", 0);
	ck_assert_int_eq(kl_ktls_get_type(&message), -1);
	control.align.cmsg_len = 0;
	ck_assert_int_eq(kl_ktls_get_type(&message), -1);
	control.align.cmsg_len = SIZE_MAX;
	ck_assert_int_eq(kl_ktls_get_type(&message), -1);
	control.align.cmsg_len = CMSG_SPACE(1) + 1;
	ck_assert_int_eq(kl_ktls_get_type(&message), -1);
	control.align.cmsg_len = CMSG_SPACE(1);
	ck_assert_int_eq(kl_ktls_get_type(&message), 0);
}
END_TEST

static Suite *ktls_suite(void)
{
	Suite *suite = suite_create("tls-ktls");
	TCase *keys_case = kt_case(suite, "keys", 30);
	TCase *socket_case = kt_case(suite, "socket", 30);
	TCase *probe = kt_case(suite, "probe", 30);
	TCase *control = kt_case(suite, "control", 30);

	tcase_add_checked_fixture(keys_case, set_up, NULL);
	tcase_add_loop_test(keys_case, a_key_for_the_kernel, 0, 12);
	tcase_add_test(keys_case, why_a_key_is_refused);

	tcase_add_checked_fixture(socket_case, set_up, NULL);
	tcase_add_test(socket_case, why_it_is_not_attached);
	tcase_add_test(socket_case, switched_off_by_the_environment);
	tcase_add_test(socket_case, zero_copy);
	tcase_add_test(socket_case, the_real_kernel);

	tcase_add_checked_fixture(probe, set_up, NULL);
	tcase_add_test(probe, what_the_probe_finds);
	tcase_add_test(probe, a_probe_that_cannot_ask);
	tcase_add_test(probe, asked_once);

	tcase_add_test(control, a_type_is_put);
	tcase_add_loop_test(control, a_type_is_found, 0, 10);
	tcase_add_test(control, a_type_without_data);
	return suite;
}

int main(void)
{
	return kt_main(ktls_suite());
}
