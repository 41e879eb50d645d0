/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * A UDP echo server: udp_echo_server [HOST [PORT]], by default 127.0.0.1 and a
 * free port. It runs until SIGINT or SIGTERM.
 */
#include <kloop.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static struct kloop_loop *loop;
static unsigned long datagrams;

static void on_datagram(struct kloop_datagram *server, const void *data, size_t bytes,
			const struct kloop_address *from, unsigned flags, void *user)
{
	(void)flags;
	(void)user;
	datagrams++;
	/* UDP promises nothing: where there is no memory, nothing goes back. */
	if (kloop_datagram_send(server, data, bytes, from) < 0)
		fprintf(stderr, "a datagram is lost\n");
}

static void on_error(struct kloop_datagram *server, int error, const struct kloop_address *peer,
		     void *user)
{
	char text[KLOOP_ADDRESS_TEXT_BYTES];

	(void)server;
	(void)user;
	if (!peer || kloop_address_format(peer, text, sizeof(text)) < 0)
		snprintf(text, sizeof(text), "some client");
	fprintf(stderr, "%s: %s\n", text, kloop_strerror(error));
}

static void on_close(struct kloop_datagram *server, void *user)
{
	(void)server;
	(void)user;
	printf("closed after %lu datagrams\n", datagrams);
}

static const struct kloop_datagram_handlers handlers = {
	.size = sizeof(handlers),
	.on_datagram = on_datagram,
	.on_error = on_error,
	.on_close = on_close,
};

static void on_signal(struct kloop_signal *watcher, int signal_number, void *server)
{
	(void)watcher;
	(void)signal_number;
	/* What is queued is sent first; with the watchers freed the loop ends by itself. */
	kloop_datagram_close(server);
	kloop_loop_stop(loop);
}

static int check(int result, const char *what)
{
	if (result >= 0)
		return result;
	fprintf(stderr, "%s: %s\n", what, kloop_strerror(result));
	exit(1);
}

int main(int argc, char **argv)
{
	const char *host = argc > 1 ? argv[1] : "127.0.0.1";
	uint16_t port = argc > 2 ? (uint16_t)atoi(argv[2]) : 0;
	struct kloop_signal *interrupt, *terminate;
	char text[KLOOP_ADDRESS_TEXT_BYTES];
	struct kloop_datagram *server;
	struct kloop_address address;

	check(kloop_loop_new(NULL, &loop), "kloop_loop_new");
	check(kloop_address_parse(host, port, &address), host);
	check(kloop_datagram_open(loop, &address, NULL, 0, &handlers, NULL, &server),
	      "kloop_datagram_open");
	check(kloop_signal_new(loop, SIGINT, on_signal, server, &interrupt), "SIGINT");
	check(kloop_signal_new(loop, SIGTERM, on_signal, server, &terminate), "SIGTERM");
	/* Which port was it? */
	check(kloop_datagram_get_address(server, &address), "kloop_datagram_get_address");
	check(kloop_address_format(&address, text, sizeof(text)), "kloop_address_format");
	check(kloop_datagram_start_read(server), "kloop_datagram_start_read");
	printf("listening on %s\n", text);
	fflush(stdout);

	check(kloop_loop_run(loop), "kloop_loop_run");
	kloop_signal_free(interrupt);
	kloop_signal_free(terminate);
	check(kloop_loop_run(loop), "kloop_loop_run");
	kloop_loop_free(loop);
	return 0;
}
