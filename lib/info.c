/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The facts of kloop_info: asked once, kept as text. Every name has exactly one
 * dot, and facts with the same word before it are neighbours, so that a printer
 * can group them without sorting.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <kloop/info.h>
#include <kloop/loop.h>
#include <kloop/op.h>
#include <kloop/version.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "dns/ldns.h"
#include "ring/memory.h"
#include "ring/version.h"
#include "tls/version.h"

#define FACTS_MAX 48
#define TEXT_MAX 512
#define PROBE_TIMEOUT_NS UINT64_C(1000000000)
#define UNKNOWN INT64_MIN

struct fact {
	const char *name; /* a literal */
	enum kloop_info_type type;
	char *text;
};

struct kloop_info {
	int usable; /* 0, or what kloop_loop_new() said */
	int error;  /* the first failure to store a fact */
	size_t count;
	struct fact facts[FACTS_MAX];
};

/*
 * Store one fact. Failures are kept in the info and looked at once, at the end,
 * so that the list of facts reads as a list.
 */
__attribute__((format(printf, 4, 5))) static void
add(struct kloop_info *info, const char *name, enum kloop_info_type type, const char *format, ...)
{
	char buffer[TEXT_MAX];
	va_list arguments;
	size_t bytes;
	char *text;

	va_start(arguments, format);
	vsnprintf(buffer, sizeof(buffer), format, arguments);
	va_end(arguments);
	bytes = strlen(buffer) + 1;
	text = info->count < FACTS_MAX ? kl_malloc(bytes) : NULL;
	if (!text) {
		info->error = -ENOMEM;
		return;
	}
	memcpy(text, buffer, bytes);
	info->facts[info->count++] = (struct fact){ name, type, text };
}

static void add_bool(struct kloop_info *info, const char *name, bool value)
{
	add(info, name, KLOOP_INFO_BOOL, "%s", value ? "true" : "false");
}

static void add_number(struct kloop_info *info, const char *name, int64_t value)
{
	if (value != UNKNOWN)
		add(info, name, KLOOP_INFO_NUMBER, "%" PRId64, value);
}

/* The number after key in a file of /proc; UNKNOWN if the file or the key is missing. */
static int64_t read_proc_number(const char *path, const char *key)
{
	char buffer[4096];
	const char *found = buffer;
	ssize_t bytes;
	char *end;
	long long value;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return UNKNOWN;
	bytes = read(fd, buffer, sizeof(buffer) - 1);
	close(fd);
	if (bytes <= 0)
		return UNKNOWN;
	buffer[bytes] = 0;
	if (key) {
		found = strstr(buffer, key);
		if (!found)
			return UNKNOWN;
		found += strlen(key);
	}
	value = strtoll(found, &end, 10);
	return end == found ? UNKNOWN : value;
}

/* Why EPERM: the sysctl says so itself; what is left is a filter. */
static void explain_denied(struct kloop_info *info, int64_t sysctl, int64_t seccomp)
{
	if (sysctl == 2) {
		add(info, "ring.reason", KLOOP_INFO_TEXT,
		    "the sysctl kernel.io_uring_disabled is 2: off for every process");
		add(info, "ring.remedy", KLOOP_INFO_TEXT,
		    "as root: sysctl -w kernel.io_uring_disabled=0");
	} else if (sysctl == 1) {
		add(info, "ring.reason", KLOOP_INFO_TEXT,
		    "the sysctl kernel.io_uring_disabled is 1: only for CAP_SYS_ADMIN and the "
		    "group in kernel.io_uring_group, or refused by a seccomp filter");
		add(info, "ring.remedy", KLOOP_INFO_TEXT,
		    "as root: put a group of this user into kernel.io_uring_group, or "
		    "sysctl -w kernel.io_uring_disabled=0");
	} else {
		add(info, "ring.reason", KLOOP_INFO_TEXT, "io_uring is refused (EPERM) %s",
		    seccomp == 0 ? "by a security module" : "by a seccomp filter, as in containers");
		add(info, "ring.remedy", KLOOP_INFO_TEXT,
		    "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp "
		    "profile of the container engine or the SystemCallFilter= of the service");
	}
}

/* Say why there is no ring and what to do about it. */
static void explain(struct kloop_info *info, int64_t sysctl, int64_t seccomp)
{
	const char *reason = kloop_strerror(info->usable);
	const char *remedy;

	switch (info->usable) {
	case KLOOP_ERROR_RING_DENIED:
		explain_denied(info, sysctl, seccomp);
		return;
	case KLOOP_ERROR_RING_OFF:
		remedy = "unset the environment variable KLOOP_IO_URING";
		break;
	case KLOOP_ERROR_RING_MISSING:
		remedy = "boot a kernel with CONFIG_IO_URING, Linux 5.11 or newer";
		if (seccomp > 0) {
			reason = "the kernel has no io_uring, or a seccomp filter says so (ENOSYS)";
			remedy = "allow io_uring_setup, io_uring_enter and io_uring_register in "
				 "the seccomp profile, or boot a kernel with CONFIG_IO_URING";
		}
		break;
	case KLOOP_ERROR_RING_TOO_OLD:
		remedy = "boot Linux 5.11 or newer";
		break;
	case -ENOMEM:
		remedy = "free memory, or raise the limit of locked memory (ulimit -l), which "
			 "rings count against on some kernels";
		break;
	case -EMFILE:
	case -ENFILE:
		remedy = "raise the limit of open files (ulimit -n)";
		break;
	default:
		remedy = "see io_uring_setup(2) for this error";
		break;
	}
	add(info, "ring.reason", KLOOP_INFO_TEXT, "%s", reason);
	add(info, "ring.remedy", KLOOP_INFO_TEXT, "%s", remedy);
}

/* Is SQPOLL granted? Known by asking only: a kernel may lack it, a filter refuse its thread. */
static int try_sqpoll(void)
{
	struct kloop_loop_options *options = NULL;
	struct kloop_loop *loop = NULL;
	int result = kloop_loop_options_new(&options);

	if (result < 0)
		return result;
	result = kloop_loop_options_set_sqpoll(options, true, 1, -1);
	if (result == 0)
		result = kloop_loop_new(options, &loop);
	kloop_loop_options_free(options);
	if (result < 0)
		return result;
	if (!(kloop_loop_get_features(loop) & KLOOP_FEATURE_SQPOLL))
		result = -EOPNOTSUPP;
	kloop_loop_free(loop);
	return result;
}

/* The set-up flags that the ring was made with, as their names in io_uring_setup(2). */
static void add_setup(struct kloop_info *info, uint64_t features)
{
	static const struct {
		uint64_t bit;
		const char *name;
	} flags[] = {
		{ KLOOP_FEATURE_SINGLE_ISSUER, "SINGLE_ISSUER" },
		{ KLOOP_FEATURE_DEFER_TASKRUN, "DEFER_TASKRUN" },
		{ KLOOP_FEATURE_COOP_TASKRUN, "COOP_TASKRUN" },
		{ KLOOP_FEATURE_TASKRUN_FLAG, "TASKRUN_FLAG" },
	};
	char text[128] = "";

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		if (!(features & flags[i].bit))
			continue;
		if (text[0])
			strcat(text, " ");
		strcat(text, flags[i].name);
	}
	add(info, "ring.setup", KLOOP_INFO_TEXT, "%s", text);
}

static void ignore(struct kloop_op *op, int32_t result, uint32_t flags)
{
	(void)op;
	(void)result;
	(void)flags;
}

/*
 * Make a loop and have an operation go through it: that binds the ring to its
 * thread, registers its descriptor, and finds out whether a filter lets the
 * other system calls of io_uring pass as well.
 */
static int try_ring(uint64_t *ret_features)
{
	struct kloop_loop *loop = NULL;
	struct kloop_op op;
	int result = kloop_loop_new(NULL, &loop);

	if (result < 0)
		return result;
	kloop_op_init(&op, ignore);
	result = kloop_op_nop(loop, &op);
	if (result == 0)
		result = kloop_loop_turn(loop, PROBE_TIMEOUT_NS);
	if (result >= 0)
		*ret_features = kloop_loop_get_features(loop);
	kloop_loop_free(loop);
	if (result == -EPERM)
		return KLOOP_ERROR_RING_DENIED;
	if (result == -ENOSYS)
		return KLOOP_ERROR_RING_MISSING;
	return result < 0 ? result : 0;
}

static void add_ring(struct kloop_info *info)
{
	int64_t sysctl = read_proc_number("/proc/sys/kernel/io_uring_disabled", NULL);
	int64_t seccomp = read_proc_number("/proc/self/status", "\nSeccomp:");
	uint64_t features = 0;
	int sqpoll;

	info->usable = try_ring(&features);
	add_bool(info, "ring.available", info->usable == 0);
	if (info->usable == 0)
		add_setup(info, features);
	else
		explain(info, sysctl, seccomp);
	add_bool(info, "ring.registered_ring", features & KLOOP_FEATURE_REGISTERED_RING);
	add_bool(info, "ring.buffer_ring", features & KLOOP_FEATURE_BUFFER_RING);
	add_bool(info, "ring.recv_multishot", features & KLOOP_FEATURE_RECV_MULTISHOT);
	add_bool(info, "ring.accept_multishot", features & KLOOP_FEATURE_ACCEPT_MULTISHOT);
	add_bool(info, "ring.cqe_skip", features & KLOOP_FEATURE_CQE_SKIP);
	add_bool(info, "ring.mkdirat", features & KLOOP_FEATURE_MKDIRAT);
	add_bool(info, "ring.ftruncate", features & KLOOP_FEATURE_FTRUNCATE);
	sqpoll = info->usable == 0 ? try_sqpoll() : info->usable;
	add_bool(info, "ring.sqpoll", sqpoll == 0);
	if (sqpoll < 0 && info->usable == 0)
		add(info, "ring.sqpoll_reason", KLOOP_INFO_TEXT, "%s", kloop_strerror(sqpoll));
	add_number(info, "ring.sysctl_io_uring_disabled", sysctl);
	add_number(info, "ring.seccomp", seccomp);
}

static void add_tls(struct kloop_info *info)
{
	int kernel = kl_tls_probe_kernel();

	add_bool(info, "tls.ktls", kernel == 0 && kl_tls_openssl_has_ktls());
	if (kernel == -ENOENT)
		add(info, "tls.ktls_reason", KLOOP_INFO_TEXT,
		    "the kernel's module tls is not loaded or not there: as root, modprobe tls");
	else if (kernel < 0)
		add(info, "tls.ktls_reason", KLOOP_INFO_TEXT, "no loopback connection to ask on: %s",
		    kloop_strerror(kernel));
	else if (!kl_tls_openssl_has_ktls())
		add(info, "tls.ktls_reason", KLOOP_INFO_TEXT, "OpenSSL was built without it");
}

static void add_versions(struct kloop_info *info)
{
	char liburing[KL_RING_VERSION_BYTES];

	kl_ring_get_liburing_version(liburing, sizeof(liburing));
	add(info, "liburing.version", KLOOP_INFO_TEXT, "%s", liburing);
	add(info, "openssl.version", KLOOP_INFO_TEXT, "%s", kl_tls_get_openssl_version());
	add(info, "ldns.version", KLOOP_INFO_TEXT, "%s", kl_dns_get_ldns_version());
}

/* A limit of the process; -1 is no limit. */
static void add_limit(struct kloop_info *info, const char *name, rlim_t value)
{
	add_number(info, name, value == RLIM_INFINITY || value > INT64_MAX ? -1 : (int64_t)value);
}

static void add_limits(struct kloop_info *info)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0)
		add_limit(info, "limits.memlock_bytes", limit.rlim_cur);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
		add_limit(info, "limits.nofile", limit.rlim_cur);
}

int kloop_info_new(struct kloop_info **ret_info)
{
	struct kloop_info *info;
	struct utsname name;

	if (!ret_info)
		return -EINVAL;
	info = kl_calloc(1, sizeof(*info));
	if (!info)
		return -ENOMEM;
	add(info, "kloop.version", KLOOP_INFO_TEXT, "%s", kloop_version());
	if (uname(&name) == 0) {
		add(info, "kernel.release", KLOOP_INFO_TEXT, "%s", name.release);
		add(info, "kernel.machine", KLOOP_INFO_TEXT, "%s", name.machine);
	}
	add_ring(info);
	add_tls(info);
	add_versions(info);
	add_limits(info);
	if (info->error < 0) {
		int error = info->error;

		kloop_info_free(info);
		return error;
	}
	*ret_info = info;
	return 0;
}

void kloop_info_free(struct kloop_info *info)
{
	if (!info)
		return;
	for (size_t i = 0; i < info->count; i++)
		kl_free(info->facts[i].text);
	kl_free(info);
}

int kloop_info_get_usable(const struct kloop_info *info)
{
	return info->usable;
}

size_t kloop_info_get_count(const struct kloop_info *info)
{
	return info->count;
}

int kloop_info_get(const struct kloop_info *info, size_t position, const char **ret_name,
		   enum kloop_info_type *ret_type, const char **ret_text)
{
	if (!info || !ret_name || !ret_type || !ret_text)
		return -EINVAL;
	if (position >= info->count)
		return -ENOENT;
	*ret_name = info->facts[position].name;
	*ret_type = info->facts[position].type;
	*ret_text = info->facts[position].text;
	return 0;
}
