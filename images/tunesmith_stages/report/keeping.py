"""What a stage program leaves in the job's folder: the record of its attempt, and the report page."""

from __future__ import annotations

import dataclasses
import logging

from tunesmith_stages.contract import Failure, StageConfig
from tunesmith_stages.failures import InterruptedStage
from tunesmith_stages.progress import now_text
from tunesmith_stages.report.attempt import Attempt, keep_attempt
from tunesmith_stages.report.page import keep_page
from tunesmith_stages.volume import Volume

log = logging.getLogger(__name__)


class KeptAttempt:
    """Keeps what becomes of an attempt. Nothing of it can make the stage fail: it is for people alone."""

    def __init__(self, config: StageConfig, volume: Volume) -> None:
        self._volume = volume
        self._attempt = Attempt(config, started=now_text())

    def begins(self, config: StageConfig) -> None:
        """Keep that the attempt has begun; `config` holds the units with their real keys."""
        self._attempt = dataclasses.replace(self._attempt, config=config)
        keep_attempt(self._volume, self._attempt)

    def ends(self, failure: Failure | None) -> None:
        """Keep how the attempt ended, and make the job's page anew."""
        try:
            keep_attempt(self._volume, dataclasses.replace(self._attempt, finished=now_text(), failure=failure))
            keep_page(self._volume, self._attempt.config.job)
        except InterruptedStage as stopped:  # what counts is done; the page can be made again at any time
            log.warning("the report page was not written: %s", stopped)
