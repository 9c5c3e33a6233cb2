"""Redraws docs/benchmarks.md and its pictures from the newest results of every machine: `python -m bench.plot`."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report import EAGER, Groups, Record, Standing, grouped, largest, load, median, newest, ratio

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

INTRODUCTION = """# Benchmarks

`python -m bench.plot` draws this page from `bench/results/`. `make bench` measures, saves and draws;
`make bench-compare` measures and fails if a median is more than 10 % above the saved one of the same machine.

* One row an op: the largest size that was measured. The JSON files also hold other sizes, alternatives and memory.
* Times are medians. "times eager" divides the median of eager PyTorch in the same run by ours: above 1 is faster; so
  does "times the best other", which names the fastest alternative. Every result is checked after timing.
* Other processes make times noisy; see the load of a run. The timer `process_time` counts only the process itself.
* % of floor: the shortest possible time divided by the median. The floor is the time in which this machine moves the
  call's bytes once (arguments and results, at the rate of one large `copy_`) or does its operations (at the rate of a
  float32 product of 2048 x 2048 matrices), whichever is longer. A look-up is no operation, an exponential is one. Data
  in the cache and products in bfloat16 can exceed 100.
"""


def section(run: dict[str, Any], groups: Groups) -> str:
    machine, first = run["machine_info"], run["benchmarks"][0]["extra_info"]
    rates = next(r["extra_info"] for r in run["benchmarks"] if "bytes_per_s" in r["extra_info"])
    name = machine["machine"]
    lines = [
        f"## {name}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine.get('gpu', 'no GPU')}; commit {first['commit']}, "
        f"{run['datetime'][:10]}, Python {first['python']}, torch {first['torch']}, {first['threads']} thread(s).",
        f"Timer: {first['timer']}. Load of the last minute when the run began: {first['load']}. "
        f"Rates: {rates['bytes_per_s'] / 1e9:.1f} GB/s copied, {rates['operations_per_s'] / 1e9:.0f} GFLOP/s.",
        "",
        f"![How many times faster than eager](benchmarks/{name}-ratios.png)",
        "",
        f"![Time against size](benchmarks/{name}-curves.png)",
        "",
        "| op | size | backend | ms | times eager | times the best other | % of floor |",
        "|---|---|---|---:|---:|---:|---:|",
        *(_row(groups, one) for one in largest(groups)),
    ]
    return "\n".join(lines) + "\n"


def _row(groups: Groups, one: Standing) -> str:
    group, (op, size, *_) = groups[one.group], one.group.split("/")
    times, floor = ratio(group, one.best), group[one.best]["extra_info"].get("percent_of_floor")
    other = ""
    if one.rival is not None:
        ahead = median(groups, one._replace(best=one.rival)) / median(groups, one)
        other = f"{_three_digits(ahead)} ({one.rival})"
    cells = [op, size, one.best, _three_digits(1e3 * median(groups, one))]
    cells += ["" if times is None else _three_digits(times), other, "" if floor is None else _three_digits(floor)]
    return f"| {' | '.join(cells)} |"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{float(f'{value:.3g}'):g}"


def draw_ratios(groups: Groups, title: str, path: Path) -> None:
    """Draw a bar for every row whose group has an eager row; bars to the right of 1 are faster than eager."""
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
    """Draw a panel for every op: medians over the varied axis, with a band from percentile 20 to 80."""
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


def main() -> None:
    (DOCS / "benchmarks").mkdir(exist_ok=True)
    text = [INTRODUCTION]
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        if (path := newest(folder)) is None:
            continue
        run = load(path)
        groups = grouped(run["benchmarks"])
        text.append(section(run, groups))
        title = f"{folder.name}, commit {run['benchmarks'][0]['extra_info']['commit']}"
        draw_ratios(groups, title, DOCS / "benchmarks" / f"{folder.name}-ratios.png")
        draw_curves(groups, title, DOCS / "benchmarks" / f"{folder.name}-curves.png")
    (DOCS / "benchmarks.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
