// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
#include "host_shim.hpp"
// The kernels, with their macros from the command line.
#include "postprocess.cu"

extern "C" void set_order(int reversed) { host::reversed = reversed != 0; }

extern "C" void run_decode(const unsigned* grid, const unsigned* block, const Level* levels,
                           int level_count, int num_classes, int anchors,
                           float width, float height, const Box* anchor_boxes, const Post* posts,
                           const float* thresholds, Tally* tallies, u64* keys, Box* boxes,
                           int* class_ids) {
  host::launch(grid, block, [=] {
    decode(levels, level_count, num_classes, anchors, width, height, anchor_boxes, posts, thresholds, tallies, keys, boxes,
           class_ids);
  });
}

extern "C" void run_read_finished(const unsigned* grid, const unsigned* block,
                                  const Finished* finished, int num_classes, float width, float height,
                                  const Post* posts,
                                  const float* thresholds, Tally* tallies, u64* keys, Box* boxes,
                                  int* class_ids) {
  host::launch(grid, block, [=] {
    read_finished(finished, num_classes, width, height, posts, thresholds, tallies, keys, boxes, class_ids);
  });
}

extern "C" void run_best_selection(const unsigned* grid, const unsigned* block, Tally* tallies,
                                   int capacity, const Post* posts, const Box* sorted_boxes,
                                   const float* sorted_scores, const int* sorted_class_ids,
                                   u8* results, int result_bytes, int result_capacity) {
  host::launch(grid, block, [=] {
    best_selection(tallies, capacity, posts, sorted_boxes, sorted_scores, sorted_class_ids,
                   results, result_bytes, result_capacity);
  });
}

extern "C" void run_rank_candidates(const unsigned* grid, const unsigned* block,
                                    const Tally* tallies, int anchors, int capacity,
                                    const u64* keys, const Box* boxes, const int* class_ids,
                                    Box* sorted_boxes, float* sorted_scores,
                                    int* sorted_class_ids) {
  host::launch(grid, block, [=] {
    rank_candidates(tallies, anchors, capacity, keys, boxes, class_ids, sorted_boxes,
                    sorted_scores, sorted_class_ids);
  });
}

extern "C" void run_suppression(const unsigned* grid, const unsigned* block, const Tally* tallies,
                                int capacity, const Post* posts, const Box* sorted_boxes,
                                const int* sorted_class_ids, u64* mask) {
  host::launch(grid, block, [=] {
    suppression(tallies, capacity, posts, sorted_boxes, sorted_class_ids, mask);
  });
}

extern "C" void run_greedy_selection(const unsigned* grid, const unsigned* block, Tally* tallies,
                                     int capacity, const Post* posts, const Box* sorted_boxes,
                                     const float* sorted_scores, const int* sorted_class_ids,
                                     const u64* mask, u8* results, int result_bytes,
                                     int result_capacity) {
  host::launch(grid, block, [=] {
    greedy_selection(tallies, capacity, posts, sorted_boxes, sorted_scores, sorted_class_ids, mask,
                     results, result_bytes, result_capacity);
  });
}
