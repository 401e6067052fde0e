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
LLAMA = $(if $(LLAMA_PYTHON),--llama-python $(LLAMA_PYTHON))
LLMC = $(if $(LLMC_PROGRAM),--llmc $(LLMC_PROGRAM))

bench:    ## how fast, beside PyTorch, transformers and llama.cpp: some ten minutes; writes benchmarks/results/
	$(PYTHON) -m benchmarks.training_step --rounds $(ROUNDS) --shape 2x256 book
	$(PYTHON) -m benchmarks.generation --rounds $(ROUNDS) $(LLAMA)
	$(PYTHON) -m benchmarks.start_up

bench-all: bench ## all shapes and ops, how cost grows, what loading costs: about an hour
	$(PYTHON) -m benchmarks.training_step --rounds $(ROUNDS) --shape 1x1024 4x64 $(LLMC)
	$(PYTHON) -m benchmarks.ops
	$(PYTHON) -m benchmarks.products
	$(PYTHON) -m benchmarks.profile
	$(PYTHON) -m benchmarks.growth
	$(PYTHON) -m benchmarks.book_run
	$(PYTHON) -m benchmarks.loading
	$(PYTHON) -m benchmarks.training_step --dtype bfloat16
	$(PYTHON) -m benchmarks.generation --weights bfloat16 $(LLAMA)
	$(PYTHON) -m benchmarks.generation --weights int8 $(LLAMA)
	$(PYTHON) -m benchmarks.precision xl

figures:  ## README's and docs/' figures, from benchmarks/results/
	$(PYTHON) -m benchmarks.readme

clean:    ## what Python, Numba and the tools left behind
	rm -rf build dist site *.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
