/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Configuration files: each parser, and reading them again when they change. */
#include "dns.h"
#include "dns/config.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Parse a text in pieces of this size. */
static struct kl_config *parse(unsigned file, const char *text, size_t piece)
{
	struct kl_config *config = kl_config_new();
	struct kl_lines lines;
	size_t bytes = strlen(text);

	ck_assert_ptr_nonnull(config);
	kl_config_parser(config, file, &lines);
	while (bytes != 0) {
		size_t part = piece < bytes ? piece : bytes;

		ck_assert_int_eq(kl_lines_feed(&lines, text, part), 0);
		text += part;
		bytes -= part;
	}
	ck_assert_int_eq(kl_lines_end(&lines), 0);
	return config;
}

/* Each file is read whole, and byte by byte. */
#define PIECES(i) ((i) == 0 ? 1000000 : (size_t)(i))

START_TEST(read_resolv_conf)
{
	struct kl_config *config = parse(KLOOP_DNS_FILE_RESOLV_CONF,
					 "# comment\n"
					 "; another\n"
					 "nameserver 192.0.2.53\n"
					 "nameserver not-an-address\n"
					 " nameserver 192.0.2.99\n"
					 "nameserver fe80::1%1\n"
					 "nameserver 2001:db8::53 # rest\n"
					 "nameserver 192.0.2.54\n"
					 "domain first.test ignored.test\n"
					 "search one.test two.test. .\tthree..bad four.test\n"
					 "options ndots:3 timeout:99 attempts:0 rotate trust-ad\n"
					 "options single-request unknown no-aaaa use-vc ndots:2x\n"
					 "nameservers 1.2.3.4",
					 PIECES(_i));
	struct kl_resolv *resolv = &config->resolv;

	ck_assert_uint_eq(resolv->server_count, 3);
	ck_assert_int_eq(resolv->servers[0].u.any.sa_family, AF_INET);
	ck_assert_uint_eq(resolv->servers[1].u.ip6.sin6_scope_id, 1);
	ck_assert_uint_eq(ntohs(resolv->servers[2].u.ip6.sin6_port), 53);
	ck_assert_uint_eq(resolv->search_count, 4);
	ck_assert_str_eq(resolv->search[0], "one.test");
	ck_assert_str_eq(resolv->search[1], "two.test.");
	ck_assert_str_eq(resolv->search[2], ".");
	ck_assert_str_eq(resolv->search[3], "four.test");
	ck_assert_uint_eq(resolv->ndots, 2);
	ck_assert_uint_eq(resolv->timeout_s, 30);
	ck_assert_int_eq(kl_resolv_finish(resolv, "host.example.org"), 0);
	ck_assert_uint_eq(resolv->attempts, 1);
	ck_assert_uint_eq(resolv->options,
			  KL_RESOLV_ROTATE | KL_RESOLV_TRUST_AD | KL_RESOLV_SINGLE_REQUEST |
				  KL_RESOLV_NO_AAAA | KL_RESOLV_USE_VC);
	kl_config_unref(config);
}
END_TEST

START_TEST(no_resolv_conf)
{
	struct kl_config *config = kl_config_new();
	struct kl_resolv *resolv = &config->resolv;

	ck_assert_int_eq(kl_resolv_environment(resolv, NULL, "ndots:4 timeout:1"), 0);
	ck_assert_int_eq(kl_resolv_finish(resolv, "host.example.org"), 0);
	ck_assert_uint_eq(resolv->server_count, 1);
	ck_assert_uint_eq(ntohl(resolv->servers[0].u.ip4.sin_addr.s_addr), INADDR_LOOPBACK);
	ck_assert_uint_eq(resolv->search_count, 1);
	ck_assert_str_eq(resolv->search[0], "example.org");
	ck_assert_uint_eq(resolv->ndots, 4);
	ck_assert_uint_eq(resolv->timeout_s, 1);
	ck_assert_uint_eq(resolv->attempts, 2);
	ck_assert_int_eq(kl_resolv_environment(resolv, "a.test b.test", NULL), 0);
	ck_assert_uint_eq(resolv->search_count, 2);
	kl_config_unref(config);
}
END_TEST

START_TEST(read_hosts)
{
	struct kl_config *config = parse(KLOOP_DNS_FILE_HOSTS,
					 "127.0.0.1\tlocalhost local\n"
					 "::1 localhost # comment name\n"
					 "10.0.0.1   Web.Test web web\r\n"
					 "10.0.0.256 bad\n"
					 "10.0.0.9\n"
					 "#10.0.0.8 commented\n"
					 "10.0.0.2 other WEB",
					 PIECES(_i));
	const struct kl_hosts *hosts = &config->hosts;
	const struct kl_hosts_line *line;
	uint32_t position = 0;

	line = kl_hosts_find(hosts, "web", &position);
	ck_assert_ptr_nonnull(line);
	ck_assert_uint_eq(line->address[3], 1);
	ck_assert_str_eq(kl_hosts_canonical(hosts, line), "Web.Test");
	line = kl_hosts_find(hosts, "web", &position);
	ck_assert_ptr_nonnull(line);
	ck_assert_uint_eq(line->address[3], 2);
	ck_assert_ptr_null(kl_hosts_find(hosts, "web", &position));
	position = 0;
	ck_assert_ptr_null(kl_hosts_find(hosts, "bad", &position));
	ck_assert_ptr_null(kl_hosts_find(hosts, "comment", &position));
	ck_assert_ptr_null(kl_hosts_find(hosts, "commented", &position));
	ck_assert_ptr_null(kl_hosts_find(hosts, "we", &position));
	ck_assert_str_eq(kl_hosts_reverse(hosts, AF_INET, "\x0a\0\0\2"), "other");
	ck_assert_str_eq(kl_hosts_reverse(hosts, AF_INET6, &in6addr_loopback), "localhost");
	ck_assert_ptr_null(kl_hosts_reverse(hosts, AF_INET, "\x0a\0\0\3"));
	kl_config_unref(config);
}
END_TEST

START_TEST(many_hosts)
{
	struct kl_config *config = kl_config_new();
	char text[64];
	uint32_t position;

	for (int i = 0; i < 20000; i++) {
		snprintf(text, sizeof(text), "10.%d.%d.%d host%d", i >> 16, i >> 8 & 255, i & 255, i);
		ck_assert_int_eq(kl_hosts_line(&config->hosts, text, strlen(text)), 0);
	}
	for (int i = 0; i < 20000; i += 7) {
		const struct kl_hosts_line *line;

		snprintf(text, sizeof(text), "HOST%d", i);
		position = 0;
		line = kl_hosts_find(&config->hosts, text, &position);
		ck_assert_ptr_nonnull(line);
		ck_assert_int_eq(line->address[2] << 8 | line->address[3], i);
		ck_assert_ptr_null(kl_hosts_find(&config->hosts, text, &position));
	}
	kl_config_unref(config);
}
END_TEST

START_TEST(read_services)
{
	struct kl_config *config = parse(KLOOP_DNS_FILE_SERVICES,
					 "# network services\n"
					 "http\t\t80/tcp\t\twww web # World Wide Web\n"
					 "domain 53/tcp\ndomain 53/udp\n"
					 "toolarge 65536/tcp\nnoport /tcp\nnoproto 80/\nnoslash 80\n"
					 "last 65535/udp",
					 PIECES(_i));
	const struct kl_services *services = &config->services;

	ck_assert_int_eq(kl_services_find(services, "http", "tcp"), 80);
	ck_assert_int_eq(kl_services_find(services, "web", "tcp"), 80);
	ck_assert_int_lt(kl_services_find(services, "http", "udp"), 0);
	ck_assert_int_lt(kl_services_find(services, "HTTP", "tcp"), 0);
	ck_assert_int_eq(kl_services_find(services, "domain", "udp"), 53);
	ck_assert_int_lt(kl_services_find(services, "toolarge", "tcp"), 0);
	ck_assert_int_lt(kl_services_find(services, "noport", "tcp"), 0);
	ck_assert_int_lt(kl_services_find(services, "noslash", "tcp"), 0);
	ck_assert_int_eq(kl_services_find(services, "last", "udp"), 65535);
	ck_assert_str_eq(kl_services_reverse(services, 80, "tcp"), "http");
	ck_assert_ptr_null(kl_services_reverse(services, 80, "udp"));
	kl_config_unref(config);
}
END_TEST

START_TEST(read_nsswitch)
{
	struct kl_config *config = parse(KLOOP_DNS_FILE_NSSWITCH,
					 "passwd: files systemd\n"
					 "hosts:  files mdns4_minimal [NOTFOUND=return] resolve "
					 "[!UNAVAIL=return TRYAGAIN=continue] dns myhostname ldap # end\n"
					 "hosts: nis\n",
					 PIECES(_i));
	const struct kl_nsswitch *nsswitch = &config->nsswitch;
	static const unsigned modules[] = { KL_MODULE_FILES, KL_MODULE_MDNS, KL_MODULE_DNS,
					    KL_MODULE_DNS, KL_MODULE_MYHOSTNAME, KL_MODULE_FOREIGN };

	ck_assert_uint_eq(nsswitch->count, KT_COUNT(modules));
	for (size_t i = 0; i < KT_COUNT(modules); i++)
		ck_assert_uint_eq(nsswitch->modules[i].module, modules[i]);
	ck_assert_uint_eq(nsswitch->modules[0].returns, 1 << KL_NSS_SUCCESS);
	ck_assert_uint_eq(nsswitch->modules[1].returns, 1 << KL_NSS_SUCCESS | 1 << KL_NSS_NOTFOUND);
	ck_assert_uint_eq(nsswitch->modules[2].returns, 1 << KL_NSS_SUCCESS | 1 << KL_NSS_NOTFOUND);
	kl_config_unref(config);
	config = parse(KLOOP_DNS_FILE_NSSWITCH, "hosts: files [SUCCESS=merge] dns\n", PIECES(_i));
	ck_assert(config->nsswitch.modules[0].merges);
	kl_config_unref(config);
	config = kl_config_new();
	ck_assert_uint_eq(config->nsswitch.count, 2);
	kl_config_unref(config);
}
END_TEST

START_TEST(read_gai_conf)
{
	struct kl_config *config = parse(KLOOP_DNS_FILE_GAI_CONF,
					 "precedence ::ffff:0:0/96 100\n"
					 "label 2001:db8::/32 9\nlabel ::/0 1\n"
					 "scopev4 ::ffff:10.0.0.0/104 2\nscopev4 192.168.0.0/16 5\n"
					 "scopev4 2001::/16 3\nprecedence 1::/129 5\nreload yes\n",
					 PIECES(_i));
	struct kl_gai *gai = &config->gai;
	uint8_t address[16];

	kl_gai_finish(gai);
	ck_assert_int_eq(inet_pton(AF_INET6, "::ffff:10.1.2.3", address), 1);
	ck_assert_int_eq(kl_prefixes_match(&gai->precedences, address), 100);
	ck_assert_int_eq(kl_prefixes_match(&gai->scopes4, address), 2);
	ck_assert_int_eq(inet_pton(AF_INET6, "::ffff:192.168.9.9", address), 1);
	ck_assert_int_eq(kl_prefixes_match(&gai->scopes4, address), 5);
	ck_assert_int_eq(inet_pton(AF_INET6, "::ffff:8.8.8.8", address), 1);
	ck_assert_int_eq(kl_prefixes_match(&gai->scopes4, address), 14);
	ck_assert_int_eq(inet_pton(AF_INET6, "2001:db8::1", address), 1);
	ck_assert_int_eq(kl_prefixes_match(&gai->labels, address), 9);
	ck_assert_int_eq(kl_prefixes_match(&gai->precedences, address), 40);
	kl_config_unref(config);
	config = kl_config_new();
	kl_gai_finish(&config->gai);
	ck_assert_int_eq(kl_prefixes_match(&config->gai.labels, address), 1);
	ck_assert_int_eq(inet_pton(AF_INET6, "2002::1", address), 1);
	ck_assert_int_eq(kl_prefixes_match(&config->gai.labels, address), 2);
	ck_assert_int_eq(kl_prefixes_match(&config->gai.precedences, address), 30);
	ck_assert_int_eq(inet_pton(AF_INET6, "::1", address), 1);
	ck_assert_int_eq(kl_prefixes_match(&config->gai.precedences, address), 50);
	kl_config_unref(config);
}
END_TEST

START_TEST(overlong_lines)
{
	struct kl_config *config = kl_config_new();
	struct kl_lines lines;
	static char junk[4096];
	uint32_t position = 0;

	memset(junk, 'x', sizeof(junk));
	kl_config_parser(config, KLOOP_DNS_FILE_HOSTS, &lines);
	ck_assert_int_eq(kl_lines_feed(&lines, "10.0.0.1 ", 9), 0);
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(kl_lines_feed(&lines, junk, sizeof(junk)), 0);
	ck_assert_uint_le(lines.room, 2 * KL_LINE_BYTES);
	ck_assert_int_eq(kl_lines_feed(&lines, "\n10.0.0.2 good\n", 15), 0);
	ck_assert_int_eq(kl_lines_end(&lines), 0);
	ck_assert_uint_eq(config->hosts.line_count, 1);
	ck_assert_ptr_nonnull(kl_hosts_find(&config->hosts, "good", &position));
	kl_config_unref(config);
}
END_TEST

/* ---- reading again ---------------------------------------------------------------- */

static struct kloop_loop *loop;
static struct kt_files files;
static struct kloop_resolver *resolver;

static void set_up(void)
{
	struct kloop_resolver_options *options;

	loop = kt_loop_new(NULL);
	kt_files_open(&files);
	kt_files_write(&files, KLOOP_DNS_FILE_NSSWITCH, "hosts: files\n");
	kt_files_write(&files, KLOOP_DNS_FILE_HOSTS, "10.0.0.1 name\n");
	options = kt_resolver_options(&files, NULL, 0);
	kloop_resolver_options_set_check(options, 0);
	resolver = kt_resolver_new(loop, options);
}

static void tear_down(void)
{
	kloop_resolver_close(resolver);
	kt_loop_free(loop);
	kt_files_close(&files);
}

START_TEST(files_change)
{
	const char *path = kt_files_path(&files, KLOOP_DNS_FILE_HOSTS);
	char other[160], link[160];
	FILE *stream;

	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "10.0.0.1");
	ck_assert_uint_eq(kt_resolver_stats(resolver).reloads, 1);
	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "10.0.0.1");
	ck_assert_uint_eq(kt_resolver_stats(resolver).reloads, 1);
	/* Replaced by rename. */
	kt_files_write(&files, KLOOP_DNS_FILE_HOSTS, "10.0.0.2 name\n");
	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "10.0.0.2");
	/* Written to in place. */
	stream = fopen(path, "a");
	ck_assert_ptr_nonnull(stream);
	fputs("10.0.0.3 more\n", stream);
	ck_assert_int_eq(fclose(stream), 0);
	ck_assert_str_eq(kt_resolve(loop, resolver, "more", AF_INET), "10.0.0.3");
	/* A symbolic link, whose target is replaced, and then another link in its place. */
	snprintf(other, sizeof(other), "%s/other", files.folder);
	snprintf(link, sizeof(link), "%s/link", files.folder);
	ck_assert_int_eq(rename(path, other), 0);
	ck_assert_int_eq(symlink(other, path), 0);
	ck_assert_str_eq(kt_resolve(loop, resolver, "more", AF_INET), "10.0.0.3");
	stream = fopen(other, "w");
	fputs("10.0.0.4 name\n", stream);
	ck_assert_int_eq(fclose(stream), 0);
	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "10.0.0.4");
	ck_assert_int_eq(symlink("/nowhere", link), 0);
	ck_assert_int_eq(rename(link, path), 0);
	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_int_eq(unlink(other), 0);
}
END_TEST

START_TEST(what_is_no_file)
{
	const char *path = kt_files_path(&files, KLOOP_DNS_FILE_HOSTS);

	/* A FIFO would hold up whoever opens it; a folder cannot be read. */
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "KLOOP_ERROR_DNS_NONAME");
	ck_assert_int_eq(rmdir(path), 0);
	kt_files_write(&files, KLOOP_DNS_FILE_HOSTS, "10.0.0.5 name\n");
	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "10.0.0.5");
}
END_TEST

START_TEST(a_large_hosts_file)
{
	const char *path = kt_files_path(&files, KLOOP_DNS_FILE_HOSTS);
	FILE *stream = fopen(path, "w");
	struct kt_lookup lookup;
	struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM };

	ck_assert_ptr_nonnull(stream);
	for (int i = 0; i < 60000; i++)
		fprintf(stream, "0.0.0.0 blocked%d.example.com\n", i);
	fputs("10.9.9.9 last", stream);
	ck_assert_int_eq(fclose(stream), 0);
	kt_lookup_init(&lookup);
	kt_lookup_start(&lookup, resolver, "last", NULL, &hints);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	ck_assert_str_eq(kt_addresses_text(lookup.addresses), "10.9.9.9");
	kt_lookup_clear(&lookup);
	/* It comes in pieces, and between them others have their turn. */
	ck_assert_uint_gt(KT_STAT(loop, turns), 20);
}
END_TEST

START_TEST(reload_by_call)
{
	struct kloop_resolver_options *options = kt_resolver_options(&files, NULL, 0);
	struct kt_lookup lookup;
	struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM };

	kloop_resolver_close(resolver);
	kloop_resolver_options_set_flags(options, KLOOP_RESOLVER_NO_RELOAD |
							  KLOOP_RESOLVER_NO_ENVIRONMENT);
	resolver = kt_resolver_new(loop, options);
	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "10.0.0.1");
	kt_files_write(&files, KLOOP_DNS_FILE_HOSTS, "10.0.0.2 name\n");
	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "10.0.0.1");
	ck_assert_int_eq(kloop_resolver_reload(resolver), 0);
	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "10.0.0.2");
	/* While it is being read, too. */
	ck_assert_int_eq(kloop_resolver_reload(resolver), 0);
	kt_lookup_init(&lookup);
	kt_lookup_start(&lookup, resolver, "name", NULL, &hints);
	kt_files_write(&files, KLOOP_DNS_FILE_HOSTS, "10.0.0.3 name\n");
	ck_assert_int_eq(kloop_resolver_reload(resolver), 0);
	ck_assert_int_eq(kt_lookup_wait(&lookup, loop), 0);
	ck_assert_str_eq(kt_addresses_text(lookup.addresses), "10.0.0.3");
	kt_lookup_clear(&lookup);
}
END_TEST

START_TEST(modules_that_are_not_ours)
{
	kt_files_write(&files, KLOOP_DNS_FILE_NSSWITCH, "hosts: files ldap\n");
	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "10.0.0.1");
	ck_assert_str_eq(kt_resolve(loop, resolver, "other", AF_INET), "KLOOP_ERROR_DNS_NSS");
	kt_files_write(&files, KLOOP_DNS_FILE_NSSWITCH, "hosts: mdns4_minimal [NOTFOUND=return] files\n");
	ck_assert_str_eq(kt_resolve(loop, resolver, "name", AF_INET), "10.0.0.1");
	ck_assert_str_eq(kt_resolve(loop, resolver, "x.local", AF_INET), "KLOOP_ERROR_DNS_NSS");
	kt_files_write(&files, KLOOP_DNS_FILE_NSSWITCH, "hosts: files [NOTFOUND=return] ldap\n");
	ck_assert_str_eq(kt_resolve(loop, resolver, "other", AF_INET), "KLOOP_ERROR_DNS_NONAME");
	kt_files_write(&files, KLOOP_DNS_FILE_NSSWITCH, "hosts: files myhostname\n");
	ck_assert_str_eq(kt_resolve(loop, resolver, "_gateway", AF_INET), "KLOOP_ERROR_DNS_NSS");
	ck_assert_str_eq(kt_resolve(loop, resolver, "localhost", AF_INET), "127.0.0.1");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dns config");
	TCase *tcase = kt_case(suite, "parsers", 60);

	tcase_add_loop_test(tcase, read_resolv_conf, 0, 4);
	tcase_add_test(tcase, no_resolv_conf);
	tcase_add_loop_test(tcase, read_hosts, 0, 4);
	tcase_add_test(tcase, many_hosts);
	tcase_add_loop_test(tcase, read_services, 0, 4);
	tcase_add_loop_test(tcase, read_nsswitch, 0, 4);
	tcase_add_loop_test(tcase, read_gai_conf, 0, 4);
	tcase_add_test(tcase, overlong_lines);
	tcase = kt_case(suite, "files", 60);
	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, files_change);
	tcase_add_test(tcase, what_is_no_file);
	tcase_add_test(tcase, a_large_hosts_file);
	tcase_add_test(tcase, reload_by_call);
	tcase_add_test(tcase, modules_that_are_not_ours);
	return kt_main(suite);
}
