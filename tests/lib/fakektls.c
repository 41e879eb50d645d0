/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The fake kernel's sockets, and the system calls on them: see fakektls.h. */
#include "fakektls-internal.h"
#include "support.h"
#include "tls/ktls.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

struct kt_ktls_kernel kt_ktls_kernel;

static bool installed;
static struct kt_ktls_socket *sockets;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the list */

unsigned __real_kl_ktls_get_abilities(void);
ssize_t __real_sendfile(int out, int in, off_t *offset, size_t bytes);
unsigned __wrap_kl_ktls_get_abilities(void);
int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t bytes);
ssize_t __wrap_send(int fd, const void *data, size_t bytes, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_recv(int fd, void *buffer, size_t bytes, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_sendfile(int out, int in, off_t *offset, size_t bytes);

/* ---- sockets ---------------------------------------------------------- */

void kt_ktls_install(const struct kt_ktls_kernel *kernel)
{
	kt_ktls_remove();
	kt_ktls_kernel = *kernel;
	installed = true;
}

void kt_ktls_remove(void)
{
	struct kt_ktls_socket *socket;

	kt_ktls_forget_buffers();
	pthread_mutex_lock(&lock);
	while ((socket = sockets)) {
		sockets = socket->next;
		free(socket);
	}
	pthread_mutex_unlock(&lock);
	memset(&kt_ktls_kernel, 0, sizeof(kt_ktls_kernel));
	installed = false;
}

struct kt_ktls_socket *kt_ktls_find(int fd)
{
	struct kt_ktls_socket *socket;
	struct stat stat;

	if (!installed || fstat(fd, &stat) < 0)
		return NULL;
	pthread_mutex_lock(&lock);
	for (socket = sockets; socket; socket = socket->next)
		if (socket->fd == fd && socket->device == stat.st_dev &&
		    socket->inode == stat.st_ino)
			break;
	pthread_mutex_unlock(&lock);
	return socket;
}

bool kt_ktls_get_state(int fd, struct kt_ktls_state *ret_state)
{
	struct kt_ktls_socket *socket = kt_ktls_find(fd);

	if (!socket)
		return false;
	*ret_state = socket->state;
	ret_state->sends = socket->send.on;
	ret_state->receives = socket->receive.on;
	return true;
}

static int attach(int fd, const void *value, socklen_t bytes)
{
	const int room = 4 << 20;
	struct kt_ktls_socket *socket;
	struct sockaddr_storage peer;
	socklen_t length = sizeof(peer);
	struct stat stat;
	int protocol = 0;

	ck_assert(bytes >= 3 && memcmp(value, "tls", 3) == 0);
	length = sizeof(protocol);
	if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) < 0)
		return -errno;
	if (protocol != IPPROTO_TCP)
		return -EOPNOTSUPP;
	if (kt_ktls_find(fd))
		return -EEXIST;
	if (kt_ktls_kernel.missing)
		return -ENOENT;
	length = sizeof(peer);
	if (getpeername(fd, (struct sockaddr *)&peer, &length) < 0 || fstat(fd, &stat) < 0)
		return -errno;
	socket = calloc(1, sizeof(*socket));
	ck_assert_ptr_nonnull(socket);
	socket->fd = fd;
	socket->device = stat.st_dev;
	socket->inode = stat.st_ino;
	ck_assert_int_eq(__real_setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)), 0);
	pthread_mutex_lock(&lock);
	socket->next = sockets;
	sockets = socket;
	pthread_mutex_unlock(&lock);
	return 0;
}

/* The bytes that Linux wants for a cipher; 0 for one that it has not got. */
static socklen_t get_info_bytes(unsigned cipher)
{
	switch (cipher) {
	case TLS_CIPHER_AES_GCM_128:
		return sizeof(struct tls12_crypto_info_aes_gcm_128);
	case TLS_CIPHER_AES_GCM_256:
		return sizeof(struct tls12_crypto_info_aes_gcm_256);
	case TLS_CIPHER_CHACHA20_POLY1305:
		return sizeof(struct tls12_crypto_info_chacha20_poly1305);
	default:
		return 0;
	}
}

static int set_key(struct kt_ktls_socket *socket, bool send, const void *value, socklen_t bytes)
{
	struct kt_ktls_direction *direction = send ? &socket->send : &socket->receive;
	int refusal = send ? kt_ktls_kernel.refuse_send : kt_ktls_kernel.refuse_receive;
	const unsigned char *iv;
	struct tls_crypto_info info;

	if (bytes < sizeof(info))
		return -EINVAL;
	if (direction->on &&
	    (!kt_ktls_kernel.rekey || direction->info.info.version != TLS_1_3_VERSION))
		return -EBUSY;
	memcpy(&info, value, sizeof(info));
	if ((info.version != TLS_1_2_VERSION && info.version != TLS_1_3_VERSION) ||
	    get_info_bytes(info.cipher_type) != bytes)
		return -EINVAL;
	if (refusal)
		return -refusal;
	if (direction->on && memcmp(&direction->info.info, &info, sizeof(info)) != 0)
		return -EINVAL;
	memset(&direction->info, 0, sizeof(direction->info));
	memcpy(&direction->info, value, bytes);
	direction->on = true;
	if (!send) {
		socket->state.receive_keys++;
		socket->expired = false;
		return 0;
	}
	socket->state.send_keys++;
	iv = (const unsigned char *)value + sizeof(info);
	socket->state.first_nonce = 0;
	for (int i = 0; i < 8; i++)
		socket->state.first_nonce = socket->state.first_nonce << 8 | iv[i];
	return 0;
}

static int set_option(int fd, int option, const void *value, socklen_t bytes)
{
	struct kt_ktls_socket *socket = kt_ktls_find(fd);

	if (!socket)
		return -ENOPROTOOPT;
	switch (option) {
	case TLS_TX:
	case TLS_RX:
		return set_key(socket, option == TLS_TX, value, bytes);
	case TLS_TX_ZEROCOPY_RO:
		if (!socket->send.on || bytes != sizeof(int))
			return -EINVAL;
		socket->state.zero_copy = *(const int *)value;
		return 0;
	default:
		return -ENOPROTOOPT;
	}
}

/* ---- system calls ----------------------------------------------------- */

static int answer(int r)
{
	if (r >= 0)
		return r;
	errno = -r;
	return -1;
}

int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t bytes)
{
	if (installed && level == IPPROTO_TCP && option == TCP_ULP)
		return answer(attach(fd, value, bytes));
	if (installed && level == KT_KTLS_SOL)
		return answer(set_option(fd, option, value, bytes));
	/* A small send buffer would have records get stuck. */
	if (level == SOL_SOCKET && option == SO_SNDBUF && kt_ktls_find(fd))
		return 0;
	return __real_setsockopt(fd, level, option, value, bytes);
}

unsigned __wrap_kl_ktls_get_abilities(void)
{
	if (!installed)
		return __real_kl_ktls_get_abilities();
	if (kl_ktls_is_off() || kt_ktls_kernel.missing)
		return 0;
	return KL_KTLS_ULP | (kt_ktls_kernel.rekey ? KL_KTLS_REKEY : 0);
}

/* Does this call have to wait, and is it ready after that? */
static bool may_wait(int fd, ssize_t r, int flags, short events)
{
	struct pollfd wait = { .fd = fd, .events = events };

	if (r != -EAGAIN || (flags & MSG_DONTWAIT) || (fcntl(fd, F_GETFL) & O_NONBLOCK))
		return false;
	ck_assert_msg(poll(&wait, 1, KT_PATIENCE_MS) == 1, "a blocking call on a fake socket");
	return true;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	struct kt_ktls_socket *socket = kt_ktls_find(fd);
	ssize_t r;

	if (!socket || !socket->send.on)
		return __real_sendmsg(fd, message, flags);
	do {
		r = kt_ktls_send(socket, message, flags);
	} while (may_wait(fd, r, flags, POLLOUT));
	return answer((int)r);
}

ssize_t __wrap_send(int fd, const void *data, size_t bytes, int flags)
{
	struct kt_ktls_socket *socket = kt_ktls_find(fd);
	struct iovec vector = { (void *)(uintptr_t)data, bytes };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };

	if (!socket || !socket->send.on)
		return __real_send(fd, data, bytes, flags);
	return __wrap_sendmsg(fd, &message, flags);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
	struct kt_ktls_socket *socket = kt_ktls_find(fd);
	struct msghdr tried;
	ssize_t r;

	if (!socket || !socket->receive.on)
		return __real_recvmsg(fd, message, flags);
	do {
		tried = *message;
		r = kt_ktls_receive(socket, &tried, flags);
	} while (may_wait(fd, r, flags, POLLIN));
	if (r >= 0)
		*message = tried;
	return answer((int)r);
}

ssize_t __wrap_recv(int fd, void *buffer, size_t bytes, int flags)
{
	struct kt_ktls_socket *socket = kt_ktls_find(fd);
	struct iovec vector = { buffer, bytes };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };

	if (!socket || !socket->receive.on)
		return __real_recv(fd, buffer, bytes, flags);
	return __wrap_recvmsg(fd, &message, flags);
}

ssize_t __wrap_sendfile(int out, int in, off_t *offset, size_t bytes)
{
	struct kt_ktls_socket *socket = kt_ktls_find(out);
	char data[KT_KTLS_PLAIN];
	ssize_t got, sent;

	if (!socket || !socket->send.on)
		return __real_sendfile(out, in, offset, bytes);
	if (bytes > sizeof(data))
		bytes = sizeof(data);
	got = offset ? pread(in, data, bytes, *offset) : read(in, data, bytes);
	if (got <= 0)
		return got;
	sent = __wrap_send(out, data, (size_t)got, MSG_NOSIGNAL);
	if (sent > 0 && offset)
		*offset += sent;
	else if (!offset && sent != got)
		lseek(in, (sent > 0 ? sent : 0) - got, SEEK_CUR);
	return sent;
}
