"""Programs without loops and calls, for formats that have few of JAX's primitives.

What depends on constants alone is computed at once: a slice that starts at the number of a loop's turn becomes a
constant.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}
_CALLS |= {"custom_vjp_call": "call_jaxpr"}
"""Primitives that call a program, and the parameter that holds it."""


def unroll(function: Callable[..., Any], *shapes: jax.ShapeDtypeStruct) -> Callable[..., list[Any]]:
    """The function for arguments of these shapes as a flat sequence of primitives; results are a list.

    Raises:
      ValueError: if a loop has no fixed number of turns.
    """
    closed = jax.make_jaxpr(function)(*shapes)

    def flat(*arguments: Any) -> list[Any]:
        # Primitives of constants are computed, those of arguments are traced.
        with jax.ensure_compile_time_eval():
            return _run(closed, arguments)

    return flat


def _run(closed: core.ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        found = _apply(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: core.JaxprEqn, given: list[Any]) -> Sequence[Any]:
    name = equation.primitive.name
    if name in _CALLS:
        inner = equation.params[_CALLS[name]]
        return _run(inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ()), given)
    if name == "scan":
        return _scan(equation.params, given)
    if name == "while":
        raise ValueError("a loop without a fixed number of turns")
    found = equation.primitive.bind(*given, **equation.params)
    return found if equation.primitive.multiple_results else [found]


def _scan(params: dict[str, Any], given: list[Any]) -> list[Any]:
    """Turns of a loop one after the other; their results are stacked."""
    consts, carried = params["num_consts"], params["num_carry"]
    fixed, carry, rows = given[:consts], given[consts : consts + carried], given[consts + carried :]
    turns = range(params["length"])
    stacked: list[list[Any]] = []
    for turn in reversed(turns) if params["reverse"] else turns:
        found = _run(params["jaxpr"], [*fixed, *carry, *(row[turn] for row in rows)])
        carry = found[:carried]
        stacked.append(found[carried:])
    if params["reverse"]:
        stacked.reverse()
    return [*carry, *(jax.numpy.stack(parts) for parts in zip(*stacked, strict=True))]
