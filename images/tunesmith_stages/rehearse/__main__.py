"""Runs the stage: ``python -m tunesmith_stages.rehearse --config stage.json``."""

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

from tunesmith_stages.contract import StageName
from tunesmith_stages.program import main
from tunesmith_stages.rehearse.stage import rehearse

if __name__ == "__main__":
    main(StageName.REHEARSE, rehearse)
