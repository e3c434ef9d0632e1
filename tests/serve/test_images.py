"""Images through the door, and through our own endpoint: a model that looks answers about them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest

import sgl_lab as sgl
from sgl_lab.backends.sglang import RuntimeEndpoint
from sgl_lab.elsewhere import lab_over
from sgl_lab.models.shapes import picture
from sgl_lab.serve import Door, serve

from .calls import call

Image = pytest.importorskip("PIL.Image")


def png(shapes: dict[int, str]) -> str:
    into = BytesIO()
    Image.fromarray(picture(shapes)).save(into, "PNG")
    return base64.b64encode(into.getvalue()).decode()


ONE, TWO = png({0: "red circle", 8: "blue cross"}), png({4: "green square"})
URL = "data:image/png;base64,"


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with sgl.Lab("shapes", cache_tokens=8_000) as lab, serve(lab) as made:
        yield made


def generated(door: Door, text: str | list[str], image: Any) -> Any:
    params = {"max_new_tokens": 16, "temperature": 0, "stop": "\n"}
    return call(door, "/generate", {"text": text, "image_data": image, "sampling_params": params})


def test_generate_takes_images_in_their_places(door: Door) -> None:
    status, answer = generated(door, "<image>What colour is the circle?\n", ONE)
    assert (status, answer["text"]) == (200, "red")
    status, answer = generated(door, "<image>What shape is blue?\n", [URL + ONE])
    assert (answer["text"], answer["meta_info"]["cached_tokens"]) == ("cross", 37), "the picture, and What"
    status, both = generated(door, ["<image>Describe the picture.\n", "<image>Describe the image.\n"], [ONE, [TWO]])
    assert [each["text"] for each in both] == ["a red circle and a blue cross", "a green square"]


REFUSED = {
    "no place": ("What?", ONE, "has 1 images, and the prompt has 0 places"),
    "no image": ("<image><image>What?", ONE, "has 1 images, and the prompt has 2 places"),
    "address": ("<image>What?", "https://example.org/a.png", "is an address, which is not fetched here"),
    "file": ("<image>What?", "/etc/passwd", "is not base64|cannot be decoded|no PNG"),
    "text": ("<image>What?", base64.b64encode(b"a text").decode(), "no PNG, JPEG, GIF or WebP"),
    "kind": ("<image>What?", 3, "must be base64 or a data URL"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_image_is_refused(door: Door, case: str) -> None:
    text, image, words = REFUSED[case]
    status, answer = generated(door, text, image)
    assert status == 400
    assert re.search(words, str(answer))


def test_chat_responses_and_messages_take_data_urls(door: Door) -> None:
    question = {"type": "text", "text": "Describe the picture."}
    parts = [{"type": "image_url", "image_url": {"url": URL + ONE}}, question]
    chat = {"model": "default", "messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 30}
    status, answer = call(door, "/v1/chat/completions", chat)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "a red circle and a blue cross")
    source = {"type": "base64", "media_type": "image/png", "data": TWO}
    message = [{"type": "image", "source": source}, question]
    status, answer = call(
        door, "/v1/messages", {"model": "default", "max_tokens": 30, "temperature": 0, "messages": [{"role": "user", "content": message}]}
    )
    assert (status, answer["content"][0]["text"]) == (200, "a green square")
    shown = [{"type": "input_image", "image_url": URL + TWO}, {"type": "input_text", "text": question["text"]}]
    given = {"model": "default", "input": [{"role": "user", "content": shown}], "temperature": 0, "max_output_tokens": 30}
    status, first = call(door, "/v1/responses", given)
    assert (status, first["output"][0]["content"][0]["text"]) == (200, "a green square")
    again = {"model": "default", "previous_response_id": first["id"], "input": "What shape is green?", "temperature": 0}
    status, second = call(door, "/v1/responses", again | {"max_output_tokens": 9})
    assert (status, second["output"][0]["content"][0]["text"]) == (200, "square")
    status, models = call(door, "/v1/models", None)
    assert models["data"][0]["architecture"]["input_modalities"] == ["text", "image"]


def test_a_program_on_the_endpoint_sees_what_it_sees_here(door: Door) -> None:
    endpoint = RuntimeEndpoint(door.url, api_key=door.token)
    with lab_over(endpoint):
        states = []
        for backend in (endpoint, door.lab.backend):
            s = sgl.start(backend)
            s += sgl.user_begin() + sgl.image(base64.b64decode(ONE))
            forks = s.fork(2)
            forks[0] += "What colour is the circle?" + sgl.user_end() + sgl.assistant(sgl.gen("a", max_tokens=8, temperature=0))
            forks[1] += "Which colour is the cross?" + sgl.user_end() + sgl.assistant(sgl.select("a", choices=["red", "blue", "green"]))
            states.append(([fork["a"] for fork in forks], forks[0].get_meta_info("a")["prompt_tokens"]))
            assert forks[0].get_meta_info("a")["cached_tokens"] >= 37
        assert states[0] == states[1] == (["red", "blue"], states[1][1])
