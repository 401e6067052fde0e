PYTHON ?= python

.PHONY: fmt check test docs bench bench-all figures clean

fmt:      ## format and fix what can be fixed
	ruff format .
	ruff check --fix .

check:    ## lint, formatting, import contracts, types
	ruff check .
	ruff format --check .
	PYTHONPATH=. lint-imports
	mypy

test:     ## everything against PyTorch
	$(PYTHON) -m pytest

docs:     ## the site, into site/: strict, and without any network
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

ROUNDS ?= 3
LLMC = $(if $(LLMC_PROGRAM),--llmc $(LLMC_PROGRAM))

bench:    ## how fast, beside every program in NPGPT_PEERS: ten to twenty minutes; writes benchmarks/results/
	$(PYTHON) -m benchmarks.training_step --rounds $(ROUNDS) --shape 2x256 4x64 book $(LLMC)
	$(PYTHON) -m benchmarks.training_step --rounds $(ROUNDS) --dtype bfloat16 --shape 2x256 4x64
	$(PYTHON) -m benchmarks.generation --rounds $(ROUNDS) --weights float32 bfloat16 int8
	$(PYTHON) -m benchmarks.start_up

bench-all: bench ## all shapes and ops, how cost grows, what loading costs: about an hour
	$(PYTHON) -m benchmarks.training_step --rounds $(ROUNDS) --shape 1x1024
	$(PYTHON) -m benchmarks.sampling
	$(PYTHON) -m benchmarks.ops
	$(PYTHON) -m benchmarks.products
	$(PYTHON) -m benchmarks.profile
	$(PYTHON) -m benchmarks.growth
	$(PYTHON) -m benchmarks.book_run
	$(PYTHON) -m benchmarks.loading
	$(PYTHON) -m benchmarks.precision xl

figures:  ## README's and docs/' figures, from benchmarks/results/
	$(PYTHON) -m benchmarks.readme

clean:    ## what Python, Numba and the tools left behind
	rm -rf build dist site *.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
