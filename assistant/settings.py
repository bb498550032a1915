"""Every setting, read once and passed on: environment variables `ASSISTANT_…`, then command-line options."""

from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

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
    def logs(self) -> Path:
        return self.home / "logs"


def read_settings(**options: Any) -> Settings:
    """The settings, with command-line options (those that are not None) over the environment.

    Raises:
        InputError: A setting has a value it cannot take.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InputError(
            f"setting {name} (--{name.replace('_', '-')} or ASSISTANT_{name.upper()}) is "
            f"{first['input']!r}: {first['msg']}"
        ) from None
    return settings.model_copy(update={"home": settings.home.expanduser().resolve()})
