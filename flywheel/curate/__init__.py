"""Curation: which verified samples become training rows, and why the others do not."""

from flywheel.curate.filters import FILTERS, Drop, Filter, Row, make_filters, run_filters
from flywheel.curate.pairs import make_pairs

__all__ = ["FILTERS", "Drop", "Filter", "Row", "make_filters", "make_pairs", "run_filters"]
