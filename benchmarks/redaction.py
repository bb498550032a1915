"""Redaction of generated strings in Chinese and English: recall, false positives and leaks, beside their targets.

    python -m benchmarks.redaction [--n 100000] [--seed 7] [--misses 5]

What is generated is independent of assistant/redaction.py: issuers' prefixes, disguises and sentences are listed here.
A number counts as found when no seven successive characters of it are left, after NFKC, with Chinese numerals as
digits and without separators and invisible characters. Exits with 1 if a target is missed.
"""

import argparse
import random
import re
import sys
import unicodedata
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType
from scipy.stats import binomtest
from stdnum import iban, luhn
from stdnum.cn import ric
from tqdm import tqdm

from assistant.redaction import Redactor
from benchmarks.retrieval import Row, table

SEED = 7


@dataclass(frozen=True)
class Sample:
    kind: str
    disguise: str
    texts: tuple[str, ...]
    """The messages of one conversation; mostly one."""
    secrets: tuple[str, ...]
    """What must be gone; nothing must change where there is none."""


Make = Callable[[random.Random], Sample]
Written = tuple[str, ...]
"""A number as it is written, in parts that go to messages of their own."""

ISSUERS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "Visa": (("4",), (13, 16, 16, 16, 19)),
    "Mastercard": ((*map(str, range(51, 56)), *map(str, range(2221, 2721))), (16,)),
    "UnionPay": (("62", "6212", "6217", "6222", "6228", "6230"), (16, 17, 18, 19, 19)),
    "Amex": (("34", "37"), (15,)),
    "Discover": (("6011", "65", *map(str, range(644, 650))), (16,)),
    "JCB": (tuple(map(str, range(3528, 3590))), (16,)),
    "Diners": (("36", "38", "39", "309", *map(str, range(300, 306))), (14,)),
    "Maestro": (("5018", "5020", "5038", "5893", "6304", "6759", "6761", "6762", "6763"), (12, 13, 15, 16, 18, 19)),
}
COUNTIES = "110105 120101 130102 210102 310104 320106 330106 350203 370202 420106 440305 500103 510107 610113 650102"
AREAS = "010 020 021 022 023 024 025 027 028 029 0311 0371 0431 0512 0571 0574 0592 0755 0769 0871 0991".split()
REGIONS = "US CA GB IE DE FR ES IT NL CH PL TR AE IN SG MY TH VN ID PH JP KR HK MO TW AU NZ BR MX ZA NG RU".split()
BANK_ACCOUNTS = {"DE": "nnnnnnnnnnnnnnnnnn", "GB": "aaaannnnnnnnnnnnnn", "FR": "nnnnnnnnnncccccccccccnn"} | {
    "NL": "aaaannnnnnnnnn",
    **{"ES": "n" * 20, "CH": "nnnnncccccccccccc", "PL": "n" * 24, "AE": "n" * 19, "IE": "aaaannnnnnnnnnnnnn"},
}

SENTENCES = (
    "my card is {} and it was declined",
    "{}",
    "{} was charged twice",
    "please check {}",
    "I paid 500 USD with {}, in 2026.",
    "On 2026-11-24 at 10:30 {} failed (error 402)",
    "refund $1,234.56 to {}; thanks",
    "see: {}/ok?",
    "card{}is mine",
    "in 2026 {} stopped working",
    "It's「{}」!",
    "number={};amount=30",
    "VISA {}",
    "first line\n{}\nlast line",
    "我的卡号是{}，被拒了",
    "{}被盗刷了",
    "卡{}",
    "请查一下{}。",
    "2026年11月24日10:30用{}付了500元",
    "退款¥1,234.56到{}，谢谢",
    "号码{}怎么回事？",
    "（{}）",
    "一共扣了三次，卡是{}一直没退",
)
"""A number may be beside anything."""
CARD_SENTENCES = ("{}, exp 12/27", "{} 12/27", "{}，有效期12/27", "{} exp. 03/2029 for John", "{}|12|27")
SPLIT_SENTENCES = (
    ("my card is {}", "{}"),
    ("it's {}", "and then {}"),
    ("卡号 {}", "{}"),
    ("{}", "后面是{}"),
    ("{}", "{}, ok?"),
)
ORDER_SENTENCES = (
    "order {}",
    "Where is my order {}?",
    "{} is the reference",
    "{}",
    "订单号{}",
    "订单{}什么时候退款",
    "单号：{}，麻烦查一下",
    "#{}",
    "refund for {}, 35.00 USD, please",
)

INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e"
NUMERALS = (
    "〇一二三四五六七八九",
    "零一二三四五六七八九",
    "零幺二三四五六七八九",
    "零壹贰叁肆伍陆柒捌玖",
    "零一两三四五六七八九",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000, help="strings (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="(default: %(default)s)")
    parser.add_argument(
        "--misses", type=int, default=0, help="show so many of the strings that went wrong, of each kind"
    )
    options = parser.parse_args()
    results = run(tqdm(generate(options.n, options.seed), total=options.n, unit="string", disable=None))
    for kind, samples in results.wrong.items():
        for sample, outputs in samples[: options.misses]:
            print(f"{kind}, {sample.disguise}: {sample.texts!r} became {outputs!r}")
    print(table(results.rows()))
    sys.exit(0 if results.are_met() else 1)


@dataclass
class Results:
    n: Counter[tuple[str, str]]
    """Strings by kind and disguise."""
    wrong: dict[str, list[tuple[Sample, list[str]]]]
    """Strings by kind: what should have gone and did not, or the other way round; and what became of them."""
    leaks: int
    """Strings whose whole secret is in what became of them."""

    def rows(self) -> list[Row]:
        """A row for each kind and target, and for each disguise of a kind."""
        rows = []
        for kind in [kind for kind in KINDS if any(kind == of for of, _ in self.n)]:
            disguises = [disguise for of, disguise in self.n if of == kind]
            rows.append(self._row(kind, sum(self.n[kind, disguise] for disguise in disguises), len(self._wrong(kind))))
            for disguise in sorted(disguises) if len(disguises) > 1 else []:
                wrong = [it for it in self._wrong(kind) if it[0].disguise == disguise]
                rows.append(self._row(kind, self.n[kind, disguise], len(wrong), f"  {disguise}"))
        total = sum(self.n.values())
        return [*rows, Row("raw values left, of any kind", total, f"{self.leaks}", "0", self.leaks == 0)]

    def are_met(self) -> bool:
        return all(row.met is not False for row in self.rows())

    def _wrong(self, kind: str) -> list[tuple[Sample, list[str]]]:
        return self.wrong.get(kind, [])

    def _row(self, kind: str, n: int, wrong: int, task: str = "") -> Row:
        is_secret, target = KINDS[kind].is_secret, KINDS[kind].target
        k = n - wrong if is_secret else wrong
        low, high = binomtest(k, n).proportion_ci(method="wilson")
        digits = 3 if is_secret else 2
        figure = f"{k / n:.{digits}%} [{low:.{digits}%}, {high:.{digits}%}]"
        name = task or f"{kind}: {'recall' if is_secret else 'false positives'}"
        if task or target is None:
            return Row(name, n, figure)
        met = k / n >= target if is_secret else k / n <= target
        return Row(name, n, figure, f"{'≥' if is_secret else '≤'} {target:.2%}", met)


def run(samples: Iterable[Sample]) -> Results:
    """Redact each sample as a conversation, and look for what is left of its secrets."""
    results = Results(Counter(), defaultdict(list), 0)
    for sample in samples:
        results.n[sample.kind, sample.disguise] += 1
        outputs = Redactor().conversation(sample.texts)
        if sample.secrets:
            left = squeezed(" ".join(outputs))
            results.leaks += any(squeezed(secret) in left for secret in sample.secrets if len(secret) > 4)
            is_wrong = any(_is_left(secret, left, outputs) for secret in sample.secrets)
        else:
            is_wrong = outputs != [*sample.texts]
        if is_wrong:
            results.wrong[sample.kind].append((sample, outputs))
    return results


def squeezed(text: str) -> str:
    """`text` after NFKC, its letters and digits only, numerals as digits; placeholders as something else."""
    text = unicodedata.normalize("NFKC", re.sub(r"<[A-Z]+_\d+>", "¤", text))
    for numerals in NUMERALS:
        text = text.translate(str.maketrans(numerals, "0123456789"))
    digits = (str(unicodedata.digit(char, char)) for char in text.lower())
    return "".join(char for char in digits if char.isalnum() or char == "¤")


def _is_left(secret: str, left: str, outputs: list[str]) -> bool:
    if len(secret) <= 4:  # a security code: other numbers may hold it by chance
        return secret in re.findall(r"\d+", re.sub(r"<[A-Z]+_\d+>", "", " ".join(outputs)))
    secret = squeezed(secret)
    return any(secret[start : start + 7] in left for start in range(len(secret) - 6))


def generate(n: int, seed: int) -> Iterator[Sample]:
    """`n` samples, the kinds in proportion to their share."""
    chance = random.Random(seed)
    kinds = [kind for kind, it in KINDS.items() for _ in range(it.share)]
    for _ in range(n):
        yield KINDS[chance.choice(kinds)].make(chance)


def card_number(chance: random.Random) -> str:
    prefixes, lengths = ISSUERS[chance.choice([*ISSUERS])]
    prefix, length = chance.choice(prefixes), chance.choice(lengths)
    start = prefix + _digits(chance, length - len(prefix) - 1)
    return start + str(luhn.calc_check_digit(start))


def identity_number(chance: random.Random) -> str:
    born = date(1940, 1, 1) + timedelta(days=chance.randrange(27_000))
    start = f"{chance.choice(COUNTIES.split())}{born:%Y%m%d}{_digits(chance, 3)}"
    return start + str(ric.calc_check_digit(f"{start}0"))


def _digits(chance: random.Random, count: int) -> str:
    return "".join(chance.choices("0123456789", k=count))


def _groups(number: str, sizes: Iterable[int]) -> list[str]:
    groups, start = [], 0
    for size in sizes:
        if start < len(number):
            groups.append(number[start : start + size])
            start += size
    return [*groups, number[start:]] if start < len(number) else groups


def _irregular(chance: random.Random, number: str) -> list[str]:
    return _groups(number, [chance.randint(2, 6) for _ in number])


def _regular(number: str) -> list[str]:
    if len(number) == 15:
        return _groups(number, (4, 6, 5))
    if len(number) == 18:
        return _groups(number, (6, 8, 4))
    return _groups(number, (3, 4, 4) if len(number) == 11 else (4,) * 5)


def _numerals(chance: random.Random, number: str) -> str:
    digits = chance.choice(NUMERALS)
    return number.translate(str.maketrans("0123456789", digits))


def _full_width(number: str) -> str:
    return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in number)


def _invisible(chance: random.Random, text: str) -> str:
    return "".join(char + chance.choice(["", chance.choice(INVISIBLE)]) for char in text[:-1]) + text[-1]


def _split(chance: random.Random, number: str, parts: int) -> Written:
    groups = _regular(number)
    cuts = sorted(chance.sample(range(1, len(groups)), min(parts, len(groups)) - 1))
    separator = chance.choice([" ", "-", ""])
    return tuple(separator.join(groups[a:b]) for a, b in zip([0, *cuts], [*cuts, len(groups)], strict=True))


def _joined(separator: str) -> Callable[[random.Random, str], Written]:
    return lambda chance, number: (separator.join(_regular(number)),)


DISGUISES: dict[str, Callable[[random.Random, str], Written]] = {
    "none": lambda chance, number: (number,),
    "spaces": _joined(" "),
    "dashes": _joined("-"),
    "dots": _joined("."),
    "slashes": _joined("/"),
    "middle dots": _joined("·"),
    "wide gaps": _joined(" - "),
    "no-break spaces": _joined("\u00a0"),
    "underscores": _joined("_"),
    "lines": _joined("\n"),
    "long dashes": lambda chance, number: (chance.choice("–—‑−").join(_regular(number)),),
    "mixed separators": lambda chance, number: (
        "".join(group + chance.choice(" -./·") for group in _regular(number))[:-1],
    ),
    "irregular groups": lambda chance, number: (chance.choice(" -.").join(_irregular(chance, number)),),
    "single digits": lambda chance, number: (chance.choice(" -.").join(number),),
    "single digits, groups": lambda chance, number: ("  ".join(" ".join(group) for group in _regular(number)),),
    "full-width": lambda chance, number: (_full_width(number),),
    "full-width, spaces": lambda chance, number: (_full_width(chance.choice(" \u3000-").join(_regular(number))),),
    "full-width and ASCII": lambda chance, number: (
        "".join(chance.choice([char, _full_width(char)]) for char in number),
    ),
    "invisible characters": lambda chance, number: (_invisible(chance, number),),
    "invisible, spaces": lambda chance, number: (_invisible(chance, " ".join(_regular(number))),),
    "Arabic-Indic digits": lambda chance, number: (number.translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")),),
    "keycaps": lambda chance, number: ("".join(f"{c}\ufe0f\u20e3" if c.isdigit() else c for c in number),),
    "Chinese numerals": lambda chance, number: (_numerals(chance, number),),
    "numerals, spaces": lambda chance, number: (_numerals(chance, " ".join(_regular(number))),),
    "two turns": lambda chance, number: _split(chance, number, 2),
    "three turns": lambda chance, number: _split(chance, number, 3),
}
PHONE_DISGUISES = [it for it in DISGUISES if it not in ("irregular groups", "mixed separators", "wide gaps", "lines")]


def _told(chance: random.Random, written: Written, sentences: tuple[str, ...] = SENTENCES) -> tuple[str, ...]:
    """The messages that hold what is written."""
    if len(written) == 1:
        return (chance.choice(sentences).format(written[0]),)
    start, rest = chance.choice(SPLIT_SENTENCES)
    messages = [start.format(written[0]), *(rest.format(part) for part in written[1:])]
    if chance.random() < 0.5:  # the agent answers in between
        messages = [line for message in messages for line in (message, chance.choice(["ok", "请继续", "Yes?"]))]
    return tuple(messages)


def card(chance: random.Random) -> Sample:
    number, disguise = card_number(chance), chance.choice([*DISGUISES])
    written = DISGUISES[disguise](chance, number)
    return Sample("card", disguise, _told(chance, written, SENTENCES + CARD_SENTENCES), (number,))


def identity(chance: random.Random) -> Sample:
    number, disguise = identity_number(chance), chance.choice([*DISGUISES])
    number = number.lower() if chance.random() < 0.3 else number
    return Sample("Chinese ID", disguise, _told(chance, DISGUISES[disguise](chance, number)), (number,))


def mobile(chance: random.Random) -> Sample:
    number, disguise = f"1{chance.choice('3456789')}{_digits(chance, 9)}", chance.choice(PHONE_DISGUISES)
    written = DISGUISES[disguise](chance, number)
    country = chance.choice(["", "", "+86 ", "+86", "0086 ", "86-", "(+86)", "＋86 "])
    return Sample("Chinese mobile", disguise, _told(chance, (country + written[0], *written[1:])), (number,))


def landline(chance: random.Random) -> Sample:
    area, number = chance.choice(AREAS), chance.choice("2345678") + _digits(chance, 7)
    number = number if len(area) == 3 or chance.random() < 0.5 else number[:7]
    forms = {
        "dash": f"{area}-{number}",
        "space": f"{area} {number[:-4]} {number[-4:]}",
        "brackets": f"({area}) {number}",
        "+86": f"+86 {area[1:]} {number}",
        "full-width": _full_width(f"{area}-{number}"),
        "numerals": _numerals(chance, f"{area}-{number}"),
    }
    disguise = chance.choice([*forms])
    return Sample("Chinese landline", disguise, _told(chance, (forms[disguise],)), (area[1:] + number,))


def abroad(chance: random.Random) -> Sample:
    while True:
        region = chance.choice(REGIONS)
        example = phonenumbers.example_number_for_type(region, chance.choice([PhoneNumberType.MOBILE, 0]))
        if example is None:
            continue
        national = str(example.national_number)[:-5] + _digits(chance, 5)
        number = phonenumbers.parse(f"+{example.country_code}{national}")
        if phonenumbers.is_valid_number(number):
            break
    e164 = phonenumbers.format_number(number, PhoneNumberFormat.E164)
    international = phonenumbers.format_number(number, PhoneNumberFormat.INTERNATIONAL)
    forms = {
        "E.164": e164,
        "usual": international,
        "dots": re.sub(r"[ -]", ".", international),
        "dashes": international.replace(" ", "-"),
        "00": f"00{e164[1:]}",
        "00, spaces": international.replace("+", "00"),
        "full-width": _full_width(international),
        "invisible": _invisible(chance, e164),
    }
    disguise = chance.choice([*forms])
    return Sample("phone abroad", disguise, _told(chance, (forms[disguise],)), (e164[1:],))


def email(chance: random.Random) -> Sample:
    name = chance.choice(["john.smith", "wang_xm", "li-lei", "a.b+c", "o'neil", "x", "zhang"]) + _digits(chance, 3)
    address = f"{name}@{chance.choice(['example.co.uk', 'qq.com', '163.com', 'mail.example.org', 'foo-bar.io'])}"
    forms = {
        "none": address,
        "capitals": address.upper(),
        "full-width @": address.replace("@", "＠"),
        "full-width": _full_width(address),
        "invisible": _invisible(chance, address),
        "spaces": address.replace("@", " @ "),
    }
    disguise = chance.choice([*forms])
    sentences = tuple(it for it in SENTENCES if "card{}" not in it and "/ok" not in it)
    return Sample("e-mail", disguise, _told(chance, (forms[disguise],), sentences), (address,))


def bank_account(chance: random.Random) -> Sample:
    country = chance.choice([*BANK_ACCOUNTS])
    alphabets = {"n": "0123456789", "a": "ABCDEFGHJKLMNP", "c": "0123456789ABCDEF"}
    account = "".join(chance.choice(alphabets[kind]) for kind in BANK_ACCOUNTS[country])
    number = country + str(iban.calc_check_digits(f"{country}00{account}")) + account
    grouped = " ".join(_groups(number, (4,) * 9))
    forms = {
        "none": number,
        "spaces": grouped,
        "dashes": grouped.replace(" ", "-"),
        "lower case": grouped.lower(),
        "full-width": _full_width(number),
        "invisible": _invisible(chance, number),
    }
    disguise = chance.choice([*forms])
    sentences = tuple(it for it in SENTENCES if "card{}" not in it)
    return Sample("IBAN", disguise, _told(chance, (forms[disguise],), sentences), (number,))


def security_code(chance: random.Random) -> Sample:
    number = card_number(chance)
    code = _digits(chance, 4 if number[:2] in ("34", "37") else 3)
    written = DISGUISES[chance.choice(["none", "spaces", "dashes", "full-width, spaces"])](chance, number)[0]
    forms = {
        "announced": (f"{written}, {chance.choice(['cvv', 'CVC:', 'CVV2 is', 'security code'])} {code}",),
        "安全码": (f"卡{written}，{chance.choice(['安全码', '校验码是', 'CVV：', '背面三位'])}{code}。",),
        "bare": (f"my card {written} {code}",),
        "after the expiry": (f"{written}, {chance.choice(['12/27', '1227', 'exp 03/2029', '有效期12/27'])}, {code}",),
        "with bars": (f"{number}|12|27|{code}",),
        "alone in the next message": (f"卡号{written}", f"{chance.choice(['', '12/27 '])}{code}"),
        "asked for": (f"card {written}", "And the CVV?", code),
    }
    disguise = chance.choice([*forms])
    return Sample("security code", disguise, forms[disguise], (number, code))


def _order(kind: str, disguise: str, text: str, chance: random.Random) -> Sample:
    return Sample(kind, disguise, (chance.choice(ORDER_SENTENCES).format(text),), ())


def _day(chance: random.Random) -> date:
    return date(2015, 1, 1) + timedelta(days=chance.randrange(4300))


def date_led(chance: random.Random) -> Sample:
    length = chance.randint(16, 24)
    number = f"{_day(chance):%Y%m%d}{_digits(chance, length - 8)}"
    return _order("date-led order number", f"{length} digits", number, chance)


def long_order(chance: random.Random) -> Sample:
    date_first = chance.random() < 0.5
    start = f"{_day(chance):%Y%m%d}" if date_first else f"4200{_digits(chance, 4)}"
    return _order("28-digit order number", "date-led" if date_first else "WeChat", start + _digits(chance, 20), chance)


def lettered(chance: random.Random) -> Sample:
    forms = {
        "TX + date": f"TX{_day(chance):%Y%m%d}{_digits(chance, chance.randint(6, 12))}",
        "ORD-date-": f"ORD-{_day(chance):%Y%m%d}-{_digits(chance, chance.randint(4, 8))}",
        "letters, any digits": f"{''.join(chance.choices('ABDEFGHJKLPQRSTUWXZ', k=2))}{_digits(chance, 16)}",
        "ORD-, any digits": f"ORD-{_digits(chance, 16)}",
        "letters, 11 digits": f"SF{_digits(chance, 11)}",
        "order_": f"order_{_digits(chance, 14)}",
    }
    disguise = chance.choice([*forms])
    return _order("lettered order number", disguise, forms[disguise], chance)


def uniform(chance: random.Random) -> Sample:
    return _order("uniform 16 digits", "", _digits(chance, 16), chance)


def figures(chance: random.Random) -> Sample:
    day = _day(chance)
    forms = {
        "amounts": f"${chance.randrange(10**7):,}.{_digits(chance, 2)} or {chance.randrange(10**9):,} CNY",
        "amount, Chinese": f"一共{chance.randrange(10**6):,}.{_digits(chance, 2)}元，退{chance.randrange(1000)}.00元",
        "dates": f"{day:%Y-%m-%d %H:%M:%S} to {day:%d/%m/%Y}, {day:%Y.%m.%d}",
        "dates, Chinese": f"{day:%Y年%m月%d日}10:30到{day:%Y/%m/%d} 23:59:59",
        "policy": "1-3 business days, 7 to 14 days, 2.5% + 0.30 USD, at most 50,000.00 per 24 hours",
        "policy, Chinese": "1-3个工作日，7至14天，手续费0.1%，每日限额50,000元，一二三线城市",
        "milliseconds": f"{chance.randrange(1_500_000_000_000, 1_800_000_000_000)}",
        "version and address": f"v12.4.1 at 192.168.{chance.randrange(256)}.{chance.randrange(256)}:8080",
        "UUID": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "parcel": f"1Z{_digits(chance, 3)}AA1{_digits(chance, 10)} / 9400{_digits(chance, 18)}",
    }
    disguise = chance.choice([*forms])
    return _order("amounts, dates and others", disguise, forms[disguise], chance)


@dataclass(frozen=True)
class Kind:
    make: Make
    share: int
    """Parts of all samples."""
    is_secret: bool
    target: float | None
    """Least recall of what is secret, most false positives of what is not."""


KINDS = {
    "card": Kind(card, 40, True, 0.9999),
    "Chinese ID": Kind(identity, 12, True, 0.999),
    "Chinese mobile": Kind(mobile, 8, True, 0.999),
    "Chinese landline": Kind(landline, 3, True, 0.999),
    "phone abroad": Kind(abroad, 6, True, 0.999),
    "e-mail": Kind(email, 3, True, 0.999),
    "IBAN": Kind(bank_account, 3, True, 0.999),
    "security code": Kind(security_code, 4, True, None),
    "date-led order number": Kind(date_led, 5, False, 0.001),
    "28-digit order number": Kind(long_order, 4, False, 0.001),
    "lettered order number": Kind(lettered, 4, False, 0.001),
    "uniform 16 digits": Kind(uniform, 4, False, 0.03),
    "amounts, dates and others": Kind(figures, 4, False, None),
}

if __name__ == "__main__":
    main()
