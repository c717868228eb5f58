"""The stage `fetch`: brings sources into the volume's store, whole and checked, and says which content they are.

A source is a base model or a dataset. ``stage`` has the stage itself; each kind of source has a module of its own that
knows the source's version and how to bring it; ``storing`` puts what came into the store, where the folder's name is
the digest of its content, so that the same content lies there once, whoever asked for it.
"""
