"""Races this engine against others on the same models, inputs, cores and threads. README.md describes the method.

    python benches/peers/race.py --models tiny,small,base --threads 1,2
"""

import argparse
import datetime
import json
import math
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

if sys.version_info < (3, 11):
    raise SystemExit("needs Python 3.11 or newer")
if not sys.platform.startswith("linux"):
    raise SystemExit("needs Linux: workers are pinned to cores, and stopped between their turns")
try:
    import numpy as np
except ImportError:
    raise SystemExit("numpy is missing: pip install -r benches/peers/requirements.txt") from None

import engines
import machine
import report
import timing
from prepare import about
from process import WorkerError

MODELS = {size: f"vit_{size}_patch16_224" for size in ("tiny", "small", "base")}
# The largest max|difference| / max|reference| to PyTorch at which an engine agrees with it.
TOLERANCE = 1e-4


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    cores = len(machine.cores())
    add = parser.add_argument
    add("--models", metavar="NAME,…", type=names_of(MODELS), default=list(MODELS), help=f"of {', '.join(MODELS)} [all]")
    add("--threads", metavar="N,…", type=lambda text: counts(text, cores), default=[1], help="one race each [1]")
    add("--seconds", metavar="S", type=seconds, default=3.0, help="time every engine for at least this long [3]")
    add(
        "--engines",
        metavar="NAME,…",
        type=names_of(engines.LABELS),
        default=list(engines.LABELS),
        help=f"of {', '.join(engines.LABELS)} [all]",
    )
    add("--json", metavar="FILE", type=writable, help="write all figures there")
    add("--cache", metavar="DIR", type=Path, default=machine.ROOT / "target" / "peers", help="models [target/peers]")
    add("--rust", metavar="FILE", type=existing, help="a Rust worker to use instead of building one")
    return parser.parse_args()


def names_of(known):
    def names(text):
        found = list(dict.fromkeys(text.split(",")))
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"unknown name '{name}'; known names: {', '.join(known)}")
        return found

    return names


def counts(text, cores):
    found = []
    for word in text.split(","):
        if not (word.isascii() and word.isdigit()) or int(word) == 0:
            raise argparse.ArgumentTypeError(f"'{word}' is not a whole number above 0")
        if int(word) > cores:
            raise argparse.ArgumentTypeError(f"{word} threads need {word} cores, but this process may use only {cores}")
        found.append(int(word))
    return list(dict.fromkeys(found))


def seconds(text):
    try:
        found = float(text)
    except ValueError:
        found = 0
    if not 0 < found <= 3600:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds above 0 and up to 3600")
    return found


def writable(text):
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' cannot be written")
    return path


def existing(text):
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"'{text}' is not a file")
    return Path(text).resolve(), None


def note(text):
    print(text, file=sys.stderr, flush=True)


def prepared(model, cache):
    """Makes a model if necessary; returns its folder and its multiply-accumulates."""
    folder = cache.resolve() / model
    if about(folder) is None:
        note(f"making {model} …")
        # In its own process, so that this one loads no libraries and starts no threads.
        command = [sys.executable, engines.HERE / "prepare.py", model, folder]
        cache.mkdir(parents=True, exist_ok=True)
        if subprocess.run(command, stdout=sys.stderr).returncode:
            raise SystemExit(f"cannot make {model}; it needs: pip install -r benches/peers/requirements.txt")
    return folder, about(folder)["macs"]


def difference(entry, folder):
    """The largest difference to PyTorch's output, relative to its largest value; None if the output is not finite."""
    with entry.worker, tempfile.TemporaryDirectory() as temporary:
        entry.worker.run(1)
        path = Path(temporary) / "output.npy"
        entry.worker.save_output(path)
        found = np.load(path).ravel()
    expected = np.load(folder / engines.reference(entry.name)).ravel()
    if found.shape != expected.shape:
        raise WorkerError(f"the output has {found.size} numbers instead of {expected.size}")
    relative = float(np.abs(found - expected).max() / np.abs(expected).max())
    return relative if math.isfinite(relative) else None


def race(model, threads, args, rust):
    """Races all engines with one model and number of threads."""
    folder, macs = prepared(model, args.cache)
    cores = machine.cores()[:threads]
    what = f"{model}, {threads} thread{'s' * (threads > 1)}"
    entries, skipped = [], {}
    try:
        for name in args.engines:
            note(f"{what}: loading {engines.LABELS[name]}")
            try:
                entries.append(timing.Entry(name, engines.start(name, folder, cores, rust)))
            except WorkerError as error:
                skipped[name] = str(error)
        for entry in entries:
            if engines.reference(entry.name):
                try:
                    entry.difference = difference(entry, folder)
                    entry.agrees = entry.difference is not None and entry.difference <= TOLERANCE
                except WorkerError as error:
                    entry.error = str(error)
        note(f"{what}: timing")
        timing.race(entries, args.seconds)
        return {
            "model": model,
            "threads": threads,
            "cores": cores,
            "macs": macs,
            "rounds": max((len(entry.rounds) for entry in entries), default=0),
            "engines": report.figures(entries, macs),
            "skipped": skipped,
        }
    finally:
        for entry in entries:
            entry.worker.kill()


def main():
    args = arguments()
    facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
        "commit": machine.commit(),
        "cpu": machine.cpu(),
        "cores": machine.cores(),
        "seconds": args.seconds,
        "tolerance": TOLERANCE,
        "races": [],
    }
    print(f"{facts['cpu']}, {len(facts['cores'])} cores; {facts['date']}; commit {facts['commit']}")
    is_needed = any(name not in engines.PYTHON for name in args.engines)
    rust = args.rust or (engines.build() if is_needed else (None, "not built"))
    for size in args.models:
        for threads in args.threads:
            done = race(MODELS[size], threads, args, rust)
            facts["races"].append(done)
            print(f"\n{report.show(done)}", flush=True)
            if args.json:  # After each race, in case a later one is interrupted.
                args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None
