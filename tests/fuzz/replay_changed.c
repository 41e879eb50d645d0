/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Runs a fuzz target on each file of its corpus, whole and with some changes,
 * the same each time. Prints TAP. The target's name is the program's, behind
 * "fuzz_".
 */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES 65536
#define CHANGES 400

static void run(const uint8_t *data, size_t bytes)
{
	/* Memory of its own, so that a read behind its end is seen. */
	uint8_t *copy = malloc(bytes != 0 ? bytes : 1);

	if (bytes != 0)
		memcpy(copy, data, bytes);
	LLVMFuzzerTestOneInput(copy, bytes);
	free(copy);
}

static void run_changed(const uint8_t *data, size_t bytes)
{
	uint8_t *copy = malloc(bytes + 1);
	uint32_t state = 2463534242u;

	for (int i = 0; i < CHANGES && bytes != 0; i++) {
		memcpy(copy, data, bytes);
		for (int j = 0; j <= i % 4; j++) {
			state ^= state << 13;
			state ^= state >> 17;
			state ^= state << 5;
			copy[state % bytes] = (uint8_t)(state >> 24);
		}
		run(copy, i % 5 == 0 ? state % bytes : bytes);
	}
	free(copy);
}

static int run_file(const char *folder, const char *name)
{
	static uint8_t data[FILE_BYTES];
	char path[4096];
	FILE *stream;
	size_t bytes;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	stream = fopen(path, "rb");
	if (!stream)
		return -1;
	bytes = fread(data, 1, sizeof(data), stream);
	fclose(stream);
	run(data, bytes);
	run_changed(data, bytes);
	return 0;
}

int main(int argc, char **argv)
{
	const char *source = getenv("top_srcdir");
	const char *name = strstr(argv[0], "fuzz_");
	struct dirent *entry;
	char folder[2048];
	int count = 0;
	DIR *files;

	if (!name)
		return 1;
	while (strstr(name + 1, "fuzz_"))
		name = strstr(name + 1, "fuzz_");
	if (argc > 1)
		snprintf(folder, sizeof(folder), "%s", argv[1]);
	else
		snprintf(folder, sizeof(folder), "%s/tests/fuzz/corpus/%s", source ? source : ".",
			 name + 5);
	files = opendir(folder);
	if (!files) {
		printf("not ok 1 - there is no %s\n1..1\n", folder);
		return 1;
	}
	run(NULL, 0);
	while ((entry = readdir(files))) {
		if (entry->d_name[0] == '.')
			continue;
		printf("%s %d - %s\n", run_file(folder, entry->d_name) == 0 ? "ok" : "not ok",
		       ++count, entry->d_name);
	}
	closedir(files);
	printf("1..%d\n", count);
	return count == 0;
}
