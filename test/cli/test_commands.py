# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for every command: help, --json, errors in the user's words, tables, pipes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from support.yolox_graphs import build_yolox

from yolox_trt.cli import main as cli
from yolox_trt.cli.command import Command, arguments_of, describe
from yolox_trt.cli.commands import COMMANDS
from yolox_trt.cli.output import Output

#: What a machine may lack; no help may need one of them.
OPTIONAL = (
    "cupy", "cv2", "matplotlib", "onnx", "onnxruntime",
    "psutil", "pycocotools", "rclpy", "rich", "rosbags", "scipy", "skimage", "tensorrt",
    "tensorrt_rtx", "torch", "torchvision", "vision_msgs",
)  # fmt: skip
ANY = [pytest.param(command, id=command.name) for command in COMMANDS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "stock.onnx"
    onnx.save(build_yolox(depth=0, width=0.125, num_classes=5), str(path))
    return path


@pytest.mark.parametrize("command", ANY)
def test_the_help_fits_the_terminal_and_names_every_option(
    command: type[Command], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        cli.main([*command.name.split(), "--help"])
    assert end.value.code == 0
    text, _, examples = capsys.readouterr().out.partition("\nexamples:")
    words = text.split()
    for argument in arguments_of(command):
        assert argument.flags[0] in text.replace("[", " ").replace("]", " ")
    assert ("--json" in words) == command.has_json
    for line in text.splitlines():
        assert len(line) <= 80 or "{" in line  # a list of choices is one word
    for example in examples.split("\n"):
        assert not example or example.startswith("  yolox_trt ")


@pytest.mark.parametrize("command", ANY)
def test_the_examples_can_be_parsed(command: type[Command]) -> None:
    parser = cli.make_parser()
    for example in describe(command)[2].splitlines()[2:]:
        first, *words = shlex.split(example)
        assert first == "yolox_trt"
        assert cli.parse(parser, words).command is command


def test_no_help_needs_an_optional_package() -> None:
    program = f"""
import sys
for name in {OPTIONAL!r}:
    sys.modules[name] = None
from yolox_trt.cli import main
from yolox_trt.cli.commands import COMMANDS
for command in COMMANDS:
    try:
        main.main([*command.name.split(), "--help"])
    except SystemExit as end:
        assert end.code == 0, command
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("usage: ") == len(COMMANDS)


#: Command lines that print a table within a second or so; MODEL, PLAN and OUT stand for files.
QUICK = (
    "models list",
    "cache list",
    "cache prune --dry-run",
    "optimize --list-passes",
    "optimize MODEL --target dla -o OUT --no-verify",
    "dla-check MODEL --all",
    "inspect MODEL --hardware orin-dla --layers",
    "plan PLAN --duration 1 --no-search",
)


@pytest.mark.parametrize("line", QUICK)
def test_tables_fit_80_columns_and_lose_nothing_and_json_goes_where_it_should(
    line: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("YOLOX_TRT_CACHE", str(tmp_path))
    plan = tmp_path / "plan.yaml"
    plan.write_text("{devices: {gpu: {m: 4.0}}, cameras: {a: {rate: 30}, b: {rate: 10}}}")
    files = {"MODEL": model, "PLAN": plan, "OUT": tmp_path / "o.onnx"}
    words = [str(files.get(word, word)) for word in line.split()]

    status = cli.main(words)
    assert status in (0, 1)
    piped = capsys.readouterr().out
    with monkeypatch.context() as narrow:
        narrow.setattr(Output, "width", 80)
        cli.main(words)
    text = capsys.readouterr().out
    for row in text.splitlines():
        assert len(row) <= 80 or str(tmp_path) in row
    assert "…" not in text
    if words[0] != "inspect":  # which shows fewer columns where there is less room
        missing = {w.strip(",;:-") for w in piped.split()} - {w.strip(",;:-") for w in text.split()}
        assert missing <= {"node"}

    assert cli.main([*words, "--json"]) == status
    document = json.loads(capsys.readouterr().out)
    path = tmp_path / "out" / "document.json"
    assert cli.main([*words, "--json", str(path)]) == status
    assert json.loads(path.read_text()) == document
    assert capsys.readouterr().out == f"{piped}Wrote {path}\n"


def test_a_document_may_not_take_the_place_of_a_model(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = model.read_bytes()
    assert cli.main(["dla-check", str(model), "--json", str(model)]) == 2
    assert "expected a name that ends in .json; fix: set --json" in capsys.readouterr().err
    assert model.read_bytes() == before


WRONG = [
    ("models fetch yolox-z", "yolox_trt models list"),
    ("models fetch", "NAME"),
    ("models list --json m.onnx", "set --json"),
    ("cache prune --max-gib -1", "set --max-gib"),
    ("cache prune --max-days x", "set --max-days"),
    ("cache list --cache nowhere", "give another --cache"),
    ("optimize", "MODEL"),
    ("optimize m.onnx", "no --output"),
    ("optimize m.onnx -o m.onnx", "give another --output"),
    ("optimize m.onnx -o o.onnx --merge a=o.onnx", "give another --output"),
    ("quantize m.onnx -o m.onnx", "give another --output"),
    ("translate m.onnx -o o.onnx --cache o.onnx", "give another --cache"),
    ("optimize m.onnx -o o.onnx --target npu", "set --target"),
    ("optimize m.onnx -o o.onnx --input-size 96", "set --input-size"),
    ("optimize m.onnx -o o.onnx --batch 0", "set --batch"),
    ("optimize m.onnx -o o.onnx --target dla --open-batch", "leave --open-batch out"),
    ("optimize m.onnx -o o.onnx --target dla --uint8-input", "leave --uint8-input out"),
    ("optimize m.onnx -o o.onnx --merge other.onnx", "set --merge"),
    ("optimize m.onnx -o o.onnx --score 2", "set --score"),
    ("optimize m.onnx -o o.onnx --labels nowhere.txt", "set --labels"),
    ("dla-check m.onnx --soc nano", "set --soc"),
    ("dla-check m.onnx --svg out.png", "set --svg"),
    ("dla-check MODEL --tensorrt 7", "set --tensorrt"),
    ("inspect m.onnx --time 5", "set --hardware"),
    ("inspect m.onnx --hardware gpu", "set --hardware"),
    ("inspect MODEL --tensorrt 8.4", "set --tensorrt"),
    ("build m.onnx --device cpu", "--device = cpu"),
    ("build m.onnx --device npu", "set --device"),
    ("build m.onnx --max-batch 0", "set --max-batch"),
    ("build m.onnx --input-size 608", "set --input-size"),
    ("build m.onnx --dla-sram-kib 3 --device dla0", "set --dla-sram-kib"),
    ("build m.onnx --layer-precision conv", "set --layer-precision"),
    ("build m.onnx --dla-standalone", "drop --dla-standalone"),
    ("build m.onnx --device dla0 --dla-standalone", "--no-gpu-fallback"),
    ("plan p.yaml --policy best", "set --policy"),
    ("plan p.yaml --duration 0", "set --duration"),
    ("plan p.yaml --window nan", "set --window"),
    ("plan p.yaml --seed -1", "set --seed"),
    ("plan p.yaml --gantt plan.bmp", "set --gantt"),
    ("plan p.yaml --trace plan.txt", "set --trace"),
    ("soak --minutes 0", "set --minutes"),
    ("soak --fault-period -1", "set --fault-period"),
    ("calibrate m.onnx --images a", "give --cache or --ranges"),
    ("calibrate MODEL --cache a.cache", "give --images"),
    ("calibrate m.onnx --cache a.cache --tensorrt x", "set --tensorrt"),
    ("calibrate m.onnx --cache a.cache --algorithm best", "set --algorithm"),
    ("quantize m.onnx --images a", "--output"),
    ("quantize m.onnx --images a -o q.onnx --equalize 7", "set --equalize"),
    ("quantize m.onnx --images a -o q.onnx --set a", "set --set"),
    ("quantize m.onnx --images a -o q.onnx --limit -1", "set --limit"),
    ("translate m.onnx -o f.onnx", "--cache"),
    ("evaluate --bdd100k nowhere", "give --images DIR"),
    ("evaluate --coco nowhere", "--annotations FILE"),
    ("compare MODEL --images nowhere", "give --images"),
    ("detect x.png --batch 0", "set --batch"),
    ("detect x.png --threads -1", "set --threads"),
    ("detect x.png --engine best", "set --engine"),
    ("demo --duration -3", "set --duration"),
    ("demo --size 0x10", "set --size"),
    ("publish x.png --loop -1", "set --loop"),
    ("publish x.png --size 0x0", "set --size"),
    ("bench cameras --cameras 0", "set --cameras"),
    ("bench cameras --max-batch 0", "set --max-batch"),
    ("bench cameras --size 0x10", "set --size"),
    ("bench cameras --rate 0", "set --rate"),
    ("bench ros --cameras 0", "set --cameras"),
    ("bench ros-transport --duration 0", "set --duration"),
    ("bench cpu --seconds 0", "set --seconds"),
    ("bench executor --streams 0", "set --streams"),
    ("bench executor --engine-ms -1", "set --engine-ms"),
    ("detect MODEL --device tpu", "device 'tpu'; expected auto, gpu, gpu:N, dla0, dla1 or cpu"),
    ("plan MODEL --policy dynamic --policy none", "--policy = 'none'; expected by-hand, static"),
    ("calibrate MODEL --cache c --algorithm foo", "expected one of fixed, max, entropy"),
    ("detect MODEL -o MODEL", "which is a file; expected a folder; fix: set --output"),
    ("train -o MODEL --annotations a --images b", "a file; expected a folder; fix: set --output"),
    ("demo -o MODEL", "which is a file; expected a folder; fix: set --output"),
    ("detect x.png --threads 1000000", "a whole number, 1 to 1024; fix: set --threads"),
    ("calibrate MODEL --cache c --threads 1000000", "0 to 1024; fix: set --threads"),
    ("batch detect x.png -o o --readers 1000000", "1 to 1024; fix: set --readers"),
    ("calibrate MODEL --cache c --set images=inf", "a positive range"),
    ("quantize MODEL --images a -o q --keep-fp16 auto:inf", "'inf' layers to keep"),
    ("quantize MODEL --images a -o q --keep-fp16 NUMBERS", "a JSON object of layer names"),
    ("quantize MODEL --images a -o q --keep-fp16 TEXT", "a JSON object of layer names"),
    ("compare MODEL --images a --keep-fp16 inf", "'inf' layers to keep"),
    ("optimize MODEL -o o.onnx --input-size DIGITSx32", "expected HxW, such as"),
    ("detect x.png --device gpu:DIGITS", "fix: set --device"),
    ("plan p.yaml --seed DIGITS", "a whole number, at least 0"),
    ("demo --model nowhere.onnx", "model 'nowhere.onnx', which is no file; expected an ONNX or"),
    ("bench ros --model nowhere.onnx", "engine file; fix: set --model"),
    ("compare MODEL --algorithm foo", "calibration algorithm 'foo'; expected one of max, entropy"),
    ("compare MODEL --keep-fp16 abc", "'abc' layers to keep in floating point"),
]


@pytest.mark.parametrize(("words", "expected"), WRONG, ids=[words for words, _ in WRONG])
def test_a_wrong_input_is_one_line_that_names_the_argument(
    words: str, expected: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers, text = tmp_path / "numbers.json", tmp_path / "text.json"
    numbers.write_text("[1, 2]")
    text.write_text('"conv"')
    # Python reads no number of more than 4300 digits.
    stand_for = {"MODEL": str(model), "NUMBERS": str(numbers), "TEXT": str(text)}
    given = [stand_for.get(word, word).replace("DIGITS", "9" * 5000) for word in words.split()]
    assert cli.main(given) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith(f"yolox_trt {words.split()[0]}")
    assert expected in captured.err


def test_the_nearest_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "prune", "--max-gb", "3"]) == 2
    assert "unknown argument --max-gb; fix: did you mean --max-gib?" in capsys.readouterr().err
    for command in ("optimize", "inspect", "detect"):  # that end in the word, before all others
        assert cli.main([command, "MODEL", "--size", "416x416"]) == 2
        assert "unknown argument --size; fix: did you mean --input-size?" in capsys.readouterr().err


def test_verbose_stands_before_or_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["-v", "models", "list"], ["models", "list", "-v"]):
        assert cli.main(words) == 0


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder to work in that holds a file of each kind that a command reads."""
    (tmp_path / "run").mkdir()
    onnx.save(
        build_yolox(depth=0, width=0.125),
        str(tmp_path / "run" / "qat.onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (tmp_path / "set" / "annotations").mkdir(parents=True)
    texts = {
        "set/annotations/instances_x.json": "{}",
        "r.json": "{}",
        "keep.json": "{}",
        "expected/drive.json": "{}",
        "bdd/a.json": "{}",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "link.json").symlink_to("r.json")
    os.link(tmp_path / "r.json", tmp_path / "twin.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "read", "written"),
    [
        ("evaluate --annotations LABELS --json LABELS", "--annotations", "--json"),
        ("evaluate --coco set --json LABELS", "--coco", "--json"),
        ("evaluate --coco set --detections LABELS", "--coco", "--detections"),
        ("evaluate --bdd100k bdd --detections bdd/a.json", "--bdd100k", "--detections"),
        ("compare MODEL --images set --coco set --json LABELS", "--coco", "--json"),
        ("batch evaluate MODEL --coco set -o scores --json LABELS", "--coco", "--json"),
        ("quantize MODEL --from-ranges r.json --json r.json -o q.onnx", "--from-ranges", "--json"),
        ("quantize MODEL --from-ranges r.json --json link.json -o q", "--from-ranges", "--json"),
        ("quantize MODEL --from-ranges r.json --json twin.json -o q", "--from-ranges", "--json"),
        ("quantize MODEL --keep-fp16 keep.json --json keep.json -o q", "--keep-fp16", "--json"),
        ("calibrate MODEL --ranges new.json --json new.json", "--ranges", "--json"),
        ("batch detect a.png --format coco -o out --json out/coco.json", "--output", "--json"),
        ("optimize MODEL -o run/weights.bin", "MODEL", "--output"),
        ("optimize m.onnx --merge a=MODEL -o run/weights.bin", "--merge", "--output"),
        ("qat MODEL --images set -o run", "MODEL", "--output"),
        ("distill --teacher run/student.onnx --images set -o run", "--teacher", "--output"),
    ],
)
def test_a_file_that_is_read_or_written_besides_is_not_written_over(
    words: str,
    read: str,
    written: str,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "require", lambda *_, **__: None)  # whatever is installed here
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    names = {"LABELS": "set/annotations/instances_x.json", "MODEL": "run/qat.onnx"}
    for name, path in names.items():
        words = words.replace(name, path)
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert f"as {read} and as {written}; expected a file of its own to write" in error
    assert f"fix: give another {written}" in error
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before


def test_results_beside_what_is_read_are_written_again(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert cli.main(["optimize", "run/qat.onnx", "--no-verify", "-o", "run/o.onnx"]) == 0
    run = ["train", "--annotations", "a.json", "--images", "a", "-o", "run"]
    (files / "run" / "checkpoint.pt").write_bytes(b"no checkpoint")
    assert cli.main([*run, "--resume", "run/checkpoint.pt"]) == 2  # which goes on with its own run
    assert "of its own" not in capsys.readouterr().err
