"""Tunesmith: from a FineTuneJob to a fine-tuned model that answers in Ollama."""

__version__ = "0.1.0.dev0"
