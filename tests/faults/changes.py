"""Random changes of valid bytes and of valid JSON, by a seeded generator."""

import copy
import struct

_NUMBERS = (0, 1, -1, 2, 127, 128, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_NUMBERS += (2**53, 2**62, 2**63, 2**64, 10**18, 10**30, -(2**31), -(2**63))
_VALUES = (None, True, False, 0.5, -0.0, 1e308, "", "x", "1", "../x", "a\0b", "\ud800")
_VALUES += ([], {}, [[]], [0], {"a": 1}, "tcn", "transformer", "float32", "F32")


def change_bytes(data, rng):
    """One to three places flipped, cut, doubled, filled or overwritten by a number."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if not data:
            return b""
        at = rng.randrange(len(data))
        length = min(rng.choice((1, 2, 4, 16, 256)), len(data) - at)
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = bytes(rng.randrange(256) for _ in range(length))
        else:
            number = rng.choice(_NUMBERS) % 2**32
            data[at : at + 4] = struct.pack("<I", number)
    return bytes(data)


def change_json(value, rng):
    """A copy with one to three members replaced, removed, added or moved."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        holder, key = _any_place(value, rng)
        if holder is None:
            return _new(value, rng)
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(("x", "", "version", f"{key}.", "../a"))] = copy.deepcopy(
                holder[key]
            )
        elif kind == 1:
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 2:
            holder[key] = [holder[key]]
        else:
            holder[key] = _new(holder[key], rng)
    return value


def _new(old, rng):
    number = rng.choice(_NUMBERS)
    if isinstance(old, int) and rng.random() < 0.7:
        return number
    if isinstance(old, str) and rng.random() < 0.3:
        return old + rng.choice(("", "x", "/", "\0", " " * 50))
    return copy.deepcopy(rng.choice((*_VALUES, number)))


def _any_place(value, rng):
    """A container in a JSON value and a key of it; none where it is empty."""
    found = None, None
    while isinstance(value, dict | list) and value:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        found = value, rng.choice(keys)
        value = value[found[1]]
        if rng.random() < 0.3:
            break
    return found
