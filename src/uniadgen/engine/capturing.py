"""CUDA graphs: what has been captured once on a GPU is started as a whole."""

import gc
import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)


class Graph:
    """Something captured on a GPU, which finds its inputs where they were then."""

    def __init__(self, run: Callable[[], Any], level: int = logging.WARNING) -> None:
        """`level`: at which it is told where that fails."""
        self.graph = None
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles what is to be compiled, and lets libraries take their memory
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        collects = gc.isenabled()
        gc.disable()  # a graph in some cycle, destroyed while another is captured, would spoil that one
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.out = run()
            self.graph = graph
        except RuntimeError:
            self.run = run  # not where it is not needed: it may hold whoever holds the graph, who would then never go
            log.log(level, "a step could not be captured as a CUDA graph: each is started anew, slowly", exc_info=True)
        finally:
            if collects:
                gc.enable()

    def replay(self) -> Any:
        """Runs it once more; the same tensors come out, with new numbers."""
        if self.graph is None:
            return self.run()
        self.graph.replay()
        return self.out

    def seconds(self) -> float:
        """Of one replay, on the GPU's own clock."""
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        self.replay()
        ended.record()
        ended.synchronize()
        return began.elapsed_time(ended) / 1e3
