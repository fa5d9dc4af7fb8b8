"""What a user is promised of recipes: mistakes are named, all at once, with what was meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from flywheel.cli.recipe_docs import render
from flywheel.curate import make_filters
from flywheel.errors import RecipeError
from flywheel.recipe import Recipe
from flywheel.recipe_file import load_recipe, parse_recipe
from flywheel.recipe_keys import differing_keys, select

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SMALLEST: dict[str, Any] = {"name": "x", "model": "some/model", "task": {"use": "countdown"}}


def complaint(raw: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw)
    return caught.value.message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(SMALLEST))
    return path


@pytest.mark.parametrize(
    ("extra", "where", "meant"),
    [
        ({"rouds": 3}, "rouds", "rounds"),
        ({"sft": {"learning_rat": 1e-4}}, "sft.learning_rat", "learning_rate"),
        ({"dpo": {"lora": {"alpa": 3}}}, "dpo.lora.alpa", "alpha"),
        ({"track": {"wandb": {"projekt": "x"}}}, "track.wandb.projekt", "project"),
        ({"model": {"architecture": "llama", "tokeniser": "chars"}, "warmup": {}}, "model.tokeniser", "tokenizer"),
        ({"task": {"use": "countdown", "arg": {}}}, "task.arg", "args"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion_at_every_depth(
    extra: dict[str, Any], where: str, meant: str
) -> None:
    assert f"{where}: unknown key; did you mean {meant!r}?" in complaint({**SMALLEST, **extra})


def test_a_key_like_no_other_is_answered_with_the_known_ones() -> None:
    message = complaint({**SMALLEST, "verify": {"zzzzzz": 1}})
    assert "verify.zzzzzz: unknown key; known: workers, timeout" in message


def test_all_errors_are_told_at_once() -> None:
    message = complaint(
        {
            "name": "no spaces allowed",
            "model": "m",
            "sample": {"problems": 0, "temprature": 1},
            "sft": {"learning_rate": "fast", "epochs": -1},
            "promote": {"test": "coin"},
        }
    )
    for expected in (
        "recipe has 7 errors",
        "name: ",
        "task: required",
        "sample.problems: ",
        "sample.temprature: unknown key; did you mean 'temperature'?",
        "sft.learning_rate: ",
        "sft.epochs: ",
        "promote.test: ",
    ):
        assert expected in message


def test_only_the_form_of_model_that_the_user_chose_is_complained_about() -> None:
    message = complaint({**SMALLEST, "model": {"config": {}}, "warmup": {}})
    assert message == "recipe has 1 error:\n  model.architecture: required"


def test_wrong_values_are_shown() -> None:
    assert "(got -3)" in complaint({**SMALLEST, "rounds": -3})
    assert "(got 'many')" in complaint({**SMALLEST, "rounds": "many"})


@pytest.mark.parametrize("written", ["1e-5", "1.0e-5", "0.00001"])
def test_numbers_may_be_written_as_people_write_them(file: Path, written: str) -> None:
    file.write_text(file.read_text() + f"sft: {{learning_rate: {written}}}\n")
    recipe = load_recipe(file)
    assert recipe.sft is not None
    assert recipe.sft.learning_rate == 1e-5


def test_contradictions_are_errors() -> None:
    assert "needs a `warmup:`" in complaint({**SMALLEST, "model": {"architecture": "llama"}})
    assert "nothing would be trained" in complaint({**SMALLEST, "sft": None, "dpo": None})
    adapters = {"sft": {"lora": {"merge": False, "r": 8}}, "dpo": {"lora": {"merge": False, "r": 16}}}
    assert "all must be equal" in complaint({**SMALLEST, **adapters})
    scratch = {"model": {"architecture": "llama"}, "warmup": {"lora": {}}}
    assert "adapters on random weights" in complaint({**SMALLEST, **scratch})


def test_overrides_reach_any_depth(file: Path) -> None:
    recipe = load_recipe(
        file,
        ["rounds=2", "sft.learning_rate=1e-4", "dpo=null", "task.args.numbers=4", "curate=[finished]", "sft.lora.r=4"],
    )
    assert recipe.rounds == 2
    assert recipe.sft is not None
    assert recipe.sft.learning_rate == 1e-4
    assert recipe.sft.lora is not None
    assert recipe.sft.lora.r == 4
    assert recipe.dpo is None
    assert recipe.task.args == {"numbers": 4}
    assert recipe.curate == [{"finished": {}}]


@pytest.mark.parametrize("override", ["rounds", "=3", "rounds=[1"])
def test_a_malformed_override_is_an_error(file: Path, override: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(override)):
        load_recipe(file, [override])


def test_an_override_is_checked_like_the_file(file: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'learning_rate'"):
        load_recipe(file, ["sft.learning_rat=1e-4"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a: [1", "is not YAML"), ("- 1\n- 2\n", "not a mapping"), ("", "not a mapping"), (None, "there is no recipe")],
)
def test_an_unreadable_file_is_an_error(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "broken.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError, match=expected):
        load_recipe(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_parses(path: Path) -> None:
    recipe = load_recipe(path)
    make_filters(recipe.curate)
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


def test_some_recipes_are_shipped() -> None:
    assert {"smoke.yaml", "countdown.yaml"} <= {path.name for path in RECIPES}


def test_every_wrong_filter_is_named_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        make_filters([{"finishd": {}}, {"cap_per_problem": {"kep": 3}}, {"pass_rate": {"min": 2}}])
    first, second, third = caught.value.message.splitlines()
    assert "curate.0.finishd" in first
    assert "did you mean 'finished'" in first
    assert "curate.1.cap_per_problem" in second
    assert "kep" in second
    assert "curate.2.pass_rate" in third


def test_differing_keys_are_dotted_leaves() -> None:
    old = {"sft": {"learning_rate": 1, "lora": None}, "curate": [1], "seed": 0}
    new = {"sft": {"learning_rate": 2, "lora": {"r": 4}}, "curate": [1], "seed": 0}
    assert differing_keys(old, new) == ["sft.learning_rate", "sft.lora"]
    assert differing_keys(old, old) == []


def test_the_page_about_recipes_is_up_to_date() -> None:
    written = (ROOT / "docs" / "recipes.md").read_text()
    assert written == render(), "run: python -m flywheel.cli.recipe_docs > docs/recipes.md"


def test_every_field_is_described() -> None:
    assert "| |\n" not in render()
    assert all(field.description for field in Recipe.model_fields.values())


def test_the_page_s_recipe_and_chat_template_work() -> None:
    page = render()
    recipe = re.search(r"```yaml\n(.*?)```", page, re.S)
    source = re.search(r"```jinja\n(.*?)```", page, re.S)
    assert recipe is not None
    assert source is not None
    assert parse_recipe(yaml.safe_load(recipe[1])).name == "first"
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source[1])
    asked = [{"role": "user", "content": "2+2?"}]
    prompt = template.render(messages=asked, add_generation_prompt=True, eos_token="</s>")
    whole = template.render(messages=[*asked, {"role": "assistant", "content": "4"}], eos_token="</s>")
    assert whole.startswith(prompt + "4</s>")


def test_a_teacher_stands_under_sample_and_its_budget_may_change_at_any_time() -> None:
    assert "put it under sample.engine" in complaint({**SMALLEST, "engine": {"use": "openai"}})
    teacher = {"use": "openai", "extra": {"servers": ["http://a/v1"], "model": "m", "budget": 1.0}}
    one = parse_recipe({**SMALLEST, "sample": {"engine": teacher}}).model_dump(mode="json")
    raised = {**teacher, "batch_size": 512, "extra": {**teacher["extra"], "servers": "http://b/v1", "budget": 2.0}}
    other = parse_recipe({**SMALLEST, "sample": {"engine": raised}}).model_dump(mode="json")
    assert select(one, ["sample"]) == select(other, ["sample"])
    another = parse_recipe({**SMALLEST, "sample": {"engine": {**teacher, "extra": {"model": "n"}}}})
    assert select(one, ["sample"]) != select(another.model_dump(mode="json"), ["sample"])


def test_where_programs_run_may_change_at_any_time() -> None:
    def task(**extra: Any) -> dict[str, Any]:
        return {"task": {"use": "code", "args": {"sandbox": {"executor": "remote", "seconds": 10.0, "extra": extra}}}}

    one, other = task(servers=["http://a:1"], patience=60), task(servers=["http://b:1", "http://c:1"])
    assert select(one, ["task"]) == select(other, ["task"])
    assert select(one, ["task"]) != select(task(protocol="sandbox_fusion"), ["task"])
