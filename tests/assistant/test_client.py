import pytest

from assistant.client import get
from retrieval.errors import InputError


@pytest.mark.parametrize("key", ["sk-secret\r", "sk-secret…"])
def test_a_key_that_no_header_takes_is_named_and_not_shown(key: str) -> None:
    with pytest.raises(InputError, match=r"the API key .* holds a line end or another character") as caught:
        get("http://127.0.0.1:9", "/readyz", key)
    assert "secret" not in str(caught.value) and caught.value.__suppress_context__
