import json
import os
from pathlib import Path

import pytest

from retrieval.files import sha256
from retrieval.onnx_encoder import FORMAT, Export, ExportDamaged, cores, read_export


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export as far as its manifest goes."""
    for name in ("fp32", "int8"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_text(name)
    (tmp_path / "tokenizer.json").write_text("{}")
    files = {name: sha256(tmp_path / name) for name in ("fp32/model.onnx", "int8/model.onnx", "tokenizer.json")}
    Export("e", ("input_ids",), "mean", 64, 128, "right", "query: ", "passage: ", files, {}).write(tmp_path)
    return tmp_path


def test_an_export_reads_as_it_was_written(folder: Path) -> None:
    export = read_export(folder, "fp32")
    assert (export.inputs, export.pooling, export.query_prompt) == (("input_ids",), "mean", "query: ")


def test_only_the_files_that_are_opened_are_checked(folder: Path) -> None:
    (folder / "fp32" / "model.onnx").unlink()
    read_export(folder, "int8")
    with pytest.raises(ExportDamaged, match=f"{folder / 'fp32' / 'model.onnx'} is missing"):
        read_export(folder, "fp32")


def test_a_file_that_differs_from_its_hash_is_not_opened(folder: Path) -> None:
    (folder / "int8" / "model.onnx").write_text("other")
    with pytest.raises(ExportDamaged, match="does not match its hash"):
        read_export(folder, "int8")


@pytest.mark.parametrize("change", [{"format": FORMAT + 1}, {"files": {}}, {"surprise": 1}, {"inputs": None}])
def test_a_manifest_of_another_version_is_not_guessed_at(folder: Path, change: dict[str, object]) -> None:
    path = folder / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ExportDamaged, match=r"export\.json"):
        read_export(folder, "int8")


def test_cores_are_at_least_one_and_at_most_those_available() -> None:
    assert 1 <= cores() <= len(os.sched_getaffinity(0))
