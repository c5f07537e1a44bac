"""Which form of message content a chat template expects, read from its syntax tree.

A template that goes through the content of a message with a `for` loop expects a list of parts; others expect a string.
"""

from __future__ import annotations

from jinja2 import nodes

_LIST_FILTERS = {"list", "map", "reject", "rejectattr", "select", "selectattr"}  # a list stays a list through these


def find_content_format(tree: nodes.Template) -> str:
    """ "openai" if the template iterates over message content, else "string"."""
    names = _content_names(tree)
    return "openai" if any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For)) else "string"


def _is_content(node: nodes.Node | None, names: set[str]) -> bool:
    match node:
        case nodes.Getattr(attr="content") | nodes.Getitem(arg=nodes.Const(value="content")):
            return True
        case nodes.Name(name=name):
            return name in names
        case nodes.Filter(node=inner, name=filter_name) if filter_name in _LIST_FILTERS:
            return _is_content(inner, names)
        case nodes.CondExpr(expr1=first, expr2=second):
            return _is_content(first, names) or _is_content(second, names)
        case nodes.Or(left=first, right=second) | nodes.And(left=first, right=second):
            return _is_content(first, names) or _is_content(second, names)
    return False


def _content_names(tree: nodes.Template) -> set[str]:
    """Variables that are set to message content, and parameters of macros that are called with it."""
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    names: set[str] = set()
    while True:
        found: set[str] = set()
        for assignment in tree.find_all(nodes.Assign):
            if isinstance(assignment.target, nodes.Name) and _is_content(assignment.node, names):
                found.add(assignment.target.name)
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name in macros:
                parameters = macros[call.node.name].args
                found |= {p.name for p, value in zip(parameters, call.args, strict=False) if _is_content(value, names)}
                found |= {pair.key for pair in call.kwargs if _is_content(pair.value, names)}
        if found <= names:
            return names
        names |= found
