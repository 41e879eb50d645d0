/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Child exit: a pidfd becomes readable when its process has ended. */
#include "ring.h"

#include <kloop/child.h>

#include <errno.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

struct kloop_child {
	struct kloop_loop *loop;
	struct kloop_op op;
	kloop_child_fn *fn; /* NULL after kloop_child_free() */
	void *data;
	pid_t pid;
	int fd;
};

/* siginfo's pair as the one number of waitpid(2). */
static int status_of(const siginfo_t *info)
{
	if (info->si_code == CLD_EXITED)
		return (info->si_status & 0xff) << 8;
	return (info->si_status & 0x7f) | (info->si_code == CLD_DUMPED ? 0x80 : 0);
}

/* 1 and a status, 0 if it still runs, or a negative errno. */
static int reap(int fd, int *ret_status)
{
	siginfo_t info = { .si_pid = 0 };

	if (waitid((idtype_t)P_PIDFD, (id_t)fd, &info, WEXITED | WNOHANG) < 0)
		return -errno;
	if (info.si_pid == 0)
		return 0;
	*ret_status = status_of(&info);
	return 1;
}

static void finish(struct kloop_child *watcher, int status)
{
	close(watcher->fd);
	if (watcher->fn != NULL)
		watcher->fn(watcher, watcher->pid, status, watcher->data);
	kl_free(watcher);
}

static void readable(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kloop_child *watcher = kl_container_of(op, struct kloop_child, op);
	int status = -ECANCELED;
	int ret;

	(void)flags;
	if (watcher->fn == NULL || (result == -ECANCELED && kl_loop_is_closing(watcher->loop))) {
		finish(watcher, status);
		return;
	}
	ret = reap(watcher->fd, &status);
	/* A poll that ended for another reason than the child's end is armed again. */
	if (ret == 0)
		ret = kloop_op_poll(watcher->loop, &watcher->op, watcher->fd, POLLIN);
	if (ret == 0)
		return;
	finish(watcher, ret > 0 ? status : ret);
}

int kloop_child_new(struct kloop_loop *loop, pid_t pid, kloop_child_fn *fn, void *data,
		    struct kloop_child **ret_watcher)
{
	struct kloop_child *watcher;
	siginfo_t info;
	int ret = kl_loop_check(loop);

	if (ret < 0)
		return ret;
	if (pid <= 0 || fn == NULL || ret_watcher == NULL)
		return -EINVAL;
	watcher = kl_calloc(1, sizeof(*watcher));
	if (watcher == NULL)
		return -ENOMEM;
	*watcher = (struct kloop_child){ .loop = loop, .fn = fn, .data = data, .pid = pid };
	kloop_op_init(&watcher->op, readable);
	watcher->fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (watcher->fd < 0) {
		ret = -errno;
		kl_free(watcher);
		return ret;
	}
	/* It looks without reaping: a process that is not our child is an error now, not later. */
	if (waitid((idtype_t)P_PIDFD, (id_t)watcher->fd, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
		ret = -errno;
	else
		ret = kloop_op_poll(loop, &watcher->op, watcher->fd, POLLIN);
	if (ret < 0) {
		close(watcher->fd);
		kl_free(watcher);
		return ret;
	}
	*ret_watcher = watcher;
	return 0;
}

void kloop_child_free(struct kloop_child *watcher)
{
	if (watcher == NULL)
		return;
	watcher->fn = NULL;
	(void)kloop_op_cancel(&watcher->op);
}
