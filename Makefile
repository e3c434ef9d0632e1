# One command each for a person who has just cloned this. All are safe to run again, and from two shells at once.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab tour test quick soak setup setup-test chromium litellm partners clean

# Set PYTHON to name an interpreter; ARGS goes to `jupyter lab`, `sgl-lab tour` or `pytest`.
PYTHON ?=
ARGS ?=

key := $(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
ready := .venv/.ready-$(key)
ready_for_tests := .venv/.ready-for-tests-$(key)
pip := .venv/bin/python -m pip --disable-pip-version-check
install := PYTHONWARNINGS=ignore $(pip) install -q -c constraints.txt
workers := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 2 ? 2 : n > 4 ? 4 : n)))
one_at_a_time := mkdir -p build && $(if $(shell command -v flock),flock build/setup.lock) $(MAKE) -s

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

lab: setup  ## set up if needed, then open JupyterLab on the first notebook
	.venv/bin/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) \
	    --LabApp.default_url=/lab/tree/notebooks/01_first_cell.ipynb $(ARGS)

tour: setup  ## the same without a browser: run the notebook, print its tree and hit rate, write build/tour.html
	.venv/bin/sgl-lab tour $(ARGS)

test: setup setup-test  ## set up what the tests need (Chromium too), then lint, check types and test
	.venv/bin/ruff check .
	.venv/bin/mypy -n $(workers)
ifdef ARGS
	.venv/bin/pytest $(ARGS)
else
	.venv/bin/pytest -n $(workers) --dist loadfile --no-loadscope-reorder -m "not deadline"
	.venv/bin/pytest -m deadline || .venv/bin/pytest -m deadline --last-failed  # what a busy machine missed gets a second try
endif

quick: setup setup-test  ## lint, check types and run the tests that need neither a kernel nor a browser; ROOM=viz, ROOM=engine.serving.cache: those of one part
	.venv/bin/ruff check .
	.venv/bin/mypy -n $(workers)
	.venv/bin/pytest -n $(workers) --dist loadfile --no-loadscope-reorder -m "not deadline" tests/rooms tests/pure $(if $(ROOM),tests/torch --room $(ROOM))

soak: setup setup-test  ## the reliability tests in full: hours (5 million operations on the tree, 500 programs, every planted bug)
	SGL_LAB_SOAK=50 .venv/bin/pytest tests/pure/test_cache.py
	SGL_LAB_SOAK=17 .venv/bin/pytest tests/pure/test_engine_text.py
	SGL_LAB_SOAK=10 .venv/bin/pytest tests/pure tests/reliability tests/torch $(ARGS)

setup:  ## make .venv from the exact pins, build the native CPU step and fetch the built-in model
	@$(one_at_a_time) $(ready)
	-@.venv/bin/sgl-lab native
	@.venv/bin/sgl-lab model pull smollm2

setup-test: chromium  ## what only the tests need
	@$(one_at_a_time) $(ready_for_tests) build/ipykernel6 build/json-schema-suite

litellm:  ## run LiteLLM's tests in an environment of their own: it needs an older huggingface_hub than ours
	[ -x build/litellm/bin/python ] || python3 -m venv build/litellm
	build/litellm/bin/python -m pip install -q "litellm==1.108.7" httpx2 pydantic tqdm filelock jsonschema referencing pytest
	PYTHONPATH=. build/litellm/bin/python -m pytest -o addopts= tests/pure/test_litellm.py $(ARGS)

# Names of tests/partners/environments.py; without any, the light ones.
PARTNERS ?=

partners: setup setup-test  ## set up programs that other people wrote (llama.cpp, DSPy, the original's frontend, ...) and test with them
	.venv/bin/python -m tests.partners.environments $(PARTNERS)
	.venv/bin/pytest -rs tests/partners $(ARGS)

clean:  ## remove what was built; the model stays until `sgl-lab model rm smollm2`
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	@for python in $(or $(PYTHON),python3 python3.12 python3.11); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "making .venv with $$("$$python" --version)"; \
	        "$$python" -m venv .venv || { rm -rf .venv; exit 1; }; \
	        exit 0; \
	    fi; \
	done; \
	echo "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.11" >&2; exit 1

# torch goes first and alone: a CPU build of this very version, where pip knows one, is then taken instead of gigabytes of CUDA.
# JupyterLab's announcements ask the network for news and newer versions; the lab asks it for nothing.
$(ready): | .venv/bin/python
	@echo "installing the pinned packages (minutes, the first time)"
	@$(install) pip setuptools
	@$(install) torch
	@$(install) --no-build-isolation -e .
	@mkdir -p .venv/etc/jupyter/labconfig
	@echo '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}' > .venv/etc/jupyter/labconfig/page_config.json
	@touch $@

$(ready_for_tests): $(ready)
	@echo "installing what the tests need"
	@$(install) --no-build-isolation -e '.[test]'
	@touch $@

# The browser tests also run on the ipykernel before 7, from a folder of its own.
build/ipykernel6:
	@rm -rf $@.part
	@$(pip) install -q --no-deps --target $@.part ipykernel==6.31.0
	@mv $@.part $@

# The JSON Schema Test Suite comes inside the source of the `jsonschema` package.
build/json-schema-suite:
	@rm -rf $@.part && mkdir -p $@.part
	@echo "jsonschema==4.26.0 --hash=sha256:0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326" > $@.part/pinned
	@$(pip) download -q --no-deps --no-binary jsonschema -r $@.part/pinned -d $@.part
	@tar -xzf $@.part/jsonschema-4.26.0.tar.gz -C $@.part --strip-components=3 jsonschema-4.26.0/json/tests/draft2020-12
	@mv $@.part $@

chromium:
	@for browser in chromium chromium-browser google-chrome; do \
	    if command -v $$browser >/dev/null; then exit 0; fi; \
	done; \
	if ! command -v apt-get >/dev/null; then \
	    echo "the browser tests need chromium or google-chrome on PATH; install one and run make test again" >&2; exit 1; \
	fi; \
	root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	$$root apt-get update -q && $$root apt-get install -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends chromium graphviz
