/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The fake kernel TLS, before anything is tested with it: what it seals OpenSSL
 * reads, what OpenSSL seals it opens, and it answers as Linux does.
 */
#include "fakelink.h"
#include "sslpair.h"
#include "streams.h"
#include "support.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEGABYTE ((size_t)1 << 20)

/* A system call that fails with this errno. */
#define FAILS(call, code)                  \
	do {                               \
		ck_assert_int_eq(call, -1); \
		ck_assert_int_eq(errno, code); \
	} while (0)

/* ---- against OpenSSL -------------------------------------------------- */

/* One end is a fake socket, the other OpenSSL, which a test feeds by hand. */
struct against {
	struct kt_ssl_pair pair;
	struct kl_tls_secrets secrets;
	struct kl_tls_key send, receive; /* of the fake's end, which is the server */
	int fds[2];                      /* the fake's; the other */
};

static void against_begin(struct against *against, const struct kt_suite *suite,
			  const struct kt_ktls_kernel *kernel)
{
	memset(against, 0, sizeof(*against));
	kt_ktls_install(kernel);
	kt_ssl_pair_init_suite(&against->pair, suite);
	ck_assert_int_eq(kl_tls_secrets_watch(against->pair.server, &against->secrets), 0);
	SSL_set_num_tickets(against->pair.server, 0);
	ck_assert(kt_ssl_pair_handshake(&against->pair));
	ck_assert_int_eq(kl_tls_key_derive(&against->send, against->pair.server, &against->secrets,
					   false), 0);
	ck_assert_int_eq(kl_tls_key_derive(&against->receive, against->pair.server,
					   &against->secrets, true), 0);
	if (suite->version == TLS1_2_VERSION)
		against->send.sequence = against->receive.sequence = 1;
	kt_tcp_pair(against->fds);
	ck_assert_int_eq(kl_ktls_attach(against->fds[0]), 0);
	ck_assert_int_eq(kl_ktls_set_key(against->fds[0], true, &against->send, 0x7766554433221100), 0);
	ck_assert_int_eq(kl_ktls_set_key(against->fds[0], false, &against->receive, 0), 0);
}

static void against_end(struct against *against)
{
	kt_close(against->fds[0]);
	kt_close(against->fds[1]);
	kt_ssl_pair_free(&against->pair);
	kt_ktls_remove();
}

/* What the client wrote, to the fake. */
static void to_fake(struct against *against)
{
	char *data;
	long bytes = BIO_get_mem_data(against->pair.from_client, &data);

	ck_assert_int_gt(bytes, 0);
	ck_assert_int_eq(write(against->fds[1], data, (size_t)bytes), bytes);
	ck_assert_int_eq(BIO_reset(against->pair.from_client), 1);
}

/* What the fake wrote, to the client: as much as makes these bytes. */
static void expect_of_fake(struct against *against, const char *data, size_t bytes)
{
	size_t have = 0, got;
	char buffer[4096];
	ssize_t taken;

	while (have < bytes) {
		if (SSL_read_ex(against->pair.client, buffer, sizeof(buffer), &got) == 1) {
			ck_assert_uint_le(have + got, bytes);
			ck_assert_mem_eq(buffer, data + have, got);
			have += got;
			continue;
		}
		taken = read(against->fds[1], buffer, sizeof(buffer));
		ck_assert_int_gt(taken, 0);
		BIO_write(against->pair.to_client, buffer, (int)taken);
	}
}

START_TEST(every_suite_both_ways)
{
	struct against against;
	struct kt_ktls_state state;
	char buffer[64];
	char *large = malloc(100000);

	ck_assert_ptr_nonnull(large);
	kt_fill(large, 100000, 0);
	against_begin(&against, &kt_suites[_i], &kt_linux_6_1);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(send(against.fds[0], "to OpenSSL", 10, 0), 10);
		expect_of_fake(&against, "to OpenSSL", 10);
		kt_ssl_put(against.pair.client, "of OpenSSL", 10);
		to_fake(&against);
		ck_assert_int_eq(recv(against.fds[0], buffer, sizeof(buffer), 0), 10);
		ck_assert_mem_eq(buffer, "of OpenSSL", 10);
	}
	ck_assert_int_eq(send(against.fds[0], large, 100000, 0), 100000);
	expect_of_fake(&against, large, 100000);
	ck_assert(kt_ktls_get_state(against.fds[0], &state));
	ck_assert_uint_eq(state.sent_records, 3 + 7);
	ck_assert_uint_eq(state.received_records, 3);
	ck_assert_uint_eq(state.sent_controls + state.received_controls, 0);
	if (kt_suites[_i].version == TLS1_2_VERSION && _i < 5)
		ck_assert(state.first_nonce == UINT64_C(0x7766554433221100));
	against_end(&against);
	free(large);
}
END_TEST

/* A key, a number or a nonce that is wrong does not pass. */
START_TEST(wrong_keys_are_found)
{
	const struct kt_suite *suite = &kt_suites[_i % KT_SUITES];
	const bool gcm_12 = suite->version == TLS1_2_VERSION && suite->aead != KL_TLS_CHACHA20_POLY1305;
	struct against against;
	uint8_t byte;
	int fds[2];

	against_begin(&against, suite, &kt_linux_6_1);
	kt_tcp_pair(fds);
	switch (_i / KT_SUITES) {
	case 0:
		against.receive.key[0] ^= 1;
		break;
	case 1:
		against.receive.sequence++;
		break;
	default:
		against.receive.iv[gcm_12 ? 3 : 11] ^= 1;
	}
	ck_assert_int_eq(kl_ktls_attach(fds[0]), 0);
	ck_assert_int_eq(kl_ktls_set_key(fds[0], false, &against.receive, 0), 0);
	kt_ssl_put(against.pair.client, "x", 1);
	kt_close(against.fds[1]);
	against.fds[1] = fds[1];
	to_fake(&against);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(recv(fds[0], &byte, 1, MSG_DONTWAIT), -1);
		ck_assert_int_eq(errno, EBADMSG);
	}
	kt_close(fds[0]);
	against_end(&against);
}
END_TEST

START_TEST(controls_to_and_from_openssl)
{
	static const uint8_t close_notify[] = { 1, 0 };
	struct against against;
	union {
		struct cmsghdr align;
		char bytes[KL_KTLS_CONTROL_BYTES];
	} control;
	char buffer[64];
	struct iovec vector = { (void *)(uintptr_t)close_notify, 2 };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };

	against_begin(&against, &kt_suites[_i], &kt_linux_6_1);
	kl_ktls_put_type(&message, &control, KL_TLS_ALERT);
	ck_assert_int_eq(sendmsg(against.fds[0], &message, 0), 2);
	ck_assert_int_gt(read(against.fds[1], buffer, sizeof(buffer)), 2);
	BIO_write(against.pair.to_client, buffer, 5 + (buffer[3] << 8 | buffer[4]));
	ck_assert_int_eq(SSL_read(against.pair.client, buffer, 1), 0);
	ck_assert_int_eq(SSL_get_error(against.pair.client, 0), SSL_ERROR_ZERO_RETURN);

	SSL_shutdown(against.pair.client);
	to_fake(&against);
	ck_assert_int_eq(recv(against.fds[0], buffer, sizeof(buffer), 0), -1);
	ck_assert_int_eq(errno, EIO);
	vector = (struct iovec){ buffer, sizeof(buffer) };
	message = (struct msghdr){ .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control,
				   .msg_controllen = sizeof(control) };
	ck_assert_int_eq(recvmsg(against.fds[0], &message, 0), 2);
	ck_assert_int_eq(kl_ktls_get_type(&message), KL_TLS_ALERT);
	ck_assert_mem_eq(buffer, close_notify, 2);
	against_end(&against);
}
END_TEST

/* ---- system calls ------------------------------------------------------- */

/* Until then nothing is encrypted, and refusals leave the socket as it was. */
START_TEST(attach_and_keys)
{
	const struct kt_ktls_kernel missing = { .missing = true };
	const struct kt_ktls_kernel refusing = { .refuse_send = ENOENT, .refuse_receive = ENOMEM };
	struct kl_tls_key key = kt_link_key(KLOOP_TLS_1_3, 1);
	struct kt_ktls_state state;
	char buffer[8];
	int fds[2], unconnected = socket(AF_INET, SOCK_STREAM, 0);

	kt_tcp_pair(fds);
	kt_ktls_install(&missing);
	ck_assert_int_eq(kl_ktls_attach(fds[0]), KLOOP_ERROR_KTLS_MISSING);
	ck_assert_uint_eq(kl_ktls_get_abilities(), 0);
	kt_ktls_install(&refusing);
	ck_assert_uint_eq(kl_ktls_get_abilities(), KL_KTLS_ULP);
	ck_assert_int_eq(kl_ktls_attach(unconnected), -ENOTCONN);
	ck_assert_int_eq(kl_ktls_set_key(fds[0], true, &key, 0), -ENOPROTOOPT);
	ck_assert_int_eq(kl_ktls_attach(fds[0]), 0);
	ck_assert_int_eq(kl_ktls_attach(fds[0]), 0);
	FAILS(setsockopt(fds[0], 6, 31, "tls", 4), EEXIST);
	ck_assert_int_eq(kl_ktls_set_key(fds[0], true, &key, 0), KLOOP_ERROR_KTLS_CIPHER);
	ck_assert_int_eq(kl_ktls_set_key(fds[0], false, &key, 0), -ENOMEM);
	FAILS(setsockopt(fds[0], 282, 1, &key, 3), EINVAL);
	FAILS(setsockopt(fds[0], 282, 1, &key, sizeof(key)), EINVAL);
	FAILS(setsockopt(fds[0], 282, 99, &key, 4), ENOPROTOOPT);
	ck_assert_int_eq(kl_ktls_set_zero_copy(fds[0]), -EINVAL);
	ck_assert(kt_ktls_get_state(fds[0], &state));
	ck_assert(!state.sends && !state.receives);
	ck_assert_int_eq(send(fds[0], "clear", 5, 0), 5);
	ck_assert_int_eq(recv(fds[1], buffer, 8, 0), 5);
	ck_assert_mem_eq(buffer, "clear", 5);
	kt_close(fds[0]);
	ck_assert(!kt_ktls_get_state(fds[0], &state));
	kt_close(fds[1]);
	/* The number of a closed descriptor says nothing. */
	kt_tcp_pair(fds);
	ck_assert(!kt_ktls_get_state(fds[0], &state));
	kt_ktls_install(&kt_linux_6_14);
	ck_assert_uint_eq(kl_ktls_get_abilities(), KL_KTLS_ULP | KL_KTLS_REKEY);
	ck_assert_int_eq(kl_ktls_attach(fds[0]), 0);
	ck_assert_int_eq(kl_ktls_set_key(fds[0], true, &key, 0), 0);
	ck_assert_int_eq(kl_ktls_set_zero_copy(fds[0]), 0);
	kt_ktls_remove();
	ck_assert(!kt_ktls_get_state(fds[0], &state));
	kt_close(fds[0]);
	kt_close(fds[1]);
	kt_close(unconnected);
}
END_TEST

START_TEST(data_and_controls_in_order)
{
	struct kt_link link;
	char buffer[64];
	int type, flags;

	kt_link_begin(&link, _i ? KLOOP_TLS_1_3 : KLOOP_TLS_1_2, &kt_linux_6_1);
	FAILS(recv(link.fds[1], buffer, 64, MSG_DONTWAIT), EAGAIN);
	ck_assert_int_eq(send(link.fds[0], "one", 3, 0), 3);
	ck_assert_int_eq(send(link.fds[0], "two", 3, 0), 3);
	ck_assert_int_eq(kt_send_control(link.fds[0], KL_TLS_HANDSHAKE, "ticket", 6), 6);
	ck_assert_int_eq(kt_send_control(link.fds[0], KL_TLS_HANDSHAKE, "another", 7), 7);
	ck_assert_int_eq(send(link.fds[0], "three", 5, 0), 5);
	ck_assert_int_eq(kt_send_control(link.fds[0], KL_TLS_ALERT, "\1\0", 2), 2);
	/* Data of several records in one receive, in pieces too; never with a control. */
	ck_assert_int_eq(recv(link.fds[1], buffer, 1, 0), 1);
	ck_assert_int_eq(recv(link.fds[1], buffer + 1, 63, 0), 5);
	ck_assert_mem_eq(buffer, "onetwo", 6);
	for (int i = 0; i < 3; i++)
		FAILS(recv(link.fds[1], buffer, 64, MSG_DONTWAIT), EIO);
	ck_assert_int_eq(kt_receive_typed(link.fds[1], buffer, 4, &type, &flags), 4);
	ck_assert_int_eq(type, KL_TLS_HANDSHAKE);
	ck_assert_int_eq(flags & MSG_EOR, 0);
	ck_assert_int_eq(kt_receive_typed(link.fds[1], buffer + 4, 60, &type, &flags), 2);
	ck_assert_int_eq(type, KL_TLS_HANDSHAKE);
	ck_assert_int_ne(flags & MSG_EOR, 0);
	ck_assert_mem_eq(buffer, "ticket", 6);
	ck_assert_int_eq(kt_receive_typed(link.fds[1], buffer, 64, &type, &flags), 7);
	ck_assert_mem_eq(buffer, "another", 7);
	ck_assert_int_eq(kt_receive_typed(link.fds[1], buffer, 64, &type, &flags), 5);
	ck_assert_int_eq(type, KL_TLS_DATA);
	ck_assert_int_eq(kt_receive_typed(link.fds[1], buffer, 64, &type, &flags), 2);
	ck_assert_int_eq(type, KL_TLS_ALERT);
	ck_assert_int_eq(shutdown(link.fds[0], SHUT_WR), 0);
	ck_assert_int_eq(kt_receive_typed(link.fds[1], buffer, 64, &type, &flags), 0);
	ck_assert_int_eq(recv(link.fds[1], buffer, 64, 0), 0);
	kt_link_end(&link);
}
END_TEST

START_TEST(flags_and_messages_that_linux_refuses)
{
	union {
		struct cmsghdr align;
		char bytes[KL_KTLS_CONTROL_BYTES];
	} control;
	struct iovec vector = { (void *)(uintptr_t)"x", 1 };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
	struct kt_link link;
	char byte;

	kt_link_begin(&link, KLOOP_TLS_1_3, &kt_linux_6_1);
	FAILS(send(link.fds[0], "x", 1, MSG_WAITALL), EOPNOTSUPP);
	FAILS(send(link.fds[0], "x", 1, MSG_OOB), EOPNOTSUPP);
	kl_ktls_put_type(&message, &control, KL_TLS_ALERT);
	FAILS(sendmsg(link.fds[0], &message, MSG_MORE), EINVAL);
	control.align.cmsg_type = 2;
	FAILS(sendmsg(link.fds[0], &message, 0), EINVAL);
	FAILS(recv(link.fds[1], &byte, 1, MSG_DONTWAIT), EAGAIN);
	kt_link_end(&link);
}
END_TEST

START_TEST(limits_of_one_call)
{
	const struct kt_ktls_kernel kernel = { .send_max = 5, .receive_max = 3 };
	struct kt_link link;
	char buffer[64];

	kt_link_begin(&link, KLOOP_TLS_1_3, &kernel);
	ck_assert_int_eq(send(link.fds[0], "0123456789", 10, 0), 5);
	ck_assert_int_eq(kt_send_control(link.fds[0], KL_TLS_HANDSHAKE, "0123456789", 10), 10);
	ck_assert_int_eq(recv(link.fds[1], buffer, 64, 0), 3);
	ck_assert_int_eq(recv(link.fds[1], buffer, 64, 0), 2);
	FAILS(recv(link.fds[1], buffer, 64, 0), EIO);
	kt_link_end(&link);
}
END_TEST

/* The buffers fill up: a record is taken whole or not at all. */
START_TEST(back_pressure)
{
	char *data = malloc(MEGABYTE), *back = malloc(MEGABYTE);
	size_t sent = 0, received = 0;
	struct kt_link link;
	ssize_t r;

	ck_assert(data && back);
	kt_link_begin(&link, KLOOP_TLS_1_3, &kt_linux_6_1);
	for (;;) {
		kt_fill(data, MEGABYTE, sent);
		r = send(link.fds[0], data, MEGABYTE, MSG_DONTWAIT);
		if (r < 0)
			break;
		sent += (size_t)r;
	}
	ck_assert_int_eq(errno, EAGAIN);
	ck_assert_uint_gt(sent, 100000);
	while (received < sent) {
		r = recv(link.fds[1], back, MEGABYTE, 0);
		ck_assert_int_gt(r, 0);
		ck_assert(kt_is_fill(back, (size_t)r, received));
		received += (size_t)r;
	}
	ck_assert_uint_eq(received, sent);
	kt_link_end(&link);
	free(data);
	free(back);
}
END_TEST

/* From 6.14 on: -EKEYEXPIRED until there is a new key. Before: the key cannot change. */
START_TEST(key_update)
{
	static const uint8_t update[] = { 24, 0, 0, 1, 0 };
	const bool rekey = _i;
	struct kt_link link;
	char buffer[64];
	int type, flags;

	kt_link_begin(&link, KLOOP_TLS_1_3, rekey ? &kt_linux_6_14 : &kt_linux_6_1);
	ck_assert_int_eq(kt_send_control(link.fds[0], KL_TLS_HANDSHAKE, update, 5), 5);
	ck_assert_int_eq(kl_tls_key_update(&link.keys[0]), 0);
	ck_assert_int_eq(kl_ktls_set_key(link.fds[0], true, &link.keys[0], 0), rekey ? 0 : -EBUSY);
	ck_assert_int_eq(send(link.fds[0], "after", 5, 0), 5);
	FAILS(recv(link.fds[1], buffer, 64, MSG_DONTWAIT), EIO);
	ck_assert_int_eq(kt_receive_typed(link.fds[1], buffer, 64, &type, &flags), 5);
	if (!rekey) {
		ck_assert_int_eq(kl_ktls_set_key(link.fds[1], false, &link.keys[0], 0), -EBUSY);
		/* Here both ends still have the old key, so it is readable: nobody was told. */
		ck_assert_int_eq(recv(link.fds[1], buffer, 64, 0), 5);
		kt_link_end(&link);
		return;
	}
	for (int i = 0; i < 3; i++) {
		FAILS(recv(link.fds[1], buffer, 64, MSG_DONTWAIT), EKEYEXPIRED);
		FAILS((int)kt_receive_typed(link.fds[1], buffer, 64, &type, &flags), EKEYEXPIRED);
	}
	link.keys[0].aead = KL_TLS_AES_256_GCM;
	ck_assert_int_eq(kl_ktls_set_key(link.fds[1], false, &link.keys[0], 0),
			 KLOOP_ERROR_KTLS_CIPHER);
	link.keys[0].aead = KL_TLS_AES_128_GCM;
	ck_assert_int_eq(kl_ktls_set_key(link.fds[1], false, &link.keys[0], 0), 0);
	ck_assert_int_eq(recv(link.fds[1], buffer, 64, 0), 5);
	ck_assert_mem_eq(buffer, "after", 5);
	kt_link_end(&link);
}
END_TEST

START_TEST(no_second_key_for_1_2)
{
	struct kt_link link;

	kt_link_begin(&link, KLOOP_TLS_1_2, &kt_linux_6_14);
	ck_assert_int_eq(kl_ktls_set_key(link.fds[0], true, &link.keys[0], 0), -EBUSY);
	ck_assert_int_eq(kl_ktls_set_key(link.fds[0], false, &link.keys[1], 0), -EBUSY);
	kt_link_end(&link);
}
END_TEST

/* Bytes that no key sealed, and lengths that no record has. */
START_TEST(broken_records)
{
	static const struct {
		const char *bytes;
		size_t count;
		int error;
	} cases[] = {
		{ "\x17\x03\x03\x00\x11" "0123456789abcdef\x17", 22, EBADMSG },
		{ "\x17\x03\x03\x00\x0f", 5, EBADMSG },
		{ "\x17\x03\x03\x40\x12", 5, EMSGSIZE },
		{ "\x17\x03\x01\x00\x20", 5, EINVAL },
		{ "HTTP/1.1 400", 12, EMSGSIZE },
	};
	struct kl_tls_key key = kt_link_key(KLOOP_TLS_1_3, 8);
	char buffer[8];
	int fds[2];

	kt_ktls_install(&kt_linux_6_1);
	kt_tcp_pair(fds);
	ck_assert_int_eq(kl_ktls_attach(fds[0]), 0);
	ck_assert_int_eq(kl_ktls_set_key(fds[0], false, &key, 0), 0);
	kt_write_all(fds[1], cases[_i].bytes, 3);
	FAILS(recv(fds[0], buffer, 8, MSG_DONTWAIT), EAGAIN);
	kt_write_all(fds[1], cases[_i].bytes + 3, cases[_i].count - 3);
	FAILS(recv(fds[0], buffer, 8, 0), cases[_i].error);
	FAILS(recv(fds[0], buffer, 8, 0), cases[_i].error);
	kt_close(fds[0]);
	kt_close(fds[1]);
	kt_ktls_remove();
}
END_TEST

/* A record cut off by the end: 0, as on a bare connection. An empty one: nothing. */
START_TEST(truncated_and_empty_records)
{
	struct kl_tls_key key = kt_link_key(KLOOP_TLS_1_3, 8), sealing = key;
	uint8_t record[64];
	char buffer[8];
	ptrdiff_t bytes;
	int fds[2];

	kt_ktls_install(&kt_linux_6_1);
	kt_tcp_pair(fds);
	ck_assert_int_eq(kl_ktls_attach(fds[0]), 0);
	ck_assert_int_eq(kl_ktls_set_key(fds[0], false, &key, 0), 0);
	bytes = kl_tls_record_seal(&sealing, KL_TLS_DATA, "", 0, record);
	kt_write_all(fds[1], record, (size_t)bytes);
	FAILS(recv(fds[0], buffer, 8, MSG_DONTWAIT), EAGAIN);
	bytes = kl_tls_record_seal(&sealing, KL_TLS_DATA, "data", 4, record);
	kt_write_all(fds[1], record, (size_t)bytes);
	ck_assert_int_eq(recv(fds[0], buffer, 8, 0), 4);
	kt_write_all(fds[1], record, (size_t)bytes - 1);
	kt_close(fds[1]);
	ck_assert_int_eq(recv(fds[0], buffer, 8, 0), 0);
	kt_close(fds[0]);
	kt_ktls_remove();
}
END_TEST

START_TEST(a_file_is_sent)
{
	char template[] = "/tmp/test_fakektls.XXXXXX", buffer[64];
	int file = mkstemp(template);
	struct kt_link link;
	off_t offset = 4;

	ck_assert_int_ge(file, 0);
	ck_assert_int_eq(unlink(template), 0);
	kt_write_all(file, "of the file", 11);
	kt_link_begin(&link, KLOOP_TLS_1_3, &kt_linux_6_1);
	ck_assert_int_eq(sendfile(link.fds[0], file, &offset, 3), 3);
	ck_assert_int_eq(offset, 7);
	ck_assert_int_eq(recv(link.fds[1], buffer, 64, 0), 3);
	ck_assert_mem_eq(buffer, "he ", 3);
	ck_assert_int_eq(lseek(file, 7, SEEK_SET), 7);
	ck_assert_int_eq(sendfile(link.fds[0], file, NULL, 100), 4);
	ck_assert_int_eq(sendfile(link.fds[0], file, NULL, 100), 0);
	ck_assert_int_eq(recv(link.fds[1], buffer, 64, 0), 4);
	ck_assert_mem_eq(buffer, "file", 4);
	kt_link_end(&link);
	kt_close(file);
}
END_TEST

static Suite *fakektls_suite(void)
{
	Suite *suite = suite_create("fakektls");
	TCase *openssl = kt_case(suite, "openssl", 60);
	TCase *calls = kt_case(suite, "calls", 60);

	tcase_add_loop_test(openssl, every_suite_both_ways, 0, KT_SUITES);
	tcase_add_loop_test(openssl, wrong_keys_are_found, 0, 3 * KT_SUITES);
	tcase_add_loop_test(openssl, controls_to_and_from_openssl, 0, KT_SUITES);

	tcase_add_test(calls, attach_and_keys);
	tcase_add_loop_test(calls, data_and_controls_in_order, 0, 2);
	tcase_add_test(calls, flags_and_messages_that_linux_refuses);
	tcase_add_test(calls, limits_of_one_call);
	tcase_add_test(calls, back_pressure);
	tcase_add_loop_test(calls, key_update, 0, 2);
	tcase_add_test(calls, no_second_key_for_1_2);
	tcase_add_loop_test(calls, broken_records, 0, 5);
	tcase_add_test(calls, truncated_and_empty_records);
	tcase_add_test(calls, a_file_is_sent);
	return suite;
}

int main(void)
{
	return kt_main(fakektls_suite());
}
