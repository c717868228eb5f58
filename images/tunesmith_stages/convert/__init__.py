"""The stage `convert`: base and training result in, one proven GGUF of 16-bit weights out.

- ``stage``: the order of events; start here
- ``adapter``, ``merge``, ``safetensors_file``: the LoRA adapter into the base's weights, tensor by tensor
- ``folder``: the Hugging Face folder that llama.cpp's converter reads
- ``run_converter``: the converter itself, in a process of its own; ``pretokenizer`` is its help with vocabularies that
  it does not know
- ``read_back``, ``token_gate``, ``reference_gate``: the proofs that the file is what was trained
"""
