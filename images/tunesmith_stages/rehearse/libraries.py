"""What the small model and llama.cpp's converter both need: imported once, for importing takes longer than their work.

Imported by nobody but the process that :mod:`~tunesmith_stages.rehearse.forked` forks from.
"""

import gc

import torch  # noqa: F401 - imported to be there
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel  # noqa: F401

import tunesmith_stages.rehearse.stage  # noqa: F401 - what started the fork is imported in it again

gc.freeze()  # or each fork would look through all of it again and again, and have its memory copied by that
