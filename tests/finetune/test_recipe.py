from pathlib import Path

import pytest

from finetune.recipe import LORA, Recipe, read_recipe
from retrieval.errors import InputError


def test_without_a_file_the_defaults_hold() -> None:
    assert read_recipe(None) == Recipe()


def test_a_file_changes_fields_and_overrides_stand_above_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("peft: {r: 8}\nmax_steps: 5\n")
    recipe = read_recipe(path, max_steps=3, minutes=None)
    assert (recipe.peft, recipe.max_steps, recipe.minutes) == ({"r": 8}, 3, None)


def test_fields_of_lora_that_are_not_given_keep_their_defaults_and_other_kinds_have_none() -> None:
    assert Recipe(peft={"r": 8}).peft_fields == LORA | {"r": 8, "peft_type": "LORA"}
    assert Recipe(peft={"peft_type": "ia3"}).peft_fields == {"peft_type": "IA3"}
    assert Recipe(peft=None, quantize="none").peft_fields is None


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("# nothing yet\n")
    assert read_recipe(tmp_path / "recipe.yaml") == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank: 8", "field 'rank'.*known fields: quantize, peft"),
        ("batch_size: 0", "field 'batch_size'"),
        ("peft: null", "trains every weight, which quantize: nf4 forbids; set quantize: none"),
        ("quantize: int3", "field 'quantize'"),
        ("peft: {r: sixteen}", "peft.r, or a rank of rank_pattern, is 'sixteen'; give a whole number"),
        ("peft: {r: null}", "is None; give a whole number"),
        ("peft: {rank_pattern: {q_proj: x}}", "is 'x'; give a whole number"),
        ("epochs: .inf", "field 'epochs'"),
        ("{none_share: .7, distractors_share: .7}", "together they exceed 1"),
        ("- rank", "must be a mapping"),
        ("peft: [", "cannot be read"),
    ],
)
def test_a_wrong_recipe_is_an_input_error_that_names_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path}.*{message}"):
        read_recipe(path)


def test_a_recipe_that_is_missing_or_not_text_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes("rank: 8 # é".encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path / "latin.yaml")
