# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Weights from an exported ONNX, and exact rewrites of a model to its DLA-ready form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from yolox_trt.core.errors import Message, ModelError
from yolox_trt.core.option import options_of
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.shape_walk import fold_constants
from yolox_trt.graph.spec import read_spec
from yolox_trt.training.checkpoint import load_state, read_checkpoint
from yolox_trt.training.layers import BlendedActivation, ConvAct, watched
from yolox_trt.training.model_config import CONFIGS, ModelConfig
from yolox_trt.training.options import DistillJob
from yolox_trt.training.yolox import YOLOX

_NAME_IT = (
    "name the configuration that the file was exported from by ",
    options_of(DistillJob)["teacher_name"],
)

_STEM = "backbone.backbone.stem.conv.conv.weight"


def load_onnx_weights(model: YOLOX, source: Graph, *, fix: Message = _NAME_IT) -> None:
    """Copy the folded weights of an exported YOLOX into a model without batch norm.

    Args:
        model: the model.
        source: the exported one.
        fix: what mends it where the two are of another form.

    Raises:
        ModelError: the number of convolutions or a shape differs, or weights are computed.
    """
    nodes = source.find("Conv")
    convs: list[nn.Conv2d] = []
    in_model = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    # An exported file has its nodes in the order in which they run.
    with torch.no_grad(), watched(in_model, lambda conv, _: convs.append(conv)):
        model(torch.zeros(1, 3, 64, 64))
    if len(nodes) != len(convs):
        raise ModelError(
            f"{source.path} with {len(nodes)} convolutions",
            expected=f"{len(convs)} as in {model.config.name}",
            fix=fix,
        )
    for node, conv in zip(nodes, convs, strict=True):
        weight, bias = node.constant(1), node.constant(2)
        if weight is None or (bias is None and node.input(2) is not None):
            raise ModelError(
                f"weights of {node.name} in {source.path} that other nodes compute",
                expected="weights as float32 constants",
                fix="give the published float model (yolox_trt models list)",
            )
        if weight.shape != conv.weight.shape or conv.bias is None:
            raise ModelError(
                f"weight {weight.shape} of {node.name} in {source.path}",
                expected=f"{tuple(conv.weight.shape)} and a bias, as in {model.config.name}",
                fix=fix,
            )
        conv.weight.data.copy_(torch.tensor(weight))
        conv.bias.data.copy_(torch.tensor(0.0 if bias is None else bias))


@refuses_damaged
def load_student(model: YOLOX, path: Path, *, fix: Message) -> None:
    """Put the weights of a student.pt or student.onnx into a model without batch norm.

    Raises:
        ModelError: the file is of another kind, or of another network.
    """
    if path.suffix != ".onnx":
        load_state(model, read_checkpoint(path)[1], source=path, fix=fix)
        return
    graph = Graph.load(path)
    fold_constants(graph)  # weights are stored as float16 behind Casts
    load_onnx_weights(model, graph, fix=fix)


@refuses_damaged
def load_teacher(path: str | Path, name: str = "yolox_nano") -> YOLOX:
    """The published SiLU network with the weights of its exported ONNX, in evaluation mode.

    It has as many classes as the file, under the file's names.

    Raises:
        ModelError: the file is no YOLOX, or one of another configuration.
        ConfigurationError: no configuration of this name can teach.
    """
    options_of(DistillJob)["teacher_name"].check(name)
    graph = Graph.load(path)
    spec = read_spec(graph)
    model = YOLOX(
        replace(
            CONFIGS[name],
            norm=False,
            num_classes=spec.num_classes,
            class_names=tuple(spec.class_names),
        )
    )
    load_onnx_weights(model, graph)
    return model.eval()


def focus_to_conv(weight: Tensor) -> Tensor:
    """The 6 x 6 stride-2 kernel (O, 3, 6, 6) equal to Focus and a 3 x 3 kernel (O, 12, 3, 3).

    Focus joins the pixels (row, column) (0,0), (1,0), (0,1), (1,1) of each 2 x 2 cell in this
    order.
    """
    out = weight.new_zeros(weight.shape[0], weight.shape[1] // 4, 6, 6)
    for i, (row, column) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        out[:, :, row::2, column::2] = weight[:, 3 * i : 3 * i + 3]
    return out


def depthwise_to_full(weight: Tensor) -> Tensor:
    """The full kernel (C, C, k, k) equal to a depthwise (C, 1, k, k): zero off the diagonal."""
    channels = weight.shape[0]
    out = weight.new_zeros(channels, channels, *weight.shape[2:])
    out[torch.arange(channels), torch.arange(channels)] = weight[:, 0]
    return out


def rewrite(source: YOLOX, config: ModelConfig) -> YOLOX:
    """A model of `config` that computes what `source` computes, activation aside.

    Allowed differences: Focus to convolution stem, parallel to chained pools, depthwise to full
    convolutions, and the activation.

    Raises:
        ModelError: when the two do not have the same convolutions otherwise.
    """
    target = YOLOX(config)
    state = target.state_dict()
    new = dict(source.state_dict())
    for key in new.keys() & state.keys():
        if new[key].ndim == 4 and new[key].shape != state[key].shape:
            is_focus = key == _STEM and source.config.stem == "focus" and config.stem == "conv"
            new[key] = (focus_to_conv if is_focus else depthwise_to_full)(new[key])
    if new.keys() != state.keys() or any(new[k].shape != state[k].shape for k in state):
        raise ModelError(
            f"{source.config.name} to be rewritten as {config.name}",
            expected="the same convolutions in both",
            fix="use the same depth, width and block",
        )
    target.load_state_dict(new)
    return target


def _conv_acts(model: YOLOX) -> list[ConvAct]:
    return [module for module in model.modules() if isinstance(module, ConvAct)]


def _norm(module: ConvAct) -> tuple[nn.BatchNorm2d, Tensor, Tensor]:
    """Return a convolution's batch norm, its running mean and variance."""
    bn = module.bn
    assert isinstance(bn, nn.BatchNorm2d)
    assert bn.running_mean is not None and bn.running_var is not None
    return bn, bn.running_mean, bn.running_var


@torch.no_grad()
def fold_batch_norm(model: YOLOX) -> YOLOX:
    """A copy without batch norm: running statistics and affine are folded into the convolutions."""
    folded = YOLOX(replace(model.config, norm=False))
    folded.load_state_dict(model.state_dict(), strict=False)
    for module, target in zip(_conv_acts(model), _conv_acts(folded), strict=True):
        bn, mean, var = _norm(module)
        scale = bn.weight / (var + bn.eps).sqrt()
        assert target.conv.bias is not None
        target.conv.weight.copy_(module.conv.weight * scale[:, None, None, None])
        target.conv.bias.copy_(bn.bias - mean * scale)
    return folded.train(model.training)


@torch.no_grad()
def insert_batch_norm(model: YOLOX, images: Tensor) -> YOLOX:
    """A copy with batch norm after each convolution that computes the same on `images`.

    The statistics of each convolution's output over `images` (N, 3, H, W) become the running
    statistics; scale and shift undo them, so the function is unchanged in evaluation mode.
    """
    normed = YOLOX(replace(model.config, norm=True)).to(images.device)
    normed.load_state_dict(model.state_dict(), strict=False)
    if isinstance(model.activation, BlendedActivation):
        normed.set_blend(float(model.activation.blend))
    twins = {a.conv: b for a, b in zip(_conv_acts(model), _conv_acts(normed), strict=True)}

    def measure(conv: nn.Conv2d, out: Tensor) -> None:
        bn, running_mean, running_var = _norm(twins[conv])
        assert conv.bias is not None
        var, mean = torch.var_mean(out.float(), dim=(0, 2, 3))
        # A dead or near-constant channel would get a huge inverse: keep its scale bounded.
        var = var.clamp(min=1e-4)
        running_mean.copy_(mean - conv.bias)
        running_var.copy_(var)
        bn.weight.copy_((var + bn.eps).sqrt())
        bn.bias.copy_(mean)

    with watched(twins, measure):
        model(images)
    return normed
