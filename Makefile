# Everything a fresh machine needs: Rust, Python 3 and a C++ compiler.
#   make demo    set up, build, and run the default pipeline
#   make test    set up, build, and check everything CI checks

CARGO ?= cargo
PYTHON ?= python3
PREFIX ?= $(HOME)/.local
export RUSTDOCFLAGS = -D warnings

.PHONY: demo test setup setup-cuda build install lint docs deny unit clean

demo: build
	target/release/bstar pipeline run math.yaml

test: lint build unit docs deny

setup:
	@$(PYTHON) scripts/setup.py

setup-cuda:
	@$(PYTHON) scripts/setup.py --cuda

build: setup
	$(CARGO) build --release

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

unit: build
	scripts/test.sh

docs: setup
	$(CARGO) doc --release --workspace --no-deps --document-private-items

deny:
	scripts/deny.sh

# A relocatable tree: PREFIX/bin/{bstar,bstar-lm} and PREFIX/lib/bstar/*.so.
install: build
	$(PYTHON) scripts/install.py "$(PREFIX)"

clean:
	$(CARGO) clean
