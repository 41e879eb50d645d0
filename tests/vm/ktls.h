/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * TLS in the kernel, with nothing in between: keys made up here are given to
 * both ends of a TCP connection, so no handshake and no TLS library is needed.
 *
 * Results are 0, a count, or a negated errno. All sockets have a time limit on
 * receiving, so that what does not come is -EAGAIN, and not a hanging test.
 */
#ifndef KTLS_H
#define KTLS_H

#include <linux/tls.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifndef TLS_TX_ZEROCOPY_RO /* 5.19 */
#define TLS_TX_ZEROCOPY_RO 3
#endif
#ifndef TLS_RX_EXPECT_NO_PAD /* 6.0 */
#define TLS_RX_EXPECT_NO_PAD 4
#endif

enum {
	KTLS_ALERT = 21,
	KTLS_HANDSHAKE = 22,
	KTLS_DATA = 23,
};

struct ktls_suite {
	const char *name;
	uint16_t version;     /* TLS_1_2_VERSION or TLS_1_3_VERSION */
	uint16_t cipher;      /* TLS_CIPHER_* */
	size_t overhead;      /* bytes that a record adds to its payload */
};

extern const struct ktls_suite ktls_suites[];
extern const int ktls_suite_count;

/* ---- sockets ---------------------------------------------------------- */

/* A connected TCP pair over loopback. Ends the program if there is none. */
void ktls_tcp_pair(int fds[2]);

/* TCP_ULP "tls". */
int ktls_attach(int fd);

/*
 * The keys of one direction, TLS_TX or TLS_RX. Both ends derive the same key
 * from the same generation; the record sequence starts at 0.
 */
int ktls_set_keys(int fd, int direction, const struct ktls_suite *suite, int generation);

/* What getsockopt(2) says of one direction. */
int ktls_get_keys(int fd, int direction, const struct ktls_suite *suite, uint16_t *ret_version,
		  uint16_t *ret_cipher, uint64_t *ret_sequence);

/* A pair with both directions in the kernel on both ends: generation 1 and 2. */
int ktls_pair(const struct ktls_suite *suite, int fds[2]);

void ktls_close(int fds[2]);

/* An int option of SOL_TLS. */
int ktls_set_option(int fd, int option, int value);
int ktls_get_option(int fd, int option);

/* ---- records ---------------------------------------------------------- */

/* Room for the one control message that is about TLS. */
union ktls_control {
	char bytes[64];
	size_t align;
};

/* One record of this type; for application data send(2) would do. */
ssize_t ktls_send_record(int fd, uint8_t type, const void *data, size_t bytes);

/* The next record, or a part of it, and its type (0 if the kernel gave none). */
ssize_t ktls_recv_record(int fd, void *data, size_t bytes, uint8_t *ret_type);

/* The same for other ways to call: a message header around it, and its type. */
struct msghdr;
void ktls_prepare_send(struct msghdr *message, union ktls_control *control, uint8_t type);
uint8_t ktls_record_type(struct msghdr *message);

/* recv(2) and send(2) with a negated errno. */
ssize_t ktls_recv(int fd, void *data, size_t bytes);
ssize_t ktls_send(int fd, const void *data, size_t bytes);

/* All of it, or an error; a record that ends early is -EPIPE. */
int ktls_recv_all(int fd, void *data, size_t bytes);
int ktls_send_all(int fd, const void *data, size_t bytes);

/* Is this text fd's next application data? What comes instead is told. */
bool ktls_arrives(int fd, const char *text);

/* ---- the kernel ------------------------------------------------------- */

/* A counter of /proc/net/tls_stat; -1: there is none. */
long ktls_stat(const char *name);

/* ---- results ---------------------------------------------------------- */

/* What the next results are about. */
void ktls_subject(const char *subject);

/* One case, as a line of TAP; returns what it was given. */
bool ktls_ok(bool condition, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A result that must be this one; both are shown if it is not. */
bool ktls_is(long result, long expected, const char *what);

/* What depends on the kernel: "# subject: name: text". */
void ktls_fact(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "ok" or the name of an error, for a result. */
const char *ktls_word(long result);

/* The plan, and the exit status of the program. */
int ktls_done(void);

/* ---- ktls_ring.c ------------------------------------------------------ */

/* What io_uring can do with such sockets, as words for the table. */
struct ktls_ring_facts {
	char recv_multishot[16];
	char recvmsg_multishot[16];
	char send_waitall[16];
	char send_zc[16];
	char splice[16];
};
void ktls_ring_checks(const struct ktls_suite *suite, struct ktls_ring_facts *facts);

#endif
