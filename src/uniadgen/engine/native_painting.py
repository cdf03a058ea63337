"""Cells painted step after step on a CPU in one call of step.cpp, whose threads stay awake from step to step."""

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int64, c_void_p
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers.activations import GELUActivation

from uniadgen.config import GenerateConfig
from uniadgen.engine.canvas import Canvas
from uniadgen.engine.native import WIDEST, Dense, Head, Matrix, Native, address, place, pointers, sequences
from uniadgen.engine.slots import Slots
from uniadgen.engine.ticket import Bell


class _Head(ctypes.Structure):
    _fields_: ClassVar = [
        ("first", Matrix),
        ("second", Matrix),
        ("first_bias", c_void_p),
        ("second_bias", c_void_p),
    ]


class _Canvas(ctypes.Structure):
    _fields_: ClassVar = [
        *((name, c_void_p) for name in ("codes", "cell", "end", "known", "start", "owner", "branches")),
        *((name, c_void_p) for name in ("noise", "guidance", "control")),
        *((name, c_int64) for name in ("pictures", "rows", "width", "depth", "cells", "control_width")),
    ]

    @classmethod
    def of(cls, canvas: Canvas, sampled: bool) -> "_Canvas":
        """It looks into the same memory."""
        integers = canvas.codes, canvas.cell, canvas.end, canvas.known, canvas.start, canvas.owner, canvas.branches
        numbers = canvas.noise if sampled else None, canvas.guidance, canvas.control
        assert all(part is None or part.is_contiguous() for part in (*integers, *numbers)), "as step.cpp reads them"
        cells = (0, 0) if canvas.control is None else canvas.control.shape[1:]
        sizes = *canvas.codes.shape[:1], len(canvas.owner), canvas.codes.shape[1], canvas.noise.shape[1], *cells
        return cls(*map(address, (*integers, *numbers)), *sizes)


class _Way(ctypes.Structure):
    _fields_: ClassVar = [
        ("codes", c_void_p),
        ("count", c_int64),
        ("side", c_int64),
        ("top_k", c_int64),
        ("temperature", c_float),
        *((name, c_void_p) for name in ("begin", "first", "paints", "fed", "place")),
    ]


class NativePainter:
    """The `Painter` of layers that are stepped through by compiled functions.

    It stops, too, where a picture has another row of cells or comes to its end.
    """

    unseen, picks, waits = 8, True, True

    def __init__(self, native: Native, codes: Float[Tensor, "Q D"], first: Dense, second: Dense, side: int) -> None:
        self.native, self.codes, self.side, self.linears = native, codes.contiguous(), side, (first, second)
        self.head = _Head(first.matrix, second.matrix, address(first.bias), address(second.bias))

    @classmethod
    def find(cls, native: Native, codes: Float[Tensor, "Q D"], head: Head, side: int) -> "NativePainter | None":
        """For a head that it serves: two linear layers and GELU, as Janus has it."""
        first, activation, second = head.steps
        assert isinstance(first, Dense) and isinstance(second, Dense), "a head of codes"
        exact = isinstance(activation, GELUActivation) and activation.act is F.gelu
        whole = not first.size % (2 * WIDEST) and not second.size % (2 * WIDEST)
        return cls(native, codes, first, second, side) if exact and whole else None

    def padded(self, number: int) -> int:
        """As `Painter`: no more than there are."""
        return number

    def paint(
        self, canvas: Canvas, slots: Sequence[Slots], count: int, steps: int, config: GenerateConfig, bell: Bell
    ) -> int:
        """As `Painter`. Meanwhile other threads may run, and ring the bell."""
        tables = canvas.staggered
        count = count if tables is None else tables.fed.shape[1]
        rows, where = sequences(slots), np.empty((2, len(canvas.owner), count), np.int64)
        place(rows, where)
        size = len(self.codes)
        top_k = config.image_top_k if config.image_top_k < size else 0
        order = () if tables is None else (tables.begin, tables.first, tables.paints, tables.fed, tables.place)
        way = _Way(self.codes.data_ptr(), count, self.side, top_k, config.temperature, *map(address, order))
        structures: tuple[Any, ...] = self.native.decoder, self.head, way, _Canvas.of(canvas, config.temperature > 0)
        return self.native.functions.paint(
            *map(ctypes.byref, structures),
            c_void_p(rows.ctypes.data),
            *pointers(*self.native.angles),
            c_int64(steps),
            ctypes.byref(bell.rung),
            torch.get_num_threads(),
        )
