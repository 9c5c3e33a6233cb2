"""`reg4rec info`: versions, devices and backends of this machine, or the state of a run or recommender."""

import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

import reg4rec
from reg4rec import ops
from reg4rec.checkpoints import Progress, newest_progress, read_settings, run_state
from reg4rec.cli.output import show
from reg4rec.errors import InputError
from reg4rec.precision.fp8_counts import Fp8Counts
from reg4rec.precision.ladq import LayerReport, fp8_report, precision_report
from reg4rec.precision.plot import draw_formats
from reg4rec.recommend import Recommender
from reg4rec.tokenizer import Tokenizer

__all__ = ["Info"]


@dataclass(frozen=True)
class Info:
    """Versions, devices, and which backends can be used, or why not; or the state of a folder: `reg4rec info RUN`."""

    run_folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = None
    """run folder: shows progress, best epoch, a tokenizer's health, LADQ's number formats and fp8's losses; or
    recommender folder: shows its origin and metrics, its items, its retriever and their memory"""
    plot: Path | None = None
    """with RUN: PNG file for a plot of LADQ's formats over the steps"""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        if self.run_folder is not None:
            self._run(self.run_folder)
            return
        if self.plot is not None:
            raise InputError("plot needs a run; give its folder: reg4rec info RUN --plot FILE")
        packages = {name: _version(name) for name in ("torch", "triton", "cupy", "numpy", "pyarrow", "polars")}
        facts: dict[str, Any] = {
            "reg4rec": reg4rec.__version__,
            "python": f"{platform.python_version()} on {platform.machine()}",
            **packages,
            "device": _device(),
            "threads": f"{torch.get_num_threads()} CPU threads",
            **ops.status(),
        }
        facts["ops"] = {name: facts["ops"][name] for name in ops.__all__ if name in facts["ops"]}
        show(_text(facts), facts, self.json)

    def _run(self, folder: Path) -> None:
        if (folder / "recommender.json").exists():
            about = _recommender(Recommender.from_pretrained(folder, device="cpu"))
            show("\n".join(f"{name:11} {value}" for name, value in about.items()), about, self.json)
            return
        settings, progress = read_settings(folder), newest_progress(folder)
        stage = settings.get("stage", "tokenizer")
        facts: dict[str, Any] = {"stage": stage, "seed": settings["seed"], "state": run_state(folder)}
        if progress is not None:
            facts |= _progress(settings, progress)
        text = "\n".join(f"{name:8} {_line(value)}" for name, value in facts.items())
        if stage == "tokenizer" and (folder / "tokenizer").exists():
            tokenizer = Tokenizer.from_pretrained(folder / "tokenizer")
            facts |= {"kind": tokenizer.config.kind, "health": asdict(tokenizer.health)}
            text += f"\n\n{tokenizer.config.kind}: {tokenizer.describe()}"
        if progress is not None and progress.controller:
            if settings["precision"] == "ladq":
                layers = precision_report(folder)
                facts["layers"] = [asdict(layer) for layer in layers]
                text += "\n\n" + _precision_table(layers)
            fp8 = fp8_report(folder)
            facts["fp8"] = {name: counts._asdict() for name, counts in fp8.items()}
            text += "\n\n" + _fp8_table(fp8)
        if self.plot is not None:
            problem = draw_formats(folder, self.plot)
            text += f"\n{problem or self.plot}"
        show(text, facts, self.json)


def _recommender(recommender: Recommender) -> dict[str, Any]:
    """A recommender's items, its retriever and the memory it takes, by name."""
    asked, found = recommender.config.retriever, recommender.retriever
    facts: dict[str, Any] = recommender.facts | {
        "items": f"{len(recommender.items):,}, {int(recommender.live.removed_I.sum()):,} of them removed",
        "retriever": found if asked == found else f"{found} (chosen by the setting {asked})",
    }
    if found == "exact":
        vectors = recommender.scan.vectors
        own, copied = vectors.rows_ID.nbytes / 2**20, vectors.copy_bytes / 2**20
        facts["vectors"] = f"{own:.1f} MiB in float32, and an 8-bit copy of {copied:.1f} MiB for scanning"
    else:
        facts["index"] = f"{sum(part.nbytes for part in recommender.index) / 2**20:.1f} MiB of token lists"
    return facts


def _progress(settings: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The progress of a training run and its best epoch, by name."""
    best = progress.best_epoch
    return {
        "epochs": f"{progress.epoch} of {settings['loop']['epochs']}",
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "best": {"epoch": best + 1, **progress.epochs[best]} if best >= 0 else {},
    }


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {number:.4g}" for name, number in value.items()) or "none yet"
    return str(value)


def _precision_table(layers: list[LayerReport]) -> str:
    """A table of layers: expected harm (times 1e12) and milliseconds of each number format, and the chosen one."""
    columns = f"{'bf16 harm':>10} {'fp8 harm':>10} {'fp32 ms':>8} {'bf16 ms':>8} {'fp8 ms':>8}"
    lines = [f"{'layer':22} {columns}  format  since step"]
    for row in layers:
        harm = " ".join(f"{1e12 * row.sensitivity[name]:10.3g}" for name in ("bf16", "fp8"))
        times = " ".join(f"{1e3 * row.seconds.get(name, float('nan')):8.3f}" for name in ("fp32", "bf16", "fp8"))
        lines.append(f"{row.layer:22} {harm} {times}  {row.format:6}  {row.changes[-1][0]}")
    return "\n".join(lines)


def _fp8_table(layers: dict[str, Fp8Counts]) -> str:
    """A table of layers: fractions of values that fp8 rounded to zero at the last sample."""
    head = "made zero by fp8"
    lines = [f"{head:22} {'inputs':>8} {'weight':>8} {'gradients':>9}  NaN or inf"] if layers else []
    for name, row in layers.items():
        lines.append(f"{name:22} {row.inputs:8.2%} {row.weight:8.2%} {row.grads:9.2%}  {row.not_finite}")
    return "\n".join(lines) or "no layer was in fp8 when it was sampled"


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{name:9} {value}" for name, value in facts.items() if not isinstance(value, dict)]
    lines += ["", "backends, in order of preference"]
    lines += [f"  {name:8} {state}" for name, state in facts["backends"].items()]
    lines += ["", "ops and their backends"]
    lines += [f"  {name:20} {', '.join(backends)}" for name, backends in facts["ops"].items()]
    if forced := facts["forced"]["backend"]:
        lines += ["", f"REG4REC_BACKEND forces {forced}"]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU (no CUDA device)"
