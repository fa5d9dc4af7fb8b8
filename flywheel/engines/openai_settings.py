"""The arguments of the openai engine, checked all at once."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AnyHttpUrl, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator

from flywheel.engines.usage import Prices
from flywheel.errors import RecipeError
from flywheel.recipe import Number, Section


class Settings(Section):
    """The arguments of ``OpenAIEngine``, which explains them."""

    servers: Annotated[list[AnyHttpUrl], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = Field(
        min_length=1
    )
    model: str | None = Field(min_length=1)
    api_key_env: str = Field(min_length=1)
    concurrency: int = Field(ge=1)
    timeout: Number = Field(gt=0, allow_inf_nan=False)
    retries: int = Field(ge=0)
    patience: Number = Field(gt=0, allow_inf_nan=False)
    prices: Prices | None
    budget: Number | None = Field(gt=0)
    extra_body: dict[str, Any] | None

    @field_validator("budget")
    @classmethod
    def _is_countable(cls, budget: float | None, others: ValidationInfo) -> float | None:
        if budget is not None and others.data.get("prices", ...) is None:
            raise ValueError("needs prices")
        return budget

    @field_validator("extra_body")
    @classmethod
    def _is_extra(cls, fields: dict[str, Any] | None) -> dict[str, Any] | None:
        if ours := {"messages", "model", "stream"} & (fields or {}).keys():
            raise ValueError(f"{', '.join(sorted(ours))} cannot be set here")
        return fields


def checked(**arguments: Any) -> Settings:
    """The settings, or every wrong one by name.

    Raises:
        RecipeError: an argument that the engine cannot take.
    """
    try:
        return Settings(**arguments)
    except ValidationError as error:
        lines = "\n".join(
            f"  sample.engine.extra.{'.'.join(map(str, wrong['loc']))}: "
            f"{wrong['msg'].removeprefix('Value error, ')} (got {wrong['input']!r})"
            for wrong in error.errors()
        )
        raise RecipeError(f"the openai engine cannot take:\n{lines}", hint="see docs/recipes.md") from error
