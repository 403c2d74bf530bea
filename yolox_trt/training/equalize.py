# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Equal use of 0..6 by every channel, so that INT8 weights and activations lose little.

A channel that never rises over 1 needs weights six times larger in the next layer than one that
fills 0..6, and these set the scale of a whole INT8 output channel. Scaling the channel up and the
next layer's weights down leaves the network's function unchanged, since ReLU is positively
homogeneous and the channel stays under the clip at 6. After M. Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction" (ICCV 2019, arXiv 1906.04721), with
activation ranges over images in place of weight ranges because of the clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolox_trt.core.errors import ModelError
from yolox_trt.training.layers import ConvAct, CSPLayer, SeparableConvAct, watched
from yolox_trt.training.yolox import YOLOX


def _entry(module: nn.Module) -> list[nn.Conv2d]:
    """The convolutions that read a module's input directly."""
    if isinstance(module, ConvAct):
        return [module.conv]
    if isinstance(module, SeparableConvAct):
        return [module.dconv.conv]
    if isinstance(module, CSPLayer):
        return [module.conv1.conv, module.conv2.conv]
    raise TypeError(f"{type(module).__name__} has no known entry")


def _exit(module: nn.Module) -> ConvAct:
    """The convolution that gives a module's output."""
    if isinstance(module, SeparableConvAct):
        return module.pconv
    if isinstance(module, CSPLayer):
        return module.conv3
    assert isinstance(module, ConvAct)
    return module


def pairs(model: YOLOX) -> list[tuple[ConvAct, list[nn.Conv2d]]]:
    """Each convolution whose output goes to convolutions only, with all of these.

    Left out: outputs that meet a residual sum or a concatenation, whose scales would be tied.
    """
    found: list[tuple[ConvAct, list[nn.Conv2d]]] = []
    for module in model.modules():
        if isinstance(module, SeparableConvAct):
            found.append((module.dconv, [module.pconv.conv]))
        elif isinstance(module, CSPLayer):
            for block in module.m:
                found.append((block.conv1, _entry(block.conv2)))
    body = model.backbone.backbone
    found.append((body.stem.conv, _entry(body.dark2[0])))
    for stage in (body.dark2, body.dark3, body.dark4):
        found.append((_exit(stage[0]), _entry(stage[1])))
    found.append((_exit(body.dark2[1]), _entry(body.dark3[0])))
    if len(body.dark5) == 3:
        pool = body.dark5[1]
        found.append((_exit(body.dark5[0]), [pool.conv1.conv]))
        found.append((pool.conv2, _entry(body.dark5[2])))
    found.append((_exit(body.dark5[-1]), [model.backbone.lateral_conv0.conv]))
    # The neck's last output feeds one head only; the other two also go on through the neck.
    head = model.head
    found.append((_exit(model.backbone.C3_n4), [head.stems[2].conv]))
    found.append(
        (_exit(model.backbone.C3_n3), [*_entry(model.backbone.bu_conv1), head.stems[1].conv])
    )
    found.append(
        (_exit(model.backbone.C3_p3), [*_entry(model.backbone.bu_conv2), head.stems[0].conv])
    )
    for i, stem in enumerate(head.stems):
        cls, reg = head.cls_convs[i], head.reg_convs[i]
        found.append((stem, [*_entry(cls[0]), *_entry(reg[0])]))
        for branch, predictions in (
            (cls, [head.cls_preds[i]]),
            (reg, [head.reg_preds[i], head.obj_preds[i]]),
        ):
            found.append((_exit(branch[0]), _entry(branch[1])))
            found.append((_exit(branch[1]), predictions))
    return found


@torch.no_grad()
def equalize(
    model: YOLOX, batches: Sequence[Tensor], *, target: float = 4.5, most: float = 64.0
) -> dict[str, float]:
    """Scale, in place, every channel that stays under the clip so that it peaks at `target`.

    Channels that never fire on the images are zeroed, with the full weights that read them.

    Args:
        model: folded (no batch norm), with ReLU6.
        batches: images (N, 3, H, W), BGR 0..255, as at inference.
        target: peak over these images after scaling; the rest up to 6 is room for other images.
        most: largest factor, for channels that hardly ever fire.

    Returns:
        for each scaled convolution its largest factor.

    Raises:
        ModelError: when the model has batch norm or another activation.
    """
    if model.config.norm or model.config.activation != "relu6":
        raise ModelError(
            f"{model.config.name} with norm={model.config.norm}, {model.config.activation}",
            expected="a folded ReLU6 model",
            fix="call fold_batch_norm, and train with relu6",
        )
    found = pairs(model)
    names = {module: name for name, module in model.named_modules()}
    peaks: dict[ConvAct, Tensor] = {}

    def keep(module: ConvAct, out: Tensor) -> None:
        peak = out.amax((0, 2, 3))
        peaks[module] = torch.maximum(peaks[module], peak) if module in peaks else peak

    with watched((producer for producer, _ in found), keep):
        for batch in batches:
            model(batch)
    report: dict[str, float] = {}
    for producer, consumers in found:
        peak = peaks[producer]
        factor = (target / peak.clamp(min=1e-6)).clamp(1.0, most)
        # A channel that never fires adds nothing, but its weights in the next layer would still set
        # the INT8 scale there: take it out.
        dead = peak <= 0
        factor[dead] = 1.0
        producer.conv.weight[dead] = 0.0
        assert producer.conv.bias is not None
        producer.conv.bias[dead] = 0.0
        producer.conv.weight.mul_(factor[:, None, None, None])
        producer.conv.bias.mul_(factor)
        for conv in consumers:
            if conv.groups == 1:
                conv.weight[:, dead] = 0.0
                conv.weight.div_(factor[None, :, None, None])
            else:
                # A depthwise kernel has a scale of its own, and without weights its bias would have
                # none: dead channels keep theirs.
                conv.weight.div_(factor[:, None, None, None])
        report[names[producer]] = float(factor.max())
    return report
