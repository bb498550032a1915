"""What deploy/ says holds for systemd, cron, containers and Kubernetes, and for the settings and commands it names."""

import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from assistant.engine_process import _STOP_GRACE_S
from assistant.settings import Settings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
UNITS = sorted((DEPLOY / "systemd").iterdir())
COMMAND = "/opt/assistant/.venv/bin/assistant"
HOME = "/var/lib/assistant"
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
CONTAINERFILE = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text(encoding="utf-8"))
RESOURCES = [
    resource
    for path in sorted((DEPLOY / "kubernetes").iterdir())
    for resource in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
CRON_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
)
SERVICE_KEYS = {
    *("build", "cap_drop", "command", "cpu_shares", "env_file", "healthcheck", "image", "init", "ports", "profiles"),
    *("read_only", "restart", "security_opt", "shm_size", "stop_grace_period", "tmpfs", "volumes"),
}
"""Of Compose's keys of a service those that we know and use."""


def unit(name: str) -> configparser.ConfigParser:
    """A unit file; of a key that stands in it twice, such as Environment, the last value."""
    read = configparser.ConfigParser(strict=False, interpolation=None)
    read.optionxform = str  # type: ignore[assignment, method-assign]
    read.read(DEPLOY / "systemd" / name, encoding="utf-8")
    return read


def resource(kind: str) -> dict[str, Any]:
    return next(each for each in RESOURCES if each["kind"] == kind)


def pod(kind: str) -> dict[str, Any]:
    """What a pod of that kind of resource is made of."""
    found = resource(kind)
    if kind == "CronJob":
        found = found["spec"]["jobTemplate"]
    return found["spec"] if kind == "Pod" else found["spec"]["template"]["spec"]


def crontab_line() -> list[str]:
    """The one job of the crontab: five fields, the user, the command."""
    lines = (DEPLOY / "cron" / "assistant-nightly").read_text(encoding="utf-8").splitlines()
    [job] = [line for line in lines if line and not line.startswith("#") and not re.match(r"[A-Z_]+=", line)]
    return job.split(maxsplit=6)


def test_systemd_takes_the_units_without_a_warning(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is missing; on Debian: apt-get install systemd")
    command = tmp_path / "assistant"
    command.touch(mode=0o755)
    for path in UNITS:
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8").replace(COMMAND, str(command)))
    units = [str(tmp_path / path.name) for path in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_misspelt_directive_would_be_noticed(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is missing; on Debian: apt-get install systemd")
    path = tmp_path / "assistant.service"
    path.write_text("[Service]\nExecStart=/bin/true\nProtectSytem=strict\n")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True)
    assert "ProtectSytem" in done.stderr


@pytest.mark.parametrize("name", ["assistant.service", "assistant-nightly.service"])
def test_both_services_are_confined_to_their_home_as_their_own_user(name: str) -> None:
    service = unit(name)["Service"]
    assert service["User"] == "assistant"
    assert (service["ProtectSystem"], service["StateDirectory"]) == ("strict", "assistant")
    assert service["Environment"] == f"ASSISTANT_HOME={HOME}"


def test_the_nightly_steps_back_and_another_night_is_no_failure() -> None:
    service, timer = unit("assistant-nightly.service")["Service"], unit("assistant-nightly.timer")["Timer"]
    assert (service["SuccessExitStatus"], service["Nice"], service["IOSchedulingClass"]) == ("75", "15", "idle")
    assert (timer["Persistent"], timer["RandomizedDelaySec"]) == ("true", "30min")


def test_the_crontab_has_five_fields_a_user_and_the_command() -> None:
    *fields, user, command = crontab_line()
    for value, (name, least, most) in zip(fields, CRON_FIELDS, strict=True):
        assert value == "*" or least <= int(value) <= most, f"{value!r} is no {name}"
    assert user == "assistant"
    assert f" {COMMAND} nightly " in command
    assert "%" not in command  # cron ends the line there
    assert [path.name for path in (DEPLOY / "cron").iterdir()] == ["assistant-nightly"]  # a dot, and cron skips it


def test_nights_begin_at_the_same_time_everywhere() -> None:
    minute, hour, *rest = crontab_line()[:5]
    assert rest == ["*", "*", "*"]
    assert resource("CronJob")["spec"]["schedule"] == f"{minute} {hour} * * *"
    assert unit("assistant-nightly.timer")["Timer"]["OnCalendar"] == f"*-*-* {int(hour):02}:{int(minute):02}:00"


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("found", RESOURCES, ids=lambda found: found["kind"])
def test_kubernetes_takes_each_resource_and_knows_every_field(found: dict[str, Any], version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing; run: make test")
    assert validate.validate(found, version, strict=True) == version


def test_a_misspelt_field_of_kubernetes_would_be_noticed() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing; run: make test")
    job = resource("CronJob")
    wrong = job | {"spec": job["spec"] | {"concurencyPolicy": "Forbid"}}
    with pytest.raises(validate.ValidationError, match="concurencyPolicy"):
        validate.validate(wrong, "1.31", strict=True)


@pytest.mark.parametrize("kind", ["Deployment", "CronJob", "Pod"])
def test_each_pod_runs_without_privileges_on_the_same_volume(kind: str) -> None:
    made = pod(kind)
    [container] = made["containers"]
    assert (made["securityContext"]["runAsNonRoot"], made["securityContext"]["runAsUser"]) == (True, 10001)
    assert container["securityContext"]["readOnlyRootFilesystem"] and container["resources"]["limits"]["memory"]
    assert {"name": "home", "mountPath": HOME} in container["volumeMounts"]
    assert {"name": "home", "persistentVolumeClaim": {"claimName": "assistant-home"}} in made["volumes"]
    assert resource("PersistentVolumeClaim")["metadata"]["name"] == "assistant-home"


@pytest.mark.parametrize("kind", ["Deployment", "CronJob", "Pod"])
def test_the_cluster_does_not_set_our_port(kind: str) -> None:
    """For a Service named assistant, Kubernetes sets ASSISTANT_PORT=tcp://10.0.0.7:80, which is no port."""
    assert resource("Service")["metadata"]["name"] == "assistant"
    assert pod(kind)["enableServiceLinks"] is False


def test_one_night_at_a_time_beside_the_service() -> None:
    assert resource("CronJob")["spec"]["concurrencyPolicy"] == "Forbid"
    [near] = pod("CronJob")["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    template = resource("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert near["labelSelector"]["matchLabels"] == template == resource("Service")["spec"]["selector"]
    [rule, _] = resource("CronJob")["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1, 75]


def test_the_probes_ask_what_the_service_answers() -> None:
    [container] = pod("Deployment")["containers"]
    service = (ROOT / "assistant" / "service.py").read_text(encoding="utf-8")
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert probes == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert all(f'@app.get("{path}"' in service for path in probes.values())


def test_the_engine_has_time_to_start_and_answers_have_time_to_end() -> None:
    settings = Settings()
    startup = pod("Deployment")["containers"][0]["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > settings.engine_start_s
    graces = [
        unit("assistant.service")["Service"]["TimeoutStopSec"].removesuffix("s"),
        COMPOSE["services"]["assistant"]["stop_grace_period"].removesuffix("s"),
        pod("Deployment")["terminationGracePeriodSeconds"],
    ]
    assert all(int(grace_s) > settings.drain_s + _STOP_GRACE_S for grace_s in graces)


def test_the_compose_file_has_known_keys_and_its_parts_exist() -> None:
    assert set(COMPOSE) == {"name", "services", "volumes"}
    for service in COMPOSE["services"].values():
        assert set(service) <= SERVICE_KEYS
        assert service["volumes"] == [f"home:{HOME}"]
        build = (DEPLOY / "container" / service["build"]["context"]).resolve()
        assert build == ROOT and (build / service["build"]["dockerfile"]).is_file()
    assert [service["command"] for service in COMPOSE["services"].values()] == [["serve"], ["nightly"]]
    assert set(COMPOSE["volumes"]) == {"home"}


def test_the_image_installs_what_make_installs_by_hash_and_runs_as_nobody_special() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lists = set(re.findall(r"-r (requirements/\S+?\.txt)", makefile.replace("$(ENGINE)", "$ENGINE")))
    named = set(re.findall(r"\$pip -r (requirements/\S+\.txt)", CONTAINERFILE))
    assert named == lists - {"requirements/gemma.txt"}
    assert "--no-deps --require-hashes" in CONTAINERFILE and "--no-deps --require-hashes" in makefile
    assert len(re.findall("^FROM ", CONTAINERFILE, re.MULTILINE)) == 2
    assert re.findall(r"^USER (.+)$", CONTAINERFILE, re.MULTILINE) == ["10001:10001"]


def test_the_image_holds_every_package_and_nothing_that_is_not_there() -> None:
    ignored = (DEPLOY / "container" / "Containerfile.dockerignore").read_text(encoding="utf-8").split()
    copied = [line.split()[1:-1] for line in CONTAINERFILE.splitlines() if re.match("COPY (?!--from)", line)]
    sources = {source for sources in copied for source in sources}
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    assert {pattern.removeprefix("!") for pattern in ignored if pattern.startswith("!")} == sources
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {package.split(".")[0] for package in project["tool"]["setuptools"]["packages"]} <= sources


def test_all_name_one_image_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    named = {image for path in FILES for image in re.findall(r"payment-support-assistant:\S+", path.read_text())}
    assert named == {f"payment-support-assistant:{version}"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(DEPLOY).as_posix())
def test_every_setting_that_is_named_exists_and_homes_agree(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    settings = {f"ASSISTANT_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"ASSISTANT_[A-Z_]+", text)) <= settings
    assert set(re.findall(r"ASSISTANT_HOME(?:=|, value: )([^\s}]+)", text)) <= {HOME}
    assert set(re.findall(r"/opt/\S+/bin/\w+", text)) <= {COMMAND}


def test_every_command_that_is_named_exists() -> None:
    from assistant.cli import main

    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
    named = set(re.findall(r"(?:bin/|-- |`|--rm (?:-v \S+ )?)assistant ([a-z]+)", text))
    named |= set(re.findall(r"(?:args:|command:|CMD) \[\"?([a-z]+)\"?\]", text))
    assert named == {"index", "key", "nightly", "serve", "train"}
    assert named <= set(main.commands)


def test_the_plan_that_the_readme_shows_is_one(tmp_path: Path) -> None:
    from finetune.plan import read_plan

    [shown] = [block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "cases" in block]
    (tmp_path / "nightly.yaml").write_text(shown)
    plan = read_plan(tmp_path / "nightly.yaml")
    assert (plan.knowledge, plan.cases) == ((tmp_path / "knowledge",), (tmp_path / "cases.jsonl",))


def test_the_readme_names_every_file_and_only_metrics_that_there_are() -> None:
    from finetune.night_metrics import render
    from finetune.nights import Night

    assert [path.name for path in FILES if path.name != "README.md" and path.name not in README] == []
    told = render([Night("n1", "2026-11-24T02:30:00Z", "kept", [], champion="r1")]).decode()
    assert set(re.findall("assistant_nightly_[a-z_]+", README)) <= set(re.findall("assistant_nightly_[a-z_]+", told))
