"""``python -m tunesmith_stages.prepare --config stage.json``."""

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

from tunesmith_stages.contract import StageName
from tunesmith_stages.prepare.stage import prepare
from tunesmith_stages.program import main

if __name__ == "__main__":
    main(StageName.PREPARE, prepare)
