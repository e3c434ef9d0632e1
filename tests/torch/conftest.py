"""Models, and the native step, that the torch tests share."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.engine.compute.models.load import LoadedModel, load_model
from sgl_lab.engine.files import store

from .tiny import load_tiny, write_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> LoadedModel:
    return load_tiny(tiny_folder)


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    """The native step."""
    if reason := build.obstacle():
        pytest.skip(f"no native step here: {reason}")
    build.build(store.cache_dir())
    loaded = build.load(store.cache_dir())
    assert loaded is not None
    return loaded


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The built-in model in the Hugging Face layout."""
    from sgl_lab.engine.compute.models.convert import convert

    return convert(store.resolve("smollm2"), "smollm2", store.cache_dir(), lambda done, total, text: None)


@pytest.fixture(scope="session")
def smollm2(smollm2_folder: Path) -> LoadedModel:
    return load_model(smollm2_folder, name="smollm2", device="cpu", dtype="float32", cache_dir=store.cache_dir())
