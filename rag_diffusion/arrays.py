"""numpy arrays by what they hold, for annotations; a docstring says the shape.

Shapes: N pairs, M candidates, B batch or queries, K neighbors, D width of a vector, H/W/C height, width and channels.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]  # vectors, (N, D), of unit length where they are embeddings
Doubles: TypeAlias = NDArray[np.float64]  # scores and statistics, e.g. (M,) relevance, higher is better
Ints: TypeAlias = NDArray[np.int64]  # rows of a table or index, counts
Mask: TypeAlias = NDArray[np.bool_]  # which rows, (N,)
Strings: TypeAlias = NDArray[np.object_]  # a column of text, (N,)
Pixels: TypeAlias = NDArray[np.uint8]  # images, (N, H, W, C) or (H, W, C), RGB, 0..255
