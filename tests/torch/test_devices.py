"""Where a model runs, and the message where it cannot."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sgl_lab as sgl
from sgl_lab import labs as labs_room
from sgl_lab.contracts.errors import DeviceUnfit, ModelError, OutOfMemory
from sgl_lab.engine.compute.kernels.gpu import fit
from sgl_lab.engine.compute.models import devices as place
from sgl_lab.engine.compute.models.devices import find_device
from sgl_lab.labs import Labs

GPUS = {"NVIDIA A100": (8, 0), "Tesla T4": (7, 5), "NVIDIA H200": (9, 0)}


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes torch say that there are such cards."""

    def there_are(*names: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(names))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: names[getattr(i, "index", i)])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: GPUS[names[i]])

    return there_are


@pytest.fixture
def labs() -> Iterator[Labs]:
    made = Labs()
    yield made
    made.close()


def test_the_first_gpu_that_is_new_enough_is_taken_and_the_cpu_where_none_is(gpus: Any) -> None:
    gpus()
    assert find_device(None) == (torch.device("cpu"), None)
    gpus("Tesla T4", "NVIDIA H200")
    assert find_device(None) == (torch.device("cuda:1"), None)
    assert find_device("cuda:1").device == torch.device("cuda:1")
    assert find_device("cpu") == (torch.device("cpu"), None)
    gpus("Tesla T4")
    device, remark = find_device(None)
    assert device.type == "cpu"
    assert remark == "Tesla T4 (cuda:0) is too old: it has compute capability 7.5, and 8.0 is needed"


def test_what_was_asked_for_and_is_not_there_is_one_line_with_a_way_out(gpus: Any) -> None:
    gpus()
    with pytest.raises(DeviceUnfit, match=r"device cuda is not available: torch .*\(use device cpu\)"):
        find_device("cuda")
    gpus("NVIDIA A100")
    with pytest.raises(DeviceUnfit, match=r"device cuda:1 is not available: torch sees 1 GPU, cuda:0 the first"):
        find_device("cuda:1")
    gpus("Tesla T4")
    with pytest.raises(DeviceUnfit, match="too old"):
        find_device("cuda:0")
    for wrong in ("gpu", "cuda:x", "meta"):
        with pytest.raises(ModelError, match=f"device '{wrong}' is"):
            find_device(wrong)


@pytest.mark.parametrize(
    ("version", "message"), [("3.5.1", "triton 3.5.1 is older than 3.6"), (None, "triton is not installed: pip install 'triton>=3.6'")]
)
def test_a_triton_that_does_not_fit_leaves_the_cpu(gpus: Any, monkeypatch: pytest.MonkeyPatch, version: str | None, message: str) -> None:
    def found(name: str) -> str:
        if version is None:
            raise fit.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(fit.metadata, "version", found)
    gpus("NVIDIA H200")
    device, remark = find_device(None)
    assert device.type == "cpu"
    assert remark is not None
    assert remark.startswith(f"NVIDIA H200 (cuda:0) cannot be used: {message}")
    assert "\n" not in remark


def test_a_script_that_asks_for_a_gpu_learns_that_there_is_none(tiny_folder: Path, gpus: Any) -> None:
    gpus()
    with pytest.raises(DeviceUnfit, match="not available"):
        sgl.Lab(str(tiny_folder), device="cuda")


def test_a_cell_that_asks_for_a_gpu_is_served_by_the_cpu_with_one_line_and_no_second_loading(
    labs: Labs, tiny_folder: Path, gpus: Any
) -> None:
    gpus()
    first = labs.loading(str(tiny_folder)).lab()
    attempt = labs.loading(device="cuda")
    assert attempt.lab() is first
    assert attempt.remark is not None
    assert attempt.remark.endswith("; the CPU serves instead")
    assert "\n" not in attempt.remark
    again = labs.loading(device="cuda")
    assert (again.lab(), again.remark) == (first, None)
    assert labs.loading(device="cpu").lab() is first


def test_weights_that_a_gpu_cannot_hold_are_loaded_on_the_cpu(
    labs: Labs, tiny_folder: Path, gpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card says so in numbers, which the line keeps."""
    gpus("NVIDIA A100")
    made = sgl.Lab

    def small(model: str, *, device: str, **named: Any) -> sgl.Lab:
        if device != "cpu":
            raise OutOfMemory("a model with 7,000M parameters needs 13,000 MiB, more than cuda:0 has left", hint="choose a smaller model")
        return made(model, device=device, **named)

    monkeypatch.setattr(labs_room, "Lab", small)
    attempt = labs.loading(str(tiny_folder))
    lab = attempt.lab()
    assert lab.card.device == "cpu"
    assert attempt.remark == "a model with 7,000M parameters needs 13,000 MiB, more than cuda:0 has left; the CPU serves instead"


def test_a_gpu_that_cannot_run_our_kernels_leaves_the_model_to_the_cpu(
    labs: Labs, tiny_folder: Path, gpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus("NVIDIA A100")
    made = sgl.Lab

    def uncompiled(model: str, *, device: str, **named: Any) -> sgl.Lab:
        if device != "cpu":
            raise DeviceUnfit("cuda:0 cannot run our kernels: Failed to find C compiler", hint="use device cpu")
        return made(model, device=device, **named)

    loaded, left = [], []

    class Weights: ...

    def uncompiled_with(model: str, *, device: str, **named: Any) -> sgl.Lab:
        weights = Weights()
        if device != "cpu":
            loaded.append(weakref.ref(weights))
        return uncompiled(model, device=device, **named)

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.extend(weights() for weights in loaded))
    monkeypatch.setattr(labs_room, "Lab", uncompiled_with)
    attempt = labs.loading(str(tiny_folder))
    assert attempt.lab().card.device == "cpu"
    assert left == [None]
    assert attempt.remark == "cuda:0 cannot run our kernels: Failed to find C compiler; the CPU serves instead"


def test_a_pool_without_a_given_size_is_halved_until_it_fits(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sgl_lab.engine.compute.runners import choose

    made, refused = choose.make_runner, []

    def crowded(model: Any, library: Any, n_pages: int, page_size: int = 1, **named: Any) -> Any:
        if n_pages > 100_000:
            refused.append(n_pages)
            raise OutOfMemory(f"a cache of {n_pages} tokens does not fit")
        return made(model, library, n_pages, page_size, **named)

    monkeypatch.setattr(choose, "make_runner", crowded)
    with sgl.Lab(str(tiny_folder), device="cpu") as lab:
        n_pages = lab.stats()["pages_total"]
        assert refused
        assert n_pages == refused[-1] // 2
        assert refused == [refused[0] >> i for i in range(len(refused))]
    with pytest.raises(OutOfMemory, match="200000 tokens"):
        sgl.Lab(str(tiny_folder), device="cpu", cache_tokens=200_000)


def test_what_memory_a_lab_has_and_what_is_left_is_said(tiny_folder: Path) -> None:
    with sgl.Lab(str(tiny_folder), device="cpu", cache_tokens=4096) as lab:
        device, free, total = lab.memory()
        assert device == ""
        assert free is None or 0 < free < total
        assert 0 < lab.n_bytes < total


def test_memory_of_a_gpu_is_asked_of_the_driver(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus("NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 << 30, 141 << 30))
    assert place.memory_of(torch.device("cuda", 0)) == ("NVIDIA H200", 3 << 30, 141 << 30)
