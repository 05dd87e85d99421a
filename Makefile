# make demo / make test: each sets up its own environment in .venv on first use.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Where PyTorch comes from; empty: PyPI, whose build for Linux brings CUDA along (see README).
TORCH_INDEX ?=
PIP    := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check install --quiet

# Processors whose arithmetic the numerical tests are tried with, as OpenBLAS calls them: what this machine can run, without
# the one that it takes by itself, as `make test` does (SkylakeX where there is AVX-512, else Haswell).
KERNELS := Prescott Sandybridge $(if $(shell grep -m1 -o avx512dq /proc/cpuinfo 2>/dev/null),Haswell,Nehalem)
# The tests for that: the corpus, and the units that compare numbers.
NUMERICAL := tests/corpus $(addprefix tests/unit/test_,$(addsuffix .py,bounds_crown bounds_interval decide encodings \
    exact_system lp maps numbers operators query reductions regions_random rounding structured)) \
    -k "not native and not marabou and not cvc5"
# The tests with the lowest versions of all dependencies: those without a long search.
FAST := tests/unit tests/corpus -k "not native and not marabou and not cvc5"

.PHONY: demo test kernels lowest lint env docs gallery release clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found. Name a Python 3.11 with: make PYTHON=/path/to/python"; exit 1; }
	@echo "make: an environment in $(VENV), once (some minutes, mostly the network's)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade "pip>=25.1"
	@echo "make: 1/3 PyTorch"
	@$(PIP) -c constraints.txt torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@echo "make: 2/3 solvers, onnxruntime, numba and this package"
	@$(PIP) -c constraints.txt -e ".[all]" --group test
	@echo "make: 3/3 auto_LiRPA, and a look whether all fits together"
	@$(BIN)/python -m verifier.bounds.lirpa_install
	@$(BIN)/python -m pip check
	@touch $@

demo: $(STAMP)
	@$(BIN)/python benchmarks/bandit.py

test: $(STAMP)
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal

# The numerical tests with the matrix products of other processors.
kernels: $(STAMP)
	@for kernel in $(KERNELS); do \
	    echo "make: tests with OpenBLAS's products for $$kernel"; \
	    OPENBLAS_CORETYPE=$$kernel $(BIN)/python -m pytest -q -n 2 --dist worksteal $(NUMERICAL) || exit 1; \
	done

# The tests with the lowest version of every dependency that pyproject.toml admits (PyTorch stays as it is).
lowest: $(STAMP)
	@echo "make: an environment with the lowest versions in $(VENV)-lowest"
	@$(PYTHON) -m venv $(VENV)-lowest
	@$(VENV)-lowest/bin/python -m pip --disable-pip-version-check install --quiet uv -c constraints.txt torch $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	@grep ^torch constraints.txt >$(VENV)-lowest/torch.txt
	@$(VENV)-lowest/bin/uv pip compile --quiet --resolution lowest-direct pyproject.toml --extra all --group test \
	    --constraint $(VENV)-lowest/torch.txt --no-annotate | grep -v "^torch\|^nvidia\|^cuda\|^triton" >$(VENV)-lowest/lowest.txt
	@$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --no-deps -r $(VENV)-lowest/lowest.txt -e .
	@NUMBA_CACHE_DIR="$(abspath $(VENV)-lowest/numba)" PATH="$(abspath $(VENV)-lowest/bin):$$PATH" \
	    $(VENV)-lowest/bin/python -m pytest -q -n 2 --dist worksteal $(FAST)

lint: $(STAMP)
	@$(PIP) -c constraints.txt --group lint
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# The documentation as a site in out/site: the pages of docs/, the API reference, the tutorials, the gallery.
docs: $(STAMP)
	@$(PIP) --group docs
	@$(BIN)/mkdocs build --quiet --strict --config-file mkdocs.yml
	@echo "make: the site is in out/site"

# The pictures of the gallery and the tutorials' outputs, drawn anew.
gallery: $(STAMP)
	@$(BIN)/python docs/gallery.py

# sdist and wheel, built, and the wheel tried in an empty environment: without extras, then with all of them.
KINDS ?= core all
release: $(STAMP)
	@$(PIP) "build>=1.2"
	@rm -rf out/dist && $(BIN)/python -m build --outdir out/dist . >/dev/null
	@for kind in $(KINDS); do \
	    rm -rf out/try && $(PYTHON) -m venv out/try && wheel=$$(ls $(CURDIR)/out/dist/*.whl) && extra=$$(test $$kind = all && echo "[all]"); \
	    out/try/bin/python -m pip install --quiet -c constraints.txt "$$wheel$$extra" && \
	    (cd out && try/bin/python ../tests/release/try_wheel.py $$kind) || exit 1; \
	done

clean:
	rm -rf $(VENV) $(VENV)-lowest build *.egg-info
