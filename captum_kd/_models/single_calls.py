"""A check of a model's code: whether a forward pass can run a module more than once.

The syntax trees of the methods that lead from the model to the module are read. If each of them names the next module once on
every path, and in no loop, the module runs at most once, whatever the values of tensors and the state of the model are. A name
that is kept in a variable is not followed; complete passes show how often such modules run.
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
    if tree is None or method in around:
        return _SEVERAL

    def weight(read: ast.Attribute) -> int:
        if read.attr == name:
            return 1
        # Tensors have methods of the same names as modules, such as ``to``.
        is_own = isinstance(read.value, (ast.Name, ast.Call)) and ast.unparse(read.value) in ("self", "super()")
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


def _most_reads(nodes: Iterable[ast.AST], weight: Callable[[ast.Attribute], int]) -> int:
    """The sum of the weights of attributes that are read, on the path of the code where it is largest."""
    total = 0
    for node in nodes:
        if isinstance(node, (ast.If, ast.IfExp)):
            branches = [each if isinstance(each, list) else [each] for each in (node.body, node.orelse)]
            total += _most_reads([node.test], weight) + max(_most_reads(branch, weight) for branch in branches)
        elif isinstance(node, ast.For):
            inside = _most_reads([node.target, *node.body, *node.orelse], weight)
            total += _most_reads([node.iter], weight) + _SEVERAL * inside
        else:
            inside = _most_reads(ast.iter_child_nodes(node), weight)
            total += inside * (_SEVERAL if isinstance(node, _REPEATING) else 1)
            total += weight(node) if isinstance(node, ast.Attribute) else 0
    return total
