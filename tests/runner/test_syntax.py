"""Sources are spelled alike when they do the same, on every Python."""

from __future__ import annotations

import ast

import pytest

from mmbench.runner.syntax import digest, only_describe, spell


def of(text: str) -> str:
    return digest(ast.parse(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'a'", "x = b'a'"),
        ("x = None", "x = ..."),
        ("x = 1j", "x = 1"),
        ("x = ''", "x = None"),
        ("x = [[1], 2]", "x = [[1, 2]]"),
        ("x = f(a, b)", "x = f(a, b=b)"),
        ("x = f'{a}b'", "x = f'{a}' 'c'"),
        ("x = f'{a!r}'", "x = f'{a}'"),
        ("x = {**a, b: c}", "x = {b: c, **a}"),
        ("x[1:]", "x[:1]"),
        ("def f(*, a, b=1): pass", "def f(*, a=1, b): pass"),
        ("def f(): return", "def f(): yield"),
        ("async def f(): g()", "def f(): g()"),
        ("x: int = 1", "x: float = 1"),
        ("a, b = c", "b, a = c"),
        ("if a: b", "if a: pass\nelse: b"),
        ("match a:\n    case None: b", "match a:\n    case True: b"),
        ("setting(1, 'a', low=1)", "setting(1, 'a', low=2)"),
        ("other(1, 'a')", "other(1, 'b')"),
        ("x = 'é'", "x = 'e\u0301'"),
    ],
)
def test_different_programs_are_spelled_differently(one: str, other: str) -> None:
    assert of(one) != of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(): 'doc'", "def f(): pass"),
        ("class C:\n    x = 1\n    'what x is'", "class C:\n    x = 1"),
        ("def f(): ...", "def f():\n    '''doc'''\n    pass"),
        ("x = 0x10", "x = 16"),
        ("x = 1e3", "x = 1000.0"),
        ("x = 'a' 'b'", 'x = "ab"'),
        ("x = f'a{b}' 'c' 'd'", "x = f'a{b}cd'"),
        ("x = f'{a}' '' f''", "x = f'{a}'"),
        ("x = u'a'", "x = 'a'"),
        ("m.setting(1, 'a', low=1)", "m.setting(1, 'b', low=1)"),
        ("setting(default=1, text='a')", "setting(default=1, text='b')"),
        ("MethodCard('a', 'b', 2000, 'own', needs=n)", "MethodCard('c', 'd', 2001, 'paper', needs=n)"),
        ("A = 1\nB = A\nMethodCard(title=A + B)", "A = 2\nB = A + 1\nMethodCard(title=A + B)"),
    ],
)
def test_alike_programs_are_spelled_alike(one: str, other: str) -> None:
    trees = ast.parse(one), ast.parse(other)
    assert digest(trees[0], only_describe(trees[0])) == digest(trees[1], only_describe(trees[1]))


def test_a_name_that_a_text_shares_with_the_code_counts() -> None:
    assert only_describe(ast.parse("A = 1\nB = 2\nC = A\nMethodCard(title=A + B + C)\nprint(A)")) == {"B", "C"}
    assert only_describe(ast.parse("A = 1\nB = 2\nMethodCard(title=A + B)"), taken=("A",)) == {"B"}
    assert only_describe(ast.parse("A = 1\nB = 2\nprint(B)")) == set()


def test_trees_of_newer_pythons_are_spelled_alike() -> None:
    """They have more fields, which are empty, and cut f-strings differently."""
    text = "def f(a): return f'x{a:>{b}}y'\nclass C: pass\n"
    newer = ast.parse(text)
    for node in ast.walk(newer):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node._fields = (*[name for name in type(node)._fields if name != "type_params"], "type_params", "future")
            node.type_params, node.future = [], None
        if isinstance(node, ast.arg):
            del node.annotation
        if isinstance(node, ast.JoinedStr):
            cut = [
                [ast.Constant(letter) for letter in part.value] if isinstance(part, ast.Constant) else [part]
                for part in node.values
            ]
            node.values = [ast.Constant(""), *(piece for pieces in cut for piece in pieces), ast.Constant("")]
    assert list(spell(newer)) == list(spell(ast.parse(text)))
    assert ast.dump(newer) != ast.dump(ast.parse(text))


def test_a_known_program_has_a_known_spelling() -> None:
    """Any change of it makes all records of all users old."""
    words = (
        "Module( body[ Assign( targets[ Name( id= 'x' ) ] value= Call( func= Name( id= 'f' ) "
        "args[ Constant( value[ 'int:0x10' ] ) ] "
        "keywords[ keyword( arg= 'a' value= Constant( value[ \"str:'\\\\xe9'\" ] ) ) ] ) ) ] )"
    )
    assert " ".join(spell(ast.parse("x = f(16, a='é')"))) == words


def test_a_program_of_many_forms_has_the_same_hash_on_every_python() -> None:
    text = (
        "@d\nasync def f(a, /, *b: int, c=None, **e) -> str:\n    x = a[1:, ::2] if b else {**c, 1: 2}\n"
        "    async with g as h, i: await j\n    lambda y: (yield)\n    del x.y, z[0]\n    global k\n"
        "    return f'{{{x!r:>{w}}é}}' f\"{y=}\" 'z', -1.5, 1e999, 2**70, 2j, b'\\0', ..., "
        "not 1 < 2 <= 3, '\\U0001fae8'\n"
        "class C(B, metaclass=M):\n    x: int\n    y: str = f'{1:}'\n"
        "try:\n    [i for i in j if i if j async for k in l]\nexcept* E as e:\n    raise F from e\nelse: pass\n"
        "match v:\n    case {'a': 1, **r} | [2, *_] if w: (n := 3)\n    case P(q, s=-1 + 2j) | None: continue_ = 1\n"
    )
    assert of(text) == "f8ccf3c758b9a7c2336b860561c9e1e16e88aff2e8778efbff7cb800a1d6edba"


def test_deep_trees_are_spelled() -> None:
    tree = ast.parse("x")
    value: ast.expr = ast.Name("a", ast.Load())
    for _ in range(20_000):
        value = ast.UnaryOp(ast.Not(), value)
    tree.body[0].value = value
    assert len(digest(tree)) == 64
    assert only_describe(tree) == set()
