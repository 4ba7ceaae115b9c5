PYTHON ?= python3.11
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CPP := $(wildcard $(addprefix csrc/,$(foreach folder,. cpu cuda,$(addprefix $(folder)/,*.h *.cpp *.cuh *.cu))))
SOURCES := setup.py pyproject.toml $(CPP)
FORMATTED := $(CPP) $(wildcard tests/host_cuda/*.h tests/host_cuda/*.cpp tests/host_programs/*.cpp)
# What runs a second time, on the Triton kernels in Triton's interpreter.
TRITON_TESTS := $(addprefix tests/test_,$(addsuffix .py,parity terms awkward_input determinism autograd registration distance_transform head_loss open_formulas triton_interpreter))
# glibc 2.27 is the oldest that the library loads with (csrc/glibc_2_28.h); torch's own wheels ask for 2.28.
REPAIR := auditwheel repair --only-plat --plat manylinux_2_27_$(shell uname -m) --exclude 'libc10*.so' --exclude 'libtorch*.so'
CUDA_VERSION = cu$(shell nvcc --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1\2/p')
# Where `make test-wheels` tries the wheel. Most wheels of torch are with CUDA, and some GB each.
WHEEL_PYTHONS ?= python3.11
WHEEL_TORCHES ?= 2.13.0 2.14.1
# The trainer and what rests on it.
TRAINING_TESTS := $(wildcard tests/test_training_*.py) $(addprefix tests/test_,$(addsuffix .py,cli damaged_input data_parallel datasets demo files imaging lga metrics phantom preprocessing rooms scan study study_comparison subjects surface_distances))

.PHONY: install demo test test-operators test-training test-triton lint format bench wheel wheel-cuda test-wheels docs clean

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first: the operators are built against the torch that is installed.
$(STAMP): $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" "setuptools>=77" wheel
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

$(VENV)/.%: pyproject.toml | install
	$(BIN)/python -m pip install --quiet --group $*
	touch $@

# The wheel of the CPU operators, for every Python from 3.10 and every torch from 2.11, and the sources.
wheel: $(VENV)/.release
	rm -rf build/lib* build/wheel
	GEOLOSS_BUILD=cpu $(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" $(REPAIR) --wheel-dir dist build/wheel/*.whl
	$(BIN)/python -m build --no-isolation --sdist

# The same with the CUDA operators, named after nvcc's release as torch's wheels are: 0.1.0+cu130.
wheel-cuda: $(VENV)/.release
	rm -rf build/lib* build/wheel
	GEOLOSS_BUILD=cuda GEOLOSS_LOCAL_VERSION=$(CUDA_VERSION) TORCH_CUDA_ARCH_LIST="$(or $(TORCH_CUDA_ARCH_LIST),7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX)" \
		$(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" $(REPAIR) --wheel-dir dist build/wheel/*.whl

test-wheels: wheel
	$(BIN)/python tools/try_wheel.py dist/geoloss_kernels-*-cp310-abi3-manylinux*.whl --python $(WHEEL_PYTHONS) --torch $(WHEEL_TORCHES)
	$(BIN)/python tools/try_wheel.py dist/geoloss_kernels-*.tar.gz --python $(firstword $(WHEEL_PYTHONS)) --torch $(firstword $(WHEEL_TORCHES))

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --builder html docs build/docs

clean:
	rm -rf $(VENV) build dist *.egg-info geoloss_kernels/*.so
