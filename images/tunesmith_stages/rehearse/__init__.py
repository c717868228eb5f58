"""The stage `rehearse`: asks, before any training, whether what comes after it could work.

:mod:`~tunesmith_stages.rehearse.stage` has the order of events.
"""
