"""The stage `convert`: base and training result in, one proven GGUF out, by default of 16-bit weights.

- ``stage``: the order of events; start here; ``source``: what it reads
- ``adapter``, ``merge``, ``safetensors_file``: the LoRA adapter into the base's weights, tensor by tensor
- ``folder``: the Hugging Face folder that llama.cpp's converter reads
- ``run_converter``: the converter itself, in a process of its own; ``pretokenizer`` is its help with vocabularies that
  it does not know, and ``piece_vocabulary`` with those that lack a file
- ``room``, ``kept_model``: what it takes on the disk, and the tuned model in safetensors for whoever wants it
- ``read_back``, ``token_gate``, ``reference_gate``: the proofs that the file is what was trained
"""
