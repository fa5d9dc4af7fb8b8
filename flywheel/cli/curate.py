"""``flywheel curate``: the filters of a recipe, over any Parquet file of dialogues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flywheel.curate import Aids, make_filters
from flywheel.curate.chain import show_funnel
from flywheel.curate.file import Columns, curate_file
from flywheel.engines import EngineSpec, make_engine
from flywheel.errors import RecipeError
from flywheel.recipe_file import load_filters
from flywheel.stages.judging import spec_of
from flywheel.tracking import Screen


def command(
    file: Annotated[Path, typer.Argument(metavar="IN.parquet", help="Dialogues: a file, or a folder of parts.")],
    out: Annotated[Path, typer.Argument(metavar="OUT/", help="Folder for kept.parquet, dropped.parquet, funnel.json.")],
    recipe: Annotated[Path, typer.Option(help="YAML with a `curate:` list; a whole recipe will do.")],
    messages_column: Annotated[str | None, typer.Option(help="Conversations, as lists of messages.")] = None,
    prompt_column: Annotated[str | None, typer.Option(help="What was asked: text or messages.")] = None,
    completion_column: Annotated[str | None, typer.Option(help="What was answered: text or messages.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Whole dialogues as plain text.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Unique ids; without, they are made.")] = None,
    problem_column: Annotated[
        str | None, typer.Option(help="Which rows answer the same; without, by question.")
    ] = None,
    score_column: Annotated[
        str | None, typer.Option(help="Rewards, for `quality` and for which rows go first.")
    ] = None,
    heldout: Annotated[
        Path | None, typer.Option(help="Problems to keep out of the rows: Parquet, JSONL or text.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the funnel as JSON.")] = False,
) -> None:
    """Apply a recipe's filters to a Parquet file of dialogues, and say of each row why it went.

    Columns are found by their usual names (prompt and completion; messages; text), or named by the options. Rows that
    carry a verdict (columns passed and reason) are filtered by it first, as in a run. What was dropped is in
    dropped.parquet, by id, with filter, reason and details.
    """
    entries = load_filters(recipe)
    base = recipe.parent
    names = Columns(
        messages_column, prompt_column, completion_column, text_column, id_column, problem_column, score_column
    )
    filters = make_filters(entries, base, verified=_has_verdicts(file), heldout=heldout is not None)
    with Screen(speaks=not as_json) as screen:
        with screen.bars("rows") as progress:
            aids = Aids(base, None, heldout, (), _engine_maker(base), progress)
            funnel = curate_file(file, out, filters, names, aids)
        if as_json:
            print(json.dumps(funnel, ensure_ascii=False))
        else:
            screen.say("\n".join([*show_funnel(funnel), f"rows, reasons and funnel are in {out}"]))


def _has_verdicts(file: Path) -> bool:
    from flywheel.curate.rows import open_parquet

    first = next(iter(sorted(file.glob("*.parquet"))), file) if file.is_dir() else file
    return {"passed", "reason"} <= set(open_parquet(first).schema_arrow.names)


def _engine_maker(base: Path) -> Any:
    def make(option: dict[str, Any] | None) -> Any:
        if option is None or (
            option.get("use", "transformers") not in ("openai", "scripted") and "model" not in option
        ):
            raise RecipeError(
                "a judge needs a model here, where no policy is at hand",
                hint="in the filter: engine: {use: vllm, model: Qwen/Qwen3-8B}, or {use: openai, extra: {servers: …}}",
            )
        return make_engine(spec_of(option, EngineSpec("transformers", ""), base, None))

    return make
