"""The shape of a record for people to see: its fields and message text, a placeholder for what other fields say."""

import json
import re

from assistant.redaction import redact

KEPT = 8000
"""Characters of a record that are kept: more than are shown, as they grow fewer when personal data go."""
_PRIVATE = "<PRIVATE>"
_TEXTS = frozenset(
    "messages conversations content value text instruction input output history system question answer correction "
    "reasoning reasoning_content".split()
)
"""Fields that hold what was said; `value` in ShareGPT alone, beside `from`."""
_WORDS = frozenset(
    "system developer user human assistant gpt function_call tool observation function text agent person".split()
)
"""What the formats themselves write in other fields."""
_FIELDS = re.compile(r'\s*[\[{]|[^"]*"[^"]*"\s*(?:[:,]|\Z)')
_PART = re.compile(
    r'(?P<mark>[\[\]{}:,])|(?P<string>"(?:[^"\\]|\\.)*+"?)(?P<named>(?=\s*:))?|'
    r'[^\s"\[\]{}:,](?:[^"\[\]{}:,]*[^\s"\[\]{}:,])?',
    re.DOTALL,
)
"""Of JSON, or of what was to be some."""
_REPLY = re.compile(r"(?:\s|\\[nrt])*[\[{]")
"""The start of a tool's reply, which has fields of its own."""
_BARE = re.compile(r"[-+\d.eE\s]+|true|false|null")
_ADDRESS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+%'-@"
"""Characters of an e-mail address."""


def start(text: str) -> str:
    """The start of a record, without an address that the cut may have halved: a half is not recognised."""
    if len(text) <= KEPT:
        return text
    kept = text[:KEPT].rstrip(_ADDRESS)
    return kept.rstrip(" @").rstrip(_ADDRESS) if kept.rstrip().endswith("@") else kept


def shape(text: str) -> str:
    """A record without what its fields say, but for numbers and message text; text that has no fields as it is.

    It may be cut off, or broken: where it is not clear what is a field and what is text, it is taken for a field.
    """
    if not _FIELDS.match(text):
        return text
    texts = _TEXTS if '"from"' in text else _TEXTS - {"value"}
    parts, end, field, mark = [], 0, "", ""
    for part in _PART.finditer(text):
        shown = part[0]
        if part["mark"]:
            mark = shown
        elif part["named"] is not None and mark != ":":
            field = shown.strip('"')
        elif part["string"]:
            said = shown.strip('"')
            shown = shown if _is_shown(said, field in texts) else f'"{_PRIVATE}"'
        elif not _BARE.fullmatch(shown):
            shown = _PRIVATE
        parts += [text[end : part.start()], shown]
        end = part.end()
    return "".join(parts) + text[end:]


def _is_shown(said: str, is_text: bool) -> bool:
    if said in _WORDS or not any(map(str.isalpha, said)):
        return True
    return is_text and not _REPLY.match(said)


def quoted(value: object) -> str:
    """A value from a log as it stands in a reason, without personal data, cut to 40 characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = redact(shape(start(text)))
    return f"'{text[:40]}…'" if len(text) > 40 else f"'{text}'"
