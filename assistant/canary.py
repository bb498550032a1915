"""A release on trial: the service holds it beside the live one, and a share of the customers gets it.

ASSISTANT_HOME/releases/canary            what is on trial, for whom, and until when; without this file, nothing is
ASSISTANT_HOME/releases/<name>.stopped    why that release is on trial no more; without this file it may be again

A customer who gets it keeps it, also when the share grows. What is asked for by the name `assistant:canary` is answered
whatever the share is, for an admin's key; such requests are probes, and leave no transcript.
"""

import hashlib
import logging
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from assistant import releases
from assistant.experiment import Arm, Assignment, Bound, Experiment, Guard, Guardrail, assign
from assistant.state import State
from retrieval.errors import InputError, NotReady
from retrieval.files import alone, write_text

MODEL = "assistant:canary"
ARM = "canary"
SLACK = timedelta(minutes=15)
"""How long a trial goes on after its time, for whoever began it to promote it: nothing is then loaded twice."""
_log = logging.getLogger("assistant")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Trial(_File):
    release: Annotated[str, StringConstraints(pattern="^[0-9a-f]{12}$")]
    share: float = Field(ge=0, lt=1)
    """Of the customers who ask for `assistant`; with 0 it is only asked by name."""
    since: AwareDatetime
    until: AwareDatetime
    """After it nobody gets the release, whatever became of whoever began the trial."""
    guardrails: dict[Guardrail, Bound] = {}

    @property
    def experiment(self) -> Experiment:
        """What guardrails watch; there is none with a share of 0."""
        arms = {ARM: Arm(model="assistant", share=self.share), "live": Arm(model="assistant", share=1 - self.share)}
        return Experiment(
            name=f"canary-{self.release}",
            start=self.since,
            end=self.until,
            salt=self.release,
            holdout=0,
            arms=arms,
            guardrails=self.guardrails,
        )


class Stopped(_File):
    """Why a release is on trial no more."""

    at: AwareDatetime
    reason: str
    guardrail: Guardrail | None = None
    """None, as all that follow, where a person stopped it."""
    mean: float | None = None
    low: float | None = None
    """End of the sequential interval; it lies above `most`."""
    most: float | None = None
    units: int | None = None


def begin(folder: Path, trial: Trial) -> None:
    """Put a release on trial, in place of any other, or change its trial; `folder` is that of the releases.

    Raises:
        InputError: There is no such release, it was pruned, or it is live already.
        NotReady: It waits for a signature, or was stopped.
        StorageError: The disk refused; what was on trial still is.
    """
    name = trial.release
    with _changing(folder):
        releases.read(folder, name)
        if releases.is_pruned(folder, name):
            raise InputError(f"the release {name} was pruned, and cannot serve; choose one that `release list` shows")
        if releases.live(folder).id == name:
            raise InputError(f"the release {name} is live already; put another one on trial")
        if releases.waits(folder, name):
            raise NotReady(f"the release {name} waits for a signature; run: assistant release approve {name} --by NAME")
        if found := stopped(folder, name):
            path = _stopped_path(folder, name)
            raise NotReady(f"the release {name} was stopped: {found.reason}; delete {path} to try it again")
        write_text(folder / "canary", trial.model_dump_json(indent=1) + "\n")


def read(folder: Path) -> Trial | None:
    """What is on trial now; None if nothing is, or if its time is over.

    Raises:
        InputError: The file is damaged.
    """
    try:
        trial = Trial.model_validate_json((folder / "canary").read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        told = " ".join(str(error).split())[:200]
        raise InputError(f"{folder / 'canary'} is no trial ({told}); delete it, and nothing is on trial") from error
    return trial if datetime.now(UTC) < trial.until else None


def end(folder: Path) -> None:
    """Have nothing on trial any more."""
    with _changing(folder):
        (folder / "canary").unlink(missing_ok=True)


def stop(folder: Path, name: str, why: Stopped) -> None:
    """Take the release `name` off trial if it is the one, and keep why.

    Raises:
        StorageError: The disk refused to keep why; it is off trial all the same.
    """
    with _changing(folder):
        trial = read(folder)
        if trial is None or trial.release != name:
            return
        try:
            write_text(_stopped_path(folder, name), why.model_dump_json(indent=1) + "\n")
        finally:
            (folder / "canary").unlink(missing_ok=True)


def stopped(folder: Path, name: str) -> Stopped | None:
    """Why the release `name` was stopped; None if it never was.

    Raises:
        InputError: The file is damaged.
    """
    path = _stopped_path(folder, name)
    try:
        return Stopped.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        told = " ".join(str(error).split())[:200]
        raise InputError(f"{path} does not say why a trial was stopped ({told}); delete it") from error


def dealt(trial: Trial, tenant: str, customer: str | None, conversation: str | None, opening: str) -> Assignment | None:
    """What is recorded of a request for `assistant` that the release on trial answers; None if the live one does.

    The unit is that of experiments: the customer, else the conversation, else the opening.
    """
    unit = f"{tenant}\0{customer or conversation or opening}"
    if trial.share == 0 or assign(trial.experiment, unit) != ARM:
        return None
    hashed = hashlib.sha256(unit.encode("utf-8", "replace")).hexdigest()[:16]
    return Assignment(trial.experiment.name, ARM, hashed, opening, "assistant")


def stop_broken(folder: Path, state: State, guard: Guard) -> None:
    """Stop what is on trial if it breaks a guardrail now.

    Raises:
        StorageError: The database cannot be reached, or the disk refused.
    """
    trial = read(folder)
    if trial is None or trial.share == 0 or not trial.guardrails:
        return
    for broken in guard(state, trial.experiment):
        if broken.arm == ARM:
            allowed = f"it is at least {broken.low:.4g}, and {broken.most:.4g} is allowed"
            reason = f"{broken.guardrail} is {broken.mean:.4g} over {broken.units} customers: {allowed}"
            _log.error("release %s on trial is stopped: %s", trial.release, reason)
            figures = broken.model_dump(include={"at", "guardrail", "mean", "low", "most", "units"})
            stop(folder, trial.release, Stopped(reason=reason, **figures))


def _stopped_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.stopped"


def _changing(folder: Path) -> AbstractContextManager[None]:
    """The lock under which releases are written and go live: what is read of them holds until the trial is written."""
    return alone(folder / "pruned")
