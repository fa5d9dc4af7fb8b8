"""The recipe: everything a run is. A field's description is what ``docs/recipes.md`` is generated from.

Strict and immutable; ``recipe_file.py`` reads it from YAML, ``recipe_keys.py`` says which of it a stage depends on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A strict, immutable part of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _float_like(value: Any) -> Any:
    # YAML 1.1 reads 1e-5 (no dot) as a string; people write it all the time.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(_float_like)]


class ScratchModel(Section):
    """A model that starts from random weights."""

    architecture: str = Field(description="transformers model type, such as `llama` or `qwen3`.")
    config: dict[str, Any] = Field(
        default_factory=dict, description="Fields of the architecture's config class: `hidden_size`, …"
    )
    tokenizer: str = Field(
        default="chars", description="`chars` (printable ASCII, one token each), a folder, or a hub id."
    )


class TaskUse(Section):
    """Which task, with which arguments."""

    use: str = Field(description="A built-in task's name, or `./file.py:Class` beside the recipe.")
    args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the task's class.")


class EngineUse(Section):
    """What answers chat requests."""

    use: str = Field(
        default="transformers",
        description="`transformers`; `vllm`; `openai`: any OpenAI-compatible server; `scripted`: answers from a file.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Weights' type when sampling; `auto` is bfloat16 on a GPU, float32 on a CPU."
    )
    batch_size: int = Field(default=512, ge=1, description="Most sequences that are sampled at once.")
    tensor_parallel: int = Field(default=1, ge=1, description="Devices that one copy of the model spans.")
    cpu_replicas: int = Field(
        default=1, ge=1, description="Without a GPU: engines side by side, which share the cores among them."
    )
    max_model_len: int | None = Field(
        default=None, ge=2, description="vllm: most tokens of prompt and completion; null is the model's own limit."
    )
    memory: Number = Field(
        default=0.9, gt=0, le=1, description="vllm: share of the GPU's memory that weights and KV cache may take."
    )
    extra: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the engine's class.")


class Sample(Section):
    """Drawing problems and sampling completions, each round."""

    problems: int = Field(default=1024, ge=1, description="Problems drawn each round.")
    completions: int = Field(default=8, ge=1, description="Completions sampled for each problem.")
    temperature: Number = Field(default=1.0, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: Number = Field(default=1.0, gt=0, le=1, description="Nucleus mass; 1 keeps every token.")
    top_k: int = Field(default=0, ge=0, description="Keep the k likeliest tokens; 0 keeps all.")
    max_tokens: int = Field(default=512, ge=1, description="Most new tokens of one completion.")
    stop: list[str] = Field(default_factory=list, description="Strings that end a completion.")
    chunk: int = Field(default=64, ge=1, description="Problems per chunk: what a crash can lose at most.")
    engine: EngineUse | None = Field(
        default=None, description="Who answers instead of the policy, such as a teacher on a server; null is `engine`."
    )


class Verify(Section):
    """Scoring completions on the CPUs while the devices sample."""

    workers: int = Field(default=1, ge=1, description="Verifier processes per agent.")
    timeout: Number | None = Field(
        default=None,
        gt=0,
        description="Seconds per completion; past it: undecided. null is the task's own limit, or 10. The code task's "
        "is `sandbox.seconds`, and a program that takes longer is wrong.",
    )


class Replay(Section):
    """Older verified rows that stay in the SFT mix, against collapse on the newest data."""

    rounds: int | None = Field(default=None, ge=0, description="How many earlier rounds; null is all of them.")
    demonstrations: int = Field(default=0, ge=0, description="Warm-up demonstrations to keep in the mix.")


STRATEGIES = ("right_vs_wrong", "best_vs_worst", "gold_vs_own", "step", "revised_vs_first")


def _strategies(value: Any) -> Any:
    for name in value if isinstance(value, list) and value else [value]:
        if name not in STRATEGIES:
            raise ValueError(f"must be one of {', '.join(STRATEGIES)}, or a list of them")
    return value


class Pairs(Section):
    """How preference pairs are made from graded samples."""

    strategy: Annotated[str | list[str], BeforeValidator(_strategies)] = Field(
        default="right_vs_wrong",
        description="`right_vs_wrong`: random right against random wrong (Iterative RPO); `best_vs_worst`: "
        "extreme scores of a group (Self-Rewarding); `gold_vs_own`: the gold against own samples (SPIN); "
        "`step`: a right against a wrong way to go on from the same prefix (Step-DPO; needs continuations); "
        "`revised_vs_first`: a revision's last answer against the attempt that it mends; or a list of them.",
    )
    per_problem: int = Field(default=2, ge=1, description="Most pairs per problem and strategy.")


class Lora(Section):
    """Train low-rank adapters instead of all weights."""

    r: int = Field(default=16, ge=1, description="Rank.")
    alpha: int = Field(default=32, ge=1, description="Scale numerator: the update is multiplied by alpha / r.")
    dropout: Number = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: str | list[str] = Field(default="all-linear", description="Modules that get adapters.")
    merge: bool = Field(
        default=True,
        description="Commit a whole model; `false` commits the adapter alone, which the next stage continues and vllm "
        "serves on its base.",
    )


class Training(Section):
    """What SFT and DPO have in common."""

    learning_rate: Number = Field(default=1e-5, gt=0, description="Peak learning rate.")
    scheduler: str = Field(default="cosine", description="Learning-rate schedule, by transformers' name.")
    lr_warmup: Number = Field(default=0.05, ge=0, lt=1, description="Share of steps that warm the rate up.")
    epochs: Number = Field(default=1.0, gt=0, description="Passes over the rows.")
    max_steps: int | None = Field(default=None, ge=1, description="Stop after this many steps, whatever `epochs`.")
    batch_size: int = Field(default=64, ge=1, description="Rows (or pairs) per optimizer step, all devices together.")
    micro_batch: int | None = Field(
        default=None, ge=1, description="Rows per device and forward pass; null is batch_size / devices."
    )
    max_length: int | None = Field(default=1024, ge=2, description="Tokens of a row; the rest is cut off.")
    weight_decay: Number = Field(default=0.0, ge=0, description="AdamW's weight decay.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="`auto` is bf16 on a GPU that has it, else fp32."
    )
    gradient_checkpointing: bool | None = Field(
        default=None, description="Recompute activations to save memory; null is on where a GPU might not hold them."
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads; null is torch's default.")
    save_steps: int = Field(default=200, ge=1, description="Steps between checkpoints: what a kill can lose.")
    lora: Lora | None = Field(default=None, description="Low-rank adapters; null trains every weight.")
    extra: dict[str, Any] = Field(
        default_factory=dict, description="Any other field of TRL's SFTConfig / DPOConfig, checked by name."
    )


class Sft(Training):
    """Supervised fine-tuning on verified completions; the loss is on the completion only."""


class Warmup(Sft):
    """Round 0: SFT on the task's demonstrations, before any self-improvement."""

    problems: int = Field(default=10_000, ge=1, description="Demonstrations to train on.")


class Dpo(Training):
    """Direct preference optimization on verified pairs."""

    learning_rate: Number = Field(default=5e-7, gt=0, description="Peak learning rate.")
    beta: Number = Field(default=0.1, gt=0, description="Strength of the pull to the reference policy.")
    sft_weight: Number = Field(
        default=0.2, ge=0, description="Weight of the NLL on the chosen (Llama 3: 0.2; Iterative RPO: 1.0)."
    )
    loss: str = Field(default="sigmoid", description="TRL's preference loss.")
    reference: Literal["initial", "previous", "sft"] = Field(
        default="previous",
        description="Reference policy: round 0's, the one that sampled this round, or this round's SFT result.",
    )
    mask_special_tokens: bool = Field(
        default=False,
        description="Leave template and end tokens out of the loss (Llama 3 §4.1.4).",
    )


class Evaluate(Section):
    """The same held-out problems after every round."""

    problems: int = Field(default=512, ge=1, description="Held-out problems.")
    completions: int = Field(default=8, ge=1, description="Samples per problem, for accuracy and pass@k.")
    temperature: Number = Field(default=1.0, gt=0, description="Temperature of those samples.")
    greedy: bool = Field(default=True, description="Also answer each problem once at temperature 0.")


class Promote(Section):
    """When a round's checkpoint replaces the incumbent."""

    metric: Literal["accuracy", "greedy_accuracy"] = Field(default="accuracy", description="What must improve.")
    test: Literal["paired_bootstrap", "mcnemar", "always"] = Field(
        default="paired_bootstrap", description="Paired test on the same held-out problems; `always` skips it."
    )
    min_gain: Number = Field(default=0.0, description="Gain that must be exceeded.")
    confidence: Number = Field(default=0.9, ge=0.5, lt=1, description="Probability of a real gain that suffices.")


class Wandb(Section):
    """Weights & Biases; offline when there is no API key."""

    project: str = Field(default="flywheel", description="Project name.")
    entity: str | None = Field(default=None, description="Team or user; null is your default.")
    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        default="auto", description="`auto` is online with an API key, else offline."
    )


class Track(Section):
    """Where the numbers go besides the run folder."""

    wandb: Wandb | None = Field(default=None, description="Weights & Biases; null is off.")


class Recipe(Section):
    """One run: a model, a task, and how the wheel turns."""

    name: str = Field(pattern=r"^[\w.-]+$", description="The run's name; its folder is `runs/NAME`.")
    seed: int = Field(default=0, ge=0, description="Everything random derives from it.")
    model: str | ScratchModel = Field(description="A folder, a hub id, or `{architecture: …}` for random weights.")
    chat_template: str | None = Field(
        default=None, description="A Jinja file beside the recipe, for a model without a chat template."
    )
    task: TaskUse = Field(description="What is learned.")
    rounds: int = Field(default=4, ge=0, description="Rounds after the warm-up.")
    train_from: Literal["previous", "base"] = Field(
        default="previous",
        description="SFT starts from the promoted checkpoint, or from round 0's each time (Llama 3, ReST-EM).",
    )
    engine: EngineUse = Field(default_factory=EngineUse, description="What samples.")
    warmup: Warmup | None = Field(default=None, description="SFT on demonstrations first; null skips it.")
    sample: Sample = Field(default_factory=Sample, description="Problems and completions.")
    verify: Verify = Field(default_factory=Verify, description="Scoring.")
    curate: list[dict[str, dict[str, Any]]] = Field(
        default=[{"exact_duplicates": {}}, {"cap_per_problem": {"keep": 4}}],
        description="Filters over verified samples, in order; each is `{name: {options}}` or `{./file.py:Class: {…}}`.",
    )
    replay: Replay = Field(default_factory=Replay, description="Older rows in the SFT mix.")
    pairs: Pairs = Field(default_factory=Pairs, description="Preference pairs.")
    sft: Sft | None = Field(default_factory=Sft, description="Supervised fine-tuning; null skips it.")
    dpo: Dpo | None = Field(default_factory=Dpo, description="Preference optimization; null skips it.")
    evaluate: Evaluate = Field(default_factory=Evaluate, description="Held-out evaluation.")
    promote: Promote = Field(default_factory=Promote, description="The gate.")
    track: Track = Field(default_factory=Track, description="Trackers.")

    def engines(self) -> set[str]:
        """Names of all engines that the run uses."""
        own = {section.use for section in (self.engine, self.sample.engine) if section is not None}
        options = [option for entry in self.curate for option in entry.values()]
        judges = [found for option in options for found in (option, option.get("judge")) if isinstance(found, dict)]
        asked = [judge["engine"] for judge in judges if isinstance(judge.get("engine"), dict)]
        return own | {str(engine["use"]) for engine in asked if "use" in engine}

    @model_validator(mode="after")
    def _is_consistent(self) -> Recipe:
        if isinstance(self.model, ScratchModel) and self.warmup is None:
            raise ValueError("a model from random weights needs a `warmup:` section")
        if self.engine.use == "openai":
            raise ValueError(
                "engine.use: a server answers with its own model, not with the checkpoint that is trained and "
                "evaluated; to learn from a teacher, put it under sample.engine"
            )
        if isinstance(self.model, ScratchModel) and self.warmup is not None and self.warmup.lora is not None:
            raise ValueError("warmup.lora: adapters on random weights learn nothing; leave it out")
        sections = [s.lora for s in (self.warmup, self.sft, self.dpo) if s is not None and s.lora is not None]
        if any(not lora.merge for lora in sections) and len({lora.model_dump_json() for lora in sections}) > 1:
            raise ValueError("lora: with `merge: false` a stage continues the adapter before it: all must be equal")
        if self.sft is None and self.dpo is None and self.rounds > 0:
            raise ValueError("`sft` and `dpo` are both null: nothing would be trained")
        return self
