"""Block sizes: the defaults, unless better ones were measured on this card and kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from sgl_lab import cli
from sgl_lab.engine.compute.kernels.gpu import tuning
from sgl_lab.engine.compute.kernels.gpu.cases import Shape, cases
from sgl_lab.engine.compute.kernels.gpu.launch import listening
from sgl_lab.engine.compute.kernels.gpu.tune import tune
from sgl_lab.engine.compute.kernels.gpu.tuning import Config, Key, choice, file_of, read, search, trial, use, write

DEFAULT = {"BLOCK": 64, "STAGES": 3, "num_warps": 4}


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Path]:
    before = tuning._file
    yield tmp_path / "table.json"
    tuning._file = before


def test_without_a_table_the_defaults_are_used() -> None:
    assert choice("decode", (3, 64), DEFAULT) == DEFAULT


def test_what_was_found_is_used_for_its_kernel_and_shape_alone(table: Path) -> None:
    best = {"BLOCK": 128, "STAGES": 2, "num_warps": 8}
    write(table, {Key("decode", (3, 64)): best, Key("prefill", (3, 64)): {"OTHER": 1}})
    use(table)
    assert choice("decode", (3, 64), DEFAULT) == best
    assert choice("decode", (3, 128), DEFAULT) == DEFAULT
    assert choice("prefill", (3, 64), DEFAULT) == DEFAULT, "the constants of another state of the kernel"


def test_a_table_is_read_once(table: Path) -> None:
    use(table)
    assert choice("decode", (), DEFAULT) == DEFAULT
    write(table, {Key("decode", ()): {**DEFAULT, "BLOCK": 128}})
    assert choice("decode", (), DEFAULT) == DEFAULT


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '{"a": 1}', '[{"kernel": "decode"}]', '[{"kernel": "decode", "shape": [1], "config": {"BLOCK": 0}}]',
     '[{"kernel": "decode", "shape": ["a"], "config": {}}]', '[{"kernel": 1, "shape": [], "config": {}}]', "\xff"],
)  # fmt: skip
def test_a_damaged_table_is_reported_and_ignored(table: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    table.write_text(text, encoding="latin-1")
    with caplog.at_level(logging.WARNING):
        assert read(table) == {}
    assert [str(table) in record.getMessage() for record in caplog.records] == [True]


def test_a_table_belongs_to_a_card_a_triton_and_a_state_of_the_kernels(tmp_path: Path) -> None:
    one, other = (file_of(tmp_path, device) for device in ("NVIDIA H200", "NVIDIA A100-SXM4-80GB"))
    assert one.parent == other.parent == tmp_path / "tuning"
    assert one.name.startswith("NVIDIA-H200_triton-")
    assert one != other


def test_the_search_goes_down_to_the_best_and_never_onto_what_cannot_run() -> None:
    asked: list[Config] = []

    def cost(config: Config) -> float | None:
        asked.append(config)
        if config["STAGES"] > 3:
            return None
        return 1 + abs(config["BLOCK"] - 256) / 256 + abs(config["num_warps"] - 8) / 8

    assert search(DEFAULT, cost) == ({"BLOCK": 256, "STAGES": 3, "num_warps": 8}, 1.0)
    assert len(asked) == len({tuple(config.items()) for config in asked}), "nothing is measured twice"
    assert len(asked) < 30


def test_a_gain_within_the_noise_changes_nothing() -> None:
    assert search(DEFAULT, lambda config: 1.0 if config == DEFAULT else 0.98) == (DEFAULT, 1.0)


def test_every_kernel_of_a_model_is_tuned_over_all_calls_that_share_its_choice() -> None:
    reports: list[str] = []
    asked: dict[Key, int] = {}

    def cost_of(key: Key, calls: list[object]):
        asked[key] = len(calls)
        return lambda config: 0.5 if config.get("num_warps") == 2 else 1.0

    meta = cases(Shape(4, 2, 16, 64, 128, 500), torch.device("meta"))
    with listening(lambda launch: None):
        table: Mapping[Key, Config] = tune(meta, cost_of, reports.append)
    kernels = {key.kernel for key in asked}
    assert kernels >= {"rms_norm", "activate", "rotate_and_write", "prefill", "decode", "cascade", "sample", "packed_matmul"}
    assert asked[Key("rms_norm", (64,))] == 2
    assert all(config["num_warps"] == 2 for config in table.values())
    assert len(reports) == 2 * len(asked)


def test_a_trial_is_used_whatever_was_found_and_notes_the_defaults(table: Path) -> None:
    key = Key("decode", (1,))
    with trial({key: {"BLOCK": 16}}) as tried:
        assert choice("decode", (1,), DEFAULT) == {"BLOCK": 16}
        assert choice("decode", (2,), DEFAULT) == DEFAULT
    assert tried.asked == {key: DEFAULT, Key("decode", (2,)): DEFAULT}
    assert choice("decode", (1,), DEFAULT) == DEFAULT


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is something to tune")
def test_tuning_without_a_gpu_is_refused_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune"]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "device cuda is not available" in printed.err
