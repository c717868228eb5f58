"""What is trained of a base."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.prepared import tiny_llama, write_base
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.model import freeze_but_last, load_base
from tunesmith_stages.train.settings import Precision


def test_no_more_layers_are_trained_than_there_are() -> None:
    """All of them can be; one more is refused with the number that there is, and nothing is frozen."""
    model = tiny_llama()
    with pytest.raises(StageError, match=r"trainableLayers` is 3, but the base has 2 layers") as caught:
        freeze_but_last(model, 3)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "TooManyLayers")
    assert all(value.requires_grad for value in model.parameters())
    freeze_but_last(model, 2)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".layers." in name}


# --- a base that brings code -----------------------------------------------------------------------------------------


class Opens:
    """What opens a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self._path, "w")


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    """Return a file that is there once code of the base has run."""
    return tmp_path / "witness"


@pytest.fixture
def base(tmp_path: Path, witness: Path) -> Path:
    """Return a base with code of its own beside it."""
    folder = write_base(tmp_path / "base")
    (folder / "own.py").write_text(f"open({str(witness)!r}, 'w')\nConfig = Model = object\n")
    name_code(folder)
    return folder


def name_code(base: Path, **changes: str) -> None:
    path = base / "config.json"
    named = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": named, **changes}))


def test_code_beside_a_known_architecture_is_not_run(base: Path, witness: Path) -> None:
    """A base that names code is loaded by what transformers has for its architecture."""
    assert type(load_base(base, Precision.FP32)).__module__.startswith("transformers.models.llama")
    assert not witness.exists()


def test_code_of_an_unknown_architecture_is_not_run(base: Path, witness: Path) -> None:
    """A base that only its own code can load is refused."""
    name_code(base, model_type="own", architectures="OwnForCausalLM")
    with pytest.raises(StageError) as caught:
        load_base(base, Precision.FP32)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "BaseUnreadable")
    assert not witness.exists()


def test_pickled_weights_are_not_opened(base: Path, witness: Path) -> None:
    """Weights that were put there as pickles are no weights: to open them would be to run them."""
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(pickle.dumps(Opens(witness)))
    with pytest.raises(StageError) as caught:
        load_base(base, Precision.FP32)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "BaseUnreadable")
    assert not witness.exists()
    pickle.loads((base / "pytorch_model.bin").read_bytes()).close()  # noqa: S301 - shows that it would have run
    assert witness.exists()
