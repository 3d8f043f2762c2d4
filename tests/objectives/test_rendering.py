"""Chat templates of anybody: rendered as the tokenizer would, and ended where they do not end."""

import time

import pytest

from hf_lifelong.objectives.prompts import encode_prompts
from hf_lifelong.utils import rendering
from hf_lifelong.utils.rendering import RENDERER

CHAT = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content | trim }}{% endfor %}{{ eos_token }}"
LOOP = "{% for i in range(99999) %}"
LOOPS = LOOP * 3 + "{% endfor %}" * 3
DOUBLES = "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
HOSTILE = {
    "a power": ("{{ 9 ** (9 ** 9) }}", "did not end within 2 seconds"),
    "much memory": ("{{ ('a' * 9000000000) | length }}", "MemoryError"),
    "a long text": ("{{ 'a' * 2000000 }}", "2,000,000 characters of 6"),
    "doubling": (DOUBLES, "(MemoryError|did not end)"),
    "another file": ("{% include '/etc/passwd' %}", "TypeError: no loader for this environment"),
    "attributes": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "no template": ("{% for %}", "TemplateSyntaxError"),
    "a refusal": ("{{ raise_exception('no users') }}", "TemplateError: no users"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_template_that_fails_or_never_ends_is_one_error(case, language_tokenizer, monkeypatch):
    template, message = HOSTILE[case]
    monkeypatch.setattr(language_tokenizer, "chat_template", template)
    RENDERER.render("", [], {})  # it has started
    monkeypatch.setattr(rendering, "SECONDS", 2.0)
    start = time.monotonic()
    with pytest.raises(ValueError, match=f"chat template refuses a single turn of a user .*{message}"):
        encode_prompts(language_tokenizer, ["a film"], 64)
    assert time.monotonic() - start < 30


def test_what_comes_after_a_template_that_never_ended_is_rendered(language_tokenizer, monkeypatch):
    monkeypatch.setattr(rendering, "SECONDS", 0.2)
    with pytest.raises(ValueError, match="did not end"):
        RENDERER.render(LOOPS, ["a film"], {})
    monkeypatch.undo()
    prompts = ["a film", "  naïve\n🎬 ", "{{ no }}", "\u2028"]
    monkeypatch.setattr(language_tokenizer, "chat_template", CHAT)
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    expected = language_tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert RENDERER.render(CHAT, prompts, language_tokenizer.special_tokens_map) == expected
