/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Child processes: start a command, read what it prints, and learn how it
 * ended, all in one loop.
 */
#include <kloop.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

struct output {
	struct kloop_op op; /* first, so that its address is the output's */
	struct kloop_loop *loop;
	int fd;
	char buffer[512];
};

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, kloop_strerror(result));
	exit(1);
}

static void on_output(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct output *output = (struct output *)op;

	(void)flags;
	check(result, "read");
	if (result == 0)
		return;
	printf("it says: %.*s", (int)result, output->buffer);
	check(kloop_op_read(output->loop, op, output->fd, output->buffer, sizeof(output->buffer),
			    UINT64_MAX),
	      "kloop_op_read");
}

/* Called once; the watcher is freed afterwards, and the child is reaped already. */
static void on_end(struct kloop_child *watcher, pid_t pid, int status, void *data)
{
	(void)watcher;
	(void)pid;
	(void)data;
	if (status < 0)
		printf("nothing is known: %s\n", kloop_strerror(status));
	else if (WIFEXITED(status))
		printf("it exited with %d\n", WEXITSTATUS(status));
	else if (WIFSIGNALED(status))
		printf("signal %d ended it\n", WTERMSIG(status));
}

int main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "echo hello; exit 3";
	char *arguments[] = { "sh", "-c", (char *)command, NULL };
	posix_spawn_file_actions_t actions;
	struct output output = { 0 };
	struct kloop_child *watcher;
	int ends[2];
	pid_t pid;

	check(kloop_loop_new(NULL, &output.loop), "kloop_loop_new");
	if (pipe(ends) < 0) {
		perror("pipe");
		return 1;
	}
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
	posix_spawn_file_actions_addclose(&actions, ends[0]);
	posix_spawn_file_actions_addclose(&actions, ends[1]);
	if (posix_spawnp(&pid, "sh", &actions, NULL, arguments, environ) != 0) {
		perror("posix_spawnp");
		return 1;
	}
	posix_spawn_file_actions_destroy(&actions);
	close(ends[1]);

	check(kloop_child_new(output.loop, pid, on_end, NULL, &watcher), "kloop_child_new");
	output.fd = ends[0];
	kloop_op_init(&output.op, on_output);
	check(kloop_op_read(output.loop, &output.op, output.fd, output.buffer,
			    sizeof(output.buffer), UINT64_MAX),
	      "kloop_op_read");
	/* Returns when the output has ended and the child too. */
	check(kloop_loop_run(output.loop), "kloop_loop_run");
	close(output.fd);
	kloop_loop_free(output.loop);
	return 0;
}
