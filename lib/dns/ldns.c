/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The only file that includes headers of ldns. */
#include "ldns.h"

#include <ldns/util.h>

const char *kl_dns_get_ldns_version(void)
{
	return ldns_version();
}
