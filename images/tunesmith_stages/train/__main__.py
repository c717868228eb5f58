"""``python -m tunesmith_stages.train --config stage.json``."""

from tunesmith_stages.contract import StageName
from tunesmith_stages.program import main
from tunesmith_stages.train.parent import train

if __name__ == "__main__":
    main(StageName.TRAIN, train)
