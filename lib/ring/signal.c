/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Signals. The handler counts and wakes; watchers compare the count with what
 * they saw last, on their loop's thread. Everything that the handler touches
 * is static and atomic.
 */
#include "internal.h"

#include <kloop/signal.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>

#define MAX_LOOPS 64
#define MAX_SIGNAL 65

struct kloop_signal {
	struct kloop_loop *loop;
	struct kloop_signal *next;
	kloop_signal_fn *fn;
	void *data;
	int number;
	unsigned seen;
	bool dead; /* freed from inside a delivery, which removes it */
};

static _Atomic unsigned counts[MAX_SIGNAL];
static _Atomic(struct kloop_loop *) loops[MAX_LOOPS];
/* Handlers that run now, in any thread: a loop leaves the table only when none may still use it. */
static _Atomic unsigned running;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned watchers[MAX_SIGNAL];
static struct sigaction former[MAX_SIGNAL];

/* Around fork(2), so that no child begins with the table half-changed and locked for good. */
void kl_signals_lock(void)
{
	pthread_mutex_lock(&lock);
}

void kl_signals_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

/* The threads that ran handlers are not there. */
void kl_signals_begin_child(void)
{
	atomic_store(&running, 0);
}

static void handler(int number)
{
	atomic_fetch_add(&running, 1);
	atomic_fetch_add(&counts[number], 1);
	for (int i = 0; i < MAX_LOOPS; i++) {
		struct kloop_loop *loop = atomic_load(&loops[i]);

		if (loop != NULL)
			(void)kloop_loop_wake(loop);
	}
	atomic_fetch_sub(&running, 1);
}

static int enter_table(struct kloop_loop *loop)
{
	int slot = -1;

	for (int i = MAX_LOOPS - 1; i >= 0; i--) {
		if (atomic_load(&loops[i]) == loop)
			return 0;
		if (atomic_load(&loops[i]) == NULL)
			slot = i;
	}
	if (slot < 0)
		return -EBUSY;
	atomic_store(&loops[slot], loop);
	return 0;
}

static void leave_table(struct kloop_loop *loop)
{
	for (int i = 0; i < MAX_LOOPS; i++) {
		if (atomic_load(&loops[i]) == loop)
			atomic_store(&loops[i], NULL);
	}
	while (atomic_load(&running) != 0)
		;
}

static int install(int number)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };

	if (watchers[number] == 0) {
		sigfillset(&action.sa_mask);
		if (sigaction(number, &action, &former[number]) < 0)
			return -errno;
	}
	watchers[number]++;
	return 0;
}

int kloop_signal_new(struct kloop_loop *loop, int signal_number, kloop_signal_fn *fn, void *data,
		     struct kloop_signal **ret_watcher)
{
	struct kloop_signal *watcher;
	int ret = kl_loop_check(loop);

	if (ret < 0)
		return ret;
	if (signal_number < 1 || signal_number >= MAX_SIGNAL || fn == NULL || ret_watcher == NULL)
		return -EINVAL;
	watcher = kl_calloc(1, sizeof(*watcher));
	if (watcher == NULL)
		return -ENOMEM;
	watcher->loop = loop;
	watcher->fn = fn;
	watcher->data = data;
	watcher->number = signal_number;
	pthread_mutex_lock(&lock);
	ret = enter_table(loop);
	if (ret == 0) {
		watcher->seen = atomic_load(&counts[signal_number]);
		ret = install(signal_number);
		if (ret < 0 && loop->signals == NULL)
			leave_table(loop);
	}
	pthread_mutex_unlock(&lock);
	if (ret < 0) {
		kl_free(watcher);
		return ret;
	}
	watcher->next = loop->signals;
	loop->signals = watcher;
	*ret_watcher = watcher;
	return 0;
}

static void unlink_watcher(struct kloop_signal *watcher)
{
	struct kloop_signal **link = &watcher->loop->signals;

	while (*link != watcher)
		link = &(*link)->next;
	*link = watcher->next;
	if (watcher->loop->signals == NULL) {
		pthread_mutex_lock(&lock);
		leave_table(watcher->loop);
		pthread_mutex_unlock(&lock);
	}
	kl_free(watcher);
}

void kloop_signal_free(struct kloop_signal *watcher)
{
	int number;

	if (watcher == NULL || watcher->dead)
		return;
	number = watcher->number;
	pthread_mutex_lock(&lock);
	if (--watchers[number] == 0)
		sigaction(number, &former[number], NULL);
	pthread_mutex_unlock(&lock);
	if (watcher->loop->delivering_signals)
		watcher->dead = true;
	else
		unlink_watcher(watcher);
}

/* Call the watchers whose signal came since they looked last. */
int kl_signals_deliver(struct kloop_loop *loop)
{
	struct kloop_signal *watcher;
	struct kloop_signal *next;
	int count = 0;

	loop->delivering_signals = true;
	for (watcher = loop->signals; watcher != NULL; watcher = watcher->next) {
		unsigned now = atomic_load(&counts[watcher->number]);

		if (watcher->dead || watcher->seen == now)
			continue;
		watcher->seen = now;
		count++;
		watcher->fn(watcher, watcher->number, watcher->data);
		if (kl_loop_is_elsewhere(loop))
			break;
	}
	loop->delivering_signals = false;
	if (count == 0)
		return 0;
	for (watcher = loop->signals; watcher != NULL; watcher = next) {
		next = watcher->next;
		if (watcher->dead)
			unlink_watcher(watcher);
	}
	return count;
}

/* Watchers that were not freed before their loop. */
void kl_signals_clear(struct kloop_loop *loop)
{
	while (loop->signals != NULL)
		kloop_signal_free(loop->signals);
}
