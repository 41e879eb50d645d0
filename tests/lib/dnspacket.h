/* SPDX-License-Identifier: MulanPSL-2.0 */
/* A packet of DNS that a test writes by hand, the largest there can be and a byte. */
#ifndef KT_DNSPACKET_H
#define KT_DNSPACKET_H

#include "dns.h"
#include "dns/scan.h"

#include <string.h>

static uint8_t packet[KL_MESSAGE_BYTES + 1];
static size_t used;

static inline void put(const void *data, size_t bytes)
{
	memcpy(packet + used, data, bytes);
	used += bytes;
}

static inline void put_16(unsigned value)
{
	kl_put16(packet + used, value);
	used += 2;
}

#endif
