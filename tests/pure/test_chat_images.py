"""Chat templates of models that see: many take a content as a list of parts alone, and place images themselves."""

from __future__ import annotations

import jinja2
import pytest

from sgl_lab.contracts.errors import ModelError
from sgl_lab.contracts.port import Message, Segment
from sgl_lab.contracts.spans import OBJECT
from sgl_lab.engine.text.chat import ChatTemplate, parts_of

SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
LLAVA = (
    "{% for message in messages %}{{ message['role'].upper() + ': '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] | trim + ' '}}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
EITHER = "{% for m in messages %}[{{ m['content'] if m['content'] is string else m['content'][0]['text'] }}]{% endfor %}"
SPECIALS = ["<|im_start|>", "<end_of_utterance>", "<image>"]
CHAT = [Message("user", f"{OBJECT}What is it, <image>?"), Message("assistant", "A cat."), Message("user", f"And {OBJECT} here {OBJECT}?")]


@pytest.mark.parametrize("source", [SMOLVLM, LLAVA])
def test_images_stand_where_the_template_puts_them(source: str) -> None:
    segments = ChatTemplate(source, {}, SPECIALS).segments(CHAT, True)
    turns = [{"role": message.role, "content": parts_of(message.content.replace("<image>", "<<>>"))} for message in CHAT]
    wanted = jinja2.Environment().from_string(source).render(messages=turns, add_generation_prompt=True)
    assert "".join(segment.text for segment in segments) == wanted.replace("<image>", OBJECT).replace("<<>>", "<image>")
    assert segments.count(Segment(OBJECT, False)) == 3
    assert all("<image>" not in segment.text or not segment.markup for segment in segments), "what a user spells is text"


def test_contents_without_an_image_reach_a_template_that_takes_parts() -> None:
    template = ChatTemplate(SMOLVLM, {}, SPECIALS)
    assert Segment("A cat.", False) in template.segments(CHAT[1:2], False)
    assert template.render(CHAT[1:2], False) == "<|im_start|>Assistant: A cat.<end_of_utterance>\n"


def test_a_template_that_takes_texts_is_given_texts() -> None:
    assert ChatTemplate(EITHER, {}, SPECIALS).render(CHAT[:1], False) == f"[{CHAT[0].content}]"


def test_a_template_that_drops_images_is_named() -> None:
    source = "{% for m in messages %}{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] }}{% endfor %}{% endfor %}"
    with pytest.raises(ModelError, match="0 images of 3"):
        ChatTemplate(source, {}, SPECIALS).segments(CHAT, True)
