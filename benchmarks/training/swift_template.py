"""ChatML for ms-swift with our labels: its own has the line break after an answer's end learnt.

ms-swift takes no tokenized rows, so it gets the template. It reads this file as a plug-in.
"""

from swift.template import TemplateMeta, register_template  # type: ignore[import-not-found]

register_template(
    TemplateMeta(
        "chatml_to_the_end",
        prefix=[],
        prompt=["<|im_start|>user\n{{QUERY}}<|im_end|>\n<|im_start|>assistant\n"],
        chat_sep=["<|im_end|>\n"],
        suffix=["<|im_end|>"],
        system_prefix=["<|im_start|>system\n{{SYSTEM}}<|im_end|>\n"],
    )
)
