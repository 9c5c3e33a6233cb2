"""The stages as commands, which read folders and write a folder."""

import warnings
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from reg4rec import distributed
from reg4rec.alignment import AlignConfig, align
from reg4rec.batch.cluster import recommend_on_cluster
from reg4rec.batch.job import JobOptions, PartFormat, recommend_to_folder
from reg4rec.cli.output import show
from reg4rec.data import Dataset, load_dataset
from reg4rec.data.hints import matrix_hints
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, Ranker, evaluate
from reg4rec.recommend import DType, Recommender
from reg4rec.run import Run
from reg4rec.search import RetrieverName
from reg4rec.storage import read_json
from reg4rec.tokenizer import Tokenizer, TokenizerConfig, fit_tokenizer
from reg4rec.train import PretrainConfig, fit_recommender

__all__ = ["Align", "Evaluate", "Pretrain", "Recommend", "Tokenize", "trained_on"]


def _refuse_to_remove(role: str, given: Path, out: Path, resume: bool) -> None:
    """InputError if a run that starts over would remove its own input."""
    if not resume and given.resolve().is_relative_to(out.resolve()):
        lost = f"{role} is {given}, which is in --out and would be removed by starting over"
        raise InputError(f"{lost}; choose another folder for --out")


@dataclass(frozen=True)
class Tokenize:
    """Give every item one token from each of M codebooks: `reg4rec tokenize --data data/mine --out runs/tokens`."""

    data: str
    """dataset folder, or the name of a public dataset"""
    out: Path
    """run folder; the same command resumes a killed run; the result is in OUT/tokenizer"""
    config: Annotated[TokenizerConfig, tyro.conf.arg(name="")] = field(default_factory=TokenizerConfig)
    resume: bool = True
    """resume from the last checkpoint in the run folder, which must have the same settings; --no-resume starts over"""
    seed: int = 0
    """seed of the views, the weights, k-means and the order of batches"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        run = Run(self.out, self.seed, self.device, self.resume)
        data = load_dataset(self.data)
        tokenizer = fit_tokenizer(data, self.config, run)
        unused = matrix_hints([name for name in data.vectors if name not in self.config.views.matrices])
        text = "\n".join([tokenizer.describe(), *unused, f"tokenizer: {self.out / 'tokenizer'}"])
        show(text, {"tokenizer": self.out / "tokenizer", **asdict(tokenizer.health)}, self.json)


@dataclass(frozen=True)
class Pretrain:
    """Train the encoder-decoder: `reg4rec pretrain --data data/mine --tokens runs/tokens/tokenizer --out runs/mine`."""

    data: str
    """dataset folder, or the name of a public dataset"""
    tokens: Path
    """tokenizer folder fitted on that dataset"""
    out: Path
    """run folder; the same command resumes a killed run; the result is in OUT/recommender"""
    config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(default_factory=PretrainConfig)
    resume: bool = True
    """resume from the last checkpoint in the run folder, which must have the same settings; --no-resume starts over"""
    seed: int = 0
    """seed of the weights, the batches, the orders and dropout"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        _refuse_to_remove("tokens", self.tokens, self.out, self.resume)
        run = Run(self.out, self.seed, self.device, self.resume)
        data, tokenizer = load_dataset(self.data), Tokenizer.from_pretrained(self.tokens)
        recommender = fit_recommender(data, tokenizer, self.config, run)
        search = asdict(recommender.config)
        steps = "all tokens" if recommender.config.num_steps is None else f"{recommender.config.num_steps} tokens"
        theta = recommender.config.prune_threshold
        corp = "without CORP" if theta is None else f"CORP's theta {theta:g}"
        text = f"ranks by {recommender.retriever}; the path search decodes {steps}, {corp} (chosen on validation)"
        text += f"\nrecommender: {self.out / 'recommender'}"
        show(text, {"recommender": self.out / "recommender", "search": search}, self.json)


@dataclass(frozen=True)
class Align:
    """Post-train by rewards (PARS, MSRA): `reg4rec align --model runs/mine/recommender --data D --out runs/aligned`."""

    model: Path
    """recommender folder"""
    data: str
    """the dataset that it was trained on"""
    out: Path
    """run folder; the same command resumes a killed run; the result is in OUT/recommender"""
    config: Annotated[AlignConfig, tyro.conf.arg(name="")] = field(default_factory=AlignConfig)
    resume: bool = True
    """resume from the last checkpoint in the run folder, which must have the same settings; --no-resume starts over"""
    seed: int = 0
    """seed of the windows of histories, the rollouts and the anchor's batches"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        _refuse_to_remove("model", self.model, self.out, self.resume)
        run = Run(self.out, self.seed, self.device, self.resume)
        recommender, data = trained_on(self.model, self.data, self.device)
        align(recommender, data, self.config, run)
        distributed.barrier()  # the first process has written the record
        record = read_json(self.out / "align.json")
        after = {name: f"{record['before'][name]:.4f} -> {value:.4f}" for name, value in record["after"].items()}
        lines = [f"{name}: {change}" for name, change in after.items()]
        if not record["kept"]:
            lines.append("no epoch was better on validation: the recommender is unchanged")
        lines.append(f"recommender: {self.out / 'recommender'}")
        show("\n".join(lines), {"recommender": self.out / "recommender", **record}, self.json)


@dataclass(frozen=True)
class Evaluate:
    """Recall and NDCG of a recommender and of popularity: `reg4rec evaluate --model RUN/recommender --data D`."""

    model: Path
    """recommender folder"""
    data: str
    """the dataset that it was trained on"""
    out: Path | None = None
    """JSON file for the metrics and the protocol card"""
    split: Literal["validation", "test"] = "test"
    """held-out interactions to use as targets"""
    protocol: Literal["standard", "filtered"] = "standard"
    """standard: rank seen items, count cold targets; filtered: leave out seen items, drop cold targets"""
    max_users: int | None = None
    """size of a random sample of targets to evaluate, by default all"""
    ks: tuple[int, ...] = (5, 10, 20, 50)
    """cut-offs of Recall and NDCG"""
    lists: bool = False
    """also measure the lists: coverage of the catalog, popularity, novelty and diversity"""
    num_beams: int | None = None
    """number of paths kept at every step, instead of the recommender's own"""
    retriever: RetrieverName = "auto"
    """exact: rank all items by their own score; paths: search paths; auto: the recommender's own setting"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        recommender, data = trained_on(self.model, self.data, self.device)
        if self.retriever != "auto":
            recommender = recommender.with_search(retriever=self.retriever)
        if self.num_beams is not None:
            recommender = recommender.with_search(num_beams=self.num_beams)
            if recommender.retriever == "exact":
                raise InputError(f"num_beams is {self.num_beams}, but no paths are searched; add --retriever paths")
        rankers: list[Ranker] = [Popularity.fit(data, recommender.trained_on), recommender]
        report = evaluate(rankers, data, self.split, self.protocol, self.ks, self.max_users, lists=self.lists)
        text, facts = report.table(), report.as_dict()
        if self.out is not None:
            if distributed.is_first():
                report.save(self.out)
            text, facts = f"{text}\nmetrics: {self.out}", {"metrics": self.out, **facts}
        show(text, facts, self.json)


@dataclass(frozen=True)
class Recommend:
    """Recommend for a file or a dataset: `reg4rec recommend --model DIR --input users.parquet --output recs`."""

    model: Path
    """recommender folder"""
    output: Path
    """folder for the parts, rejected rows, manifest and summary; the same command resumes a killed job"""
    input: Path | None = None
    """Parquet (a file, a folder of parts, a pattern) with a column `items` (lists of item ids, oldest first) and
    optionally `user_id`; or clicks, one per row, in any format of `data prepare`, read into memory"""
    data: str | None = None
    """instead of --input: dataset folder or name of a public dataset; recommends to all its users"""
    user: str = "user_id"
    """column of the user ids of clicks"""
    item: str = "item_id"
    """column of the item ids of clicks"""
    time: str | None = "timestamp"
    """column to sort clicks by; None if the rows are oldest first"""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """number of items for each user"""
    keep_seen: bool = False
    """also recommend items of the user's history"""
    candidates: Path | None = None
    """recommend only these items: a .txt with one item id per line, or a table with `item_id` and, for candidates by
    user, `user_id`"""
    exclude: Path | None = None
    """never recommend these items; same formats as --candidates"""
    allow_unknown: bool = False
    """do not fail if more than nine in ten items of the histories are not in the catalog"""
    titles: bool = False
    """also write the titles of the items"""
    format: PartFormat = "parquet"
    """format of the parts; csv has no paths"""
    return_paths: bool = False
    """write a path for every item: its tokens in order of the model's confidence, with categories"""
    retriever: RetrieverName = "auto"
    """exact: rank all items by their own score; paths: search paths; auto: the recommender's own setting"""
    users_in_part: int = 8192
    """number of users per part; memory grows with it"""
    resume: bool = True
    """keep the finished parts of the same job in the output folder"""
    engine: Literal["local", "ray"] = "local"
    """local: this process; ray: actors of a Ray cluster with the same files (extra `ray`)"""
    address: str | None = None
    """address of the Ray cluster; by default the one that Ray finds, else a new one on this machine"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: DType = "auto"
    """auto: bfloat16 on a GPU, float32 on a CPU"""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        if (self.input is None) == (self.data is None):
            raise InputError("recommend needs users from a file or a dataset; give --input or --data, not both")
        users = load_dataset(self.data) if self.data is not None else self.input
        passed = ("k", "resume", "retriever", "allow_unknown", *(f.name for f in fields(JobOptions)))
        options = {name: getattr(self, name) for name in passed if name != "filter_seen"}
        options["filter_seen"] = not self.keep_seen
        summary = self._recommend(users, options)
        show(f"{_described(summary)}\n{self.output}", {"output": self.output, **summary}, self.json)

    def _recommend(self, users: Any, options: dict[str, Any]) -> dict[str, Any]:
        if self.engine == "ray":
            options |= {"device": self.device, "dtype": self.dtype, "address": self.address}
            return recommend_on_cluster(self.model, users, self.output, **options)
        if self.address is not None:
            raise InputError(f"address {self.address!r} is for a Ray cluster; add --engine ray")
        recommender = Recommender.from_pretrained(self.model, self.device, self.dtype)
        return recommend_to_folder(recommender, users, self.output, **options)


def _described(summary: dict[str, Any]) -> str:
    found = max(1, summary["recommendations"])
    sources = ", ".join(f"{name} {count / found:.1%}" for name, count in summary["sources"].items())
    batches = ", ".join(f"{name} {value:.0f} ms" for name, value in summary["batch_ms"].items())
    how = f"retriever {summary['retriever']}; sources {sources or 'none'}"
    if summary["retriever"] == "paths":
        how += f"; {summary['paths_pruned']:,} paths pruned, {summary['fallbacks']:,} fallbacks"
    return (
        f"{summary['users']:,} users, {summary['recommendations']:,} recommendations, {summary['rejected']:,} rows "
        f"rejected, {summary['unknown_items']:,} unknown history items\n"
        f"{summary['users_per_second']:,.0f} users/s; batches {batches or 'none'}; "
        f"{summary['parts_resumed']} of {summary['parts']} parts were finished before\n{how}"
    )


def trained_on(model: Path, name: str, device: str) -> tuple[Recommender, Dataset]:
    """The recommender in a folder and the dataset called `name`; InputError if their items differ."""
    recommender, data = Recommender.from_pretrained(model, device), load_dataset(name)
    if not recommender.items.ids.equals(data.items.ids):
        raise InputError(f"{model} was not trained on {name}: their items are not the same")
    if recommender.tokenizer.card.get("dataset") != data.card["fingerprint"]:
        warnings.warn(
            f"reg4rec: {model} was trained on other interactions or another split than {name}; "
            "its training data may contain the targets",
            stacklevel=2,
        )
    return recommender, data
