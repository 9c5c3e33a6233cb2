"""The questions that are answered by fitting one recipe with changes, and the changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reg4rec.alignment.rewards import REWARDS

__all__ = ["QUESTIONS", "Question", "Variant"]


@dataclass(frozen=True)
class Variant:
    """One row of a study: what it changes, stage by stage, of the settings that all rows share.

    The changes are names and values as `reg4rec.settings.override` takes them. `align` None does not align;
    `search` changes the search that validation chose. `mislabeled` is the part of the items that have another item's
    category while training.
    """

    name: str
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    pretrain: Mapping[str, Any] = field(default_factory=dict)
    align: Mapping[str, Any] | None = None
    search: Mapping[str, Any] = field(default_factory=dict)
    mislabeled: float = 0.0

    @property
    def changes(self) -> dict[str, Any]:
        """What it changes, by stage."""
        changes = {name: value for name, value in vars(self).items() if name != "name"}
        return {name: value for name, value in changes.items() if value or (name == "align" and value is not None)}


@dataclass(frozen=True)
class Question:
    """A study: every row is compared with the first. `shown` are values of a row, beside the metrics, that matter."""

    title: str
    variants: tuple[Variant, ...]
    shown: tuple[str, ...] = ()


def _rewarded(name: str, *rewards: str, **changes: Any) -> Variant:
    """Aligned by these rewards alone, without the reward of the found items' order."""
    return Variant(
        name, align={reward: float(reward in rewards) for reward in REWARDS} | {"order_weight": 0.0, **changes}
    )


def _without(reward: str) -> Variant:
    return _rewarded(f"all but {reward.replace('_', ' ')}", *(name for name in REWARDS if name != reward))


def _labels(name: str, mislabeled: float = 0.0, **tokenizer: Any) -> tuple[Variant, ...]:
    changes: dict[str, Any] = {"mislabeled": mislabeled, "tokenizer": tokenizer}
    pruned = {"prune_threshold": 0.06}
    rewarded = _rewarded(f"{name}, category hit rewarded, CORP 0.06", "category_hit")
    return (
        Variant(name, search={"prune_threshold": None}, **changes),
        Variant(f"{name}, CORP 0.06", search=pruned, **changes),
        replace(rewarded, search=pruned, **changes),
    )


RQ_VAE = {"kind": "rq-vae", "codeword_dim": 32, "hidden_dim": 512}
"""With the sizes that TIGER gives it, layers of 512, 256 and 128: MPQ's would squeeze its one latent."""
AS_IT_IS = "the recipe unchanged"
TOKENS_ALONE = {"score_items": False, "token_weight": 1.0}
"""A model that ranks by its paths alone, as the paper's does."""

QUESTIONS: dict[str, Question] = {
    "tokenizers": Question(
        "MPQ against OPQ and other tokenizers, orthogonality forms, numbers and sizes of codebooks",
        (
            Variant(AS_IT_IS),
            *(Variant(kind, tokenizer={"kind": kind}) for kind in ("product-k-means", "residual-k-means")),
            Variant("rq-vae of TIGER's sizes", tokenizer=RQ_VAE),
            Variant(
                "rq-vae of TIGER's sizes, decoded in its order",
                tokenizer=RQ_VAE,
                pretrain={"order": "fixed", "targets": "next"},
            ),
            *(Variant(form, tokenizer={"orthogonality": form}) for form in ("decorrelation", "latent", "codeword")),
            Variant("no orthogonality", tokenizer={"orthogonality_weight": 0.0}),
            Variant("batches of 1024, E 64", tokenizer={"batch_size": 1024, "codeword_dim": 64}),
            Variant("collisions left", tokenizer={"separate_collisions": False}),
            *(Variant(f"M {m}", tokenizer={"num_codebooks": m}) for m in (2, 3, 6, 8)),
            *(Variant(f"K {k}", tokenizer={"codebook_size": k}) for k in (64, 128, 512, 1024)),
        ),
        shown=("collisions", "similarity", "path_recall", "decoded"),
    ),
    "rewards": Question(
        "What each reward of PARS does, alone, added and left out",
        (
            Variant("not aligned"),
            _rewarded("step hit alone", "step_hit"),
            _rewarded("category hit alone", "category_hit"),
            _rewarded("global path alone", "global_path"),
            _rewarded("step hit + category hit", "step_hit", "category_hit"),
            _rewarded("step hit + step consistency", "step_hit", "step_consistency"),
            _rewarded("step hit + global path", "step_hit", "global_path"),
            *(_without(reward) for reward in REWARDS),
            _rewarded("all", *REWARDS),
            Variant("all, and the order of the found items", align={}),
            Variant("these, without the pre-training loss beside", align={"anchor_weight": 0.0}),
        ),
        shown=("path_recall", "category_accuracy"),
    ),
    "futures": Question(
        "How far MSRA looks ahead, and how fast that counts less",
        (
            Variant("not aligned"),
            *(Variant(f"window {h}, decay 0.8", align={"window": h}) for h in (1, 2, 3, 4, 5)),
            *(Variant(f"window 3, decay {w}", align={"decay": w}) for w in (0.6, 1.0)),
        ),
        shown=("path_recall",),
    ),
    "categories": Question(
        "What the category predictor's accuracy does to CORP and to its reward",
        (
            *_labels("true labels"),
            *_labels("true labels, none in the tokens' texts", text_columns=("title", "brand")),
            *_labels("30 % wrong labels", 0.3),
            *_labels("90 % wrong labels", 0.9),
        ),
        shown=("category_accuracy", "paths_pruned", "path_recall"),
    ),
    "orders": Question(
        "CRSS against fixed and random order, in training and search",
        (
            Variant("default: trained random, searched CRSS"),
            Variant("all tokens decoded", search={"num_steps": None}),
            Variant("all tokens decoded, searched fixed", search={"num_steps": None, "order": "fixed"}),
            Variant("trained in CRSS order", pretrain={"order": "crss"}),
            Variant("trained in fixed order, searched so", pretrain={"order": "fixed"}),
            Variant("tokens alone, trained random", pretrain=TOKENS_ALONE),
            Variant("tokens alone, trained random, searched fixed", pretrain=TOKENS_ALONE, search={"order": "fixed"}),
            Variant("tokens alone, trained in CRSS order", pretrain={**TOKENS_ALONE, "order": "crss"}),
            Variant("tokens alone, trained in fixed order", pretrain={**TOKENS_ALONE, "order": "fixed"}),
        ),
        shown=("path_recall", "decoded"),
    ),
    "layouts": Question(
        "A vector an item or its tokens, as the history is read",
        (
            Variant("pooled", pretrain={"history_layout": "pooled"}),
            Variant("flat", pretrain={"history_layout": "flat"}),
            Variant("pooled, 20 items", pretrain={"history_layout": "pooled", "max_history": 20}),
            Variant("flat, 20 items", pretrain={"history_layout": "flat", "max_history": 20}),
        ),
        shown=("train_seconds", "users_per_second"),
    ),
    "sizes": Question(
        "Quality and cost over model size, beams and numbers of codebooks",
        (
            Variant(AS_IT_IS),
            Variant("tiny", pretrain={"size": "tiny"}),
            Variant("base", pretrain={"size": "base"}),
            *(Variant(f"{n} beams", search={"num_beams": n}) for n in (100, 200)),
            *(Variant(f"M {m}", tokenizer={"num_codebooks": m}) for m in (2, 3, 6, 8)),
        ),
        shown=("path_recall", "parameters", "train_seconds", "users_per_second"),
    ),
}
