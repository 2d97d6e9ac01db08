"""Measures pictures per second and memory of actors on this machine.

    python measure.py MODEL PHOTOS [ACTORSxTHREADS...]

For each pair it embeds the folder's pictures, several times over if they are few: in one process by
Model.embed, where there is one actor, and by Ray Data. Time is counted from the first result on, memory is that of the
actors while they compute.
"""

import os
import re
import sys
import threading
import time
from pathlib import Path

import ray
from ray.data import ActorPoolStrategy

import vit_engine as vit
from vit_engine.ray import Embedder

BATCH = 16


def processes(model: Path) -> dict[int, dict[str, int]]:
    """Find other processes that have mapped the file, and the kB of the mapping: Rss, Pss and others, of smaps."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "smaps").read_text()
        except OSError:  # It has ended, or is another user's.
            continue
        mapping = re.search(rf"^\S+ r\S+ .*{re.escape(str(model))}\n((?:\w+:.*\n)+)", text, re.MULTILINE)
        if mapping and int(folder.name) != os.getpid():
            found[int(folder.name)] = {k: int(v) for k, v in re.findall(r"(\w+):\s+(\d+) kB", mapping[1])}
    return found


def sizes(pid: int) -> dict[str, int]:
    """Read the kB of a process from /proc/PID/smaps_rollup."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {k: int(v) for k, v in re.findall(r"(\w+):\s+(\d+) kB", text)}


def alone(model: Path, photos: list[str], threads: int) -> float:
    """Pictures per second of one process."""
    embedder = Embedder(model, threads=threads)
    embedder({"path": photos[:BATCH]})
    start = time.monotonic()
    done = sum(len(embedder({"path": photos[at : at + BATCH]})) for at in range(0, len(photos), BATCH))
    return done / (time.monotonic() - start)


def by_ray(model: Path, photos: list[str], actors: int, threads: int) -> tuple[float, list[str]]:
    """Pictures per second of Ray's actors, and a line for the memory of each."""
    embedded = ray.data.read_binary_files(
        photos, include_paths=True, override_num_blocks=len(photos) // BATCH
    ).map_batches(
        Embedder,
        fn_constructor_args=[model],
        compute=ActorPoolStrategy(size=actors),
        num_cpus=threads,
        batch_size=BATCH,
        batch_format="pyarrow",
    )
    lines: list[str] = []

    def watch() -> None:
        found = {pid: (sizes(pid), mapping) for pid, mapping in processes(model).items()}
        if len(found) == actors:
            lines[:] = [
                f"  actor: Rss {of['Rss'] / 1e3:.0f} MB, of it anonymous {of['Anonymous'] / 1e3:.0f} MB, "
                f"the model's file {mapping['Rss'] / 1e3:.0f} MB, of which its share is {mapping['Pss'] / 1e3:.0f} MB; "
                f"Pss {of['Pss'] / 1e3:.0f} MB"
                for of, mapping in found.values()
            ]

    ticks: list[tuple[float, int]] = []
    for batch in embedded.iter_batches(batch_size=None, batch_format="pyarrow"):
        ticks.append((time.monotonic(), len(batch)))
        if len(ticks) % 4 == 0:
            threading.Thread(target=watch).start()
    # The first result of each actor is of pictures that it began before the clock started.
    first, *_ = ticks[actors - 1 :]
    return sum(count for _, count in ticks[actors:]) / (ticks[-1][0] - first[0]), lines


def main() -> None:
    """Measure each pair."""
    model, folder = Path(sys.argv[1]).absolute(), Path(sys.argv[2])
    pairs = [tuple(map(int, pair.split("x"))) for pair in sys.argv[3:] or ["1x1", "1x2", "2x1"]]
    photos = [str(path.absolute()) for path in sorted(folder.iterdir())]
    while len(photos) < 8 * BATCH:
        photos += photos
    ray.init(num_cpus=8, include_dashboard=False, object_store_memory=1 << 30, log_to_driver=False)
    average = sum(os.path.getsize(path) for path in photos) / len(photos) / 1e3
    print(f"{len(photos)} pictures, {average:.0f} kB each on average")
    print(vit.load(model))
    for actors, threads in pairs:
        if actors == 1:
            print(f"Model.embed, {threads} threads: {alone(model, photos, threads):.2f}/s", flush=True)
        rate, lines = by_ray(model, photos, actors, threads)
        print(f"Ray Data, {actors} actors of {threads} threads: {rate:.2f}/s", *lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
