#!/usr/bin/env python3
"""Checks a run of the firmware: check.py MACHINE PROGRAM OUTPUT HOSTS_OUTPUT

1. Every line of OUTPUT is the host's, in the same order, but for lines that begin with '#'.
2. Flash, RAM, stack and instructions are at most 5 % above budgets.txt; flash only with up to ten pictures.

Or what can panic: check.py --panics PROGRAM

Of the panicking functions of core, the engine and the kernels call only those that panics.txt lists. PROGRAM is what
`./run --panics` built, for Arm: in RISC-V code llvm-objdump does not name what is called.

PROGRAM is the ELF file. Needs llvm-objdump.
"""
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TOLERANCE = 1.05
PICTURE = 28 * 28
FEW = 10
PANIC = re.compile(r"core::panicking|core::(option|result)::\w+_failed|_fail\b|_fail_rt\b")


def objdump(*arguments):
    command = ["llvm-objdump", "--demangle", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def same_as_host(output, host):
    """The lines of `output` that are not the host's."""
    rest = iter(host)
    return [line for line in output if not line.startswith("#") and line not in rest]


def figures(program, output):
    """What budgets.txt limits."""
    sizes = {}
    for line in objdump("--section-headers", program):
        fields = line.split()
        if len(fields) >= 4 and fields[0].isdigit():
            sizes[fields[1]] = int(fields[2], 16)
    text = "\n".join(output)
    flash = sum(sizes.get(name, 0) for name in [".vector_table", ".text", ".rodata", ".data"])
    counts = [int(count) for count in re.findall(r"^# all: (\d+) instructions", text, re.M)]
    # The list of many pictures takes flash, too.
    size = {"flash": flash - len(counts) * PICTURE} if len(counts) <= FEW else {}
    return size | {
        "statics": sizes.get(".data", 0) + sizes.get(".bss", 0),
        "stack": int(re.search(r"^# stack (\d+) of", text, re.M)[1]),
        "instructions": max(counts),
    }


def budgets():
    """{machine: {figure: budget}} of budgets.txt."""
    lines = [line.split() for line in (HERE / "budgets.txt").read_text().splitlines() if not line.startswith("#")]
    names, *rows = filter(None, lines)
    return {row[0]: dict(zip(names[1:], map(int, row[1:]))) for row in rows}


def panics(program):
    """The panicking functions that functions of the engine and the kernels call, directly or not."""
    calls, function = {}, None
    for line in objdump("--disassemble", "--no-show-raw-insn", program):
        if found := re.match(r"[0-9a-f]+ <([^.$].*)>:$", line):
            function = found[1]
        elif function and (found := re.search(r"<(.*?)(\+0x[0-9a-f]+)?>(?: @.*)?$", line)):
            calls.setdefault(function, set()).add(found[1])
    reached, todo = set(), [name for name in calls if re.search(r"\bvit_(engine|kernels)::", name)]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            if not PANIC.search(name):
                todo.extend(calls.get(name, ()))
    return {re.sub(r"::<.*", "", name) for name in reached if PANIC.search(name)}


def main(machine, program, output, host):
    output, host = (Path(path).read_text().splitlines() for path in [output, host])
    wrong = [f"not the host's line: {line}" for line in same_as_host(output, host)]
    if not any("logits" in line for line in output):
        wrong.append("there are no logits")
    else:
        measured, budget = figures(program, output), budgets().get(machine, {})
        print(machine, *(f"{name} {count}" for name, count in measured.items()))
        for name, count in measured.items():
            if count > budget.get(name, 0) * TOLERANCE:
                wrong.append(f"{name}: {count} is above the budget of {budget.get(name)}")
    for line in wrong:
        print(f"{machine}: {line}", file=sys.stderr)
    return 1 if wrong else 0


def check_panics(program):
    allowed = set((HERE / "panics.txt").read_text().splitlines())
    found = panics(program)
    print("panicking functions:", *(sorted(found) or ["none"]))
    for name in sorted(found - allowed):
        print(f"a panicking function that panics.txt does not have: {name}", file=sys.stderr)
    for name in sorted(allowed - found):
        print(f"panics.txt lists what is no longer called: {name}", file=sys.stderr)
    return 0 if found == allowed else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--panics"] and len(sys.argv) == 3:
        sys.exit(check_panics(sys.argv[2]))
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
