/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The one table of the library's own codes. */
#include <kloop/base.h>

#include <string.h>

static const struct {
	int code;
	const char *name;
	const char *text;
} errors[] = {
	{ KLOOP_ERROR_RING_OFF, "KLOOP_ERROR_RING_OFF",
	  "io_uring is switched off by KLOOP_IO_URING=0" },
	{ KLOOP_ERROR_RING_DENIED, "KLOOP_ERROR_RING_DENIED",
	  "io_uring is denied by seccomp or kernel.io_uring_disabled" },
	{ KLOOP_ERROR_RING_MISSING, "KLOOP_ERROR_RING_MISSING", "the kernel has no io_uring" },
	{ KLOOP_ERROR_RING_TOO_OLD, "KLOOP_ERROR_RING_TOO_OLD",
	  "the kernel's io_uring is too old (Linux 5.11 is needed)" },
	{ KLOOP_ERROR_TLS_PROTOCOL, "KLOOP_ERROR_TLS_PROTOCOL",
	  "the peer broke the TLS protocol" },
	{ KLOOP_ERROR_TLS_VERIFY, "KLOOP_ERROR_TLS_VERIFY",
	  "the peer's certificate is not acceptable" },
	{ KLOOP_ERROR_TLS_ALERT, "KLOOP_ERROR_TLS_ALERT", "the peer sent a fatal TLS alert" },
	{ KLOOP_ERROR_TLS_TRUNCATED, "KLOOP_ERROR_TLS_TRUNCATED",
	  "the connection ended without close_notify" },
	{ KLOOP_ERROR_TLS_LIBRARY, "KLOOP_ERROR_TLS_LIBRARY", "OpenSSL failed" },
	{ KLOOP_ERROR_TLS_CERTIFICATE, "KLOOP_ERROR_TLS_CERTIFICATE",
	  "the certificate or key is not usable" },
	{ KLOOP_ERROR_TLS_KEY_UPDATE, "KLOOP_ERROR_TLS_KEY_UPDATE",
	  "the kernel cannot renew the TLS keys (Linux 6.14 is needed)" },
	{ KLOOP_ERROR_KTLS_OFF, "KLOOP_ERROR_KTLS_OFF", "kernel TLS is switched off" },
	{ KLOOP_ERROR_KTLS_MISSING, "KLOOP_ERROR_KTLS_MISSING", "the kernel has no TLS" },
	{ KLOOP_ERROR_KTLS_CIPHER, "KLOOP_ERROR_KTLS_CIPHER",
	  "the kernel's TLS has not got this cipher or version" },
	{ KLOOP_ERROR_KTLS_SECRETS, "KLOOP_ERROR_KTLS_SECRETS",
	  "OpenSSL did not hand out the keys" },
	{ KLOOP_ERROR_KTLS_UNUSED, "KLOOP_ERROR_KTLS_UNUSED", "there was no need so far" },
	{ KLOOP_ERROR_KTLS_SOCKET, "KLOOP_ERROR_KTLS_SOCKET", "it is no TCP connection" },
	{ KLOOP_ERROR_DNS_NONAME, "KLOOP_ERROR_DNS_NONAME", "name or service not known" },
	{ KLOOP_ERROR_DNS_NODATA, "KLOOP_ERROR_DNS_NODATA",
	  "the name has no address or record of this kind" },
	{ KLOOP_ERROR_DNS_AGAIN, "KLOOP_ERROR_DNS_AGAIN", "name servers failed or refused" },
	{ KLOOP_ERROR_DNS_TIMEOUT, "KLOOP_ERROR_DNS_TIMEOUT", "no name server answered in time" },
	{ KLOOP_ERROR_DNS_FAIL, "KLOOP_ERROR_DNS_FAIL", "name servers gave no usable answer" },
	{ KLOOP_ERROR_DNS_FLAGS, "KLOOP_ERROR_DNS_FLAGS", "bad flags for a lookup" },
	{ KLOOP_ERROR_DNS_FAMILY, "KLOOP_ERROR_DNS_FAMILY", "address family not supported" },
	{ KLOOP_ERROR_DNS_SOCKTYPE, "KLOOP_ERROR_DNS_SOCKTYPE",
	  "socket type and protocol do not go together" },
	{ KLOOP_ERROR_DNS_SERVICE, "KLOOP_ERROR_DNS_SERVICE",
	  "service unknown for this socket type" },
	{ KLOOP_ERROR_DNS_ADDRFAMILY, "KLOOP_ERROR_DNS_ADDRFAMILY",
	  "a numeric address of another family" },
	{ KLOOP_ERROR_DNS_NSS, "KLOOP_ERROR_DNS_NSS",
	  "nsswitch.conf wants a module that only getaddrinfo(3) has" },
	{ KLOOP_ERROR_DNS_TLS, "KLOOP_ERROR_DNS_TLS", "no name server could be asked by TLS" },
};

const char *kloop_strerror(int code)
{
	const char *text;

	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		if (errors[i].code == code)
			return errors[i].text;
	}
	if (code == 0)
		return "success";
	/* strerrordesc_np() is constant and not translated, unlike strerror(3). */
	text = code < 0 && code >= -4095 ? strerrordesc_np(-code) : NULL;
	return text != NULL ? text : "unknown error";
}

const char *kloop_error_name(int code)
{
	const char *name;

	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		if (errors[i].code == code)
			return errors[i].name;
	}
	if (code == 0)
		return "OK";
	name = code < 0 && code >= -4095 ? strerrorname_np(-code) : NULL;
	return name != NULL ? name : "UNKNOWN";
}
