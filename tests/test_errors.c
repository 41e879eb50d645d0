/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Error codes and their texts, the version, the allocator's rules. */
#include "fault.h"
#include "support.h"

#include <errno.h>
#include <string.h>

static const struct {
	int code;
	const char *name;
	const char *says; /* a word that the text must contain */
} own[] = {
	{ KLOOP_ERROR_RING_OFF, "KLOOP_ERROR_RING_OFF", "KLOOP_IO_URING" },
	{ KLOOP_ERROR_RING_DENIED, "KLOOP_ERROR_RING_DENIED", "seccomp" },
	{ KLOOP_ERROR_RING_MISSING, "KLOOP_ERROR_RING_MISSING", "io_uring" },
	{ KLOOP_ERROR_RING_TOO_OLD, "KLOOP_ERROR_RING_TOO_OLD", "5.11" },
	{ KLOOP_ERROR_DNS_NONAME, "KLOOP_ERROR_DNS_NONAME", "not known" },
	{ KLOOP_ERROR_DNS_NODATA, "KLOOP_ERROR_DNS_NODATA", "no address" },
	{ KLOOP_ERROR_DNS_AGAIN, "KLOOP_ERROR_DNS_AGAIN", "failed" },
	{ KLOOP_ERROR_DNS_TIMEOUT, "KLOOP_ERROR_DNS_TIMEOUT", "in time" },
	{ KLOOP_ERROR_DNS_FAIL, "KLOOP_ERROR_DNS_FAIL", "no usable answer" },
	{ KLOOP_ERROR_DNS_FLAGS, "KLOOP_ERROR_DNS_FLAGS", "flags" },
	{ KLOOP_ERROR_DNS_FAMILY, "KLOOP_ERROR_DNS_FAMILY", "family" },
	{ KLOOP_ERROR_DNS_SOCKTYPE, "KLOOP_ERROR_DNS_SOCKTYPE", "socket type" },
	{ KLOOP_ERROR_DNS_SERVICE, "KLOOP_ERROR_DNS_SERVICE", "service" },
	{ KLOOP_ERROR_DNS_ADDRFAMILY, "KLOOP_ERROR_DNS_ADDRFAMILY", "another family" },
	{ KLOOP_ERROR_DNS_NSS, "KLOOP_ERROR_DNS_NSS", "nsswitch" },
	{ KLOOP_ERROR_DNS_TLS, "KLOOP_ERROR_DNS_TLS", "by TLS" },
};

START_TEST(own_codes)
{
	for (size_t i = 0; i < KT_COUNT(own); i++) {
		ck_assert_str_eq(kloop_error_name(own[i].code), own[i].name);
		ck_assert_ptr_nonnull(strstr(kloop_strerror(own[i].code), own[i].says));
		/* Below the range of errno, so that one int holds both. */
		ck_assert_int_lt(own[i].code, -4095);
	}
}
END_TEST

START_TEST(every_errno)
{
	int known = 0;

	for (int code = 1; code < 4096; code++) {
		const char *name = strerrorname_np(code);
		const char *text = strerrordesc_np(code);

		ck_assert_str_eq(kloop_error_name(-code), name ? name : "UNKNOWN");
		if (text)
			ck_assert_str_eq(kloop_strerror(-code), text);
		else
			ck_assert_int_gt((int)strlen(kloop_strerror(-code)), 0);
		known += name != NULL;
	}
	ck_assert_int_gt(known, 100);
	ck_assert_str_eq(kloop_error_name(-EPERM), "EPERM");
	ck_assert_str_eq(kloop_error_name(-ECANCELED), "ECANCELED");
	ck_assert_str_eq(kloop_error_name(0), "OK");
}
END_TEST

START_TEST(other_codes)
{
	static const int others[] = { 1, 4096, -4100, -5000, -1000000, INT32_MAX, INT32_MIN };

	for (size_t i = 0; i < KT_COUNT(others); i++) {
		ck_assert_str_eq(kloop_error_name(others[i]), "UNKNOWN");
		ck_assert_ptr_nonnull(kloop_strerror(others[i]));
		ck_assert_int_gt((int)strlen(kloop_strerror(others[i])), 0);
	}
	ck_assert_ptr_nonnull(kloop_strerror(0));
	ck_assert_str_ne(kloop_strerror(0), kloop_strerror(-EPERM));
}
END_TEST

START_TEST(version_is_the_headers)
{
	char text[64];

	ck_assert_str_eq(kloop_version(), KLOOP_VERSION_STRING);
	snprintf(text, sizeof(text), "%d.%d.%d", KLOOP_VERSION_MAJOR, KLOOP_VERSION_MINOR,
		 KLOOP_VERSION_PATCH);
	ck_assert_int_eq(strncmp(KLOOP_VERSION_STRING, text, strlen(text)), 0);
}
END_TEST

static void *no_malloc(size_t size, void *data)
{
	(void)size;
	(void)data;
	return NULL;
}

static void *no_realloc(void *memory, size_t size, void *data)
{
	(void)memory;
	(void)size;
	(void)data;
	return NULL;
}

static void no_free(void *memory, void *data)
{
	(void)memory;
	(void)data;
}

START_TEST(an_allocator_is_whole)
{
	struct kloop_allocator parts[3] = {
		{ NULL, no_realloc, no_free, NULL },
		{ no_malloc, NULL, no_free, NULL },
		{ no_malloc, no_realloc, NULL, NULL },
	};
	struct kloop_allocator nothing = { no_malloc, no_realloc, no_free, NULL };
	struct kloop_loop *loop = NULL;

	for (size_t i = 0; i < KT_COUNT(parts); i++)
		ck_assert_int_eq(kloop_set_allocator(&parts[i]), -EINVAL);
	/* The refused ones are not in force. */
	kt_loop_free(kt_loop_new(NULL));
	ck_assert_int_eq(kloop_set_allocator(&nothing), 0);
	memset(&nothing, 0, sizeof(nothing)); /* it was copied */
	ck_assert_int_eq(kloop_loop_new(NULL, &loop), -ENOMEM);
	ck_assert_ptr_null(loop);
	ck_assert_int_eq(kloop_set_allocator(NULL), 0);
	kt_loop_free(kt_loop_new(NULL));
}
END_TEST

/* The instrument itself: what is counted, what fails, and when. */
START_TEST(the_fault_counter_counts)
{
	struct kloop_loop_options *options[6] = { 0 };
	int refused = 0;

	kt_fault_install();
	ck_assert_int_eq(kloop_loop_options_new(&options[0]), 0);
	ck_assert_uint_eq(kt_fault_blocks(), 1);
	ck_assert_uint_gt(kt_fault_bytes(), 0);
	ck_assert(kt_fault_owns(options[0]));

	kt_fault_arm(2, 2); /* the second and the third from here */
	for (int i = 1; i < 6; i++) {
		int r = kloop_loop_options_new(&options[i]);

		ck_assert_int_eq(r, i == 2 || i == 3 ? -ENOMEM : 0);
		refused += r != 0;
	}
	ck_assert_int_eq(refused, 2);
	ck_assert_uint_eq(kt_fault_hits(), 2);
	ck_assert_uint_eq(kt_fault_calls(), 6);
	ck_assert_uint_eq(kt_fault_blocks(), 4);
	for (int i = 0; i < 6; i++)
		kloop_loop_options_free(options[i]);

	kt_fault_arm(1, 0);
	ck_assert_int_eq(kloop_loop_options_new(&options[0]), -ENOMEM);
	kt_fault_pause();
	ck_assert_int_eq(kloop_loop_options_new(&options[0]), 0);
	kt_fault_resume();
	ck_assert_int_eq(kloop_loop_options_new(&options[1]), -ENOMEM);
	kloop_loop_options_free(options[0]);
	ck_assert_uint_eq(kt_fault_blocks(), 0);
	ck_assert_uint_eq(kt_fault_bytes(), 0);
	kt_fault_remove();
}
END_TEST

static Suite *errors_suite(void)
{
	Suite *suite = suite_create("errors");
	TCase *codes = kt_case(suite, "codes", 10);
	TCase *memory = kt_case(suite, "memory", 10);

	tcase_add_test(codes, own_codes);
	tcase_add_test(codes, every_errno);
	tcase_add_test(codes, other_codes);
	tcase_add_test(codes, version_is_the_headers);
	tcase_add_test(memory, an_allocator_is_whole);
	tcase_add_test(memory, the_fault_counter_counts);
	return suite;
}

int main(void)
{
	return kt_main(errors_suite());
}
