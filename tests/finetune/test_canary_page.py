"""What the operations page shows of a release on trial, and its button that ends that: as test_operations.py does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Page, expect

from assistant import canary, releases
from assistant.canary import Trial

pytest_plugins = ["test_operations"]


@pytest.fixture
def tried(home: Path) -> str:
    """A release that a tenth of the customers gets."""
    folder = home / "releases"
    name, now = releases.propose(folder, adapter="adapter-3").id, datetime.now(UTC)
    canary.begin(folder, Trial(release=name, share=0.1, since=now, until=now + timedelta(hours=1)))
    return name


def test_the_page_is_told_what_is_on_trial_and_stops_it(home: Path, client: TestClient, tried: str) -> None:
    shown = client.get("/operations/canary").json()
    assert (shown["release"], shown["share"]) == (tried, 0.1)
    assert client.post("/operations/stop", json={"release": "0" * 12}).json() == shown
    assert client.post("/operations/stop", json={"release": tried}).json() is None
    assert client.get("/operations/canary").json() is None
    why = canary.stopped(home / "releases", tried)
    assert why is not None and why.reason == "local stopped it"


def test_only_an_administrator_may_stop_a_trial(
    home: Path, keys: dict[str, str], client: TestClient, tried: str
) -> None:
    headers = {"Authorization": f"Bearer {keys['shop']}"}
    assert client.post("/operations/stop", json={"release": tried}, headers=headers).status_code == 403
    assert client.get("/operations/canary", headers=headers).status_code == 403
    assert canary.read(home / "releases") is not None


def test_the_button_ends_the_trial(home: Path, page: Page, tried: str) -> None:
    page.goto("/operations")
    expect(page.locator("#proposed li")).to_contain_text("On trial10.0% of the customers · until")
    page.get_by_role("button", name=f"Stop the trial of {tried}").click()
    expect(page.locator("#proposed li")).to_have_count(0)
    assert canary.read(home / "releases") is None
