"""Stage `train`: fine-tuning of the base on the prepared rows, with DeepSpeed on CPU or GPU.

Two kinds of process make it up. The *parent* (:mod:`.parent`) is the stage program: it needs neither torch nor
transformers, starts torchrun (:mod:`.launch`), relays progress, and turns whatever ended a rank into one failure. The
*ranks* (:mod:`.worker`) train. They meet in the attempt's folder:

=====================  ==============================================================================================
``stage.json``         read by every rank: the same input that the parent got
``ranks/``             parents and ranks only: ``events.jsonl``, ``exit-<rank>.json``, ``launch-<node>.json``,
                       ``end-<node>.json``, ``outcome.json``
``logs/``              ``rank-<n>.log``, ``torchrun.log`` (``torchrun-<node>.log``), ``metrics.jsonl``, ``loss.png``
``out/``               the adapter or the whole model, and ``reference.json``
=====================  ==============================================================================================

Over several nodes the program runs on each. On node 0 it is the parent as above; on the others (:mod:`.member`) it
starts its ranks within node 0's attempt and makes nothing itself. Each of them holds a line to node 0 (:mod:`.team`,
:mod:`.link`), by which they begin together, end together and find the one cause of what went wrong.

A parent that gets SIGTERM asks its ranks to end. All ranks agree on the step, and save a checkpoint if the grace period
is long enough (:mod:`.ending`).

Checkpoints lie beside the attempts, in ``<key>.checkpoints/`` (:mod:`.checkpoints`), so that the next attempt finds
them.
"""
