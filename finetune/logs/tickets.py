"""CSV exports of ticket systems as conversations: a ticket a row, or a message a row."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from finetune.logs.columns import Columns, usable
from finetune.logs.conversations import BadLine, Conversation
from finetune.logs.formats import conversation, moment
from finetune.logs.records import LONGEST, Record, shown
from finetune.logs.shape import quoted
from finetune.logs.tables import Table, written

_ROLES = {
    **dict.fromkeys(("user", "customer", "client", "end-user", "requester", "visitor"), "user"),
    **dict.fromkeys(("客户", "用户", "顾客", "访客"), "user"),
    **dict.fromkeys(("assistant", "agent", "support", "staff", "operator"), "assistant"),
    **dict.fromkeys(("客服", "坐席", "人工", "人工客服"), "assistant"),
    **dict.fromkeys(("system", "系统"), "system"),
}
_FIELDS = ("at", "customer", "agent", "rating", "resolved")


def tickets(table: Table, columns: Columns | None, name: str) -> Iterator[Conversation | BadLine]:
    """The conversations of an export; without `columns`, by the usual names of columns.

    The rows of a ticket must follow one another; they are put in the order of their times, where each has one. A ticket
    with a bad row is set aside as a whole. Names of the tickets so far are kept in memory.

    Raises:
        InputError: The table lacks the columns; the message names those that it has.
    """
    if not table.header:
        return
    columns = usable(columns, table.header, name)
    if columns.question:
        for row in table.rows:
            yield row if isinstance(row, BadLine) else _single(row, columns)
        return
    seen: set[str] = set()
    for ticket in _grouped(table.rows, columns):
        if isinstance(ticket, BadLine):
            yield ticket
        elif ticket.name in seen:
            reason = f"ticket {quoted(ticket.name)} has rows further up, too; sort the export by {columns.conversation}"
            yield replace(ticket.bad(ticket.place, reason, columns), lost="rows")
        else:
            seen.add(ticket.name)
            yield _ticket(ticket, columns)


@dataclass
class _Ticket:
    name: str
    place: str
    rows: list[Record] = field(default_factory=list)
    count: int = 0
    size: int = 0
    """Characters of its rows."""
    fault: tuple[str, str] | None = None
    """Place and reason of the first bad row."""

    def bad(self, place: str, reason: str, columns: Columns) -> BadLine:
        return BadLine(place, reason, _written(self.rows, columns), self.count)


def _grouped(rows: Iterator[Record | BadLine], columns: Columns) -> Iterator[_Ticket | BadLine]:
    """The tickets, one after the other; rows of which the ticket is not known are bad lines by themselves."""
    ticket = _Ticket("", "")
    fault: tuple[str, str] | None = None
    for row in rows:
        cells = {} if isinstance(row, BadLine) else row.value
        name = cells.get(columns.conversation, "").strip()
        if isinstance(row, BadLine) or not name:
            reason = row.reason if isinstance(row, BadLine) else f"nothing in column {quoted(columns.conversation)}"
            # It may belong to the ticket before or after it, and with a gap answers would be to other questions.
            fault = (row.place, f"a row of it may be lost here: {reason}")
            ticket.fault = ticket.fault or fault
            text = row.text if isinstance(row, BadLine) else _written([row], columns)
            yield BadLine(row.place, reason, text, lost="rows")
            continue
        if ticket.name != name:
            if ticket.count:
                yield ticket
            ticket = _Ticket(name, row.place, fault=fault)
        fault = None
        ticket.count += 1
        ticket.size += sum(map(len, cells.values()))
        if ticket.size <= LONGEST:
            ticket.rows.append(row)
        else:
            reason = f"longer than {LONGEST >> 20} MB; is its number in column {quoted(columns.conversation)}?"
            ticket.fault = ticket.fault or (ticket.place, reason)
    if ticket.count:
        yield ticket


def _single(row: Record, columns: Columns) -> Conversation | BadLine:
    cells = row.value
    messages = [
        {"role": "user", "content": cells[columns.question]},
        {"role": "assistant", "content": cells[columns.answer]},
    ]
    found = conversation(Record(row.place, {**_fields(cells, columns), "messages": messages}, row.text))
    return found if isinstance(found, Conversation) else replace(found, text=_written([row], columns))


def _ticket(ticket: _Ticket, columns: Columns) -> Conversation | BadLine:
    if ticket.fault:
        return ticket.bad(*ticket.fault, columns)
    messages: list[tuple[Any, dict[str, str]]] = []
    fields: dict[str, Any] = {}
    for row in ticket.rows:
        cell = row.value[columns.role].strip()
        role = columns.values.role.get(cell.lower()) or _ROLES.get(cell.lower())
        if role is None:
            known = "values: {role: {" + quoted(cell) + ": user}}"
            return ticket.bad(row.place, f"{quoted(cell)} is no known role; map it, for instance {known}", columns)
        if role == "skip":
            continue
        found = _fields(row.value, columns)
        # A column of authors names both sides.
        found.pop("agent" if role != "assistant" else "customer", None)
        try:
            at = moment(found["at"]) if "at" in found else None
        except ValueError as error:
            return ticket.bad(row.place, f"{columns.at}: {error}", columns)
        fields = {**fields, **found, "at": fields.get("at") or at}
        messages.append((at, {"role": role, "content": row.value[columns.content]}))
    if all(at for at, _ in messages):
        messages.sort(key=lambda message: message[0])
        fields["at"] = messages[0][0] if messages else None
    value = {**fields, "messages": [message for _, message in messages]}
    made = conversation(Record(ticket.place, value, ""))
    if isinstance(made, BadLine):
        return ticket.bad(made.place, made.reason, columns)
    return replace(made, rows=ticket.count)


def _written(rows: Iterable[Record], columns: Columns) -> str:
    """The start of rows as JSON, columns of text by their usual names."""
    usual = {columns.question: "question", columns.answer: "answer", columns.content: "content"}
    named = ({usual.get(name, name): cell for name, cell in row.value.items()} for row in rows)
    return shown("\n".join(map(written, named)))


def _fields(cells: Mapping[str, str], columns: Columns) -> dict[str, Any]:
    """What a row says of its conversation, beside the messages; empty cells say nothing."""
    values: dict[str, Mapping[str, object]] = {"rating": columns.values.rating, "resolved": columns.values.resolved}
    fields = {}
    for part in _FIELDS:
        column = getattr(columns, part)
        text = cells[column].strip() if column else ""
        value = values.get(part, {}).get(text.lower(), text)
        if value not in (None, ""):
            fields[part] = value
    return fields
