"""Stage `train`: supervised fine-tuning of the base on the prepared rows, with DeepSpeed on CPU or GPU.

Two kinds of process make it up. The *parent* (:mod:`.parent`) is the stage program: it needs neither torch nor
transformers, starts torchrun (:mod:`.launch`), relays progress, and turns whatever ended a rank into one failure. The
*ranks* (:mod:`.worker`) train. They meet in the attempt's folder:

=====================  ==============================================================================================
``stage.json``         read by every rank: the same input that the parent got
``ranks/``             parent and ranks only: ``events.jsonl``, ``exit-<rank>.json``, ``launch.json``, ``outcome.json``
``logs/``              ``rank-<n>.log``, ``torchrun.log``, ``metrics.jsonl``, ``loss.png``
``out/``               the adapter or the whole model, and ``reference.json``
=====================  ==============================================================================================

Checkpoints lie beside the attempts, in ``<key>.checkpoints/`` (:mod:`.checkpoints`), so that the next attempt finds
them.
"""
