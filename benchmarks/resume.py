"""A training run killed at random moments, and gone on with: the same adapter as the run that was left alone.

    python -m benchmarks.resume --run DIR --base FOLDER --work DIR [--kills 20]

`--run` is the folder of a finished training run, whose rows are trained on, and `--base` the prepared base model. The
run is killed (SIGKILL) at random moments, while it loads, computes or writes a checkpoint, and then started again.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

STEPS, ROWS = 40, 80
LOADING_S, AFTER_S = 6, 14
"""A kill comes at any moment between these seconds after the start."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.place:
        _train(options)
        return
    chance = random.Random(7)
    whole, killed = options.work / "whole", options.work / "killed"
    for place in (whole, killed):
        shutil.rmtree(place, ignore_errors=True)
    _start(options, whole).wait()
    kills, points = 0, []
    while True:
        process = _start(options, killed)
        if kills < options.kills:
            time.sleep(chance.uniform(LOADING_S, AFTER_S))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
                points.append(max((int(step.name[5:]) for step in (killed / "run").glob("step-*")), default=0))
        if process.wait() == 0:
            break
    names = [sorted(path.name for path in (place / "adapters").glob("[!.]*")) for place in (whole, killed)]
    print(f"killed {kills} times, after steps {points} of {STEPS}")
    print(f"left alone {names[0]}, killed {names[1]}: {'the same' if names[0] == names[1] else 'DIFFERENT'}")
    sys.exit(names[0] != names[1])


def _start(options: argparse.Namespace, place: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "benchmarks.resume", "--place", str(place)]
    for option in ("run", "base", "work"):
        command += [f"--{option}", str(getattr(options, option))]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def _train(options: argparse.Namespace) -> None:
    from finetune.dataset import rows
    from finetune.recipe import read_recipe
    from finetune.train import train

    recipe = read_recipe(None, max_steps=STEPS, checkpoint_minutes=0, peft={"lora_dropout": 0.1})
    chosen = sorted(rows(options.run, "training"), key=lambda row: len(row["ids"]))[:ROWS]
    held_out = list(rows(options.run, "validation"))[:4]
    place = options.place
    train("base", str(options.base), chosen, held_out, recipe, place / "adapters", place / "run", {})


if __name__ == "__main__":
    main()
