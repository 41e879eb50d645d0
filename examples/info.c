/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What this machine allows: a small kloop-info(1). With the name of a fact,
 * only that one is printed.
 */
#include <kloop.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	const char *wanted = argc > 1 ? argv[1] : NULL;
	enum kloop_info_type type;
	const char *name, *text;
	struct kloop_info *info;
	int usable;
	int error = kloop_info_new(&info);

	if (error < 0) {
		fprintf(stderr, "kloop_info_new: %s\n", kloop_strerror(error));
		return 2;
	}
	for (size_t i = 0; i < kloop_info_get_count(info); i++) {
		/* The strings last until kloop_info_free(). */
		if (kloop_info_get(info, i, &name, &type, &text) == 0 &&
		    (!wanted || strcmp(wanted, name) == 0))
			printf("%s=%s\n", name, text);
	}
	usable = kloop_info_get_usable(info);
	if (usable < 0)
		fprintf(stderr, "%s: %s\n", kloop_error_name(usable), kloop_strerror(usable));
	kloop_info_free(info);
	return usable < 0;
}
