/* SPDX-License-Identifier: MulanPSL-2.0 */
/* What the rest of kLoop may know of ldns. No type of ldns appears here. */
#ifndef KL_DNS_LDNS_H
#define KL_DNS_LDNS_H

/* The version of the ldns in use, "1.8.3"; a constant string. */
const char *kl_dns_get_ldns_version(void);

#endif
