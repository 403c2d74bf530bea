# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: run the tests of this folder with ever new inputs, and keep those that fail.

Each round is a process of its own with a seed and a limit of memory. A round that fails leaves its
log, the last input of each test, and Hypothesis' own examples, which the next round tries first.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Bytes of address space of a round; the libraries alone take 3 GB.
MEMORY = 16 << 30
#: Seconds after which a single test hangs.
TEST_LIMIT = 1800


def run_round(seed: int, folder: Path, arguments: list[str]) -> bool:
    """Run the tests once; return whether they passed. What failed is kept in the folder."""
    inputs = folder / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", str(HERE), "-q", "-p", "no:cacheprovider"]
    command += ["-m", ""]  # the slow ones, too
    command += [f"--hypothesis-seed={seed}", f"--timeout={TEST_LIMIT}", *arguments]
    log = folder / f"seed-{seed}.log"
    with log.open("wb") as stream:
        status = subprocess.call(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=HERE.parents[1],
            env={**os.environ, "YOLOX_TRT_FUZZ": str(inputs)},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        )
    if status == 0:
        log.unlink()
        return True
    kept = folder / f"seed-{seed}"
    shutil.copytree(inputs, kept, dirs_exist_ok=True)
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    print(f"seed {seed}: {how}; {log}, and the last input of each test in {kept}/")
    return False


def main() -> int:
    """Run rounds until the time is up; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="time to run; 0: one round")
    parser.add_argument("--seed", type=int, help="seed of the first round (default: random)")
    parser.add_argument("--output", type=Path, default=Path("fuzz_findings"), help="folder")
    options, arguments = parser.parse_known_args()
    seed = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    end, rounds, failed = time.monotonic() + options.minutes * 60, 0, []
    while not rounds or time.monotonic() < end:
        start = time.monotonic()
        if not run_round(seed, options.output.resolve(), arguments):
            failed.append(seed)
        print(f"round {rounds + 1}: seed {seed}, {time.monotonic() - start:.0f} s", flush=True)
        rounds, seed = rounds + 1, seed + 1
    if failed:
        again = f'make fuzz ARGS="--minutes 0 --seed {failed[0]}"'
        print(f"{len(failed)} of {rounds} rounds failed; again: {again}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
