"""Shows a training in an experiment tracker while it runs: TensorBoard, MLflow, or Weights & Biases.

A process of its own, started by `train` on its first node, follows the training's ``metrics.jsonl`` and passes on what
is new. It is no part of the training: whatever becomes of the tracker or of this process, the training goes on.

===============  ======================================================================
asked            what the process is told: which tracker, where, and what describes the run
following        new lines of ``metrics.jsonl``
run_record       which run of the tracker an earlier attempt began, so that this one goes on with it
relay            passes lines on, holds them back while the tracker is down, and says so once
event_file       TensorBoard's file format
tensorboard      the run as an event file
mlflow           the run on an MLflow server, by its REST API
weights_biases   the run on a W&B server, or as a folder that ``wandb sync`` takes
wandb_file       how far such a folder has come
===============  ======================================================================
"""
