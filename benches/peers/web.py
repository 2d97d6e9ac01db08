"""Races this engine's WebAssembly against onnxruntime-web's in Node. README.md describes the method.

    python benches/peers/web.py --models tiny --precisions f32,int8 --threads 1,2 --vit target/release/vit [--node NODE]

Needs vit-web/build and (cd benches/peers/web && npm install) to have run; Node must know relaxed SIMD (26 does).
"""

import argparse
import datetime
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import machine
import race
import timing
from engines import HERE
from process import Worker, WorkerError

ENGINES = {"vit-relaxed": "vit, relaxed-simd", "vit-simd128": "vit, simd128", "onnxruntime": "onnxruntime-web"}


def packed(folder, precision, vit):
    """The model's packed file in a precision, made by the command line."""
    file = folder / f"{precision}.gguf"
    if not file.exists():
        command = [vit, "convert", "--model", folder, "--precision", precision, "--out", file]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def compete(model, precision, args):
    folder, _ = race.prepared(model, precision, args.cache)
    packed(folder, precision, args.vit)
    entries = []
    try:
        for threads in args.threads:
            for name in ENGINES:
                command = [args.node, HERE / "web" / "worker.js", name, precision, folder, str(threads)]
                entries.append(timing.Entry(name, Worker(command, machine.cores()[:threads])))
                entries[-1].threads = threads
        for entry in entries:
            race.compare(entry, precision, folder)
        timing.race(entries, args.seconds)
    finally:
        for entry in entries:
            entry.worker.kill()
    ours = entries[0]
    found = []
    for entry in entries:
        if entry.error is not None:
            raise WorkerError(f"{entry.name}: {entry.error}")
        found.append({
            "engine": entry.name,
            "threads": entry.threads,
            "version": entry.worker.ready["version"],
            "about": entry.worker.ready["about"],
            "difference": entry.difference,
            "cosine": entry.cosine,
            "agrees": entry.agrees,
            "median_ms": statistics.median(entry.times()),
            "min_ms": min(entry.times()),
            "ratio_by_rounds": timing.ratio_by_rounds(entry, ours),
        })
    return {"model": model, "precision": precision, "rounds": len(ours.rounds), "engines": found}


def show(done):
    print(f"\n{done['model']}, {done['precision']}, {done['rounds']} rounds")
    print(f"{'engine':20} {'threads':>7} {'version':8} {'difference':>10} {'cosine':>9} {'ms':>8} {'min':>8} {'by rounds':>9}")
    for f in done["engines"]:
        name = ENGINES[f["engine"]] + ("" if f["agrees"] else " (DISAGREES)")
        print(
            f"{name:20} {f['threads']:7} {f['version']:8} {f['difference']:10.1e} {f['cosine']:9.6f} {f['median_ms']:8.2f} "
            f"{f['min_ms']:8.2f} {f['ratio_by_rounds']:9.3f}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--models", type=race.names_of(race.MODELS), default=["tiny"], help=f"of {', '.join(race.MODELS)} [tiny]")
    add("--precisions", type=race.names_of(["f32", "int8"]), default=["f32", "int8"], help="f32, int8 [both]")
    cores = len(machine.cores())
    add("--threads", metavar="N,…", type=lambda text: race.counts(text, cores), default=[1], help="in one race [1]")
    add("--seconds", type=race.seconds, default=3.0, help="time every engine for at least this long [3]")
    add("--cache", type=Path, default=machine.ROOT / "target" / "peers", help="models [target/peers]")
    add("--vit", type=Path, default=machine.ROOT / "target" / "release" / "vit", help="packs models [target/release/vit]")
    add("--node", default="node", help="[node]")
    add("--json", metavar="FILE", type=race.writable, help="write all figures there")
    args = parser.parse_args()
    version = subprocess.run([args.node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
        "commit": machine.commit(),
        "cpu": machine.cpu(),
        "node": version,
        "races": [],
    }
    print(f"{facts['cpu']}; Node {version}; {facts['date']}; commit {facts['commit']}")
    for precision in args.precisions:
        for size in args.models:
            facts["races"].append(compete(race.MODELS[size], precision, args))
            show(facts["races"][-1])
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
