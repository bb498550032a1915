import socket
import threading
import time

from assistant.serve import _wait_for


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
