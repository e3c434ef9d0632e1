"""Settings: their sources, the precedence among these, and the errors of invalid ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from traitlets import TraitError
from traitlets.config import PyFileConfigLoader

from sgl_lab.magics.options import SETTINGS, CellOptions, OptionError, parse_cell
from sgl_lab.magics.settings import SGL, Settings, project_section, take_wrong

GOOD = '[tool.sgl_lab]\ntemperature = 0.25\nmax_tokens = 40\nview = ["tokens", "tree"]\ndeterministic = true\nmodel = "other"\nseed = 3\n'


def settings(folder: Path, environ: dict[str, str] | None = None) -> Settings:
    return Settings(SGL(), environ or {}, folder)


def found(of: Settings) -> dict[str, tuple[object, str]]:
    return {setting.name: (setting.value, setting.origin) for setting in of.all()}


def test_without_settings_every_default_applies(tmp_path: Path) -> None:
    assert found(settings(tmp_path)) == dict.fromkeys(SETTINGS, (None, "default"))
    assert [setting.text for setting in settings(tmp_path).all()] == [option.default for option in SETTINGS.values()]


def test_each_source_takes_precedence_over_the_next_ones(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(GOOD)
    of = settings(tmp_path)
    assert found(of)["temperature"] == (0.25, str(path))
    assert found(of)["view"] == (("tokens", "tree"), str(path))
    of = settings(tmp_path, {"SGL_LAB_TEMPERATURE": "0.5", "SGL_LAB_CACHE": "elsewhere", "SGL_LAB_SEED": ""})
    assert found(of)["temperature"] == (0.5, "SGL_LAB_TEMPERATURE")
    assert found(of)["seed"] == (3, str(path))
    of.config.temperature = "0.75"
    assert found(of)["temperature"] == (0.75, "%config SGL.temperature")
    over = of.over(parse_cell("--temperature 1 --view none"))
    assert (over.temperature, over.views, over.max_tokens, over.deterministic) == (1.0, (), 40, True)
    of.config.temperature = None
    assert of.over(CellOptions()).temperature == 0.5


def test_a_project_sets_the_model_of_a_new_session_only(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(GOOD)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    of = settings(tmp_path / "deep" / "er")
    assert of.model == "other"
    assert of.over(CellOptions()).model is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.sgl_lab]\ntemperature = -1", "temperature cannot be '-1'"),
        ("[tool.sgl_lab]\ntemprature = 1", "did you mean 'temperature'?"),
        ("[tool.sgl_lab]\nview = ['tre']", "did you mean 'tree'?"),
        ("[tool.sgl_lab]\nseed = {}", "seed cannot be '{}'"),
        ("[tool.sgl_lab]\nseed = 1\nseed = 2", "is not TOML"),
        ("[tool]\nsgl_lab = 3", "must be a table"),
        ("# sgl_lab\na = " + "[" * 5000, "is not TOML"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(OptionError) as caught:
        settings(tmp_path).all()
    assert message in str(caught.value)
    assert "pyproject.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_our_table_is_not_checked(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\x00 = [[[")
    assert project_section(tmp_path)[1] == {}


def test_a_wrong_variable_and_a_wrong_trait_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="SGL_LAB_MAX_TOKENS cannot be 'many'"):
        settings(tmp_path, {"SGL_LAB_MAX_TOKENS": "many"}).all()
    of = settings(tmp_path)
    with pytest.raises(TraitError, match=r"SGL\.seed cannot be '-1'"):
        of.config.seed = -1
    assert of.config.seed is None


@pytest.mark.parametrize(
    ("variable", "text", "takes"),
    [
        ("SGL_LAB_TEMPERATURE", "hot", "a number, 0 or more"),
        ("SGL_LAB_MAX_TOKENS", "0", "a whole number, 1 or more"),
        ("SGL_LAB_SEED", "1.5", "a whole number, 0 or more"),
        ("SGL_LAB_DETERMINISTIC", "ture", "yes or no"),
        ("SGL_LAB_VIEW", ",", "any of tokens, graph, tree, timeline, or none"),
        ("SGL_LAB_DEVICE", "gpu", "cpu, cuda, or a numbered GPU such as cuda:1"),
    ],
)
def test_an_invalid_setting_lists_the_valid_values(tmp_path: Path, variable: str, text: str, takes: str) -> None:
    with pytest.raises(OptionError) as caught:
        settings(tmp_path, {variable: text}).all()
    assert str(caught.value) == f"{variable} cannot be {text!r} (it takes {takes})"


def test_a_wrong_line_of_ipython_config_is_left_out_and_named_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "ipython_config.py"
    file.write_text("c = get_config()\nc.SGL.temperature = 'hot'\nc.SGL.seed = 5\nc.SGL.temprature = 1\nc.SGL.view.append('tree')\n")
    config = PyFileConfigLoader(file.name, str(tmp_path)).load_config()
    wrong = take_wrong(config, [tmp_path / "gone.py", file])
    assert [str(error).replace(str(file), "FILE") for error in wrong[:2]] == [
        "FILE: c.SGL.temperature cannot be 'hot' (it takes a number, 0 or more)",
        "FILE: c.SGL.temprature: unknown setting 'temprature' (did you mean 'temperature'?)",
    ]
    assert (len(wrong), str(wrong[2]).startswith(f"{file}: c.SGL.view: unknown view")) == (3, True)
    of = Settings(SGL(config=config), {}, tmp_path)
    assert {name: value for name, (value, _) in found(of).items() if value is not None} == {"seed": 5}


def test_mutated_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    draw = random.Random(11)
    path = tmp_path / "pyproject.toml"
    n_refused = 0
    for _ in range(600):
        raw = bytearray(GOOD.encode())
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(raw))
            raw[at : at + draw.randint(0, 3)] = bytes(draw.randrange(256) for _ in range(draw.randint(0, 3)))
        path.write_bytes(raw)
        try:
            settings(tmp_path).over(CellOptions())
        except OptionError as error:
            assert "\n" not in error.message  # noqa: PT017  what is refused is counted below
            n_refused += 1
    assert 200 < n_refused < 600
