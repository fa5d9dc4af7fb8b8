"""Columns that filters read and files may lack: each derived from what is there, a batch at a time.

A dialogue comes as ``prompt`` + ``messages`` (what the policy was asked, what it answered), as one
``conversation``, or as plain ``text``; all three give filters the same columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flywheel.errors import DataError

Derive = Callable[..., pa.Array]
BREAK = "\n\n"
"""Between the messages of a dialogue, where they become one text."""


def contents(array: pa.Array) -> pa.ListArray:
    """The contents of each row's messages; a row that is plain text counts as one message."""
    if not _is_list(array.type):
        text = as_text(array)
        return pa.ListArray.from_arrays(pa.array(np.arange(len(text) + 1), pa.int32()), text)
    offsets, inner = _parts(array)
    return pa.ListArray.from_arrays(offsets, _field(inner, ("content", "value")))


def as_text(array: pa.Array) -> pa.Array:
    """Plain strings; null becomes empty."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not pa.types.is_string(array.type):
        array = array.cast(pa.string())
    return pc.fill_null(array, "") if array.null_count else array


def last_text(messages: pa.Array) -> pa.Array:
    """The content of each row's last message."""
    offsets, inner = _parts(contents(messages))
    ends = offsets.to_numpy()
    lengths = np.diff(ends)
    at = pa.array(ends[1:] - 1, pa.int64(), mask=lengths == 0)
    return pc.fill_null(inner.take(at), "")


def user_text(messages: pa.Array) -> pa.Array:
    """What the user said, all messages together; system messages and answers are left out."""
    if not _is_list(messages.type) or not pa.types.is_struct(messages.type.value_type):
        return _joined(contents(messages))
    offsets, inner = _parts(messages)
    said = pc.is_in(_field(inner, ("role", "from")), pa.array(["user", "human"]))
    return _joined(_kept_of_lists(offsets, _field(inner, ("content", "value")), said))


def whole_text(*parts: pa.Array) -> pa.Array:
    """All messages of the parts, joined."""
    texts = [_joined(contents(part)) for part in parts]
    return texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, BREAK)


def before_last(conversation: pa.Array) -> pa.Array:
    return _slice(conversation, last=False)


def last_message(conversation: pa.Array) -> pa.Array:
    return _slice(conversation, last=True)


def same_question(question: pa.Array) -> pa.Array:
    """An id of what was asked: rows that answer the same question are one problem."""
    texts = as_text(question).to_pylist()
    return pa.array([hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts], pa.string())


def json_value(key: str, objects: pa.Array) -> pa.Array:
    """One key of each row's JSON object, as text; null where it is not there."""
    found = []
    for text in as_text(objects).to_pylist():
        value = json.loads(text).get(key) if text else None
        found.append(value if value is None or isinstance(value, str) else json.dumps(value))
    return pa.array(found, pa.string())


DERIVED: dict[str, tuple[tuple[tuple[str, ...], Derive], ...]] = {
    "prompt": ((("conversation",), before_last),),
    "messages": ((("conversation",), last_message),),
    "text": ((("messages",), last_text), (("conversation",), last_text)),
    "question": ((("conversation",), user_text), (("prompt",), user_text)),
    "dialogue": ((("conversation",), whole_text), (("prompt", "messages"), whole_text), (("text",), whole_text)),
    "problem_id": ((("question",), same_question),),
}
"""Column: from which others it can be made, and how; the first way that is possible is taken."""


JSON_COLUMNS = {"data": "data", "problem": "problem_data"}
"""``data.KEY`` is what the rollout knows of a sample, ``problem.KEY`` what the task knows of its problem."""


def recipe_for(name: str, there: Iterable[str]) -> tuple[tuple[str, ...], Derive] | None:
    """How to derive a column from those that are there; None if that cannot be done."""
    have = set(there)
    prefix, dot, key = name.partition(".")
    if dot and JSON_COLUMNS.get(prefix) in have:
        return (JSON_COLUMNS[prefix],), partial(json_value, key)
    for needs, derive in DERIVED.get(name, ()):
        if all(need in have or recipe_for(need, have) for need in needs):
            return needs, derive
    return None


def _field(messages: pa.Array, names: tuple[str, ...]) -> pa.Array:
    """A field of flattened messages, under the first name that it has; plain strings are their own content."""
    if not pa.types.is_struct(messages.type):
        return as_text(messages)
    there = [field.name for field in messages.type]
    name = next((name for name in names if name in there), None)
    if name is None:
        raise DataError(f"messages have {', '.join(there)}, but no {' or '.join(names)}")
    return as_text(pc.struct_field(messages, name))


def _joined(lists: pa.ListArray) -> pa.Array:
    return pc.binary_join(lists, BREAK)


def _slice(conversation: pa.Array, last: bool) -> pa.Array:
    offsets, inner = _parts(conversation)
    ends = offsets.to_numpy()
    is_last = np.zeros(len(inner), bool)
    is_last[ends[1:][np.diff(ends) > 0] - 1] = True
    return _kept_of_lists(offsets, inner, pa.array(is_last if last else ~is_last))


def _kept_of_lists(offsets: pa.Array, inner: pa.Array, keep: pa.Array) -> pa.ListArray:
    """Lists without the elements that are not to be kept."""
    before = np.concatenate([[0], np.cumsum(keep.to_numpy(zero_copy_only=False))])
    return pa.ListArray.from_arrays(pa.array(before[offsets.to_numpy()], pa.int32()), inner.filter(keep))


def _parts(lists: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Offsets from 0 on, and the elements they point to; a null list is empty."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.array(offsets, pa.int32()), lists.flatten()


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
