"""``python -m tunesmith_stages.train --config stage.json``, on every node of a training."""

if __name__ == "__main__":  # before what takes its time
    from tunesmith_stages.early_stop import stop_at_once

    stop_at_once()

from tunesmith_stages.contract import StageName
from tunesmith_stages.program import main
from tunesmith_stages.train.member import take_part
from tunesmith_stages.train.parent import train

if __name__ == "__main__":
    main(StageName.TRAIN, train, assist=take_part)
