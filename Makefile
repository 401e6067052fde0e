PYTHON ?= python

.PHONY: fmt check test bench clean

fmt:      ## format and fix what can be fixed
	ruff format .
	ruff check --fix .

check:    ## lint, formatting, import contracts
	ruff check .
	ruff format --check .
	PYTHONPATH=. lint-imports

test:     ## everything against PyTorch
	$(PYTHON) -m pytest

bench:    ## how fast, beside PyTorch; writes benchmarks/results/
	$(PYTHON) -m benchmarks.ops
	$(PYTHON) -m benchmarks.training_step
	$(PYTHON) -m benchmarks.generation
	$(PYTHON) -m benchmarks.book_run
	$(PYTHON) -m benchmarks.start_up

clean:    ## what Python, Numba and the tools left behind
	rm -rf build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
