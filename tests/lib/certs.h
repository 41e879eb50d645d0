/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Certificates for tests, made in the process that asks, each once: a CA of our
 * own, what it signed, and what a peer must refuse.
 *
 * What is returned belongs to this file and stays until the process ends.
 * Failures end the test through Check.
 */
#ifndef KT_CERTS_H
#define KT_CERTS_H

#include <openssl/evp.h>
#include <openssl/x509.h>

/*
 * Keys are ECDSA P-256 but for KT_CERT_RSA. Servers are named
 * "localhost", "example.test", "*.wild.test", "pre*.part.test", 127.0.0.1 and
 * ::1 but where something else is said; the names of clients are mail addresses.
 */
enum kt_cert {
	KT_CERT_CA,	      /* trust this one */
	KT_CERT_OTHER_CA,     /* and not this one */
	KT_CERT_INTERMEDIATE, /* a CA by KT_CERT_CA */
	KT_CERT_SERVER,
	KT_CERT_RSA,	     /* as KT_CERT_SERVER, RSA of 2048 bits */
	KT_CERT_CHAINED,     /* by KT_CERT_INTERMEDIATE, which is in its PEM text */
	KT_CERT_OTHER_NAME,  /* "other.test" only */
	KT_CERT_COMMON_NAME, /* no names but the subject's common name, "example.test" */
	KT_CERT_EXPIRED,
	KT_CERT_FUTURE, /* not valid yet */
	KT_CERT_SELF_SIGNED,
	KT_CERT_UNTRUSTED, /* by KT_CERT_OTHER_CA */
	KT_CERT_CLIENT,
	KT_CERT_CLIENT_EXPIRED,
	KT_CERT_CLIENT_UNTRUSTED,
	KT_CERT_COUNT,
};

/* As OpenSSL has them; no reference is handed over. */
X509 *kt_cert_get(enum kt_cert which);
EVP_PKEY *kt_cert_get_key(enum kt_cert which);

/* As PEM text: the certificate and its intermediates, and the key. */
const char *kt_cert_pem(enum kt_cert which);
const char *kt_cert_key_pem(enum kt_cert which);

/* The key, encrypted with the password "secret". */
const char *kt_cert_encrypted_key_pem(enum kt_cert which);

/*
 * The same as files, in a folder of this process that is removed when it ends:
 * "server.pem", "server-key.pem" and so on.
 */
const char *kt_cert_path(enum kt_cert which);
const char *kt_cert_key_path(enum kt_cert which);

/* The folder, and a file in it with this text; returns its path, which is freed with free(3). */
const char *kt_cert_folder(void);
char *kt_cert_write(const char *name, const char *text);

#endif
