/* SPDX-License-Identifier: MulanPSL-2.0 */
/* What TLS finds on this machine, for kloop-info(1). No type of OpenSSL appears here. */
#ifndef KL_TLS_VERSION_H
#define KL_TLS_VERSION_H

/* The version of the OpenSSL in use, "3.0.19"; a constant string. */
const char *kl_tls_get_openssl_version(void);

/*
 * Was OpenSSL built with kernel TLS? Told from the headers that kLoop was
 * compiled with: the library in use cannot be asked.
 */
int kl_tls_openssl_has_ktls(void);

/*
 * Ask the kernel for its TLS on a connection to ourselves, which the kernel
 * alone completes. Waits at most a second, for a packet filter on the loopback
 * interface may swallow the connection.
 *
 * Returns: 0 if it is there; -ENOENT if it is not built or its module "tls" is
 * not loaded (loading by need takes CAP_NET_ADMIN); another negative errno if
 * the question could not be asked: -ETIMEDOUT, -ENETUNREACH, -EMFILE, ...
 */
int kl_tls_probe_kernel(void);

#endif
