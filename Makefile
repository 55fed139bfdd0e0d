# The parts of scripts/test.sh one by one, in the .venv that scripts/setup.sh makes. ARGS goes to pytest: make unit ARGS="-k name"
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help lint types unit training tooling spark distributed hosts docs docs-pictures notebooks stack coverage all

pytest := . scripts/env.sh && python -m pytest --durations=20

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

lint: ## lint, format and declared dependencies
	. scripts/env.sh && ruff check . && ruff format --check . && deptry .

types: ## types of the package and of the scripts
	. scripts/env.sh && mypy spark_dl && mypy --config-file scripts/mypy.ini

two := --numprocesses 2 --dist loadgroup --no-loadscope-reorder

unit: ## functions and classes, without Spark and without training
	$(pytest) $(two) tests/unit $(ARGS)

training: ## Keras trainings without Spark, with ranks as threads, and a rank's own process
	$(pytest) $(two) tests/training $(ARGS)

tooling: ## scripts, site, stubs, release, wheels
	$(pytest) $(two) tests/tooling $(ARGS)

spark: ## tests and docstrings with Spark in this process
	$(pytest) tests/spark spark_dl $(ARGS)

distributed: ## tests with ranks on a local cluster, and with Spark Connect
	$(pytest) tests/connect tests/distributed tests/equality $(ARGS)

hosts: ## tests on hosts made of network namespaces
	$(pytest) tests/hosts $(ARGS)

docs: ## the documentation site, in docs/_build
	scripts/docs.sh $(ARGS)

docs-pictures: ## screenshots of MLflow's page, in docs/images; needs Playwright and Chromium, which set-up doesn't install
	. scripts/env.sh && python scripts/docs_pictures.py

notebooks: ## notebooks, each executed in a kernel of its own; scripts/notebooks.py writes them with outputs
	$(pytest) tests/notebooks $(ARGS)

stack: ## tests marked `stack`, on the newest stack
	scripts/test.sh --stack newest $(ARGS)

coverage: ## all tests in one process, with the branches that they take in all processes
	. scripts/env.sh && coverage erase && coverage run -m pytest $(ARGS) && coverage combine -q && coverage report

all: ## set-up and every check: scripts/test.sh
	scripts/test.sh $(ARGS)
