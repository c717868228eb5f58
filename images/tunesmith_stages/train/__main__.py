"""``python -m tunesmith_stages.train --config stage.json``, on every node of a training."""

from tunesmith_stages.contract import StageName
from tunesmith_stages.program import main
from tunesmith_stages.train.member import take_part
from tunesmith_stages.train.parent import train

if __name__ == "__main__":
    main(StageName.TRAIN, train, assist=take_part)
