/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Memory that comes and goes with each message. */
#include "internal.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED __has_feature(address_sanitizer)
#else
#define SANITIZED 0
#endif

/* What is kept of each size, at most. */
#define KEPT_BYTES ((size_t)64 << 10)

struct kl_spare {
	struct kl_spare *next;
};

static const size_t sizes[KL_SPARE_SIZES] = { KL_SPARE_SMALL, KL_SPARE_MIDDLE, KL_SPARE_LARGE };

/* Which size holds so many; KL_SPARE_SIZES if none does. */
static inline unsigned find_size(size_t bytes)
{
	return (bytes > KL_SPARE_SMALL) + (bytes > KL_SPARE_MIDDLE) + (bytes > KL_SPARE_LARGE);
}

void *kl_spare_take(struct kloop_loop *loop, size_t *bytes)
{
	unsigned which = find_size(*bytes);
	struct kl_spares *spares = &loop->front.spares[which];
	struct kl_spare *spare;

	if (which == KL_SPARE_SIZES)
		return kl_malloc(*bytes);
	*bytes = sizes[which];
	spare = spares->first;
	if (spare == NULL)
		return kl_malloc(*bytes);
	spares->first = spare->next;
	spares->count--;
	return spare;
}

void kl_spare_give(struct kloop_loop *loop, void *memory, size_t bytes)
{
	unsigned which = find_size(bytes);
	struct kl_spares *spares = &loop->front.spares[which];
	struct kl_spare *spare = memory;

	if (SANITIZED || which == KL_SPARE_SIZES || (spares->count + 1) * sizes[which] > KEPT_BYTES) {
		kl_free(memory);
		return;
	}
	spare->next = spares->first;
	spares->first = spare;
	spares->count++;
}

void kl_spares_free(struct kloop_loop *loop)
{
	for (unsigned which = 0; which < KL_SPARE_SIZES; which++) {
		while (loop->front.spares[which].first != NULL) {
			struct kl_spare *spare = loop->front.spares[which].first;

			loop->front.spares[which].first = spare->next;
			kl_free(spare);
		}
	}
}
