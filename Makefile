# Everything a fresh machine needs: Rust, Python 3 and a C++ compiler.
#   make demo    set up, build, and run the default pipeline
#   make test    set up, build, and check everything CI checks

CARGO ?= cargo
PYTHON ?= python3
PREFIX ?= $(HOME)/.local
export RUSTDOCFLAGS = -D warnings

.PHONY: demo test setup setup-cuda setup-s3 build install lint docs deny unit trials clean

demo: build
	target/release/bstar pipeline run math.yaml

test: lint unit docs deny

setup:
	@$(PYTHON) scripts/setup.py

setup-cuda:
	@$(PYTHON) scripts/setup.py --cuda

# The S3 servers that tests of remote stores talk to; `make test` does without those it cannot get.
setup-s3:
	@$(PYTHON) scripts/s3.py --s3s-fs

build: setup
	$(CARGO) build --release

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --features bstar/download,bstar-lm/download -- -D warnings

unit: setup
	@$(PYTHON) scripts/s3.py --s3s-fs --if-possible
	scripts/test.sh

# 1,000 kills and races for 300 steps, on disk and on S3 (about an hour), and 1,000 sandboxes.
trials: build
	@$(PYTHON) scripts/s3.py --s3s-fs
	BSTAR_TRIALS=full $(CARGO) nextest run --release --profile trials --test it trials:: race:: --no-capture
	BSTAR_TRIALS=full $(CARGO) nextest run --release --profile trials -p bstar-stages --lib nothing_is_left_after --no-capture

docs: setup
	$(CARGO) doc --release --workspace --no-deps --document-private-items

deny:
	scripts/deny.sh

# A relocatable tree: PREFIX/bin/{bstar,bstar-lm} and PREFIX/lib/bstar/*.so.
install: build
	$(PYTHON) scripts/install.py "$(PREFIX)"

clean:
	$(CARGO) clean
