from __future__ import annotations

import pytest

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.ollama_gate import require_supported
from tunesmith_stages.program import StageError


@pytest.mark.parametrize("version", ["0.34.1", "0.34.2", "0.34.4", "v0.34.4"])
def test_supported_versions_pass_in_silence(version: str) -> None:
    """From the oldest supported version to the newest tested one nothing is said."""
    warnings: list[str] = []
    require_supported(version, warnings.append)
    assert warnings == []


@pytest.mark.parametrize("version", ["0.34.5", "0.35.0-rc1", "0.40.2", "1.0.0"])
def test_newer_versions_warn(version: str) -> None:
    """A version newer than any that was tested is used, with a warning that names both."""
    warnings: list[str] = []
    require_supported(version, warnings.append)
    assert len(warnings) == 1
    assert version in warnings[0]
    assert "0.34.4" in warnings[0]


@pytest.mark.parametrize("version", ["0.34.0", "0.24.0", "0.9.99", "0.0.0", "main"])
def test_older_versions_are_refused(version: str) -> None:
    """An older version ends the stage, and the message holds what was found and what is needed."""
    with pytest.raises(StageError) as caught:
        require_supported(version, print)
    assert caught.value.code is ExitCode.BAD_CONFIG
    assert caught.value.reason == "OllamaTooOld"
    assert version in caught.value.message
    assert "0.34.1" in caught.value.message
