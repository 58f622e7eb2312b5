"""Native operations, each with its plain PyTorch twin ``<op>_reference``.

An op is five small files with one name: its schema in ``csrc/library.cpp``, ``csrc/include/<op>_math.h``,
``csrc/cpu/<op>.cpp``, ``csrc/cuda/<op>.cu`` and ``manvatar/ops/<op>.py``. The dispatcher chooses CPU or CUDA by the
tensors. Where the native library was not built, an op says so when it is called; the reference never stands in for it
unasked.
"""

from __future__ import annotations

from manvatar.ops._library import has_cuda
from manvatar.ops.add_outer import add_outer_, add_outer_reference_, blend
from manvatar.ops.composite import Composite, composite, composite_reference
from manvatar.ops.march import Marched, march, march_reference
from manvatar.ops.memory import give_back_freed_memory, keep_freed_memory, on_large_pages, peak_memory_bytes
from manvatar.ops.mlp import embed, mlp, mlp_has_bfloat16, mlp_reference
from manvatar.ops.rasterize import Rasterized, rasterize, rasterize_reference
from manvatar.ops.sample_grid import sample_grid, sample_grid_reference
from manvatar.ops.sample_warped import sample_warped, sample_warped_reference
from manvatar.ops.sparse_adam import adam_scale, sparse_adam_, sparse_adam_reference_

__all__ = [
    "give_back_freed_memory",
    "has_cuda",
    "Composite",
    "Marched",
    "Rasterized",
    "adam_scale",
    "add_outer_",
    "add_outer_reference_",
    "blend",
    "composite",
    "composite_reference",
    "keep_freed_memory",
    "march",
    "march_reference",
    "embed",
    "mlp",
    "mlp_has_bfloat16",
    "mlp_reference",
    "on_large_pages",
    "peak_memory_bytes",
    "rasterize",
    "rasterize_reference",
    "sample_grid",
    "sample_grid_reference",
    "sample_warped",
    "sample_warped_reference",
    "sparse_adam_",
    "sparse_adam_reference_",
]
