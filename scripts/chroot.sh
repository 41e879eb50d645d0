# SPDX-License-Identifier: MulanPSL-2.0
# shellcheck shell=bash
# Chroots of Debian's suites, for the scripts that source common.sh and this.
# shellcheck disable=SC2154 # top, of common.sh

# The suite of this machine: bookworm, trixie, ...
host_suite() {
	(. /etc/os-release && printf '%s\n' "${VERSION_CODENAME:-unknown}")
}

# Debian's mirror: ${CHROOT_MIRROR}, or the one that this machine uses, or
# nothing, for the default of those who ask.
debian_mirror() {
	local mirror

	if [ -n "${CHROOT_MIRROR:-}" ]; then
		printf '%s\n' "$CHROOT_MIRROR"
		return
	fi
	mirror=$(mirror_of_apt)
	if [ -z "$mirror" ]; then # an image without lists
		as_root apt-get -q update >&2 || return 1
		mirror=$(mirror_of_apt)
	fi
	printf '%s\n' "$mirror"
}

mirror_of_apt() {
	# shellcheck disable=SC2016 # fields for apt
	apt-get indextargets --format '$(REPO_URI)|$(ORIGIN)|$(LABEL)' 'Created-By: Packages' |
		awk -F '|' '$2 == "Debian" && $3 == "Debian" && !found++ { print $1 }'
}

# make_chroot SUITE ROOT [PACKAGE...]: where there is none yet, make one.
make_chroot() {
	local suite=$1 root=$2 mirror packages
	shift 2

	[ ! -e "$root/etc/debian_version" ] || return 0
	say "Making a chroot of $suite in $root"
	mirror=$(debian_mirror)
	packages=$(IFS=, && printf '%s' "$*")
	# A mirror may stand still: sid's lists are valid for a week only. It may
	# also not answer at once. Both options stay in the chroot.
	timeout --foreground -k 60 1800 mmdebstrap --variant=minbase ${packages:+"--include=$packages"} \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "5"' \
		--aptopt='Acquire::Languages "none"' \
		--dpkgopt=force-unsafe-io "$suite" "$root" ${mirror:+"$mirror"}
}

# copy_tree FOLDER: the working tree, without what git ignores. Files keep
# their times, and what a build made of them stays, so that the next is short.
copy_tree() {
	local to=$1

	mkdir -p "$to"
	(cd "$top" && git ls-files -z --cached --others --exclude-standard |
		while IFS= read -r -d '' file; do
			[ ! -e "$file" ] || printf '%s\0' "$file"
		done) | LC_ALL=C sort -z >"$to.files.new"
	if [ -f "$to.files" ]; then # files that are gone
		LC_ALL=C comm -z -23 "$to.files" "$to.files.new" | (cd "$to" && xargs -0 -r rm -f)
	fi
	(cd "$top" && tar -c --null -T "$to.files.new") | tar -x -C "$to"
	mv "$to.files.new" "$to.files"
}

# in_chroot ROOT COMMAND...: in /root/kloop there, with /proc, /sys, /dev and
# loopback, in namespaces of its own: mounts and processes are gone at the end,
# which is after ${CHROOT_SECONDS:-7200} at the latest.
in_chroot() {
	cp -L /etc/resolv.conf "$1/etc/resolv.conf"
	# shellcheck disable=SC2016 # the inner shell expands these
	timeout --foreground -k 60 "${CHROOT_SECONDS:-7200}" unshare --mount --propagation private --pid --fork --kill-child sh -euc '
		root=$1
		shift
		mount -t proc proc "$root/proc"
		mount --rbind /sys "$root/sys"
		mount --rbind /dev "$root/dev"
		mount -t tmpfs tmpfs "$root/tmp"
		exec chroot "$root" /usr/bin/env -i HOME=/root TERM=dumb LC_ALL=C.UTF-8 \
			${http_proxy:+"http_proxy=$http_proxy"} \
			PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
			sh -euc "cd /root/kloop; exec \"\$@\"" sh "$@"
	' sh "$@" </dev/null
}
