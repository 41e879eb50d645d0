/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What every other header of kLoop uses: declarations, error codes, memory.
 *
 * Conventions of the whole library:
 *
 * - A function that can fail returns int: 0 or a count, or a negative code.
 *   -1 to -4095 is a negated errno; the library's own codes lie below that
 *   (enum kloop_error). kloop_strerror() names both.
 * - Outputs are the last parameters, are named ret_*, and are written on
 *   success only.
 * - Misuse has its own codes: -EINVAL for a bad argument, -EPERM for a call
 *   from a thread that does not own the loop, -ECHILD for a loop that was made
 *   before fork(2) and is used in the child, -ESTALE for an object that is
 *   closed.
 * - Time is in nanoseconds on CLOCK_MONOTONIC.
 */
#ifndef KLOOP_BASE_H
#define KLOOP_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define KLOOP_BEGIN_DECLS extern "C" {
#define KLOOP_END_DECLS }
#else
#define KLOOP_BEGIN_DECLS
#define KLOOP_END_DECLS
#endif

#if defined(__GNUC__)
#define KLOOP_EXPORT __attribute__((visibility("default")))
#define KLOOP_MUST_CHECK __attribute__((warn_unused_result))
#else
#define KLOOP_EXPORT
#define KLOOP_MUST_CHECK
#endif

KLOOP_BEGIN_DECLS

/* A time-out or deadline that never comes. */
#define KLOOP_FOREVER UINT64_MAX

/*
 * Codes of the library itself, below the range of errno.
 *
 * The first block says why io_uring cannot be used. kloop_loop_new() returns
 * them, kloop_info_get_usable() too; each calls for another remedy.
 */
enum kloop_error {
	/* The environment variable KLOOP_IO_URING is 0; no system call was made. */
	KLOOP_ERROR_RING_OFF = -4096,
	/*
	 * The kernel refused with EPERM: a seccomp profile (the default one of
	 * container engines) or the sysctl kernel.io_uring_disabled.
	 */
	KLOOP_ERROR_RING_DENIED = -4097,
	/* The kernel has no io_uring (ENOSYS): built without it, or seccomp says so. */
	KLOOP_ERROR_RING_MISSING = -4098,
	/* The kernel's io_uring lacks what kLoop needs: it is older than Linux 5.11. */
	KLOOP_ERROR_RING_TOO_OLD = -4099,

	/*
	 * TLS. kloop_tls_get_error_text() and its neighbours tell more.
	 *
	 * The peer broke the protocol: a bad record, a message out of place, no
	 * version or cipher in common, or what it sends is not TLS at all.
	 */
	KLOOP_ERROR_TLS_PROTOCOL = -4200,
	/* The peer's certificate is missing, not trusted, or does not fit the name. */
	KLOOP_ERROR_TLS_VERIFY = -4201,
	/* The peer sent a fatal alert: kloop_tls_get_alert(). */
	KLOOP_ERROR_TLS_ALERT = -4202,
	/* The connection ended without close_notify: data may be missing. */
	KLOOP_ERROR_TLS_TRUNCATED = -4203,
	/* OpenSSL failed for a reason that has nothing to do with the peer. */
	KLOOP_ERROR_TLS_LIBRARY = -4204,
	/* A certificate or key to be used is not usable. */
	KLOOP_ERROR_TLS_CERTIFICATE = -4205,
	/* Keys had to be renewed, and the kernel, which has them, cannot (before 6.14). */
	KLOOP_ERROR_TLS_KEY_UPDATE = -4206,

	/*
	 * Why a direction of a TLS connection is not in the kernel
	 * (kloop_tls_get_ktls()); none of them is an error of the connection.
	 *
	 * Switched off by kloop_tls_set_ktls() or the environment.
	 */
	KLOOP_ERROR_KTLS_OFF = -4220,
	/* The kernel has no TLS: not built, or its module "tls" is not loaded. */
	KLOOP_ERROR_KTLS_MISSING = -4221,
	/* Kernel and library have not got the cipher or version in common. */
	KLOOP_ERROR_KTLS_CIPHER = -4222,
	/* OpenSSL did not hand out the keys: another key-log callback was set. */
	KLOOP_ERROR_KTLS_SECRETS = -4223,
	/* Not so far: the handshake is under way, or KLOOP_KTLS_AUTO saw no gain. */
	KLOOP_ERROR_KTLS_UNUSED = -4224,
	/* It is no TCP connection. */
	KLOOP_ERROR_KTLS_SOCKET = -4225,

	/*
	 * The resolver; kloop_dns_get_eai() has the code of getaddrinfo(3) for
	 * each.
	 */
	/* There is no such name (EAI_NONAME), or it is no name. */
	KLOOP_ERROR_DNS_NONAME = -4300,
	/* The name exists, and has no address or record of the kind asked for (EAI_NODATA). */
	KLOOP_ERROR_DNS_NODATA = -4301,
	/* The servers failed or refused; later it may work (EAI_AGAIN). */
	KLOOP_ERROR_DNS_AGAIN = -4302,
	/* No server answered in time (EAI_AGAIN). */
	KLOOP_ERROR_DNS_TIMEOUT = -4303,
	/* The servers do not understand the question, or answer nonsense (EAI_FAIL). */
	KLOOP_ERROR_DNS_FAIL = -4304,
	/* ai_flags has an unknown bit, or AI_CANONNAME without a name (EAI_BADFLAGS). */
	KLOOP_ERROR_DNS_FLAGS = -4305,
	/* ai_family is neither AF_UNSPEC, AF_INET nor AF_INET6 (EAI_FAMILY). */
	KLOOP_ERROR_DNS_FAMILY = -4306,
	/* ai_socktype and ai_protocol do not go together (EAI_SOCKTYPE). */
	KLOOP_ERROR_DNS_SOCKTYPE = -4307,
	/* The service is unknown, or no port (EAI_SERVICE). */
	KLOOP_ERROR_DNS_SERVICE = -4308,
	/* A numeric address of the other family (EAI_ADDRFAMILY). */
	KLOOP_ERROR_DNS_ADDRFAMILY = -4309,
	/*
	 * nsswitch.conf gives the name to a module that is not the library's:
	 * getaddrinfo(3), which may block, can find it (EAI_AGAIN).
	 */
	KLOOP_ERROR_DNS_NSS = -4310,
	/*
	 * No server could be asked by TLS: a handshake failed, a certificate is
	 * not to be trusted (EAI_AGAIN). kloop_resolver_get_server() tells why.
	 */
	KLOOP_ERROR_DNS_TLS = -4311,
};

/*
 * The text for a code that a function of this library returned.
 *
 * code: a negative errno, a value of enum kloop_error, or 0.
 *
 * Ownership: a constant string, never NULL.
 * Thread: any.
 * Since: 0.1.
 */
KLOOP_EXPORT const char *kloop_strerror(int code);

/*
 * The name of a code: "EPERM", "KLOOP_ERROR_RING_OFF"; "OK" for 0, "UNKNOWN" for
 * any other.
 *
 * Ownership: a constant string, never NULL.
 * Thread: any.
 * Since: 0.1.
 */
KLOOP_EXPORT const char *kloop_error_name(int code);

/*
 * Memory functions that the library uses for all its own allocations.
 *
 * They follow malloc(3), realloc(3) and free(3), and may be called from any
 * thread. Memory that OpenSSL, ldns and liburing allocate is not theirs.
 */
struct kloop_allocator {
	void *(*malloc)(size_t size, void *data);
	void *(*realloc)(void *memory, size_t size, void *data);
	void (*free)(void *memory, void *data);
	void *data;
};

/*
 * Replace the library's memory functions.
 *
 * allocator: the functions; NULL restores those of libc.
 *
 * Call it before any other function of the library: memory that one allocator
 * gave is freed by the one in force.
 *
 * Ownership: the struct is copied.
 * Thread: any, while no other thread is inside the library.
 * Returns: 0; -EINVAL if one of the three functions is NULL.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_set_allocator(const struct kloop_allocator *allocator) KLOOP_MUST_CHECK;

KLOOP_END_DECLS

#endif
