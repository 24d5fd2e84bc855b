# The commands of this project. `make demo` and `make test` do all the set-up themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DATA ?= ../shared/data
ENCODER ?= ../shared/weights/mobilenet_v2_imagenet.npz

.PHONY: help setup setup-core demo test lint types tests docs bench bench-sam proof-sam proof-label proof-masks proof-nano proof-quality proof-refer proof-pretrain proof-annotate proof-memory proof-seams test-slow proof-qgis proof-review train-nano clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(VENV)/core.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/all.stamp: $(VENV)/core.stamp
	$(PIP) install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

setup-core: $(VENV)/core.stamp  ## environment with the light core only

setup: $(VENV)/all.stamp  ## environment with all extras; the command is .venv/bin/terralabel

demo: $(VENV)/core.stamp  ## label generated scenes; leaves files and a picture in demo/
	$(BIN)/terralabel demo --out demo

test: setup lint types tests  ## environment, lint, types, tests

lint: $(VENV)/all.stamp  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/all.stamp  ## mypy
	$(BIN)/mypy

tests: $(VENV)/all.stamp  ## pytest, the default run, a process a core
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

docs: $(VENV)/all.stamp  ## write the generated reference pages
	$(BIN)/python docs/generate.py

bench: $(VENV)/all.stamp  ## speed, as ratios against named references in one run
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/sam.py

bench-sam: $(VENV)/all.stamp  ## SAM against the official package and released ALPS, a quarter of an hour; goes on where it stopped
	$(BIN)/python benchmarks/sam.py --docs docs/sam.md

proof-sam: $(VENV)/all.stamp  ## label --masks with tiny random SAM checkpoints on every image set (DATA=folder)
	$(BIN)/python benchmarks/proof_sam.py --data $(DATA) --json proof/sam.json

proof-label: $(VENV)/all.stamp  ## mIoU on real sets against k-means baselines (DATA=folder)
	$(BIN)/python benchmarks/proof_label.py --data $(DATA) --json proof/label.json --pictures proof/label

proof-masks: $(VENV)/all.stamp  ## overlap and recall of the tree masks on real instances (DATA=folder)
	$(BIN)/python benchmarks/proof_masks.py --data $(DATA) --json proof/masks.json --pictures proof/masks

proof-nano: $(VENV)/all.stamp  ## masks nano beside tree: prompts, everything, calibration, speed (DATA=folder)
	$(BIN)/python benchmarks/proof_nano.py --data $(DATA) --json proof/nano.json

proof-quality: $(VENV)/all.stamp  ## scores of labels of other origin against their true IoU (DATA=folder)
	$(BIN)/python benchmarks/proof_quality.py --data $(DATA) --json proof/quality.json --pictures proof/quality

proof-refer: $(VENV)/all.stamp  ## refer: what point and boundary refinement are worth, whether relations pick the right things (DATA=folder)
	$(BIN)/python benchmarks/proof_refer.py --data $(DATA) --json proof/refer.json
	$(BIN)/python benchmarks/proof_refer_mosaic.py --data $(DATA) --out proof/refer-mosaic

proof-pretrain: $(VENV)/all.stamp  ## pre-trained against from scratch on 1, 3 and 10 labelled images (DATA=folder); goes on where it stopped
	$(BIN)/python benchmarks/proof_pretrain.py --data $(DATA) --out proof/pretrain

proof-annotate: $(VENV)/all.stamp  ## labels from 30 % of them, coarse labels enhanced, the evaluator (DATA=folder); goes on where it stopped
	$(BIN)/python benchmarks/proof_annotate.py --data $(DATA) --encoder $(ENCODER) --out proof/annotate

proof-review: $(VENV)/all.stamp  ## mIoU against actions of a person, an oracle at the desk of `review` (DATA=folder)
	$(BIN)/python benchmarks/proof_review.py --data $(DATA) --json proof/review.json --picture proof/review.png

train-nano: $(VENV)/all.stamp  ## train the network of masks nano from its ImageNet encoder (DATA=folder, ENCODER=npz); hours
	$(BIN)/python -m terralabel.train.segmenter --data $(DATA) --encoder $(ENCODER) --out build/nano/first
	$(BIN)/python -m terralabel.train.segmenter --data $(DATA) --encoder $(ENCODER) --out build/nano --start build/nano/first/nano.safetensors \
		--steps 4100 --seed 1 --rate 0.001 --thaw 0 --thaw-from 4

proof-seams: $(VENV)/all.stamp  ## tiled against untiled on real images, five tile sizes (DATA=folder)
	$(BIN)/python benchmarks/proof_seams.py --data $(DATA) --json proof/seams.json

proof-memory: $(VENV)/all.stamp  ## peak memory for 15,000 and 30,000 px square rasters (an hour or so)
	$(BIN)/python benchmarks/proof_memory.py

test-slow: $(VENV)/all.stamp  ## the slow suites: kills, full disks, browsers, SAM at full size, many processes
	$(BIN)/python -m pytest -m slow tests

proof-qgis: $(VENV)/all.stamp  ## render a run in a real QGIS (needs Debian's python3-qgis)
	$(BIN)/terralabel demo --out proof/qgis
	QT_QPA_PLATFORM=offscreen /usr/bin/python3 benchmarks/qgis_render.py proof/qgis/qgis.png \
		proof/qgis/export/geotiff/scene_1.tif proof/qgis/export/geopackage/labels.gpkg:masks

clean:  ## remove what make made (the environment too)
	rm -rf $(VENV) demo proof build .pytest_cache .mypy_cache .ruff_cache
