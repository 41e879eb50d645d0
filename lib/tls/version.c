/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "version.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PROBE_TIMEOUT_MS 1000

const char *kl_tls_get_openssl_version(void)
{
	return OpenSSL_version(OPENSSL_VERSION_STRING);
}

int kl_tls_openssl_has_ktls(void)
{
#if defined(SSL_OP_ENABLE_KTLS) && !defined(OPENSSL_NO_KTLS)
	return 1;
#else
	return 0;
#endif
}

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

int kl_tls_probe_kernel(void)
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
	if (result == 0 && setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) < 0)
		result = -errno;
	close(fd);
	close(listener);
	return result;
}
