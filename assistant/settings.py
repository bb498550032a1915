"""Every setting, read once and passed on: environment variables `ASSISTANT_…`, then command-line options."""

from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from retrieval.errors import InputError


class Settings(BaseSettings):
    """Settings of the assistant; each is the environment variable of its name with the prefix `ASSISTANT_`."""

    model_config = SettingsConfigDict(env_prefix="ASSISTANT_", frozen=True)

    home: Path = Field(
        default_factory=lambda: user_data_path("payment-support-assistant"),
        description="Folder for models, indexes, adapters, releases and runs.",
    )
    base: str = Field(
        "smollm2-135m",
        description="Base language model: smollm2-135m, gemma3-270m, a folder, a hub id such as Qwen/Qwen3-8B, or one "
        "of ModelScope such as modelscope:Qwen/Qwen3-8B.",
    )
    base_languages: tuple[Literal["en", "zh"], ...] | None = Field(
        None,
        description='Languages the base writes, as JSON: ["en", "zh"]. Questions in others are answered by '
        "quoting. By default what is known of an embedded base, and both for any other.",
    )
    encoder: str = Field(
        "multilingual-e5-small",
        description="Text encoder: the embedded one, a sentence-transformers folder, or a hub id such as BAAI/bge-m3.",
    )
    reranker: str | None = Field(
        None,
        description="Cross-encoder that reads the query with the 20 best passages and reorders them: a folder or a "
        "hub id such as BAAI/bge-reranker-v2-m3. By default none: it costs a model's time on every question.",
    )
    false_miss_rate: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Of questions that the knowledge base answers, the share that may be taken for misses.",
    )
    small_index: bool = Field(
        False, description="Store vectors in a byte for each dimension instead of four: a quarter of the memory."
    )
    host: str = Field("127.0.0.1", description="Address that the chat service listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the chat service; 0 takes a free one.")
    merged: bool = Field(
        False,
        description="Serve the adapter merged into its base: several times as fast on a CPU. The arms without the "
        "adapter are then not offered.",
    )
    passages: int = Field(3, ge=1, le=20, description="Passages put into the prompt.")
    max_answer_tokens: int = Field(200, ge=1, le=4096, description="Longest answer, in tokens.")
    on_miss: Literal["adapter", "clarify", "refuse", "handoff"] = Field(
        "adapter",
        description="What a question gets that no passage answers: the adapter's own answer, or a fixed text.",
    )
    on_sensitive_miss: Literal["adapter", "clarify", "refuse", "handoff"] = Field(
        "handoff",
        description="The same, for topics that the policy lets nobody answer without a passage, such as fees.",
    )
    on_ambiguous: Literal["grounded", "clarify"] = Field(
        "grounded", description="What a question gets whose passages may or may not answer it."
    )
    withhold_figures: bool = Field(
        False, description="Leave out sentences with amounts, percentages or deadlines that no passage states."
    )
    policy: Path | None = Field(
        None, description="YAML file of what a person must answer, sensitive topics and fixed texts; default: ours."
    )
    prompts: Path | None = Field(
        None, description="YAML file of further prompts, which arms can be asked with; default: ours only."
    )
    keys: Path | None = Field(
        None,
        description="YAML file of API keys and quotas; default: keys.yaml in the home, written by `assistant key`.",
    )
    experiment: Path | None = Field(
        None,
        description="YAML file of an experiment on customers; default: experiment.yaml in the home, if there is one.",
    )
    database: str | None = Field(
        None,
        description="Where transcripts and feedback are kept, such as postgresql://user:password@host/name; default: "
        "SQLite in the home.",
    )
    retention_days: int | None = Field(
        None,
        ge=1,
        le=36500,
        description="Days that transcripts and feedback are kept; by default until they are deleted.",
    )
    queue: int = Field(64, ge=0, description="Requests that may wait while the engine is busy; more are turned away.")
    queue_s: float = Field(30, gt=0, description="Longest wait of a request for the engine, in seconds.")
    search_s: float = Field(
        5, gt=0, description="Longest search, in seconds; after it the answer goes without passages."
    )
    silence_s: float = Field(
        120, gt=0, description="Longest silence of the engine before or within an answer, in seconds."
    )
    answer_s: float = Field(300, gt=0, description="Longest answer, in seconds.")
    drain_s: int = Field(60, ge=0, description="Seconds that running answers get to end when the service is stopped.")
    embed_origins: tuple[str, ...] = Field(
        (), description='Sites that may embed the chat widget, as JSON: ["https://shop.example"].'
    )
    otlp_endpoint: str | None = Field(
        None, description="Collector of OpenTelemetry traces over HTTP, such as http://127.0.0.1:4318/v1/traces."
    )
    engine_url: str | None = Field(
        None,
        description="An OpenAI-compatible engine that serves the base (as `base`) and the adapter (under its own "
        "name), such as http://10.0.0.5:8001. By default the assistant starts vLLM itself.",
    )
    engine_start_s: int = Field(600, ge=1, description="Longest wait for the engine to start, in seconds.")
    engine_max_tokens: int = Field(2048, ge=256, description="Longest prompt and answer together, in tokens.")
    engine_concurrency: int = Field(16, ge=1, description="Requests that the engine runs at once.")
    engine_dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="Number format that the engine computes in."
    )
    engine_args: str = Field("", description="Further arguments for vLLM, as on its command line.")

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def indexes(self) -> Path:
        return self.home / "indexes"

    @property
    def adapters(self) -> Path:
        return self.home / "adapters"

    @property
    def releases(self) -> Path:
        return self.home / "releases"

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def evaluations(self) -> Path:
        return self.home / "evaluations"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def keys_file(self) -> Path:
        return self.keys or self.home / "keys.yaml"

    @property
    def experiment_file(self) -> Path:
        return self.experiment or self.home / "experiment.yaml"

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.home / 'state.db'}"


def read_settings(**options: Any) -> Settings:
    """The settings, with command-line options (those that are not None) over the environment.

    Raises:
        InputError: A setting has a value it cannot take.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings(**given)
    except SettingsError as error:  # of a list that is no JSON
        name = str(error).split('"')[1].upper()
        raise InputError(f'ASSISTANT_{name} is no JSON; write a list such as ["one", "two"]') from None
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InputError(
            f"setting {name} (--{name.replace('_', '-')} or ASSISTANT_{name.upper()}) is "
            f"{first['input']!r}: {first['msg']}"
        ) from None
    return settings.model_copy(update={"home": settings.home.expanduser().resolve()})
