"""Redraws docs/benchmarks.md and its pictures from the newest results of every machine: `python -m bench.plot`."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report import EAGER, Groups, Record, grouped, largest, load, median, newest, ratio, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
EAGER_COLOR, CPP_COLOR = "#555555", "#0072B2"
COLORS = dict.fromkeys(EAGER, EAGER_COLOR) | {"compiled": "#E69F00", "triton": "#009E73", "cuda": "#CC79A7"}
COLORS |= dict.fromkeys(("cpp", "exact", "score_topk"), CPP_COLOR) | {"paths": "#56B4E9"}
MARKERS = dict.fromkeys(EAGER, "o") | dict.fromkeys(("cpp", "exact", "score_topk", "paths"), "s")
MARKERS |= {"compiled": "^", "triton": "D", "cuda": "P"}
RIVALS, DASHES = ("#D55E00", "#882255", "#999933", "#44AA99", "#AA4499"), ("-", "--", ":", "-.")
UNITS = ("B", "kB", "MB", "GB")

INTRODUCTION = """# Benchmarks

How long each op takes, beside eager PyTorch and beside what you would run without reg4rec. `pytest bench` prints the
same comparison for your machine. `make bench` saves every measurement as JSON in `bench/results/` and redraws this
page; `python -m bench.plot` only redraws it. `make bench-compare` fails if a median is more than 10 % above the saved
one of the same machine.

The tables have one row per op: the size at which eager PyTorch takes longest. The pictures show more sizes, the JSON
has them all. Ops have the names that they had at the run's commit.

* **ms** is the median over the rounds of the fastest reg4rec backend. Each result is checked after timing.
* **eager** is plain PyTorch in the same run: an op's eager definition, a product and `topk` for scans and for the
  exact ranking, a plain fp32 trainer for `train`. **times faster** divides its median by ours.
* **best other** is the fastest alternative. `compiled` is the eager definition under `torch.compile`; the recommenders
  of `implicit` are other models. Where ours is empty, the op has no accelerated backend on this machine and runs eager.
* **% of floor** compares with the least time that this machine needs to move the call's bytes once (at the rate of one
  large `copy_`, reads and writes counted) or to do its operations (at the rate of a float32 2048 x 2048 x 2048
  product), whichever is longer. Look-ups count as no operation, an exponential as one. Data in the cache and
  products in bfloat16 can exceed 100 %.
* **memory** is the peak that one call adds to the process's resident memory (on a GPU: to torch's allocations),
  accurate to about 100 kB.
* Load is that of the last minute before the run; with the timer `process_time` only the process's own time counts.
"""


def section(run: dict[str, Any], groups: Groups) -> str:
    """A machine's part of the page: its pictures and a row an op."""
    machine, first = run["machine_info"], run["benchmarks"][0]["extra_info"]
    rates = next(r["extra_info"] for r in run["benchmarks"] if "bytes_per_s" in r["extra_info"])
    name = machine["machine"]
    lines = [
        f"## {name}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine.get('gpu', 'no GPU')}; commit {first['commit']}, "
        f"{run['datetime'][:10]}, Python {first['python']}, torch {first['torch']}, {first['threads']} thread(s).",
        f"Timer: {first['timer']}. Load: {first['load']}. "
        f"Rates: {rates['bytes_per_s'] / 1e9:.1f} GB/s copied, {rates['operations_per_s'] / 1e9:.0f} GFLOP/s.",
        "",
        f"![How many times faster than eager](benchmarks/{name}-ratios.png)",
        f"![Time against size](benchmarks/{name}-curves.png)",
        "",
        "| op | size | ours | ms | eager ms | times faster | best other | its ms | % of floor | memory |",
        "|---|---|---|---:|---:|---:|---|---:|---:|---:|",
        *(_row(group, backends) for group, backends in largest(groups).items()),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, group: dict[str, Record]) -> str:
    op, size, _ = name.split("/")
    ours, eager, rival = rows_of(group)
    times = None if ours is None else ratio(group, ours)
    info = group[ours or eager or ""]["extra_info"]
    floor, peak = info.get("percent_of_floor"), info.get("peak_bytes")
    figures = [
        *("" if b is None else _three_digits(1e3 * median(group, b)) for b in (ours, eager)),
        "" if times is None else _three_digits(times),
        rival or "",
        "" if rival is None else _three_digits(1e3 * median(group, rival)),
        _three_digits(floor) if floor else "",  # 0: nothing was counted
        "" if peak is None else _size(peak),
    ]
    return "| " + " | ".join([op, size, ours or "", *figures]) + " |"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{float(f'{value:.3g}'):g}"


def _size(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {UNITS[unit]}"


def draw_ratios(groups: Groups, title: str, path: Path) -> None:
    """A bar for every row that has an eager one beside it, to the right of 1 where it is faster."""
    from matplotlib.figure import Figure

    shown = {
        group: rows
        for group, backends in groups.items()
        if "=" not in group and (rows := [b for b in backends if b not in EAGER and ratio(backends, b) is not None])
    }
    height = sum(len(rows) + 1.4 for rows in shown.values())
    figure = Figure(figsize=(9, 0.21 * height + 1.2), layout="constrained")
    axes = figure.subplots()
    at, places, labels = 0.0, [], []
    for group, backends in shown.items():
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # over the line at 1
        place = axes.get_yaxis_transform()
        axes.text(0.006, at, group.replace("/", "   "), transform=place, weight="bold", size=8, va="center", bbox=box)
        for backend in sorted(backends, key=lambda b: -(ratio(groups[group], b) or 0)):
            at += 1
            times = ratio(groups[group], backend) or 0
            axes.barh(at, times - 1, left=1, height=0.8, color=COLORS.get(backend, RIVALS[0]))
            axes.annotate(
                _three_digits(times), (times, at), (4 if times >= 1 else -4, 0), textcoords="offset points",
                ha="left" if times >= 1 else "right", va="center", size=8,
            )  # fmt: skip
            places.append(at)
            labels.append(backend)
        at += 1.4
    axes.set_yticks(places, labels, size=8)
    axes.set_ylim(at - 0.6, -1)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.axvline(1, color=EAGER_COLOR, linewidth=1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("times faster than eager PyTorch in the same run (medians)")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=120)


def draw_curves(groups: Groups, title: str, path: Path) -> None:
    """A panel for every op: medians against the axis along which it was measured, with the band of p20 to p80."""
    from matplotlib.figure import Figure

    panels: dict[str, list[tuple[str, int, dict[str, Record]]]] = defaultdict(list)
    for group, backends in groups.items():
        op, size, _ = group.split("/")
        if "=" in size:
            axis, value = size.split("=")
            panels[op].append((axis, int(value), backends))
    names = dict.fromkeys(b for points in panels.values() for *_, backends in points for b in backends)
    rivals = [backend for backend in names if backend not in COLORS]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.7 * rows + 0.7), layout="constrained")
    for axes, (op, points) in zip(figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=False):
        _draw_curve(axes, points, rivals)
        axes.set_title(op, fontsize=10)
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)


def _draw_curve(axes: "Axes", points: list[tuple[str, int, dict[str, Record]]], rivals: list[str]) -> None:
    for backend in dict.fromkeys(b for _, _, backends in points for b in backends):
        there = [(value, backends[backend]) for _, value, backends in points if backend in backends]
        values, records = zip(*there, strict=True)
        at = rivals.index(backend) if backend in rivals else 0
        color = COLORS.get(backend, RIVALS[at // len(DASHES) % len(RIVALS)])
        dashes = DASHES[at % len(DASHES)] if backend in rivals else "-"
        medians = [1e3 * r["stats"]["median"] for r in records]
        marker = MARKERS.get(backend, "v")
        axes.plot(values, medians, dashes, marker=marker, markersize=4, color=color, label=backend)
        low, high = (
            [1e3 * r["extra_info"].get(key, r["stats"]["median"]) for r in records] for key in ("p20_s", "p80_s")
        )
        axes.fill_between(values, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(points[0][0])
    axes.set_ylabel("ms")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def newest_runs() -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each machine and its last run."""
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        if (path := newest(folder)) is not None:
            yield folder.name, load(path)


def page() -> str:
    """docs/benchmarks.md."""
    return "\n".join([INTRODUCTION, *(section(run, grouped(run["benchmarks"])) for _, run in newest_runs())])


def main() -> None:
    (DOCS / "benchmarks").mkdir(exist_ok=True)
    (DOCS / "benchmarks.md").write_text(page(), encoding="utf-8")
    for name, run in newest_runs():
        groups, title = grouped(run["benchmarks"]), f"{name}, commit {run['benchmarks'][0]['extra_info']['commit']}"
        draw_ratios(groups, title, DOCS / "benchmarks" / f"{name}-ratios.png")
        draw_curves(groups, title, DOCS / "benchmarks" / f"{name}-curves.png")


if __name__ == "__main__":
    main()
