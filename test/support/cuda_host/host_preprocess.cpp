// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
#include "host_shim.hpp"
// The kernel, with its macros from the command line.
#include "preprocess.cu"

extern "C" void set_order(int reversed) { host::reversed = reversed != 0; }

// Gives the addresses between which copies to shared memory have read, and forgets them.
extern "C" void take_read_range(unsigned long long range[2]) {
  range[0] = host::lowest_read;
  range[1] = host::highest_read;
  host::lowest_read = ~0ull;
  host::highest_read = 0;
}

extern "C" void run_preprocess(const unsigned* grid, const unsigned* block, const Image* images,
                               out_t* output, float m0, float m1, float m2, float o0, float o1,
                               float o2, int pad) {
  host::launch(grid, block, [=] {
    preprocess(images, output, m0, m1, m2, o0, o1, o2, pad);
  });
}
