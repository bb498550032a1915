"""The ways to run an encoder, compared once on each machine: do they agree with torch, and which is fastest?

    models/<encoder>-onnx/<identity>/      the export; see onnx_encoder.py
                          measured.json    what was measured, by machine

A way counts only if its vectors agree with torch's on the sentences below, and int8 is taken only where
it is really faster: its vectors are not those of fp32, and an index is searched as it was built.
"""

import contextlib
import itertools
import json
import logging
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from retrieval.encoder_files import Source
from retrieval.errors import ModelError, StorageError
from retrieval.files import alone, write_text
from retrieval.onnx_encoder import FORMAT, ExportDamaged, OnnxEncoder, Precision, Vectors, cores, read_export
from retrieval.onnx_export import NotExportable, TooLittleRoom, export
from retrieval.torch_encoder import TorchEncoder

Backend = Literal["torch", "onnx", "onnx-int8"]
PRECISIONS: dict[Backend, Precision] = {"torch": "fp32", "onnx": "fp32", "onnx-int8": "int8"}
LEAST_MEAN_COSINE, LEAST_COSINE, LEAST_AGREEMENT = 0.99, 0.98, 0.9
LEAST_FP32_COSINE = 0.9999
"""torch and ONNX in fp32 search the same indexes."""
_INT8_GAIN, _THREADS_GAIN = 1.1, 1.2
_MEASURE_QUERIES, _MEASURE_S, _TURN = 48, 4.0, 4
_log = logging.getLogger(__name__)

QUERIES = (
    "How long does a refund take?",
    "My card payment was declined, why?",
    "What fee do you charge for a bank transfer?",
    "How do I reset my password?",
    "Can I change the currency of my account?",
    "I was charged twice for one order",
    "Where can I download an invoice?",
    "How do I dispute a chargeback?",
    "退款需要多长时间？",
    "为什么我的银行卡付款被拒绝？",
    "提现手续费是多少？",
    "怎么修改登录密码？",
    "可以用支付宝付款吗？",
    "同一笔订单被扣了两次钱",
    "在哪里可以下载发票？",
    "如何完成实名认证？",
)
PASSAGES = (
    "Refunds reach the customer's card within 5 to 10 business days.",
    "A bank declines a card when the balance is too low, the card has expired, or the security code is wrong.",
    "Bank transfers cost 0.5% of the amount, at least 1 EUR.",
    "To set a new password, choose Forgotten password on the sign-in page and follow the link in the e-mail.",
    "The currency of an account is fixed when it is opened; open a second account for another currency.",
    "A second charge for the same order is usually a pending authorisation and disappears within three days.",
    "Invoices are under Billing > Documents, as PDF files.",
    "Answer a chargeback within seven days with the receipt and proof of delivery.",
    "退款将在五到十个工作日内退回原支付方式。",
    "余额不足、卡片过期或安全码错误时，银行会拒绝银行卡付款。",
    "提现按金额的百分之一收取手续费，每笔最低一元。",
    "在登录页面点击“忘记密码”，按照短信提示即可设置新的登录密码。",
    "我们支持支付宝、微信支付和银联卡付款。",
    "重复扣款通常是预授权，三天内会自动解除并退回。",
    "发票可以在“账单—文件”页面下载，格式为电子发票。",
    "实名认证需要上传身份证正反面照片，审核一般需要一个工作日。",
)
"""PASSAGES[i] answers QUERIES[i]."""


@dataclass(frozen=True)
class Run:
    """One way to run the encoder, compared with torch."""

    backend: Backend
    threads: int
    """That share the work on one text."""
    p50_ms: float
    """Of embedding one query."""
    yardstick_ms: float
    """The same of ONNX in fp32 on one thread, in the same moments: machines are never quiet for long."""
    mean_cosine: float
    """With torch's vectors of the sentences above."""
    least_cosine: float
    agreement: float
    """Share of the queries above whose nearest passage is the same, 0 to 1."""

    @property
    def speed(self) -> float:
        """How many times as fast as the yardstick."""
        return self.yardstick_ms / self.p50_ms

    @property
    def verified(self) -> bool:
        least = LEAST_FP32_COSINE if PRECISIONS[self.backend] == "fp32" else LEAST_COSINE
        return (
            self.mean_cosine >= LEAST_MEAN_COSINE and self.least_cosine >= least and self.agreement >= LEAST_AGREEMENT
        )


@dataclass(frozen=True)
class Measured:
    """What was measured on one machine."""

    runs: tuple[Run, ...] = ()
    obstacle: str = ""
    """Why torch alone can run the encoder; "" if it is not so."""

    def fastest(self, backend: Backend) -> Run | None:
        """The fastest run of `backend` that agrees with torch.

        One thread is kept unless more are faster by a fifth: it leaves the other cores to FAISS, to other
        requests and to the engine.
        """
        best: Run | None = None
        for run in sorted(self.runs, key=lambda run: run.threads):
            if run.backend == backend and run.verified and (not best or run.speed > _THREADS_GAIN * best.speed):
                best = run
        return best

    def best(self, precision: Precision | None = None) -> Run | None:
        """The fastest run, of `precision` if it is given; None is torch.

        int8 is taken for its speed only: its vectors are a little less exact.
        """
        torch, fp32, int8 = self.fastest("torch"), self.fastest("onnx"), self.fastest("onnx-int8")
        if fp32 and torch and fp32.speed < torch.speed:
            fp32 = None
        exact = fp32 or torch
        if precision == "fp32" or not int8 or (exact and int8.speed < _INT8_GAIN * exact.speed):
            return fp32
        return int8


@dataclass(frozen=True)
class Record:
    """What is known of an encoder; `measured.json`."""

    identity: str
    """Of the encoder's files; see `Source.identity`."""
    stamp: str
    machines: dict[str, Measured] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    model: TorchEncoder | OnnxEncoder
    backend: Backend
    identity: str
    """Of the encoder's files."""


def open_best(source: Source, backend: Backend | None = None, precision: Precision | None = None) -> Opened:
    """Open the encoder by the best way on this machine, of those that `backend` or `precision` leave.

    What is not known yet is made and measured first, which takes torch and about a minute.

    Raises:
        ModelError: The encoder cannot be loaded, or cannot run as asked for.
        StorageError: The disk refused.
    """
    here = _machine()
    record = _read(source)
    if record and here in record.machines:
        run = _choose(source.name, record.machines[here], backend, precision)
        if run is None:
            return _open_torch(source, record, here)
        try:
            return _open_onnx(source, record, run)
        except ExportDamaged as error:
            _log.warning("%s; the export is made again", error)
    record, loaded = _measure(source, here)
    run = _choose(source.name, record.machines[here], backend, precision)
    return _open_onnx(source, record, run) if run else _open_torch(source, record, here, loaded)


def _open_torch(source: Source, record: Record, here: str, loaded: TorchEncoder | None = None) -> Opened:
    obstacle = record.machines[here].obstacle
    if obstacle:
        _log.info("the encoder %s runs on torch: %s", source.name, obstacle)
    return Opened(loaded or TorchEncoder(source.name, source.location), "torch", record.identity)


def _open_onnx(source: Source, record: Record, run: Run) -> Opened:
    model = OnnxEncoder(source.exports / record.identity, PRECISIONS[run.backend], run.threads)
    return Opened(model, run.backend, record.identity)


def _choose(name: str, measured: Measured, backend: Backend | None, precision: Precision | None) -> Run | None:
    """The run to open; None is torch."""
    if backend is None and precision != "int8":
        return measured.best(precision)
    wanted = backend or "onnx-int8"
    run = measured.fastest(wanted)
    if run is None:
        cosine = max((run.mean_cosine for run in measured.runs if run.backend == wanted), default=None)
        reason = measured.obstacle or f"its vectors differ from torch's (mean cosine {cosine})"
        raise ModelError(
            f"encoder {name!r} cannot run as {wanted} on this machine: {reason}. "
            "Index again here, with: assistant index"
        )
    return run


def _measure(source: Source, here: str) -> tuple[Record, TorchEncoder]:
    """Make the export if need be, compare its runs with torch, and record that; with torch, as it was loaded.

    One process at a time: another that waited takes what the first found.
    """
    _log.info("measuring how the encoder %s runs fastest here, once: about a minute", source.name)
    loaded = TorchEncoder(source.name, source.location, device="cpu")
    with alone(source.exports):
        record = _read(source)
        known = record.machines.get(here) if record else None
        if record and known and (known.obstacle or not _damage(source.exports / record.identity)):
            return record, loaded
        identity, stamp = source.identity(), source.stamp()
        folder = source.exports / identity
        for other in source.exports.iterdir():  # exports of other files, and what killed processes left
            if other.is_dir() and other != folder:
                shutil.rmtree(other, ignore_errors=True)
        passing = False
        try:
            if _damage(folder):
                shutil.rmtree(folder, ignore_errors=True)
                export(loaded, source.name, folder)
            measured = Measured(tuple(_runs(folder, loaded)))
        except NotExportable as error:
            measured = Measured(obstacle=str(error))
            passing = isinstance(error, TooLittleRoom)
        for run in measured.runs:
            if not run.verified:
                _log.warning(
                    "encoder %s: %s is not used, its vectors differ from torch's: %s", source.name, run.backend, run
                )
        machines = record.machines if record and record.identity == identity else {}
        record = Record(identity, stamp, {**machines, here: measured})
        if not passing:
            _write(source, record)
    return record, loaded


def _damage(folder: Path) -> str:
    """What is wrong with the export in `folder`; "" if nothing is."""
    try:
        read_export(folder, "fp32")
        read_export(folder, "int8")
    except ExportDamaged as error:
        return str(error)
    return ""


def _runs(folder: Path, torch_encoder: TorchEncoder) -> Iterator[Run]:
    """Torch, and each way to run the export in `folder`, compared with it.

    Raises:
        NotExportable: onnxruntime cannot run the export.
    """
    expected = _vectors(torch_encoder)
    yardstick, _ = _try(folder, "onnx", 1)
    p50_ms, yardstick_ms = _p50s_ms(torch_encoder, yardstick)
    yield Run("torch", cores(), p50_ms, yardstick_ms, mean_cosine=1.0, least_cosine=1.0, agreement=1.0)
    exported: tuple[Backend, ...] = ("onnx", "onnx-int8")
    for backend, threads in itertools.product(exported, sorted({1, cores()})):
        model, found = _try(folder, backend, threads)
        cosines = (expected * found).sum(axis=1)
        p50_ms, yardstick_ms = _p50s_ms(model, yardstick)
        del model  # before the next is opened: a large encoder may not fit many times
        yield Run(
            backend=backend,
            threads=threads,
            p50_ms=p50_ms,
            yardstick_ms=yardstick_ms,
            mean_cosine=round(float(cosines.mean()), 5),
            least_cosine=round(float(cosines.min()), 5),
            agreement=round(float((_nearest(expected) == _nearest(found)).mean()), 3),
        )


def _try(folder: Path, backend: Backend, threads: int) -> tuple[OnnxEncoder, Vectors]:
    """Open an export and embed the sentences above.

    Raises:
        NotExportable: onnxruntime cannot run it.
    """
    try:
        model = OnnxEncoder(folder, PRECISIONS[backend], threads)
        return model, _vectors(model)
    except ExportDamaged:
        raise
    except Exception as error:  # onnxruntime has errors of its own for a graph that it cannot run
        raise NotExportable(f"onnxruntime: {(str(error).splitlines() or [''])[0]}") from error


def _vectors(model: TorchEncoder | OnnxEncoder) -> Vectors:
    """Of the queries above, the passages, and a text that is longer than most encoders take; (n, dimensions)."""
    long = " ".join(PASSAGES * 3)
    return np.concatenate([model.queries([*QUERIES]), model.passages([*PASSAGES]), model.passages([long])])


def _nearest(vectors: Vectors) -> npt.NDArray[np.intp]:
    """The passage nearest to each query; `vectors` as from `_vectors`."""
    queries, passages = vectors[: len(QUERIES)], vectors[len(QUERIES) : -1]
    return np.asarray((queries @ passages.T).argmax(axis=1))


def _p50s_ms(*models: TorchEncoder | OnnxEncoder) -> list[float]:
    """The median time of one query in each model, taken in turns so that all meet the same load."""
    times: list[list[float]] = [[] for _ in models]
    stop = time.perf_counter() + _MEASURE_S
    while len(times[0]) < _MEASURE_QUERIES and (not times[0] or time.perf_counter() < stop):
        for model, taken in zip(models, times, strict=True):
            model.queries([QUERIES[0]])  # the other model's threads go to sleep meanwhile
            for query in QUERIES[:: len(QUERIES) // _TURN]:
                started = time.perf_counter()
                model.queries([query])
                taken.append((time.perf_counter() - started) * 1000)
    return [round(float(np.median(taken)), 3) for taken in times]


def _read(source: Source) -> Record | None:
    """What is known of the encoder as its files are now; None if nothing is."""
    path = source.exports / "measured.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            return None
        machines = {
            name: Measured(tuple(Run(**run) for run in measured["runs"]), measured["obstacle"])
            for name, measured in data["machines"].items()
        }
        record = Record(data["identity"], data["stamp"], machines)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s cannot be read (%s: %s); the encoder is measured again", path, type(error).__name__, error)
        return None
    if source.unchanged(record.stamp):
        return record
    if source.identity() != record.identity:
        return None
    record = replace(record, stamp=source.stamp())  # copied or touched, with the same content
    with contextlib.suppress(StorageError):  # it only saves reading the files again
        _write(source, record)
    return record


def _write(source: Source, record: Record) -> None:
    text = json.dumps({"format": FORMAT, **asdict(record)}, ensure_ascii=False, indent=1)
    write_text(source.exports / "measured.json", text + "\n")


def _machine() -> str:
    """This machine, as far as an encoder's speed and its int8 sums depend on it."""
    model, flags = platform.machine(), set[str]()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags |= set(value.split())
    # A virtual machine's model name hides what decides how int8 is multiplied.
    known = [flag for flag in ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8") if flag in flags]
    libraries = [f"{library} {version(library)}" for library in ("onnxruntime", "torch")]
    return ", ".join([" ".join([model, *known]), f"{cores()} cores", *libraries])
