/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Fuzz targets: each takes foreign bytes, and its findings become files of
 * tests/fuzz/corpus/NAME. With clang -fsanitize=fuzzer,address,undefined they
 * are fuzzers; with tests/fuzz/replay_changed.c they are tests that run the corpus.
 */
#ifndef KT_FUZZ_H
#define KT_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
