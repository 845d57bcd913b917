"""A tiny writer of .caffemodel files, for the tests that read them."""

import struct

from torch import Tensor


def varint(value: int) -> bytes:
    """Encode a number with seven bits per byte, lowest first."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    return bytes(group | 0x80 for group in groups[:-1]) + bytes(groups[-1:])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(tensor: Tensor, *, old: bool = False, double: bool = False, packed: bool = True) -> bytes:
    """Return a BlobProto, with a shape message or the four old dimensions. Values are packed, single, or doubles."""
    values = tensor.flatten().tolist()
    if old:
        sizes = [1] * (4 - tensor.ndim) + list(tensor.shape)
        shape = b"".join(field(number, size) for number, size in enumerate(sizes, 1))
    else:
        shape = field(7, field(1, b"".join(map(varint, tensor.shape))))
    if double:
        return shape + field(8, struct.pack(f"<{len(values)}d", *values))
    if packed:
        return shape + field(5, struct.pack(f"<{len(values)}f", *values))
    return shape + b"".join(varint(5 << 3 | 5) + struct.pack("<f", value) for value in values)


def caffemodel(layers: dict[str, list[Tensor]], *, v1: bool = False) -> bytes:
    """Return a NetParameter with a name, one layer without weights, and the layers."""
    name_field, blobs_field, layer_field = (4, 6, 2) if v1 else (1, 7, 100)
    content = field(1, b"net") + field(layer_field, field(name_field, b"relu1"))
    for name, blobs in layers.items():
        body = field(name_field, name.encode()) + (field(5, 14) if v1 else field(2, b"Convolution"))
        body += b"".join(field(blobs_field, blob(item, old=v1)) for item in blobs)
        content += field(layer_field, body)
    return content
