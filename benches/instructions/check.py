#!/usr/bin/env python3
"""Counts the instructions of each kernel and compares them with the baseline of this compiler.

  check.py            exits with 1 if a count grew by more than 5 %; for a compiler without a baseline it compares with
                      the newest baseline and never fails
  check.py --write    saves the counts as this compiler's baseline

Needs valgrind and the runner: cargo install gungraun-runner --version 0.20.0 --locked
"""
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BASELINES = HERE / "baselines"
LIMIT = 1.05


def compiler():
    """rustc's version without its date: '1.95.0'."""
    text = subprocess.run(["rustc", "-V"], check=True, capture_output=True, text=True).stdout
    return re.search(r"rustc (\S+)", text)[1]


def count():
    """{kernel.level: instructions}"""
    command = ["cargo", "bench", "-q", "-p", "vit-instructions", "--bench", "kernels", "--", "--output-format=json"]
    lines = subprocess.run(command, check=True, cwd=HERE, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    counts = {}
    for line in filter(lambda line: line.startswith("{"), lines):
        result = json.loads(line)
        metric = result["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"]["new"]
        counts[f"{result['function_name']}.{result['id']}"] = metric
    return counts


def order(path):
    return [int(part) if part.isdigit() else 0 for part in re.split(r"[.-]", path.stem)]


def main():
    if sys.argv[1:] not in ([], ["--write"]):
        sys.exit(__doc__)
    counts, version = count(), compiler()
    if not counts:
        sys.exit("no counts: is gungraun-runner 0.20.0 installed, and valgrind?")
    own = BASELINES / f"{version}.json"
    if sys.argv[1:]:
        own.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
        return print(f"saved {len(counts)} counts for rustc {version}")
    baseline = own if own.exists() else max(BASELINES.glob("*.json"), key=order, default=None)
    before = json.loads(baseline.read_text()) if baseline else {}
    strict = baseline == own
    print(f"rustc {version}, compared with {baseline.stem if baseline else 'nothing'}")
    failed = []
    for name in sorted(counts.keys() | before.keys()):
        new, old = counts.get(name), before.get(name)
        ratio = new / old if new and old else None
        heavier = strict and (ratio is None or ratio > LIMIT)
        failed += [name] * heavier
        change = f"{100 * (ratio - 1):+.2f} %" if ratio else "on one side only"
        print(f"{name:32} {new or 0:>12,} {change:>18}{'  too heavy' if heavier else ''}")
    if failed:
        sys.exit(f"over 5 % more, or missing on one side: {', '.join(failed)}; if intended, run check.py --write")


main()
