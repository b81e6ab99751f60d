"""Train compiled in a process of its own: `compiled_run.py PICKLE` with (config, corpus), prints what came as JSON."""

from __future__ import annotations

import json
import pickle
import sys
from functools import partialmethod
from pathlib import Path

from torch import nn
from torch._dynamo.utils import counters

from fionalm.training import train

if __name__ == "__main__":
    # The default backend takes a minute to compile anything; what can go wrong here is the tracing before it.
    nn.Module.compile = partialmethod(nn.Module.compile, backend="aot_eager")  # type: ignore[method-assign]
    config, corpus = pickle.loads(Path(sys.argv[1]).read_bytes())
    result = train(config, corpus=corpus, quiet=True)
    seen = {"frames": counters["frames"]["ok"], "breaks": len(counters["graph_break"])}
    print(json.dumps(seen | {"losses": [loss for _, loss in result.losses], "final_loss": result.final_loss}))
