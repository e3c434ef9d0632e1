"""Compiles the native step for this machine, once, and loads it.

The library is in the model cache, under a hash of sources and CPU flags and a hash of the compiler.
A new version or another machine therefore builds its own, and an existing library is found without
a compiler. Building is a part of the set-up (`sgl-lab native`). A caller that computes uses `load`,
and the torch twins if that returns None. Knows no torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from .....contracts.errors import BadArgument, InvariantBroken, OutOfMemory, SglError
from .....contracts.params import MAX_TOP_LOGPROBS

SOURCES = Path(__file__).parent
NEEDED = ("avx2", "fma", "f16c")
"""The minimum instructions of the kernels. AVX-512, its BF16 and VNNI are used if available
(`simd.hpp`).
"""

FLAGS = ("-std=c++20", "-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC", "-pthread")


class NativeUnavailable(SglError):
    """This machine cannot run or build the native step."""


@cache
def cpu_flags() -> frozenset[str]:
    """As Linux names them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 as it is. Without it a weight is widened first."""
    return "avx512_bf16" in cpu_flags()


def compiler() -> str | None:
    """$CXX, g++ or clang++: the first that is there."""
    return next((path for name in (os.environ.get("CXX"), "g++", "clang++") if name and (path := shutil.which(name))), None)


def obstacle() -> str | None:
    """Why the native step cannot be built here; None if it can."""
    if sys.platform != "linux":
        return "it is written for Linux"
    if missing := [flag for flag in NEEDED if flag not in cpu_flags()]:
        return f"this CPU has no {', '.join(missing)}"
    if compiler() is None:
        return "there is no C++ compiler"
    return None


def advice() -> str | None:
    """How to get the native step if it is not built, in one line; None if there is no way."""
    if sys.platform != "linux" or not cpu_flags().issuperset(NEEDED):
        return None
    return f"models run several times faster with the native step: {'' if compiler() else 'install g++, then '}run `sgl-lab native` once"


def library_path(cache_dir: Path) -> Path:
    """The path of the library for these sources, this compiler and this CPU."""
    return cache_dir / "native" / f"step-{_sources()}-{hashlib.sha256(_version(compiler() or '')).hexdigest()[:8]}.so"


def built(cache_dir: Path) -> Path | None:
    """The library of these sources and this CPU: of the present compiler, otherwise of any other,
    the latest first.
    """
    target = library_path(cache_dir)
    if os.path.exists(target):  # pathlib raises where a folder must not be looked into
        return target
    others = [path for path in target.parent.glob(f"step-{_sources()}-*.so") if os.path.exists(path)]
    return max(others, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


def _sources() -> str:
    digest = hashlib.sha256()
    for source in sorted((*SOURCES.glob("*.hpp"), *SOURCES.glob("*.cpp"))):
        digest.update(source.name.encode() + source.read_bytes())
    digest.update(" ".join((*FLAGS, *sorted(cpu_flags()))).encode())
    return digest.hexdigest()[:16]


@cache
def _version(path: str) -> bytes:
    return subprocess.run([path, "--version"], capture_output=True, check=False).stdout if path else b""


def build(cache_dir: Path) -> Path:
    """The library; compiled now if it is missing (about ten seconds). NativeUnavailable gives the
    reason of a failure.
    """
    found = built(cache_dir)
    if found is not None and (compiler() is None or found == library_path(cache_dir)) and _opened(found) is not None:
        return found
    if reason := obstacle():
        raise NativeUnavailable(f"the native step cannot be built: {reason}", hint="models run on torch instead")
    target = library_path(cache_dir)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _compile(target)
    except OSError as error:
        raise NativeUnavailable(
            f"the native step cannot be written to {target.parent}: {error.strerror}", hint="set SGL_LAB_CACHE to a writable folder"
        ) from None
    return target


def _compile(target: Path) -> None:
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        command = [str(compiler()), *FLAGS, str(SOURCES / "step.cpp"), "-o", str(part)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            message = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise NativeUnavailable(
                f"the native step does not compile: {message}", hint="set CXX to g++ 12 or newer, or clang++ 15 or newer"
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def load(cache_dir: Path) -> ctypes.CDLL | None:
    """The library if it is built for this machine and these sources and can be opened. Never builds
    it.

    InvariantBroken if its structures are not those below.
    """
    if sys.platform != "linux" or not cpu_flags().issuperset(NEEDED):
        return None
    found = built(cache_dir)
    return None if found is None or (library := _opened(found)) is None else _declared(library)


def _opened(path: Path) -> ctypes.CDLL | None:
    """None if the file is not a library, or not ours: `build` then compiles it again."""
    try:
        library = ctypes.CDLL(str(path))
        return library if library.sgl_layout and library.sgl_instructions else None
    except (OSError, AttributeError):
        return None


def instructions(path: Path) -> str | None:
    """The instructions that the library uses: AVX-512 BF16, AVX-512 or AVX2. Only equal
    instructions give equal bits.
    """
    library = _opened(path)
    if library is None:
        return None
    library.sgl_instructions.restype = ctypes.c_char_p
    name: bytes = library.sgl_instructions()
    return name.decode()


# ------------------------------------------------------------ the structures of step.cpp


class Weight(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("n_in", ctypes.c_int32),
        ("n_out", ctypes.c_int32),
        ("kind", ctypes.c_int32),
        ("padding", ctypes.c_int32),
    ]


class Pages(ctypes.Structure):
    _fields_ = [("keys", ctypes.c_void_p), ("values", ctypes.c_void_p)]


class Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("n_heads", "n_kv_heads", "head_dim", "page_size", "window")),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
    ]


class Experts(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("count", "top_k", "has_shared", "is_normalised")),
        ("router", ctypes.c_void_p),
        ("up", ctypes.POINTER(Weight)),
        ("down", ctypes.POINTER(Weight)),
    ]


class Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm", "q_norm", "k_norm")),
        *((name, Weight) for name in ("qkv", "out", "up", "down")),
        ("pages", Pages),
        ("shape", Shape),
        *((name, ctypes.c_int32) for name in ("norms_whole", "turning", "activation", "is_gated")),
        ("experts", ctypes.POINTER(Experts)),
    ]


class Rotation(ctypes.Structure):
    _fields_ = [("frequencies", ctypes.c_void_p), ("dims", ctypes.c_int32), ("amplitude", ctypes.c_float)]


class Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("n_layers", "hidden", "ffn", "vocab", "n_rotations", "is_bf16")),
        *((name, ctypes.c_float) for name in ("epsilon", "embedding_scale", "residual_scale", "logit_scale", "logit_softcap")),
        ("padding", ctypes.c_int32),
        ("rotations", ctypes.POINTER(Rotation)),
        ("norm", ctypes.c_void_p),
        ("embedding", Weight),
        ("head", Weight),
        ("layers", ctypes.POINTER(Layer)),
    ]


class Rows(ctypes.Structure):
    _fields_ = [
        ("n_rows", ctypes.c_int32),
        ("n_tokens", ctypes.c_int32),
        ("tokens", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("pages", ctypes.c_void_p),
        ("adapters", ctypes.c_void_p),
    ]


class LowRank(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("down", "up", "begins")),
        ("n_ranks", ctypes.c_int32),
        ("rank", ctypes.c_int32),
    ]


class SamplingRequests(ctypes.Structure):
    _fields_ = [("n", ctypes.c_int32), ("requests", ctypes.c_void_p), ("choices", ctypes.c_void_p)]


class Tokens(ctypes.Structure):
    _fields_ = [("ids", ctypes.c_void_p), ("n", ctypes.c_int32), ("padding", ctypes.c_int32)]


class Bias(ctypes.Structure):
    _fields_ = [("token", ctypes.c_int32), ("add", ctypes.c_float)]


class SamplingRequest(ctypes.Structure):
    _fields_ = [
        ("token", ctypes.c_int32),
        ("n_top", ctypes.c_int32),
        ("candidates", Tokens),
        ("scores", ctypes.c_void_p),
        *((name, ctypes.c_double) for name in ("temperature", "uniform", "top_p", "min_p", "repetition", "frequency", "presence")),
        *((name, Tokens) for name in ("prompt", "generated", "drafted")),
        ("bias", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
        ("top_k", ctypes.c_int32),
        ("n_bias", ctypes.c_int32),
    ]


class Choice(ctypes.Structure):
    _fields_ = [
        ("log_total", ctypes.c_float),
        ("is_drawn", ctypes.c_int32),
        ("token", ctypes.c_int32),
        ("logprob", ctypes.c_float),
        ("seconds", ctypes.c_float),
        ("top_tokens", ctypes.c_int32 * MAX_TOP_LOGPROBS),
        ("top_logprobs", ctypes.c_float * MAX_TOP_LOGPROBS),
    ]


STRUCTURES: tuple[type[ctypes.Structure], ...] = (
    Weight, Pages, Shape, Experts, Layer, Rotation, Model, Rows, LowRank, SamplingRequests, Tokens, Bias, SamplingRequest, Choice,
)  # fmt: skip


def expect_layout(library: ctypes.CDLL) -> None:
    """InvariantBroken unless sizes of structures and offsets of fields in the library equal those
    declared here.
    """
    n = ctypes.c_int32()
    library.sgl_layout.restype = ctypes.POINTER(ctypes.c_int32)
    found = library.sgl_layout(ctypes.byref(n))[: n.value]
    ours: list[tuple[str, int]] = []
    for structure in STRUCTURES:
        ours.append((f"the size of {structure.__name__}", ctypes.sizeof(structure)))
        ours += [(f"{structure.__name__}.{field[0]}", getattr(structure, field[0]).offset) for field in structure._fields_]
    if len(found) != len(ours):
        raise InvariantBroken(f"the structures of the native step have {len(ours)} sizes and places here and {len(found)} in the library")
    for (name, here), there in zip(ours, found, strict=True):
        if here != there:
            raise InvariantBroken(f"{name} is {here} here and {there} in the native step's library")


_NO_MEMORY, _NO_THREADS = 1, 2


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Calls release the GIL, as CDLL does. Errors are raised: OutOfMemory, BadArgument,
    InvariantBroken.
    """
    expect_layout(library)
    pointer, number, address = ctypes.POINTER, ctypes.c_int32, ctypes.c_void_p
    arguments: dict[str, list[type]] = {
        "sgl_new": [pointer(Model), number, pointer(address)],
        "sgl_delete": [address],
        "sgl_start": [address, pointer(Rows), pointer(SamplingRequests)],
        "sgl_release": [address],
        "sgl_finish": [address],
        "sgl_experts": [address, address],
        "sgl_linear": [pointer(Weight), address, number, address, number],
        "sgl_attention": [pointer(Shape), pointer(Rows), pointer(Pages), address, address, number],
        "sgl_choose": [address, number, pointer(SamplingRequests), number],
        "sgl_weight_row": [pointer(Weight), number, address],
    }
    library.sgl_message.restype = ctypes.c_char_p

    def checked(fault: int, function: object, values: object) -> int:
        if fault == 0:
            return fault
        message = library.sgl_message().decode(errors="replace")
        if fault == _NO_MEMORY:
            raise OutOfMemory(f"the native step is out of memory: {message}", hint="use a smaller cache or fewer threads")
        if fault == _NO_THREADS:
            raise BadArgument(f"the system gives the native step no more threads: {message}", hint="use fewer threads")
        raise InvariantBroken(f"the native step failed: {message}")

    for name, types in arguments.items():
        function = getattr(library, name)
        function.restype, function.argtypes, function.errcheck = number, types, checked
    return library
