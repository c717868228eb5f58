"""The stage `register`: creates the model in Ollama, proves it under another name, and only then lets it go live."""
