"""Texts on which tokenizers disagree if anything about them differs."""

from __future__ import annotations

TEXTS = (
    "Hello, world! How are you today?",
    "Hello  world   with    growing     blanks      ",
    "   leading blanks, a\ttab, two\t\ttabs and a trailing tab\t",
    "one\ntwo\n\nthree\n\n\nfour\n \n  \n\t\nfive",
    "carriage\r\nreturns\r\n\r\nand a lone one\rhere",
    "blanks before a line end   \nand after\n   it",
    "I'm sure they've said it's what we'd do; you're right, he'll come, I can't.",
    "I'M SURE THEY'VE SAID IT'S WHAT WE'D DO; YOU'RE RIGHT, HE'LL COME, CAN'T. We'Ve a'lL",
    "'tis 'quoted' ''twice'' \"double\" `code` ```fence```",
    "0 1 12 123 1234 12345 123456 1234567 3.14 1,000,000 2026-11-30 12:34:56 v1.2.3 x86_64",
    "half ½, squared ², roman Ⅷ, arabic ١٢٣, devanagari १२३४, fullwidth １２３４５",
    "punctuation... !!! ??? --- === *** /// \\\\ ((( ))) [[[ ]]] {{{ }}} <<< >>> ### $$$ %%% @@@ &&& ~~~ ^^^ |||",
    "a,b;c:d.e!f?g/h\\i|j-k_l+m=n*o&p^q%r$s#t@u~v",
    "user.name+tag@example.com, https://example.com/a/b?c=d&e=f#g",
    "def f(x: int) -> str:\n    if x > 0:\n        return f\"{x!r}\"  # note\n\n    return ''\n",
    '{\n\t"key": [1, 2.5, -3e-7, null, true],\n\t"nested": {"a": "b\\n"}\n}\n',
    "<html><body class='x'>&nbsp;<br/></body></html>",
    "你好，世界！今天天气怎么样？我想在2026年学习机器学习。",
    "こんにちは世界。カタカナとひらがなと漢字。テスト１２３",
    "안녕하세요 세계! 오늘은 날씨가 좋네요.",
    "Привет, мир! Съешь ещё этих мягких французских булок. НЕЩО на Български",
    "Γειά σου Κόσμε, مرحبا بالعالم، שלום עולם, สวัสดีชาวโลก, नमस्ते दुनिया, កាន់តែពិសេសអាច",
    "déjà vu, naïve café, Größe, Straße, smörgåsbord, İstanbul, ångström, œuvre, ﬁne",
    "combining: e\u0301 a\u0308 n\u0303 o\u0302\u0323",
    "🚀 (normal) 😶\u200d🌫️ (joined) 👩\u200d👩\u200d👧\u200d👦 👍🏽 🇩🇪🇯🇵 ✅ ❤️ ☺",
    "no-break\u00a0blank, thin\u2009blank, ideographic\u3000blank, zero\u200bwidth, soft\u00adhyphen, bom\ufeff.",
    "“curly” ‘quotes’ – en — em … • · × ÷ ± ≠ ≤ ∞ √ € £ ¥ © ® ™ § ¶ † ‡ °C µm",
    "math: 𝒳 ∈ ℝⁿ, ∑ᵢ xᵢ² ≤ 1 ⇒ ‖x‖₂ ≤ 1; gothic 𐍈; historic 𓀀",
    "CamelCaseWords snake_case_words kebab-case-words SCREAMING_CASE mixedUP1234Words5",
    "word1 2words 3 4a b5c 6-7 8_9",
    "columns:    1     22      333\t\t4444\n   55555",
    "\n",
    " ",
    "\n\n  leading line breaks",
    "x",
)
"""Kept free of what llama.cpp is known to read otherwise and nobody writes (the next-line character U+0085)."""


def with_control_tokens(controls: list[str]) -> list[str]:
    """Return texts in which each control token stands alone, inside a word, before a line break and twice."""
    return [text for control in controls for text in (control, f"Hi{control}\nthere", f"{control}{control} again")]
