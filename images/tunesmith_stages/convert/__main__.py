"""Runs the stage: ``python -m tunesmith_stages.convert --config stage.json``."""

from tunesmith_stages.contract import StageName
from tunesmith_stages.convert.stage import make
from tunesmith_stages.program import main

main(StageName.CONVERT, make)
