import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from limits.storage import MemoryStorage

from assistant.access import LOCAL, Access, Tenant, add_key
from retrieval.errors import AccessDenied, InputError, LimitReached, StorageError

SHOP = Tenant("shop", requests_per_minute=2, tokens_per_day=100, admin=False)
HERE = "203.0.113.7"


def hashed(key: str) -> str:
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the tenant `SHOP`, whose key is sk-shop, and the tenant root, whose keys are sk-root and sk-old."""
    path = tmp_path / "keys.yaml"
    path.write_text(f"""
tenants:
  - name: shop
    keys: ["{hashed("sk-shop")}"]
    requests_per_minute: 2
    tokens_per_day: 100
  - name: root
    keys: ["{hashed("sk-root")}", "{hashed("sk-old")}"]
    admin: true
""")
    return path


@pytest.fixture
def anonymous(path: Path) -> Path:
    """The same, and without a key 1 request a minute and 100 tokens a day."""
    path.write_text(path.read_text() + "anonymous: {requests_per_minute: 1, tokens_per_day: 100}\n")
    return path


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass."""
    passed, wall, monotonic = [0.0], time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: wall + passed[0])
    monkeypatch.setattr(time, "monotonic", lambda: monotonic + passed[0])

    def wait(seconds: float) -> None:
        passed[0] += seconds

    return wait


def test_without_a_file_everybody_is_local_and_has_no_limits(tmp_path: Path) -> None:
    access = Access(tmp_path / "keys.yaml")
    assert access.open
    assert access.tenant(None, HERE) == access.tenant("Bearer anything", HERE) == LOCAL
    for _ in range(1000):
        access.take(LOCAL, HERE)
        access.spend(LOCAL, HERE, 1_000_000)


def test_a_key_tells_the_tenant(path: Path) -> None:
    access = Access(path)
    assert not access.open
    assert access.tenant("Bearer sk-shop", HERE) == access.tenant("bearer  sk-shop ", HERE) == SHOP
    root = Tenant("root", requests_per_minute=600, tokens_per_day=None, admin=True)
    assert access.tenant("Bearer sk-root", HERE) == access.tenant("Bearer sk-old", HERE) == root


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        *((None, "a key is needed: send it in the header"), ("", "a key is needed")),
        *(("Bearer sk-other", "the key is not known"), ("Bearer", "the key is not known")),
        *((f"Bearer {hashed('sk-shop')}", "the key is not known"), ("Bearer 密钥", "the key is not known")),
        *(("Basic c2hvcA==", "not of the form 'Bearer sk-…'"), ("sk-shop", "not of the form")),
    ],
)
def test_without_a_known_key_access_is_denied(path: Path, authorization: str | None, message: str) -> None:
    with pytest.raises(AccessDenied, match=message):
        Access(path).tenant(authorization, HERE)


def test_where_anonymous_is_allowed_a_wrong_key_is_denied_all_the_same(anonymous: Path) -> None:
    access = Access(anonymous)
    assert access.tenant(None, HERE) == Tenant("anonymous", 1, 100, admin=False)
    with pytest.raises(AccessDenied):
        access.tenant("Bearer sk-other", HERE)


def test_the_third_request_of_a_minute_waits_for_the_next(path: Path, wait: Callable[[float], None]) -> None:
    access = Access(path)
    access.take(SHOP, HERE)
    wait(20.5)
    access.take(SHOP, "another address")
    with pytest.raises(LimitReached, match="shop has used up its 2 requests a minute; try again in 40 s") as reached:
        access.take(SHOP, HERE)
    assert reached.value.retry_after_s == 40
    wait(40)
    access.take(SHOP, HERE)


def test_a_tenant_at_its_limit_leaves_the_others_alone(path: Path) -> None:
    access = Access(path)
    for _ in range(600):
        access.take(access.tenant("Bearer sk-root", HERE), HERE)
    access.take(SHOP, HERE)
    with pytest.raises(LimitReached):
        access.take(access.tenant("Bearer sk-old", HERE), HERE)


def test_when_the_tokens_of_a_day_are_spent_requests_wait_for_the_next(
    path: Path, wait: Callable[[float], None]
) -> None:
    access = Access(path)
    access.spend(SHOP, HERE, 99)
    access.take(SHOP, HERE)
    access.spend(SHOP, HERE, 50)
    wait(3600)
    with pytest.raises(LimitReached, match="100 tokens a day") as reached:
        access.take(SHOP, HERE)
    assert reached.value.retry_after_s == 23 * 3600
    wait(23 * 3600)
    access.take(SHOP, HERE)


def test_an_answer_without_tokens_spends_none(path: Path) -> None:
    access = Access(path)
    access.spend(SHOP, HERE, 0)
    access.spend(SHOP, HERE, 99)
    access.take(SHOP, HERE)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (HERE, HERE, True),
        (HERE, "203.0.113.8", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        (HERE, f"::ffff:{HERE}", True),
        ("::ffff:203.0.113.7", "::ffff:203.0.113.8", False),
        ("testclient", "testclient", True),
    ],
)
def test_without_a_key_each_address_counts_and_of_ipv6_each_network_of_64_bits(
    anonymous: Path, one: str, other: str, same: bool
) -> None:
    access = Access(anonymous)
    nobody = access.tenant(None, one)
    access.take(nobody, one)
    if same:
        with pytest.raises(LimitReached):
            access.take(nobody, other)
    else:
        access.take(nobody, other)


def test_a_changed_file_is_read_again_within_a_second(path: Path, wait: Callable[[float], None]) -> None:
    access = Access(path)
    path.write_text(path.read_text().replace(hashed("sk-shop"), hashed("sk-new")))
    wait(1)
    assert access.tenant("Bearer sk-new", HERE) == SHOP
    with pytest.raises(AccessDenied):
        access.tenant("Bearer sk-shop", HERE)


def test_a_first_key_closes_a_service_that_was_open(tmp_path: Path, wait: Callable[[float], None]) -> None:
    access = Access(tmp_path / "keys.yaml")
    key = add_key(tmp_path / "keys.yaml", "shop")
    wait(1)
    assert access.tenant(f"Bearer {key}", HERE).name == "shop" and not access.open
    with pytest.raises(AccessDenied):
        access.tenant(None, HERE)


@pytest.mark.parametrize("text", ["tenants: [", "tenants: 1", "", None])
def test_a_file_that_breaks_or_goes_away_keeps_the_old_keys_and_is_logged_once(
    path: Path, wait: Callable[[float], None], caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    access = Access(path)
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    for _ in range(3):
        wait(1)
        assert access.tenant("Bearer sk-shop", HERE) == SHOP and not access.open
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"the keys that were read before stay valid: {path}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file: Input should be a valid dictionary"),
        ("tenants:\n  - name: a\n  name: b", ":3: not YAML"),
        ("tenants: [{}]", "tenants.0.name: Field required"),
        ("tenants: [{name: a/b}]", "tenants.0.name: String should match"),
        ("tenants: [{name: a, request_per_minute: 5}]", "tenants.0.request_per_minute: Extra inputs"),
        ("tenants: [{name: a, requests_per_minute: 0}]", "tenants.0.requests_per_minute: Input should be greater"),
        ("tenants: [{name: a}, {name: a}]", "the name a is taken"),
        ("tenants: [{name: anonymous}]", "the name anonymous is taken"),
        (f"tenants: [{{name: a, keys: [{hashed('k')}, {hashed('k')}]}}]", "a key stands in it twice"),
        ("anonymous: {tokens_per_day: lots}", "anonymous.tokens_per_day: Input should be a valid integer"),
    ],
)
def test_a_file_that_is_wrong_is_an_input_error_that_names_file_and_field(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        Access(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["tenants: [{name: a, keys: [sk-secret]}]", "tenants: [{name: a, key: sk-secret}]", 'tenants: "sk-secret\n- ['],
)
def test_a_key_that_someone_wrote_into_the_file_is_not_in_the_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        Access(path)
    assert "sk-secret" not in str(error.value)


def test_a_file_that_cannot_be_read_does_not_open_the_service(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").mkdir()
    with pytest.raises(InputError, match=r"keys\.yaml cannot be read: Is a directory"):
        Access(tmp_path / "keys.yaml")


def test_a_new_key_opens_and_only_its_hash_is_in_the_file_which_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys.yaml"
    key = add_key(path, "shop", requests_per_minute=2, tokens_per_day=100)
    assert key.startswith("sk-") and len(key) == 46
    assert Access(path).tenant(f"Bearer {key}", HERE) == SHOP
    shop = {"name": "shop", "keys": [hashed(key)], "requests_per_minute": 2, "tokens_per_day": 100}
    assert yaml.safe_load(path.read_text()) == {"tenants": [shop]}
    assert path.stat().st_mode & 0o777 == 0o600


def test_another_key_of_a_tenant_keeps_the_first_one_and_what_is_not_given(anonymous: Path) -> None:
    before = yaml.safe_load(anonymous.read_text())
    key = add_key(anonymous, "shop", tokens_per_day=500)
    before["tenants"][0]["keys"].append(hashed(key))
    before["tenants"][0]["tokens_per_day"] = 500
    assert yaml.safe_load(anonymous.read_text()) == before


def test_a_name_may_be_chinese(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.yaml", "商城")
    assert "商城" in (tmp_path / "keys.yaml").read_text()
    assert Access(tmp_path / "keys.yaml").tenant(f"Bearer {key}", HERE).name == "商城"


@pytest.mark.parametrize(("name", "requests"), [("a/b", 5), ("", 5), ("anonymous", 5), ("shop", 0)])
def test_what_cannot_be_a_tenant_leaves_the_file_as_it_was(path: Path, name: str, requests: int) -> None:
    before = path.read_text()
    with pytest.raises(InputError):
        add_key(path, name, requests)
    assert path.read_text() == before


def test_a_full_disk_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = path.read_text()
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError):
        add_key(path, "shop")
    assert path.read_text() == before


def test_two_who_add_keys_at_once_both_have_theirs(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    threads = [threading.Thread(target=add_key, args=(path, f"tenant{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = sorted(tenant["name"] for tenant in yaml.safe_load(path.read_text())["tenants"])
    assert names == [f"tenant{number}" for number in range(8)]


def test_counting_starts_no_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's storage started one for nearly every request: .2 ms instead of .01."""
    access = Access(path)

    def refuse(thread: threading.Thread) -> None:
        raise AssertionError("a thread was started")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    access.take(SHOP, HERE)
    access.spend(SHOP, HERE, 1)


def test_addresses_that_do_not_come_again_are_forgotten(anonymous: Path, wait: Callable[[float], None]) -> None:
    access = Access(anonymous)
    nobody = access.tenant(None, HERE)
    for number in range(100):
        access.take(nobody, f"203.0.113.{number}")
    wait(61)
    access.take(nobody, HERE)
    storage = access._limiter.storage
    assert isinstance(storage, MemoryStorage) and len(storage.expirations) == 1
