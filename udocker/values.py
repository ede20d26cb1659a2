"""Frozen value types at no cost to start-up.

Importing `dataclasses` takes as long as the rest of `udocker run` before the program starts
(17 of 35 ms on Python 3.11), so at run time this module gives the part of it that the project
uses. Type checkers see the real thing.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import replace as replace
else:

    def dataclass(*, frozen):
        """Make the annotated names of a class its fields; instances cannot change."""
        if not frozen:
            raise TypeError("values are frozen")
        return _with_fields

    def replace(value, **changes):
        """Return a copy of `value` in which `changes` hold."""
        fields = {name: getattr(value, name) for name in value._fields}
        fields.update(changes)
        return type(value)(**fields)

    def _with_fields(cls):
        annotated = getattr(cls, "__annotations__", {})  # before Python 3.10 absent where empty
        names = tuple(n for n, kind in annotated.items() if "ClassVar" not in str(kind))
        defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
        after = getattr(cls, "__post_init__", None)

        known = frozenset(names)

        def __init__(self, *args, **kwargs):
            state = dict(defaults)
            state.update(zip(names, args))
            if len(args) > len(names):
                raise TypeError(f"{cls.__name__} takes {len(names)} values, got {len(args)}")
            if kwargs:
                state.update(kwargs)
                if not known.issuperset(kwargs) or not kwargs.keys().isdisjoint(names[: len(args)]):
                    given = ", ".join(kwargs)
                    raise TypeError(f"{cls.__name__}: unexpected or repeated value in {given}")
            if len(state) < len(names):
                missing = ", ".join(known.difference(state))
                raise TypeError(f"{cls.__name__}: {missing} not given")
            self.__dict__.update(state)
            if after:
                after(self)

        def _values(self):
            return tuple(getattr(self, name) for name in names)

        def __repr__(self):
            pairs = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
            return f"{cls.__name__}({pairs})"

        def __eq__(self, other):
            if type(other) is not type(self):
                return NotImplemented
            return _values(self) == _values(other)

        def __hash__(self):
            return hash((cls.__name__, _values(self)))

        def __setattr__(self, name, value):
            raise AttributeError(f"{cls.__name__} is frozen: cannot set {name!r}")

        own = (__init__, __repr__, __eq__, __hash__, __setattr__)
        for function in own:
            if function.__name__ not in cls.__dict__ or function is __hash__:
                setattr(cls, function.__name__, function)
        cls._fields = names
        return cls
