# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The teacher's answers at twice the size, on the grid of the picture itself."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch missing: pip install torch")

from torch.nn import functional as F

from yolox_trt.training.fine_teacher import on_half_the_grid, surer_answers, teacher_scores
from yolox_trt.training.yolox import decode_outputs, flatten_outputs


def levels(size: tuple[int, int], classes: int = 3, seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [
        tuple(
            torch.randn(2, channels, size[0] // s, size[1] // s, generator=generator)
            for channels in (4, 1, classes)
        )
        for s in (8, 16, 32)
    ]


def test_the_surest_of_four_cells_keeps_its_box_and_scores() -> None:
    """Held against a decoding of the enlarged picture, whose boxes are then halved."""
    fine = levels((128, 192))
    boxes, scores = decode_outputs(flatten_outputs(fine), (128, 192))
    halved = flatten_outputs([on_half_the_grid(level) for level in fine])
    got_boxes, got_scores = decode_outputs(halved, (64, 96))

    first = 0
    for level, stride in zip(fine, (8, 16, 32), strict=True):
        rows, columns = 128 // stride, 192 // stride
        objectness = level[1][:, 0]
        for image in range(2):
            for row in range(0, rows, 2):
                for column in range(0, columns, 2):
                    block = objectness[image, row : row + 2, column : column + 2].reshape(-1)
                    below, right = divmod(int(block.argmax()), 2)
                    cell = first + (row + below) * columns + column + right
                    mine = first // 4 + row // 2 * (columns // 2) + column // 2
                    torch.testing.assert_close(
                        got_boxes[image, mine], boxes[image, cell] / 2, rtol=1e-4, atol=1e-4
                    )
                    torch.testing.assert_close(got_scores[image, mine], scores[image, cell])
        first += rows * columns


def test_the_surer_answer_counts_and_the_last_level_is_the_first_answer() -> None:
    images = torch.rand(2, 3, 64, 96)
    coarse, fine = flatten_outputs(levels((64, 96), seed=1)), levels((128, 192), seed=2)
    seen = []

    def model(enlarged: Any) -> list[Any]:
        seen.append(enlarged)
        return fine

    found = surer_answers(coarse, images, model)
    torch.testing.assert_close(
        seen[0], F.interpolate(images, (128, 192), mode="bilinear", align_corners=False)
    )
    other = flatten_outputs([on_half_the_grid(level) for level in fine[:2]])
    count = other.shape[1]
    assert torch.equal(found[:, count:], coarse[:, count:])
    surer = teacher_scores(other) > teacher_scores(coarse[:, :count])
    assert 0.2 < surer.float().mean() < 0.8
    assert torch.equal(found[:, :count][surer], other[surer])
    assert torch.equal(found[:, :count][~surer], coarse[:, :count][~surer])
