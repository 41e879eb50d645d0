/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "internal.h"

#include <errno.h>

const struct kloop_loop_options kl_default_options = {
	.submissions = 1024,
	.completions = 8192,
	.sqpoll_cpu = -1,
	.pool_count = 256,
	.pool_buffer_bytes = 16384,
};

int kloop_loop_options_new(struct kloop_loop_options **ret_options)
{
	struct kloop_loop_options *options;

	if (ret_options == NULL)
		return -EINVAL;
	options = kl_malloc(sizeof(*options));
	if (options == NULL)
		return -ENOMEM;
	*options = kl_default_options;
	*ret_options = options;
	return 0;
}

void kloop_loop_options_free(struct kloop_loop_options *options)
{
	kl_free(options);
}

int kloop_loop_options_set_entries(struct kloop_loop_options *options, unsigned submissions,
				   unsigned completions)
{
	if (options == NULL || submissions < 1 || submissions > 32768 || completions < submissions ||
	    completions > 65536)
		return -EINVAL;
	options->submissions = submissions;
	options->completions = completions;
	return 0;
}

int kloop_loop_options_set_sqpoll(struct kloop_loop_options *options, bool on, unsigned idle_ms,
				  int cpu)
{
	if (options == NULL || cpu < -1)
		return -EINVAL;
	options->sqpoll = on;
	options->sqpoll_idle_ms = idle_ms != 0 ? idle_ms : 1000;
	options->sqpoll_cpu = cpu;
	return 0;
}

int kloop_loop_options_set_spin(struct kloop_loop_options *options, uint64_t spin_ns)
{
	if (options == NULL || spin_ns > 1000000000)
		return -EINVAL;
	options->spin_ns = spin_ns;
	options->spin_set = true;
	return 0;
}

int kloop_loop_options_set_receive_pool(struct kloop_loop_options *options, unsigned count,
					size_t buffer_bytes)
{
	if (options == NULL || count < 1 || count > 32768 || (count & (count - 1)) != 0 ||
	    buffer_bytes < 256 || buffer_bytes > 1 << 20)
		return -EINVAL;
	options->pool_count = count;
	options->pool_buffer_bytes = buffer_bytes;
	return 0;
}

void kloop_loop_options_set_without(struct kloop_loop_options *options, uint64_t features)
{
	if (options != NULL)
		options->without = features;
}
