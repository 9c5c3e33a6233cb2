"""The settings of studies: flags that set them, and values that make no sense."""

from pathlib import Path
from typing import Any

import pytest

from reg4rec.baselines import SASRecConfig
from reg4rec.cli import main
from reg4rec.errors import InputError
from reg4rec.experiments import (
    ColdStartConfig,
    CompareConfig,
    CorpConfig,
    Finding,
    RetrieverConfig,
    SamplingConfig,
    VariantConfig,
    recipe_of_studies,
)
from reg4rec.settings import override
from reg4rec.tokenizer import Tokenizer

TINY: dict[str, Any] = {"pretrain": {"size": "tiny"}}
PAPER = recipe_of_studies("paper")
COMPARED = CompareConfig(("tiger",), seeds=(1, 2), sasrec=SASRecConfig(dim=16))


def tiny(config: CompareConfig) -> CompareConfig:
    generative = {name: override(getattr(config, name), {"size": "tiny"}) for name in ("tiger", "paper", "reg4rec")}
    return override(config, generative)


@pytest.mark.parametrize(
    ("function", "command", "settings"),
    [
        ("compare", "compare --methods tiger --seeds 1 2 --sasrec.dim 16 --size tiny", tiny(COMPARED)),
        (
            "cold_start",
            "study cold-start --items 0.2 --newest 1 --reg4rec.pretrain.size tiny",
            ColdStartConfig(0.2, newest=(1,), reg4rec=ColdStartConfig().reg4rec.change(**TINY)),
        ),
        (
            "corp",
            "study corp --model m --thetas 0.05 --num-steps 2 --clock processor",
            CorpConfig((0.05,), 2, clock="processor"),
        ),
        ("retrievers", "study retrievers --models m n --max-users 20", RetrieverConfig(max_users=20)),
        ("sampling", "study sampling --tokens t --every 1 --periods 1 4", SamplingConfig(1, (1, 4))),
        ("study_variants", "study rewards --rows all --recipe paper", VariantConfig(("all",), recipe=PAPER)),
        (
            "study_variants",
            "study rewards --recipe paper --recipe.pretrain.size tiny --seeds 0 1",
            VariantConfig(seeds=(0, 1), recipe=PAPER.change(**TINY)),
        ),
    ],
)
def test_flags_become_settings_and_the_table_is_shown(
    function: str, command: str, settings: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []

    def found(*arguments: Any, out: Path, device: str = "") -> Finding[Any]:
        given.extend(arguments)
        return Finding("tea", ("reg4rec-tea", 1), "shop", "the best leaves", [], [], "Tasted.", {}, {})

    monkeypatch.setattr("reg4rec.cli.study.load_dataset", str)
    monkeypatch.setattr("reg4rec.cli.study.trained_on", lambda model, data, device: (model, data))
    monkeypatch.setattr(Tokenizer, "from_pretrained", str)
    monkeypatch.setattr(f"reg4rec.cli.study.{function}", found)
    main([*command.split(), "--data", "shop", "--out", "there"])
    assert given[-1] == settings
    assert "# shop: the best leaves" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "wrong", "said"),
    [
        (CompareConfig, {"methods": ()}, "methods are one or more"),
        (CompareConfig, {"methods": ("sasrec", "sasrec")}, "each once"),
        (CompareConfig, {"methods": ("tea leaves",)}, "found .'tea leaves'"),
        (CompareConfig, {"protocols": ("loose",)}, "protocols are one or more"),
        (CompareConfig, {"seeds": ()}, "seeds are one or more"),
        (CompareConfig, {"seeds": (1, 1)}, "each once"),
        (CompareConfig, {"tries": 0}, "tries is 0"),
        (CompareConfig, {"space": "wide"}, "one of sparse, dense"),
        (CompareConfig, {"first_seed_only": ("tea leaves",)}, "names of methods"),
        (CompareConfig, {"sasrec": SASRecConfig(part="train+validation")}, "the protocol final"),
        (CompareConfig, {"methods": ("reg4rec-aligned",), "protocols": ("final",)}, "reg4rec-aligned has no protocol"),
        (ColdStartConfig, {"items": 0.0}, "items is 0.0; it must be above 0 and below 1"),
        (ColdStartConfig, {"users": 1.0}, "users is 1.0; it must be above 0 and below 1"),
        (ColdStartConfig, {"newest": (0,)}, "lengths from 1 up"),
        (ColdStartConfig, {"seed": -1}, "seed is -1"),
        (ColdStartConfig, {"sasrec": SASRecConfig(part="train+validation")}, "leave part unchanged"),
        (CorpConfig, {"thetas": ()}, "thetas is"),
        (CorpConfig, {"thetas": (0.1, 0.1)}, "distinct, from 0 up"),
        (CorpConfig, {"thetas": (-0.1,)}, "distinct, from 0 up"),
        (CorpConfig, {"num_steps": 0}, "num_steps is 0"),
        (CorpConfig, {"max_users": 0}, "max_users is 0"),
        (CorpConfig, {"timed_users": 0}, "timed_users is 0"),
        (CorpConfig, {"repeats": 0}, "repeats is 0"),
        (CorpConfig, {"clock": "sun"}, "clock is 'sun'"),
        (CorpConfig, {"seed": -1}, "seed is -1"),
        (RetrieverConfig, {"thetas": (-1.0,)}, "thetas is"),
        (SamplingConfig, {"periods": (25,)}, "multiples of every, 10"),
        (VariantConfig, {"seeds": (1, 1)}, "seeds is"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: Any, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        config(**wrong)
