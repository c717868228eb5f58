"""``python -m tunesmith_stages.fetch --config stage.json``."""

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

from tunesmith_stages.contract import StageName
from tunesmith_stages.fetch.stage import fetch, resolved
from tunesmith_stages.program import main

main(StageName.FETCH, fetch, resolve=resolved)
