# SPDX-License-Identifier: MulanPSL-2.0
# shellcheck shell=bash
# A virtual machine with a kernel of Debian's, for scripts/vm-check, which sets
# folder (what is kept), box (what is not), and times, and sources this after
# common.sh and chroot.sh.
# shellcheck disable=SC2154 # top, folder, box

vm_pid=''

# The end of vm-check, however it comes.
vm_end() {
	vm_stop
	rm -rf --one-file-system "$box"
}

vm_stop() {
	[ -n "$vm_pid" ] || return 0
	kill -TERM "$vm_pid" 2>/dev/null || true # timeout(1), which passes it on
	wait "$vm_pid" 2>/dev/null || true
	vm_pid=''
}

# ---- the kernel -----------------------------------------------------------

# vm_kernel SUITE: the suite's newest kernel, in $folder/kernels/SUITE:
# vmlinuz, and lib/modules with the version.
vm_kernel() {
	local suite=$1 to=$folder/kernels/$1 config names

	[ ! -e "$to/vmlinuz" ] || return 0
	say "Fetching the kernel of $suite"
	rm -rf --one-file-system "$to" "$box/debs" "$box/kernel"
	mkdir -p "$folder/kernels" "$box/debs" "$box/kernel"
	config=$(apt_config "$suite")
	names=$(kernel_packages "$config") || die "$suite has no linux-image-amd64"
	# shellcheck disable=SC2086 # several names
	(cd "$box/debs" && APT_CONFIG=$config timeout --foreground 900 apt-get -q download $names)
	unpack_kernel "$box/debs" "$box/kernel"
	mv "$box/kernel" "$to"
}

# apt_config SUITE: print the name of a configuration under which apt sees that
# suite and nothing of this machine.
apt_config() {
	local suite=$1 at=$box/apt mirror

	mirror=$(debian_mirror)
	[ -n "$mirror" ] || die "apt knows no mirror of Debian here: set CHROOT_MIRROR"
	mkdir -p "$at/empty" "$at/lists/partial" "$at/cache/archives/partial"
	: >"$at/status"
	printf 'deb [signed-by=%s] %s %s main\n' /usr/share/keyrings/debian-archive-keyring.gpg \
		"$mirror" "$suite" >"$at/sources.list"
	cat >"$at/config" <<-END
		Dir::Etc::SourceList "$at/sources.list";
		Dir::Etc::SourceParts "$at/empty";
		Dir::Etc::Preferences "$at/none";
		Dir::Etc::PreferencesParts "$at/empty";
		Dir::State::Lists "$at/lists";
		Dir::State::Status "$at/status";
		Dir::Cache "$at/cache";
		APT::Architecture "amd64";
		APT::Sandbox::User "$(id -un)";
		Acquire::Check-Valid-Until "false";
		Acquire::Languages "none";
	END
	APT_CONFIG=$at/config timeout --foreground 300 apt-get -q update >&2
	printf '%s\n' "$at/config"
}

# kernel_packages CONFIG: the names of the packages, from what the metapackage
# depends on: one, or in newer suites the image and its parts.
kernel_packages() {
	APT_CONFIG=$1 apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts \
		--no-breaks --no-replaces --no-enhances linux-image-amd64 |
		grep -E '^linux-[a-z]+-[0-9]'
}

# unpack_kernel DEBS TO
unpack_kernel() {
	local deb version image to=$2

	for deb in "$1"/*.deb; do
		dpkg-deb -x "$deb" "$to"
	done
	rm -rf "${to:?}/usr/share"
	if [ -d "$to/usr/lib/modules" ]; then # bookworm has lib/modules
		mv "$to/usr/lib" "$to/lib"
	fi
	version=$(cd "$to/lib/modules" && echo *)
	for image in "$to/boot/vmlinuz-$version" "$to/lib/modules/$version/vmlinuz"; do
		[ ! -e "$image" ] || mv "$image" "$to/vmlinuz"
	done
	[ -e "$to/vmlinuz" ] || die "no vmlinuz in $(cd "$1" && echo *)"
	depmod -b "$to" "$version"
}

# ---- the machine ----------------------------------------------------------

# vm_initramfs SUITE GUEST_TOP GUEST_BUILD GUEST_PYTHON: in $box/initramfs. It
# has what mounting the root takes; modprobe in the guest finds the rest.
vm_initramfs() {
	local at=$box/initrd count=0 kernel=$folder/kernels/$1 version module to

	version=$(cd "$kernel/lib/modules" && echo *)
	mkdir -p "$at/bin" "$at/mods" "$at/job"
	cp "$(command -v busybox)" "$at/bin/busybox"
	cp "$top/tests/vm/init" "$at/init"
	chmod 755 "$at/init"
	mv "$box/programs" "$at/job/programs"
	token=kloop-vm-$RANDOM$RANDOM$RANDOM
	printf '%s=%q\n' token "$token" guest_top "$2" guest_build "$3" guest_python "$4" \
		guest_time "$(date +%s)" >"$at/job/settings"
	modules_for "$kernel" "$version" virtio_pci 9pnet_virtio 9p overlay >"$box/modules"
	while read -r module; do
		count=$((count + 1))
		to=$at/mods/$(printf '%03d' "$count")-$(basename "$module")
		case $module in
		*.ko) cp "$module" "$to" ;;
		*.xz) xz -dc "$module" >"${to%.xz}" ;;
		*.zst) zstd -q -dc "$module" >"${to%.zst}" ;;
		*) die "how is $module packed?" ;;
		esac
	done <"$box/modules"
	(cd "$at" && find . | cpio -o -H newc --quiet | gzip -1) >"$box/initramfs"
}

# modules_for KERNEL VERSION MODULE...: files, each after those that it needs;
# what is built in has none.
modules_for() {
	local kernel=$1 version=$2 module
	shift 2

	for module in "$@"; do
		modprobe -C "$box" -d "$kernel" -S "$version" --show-depends "$module" ||
			die "$version has no module $module"
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# vm_run SUITE ROOT_FOLDER: boot it and print what it says; sets status, passed
# and failed.
vm_run() {
	local kernel=$folder/kernels/$1 from=$SECONDS line up='' result='' before=''
	status=1 passed=0 failed=1

	say "Booting $(cd "$kernel/lib/modules" && echo *) with the root $2"
	mkfifo "$box/console"
	timeout --foreground -k 10 "${VM_SECONDS:-3600}" qemu-system-x86_64 \
		-accel "${VM_ACCEL:-tcg,thread=multi}" -cpu max -smp 2 -m "${VM_MEMORY:-2G}" \
		-nodefaults -nographic -no-reboot -serial stdio \
		-kernel "$kernel/vmlinuz" -initrd "$box/initramfs" \
		-append "console=ttyS0 quiet panic=-1 oops=panic mitigations=off" \
		-virtfs "local,path=${2//,/,,},mount_tag=root,security_model=none,readonly=on,multidevs=remap" \
		-virtfs "local,path=${kernel//,/,,}/lib/modules,mount_tag=modules,security_model=none,readonly=on" \
		</dev/null >"$box/console" 2>&1 &
	vm_pid=$!
	while IFS= read -r line || [ -n "$line" ]; do
		line=${line%$'\r'}
		case $line in
		"$token up")
			up=$SECONDS
			times+=", boot $((up - from)) s"
			;;
		"$token done "*)
			result=${line#"$token done "}
			times+=", programs $((SECONDS - up)) s"
			break
			;;
		'') ;;
		*) # what the firmware and the kernel say first is for failures only
			if [ -n "$up" ]; then
				printf '%s\n' "$line"
			else
				before+=$line$'\n'
			fi
			;;
		esac
	done <"$box/console"
	if [ -n "$result" ]; then
		read -r status passed _ failed _ <<<"$result" # "0 12 passed, 0 failed"
	else
		[ -n "$up" ] || printf '%s' "$before"
		printf 'error: the guest ended after %d s without a result\n' $((SECONDS - from)) >&2
	fi
	vm_stop
	if [ "$status" = 0 ] && { [ "$failed" != 0 ] || [ "$passed" = 0 ]; }; then
		status=1
	fi
	if [ "$status" != 0 ] && [ "$failed" = 0 ]; then
		failed=1
	fi
}
