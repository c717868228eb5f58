"""How long a training gets to end in order."""

import pytest

from tunesmith.core.retries import grace_seconds


@pytest.mark.parametrize(
    ("measured", "grace"),
    [
        pytest.param(0, 300, id="nothing was measured yet"),
        pytest.param(1, 60, id="a small model gets a minute nevertheless"),
        pytest.param(200, 430, id="twice what was measured and half a minute"),
        pytest.param(2**31 - 1, 86_400, id="a day at most, as the field allows"),
    ],
)
def test_the_grace_period_follows_what_was_measured(measured: int, grace: int) -> None:
    """A save that takes twice as long as it ever did is still finished before SIGKILL."""
    assert grace_seconds(measured) == grace
