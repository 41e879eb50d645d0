/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Listeners: accept, pause, lack of descriptors, close, the loop's end. */
#include "streams.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 300 };

struct scene {
	struct kloop_loop *loop;
	struct kloop_listener *listener; /* NULL after on_close */
	struct kloop_address address;
	int accepted;
	int fds[MOST];
	int errors;
	int error;
	int closes;
	int close_fd;
	void (*then)(struct scene *scene);
};

static void on_accept(struct kloop_listener *listener, int fd, void *user)
{
	struct scene *scene = user;

	ck_assert_ptr_eq(listener, scene->listener);
	ck_assert_int_eq(scene->closes, 0);
	ck_assert_int_lt(scene->accepted, MOST);
	ck_assert_int_ge(fd, 0);
	ck_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
	ck_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	scene->fds[scene->accepted++] = fd;
	if (scene->then)
		scene->then(scene);
}

static void on_error(struct kloop_listener *listener, int error, void *user)
{
	struct scene *scene = user;

	ck_assert_ptr_eq(listener, scene->listener);
	scene->errors++;
	scene->error = error;
}

static void on_close(struct kloop_listener *listener, void *user)
{
	struct scene *scene = user;
	struct kloop_address address;

	ck_assert_ptr_eq(listener, scene->listener);
	ck_assert_int_eq(scene->closes++, 0);
	ck_assert_int_eq(kloop_listener_pause(listener), -ESTALE);
	ck_assert_int_eq(kloop_listener_resume(listener), -ESTALE);
	ck_assert_int_eq(kloop_listener_get_address(listener, &address), -ESTALE);
	scene->close_fd = kloop_listener_get_fd(listener);
	scene->listener = NULL;
}

static const struct kloop_listener_handlers handlers = {
	.size = sizeof(handlers),
	.on_accept = on_accept,
	.on_error = on_error,
	.on_close = on_close,
};

static void scene_open(struct scene *scene, int mode)
{
	struct kloop_address address;

	memset(scene, 0, sizeof(*scene));
	scene->loop = kt_mode_loop(mode);
	ck_assert_int_eq(kloop_address_parse("127.0.0.1", 0, &address), 0);
	ck_assert_int_eq(kloop_listener_open(scene->loop, &address, 0, 0, &handlers, scene,
					     &scene->listener), 0);
	ck_assert_int_eq(kloop_listener_get_address(scene->listener, &scene->address), 0);
	ck_assert_uint_ne(kloop_address_get_port(&scene->address), 0);
}

static void close_accepted(struct scene *scene)
{
	for (int i = 0; i < scene->accepted; i++)
		kt_close(scene->fds[i]);
	scene->accepted = 0;
}

static void scene_close(struct scene *scene)
{
	if (scene->listener)
		kloop_listener_close(scene->listener);
	kloop_listener_close(scene->listener);
	kt_turn_until(scene->loop, &scene->closes, 1);
	ck_assert_int_eq(scene->close_fd, -1);
	close_accepted(scene);
	ck_assert_uint_eq(KT_STAT(scene->loop, in_flight), 0);
	kt_loop_free(scene->loop);
}

/* A client that connects without waiting. */
static int client(const struct kloop_address *address)
{
	int fd = socket(address->u.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	ck_assert_int_ge(fd, 0);
	if (connect(fd, &address->u.any, address->length) < 0)
		ck_assert_int_eq(errno, EINPROGRESS);
	return fd;
}

START_TEST(accepts)
{
	struct scene scene;
	int clients[100], on = 0;
	socklen_t length = sizeof(on);

	scene_open(&scene, _i);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 50; i++)
			clients[50 * round + i] = client(&scene.address);
		kt_turn_until(scene.loop, &scene.accepted, 50 * (round + 1));
	}
	kt_turn_for(scene.loop, 5);
	ck_assert_int_eq(scene.accepted, 100);
	ck_assert_int_eq(getsockopt(scene.fds[0], IPPROTO_TCP, TCP_NODELAY, &on, &length), 0);
	ck_assert_int_ne(on, 0);
	if (kloop_loop_get_features(scene.loop) & KLOOP_FEATURE_ACCEPT_MULTISHOT)
		ck_assert_uint_le(KT_STAT(scene.loop, submissions), 3);
	for (int i = 0; i < 100; i++)
		kt_close(clients[i]);
	scene_close(&scene);
}
END_TEST

static void scene_share(struct scene *scene, int fd, int mode)
{
	memset(scene, 0, sizeof(*scene));
	scene->loop = kt_mode_loop(mode);
	fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(kloop_listener_new(scene->loop, fd, KLOOP_LISTENER_SHARED, &handlers,
					    scene, &scene->listener), 0);
}

/* Of two loops on one socket the one that turns gets what comes, and neither gets all. */
START_TEST(takes_turns)
{
	struct scene scene[2];
	struct kloop_address address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int clients[60];

	ck_assert_int_eq(kloop_address_parse("127.0.0.1", 0, &address), 0);
	ck_assert_int_eq(bind(fd, &address.u.any, address.length), 0);
	ck_assert_int_eq(listen(fd, 100), 0);
	ck_assert_int_eq(getsockname(fd, &address.u.any, &address.length), 0);
	for (int i = 0; i < 2; i++)
		scene_share(&scene[i], fd, _i);
	ck_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
	kt_turn_for(scene[0].loop, 2);
	kt_turn_for(scene[1].loop, 2);

	for (int i = 0; i < 20; i++)
		clients[i] = client(&address);
	kt_turn_until(scene[1].loop, &scene[1].accepted, 20);
	for (int i = 20; i < 40; i++)
		clients[i] = client(&address);
	kt_turn_until(scene[0].loop, &scene[0].accepted, 20);
	ck_assert_int_eq(scene[1].accepted, 20);

	/* Both are woken; some find nothing, and go on waiting. */
	for (int i = 40; i < 60; i++)
		clients[i] = client(&address);
	while (scene[0].accepted + scene[1].accepted < 60) {
		kt_turn_for(scene[0].loop, 1);
		kt_turn_for(scene[1].loop, 1);
	}
	kt_turn_for(scene[0].loop, 2);
	kt_turn_for(scene[1].loop, 2);
	ck_assert_int_eq(scene[0].errors + scene[1].errors, 0);
	ck_assert_int_eq(scene[0].accepted + scene[1].accepted, 60);

	for (int i = 0; i < 60; i++)
		kt_close(clients[i]);
	kt_close(fd);
	ck_assert_int_eq(kloop_listener_pause(scene[0].listener), 0);
	while (KT_STAT(scene[0].loop, in_flight) > 0)
		kt_turn_for(scene[0].loop, 1);
	ck_assert_int_eq(kloop_listener_resume(scene[0].listener), 0);
	scene_close(&scene[0]);
	scene_close(&scene[1]);
}
END_TEST

/* What is in flight of one that is paused comes back, by a polling thread in its own time. */
static void settle(struct scene *scene)
{
	for (int i = 0; KT_STAT(scene->loop, in_flight) > 0; i++) {
		KT_CHILD_CHECK(i < 12000);
		kt_turn_for(scene->loop, 5);
	}
}

START_TEST(pauses)
{
	struct scene scene;
	int clients[60], paused_at;

	scene_open(&scene, _i);
	for (int i = 0; i < 10; i++)
		clients[i] = client(&scene.address);
	kt_turn_until(scene.loop, &scene.accepted, 10);
	ck_assert_int_eq(kloop_listener_pause(scene.listener), 0);
	ck_assert_int_eq(kloop_listener_pause(scene.listener), 0);
	settle(&scene);
	for (int i = 10; i < 40; i++)
		clients[i] = client(&scene.address);
	kt_turn_for(scene.loop, 20);
	ck_assert_int_eq(scene.accepted, 10);
	ck_assert_int_eq(kloop_listener_resume(scene.listener), 0);
	ck_assert_int_eq(kloop_listener_resume(scene.listener), 0);
	kt_turn_until(scene.loop, &scene.accepted, 40);
	/* Back and forth within one turn. */
	for (int i = 0; i < 10; i++) {
		ck_assert_int_eq(kloop_listener_pause(scene.listener), 0);
		ck_assert_int_eq(kloop_listener_resume(scene.listener), 0);
	}
	clients[40] = client(&scene.address);
	kt_turn_until(scene.loop, &scene.accepted, 41);
	/* What the kernel accepted before the pause took effect is not lost. */
	for (int i = 41; i < 60; i++)
		clients[i] = client(&scene.address);
	ck_assert_int_eq(kloop_listener_pause(scene.listener), 0);
	settle(&scene);
	kt_turn_for(scene.loop, 20);
	paused_at = scene.accepted;
	kt_turn_for(scene.loop, 20);
	ck_assert_int_eq(scene.accepted, paused_at);
	ck_assert_int_eq(kloop_listener_resume(scene.listener), 0);
	kt_turn_until(scene.loop, &scene.accepted, 60);
	ck_assert_int_eq(scene.errors, 0);
	for (int i = 0; i < 60; i++)
		kt_close(clients[i]);
	scene_close(&scene);
}
END_TEST

static void pause_now(struct scene *scene)
{
	ck_assert_int_eq(kloop_listener_pause(scene->listener), 0);
}

static void close_now(struct scene *scene)
{
	kloop_listener_close(scene->listener);
}

START_TEST(inside_on_accept)
{
	struct scene scene;
	int before = kt_fd_count();
	int clients[30];

	scene_open(&scene, _i / 2);
	scene.then = _i % 2 ? close_now : pause_now;
	for (int i = 0; i < 30; i++)
		clients[i] = client(&scene.address);
	kt_turn_until(scene.loop, _i % 2 ? &scene.closes : &scene.accepted, 1);
	kt_turn_for(scene.loop, 30);
	if (_i % 2) {
		ck_assert_int_eq(scene.closes, 1);
		ck_assert_int_eq(scene.accepted, 1);
		scene.closes = 1;
		close_accepted(&scene);
		kt_loop_free(scene.loop);
	} else {
		for (int i = 0; scene.accepted < 30; i++) {
			ck_assert_int_lt(i, 1000);
			ck_assert_int_eq(kloop_listener_resume(scene.listener), 0);
			kt_turn_for(scene.loop, 2);
		}
		ck_assert_int_eq(scene.accepted, 30);
		scene_close(&scene);
	}
	for (int i = 0; i < 30; i++)
		kt_close(clients[i]);
	ck_assert_int_eq(kt_fd_count(), before);
}
END_TEST

/* ---- no descriptors left ---------------------------------------------- */

/* Pause, and see the accept back that is in flight. */
static void pause_and_settle(struct scene *scene)
{
	KT_CHILD_CHECK(kloop_listener_pause(scene->listener) == 0);
	settle(scene);
}

static int run_out(void *data)
{
	int mode = *(int *)data;
	struct scene scene;
	struct rlimit limit;
	enum { CLIENTS = 40 };
	int clients[CLIENTS], before;
	uint64_t start;

	/* An accept in flight has the limit of its submission. */
	scene_open(&scene, mode);
	pause_and_settle(&scene);
	for (int i = 0; i < CLIENTS; i++)
		clients[i] = client(&scene.address);
	/* Ten descriptors more, whatever is open already. */
	before = clients[CLIENTS - 1] + 1;
	KT_CHILD_CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	limit.rlim_cur = (rlim_t)before + 10;
	KT_CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	KT_CHILD_CHECK(kloop_listener_resume(scene.listener) == 0);
	kt_turn_until(scene.loop, &scene.errors, 1);
	KT_CHILD_CHECK(scene.error == -EMFILE);
	KT_CHILD_CHECK(scene.accepted == 10);
	/* It tries again now and then, and does not turn in circles meanwhile. */
	start = KT_STAT(scene.loop, turns);
	kt_turn_for(scene.loop, 350);
	KT_CHILD_CHECK(scene.errors <= 6);
	kt_turn_until(scene.loop, &scene.errors, 2);
	KT_CHILD_CHECK(KT_STAT(scene.loop, turns) - start < 30);
	KT_CHILD_CHECK(scene.accepted == 10);
	/* Pause while it waits, and go on. */
	pause_and_settle(&scene);
	start = (uint64_t)scene.errors;
	kt_turn_for(scene.loop, 150);
	KT_CHILD_CHECK((uint64_t)scene.errors == start);
	limit.rlim_cur = (rlim_t)before + 100;
	KT_CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	KT_CHILD_CHECK(kloop_listener_resume(scene.listener) == 0);
	kt_turn_until(scene.loop, &scene.accepted, CLIENTS);
	for (int i = 0; i < CLIENTS; i++) {
		char byte;

		/* Each that was accepted works. */
		KT_CHILD_CHECK(write(clients[i], "x", 1) == 1);
		kt_read_all(scene.fds[i], &byte, 1);
	}
	scene_close(&scene);
	return 0;
}

START_TEST(descriptors_run_out)
{
	int mode = _i;

	kt_fork_ok(run_out, &mode);
}
END_TEST

static int close_when_out(void *data)
{
	int mode = *(int *)data;
	struct scene scene;
	struct rlimit limit;
	int fd;

	scene_open(&scene, mode);
	pause_and_settle(&scene);
	fd = client(&scene.address);
	KT_CHILD_CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	limit.rlim_cur = (rlim_t)fd + 1;
	KT_CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	KT_CHILD_CHECK(kloop_listener_resume(scene.listener) == 0);
	kt_turn_until(scene.loop, &scene.errors, 1);
	scene_close(&scene); /* the timer is on */
	return 0;
}

START_TEST(close_while_waiting)
{
	int mode = _i;

	kt_fork_ok(close_when_out, &mode);
}
END_TEST

/* ---- close ------------------------------------------------------------ */

START_TEST(close_returns_port)
{
	struct scene first, second;
	struct kloop_loop *loop;

	scene_open(&first, _i);
	loop = first.loop;
	kt_turn(loop, 0);
	kloop_listener_close(first.listener);
	kt_turn_until(loop, &first.closes, 1);
	memset(&second, 0, sizeof(second));
	second.loop = loop;
	ck_assert_int_eq(kloop_listener_open(loop, &first.address, 10, 0, &handlers, &second,
					     &second.listener), 0);
	ck_assert_int_eq(kloop_listener_get_address(second.listener, &second.address), 0);
	ck_assert_uint_eq(kloop_address_get_port(&second.address),
			  kloop_address_get_port(&first.address));
	scene_close(&second);
}
END_TEST

START_TEST(keeps_fd)
{
	struct scene scene;
	uint16_t port;
	int fd = kt_listen(4, &port), peer, got;

	memset(&scene, 0, sizeof(scene));
	scene.loop = kt_mode_loop(_i);
	ck_assert_int_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	ck_assert_int_eq(kloop_listener_new(scene.loop, fd, KLOOP_LISTENER_KEEP_FD, &handlers,
					    &scene, &scene.listener), 0);
	ck_assert_int_eq(kloop_listener_get_address(scene.listener, &scene.address), 0);
	peer = client(&scene.address);
	kt_turn_until(scene.loop, &scene.accepted, 1);
	kt_close(peer);
	/* Paused, so that nothing is in flight at all. */
	ck_assert_int_eq(kloop_listener_pause(scene.listener), 0);
	kt_turn_for(scene.loop, 5);
	kloop_listener_close(scene.listener);
	ck_assert_int_eq(scene.closes, 0);
	kt_turn_until(scene.loop, &scene.closes, 1);
	ck_assert_int_eq(scene.close_fd, fd);
	peer = client(&scene.address);
	ck_assert_int_eq(poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, KT_PATIENCE_MS), 1);
	got = accept(fd, NULL, NULL);
	ck_assert_int_ge(got, 0);
	kt_close(got);
	kt_close(peer);
	kt_close(fd);
	close_accepted(&scene);
	kt_loop_free(scene.loop);
}
END_TEST

START_TEST(loop_ends_first)
{
	int before = kt_fd_count();
	struct scene scene;
	int peers[10];

	scene_open(&scene, _i / 3);
	kt_turn(scene.loop, 0);
	for (int i = 0; i < 10; i++)
		peers[i] = client(&scene.address);
	if (_i % 3 == 1)
		ck_assert_int_eq(kloop_listener_pause(scene.listener), 0);
	if (_i % 3 == 2)
		kloop_listener_close(scene.listener);
	kt_loop_free(scene.loop);
	ck_assert_int_eq(scene.closes, 1);
	ck_assert_int_eq(scene.accepted, 0);
	ck_assert_int_eq(scene.errors, 0);
	for (int i = 0; i < 10; i++)
		kt_close(peers[i]);
	ck_assert_int_eq(kt_fd_count(), before);
}
END_TEST

/* ---- open ------------------------------------------------------------- */

static int try_open(struct scene *scene, const char *host, uint16_t port, unsigned flags)
{
	struct kloop_address address;

	ck_assert_int_eq(kloop_address_parse(host, port, &address), 0);
	return kloop_listener_open(scene->loop, &address, 0, flags, &handlers, scene,
				   &scene->listener);
}

START_TEST(open_flags)
{
	struct scene first, second;
	uint16_t port;
	int fd, on = 0;
	socklen_t length = sizeof(on);

	scene_open(&first, KT_MODE_BEST);
	port = kloop_address_get_port(&first.address);
	memset(&second, 0, sizeof(second));
	second.loop = first.loop;
	ck_assert_int_eq(try_open(&second, "127.0.0.1", port, 0), -EADDRINUSE);
	ck_assert_int_eq(try_open(&second, "192.0.2.1", 0, 0), -EADDRNOTAVAIL);
	ck_assert_int_eq(try_open(&second, "127.0.0.1", 0, 1u << 30), -EINVAL);
	ck_assert_ptr_null(second.listener);

	ck_assert_int_eq(try_open(&second, "127.0.0.1", 0, KLOOP_LISTENER_REUSE_PORT), 0);
	fd = kloop_listener_get_fd(second.listener);
	ck_assert_int_eq(getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, &length), 0);
	ck_assert_int_ne(on, 0);
	kloop_listener_close(second.listener);
	kt_turn_until(first.loop, &second.closes, 1);

	/* IPv6 may be switched off here; where it is on, both settings are exact. */
	for (unsigned flags = 0; flags <= KLOOP_LISTENER_IP6_ONLY;
	     flags += KLOOP_LISTENER_IP6_ONLY) {
		int r;

		memset(&second, 0, sizeof(second));
		second.loop = first.loop;
		r = try_open(&second, "::", 0, flags);
		if (r == -EAFNOSUPPORT)
			break;
		ck_assert_int_eq(r, 0);
		on = -1;
		ck_assert_int_eq(getsockopt(kloop_listener_get_fd(second.listener), IPPROTO_IPV6,
					    IPV6_V6ONLY, &on, &length), 0);
		ck_assert_int_eq(on, flags != 0);
		kloop_listener_close(second.listener);
		kt_turn_until(first.loop, &second.closes, 1);
	}
	scene_close(&first);
}
END_TEST

START_TEST(open_local)
{
	struct kloop_address address;
	struct scene scene;
	char directory[] = "/tmp/kloop-test-XXXXXX", path[64];
	int peer;

	memset(&scene, 0, sizeof(scene));
	scene.loop = kt_mode_loop(_i);
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/socket", directory);
	ck_assert_int_eq(kloop_address_set_local(path, strlen(path), &address), 0);
	ck_assert_int_eq(kloop_listener_open(scene.loop, &address, 0, 0, &handlers, &scene,
					     &scene.listener), 0);
	ck_assert_int_eq(kloop_listener_get_address(scene.listener, &scene.address), 0);
	ck_assert_str_eq(scene.address.u.local.sun_path, path);
	peer = client(&address);
	kt_turn_until(scene.loop, &scene.accepted, 1);
	kt_close(peer);
	scene_close(&scene);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(rmdir(directory), 0);
}
END_TEST

static void *refused_elsewhere(void *data)
{
	struct scene *scene = data;

	ck_assert_int_eq(kloop_listener_pause(scene->listener), -EPERM);
	ck_assert_int_eq(kloop_listener_resume(scene->listener), -EPERM);
	kloop_listener_close(scene->listener);
	return NULL;
}

START_TEST(bad_arguments)
{
	struct kloop_listener_handlers broken = handlers;
	struct kloop_listener *listener = NULL;
	struct scene scene;
	int fds[2], fd;
	uint16_t port;

	scene_open(&scene, KT_MODE_BEST);
	fd = kt_listen(1, &port);
#define NEW(...) kloop_listener_new(__VA_ARGS__)
	ck_assert_int_eq(NEW(NULL, fd, 0, &handlers, NULL, &listener), -EINVAL);
	ck_assert_int_eq(NEW(scene.loop, fd, 0, NULL, NULL, &listener), -EINVAL);
	ck_assert_int_eq(NEW(scene.loop, fd, 0, &handlers, NULL, NULL), -EINVAL);
	ck_assert_int_eq(NEW(scene.loop, -1, 0, &handlers, NULL, &listener), -EBADF);
	kt_pipe(fds);
	ck_assert_int_eq(NEW(scene.loop, fds[0], 0, &handlers, NULL, &listener), -EINVAL);
	kt_close(fds[0]);
	kt_close(fds[1]);
	kt_socketpair(fds);
	ck_assert_int_eq(NEW(scene.loop, fds[0], 0, &handlers, NULL, &listener), -EINVAL);
	kt_close(fds[0]);
	kt_close(fds[1]);
	broken.on_accept = NULL;
	ck_assert_int_eq(NEW(scene.loop, fd, 0, &broken, NULL, &listener), -EINVAL);
	broken = handlers;
	broken.on_close = NULL;
	ck_assert_int_eq(NEW(scene.loop, fd, 0, &broken, NULL, &listener), -EINVAL);
	broken = handlers;
	broken.size = 8;
	ck_assert_int_eq(NEW(scene.loop, fd, 0, &broken, NULL, &listener), -EINVAL);
	ck_assert_int_eq(kloop_listener_open(scene.loop, NULL, 0, 0, &handlers, NULL, &listener),
			 -EINVAL);
	ck_assert_int_eq(kloop_listener_open(scene.loop, &scene.address, -1, 0, &handlers, NULL,
					     &listener), -EINVAL);
	ck_assert_int_eq(kloop_listener_pause(NULL), -EINVAL);
	kloop_listener_close(NULL);
	ck_assert_ptr_null(listener);
	kt_close(fd);
	kt_turn(scene.loop, 0);
	kt_on_thread(refused_elsewhere, &scene);
	ck_assert_int_eq(scene.closes, 0);
	scene_close(&scene);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("listener");
	TCase *tcase = kt_case(suite, "accept", 30);

	tcase_add_loop_test(tcase, accepts, 0, KT_MODES);
	tcase_add_loop_test(tcase, takes_turns, 0, KT_MODES);
	tcase_add_loop_test(tcase, pauses, 0, KT_MODES);
	tcase_add_loop_test(tcase, inside_on_accept, 0, KT_MODES * 2);
	/* valgrind keeps the limit of descriptors to itself: io_uring never hears of it. */
	kt_add_sleeping_test(tcase, descriptors_run_out, 0, KT_MODES);
	kt_add_sleeping_test(tcase, close_while_waiting, 0, KT_MODES);
	tcase = kt_case(suite, "end", 30);
	tcase_add_loop_test(tcase, close_returns_port, 0, KT_MODES);
	tcase_add_loop_test(tcase, keeps_fd, 0, KT_MODES);
	tcase_add_loop_test(tcase, loop_ends_first, 0, KT_MODES * 3);
	tcase = kt_case(suite, "open", 30);
	tcase_add_test(tcase, open_flags);
	tcase_add_loop_test(tcase, open_local, 0, KT_MODES);
	tcase_add_test(tcase, bad_arguments);
	return kt_main(suite);
}
