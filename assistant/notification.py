"""What happened, told to an address of the operator's: one signed POST, which the receiver verifies.

Assistant-Event: nightly.promoted
Assistant-Id: 3f0c2a9d1b7e                      the same for the same event; a receiver drops what it has had
Assistant-Signature: t=1764000000,v1=<hex HMAC-SHA256 of "1764000000.<body>">
"""

import hmac
import http.client
import ipaddress
import json
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from assistant.redaction import Redactor, redacted_value
from retrieval.files import content_id

_TIMEOUT_S = 10
_PAUSES_S = (1, 4)
"""Between the attempts: one more than there are pauses."""
_SIGNATURE = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")
_log = logging.getLogger("assistant")


def notify(url: str, secret: str, event: Mapping[str, Any]) -> str | None:
    """Post `event`, a JSON object without personal data, to `url`; return why it failed, None if it was taken.

    Its field `event` names it, such as `nightly.promoted`. Two events with the same content have the same id, so
    give each something of its own, such as the night's id. Nothing is raised: what is told about went well or badly
    already.
    """
    content = redacted_value(dict(event), Redactor())
    name = str(content.get("event", "notice"))
    failed = _send(url, secret, name, json.dumps(content, default=str).encode())
    if failed:
        _log.warning("the notification %s was not delivered: %s", name, failed)
    return failed


def verify(secret: str, header: str, body: bytes, now: float, tolerance_s: float = 300) -> bool:
    """Whether `body` came from who knows `secret`, within `tolerance_s` of `now`; `header` is `Assistant-Signature`."""
    match = _SIGNATURE.fullmatch(header)
    if match is None or not secret:
        return False
    genuine = hmac.compare_digest(match[2], _signature(secret, match[1], body))
    return genuine and abs(now - int(match[1])) <= tolerance_s


def _signature(secret: str, at: str, body: bytes) -> str:
    return hmac.digest(secret.encode(), at.encode() + b"." + body, "sha256").hex()


def _send(url: str, secret: str, name: str, body: bytes) -> str | None:
    try:
        address = urlsplit(url)
        port = f":{address.port}" if address.port else ""
        place = f"{address.scheme}://{address.hostname}{port}"  # a path or a user may be a secret of the receiver's
        local = _is_loopback(address.hostname or "")
    except ValueError:
        return "its address cannot be read; give one such as https://hooks.example/assistant"
    if address.scheme != "https" and not (address.scheme == "http" and local):
        return f"{place} is not safe to send to; give an address that begins with https://"
    if not secret:
        return "it has no secret to be signed with; give the one that the receiver verifies with"
    # A redirect would take the event to an address that nobody named, and a proxy does not reach this machine.
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({} if local else None))
    for pause_s in (*_PAUSES_S, None):
        at = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "Assistant-Event": name,
            "Assistant-Id": content_id(body.decode()),
            "Assistant-Signature": f"t={at},v1={_signature(secret, at, body)}",
        }
        try:
            with opener.open(urllib.request.Request(url, body, headers), timeout=_TIMEOUT_S):
                return None
        except urllib.error.HTTPError as error:
            error.close()
            failed = f"{place} answered {error.code}"
            if error.code < 500:
                return f"{failed}; check the address and the secret"
        except (http.client.InvalidURL, ValueError):
            return f"the address at {place}, or the name {name!r}, cannot stand in a request; correct it"
        except (http.client.HTTPException, OSError) as error:
            failed = f"{place} cannot be reached ({_reason(error)})"
        if pause_s is not None:
            time.sleep(pause_s)
    return f"{failed}, {len(_PAUSES_S) + 1} times; the receiver has to be looked at"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", None)
    return str(inner or error) or type(error).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
