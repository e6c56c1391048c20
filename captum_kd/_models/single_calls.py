"""A check of a model's code: whether a forward pass can run a module more than once.

The syntax trees of the methods that lead from the model to the module are read. If each of them names the next module once on
every path, and in no loop, the module runs at most once, whatever the values of tensors and the state of the model are. A loop
over a list of modules may call its variable once. Unknown are modules kept in a variable, modules found by other means than
their name, and what functions do with the whole model. A function that is given the module, such as
``torch.utils.checkpoint.checkpoint``, counts as one call.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from types import FunctionType, MethodType
from typing import Any, Callable, Iterable, Iterator, Optional

from torch import nn

from captum_kd._models.reachable import is_wrapper, model_of

_SEVERAL = 2  # stands for any larger number
_REPEATING = (
    ast.While, ast.AsyncFor, ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
)  # fmt: skip
_KEEPING = (ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.BinOp)  # also [self.block] * 2
_OTHER_WAYS = {
    "_modules", "modules", "named_modules", "children", "named_children", "get_submodule", "__dict__", "__getattr__",
}  # fmt: skip


def runs_once_at_most(forward_func: Callable[..., Any], module: nn.Module) -> bool:
    """Whether the code shows that a pass runs a module at most once; False if it is unknown."""
    model = model_of(forward_func)
    paths = [] if model is None else list(_paths(model, module))
    if len(paths) != 1:
        return False
    while isinstance(forward_func, functools.partial):
        forward_func = forward_func.func
    method = forward_func.__func__.__name__ if isinstance(forward_func, MethodType) else "forward"
    return all(
        _names_once(parent, child, method if parent is model else "forward") for parent, child in paths[0]
    )


def is_container(module: nn.Module) -> bool:
    """Whether a module only runs or holds its children: a wrapper, a sequence or a list."""
    return is_wrapper(module) or type(module).forward in (nn.Sequential.forward, nn.Module.forward)


def _paths(parent: nn.Module, module: nn.Module) -> Iterator[list[tuple[nn.Module, str]]]:
    """Every way from a module to a descendant, as pairs of a parent and the name of its child."""
    if parent is module:
        yield []
        return
    for name, child in parent._modules.items():
        if child is not None:
            yield from ([(parent, name), *rest] for rest in _paths(child, module))


def _names_once(parent: nn.Module, child: str, method: str) -> bool:
    kind = type(parent)
    if is_wrapper(parent):
        return True
    if "forward" in vars(parent) or kind.__call__ is not nn.Module.__call__:
        return False
    # A list of modules has no forward method: the module around it names it, which is the step before.
    if is_container(parent):
        return True
    return _most_reads_in(kind, method, child) == 1


def _most_reads_in(kind: type, method: str, name: str, around: tuple[str, ...] = ()) -> int:
    """How often a method of a class, and the methods that it calls, read an attribute on any path of the code."""
    function = _method(kind, method)
    tree = None if function is None else _tree(function)
    if tree is None or method in around or not tree.args.args or _has_other_ways(tree):
        return _SEVERAL
    owners = tree.args.args[0].arg, "super()"

    def weight(read: ast.AST) -> int:
        if not isinstance(read, ast.Attribute):
            return _SEVERAL if isinstance(read, ast.Constant) and read.value == name else 0
        if read.attr == name:
            return 1
        # Tensors have methods of the same names as modules, such as ``to``.
        is_own = isinstance(read.value, (ast.Name, ast.Call)) and ast.unparse(read.value) in owners
        return _most_reads_in(kind, read.attr, name, (*around, method)) if is_own and _method(kind, read.attr) else 0

    return _most_reads(tree.body, weight)


def _method(kind: type, name: str) -> Optional[FunctionType]:
    # Some descriptors, such as those of TorchScript, raise an error when they are looked up in a class.
    found: Any = inspect.getattr_static(kind, name, None)
    return found if isinstance(found, FunctionType) and found is not getattr(nn.Module, name, None) else None


@functools.lru_cache(maxsize=512)
def _tree(function: FunctionType) -> Optional[ast.FunctionDef]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None


@functools.lru_cache(maxsize=512)
def _has_other_ways(tree: ast.FunctionDef) -> bool:
    """Whether code may reach modules by other means than their names."""
    own, nodes = tree.args.args[0].arg, list(ast.walk(tree))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    # The name in getattr(self, "name") is read as a constant.
    looked_up = [node.args[0] for node in nodes if isinstance(node, ast.Call) and _is_lookup(node)]
    named = [node for node in (*(each.value for each in attributes), *looked_up) if isinstance(node, ast.Name)]
    whole = sum(isinstance(node, ast.Name) and node.id == own for node in nodes)
    return whole > sum(node.id == own for node in named) or any(each.attr in _OTHER_WAYS for each in attributes)


def _is_lookup(call: ast.Call) -> bool:
    is_known = isinstance(call.func, ast.Name) and call.func.id in ("getattr", "hasattr")
    return is_known and len(call.args) > 1 and isinstance(call.args[1], ast.Constant)


def _most_reads(nodes: Iterable[ast.AST], weight: Callable[[ast.AST], int]) -> int:
    """The sum of the weights of expressions, on the path of the code where it is largest."""
    total = 0
    for node in nodes:
        if isinstance(node, (ast.If, ast.IfExp)):
            branches = [each if isinstance(each, list) else [each] for each in (node.body, node.orelse)]
            total += _most_reads([node.test], weight) + max(_most_reads(branch, weight) for branch in branches)
        elif isinstance(node, ast.For):
            inside = _most_reads([node.target, *node.body, *node.orelse], weight)
            variables = {each.id for each in ast.walk(node.target) if isinstance(each, ast.Name)}
            calls = _most_reads(node.body, functools.partial(_is_call_of, variables))
            total += _most_reads([node.iter], weight) * max(1, calls) + _SEVERAL * inside
        else:
            inside = _most_reads(ast.iter_child_nodes(node), weight)
            total += inside * (_SEVERAL if isinstance(node, _REPEATING) else 1) + weight(node)
            if isinstance(node, _KEEPING):
                kept = (each for part in ast.iter_child_nodes(node) for each in _uncalled(part))
                total += _SEVERAL * _most_reads(kept, weight)
    return total


def _uncalled(value: ast.AST) -> Iterator[ast.AST]:
    """The parts of a value that are not taken from the result of a call."""
    if isinstance(value, ast.Attribute):
        yield value
    elif not isinstance(value, ast.Call):
        for each in ast.iter_child_nodes(value):
            yield from _uncalled(each)


def _is_call_of(names: set[str], node: ast.AST) -> int:
    return int(isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names)
