# make table   set up .venv when needed, run the experiment of params.yaml, write results/table.csv
# make report  the ablation grid and results/report.html, beside the table
# make test    set up .venv when needed, run the tests, all but the long ones
# make full-test  the long ones too, as CI does: killed processes, clusters, a model at full size
# make rehearsal  the official experiments at real size on a loopback host (half an hour, 12 GB)
# make lint    formatters and linters, as CI runs them
# make env TORCH=cpu  PyTorch without CUDA, 4 GB less; TORCH=cuda takes the pinned one again
# make clip    train the miniature CLIP anew (23 minutes on two busy cores)
# make bench   time step, evaluation, operator, text, loading against the plain recipe (10 minutes)
# make gpu     on a machine with a GPU: tests that need one, then the check (benchmarks/gpu)
# make docs    the documentation as a site in site/, with the reference and all parameters
# make pins    resolve envs/*.in into the pinned files with hashes
PYTHONS := python3.12 python3.11 python3.13 python3
PYTHON ?= $(shell for name in $(PYTHONS); do \
  $$name envs/install.py --can-use 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin
CORES ?= all
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)

.PHONY: table report test fast-test full-test rehearsal lint format clip bench gpu pins env docs

table: env
	@start=$$(date +%s) && $(SNAKEMAKE) results/table.csv && $(BIN)/maftp show && \
	  spent=$$(($$(date +%s) - start)) && echo "results/table.md, $$((spent / 60)) min $$((spent % 60)) s"

report: env
	@$(SNAKEMAKE) results/table.csv results/ablations.csv results/report.html

# a process a core, up to four; a file's tests share what they set up
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: env
	@$(TESTS) -m "not long and not rehearsal"

full-test: env
	@$(TESTS)

fast-test: env
	@$(TESTS) -m "not slow"

rehearsal: env
	@$(BIN)/pytest -m "slow or rehearsal" --capture=no tests/rehearsal

lint: env
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/snakemake --lint

format: env
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/snakefmt Snakefile workflow

clip: env
	@$(SNAKEMAKE) weights/clip/retrained.safetensors

bench: env
	@for name in deformable_attention step evaluation text loading; do \
	  OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py || exit 1; done

gpu: env
	@$(BIN)/pytest -m gpu
	@$(BIN)/python benchmarks/gpu/check.py
	@$(BIN)/python benchmarks/deformable_attention.py --repetitions 30

pins: env
	@cd envs && for name in bootstrap requirements requirements-dev; do \
	  ../$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-find-links $$name.in -o $$name.txt || exit 1; done

docs: env
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo site/index.html

env:
	@[ -n "$(PYTHON)" ] || { echo "There is no Python 3.11, 3.12 or 3.13 with venv and pip here; install one" \
	  "(uv python install 3.12, apt install python3.12-venv, brew install python@3.12)," \
	  "or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) envs/install.py$(TORCH:%= --torch %)
