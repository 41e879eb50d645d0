/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Kernel TLS sockets and results for ktls_probe: see ktls.h. */
#include "ktls.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif

/* Overhead: the header of 5; with TLS 1.2 and GCM the explicit nonce of 8; with
 * TLS 1.3 the inner type of 1; the tag of 16. */
const struct ktls_suite ktls_suites[] = {
	{ "TLS 1.2 AES-128-GCM", TLS_1_2_VERSION, TLS_CIPHER_AES_GCM_128, 5 + 8 + 16 },
	{ "TLS 1.2 AES-256-GCM", TLS_1_2_VERSION, TLS_CIPHER_AES_GCM_256, 5 + 8 + 16 },
	{ "TLS 1.2 ChaCha20", TLS_1_2_VERSION, TLS_CIPHER_CHACHA20_POLY1305, 5 + 16 },
	{ "TLS 1.3 AES-128-GCM", TLS_1_3_VERSION, TLS_CIPHER_AES_GCM_128, 5 + 1 + 16 },
	{ "TLS 1.3 AES-256-GCM", TLS_1_3_VERSION, TLS_CIPHER_AES_GCM_256, 5 + 1 + 16 },
	{ "TLS 1.3 ChaCha20", TLS_1_3_VERSION, TLS_CIPHER_CHACHA20_POLY1305, 5 + 1 + 16 },
};
const int ktls_suite_count = sizeof(ktls_suites) / sizeof(ktls_suites[0]);

/* ---- sockets ---------------------------------------------------------- */

static void need(bool condition, const char *what)
{
	if (!condition) {
		printf("Bail out! %s: %s\n", what, strerror(errno));
		exit(1);
	}
}

void ktls_tcp_pair(int fds[2])
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	struct timeval patience = { .tv_sec = 20 };
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	need(listener >= 0, "socket");
	need(bind(listener, (struct sockaddr *)&address, length) == 0, "bind");
	need(listen(listener, 1) == 0, "listen");
	need(getsockname(listener, (struct sockaddr *)&address, &length) == 0, "getsockname");
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	need(fds[0] >= 0, "socket");
	need(connect(fds[0], (struct sockaddr *)&address, length) == 0, "connect");
	fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	need(fds[1] >= 0, "accept4");
	close(listener);
	for (int i = 0; i < 2; i++) {
		need(setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0,
		     "SO_RCVTIMEO");
		need(setsockopt(fds[i], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) == 0,
		     "SO_SNDTIMEO");
	}
}

int ktls_attach(int fd)
{
	return setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0 ? 0 : -errno;
}

/* What the kernel takes, by cipher; all begin with struct tls_crypto_info. */
union keys {
	struct tls_crypto_info info;
	struct tls12_crypto_info_aes_gcm_128 gcm_128;
	struct tls12_crypto_info_aes_gcm_256 gcm_256;
	struct tls12_crypto_info_chacha20_poly1305 chacha20;
};

/* Its size; the last 8 bytes of each are the record sequence. */
static size_t keys_bytes(const struct ktls_suite *suite)
{
	switch (suite->cipher) {
	case TLS_CIPHER_AES_GCM_128:
		return sizeof(struct tls12_crypto_info_aes_gcm_128);
	case TLS_CIPHER_AES_GCM_256:
		return sizeof(struct tls12_crypto_info_aes_gcm_256);
	default:
		return sizeof(struct tls12_crypto_info_chacha20_poly1305);
	}
}

int ktls_set_keys(int fd, int direction, const struct ktls_suite *suite, int generation)
{
	size_t bytes = keys_bytes(suite);
	union keys keys;
	unsigned char *place = (unsigned char *)&keys;

	/* iv, key and salt: any bytes that both ends agree on. */
	for (size_t i = 0; i < bytes; i++)
		place[i] = (unsigned char)(generation * 89 + (int)i * 7);
	memset(place + bytes - 8, 0, 8);
	keys.info.version = suite->version;
	keys.info.cipher_type = suite->cipher;
	return setsockopt(fd, SOL_TLS, direction, &keys, (socklen_t)bytes) == 0 ? 0 : -errno;
}

int ktls_get_keys(int fd, int direction, const struct ktls_suite *suite, uint16_t *ret_version,
		  uint16_t *ret_cipher, uint64_t *ret_sequence)
{
	size_t bytes = keys_bytes(suite);
	socklen_t length = (socklen_t)bytes;
	union keys keys;
	uint64_t sequence;

	if (getsockopt(fd, SOL_TLS, direction, &keys, &length) != 0)
		return -errno;
	memcpy(&sequence, (unsigned char *)&keys + bytes - 8, 8);
	*ret_version = keys.info.version;
	*ret_cipher = keys.info.cipher_type;
	*ret_sequence = be64toh(sequence);
	return 0;
}

int ktls_pair(const struct ktls_suite *suite, int fds[2])
{
	int r = 0;

	ktls_tcp_pair(fds);
	for (int i = 0; i < 2 && r == 0; i++) {
		r = ktls_attach(fds[i]);
		if (r == 0)
			r = ktls_set_keys(fds[i], TLS_TX, suite, 1 + i);
		if (r == 0)
			r = ktls_set_keys(fds[i], TLS_RX, suite, 2 - i);
	}
	return r;
}

void ktls_close(int fds[2])
{
	close(fds[0]);
	close(fds[1]);
}

int ktls_set_option(int fd, int option, int value)
{
	return setsockopt(fd, SOL_TLS, option, &value, sizeof(value)) == 0 ? 0 : -errno;
}

int ktls_get_option(int fd, int option)
{
	socklen_t length = sizeof(int);
	int value = -1;

	return getsockopt(fd, SOL_TLS, option, &value, &length) == 0 ? value : -errno;
}

/* ---- records ---------------------------------------------------------- */

/*
 * A call with a time limit ends with EINTR when the kernel has other work for
 * this thread, of a ring that was closed for example, and no signal at all.
 */
#define AGAIN(result) ((result) < 0 && errno == EINTR)

void ktls_prepare_send(struct msghdr *message, union ktls_control *control, uint8_t type)
{
	struct cmsghdr *header;

	message->msg_control = control->bytes;
	message->msg_controllen = CMSG_SPACE(sizeof(type));
	header = CMSG_FIRSTHDR(message);
	header->cmsg_level = SOL_TLS;
	header->cmsg_type = TLS_SET_RECORD_TYPE;
	header->cmsg_len = CMSG_LEN(sizeof(type));
	*CMSG_DATA(header) = type;
}

uint8_t ktls_record_type(struct msghdr *message)
{
	struct cmsghdr *header;

	for (header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header))
		if (header->cmsg_level == SOL_TLS && header->cmsg_type == TLS_GET_RECORD_TYPE)
			return *CMSG_DATA(header);
	return 0;
}

ssize_t ktls_send_record(int fd, uint8_t type, const void *data, size_t bytes)
{
	struct iovec part = { .iov_base = (void *)(uintptr_t)data, .iov_len = bytes };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	union ktls_control control = { .align = 0 };
	ssize_t r;

	ktls_prepare_send(&message, &control, type);
	do
		r = sendmsg(fd, &message, MSG_NOSIGNAL);
	while (AGAIN(r));
	return r < 0 ? -errno : r;
}

ssize_t ktls_recv_record(int fd, void *data, size_t bytes, uint8_t *ret_type)
{
	struct iovec part = { .iov_base = data, .iov_len = bytes };
	union ktls_control control = { .align = 0 };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1,
		.msg_control = control.bytes, .msg_controllen = sizeof(control),
	};
	ssize_t r;

	do
		r = recvmsg(fd, &message, 0);
	while (AGAIN(r));
	*ret_type = r < 0 ? 0 : ktls_record_type(&message);
	return r < 0 ? -errno : r;
}

ssize_t ktls_recv(int fd, void *data, size_t bytes)
{
	ssize_t r;

	do
		r = recv(fd, data, bytes, 0);
	while (AGAIN(r));
	return r < 0 ? -errno : r;
}

ssize_t ktls_send(int fd, const void *data, size_t bytes)
{
	ssize_t r;

	do
		r = send(fd, data, bytes, MSG_NOSIGNAL);
	while (AGAIN(r));
	return r < 0 ? -errno : r;
}

int ktls_recv_all(int fd, void *data, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t r = ktls_recv(fd, (char *)data + done, bytes - done);

		if (r <= 0)
			return r < 0 ? (int)r : -EPIPE;
		done += (size_t)r;
	}
	return 0;
}

int ktls_send_all(int fd, const void *data, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t r = ktls_send(fd, (const char *)data + done, bytes - done);

		if (r < 0)
			return (int)r;
		done += (size_t)r;
	}
	return 0;
}

bool ktls_arrives(int fd, const char *text)
{
	char got[64] = "";
	size_t bytes = strlen(text);
	int r = ktls_recv_all(fd, got, bytes);

	if (r == 0 && memcmp(got, text, bytes) == 0)
		return true;
	printf("# expected \"%s\", got %s:", text, ktls_word(r));
	for (size_t i = 0; i < bytes; i++)
		printf(" %02x", (unsigned char)got[i]);
	printf("\n");
	return false;
}

/* ---- the kernel ------------------------------------------------------- */

long ktls_stat(const char *name)
{
	FILE *file = fopen("/proc/net/tls_stat", "re");
	long value, found = -1;
	char word[64];

	if (!file)
		return -1;
	while (found < 0 && fscanf(file, "%63s %ld", word, &value) == 2)
		if (strcmp(word, name) == 0)
			found = value;
	fclose(file);
	return found;
}

/* ---- results ---------------------------------------------------------- */

static const char *about = "";
static int cases, failures;

void ktls_subject(const char *subject)
{
	about = subject;
}

static bool result(bool condition, const char *text)
{
	cases++;
	failures += !condition;
	printf("%s %d - %s: %s\n", condition ? "ok" : "not ok", cases, about, text);
	fflush(stdout);
	return condition;
}

bool ktls_ok(bool condition, const char *format, ...)
{
	char text[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	return result(condition, text);
}

bool ktls_is(long value, long expected, const char *what)
{
	bool same = value == expected;

	result(same, what);
	if (!same)
		printf("# got %ld %s, not %ld\n", value, value < 0 ? ktls_word(value) : "", expected);
	return same;
}

void ktls_fact(const char *name, const char *format, ...)
{
	va_list arguments;

	printf("# %s: %s: ", about, name);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
}

const char *ktls_word(long value)
{
	const char *name = value < 0 ? strerrorname_np((int)-value) : "ok";

	return name ? name : "?";
}

int ktls_done(void)
{
	printf("1..%d\n", cases);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
