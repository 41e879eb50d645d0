/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Datagram sockets that record: see datagrams.h. */
#include "datagrams.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(struct kt_datagram *datagram, enum kt_datagram_event event)
{
	ck_assert_int_eq(datagram->count[KT_DATAGRAM_CLOSE], 0);
	datagram->count[event]++;
	if (datagram->then)
		datagram->then(datagram, event);
}

static void on_datagram(struct kloop_datagram *datagram, const void *data, size_t bytes,
			const struct kloop_address *from, unsigned flags, void *user)
{
	struct kt_datagram *self = user;
	struct kt_received *received = &self->received[self->count[KT_DATAGRAM]];

	ck_assert_ptr_eq(datagram, self->datagram);
	ck_assert(self->reading);
	ck_assert_int_lt(self->count[KT_DATAGRAM], KT_MOST_DATAGRAMS);
	received->data = malloc(bytes + 1);
	ck_assert_ptr_nonnull(received->data);
	if (bytes > 0)
		memcpy(received->data, data, bytes);
	received->bytes = bytes;
	received->from = *from;
	received->flags = flags;
	note(self, KT_DATAGRAM);
}

static void on_error(struct kloop_datagram *datagram, int error, const struct kloop_address *peer,
		     void *user)
{
	struct kt_datagram *self = user;
	int count = self->count[KT_DATAGRAM_ERROR];

	ck_assert_ptr_eq(datagram, self->datagram);
	ck_assert_int_lt(error, 0);
	ck_assert(!peer || peer->length > 0);
	if (count < KT_MOST_ERRORS) {
		self->errors[count] = error;
		if (peer)
			self->peers[count] = *peer;
	}
	note(self, KT_DATAGRAM_ERROR);
}

static void on_drain(struct kloop_datagram *datagram, void *user)
{
	ck_assert_ptr_eq(datagram, ((struct kt_datagram *)user)->datagram);
	note(user, KT_DATAGRAM_DRAIN);
}

static void on_close(struct kloop_datagram *datagram, void *user)
{
	struct kt_datagram *self = user;

	ck_assert_ptr_eq(datagram, self->datagram);
	self->close_fd = kloop_datagram_get_fd(datagram);
	note(self, KT_DATAGRAM_CLOSE);
	self->datagram = NULL;
}

const struct kloop_datagram_handlers kt_datagram_handlers = {
	.size = sizeof(kt_datagram_handlers),
	.on_datagram = on_datagram,
	.on_error = on_error,
	.on_drain = on_drain,
	.on_close = on_close,
};

static void start(struct kt_datagram *datagram)
{
	ck_assert_int_eq(kloop_datagram_get_address(datagram->datagram, &datagram->address), 0);
	datagram->reading = true;
	ck_assert_int_eq(kloop_datagram_start_read(datagram->datagram), 0);
}

void kt_datagram_new(struct kt_datagram *datagram, struct kloop_loop *loop, int fd,
		     unsigned flags)
{
	memset(datagram, 0, sizeof(*datagram));
	datagram->loop = loop;
	ck_assert_int_eq(kloop_datagram_new(loop, fd, flags, &kt_datagram_handlers, datagram,
					    &datagram->datagram), 0);
	start(datagram);
}

void kt_datagram_open(struct kt_datagram *datagram, struct kloop_loop *loop,
		      const struct kloop_address *local, const struct kloop_address *peer,
		      unsigned flags)
{
	struct kloop_address own = { 0 };

	if (local)
		own = *local; /* it may be the one that is recorded here */
	memset(datagram, 0, sizeof(*datagram));
	datagram->loop = loop;
	ck_assert_int_eq(kloop_datagram_open(loop, local ? &own : NULL, peer, flags,
					     &kt_datagram_handlers, datagram, &datagram->datagram), 0);
	start(datagram);
}

void kt_datagram_put(struct kt_datagram *datagram, const void *data, size_t bytes,
		     const struct kloop_address *peer)
{
	ck_assert_int_eq(kloop_datagram_send(datagram->datagram, data, bytes, peer), 0);
}

void kt_datagram_forget(struct kt_datagram *datagram)
{
	for (int i = 0; i < datagram->count[KT_DATAGRAM]; i++)
		free(datagram->received[i].data);
	datagram->count[KT_DATAGRAM] = 0;
}

void kt_datagram_end(struct kt_datagram *datagram)
{
	kloop_datagram_close(datagram->datagram);
	ck_assert_int_eq(datagram->count[KT_DATAGRAM_CLOSE], 0);
	kt_turn_until(datagram->loop, &datagram->count[KT_DATAGRAM_CLOSE], 1);
	kt_datagram_forget(datagram);
}

void kt_datagram_abort(struct kt_datagram *datagram)
{
	kloop_datagram_abort(datagram->datagram);
	ck_assert_int_eq(datagram->count[KT_DATAGRAM_CLOSE], 0);
	kt_turn_until(datagram->loop, &datagram->count[KT_DATAGRAM_CLOSE], 1);
	kt_datagram_forget(datagram);
}

void kt_datagrams_open(struct kt_datagrams *pair, int kind, struct kloop_loop *loop,
		       unsigned flags)
{
	struct kloop_address any;

	pair->loop = loop;
	if (kind == KT_LOCAL_DATAGRAM)
		ck_assert_int_eq(kloop_address_set_local(NULL, 0, &any), 0);
	else
		ck_assert_int_eq(kloop_address_parse(kind == KT_UDP6 ? "::1" : "127.0.0.1", 0,
						     &any), 0);
	kt_datagram_open(&pair->server, loop, &any, NULL, flags);
	kt_datagram_open(&pair->client, loop, &any, NULL, flags);
}

void kt_datagrams_close(struct kt_datagrams *pair)
{
	kt_datagram_end(&pair->client);
	kt_datagram_end(&pair->server);
	kt_loop_free(pair->loop);
}

void kt_assert_address(const struct kloop_address *address, const struct kloop_address *expected)
{
	ck_assert_uint_eq(address->length, expected->length);
	ck_assert_mem_eq(&address->u, &expected->u, expected->length);
}

void *kt_adopt_and(void *adoption)
{
	struct kt_adoption *this = adoption;

	ck_assert_int_eq(kloop_loop_adopt(this->loop), 0);
	return this->function(this->data);
}
