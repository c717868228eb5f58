"""``python -m tunesmith_stages.prepare --config stage.json``."""

from tunesmith_stages.contract import StageName
from tunesmith_stages.prepare.stage import prepare
from tunesmith_stages.program import main

main(StageName.PREPARE, prepare)
