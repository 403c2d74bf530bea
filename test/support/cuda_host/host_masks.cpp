// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
#include "host_shim.hpp"
// The kernels, with their macros from the command line.
#include "masks.cu"

extern "C" void set_order(int reversed) { host::reversed = reversed != 0; }

extern "C" void run_classify(const unsigned* grid, const unsigned* block, const Plane* output,
                             int classes, int height, int width, int stride, const Job* jobs,
                             u8* cells, int* faults) {
  host::launch(grid, block, [=] {
    classify(output, classes, height, width, stride, jobs, cells, faults);
  });
}

extern "C" void run_count_runs(const unsigned* grid, const unsigned* block, const Job* jobs,
                               const u8* cells, int height, int width, int stride, int* counts) {
  host::launch(grid, block, [=] { count_runs(jobs, cells, height, width, stride, counts); });
}

extern "C" void run_write_runs(const unsigned* grid, const unsigned* block, const Job* jobs,
                               const u8* cells, int height, int width, int stride,
                               const int* counts, int* faults) {
  host::launch(grid, block,
               [=] { write_runs(jobs, cells, height, width, stride, counts, faults); });
}
