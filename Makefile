PYTHON ?= python3.11
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CPP := $(wildcard $(addprefix csrc/,$(foreach folder,. cpu cuda,$(addprefix $(folder)/,*.h *.cpp *.cuh *.cu))))
SOURCES := setup.py pyproject.toml $(CPP)
FORMATTED := $(CPP) $(wildcard tests/host_cuda/*.h tests/host_cuda/*.cpp tests/host_programs/*.cpp)
# What runs a second time, on the Triton kernels in Triton's interpreter.
TRITON_TESTS := $(addprefix tests/test_,$(addsuffix .py,parity terms awkward_input determinism autograd registration distance_transform triton_interpreter))
# The trainer and what rests on it.
TRAINING_TESTS := $(wildcard tests/test_training_*.py) $(addprefix tests/test_,$(addsuffix .py,cli damaged_input data_parallel datasets demo files imaging lga metrics phantom preprocessing rooms scan study study_comparison subjects surface_distances))

.PHONY: install demo test test-operators test-training test-triton lint format bench clean

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first: the operators are built against the torch that is installed.
$(STAMP): $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24" "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet "$(TORCH)" numpy
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[test,lint]"
	touch $@

demo: install
	$(BIN)/geoloss demo --out demo-run

# Every run keeps one core busy.
test: install lint
	$(MAKE) --jobs=2 test-operators test-triton test-training

test-operators:
	$(BIN)/python -m pytest $(addprefix --ignore=,$(TRAINING_TESTS))

test-training:
	$(BIN)/python -m pytest $(TRAINING_TESTS)

test-triton:
	TRITON_INTERPRET=1 $(BIN)/python -m pytest $(TRITON_TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

bench: install
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) build dist *.egg-info geoloss_kernels/*.so
