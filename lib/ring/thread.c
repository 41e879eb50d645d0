/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Which thread, and which side of a fork: without system calls. */
#include "internal.h"

#include <errno.h>
#include <pthread.h>

unsigned kl_fork_count;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int fork_error;

/*
 * A number that no other thread of the process has, before or after: the address
 * of a variable of the thread's own, or its id, are those of a later thread again,
 * to which a ring of the former does not belong.
 */
const void *kl_thread_token(void)
{
	static _Atomic uintptr_t last;
	static __thread uintptr_t token;

	if (token == 0)
		token = atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
	return (const void *)token;
}

static void count_fork(void)
{
	kl_fork_count++;
}

static void install(void)
{
	fork_error = -pthread_atfork(NULL, NULL, count_fork);
}

/* To be called before the first loop is made. 0, or -ENOMEM. */
int kl_fork_watch(void)
{
	pthread_once(&fork_once, install);
	return fork_error;
}

/* Differs in a child from what it was in the parent. */
unsigned kl_fork_generation(void)
{
	return kl_fork_count;
}

int kl_loop_check(const struct kloop_loop *loop)
{
	if (loop == NULL)
		return -EINVAL;
	if (kl_loop_is_elsewhere(loop))
		return -ECHILD;
	if (loop->closing)
		return -ESTALE;
	if (loop->owner != kl_thread_token())
		return -EPERM;
	return 0;
}
