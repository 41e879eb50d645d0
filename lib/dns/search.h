/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Which names are asked for a name: resolv.conf's search list, as res_search of glibc. */
#ifndef KL_DNS_SEARCH_H
#define KL_DNS_SEARCH_H

#include "config.h"

struct kl_search {
	const struct kl_config *config;
	const char *text;
	size_t bytes; /* without a dot at the end */
	bool escapes;
	unsigned dots;
	bool absolute; /* a dot at the end */
	unsigned step; /* 0: as it is; then the list; then as it is, if it was not yet */
	bool tried_as_is;
	bool root_on_list;
	bool searched;
	bool got_nodata;
	bool got_failure;
	int saved; /* of the first try as it is; 0: none */
	int last;
};

/* text must stay; 0, or -EINVAL if it is no name. With alone nothing is searched. */
int kl_search_begin(struct kl_search *search, const struct kl_config *config, const char *text,
		    bool escapes, bool alone);
/* The next name: its length, or 0 when there is none; kl_search_result() says what then. */
int kl_search_next(struct kl_search *search, uint8_t *ret_name);
/*
 * What came of the name: not 0. servfail: a server said SERVFAIL, so that
 * other names may still do. False: the search is over.
 */
bool kl_search_go_on(struct kl_search *search, int result, bool servfail);
/* What to tell after a search without success. */
int kl_search_result(const struct kl_search *search);

#endif
