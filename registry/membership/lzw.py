"""LZW as GIF has it: codes of 9 to 12 bits, packed from the low end, with a clear and an end code.

    clear | code code code … | clear | code code … | end     width grows 9 -> 12 as the table fills

The encoder gives the very bytes that the real agents give, so that recorded packets encode back to
themselves. It starts the table anew one code before the table would be full (at 4095), which saves
both sides the question what a full table does; the decoder knows the answer nevertheless, because
others may ask it.

Both loops are written for speed (one dict look-up per byte, one append per code): every packet
passes through them.

Source: gossip sheet, section 2.4.
"""

from __future__ import annotations

from registry.errors import RemoteProtocolError

_CLEAR = 256
_END = 257
_FIRST_FREE = 258
_WIDTH_MIN = 9
_WIDTH_MAX = 12
_TABLE_FULL = (1 << _WIDTH_MAX) - 1

_LITERALS = [bytes([value]) for value in range(256)] + [b"", b""]


def encode(data: bytes, *, leading_clear: bool = True) -> bytes:
    """`data` as a code stream. Peers take it without the leading clear code, but do not send it."""
    out = bytearray()
    table: dict[int, int] = {}  # (code << 8 | next byte) -> code of both together
    width, top, overflow = _WIDTH_MIN, _END, 1 << _WIDTH_MIN
    bits, bit_count = 0, 0
    if leading_clear or not data:
        bits, bit_count = _CLEAR, width
    rest = iter(data)
    code = next(rest, -1)
    for byte in rest:
        key = code << 8 | byte
        longer = table.get(key)
        if longer is not None:
            code = longer
            continue
        bits |= code << bit_count
        bit_count += width
        code = byte
        top += 1
        if top == overflow:
            width += 1
            overflow <<= 1
        if top == _TABLE_FULL:
            bits |= _CLEAR << bit_count
            bit_count += width
            width, top, overflow = _WIDTH_MIN, _END, 1 << _WIDTH_MIN
            table.clear()
        else:
            table[key] = top
        if bit_count >= 64:
            out += (bits & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little")
            bits >>= 64
            bit_count -= 64
    if code >= 0:
        bits |= code << bit_count
        bit_count += width
        top += 1
        if top == overflow:
            width += 1
        if top == _TABLE_FULL:
            bits |= _CLEAR << bit_count
            bit_count += width
            width = _WIDTH_MIN
    bits |= _END << bit_count
    bit_count += width
    return bytes(out) + bits.to_bytes((bit_count + 7) // 8, "little")


def decode(data: bytes, bytes_max: int) -> bytes:
    """The inverse. Raises `RemoteProtocolError` on a bad stream, or one longer than `bytes_max`."""
    out = bytearray()
    table = list(_LITERALS)  # grows by one entry per code; index is the code
    width, top, overflow = _WIDTH_MIN, _END, 1 << _WIDTH_MIN
    previous = b""
    bits, bit_count = 0, 0
    for byte in data:
        bits |= byte << bit_count
        bit_count += 8
        if bit_count < width:
            continue
        code = bits & ((1 << width) - 1)
        bits >>= width
        bit_count -= width
        if code == _END:
            return bytes(out)
        if code == _CLEAR:
            del table[_FIRST_FREE:]
            width, top, overflow = _WIDTH_MIN, _END, 1 << _WIDTH_MIN
            previous = b""
            continue
        if code < len(table):
            entry = table[code]
        elif code == top and previous:
            entry = previous + previous[:1]
        else:
            raise RemoteProtocolError(f"compressed data is damaged: unknown code {code}")
        if previous:
            table.append(previous + entry[:1])
        out += entry
        if len(out) > bytes_max:
            raise RemoteProtocolError(f"compressed data is longer than {bytes_max} bytes")
        previous = entry
        top += 1
        if top >= overflow:
            if width == _WIDTH_MAX:
                # The table stays as it is until a clear code comes.
                previous = b""
                top -= 1
            else:
                width += 1
                overflow <<= 1
    raise RemoteProtocolError("compressed data is cut off")
