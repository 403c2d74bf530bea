# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A node's parameters as the parameter services set them: types, deletion, dumps, files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import Parameter, get_parameter_value
from support.ros import Client

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import Applies, Kind, Option
from yolox_trt.ros.nodes.node_parameters import (
    NodeParameters,
    ProcessParameters,
    TypedParameters,
    check_ros_parameters,
)
from yolox_trt.ros.rclpy_versions import NoEventHandlers

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60, method="signal")]


OPTIONS = {
    each.name: each
    for each in (
        Option(name="roi", kind=Kind.INTEGER_ARRAY, default=[], help="Numbers."),
        Option(name="names", kind=Kind.STRING_ARRAY, default=["a"], help="Texts."),
        Option(name="score", kind=Kind.DOUBLE, default=0.5, minimum=0, maximum=1, help="A part."),
        Option(name="model", kind=Kind.STRING, default="", file=True, help="A file."),
        Option(
            name="folders",
            kind=Kind.STRING_ARRAY,
            default=[],
            applies=Applies.READ_ONLY,
            help="Texts.",
        ),
        Option(
            name="period",
            kind=Kind.DOUBLE,
            default=1.0,
            applies=Applies.READ_ONLY,
            help="A time.",
        ),
        Option(
            name="classes",
            kind=Kind.STRING_ARRAY,
            default=[],
            applies=Applies.BY_NODE,
            help="Texts.",
        ),
    )
}
TYPES = {name: Parameter.Type[each.kind.name] for name, each in OPTIONS.items()}


class TypedNode(TypedParameters, NoEventHandlers, Node):
    """A node whose struct is the dictionary of its plain values."""

    def __init__(self, folders: tuple[Path, ...] = (), sent: tuple[str, ...] = (), **values: Any):
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        super().__init__("typed", parameter_overrides=overrides)
        self.parameters = NodeParameters(
            self,
            OPTIONS,
            dict,
            process=ProcessParameters(folders),
            sent=sent,
            on_change=lambda new: None,
        )

    def set(self, name: str, text: str) -> Any:
        """Set a parameter as `ros2 param set` does, which guesses the type of the text."""
        parameter = Parameter.from_parameter_msg(
            ParameterMessage(name=name, value=get_parameter_value(text))
        )
        return self.set_parameters_atomically([parameter])


@pytest.fixture
def make_node(domain: int) -> Iterator[Callable[..., TypedNode]]:
    rclpy.init(args=[], domain_id=domain)
    nodes: list[TypedNode] = []

    def make(*args: Any, **values: Any) -> TypedNode:
        nodes.append(TypedNode(*args, **values))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown()


def answer(node: TypedNode, kind: Any, messages: list[Any]) -> Any:
    """Return the first result of a request to a service that sets parameters."""
    request, response = kind.Request(parameters=messages), kind.Response()
    if kind is SetParameters:
        return node._set_each(request, response).results[0]
    return node._set_all(request, response).result


def types(node: Node) -> dict[str, Parameter.Type]:
    described = {name: Parameter.Type(node.describe_parameter(name).type) for name in OPTIONS}
    stored = {name: node.get_parameter(name).type_ for name in OPTIONS}
    assert described == stored
    return stored


def test_a_value_keeps_the_type_that_it_was_declared_with(
    make_node: Callable[..., TypedNode],
) -> None:
    node = make_node(score=1)
    assert types(node) == TYPES
    for name, text in (("roi", "[1, 2]"), ("roi", "[]"), ("names", "[]"), ("score", "0")):
        assert node.set(name, text).successful
        assert types(node) == TYPES
    assert node.parameters.current["score"] == 0.0
    assert node.get_parameter("names").value == node.parameters.current["names"] == []
    refused = node.set("names", "[1, 2]")
    assert "`names` = [1, 2]; expected a list of texts" in refused.reason
    assert "expected a number, 0 to 1" in node.set("score", "1.5").reason


def test_no_parameter_can_be_deleted(make_node: Callable[..., TypedNode]) -> None:
    node = make_node()
    for name in (*OPTIONS, "use_sim_time"):
        result = node.set_parameters_atomically([Parameter(name)])
        assert not result.successful
        assert result.reason
        assert node.has_parameter(name)


@pytest.mark.parametrize("kind", [SetParameters, SetParametersAtomically])
def test_a_type_that_ros_does_not_have_is_answered(
    make_node: Callable[..., TypedNode], client: Client, kind: Any
) -> None:
    node = make_node()
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(node)
    word = "set_parameters" + "_atomically" * (kind is SetParametersAtomically)
    request = kind.Request(
        parameters=[
            Parameter("score", value=0.25).to_parameter_msg(),
            ParameterMessage(name="score", value=ParameterValue(type=10)),
        ]
    )
    future = client.send(kind, f"/typed/{word}", request)

    def answered() -> bool:
        executor.spin_once(timeout_sec=0.02)
        return bool(future.done())

    client.spin_until(answered)
    response = future.result()
    if kind is SetParameters:
        taken, refused = response.results
        assert taken.successful
    else:
        refused = response.result
    assert not refused.successful
    assert "a value of the type 10 for the parameter 'score'" in refused.reason
    assert node.parameters.current["score"] == (0.25 if kind is SetParameters else 0.5)


@pytest.mark.parametrize(
    ("name", "value"), [("names", ["a"] * 1001), ("names", ["a" * 4097]), ("model", "a" * 4097)]
)
def test_a_value_that_would_take_long_is_refused(
    make_node: Callable[..., TypedNode], tmp_path: Path, name: str, value: Any
) -> None:
    result = make_node((tmp_path,)).set_parameters_atomically([Parameter(name, value=value)])
    assert "at most 1000 of 4096" in result.reason
    with pytest.raises(ConfigurationError, match="at most 1000 of 4096"):  # with a new camera
        make_node((tmp_path,), (name,), **{name: value})


@pytest.mark.parametrize("path", ["~nobody_of_that_name/model.onnx", "a\0b", "x" * 300])
def test_a_file_name_that_is_none_is_answered(
    make_node: Callable[..., TypedNode], tmp_path: Path, path: str
) -> None:
    result = make_node((tmp_path,)).set_parameters_atomically([Parameter("model", value=path)])
    assert "expected a file's name; ~ is the home folder" in result.reason


def test_whatever_goes_wrong_a_request_is_answered(
    make_node: Callable[..., TypedNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node()
    monkeypatch.setattr(node.parameters, "_on_change", lambda new: 1 / 0)
    messages = [Parameter("score", value=0.25).to_parameter_msg()]
    for kind in (SetParameters, SetParametersAtomically):
        response = answer(node, kind, messages)
        assert not response.successful and "ZeroDivisionError" in response.reason
    assert node.parameters.current["score"] == 0.5


def test_a_request_for_very_many_parameters_is_refused(
    make_node: Callable[..., TypedNode],
) -> None:
    node, message = make_node(), Parameter("score", value=0.25).to_parameter_msg()
    for kind in (SetParameters, SetParametersAtomically):
        reason = answer(node, kind, [message] * 1001).reason
        assert "1001 parameters in a request; expected at most 1000" in reason
    assert node.parameters.current["score"] == 0.5


def test_values_that_end_rclpy_are_refused_before_a_node_is_made() -> None:
    check_ros_parameters([Parameter("use_sim_time", value=True), Parameter("x", value="1")])
    with pytest.raises(ConfigurationError, match="start_type_description_service = 'x'; expected"):
        check_ros_parameters([Parameter("start_type_description_service", value="x")])


def test_very_many_parameters_of_a_new_camera_are_refused(
    make_node: Callable[..., TypedNode],
) -> None:
    names = tuple(f"x{number}" for number in range(1001))
    with pytest.raises(ConfigurationError, match="1001 parameters; expected at most 1000"):
        make_node((), names, **dict.fromkeys(names, 1))


def test_an_unknown_parameter_is_named(make_node: Callable[..., TypedNode]) -> None:
    assert "did you mean score?" in make_node().set("scor", "1").reason


def test_an_unknown_name_in_a_message_writes_no_commands_into_the_log(
    make_node: Callable[..., TypedNode], capfd: pytest.CaptureFixture[str]
) -> None:
    make_node(**{"x\n\x1b[31m" + "y" * 1000: 1})
    log = capfd.readouterr().err
    assert r"parameter 'x\n\x1b[31myyy" in log
    assert "\x1b[31m" not in log
    assert "(1007 characters)" in log


def test_a_dump_can_be_set_again_and_what_differs_is_refused(
    make_node: Callable[..., TypedNode], capfd: pytest.CaptureFixture[str]
) -> None:
    node = make_node(classes=["mine"])
    node.parameters.publish("classes", ["car", "bus"])
    assert "'classes' is ignored: the node itself sets it" in capfd.readouterr().err
    names = node.list_parameters([], 0).names
    assert {"use_sim_time", *OPTIONS} <= set(names)
    dump = [node.get_parameter(name) for name in names]
    assert node.set_parameters_atomically(dump).successful
    assert "the node itself" in node.set("classes", "[ship]").reason
    for name, text in (("period", "2.0"), ("folders", "[a]")):
        assert node.describe_parameter(name).read_only
        assert "read-only" in node.set(name, text).reason


def test_files_are_fixed_at_the_start(make_node: Callable[..., TypedNode], tmp_path: Path) -> None:
    node = make_node(model="/etc/a.onnx")
    assert node.describe_parameter("model").read_only
    refused = node.set("model", str(tmp_path / "b.onnx")).reason
    assert "read-only after the start" in refused
    assert "`file_folders`" in refused
    assert node.set("model", "/etc/a.onnx").successful


def test_files_may_be_changed_below_named_folders(
    make_node: Callable[..., TypedNode], tmp_path: Path
) -> None:
    inside = tmp_path / "models"
    inside.mkdir()
    (inside / "link").symlink_to("/etc")
    node = make_node((inside,))
    assert not node.describe_parameter("model").read_only
    assert node.set("model", str(inside / "b.onnx")).successful
    for outside in ("/etc/passwd", f"{inside}/../x", f"{inside}/link/passwd", f"{inside}2/x"):
        assert f"expected one below {inside}" in node.set("model", outside).reason
    assert node.parameters.current["model"] == str(inside / "b.onnx")


@pytest.mark.parametrize("name", ["model", "model_path"])
def test_files_in_a_message_that_makes_a_node_are_bound_too(
    make_node: Callable[..., TypedNode], tmp_path: Path, name: str
) -> None:
    """As with `ros2 component load`; model_path is another name of model."""
    with pytest.raises(ConfigurationError, match="read-only after the start"):
        make_node((), (name,), **{name: "/etc/passwd"})
    path = str(tmp_path / "b.onnx")
    assert make_node((tmp_path,), (name,), **{name: path}).parameters.current["model"] == path
