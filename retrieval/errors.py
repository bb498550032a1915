"""Every error that a user of the assistant can meet.

    SupportError
    ├── InputError          a file, line, setting or argument is not what it should be
    ├── ModelError          a model folder or package is missing, changed or of the wrong kind
    ├── IndexDamaged        an index does not match its manifest
    ├── NotReady            a part that the command needs was not built yet
    ├── StorageError        the disk refused a write
    └── EngineError         the language model engine did not start, died, or refused a request
        └── EngineUnavailable   it cannot be reached now; the same request may succeed later

A message names the value, the place and the remedy. Only `assistant/service.py` turns these into HTTP
statuses, and only `assistant/cli.py` into exit codes.
"""


class SupportError(Exception):
    """Base of all errors above."""


class InputError(SupportError):
    pass


class ModelError(SupportError):
    pass


class IndexDamaged(SupportError):
    pass


class NotReady(SupportError):
    pass


class StorageError(SupportError):
    pass


class EngineError(SupportError):
    pass


class EngineUnavailable(EngineError):
    pass
