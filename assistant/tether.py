"""Runs a command that must not outlive its parent, even one that is killed.

    python -m assistant.tether COMMAND …

The parent holds the other end of standard input. When that ends, the whole process group is killed.
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    # The command gets signals to the group too, and how it ends is passed on; an ignored signal would be inherited.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_until_the_parent_ends, daemon=True).start()
    sys.exit(child.wait())


def _until_the_parent_ends() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
