"""Read untrusted JSON, pickles and names: nothing is executed, and memory is bounded before it is used.

The length and the tokens of a text or a pickle bound the memory that Python needs for it. What could need more than
`MOST_MEMORY` is refused before it is read. The costs below are the worst case of each token, measured with
tracemalloc on CPython 3.11.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
from collections.abc import Callable, Collection
from typing import Any, BinaryIO, ClassVar, NamedTuple, TypeGuard

MOST_MEMORY = 100_000_000
"""The most bytes of memory that reading one header may take."""

_TOKEN = 100  # bytes of memory that each of ``, : [ {`` in JSON can cost
_OPCODE = 75  # bytes of memory that one opcode of a pickle can cost
_FOR_DIRECTORY = MOST_MEMORY // 4
_FOR_PICKLE = MOST_MEMORY - _FOR_DIRECTORY
_MOST_AT_ONCE = _FOR_DIRECTORY * 46 // 556
"""The most bytes of a zip's directory that are read: 46 bytes can cost 556 bytes of memory."""
_MOST_TAIL = 66_000  # bytes after the directory: a record, and a comment of 64 KiB

_MOST_NAME = 1000  # characters of a file name
_MAX_DIMENSIONS = 64  # the limit of torch
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits per element, by the type's code in safetensors."""

_STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip


class TooLargeError(ValueError):
    """Reading the header would take more memory than any header should."""


def parse_json(file: BinaryIO, length: int) -> Any:
    """Return the next `length` bytes of a file, parsed as JSON.

    Raises
    ------
    TooLargeError
        If reading it could take more than `MOST_MEMORY`.
    ValueError, RecursionError
        If it is not valid JSON.
    """
    if 3 * length > MOST_MEMORY:
        raise TooLargeError
    data = file.read(length)
    # Counts the bytes, the decoded text and the strings in it: a character takes 1 byte, or 4 if the text is not ASCII.
    texts = (3 if data.isascii() else 9) * len(data)
    tokens = sum(data.count(mark) for mark in (b",", b":", b"[", b"{"))
    if texts + _TOKEN * tokens > MOST_MEMORY:
        raise TooLargeError
    return json.loads(data)


class BoundedFile:
    """A file that refuses large reads: zipfile reads a whole directory, whatever length it claims.

    Raises
    ------
    TooLargeError
        If a read asks for more than the limit.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, length: int = -1) -> bytes:
        if length > _MOST_AT_ONCE:
            raise TooLargeError
        if length >= 0:
            return self._file.read(length)
        tail = self._file.read(_MOST_TAIL + 1)
        if len(tail) > _MOST_TAIL:
            raise TooLargeError
        return tail


def is_size(value: object) -> TypeGuard[int]:
    """Return whether a value is a valid number of bytes or elements."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_inside(name: object) -> TypeGuard[str]:
    """Return whether a value is the name of a file inside a folder, on every system."""
    if not isinstance(name, str) or len(name) > _MOST_NAME or "\0" in name:
        return False
    parts = re.split(r"[/\\]", name)
    is_drive = re.match("[A-Za-z]:", name) is not None or (os.name == "nt" and ":" in name)
    return not is_drive and not {"", ".."} & set(parts) and parts[-1] != "."


def is_shape(shape: Collection[object]) -> bool:
    """Return whether a value is a valid shape of a tensor."""
    # Checked before anything is multiplied: the product of huge numbers would block all other threads.
    return len(shape) <= _MAX_DIMENSIONS and all(is_size(extent) and extent < 2**63 for extent in shape)


class _Inert:
    """A placeholder for any object that a pickle names. It can be created, called and filled, and does nothing."""

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> _Inert:
        return self

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


class _StorageStub(NamedTuple):
    dtype: str
    key: str


class TensorStub(_Inert):
    """A tensor of a pickle, without its data: `dtype` is the code in safetensors, `storage` the name of its file."""

    __slots__ = ("bytes", "dtype", "shape", "storage")

    def __init__(self, storage: Any = None, offset: Any = 0, shape: Any = (), *rest: Any) -> None:
        code, self.storage = storage if isinstance(storage, _StorageStub) else ("", "")
        self.dtype = code or "UNKNOWN"
        self.shape = tuple(shape) if isinstance(shape, tuple) and is_shape(shape) else ()
        self.bytes = math.prod(self.shape) * BITS.get(code, 0) // 8


def _parameter(data: Any = None, *rest: Any) -> Any:
    return data


def read_pickle(file: BinaryIO, length: int) -> Any:
    """Return the content of a pickle by ``torch.save`` in a file of `length` bytes, with a stub for each tensor.

    Nothing that the pickle names is imported or run.

    Raises
    ------
    TooLargeError
        If reading it could take more memory than a header should.
    Exception
        Of any kind, if the pickle is broken.
    """
    left = (_FOR_PICKLE - 5 * length) // _OPCODE
    return _HeaderUnpickler(file, left).load()


class _HeaderUnpickler(pickle._Unpickler):
    """An unpickler for the names, shapes and types in a pickle by ``torch.save``, with a limit on operations.

    It is the unpickler in Python, not the one in C, for two reasons. A few bytes make the memo of the C version take
    gigabytes, and only the operations of the Python version can be counted.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]]

    def __init__(self, file: BinaryIO, left: int) -> None:
        super().__init__(file)
        self.left = left

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch._utils" and name.startswith("_rebuild_tensor"):
            return TensorStub
        if module == "torch._utils" and name.startswith("_rebuild_parameter"):
            return _parameter
        if module.startswith("torch") and name in _STORAGES:
            return _STORAGES[name]
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        # ("storage", storage type, key, location, number of elements)
        if isinstance(pid, tuple) and len(pid) > 2 and isinstance(pid[1], str) and isinstance(pid[2], (str, int)):
            return _StorageStub(pid[1], str(pid[2]))
        return _Inert()

    def _fill(self, items: list[Any]) -> None:
        """Add keys and values to the object on the stack; only string keys, as hashing a deeply nested key crashes."""
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update((key, value) for key, value in zip(items[::2], items[1::2], strict=False) if type(key) is str)

    def _set_items(self) -> None:
        self._fill(self.pop_mark())

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _make_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._fill(items)

    def _make_set(self) -> None:
        self.append(_Inert())

    def _make_filled_set(self) -> None:
        self.pop_mark()
        self.append(_Inert())

    def _add_items(self) -> None:
        self.pop_mark()

    def _build(self) -> None:
        self.stack.pop()  # drops attributes, such as torch's _metadata

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("a state dict has no such operation")


def _counted(operation: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(unpickler: _HeaderUnpickler) -> None:
        unpickler.left -= 1
        if unpickler.left < 0:
            raise TooLargeError
        operation(unpickler)

    return run


_OPERATIONS: dict[bytes, Callable[[Any], None]] = {
    pickle.SETITEM: _HeaderUnpickler._set_item,
    pickle.SETITEMS: _HeaderUnpickler._set_items,
    pickle.DICT: _HeaderUnpickler._make_dict,
    pickle.EMPTY_SET: _HeaderUnpickler._make_set,
    pickle.FROZENSET: _HeaderUnpickler._make_filled_set,
    pickle.ADDITEMS: _HeaderUnpickler._add_items,
    pickle.BUILD: _HeaderUnpickler._build,
    # It allocates the size that the pickle claims, before it reads any data.
    pickle.BYTEARRAY8: _HeaderUnpickler._refuse,
}
_HeaderUnpickler.dispatch = {
    **{code: _counted(operation) for code, operation in pickle._Unpickler.dispatch.items()},
    **{code[0]: _counted(operation) for code, operation in _OPERATIONS.items()},
}
