/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Which thread, and which side of a fork: without system calls. */
#include "internal.h"

#include <pthread.h>

unsigned kl_fork_count;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int fork_error;

__thread uintptr_t kl_thread_number;

const void *kl_thread_number_make(void)
{
	static _Atomic uintptr_t last;

	kl_thread_number = atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
	return (const void *)kl_thread_number;
}

static void begin_fork(void)
{
	kl_signals_lock();
}

static void end_in_parent(void)
{
	kl_signals_unlock();
}

static void begin_child(void)
{
	kl_fork_count++;
	kl_signals_begin_child();
	kl_signals_unlock();
}

static void install(void)
{
	fork_error = -pthread_atfork(begin_fork, end_in_parent, begin_child);
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
