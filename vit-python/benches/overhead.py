"""What a call from Python takes over the engine's own time, in microseconds.

    python benches/overhead.py VIT [MODEL] [--rounds N]

VIT is the binary of the command line. Its 'bench' times forward passes with nothing around them; in turn with it, calls
of the same model on one thread, too, are timed from Python, with `out=` and without. The difference of the medians over
all rounds is the overhead. It is small beside a forward pass: use a small model, on a quiet machine.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import vit_engine as vit

GOLDEN = Path(__file__).parents[2] / "vit-engine/tests/goldens/timm-token"


def engine(binary: str, model: Path, seconds: float) -> float:
    """Median time of a pass, by 'vit bench'."""
    command = [binary, "bench", "--model", str(model), "--threads", "1", "--seconds", str(seconds), "--json"]
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return float(said[0]["median_ms"]) * 1e3


def python(model: vit.Model, x: NDArray[np.float32], seconds: float, out: NDArray[np.float32] | None) -> float:
    """Median time of a call."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        if out is None:
            model(x)
        else:
            model(x, out=out)
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vit", help="the binary 'vit', built for release")
    parser.add_argument("model", nargs="?", type=Path, default=GOLDEN)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5)
    arguments = parser.parse_args()
    model = vit.load(arguments.model, threads=1)
    c = model.config
    x = np.random.default_rng(0).standard_normal((1, c.channels, *c.image_size), np.float32)
    out = model(x)
    measured = []
    for _ in range(arguments.rounds):
        own = engine(arguments.vit, arguments.model, arguments.seconds)
        new = python(model, x, arguments.seconds, None)
        into = python(model, x, arguments.seconds, out)
        measured.append((own, new, into))
        print(f"engine {own:8.1f} µs   model(x) {new:8.1f} µs   model(x, out=y) {into:8.1f} µs", flush=True)
    own, new, into = (statistics.median(column) for column in zip(*measured, strict=True))
    print(f"overhead: model(x) {new - own:.1f} µs, model(x, out=y) {into - own:.1f} µs")


if __name__ == "__main__":
    main()
