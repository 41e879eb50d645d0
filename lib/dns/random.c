/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "random.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

int kl_random_fill(struct kl_random *random, void *buffer, size_t bytes)
{
	uint8_t *from;

	if (bytes > 64)
		return -EINVAL;
	if (random->left < bytes) {
		/* Up to 256 bytes come whole; without the flag it could sleep early at boot. */
		if (getrandom(random->pool, 256, GRND_NONBLOCK) != 256 ||
		    getrandom(random->pool + 256, 256, GRND_NONBLOCK) != 256)
			return -EAGAIN;
		random->left = sizeof(random->pool);
	}
	from = random->pool + sizeof(random->pool) - random->left;
	memcpy(buffer, from, bytes);
	/* What was given out is not kept. */
	memset(from, 0, bytes);
	random->left -= bytes;
	return 0;
}
