import json
from collections import Counter
from dataclasses import replace

import pytest

from assistant.prompt import Message
from finetune.cleaning.learnable import redacted_record, turns
from finetune.logs.conversations import Conversation
from finetune.turns import Turn, turn_of

ASKED, TOLD = "How long for a refund?", "You can request a refund within 90 days. Anything else?"
CALL = {"id": "c1", "type": "function", "function": {"name": "card", "arguments": '{"number": 4111111111111111}'}}


def log(*said: str, **fields: object) -> Conversation:
    messages = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said))
    return Conversation("logs.jsonl:1", messages, **fields)


def learned(conversation: Conversation) -> tuple[list[Turn], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(turns(conversation, counts, {})), counts


def test_every_answer_is_a_turn_with_what_was_said_before() -> None:
    found, counts = learned(log(ASKED, TOLD, "And the fee?", "It is 2 EUR.", agent="agent-07"))
    assert [len(turn.conversation) for turn in found] == [1, 3]
    assert [turn.question for turn in found] == [ASKED, "And the fee?"]
    assert {turn.source for turn in found} == {"agent"}
    assert counts == {"conversations: kept": 1}
    assert {turn.author for turn in found} == {"agent 1"} and "agent-07" not in str(found)


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


def test_agents_are_numbered_as_they_appear_since_a_hash_of_a_name_can_be_guessed() -> None:
    authors: dict[str, str] = {}
    logs = [log(ASKED, TOLD, agent=name) for name in ("Lars Berg", "Mia Lund", "Lars Berg")] + [log(ASKED, TOLD)]
    found = [turn.author for each in logs for turn in turns(each, Counter(), authors)]
    assert found == ["agent 1", "agent 2", "agent 1", None]


def test_what_the_system_noted_between_question_and_answer_does_not_hide_the_question() -> None:
    """The answer after "Ticket assigned to Anna" made no turn, and no count told."""
    said = ("system", "Be kind."), ("user", ASKED), ("system", "Ticket assigned to Anna"), ("assistant", TOLD)
    (turn,), counts = learned(Conversation("logs.jsonl:1", tuple(Message(*each) for each in said)))
    assert [message.content for message in turn.conversation] == ["Be kind.", ASKED]
    assert (turn.answer.content, counts) == (TOLD, {"conversations: kept": 1})


def test_a_conversation_without_an_answer_is_counted() -> None:
    for said in (("user", ASKED), ("user", "And the fee?")), (("assistant", TOLD), ("user", "thanks")):
        messages = tuple(Message(*each) for each in said)
        assert learned(Conversation("logs.jsonl:1", messages)) == ([], {"conversations: nothing answered": 1})


@pytest.mark.parametrize(
    "fields",
    [
        {"origin": "assistant", "rating": 1},
        {"origin": "assistant", "thumb": "down", "resolved": False},
        {"rating": 1, "resolved": False},
    ],
)
def test_a_correction_is_learned_however_badly_the_conversation_went(fields: dict[str, object]) -> None:
    """What a customer was unhappy with was left out before anybody looked at its correction."""
    (turn,), counts = learned(log(ASKED, TOLD, "And the fee?", "It is 3 EUR.", correction="It is 2 EUR.", **fields))
    assert (turn.question, turn.answer.content, turn.source) == ("And the fee?", "It is 2 EUR.", "correction")
    assert counts["conversations: kept"] == 1
    assert sum(count for what, count in counts.items() if what.startswith("turns: ")) == 1


def test_a_correction_replaces_the_last_answer_of_an_agent_too() -> None:
    found, _ = learned(log(ASKED, TOLD, "And the fee?", "It is 3 EUR.", thumb="down", correction="It is 2 EUR."))
    assert [(turn.answer.content, turn.source) for turn in found] == [(TOLD, "agent"), ("It is 2 EUR.", "correction")]


def test_an_agents_answer_that_was_disliked_is_not_learned_without_a_correction() -> None:
    (turn,), counts = learned(log(ASKED, TOLD, "And the fee?", "It is 3 EUR.", thumb="down"))
    assert turn.answer.content == TOLD
    assert counts == {"conversations: kept": 1, "turns: disliked and not corrected": 1}


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


def test_a_tools_reply_keeps_nothing_that_its_fields_say_is_personal_and_its_names_go_everywhere() -> None:
    """Replies were redacted as prose, which says of no field what it holds: names and passwords were learned."""
    reply = {"account": {"holder": "JOHN SMITH", "姓名": "张伟"}, "password": "hunter-two", "pin": "4821", "days": 5}
    messages = (
        Message("user", "Whose is it?"),
        Message("assistant", "", (CALL,)),
        Message("tool", json.dumps(reply, ensure_ascii=False), tool_call_id="c1"),
        Message("assistant", "The holder is John Smith, with 张伟."),
    )
    (_, turn), counts = learned(Conversation("logs.jsonl:1", messages))
    private = "<PRIVATE>"
    assert json.loads(turn.conversation[-1].content) == {
        "account": {"holder": private, "姓名": private},
        "password": private,
        "pin": private,
        "days": 5,
    }
    assert turn.answer.content == "The holder is <NAME_1>, with <NAME_2>."
    assert counts == {"conversations: kept": 1, "redacted: NAME": 2, "redacted: CARD": 1}


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ({"product": {"name": "Priority Pass"}}, "You have the Priority Pass."),
        ({"name": "余额宝"}, "可以用余额宝付款。"),
        ({"customer": {"name": "Anna Schmidt"}}, "It went to <NAME_1>."),
        ({"recipient_name": "Anna Schmidt"}, "It went to <NAME_1>."),
        ({"firstName": "Anna", "lastName": "Schmidt"}, "It went to <NAME_1>."),
    ],
)
def test_a_name_in_a_reply_is_a_persons_if_its_fields_say_so(reply: dict, answer: str) -> None:
    said = answer.replace("<NAME_1>", "Anna Schmidt")
    tool = Message("tool", json.dumps(reply), tool_call_id="c1")
    messages = (Message("user", ASKED), Message("assistant", "", (CALL,)), tool, Message("assistant", said))
    assert learned(Conversation("logs.jsonl:1", messages))[0][-1].answer.content == answer


@pytest.mark.parametrize("customer", ["Anna Schmidt", "ANNA SCHMIDT"])
def test_the_customers_name_that_the_log_states_goes_from_what_is_said(customer: str) -> None:
    """No pattern knows a greeting's name, and the adapter learned it."""
    said = (Message("user", ASKED), Message("assistant", "Hi Anna Schmidt, a refund takes 5 business days."))
    (turn,), _ = learned(Conversation("logs.jsonl:1", said, customer=customer))
    assert turn.answer.content == "Hi <NAME_1>, a refund takes 5 business days."


@pytest.mark.parametrize("reply", ['{"days": 5,  "open": true}', "[1, 2]", "sent", "{not JSON", "[" * 600 + "]" * 600])
def test_a_reply_without_personal_data_stays_as_it_was(reply: str) -> None:
    messages = (Message("user", ASKED), Message("assistant", "", (CALL,)), Message("tool", reply, tool_call_id="c1"))
    *_, turn = learned(Conversation("logs.jsonl:1", (*messages, Message("assistant", TOLD))))[0]
    assert turn.conversation[-1].content == reply


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            '{"customer": "Anna Schmidt", "agent": "Lars Berg", "password": "hunter-two", "messages": []}',
            '{"customer": "<PRIVATE>", "agent": "<PRIVATE>", "password": "<PRIVATE>", "messages": []}',
        ),
        (
            '{"at": "2026-01-31", "messages": [{"role": "user", "content": "Why?"}, {"from": "Lars", "value": "So',
            '{"at": "####-##-##", "messages": [{"role": "user", "content": "Why?"}, {"from": "<PRIVATE>", "value": "So',
        ),
        ('{"content": "{\\"holder\\": \\"Anna\\"}"}', '{"content": "<PRIVATE>"}'),
        ('{"tags": ["Anna", 12, true], "rating": good}', '{"tags": ["<PRIVATE>", ##, true], "rating": <PRIVATE>}'),
        ('{"content": "Hi, "customer": "Anna"}', '{"content": "Hi, "<PRIVATE>": "<PRIVATE>"}'),
        ("this line is no JSON", "this line is no JSON"),
        ('"Anna Schmidt, Hill Road"', '"<PRIVATE>"'),
        ('{"custom_fields": [{"id": 1, "value": "Anna"}]}', '{"custom_fields": [{"id": #, "value": "<PRIVATE>"}]}'),
        ('{"content": "\\n{\\"holder\\": \\"Anna\\"}"}', '{"content": "<PRIVATE>"}'),
    ],
    ids=[
        "fields",
        "cut off",
        "a tool's reply",
        "no text",
        "a quote too few",
        "prose",
        "a string",
        "other values",
        "a reply",
    ],
)
def test_of_a_record_that_could_not_be_read_people_see_the_shape_and_the_text(text: str, shown: str) -> None:
    assert redacted_record(text) == shown


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
