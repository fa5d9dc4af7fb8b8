"""A language model as judge: a rubric in, a score out, or undecided.

A rubric is a Markdown file: YAML front matter (the scale, and what earns points) and a Jinja template of the
message that the judge is sent. The shipped ones are in ``rubrics/``; a path to one's own works wherever a name
does. The judge is anything with ``chat(messages, **sampling)``: the policy inside a rollout, or a teacher.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from flywheel.errors import NoAnswer, RecipeError
from flywheel.types import Completion, Message

if TYPE_CHECKING:
    from jinja2 import Template

RUBRICS = Path(__file__).parent / "rubrics"
SHOWN = 300
"""Characters of a judge's explanation that are kept as the reason."""

_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*\n(.*)\Z", re.DOTALL)
_SCORE = re.compile(r"\bscore\b[\s*_`:=]*[:=][\s*_`]*(-?\d+(?:\.\d+)?)(?:\s*/\s*(\d+(?:\.\d+)?))?", re.IGNORECASE)
_KEYS = ("scale", "mark", "criteria", "system", "temperature", "max_tokens")


class Chat(Protocol):
    """What a judge needs of a policy."""

    async def chat(self, messages: Iterable[Message], **overrides: Any) -> list[Completion]: ...


@dataclass(frozen=True)
class Rubric:
    """What a judge is asked, and on which scale it answers.

    Attributes:
        name: the file's name without its suffix.
        template: Jinja source of the message; the names it uses are the fields that ``judge`` must be given.
        scale: lowest and highest score.
        mark: the score from which on an answer passes; None: the score is a measure, nothing passes or fails.
        criteria: what earns points.
        system: a system message, or None.
        temperature: of the judge when several votes are cast; a single vote is greedy.
        max_tokens: of each vote.
    """

    name: str
    template: str
    scale: tuple[float, float]
    mark: float | None = None
    criteria: tuple[str, ...] = ()
    system: str | None = None
    temperature: float = 0.7
    max_tokens: int = 1024

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Names that the template uses."""
        from jinja2 import meta

        return tuple(sorted(meta.find_undeclared_variables(_environment().parse(self.template)) - {"rubric"}))

    @cached_property
    def _compiled(self) -> Template:
        compiled: Template = _environment().from_string(self.template)
        return compiled

    def messages(self, **fields: Any) -> list[Message]:
        """The conversation that the judge is to answer.

        Raises:
            RecipeError: the template uses a field that was not given.
        """
        if missing := [name for name in self.fields if name not in fields]:
            raise RecipeError(
                f"rubric {self.name!r} asks for {', '.join(missing)}, which is not there",
                hint=f"given are {', '.join(sorted(fields)) or 'none'}; change the template, or use another rubric",
            )
        asked: list[Message] = [{"role": "user", "content": self._compiled.render(rubric=self, **fields).strip()}]
        return [{"role": "system", "content": self.system}, *asked] if self.system else asked

    def parse(self, text: str) -> float | None:
        """The last ``Score: N`` of an answer; None if there is none on the scale."""
        found = _SCORE.findall(_after_thinking(text))
        if not found:
            return None
        score, of = found[-1]
        low, high = self.scale
        if (of and float(of) != high) or not low <= float(score) <= high:
            return None
        return float(score)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the votes came to.

    Attributes:
        score: mean of the readable votes; None: undecided.
        votes: each vote's score; None where it could not be read.
        reason: the judge's words, or why it is undecided.
        passed: whether most votes reached the rubric's mark; None if undecided, or without a mark.
    """

    score: float | None
    votes: tuple[float | None, ...]
    reason: str
    passed: bool | None = None


async def judge(policy: Chat, rubric: Rubric, votes: int = 1, **fields: Any) -> Judgement:
    """Ask for a score, several times if wanted.

    Undecided (score None) if half of the votes or more cannot be read, if the votes are split evenly over whether the
    mark is reached, or if the engine has no answer.

    Args:
        policy: who judges.
        rubric: what is asked.
        votes: answers to average; one is greedy, several are drawn at the rubric's temperature.
        fields: what the rubric's template uses.

    Raises:
        RecipeError: a field of the template is missing.
        EngineFailed: the engine cannot answer any more.
    """
    if votes < 1:
        raise ValueError("votes must be at least 1")
    sampling = {
        "n": votes,
        "temperature": 0.0 if votes == 1 else rubric.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "max_tokens": rubric.max_tokens,
        "stop": (),
    }
    try:
        answers = await policy.chat(rubric.messages(**fields), **sampling)
    except NoAnswer as error:
        return Judgement(None, (None,) * votes, f"no answer: {error.message}")
    return tally(rubric, answers)


def tally(rubric: Rubric, answers: Iterable[Completion]) -> Judgement:
    """Votes into a judgement."""
    texts = [answer.text if answer.finish != "abort" else "" for answer in answers]
    votes = tuple(rubric.parse(text) for text in texts)
    read = [vote for vote in votes if vote is not None]
    if 2 * len(read) <= len(votes):
        shown = next((text for text, vote in zip(texts, votes, strict=True) if vote is None), "")
        return Judgement(
            None, votes, f"{len(votes) - len(read)} of {len(votes)} votes unreadable, such as {_brief(shown)!r}"
        )
    passing = None if rubric.mark is None else sum(vote >= rubric.mark for vote in read)
    if passing is not None and 2 * passing == len(read):
        return Judgement(None, votes, f"tied: {passing} votes for, {passing} against")
    words = next(text for text, vote in zip(texts, votes, strict=True) if vote is not None)
    score = math.fsum(read) / len(read)
    return Judgement(score, votes, _brief(words), None if passing is None else 2 * passing > len(read))


def rubric_names() -> list[str]:
    """The shipped rubrics."""
    return sorted(file.stem for file in RUBRICS.glob("*.md"))


def load_rubric(name: str | Path, base: Path | None = None) -> Rubric:
    """A shipped rubric by name, or one's own by path.

    Args:
        name: such as "general", or a path to a Markdown file.
        base: the folder that relative paths start from.

    Raises:
        RecipeError: no such rubric, or its file is wrong.
    """
    given = str(name)
    if given in rubric_names():
        return _read(RUBRICS / f"{given}.md")
    file = (base or Path()) / given
    if not file.is_file():
        near = get_close_matches(given, rubric_names(), n=1, cutoff=0.5)
        raise RecipeError(
            f"there is no rubric {given!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=f"the shipped ones are {', '.join(rubric_names())}; or give the path of a Markdown file",
        )
    return _read(file)


def _read(file: Path) -> Rubric:
    from jinja2 import TemplateSyntaxError

    try:
        found = _FRONT.match(file.read_text())
        if found is None:
            raise ValueError("it must begin with front matter between two lines of ---")
        facts = yaml.safe_load(found[1])
        if not isinstance(facts, dict):
            raise ValueError("the front matter is not a mapping")
        rubric = _rubric(file.stem, found[2], facts)
        rubric.fields  # noqa: B018 - parses the template
    except (OSError, UnicodeDecodeError, ValueError, TypeError, yaml.YAMLError, TemplateSyntaxError) as error:
        raise RecipeError(f"rubric {file}: {error}", hint=f"compare it with {RUBRICS / 'general.md'}") from error
    return rubric


def _rubric(name: str, template: str, facts: Mapping[str, Any]) -> Rubric:
    if unknown := sorted(map(str, facts.keys() - set(_KEYS))):
        raise ValueError(f"unknown key {', '.join(unknown)}; known: {', '.join(_KEYS)}")
    scale = facts.get("scale")
    if not (isinstance(scale, list) and len(scale) == 2 and all(isinstance(x, int | float) for x in scale)):
        raise ValueError("scale must be [lowest, highest]")
    low, high = map(float, scale)
    mark = facts.get("mark")
    if not low < high or (mark is not None and not low < float(mark) <= high):
        raise ValueError("needs lowest < highest, and lowest < mark <= highest")
    criteria = facts.get("criteria") or []
    if not isinstance(criteria, list):
        raise ValueError("criteria must be a list")
    return Rubric(
        name,
        template,
        (low, high),
        None if mark is None else float(mark),
        tuple(map(str, criteria)),
        facts.get("system"),
        float(facts.get("temperature", Rubric.temperature)),
        int(facts.get("max_tokens", Rubric.max_tokens)),
    )


def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


def _after_thinking(text: str) -> str:
    """What a reasoning model says after it has thought; scores that it only considered do not count."""
    return text.rsplit("</think>", 1)[-1]


def _brief(text: str) -> str:
    words = " ".join(_after_thinking(text).split())
    return words if len(words) <= SHOWN else words[: SHOWN - 1] + "…"
