/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What this kernel's TLS can do, by itself and with io_uring: the facts that
 * lib/tls builds on. Prints TAP; what differs between kernels is a comment and
 * a column of the table at the end, and whichever way it is, it must work.
 *
 * Runs in the guest of scripts/vm-check. Elsewhere a kernel without TLS fails.
 */
#include "ktls.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#define LARGE (300 * 1024 + 7) /* many records, and an odd one */

/* A row of the table. */
struct row {
	char keys[8], wire[8], data[8], control[8];
	char rekey[16], after_key_update[16], sendfile[8], zerocopy[16], no_pad[16];
	struct ktls_ring_facts ring;
};

static void word(char *cell, size_t size, const char *text)
{
	snprintf(cell, size, "%s", text);
}
#define WORD(cell, text) word(cell, sizeof(cell), text)
#define YES(cell, condition) word(cell, sizeof(cell), (condition) ? "yes" : "NO")

static unsigned char pattern(size_t place)
{
	return (unsigned char)(place ^ (place >> 8) * 7);
}

static bool passes(int from, int to, const char *text)
{
	return ktls_send_all(from, text, strlen(text)) == 0 && ktls_arrives(to, text);
}

/* ---- keys and records -------------------------------------------------- */

/* Both directions on both ends, and what getsockopt(2) tells of them. */
static bool check_keys(const struct ktls_suite *suite)
{
	static const int directions[] = { TLS_TX, TLS_RX };
	uint16_t version = 0, cipher = 0;
	uint64_t sequence = 0;
	int fds[2];
	bool ok;

	ok = ktls_is(ktls_pair(suite, fds), 0, "keys are accepted in both directions");
	for (int i = 0; i < 2; i++)
		ok = ktls_ok(ktls_get_keys(fds[0], directions[i], suite, &version, &cipher,
					   &sequence) == 0 &&
			     version == suite->version && cipher == suite->cipher && sequence == 0,
			     "getsockopt(%s) tells version and cipher", i ? "TLS_RX" : "TLS_TX") && ok;
	for (int i = 0; i < 3; i++)
		ok = passes(fds[0], fds[1], "counted") && ok;
	ok = ktls_is(ktls_get_keys(fds[0], TLS_TX, suite, &version, &cipher, &sequence), 0,
		     "getsockopt(TLS_TX) after three records") && ok;
	ok = ktls_is((long)sequence, 3, "it tells the record sequence") && ok;
	ktls_get_keys(fds[1], TLS_RX, suite, &version, &cipher, &sequence);
	ok = ktls_is((long)sequence, 3, "so it does for TLS_RX") && ok;
	ktls_close(fds);
	return ok;
}

/* One end encrypts, and what the other sees is a record, not the text. */
static bool check_wire(const struct ktls_suite *suite)
{
	static const char text[] = "all of this is secret";
	unsigned char got[128];
	size_t size = sizeof(text) + suite->overhead;
	int fds[2];
	bool ok;

	ktls_tcp_pair(fds);
	ok = ktls_attach(fds[0]) == 0 && ktls_set_keys(fds[0], TLS_TX, suite, 1) == 0 &&
	     ktls_send_all(fds[0], text, sizeof(text)) == 0;
	ok = ok && ktls_recv_all(fds[1], got, size) == 0;
	ok = ktls_ok(ok && got[0] == KTLS_DATA && got[1] == 3 && got[2] == 3 &&
		     got[3] == 0 && got[4] == size - 5,
		     "on the wire there is a record of %zu bytes for %zu", size, sizeof(text));
	ok = ktls_ok(!memmem(got, size, text, 6), "without the text in it") && ok;
	ok = ktls_is(recv(fds[1], got, 1, MSG_DONTWAIT), -1, "and nothing after it") && ok;
	ktls_close(fds);
	return ok;
}

static bool check_data(const struct ktls_suite *suite)
{
	int fds[2];
	bool ok = ktls_pair(suite, fds) == 0;

	ok = ktls_ok(ok && passes(fds[0], fds[1], "hello") && passes(fds[1], fds[0], "world"),
		     "what is written arrives decrypted, both ways");
	ok = ok && ktls_send_all(fds[0], "in parts", 8) == 0;
	ok = ktls_ok(ok && ktls_arrives(fds[1], "in") && ktls_arrives(fds[1], " part") && ktls_arrives(fds[1], "s"),
		     "a record can be read in parts") && ok;
	shutdown(fds[0], SHUT_WR);
	ok = ktls_is(ktls_recv(fds[1], (char[1]){ 0 }, 1), 0, "the end is the end") && ok;
	ktls_close(fds);

	ktls_tcp_pair(fds);
	ok = ktls_attach(fds[0]) == 0 && ktls_set_keys(fds[0], TLS_TX, suite, 1) == 0 &&
	     ktls_send_all(fds[0], "early", 5) == 0 && ktls_attach(fds[1]) == 0 &&
	     ktls_set_keys(fds[1], TLS_RX, suite, 1) == 0 && ok;
	ok = ktls_ok(ok && ktls_arrives(fds[1], "early"),
		     "a record that came before the key is decrypted with it") && ok;
	ktls_close(fds);

	ktls_tcp_pair(fds);
	ok = ktls_attach(fds[0]) == 0 && ktls_set_keys(fds[0], TLS_TX, suite, 1) == 0 &&
	     ktls_attach(fds[1]) == 0 && ktls_set_keys(fds[1], TLS_RX, suite, 2) == 0 &&
	     ktls_send_all(fds[0], "wrong", 5) == 0 && ok;
	ok = ktls_is(ktls_recv(fds[1], (char[8]){ 0 }, 8), -EBADMSG, "another key is EBADMSG") && ok;
	ktls_close(fds);
	return ok;
}

static bool check_control(const struct ktls_suite *suite)
{
	static const unsigned char alert[2] = { 1, 0 }; /* close_notify */
	unsigned char got[16];
	uint8_t type = 0;
	int fds[2];
	bool ok = ktls_pair(suite, fds) == 0;

	ok = ok && ktls_send_all(fds[0], "data", 4) == 0;
	ok = ktls_is(ktls_send_record(fds[0], KTLS_ALERT, alert, 2), 2, "an alert is sent") && ok;
	ok = ktls_send_all(fds[0], "more", 4) == 0 && ok;
	ok = ktls_is(ktls_recv(fds[1], got, sizeof(got)), 4, "recv stops before it") && ok;
	ok = ktls_is(ktls_recv(fds[1], got, sizeof(got)), -EIO, "recv of it is EIO") && ok;
	ok = ktls_is(ktls_recv(fds[1], got, sizeof(got)), -EIO, "and again") && ok;
	ok = ktls_is(ktls_recv_record(fds[1], got, sizeof(got), &type), 2, "recvmsg has it") && ok;
	ok = ktls_ok(type == KTLS_ALERT && memcmp(got, alert, 2) == 0, "with its type, 21") && ok;
	ok = ktls_is(ktls_recv_record(fds[1], got, sizeof(got), &type), 4, "then data") && ok;
	ok = ktls_ok(type == KTLS_DATA && memcmp(got, "more", 4) == 0, "with its type, 23") && ok;
	ok = ktls_ok(passes(fds[0], fds[1], "plain recv again"), "and recv works again") && ok;

	/* A read that is too small must not lose the type of the rest. */
	ok = ktls_send_record(fds[0], KTLS_HANDSHAKE, "handshake", 9) == 9 && ok;
	ok = ktls_is(ktls_recv_record(fds[1], got, 4, &type), 4, "a part of a control record") && ok;
	ok = ktls_is(type, KTLS_HANDSHAKE, "has the type") && ok;
	ok = ktls_is(ktls_recv(fds[1], got, 4), -EIO, "recv of its rest is EIO") && ok;
	ok = ktls_is(ktls_recv_record(fds[1], got, 16, &type), 5, "the rest comes") && ok;
	ok = ktls_ok(type == KTLS_HANDSHAKE && memcmp(got, "shake", 5) == 0, "with the type") && ok;
	ktls_close(fds);
	return ok;
}

/* ---- new keys in mid-connection ---------------------------------------- */

static const unsigned char key_update[5] = { 24, 0, 0, 1, 0 };

/* The kernel took the key that the sender has now: the receiver's part. */
static void finish_rekey(const struct ktls_suite *suite, int fds[2], struct row *row)
{
	long rx_ok = ktls_stat("TlsRxRekeyOk"), tx_ok = ktls_stat("TlsTxRekeyOk");
	unsigned char got[16];
	uint8_t type = 0;
	long r;

	ktls_ok(ktls_send_all(fds[0], "new key", 7) == 0, "data leaves with the new key");
	ktls_is(ktls_recv_record(fds[1], got, sizeof(got), &type), 5, "KeyUpdate arrives");
	ktls_is(type, KTLS_HANDSHAKE, "as a handshake record");
	r = ktls_recv(fds[1], got, sizeof(got));
	WORD(row->after_key_update, ktls_word(r));
	ktls_is(r, -EKEYEXPIRED, "then reading stops until there is a key");
	ktls_is(ktls_set_keys(fds[1], TLS_RX, suite, 3), 0, "TLS_RX takes it");
	ktls_ok(ktls_arrives(fds[1], "new key"), "data goes on");
	ktls_ok(passes(fds[0], fds[1], "and on"), "more data goes on");
	ktls_ok(passes(fds[1], fds[0], "back"), "the other direction keeps its key");
	ktls_ok(ktls_stat("TlsRxRekeyOk") == rx_ok + 1 && ktls_stat("TlsTxRekeyOk") == tx_ok,
		"/proc/net/tls_stat counts it");
	ktls_ok(ktls_send_record(fds[1], KTLS_HANDSHAKE, key_update, 5) == 5 &&
		ktls_set_keys(fds[1], TLS_TX, suite, 4) == 0 &&
		ktls_recv_record(fds[0], got, sizeof(got), &type) == 5 && type == KTLS_HANDSHAKE &&
		ktls_set_keys(fds[0], TLS_RX, suite, 4) == 0 && passes(fds[1], fds[0], "back"),
		"the other direction gets a new key as well");
}

static void check_rekey(const struct ktls_suite *suite, struct row *row)
{
	uint16_t version, cipher;
	uint64_t sequence = 0;
	unsigned char got[16];
	uint8_t type = 0;
	int fds[2], r;

	ktls_ok(ktls_pair(suite, fds) == 0 && passes(fds[0], fds[1], "old key"), "data before a new key");
	ktls_is(ktls_send_record(fds[0], KTLS_HANDSHAKE, key_update, 5), 5, "KeyUpdate is sent");
	r = ktls_set_keys(fds[0], TLS_TX, suite, 3);
	WORD(row->rekey, r == 0 ? "yes" : ktls_word(r));
	ktls_fact("rekey", "%s", r == 0 ? "yes" : "no");
	if (r == 0) {
		ktls_is(suite->version, TLS_1_3_VERSION, "a new key is for TLS 1.3 only");
		finish_rekey(suite, fds, row);
		ktls_close(fds);
		return;
	}
	/* Refused: the old key must still be in force, on both ends. */
	ktls_is(r, -EBUSY, "a second TLS_TX is EBUSY");
	ktls_is(ktls_set_keys(fds[1], TLS_RX, suite, 3), -EBUSY, "so is a second TLS_RX");
	ktls_is(ktls_set_keys(fds[1], TLS_TX, suite, 3), -EBUSY, "and on the other end");
	ktls_ok(passes(fds[1], fds[0], "back"), "which goes on with its old key");
	ktls_is(ktls_get_keys(fds[0], TLS_TX, suite, &version, &cipher, &sequence), 0, "getsockopt");
	ktls_is((long)sequence, 2, "the sequence goes on");
	ktls_is(ktls_recv_record(fds[1], got, sizeof(got), &type), 5, "KeyUpdate arrives");
	ktls_is(type, KTLS_HANDSHAKE, "as a handshake record");
	r = ktls_send_all(fds[0], "old key", 7);
	if (r == 0)
		r = ktls_recv_all(fds[1], got, 7);
	WORD(row->after_key_update, ktls_word(r));
	/* TLS 1.2 has no such message; a kernel that knows it stops all the same. */
	if (suite->version == TLS_1_2_VERSION && r == -EKEYEXPIRED)
		ktls_fact("after a KeyUpdate, which TLS 1.2 does not have", "%s", ktls_word(r));
	else
		ktls_is(r, 0, "the old key goes on");
	ktls_close(fds);
}

/* ---- files -------------------------------------------------------------- */

struct reader {
	int fd;
	bool same;
};

static void *read_large(void *data)
{
	struct reader *reader = data;
	unsigned char *got = malloc(LARGE);

	reader->same = got && ktls_recv_all(reader->fd, got, LARGE) == 0;
	for (size_t i = 0; reader->same && i < LARGE; i++)
		reader->same = got[i] == pattern(i);
	free(got);
	return NULL;
}

static int large_file(void)
{
	int fd = memfd_create("large", MFD_CLOEXEC);
	unsigned char *map;

	if (fd < 0 || ftruncate(fd, LARGE) != 0)
		abort();
	map = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		abort();
	for (size_t i = 0; i < LARGE; i++)
		map[i] = pattern(i);
	munmap(map, LARGE);
	return fd;
}

/* The file through sendfile(2), while another thread reads. */
static bool send_large(int from, int to)
{
	struct reader reader = { .fd = to };
	int file = large_file();
	off_t offset = 0;
	pthread_t thread;

	if (pthread_create(&thread, NULL, read_large, &reader) != 0)
		abort();
	while (offset < LARGE) {
		ssize_t r = sendfile(from, file, &offset, LARGE - (size_t)offset);

		if (r == 0 || (r < 0 && errno != EINTR))
			break;
	}
	if (offset < LARGE)
		shutdown(from, SHUT_WR); /* so that the reader ends */
	pthread_join(thread, NULL);
	close(file);
	return reader.same && offset == LARGE;
}

static void check_files(const struct ktls_suite *suite, struct row *row)
{
	int fds[2], r;
	bool ok = ktls_pair(suite, fds) == 0;

	ok = ktls_ok(ok && send_large(fds[0], fds[1]), "sendfile of %d bytes arrives whole", LARGE);
	YES(row->sendfile, ok);

	r = ktls_set_option(fds[0], TLS_TX_ZEROCOPY_RO, 1);
	WORD(row->zerocopy, r == 0 ? "yes" : ktls_word(r));
	ktls_fact("TLS_TX_ZEROCOPY_RO", "%s", ktls_word(r));
	ktls_ok(r == 0 ? ktls_get_option(fds[0], TLS_TX_ZEROCOPY_RO) == 1 : r < 0,
		"TLS_TX_ZEROCOPY_RO reads as it was set");
	ktls_ok(send_large(fds[0], fds[1]), "sendfile arrives whole with it");
	ktls_close(fds);
}

static void check_no_pad(const struct ktls_suite *suite, struct row *row)
{
	unsigned char got[16];
	uint8_t type = 0;
	int fds[2], r;
	bool ok = ktls_pair(suite, fds) == 0;

	r = ktls_set_option(fds[1], TLS_RX_EXPECT_NO_PAD, 1);
	WORD(row->no_pad, r == 0 ? "yes" : ktls_word(r));
	ktls_fact("TLS_RX_EXPECT_NO_PAD", "%s", ktls_word(r));
	ktls_is(r, suite->version == TLS_1_3_VERSION ? 0 : -EINVAL,
		"TLS_RX_EXPECT_NO_PAD is for TLS 1.3 only");
	ok = ok && passes(fds[0], fds[1], "no padding") &&
	     ktls_send_record(fds[0], KTLS_ALERT, "\1\0", 2) == 2 &&
	     ktls_recv(fds[1], got, sizeof(got)) == -EIO &&
	     ktls_recv_record(fds[1], got, sizeof(got), &type) == 2 && type == KTLS_ALERT &&
	     send_large(fds[0], fds[1]);
	ktls_ok(ok, "data and control records arrive with it");
	ktls_close(fds);
}

/* ---- the kernel as a whole ---------------------------------------------- */

static void check_sockets(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fds[2];
	char got[64];
	ssize_t r;

	ktls_subject("any socket");
	ktls_is(ktls_attach(fd), -ENOTCONN, "TCP_ULP before connect is ENOTCONN");
	close(fd);
	ktls_tcp_pair(fds);
	ktls_is(ktls_attach(fds[0]), 0, "TCP_ULP \"tls\" is accepted when connected");
	ktls_is(ktls_attach(fds[0]), -EEXIST, "a second time it is EEXIST");
	ktls_ok(passes(fds[0], fds[1], "clear") && passes(fds[1], fds[0], "clear"),
		"without keys data passes in the clear");
	ktls_is(ktls_set_keys(fds[0], TLS_RX, &ktls_suites[0], 1), 0, "one direction alone");
	ktls_ok(passes(fds[0], fds[1], "clear"), "leaves the other in the clear");
	ktls_ok(ktls_send_all(fds[1], "GET / HTTP/1.1\r\n\r\n", 18) == 0, "text to who expects a record");
	r = ktls_recv(fds[0], got, sizeof(got));
	ktls_fact("recv of what is no record", "%s", ktls_word(r));
	ktls_ok(r < 0 && r != -EAGAIN, "is an error");
	ktls_close(fds);
	ktls_tcp_pair(fds);
	close(fds[1]);
	r = ktls_attach(fds[0]);
	ktls_fact("TCP_ULP after the peer's FIN", "%s", ktls_word(r));
	ktls_is(r, -ENOTCONN, "TCP_ULP in CLOSE_WAIT is ENOTCONN");
	close(fds[0]);
	ktls_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0 &&
		ktls_attach(fds[0]) < 0, "a Unix socket has no TCP_ULP");
	ktls_close(fds);
}

/* A ring lets go of its sockets some time after it was closed. */
static long settled(const char *name)
{
	long value = ktls_stat(name);

	for (int i = 0; value > 0 && i < 2000; i++) {
		usleep(10000);
		value = ktls_stat(name);
	}
	return value;
}

static void print_table(const struct row *rows)
{
	struct utsname name;

	uname(&name);
	printf("#\n# Linux %s\n# %-20s %-5s %-5s %-5s %-8s %-6s %-12s %-9s %-9s %-9s %-11s %-8s %-8s %-10s %s\n",
	       name.release, "", "keys", "wire", "data", "control", "rekey", "after KeyUp.", "multishot",
	       "m.recvmsg", "WAITALL", "SEND_ZC", "splice", "sendfile", "TX_ZC_RO", "RX_NO_PAD");
	for (int i = 0; i < ktls_suite_count; i++) {
		const struct row *row = &rows[i];

		printf("# %-20s %-5s %-5s %-5s %-8s %-6s %-12s %-9s %-9s %-9s %-11s %-8s %-8s %-10s %s\n",
		       ktls_suites[i].name, row->keys, row->wire, row->data, row->control, row->rekey,
		       row->after_key_update, row->ring.recv_multishot, row->ring.recvmsg_multishot,
		       row->ring.send_waitall, row->ring.send_zc, row->ring.splice, row->sendfile,
		       row->zerocopy, row->no_pad);
	}
}

int main(void)
{
	struct row *rows = calloc((size_t)ktls_suite_count, sizeof(*rows));
	long tx = ktls_stat("TlsTxSw"), rx = ktls_stat("TlsRxSw");

	if (!rows)
		return EXIT_FAILURE;
	check_sockets();
	for (int i = 0; i < ktls_suite_count; i++) {
		const struct ktls_suite *suite = &ktls_suites[i];
		struct row *row = &rows[i];

		ktls_subject(suite->name);
		YES(row->keys, check_keys(suite));
		YES(row->wire, check_wire(suite));
		YES(row->data, check_data(suite));
		YES(row->control, check_control(suite));
		check_rekey(suite, row);
		check_files(suite, row);
		check_no_pad(suite, row);
		ktls_ring_checks(suite, &row->ring);
	}
	ktls_subject("/proc/net/tls_stat");
	ktls_ok(tx >= 0 && ktls_stat("TlsTxSw") > tx, "TlsTxSw grew: the kernel encrypted");
	ktls_ok(rx >= 0 && ktls_stat("TlsRxSw") > rx, "TlsRxSw grew: the kernel decrypted");
	ktls_is(settled("TlsCurrTxSw"), 0, "no socket with TX is left");
	ktls_is(settled("TlsCurrRxSw"), 0, "no socket with RX is left");
	print_table(rows);
	free(rows);
	return ktls_done();
}
