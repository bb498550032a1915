"""The challenger in the service that customers use: loaded there, asked the golden questions, given to a share, live.

  running service? → on trial there → golden questions, asked by name → its share of the customers, for its hours
    → no guardrail broken → the pointer moves → the service says that it serves

Nothing is decided twice: a night that was killed goes on with the trial that is under way.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from assistant import canary, releases
from assistant.canary import SLACK, Trial
from assistant.client import CHAT, get, patiently, post
from eval import scorers
from eval.asking import SEED
from eval.cases import read_cases
from finetune.course import Course
from retrieval.errors import EngineError, EngineUnavailable, InputError, Overloaded, SupportError

_LOADS_S = 120.0
"""What a service may take to be ready, or to load a release."""
_GOES_LIVE_S = 10.0
_LOOK_S = 2.0


@dataclass(frozen=True)
class Rollout:
    service: str | None
    """Where it was tried; None where no service runs."""
    refused: list[str]
    """Why it must not go live."""
    told: list[str]
    """What else there is to say."""


def tried(course: Course, release: str) -> dict[str, Any]:
    """What came of the trial of `release` in the running service, as JSON; it is left on trial if it may go live.

    Raises:
        InputError: What answers is no service of this home, and the plan names its address or wants customers asked.
        SupportError: The service went away, or refused the key of ASSISTANT_API_KEY.
    """
    url = _service(course)
    if url is None:
        told = f"no service at {_usual(course)} serves the live release: the night's own engine was asked alone"
        return asdict(Rollout(None, [], [told]))
    refused = _refused(course, url, release)
    if refused:
        canary.end(course.settings.releases)
    return asdict(Rollout(url, refused, []))


def late(course: Course, release: str) -> str | None:
    """What to say if the service where it was tried does not serve `release`, which is live by now."""
    url = json.loads((course.folder / "canary.json").read_text(encoding="utf-8"))["service"]
    latest = time.monotonic() + _GOES_LIVE_S
    while url:
        try:
            if _parts(url)["release"] == release:
                return None
        except SupportError:
            pass  # the pointer has moved: what is wrong with the service is for its own log
        if time.monotonic() > latest:
            return f"the service at {url} does not serve {release} {_GOES_LIVE_S:g} s after it went live; see its log"
        time.sleep(_LOOK_S / 4)
    return None


def _refused(course: Course, url: str, release: str) -> list[str]:
    folder, plan = course.settings.releases, course.plan.canary
    if stopped := canary.stopped(folder, release):
        return [f"the release {release} was stopped: {stopped.reason}"]
    if not _on_customers(course, release):
        now = datetime.now(UTC)
        canary.begin(folder, Trial(release=release, share=0, since=now, until=now + SLACK))
    if why := _not_loaded(url, release):
        return [why]
    if missed := _golden_missed(course, url, release):
        return [f"golden question {case}: a fact is missing in the answer of the service" for case in missed]
    if not plan.share:
        return []
    if why := _shared(course, release) or _not_loaded(url, release):
        return [why]
    return []


def _shared(course: Course, release: str) -> str | None:
    """Give the release to its share of the customers for its hours; why it was taken off trial before their end."""
    folder, plan = course.settings.releases, course.plan.canary
    trial = _on_customers(course, release)
    if trial is None:
        now = datetime.now(UTC)
        until = now + timedelta(hours=plan.hours) + SLACK
        trial = Trial(release=release, share=plan.share, since=now, until=until, guardrails=plan.guardrails)
        canary.begin(folder, trial)
    ends = trial.until - SLACK
    course.say(f"{trial.share:.1%} of the customers get {release} until {ends:%Y-%m-%d %H:%M} UTC")
    while True:
        left_s = (ends - datetime.now(UTC)).total_seconds()
        if _on_customers(course, release) is None:
            stopped = canary.stopped(folder, release)
            return f"the release {release} was stopped: {stopped.reason if stopped else 'it is on trial no more'}"
        if left_s <= 0:
            return None
        time.sleep(min(_LOOK_S, left_s))


def _on_customers(course: Course, release: str) -> Trial | None:
    """The trial of the release, where customers get it already."""
    trial = canary.read(course.settings.releases)
    return trial if trial and trial.release == release and trial.share else None


def _not_loaded(url: str, release: str) -> str | None:
    """Why the service does not serve the release beside the live one; None once it does."""
    latest = time.monotonic() + _LOADS_S
    state = "does not say so"
    while time.monotonic() < latest:
        try:
            found = _parts(url).get("canary") or {}
            state = str(found.get("state", state))
        except (Overloaded, EngineUnavailable) as error:
            found, state = {}, str(error)
        if found.get("release") == release and state == "serves":
            return None
        if found.get("release") == release and state.startswith("refused: "):
            return f"the service at {url} cannot serve {release}; {state}"
        time.sleep(_LOOK_S / 4)
    return f"the service at {url} did not load {release} within {_LOADS_S:g} s; it says: {state}"


def _golden_missed(course: Course, url: str, release: str) -> list[str]:
    """The golden questions whose facts are missing in what the service answers by the release.

    Raises:
        EngineError: Something else answered.
    """
    missed = []
    most = {"max_tokens": course.plan.max_tokens} if course.plan.max_tokens else {}
    for case in read_cases(course.plan.golden) if course.plan.golden else ():
        body = {"model": canary.MODEL, "messages": case.conversation(), "temperature": 0.0, "seed": SEED, **most}
        reply = patiently(partial(post, url, CHAT, _key(), body))
        made = reply["assistant"]
        if made["release"] != release or made["degraded"]:
            how = f"without {' and '.join(made['degraded'])}" if made["degraded"] else f"by {made['release']}"
            raise EngineError(f"golden question {case.id} was answered {how} at {url}, and not by {release}")
        if not scorers.facts_present(case, reply["choices"][0]["message"]["content"]):
            missed.append(case.id)
    return missed


def _service(course: Course) -> str | None:
    """The address of the service that serves the live release; None if no such service answers.

    Raises:
        InputError: Another one answers, and the plan names the address, or wants a trial on customers.
        SupportError: Nothing answers at the address that the plan names.
    """
    named, live = course.plan.service, releases.live(course.settings.releases).id
    url = named or _usual(course)
    latest = time.monotonic() + _LOADS_S
    while True:
        wrong: SupportError
        try:
            serves = _parts(url).get("release")
            if serves == live:
                return url
            wrong = InputError(f"the service at {url} serves the release {serves}, not {live}, which is live")
        except Overloaded as error:  # it starts, or its engine does
            wrong = error
        except SupportError:
            if named:
                raise
            return None
        if time.monotonic() > latest:
            if named or course.plan.canary.share:
                raise wrong
            return None
        time.sleep(_LOOK_S)


def _usual(course: Course) -> str:
    settings = course.settings
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _parts(url: str) -> dict[str, Any]:
    """What the service says of itself."""
    try:
        return dict(json.loads(get(url, "/readyz", _key())))
    except (ValueError, TypeError):
        raise InputError(f"{url} is no assistant; name the address of the service as `service` in the plan") from None


def _key() -> str | None:
    return os.environ.get("ASSISTANT_API_KEY")
