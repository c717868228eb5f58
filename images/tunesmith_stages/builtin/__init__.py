"""Datasets that come with Tunesmith, in the project's own words.

``self_cognition.<language>.jsonl`` (``builtin: SelfCognition``) teaches a model who it is. Every row is one question
and its answer in OpenAI's messages format; ``{{name}}`` and ``{{author}}`` stand for what the job's `substitutions`
give. The answers claim no more than a fine-tuner can know: whom the model was trained by and what it is called, not
which base it was made from.
"""
