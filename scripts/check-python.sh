#!/bin/sh
# SPDX-License-Identifier: MulanPSL-2.0
# The tests of the Python loop, for "make check", which sets the variables: on
# what it built in python/lib, with the libkloop of the build tree. Arguments
# are for pytest, in the folder python, in place of all tests.
# shellcheck disable=SC2154 # top_srcdir, top_builddir
set -eu
if ! "$PYTHON" -c 'import pytest'; then
	echo "The tests of the Python loop need pytest for $PYTHON (on Debian: apt install python3-pytest);"
	echo "./configure --with-python=PROG chooses another Python, --disable-python leaves it out."
	exit 1
fi
PYTHONPATH=$top_builddir/python/lib
LD_LIBRARY_PATH=$top_builddir/lib/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
PYTHONDONTWRITEBYTECODE=1 # the source tree may be read-only
PYTHONFAULTHANDLER=1
export PYTHONPATH LD_LIBRARY_PATH PYTHONDONTWRITEBYTECODE PYTHONFAULTHANDLER
cd "$top_srcdir/python"
if [ -n "${SANITIZER_PRELOAD:-}" ]; then
	# Python keeps memory until the end, so leaks are the business of the C tests.
	ASAN_OPTIONS=detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}
	LD_PRELOAD=$SANITIZER_PRELOAD
	export ASAN_OPTIONS LD_PRELOAD
fi
# shellcheck disable=SC2086 # these are words
[ $# -gt 0 ] || set -- ${KLOOP_PYTHON_TESTS:-tests}
# -r: one line for each test, from which the cases are counted.
exec "$PYTHON" -m pytest -q -p no:cacheprovider -rfEsxXp --tb=short "$@"
