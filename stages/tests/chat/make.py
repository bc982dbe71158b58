#!/usr/bin/env python3
"""What transformers renders for the templates here: writes expected.json beside them.

The templates have the formats of the families they are named after; marked.jinja has what those lack. Beside them are
templates of a line each, for what Python and Jinja do, and tokenizers that say their special tokens in different places.
Needs transformers and jinja2.
"""

import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

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


# What Python's texts and lists do.
TEXT = "' a  b c \\n'"
METHODS = [
    "split()", "split(' ')", "split(none, 1)", "split(' ', maxsplit=1)", "split('')", "rsplit()", "rsplit(none, 1)",
    "rsplit(' ', 2)", "rsplit(sep=' ', maxsplit=1)", "partition('b')", "partition('z')", "rpartition(' ')",
    "rpartition('z')", "removeprefix(' a')", "removeprefix('x')", "removesuffix('\\n')", "removesuffix('x')",
    "index('b')", "rindex(' ')", "index('z')", "ljust(12)", "ljust(12, '*')", "rjust(12, '*')", "center(11, '*')",
    "center(12)", "zfill(12)", "swapcase()", "casefold()", "title()", "strip()", "lstrip()", "rstrip(' \\n')",
    "isspace()", "splitlines()", "splitlines(true)",
]
# What filters of texts do.
FILTERS = [
    "indent", "indent(2)", "indent('> ')", "indent(2, true)", "indent(2, true, true)",
    "indent(width=1, first=true, blank=true)", "trim", "trim('a\\n')", "center(9)", "center", "truncate(9)",
    "truncate(length=9, killwords=true)", "truncate(9, leeway=0, end='…')", "int", "int(7)", "int(default=7)", "float",
]
TEXTS = ["''", "'a'", "'a\\nb\\n\\nc\\n'", "'\\na'", "'a quick brown fox'", "' 12 '", "'1.9'", "'x1'", "'inf'"]
NUMBERS = ["0.1", "1e-7", "1e15", "1e16", "-1e-5", "1.5e-10", "100000.0", "0.0001", "3"]
VALUES = ["''", "[]", "{}", "(1,)", "none", "nope", "1", "messages[0].x", "raise_exception"]
EXPRESSIONS = [
    "{% if tools is not none %}t{% endif %}{% if documents is none %}d{% endif %}{{ tools is defined }}{{ tools }}",
    *[f"{{{{ {TEXT}.{method}|tojson }}}}" for method in METHODS],
    *[f"[{{{{ {text}|{name} }}}}]" for text in TEXTS for name in FILTERS],
    *[f"{{{{ {number} }}}} {{{{ {number}|tojson }}}} {{{{ [{number}]|tojson }}}} {{{{ {number}|string }}}}" for number in NUMBERS],
    *[f"{{{{ {value} is {test} }}}}" for value in VALUES for test in ["sequence", "iterable", "mapping", "callable"]],
    *[f"{{{{ {value}|int }}}} {{{{ {value}|float }}}}" for value in ["none", "[]", "1.9", "true", "nope", "1e20"]],
    "{{ 'ff'|int(0, 16) }}{{ 'fg'|int(base=16) }}",
    "{{ '-12'.zfill(6) }}{{ '+1'.zfill(1) }}{{ ''.zfill(3) }}",
    "{{ \"they're bill's o-k x3y ßa ﬁx ÉÀ\".title() }}{{ 'aB ßÉ'.swapcase() }}",
    "{{ 'a\\rb\\r\\nc\\u2028d\\n\\ne'.splitlines()|tojson }}{{ 'a\\rb\\r\\nc\\n'.splitlines(keepends=true)|tojson }}",
    "{{ ['a', 'b'].index('b') }}{{ ('x', 'y').index('x') }}", "{{ [1, 2].index(3) }}",
    "{{ {'b': [1, {'c': []}, []], 'a': {'x': {}}}|tojson(indent=2) }}{{ [[1], [[]]]|tojson(indent=0) }}",
    "{{ {'b': [1, {'c': []}, []], 'a': {'x': {}}}|tojson(indent='\\t', sort_keys=true, separators=(';', '=')) }}",
    "{{ messages|tojson(indent=2, separators=(',', ':')) }}{{ messages|tojson(separators=(',', ':')) }}",
    "{{ 'é\\x7f𝄞'|tojson(ensure_ascii=true) }}{{ 'é'|tojson }}", "{{ nope|tojson }}",
    "{% set x = 1 %}{% for m in messages %}{% generation %}{% set x = 2 %}{{ m.role }}{{ x }}{% endgeneration %}{{ x }}{% endfor %}",
    "{% set ns = namespace(x=1) %}{% generation %}{% set ns.x = 2 %}{% endgeneration %}{{ ns.x }}",
    "{% raw %}{% generation %} {{ 'a {% endraw %}{%- generation -%} b {% endgeneration %}",
    "{{ \"{% generation %}\" }}{# {{ #}{% generation %}x{% endgeneration %}{{ 'it\\'s {% generation %}' }}",
    "{% if '%}' == '%}' %}y{% endif %}{ {% generation %}{{ {'a': {'b': 1}} }}{% endgeneration %} }} {{ '}}' }}",
]
# Where special tokens are said: the configuration of a tokenizer, and its map of them.
added = {"content": "<b>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
llama, fast = {"tokenizer_class": "LlamaTokenizer"}, {"tokenizer_class": "PreTrainedTokenizerFast"}
SPECIAL = [
    (fast, {"bos_token": added, "eos_token": "</b>", "cls_token": "<c>", "sep_token": "<d>", "mask_token": "<m>"}),
    (fast | {"bos_token": "<x>", "pad_token": "<p>"}, {"bos_token": added, "unk_token": "<u>"}),
    (fast | {"bos_token": "<x>", "added_tokens_decoder": {}}, {"bos_token": added, "unk_token": "<u>"}),
    (fast, None),
    (llama, None),
    ({"tokenizer_class": "LlamaTokenizerFast", "bos_token": None, "eos_token": "</b>"}, None),
    (llama, {"bos_token": added}),
    ({"tokenizer_class": "Qwen2Tokenizer", "bos_token": None}, None),
    ({"tokenizer_class": "GPT2Tokenizer"}, None),
    ({"tokenizer_class": "GemmaTokenizer"}, None),
]
NAMED = "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ sep_token }}|{{ pad_token }}|{{ cls_token }}|{{ mask_token }}"


def special(config, tokens):
    """The special tokens of a tokenizer that is loaded from files."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Tokenizer(models.BPE({"a": 0}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(f"{folder}/tokenizer.json")
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
        if tokens is not None:
            (Path(folder) / "special_tokens_map.json").write_text(json.dumps(tokens))
        return rendered(AutoTokenizer.from_pretrained(folder), [user("")], NAMED, {})


def rendered(tokenizer, messages, template, variables):
    try:
        return {"text": tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True, **variables,
        )}
    except Exception as error:
        return {"error": str(error)}


def main():
    templates = {}
    for name, (bos, eos) in TOKENS.items():
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")), bos_token=bos, eos_token=eos,
        )
        template = (HERE / f"{name}.jinja").read_text()
        cases = [
            {"messages": messages, "variables": variables, **rendered(tokenizer, messages, template, variables)}
            for messages, variables in CASES
        ]
        tokens = {name: text for name, text in [("bos_token", bos), ("eos_token", eos)] if text}
        templates[name] = {"tokens": tokens, "cases": cases}
    expressions = [
        {"template": template, **rendered(tokenizer, [system, user("a")], template, {})} for template in EXPRESSIONS
    ]
    tokens = [{"config": config, "map": tokens, **special(config, tokens)} for config, tokens in SPECIAL]
    expected = {"templates": templates, "expressions": expressions, "tokens": tokens}
    (HERE / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
