# Kiln's commands. Each makes .venv itself, and makes it anew where the dependencies have changed.
.DEFAULT_GOAL := help
.PHONY: help run demo test check bench schema

# The first Python that will do; `make PYTHON=...` chooses another.
SUITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
PYTHON ?= $(shell for each in python3 python3.11 python3.12 /usr/bin/python3; do \
	$$each -c '$(SUITS)' 2>/dev/null && echo $$each && break; done)
VENV := .venv/bin
REDOCLY := REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true npx --yes @redocly/cli@2.77.0
# a check whose tool is missing: told, and in CI a failure
SKIP = echo "skipped: $(1), as there is no $(2)" >&2; test "$$CI" != true
SPECTACULAR := $(VENV)/python manage.py spectacular --validate --fail-on-warn

help: ## list the commands
	@sed -n 's/^\([a-z]*\):[^#]*## /\1 /p' Makefile | while read -r name what; do printf '  make %-8s %s\n' "$$name" "$$what"; done

run: .venv/complete ## the whole stack at http://127.0.0.1:$PORT (8000) until Ctrl-C; data in $KILN_HOME (.kiln)
	@setpriv --pdeathsig TERM $(VENV)/python -m devstack run

demo: .venv/complete ## buy one picture from a stack of its own; the picture is out/demo.png
	@setpriv --pdeathsig TERM $(VENV)/python -m devstack demo

test: .venv/complete ## the test suite, on PostgreSQL and Redis that it starts itself; ARGS="tests/billing -x --full"
	@$(VENV)/python -m pytest $(ARGS)

check: .venv/complete ## linters, types, import rules, missing migrations, API schema and its manners, alarms
	@$(VENV)/ruff check
	@$(VENV)/ruff format --check
	@$(VENV)/mypy .
	@$(VENV)/lint-imports --no-logo
	@$(VENV)/python -m devstack with-servers -- $(VENV)/python manage.py makemigrations --check
	@$(SPECTACULAR) | diff -u docs/openapi.yaml - || { echo "docs/openapi.yaml is not what the code says: make schema" >&2; exit 1; }
	@if command -v promtool >/dev/null; then promtool check rules deploy/alerts.yml; \
	else $(call SKIP,deploy/alerts.yml,promtool (Debian: apt-get install prometheus)); fi
	@if timeout 120 env $(REDOCLY) --version >/dev/null 2>&1; then $(REDOCLY) lint docs/openapi.yaml; \
	else $(call SKIP,redocly of docs/openapi.yaml,npx (Debian: apt-get install npm) or no npm registry); fi

bench: .venv/complete ## the benchmarks, tables here and JSON in bench/results; ARGS="--quick ledger"
	@$(VENV)/python -m bench $(ARGS)

schema: .venv/complete ## write docs/openapi.yaml
	@mkdir -p docs
	@$(SPECTACULAR) --file docs/openapi.yaml

.venv/complete: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Kiln needs Python 3.11 or 3.12 with venv (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "installing into .venv; the first time takes some minutes"
	@$(PYTHON) -m venv .venv
	@$(VENV)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
