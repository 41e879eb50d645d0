/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Every kind of operation with a setting in which it completes at once, and
 * one in which it waits: the table behind the tests of the three promises.
 */
#ifndef KT_KINDS_H
#define KT_KINDS_H

#include "support.h"

#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/uio.h>

/* What the kinds work on; memory that is lent to the kernel lives here. */
struct kt_setting {
	struct kloop_loop *loop;
	int fd;         /* the operation's descriptor */
	int others[2];  /* what keeps it alive or blocked; -1 if unused */
	char buffer[64];
	struct iovec vector[2];
	struct statx status;
	struct msghdr message;
	struct sockaddr_in address;
	struct kloop_pool *pool;
};

struct kt_kind {
	const char *name;
	/* Prepare the setting; blocked: so that the operation has to wait. */
	void (*open)(struct kt_setting *setting, bool blocked);
	int (*submit)(struct kt_setting *setting, struct kloop_op *op);
	/* Let an operation that waits go on; NULL for kinds that have no way to wait. */
	void (*unblock)(struct kt_setting *setting);
	int32_t expected; /* the last result when not blocked */
	bool takes_fd;    /* does it use a descriptor that can be bad? */
	bool makes_fd;    /* is its result a descriptor? */
	bool goes_on;     /* multishot: it does not end by itself */
};

extern const struct kt_kind kt_kinds[];
extern const int kt_kind_count;

/* A fresh setting on this loop, and its end; the loop stays the caller's. */
void kt_setting_open(struct kt_setting *setting, const struct kt_kind *kind,
		     struct kloop_loop *loop, bool blocked);
void kt_setting_close(struct kt_setting *setting);

#endif
