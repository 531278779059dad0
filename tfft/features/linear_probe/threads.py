"""Threads over blocks of rows instead of threads in BLAS: :func:`in_order`, :func:`one_blas_thread`.

Implementation notes: each thread computes a whole block, its matrix products and exponentials, with one BLAS thread.
OpenBLAS would divide every single product among its threads, which then wait for one another and compute nothing in
between: where other programs use the cores too, that takes most of the time. Blocks and the order of their sum do not
depend on the number of cores, so neither do the results.
"""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from tfft.io.processors import usable_cores

_Part = TypeVar("_Part")
_Found = TypeVar("_Found")
_THREADED_WORK = 6e8  # additions and products: some 10 ms on one core


def in_order(compute: Callable[[_Part], _Found], parts: Iterable[_Part], work: float) -> Iterator[_Found]:
    """Yield ``compute(part)`` for each part in its order, from one thread for each core if that is worth it.

    Args:
        compute: Function of a part that NumPy spends its time in, so that threads run in parallel.
        parts: Independent parts. At most one more than the cores is computed ahead, so results take little memory.
        work: Additions and products for all parts together.

    Yields:
        The results.

    Example:
        >>> list(in_order(lambda rows: rows.sum(), [np.ones(3), np.ones(5)], work=8))
        [3.0, 5.0]
    """
    cores = usable_cores()
    if work < _THREADED_WORK or cores < 2 or _blas() is None:
        yield from map(compute, parts)
        return
    waiting: collections.deque[Future[_Found]] = collections.deque()
    with one_blas_thread(), ThreadPoolExecutor(cores) as pool:
        for part in parts:
            waiting.append(pool.submit(compute, part))
            if len(waiting) > cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def one_blas_thread() -> contextlib.AbstractContextManager:
    """Return a context in which each product uses one BLAS thread; without threadpoolctl BLAS decides."""
    controller = _blas()
    return contextlib.nullcontext() if controller is None else controller.limit(limits=1, user_api="blas")


@functools.cache
def _blas() -> Any:
    try:
        from threadpoolctl import ThreadpoolController
    except ModuleNotFoundError:  # comes with scikit-learn
        return None
    return ThreadpoolController()
