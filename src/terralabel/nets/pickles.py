"""Reads the structure of a pickle without running it.

A pickle is a program that may call any function of the machine that loads it. Here its instructions are walked with
`pickletools`, which only decodes them; every call it would make stays a `Call`, a name with arguments, never made. What a
checkpoint holds (names, shapes, dtypes) can so be told of a file nobody trusts.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from terralabel.errors import WeightsError

__all__ = ["Call", "Global", "printable", "read_structure"]

#: What a checkpoint of tensors needs; any other name means code of someone's choice.
HARMLESS = {
    "collections OrderedDict",
    "torch Size",
    "torch bfloat16",
    "torch device",
    "torch float16",
    "torch float32",
    "torch int64",
    "torch._tensor _rebuild_from_type_v2",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    "torch.serialization _get_layout",
}


@dataclass(frozen=True)
class Global:
    """A name the pickle would import: "module name"."""

    name: str


@dataclass
class Call:
    """A call the pickle would make."""

    function: Any
    arguments: Any
    items: dict[Any, Any] = field(default_factory=dict)


_MARK = object()


def printable(text: object) -> str:
    """A name from a file as one line that cannot steer a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def read_structure(program: bytes) -> Any:
    """What a pickle would build: dicts, lists, tuples, numbers and text as they are, all else as `Call`.

    Raises `WeightsError` for a name that no checkpoint of tensors needs (naming it), and for a damaged or unusual program.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(program):
            machine.step(opcode.name, argument)
        return machine.stack[-1]
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(
            f"The checkpoint's index cannot be read ({type(error).__name__}: {printable(error)}): the file is damaged."
        ) from error


class _Machine:
    """The stack machine of the pickle protocol, with inert calls."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _PUSHES:
            self.stack.append(argument if _PUSHES[name] is None else _PUSHES[name]())  # type: ignore[misc]
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._import(argument if name == "GLOBAL" else " ".join(str(part) for part in self._pop(2)))
        elif name.startswith("TUPLE") and len(name) == 6:
            self.stack.append(tuple(self._pop(int(name[5]))))
        elif hasattr(self, f"do_{name.lower()}"):
            getattr(self, f"do_{name.lower()}")()
        else:
            raise WeightsError(
                f"The checkpoint uses the pickle instruction {name}, which no plain checkpoint needs; it was not loaded."
            )

    def _import(self, name: str) -> None:
        module, _, attribute = name.partition(" ")
        if name not in HARMLESS and not (
            module in ("torch", "torch.storage") and attribute.endswith(("Storage", "float16", "int64"))
        ):
            raise WeightsError(
                f"The checkpoint would run {printable(module)}.{printable(attribute)} when loaded: it was not loaded. "
                "Ask for the weights as safetensors, or as a plain state_dict."
            )
        self.stack.append(Global(name))

    def _pop(self, count: int) -> list[Any]:
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _to_mark(self) -> list[Any]:
        at = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        taken = self.stack[at + 1 :]
        del self.stack[at:]
        return taken

    def _put(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        held = target.items if isinstance(target, Call) else target
        held.update(zip(pairs[0::2], pairs[1::2], strict=True))

    def do_mark(self) -> None:
        self.stack.append(_MARK)

    def do_tuple(self) -> None:
        self.stack.append(tuple(self._to_mark()))

    def do_list(self) -> None:
        self.stack.append(self._to_mark())

    def do_reduce(self) -> None:
        function, arguments = self._pop(2)
        self.stack.append(Call(function, arguments))

    def do_newobj(self) -> None:
        self.do_reduce()

    def do_binpersid(self) -> None:
        self.stack.append(Call("persistent", self._pop(1)[0]))

    def do_setitem(self) -> None:
        pair = self._pop(2)
        self._put(pair)

    def do_setitems(self) -> None:
        self._put(self._to_mark())

    def do_append(self) -> None:
        item = self._pop(1)[0]
        self.stack[-1].append(item)

    def do_appends(self) -> None:
        items = self._to_mark()
        self.stack[-1].extend(items)

    def do_build(self) -> None:
        self._pop(1)  # attributes of an object (torch keeps versions there); nothing that is looked at

    def do_pop(self) -> None:
        self._pop(1)


#: Instructions that push a value: their own argument (None) or what the function makes.
_PUSHES: dict[str, Callable[[], Any] | None] = {
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "LONG4", "INT", "LONG", "FLOAT", "UNICODE")),
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
