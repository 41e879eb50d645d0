/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The version of liburing, for kloop-info(1). No type of liburing appears here. */
#ifndef KL_RING_VERSION_H
#define KL_RING_VERSION_H

#include <stddef.h>

/* Room that kl_ring_get_liburing_version() needs at most. */
#define KL_RING_VERSION_BYTES 32

/*
 * Write the version of the liburing in use, "2.9". Before liburing 2.4 the
 * library cannot be asked, and this is the version that kLoop was built with;
 * liburing is one shared object per major version, so the difference can only
 * be a newer minor version.
 */
void kl_ring_get_liburing_version(char *text, size_t bytes);

#endif
