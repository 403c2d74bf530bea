// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
#include "host_shim.hpp"
// The kernel, with its macros from the command line.
#include "common.cuh"
#include "preprocess.cu"

extern "C" void set_order(int reversed) { host::reversed = reversed != 0; }

extern "C" void run_preprocess(const unsigned* grid, const unsigned* block, const Image* images,
                               out_t* output, float m0, float m1, float m2, float o0, float o1,
                               float o2, int pad, int evict_first) {
  host::launch(grid, block, [=] {
    preprocess(images, output, m0, m1, m2, o0, o1, o2, pad, evict_first);
  });
}
