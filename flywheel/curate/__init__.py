"""Curation: which verified samples become training rows, and why the others do not."""

from flywheel.curate.chain import DROPPED, Aids, Drop, Drops, Filter, run_chain, run_filters
from flywheel.curate.filters import FILTERS, make_filters
from flywheel.curate.pairs import make_pairs
from flywheel.curate.rows import Batch, ParquetSource, Row, Rows

__all__ = [
    "DROPPED",
    "FILTERS",
    "Aids",
    "Batch",
    "Drop",
    "Drops",
    "Filter",
    "ParquetSource",
    "Row",
    "Rows",
    "make_filters",
    "make_pairs",
    "run_chain",
    "run_filters",
]
