/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Which system calls the resolver makes: none that starts a thread, opens or
 * reads a file, or waits. A filter of the kernel ends the program at the first.
 * Only the turn of the loop waits, in io_uring_enter(2).
 */
#include "dnsfixture.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Never, whatever the arguments are. */
static const int denied[] = {
#ifdef SYS_fork
	SYS_fork, SYS_vfork,
#endif
#ifdef SYS_poll
	SYS_poll, SYS_select, SYS_epoll_wait, SYS_open, SYS_stat, SYS_lstat, SYS_access, SYS_readlink,
#endif
	SYS_clone, SYS_clone3, SYS_execve, SYS_ppoll, SYS_pselect6, SYS_epoll_pwait, SYS_openat,
	SYS_newfstatat, SYS_statx, SYS_read, SYS_pread64, SYS_readv, SYS_preadv, SYS_accept,
	SYS_accept4, SYS_wait4, SYS_waitid, SYS_nanosleep, SYS_clock_nanosleep, SYS_flock, SYS_fsync,
};

/* With MSG_DONTWAIT in this argument only. */
static const struct {
	int call;
	unsigned flags;
} careful[] = {
	{ SYS_recvfrom, 3 }, { SYS_sendto, 3 },   { SYS_recvmmsg, 3 },
	{ SYS_sendmmsg, 3 }, { SYS_recvmsg, 2 },  { SYS_sendmsg, 2 },
};

static struct sock_filter program[256];
static unsigned short length;

static void emit(struct sock_filter instruction)
{
	ck_assert_uint_lt(length, KT_COUNT(program));
	program[length++] = instruction;
}

static void deny(int call)
{
	emit((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1));
	emit((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
}

static void deny_waiting(int call, unsigned flags)
{
	/* The low half of an argument: the first one on these machines. */
	unsigned at = (unsigned)offsetof(struct seccomp_data, args) + 8 * flags;

	emit((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 4));
	emit((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at));
	emit((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, MSG_DONTWAIT, 1, 0));
	emit((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
	emit((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
}

/* connecting: may connect(2) be called? UDP sockets are connected by it, which never waits. */
static void make_filter(bool connecting)
{
	length = 0;
	emit((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					  offsetof(struct seccomp_data, nr)));
	for (size_t i = 0; i < KT_COUNT(denied); i++)
		deny(denied[i]);
	if (!connecting)
		deny(SYS_connect);
	for (size_t i = 0; i < KT_COUNT(careful); i++)
		deny_waiting(careful[i].call, careful[i].flags);
	emit((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
}

static void put_in_force(void)
{
	struct sock_fprog filter = { .len = length, .filter = program };

	KT_CHILD_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	KT_CHILD_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

/* ---- the two sides ---------------------------------------------------------------------- */

static int to_come;

static void on_addresses(struct kloop_lookup *lookup, int result, struct kloop_addresses *addresses)
{
	(void)lookup;
	KT_CHILD_CHECK(result == 0 && addresses->count != 0);
	kloop_addresses_free(addresses);
	to_come--;
}

static void on_names(struct kloop_lookup *lookup, int result, const char *host, const char *service)
{
	(void)lookup;
	KT_CHILD_CHECK(result == 0 && host && service);
	to_come--;
}

static void on_message(struct kloop_lookup *lookup, int result, struct kloop_dns_message *message)
{
	(void)lookup;
	KT_CHILD_CHECK(result == 0 && message);
	to_come--;
}

/* Everything that a resolver does, files first; it began before the filter. */
static void look_up(struct kloop_loop *own, int family)
{
	const struct addrinfo hints = { .ai_family = family, .ai_socktype = SOCK_STREAM };
	const struct sockaddr_in someone = { .sin_family = AF_INET, .sin_addr = { htonl(0x7f000001) } };
	struct kloop_lookup lookups[32], name, query;

	for (int i = 0; i < 32; i++) {
		char text[32];

		snprintf(text, sizeof(text), "n%d.many.test", i);
		kloop_lookup_init(&lookups[i]);
		KT_CHILD_CHECK(kloop_resolver_getaddrinfo(resolver, &lookups[i], text, "80", &hints,
							  on_addresses) == 0);
		to_come++;
	}
	kloop_lookup_init(&name);
	kloop_lookup_init(&query);
	KT_CHILD_CHECK(kloop_resolver_getnameinfo(resolver, &name,
						  (const struct sockaddr *)&someone, sizeof(someone),
						  0, on_names) == 0);
	KT_CHILD_CHECK(kloop_resolver_query(resolver, &query, "www.test", 1, 0, on_message) == 0);
	to_come += 2;
	while (to_come != 0)
		KT_CHILD_CHECK(kloop_loop_turn(own, KLOOP_FOREVER) >= 0);
}

enum way { BY_UDP, BY_TCP_AFTER_UDP, BY_TCP, BY_TLS, WAYS };

static void in_child(enum way way)
{
	struct kloop_loop *own;

	alarm(120);
	KT_CHILD_CHECK(kloop_loop_new(NULL, &own) == 0);
	KT_CHILD_CHECK(kloop_resolver_new(own, options, &resolver) == 0);
	/* The files are read below the filter. */
	put_in_force();
	for (int i = 0; i < 3; i++)
		look_up(own, way == BY_UDP || way == BY_TCP_AFTER_UDP ? AF_UNSPEC : AF_INET);
	kloop_resolver_close(resolver);
	KT_CHILD_CHECK(kloop_loop_free(own) == 0);
	_exit(0);
}

static int truncate_it(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	int bytes = kt_dns_empty(question, 0, wire);

	(void)server;
	if (question->tcp)
		return -1;
	wire[2] |= 2;
	return bytes;
}

/* In the order of enum kloop_dns_file. */
static const char *const texts[] = { "nameserver 127.0.0.1\nsearch test\n",
				     "127.0.0.1 localhost\n", "hosts: files dns\n", "http 80/tcp\n",
				     "label ::/0 1\n", "multi on\n" };

START_TEST(no_thread_and_no_waiting)
{
	struct kloop_address address = kt_dns_address(&clear);
	enum way way = (enum way)_i;
	struct kt_files files;
	int status = 0;
	pid_t pid;

	if (kt_under_valgrind()) {
		printf("left out under valgrind, which makes calls of its own\n");
		return;
	}
	kloop_resolver_options_free(options);
	kt_files_open(&files);
	for (unsigned i = 0; i < KT_COUNT(texts); i++)
		kt_files_write(&files, i, texts[i]);
	options = kt_resolver_options(&files, NULL, 0);
	kloop_resolver_options_set_check(options, 0); /* each lookup looks at the files */
	if (way == BY_TLS) {
		trust();
		add(&first, NULL, 0);
	} else {
		ck_assert_int_eq(kloop_resolver_options_add_server(
					 options, &address,
					 way == BY_TCP ? KLOOP_DNS_TCP : KLOOP_DNS_UDP),
				 0);
	}
	clear.hook = way == BY_TCP_AFTER_UDP ? truncate_it : NULL;
	/* Only datagrams are connected outside the ring, and sources looked for. */
	make_filter(way == BY_UDP || way == BY_TCP_AFTER_UDP);
	fflush(stdout);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		in_child(way);
	while (waitpid(pid, &status, WNOHANG) == 0)
		kt_turn(loop, 5 * KT_MS);
	kt_files_close(&files);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x%s", (unsigned)status,
		      WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS ? ": a call that is denied" : "");
}
END_TEST

/* The filter does what it says. */
static void use_poll(void)
{
	(void)syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
}

static void use_recv(void)
{
	char byte;

	(void)syscall(SYS_recvfrom, -1, &byte, 1, 0, NULL, NULL);
}

static void use_clone(void)
{
	(void)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
}

static void use_connect(void)
{
	(void)syscall(SYS_connect, -1, NULL, 0);
}

static void use_nothing(void)
{
	char byte;

	(void)syscall(SYS_recvfrom, -1, &byte, 1, MSG_DONTWAIT, NULL, NULL);
}

START_TEST(the_filter_bites)
{
	static void (*const uses[])(void) = { use_poll, use_recv, use_clone, use_connect, use_nothing };
	int status;
	pid_t pid;

	make_filter(false);
	pid = fork();
	if (pid == 0) {
		put_in_force();
		uses[_i]();
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	if (uses[_i] == use_nothing)
		ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	else
		ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dns calls");
	TCase *tcase = kt_case(suite, "calls", 180);

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_loop_test(tcase, no_thread_and_no_waiting, 0, WAYS);
	tcase = kt_case(suite, "filter", 60);
	tcase_add_loop_test(tcase, the_filter_bites, 0, 5);
	return kt_main(suite);
}
