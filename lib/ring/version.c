/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "version.h"

#include <liburing.h>
#include <stdio.h>

#if defined(__has_include)
#if __has_include(<liburing/io_uring_version.h>)
#include <liburing/io_uring_version.h> /* since liburing 2.4 */
#endif
#endif

#ifndef KLOOP_LIBURING_VERSION
#define KLOOP_LIBURING_VERSION "2.3" /* the oldest that is supported; configure knows better */
#endif

void kl_ring_get_liburing_version(char *text, size_t bytes)
{
#ifdef IO_URING_VERSION_MAJOR
	snprintf(text, bytes, "%d.%d", io_uring_major_version(), io_uring_minor_version());
#else
	snprintf(text, bytes, "%s", KLOOP_LIBURING_VERSION);
#endif
}
