#!/usr/bin/env python3
"""What transformers renders for the templates here: writes expected.json beside them.

The templates have the formats of the families they are named after; marked.jinja has what those lack. Needs
transformers and jinja2.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
TOKENS = {
    "llama2": ("<s>", "</s>"), "mistral": ("<s>", "</s>"), "zephyr": ("<s>", "</s>"), "marked": ("<s>", "</s>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"), "llama3.1": ("<|begin_of_text|>", "<|eot_id|>"),
    "json": ("<s>", "</s>"), "chatml": ("<|im_start|>", "<|im_end|>"), "qwen2.5": (None, "<|im_end|>"), "qwen3": (None, "<|im_end|>"),
}
user = lambda text: {"role": "user", "content": text}
system = {"role": "system", "content": " Answer with a number. "}
said = {"role": "assistant", "content": "<think>\nTwo and\ntwo.\n</think>\n\n 4\n"}
CASES = [
    ([user("What is 2 + 2?")], {}),
    ([system, user("  Wie viel ist ½ + ½, \"é\" 漢字 <b>&amp;</b>?\n\n")], {}),
    ([user("What is 2 + 2?"), said, user("And 'squared'?\n")], {}),
    ([system, user("a"), said, user("b" * 50), said, user("c")], {"enable_thinking": False, "date_string": "1 Jan 2025"}),
    ([said], {}),
]


def main():
    expected = {}
    for name, (bos, eos) in TOKENS.items():
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")), bos_token=bos, eos_token=eos,
        )
        template = (HERE / f"{name}.jinja").read_text()
        cases = []
        for messages, variables in CASES:
            try:
                text = tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=True, **variables,
                )
                outcome = {"text": text}
            except Exception as error:
                outcome = {"error": str(error)}
            cases.append({"messages": messages, "variables": variables, **outcome})
        tokens = {name: text for name, text in [("bos_token", bos), ("eos_token", eos)] if text}
        expected[name] = {"tokens": tokens, "cases": cases}
    (HERE / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
