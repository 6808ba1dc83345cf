"""`roster template` against Jinja itself, where python3-jinja2 is installed.

Operators, filters, tests, methods and slices over every kind of value, and
templates for statements and white space.  What Jinja renders must come out
byte for byte; what it refuses must be refused.
"""
import datetime
import itertools
import json
import os
import subprocess
import tempfile
import unittest

try:
    import jinja2
    import jinja2.ext
except ImportError:
    jinja2 = None

BUILD = os.environ.get("ROSTER_BUILD", "build")
NOW = datetime.datetime(2026, 3, 5, 14, 7, 9)

VARIABLES = {
    "i": 7, "j": -3, "z": 0, "big": 9007199254740993, "f": 2.5, "g": -0.1,
    "e": 1e22, "t": True, "n": None, "s": "Hello, World", "sp": "  a b\tc\n d  ",
    "u": "Grüße ÉÇ ß ﬁ 漢字 😀", "q": "it's \"q\" \\ \n\x07\u00a0\u200b",
    "empty": "", "num": "42", "numf": " 3.25 ", "l": [3, 1, 2], "le": [],
    "m": [1, "a", None, 2.0, True, [1], {"k": "v"}], "ls": ["b", "A", "c", "a"],
    "d": {"b": 1, "A": {"x": [1, 2]}, "c": None, "items": 5}, "de": {},
    "users": [{"name": "Bo", "age": 3, "r": {"z": 1}},
              {"name": "al", "age": 5}, {"name": "Cy", "age": 3}],
    "html": "<a href='x'>&\"</a>", "tags": ["<x>", "y"],
}

NAMES = ["i", "j", "z", "big", "f", "g", "t", "n", "s", "u", "empty", "num",
         "l", "le", "m", "ls", "d", "de", "missing", "users", "(1, 'a')", "(5,)",
         "range(4)"]
BINARY = ["+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", ">=", "in",
          "not in", "and", "or", "~"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float",
         "boolean", "mapping", "iterable", "sequence", "callable", "true",
         "false", "odd", "even", "lower", "upper", "divisibleby(3)", "eq(7)",
         "in [7, 's']", "sameas none", "not none", "escaped"]
FILTERS = ["string", "length", "list", "first", "last", "join", "join('-')",
           "upper", "lower", "title", "capitalize", "trim", "int", "float",
           "abs", "round", "round(1)", "default('x')", "d('x', true)", "tojson",
           "tojson(indent=2)", "sort", "unique|list", "reverse|list", "items|list",
           "dictsort", "sum", "min", "max", "wordcount", "escape", "safe", "count",
           "batch(2)|list", "slice(2)|list", "map('string')|join(',')",
           "select|list", "reject|list", "replace('a', 'b')", "indent",
           "center(9)", "truncate(5)", "select('defined')|list",
           "reject('none')|list", "tojson(sort_keys=true)",
           "tojson(ensure_ascii=true)", "tojson(separators=(',', ':'))"]

EXPRESSIONS = r"""
1.0
100.0
1e16
1e15
123456789.123
1e-5
0.0001
-0.0
1/3
2**10
2**-1
2**0.5
-2**2
2**3**2
-7 // 2
-7 % 3
7.5 // 2
-7.5 % 2
7 // -2.0
true + true
1_000
0x1F + 0b11 + 0o17
1 if z
1 if z else 2
'a' 'b' "c"
'\x41\u00e9\n\t\\\'\"\q'|tojson
s[0] + s[-1]
s[1:4]
s[::-1]
s[-5:]
s[:-5]
s[100:]
s[::2]
u[2:5]
u[-2:]
u|length
l[::-1]
l[1:]
l[-1]
l[5]
l[5] is defined
range(10)[2:8:3]|list
range(10)[::-3]|list
range(5, 0, -2)|list
range(3)
range(1, 9, 2)
(1, 2)[0]
m
d
q
[q, u, f, 1e20, none, true]
{'a': 1, 2: 'b', none: [], (1, 2): 3}
{1: 'a', true: 'b', 1.0: 'c'}
[1, 2] + [3]
(1,) + (2,)
'ab' * 3
2 * [1, 2]
1 < 2 < 3
1 < 3 < 2
3 > 2 >= 2 != 1
not true
not (1 == 1.0)
1 == true
'a' < 'B'
[1, 2] < [1, 3]
'World' in s
'x' not in s
none in m
'b' in d
2 in range(3)
s.upper()
s.lower()
u.upper()
u.lower()
u.title()
u.capitalize()
u.swapcase()
'ΑΣ ΑΣ.'.lower()
'they\'re bill\'s'.title()
'they\'re (bill) x-y'|title
sp.strip()
sp.lstrip()
sp.rstrip()
s.strip('Hd')
u.strip('Gß 😀r')
sp.split()
sp.split(None, 1)
sp.rsplit(None, 1)
sp.split(' ')
s.split(',')
s.split('l', 1)
s.rsplit('l', 1)
s.split('')
'a,b,,c'.split(',')
'a,b,,c'.rsplit(',', 2)
'a\nb\r\nc\n'.splitlines()
'a\nb\r\nc\n'.splitlines(true)
s.partition('o')
s.rpartition('o')
s.partition('zz')
s.rpartition('zz')
s.replace('l', 'L')
s.replace('l', 'L', 1)
s.replace('', '-')
'abc'.replace('', '-', 2)
s.startswith('Hell')
s.startswith(('x', 'He'))
s.startswith('World', 7)
s.endswith('ld')
s.endswith(('ld', 'x'))
s.find('o')
s.find('o', 5)
s.rfind('o')
s.find('zz')
u.find('漢')
s.index('W')
s.index('zz')
s.count('l')
s.count('')
s.count('o', 5, 9)
'-'.join(ls)
'-'.join(l)
'-'.join('abc')
'{} {}'.format(1, 'a')
'{0} {1} {0}'.format(1, 'a')
'{a:>5}|{b:<5}|{c:^5}'.format(a=1, b='x', c=2.5)
'{:05d} {:.2f} {:,} {:x} {:e} {:%}'.format(42, 3.14159, 1234567, 255, 12345.678, 0.25)
'{!r} {{}}'.format('x')
'{0[k]} {0.real}'.format(i)
'%s and %d and %.2f' % ('a', 5, 2.5)
'%5s|%-5s|%05d|%+d|%x|%e|%g|%%' % ('a', 'b', 42, 7, 255, 12345.678, 0.0001)
'%(a)s %(b)03d' % {'a': 1, 'b': 2}
'%s' % [1, 2]
'%s %s' % 'a'
'%s' % ('a', 'b')
'%r' % u
'%d' % 3.7
'%c%c' % ('a', 98)
'%s, %s'|format('a', 'b')
s.removeprefix('He')
s.removesuffix('ld')
s.zfill(15)
'-5'.zfill(4)
s.center(20, '*')
s.center(21, '*')
s.ljust(15) + '|'
s.rjust(15, '.')
'abc'.isalpha()
'a1'.isalnum()
'12'.isdigit()
'½'.isnumeric()
'²'.isdigit()
' \n'.isspace()
'aB'.isupper()
'ab1'.islower()
'ß'.isascii()
d.items()
d['items']
d.keys()
d.values()
d.get('b')
d.get('zz')
d.get('zz', 5)
d.A.x[1]
d['A']['x']
d.missing
d.missing is defined
d.missing.deep
missing.x
missing
missing == missing2
missing == none
n.x
n.x.y
n['x'] is defined
s.nope
s.nope.x
i.x is defined
d|items|list
d|dictsort
d|dictsort(by='value')
d|dictsort(reverse=true)
ls|sort
ls|sort(reverse=true)
ls|sort(case_sensitive=true)
users|sort(attribute='age')|map(attribute='name')|list
users|map(attribute='name')|map('upper')|join(' ')
users|map(attribute='r.z', default=0)|list
users|map(attribute='r')|list
users|selectattr('age', 'eq', 3)|map(attribute='name')|list
users|selectattr('r')|list|length
users|selectattr('r', 'defined')|list|length
users|rejectattr('age', 'gt', 3)|map(attribute='name')|list
users|groupby('age')
users|sum('age')
users|sum(attribute='age', start=10)
users|map('length')|list
users|join(',', attribute='name')
users|min(attribute='age')
users|max(attribute='name')
l|map('default', 1)|list
l|select('odd')|list
l|select('gt', 1)|list
l|reject('odd')|list
l|select('divisibleby', 3)|list
l|sum
l|min
l|max
le|max
le|first
le|last
(le|first) is defined
ls|unique|list
[1, 1.0, true, 2]|unique|list
ls|first
s|first
s|last
d|first
d|list
s|list
s|reverse
l|reverse|list
l|batch(2)|list
l|batch(2, 0)|list
range(7)|slice(3)|list
range(7)|slice(3, 'x')|list
'a\nb\n\nc'|indent
'a\nb\n\nc'|indent(2, true)
'a\nb\n\nc'|indent(2, blank=true)
'a\nb\n'|indent('> ')
'4.7'|int
'x'|int(5)
'0x1f'|int(base=16)
'1f'|int(base=16)
'0b11'|int(base=0)
'1_000'|int
' 12 '|int
'1e3'|int
'1e3'|float
'inf'|float
'nan'|float
none|int
none|float
'abc'|float
true|int
2.5|round
3.5|round
-2.5|round
2.675|round(2)
1234.5|round(-2)
1234|round(-2)
5|round
42.55|round(1, 'floor')
42.55|round(1, 'ceil')
2.1|round(0, 'ceil')
f|int
g|abs
j|abs
u|tojson
q|tojson
d|tojson
d|tojson(indent=2)
m|tojson(indent='\t')
d|tojson(separators=(',', ':'))
d|tojson(sort_keys=true)
u|tojson(ensure_ascii=true)
[]|tojson(indent=2)
{}|tojson(indent=2)
[[], {}, [1]]|tojson(indent=1)
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
[1.0, 1e100, 0.1]|tojson
missing|tojson
range(3)|tojson
(1, 2)|tojson
html|e
html|safe
html|e|e
'<'|safe + '<'
'<' + '<'|safe
'<' ~ '<'|safe
('<'|safe).upper() + '<'
html|escape|length
'a b c'|wordcount
'x'|default('y')
missing|default('y')
''|default('y', true)
missing|default
'Hello World foo bar'|truncate(9)
'Hello World foo bar'|truncate(9, true)
'Hello World foo bar'|truncate(9, false, '…', 0)
1 is odd
2 is even
3 is divisibleby 3
'a' is in 'abc'
5 is ge 5
5 is lessthan 3
i is not string
l is sequence and d is mapping
missing is callable
range is callable
dict(a=1, b=2)
dict([('a', 1), ('b', 2)])
dict({'x': 1}, y=2)
namespace(a=1).a
namespace(a=1)
joiner(', ')
[1, 2, 3].index(2)
[1, 2, 1].count(1)
(1, 2, 1).count(1)
l.index(9)
1, 2
(1, 2) == (1, 2)
[1, 2] == (1, 2)
{'a': 1} == {'a': 1.0}
1 + 'a'
'a' + 1
'a' - 'b'
none + 1
[1] + (1,)
-'a'
1 / 0
1 % 0
1.0 // 0
l.x
l['x'] is defined
l[1.0] is defined
'abc'[1.0] is defined
'abc'['x'] is defined
d[[1]] is defined
i()
missing()
s.nope()
none.x()
unknown_function(1)
2.0.is_integer()
l|attr('x') is defined
s|attr('upper') is defined
strftime_now('%d %b %Y %H:%M:%S %j %A %B %y %-d %p %I %%')
strftime_now('%Y-%m-%d')
[1,2,3,]
{'a': 1,}
(1,)
()
'a' if 1 if 0 else 'b'
'x' if missing else 'y'
(l|select('odd')) is iterable
'yes' if l|select('gt', 100) else 'no'
(l|map('string'))|length
(l|map('string'))[0] is defined
'%s' % missing
missing + 1
1 + missing
missing ~ 1
missing in [1]
1 in missing
none in 'abc'
1 in none
1 in 5
'a' in ['a', 'b']
missing < 1
missing|length
missing|list
missing|join
missing|upper
missing|int
missing|abs
none|length
5|length
5|list
5|first
s is string and s|length > 3
s.split(' ')[0].strip(',')
s.split(',')|map('trim')|list
s.split(',')|last|trim
1 and 2 or 3
0 or '' or none
0 and missing.x
1 or missing.x
i.bit_length is defined
d.A.x|join('/')
d|length
d.copy()
l.copy()
big + 1
9223372036854775807
-9223372036854775807 - 1
e
[e, 1e21, 123456789012345680.0]
1e400
3.0 * 2
10 / 5
'ab' < 'abc'
u == u.lower()
'ﬀ'.title()
'ŉ'.upper()
'İ'.lower()|length
'ǆ'.capitalize()
""".strip().split("\n")

TEMPLATES = [
    "a\n", "a\n\n", "\na", "", "a\r\nb\r\n", "{{ s }}\n", "{{ s }}\n\n",
    "  {% if t %}\n  x\n  {% endif %}\n  y",
    "  {%- if t -%}\n  x\n  {%- endif -%}\n  y",
    "  {%+ if t +%}\n  x\n  {%+ endif +%}\n  y",
    "a {# c #}\n b\n  {#- c -#}  \n d {#+ e +#}\nf",
    "x {{- 1 -}} y\n {{ 2 }} \n{{- 3 }}\n",
    "{% raw %}{{ x }}{% if %}{% endraw %}\nz",
    "  {% raw %}\n  {{ x }}\n  {% endraw %}\n z",
    "  {%- raw -%}\n  {{ x }}\n  {%- endraw -%}\n z",
    "{% for x in l %}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for x in le %}a{% else %}none{% endfor %}",
    "{% for x in missing %}a{% else %}none{% endfor %}",
    "{% for x in n %}a{% endfor %}", "{% for x in 5 %}a{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }};{% endfor %}",
    "{% for c in u %}[{{ c }}]{% endfor %}",
    "{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
    "{% for a, b in [1] %}{{ a }}{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}:{{ x }}/{{ loop.length }} {% endfor %}",
    "{% for x in l if x > 9 %}{{ x }}{% else %}no{% endfor %}",
    "{% for x in l %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}"
    "{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem }}-{{ loop.nextitem }} {% endfor %}",
    "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% for y in ls %}{{ loop.index }}{% if y == 'A' %}{% break %}"
    "{% endif %}{% endfor %}{{ loop.index }};{% endfor %}",
    "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}({{ loop(x) }})"
    "{% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}",
    "{% for x in l %}{% set y = x %}{% endfor %}{{ y is defined }}",
    "{% set y = 0 %}{% for x in l %}{% set y = y + x %}{{ y }}{% endfor %}{{ y }}",
    "{% set ns = namespace(y=0) %}{% for x in l %}{% set ns.y = ns.y + x %}{% endfor %}{{ ns.y }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b is defined }}{{ ns['a'] }}",
    "{% set d.x = 1 %}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a = 1, 2 %}{{ a }}", "{% set x %}  hi {{ i }}\n{% endset %}[{{ x }}]",
    "{% set x | upper | trim %}  hi {{ i }}\n{% endset %}[{{ x }}]",
    "{% if z %}a{% elif n %}b{% elif i %}c{% else %}d{% endif %}",
    "{% if z %}a{% elif n %}b{% else %}d{% endif %}",
    "{% if missing %}a{% else %}b{% endif %}",
    "{% if true %}{% set v = 1 %}{% endif %}{{ v }}",
    "{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=1, a=2) }}",
    "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m() }}{{ m(1, 2) }}",
    "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m(x=1) }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}",
    "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}x{{ i }}{% endcall %}",
    "{% macro m() %}<{{ caller(1, 2) }}>{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(5) }}",
    "{% macro m(x) %}{% set y = x %}{{ y }}{% endmacro %}{% set y = 9 %}{{ m(1) }}{{ y }}",
    "{% set y = 1 %}{% macro m() %}{{ y }}{% endmacro %}{% set y = 2 %}{{ m() }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{% macro m() %}a{% endmacro %}{{ m() + 'b' }}{{ m()|upper }}{{ m.name }}",
    "{% filter upper %}abc {{ s }}{% endfilter %}",
    "{% filter indent(2)|trim %}a\nb\n{% endfilter %}",
    "{% with a = 1, b = i %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "{% with %}{% set q = 5 %}{% endwith %}{{ q }}",
    "{% with a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{% endwith %}",
    "{% print 1, 's' %}", "{{ raise_exception('no ' ~ i) }}",
    "{% set j = joiner('; ') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}",
    "{% generation %}x{% set gg = 1 %}{% endgeneration %}{{ gg is defined }}",
    "{% set x = [] %}{% for y in l %}{% set _ = x.append(y * 2) %}{% endfor %}{{ x }}",
    "{% set x = {} %}{% set _ = x.update({'a': 1}) %}{% set _ = x.update(b=2) %}{{ x }}{{ x.pop('a') }}{{ x }}",
    "{% set x = [1, 2, 3] %}{{ x.pop() }}{{ x.pop(0) }}{{ x }}{{ x.insert(0, 9) }}{{ x.extend([4]) }}{{ x }}{{ x.reverse() }}{{ x }}{{ x.remove(9) }}{{ x }}",
    "{% set x = {} %}{{ x.setdefault('a', 1) }}{{ x.setdefault('a', 2) }}{{ x }}",
    "{{ '%}' }}{{ '}}' }}{{ {'a': {'b': 1}} }}", "{{ {'a': 1}['a'] }}", "{% if {'a': 1} %}y{% endif %}",
    "{{ 'a\nb' }}", "{{ \"a\\\nb\" }}", "{{ x.0 }}{{ l.0 }}{{ d.A.x.1 }}",
    "{{ s }", "{{ s", "{% if t %}", "{% endif %}", "{% nope %}", "{{ }}", "{{ 1 + }}", "{# x",
    "{% raw %}", "{{ 'x }}", "{{ (1, 2 }}", "{{ 1) }}", "{% for %}", "{% set 1 = 2 %}", "{{ a b }}",
    "{{ s|nope }}", "{{ s is nope }}", "{% if z %}{{ s|nope }}{% endif %}x",
    "{%- set a = 1 -%}\n\n{%- set b = 2 %}\n\n{{ a + b }}",
    "{% for m in users -%}\n  {{ m.name }}\n{%- endfor %}\nend",
    "{%if t%}a{%endif%}{{1}}{%-if t-%} b {%-endif-%}",
    "{% set a = 'x' if t %}{{ a }}{% set a = 'x' if not t %}{{ a }}",
    "{% set x = namespace(l=[]) %}{% set x.l = x.l + [1] %}{{ x.l }}",
    "{% for x in l %}{{ x }}{% endfor x %}", "{%   for   x   in   l   %}{{x}}{%   endfor   %}",
    "{% for x in range(3) %}{% for y in range(x) %}{{ x }}{{ y }} {% endfor %}{% endfor %}",
    "{{ '' if l else '' }}{{ l and 'y' }}", "\u00a0{%- if t %}x{% endif %}", "{{ s }}{{- '\n' }}",
    "{% set x = 1 %}\n    {% if t %}\n{{ x }}\n    {% endif %}\n",
    "<div>\n    {# note #}\n    {{ s }}\n    {#- note #}\n</div>\n",
    "{% if t %}{% macro z9() %}Q{% endmacro %}{% endif %}{{ z9() }}",
    "{% macro f(x) %}{{ x }}{% endmacro %}{{ [1, 2]|map('string')|join }}{{ f(*[3]) }}{{ f(**{'x': 4}) }}",
    "{% set ns = namespace(a=1, b=[1]) %}{{ ns }}", "{% for i in range(2) %}{{ i }}{% endfor %}{{ i }}",
    "{% for loop_x in l %}{{ loop.index }}{% endfor %}{{ loop is defined }}",
    "{% include 'x' %}", "{% if z %}{% include 'x' %}{% endif %}ok", "{% do l.append(1) %}",
    "{{ l.append(4) }}{{ l }}", "{{ loop }}", "{% break %}", "{% for x in l %}{% macro q() %}{% break %}{% endmacro %}{% endfor %}",
]


def generated():
    for a, op, b in itertools.product(NAMES, BINARY, NAMES):
        if "*" in op and "big" in (a, b):
            continue  # more than 64 bits
        if op == "**" and a in ("j", "g") and b in ("f", "g"):
            continue  # complex
        yield "%s %s %s" % (a, op, b)
    for a, test in itertools.product(NAMES + ["f", "html"], TESTS):
        yield "%s is %s" % (a, test)
    for a, name in itertools.product(NAMES + ["q", "html", "sp", "tags"],
                                     FILTERS):
        yield "%s|%s" % (a, name)
    bounds = ["", "0", "1", "-1", "-2", "5", "-9"]
    for a, x, y, z in itertools.product(["s", "l", "(1, 2, 3)", "u", "range(4)"],
                                        bounds, bounds, ["", "1", "-1", "2"]):
        yield "%s[%s:%s:%s]" % (a, x, y, z)


class Generation(jinja2.ext.Extension if jinja2 else object):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("body"), [], [],
                                      body).set_lineno(line)

    def body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None,
               sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent,
                          separators=separators, sort_keys=sort_keys)

    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True,
                             extensions=[Generation,
                                         jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def reference(env, source):
    """What Jinja renders; None if it refuses."""
    try:
        return env.from_string(source).render(
            tools=None, documents=None, add_generation_prompt=False,
            **json.loads(json.dumps(VARIABLES)))
    except Exception:  # whatever Python raises
        return None


def has_address(text):
    return " at 0x" in text or "<built-in" in text or "<function" in text \
        or "<bound method" in text or "<class" in text or "_iterator" in text \
        or "<Macro" in text


@unittest.skipUnless(jinja2, "python3-jinja2 is not installed")
class Differential(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.env = environment()

    def tearDown(self):
        self.folder.cleanup()

    def ours(self, source):
        """(text, None) or (None, sentence)."""
        path = os.path.join(self.folder.name, "t.jinja")
        with open(path, "w", encoding="utf-8", newline="") as f:
            f.write(source)
        done = subprocess.run(
            [BUILD + "/roster", "template", "--file", path, "--now",
             NOW.isoformat()], input=json.dumps(VARIABLES).encode(),
            capture_output=True, timeout=60)
        if done.returncode == 0:
            return done.stdout.decode(), None
        self.assertEqual(done.returncode, 1, done.stderr)
        return None, done.stderr.decode()

    def compare(self, sources):
        for source in sources:
            expected = reference(self.env, source)
            if expected is not None and has_address(expected):
                continue  # nothing that a template could mean
            with self.subTest(source=source):
                text, error = self.ours(source)
                self.assertEqual(text, expected, error)

    def compare_together(self, expressions):
        """Those that Jinja renders in one template, the others alone."""
        good, bad = [], []
        for e in expressions:
            source = "{{ %s }}" % e
            expected = reference(self.env, source)
            if expected is None:
                bad.append(source)
            elif not has_address(expected):
                good.append(e)
        mark = "\x01"
        for i in range(0, len(good), 200):
            part = good[i:i + 200]
            source = mark.join("{{ %s }}" % e for e in part)
            text, error = self.ours(source)
            if text is None or text != reference(self.env, source):
                self.compare("{{ %s }}" % e for e in part)
        return bad

    def test_expressions(self):
        self.compare("{{ %s }}" % e for e in EXPRESSIONS)

    def test_templates(self):
        self.compare(TEMPLATES)

    def test_generated_expressions(self):
        bad = self.compare_together(list(generated()))
        self.compare(bad[::int(os.environ.get("ROSTER_DIFFERENTIAL", "47"))])


if __name__ == "__main__":
    unittest.main()
