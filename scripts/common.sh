# SPDX-License-Identifier: MulanPSL-2.0
# shellcheck shell=bash
# What the scripts of this folder share. They source it after "set -euo pipefail".

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What it takes to build kLoop from a checkout, by the names of Debian.
# shellcheck disable=SC2034 # the scripts that source this use it
build_packages=(gcc g++ make libc6-dev autoconf automake libtool pkg-config
	liburing-dev libssl-dev libldns-dev python3-dev python3-setuptools)

say() {
	printf '\n==> %s\n' "$*"
}

die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# kloop_version <configure.ac: print the version.
kloop_version() {
	sed -n 's/^AC_INIT(\[kloop\], \[\(.*\)\])$/\1/p'
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "root or sudo is needed for: $*"
	fi
}

is_installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# need_packages PACKAGE...: install those that are missing. Asks nothing, and
# leaves apt alone where everything is there.
need_packages() {
	local missing=() package

	command -v apt-get >/dev/null ||
		die "this script installs Debian packages; elsewhere install what README.md lists, then configure, make, make check"
	for package in "$@"; do
		is_installed "$package" || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	say "Installing ${missing[*]}"
	# One at a time: apt fails where another one is at work.
	as_root flock /run/lock/kloop-packages sh -c 'apt-get -q update &&
		DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$@"' \
		sh "${missing[@]}"
}

# need_servers PACKAGE[=SERVICE]...: the same for packages that bring a daemon,
# which starts neither now nor at the machine's next start. One that was there
# before stays as it is.
need_servers() {
	local missing=() services=() word policy=/usr/sbin/policy-rc.d

	for word in "$@"; do
		is_installed "${word%%=*}" && continue
		missing+=("${word%%=*}")
		case $word in *=*) services+=("${word#*=}") ;; esac
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	(
		# What is asked before a daemon starts at its installation says no.
		if [ ! -e "$policy" ]; then
			trap 'as_root rm -f "$policy"' EXIT
			printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
			as_root chmod 755 "$policy"
		fi
		need_packages "${missing[@]}"
	) || return 1
	for word in "${services[@]}"; do
		as_root update-rc.d "$word" disable
	done
}

# need_peers: what "make check-peers" runs. PostgreSQL's package would make a
# cluster of its own, which takes a while and nobody needs here.
need_peers() {
	local settings=/etc/postgresql-common/createcluster.conf made=

	need_packages openssl gunicorn python3-aiohttp python3-anyio python3-asyncpg python3-h11 \
		python3-h2 python3-httptools python3-httpx python3-hypercorn python3-redis \
		python3-starlette python3-uvicorn python3-uvloop python3-websockets || return 1
	if ! is_installed postgresql && [ ! -e "$settings" ]; then
		as_root mkdir -p "${settings%/*}"
		echo 'create_main_cluster = false' | as_root tee "$settings" >/dev/null
		made=yes
	fi
	need_servers postgresql=postgresql redis-server=redis-server || return 1
	[ -z "$made" ] || as_root rm -f "$settings"
}

# configure_in FOLDER FLAG...: bootstrap if that is due, and configure there;
# a folder that is configured with these flags already stays as it is.
configure_in() {
	local folder=$1
	shift

	if [ ! -x "$top/configure" ] || [ "$top/configure.ac" -nt "$top/configure" ]; then
		say "Making ./configure"
		"$top/bootstrap" || return 1
	fi
	mkdir -p "$folder"
	if [ ! -f "$folder/Makefile" ] || [ "$top/configure" -nt "$folder/config.status" ] ||
		[ "$(cat "$folder/configured-with" 2>/dev/null)" != "$*" ]; then
		say "Configuring in $folder"
		(cd "$folder" && "$top/configure" "$@") || return 1
		printf '%s\n' "$*" >"$folder/configured-with"
	fi
}

# run_tests LOG COMMAND...: run it with its output in LOG too, and set the
# variables status, passed and failed from its line "N passed, N failed". What
# failed without such a line counts as one.
run_tests() {
	local log=$1 line
	shift

	status=0
	"$@" 2>&1 | tee "$log" || status=$?
	line=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1) || line='0 passed, 0 failed'
	passed=${line%% passed*}
	failed=${line##*, }
	failed=${failed%% failed}
	if [ "$status" != 0 ] && [ "$failed" = 0 ]; then
		failed=1
	fi
	if [ "$failed" != 0 ] || [ "$passed" = 0 ]; then
		[ "$status" != 0 ] || status=1
	fi
}
