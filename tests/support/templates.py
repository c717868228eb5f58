"""Chat templates in the manners of well-known families, for the control tokens of ``builders.write_tokenizer``."""

from __future__ import annotations

from support.builders import CHATML

LLAMA_LIKE = (
    "{{ '<s>' }}{% for message in messages %}"
    "{{ '<|header|>' + message.role + '<|/header|>\n\n' + message.content | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}"
)
INST_LIKE = (
    "{{ '<s>' }}{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}"
    "{% elif message.role == 'assistant' %}{{ ' ' + message.content + '</s>' }}"
    "{% else %}{{ raise_exception('Only user and assistant are supported!') }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Writes thoughts before the last answer alone: an earlier answer's text changes when another one follows."""
EMPTY_THOUGHTS_IN_PROMPT = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n</think>\n' }}{% endif %}"
)
"""Asks with empty thoughts, which it leaves out where the answer is there."""
BLANK_PROMPT = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + ': ' + message.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant: ' }}{% endif %}"
)
"""The prompt ends in a blank, which byte-level tokenizers would join with the answer's first word."""
NO_END = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

DATED = (
    "{{ '<|im_start|>system\n' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Writes the day on which it is rendered."""
APPENDING = {"ChatML": CHATML, "Llama": LLAMA_LIKE, "INST": INST_LIKE, "a blank after the prompt": BLANK_PROMPT}
"""Templates with which the assistant's text can be told from the rest."""

WITH_BLOCKS = (
    "{% for message in messages %}\n"
    "    {%- if message.role == 'assistant' %}\n"
    "        {{- '<|im_start|>assistant\n' -}}\n"
    "        {% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}\n"
    "        {{- '\n' -}}\n"
    "    {%- else %}\n"
    "        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}\n"
)
"""ChatML that says itself what is learnt."""
