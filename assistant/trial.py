"""A service for one release that no customer asks: on a free port of loopback, in this process."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from assistant.access import Access
from assistant.admission import Admission
from assistant.chat import Assistant
from assistant.engine_process import free_port
from assistant.exchange import Service
from assistant.live import Live
from assistant.metrics import Metrics
from assistant.state import State
from assistant.tracing import Tracer


@contextlib.contextmanager
def served(assistant: Assistant) -> Iterator[str]:
    """The address of the service, the very one that customers use; what is asked there is not kept."""
    import uvicorn

    from assistant.service import create_app

    with tempfile.TemporaryDirectory() as scratch:
        settings = assistant.settings
        service = Service(
            live=Live(assistant),
            access=Access(Path(scratch) / "keys.yaml"),
            admission=Admission(settings.engine_concurrency, settings.queue, settings.queue_s),
            state=State(f"sqlite:///{scratch}/state.db"),
            metrics=Metrics(),
            tracer=Tracer(),
        )
        port = free_port()
        app = create_app(service, settings, secret=b"nobody's")
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()
