"""What is known of the kernels in CUDA C++ where there is no GPU: whom they serve, and what they ask for."""

from types import SimpleNamespace

import pytest
import torch

from uniadgen.engine import eight, nvrtc
from uniadgen.engine.streaming import MEMORY, Product


def product(size: int, outs: int, rows: int = 2, eight: bool = False, gated: bool = False) -> Product:
    return Product(size, outs, rows, eight, norm=True, gated=gated, adds=False)


@pytest.mark.parametrize("eight", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("size", [2048, 4096, 5632, 11008])
def test_a_part_of_x_has_room_beside_another_block(size: int, rows: int, eight: bool) -> None:
    """Of Janus-Pro's sizes: in as few parts as there is room for."""
    what = product(size, 4096, rows, eight)
    assert what.fits and what.blocks * what.shared_memory(what.splits) <= MEMORY
    assert what.splits == 1 or what.blocks * what.shared_memory(what.splits - 1) > MEMORY
    assert what.splits <= size // what.line


def test_what_it_cannot_do_is_known() -> None:
    """Inputs in whole pieces of 128 bytes, outputs in whole tiles, and few rows."""
    assert product(64, 16).fits and not product(96, 16).fits
    assert product(128, 16, eight=True).fits and not product(64, 16, eight=True).fits
    assert not product(64, 24).fits
    assert product(64, 32, gated=True).fits and not product(64, 16, gated=True).fits
    assert product(64, 16, rows=32).fits and not product(64, 16, rows=64).fits


def test_numbers_for_the_source_are_whole() -> None:
    assert dict(product(11008, 4096, 8, eight=True).defines) == {
        "SIZE": 11008,
        "OUTS": 4096,
        "ROWS": 8,
        "SPLITS": 2,
        "WARPS": 8,
        "TEAM": 8,
        "EIGHT": 1,
        "NORM": 1,
        "GATED": 0,
        "ADDS": 0,
    }


@pytest.mark.parametrize("rows", [1, 8, 30, 64])
@pytest.mark.parametrize(("outs", "size"), [(12288, 4096), (4096, 11008), (11264, 2048), (64, 128)])
def test_ways_in_eight_bits_have_room(outs: int, size: int, rows: int) -> None:
    """Parts cover all inputs, each has some, tiles have a block, and squads of a team a tile together."""
    ways = eight.best(size, outs, rows, False, 132)
    assert ways and len({way.splits for way in ways}) == len(ways)
    for way in ways:
        assert way.shared_memory <= eight.MEMORY and way.rows in (8, 16, 32, 64) and way.rows >= rows
        assert (way.splits - 1) * way.lines < size // 128 <= way.splits * way.lines
        assert way.blocks * way.splits <= 132 and way.blocks * way.turns >= way.tiles
        assert way.squads % way.team == 0 and way.pieces == way.splits * way.team


def test_what_it_cannot_do_in_eight_bits_has_no_way() -> None:
    """More rows, and inputs or outputs that are not in whole pieces."""
    assert not eight.best(4096, 4096, 65, False, 132)
    assert not eight.best(4096 + 64, 4096, 8, False, 132)
    assert not eight.best(4096, 4096 + 16, 8, False, 132)
    assert dict(eight.best(4096, 22016, 64, True, 132)[0].defines) == {
        "SIZE": 4096,
        "OUTS": 22016,
        "ROWS": 64,
        "SPLITS": 2,
        "SQUADS": 3,
        "TEAM": 1,
        "GATED": 1,
    }


@pytest.mark.parametrize(("rows", "eight_bits", "team"), [(2, False, 8), (2, True, 4), (16, False, 8), (16, True, 4)])
def test_a_team_has_all_its_pieces_under_way(rows: int, eight_bits: bool, team: int) -> None:
    """Warps share a tile only so far that each has as many pieces of it as it can have under way."""
    what = product(2048, 6144, rows, eight_bits)
    assert what.team == team and what.size // what.line // what.splits >= 4 * what.team


def test_a_cpu_is_not_served() -> None:
    assert not nvrtc.serves(torch.device("cpu"))


def test_what_the_compiler_says_is_told() -> None:
    def log(program: int, to: bytes) -> tuple[int]:
        said.append(len(to))
        return (0,)

    said: list[int] = []
    refuses = SimpleNamespace(
        nvrtcCreateProgram=lambda *given: (0, 1),
        nvrtcCompileProgram=lambda *given: (6,),
        nvrtcGetProgramLogSize=lambda program: (0, 12),
        nvrtcGetProgramLog=log,
    )
    with pytest.raises(RuntimeError, match=r"stream\.cu does not compile with -DX=1"):
        nvrtc.code(refuses, "stream.cu", ["-DX=1"])
    assert said == [12]
    with pytest.raises(RuntimeError, match="CUDA: 3, expected success"):
        nvrtc.checked((3, None))
