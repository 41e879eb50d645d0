/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Ports for tests that name one: where nobody listens, or where somebody will
 * later, or has been.
 *
 * A port that was bound and let go is soon another process's: the kernel gives
 * it to the next who asks for any. These are none that it gives, and every
 * process takes its own from a stock that all tests share, python/tests too.
 */
#ifndef KT_PORTS_H
#define KT_PORTS_H

#include <kloop.h>

#include <stdint.h>

/*
 * A port of loopback, free for UDP and TCP, IPv4 and IPv6; no other call gives
 * the same, here or in another process, while this process lives. The first call
 * opens a descriptor, which stays; so does each thirtieth or so after it.
 */
uint16_t kt_free_port(void);

/* The same, as an address. */
void kt_free_address(const char *host, struct kloop_address *ret_address);

#endif
