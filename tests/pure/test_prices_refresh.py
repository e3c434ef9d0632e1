"""The table of prices is renewed from a file, and is never left malformed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgl_lab.backends.remote import prices, refresh

TABLE = {
    "as_of": "2026-01-01",
    "source": "made up",
    "models": {
        "anthropic/claude-a": {"prompt": 1.0, "completion": 5.0, "cache_min": 512, "can": ["images"]},
        "openai/gone": {"prompt": 2.0, "completion": 4.0},
        "openai/gpt-a": {"prompt": 2.0, "completion": 8.0},
    },
}
CLAUDE = {"litellm_provider": "anthropic", "mode": "chat", "input_cost_per_token": 5e-7, "output_cost_per_token": 2.5e-6}
GPT = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 2e-6, "output_cost_per_token": 8e-6}
LISTED: dict[str, Any] = {
    "claude-a": CLAUDE | {"max_input_tokens": 1000, "supports_vision": False},
    "gpt-a": {
        **GPT,
        "cache_read_input_token_cost": 5e-7,
        "input_cost_per_token_above_200k_tokens": 4e-6,
        "output_cost_per_token_above_200k_tokens": 1e-5,
    },
    "gpt-a-2026-01-02": GPT,
    "claude-b": CLAUDE | {"supports_function_calling": True},
    "a-picture": {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6},
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "listed.json").write_text(json.dumps(LISTED))
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(TABLE))
    return path


def run(table: Path, *words: str) -> int:
    return refresh.main([*words, "--table", str(table)])


def test_numbers_and_date_come_from_the_file_and_the_rest_stays(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(table, str(table.with_name("listed.json")), "--as-of", "2026-12-01") == 0
    found = json.loads(table.read_text())
    assert (found["as_of"], found["source"]) == ("2026-12-01", "made up")
    assert found["models"] == {
        "anthropic/claude-a": {"prompt": 0.5, "completion": 2.5, "context": 1000, "can": ["images"], "cache_min": 512},
        "openai/gone": {"prompt": 2.0, "completion": 4.0},
        "openai/gpt-a": {"prompt": 2.0, "completion": 8.0, "cached": 0.5, "long": {"above": 200_000, "prompt": 4.0, "completion": 10.0}},
    }
    printed = capsys.readouterr().out
    assert "anthropic/claude-a: prompt 1.0 -> 0.5" in printed
    assert "openai/gone: not in the file, left as it is" in printed
    assert "anthropic/claude-b: new in the file, not added" in printed
    assert "2026-01-02" not in printed
    assert "a-picture" not in printed


def test_new_models_are_added_when_asked_for(table: Path) -> None:
    assert run(table, str(table.with_name("listed.json")), "--add") == 0
    assert json.loads(table.read_text())["models"]["anthropic/claude-b"] == {"prompt": 0.5, "completion": 2.5, "can": ["tools"]}


@pytest.mark.parametrize("wrong", ["[]", "{", '{"gpt-a": 3}', '{"gpt-a": {"input_cost_per_token": -1, "output_cost_per_token": 1}}'])
def test_a_file_of_another_shape_is_one_line_and_changes_nothing(table: Path, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = table.with_name("listed.json")
    file.write_text(wrong)
    before = table.read_text()
    assert run(table, str(file)) == 1
    assert capsys.readouterr().err.startswith(f"{file}: ")
    assert table.read_text() == before


def test_the_table_that_ships_has_its_shape_and_is_written_as_it_is() -> None:
    text = refresh.TABLE.read_text("utf-8")
    table = json.loads(text)
    prices.check_table(table)
    assert refresh.written(table["as_of"], table["source"], table["models"]) == text
    assert run(refresh.TABLE) == 0


@pytest.mark.parametrize(
    "wrong", [{"as_of": "today"}, {"source": 3}, {"models": {}}, {"models": {"gpt": {"prompt": 1, "completion": 1}}}, {"models": []}]
)
def test_a_malformed_table_is_found(table: Path, wrong: dict[str, Any]) -> None:
    table.write_text(json.dumps(TABLE | wrong))
    assert run(table) == 1
