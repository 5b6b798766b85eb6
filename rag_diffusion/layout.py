"""Where every artifact lives, relative to the project's root."""

from __future__ import annotations

CORPUS = "data/corpus"
STAMP_FILE, RECALL_FILE = "stamp.json", "recall.json"  # in vectors and index
ENCODER = "data/encoder"
VECTORS = "data/vectors"
INDEX = "data/index"
KB = "data/kb"  # data sets beside the corpus
KB_CALIBRATION = "data/kb/calibration.json"  # of scores over all data sets, where `kb calibrate` has made one
SNAPSHOTS = "data/snapshots"  # versions of them that DVC tracks
NEIGHBORS = "data/neighbors"
BASELINES = "data/baselines"
MODEL = "data/model"
SAMPLES = "data/samples"
BASE = "data/base"
RULER = "data/ruler"
CHAMPION = "data/champion.json"  # what the promoted run scored
PROMPTS = "data/prompts"
REPORTS = "reports"
RUNS = "data/runs"
SCRATCH = "data/.scratch"
PRETRAINED = "pipelines/pretrain/result"
PRETRAINED_SCORES = "pipelines/pretrain/scores.json"
UPSAMPLER = "data/upsampler"
UPSAMPLER_TRAINED = "pipelines/upsample/result"
CLIPS = "pipelines/clips/corpus"
FRAMES = "data/frames"  # what makes the base draw a clip's next frame
FRAMES_TRAINED = "pipelines/clips/result"
FRAMES_SCORES = "pipelines/clips/scores"
RULER_TRAINED = "pipelines/ruler/result"
EVALUATED = "pipelines/evaluate/result"
EVALUATION = "faithfulness.json"  # in there, and in reports/
