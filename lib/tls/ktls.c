/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "ktls.h"

#include <errno.h>
#include <kloop/base.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What headers older than the kernel may lack. */
#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef TLS_TX_ZEROCOPY_RO
#define TLS_TX_ZEROCOPY_RO 3
#endif

/* The kernel's interface, as far as it is used here. */
_Static_assert(SOL_TLS == 282 && TCP_ULP == 31, "levels and options of sockets");
_Static_assert(TLS_TX == 1 && TLS_RX == 2 && TLS_TX_ZEROCOPY_RO == 3, "options of TLS");
_Static_assert(TLS_SET_RECORD_TYPE == 1 && TLS_GET_RECORD_TYPE == 2, "control messages of TLS");
_Static_assert(TLS_1_2_VERSION == 0x0303 && TLS_1_3_VERSION == 0x0304, "versions of TLS");
_Static_assert(TLS_CIPHER_AES_GCM_128 == 51 && TLS_CIPHER_AES_GCM_256 == 52 &&
		       TLS_CIPHER_CHACHA20_POLY1305 == 54,
	       "ciphers of TLS");
_Static_assert(sizeof(struct tls_crypto_info) == 4, "no padding");
_Static_assert(sizeof(struct tls12_crypto_info_aes_gcm_128) == 4 + 8 + 16 + 4 + 8, "no padding");
_Static_assert(sizeof(struct tls12_crypto_info_aes_gcm_256) == 4 + 8 + 32 + 4 + 8, "no padding");
_Static_assert(sizeof(struct tls12_crypto_info_chacha20_poly1305) == 4 + 12 + 32 + 8, "no padding");

#define PROBE_TIMEOUT_MS 1000

union crypto_info {
	struct tls_crypto_info info;
	struct tls12_crypto_info_aes_gcm_128 gcm128;
	struct tls12_crypto_info_aes_gcm_256 gcm256;
	struct tls12_crypto_info_chacha20_poly1305 chacha;
};

/* ---- keys ------------------------------------------------------------- */

static void put_64(uint8_t *out, uint64_t value)
{
	for (int i = 7; i >= 0; i--) {
		out[i] = (uint8_t)value;
		value >>= 8;
	}
}

/*
 * Both structs for GCM differ in the key's length alone. The nonce is salt and
 * iv: with TLS 1.2 the iv is what goes over the wire, with TLS 1.3 the kernel
 * combines it with the sequence.
 */
static void fill_gcm(const struct kl_tls_key *key, uint64_t nonce, uint8_t *out_key, uint8_t *salt,
		     uint8_t *iv, uint8_t *rec_seq)
{
	memcpy(out_key, key->key, key->key_bytes);
	memcpy(salt, key->iv, 4);
	if (key->version == TLS_1_3_VERSION)
		memcpy(iv, key->iv + 4, 8);
	else
		put_64(iv, nonce);
	put_64(rec_seq, key->sequence);
}

/* Returns: the bytes of the struct; 0 for a cipher that the kernel cannot know. */
static socklen_t fill(union crypto_info *out, const struct kl_tls_key *key, uint64_t nonce)
{
	memset(out, 0, sizeof(*out));
	out->info.version = key->version;
	switch (key->aead) {
	case KL_TLS_AES_128_GCM:
		out->info.cipher_type = TLS_CIPHER_AES_GCM_128;
		fill_gcm(key, nonce, out->gcm128.key, out->gcm128.salt, out->gcm128.iv,
			 out->gcm128.rec_seq);
		return sizeof(out->gcm128);
	case KL_TLS_AES_256_GCM:
		out->info.cipher_type = TLS_CIPHER_AES_GCM_256;
		fill_gcm(key, nonce, out->gcm256.key, out->gcm256.salt, out->gcm256.iv,
			 out->gcm256.rec_seq);
		return sizeof(out->gcm256);
	case KL_TLS_CHACHA20_POLY1305:
		out->info.cipher_type = TLS_CIPHER_CHACHA20_POLY1305;
		memcpy(out->chacha.key, key->key, sizeof(out->chacha.key));
		memcpy(out->chacha.iv, key->iv, sizeof(out->chacha.iv));
		put_64(out->chacha.rec_seq, key->sequence);
		return sizeof(out->chacha);
	default:
		return 0;
	}
}

int kl_ktls_set_key(int fd, bool send, const struct kl_tls_key *key, uint64_t nonce)
{
	union crypto_info info;
	socklen_t bytes = fill(&info, key, nonce);
	int error = 0;

	if (bytes == 0)
		return KLOOP_ERROR_KTLS_CIPHER;
	if (setsockopt(fd, SOL_TLS, send ? TLS_TX : TLS_RX, &info, bytes) < 0)
		error = -errno;
	OPENSSL_cleanse(&info, sizeof(info));
	/* ENOENT: the cipher's module; EINVAL: unknown to the kernel, or not for this version. */
	if (error == -ENOENT || error == -EINVAL || error == -EOPNOTSUPP)
		return KLOOP_ERROR_KTLS_CIPHER;
	return error;
}

/* ---- the probe -------------------------------------------------------- */

/* A listener on a free port of the loopback address; stores where it is. */
static int listen_on_loopback(struct sockaddr_in *address)
{
	socklen_t length = sizeof(*address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error;

	if (fd < 0)
		return -errno;
	*address = (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	if (bind(fd, (struct sockaddr *)address, sizeof(*address)) == 0 && listen(fd, 1) == 0 &&
	    getsockname(fd, (struct sockaddr *)address, &length) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

/* Connect without blocking beyond the time-out. The kernel takes a ULP once established. */
static int connect_bounded(int fd, const struct sockaddr_in *address)
{
	struct pollfd wait = { .fd = fd, .events = POLLOUT };
	socklen_t length = sizeof(int);
	int error = 0;
	int ready;

	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return -errno;
	do {
		ready = poll(&wait, 1, PROBE_TIMEOUT_MS);
	} while (ready < 0 && errno == EINTR);
	if (ready < 0)
		return -errno;
	if (ready == 0)
		return -ETIMEDOUT;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
		return -errno;
	return -error;
}

/* What a connection's end can do; nothing is ever sent with the key that it gets. */
static int ask(int fd, unsigned *ret_abilities)
{
	struct kl_tls_key key = {
		.version = TLS_1_3_VERSION,
		.aead = KL_TLS_AES_128_GCM,
		.key_bytes = 16,
	};

	if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) < 0)
		return -errno;
	*ret_abilities = KL_KTLS_ULP;
	if (kl_ktls_set_key(fd, true, &key, 0) == 0 && kl_ktls_set_key(fd, true, &key, 0) == 0)
		*ret_abilities |= KL_KTLS_REKEY;
	return 0;
}

int kl_ktls_probe(unsigned *ret_abilities)
{
	struct sockaddr_in address;
	int listener = listen_on_loopback(&address);
	int result;
	int fd;

	if (listener < 0)
		return listener;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		result = -errno;
		close(listener);
		return result;
	}
	result = connect_bounded(fd, &address);
	if (result == 0)
		result = ask(fd, ret_abilities);
	close(fd);
	close(listener);
	return result;
}

/* ---- abilities -------------------------------------------------------- */

static pthread_mutex_t abilities_lock = PTHREAD_MUTEX_INITIALIZER;
static bool abilities_known;
static unsigned abilities;

bool kl_ktls_is_off(void)
{
	const char *value = getenv("KLOOP_KTLS");

	return value && strcmp(value, "0") == 0;
}

/* A want of descriptors or memory passes; any other answer holds. */
static bool is_passing(int error)
{
	return error == -EMFILE || error == -ENFILE || error == -ENOMEM || error == -ENOBUFS;
}

unsigned kl_ktls_get_abilities(void)
{
	unsigned found = 0;
	int r;

	if (kl_ktls_is_off())
		return 0;
	pthread_mutex_lock(&abilities_lock);
	if (!abilities_known) {
		r = kl_ktls_probe(&found);
		abilities = found;
		abilities_known = !is_passing(r);
	}
	found = abilities;
	pthread_mutex_unlock(&abilities_lock);
	return found;
}

/* ---- one socket ------------------------------------------------------- */

int kl_ktls_attach(int fd)
{
	if (kl_ktls_is_off())
		return KLOOP_ERROR_KTLS_OFF;
	if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0)
		return 0;
	switch (errno) {
	case EEXIST:
		return 0;
	case ENOENT:
		return KLOOP_ERROR_KTLS_MISSING;
	case EOPNOTSUPP:
	case ENOPROTOOPT:
		return KLOOP_ERROR_KTLS_SOCKET;
	default:
		return -errno;
	}
}

int kl_ktls_set_zero_copy(int fd)
{
	const int on = 1;

	return setsockopt(fd, SOL_TLS, TLS_TX_ZEROCOPY_RO, &on, sizeof(on)) < 0 ? -errno : 0;
}

void kl_ktls_put_type(struct msghdr *message, void *control, uint8_t type)
{
	struct cmsghdr *header;

	/* What pads the message must not be uninitialized: the kernel reads it. */
	memset(control, 0, KL_KTLS_CONTROL_BYTES);
	message->msg_control = control;
	message->msg_controllen = KL_KTLS_CONTROL_BYTES;
	header = CMSG_FIRSTHDR(message);
	header->cmsg_level = SOL_TLS;
	header->cmsg_type = TLS_SET_RECORD_TYPE;
	header->cmsg_len = CMSG_LEN(sizeof(unsigned char));
	*CMSG_DATA(header) = type;
}

int kl_ktls_get_type(struct msghdr *message)
{
	struct cmsghdr *header;
	size_t offset;

	for (header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		offset = (size_t)((char *)header - (char *)message->msg_control);
		if (header->cmsg_level == SOL_TLS && header->cmsg_type == TLS_GET_RECORD_TYPE &&
		    header->cmsg_len >= CMSG_LEN(sizeof(unsigned char)) &&
		    header->cmsg_len <= message->msg_controllen - offset)
			return *CMSG_DATA(header);
	}
	return -1;
}
