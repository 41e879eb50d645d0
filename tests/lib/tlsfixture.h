/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the tests of TLS contexts and sessions begin with: a pair, before each
 * of them, and after it nothing left in OpenSSL's queue of errors.
 */
#ifndef KT_TLSFIXTURE_H
#define KT_TLSFIXTURE_H

#include "support.h"
#include "tlspair.h"

#include <openssl/err.h>

static struct kt_tls_pair pair;

static inline void make_pair(void)
{
	kt_tls_pair_init(&pair);
}

static inline void free_pair(void)
{
	kt_tls_pair_free(&pair);
	ck_assert_uint_eq(ERR_peek_error(), 0);
}

#endif
