/* SPDX-License-Identifier: MulanPSL-2.0 */
/* See process.h. */
#include "process.h"

#include "common.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PATH_BYTES 300

/* The first field of one task's schedstat; false if the file is not there. */
static bool read_schedstat(pid_t pid, const char *task, uint64_t *ret_ns)
{
	char path[PATH_BYTES];
	FILE *file;
	bool found;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", (int)pid, task);
	file = fopen(path, "re");
	if (file == NULL)
		return false;
	found = fscanf(file, "%" SCNu64, ret_ns) == 1;
	fclose(file);
	return found;
}

static uint64_t process_clock_ns(pid_t pid)
{
	struct timespec now;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &now) != 0)
		kl_bench_die("process %d has no clock", (int)pid);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t kl_bench_process_cpu_ns(pid_t pid)
{
	char path[PATH_BYTES];
	uint64_t sum = 0, one;
	struct dirent *entry;
	unsigned tasks = 0;
	DIR *directory;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	directory = opendir(path);
	if (directory == NULL)
		kl_bench_die("%s: %s", path, strerror(errno));
	while ((entry = readdir(directory)) != NULL) {
		if (entry->d_name[0] != '.' && read_schedstat(pid, entry->d_name, &one)) {
			sum += one;
			tasks++;
		}
	}
	closedir(directory);
	return tasks > 0 ? sum : process_clock_ns(pid);
}

uint64_t kl_bench_process_rss_bytes(pid_t pid)
{
	char path[PATH_BYTES], line[256];
	uint64_t kib = 0;
	bool found = false;
	FILE *file;

	/* Exact, unlike the counters in statm, which lag behind by some pages. */
	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	file = fopen(path, "re");
	if (file == NULL)
		kl_bench_die("%s: %s", path, strerror(errno));
	while (!found && fgets(line, sizeof(line), file) != NULL)
		found = sscanf(line, "Rss: %" SCNu64 " kB", &kib) == 1;
	fclose(file);
	if (!found)
		kl_bench_die("%s: no resident size in it", path);
	return kib * 1024;
}
