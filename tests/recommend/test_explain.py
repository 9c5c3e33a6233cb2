"""Explanations: the items and paths that are recommended, dropped paths checked independently, safe HTML."""

import contextlib
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from reg4rec.cli import main
from reg4rec.data import ItemCatalog, Sequences
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.model import decode_step, encoded_histories
from reg4rec.recommend import Explanation, Recommender, explain
from reg4rec.recommend.explanation import Cause
from reg4rec.search.beam import Living
from tests.artifacts import of_any_items

THETA = 0.02


@pytest.fixture(scope="module")
def strict(recommender: Recommender) -> Recommender:
    return recommender.with_search(num_beams=20, prune_threshold=THETA, num_steps=None)


@pytest.fixture(scope="module")
def history(shop: SyntheticShop) -> list[str]:
    return [f"item{row}" for row in shop.sequences[3]]


@pytest.fixture(scope="module")
def explanation(strict: Recommender, history: list[str]) -> Explanation:
    return explain(strict, history, k=4, user="user3")


def test_items_and_paths_are_those_that_are_recommended(
    explanation: Explanation, strict: Recommender, history: list[str]
) -> None:
    table = strict.recommend([history], k=4, return_paths=True).to_pylist()
    assert [(i.rank, i.item_id, i.score, i.source) for i in explanation.recommended] == [
        (row["rank"], row["item_id"], row["score"], row["source"]) for row in table
    ]
    for item, row in zip(explanation.recommended, table, strict=True):
        assert [(s.token, s.category, s.confidence) for s in item.path] == [
            (step["token"], step["category"], step["confidence"]) for step in row["path"]
        ]
        assert item.title.startswith("facet0value")
    assert explanation.newest[0] == strict.items.table["title"][strict.items.rows(history[-1:])[0]].as_py()
    assert explanation.history_length == len(history)


def test_a_trace_changes_nothing(strict: Recommender, shop: SyntheticShop) -> None:
    histories, trace = shop.part("train"), list[Living]()
    plain = list(strict.search(histories, 5, True))
    traced = list(strict.search(histories, 5, True, trace=trace))
    for a, b in zip(plain, traced, strict=True):
        assert all(torch.equal(x, y) for x, y in zip((*a.ranking, *a.paths), (*b.ranking, *b.paths), strict=True))
    assert len(trace) == 3 * len(plain)


def test_pruned_paths_diverged_and_all_are_shown(
    explanation: Explanation, strict: Recommender, history: list[str]
) -> None:
    rows = Sequences.from_lists([strict.items.rows(history)])
    (results,) = strict.search(rows, 4, True)
    assert len(explanation.pruned) == int(results.paths.pruned_B.sum()) > 0
    assert explanation.fallbacks == int(results.paths.fallbacks_B.sum())
    assert explanation.outranked > 0
    scores = [path.log_probability for path in explanation.pruned]
    assert scores == sorted(scores, reverse=True)
    model, codebook_size = strict.model, strict.model.config.codebook_size
    for path in explanation.pruned:  # decode each of them again, alone
        assert path.divergence > THETA
        tokens = [tuple(map(int, step.token.strip("<t>").split("_"))) for step in path.steps]
        with torch.inference_mode():
            memory, cache, logits = encoded_histories(strict.model, strict.codes_IM, rows), None, []
            for number in range(len(tokens) + 1):
                fed = (
                    None
                    if number == 0
                    else torch.tensor([[tokens[number - 1][0] * codebook_size + tokens[number - 1][1]]])
                )
                state, cache = decode_step(model, memory, fed, number, cache)
                logits.append(model.category_logits(state))
        before, after = (torch.as_tensor(part).double().softmax(-1) for part in logits[-2:])
        middle = ((before + after) / 2).log()
        js = 0.5 * ((before * (before.log() - middle)).sum() + (after * (after.log() - middle)).sum())
        assert path.divergence == pytest.approx(float(js), rel=1e-3)
        names = [strict.items.category_names[int(part.argmax())] for part in (before, after)]
        assert names == [step.category for step in path.steps[-2:]]


def test_without_corp_nothing_was_dropped(recommender: Recommender, history: list[str]) -> None:
    free = explain(recommender.with_search(prune_threshold=None), history)
    assert (free.pruned, free.fallbacks, free.threshold) == ([], 0, None)
    assert "CORP is off" in free.text()


def test_text_names_items_tokens_and_what_was_dropped(explanation: Explanation) -> None:
    text = explanation.text()
    assert text.startswith("user3: ")
    for item in explanation.recommended:
        assert f"{item.rank}. {item.title}" in text
        assert all(step.token in text and step.words[0] in text for step in item.path)
    assert f"more than 0.02 nats: {len(explanation.pruned)}" in text
    assert f"divergence {explanation.pruned[0].divergence:.3f}" in text
    assert json.loads(json.dumps(explanation.as_dict()))["threshold"] == THETA


def scores_of(recommender: Recommender, history: list[str], filter_seen: bool) -> dict[str, float]:
    table = recommender.recommend([history], len(recommender.items), filter_seen).to_pylist()
    return {row["item_id"]: row["score"] for row in table}


@pytest.mark.parametrize("filter_seen", [True, False])
def test_causes_are_the_items_without_which_the_score_is_lower(
    recommender: Recommender, history: list[str], filter_seen: bool
) -> None:
    exact, clicks = recommender.with_search(retriever="exact"), [*history, history[0]]
    whole, read = scores_of(exact, clicks, filter_seen), set(clicks[-exact.model.config.max_history :])
    without = {item: scores_of(exact, [other for other in clicks if other != item], filter_seen) for item in read}
    found = explain(exact, clicks, 20, filter_seen=filter_seen)
    assert any(item.raised_by for item in found.recommended)
    for item in found.recommended:
        effects = {cause: whole[item.item_id] - scores[item.item_id] for cause, scores in without.items()}
        strongest = sorted((effect for effect in effects.values() if effect > 1e-5), reverse=True)[:3]
        assert [cause.effect for cause in item.raised_by] == pytest.approx(strongest, abs=1e-5)
        assert [effects[cause.item_id] for cause in item.raised_by] == pytest.approx(strongest, abs=1e-5)
        if item.raised_by:
            assert item.sentence.startswith(f"Because you chose {item.raised_by[0].title}")
            assert f"   {item.sentence}\n" in found.text()
            assert f"<p>{item.sentence}</p>" in found.html()
    by_paths = explain(recommender.with_search(retriever="paths"), clicks, 20, filter_seen=filter_seen)
    causes = {item.item_id: item.raised_by for item in found.recommended}
    assert all(causes.get(item.item_id, item.raised_by) == item.raised_by for item in by_paths.recommended)
    assert {item.sentence for item in explain(exact, []).recommended} == {"Chosen for you."}


def test_a_second_item_is_named_if_it_matters_half_as_much(explanation: Explanation) -> None:
    tent, stove, lamp = Cause(1, "the tent", 1.0), Cause(2, "the stove", 0.5), Cause(3, "the lamp", 0.4)
    first = explanation.recommended[0]
    said = [replace(first, raised_by=causes).sentence for causes in ([tent], [tent, stove, lamp], [tent, lamp])]
    assert said == [
        "Because you chose the tent.",
        "Because you chose the tent and the stove.",
        "Because you chose the tent.",
    ]


@pytest.mark.parametrize("retriever", ["exact", "paths"])
def test_without_paths_no_words_are_counted(recommender: Recommender, history: list[str], retriever: str) -> None:
    asked = recommender.with_search(retriever=retriever)
    whole = explain(asked, history, 4)
    asked.live = replace(asked.live)  # knows no names of tokens yet
    short = explain(asked, history, 4, paths=False)
    assert "names" not in asked.live.__dict__
    assert short.recommended == [replace(item, path=[], consistent=True) for item in whole.recommended]
    assert short.what_if == whole.what_if
    assert short.recommended[0].sentence in short.html()


@pytest.mark.parametrize("retriever", ["exact", "paths"])
@pytest.mark.parametrize("filter_seen", [True, False])
def test_what_if_is_what_would_be_recommended_without_an_item(
    recommender: Recommender, history: list[str], filter_seen: bool, retriever: str
) -> None:
    asked = recommender.with_search(retriever=retriever)
    titles = dict(zip(asked.items.ids.to_pylist(), asked.items.table["title"].to_pylist(), strict=True))

    def listed(clicks: list[str], left_out: str | None = None) -> list[str]:
        ids = asked.recommend([clicks], 6, filter_seen)["item_id"].to_pylist()
        return [titles[item] for item in ids if item != left_out or not filter_seen][:5]

    found, whole = explain(asked, history, filter_seen=filter_seen), listed(history)
    newest = list(dict.fromkeys(history[::-1]))[:10]
    assert [change.item_id for change in found.what_if] == newest
    assert any(change.leaving for change in found.what_if)
    for change in found.what_if:
        without = listed([item for item in history if item != change.item_id], change.item_id)
        assert change.leaving == [title for title in whole if title not in without]
        assert change.entering == [title for title in without if title not in whole]
        named = f"{'; '.join(change.leaving)} would leave, {'; '.join(change.entering)} would enter"
        assert (f"Without {change.title}: {named}" in found.text()) == bool(change.leaving)


@pytest.mark.parametrize("retriever", ["exact", "paths"])
def test_why_not_names_the_rule_or_the_rank(recommender: Recommender, history: list[str], retriever: str) -> None:
    asked = recommender.with_search(retriever=retriever)
    gone, excluded, *candidates = [item for item in asked.items.ids.to_pylist() if item not in history]
    outside = candidates.pop()
    asked = asked.only([item for item in asked.items.ids.to_pylist() if item != gone])
    ranked = asked.recommend([history], len(candidates), candidates=candidates).to_pylist()
    first, last = ranked[0], ranked[-1]
    questions = [gone, history[0], excluded, outside, first["item_id"], last["item_id"]]
    found = explain(asked, history, 3, exclude=[excluded], candidates=[excluded, *candidates], why_not=questions)
    assert [item.item_id for item in found.recommended] == [row["item_id"] for row in ranked[:3]]
    assert [(other.rank, other.score) for other in found.why_not] == [
        *[(None, None)] * 4,
        (1, pytest.approx(first["score"], abs=1e-6)),
        (len(ranked), pytest.approx(last["score"], abs=1e-6)),
    ]
    ended = f"the score of the last recommended item is {ranked[2]['score']:.3f}"
    assert [other.reason for other in found.why_not] == [
        "It was removed, or `only` left it out.",
        "It is in the history, and seen items are not recommended.",
        "It is excluded.",
        "It is not among the candidates.",
        "It is recommended, at rank 1.",
        f"It ranks {len(ranked)}: its score is {last['score']:.3f}, {ended}.",
    ]
    for other in found.why_not:
        assert f"Why not {other.title}? {other.reason}" in found.text()
        assert f"<h2>Why not {other.title}?</h2>" in found.html()
        assert all(cause.effect > 0 for cause in other.raised_by)
        assert all(cause.effect < 0 for cause in other.lowered_by)
    assert found.why_not[4].raised_by == found.recommended[0].raised_by
    assert any(other.lowered_by for other in found.why_not)


def test_a_word_is_shown_once_and_lists_show_their_length(explanation: Explanation) -> None:
    first = explanation.recommended[0]
    step = replace(first.path[0], words=["tent", "camping"])
    steps = [step, replace(step, words=["camping", "bags"]), replace(step, words=["bags"]), replace(step, words=[])]
    long = replace(explanation, history_length=40, newest=["a", "b"], recommended=[replace(first, path=steps)])
    text = replace(long, pruned=explanation.pruned[:1] * 12).text()
    for words in ("tent, camping (", "> bags (", "> the same words (", "> no typical words ("):
        assert text.count(words) == 1
    assert "newest first: a; b; ... (2 of 40)\n" in text
    assert text.endswith("\n   ... (10 of 12)")
    assert "..." not in replace(long, history_length=2, pruned=[]).text()


class Tags(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_titles_and_runs_none_of_them(strict: Recommender, history: list[str]) -> None:
    titles = ["<script>alert('&')</script>"] * len(strict.items)
    table = strict.items.table
    evil = table.set_column(table.column_names.index("title"), "title", [titles])
    hostile = Recommender(strict.model, strict.tokenizer, ItemCatalog.from_table(evil, 2), device="cpu")
    hostile = hostile.with_search(retriever="paths", num_beams=20, prune_threshold=THETA)
    found = Tags(explain(hostile, history, user="<b>me</b>").html())
    assert "script" not in found.tags
    assert found.text.count("<script>alert('&')</script>") > 5
    assert "<b>me</b>: " in found.text
    assert {"ol", "li", "table"} <= found.tags


def test_an_item_without_title_is_called_by_its_id(strict: Recommender, history: list[str]) -> None:
    columns = {name: strict.items.table[name] for name in ("item_id", "categories")}
    bare = ItemCatalog.from_table(replace(strict.items, table=strict.items.table.select(list(columns))).table, 2)
    found = explain(Recommender(strict.model, strict.tokenizer, bare, device="cpu"), history)
    assert [item.title for item in found.recommended] == [item.item_id for item in found.recommended]


def test_items_that_do_not_exist_are_named(strict: Recommender) -> None:
    with pytest.raises(InputError, match="items names 1 items that are not in the catalog, for example 'item999'"):
        explain(strict, ["item1", "item999"])
    empty = explain(strict, [], k=3)
    assert (empty.newest, len(empty.recommended)) == ([], 3)


def test_the_command_explains_a_user_or_a_history(
    strict: Recommender, shop: SyntheticShop, history: list[str], tmp_path: Path
) -> None:
    strict.save_pretrained(tmp_path / "model")
    shop.save(tmp_path / "data")
    model = ["explain", "--model", str(tmp_path / "model"), "-k", "4", "--device", "cpu"]
    of_user = ["--data", str(tmp_path / "data"), "--user", "user3"]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        main([*model, *of_user, "--html", str(tmp_path / "page.html")])
    expected = explain(strict, history, k=4, user="user user3")
    assert shown.getvalue() == f"{expected.text()}\n\n{tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_text() == expected.html()
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        main([*model, "--items", *history, "--json", "--theta", "0.5"])
    assert json.loads(shown.getvalue())["threshold"] == 0.5
    filters = ["--exclude", "item1", "--candidates", "item1", "item2", "--why-not", "item1"]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        main([*model, "--items", "item3", "--json", *filters])
    answer = json.loads(shown.getvalue())
    assert [item["item_id"] for item in answer["recommended"]] == ["item2"]
    assert [other["reason"] for other in answer["why_not"]] == ["It is excluded."]
    assert answer["recommended"][0]["sentence"]
    for wrong, reason in (
        ([], "give either --data and --user, or --items"),
        ([*of_user, "--items", "item1"], "give either --data and --user, or --items"),
        (["--user", "user3"], "give either --data and --user, or --items"),
        ([*of_user[:3], "nobody"], "user 'nobody' is not in synthetic-shop; its users are user0, user1, user2"),
        (["--items", "nothing"], "--items names 1 items that are not in the catalog"),
        (["--items", "item1", "--why-not", "nothing"], "--why-not names 1 items that are not in the catalog"),
        (["--items", "item1", "--theta=-1"], "--theta is -1.0; it must be 0 nats or more"),
    ):
        with contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit, match="2"):
            main([*model, *wrong])
        assert reason in said.getvalue()


def test_the_word_that_is_no_id_is_named(strict: Recommender, tmp_path: Path) -> None:
    table = strict.items.table
    numbered = table.set_column(table.column_names.index("item_id"), "item_id", [list(range(len(table)))])
    catalog = ItemCatalog.from_table(numbered, 2)
    Recommender(of_any_items(strict.model), strict.tokenizer, catalog, device="cpu").save_pretrained(tmp_path)
    words = ["explain", "--model", str(tmp_path), "--device", "cpu", "--items", "1", "seven", "3"]
    with contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit, match="2"):
        main(words)
    assert said.getvalue() == "reg4rec: --items has 'seven' where ids of type int64 were expected\n"
