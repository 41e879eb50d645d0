/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What OpenSSL alone costs a server of TLS 1.3: no sockets, no loop, the same
 * calls. Client and server sit in one process and pass records through memory;
 * only the server's calls are timed.
 *
 * --mode echo       SSL_read and SSL_write of each message
 * --mode handshake  from SSL_new to SSL_free, with one message
 * --mode resume     the same, with a ticket
 *
 * The result is one line of JSON, as the load generators print it.
 */
#include "client.h"
#include "common.h"

#include <inttypes.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Messages for one look at the clock, so that looking costs nothing. */
#define BATCH_BYTES (64 * 1024)
#define BATCH_MAX 16

enum mode { MODE_ECHO, MODE_HANDSHAKE, MODE_RESUME };

struct pair {
	SSL *client;
	SSL *server;
};

static SSL_CTX *client_context;
static SSL_CTX *server_context;
static SSL_SESSION *newest;
static uint64_t spent_ns; /* by the server */
static char cipher[100];

static void check(int result, const char *what)
{
	char text[200];

	if (result == 1)
		return;
	ERR_error_string_n(ERR_get_error(), text, sizeof(text));
	kl_bench_die("%s: %s", what, text);
}

static uint64_t cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int on_session(SSL *ssl, SSL_SESSION *session)
{
	(void)ssl;
	SSL_SESSION_free(newest);
	newest = session;
	return 1;
}

static void make_contexts(const char *certificate, const char *key)
{
	client_context = SSL_CTX_new(TLS_client_method());
	server_context = SSL_CTX_new(TLS_server_method());
	if (client_context == NULL || server_context == NULL)
		kl_bench_die("out of memory");
	check(SSL_CTX_set_min_proto_version(server_context, TLS1_3_VERSION), "versions");
	check(SSL_CTX_use_certificate_chain_file(server_context, certificate), certificate);
	check(SSL_CTX_use_PrivateKey_file(server_context, key, SSL_FILETYPE_PEM), key);
	SSL_CTX_set_session_cache_mode(client_context,
				       SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL_STORE);
	SSL_CTX_sess_set_new_cb(client_context, on_session);
}

/* One step of a handshake; true when it is done. */
static bool step(SSL *ssl)
{
	int result = SSL_do_handshake(ssl);

	if (result != 1 && SSL_get_error(ssl, result) != SSL_ERROR_WANT_READ)
		check(0, "handshake");
	return result == 1;
}

/* Connect two ends; the server's part counts. */
static void pair_open(struct pair *pair, bool resume)
{
	BIO *up = BIO_new(BIO_s_mem()), *down = BIO_new(BIO_s_mem());
	bool client_done = false, server_done = false;
	uint64_t before_ns;

	if (up == NULL || down == NULL)
		kl_bench_die("out of memory");
	BIO_set_mem_eof_return(up, -1);
	BIO_set_mem_eof_return(down, -1);
	BIO_up_ref(up);
	BIO_up_ref(down);
	pair->client = SSL_new(client_context);
	SSL_set_bio(pair->client, down, up);
	SSL_set_connect_state(pair->client);
	if (resume)
		check(SSL_set_session(pair->client, newest), "SSL_set_session");
	before_ns = cpu_ns();
	pair->server = SSL_new(server_context);
	SSL_set_bio(pair->server, up, down);
	SSL_set_accept_state(pair->server);
	spent_ns += cpu_ns() - before_ns;
	while (!client_done || !server_done) {
		client_done = client_done || step(pair->client);
		before_ns = cpu_ns();
		server_done = server_done || step(pair->server);
		spent_ns += cpu_ns() - before_ns;
	}
	if ((SSL_session_reused(pair->server) == 1) != resume)
		kl_bench_die("a handshake was %s", resume ? "not resumed" : "resumed");
	snprintf(cipher, sizeof(cipher), ", \"version\": \"%s\", \"cipher\": \"%s\"",
		 SSL_get_version(pair->server), SSL_get_cipher_name(pair->server));
}

static void pair_close(struct pair *pair)
{
	uint64_t before_ns;

	SSL_shutdown(pair->client);
	before_ns = cpu_ns();
	SSL_shutdown(pair->server);
	SSL_free(pair->server);
	spent_ns += cpu_ns() - before_ns;
	SSL_free(pair->client);
}

static void write_all(SSL *ssl, const void *data, size_t bytes)
{
	size_t written;

	check(SSL_write_ex(ssl, data, bytes, &written), "write");
}

/* Read a whole message, which is there. */
static void read_all(SSL *ssl, unsigned char *data, size_t bytes)
{
	size_t received = 0, one;

	while (received < bytes) {
		check(SSL_read_ex(ssl, data + received, bytes - received, &one), "read");
		received += one;
	}
}

/* Send so many messages one after the other, and have them echoed. */
static void exchange(struct pair *pair, const unsigned char *pattern, unsigned char *hot,
		     size_t bytes, unsigned count)
{
	uint64_t before_ns;

	for (unsigned i = 0; i < count; i++)
		write_all(pair->client, pattern, bytes);
	before_ns = cpu_ns();
	for (unsigned i = 0; i < count; i++) {
		read_all(pair->server, hot, bytes);
		write_all(pair->server, hot, bytes);
	}
	spent_ns += cpu_ns() - before_ns;
	for (unsigned i = 0; i < count; i++) {
		read_all(pair->client, hot, bytes);
		if (memcmp(hot, pattern, bytes) != 0)
			kl_bench_die("the echo differs from what was sent");
	}
}

/* --certificate and --key come first: the rest is what load generators have. */
int main(int argc, char **argv)
{
	static const char *const modes[] = {"echo", "handshake", "resume"};
	struct kl_bench_load load;
	unsigned char *pattern, *hot;
	uint64_t count = 0, started_ns, deadline_ns;
	struct pair pair;
	unsigned batch;

	if (argc < 3)
		kl_bench_die("usage: openssl_alone CERTIFICATE KEY --port 1 [OPTION...]");
	kl_bench_load_parse(argc - 2, argv + 2, modes, sizeof(modes) / sizeof(modes[0]), &load);
	kl_bench_load_begin(&load);
	make_contexts(argv[1], argv[2]);
	pattern = kl_bench_pattern_new(load.bytes);
	hot = kl_bench_pattern_new(load.bytes);
	batch = (unsigned)(BATCH_BYTES / load.bytes);
	batch = batch == 0 ? 1 : batch > BATCH_MAX ? BATCH_MAX : batch;
	pair_open(&pair, false);
	exchange(&pair, pattern, hot, load.bytes, batch); /* and the tickets come along */
	spent_ns = 0;
	started_ns = kl_bench_now_ns();
	deadline_ns = started_ns + (uint64_t)(load.seconds * 1e9);
	while (kl_bench_now_ns() < deadline_ns) {
		if (load.mode == MODE_ECHO) {
			exchange(&pair, pattern, hot, load.bytes, batch);
			count += batch;
			continue;
		}
		pair_close(&pair);
		pair_open(&pair, load.mode == MODE_RESUME);
		exchange(&pair, pattern, hot, load.bytes, 1);
		count++;
	}
	kl_bench_report(load.mode == MODE_ECHO ? "messages" : "connections", count,
			kl_bench_now_ns() - started_ns, spent_ns, cipher);
	return 0;
}
