# The same targets for people and for CI. `make run` and `make test` set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard csrc/*) CMakeLists.txt
# Distillation's tests need more: `make test EXTRAS=dev,distill`. PINS are versions to prefer: PINS=torch==2.13.0
EXTRAS := dev
PINS :=
comma := ,
READY := $(VENV)/.ready-$(subst $(comma),-,$(EXTRAS))

.PHONY: run test torture lint setup build bench bench-peers bench-server bench-gateway clean sanitize

run: setup
	$(BIN)/farthing pull smollm2-135m-instruct
	$(BIN)/farthing waterfall --html waterfall.html --json-out waterfall.json

# Two at a time, a file as a whole: what a module's fixtures start, servers above all, is started once.
test: setup
	$(BIN)/farthing pull smollm2-135m-instruct
	$(BIN)/python -m pytest -m "not torture" -n 2 --dist loadfile

torture: setup
	$(BIN)/farthing pull smollm2-135m-instruct
	$(BIN)/python -m pytest -m torture

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/farthing bench

# The first time it also builds and installs the peers, into the cache folder. ARGS="--peers llama.cpp --rounds 1"
bench-peers: setup
	$(BIN)/farthing pull smollm2-135m-instruct
	$(BIN)/python -m benchmarks.peers $(ARGS)

# Sixteen clients at once, beside llama.cpp's server (built the first time). ARGS="--rounds 1"
bench-server: setup
	$(BIN)/farthing pull smollm2-135m-instruct
	$(BIN)/python -m benchmarks.server $(ARGS)

# Latency that farthing adds, and the memory of 1,000 open streams; nothing else should run meanwhile.
bench-gateway: setup
	$(BIN)/python -m benchmarks.gateway $(ARGS)
	$(BIN)/python -m benchmarks.idle_streams

setup: $(READY)

$(VENV)/.tools: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "scikit-build-core>=1.1" "nanobind>=3.1" "cmake>=3.25" "ninja>=1.11"
	touch $@

$(READY): $(VENV)/.tools $(NATIVE)
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[$(EXTRAS)]" $(PINS)
	touch $@

# Python itself leaks by design at exit and is not built with the sanitizers: its library is preloaded, leaks are not
# checked, and the embedded model is left out (minutes a prompt).
SANITIZED := build/sanitize
sanitize: setup
	$(BIN)/cmake -S . -B $(SANITIZED) -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DFARTHING_SANITIZE=ON \
	  -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja)
	$(BIN)/cmake --build $(SANITIZED)
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  $(BIN)/python scripts/with_native.py $(SANITIZED)/_native*.so pytest tests/kernels tests/laws/test_fast_equals_slow.py \
	  tests/laws/test_same_answer_native.py tests/models/test_logits.py -m "not torture" -k "not real_model and not embedded_model"

clean:
	rm -rf build $(VENV)
