/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Faults while names are looked up: by UDP, TCP and TLS, out of files and the
 * cache, with a reload and a cancel. The name servers have a loop of their own,
 * on which nothing fails.
 */
#include "sweep.h"

#include "dnsstream.h"
#include "tlspair.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>

enum transport { BY_UDP, BY_TCP, BY_TLS };

#define LOOKUPS 7

static const struct kt_record zone[] = {
	{ "www.test", "A", "192.0.2.1" },
	{ "www.test", "AAAA", "2001:db8::1" },
	{ "alias.test", "CNAME", "www.test" },
	{ "txt.test", "TXT", "words" },
};

struct asked {
	struct kloop_lookup lookup;
	bool accepted, cancelled, fails;
	int done, result;
};

static struct {
	struct kloop_loop *loop, *server_loop;
	struct kloop_resolver *resolver;
	struct kt_dns dns;
	struct kt_dot dot;
	struct asked asked[LOOKUPS];
	enum transport transport;
	size_t used;
} w;

static struct kt_files files;

static void note(struct kloop_lookup *lookup, int result)
{
	struct asked *asked = (struct asked *)lookup;

	KT_HOLDS(asked->accepted && asked->done++ == 0 && !kloop_lookup_is_active(lookup));
	asked->result = result;
	/* With a fault to come the time is short; on a busy machine too short. */
	if (result < 0 && !kt_sweep_has_fault())
		KT_HOLDS(asked->cancelled || asked->fails);
}

static void found(struct kloop_lookup *lookup, int result, struct kloop_addresses *addresses)
{
	KT_HOLDS((result == 0) == (addresses != NULL));
	KT_HOLDS(!addresses || (addresses->count > 0 && addresses->first));
	kloop_addresses_free(addresses);
	note(lookup, result);
}

static void named(struct kloop_lookup *lookup, int result, const char *host, const char *service)
{
	KT_HOLDS(result < 0 || host || service);
	note(lookup, result);
}

static void answered(struct kloop_lookup *lookup, int result, struct kloop_dns_message *message)
{
	if (result == 0)
		KT_HOLDS(kloop_dns_message_get_count(message, KLOOP_DNS_ANSWER) > 0);
	note(lookup, result);
}

static struct asked *next(void)
{
	struct asked *asked = &w.asked[w.used++];

	KT_HOLDS(w.used <= LOOKUPS);
	kloop_lookup_init(&asked->lookup);
	asked->accepted = true; /* until it is refused */
	return asked;
}

static bool all_done(void *data)
{
	(void)data;
	KT_PLAIN(kt_turn(w.server_loop, 0));
	for (size_t i = 0; i < w.used; i++)
		if (w.asked[i].accepted && !w.asked[i].done)
			return false;
	return true;
}

static struct asked *look_up(const char *name)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct asked *asked = next();

	asked->accepted = kt_took(kloop_resolver_getaddrinfo(w.resolver, &asked->lookup, name, "80",
							     &hints, found));
	return asked;
}

static void ask_all(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(80) };
	struct asked *asked;

	look_up("www.test");
	look_up("alias.test");
	kt_sweep_until(w.loop, all_done, NULL);
	look_up("www.test"); /* out of the cache */
	look_up("nobody.test")->fails = true;
	asked = next();
	asked->accepted = kt_took(kloop_resolver_query(w.resolver, &asked->lookup, "txt.test", 16,
						       0, answered));
	kt_sweep_until(w.loop, all_done, NULL);
	(void)kt_took(kloop_resolver_reload(w.resolver));
	address.sin_addr.s_addr = htonl(0xc0000209); /* of the file */
	asked = next();
	asked->accepted = kt_took(kloop_resolver_getnameinfo(w.resolver, &asked->lookup,
							     (struct sockaddr *)&address,
							     sizeof(address), NI_NUMERICSERV, named));
	asked = look_up("other.test");
	asked->fails = asked->cancelled = true;
	if (asked->accepted) {
		kt_sweep_turns(w.loop, 2);
		if (!asked->done)
			KT_HOLDS(kloop_lookup_cancel(&asked->lookup) == 0);
	}
	kt_sweep_until(w.loop, all_done, NULL);
}

/* ---- the resolver ----------------------------------------------------- */

static int add_server(struct kloop_resolver_options *options)
{
	struct kloop_address address;

	if (w.transport == BY_TLS) {
		address = kt_dot_address(&w.dot);
		return kloop_resolver_options_add_tls_server(options, &address, "localhost", 0);
	}
	address = kt_dns_address(&w.dns);
	return kloop_resolver_options_add_server(options, &address,
						 w.transport == BY_TCP ? KLOOP_DNS_TCP
								       : KLOOP_DNS_UDP);
}

/* Where nothing fails, time is not short; where something does, it is not to be wasted. */
static bool set_options(struct kloop_resolver_options *options)
{
	uint64_t timeout_ns = kt_sweep_has_fault() ? 25 * KT_MS : 20000 * KT_MS;

	for (unsigned i = 0; i <= KLOOP_DNS_FILE_HOST_CONF; i++)
		if (!kt_took(kloop_resolver_options_set_file(options, i, kt_files_path(&files, i))))
			return false;
	kloop_resolver_options_set_flags(options, KLOOP_RESOLVER_NO_ENVIRONMENT);
	return kt_took(kloop_resolver_options_set_timeout(options, timeout_ns, 2)) &&
	       kt_took(add_server(options));
}

static void make_resolver(void)
{
	struct kloop_resolver_options *options = NULL;
	struct kloop_tls_context *context = NULL;

	KT_PLAIN(context = kt_tls_client(KT_CERT_CA));
	if (kt_took(kloop_resolver_options_new(&options))) {
		kloop_resolver_options_set_tls_context(options, context);
		if (set_options(options))
			(void)kt_took(kloop_resolver_new(w.loop, options, &w.resolver));
	}
	kloop_resolver_options_free(options);
	kloop_tls_context_unref(context);
}

static void open_servers(void)
{
	kt_sweep_pause();
	w.server_loop = kt_loop_new(NULL);
	if (w.transport == BY_TLS)
		kt_dot_open(&w.dot, w.server_loop, zone, KT_COUNT(zone), KT_CERT_SERVER);
	else
		kt_dns_open(&w.dns, w.server_loop, zone, KT_COUNT(zone), w.transport == BY_TCP);
	kt_sweep_resume();
}

static void close_servers(void)
{
	kt_sweep_pause();
	if (w.transport == BY_TLS)
		kt_dot_close(&w.dot);
	else
		kt_dns_close(&w.dns);
	kt_loop_free(w.server_loop);
	kt_sweep_resume();
}

static void run(int mode, enum transport transport)
{
	memset(&w, 0, sizeof(w));
	w.transport = transport;
	open_servers();
	w.loop = kt_sweep_loop(mode);
	if (w.loop) {
		make_resolver();
		if (w.resolver)
			ask_all();
		/* Half of the time it is the loop's end that closes it. */
		if (mode % 2 == 0)
			kloop_resolver_close(w.resolver);
		KT_HOLDS(kloop_loop_free(w.loop) == 0);
		for (size_t i = 0; i < w.used; i++)
			KT_HOLDS(w.asked[i].done == w.asked[i].accepted);
	}
	close_servers();
}

static void by_udp(int mode)
{
	run(mode, BY_UDP);
}

static void by_tcp(int mode)
{
	run(mode, BY_TCP);
}

static void by_tls(int mode)
{
	run(mode, BY_TLS);
}

/*
 * Files alone: an operation that ends for a reason that is none of theirs, by a
 * signal or because its thread is gone, is repeated. Once the first kept lookups
 * waiting for ever, and the second made a file end in the middle.
 */
static void from_files(int mode)
{
	struct asked *asked;

	memset(&w, 0, sizeof(w));
	open_servers();
	w.loop = kt_sweep_loop(mode);
	KT_HOLDS(w.loop);
	make_resolver();
	asked = look_up("nine.test");
	kt_sweep_until(w.loop, all_done, NULL);
	KT_HOLDS(asked->done == 1 && asked->result == 0);
	KT_HOLDS(kloop_resolver_reload(w.resolver) == 0);
	asked = look_up("nine");
	kt_sweep_until(w.loop, all_done, NULL);
	KT_HOLDS(asked->done == 1 && asked->result == 0);
	kloop_resolver_close(w.resolver);
	KT_HOLDS(kloop_loop_free(w.loop) == 0);
	close_servers();
}

static void write_files(void)
{
	kt_files_open(&files);
	kt_files_write(&files, KLOOP_DNS_FILE_RESOLV_CONF, "search example.test\noptions ndots:1\n");
	kt_files_write(&files, KLOOP_DNS_FILE_HOSTS, "192.0.2.9 nine.test nine\n::1 localhost\n");
	kt_files_write(&files, KLOOP_DNS_FILE_NSSWITCH, "hosts: files dns\n");
	kt_files_write(&files, KLOOP_DNS_FILE_SERVICES, "http 80/tcp\n");
	kt_files_write(&files, KLOOP_DNS_FILE_GAI_CONF, "precedence ::ffff:0:0/96 100\n");
	kt_files_write(&files, KLOOP_DNS_FILE_HOST_CONF, "multi on\n");
}

static void sweep(const char *name, kt_scenario_fn *scenario, int mode)
{
	write_files();
	kt_sweep(name, scenario, mode);
	kt_files_close(&files);
}

START_TEST(sweep_udp)
{
	sweep("DNS, UDP", by_udp, _i);
}
END_TEST

START_TEST(sweep_tcp)
{
	sweep("DNS, TCP", by_tcp, _i);
}
END_TEST

START_TEST(sweep_tls)
{
	sweep("DNS, TLS", by_tls, _i);
}
END_TEST

START_TEST(files_repeated)
{
	write_files();
	kt_sweep_result("DNS, files", from_files, KT_SWEEP_BEST, _i == 0 ? -EINTR : -ECANCELED);
	kt_files_close(&files);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("sweep_dns");

	kt_sweep_wait_ns = KT_MS;
	tcase_add_loop_test(kt_case(suite, "udp", 1200), sweep_udp, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "tcp", 1200), sweep_tcp, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "tls", 1200), sweep_tls, 0, KT_SWEEP_MODES);
	tcase_add_loop_test(kt_case(suite, "files", 1200), files_repeated, 0, 2);
	return kt_main(suite);
}
