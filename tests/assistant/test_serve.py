import json
import socket
import threading
import time
from pathlib import Path

import pytest

from assistant import releases
from assistant.serve import _wait_for, merged_folder, serve
from assistant.settings import Settings
from retrieval.errors import NotReady


def test_what_is_done_when_ready_waits_until_the_port_accepts() -> None:
    """The three questions of `assistant run` were asked before the server listened, and died on a fast machine."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    port = server.getsockname()[1]
    waiting = threading.Thread(target=_wait_for, args=("127.0.0.1", port), daemon=True)
    waiting.start()
    time.sleep(0.2)
    assert waiting.is_alive()
    server.listen()
    waiting.join(5)
    assert not waiting.is_alive()
    server.close()


def test_a_merged_model_is_served_from_its_folder_and_a_whole_one_from_its_own(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(NotReady, match="a1 is not merged yet; run: assistant merge a1"):
        merged_folder(settings, "a1")
    (tmp_path / "models" / "a1-merged").mkdir(parents=True)
    assert merged_folder(settings, "a1") == tmp_path / "models" / "a1-merged"
    (tmp_path / "adapters" / "a1").mkdir(parents=True)
    (tmp_path / "adapters" / "a1" / "config.json").write_text("{}")
    assert merged_folder(settings, "a1") == tmp_path / "adapters" / "a1"


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"served": "merged"}, "vLLM serves a1 only merged into its base; run: assistant serve --merged"),
        (
            {"served": "nowhere", "recipe": {"peft": {"peft_type": "PROMPT_TUNING"}}},
            "vLLM cannot serve a1, which is of kind PROMPT_TUNING; make another release live",
        ),
    ],
)
def test_an_adapter_that_vllm_cannot_serve_is_refused_before_the_engine_starts(
    tmp_path: Path, record: dict, told: str
) -> None:
    settings = Settings(home=tmp_path, port=0)
    releases.publish(settings.releases, index="i1", adapter="a1", base=settings.base, prompt="p1")
    (tmp_path / "adapters" / "a1").mkdir(parents=True)
    (tmp_path / "adapters" / "a1" / "training.json").write_text(json.dumps(record))
    with pytest.raises(NotReady, match=told):
        serve(settings, lambda url: None, lambda text: None)
