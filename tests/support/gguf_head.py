"""GGUF files with a true head and no data, for tools that read heads alone.

A tensor's bytes are a hole in the file: the head of a model of 671 billion
parameters takes a few hundred kilobytes of disk.
"""
import struct

# number in the file, values per block, bytes per block
TYPES = {"f32": (0, 1, 4), "f16": (1, 1, 2), "q8_0": (8, 32, 34),
         "q4_k": (12, 256, 144), "q6_k": (14, 256, 210)}


def _text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def _value(v):
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + _text(v)
    return struct.pack("<IIQ%di" % len(v), 9, 5, len(v), *v)  # integers


def write(path, keys, tensors):
    """keys: {name: value}; tensors: [(name, type, dims...)], the contiguous
    dimension first.  Returns the bytes of all tensors."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, value in keys.items():
        head += _text(name) + _value(value)
    at = total = 0
    for name, kind, *dims in tensors:
        number, values, size = TYPES[kind]
        n = 1
        for d in dims:
            n *= d
        head += _text(name) + struct.pack("<I%dQIQ" % len(dims), len(dims),
                                          *dims, number, at)
        total += n // values * size
        at += (n // values * size + 31) // 32 * 32
    head += b"\0" * (-len(head) % 32)
    with open(path, "wb") as f:
        f.write(head)
        f.truncate(len(head) + at)
    return total
