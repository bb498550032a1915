"""Who may ask, and how much: tenants and their keys from a YAML file, and what each has used.

tenants:
  - name: shop
    keys: ["sha256:<64 hex digits>"]
    requests_per_minute: 600      # the default
    tokens_per_day: 5000000       # by default without limit
    admin: false                  # the default
anonymous:                        # requests without a key, for each address; leave out to require one
  requests_per_minute: 20
  tokens_per_day: 200000
"""

import hashlib
import ipaddress
import logging
import math
import re
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self, cast

import yaml
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from pydantic import BaseModel, ConfigDict, PositiveInt, StringConstraints, ValidationError, model_validator

from retrieval.errors import AccessDenied, InputError, LimitReached
from retrieval.files import alone, write_text

ANONYMOUS = "anonymous"
_NAME = r"\w[\w.-]{0,63}"
_SWEEP_S = 60
_REREAD_S = 1
_log = logging.getLogger("assistant")


@dataclass(frozen=True)
class Tenant:
    name: str
    requests_per_minute: int | None
    """None is without limit."""
    tokens_per_day: int | None
    """Tokens of prompts and answers together; None is without limit."""
    admin: bool


LOCAL = Tenant("local", requests_per_minute=None, tokens_per_day=None, admin=True)
"""Everybody, where there is no file of keys."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
    keys: tuple[Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")], ...] = ()
    requests_per_minute: PositiveInt = 600
    tokens_per_day: PositiveInt | None = None
    admin: bool = False


class _Anonymous(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: PositiveInt = 20
    tokens_per_day: PositiveInt | None = 200_000


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tenants: tuple[_Entry, ...] = ()
    anonymous: _Anonymous | None = None

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [ANONYMOUS, *(entry.name for entry in self.tenants)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"the name {min(twice)} is taken; give each tenant its own")
        keys = [key for entry in self.tenants for key in entry.keys]
        if len(keys) > len(set(keys)):
            raise ValueError("a key stands in it twice; remove one")
        return self


class Access:
    """The tenants of a file, and what each has used since this process started.

    A minute and a day start with the first request after the last one ended; a changed limit starts a new count.
    """

    def __init__(self, path: Path) -> None:
        """Read the keys in `path`, and again when it changes; without such a file everybody is `LOCAL`.

        Raises:
            InputError: The file cannot be read, or is not what it should be.
        """
        self._path = path
        self._stamp = _stamp(path)
        self._check_at = time.monotonic() + _REREAD_S
        self._file = _read(path) if self._stamp else None
        self._tenants = _tenants(self._file)
        self._limiter = FixedWindowRateLimiter(_Counts())

    @property
    def open(self) -> bool:
        """Whether everybody may ask, because there is no file."""
        return self._file is None

    def tenant(self, authorization: str | None, address: str) -> Tenant:
        """Whose request this is, by its `Authorization` header.

        Raises:
            AccessDenied: It has no key and needs one, or one that is not known.
        """
        self._reread()
        if self._file is None:
            return LOCAL
        if not authorization:
            if self._file.anonymous is None:
                raise AccessDenied("a key is needed: send it in the header 'Authorization: Bearer sk-…'")
            limits = self._file.anonymous
            return Tenant(ANONYMOUS, limits.requests_per_minute, limits.tokens_per_day, admin=False)
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise AccessDenied("the header Authorization is not of the form 'Bearer sk-…'")
        tenant = self._tenants.get(_hash(key.strip()))
        if tenant is None:
            _log.warning("a key that is not known was sent from %s", address)
            raise AccessDenied("the key is not known, or no longer valid; ask for a new one")
        return tenant

    def take(self, tenant: Tenant, address: str) -> None:
        """Count a request.

        Raises:
            LimitReached: The requests of this minute, or the tokens of this day, are used up.
        """
        who = _who(tenant, address)
        if tenant.tokens_per_day is not None:
            day = RateLimitItemPerDay(tenant.tokens_per_day)
            if not self._limiter.test(day, who):
                raise self._reached(day, who, f"{tenant.tokens_per_day} tokens a day")
        if tenant.requests_per_minute is not None:
            minute = RateLimitItemPerMinute(tenant.requests_per_minute)
            if not self._limiter.hit(minute, who):
                raise self._reached(minute, who, f"{tenant.requests_per_minute} requests a minute")

    def spend(self, tenant: Tenant, address: str, tokens: int) -> None:
        """Count the tokens of a request that was answered; the last one of a day may go over its limit."""
        if tenant.tokens_per_day is not None and tokens > 0:
            self._limiter.hit(RateLimitItemPerDay(tenant.tokens_per_day), _who(tenant, address), cost=tokens)

    def _reached(self, limit: RateLimitItem, who: str, what: str) -> LimitReached:
        wait_s = max(1, math.ceil(self._limiter.get_window_stats(limit, who).reset_time - time.time()))
        return LimitReached(f"{who} has used up its {what}; try again in {wait_s} s", wait_s)

    def _reread(self) -> None:
        """Read the file again if it changed; keep what was read before if it cannot be."""
        if time.monotonic() < self._check_at:
            return
        self._check_at = time.monotonic() + _REREAD_S
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            if stamp is None:
                raise InputError(f"{self._path} is gone; write it again, or restart without it")
            self._file = _read(self._path)
            self._tenants = _tenants(self._file)
        except InputError as error:
            _log.error("the keys that were read before stay valid: %s", error)


class _Counts(MemoryStorage):
    """Counts in this process, without the library's timer.

    That starts a thread for nearly every request, and each walks all counts: .2 ms a request, and with 100,000
    addresses 14 ms of CPU. Here the first request of a minute drops the counts that have ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.timer.join()
        # The library starts no other timer while this one is alive.
        self.timer = cast(threading.Timer, threading.main_thread())
        self._sweep_at = time.time() + _SWEEP_S

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now = time.time()
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_S
            for ended in [key for key, end in list(self.expirations.items()) if end <= now]:
                self.clear(ended)
        return super().incr(key, expiry, amount)


def add_key(
    path: Path,
    name: str,
    requests_per_minute: int | None = None,
    tokens_per_day: int | None = None,
    admin: bool | None = None,
) -> str:
    """Make a key for the tenant `name`, new or not, and write its hash to `path`; the key itself is stored nowhere.

    What is None stays as it is, or is the default for a new tenant. Comments in the file are lost.

    Raises:
        InputError: The file or an argument is not what it should be.
        StorageError: The disk refused; the file is as before.
    """
    if not re.fullmatch(_NAME, name):
        raise InputError(f"{name!r} cannot name a tenant; take letters, digits, '.', '-' and '_', 64 at most")
    key = f"sk-{secrets.token_urlsafe(32)}"
    options = {"requests_per_minute": requests_per_minute, "tokens_per_day": tokens_per_day, "admin": admin}
    given = {option: value for option, value in options.items() if value is not None}
    with alone(path.parent):
        content = _read(path).model_dump(mode="json", exclude_unset=True) if path.exists() else {}
        tenants = content.setdefault("tenants", [])
        tenant = next((tenant for tenant in tenants if tenant["name"] == name), None)
        if tenant is None:
            tenant = {"name": name}
            tenants.append(tenant)
        tenant |= {"keys": [*tenant.get("keys", ()), _hash(key)], **given}
        _check(path, content)
        write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True), mode=0o600)
    return key


def _read(path: Path) -> _File:
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        # The error itself quotes the line, which may hold a key.
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"{place}: not YAML; correct it there") from None
    return _check(path, content)


def _check(path: Path, content: object) -> _File:
    try:
        return _File.model_validate(content)
    except ValidationError as error:
        # The value is left out: it may be a key.
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path}: {place}: {first['msg']}; correct it there (assistant key writes keys)") from None


def _tenants(file: _File | None) -> dict[str, Tenant]:
    """Tenants by the hashes of their keys."""
    return {
        key: Tenant(entry.name, entry.requests_per_minute, entry.tokens_per_day, entry.admin)
        for entry in (file.tenants if file else ())
        for key in entry.keys
    }


def _hash(key: str) -> str:
    """What the file holds of a key.

    A slow hash protects passwords, which can be guessed. A key is 256 random bits: nobody guesses those at any
    speed, nor learns them from how long the look-up of a hash takes.
    """
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def _who(tenant: Tenant, address: str) -> str:
    """What requests are counted by: the tenant, or without a key the address."""
    return f"{ANONYMOUS} {_network(address)}" if tenant.name == ANONYMOUS else tenant.name


def _network(address: str) -> str:
    """The address, or of IPv6 its /64: each customer has that many addresses."""
    try:
        six = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(six.ipv4_mapped or ipaddress.IPv6Address(int(six) >> 64 << 64))


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes whenever the file does; None if there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return stat.st_mtime_ns, stat.st_ino
