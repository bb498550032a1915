import os
from pathlib import Path

from retrieval.encoder_files import find


def encoder(folder: Path) -> Path:
    """A folder with the files of an encoder, as far as their names go."""
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("words")
    return folder


def test_exports_go_under_models_and_each_encoder_has_its_own_place(tmp_path: Path) -> None:
    folder, models = encoder(tmp_path / "my model"), tmp_path / "models"
    assert find("multilingual-e5-small", models).exports == models / "multilingual-e5-small-onnx"
    names = ("multilingual-e5-small", "BAAI/bge-m3", "BAAI-bge-m3", str(folder), "x/" * 200)
    places = {find(name, models).exports for name in names}
    assert len(places) == 5
    assert all(place.parent == models and len(place.name) < 90 for place in places)


def test_a_folder_is_the_same_by_whatever_path(tmp_path: Path, monkeypatch) -> None:
    encoder(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert find("model", tmp_path / "models").exports == find(str(tmp_path / "model"), tmp_path / "models").exports


def test_identity_is_the_content_of_what_the_encoder_reads(tmp_path: Path) -> None:
    source = find(str(encoder(tmp_path / "model")), tmp_path)
    before, copy = source.identity(), find(str(encoder(tmp_path / "copy")), tmp_path).identity()
    assert before == copy
    (tmp_path / "model" / "README.md").write_text("other words")
    (tmp_path / "model" / "pytorch_model.bin").write_text("not read where there are safetensors")
    assert source.identity() == before
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    assert source.identity() != before


def test_a_change_of_size_or_time_is_seen_without_reading(tmp_path: Path) -> None:
    source = find(str(encoder(tmp_path / "model")), tmp_path)
    stamp = source.stamp()
    assert source.unchanged(stamp)
    os.utime(tmp_path / "model" / "model.safetensors", (1, 1))
    assert not source.unchanged(stamp)


def test_a_model_that_is_not_in_the_hubs_cache_counts_as_unchanged_if_it_came_from_there(tmp_path: Path) -> None:
    source = find("acme/no-such-encoder", tmp_path)
    assert source.stamp() == ""
    assert source.unchanged("hub:0123")
    assert not source.unchanged("a folder's stamp")
