"""What the commands share: the options that override settings, and how they print."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from assistant.settings import Settings

_Command = Callable[..., Any]
existing = click.Path(path_type=Path)


def settings_options(*names: str) -> Callable[[_Command], _Command]:
    """Options that override settings of the same name; `--home` is always one."""

    def decorate(command: _Command) -> _Command:
        known = {
            "home": click.option("--home", type=existing, help="Where everything lives [ASSISTANT_HOME]."),
            "base": click.option(
                "--base",
                help="Base language model: smollm2-135m (default), gemma3-270m, a folder or a hub id [ASSISTANT_BASE].",
            ),
            "encoder": click.option(
                "--encoder", help="Text encoder: multilingual-e5-small (default), a folder or a hub id."
            ),
            "reranker": click.option("--reranker", help="Cross-encoder that reorders the best passages."),
            "false_miss_rate": click.option(
                "--false-miss-rate", type=float, help="Share of answered questions that may be missed (default: 0.05)."
            ),
            "small_index": click.option(
                "--small-index", is_flag=True, default=None, help="A quarter of the memory, slightly less exact."
            ),
            "host": click.option("--host", help="Address to listen on (default: 127.0.0.1)."),
            "port": click.option("--port", type=int, help="Port to listen on (default: 8000)."),
            "merged": click.option(
                "--merged",
                is_flag=True,
                default=None,
                help="Serve the adapter merged into its base: faster on a CPU, without the other arms.",
            ),
            "engine_url": click.option(
                "--engine-url", help="Use this OpenAI-compatible engine instead of starting vLLM."
            ),
        }
        for name in reversed(("home", *names)):
            command = known[name](command)
        return command

    return decorate


def read(options: dict[str, Any]) -> "Settings":
    """The settings, with a command's options over them."""
    from assistant.settings import read_settings

    return read_settings(**options)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=1))


api_key_option = click.option(
    "--api-key", envvar="ASSISTANT_API_KEY", help="Where the service needs one [ASSISTANT_API_KEY]."
)


def share_cores() -> None:
    """Let idle threads of torch and FAISS sleep instead of spin; each has an OpenMP runtime of its own.

    Must come before either is imported. Training alone is a fifth faster with spinning threads.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def forget_shapes() -> None:
    """Let oneDNN keep the code for few shapes of a product: rows have hundreds of lengths, and most seldom come again.

    Must come before torch is imported. It keeps 1,024 by itself, over which the memory of a training grows by gibibytes
    and its speed falls.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


def live_adapter(settings: "Settings") -> str:
    """The adapter of the live release.

    Raises:
        NotReady: There is none.
    """
    from assistant.releases import live
    from retrieval.errors import NotReady

    adapter = live(settings.releases).adapter
    if adapter is None:
        raise NotReady("there is no adapter yet; run: assistant train --logs FILE")
    return adapter
