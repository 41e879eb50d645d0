/* SPDX-License-Identifier: MulanPSL-2.0 */
#include <kloop/version.h>

const char *kloop_version(void)
{
	return KLOOP_VERSION_STRING;
}
