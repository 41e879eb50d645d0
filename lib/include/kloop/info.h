/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What this machine allows, as kloop-info(1) prints it.
 */
#ifndef KLOOP_INFO_H
#define KLOOP_INFO_H

#include <kloop/base.h>

KLOOP_BEGIN_DECLS

struct kloop_info;

/* The type of a value. */
enum kloop_info_type {
	KLOOP_INFO_TEXT,
	KLOOP_INFO_BOOL,   /* the text is "true" or "false" */
	KLOOP_INFO_NUMBER, /* the text is a decimal integer */
};

/*
 * Ask the kernel and the libraries.
 *
 * Makes a ring and a pair of loopback sockets, and closes them.
 *
 * Ownership: the caller frees it with kloop_info_free().
 * Thread: any.
 * Returns: 0, also where io_uring cannot be used; -EINVAL; -ENOMEM.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_info_new(struct kloop_info **ret_info) KLOOP_MUST_CHECK;

/* Free what kloop_info_new() made; NULL is permitted. */
KLOOP_EXPORT void kloop_info_free(struct kloop_info *info);

/*
 * 0 if kLoop can run here, or the code that kloop_loop_new() or the first turn
 * would return. Since: 0.1.
 */
KLOOP_EXPORT int kloop_info_get_usable(const struct kloop_info *info);

/* The number of facts. Since: 0.1. */
KLOOP_EXPORT size_t kloop_info_get_count(const struct kloop_info *info);

/*
 * One fact: its dotted name ("kernel.release", "ring.available"), the type and
 * the text of its value.
 *
 * position: from 0.
 *
 * A name has exactly one dot, and facts with the same word before it are
 * neighbours. kloop-info(1) lists them; what does not apply is left out.
 *
 * Ownership: the strings are the info's.
 * Returns: 0; -EINVAL; -ENOENT if position is past the end.
 * Since: 0.1.
 */
KLOOP_EXPORT int kloop_info_get(const struct kloop_info *info, size_t position,
				const char **ret_name, enum kloop_info_type *ret_type,
				const char **ret_text) KLOOP_MUST_CHECK;

KLOOP_END_DECLS

#endif
