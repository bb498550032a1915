"""Every error that a user of the assistant can meet.

    SupportError
    ├── InputError          a file, line, setting or argument is not what it should be
    │   └── UnknownReply        feedback is about a reply that was never recorded, or is deleted by now
    ├── ModelError          a model folder or package is missing, changed or of the wrong kind
    ├── IndexDamaged        an index does not match its manifest
    ├── NotReady            a part that the command needs was not built yet
    ├── StorageError        the disk or the database refused a write
    ├── AccessDenied        a request has no key, or one that is not known
    ├── LimitReached        a tenant or an address has used up its requests or tokens, for a while
    ├── Overloaded          more requests are waiting than can be answered in time
    └── EngineError         the language model engine did not start, died, or refused a request
        └── EngineUnavailable   it cannot be reached now; the same request may succeed later

A message names the value, the place and the remedy. Only `assistant/service.py` turns these into HTTP
statuses, and only `assistant/cli.py` into exit codes.
"""


class SupportError(Exception):
    """Base of all errors above."""


class InputError(SupportError):
    pass


class UnknownReply(InputError):
    pass


class ModelError(SupportError):
    pass


class IndexDamaged(SupportError):
    pass


class NotReady(SupportError):
    pass


class StorageError(SupportError):
    pass


class AccessDenied(SupportError):
    pass


class LimitReached(SupportError):
    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(SupportError):
    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineError(SupportError):
    pass


class EngineUnavailable(EngineError):
    pass
