"""What a user is promised of decontamination: copies are caught, templates are not, and what matched is recorded."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flywheel.curate import Aids, make_filters, run_filters
from flywheel.curate.decontaminate import Decontaminate
from flywheel.curate.ngrams import words
from flywheel.errors import DataError, RecipeError

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k_train.jsonl.gz"
STORY = (
    "Martha walks to the harbour every morning, where she sells seven baskets of herring for four coins each and "
    "three baskets of eels for nine coins each. Her brother takes a fifth of what she earns. How much does she keep?"
)


def row(i: int, question: str, answer: str = "4") -> dict[str, Any]:
    return {
        "sample_id": f"s{i:04d}",
        "problem_id": f"p{i}",
        "prompt": [{"role": "user", "content": question}],
        "messages": [{"role": "assistant", "content": answer}],
    }


def found(questions: list[str], evaluation: list[str], tmp_path: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """Dropped rows by number, with reason and details."""
    file = tmp_path / "set.jsonl"
    file.write_text("".join(json.dumps({"id": f"e{i}", "question": text}) + "\n" for i, text in enumerate(evaluation)))
    filters = make_filters([{"decontaminate": {"against": ["set.jsonl"], **options}}], verified=False)
    _, dropped, _ = run_filters(filters, [row(i, text) for i, text in enumerate(questions)], Aids(base=tmp_path))
    return {d["sample_id"]: {"reason": d["reason"], **json.loads(d["detail"])} for d in dropped}


def test_a_copy_is_caught_whatever_its_case_and_punctuation_and_what_matched_is_told(tmp_path: Path) -> None:
    rest = "Please answer: " + STORY.upper().replace(",", " --") + " Thank you."
    hits = found(
        [STORY, rest, "Something else entirely that is long enough to have a few n-grams of its own."],
        [STORY],
        tmp_path,
    )
    assert set(hits) == {"s0000", "s0001"}
    assert hits["s0001"]["reason"] == "13-gram in common with set.jsonl"
    assert (hits["s0001"]["item"], hits["s0001"]["set"]) == ("e0", "set.jsonl")
    assert len(words(pa.array([hits["s0001"]["matched"]])).hashes) == 13


def test_part_of_a_problem_is_enough_if_it_is_long_enough(tmp_path: Path) -> None:
    part = " ".join(STORY.split()[5:18])
    assert set(found([f"Well, {part} and so on.", " ".join(STORY.split()[5:17])], [STORY], tmp_path)) == {"s0000"}


def test_a_copy_with_every_twelfth_word_changed_is_caught_by_coverage(tmp_path: Path) -> None:
    changed = " ".join("fish" if i % 12 == 11 else word for i, word in enumerate(STORY.split()))
    assert found([changed], [STORY], tmp_path) == {}
    (hit,) = found([changed], [STORY], tmp_path, coverage=0.3).values()
    assert hit["reason"] == "most 8-grams in common with set.jsonl"


def test_the_answer_is_searched_too(tmp_path: Path) -> None:
    filters = make_filters([{"decontaminate": {"against": [{"file": "e.txt"}]}}], verified=False)
    (tmp_path / "e.txt").write_text(STORY + "\n")
    rows = [row(0, "Write a problem.", f"Here is one. {STORY}")]
    _, (drop,), _ = run_filters(filters, rows, Aids(base=tmp_path))
    assert json.loads(drop["detail"])["item"] == "#0"


def test_what_all_problems_share_is_not_evidence(tmp_path: Path) -> None:
    intro = "Solve the following problem step by step and write the final number after four hashes at the very end. "
    evaluation = [intro + f"{story} Who is it that number {i} speaks of?" for i, story in enumerate(TALES)]
    others = [intro + "How many legs do nine spiders have?", intro]
    assert found(others, evaluation, tmp_path) == {}
    assert set(found([*others, intro + evaluation[2][len(intro) :]], evaluation, tmp_path)) == {"s0002"}


def test_words_that_very_many_problems_share_are_not_evidence_but_copies_are(tmp_path: Path) -> None:
    stock = "as an experienced teacher of mathematics at a small school in the country, you are asked the following: "
    evaluation = [stock + STORY, *TALES]
    others = [f"{stock}{name} has some apples, how many?" for name in ("Ann", "Bob", "Cid", "Dee", "Eve", "Fay")]
    assert set(found([*others, STORY], evaluation, tmp_path)) == {
        f"s{i:04d}" for i in range(7)
    }  # a few: no way to tell
    many = others + [f"{stock}What is {i} times {i}?" for i in range(20)]
    assert set(found([*many, *[STORY] * 30], evaluation, tmp_path)) == {f"s{i:04d}" for i in range(26, 56)}


TALES = [
    "A baker finds eleven loaves under the stairs and gives away all but two of them to the miller's hungry children.",
    "Seventeen geese cross a frozen pond, and on the way back five of them have grown tired and must be carried home.",
    "The lighthouse keeper counts ships for nine nights and sees twice as many on each night as on the night before.",
    "Old Tom paints a third of the fence on Monday, half of what is left on Tuesday, and the last ten yards on Friday.",
]


def test_templates_are_caught_only_whole(tmp_path: Path) -> None:
    def ask(numbers: list[int], target: int) -> str:
        return (
            f"Use each of the numbers {', '.join(map(str, numbers))} exactly once, with plus, minus and times, "
            f"to write an expression whose value is {target}."
        )

    draw = random.Random(0)
    problems = list({ask([draw.randint(1, 20) for _ in range(3)], draw.randint(1, 60)) for _ in range(2000)})
    evaluation, training = problems[:300], problems[300:]
    assert found(training, evaluation, tmp_path) == {}
    assert len(found(evaluation[:50], evaluation, tmp_path)) == 50
    short = [f"{a} + {b} =" for a in range(10) for b in range(10)]
    assert found(short[50:], short[:50], tmp_path) == {}
    assert {hit["reason"] for hit in found(short, short[:50], tmp_path).values()} == {
        "same question in common with set.jsonl"
    }
    assert found(["Play a game."] * 5, ["Play a game."] * 20, tmp_path) == {}


def test_problems_without_spaces_between_words_are_compared_too(tmp_path: Path) -> None:
    text = "小明每天早上去市场卖七篮鱼，每篮四元，又卖三篮虾，每篮九元。他一共赚了多少钱？"
    assert set(found([f"请回答：{text}", "今天天气很好，我们去公园散步，然后回家吃饭。"], [text], tmp_path)) == {
        "s0000"
    }


def test_the_run_s_own_heldout_problems_are_the_default(tmp_path: Path) -> None:
    file = tmp_path / "problems.parquet"
    prompt = [{"role": "system", "content": "x"}, {"role": "user", "content": STORY}]
    pq.write_table(pa.Table.from_pylist([{"problem_id": "h", "prompt": prompt}]), file)
    names = [name for name, _ in make_filters([{"finished": {}}], heldout=True)]
    assert names == ["verified", "decontaminate", "finished"]
    assert [n for n, _ in make_filters([{"finished": {}}, {"decontaminate": {}}], heldout=True)][1:] == [
        "finished",
        "decontaminate",
    ]
    for options, left in (({}, 1), ({"heldout": False}, 2)):
        filters = make_filters([{"decontaminate": options}], verified=False)
        kept, _, funnel = run_filters(filters, [row(0, STORY), row(1, "other")], Aids(heldout=file))
        assert len(kept) == left
        assert funnel[0]["report"]["sets"] == ({} if options else {"heldout": 1})


def test_a_paraphrase_is_caught_by_its_embedding(tmp_path: Path) -> None:
    asked = "A farmer has 12 cows and buys 7 more. How many cows does the farmer have now?"
    again = "If 7 cows are bought by a farmer who already owns 12, what is the total number of cows he has?"
    other = "Translate the first paragraph of this letter into French, please."
    assert found([again, other], [asked], tmp_path) == {}
    (hit,) = found([again, other], [asked], tmp_path, similarity=0.7).values()
    assert hit["reason"] == "paraphrase of set.jsonl"
    assert (hit["item"], hit["matched"]) == ("e0", asked)
    assert 0.7 <= hit["cosine"] < 1


def test_questions_alone_can_be_checked_for_pairs(tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_text(STORY + "\n")
    check = Decontaminate(against=["e.txt"])
    assert check.holds([STORY, "2+2?", "Well: " + STORY], Aids(base=tmp_path)).tolist() == [True, False, True]
    assert check.holds([], Aids(base=tmp_path)).tolist() == []


def test_sets_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "x"}\n')
    (tmp_path / "b.jsonl").write_text("{")
    (tmp_path / "c.jsonl").write_text("")
    for against, message in (
        ("no.jsonl", "there is no evaluation set"),
        ("a.jsonl", "no column question"),
        ("b.jsonl", "evaluation set .*b.jsonl"),
        ("c.jsonl", "is empty"),
        ({"file": "a.jsonl", "column": "z"}, "no column z"),
    ):
        filters = make_filters([{"decontaminate": {"against": [against]}}], verified=False)
        with pytest.raises((DataError, RecipeError), match=message):
            run_filters(filters, [row(0, "x")], Aids(base=tmp_path))


@pytest.mark.skipif(not GSM8K.exists(), reason="shared/data/gsm8k_train.jsonl.gz is not there")
def test_planted_gsm8k_questions_are_caught_and_others_are_left_alone(tmp_path: Path) -> None:
    with gzip.open(GSM8K, "rt") as lines:
        questions = [json.loads(line)["question"] for line in lines]
    random.Random(0).shuffle(questions)
    evaluation, training = questions[:500], questions[500:3500]
    planted = [f"Hello! Please solve this.\n{q}\nThink step by step." for q in evaluation]
    hits = found([*training, *planted], evaluation, tmp_path)
    assert all(f"s{i:04d}" in hits for i in range(3000, 3500))
    innocent = [hit for id, hit in hits.items() if id < "s3000"]
    assert len(innocent) <= 15  # GSM8K has near-duplicates of its own
    assert all(hit["matched"] for hit in innocent)
