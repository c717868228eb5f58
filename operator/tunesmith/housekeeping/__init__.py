"""Keeps a volume from filling up: what lies on it, which jobs need what, and the removal of the rest."""
