import random
from datetime import UTC, datetime

from assistant.prompt import Message
from finetune.cleaning.topics import LEAST_KEPT, capped, report, topics
from finetune.turns import Source, Turn

TOPICS = {
    "refund": ("When is my refund here? ({})", "The refund takes days."),
    "退款": ("退款什么时候到？（{}）", "退款需要几天。"),
    "fee": ("Which fee do you charge? ({})", "The fee is small."),
    "card": ("Where is my card? ({})", "The card is in the post."),
}


def turn(topic: str, number: int, source: Source = "agent") -> Turn:
    question, answer = TOPICS[topic]
    at = datetime(2026, 10, 1 + number % 28, tzinfo=UTC)
    place = f"{topic}:{number}"
    return Turn((Message("user", question.format(number)),), Message("assistant", answer), place, at, source=source)


def logged(**counts: int) -> list[Turn]:
    return [turn(topic, number) for topic, count in counts.items() for number in range(count)]


def test_turns_about_one_thing_are_one_topic_the_largest_first(keywords) -> None:
    turns = logged(refund=10, fee=6, card=4)
    found = topics(turns, keywords.queries, most=3)
    assert [topic.size for topic in found] == [10, 6, 4]
    assert [topic.share for topic in found] == [0.5, 0.3, 0.2]
    assert [{turns[i].place.split(":")[0] for i in topic.members} for topic in found] == [{"refund"}, {"fee"}, {"card"}]


def test_a_topic_is_named_by_the_words_that_tell_it_from_the_others(keywords) -> None:
    found = topics(logged(refund=10, fee=6, card=4), keywords.queries, most=3)
    assert [topic.label.split(" · ")[0] for topic in found] == ["refund", "fee", "card"]
    (chinese, english) = topics(logged(退款=40) + logged(fee=30), lambda texts: by_language(texts), most=2)
    assert "退款" in chinese.label and "fee" in english.label


def by_language(texts: list[str]):
    """Vectors that differ by whether the text is about a refund, beside noise that does not depend on it."""
    import numpy as np

    vectors = np.array([[1, 0] if "退款" in text else [0, 1] for text in texts], dtype=np.float32)
    return vectors + np.array([[0, 0.01 * (len(text) % 3)] for text in texts], dtype=np.float32)


def test_members_and_counts_add_up_whatever_the_order(keywords) -> None:
    turns = logged(refund=10, fee=6, card=4, 退款=5)
    shuffled = random.Random(7).sample(turns, len(turns))
    one, other = topics(turns, keywords.queries), topics(shuffled, keywords.queries)
    assert sorted(i for topic in one for i in topic.members) == list(range(25))
    assert [(topic.label, topic.size) for topic in one] == [(topic.label, topic.size) for topic in other]
    assert {frozenset(turns[i].place for i in topic.members) for topic in one} == {
        frozenset(shuffled[i].place for i in topic.members) for topic in other
    }


def test_no_turns_have_no_topics_and_few_have_one(keywords) -> None:
    assert topics([], keywords.queries) == []
    (only,) = topics(logged(refund=2), keywords.queries)
    assert (only.size, only.share) == (2, 1.0)


def test_a_large_topic_is_cut_to_its_share_of_what_stays(keywords) -> None:
    turns = logged(refund=100, fee=30, card=20)
    kept = capped(turns, topics(turns, keywords.queries, most=3), 0.5, least=1)
    assert len(kept) == 100  # 50 of 100 refunds, with 30 and 20 of the others
    assert sum("refund" in each.place for each in kept) == 50
    assert kept == [each for each in turns if each in kept]


def test_a_cap_leaves_every_topic_fifty_turns(keywords) -> None:
    turns = logged(refund=100, fee=3)
    found = topics(turns, keywords.queries, most=2)
    assert len(capped(turns, found, 0.1)) == LEAST_KEPT + 3
    assert capped(logged(refund=40), topics(logged(refund=40), keywords.queries), 0.1) == logged(refund=40)


def test_capping_what_is_capped_changes_nothing(keywords) -> None:
    turns = logged(refund=100, fee=30, card=20)
    for share in (0.2, 0.4, 0.5, 0.9):
        once = capped(turns, topics(turns, keywords.queries, most=3), share, least=5)
        assert capped(once, topics(once, keywords.queries, most=3), share, least=5) == once


def test_corrections_and_confirmed_answers_stay_before_newer_ones(keywords) -> None:
    turns = [turn("refund", 1, "correction"), turn("refund", 2, "confirmed"), *(turn("refund", n) for n in (3, 27, 9))]
    kept = capped(turns, topics(turns, keywords.queries, most=1), 0.1, least=3)
    assert [each.place for each in kept] == ["refund:1", "refund:2", "refund:27"]


def test_the_report_shows_sizes_and_examples_and_no_text_is_taken_for_markup(keywords) -> None:
    turns = logged(refund=10, fee=6)
    nasty = Turn((Message("user", "<b>refund</b> | *now*\n\n# Hi"),), Message("assistant", "The refund."), "a:1")
    text = report(topics([*turns, nasty, nasty, nasty], keywords.queries, most=2))
    assert text.startswith("# 2 topics in 19 turns\n")
    assert "| 13 | 68.4% |" in text and "| 6 | 31.6% |" in text
    (only,) = topics([nasty], keywords.queries)
    row = report([only]).splitlines()[-1]
    assert r"&lt;b&gt;refund&lt;/b&gt; \| \*now\* # Hi" in row
