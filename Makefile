.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# Two tests at a time, each on one thread: more would only share the same cores on a small machine.
PARALLEL := -n 2 --dist worksteal
.PHONY: help demo test test-all check pyright coverage bench bench-rfcn bench-step bench-loader bench-predict kill-check native-cuda emulate emulate-cost gpu-check gpu-wheels figures notebooks docs docs-serve lock clean

help:  ## show these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# uv takes torch and torchvision from one index in matching builds; pip may mix a local CPU torch with a CUDA torchvision.
.venv/installed: pyproject.toml setup.py requirements.lock $(wildcard ops/csrc/*.h ops/csrc/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirements requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: .venv/installed  ## install, train on the synthetic dataset, evaluate, draw detections (under 5 minutes on 2 cores)
	$(BIN)/detector train experiment=demo output_dir=runs/demo

test: .venv/installed  ## install, then run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

test-all: .venv/installed  ## the slow tests too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m ""

bench: .venv/installed  ## time the operators beside torchvision's; results go to docs/benchmarks (3 minutes)
	$(BIN)/python -m detector.tools.bench.operators

bench-rfcn: .venv/installed  ## time what R-FCN does per RoI, and hard example mining; goes to docs/benchmarks (3 minutes)
	$(BIN)/python -m detector.tools.bench.rfcn

bench-step: .venv/installed  ## time a training step against its bare parts and torchvision's; goes to docs/benchmarks (5 minutes)
	$(BIN)/python -m detector.tools.bench.step

bench-loader: .venv/installed  ## time decoding, resizing, flipping, and training's wait for data (VOC=VOCdevkit)
	$(BIN)/python -m detector.tools.bench.loader --root $(or $(VOC),VOCdevkit)

bench-predict: .venv/installed  ## the rate of `detector predict` beside the detector's own (WEIGHTS=runs/demo IMAGES=photos)
	$(BIN)/python -m detector.tools.bench.predict --weights $(or $(WEIGHTS),runs/demo) --images $(or $(IMAGES),photos)

kill-check: .venv/installed  ## kill training at 100 random moments and compare bytes (15 minutes)
	$(BIN)/python -m detector.tools.bench.kill_check --kills 100

check: .venv/installed  ## lint, format, types, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p detector
	$(BIN)/codespell

pyright: .venv/installed  ## the types once more, as editors see them (fetches pyright; one minute)
	$(BIN)/uv run --no-project --with 'pyright[nodejs]' pyright

coverage: .venv/installed  ## the test suite, and which lines it does not run; fails below the limit in pyproject.toml
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term-missing:skip-covered

native-cuda: .venv/installed  ## compile the CUDA kernels, or fail (needs nvcc, no GPU)
	DETECTOR_NATIVE=cuda $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .

emulate: .venv/installed  ## run the CUDA kernels on an emulated device (20 minutes), and broken ones (longer; needs g++, no GPU)
	OMP_NUM_THREADS=1 $(BIN)/python tests/ops/emulation/check.py --cases 2000
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m "" tests/ops/emulation

emulate-cost: .venv/installed  ## count the memory traffic of the CUDA kernels without a GPU; goes to docs/benchmarks (10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/ops/emulation/cost.py

figures: .venv/installed  ## draw the figures of ops/README.md and docs anew, for light pages and dark ones
	grep -h '^detector explain.*output=docs/figures' ops/README.md docs/*.md docs/*/*.md | sort -u | sed 's|^|$(BIN)/|' \
		| sed -E 'p; s|(output=docs/figures/[a-z_0-9]+).png|\1_dark.png theme=dark|' | sh -e

notebooks: .venv/installed  ## make the tutorials' notebooks from their scripts
	$(BIN)/python -m detector.tools.docs.tutorial_pages

.venv/docs: .venv/installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock -r pyproject.toml --extra docs
	@touch $@

docs: .venv/docs  ## build the documentation into site/; a warning or a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

docs-serve: .venv/docs  ## show the documentation at localhost:8000 while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

gpu-check:  ## build, test and time the kernels on this machine's GPU, and train, with what is installed (8 minutes)
	$(PYTHON) tools/bench/gpu_check.py $(if $(VOC),--voc $(VOC))

gpu-wheels:  ## packages for gpu-check on a machine without network; they go to build/wheels
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --constraint requirements.lock \
		--wheel-dir build/wheels hydra-core omegaconf antlr4-python3-runtime

lock:  ## resolve requirements.lock anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-emit-index-url --no-header --no-annotate \
		--extra dev --extra proposals --extra export --extra coco --extra timm pyproject.toml --output-file requirements.lock

clean:  ## remove the environment and what was built
	rm -rf .venv build dist site *.egg-info ops/*.so ops/native_build.json
