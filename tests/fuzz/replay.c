/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A fuzz target without a fuzzer: every file of a folder goes through it once,
 * in TAP. A target NAME is tests/fuzz/fuzz_NAME.c, its folder
 * tests/fuzz/corpus/NAME; what once crashed it stays there.
 *
 * Usage: fuzz_NAME [FOLDER | FILE]...
 */
#include <dirent.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static int count;

static void fail(const char *path)
{
	perror(path);
	exit(1);
}

static void replay_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	struct stat stat;
	uint8_t *data;
	size_t bytes;

	if (!file || fstat(fileno(file), &stat) < 0)
		fail(path);
	bytes = (size_t)stat.st_size;
	/* Of exactly this size, for sanitizers and valgrind. */
	data = malloc(bytes ? bytes : 1);
	if (!data || fread(data, 1, bytes, file) != bytes)
		fail(path);
	fclose(file);
	(void)LLVMFuzzerTestOneInput(data, bytes);
	free(data);
	printf("ok %d - %s\n", ++count, path);
	fflush(stdout);
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void replay(const char *path)
{
	struct dirent **entries;
	char name[PATH_MAX];
	struct stat info;
	int found;

	if (stat(path, &info) < 0)
		fail(path);
	if (!S_ISDIR(info.st_mode)) {
		replay_file(path);
		return;
	}
	found = scandir(path, &entries, is_visible, alphasort);
	if (found < 0)
		fail(path);
	for (int i = 0; i < found; i++) {
		snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
		replay(name);
		free(entries[i]);
	}
	free(entries);
}

/* The folder that belongs to the program, in the source tree. */
static void replay_own(const char *program)
{
	const char *top = getenv("top_srcdir"), *name = strstr(program, "fuzz_");
	char path[PATH_MAX];

	/* The last one: folders may have such names as well. */
	while (name && strstr(name + 1, "fuzz_"))
		name = strstr(name + 1, "fuzz_");
	if (!name) {
		fprintf(stderr, "%s: name a folder\n", program);
		exit(2);
	}
	snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/%s", top ? top : ".",
		 name + strlen("fuzz_"));
	replay(path);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		replay(argv[i]);
	if (argc == 1)
		replay_own(argv[0]);
	printf("1..%d\n", count);
	return count > 0 ? 0 : 1;
}
