/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Certificates, keys and trust, from PEM files and PEM text. Everything is
 * parsed before a context is touched, so that a failure leaves it as it was.
 */
#include "tls.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The trust store of a system is about 200 KiB. */
#define FILE_MAX ((size_t)16 << 20)
#define READ_AT_LEAST ((size_t)4096)

/* ---- files ------------------------------------------------------------ */

/* The content of a file, which may be a key: it is wiped wherever it was. */
struct content {
	uint8_t *data;
	size_t bytes;
	size_t capacity;
};

static void free_content(struct content *content)
{
	if (content->data)
		OPENSSL_cleanse(content->data, content->capacity);
	kl_free(content->data);
}

static int make_room(struct content *content)
{
	struct content larger = { .bytes = content->bytes };

	if (content->bytes > FILE_MAX)
		return -EFBIG;
	if (content->capacity - content->bytes >= READ_AT_LEAST)
		return 0;
	larger.capacity = 2 * (content->bytes + READ_AT_LEAST);
	larger.data = kl_malloc(larger.capacity);
	if (!larger.data)
		return -ENOMEM;
	if (content->bytes > 0)
		memcpy(larger.data, content->data, content->bytes);
	free_content(content);
	*content = larger;
	return 0;
}

static int read_all(int fd, struct content *content)
{
	ssize_t got;
	int r;

	for (;;) {
		r = make_room(content);
		if (r < 0)
			return r;
		got = read(fd, content->data + content->bytes, content->capacity - content->bytes);
		if (got == 0)
			return 0;
		if (got > 0)
			content->bytes += (size_t)got;
		else if (errno != EINTR)
			return -errno;
	}
}

static int read_file(const char *path, struct content *ret_content)
{
	struct content content = { 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	r = read_all(fd, &content);
	close(fd);
	if (r < 0)
		free_content(&content);
	else
		*ret_content = content;
	return r;
}

/* Can a folder be searched? X509_STORE_load_path() does not look. */
static int check_folder(const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return -errno;
	if (!S_ISDIR(status.st_mode))
		return -ENOTDIR;
	return access(path, R_OK | X_OK) < 0 ? -errno : 0;
}

/* ---- parsing ---------------------------------------------------------- */

/* Why OpenSSL refused: the input's fault, unless memory ran out. Empties its queue. */
static int tell_failure(void)
{
	unsigned long error;
	int r = KLOOP_ERROR_TLS_CERTIFICATE;

	while ((error = ERR_get_error()) != 0) {
		if (ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE)
			r = -ENOMEM;
	}
	return r;
}

static BIO *open_text(const void *pem, size_t bytes)
{
	ERR_clear_error();
	return BIO_new_mem_buf(pem, (int)bytes);
}

/* A key that is encrypted is refused: nobody is asked for its password on a terminal. */
static int refuse_password(char *buffer, int size, int writing, void *unused)
{
	(void)buffer;
	(void)size;
	(void)writing;
	(void)unused;
	return -1;
}

static EVP_PKEY *parse_key(const void *pem, size_t bytes)
{
	BIO *bio = open_text(pem, bytes);
	EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, refuse_password, NULL) : NULL;

	BIO_free(bio);
	return key;
}

static void free_chain(STACK_OF(X509) *chain)
{
	sk_X509_pop_free(chain, X509_free);
}

/* All certificates in the text; NULL if there is none, or one is broken. */
static STACK_OF(X509) *parse_chain(const void *pem, size_t bytes)
{
	BIO *bio = open_text(pem, bytes);
	STACK_OF(X509) *chain = sk_X509_new_null();
	bool whole = false;
	X509 *certificate;

	while (bio && chain) {
		certificate = PEM_read_bio_X509(bio, NULL, refuse_password, NULL);
		if (!certificate) {
			whole = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE &&
				sk_X509_num(chain) > 0;
			break;
		}
		if (sk_X509_push(chain, certificate) <= 0) {
			X509_free(certificate);
			break;
		}
	}
	BIO_free(bio);
	if (whole) {
		ERR_clear_error();
		return chain;
	}
	free_chain(chain);
	return NULL;
}

/* ---- certificates ----------------------------------------------------- */

static int use_parsed(struct kloop_tls_context *context, STACK_OF(X509) *chain, EVP_PKEY *key)
{
	X509 *leaf;
	int done;

	if (!chain || !key)
		return tell_failure();
	leaf = sk_X509_shift(chain);
	done = SSL_CTX_use_cert_and_key(context->ssl_ctx, leaf, key, chain, 1);
	X509_free(leaf);
	return done == 1 ? 0 : tell_failure();
}

int kloop_tls_context_use_certificate(struct kloop_tls_context *context, const void *chain_pem,
				      size_t chain_bytes, const void *key_pem, size_t key_bytes)
{
	STACK_OF(X509) *chain;
	EVP_PKEY *key = NULL;
	int r;

	if (!context || !chain_pem || !key_pem || chain_bytes > INT_MAX || key_bytes > INT_MAX)
		return -EINVAL;
	chain = parse_chain(chain_pem, chain_bytes);
	if (chain)
		key = parse_key(key_pem, key_bytes);
	r = use_parsed(context, chain, key);
	ERR_clear_error();
	EVP_PKEY_free(key);
	free_chain(chain);
	return r;
}

int kloop_tls_context_load_certificate(struct kloop_tls_context *context, const char *chain_path,
				       const char *key_path)
{
	struct content chain = { 0 }, key = { 0 };
	int r;

	if (!context || !chain_path || !key_path)
		return -EINVAL;
	r = read_file(chain_path, &chain);
	if (r == 0)
		r = read_file(key_path, &key);
	if (r == 0)
		r = kloop_tls_context_use_certificate(context, chain.data, chain.bytes, key.data,
						      key.bytes);
	free_content(&chain);
	free_content(&key);
	return r;
}

/* ---- trust ------------------------------------------------------------ */

static bool add_all(X509_STORE *store, STACK_OF(X509) *certificates)
{
	for (int i = 0; i < sk_X509_num(certificates); i++) {
		if (X509_STORE_add_cert(store, sk_X509_value(certificates, i)) != 1)
			return false;
	}
	return true;
}

/* The first time, all goes into a store that replaces the one there. */
static int trust(struct kloop_tls_context *context, STACK_OF(X509) *certificates,
		 const char *folder_path)
{
	X509_STORE *store;

	ERR_clear_error();
	store = context->own_trust ? SSL_CTX_get_cert_store(context->ssl_ctx) : X509_STORE_new();
	if (!store)
		return -ENOMEM;
	if (!add_all(store, certificates) ||
	    (folder_path && X509_STORE_load_path(store, folder_path) != 1)) {
		if (!context->own_trust)
			X509_STORE_free(store);
		return tell_failure();
	}
	if (!context->own_trust)
		SSL_CTX_set_cert_store(context->ssl_ctx, store);
	context->own_trust = true;
	context->system_trust = false;
	return 0;
}

static int use_trust(struct kloop_tls_context *context, const void *pem, size_t bytes,
		     const char *folder_path)
{
	STACK_OF(X509) *certificates = parse_chain(pem, bytes);
	int r;

	if (!certificates)
		return tell_failure();
	r = trust(context, certificates, folder_path);
	free_chain(certificates);
	return r;
}

int kloop_tls_context_use_trust(struct kloop_tls_context *context, const void *pem, size_t bytes)
{
	if (!context || !pem || bytes > INT_MAX)
		return -EINVAL;
	return use_trust(context, pem, bytes, NULL);
}

int kloop_tls_context_load_trust(struct kloop_tls_context *context, const char *file_path,
				 const char *folder_path)
{
	struct content content = { 0 };
	int r = 0;

	if (!context || (!file_path && !folder_path))
		return -EINVAL;
	if (folder_path)
		r = check_folder(folder_path);
	if (r < 0 || !file_path)
		return r < 0 ? r : trust(context, NULL, folder_path);
	r = read_file(file_path, &content);
	if (r == 0)
		r = use_trust(context, content.data, content.bytes, folder_path);
	free_content(&content);
	return r;
}
