/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Reading the files through the ring: a look at what they are (statx), and if
 * one is not what it was, all of them are read, piece by piece, so that a large
 * hosts file keeps nobody waiting. A file that is replaced by rename or by
 * another target of a symbolic link is another file.
 */
#include "lookup.h"
#include "query.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES 65536
#define STAMP_MASK (STATX_TYPE | STATX_INO | STATX_SIZE | STATX_CTIME | STATX_MTIME)

struct kl_loader {
	struct kloop_op op;
	struct kloop_resolver *resolver; /* NULL: given up, waits for its operation */
	struct kloop_resolver *holder;
	struct kl_config *config; /* being read; NULL while looking */
	struct kl_lines lines;
	struct kl_stamp stamps[KL_FILES];
	struct statx status;
	unsigned file;
	int fd;
	size_t offset;
	char path[4096]; /* the resolver's own may go while the kernel reads it */
	char piece[PIECE_BYTES];
};

static const char *const usual_paths[KL_FILES] = {
	[KLOOP_DNS_FILE_RESOLV_CONF] = "/etc/resolv.conf",
	[KLOOP_DNS_FILE_HOSTS] = "/etc/hosts",
	[KLOOP_DNS_FILE_NSSWITCH] = "/etc/nsswitch.conf",
	[KLOOP_DNS_FILE_SERVICES] = "/etc/services",
	[KLOOP_DNS_FILE_GAI_CONF] = "/etc/gai.conf",
	[KLOOP_DNS_FILE_HOST_CONF] = "/etc/host.conf",
};

static void look(struct kl_loader *loader);
static void load(struct kl_loader *loader);

/* ---- the end ------------------------------------------------------------- */

static void free_loader(struct kl_loader *loader)
{
	struct kloop_resolver *holder = loader->holder;

	if (loader->fd >= 0)
		close(loader->fd);
	kl_lines_free(&loader->lines);
	kl_config_unref(loader->config);
	kl_free(loader);
	kl_resolver_release(holder);
}

void kl_loader_stop(struct kloop_resolver *resolver)
{
	struct kl_loader *loader = resolver->loader;

	if (!loader)
		return;
	resolver->loader = NULL;
	loader->resolver = NULL;
	if (kloop_op_is_active(&loader->op))
		(void)kloop_op_cancel(&loader->op);
	else
		free_loader(loader);
}

/* Put the new configuration in force, or say why there is none. */
static void finish(struct kl_loader *loader, int error)
{
	struct kloop_resolver *resolver = loader->resolver;
	struct kl_config *old = resolver->config;

	resolver->loader = NULL;
	loader->resolver = NULL;
	kl_resolver_tick(resolver);
	resolver->checked_ns = resolver->now_ns;
	resolver->load_error = error;
	if (error == 0 && loader->config) {
		if (old && !resolver->reread)
			kl_servers_inherit(loader->config, old);
		resolver->config = loader->config;
		loader->config = NULL;
		resolver->reread = false;
		resolver->stats.reloads++;
		/* What other servers said, or the same for another network, may be wrong now. */
		if (old) {
			kl_cache_flush(&resolver->cache, NULL);
			kl_tcp_retire(old);
		}
		kl_config_unref(old);
	}
	/* A failure to read again leaves the old one in force. */
	free_loader(loader);
	kl_lookups_configured(resolver);
}

/* ---- what was read -------------------------------------------------------- */

static int complete_config(struct kl_loader *loader)
{
	struct kloop_resolver *resolver = loader->resolver;
	const struct kloop_resolver_options *options = &resolver->options;
	struct kl_config *config = loader->config;
	struct kl_resolv *resolv = &config->resolv;
	char hostname[256] = "";
	struct kl_server_choice choices[KL_CONF_SERVERS_MAX] = { 0 };
	int ret = 0;

	memcpy(config->stamps, loader->stamps, sizeof(config->stamps));
	kl_gai_finish(&config->gai);
	(void)gethostname(hostname, sizeof(hostname) - 1);
	if (!(options->flags & KLOOP_RESOLVER_NO_ENVIRONMENT))
		ret = kl_resolv_environment(resolv, secure_getenv("LOCALDOMAIN"),
					    secure_getenv("RES_OPTIONS"));
	if (ret == 0)
		ret = kl_resolv_finish(resolv, hostname);
	if (ret < 0)
		return ret;
	config->timeout_ns = options->timeout_ns != 0 ? options->timeout_ns :
							resolv->timeout_s * UINT64_C(1000000000);
	config->attempts = options->attempts != 0 ? options->attempts : resolv->attempts;
	if (options->server_count != 0)
		return kl_servers_make(config, options->servers, options->server_count);
	for (unsigned i = 0; i < resolv->server_count; i++)
		choices[i].address = resolv->servers[i];
	return kl_servers_make(config, choices, resolv->server_count);
}

static struct kl_stamp stamp_of(const struct statx *status)
{
	struct kl_stamp stamp;

	_Static_assert(sizeof(stamp) == 5 * sizeof(uint64_t) + 2 * sizeof(uint32_t),
		       "stamps are compared as bytes");
	memset(&stamp, 0, sizeof(stamp));
	if (!S_ISREG(status->stx_mode))
		return stamp;
	stamp.device = (uint64_t)status->stx_dev_major << 32 | status->stx_dev_minor;
	stamp.inode = status->stx_ino;
	stamp.bytes = status->stx_size;
	stamp.changed_s = status->stx_ctime.tv_sec;
	stamp.changed_ns = status->stx_ctime.tv_nsec;
	stamp.modified_s = status->stx_mtime.tv_sec;
	stamp.modified_ns = status->stx_mtime.tv_nsec;
	return stamp;
}

/* ---- reading -------------------------------------------------------------- */

static bool set_path(struct kl_loader *loader)
{
	const char *path = loader->resolver->options.paths[loader->file];

	if (!path)
		path = usual_paths[loader->file];
	strcpy(loader->path, path); /* the option was checked for its length */
	return *path != '\0';
}

/* Operations that come to an end after the loader was given up. True: it was. */
static bool is_over(struct kl_loader *loader)
{
	if (!loader->resolver) {
		free_loader(loader);
		return true;
	}
	/* At the loop's end the exit hook does what is left. */
	return kl_loop_is_closing(loader->resolver->loop);
}

/*
 * Nobody asked for that end: a signal did it, or the thread for which the kernel
 * worked is gone. It says nothing about the file: once more.
 */
static bool is_repeated(int32_t result)
{
	return result == -EINTR || result == -ECANCELED;
}

static void file_done(struct kl_loader *loader)
{
	int ret = kl_lines_end(&loader->lines);

	if (loader->fd >= 0)
		close(loader->fd);
	loader->fd = -1;
	if (ret < 0) {
		finish(loader, ret);
		return;
	}
	loader->file++;
	load(loader);
}

static void read_piece(struct kl_loader *loader);

static void piece_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kl_loader *loader = kl_container_of(op, struct kl_loader, op);
	int ret;

	(void)flags;
	if (is_over(loader))
		return;
	if (is_repeated(result)) {
		read_piece(loader);
		return;
	}
	if (result == -ENOMEM) {
		finish(loader, result);
		return;
	}
	/* What cannot be read ends there. */
	if (result <= 0) {
		file_done(loader);
		return;
	}
	ret = kl_lines_feed(&loader->lines, loader->piece, (size_t)result);
	if (ret < 0) {
		finish(loader, ret);
		return;
	}
	loader->offset += (size_t)result;
	read_piece(loader);
}

static void read_piece(struct kl_loader *loader)
{
	size_t left = kl_config_limit(loader->file) - loader->offset;
	int ret;

	if (left == 0) {
		file_done(loader);
		return;
	}
	loader->op.complete = piece_done;
	ret = kloop_op_read(loader->resolver->loop, &loader->op, loader->fd, loader->piece,
			    left < PIECE_BYTES ? left : PIECE_BYTES, loader->offset);
	if (ret < 0)
		finish(loader, ret);
}

static void read_status(struct kl_loader *loader);

static void status_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kl_loader *loader = kl_container_of(op, struct kl_loader, op);

	(void)flags;
	if (is_over(loader))
		return;
	if (is_repeated(result)) {
		read_status(loader);
		return;
	}
	/* Pipes and devices are no files to read. */
	if (result < 0 || !S_ISREG(loader->status.stx_mode)) {
		file_done(loader);
		return;
	}
	loader->stamps[loader->file] = stamp_of(&loader->status);
	loader->offset = 0;
	kl_config_parser(loader->config, loader->file, &loader->lines);
	read_piece(loader);
}

static void read_status(struct kl_loader *loader)
{
	int ret;

	loader->op.complete = status_done;
	ret = kl_op_statx(loader->resolver->loop, &loader->op, loader->fd, "", AT_EMPTY_PATH,
			  STAMP_MASK, &loader->status);
	if (ret < 0)
		finish(loader, ret);
}

static void open_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kl_loader *loader = kl_container_of(op, struct kl_loader, op);

	(void)flags;
	if (result >= 0)
		loader->fd = result;
	if (is_over(loader))
		return;
	if (is_repeated(result)) {
		load(loader);
		return;
	}
	if (result < 0) {
		/* A file that may not be read is none; without descriptors nothing can be said. */
		if (result == -EMFILE || result == -ENFILE || result == -ENOMEM)
			finish(loader, result);
		else
			file_done(loader);
		return;
	}
	read_status(loader);
}

/* Read the next file, or be ready. */
static void load(struct kl_loader *loader)
{
	int ret;

	while (loader->file < KL_FILES && !set_path(loader))
		loader->file++;
	if (loader->file == KL_FILES) {
		finish(loader, complete_config(loader));
		return;
	}
	loader->op.complete = open_done;
	/* O_NONBLOCK: a FIFO in the place of a file must not hold up anybody. */
	ret = kl_op_open(loader->resolver->loop, &loader->op, loader->path,
			 O_RDONLY | O_NONBLOCK | O_NOCTTY);
	if (ret < 0)
		finish(loader, ret);
}

static void begin_load(struct kl_loader *loader)
{
	memset(loader->stamps, 0, sizeof(loader->stamps));
	loader->file = 0;
	loader->config = kl_config_new();
	if (!loader->config)
		finish(loader, -ENOMEM);
	else
		load(loader);
}

/* ---- looking -------------------------------------------------------------- */

static void look_done(struct kloop_op *op, int32_t result, uint32_t flags)
{
	struct kl_loader *loader = kl_container_of(op, struct kl_loader, op);
	struct kl_stamp stamp;

	(void)flags;
	if (is_over(loader))
		return;
	if (is_repeated(result)) {
		look(loader);
		return;
	}
	memset(&stamp, 0, sizeof(stamp));
	if (result == 0)
		stamp = stamp_of(&loader->status);
	if (memcmp(&stamp, &loader->resolver->config->stamps[loader->file], sizeof(stamp)) != 0) {
		begin_load(loader);
		return;
	}
	loader->file++;
	look(loader);
}

static void look(struct kl_loader *loader)
{
	int ret;

	while (loader->file < KL_FILES && !set_path(loader))
		loader->file++;
	if (loader->file == KL_FILES) {
		finish(loader, 0);
		return;
	}
	loader->op.complete = look_done;
	ret = kl_op_statx(loader->resolver->loop, &loader->op, AT_FDCWD, loader->path, 0,
			  STAMP_MASK, &loader->status);
	if (ret < 0)
		finish(loader, ret);
}

static bool must_look(const struct kloop_resolver *resolver)
{
	const unsigned off = KL_RESOLV_NO_RELOAD;

	if (!resolver->config || resolver->reread)
		return true;
	if ((resolver->options.flags & KLOOP_RESOLVER_NO_RELOAD) ||
	    (resolver->config->resolv.options & off))
		return false;
	return resolver->options.check_ns == 0 ||
	       resolver->now_ns - resolver->checked_ns > resolver->options.check_ns;
}

bool kl_config_ready(struct kloop_resolver *resolver, bool may_start)
{
	struct kl_loader *loader;

	if (!resolver->loader && !must_look(resolver))
		return true;
	if (resolver->loader || !may_start)
		return false;
	loader = kl_calloc(1, sizeof(*loader));
	if (!loader) {
		resolver->load_error = -ENOMEM;
		return true; /* go on with what there is */
	}
	kloop_op_init(&loader->op, look_done);
	loader->resolver = resolver;
	loader->holder = resolver;
	loader->fd = -1;
	resolver->holds++;
	resolver->loader = loader;
	if (resolver->config && !resolver->reread)
		look(loader);
	else
		begin_load(loader);
	/* A refused operation ends the loader at once: then there is nothing to wait for. */
	return !resolver->loader;
}
