"""Columns of the run folder's Parquet parts. Every row has a stable id and its parents' ids.

``dropped.parquet`` has those of ``curate.chain.DROPPED``.
"""

from __future__ import annotations

import pyarrow as pa

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

PROBLEMS = pa.schema([("problem_id", pa.string()), ("prompt", MESSAGES), ("gold", pa.string()), ("data", pa.string())])

SAMPLES = pa.schema(
    [
        ("sample_id", pa.string()),
        ("problem_id", pa.string()),
        ("round", pa.int32()),
        ("policy", pa.string()),
        ("mode", pa.string()),  # "sampled" or "greedy"
        ("chunk", pa.int32()),
        ("index", pa.int32()),
        ("seed_key", pa.string()),  # what the sampling seed derives from
        ("messages", MESSAGES),  # everything after the prompt
        ("text", pa.string()),  # the last assistant message
        ("tokens", pa.int32()),
        ("finish", pa.string()),  # "stop", "length" or "abort"
        ("error", pa.string()),  # with "abort": why the engine gave no answer
        ("kind", pa.string()),  # "answer", or what the rollout derived
        ("answers", MESSAGES),  # the conversation that it answers; null: the problem's prompt
        ("data", pa.string()),  # JSON: what the rollout knows of it
    ]
)

VERDICTS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("problem_id", pa.string()),
        ("score", pa.float64()),  # null: undecided
        ("passed", pa.bool_()),  # null: undecided
        ("reason", pa.string()),
        ("detail", pa.string()),  # JSON
        ("seconds", pa.float32()),
    ]
)

SFT = pa.schema(
    [
        ("row_id", pa.string()),
        ("prompt", MESSAGES),
        ("completion", MESSAGES),
        ("source", pa.string()),  # "round", "replay" or "demonstration"
        ("round", pa.int32()),
        ("problem_id", pa.string()),
        ("sample_id", pa.string()),
        ("kind", pa.string()),  # the sample's
        ("pass_rate", pa.float64()),
    ]
)

PAIRS = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("round", pa.int32()),
        ("problem_id", pa.string()),
        ("chosen_id", pa.string()),
        ("rejected_id", pa.string()),
    ]
)

GRADED = pa.schema(
    [
        *(field for field in SAMPLES if field.name not in ("answers", "error")),
        ("prompt", MESSAGES),  # the conversation that the sample answers
        *(field for field in VERDICTS if field.name not in ("sample_id", "problem_id", "seconds")),
        ("pass_rate", pa.float64()),  # of the problem; null: nothing was decided
    ]
)
"""What filters see: a round's samples with their verdicts."""
