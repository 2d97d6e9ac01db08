"""Races this engine against others on the same models, inputs, cores and threads. README.md describes the method.

    python benches/peers/race.py --models tiny,small,base --threads 1,2 [--precision int8]
"""

import argparse
import datetime
import json
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
import prepare
import quantise
import report
import timing
from process import WorkerError

MODELS = {size: f"vit_{size}_patch16_224" for size in ("tiny", "small", "base")}
# The largest max|difference| / max|reference| to PyTorch's f32 at which an engine agrees with it, and in the lower
# precisions the smallest cosine.
TOLERANCE = 1e-4
COSINES = {"bf16": 0.9999, "int8": 0.999}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    cores = len(machine.cores())
    add = parser.add_argument
    add("--models", metavar="NAME,…", type=names_of(MODELS), default=list(MODELS), help=f"of {', '.join(MODELS)} [all]")
    add("--threads", metavar="N,…", type=lambda text: counts(text, cores), default=[1], help="one race each [1]")
    add("--seconds", metavar="S", type=seconds, default=3.0, help="time every engine for at least this long [3]")
    add("--precision", choices=list(engines.PRECISIONS), default="f32", help="of all engines [f32]")
    add(
        "--engines",
        metavar="NAME,…",
        type=names_of(engines.LABELS),
        help=f"of {', '.join(engines.LABELS)} [all that have the precision]",
    )
    add("--json", metavar="FILE", type=writable, help="write all figures there")
    add("--cache", metavar="DIR", type=Path, default=machine.ROOT / "target" / "peers", help="models [target/peers]")
    add("--rust", metavar="FILE", type=existing, help="a Rust worker to use instead of building one")
    add("--vit", metavar="FILE", type=existing, help="a Rust worker for this engine and the peak only")
    args = parser.parse_args()
    known = engines.PRECISIONS[args.precision]
    args.engines = args.engines or known
    for name in args.engines:
        if name not in known:
            parser.error(f"'{name}' is not raced in {args.precision}; engines: {', '.join(known)}")
    return args


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


def prepared(model, precision, cache):
    """Makes a model if necessary; returns its folder and its multiply-accumulates."""
    folder = cache.resolve() / model
    cache.mkdir(parents=True, exist_ok=True)
    if prepare.about(folder) is None:
        make(f"making {model} …", "prepare.py", model, folder)
    if precision == "int8" and quantise.about(folder) is None:
        make(f"quantising {model} …", "quantise.py", folder)
    return folder, prepare.about(folder)["macs"]


def make(what, script, *arguments):
    """Runs a script in its own process, so that this one loads no libraries and starts no threads."""
    note(what)
    if subprocess.run([sys.executable, engines.HERE / script, *arguments], stdout=sys.stderr).returncode:
        raise SystemExit(f"{script} failed; it needs: pip install -r benches/peers/requirements.txt")


def compare(entry, precision, folder):
    """Compares an engine's output with PyTorch's in f32."""
    with entry.worker, tempfile.TemporaryDirectory() as temporary:
        entry.worker.run(1)
        path = Path(temporary) / "output.npy"
        entry.worker.save_output(path)
        found = np.load(path).ravel().astype(np.float64)
    expected = np.load(folder / engines.reference(entry.name)).ravel().astype(np.float64)
    if found.shape != expected.shape:
        raise WorkerError(f"the output has {found.size} numbers instead of {expected.size}")
    entry.agrees = False
    if not np.isfinite(found).all():
        return
    entry.difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    entry.cosine = float(found @ expected / np.linalg.norm(found) / np.linalg.norm(expected))
    entry.agrees = entry.cosine >= COSINES[precision] if precision in COSINES else entry.difference <= TOLERANCE


def race(model, threads, args, workers):
    """Races all engines with one model and number of threads; `workers` is the result of `rust_workers`."""
    folder, macs = prepared(model, args.precision, args.cache)
    cores = machine.cores()[:threads]
    what = f"{model}, {args.precision}, {threads} thread{'s' * (threads > 1)}"
    entries, skipped = [], {}
    try:
        for name in args.engines:
            note(f"{what}: loading {engines.LABELS[name]}")
            try:
                entries.append(timing.Entry(name, engines.start(name, args.precision, folder, cores, workers.get(name))))
            except WorkerError as error:
                skipped[name] = str(error)
        for entry in entries:
            if engines.reference(entry.name):
                try:
                    compare(entry, args.precision, folder)
                except WorkerError as error:
                    entry.error = str(error)
        note(f"{what}: timing")
        timing.race(entries, args.seconds)
        return {
            "model": model,
            "precision": args.precision,
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


def rust_workers(args):
    """The worker of each Rust engine: (path, None), or (None, the problem)."""
    found = dict.fromkeys((*engines.OURS, "peak"), args.vit) if args.vit else {}
    left = [name for name in args.engines if name not in engines.PYTHON and name not in found]
    return found | dict.fromkeys(left, args.rust or engines.build()) if left else found


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
        "cosines": COSINES,
        "races": [],
    }
    print(f"{facts['cpu']}, {len(facts['cores'])} cores; {facts['date']}; commit {facts['commit']}")
    workers = rust_workers(args)
    for size in args.models:
        for threads in args.threads:
            done = race(MODELS[size], threads, args, workers)
            facts["races"].append(done)
            print(f"\n{report.show(done)}", flush=True)
            if args.json:  # After each race, in case a later one is interrupted.
                args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None
