/* SPDX-License-Identifier: MulanPSL-2.0 */
/* How the files of inject.h make wrappers for calls. */
#ifndef KT_INJECT_WRAP_H
#define KT_INJECT_WRAP_H

#include "inject.h"

#include <errno.h>

#define CUT KT_INJECT_CUT

/* A wrapper that fails with errno and this value, or calls the real function. */
#define WRAP(type, failed, name, parameters, arguments, ...)                   \
	type __real_##name parameters;                                         \
	type __wrap_##name parameters;                                         \
	type __wrap_##name parameters                                          \
	{                                                                      \
		static const struct kt_inject_site site = { #name, { __VA_ARGS__ } }; \
		int error = kt_inject_look(&site);                             \
                                                                               \
		if (error == 0)                                                \
			return __real_##name arguments;                        \
		errno = error;                                                 \
		return failed;                                                 \
	}

/* The same for functions that return the negative errno. */
#define WRAP_RING(name, parameters, arguments, ...)                            \
	WRAP(int, -error, name, parameters, arguments, __VA_ARGS__)

/* The same for those that move bytes, whose number is a parameter of this name. */
#define WRAP_BYTES(name, parameters, arguments, ...)                           \
	ssize_t __real_##name parameters;                                      \
	ssize_t __wrap_##name parameters;                                      \
	ssize_t __wrap_##name parameters                                       \
	{                                                                      \
		static const struct kt_inject_site site = { #name, { __VA_ARGS__ } }; \
		int error = kt_inject_look(&site);                             \
                                                                               \
		if (error == CUT && bytes > 1)                                 \
			bytes = 1;                                             \
		if (error <= 0)                                                \
			return __real_##name arguments;                        \
		errno = error;                                                 \
		return -1;                                                     \
	}

#endif
