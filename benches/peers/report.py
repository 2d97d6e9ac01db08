"""Computes figures from times, and formats them as a table."""

import statistics

from engines import LABELS, OURS
from timing import percentile, ratio_by_rounds


def figures(entries, macs):
    """The measurements of each engine, for the table and the JSON file.

    GFLOP/s is the operations that the engine reports, or else those of the whole model, over the median time."""
    timed = {entry.name: entry for entry in entries if entry.error is None}
    medians = {name: statistics.median(entry.times()) for name, entry in timed.items()}
    rates = {
        name: (entry.worker.ready["flops"] or 2 * macs) / medians[name] / 1e6 for name, entry in timed.items()
    }
    found = []
    for entry in entries:
        ready = entry.worker.ready
        figure = {
            "engine": entry.name,
            "version": ready["version"],
            "about": ready["about"],
            "macs": ready["flops"] // 2 if entry.name in OURS else None,
            "difference": entry.difference,
            "cosine": entry.cosine,
            "agrees": entry.agrees,
            "error": entry.error,
        }
        if entry.name in timed:
            times, median = entry.times(), medians[entry.name]
            figure |= {
                "runs": len(times),
                "median_ms": median,
                "min_ms": min(times),
                "p95_ms": percentile(times, 95),
                "ratio": None,
                "ratio_by_rounds": None,
                "gflops": rates[entry.name],
                "of_peak": rates[entry.name] / rates["peak"] if "peak" in timed else None,
                "round_medians_ms": [statistics.median(turn) for turn in entry.rounds],
            }
            if "vit" in timed and entry.name != "peak":
                figure["ratio"] = median / medians["vit"]
                figure["ratio_by_rounds"] = ratio_by_rounds(entry, timed["vit"])
        found.append(figure)
    return found


def show(race):
    """One race as text."""
    by_name = {figure["engine"]: figure for figure in race["engines"]}
    timed = [figure for figure in race["engines"] if figure["error"] is None]
    cores = ", ".join(map(str, race["cores"]))
    plural = "s" * (race["threads"] > 1)
    lines = [f"{race['model']}, {race['precision']}, {race['threads']} thread{plural} on core{plural} {cores}, {race['rounds']} rounds"]
    macs = [f"{race['macs'] / 1e6:,.1f} million MACs in the whole model"]
    for name in OURS:
        if name in by_name:
            share = by_name[name]["macs"] / race["macs"]
            macs.append(f"{LABELS[name]} executes {by_name[name]['macs'] / 1e6:,.1f} ({share:.1%})")
    lines.append("; ".join(macs))
    if "peak" in by_name and by_name["peak"]["error"] is None:
        lines.append(f"peak {by_name['peak']['gflops']:.1f} GFLOP/s ({by_name['peak']['about']})")

    rows = [("engine", "version", "difference", "cosine", "ms", "min", "p95", "/ vit", "by rounds", "GFLOP/s", "of peak")]
    for figure in sorted(timed, key=lambda figure: figure["median_ms"]):
        if figure["engine"] != "peak":
            rows.append(
                (
                    LABELS[figure["engine"]] + ("" if figure["agrees"] else " (DISAGREES)"),
                    # Drop build and commit suffixes.
                    figure["version"].split("-")[0].split("+")[0],
                    "not finite" if figure["difference"] is None else f"{figure['difference']:.1e}",
                    "" if figure["cosine"] is None else f"{figure['cosine']:.6f}",
                    *(f"{figure[key]:.2f}" for key in ("median_ms", "min_ms", "p95_ms")),
                    *("" if figure[key] is None else f"{figure[key]:.3f}" for key in ("ratio", "ratio_by_rounds")),
                    f"{figure['gflops']:.1f}",
                    "" if figure["of_peak"] is None else f"{figure['of_peak']:.1%}",
                )
            )
    lines += ["", *table(rows), ""]
    lines += verdict([figure for figure in timed if figure["engine"] not in ("vit-all", "peak")])
    lines += [f"failed: {LABELS[f['engine']]}: {f['error']}" for f in race["engines"] if f["error"] is not None]
    lines += [f"skipped: {LABELS[name]}: {reason}" for name, reason in race["skipped"].items()]
    return "\n".join(line.rstrip() for line in lines)


def table(rows):
    """Aligned columns: the first two to the left, the numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    sides = "<<" + ">" * len(widths)
    return ["  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths)) for row in rows]


def verdict(figures):
    """Which engines vit is faster than, by rounds, among those that agree with PyTorch."""
    vit = next((figure for figure in figures if figure["engine"] == "vit"), None)
    if vit is None:
        return []
    if not vit["agrees"]:
        return ["no verdict: vit disagrees with PyTorch's f32"]
    groups = {"vit is faster than": [], "vit is not faster than": [], "left out, too far from PyTorch's f32:": []}
    faster, slower, uncounted = groups.values()
    for figure in sorted(figures, key=lambda figure: -figure["ratio_by_rounds"]):
        if figure is not vit:
            group = uncounted if not figure["agrees"] else faster if figure["ratio_by_rounds"] > 1 else slower
            group.append(f"{LABELS[figure['engine']]} ({figure['ratio_by_rounds']:.2f})")
    return [f"{how} {', '.join(found)}" for how, found in groups.items() if found]
