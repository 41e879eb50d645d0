/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "version.h"

#include <openssl/crypto.h>
#include <openssl/ssl.h>

#include "ktls.h"

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

int kl_tls_probe_kernel(void)
{
	unsigned abilities;

	return kl_ktls_probe(&abilities);
}
