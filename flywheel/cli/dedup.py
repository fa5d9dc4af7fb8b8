"""``flywheel dedup``: near-duplicates out of a Parquet file, each with what it repeats."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flywheel.errors import DataError, UserError
from flywheel.tracking import Screen

IN_HELP = "Rows to deduplicate: a Parquet file, or a folder of parts."
OUT_HELP = "The kept rows: all their columns, in their order."
SCORE_HELP = "Of near-duplicates the row with the highest score stays, of equal ones the lowest id."
ID_HELP = "Ids; without it `id`, `sample_id` or `row_id` if it tells rows apart, else rows are numbered from 0."
NEAR_EXACT_HELP = (
    "First remove texts with this Jaccard similarity of word 5-grams, such as 0.8: cheaper than embedding."
)


def command(
    file: Annotated[Path, typer.Argument(metavar="IN.parquet", help=IN_HELP)],
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help=OUT_HELP)],
    text_column: Annotated[str | None, typer.Option(help="Texts to embed.")] = None,
    messages_column: Annotated[
        str | None, typer.Option(help="Dialogues to embed: lists of {role, content} messages.")
    ] = None,
    embedding_column: Annotated[str | None, typer.Option(help="Vectors that are there already.")] = None,
    score_column: Annotated[str | None, typer.Option(help=SCORE_HELP)] = None,
    id_column: Annotated[str | None, typer.Option(help=ID_HELP)] = None,
    threshold: Annotated[float, typer.Option(help="Cosine similarity from which rows are duplicates.")] = 0.9,
    against: Annotated[
        str, typer.Option(help="`kept`: compare with the rows kept so far; `seen`: with all better ones (Llama 3).")
    ] = "kept",
    encoder: Annotated[
        str | None, typer.Option(help="Encoder of texts, a folder or hub id; all-MiniLM-L6-v2 by default.")
    ] = None,
    near_exact: Annotated[float | None, typer.Option(help=NEAR_EXACT_HELP)] = None,
    removed: Annotated[
        Path | None, typer.Option(help="The removed rows and why; OUT.removed.parquet by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Remove near-duplicates from a Parquet file: of rows that say the same, the best stays.

    Takes one of --text-column, --messages-column and --embedding-column. Every removed row is written to a second
    file, with the id of the row that it repeats (removed_by), their cosine, its cluster and the reason.
    """
    from flywheel.curate.chain import Aids
    from flywheel.curate.dedup import Dedup, NearExact
    from flywheel.curate.dedup_file import Columns, dedup_file

    started = time.perf_counter()
    removed = removed or out.with_name(f"{out.name.removesuffix('.parquet')}.removed.parquet")
    _check_paths(file, out, removed)
    kind, content = _content({"text": text_column, "messages": messages_column, "embedding": embedding_column})
    if kind == "embedding" and (encoder is not None or near_exact is not None):
        raise UserError("--encoder and --near-exact need texts", hint="name --text-column or --messages-column instead")
    filters: list[Dedup | NearExact] = []
    try:
        if near_exact is not None:
            filters.append(NearExact(near_exact))
        filters.append(Dedup(threshold, against, encoder, "embedding" if kind == "embedding" else None))  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(str(error), hint="see: flywheel dedup --help") from error
    columns = Columns(kind, content, score_column, id_column)
    with Screen(speaks=not as_json) as screen, screen.bars("rows") as progress:
        counts = dedup_file(file, out, removed, columns, filters, Aids(progress=progress))
    facts = {
        **counts,
        "threshold": threshold,
        "against": against,
        "seconds": round(time.perf_counter() - started, 3),
        "out": str(out),
        "removed_out": str(removed),
    }
    if as_json:
        print(json.dumps(facts))
    else:
        _show(facts)


def _check_paths(file: Path, out: Path, removed: Path) -> None:
    if not file.exists():
        raise DataError(f"there is no file {file}")
    if out.resolve() == removed.resolve():
        raise UserError(
            f"{out} cannot hold both the kept and the removed rows", hint="name another file with --removed"
        )
    for path in (out, removed):
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise DataError(f"{path} cannot be written: its folder is missing, or it is a folder itself")


def _content(named: dict[str, str | None]) -> tuple[str, str]:
    """The one kind of content that was named, and its column."""
    given = [(kind, column) for kind, column in named.items() if column is not None]
    if len(given) != 1:
        raise UserError(
            f"one of --text-column, --messages-column and --embedding-column is needed, not {len(given)}",
            hint="for example: flywheel dedup IN.parquet OUT.parquet --messages-column messages",
        )
    return given[0]


def _show(facts: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for key in ("kept", "removed"):
        share = f"{facts[key] / facts['rows']:7.1%}" if facts["rows"] else ""
        console.print(
            f"{key:<10}{facts[key]:>12,} {share}  {facts['out' if key == 'kept' else 'removed_out']}", markup=False
        )
    for reason, count in facts["reasons"].items():
        console.print(f"{count:>22,}  {reason}", markup=False)
    for why, count in facts["not_compared"].items():
        console.print(f"{count:>22,}  kept without comparison: the vector is {why}", markup=False)
    console.print(f"{facts['rows']:,} rows in {facts['seconds']:.1f} s, named by {facts['ids']}", markup=False)
