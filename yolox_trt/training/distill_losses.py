# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What a student is compared by: the teacher's outputs, and its features where they are tapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolox_trt.training.image_store import ImageStore
from yolox_trt.training.layers import ConvAct
from yolox_trt.training.yolox import YOLOX, flatten_outputs

#: Anchors with a lower score of the teacher have no class and no box to learn.
SCORE_FLOOR = 0.02


def tap_names(model: YOLOX, which: str) -> list[str]:
    """Names of the convolutions whose results are compared, in order of the modules."""
    if which == "none":
        return []
    names = [n for n, m in model.named_modules() if isinstance(m, ConvAct)]
    if which == "all":
        return names
    ends = ("conv3", "dark5.1.conv2", "lateral_conv0", "reduce_conv1")
    return [
        n
        for n in names
        if n.endswith(ends)
        or (n.startswith(("head.", "backbone.bu_conv")) and not n.endswith("dconv"))
    ]


class TappedModel(nn.Module):
    """A detector that also returns what its tapped convolutions give before the activation."""

    def __init__(self, model: YOLOX, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = list(names)
        self._seen: dict[str, Tensor] = {}
        for name in self.names:
            module = model.get_submodule(name)
            assert isinstance(module, ConvAct)
            module.bn.register_forward_hook(self._keep(name))

    def _keep(self, name: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, _inputs: object, out: Tensor) -> None:
            self._seen[name] = out

        return hook

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs = flatten_outputs(self.model(images))
        return outputs, [self._seen[n] for n in self.names]


def teacher_score(teacher: Tensor) -> Tensor:
    """Sum of the teacher's scores that count: what the parts of `output_loss` are divided by."""
    score = teacher[..., 4].float().sigmoid() * teacher[..., 5:].float().sigmoid().amax(-1)
    return (score * (score > SCORE_FLOOR)).sum()


def output_loss(
    student: Tensor, teacher: Tensor, total: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Distance of raw outputs (N, A, 5 + C) from the teacher's: objectness, class, box.

    Objectness: binary cross-entropy with the teacher's probability, over all anchors. Class: the
    same per class; box: smooth L1 of the four logits; both weighted by the teacher's score where it
    is over SCORE_FLOOR. All divided by `total` (the sum of these scores, at least 1); the
    teacher's own entropy is taken off, so a perfect student has zero.
    """
    s, t = student.float(), teacher.float()
    p_obj, p_cls = t[..., 4].sigmoid(), t[..., 5:].sigmoid()
    score = p_obj * p_cls.amax(-1)
    weight = score * (score > SCORE_FLOOR)
    if total is None:
        total = weight.sum().clamp(min=1.0)
    bce = F.binary_cross_entropy_with_logits

    def excess(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
        return bce(a, p, reduction="none") - bce(b, p, reduction="none")

    objectness = excess(s[..., 4], t[..., 4], p_obj).sum() / total
    classes = (excess(s[..., 5:], t[..., 5:], p_cls).sum(-1) * weight).sum() / total
    box = F.smooth_l1_loss(s[..., :4], t[..., :4], reduction="none", beta=0.2).sum(-1)
    return objectness, classes, (box * weight).sum() / total


class HeldOut:
    """Held-out images as at inference, with the teacher's outputs.

    Args:
        store: the images.
        size: (height, width) of the network's input.
        teach: gives the teacher's outputs (N, A, 5 + C) for images (N, 3, H, W).
    """

    def __init__(
        self, store: ImageStore, size: tuple[int, int], teach: Callable[[Tensor], Tensor]
    ) -> None:
        self._views: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(store), 60):
            canvas = store.canvas[start : start + 60].float()
            # The canvas holds the whole image at the top left, so shrinking it is the letterbox for
            # images as long as the canvas.
            x = F.interpolate(canvas, size, mode="bilinear", antialias=True)
            self._views.append((x, teach(x).float()))

    @torch.no_grad()
    def losses(self, run: Callable[[Tensor], Tensor], box_weight: float) -> dict[str, float]:
        """Measure a student, which gives its outputs for images as the teacher does."""
        parts = [torch.stack(output_loss(run(x), target)) for x, target in self._views]
        obj, cls, box = torch.stack(parts).mean(0).tolist()
        return {"objectness": obj, "class": cls, "box": box, "sum": obj + cls + box_weight * box}


class FeatureLoss(nn.Module):
    """Squared distance of the tapped features, each channel relative to the teacher's variance.

    Compared after a SiLU, which flattens values that the next layer hardly sees; the student's get
    a learned scale and shift per channel first, because its next layer could undo those.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.scale = nn.ParameterList(nn.Parameter(torch.ones(c, 1, 1)) for c in channels)
        self.shift = nn.ParameterList(nn.Parameter(torch.zeros(c, 1, 1)) for c in channels)
        for i, c in enumerate(channels):
            self.register_buffer(f"inverse_{i}", torch.ones(c))

    @torch.no_grad()
    def measure(self, teacher: Sequence[Tensor]) -> None:
        """Set the variances from the teacher's features over some images."""
        for i, t in enumerate(teacher):
            var = F.silu(t.float()).var((0, 2, 3))
            floor = 0.05 * var.mean()
            getattr(self, f"inverse_{i}").copy_(1 / var.clamp(min=floor))

    @torch.no_grad()
    def fit(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        """Set scales and shifts to those that bring a trained student's features nearest.

        Equalisation scales the channels of a finished student, some of them by ten and more.
        """
        for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
            s, t = s.float(), t.float()
            s_mean, t_mean = (x.mean((0, 2, 3), keepdim=True)[0] for x in (s, t))
            variance = (s - s_mean).square().mean((0, 2, 3))
            covariance = ((s - s_mean) * (t - t_mean)).mean((0, 2, 3))
            # A channel that was taken out says nothing.
            scale = torch.where(variance > 0, covariance / variance, 1.0)[:, None, None]
            self.scale[i].copy_(scale)
            self.shift[i].copy_(t_mean - scale * s_mean)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor | float:
        total: Tensor | float = student[0].new_zeros((), dtype=torch.float32) if student else 0.0
        for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
            mapped = F.silu(s.float() * self.scale[i] + self.shift[i])
            error = (mapped - F.silu(t.float())).square().mean((0, 2, 3))
            total = total + (error * getattr(self, f"inverse_{i}")).mean()
        return total
