#!/usr/bin/env python3
"""Counts the instructions of kernels and of whole passes of ViT-Ti/16 on 64-bit Arm and compares them with the baseline.

  check.py            exits with 1 if a count grew by more than 5 %, if a main loop or a pass takes more than its
                      limit, or if a main loop uses the stack; for a compiler without a baseline it compares with the
                      newest baseline and fails for the limits only
  check.py --write    saves the counts as this compiler's baseline

QEMU counts, with the plugin count.c; .ci/setup-cross compiler aarch64 installs what this needs, besides gcc. Counts of
instructions say nothing certain about time.
"""
import collections
import concurrent.futures
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BASELINES = HERE / "baselines"
LIMIT = 1.05
TARGET = "aarch64-unknown-linux-gnu"
QEMU = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu", "max"]

# Which counts each level has of its own: the higher ones differ in int8 and int4 only.
LEVELS = {"portable": "", "neon": "", "neon-dotprod": "int", "neon-i8mm": "int"}

# Most instructions of a pass.
PASSES = {"vit_ti_f32.neon": 470e6, "vit_ti_f16.neon": 520e6, "vit_ti_int8.neon-dotprod": 240e6}

# Main loops: the multiplications of one turn, what else tells the loop apart, and most instructions for each multiplication.
FMLA = r"fmla\s.*\.s\[\d\]$"
LOOPS = {
    "fmla by element, 5 × 16": (FMLA, 80, "", 1.30),
    "fmla by element of bf16, 5 × 16": (FMLA, 80, r"shll\s", 1.50),
    "sdot, 5 × 16": (r"sdot\s", 80, "", 1.30),
}


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, **options).stdout


def build(cross):
    """The program."""
    run(cross / "bin/cargo", "build", "-q", "--release", "--locked", "--target", TARGET, "-p", "vit-aarch64-counts")
    return ROOT / "target" / TARGET / "release/vit-aarch64-counts"


def count(program, plugin):
    """{name.level: instructions}"""
    def at(level):
        command = [*QEMU, "-plugin", plugin, program, level, LEVELS[level]]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        names, numbers = result.stdout.split(), result.stderr.split()
        if len(names) != len(numbers):
            sys.exit(f"{len(names)} names and {len(numbers)} counts: {result.stderr}")
        return {f"{name}.{level}": int(number) for name, number in zip(names, numbers)}

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as levels:
        return dict(itertools.chain.from_iterable(counts.items() for counts in levels.map(at, LEVELS)))


def loops(program):
    """Yields the instructions of every innermost loop of the program, except those of the level portable."""
    listing = run("aarch64-linux-gnu-objdump", "-d", "-C", "--no-show-raw-insn", program)
    for function in re.split(r"\n(?=[0-9a-f]+ <)", listing):
        name, _, body = function.partition("\n")
        if "arch::portable" in name:
            continue
        code = [(int(at, 16), text) for at, text in re.findall(r"^\s+([0-9a-f]+):\s+(.*?)(?:\s+//.*)?$", body, re.M)]
        at = {address: i for i, (address, _) in enumerate(code)}
        backwards = []
        for i, (address, text) in enumerate(code):
            branch = re.match(r"(?:b\.|cb|tb)\S*\s.*?([0-9a-f]+) <", text)
            if branch and int(branch[1], 16) <= address and int(branch[1], 16) in at:
                backwards.append((at[int(branch[1], 16)], i))
        for first, last in backwards:
            if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in backwards):
                yield [text for _, text in code[first:last + 1]]


def main_loops(program):
    """{what: (instructions for each multiplication, accesses to the stack)} of the leanest loop of its size."""
    found = collections.defaultdict(list)
    for loop in loops(program):
        for what, (pattern, size, beside, _) in LOOPS.items():
            is_there = any(re.match(beside, text) for text in loop)
            if is_there and sum(bool(re.match(pattern, text)) for text in loop) == size:
                found[what].append((len(loop) / size, sum("[sp" in text for text in loop)))
    return {what: min(found[what], default=(float("inf"), 0)) for what in LOOPS}


def order(path):
    return [int(part) if part.isdigit() else 0 for part in re.split(r"[.-]", path.stem)]


def main():
    if sys.argv[1:] not in ([], ["--write"]):
        sys.exit(__doc__)
    cross = pathlib.Path(run(ROOT / ".ci/setup-cross", "compiler", "aarch64").strip())
    with tempfile.TemporaryDirectory() as work:
        plugin = f"{work}/count.so"
        run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", plugin, HERE / "count.c")
        program = build(cross)
        counts = count(program, plugin)
    version = re.search(r"rustc (\S+)", run(cross / "bin/rustc", "-V"))[1]
    own = BASELINES / f"{version}.json"
    if sys.argv[1:]:
        BASELINES.mkdir(exist_ok=True)
        own.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
        print(f"saved {len(counts)} counts for rustc {version}")
    baseline = own if own.exists() else max(BASELINES.glob("*.json"), key=order, default=None)
    before = json.loads(baseline.read_text()) if baseline else {}
    strict = baseline == own
    print(f"rustc {version}, compared with {baseline.stem if baseline else 'nothing'}")
    failed = []
    for name in sorted(counts.keys() | before.keys()):
        new, old = counts.get(name), before.get(name)
        ratio = new / old if new and old else None
        heavier = strict and (ratio is None or ratio > LIMIT) or (new or 0) > PASSES.get(name, float("inf"))
        failed += [name] * heavier
        change = f"{100 * (ratio - 1):+.2f} %" if ratio else "on one side only"
        print(f"{name:40} {new or 0:>13,} {change:>18}{'  too heavy' if heavier else ''}")
    for what, (each, stack) in main_loops(program).items():
        heavier = each > LOOPS[what][3] or stack > 0
        failed += [what] * heavier
        print(f"{what:40} {each:>13.4f} for each, {stack} on the stack{'  too heavy' if heavier else ''}")
    if failed:
        sys.exit(f"too heavy, or missing on one side: {', '.join(failed)}; if intended, run check.py --write")


main()
