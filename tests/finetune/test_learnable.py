import json
from collections import Counter
from dataclasses import replace

from assistant.prompt import Message
from finetune.cleaning.learnable import turns
from finetune.logs.conversations import Conversation
from finetune.turns import Turn, turn_of

ASKED, TOLD = "How long for a refund?", "You can request a refund within 90 days. Anything else?"
CALL = {"id": "c1", "type": "function", "function": {"name": "card", "arguments": '{"number": 4111111111111111}'}}


def log(*said: str, **fields: object) -> Conversation:
    messages = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said))
    return Conversation("logs.jsonl:1", messages, **fields)


def learned(conversation: Conversation) -> tuple[list[Turn], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(turns(conversation, counts)), counts


def test_every_answer_is_a_turn_with_what_was_said_before() -> None:
    found, counts = learned(log(ASKED, TOLD, "And the fee?", "It is 2 EUR.", agent="agent-07"))
    assert [len(turn.conversation) for turn in found] == [1, 3]
    assert [turn.question for turn in found] == [ASKED, "And the fee?"]
    assert {turn.source for turn in found} == {"agent"}
    assert counts == {"conversations: kept": 1}
    assert len({turn.author for turn in found}) == 1 and "agent-07" not in str(found)


def test_badly_rated_and_unresolved_conversations_are_left_out() -> None:
    for conversation in (log(ASKED, TOLD, rating=2), log(ASKED, TOLD, resolved=False)):
        assert learned(conversation) == ([], {"conversations: unresolved or rated badly": 1})
    assert len(learned(log(ASKED, TOLD, rating=3, resolved=True))[0]) == 1


def test_what_the_assistant_said_is_not_learned_unless_somebody_stands_behind_it() -> None:
    own = log(ASKED, TOLD, "And the fee?", "It is 3 EUR.", origin="assistant")
    unverified = "turns: the assistant's own, unverified"
    assert learned(own) == ([], {"conversations: kept": 1, unverified: 2})
    for unconvincing in ({"thumb": "up"}, {"thumb": "down", "resolved_by_person": True}):
        assert learned(replace(own, **unconvincing))[0] == []
    (confirmed,), counts = learned(replace(own, thumb="up", resolved_by_person=True))
    assert (confirmed.answer.content, confirmed.source, counts[unverified]) == ("It is 3 EUR.", "confirmed", 1)
    (corrected,), _ = learned(replace(own, thumb="down", correction="It is 2 EUR."))
    assert (corrected.answer.content, corrected.source) == ("It is 2 EUR.", "correction")
    assert corrected.question == "And the fee?"


def test_a_correction_holds_no_personal_data() -> None:
    (turn,), _ = learned(log(ASKED, TOLD, origin="assistant", correction="Sent to 4111 1111 1111 1111."))
    assert turn.answer.content == "Sent to <CARD_1>."


def test_personal_data_are_taken_out_of_messages_and_tool_calls_alike() -> None:
    card = "4111 1111 1111 1111"
    messages = (
        Message("user", f"Is {card} blocked?"),
        Message("assistant", "", (CALL,), reasoning=f"look up {card}"),
        Message("tool", f'{{"card": "{card}", "blocked": true}}', tool_call_id="c1"),
        Message("assistant", f"Yes, {card} is blocked."),
    )
    found, counts = learned(Conversation("logs.jsonl:1", messages, tools=({"type": "function"},)))
    assert "4111" not in str(found)
    call, answer = found
    assert call.answer.tool_calls[0]["function"]["arguments"] == '{"number": "<CARD_1>"}'
    assert answer.conversation[-1].tool_call_id == call.answer.tool_calls[0]["id"] == "call_1"
    assert (call.answer.reasoning, answer.answer.content) == ("look up <CARD_1>", "Yes, <CARD_1> is blocked.")
    assert counts["redacted: CARD"] == 5
    assert answer.conversation[-1].role == "tool"


def test_a_card_that_goes_on_in_the_next_message_is_found() -> None:
    found, _ = learned(log("my card is 4111 1111", "And the rest?", "1111 1111, is it blocked?", TOLD))
    assert "1111" not in str(found)


def test_a_turn_comes_back_from_json_as_it_was() -> None:
    messages = (Message("user", ASKED), Message("assistant", "", (CALL,)), Message("tool", "no", tool_call_id="c1"))
    turn = Turn(messages, Message("assistant", TOLD), "a:1", tools=({"type": "function"},))
    assert turn_of(json.loads(json.dumps(turn.as_dict()))) == turn


def test_arguments_that_are_personal_by_their_name_and_tool_schemas_are_redacted_too() -> None:
    arguments = '{"cvv": "123", "holder": "John Smith", "amount": 12.5, "urgent": true, "name": "张伟"}'
    call = {"id": "4111111111111111", "type": "function", "function": {"name": "pay", "arguments": arguments}}
    tool = {"type": "function", "function": {"name": "pay", "description": "ask jane@example.com"}}
    messages = (Message("user", "Pay it"), Message("assistant", "", (call,)))
    (turn,), _ = learned(Conversation("logs.jsonl:1", messages, tools=(tool,)))
    (kept,) = turn.answer.tool_calls
    private = "<PRIVATE>"
    assert json.loads(kept["function"]["arguments"]) == {
        "cvv": private,
        "holder": private,
        "amount": 12.5,
        "urgent": True,
        "name": private,
    }
    assert kept["id"] == "call_1"
    assert turn.tools[0]["function"] == {"name": "pay", "description": "ask <EMAIL_1>"}


def test_messages_that_one_side_sent_in_a_row_are_one() -> None:
    """Of two answers in a row the first, a greeting, was taken, and the second, the answer, lost without a count."""
    messages = (
        Message("user", "hi"),
        Message("user", ASKED),
        Message("assistant", "Hello!"),
        Message("assistant", TOLD),
    )
    (turn,), _ = learned(Conversation("logs.jsonl:1", messages))
    assert (turn.question, turn.answer.content) == (f"hi\n{ASKED}", f"Hello!\n{TOLD}")
