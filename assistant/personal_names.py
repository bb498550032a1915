"""Names of people, where the words around them leave no doubt: who introduces himself, is addressed, or signs.

No model: presidio-analyzer, the usual choice, needs spaCy with a language model, and spaCy publishes those outside
PyPI, where an installation from the lock file cannot get them. What no cue announces is therefore not found.
"""

import re
from collections.abc import Iterator

from assistant.digit_runs import Found

_SURNAMES = frozenset(
    "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦尤许何吕施张孔曹严华金魏陶姜戚谢邹喻柏窦章云苏潘葛奚范彭郎鲁韦昌马苗凤花方俞任袁柳"
    "酆鲍史唐费廉岑薛雷贺倪汤滕殷罗毕郝邬安常于傅皮卞齐康伍余卜顾孟黄穆萧尹姚邵湛汪祁毛禹狄米贝臧伏成戴谈宋茅"
    "庞熊纪舒屈项祝董梁杜阮蓝闵席季麻强贾路娄危江童颜郭梅盛林刁钟徐邱骆高夏蔡田樊胡凌霍虞万柯卢莫房裘缪干宗丁宣贲"
    "邓郁杭洪包诸左石崔吉钮龚程嵇邢滑裴陆荣翁荀羊甄曲封芮羿储靳汲邴糜松井段富巫乌焦巴弓牧隗山谷侯宓蓬郗班仰秋仲伊宫宁"
    "仇栾甘厉戎祖武符刘景詹束龙叶幸司韶郜黎蓟薄宿白怀蒲邰鄂咸籍赖卓蔺屠蒙池乔阴胥苍闻莘翟谭贡劳逄姬申扶堵冉宰"
    "郦雍璩桑桂濮牛寿边扈燕冀郏浦尚温庄晏柴瞿阎慕茹习宦艾鱼容向古易慎戈廖庾暨衡耿弘匡文寇禄阙东欧殳沃"
    "蔚越夔隆师巩厍聂晁勾敖融冷訾辛阚那简饶曾毋沙乜养鞠须丰巢关蒯荆游竺权逯盖桓肖闫付仝代覃冼练原苟楚佟练岳帅"
    "涂兰英冒门"
    "趙錢孫吳鄭馮陳衛蔣韓楊許呂張嚴華陶謝鄒蘇韋馬鳳賀湯羅畢郝鄔傅齊餘顧黃蕭貝計談龐紀項鐘駱萬盧"
    "諸陸榮龔寧劉葉龍賴喬陰聞譚貢勞溫別莊閻習魚廖東歐師鞏聶簡饒關遊權蓋鄧"
)
_SURNAMES_OF_TWO = (
    "欧阳|司马|上官|诸葛|东方|皇甫|尉迟|公孙|令狐|慕容|长孙|宇文|司徒|司空|夏侯|轩辕|百里|呼延|端木|南宫|独孤|拓跋|"
    "歐陽|諸葛"
)
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff"
_END_OF_NAME = (
    "[我你您他她它的了是在有和就不要想请问这那把被给从到对为与也都还没吗呢吧啊呀已因将让再又很只昨今前于以付退转打买申充提绑忘丢]|"
    "先生|女士|小姐|经理|客服|用户|账户|账号|卡|电话|手机|身份|微信|支付|会员|公司|银行|店铺|商品|商户|订单|款|本人|可以|能|"
    "错|什么|号|车|人|单"
)
_ZH_NAME = (
    rf"((?:{_SURNAMES_OF_TWO}|[{''.join(sorted(_SURNAMES))}])(?:(?!{_END_OF_NAME})[{_HAN}]){{1,2}})"
    rf"(?={_END_OF_NAME}|[^{_HAN}]|$)"
)
_ZH = re.compile(
    r"(?:我名?叫|名字[是叫为:]|姓名(?:[是为]|: ?)|署名: ?|"
    r"(?:持卡人|开户人|户主|收款人|付款人|收件人|寄件人|联系人|申请人|申诉人|法人|代表人|账户名|持有人|户名)"
    r"(?:[是为叫]|: ?))" + _ZH_NAME
)
_ZH_HIMSELF = re.compile(rf"我是{_ZH_NAME}(?=本人)")
_ZH_ADDRESSED = re.compile(rf"(?:尊敬的|亲爱的|(?<![{_HAN}])){_ZH_NAME}(?=先生|女士|小姐)")
_ZH_PATTERNS = (("叫名人户署", _ZH), (("本人",), _ZH_HIMSELF), (("先生", "女士", "小姐"), _ZH_ADDRESSED))
_ZH_WHOLE = re.compile(rf"\s*(?:我?[是叫])?{_ZH_NAME}[。,.!\s]*$")

_WORD = r"[A-ZÀ-ÖØ-Þ][^\W\d_]*(?:['’-][^\W\d_]+)*"
_EN_NAME = rf"((?:{_WORD})(?: (?:[A-Z]\.|van|von|de|der|den|da|di|del|bin|al|{_WORD})){{0,3}})"
_EN = re.compile(rf"(?i:\bmy (?:(?:full|first|last|legal|real) )?name(?:['’]s| is|:)|\bi am called) {_EN_NAME}")
_EN_LABELLED = re.compile(
    r"(?i:\b(?:account ?holder|card ?holder|beneficiary|payee)(?:['’]s)?(?: name)?(?: is|:)|"
    r"\b(?:recipient|customer|billing|full|account) name(?: is|:)|\bname on (?:the |my )?(?:card|account)(?: is|:)) "
    rf"(?={_WORD} ){_EN_NAME}"
)
_EN_SPEAKING = re.compile(rf"\b(?:[Tt]his is|[Ii]t's|[Ii]t’s) {_EN_NAME}(?= here\b| (?:speaking|calling)\b)")
_EN_ADDRESSED = re.compile(rf"\b(?:(?:Mr|Mrs|Ms|Mx)\.? |(?i:dear) (?:Dr|Prof)\.? ){_EN_NAME}")
_EN_SIGNED = re.compile(
    r"(?i:\b(?:(?:best|kind|warm|kindest|warmest) (?:regards|wishes)|regards|sincerely(?: yours)?|"
    rf"yours (?:sincerely|faithfully|truly)))[,.!]?\s*\n\s*{_EN_NAME}(?=\s*(?:\n|$))"
)
_EN_PATTERNS = (
    (("name", "called"), _EN),
    (("name", "holder", "beneficiary", "payee"), _EN_LABELLED),
    ((" here", "speaking", "calling"), _EN_SPEAKING),
    (("mr", "ms", "mx", "dear dr", "dear prof"), _EN_ADDRESSED),
    (("regards", "wishes", "sincerely", "yours"), _EN_SIGNED),
)
"""Each with what stands in every text that it matches, in lower case: a fast test, and most texts fail it."""
_EN_REPLY = re.compile(
    r"\s*(?i:(?:(?:yes|yeah|yep|sure|of course|ok|okay|hi|hello)[,.!]? *)?"
    r"(?:(?:it['’]?s|it is|this is|i am|i['’]m) +)?)" + _EN_NAME
)
_ASKS = re.compile(
    r"(?i)\b(?:your|(?:account|card) ?holder['’]?s?|the) (?:(?:full|first|last|legal) )*name\b[^.!?\n]{0,40}\?"
)
_ASKS_ZH = ("姓名", "名字", "怎么称呼", "贵姓")
_NO_NAMES = frozenset(
    "a about account actually address admin after agent all also am american amex an and any app apt are as "
    "assistant at bank because been but by bye can card cards cash client come could customer customers dear did do "
    "does dollar done email error escrow everyone express for forgot friend from gift go gold good guest have he "
    "hello help here hi how however i if in incorrect invalid is it its just know last let llc ltd madam may maybe "
    "me member merchant misspelled mister money my name need never new no none not nothing now of off ok okay on "
    "one only or order our out owner partner pay payment paypal please premium refund sales sir so sorry spelled "
    "spelt support sure system team thank thanks that the their there they this to transfer unit unknown user visa "
    "was we well were what when where which who why will wire with would wrong yeah yes you your".split()
)


def find_names(text: str, asked: bool = False) -> list[Found]:
    """The names in `text`, which answers a question for the name if `asked`; in order, they do not overlap."""
    found = [*_english(text, asked)]
    if not text.isascii():
        found += _chinese(text, asked)
    if len(found) < 2:
        return found
    ends, kept = 0, []
    for name in sorted(found, key=lambda it: it.start):
        if name.start >= ends:
            kept.append(name)
            ends = name.end
    return kept


def asks_for_a_name(text: str) -> bool:
    return ("name" in text and "?" in text and bool(_ASKS.search(text))) or any(map(text.__contains__, _ASKS_ZH))


def find_known(text: str, names: list[str]) -> list[Found]:
    """Where full names that are known by now occur again."""
    known = [name for name in sorted(names, key=len, reverse=True) if name in text]  # Maria Lopez Garcia first
    if not known:
        return []
    edged = (r"(?<!\w)%s(?!\w)" if name.isascii() else "%s" for name in known)
    pattern = "|".join(edge % re.escape(name) for edge, name in zip(edged, known, strict=True))
    return [Found("NAME", match[0], *match.span()) for match in re.finditer(pattern, text)]


def is_full(name: str) -> bool:
    """Whether a name says who it is wherever it stands: John Smith does, John does not."""
    return " " in name or not name.isascii()


def _english(text: str, asked: bool) -> Iterator[Found]:
    lowered = text.lower()
    for hints, pattern in _EN_PATTERNS:
        if any(map(lowered.__contains__, hints)):
            for match in pattern.finditer(text):
                yield from _named(match)
    if asked and (answer := _EN_REPLY.match(text)):
        reply = [*_named(answer)]
        rest = text[reply[0].end :].strip(" .,!?") if reply else text
        if reply and (" " in reply[0].value or not rest):
            yield reply[0]


def _named(match: re.Match[str]) -> Iterator[Found]:
    """The name that `match` caught, up to a word that is none."""
    words = []
    for word in match[1].split(" "):
        if word.lower().strip(".") in _NO_NAMES:
            break
        words.append(word)
    while words and words[-1][:1].islower():
        words.pop()
    name = " ".join(words)
    if name.strip(".'’-") and len(name) > 1:
        yield Found("NAME", name, match.start(1), match.start(1) + len(name))


def _chinese(text: str, asked: bool) -> Iterator[Found]:
    for hints, pattern in _ZH_PATTERNS:
        if any(map(text.__contains__, hints)):
            for match in pattern.finditer(text):
                yield Found("NAME", match[1], *match.span(1))
    if asked and (answer := _ZH_WHOLE.match(text)):
        yield Found("NAME", answer[1], *answer.span(1))
