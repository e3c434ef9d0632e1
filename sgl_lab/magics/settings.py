"""Settings for all cells: `%config SGL.name`, `SGL_LAB_NAME`, and `[tool.sgl_lab]` in
pyproject.toml.

A cell's own option comes first, then these in that order, then the default. They are read again for
every cell, so a changed file takes effect at once. An invalid value is one error that names its
source. `ipython_config.py` is read when IPython starts; an invalid value there is reported in one
line and ignored. Knows the traits of IPython, but no shell.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

from traitlets import Any as AnyTrait
from traitlets import TraitError
from traitlets.config import Config, Configurable

from .options import SETTINGS, CellOptions, Option, OptionError, nearest

STARTS = ("backend", "model", "device")
"""settings that only start a session: a cell without them runs on what the session has by then"""
ENV = "SGL_LAB_"
SECTION = "[tool.sgl_lab]"


class Setting(NamedTuple):
    name: str
    value: object
    """the parsed value; None if it is not set"""
    origin: str

    @property
    def text(self) -> str:
        return SETTINGS[self.name].default if self.value is None else _spelled(self.value)


class Given(AnyTrait):  # type: ignore[misc, unused-ignore]
    """A trait that accepts the values of its option, parsed or as text. None removes the setting."""

    def __init__(self, option: Option) -> None:
        super().__init__(None, help=f"{option.help} (default {option.default})")
        self._option = option

    def validate(self, owner: object, value: object) -> object:
        try:
            return None if value is None else self._option.read(_spelled(value), f"SGL.{self._option.field}")
        except OptionError as error:
            raise TraitError(str(error)) from None


_metaclass: Callable[..., type[Configurable]] = type(Configurable)
SGL = _metaclass(
    "SGL",
    (Configurable,),
    {"__doc__": "Settings of sgl_lab; `%sgl config` lists them with their sources.", "__module__": __name__}
    | {name: Given(option).tag(config=True) for name, option in SETTINGS.items()},
)


def take_wrong(config: Config, files: Iterable[Path] = ()) -> list[OptionError]:
    """Remove invalid values from `config` (the content of `ipython_config.py`), so that the
    defaults apply.

    Each error names the value, the valid ones, and the file among `files` that contains it.
    """
    wrong = []
    texts = {path: path.read_text(errors="replace") for path in files if path.is_file()}
    for name, value in [*config.get("SGL", {}).items()]:
        where = next((f"{path}: c.SGL.{name}" for path, text in texts.items() if f"SGL.{name}" in text), f"c.SGL.{name}")
        try:
            if name not in SETTINGS:
                unknown = nearest(name, SETTINGS, "setting")
                raise OptionError(f"{where}: {unknown.message}", hint=unknown.hint)
            SETTINGS[name].read(_spelled(value), where)
        except OptionError as error:
            wrong.append(error)
            del config["SGL"][name]
    return wrong


class Settings:
    """The settings of one shell. `config` is an `SGL`, whose traits `%config` sets."""

    def __init__(
        self,
        config: Configurable | None = None,
        environ: Mapping[str, str] = os.environ,
        folder: Path | None = None,
        ignored: Sequence[OptionError] = (),
    ) -> None:
        self.config = SGL() if config is None else config
        self.ignored = ignored
        """errors in `ipython_config.py`"""
        self._environ = environ
        self._folder = folder
        """folder from which pyproject.toml is searched upwards; None is the current folder"""

    def all(self) -> tuple[Setting, ...]:
        """Every setting and its source. OptionError if one is invalid."""
        path, section = project_section(self._folder or Path.cwd())
        return tuple(self._find(name, option, path, section) for name, option in SETTINGS.items())

    def _find(self, name: str, option: Option, path: Path | None, section: Mapping[str, object]) -> Setting:
        if (value := getattr(self.config, name)) is not None:
            return Setting(name, value, f"%config SGL.{name}")
        variable = ENV + name.upper()
        if text := self._environ.get(variable):
            return Setting(name, option.read(text, variable), variable)
        if name in section:
            return Setting(name, option.read(_spelled(section[name]), f"{path} {SECTION} {name}"), str(path))
        return Setting(name, None, "default")

    def over(self, options: CellOptions) -> CellOptions:
        """The options of a cell, completed by the settings, except those that only start a session."""
        found = {setting.name: setting.value for setting in self.all() if setting.name not in STARTS}
        missing = {field.name for field in fields(options) if getattr(options, field.name) is None}
        return replace(options, **{name: value for name, value in found.items() if name in missing})  # type: ignore[arg-type]

    @property
    def backend(self) -> str | None:
        """The backend of a session that has chosen none; None if it is not set."""
        return self._text("backend")

    @property
    def model(self) -> str | None:
        """The model of a new session; None if it is not set."""
        return self._text("model")

    @property
    def device(self) -> str | None:
        """The device that models run on by default; None if it is not set."""
        return self._text("device")

    def _text(self, name: str) -> str | None:
        return next((str(setting.value) for setting in self.all() if setting.name == name and setting.value), None)


def project_section(folder: Path) -> tuple[Path | None, Mapping[str, object]]:
    """The nearest pyproject.toml and its settings. OptionError if they cannot be read. A file
    without our table is not checked.
    """
    path = next((found for above in (folder, *folder.parents) if (found := above / "pyproject.toml").is_file()), None)
    if path is None:
        return None, {}
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}") from None
    if b"sgl_lab" not in raw:
        return path, {}
    try:
        tool = tomllib.loads(raw.decode("utf-8-sig")).get("tool", {})
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is not TOML: {error}", hint=f"correct the file, or remove {SECTION}") from None
    section = tool.get("sgl_lab", {}) if isinstance(tool, dict) else {}
    if not isinstance(section, dict):
        raise OptionError(f"{path} {SECTION} must be a table, not {section!r}")
    for name in section:
        if name not in SETTINGS:
            wrong = nearest(name, SETTINGS, "setting")
            raise OptionError(f"{path} {SECTION}: {wrong.message}", hint=wrong.hint)
    return path, section


def _spelled(value: object) -> str:
    """A value as it would be written after the option."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(_spelled, value)) or "none"
    return str(value)
