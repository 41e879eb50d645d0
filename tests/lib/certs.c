/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Certificates for tests: see certs.h. */
#include "certs.h"

#include "support.h"

#include <ftw.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <unistd.h>

#define DAY 86400L
#define NAMES \
	"DNS:localhost,DNS:example.test,DNS:*.wild.test,DNS:pre*.part.test,IP:127.0.0.1,IP:::1"

enum purpose { CA, SERVER, CLIENT };

/* What each is made of. */
static const struct recipe {
	const char *file;
	const char *common_name;
	const char *names;
	enum purpose purpose;
	enum kt_cert issuer; /* itself: self-signed */
	int first_day;       /* counted from today */
	int last_day;
} recipes[KT_CERT_COUNT] = {
	[KT_CERT_CA] = { "ca", "kLoop test CA", NULL, CA, KT_CERT_CA, -1, 30 },
	[KT_CERT_OTHER_CA] = { "other-ca", "another CA", NULL, CA, KT_CERT_OTHER_CA, -1, 30 },
	[KT_CERT_INTERMEDIATE] = { "intermediate", "kLoop test intermediate", NULL, CA, KT_CERT_CA,
				   -1, 30 },
	[KT_CERT_SERVER] = { "server", "server", NAMES, SERVER, KT_CERT_CA, -1, 30 },
	[KT_CERT_RSA] = { "rsa", "server with RSA", NAMES, SERVER, KT_CERT_CA, -1, 30 },
	[KT_CERT_CHAINED] = { "chained", "chained server", NAMES, SERVER, KT_CERT_INTERMEDIATE, -1,
			      30 },
	[KT_CERT_OTHER_NAME] = { "other-name", "other", "DNS:other.test", SERVER, KT_CERT_CA, -1,
				 30 },
	[KT_CERT_COMMON_NAME] = { "common-name", "example.test", NULL, SERVER, KT_CERT_CA, -1, 30 },
	[KT_CERT_EXPIRED] = { "expired", "expired", NAMES, SERVER, KT_CERT_CA, -30, -1 },
	[KT_CERT_FUTURE] = { "future", "future", NAMES, SERVER, KT_CERT_CA, 2, 30 },
	[KT_CERT_SELF_SIGNED] = { "self-signed", "self-signed", NAMES, SERVER, KT_CERT_SELF_SIGNED,
				  -1, 30 },
	[KT_CERT_UNTRUSTED] = { "untrusted", "untrusted", NAMES, SERVER, KT_CERT_OTHER_CA, -1, 30 },
	[KT_CERT_CLIENT] = { "client", "client", "email:client@example.test", CLIENT, KT_CERT_CA,
			     -1, 30 },
	[KT_CERT_CLIENT_EXPIRED] = { "client-expired", "client", "email:client@example.test",
				     CLIENT, KT_CERT_CA, -30, -1 },
	[KT_CERT_CLIENT_UNTRUSTED] = { "client-untrusted", "client", "email:client@example.test",
				       CLIENT, KT_CERT_OTHER_CA, -1, 30 },
};

/* What was made so far. */
static struct {
	X509 *certificate;
	EVP_PKEY *key;
	char *pem;
	char *key_pem;
	char *encrypted_key_pem;
	char *path;
	char *key_path;
} made[KT_CERT_COUNT];

static char folder[64];
static pid_t folder_owner;

/* ---- certificates ----------------------------------------------------- */

EVP_PKEY *kt_cert_get_key(enum kt_cert which)
{
	if (!made[which].key)
		made[which].key = which == KT_CERT_RSA ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256");
	ck_assert_ptr_nonnull(made[which].key);
	return made[which].key;
}

static void add_extension(X509 *certificate, X509 *issuer, int nid, const char *value)
{
	X509_EXTENSION *extension;
	X509V3_CTX context;

	X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
	extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
	ck_assert_msg(extension != NULL, "extension %s", value);
	ck_assert_int_eq(X509_add_ext(certificate, extension, -1), 1);
	X509_EXTENSION_free(extension);
}

static void add_extensions(X509 *certificate, X509 *issuer, const struct recipe *recipe)
{
	bool ca = recipe->purpose == CA;

	add_extension(certificate, issuer, NID_basic_constraints,
		      ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
	add_extension(certificate, issuer, NID_key_usage,
		      ca ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature");
	if (!ca)
		add_extension(certificate, issuer, NID_ext_key_usage,
			      recipe->purpose == SERVER ? "serverAuth" : "clientAuth");
	add_extension(certificate, issuer, NID_subject_key_identifier, "hash");
	if (issuer != certificate)
		add_extension(certificate, issuer, NID_authority_key_identifier, "keyid:always");
	if (recipe->names)
		add_extension(certificate, issuer, NID_subject_alt_name, recipe->names);
}

X509 *kt_cert_get(enum kt_cert which)
{
	const struct recipe *recipe = &recipes[which];
	X509 *certificate = made[which].certificate;
	X509 *issuer;

	if (certificate)
		return certificate;
	certificate = X509_new();
	ck_assert_ptr_nonnull(certificate);
	issuer = recipe->issuer == which ? certificate : kt_cert_get(recipe->issuer);
	ck_assert_int_eq(X509_set_version(certificate, 2), 1);
	ck_assert_int_eq(ASN1_INTEGER_set(X509_get_serialNumber(certificate), which + 1), 1);
	ck_assert_ptr_nonnull(
		X509_gmtime_adj(X509_getm_notBefore(certificate), recipe->first_day * DAY));
	ck_assert_ptr_nonnull(
		X509_gmtime_adj(X509_getm_notAfter(certificate), recipe->last_day * DAY));
	ck_assert_int_eq(
		X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
					   (const unsigned char *)recipe->common_name, -1, -1, 0),
		1);
	ck_assert_int_eq(X509_set_issuer_name(certificate, X509_get_subject_name(issuer)), 1);
	ck_assert_int_eq(X509_set_pubkey(certificate, kt_cert_get_key(which)), 1);
	add_extensions(certificate, issuer, recipe);
	ck_assert_int_gt(X509_sign(certificate, kt_cert_get_key(recipe->issuer), EVP_sha256()), 0);
	made[which].certificate = certificate;
	return certificate;
}

/* ---- PEM text --------------------------------------------------------- */

/* The text in a memory BIO, which is freed. */
static char *take_text(BIO *bio)
{
	char *data;
	long bytes = BIO_get_mem_data(bio, &data);
	char *text = strndup(data, (size_t)bytes);

	ck_assert_ptr_nonnull(text);
	BIO_free(bio);
	return text;
}

const char *kt_cert_pem(enum kt_cert which)
{
	BIO *bio;

	if (!made[which].pem) {
		bio = BIO_new(BIO_s_mem());
		ck_assert_int_eq(PEM_write_bio_X509(bio, kt_cert_get(which)), 1);
		if (recipes[which].issuer == KT_CERT_INTERMEDIATE)
			ck_assert_int_eq(PEM_write_bio_X509(bio, kt_cert_get(KT_CERT_INTERMEDIATE)),
					 1);
		made[which].pem = take_text(bio);
	}
	return made[which].pem;
}

static char *write_key(enum kt_cert which, const EVP_CIPHER *cipher, const char *password)
{
	BIO *bio = BIO_new(BIO_s_mem());

	ck_assert_int_eq(
		PEM_write_bio_PKCS8PrivateKey(bio, kt_cert_get_key(which), cipher, password,
					      password ? (int)strlen(password) : 0, NULL, NULL),
		1);
	return take_text(bio);
}

const char *kt_cert_key_pem(enum kt_cert which)
{
	if (!made[which].key_pem)
		made[which].key_pem = write_key(which, NULL, NULL);
	return made[which].key_pem;
}

const char *kt_cert_encrypted_key_pem(enum kt_cert which)
{
	if (!made[which].encrypted_key_pem)
		made[which].encrypted_key_pem = write_key(which, EVP_aes_128_cbc(), "secret");
	return made[which].encrypted_key_pem;
}

/* ---- files ------------------------------------------------------------ */

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
	(void)status;
	(void)type;
	(void)where;
	return remove(path);
}

/* Check's forked cases inherit the folder, and must leave it to the process that made it. */
static void remove_folder(void)
{
	if (folder_owner == getpid())
		nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

const char *kt_cert_folder(void)
{
	const char *parent = getenv("TMPDIR");

	if (folder_owner == 0) {
		snprintf(folder, sizeof(folder), "%.40s/kt-certs-XXXXXX", parent ? parent : "/tmp");
		ck_assert_ptr_nonnull(mkdtemp(folder));
		folder_owner = getpid();
		atexit(remove_folder);
	}
	return folder;
}

char *kt_cert_write(const char *name, const char *text)
{
	char *path;
	FILE *file;

	ck_assert_int_gt(asprintf(&path, "%s/%s", kt_cert_folder(), name), 0);
	file = fopen(path, "w");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_ge(fputs(text, file), 0);
	ck_assert_int_eq(fclose(file), 0);
	return path;
}

const char *kt_cert_path(enum kt_cert which)
{
	char name[64];

	if (!made[which].path) {
		snprintf(name, sizeof(name), "%s.pem", recipes[which].file);
		made[which].path = kt_cert_write(name, kt_cert_pem(which));
	}
	return made[which].path;
}

const char *kt_cert_key_path(enum kt_cert which)
{
	char name[64];

	if (!made[which].key_path) {
		snprintf(name, sizeof(name), "%s-key.pem", recipes[which].file);
		made[which].key_path = kt_cert_write(name, kt_cert_key_pem(which));
	}
	return made[which].key_path;
}
