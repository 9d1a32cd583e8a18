"""The templates of make.py: whole ones, and snippets of one feature each. All written here."""

TEMPLATES = {
    "plain": "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
             "{% if add_generation_prompt %}[assistant]{% endif %}\n",
    "alternating": """\
{#- Roles must alternate. -#}
{{- bos_token }}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set preamble = messages[0]['content'] | trim %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set preamble = none %}
    {%- set turns = messages %}
{%- endif %}
{%- for turn in turns %}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Turn ' ~ loop.index ~ " is out of order: '" + turn.role + "'") }}
    {%- endif %}
    {%- if turn.role == 'user' %}
        {{- '<user>' }}
        {%- if loop.first and preamble is not none %}
            {{- '<<' ~ preamble ~ '>>\\n' }}
        {%- endif %}
        {{- turn['content'].strip() ~ '</user>' }}
    {%- elif turn.role in ['assistant', 'model'] %}
        {{- ' ' + turn.content | trim + ' ' + eos_token }}
    {%- else %}
        {{- raise_exception("Unknown role " ~ turn.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<model>' }}{% endif %}
""",
    "thinking": """\
{%- set ns = namespace(last_user=-1, system=false, count=0) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if message.role == "user" and ns.last_user < 0 %}
        {%- set ns.last_user = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- set content = message.content if message.content is string else '' %}
{%- if message.role == 'assistant' and '</think>' in content %}
    {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
    {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- if loop.index0 > ns.last_user or loop.last %}
{{ '<t>' + thought + '</t>' }}
    {%- endif %}
{%- endif %}
{%- set ns.count = ns.count + 1 %}
{{ '<|' ~ message.role | upper ~ '|' ~ ns.count ~ '/' ~ loop.length ~ '|>' }}
{{ content }}
{%- if not loop.last %}{{ '\\n' }}{% endif %}
{%- else %}
no messages
{%- endfor %}
{%- if add_generation_prompt %}
{{ '\\n<|ASSISTANT|>\\n' }}
{%- endif %}
""",
    "macros": """\
{% macro head(role, mark='#', level=1) -%}
  {{ mark * level }} {{ role | capitalize }}
{%- endmacro %}
{% macro block(message) %}
{{ head(message.role, level=2 if message.role == 'system' else 3) }}
{{ message.content | replace('\\n', '\\n  ') | trim }}
{% endmacro %}
{% for message in messages if message.content | trim | length > 0 %}
    {% if loop.first %}
--- first of {{ loop.length }}
    {% endif %}
{{ block(message) }}
    {% if message.role == 'tool' %}{% break %}{% endif %}
    {% if not loop.last %}
+++ {{ loop.revindex }} next {{ loop.nextitem.role }}
    {% endif %}
{% else %}
empty
{% endfor %}
{{ head('assistant') if add_generation_prompt }}
""",
    "json": """\
{{ messages | tojson }}
{{ messages | tojson(indent=2) }}
{{ messages }}
{% for message in messages %}
  {% for key, value in message.items() %}
    {{- key }}={{ value | tojson }}{{ ', ' if not loop.last }}
  {%- endfor %}

{% endfor %}
{{ messages | map(attribute='role') | join(',') }}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}
{{ messages | rejectattr('role', 'in', ['user', 'system']) | list | length }}
""",
    "text": """\
{% for m in messages %}
{{ m.content | length }} {{ m.content | upper }} {{ m.content | lower }}
{{ m.content[:3] }}|{{ m.content[-2:] }}|{{ m.content[::-1] }}|{{ m.content[1:-1:2] }}
{{ m.content.split() }} {{ m.content.split(' ', 1) }} {{ m.content.splitlines() }}
{{ m.content | trim }}|{{ m.content.lstrip() }}|{{ m.content.rstrip() }}|{{ m.content.strip('é! ') }}
{{ m.content | replace('e', 'EE') }} {{ m.content.replace('', '-') }}
{{ m.content | list | first }} {{ m.content | last }} {{ m.content.startswith('<') }}
{% endfor %}
""",
}

# White space control: every tag with each mark, on a line of its own or not.
SNIPPETS = [
    head + "{" + kind + left + body + right + end + tail
    for head in ("", "a", "  ", "a \n", "\n\n  ", "a\n \t ", "{{ 1 }} ", "{% set y = 1 %}\n  ")
    for kind, end, body in (("%", "%}", " set x = 1 "), ("#", "#}", " note "), ("{", "}}", " 7 "))
    for left in ("", "-", "+")
    for right in ("", "-")
    for tail in ("\n b", " \n\n b\n")
]

SNIPPETS += [
    # Ends of the source and of lines.
    "", "\n", "a\n", "a\n\n", "a\r\nb\rc\n", "{{ 'a\r\nb' }}\r\n", "{% if true +%}\n x{% endif %}",
    "{", "{ {", "a{b}", "}}", "%}", "{{ '}}' }}", "{{ '{%' }}", "{# {{ #}", "{{ {'a': {'b': 1}}['a']['b'] }}",
    "{#- a -#} b", "a {#- {% x %} -#}\n\nb", "{{-1}}", "{{ -1 }}", "{{ - 1 }}",
    # Literals.
    "{{ 1 }} {{ 1_000 }} {{ 0 }} {{ 1.5 }} {{ 1e3 }} {{ 1.0 }} {{ 2.5e-7 }} {{ 1e16 }} {{ 123456789.125 }}",
    "{{ true }} {{ True }} {{ false }} {{ none }} {{ None }} {{ [] }} {{ {} }} {{ () }} {{ (1,) }}",
    "{{ [1, 'a', none, true, 1.0, [2], (3, 4), {'k': 'v', 1: 2}] }} {{ [1,2,] }} {{ 1, 2 }}",
    "{{ 'a' 'b' \"c\" }} {{ 'it\\'s' }} {{ \"\\\"\" }} {{ '\\x41\\u00e9\\U0001F600\\101\\q\\n|' }}",
    "{{ ['it\\'s', '\"', '\\'\"', '\\n\\t\\r\\\\', '\\x00\\x7f', 'é', '\\u200b'] }}",
    "{{ {'a': 1, 'a': 2} }} {{ {1: 'x', true: 'y', 1.0: 'z'} }}",
    # Arithmetic and text.
    "{{ 7 + 2 }} {{ 7 - 2 }} {{ 7 * 2 }} {{ 7 / 2 }} {{ 8 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }}",
    "{{ 7.5 // 2 }} {{ -7.5 // 2 }} {{ -7.5 % 2 }} {{ 7 % -2.5 }} {{ 0.1 + 0.2 }} {{ 1 + true }} {{ -0.0 }} {{ 6.0 % 3 }}",
    "{{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }} {{ 2 * 3 % 4 }} {{ 10 - 3 - 2 }} {{ 1 ~ 2 * 3 }}",
    "{{ 'a' + 'b' }} {{ 'a' ~ 1 ~ none ~ missing ~ [1] }} {{ 'ab' * 3 }} {{ 2 * 'x' }} {{ 'x' * -1 }} {{ [1] + [2] }}",
    "{{ -2 | abs }} {{ -2.5 | abs }} {{ +3 }} {{ -true }} {{ 1 - -1 }}",
    # Comparisons and logic.
    "{{ 1 < 2 }} {{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 1 == 1.0 }} {{ 1 == true }} {{ '1' == 1 }} {{ none == false }}",
    "{{ 'a' < 'b' }} {{ 'é' > 'z' }} {{ [1, 2] < [1, 3] }} {{ [1] == [1] }} {{ [1] == (1,) }} {{ {'a': 1} == {'a': 1.0} }}",
    "{{ 9007199254740993 == 9007199254740992.0 }} {{ 2 >= 2 }} {{ 2 <= 1 }} {{ 1 != 2 }} {{ 'a' != 'a' }}",
    "{{ 'b' in 'abc' }} {{ '' in '' }} {{ 2 in [1, 2] }} {{ 'a' in {'a': 1} }} {{ 'a' not in {'a': 1} }} {{ 1 in missing }} {{ missing in [] }}",
    "{{ 0 or 'x' }} {{ 0 and 'x' }} {{ '' or [] or none }} {{ not 1 }} {{ not not 'a' }} {{ 1 and 2 and 3 }} {{ not 1 == 2 }}",
    "{{ 'y' if 1 else 'n' }} {{ 'y' if 0 else 'n' }} {{ 'y' if 0 }}| {{ 1 if 0 else 2 if 0 else 3 }}",
    "{{ missing == other }} {{ missing == '' }} {{ missing }}| {{ not missing }} {{ missing or 'd' }}",
    # Tests.
    "{{ x is defined }} {{ x is undefined }} {{ messages is defined }} {{ tools is defined }} {{ tools is none }} {{ x is not defined }}",
    "{% for v in ['a', 1, 1.5, true, none, [], {}, (1,), range(2), missing] %}"
    "{{ v is string }} {{ v is mapping }} {{ v is iterable }} {{ v is number }} {{ v is none }} {{ v is true }} "
    "{{ v is false }} {{ v is sequence }} {{ v is integer }} {{ v is float }} {{ v is boolean }};{% endfor %}",
    "{{ 1 is equalto 1 }} {{ 1 is eq(2) }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is gt 2 }} {{ 1 is ge 1 }} {{ 1 is le 0 }}",
    "{{ 3 is odd }} {{ 3 is even }} {{ 9 is divisibleby 3 }} {{ 'a' is in ['a'] }} {{ 1 is not equalto 1 }} {{ 'a' is in 'abc' }}",
    "{{ (1 + 1) is number and 2 is even or false }} {{ 'x' if 1 is odd else 2 }}",
    # Access.
    "{{ messages[0].role }} {{ messages[0]['role'] }} {{ messages.0.role }} {{ messages[-1].content }} {{ messages[9] }}| {{ messages[0].nope }}|",
    "{{ messages[0]['nope'] is defined }} {{ messages['x'] }}| {{ 'abc'[1] }} {{ 'abc'[-1] }} {{ 'abc'[5] }}| {{ none.x }}| {{ (1).x }}|",
    "{{ {'items': 5}['items'] }} {{ {'items': 5}.items() | list }} {{ {'a b': 1}['a b'] }} {{ {1: 'one'}[1] }} {{ {'x': {'y': [7]}}.x.y[0] }}",
    "{{ [0,1,2,3,4][1:] }} {{ [0,1,2,3,4][:-1] }} {{ [0,1,2,3,4][::-1] }} {{ [0,1,2,3,4][3:0:-2] }} {{ [0,1,2][5:] }} {{ (0,1,2)[1:] }}",
    "{{ 'hello'[1:3] }} {{ 'hello'[::2] }} {{ 'hello'[-3:] }} {{ 'hello'[:none] }} {{ 'hello'[4:1:-1] }} {{ 'é你😀'[1:] }} {{ range(9)[2:5] | list }}",
    "{{ 'hello'[-100:100] }} {{ 'hello'[100:-100:-1] }} {{ 'hello'[::9223372036854775807] }} {{ [1,2,3][-9223372036854775807:2] }}",
    # Loops.
    "{% for i in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }} {% endfor %}",
    "{% for i in [] %}x{% else %}none{% endfor %} {% for i in missing %}x{% else %}none{% endfor %} {% for c in 'né' %}{{ c }}.{% endfor %}",
    "{% for i in range(10) if i % 3 == 0 %}{{ i }}:{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for i in range(3) if i > 5 %}x{% else %}none{% endfor %} {% for i in range(6) if i is odd %}{{ loop.revindex }}{{ loop.last }}{% endfor %}",
    "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %} {% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %} {% for k, v in {'a': 1}|items %}{{ k }}{{ v }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %} {% for x in 1, 2 %}{{ x }}{% endfor %}",
    "{% for i in [1, 2] %}{% for j in [3, 4] %}{{ i }}{{ j }}{{ loop.index }} {% endfor %}{{ loop.index }};{% endfor %}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}{{ loop }}|",
    "{% set ns = namespace(n=0) %}{% for i in range(6) if ns.n < 3 %}{% set ns.n = ns.n + 1 %}{{ i }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for i in range(6) if ns.n < 3 %}{% set ns.n = ns.n + 1 %}{{ i }}{{ loop.last }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for i in range(6) if ns.n < 3 %}{{ loop.length }}{% set ns.n = ns.n + 1 %}{{ i }}{% endfor %}",
    "{{ range(5) | list }} {{ range(2, 5) | list }} {{ range(5, 0, -2) | list }} {{ range(3) | length }} {{ 2 in range(3) }} {{ range(0) | list }}",
    "{% for i in [1, 2] %}{{ i }}{% continue %}{% else %}else{% endfor %} {% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% else %}else{% endfor %}",
    # Scopes.
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}",
    "{% for i in [1] %}{% set inner = 5 %}{% endfor %}{{ inner }}| {% if true %}{% set y = 2 %}{% endif %}{{ y }}",
    "{% set ns = namespace(a=1) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }} {{ ns.b }}| {{ ns['a'] }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set t = 1, 2 %}{{ t }} {% set a, b = b, a %}{{ a }}{{ b }}",
    "{% set block %}[{{ 1 + 1 }}]{% endset %}{{ block ~ block }} {{ block is string }}",
    "{% set ns = namespace({'q': 3}, r=4) %}{{ ns.q }}{{ ns.r }} {{ dict(a=1, b='x') }} {{ dict({'c': 1}, d=2) }}",
    "{% set messages = messages[1:] %}{{ messages | length }} {% set x = 'i' %}{% for i in [1] %}{{ x }}{% endfor %}",
    "{% set x = 1 %}{% set f %}{% set x = 2 %}{{ x }}{% endset %}{{ f }}{{ x }}",
    # Branches.
    "{% if 0 %}a{% elif [] %}b{% elif 'x' %}c{% else %}d{% endif %} {% if '' %}a{% elif none %}b{% else %}d{% endif %}",
    "{% if missing %}a{% endif %}{% if not missing and messages %}b{% endif %}{% if messages | selectattr('role', 'equalto', 'no') %}generator{% endif %}",
    # Macros.
    "{% macro f(a, b=2, c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, c=3) }} {{ f() }} {{ f(b=7, a=8) }}",
    "{% macro fact(n) %}{% if n > 1 %}{{ n * (fact(n - 1) | int) }}{% else %}1{% endif %}{% endmacro %}{{ fact(10) }}",
    "{% set g = 1 %}{% macro f() %}{{ g }}{% endmacro %}{{ f() }}{% set g = 2 %}{{ f() }} {{ f() | upper }}{{ f() ~ 'x' }}",
    "{% macro f(x) %}{% for i in x %}{{ i }},{% endfor %}{% endmacro %}{{ f([1, 2]) }}{{ f('ab') }}{% macro g(x) %}({{ f(x) }}){% endmacro %}{{ g([3]) }}",
    "{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }} {{ f is defined }} {{ f is callable }}",
    # Filters.
    "{{ '  a ' | trim }}| {{ 'xxaxx' | trim('x') }} {{ 5 | trim }} {{ missing | trim }}| {{ [1, 2] | length }} {{ 'é😀' | count }} {{ missing | length }} {{ {'a': 1} | length }}",
    "{{ 'aé' | upper }} {{ 'AÉ' | lower }} {{ 'heLLo wORLD-foo (bar) it\\'s' | title }} {{ 'heLLo World' | capitalize }} {{ '' | capitalize }}| {{ none | upper }}",
    "{{ missing | default('d') }} {{ missing | d }}| {{ '' | default('d') }}| {{ '' | default('d', true) }} {{ none | d('x', boolean=true) }} {{ none | default('x') }} {{ messages[0].q | default(3) }}",
    "{{ [1, 'a', none] | join }} {{ [1, 2] | join(', ') }} {{ messages | join('+', attribute='role') }} {{ 'abc' | join('.') }} {{ [] | join('x') }}|",
    "{{ [1, 2] | first }} {{ [1, 2] | last }} {{ [] | first }}| {{ 'abc' | first }} {{ 'abc' | last }} {{ {'a': 1, 'b': 2} | first }} {{ {'a': 1, 'b': 2} | last }} {{ [] | last }}| {{ missing | last }}|",
    "{{ 'abc' | list }} {{ {'a': 1} | list }} {{ (1, 2) | list }} {{ missing | list }} {{ 'abc' | reverse }} {{ [1, 2] | reverse | list }}",
    "{{ 'banana' | replace('a', 'o') }} {{ 'banana' | replace('a', 'o', 2) }} {{ 'ab' | replace('', '-') }} {{ 121 | replace(1, 3) }} {{ 'aaa' | replace('aa', 'b') }}",
    "{{ [1, 'é\"\\n\\u2028/', none, true, 1.5, {'a': []}, {}, (1, 2)] | tojson }} {{ {'a': [1, {'b': none}], 'c': {}} | tojson(indent=4) }} {{ [[], [[]]] | tojson(indent=2) }}",
    "{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }} {{ 'x' | tojson }} {{ '\\x00\\x1f\\x7f\\b\\f' | tojson }} {{ 1e20 | tojson }} {{ [] | tojson(indent=1) }} {{ 'é' | tojson(ensure_ascii=False) }}",
    "{{ 5 | string + 'x' }} {{ [1] | string }} {{ none | string }} {{ '42' | int + 1 }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 3.9 | int }} {{ -3.9 | int }} {{ '3.7' | int }} {{ ' 8 ' | int }} {{ true | int }} {{ none | int }} {{ [] | int(default=2) }}",
    "{{ '1.5' | float }} {{ 2 | float }} {{ 'x' | float }} {{ 'x' | float(1.5) }} {{ '1e3' | float }} {{ none | float }} {{ 'inf' | float }} {{ '0x10' | float }} {{ '0x10' | int }} {{ '' | int }} {{ '+5' | int }}",
    "{{ '<b>&' | safe }} {{ '<b>&' }} {{ {'a': 1} | items | list }} {{ missing | items | list }} {{ ['a', 'B'] | map('upper') | join }} {{ ['ab'] | map('replace', 'a', 'c') | list }}",
    "{{ messages | map(attribute='role') | list }} {{ [{'a': {'b': 1}}, {'a': {}}] | map(attribute='a.b', default=0) | list }} {{ [[1, 2], [3, 4]] | map(attribute=1) | list }} {{ [[1, 2]] | map(attribute='0') | list }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', '==', 'user') | map(attribute='role') | list }} {{ [{'a': 1}, {'a': 0}, {}] | selectattr('a') | list }} {{ [{'a': 1}, {}] | selectattr('a', 'defined') | list }}",
    "{{ [0, 1, 2] | select | list }} {{ [0, 1, 2] | reject('odd') | list }} {{ [1, 2, 3] | select('gt', 1) | list }} {{ (messages | selectattr('role', 'equalto', 'user') | list)[0].content }} {{ [1] | select | first }}",
    "{% set g = [1, 2] | map('string') %}{{ g | list }}{{ g | list }} {{ 'a' in (['a'] | map('upper')) }}",
    "{{ -1 | abs }} {{ 'a' ~ 'b' | upper }} {{ ('a' ~ 'b') | upper }} {{ 'a,b' | upper | lower | length + 1 }} {{ 'x' | default('y') | upper is string }}",
    # Methods.
    "{{ ' a '.strip() }}|{{ 'xax'.strip('x') }} {{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}| {{ 'abcb'.rstrip('bc') }} {{ 'éaé'.strip('é') }} {{ ' a '.strip(none) }}|",
    "{{ 'a b  c'.split() }} {{ 'a,b,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a  b c '.split(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'aXXb'.split('XX')[1] }} {{ 'a b'.split(maxsplit=0) }} {{ 'a,b,c'.rsplit(',', 1) }}",
    "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('bc') }} {{ 'abc'.startswith(('x', 'a')) }} {{ ''.startswith('') }} {{ 'abc'.endswith(()) }}",
    "{{ 'aé'.upper() }} {{ 'ÀB'.lower() }} {{ 'they\\'re bill\\'s 3rd-x éa'.title() }} {{ 'aBC'.capitalize() }} {{ 'aXa'.replace('a', 'b') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'abc'.replace('', '-') }} {{ 'abc'.replace('', '-', 2) }} {{ ''.replace('', 'x') }}",
    "{{ 'héllo'.find('l') }} {{ 'a'.find('z') }} {{ 'abab'.count('ab') }} {{ 'ab'.count('') }} {{ ', '.join(['a', 'b']) }} {{ ''.join([]) }}| {{ 'a\\r\\nb\\n\\nc\\n'.splitlines() }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.md'.removesuffix('.md') }}",
    "{{ {'a': 1, 'b': 2}.items() | list }} {{ {'a': 1}.keys() | list }} {{ {'a': 1}.values() | list }} {{ {'a': 1}.get('a') }} {{ {'a': 1}.get('x') }} {{ {'a': 1}.get('x', 5) }} {{ {'a': 1}.keys() | length }} {{ 'a' in {'a': 1}.keys() }}",
    "{% set d = {'get': 'v'} %}{{ d['get'] }} {{ d.get('get') }} {{ 'abc'['upper']() }} {{ 'a'.nope is defined }}",
    "{{ 'ΑΒΓ абв ÿ ŀ ǆ ⅷ 𐐨'.upper() }} {{ 'ÀÉÎ ДЖ ΩΨ Ａ 𐐀'.lower() }}",
    "{{ messages[0]\n  .role }} {{ [\n1,\n2\n] }}{# a\nb #}{{ {'a':\n 1} }}",
    "{{ raise_exception is defined }} {{ range is callable }} {{ namespace is defined }}",
    # Blocks that catch what they print; scopes.
    "{% filter upper | replace('A', 'b') %}a{{ 'x' }}{% set y = 1 %}{% endfilter %}{{ y }}| {% filter trim -%}  a  {% endfilter %}|",
    "{% set x | upper | trim %} a{{ 1 }} {% endset %}{{ x }}| {% set x | replace('a', 'b') -%} aa {%- endset %}{{ x }}|",
    "{% with a = 1, b = 'x' %}{{ a }}{{ b }}{% set c = 2 %}{{ c }}{% endwith %}{{ a }}{{ c }}| {% with %}{{ messages | length }}{% endwith %}",
    "{% set a = 1 %}{% with a = a + 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% raw %}{{ x }} {% if %} {# y #}{% endraw %}| a {%- raw %}  b  {% endraw -%}  c {% raw -%}\n d {%- endraw %} e",
    "a\n  {% raw %}\n b\n  {% endraw %}\n c {%+ raw %} d {%+ endraw +%}\n e",
    "{% macro f(x) %}[{{ x }}{{ caller() }}]{% endmacro %}{% call f(1) %}in{{ 2 }}{% endcall %} {% call f(x=3) %}{% set z = 1 %}{{ z }}{% endcall %}{{ z }}|",
    "{% macro f(n) %}{% for i in range(n) %}{{ caller(i, loop.last) }},{% endfor %}{% endmacro %}{% call(i, last=false) f(3) %}{{ i }}{{ last }}{% endcall %}",
    "{% macro f() %}{{ caller is defined }}{{ caller }}{% endmacro %}{{ f() }}| {% macro g() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ g(1, 'a', b=2) }} {{ g() }}",
    "{% macro f(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1) }} {{ f(1, 3, 4, 5) }} {{ f(c=1, a=0) }}",
    "{% macro f(a, b, c=3) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{% set l = [1, 2] %}{{ f(*l) }} {{ f(0, *[5]) }} {{ f(**{'a': 7, 'b': 8, 'c': 9}) }} {{ f(*l, c=4) }} {{ f(*[1], **{'b': 2}) }}",
    "{{ dict(**{'x': 1}) }} {{ range(*[2, 5]) | list }} {{ 'a-b'.split(*['-']) }} {{ dict(a=1, **{'b': 2}) }} {{ [3, 1] | sort(**{'reverse': true}) }}",
    # Filters and tests that are not known may stand where an `if` decides.
    "{% if false %}{{ 1 | nope }}{{ 1 is nope }}{{ 1 | no.pe(2) }}{% else %}fine{% endif %} {{ (1 | nope) if false else 'fine' }} {{ 'fine' if true else (1 is nope) }}",
    "{% if true or (1 | nope) %}fine{% elif 1 is nope %}{% endif %} {{ 'abs' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }} {{ 'nope' is test }}",
    # Loops.
    "{% for n in [[1, [2, 3]], 4] recursive %}{{ loop.depth }}{{ loop.depth0 }}{% if n is iterable %}({{ loop(n) }}){% else %}{{ n }}{% endif %}{{ ',' if not loop.last }}{% endfor %}",
    "{% for n in [{'v': 1, 'c': [{'v': 2, 'c': []}]}] if n.v recursive %}{{ n.v }}{{ loop(n.c) }}{% else %}none{% endfor %}",
    "{% for i in range(5) %}{{ loop.cycle('a', 'b', 'c') }}{% endfor %} {% for i in [1, 1, 2, 2, 1] %}{{ loop.changed(i) }} {% endfor %}",
    "{% for i in 'ab' %}{% for j in 'cd' %}{{ loop.changed(i, j) }}{{ loop.cycle(*[1, 2]) }}{% endfor %}{% endfor %}",
    # Operators.
    "{{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 2.0 ** 0.5 }} {{ 0 ** 0 }} {{ 4 ** 0.5 }} {{ true ** 2 }} {{ 2 ** 3 | abs }} {{ 2 * 3 ** 2 }} {{ (-1) ** 1000001 }}",
    "{{ [1, 2] * 2 }} {{ 2 * [1] }} {{ (1,) * 3 }} {{ [1] * 0 }} {{ [1] * -1 }} {{ () * 5 }}",
    "{{ '%s and %d, %5.2f|%-5s|%05d|%+d|%x|%X|%o|%c|%%' % ('a', 3.9, 2.345, 'b', -42, 7, 255, 255, 8, 'q') }} {{ '%s' % none }} {{ '%s' % [1, 'a'] }} {{ '%r' % 'it' }}",
    "{{ '%(a)s %(b)03d' % {'a': 1, 'b': 2, 'c': 3} }} {{ 'x' % {} }} {{ 'x' % [] }} {{ '%.2s|%5s|%-5s|' % ('abc', 'é', 'é') }} {{ '%e %E %g %G' % (12345.678, 0.00012, 1e20, 1e-5) }} {{ '%#x %#o % d' % (255, 8, 5) }}",
    "{{ '%d%%' | format(5) }} {{ '%s-%s' | format('a', 1) }} {{ '%(a)s' | format(a='x') }} {{ '%5d|%-5d|%05.1f' | format(1, 2, 2.25) }}",
    # str.format.
    "{{ '{}-{}'.format(1, 'a') }} {{ '{1}{0}{1}'.format('a', 'b') }} {{ '{x} {y!r} {z}'.format(x=1, y='q', z=none) }} {{ '{{}} {}'.format([1]) }} {{ 'a{}'.format(missing) }}| {{ '{0[9]}'.format([1]) }}|",
    "{{ '{0[1]} {0[0].role} {1.role} {1[role]}'.format([1, 2], messages[0]) if false }}{{ '{0[1]} {1.role} {1[role]}'.format([1, 2], messages[0]) }}",
    "{{ '{:>6}|{:<6}|{:^6}|{:*^7}|{:6}|{:.2}'.format('a', 'b', 'c', 'é', 'd', 'xyz') }} {{ '{:6}|{:<6}|{:06}|{:+}|{: }|{:^+7}'.format(1, 2, -3, 4, 5, 6) }}",
    "{{ '{:d} {:b} {:o} {:x} {:X} {:#x} {:#b} {:c} {:,} {:_} {:n}'.format(5, 5, 64, 255, 255, 255, 5, 233, 1234567, 1234567, 9) }} {{ '{:_x}'.format(123456789) }} {{ '{:=+8d}|{:*=8d}'.format(5, -5) }}",
    "{{ '{:.2f} {:e} {:.3g} {:%} {:.1%} {} {:.3} {:10.4} {:,.2f} {:+.1f} {:E} {:G}'.format(2.345, 12345.678, 0.00001234, 0.25, 0.5, 1e16, 1234.5, 3.14159, 1234567.891, 2.25, 0.5, 1e-10) }}",
    "{{ '{:.1} {:.3} {:.5} {:.4} {:f} {:.0f}'.format(1.0, 12345.0, 12345.0, 0.00001, 3, 2.5) }} {{ '{:{}}|{:>{w}}'.format('a', 4, 'b', w=3) }} {{ '{!s:>5}'.format(1) }} {{ '{:d} {}'.format(true, true) }} {{ '{:.2f}'.format(2) }} {{ '{:%}'.format(1) }}",
    # Filters.
    "{{ {'b': 1, 'A': 2, 'c': 0} | dictsort }} {{ {'b': 1, 'A': 2} | dictsort(true) }} {{ {'b': 1, 'A': 2} | dictsort(by='value') }} {{ {'b': 1, 'A': 2} | dictsort(false, 'key', true) }} {{ {} | dictsort }} {{ {2: 1, 1: 2} | dictsort }}",
    "{{ [3, 1, 2] | sort }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A', 'c'] | sort(case_sensitive=true) }} {{ [3, 1] | sort(reverse=true) }} {{ 'hello' | sort | join }} {{ {'b': 1, 'a': 2} | sort }} {{ missing | sort }}",
    "{{ messages | sort(attribute='role') | map(attribute='content') | list }} {{ messages | sort(attribute='role,content', reverse=true) | map(attribute='content') | list }} {{ [[2, 'a'], [1, 'b']] | sort(attribute=0) }} {{ [(1, 2), (1, 1)] | sort }}",
    "{{ [{'a': 1, 'i': 1}, {'a': 0, 'i': 2}, {'a': 1, 'i': 3}, {'a': 0, 'i': 4}] | sort(attribute='a', reverse=true) | map(attribute='i') | list }} {{ [1.5, 1, true, 0] | sort }}",
    "{{ ['a', 'B', 'A', 'b', 'a'] | unique | list }} {{ ['a', 'A'] | unique(true) | list }} {{ messages | unique(attribute='role') | map(attribute='role') | list }} {{ [1, 1.0, true, 2] | unique | list }} {{ 'aba' | unique | join }}",
    "{{ [3, 1, 2] | min }} {{ [3, 1, 2] | max }} {{ ['b', 'A'] | min }} {{ ['b', 'A'] | max(case_sensitive=true) }} {{ [] | min }}| {{ messages | max(attribute='content') }} {{ [1, 1.0] | max }} {{ [1, true] | min }} {{ 'bca' | max }}",
    "{{ [1, 2, 3.5] | sum }} {{ [] | sum }} {{ [{'p': 1}, {'p': 2}] | sum(attribute='p', start=10) }} {{ [[1], [2]] | sum(start=[]) }} {{ [true, true] | sum }}",
    "{{ range(7) | batch(3) | list }} {{ range(7) | batch(3, 'x') | list }} {{ range(7) | slice(3) | list }} {{ range(7) | slice(3, 0) | list }} {{ [] | batch(2) | list }} {{ [] | slice(2) | list }} {{ range(6) | slice(3, 0) | list }}",
    "{{ 'a\nb\n\nc' | indent }}| {{ 'a\nb\n' | indent(2) }}| {{ 'a\n\nb' | indent(2, true, true) }}| {{ 'a\nb' | indent('> ', first=true) }}| {{ '' | indent }}| {{ 'a\r\nb\x0bc' | indent(1) }}| {{ 'a' | indent(-1, true) }}|",
    "{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.345 | round(2) }} {{ 7 | round }} {{ 2.1 | round(method='ceil') }} {{ 2.9 | round(0, 'floor') }} {{ -2.55 | round(1) }} {{ 1e20 | round }} {{ 42.55 | round(1, 'floor') }} {{ true | round }}",
    "{{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9, true) }} {{ 'foo bar baz qux' | truncate(11) }} {{ 'foo bar baz qux' | truncate(11, false, '...', 0) }} {{ 'éé éé éé éé' | truncate(8, leeway=0) }} {{ 'abcdefgh' | truncate(5, end='', leeway=0) }}",
    "{{ 'a' | center(5) }}| {{ 'ab' | center(5) }}| {{ 'abc' | center(2) }}| {{ 5 | center(4) }}| {{ 'é' | center(3) }}|",
    "{{ [1, {'b': 1, 'a': [2]}] | tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true) }} {{ 'é😀\x7f\u2028' | tojson(ensure_ascii=true) }} {{ {'é': 'ü'} | tojson(true) }}",
    "{{ [1, [2, {}], {'a': []}] | tojson(indent=2, separators=(', ', ' : ')) }} {{ [1, [2]] | tojson(indent='\t') }} {{ [1, [2]] | tojson(indent=0) }} {{ [1] | tojson(indent=-3) }} {{ [1] | tojson(indent=true) }} {{ [1] | tojson(indent=20) }} {{ [1] | tojson(indent=none, sort_keys=true) }}",
    # Generators work when they are read, and not at all over what is false.
    "{{ none | map('upper') | list }} {{ 0 | select | list }} {{ none | selectattr('x') | list }} {{ '' | map('nope') | list }} {% if 5 | map('upper') %}unread{% endif %} {{ 'x' if none | items else 'y' }} {{ ['a', none] | map('length') | first }}",
    "{{ [{'a': {}}, {}] | map(attribute='a.b.c', default='-') | list }} {{ [1] | map('string') | reverse }} {{ 'abc' | batch(2) | map('join') | list }}",
    # Text that is safe for HTML, and text that is not.
    "{{ '<b>' | safe + '<i>' }} {{ '<i>' + '<b>' | safe }} {{ '<b>' | safe ~ '<i>' }} {{ '<&>\\'\"' | escape }} {{ '<' | e | e }} {{ '<' | safe | e }} {{ '<' | e | forceescape }} {{ [1, '<'] | e }}",
    "{{ ['<' | safe] }} {{ ('<' | safe).upper() + '<' }} {{ ('<' | safe)[0] + '<' }} {{ ('<a>' | safe)[1:] + '<' }} {{ ('<' | safe) * 2 + '<' }} {{ ('<,' | safe).split(',')[0] + '<' }} {{ '<' | safe is escaped }} {{ '<' is escaped }}",
    "{{ ('<%s>' | safe) % '<' }} {{ ('<{}>' | safe).format('<') }} {{ ('<' | safe).join(['<', '>' | e]) }} {{ ('a<' | safe).replace('a', '<') }} {{ ' < ' | safe | trim + '<' }} {{ '<' | safe | upper + '<' }} {{ '<' | safe | string + '<' }} {{ '<' | safe | replace('<', '>') + '<' }} {{ ['<' | safe, '<'] | join + '<' }}",
    "{% set s = '<' | safe %}{{ s == '<' }} {{ s in '<<' }} {{ s | tojson }} {{ s | length }} {{ s is string }} {{ (s | list)[0] + '<' }} {{ {'<': 1}[s] }} {% filter safe %}<{% endfilter %}",
    # Tests.
    "{{ 'a' is lower }} {{ 'aA' is lower }} {{ 'A1' is upper }} {{ '1' is upper }} {{ none is sameas none }} {{ 1 is sameas true }} {{ true is sameas true }} {{ [] is sameas [] }} {% set l = [] %}{{ l is sameas l }} {{ 'é' is lower }}",
    # Methods.
    "{{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b  c '.rsplit(none, 1) }} {{ ' a b '.rsplit() }} {{ 'a b c'.rsplit(maxsplit=2) }} {{ 'a b c'.rsplit(none, 0) }} {{ ''.rsplit(none, 1) }} {{ 'aXbXc'.rsplit('X', 5) }} {{ 'a'.rsplit('X', 1) }}",
    "{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('=') }} {{ 'abc'.rpartition('=') }} {{ 'é😀é'.find('é', 1) }} {{ 'abcabc'.rfind('bc') }} {{ 'abcabc'.rfind('bc', 0, 4) }} {{ 'abc'.index('c') }} {{ 'abcabc'.rindex('a') }}",
    "{{ 'abc'.find('', 3) }} {{ 'abc'.find('', 4) }} {{ 'abc'.find('b', -2) }} {{ 'abc'.find('a', -9, 9) }} {{ 'abc'.rfind('') }} {{ 'aaa'.count('a', 1) }} {{ 'aaa'.count('', 1, 2) }} {{ 'aaa'.count('', 4) }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.endswith('b', 0, 2) }} {{ 'abc'.startswith('', 4) }} {{ 'abc'.startswith(('x', 'b'), 1, -1) }}",
    "{{ 'a'.center(4, '*') }} {{ 'ab'.center(5, '-') }} {{ 'a'.ljust(3, 'é') }}| {{ 'a'.rjust(3) }} {{ '-5'.zfill(4) }} {{ '+é'.zfill(5) }} {{ ''.zfill(2) }} {{ 'abc'.zfill(2) }} {{ 'aBcÉ1'.swapcase() }} {{ 'a\nb\r\nc'.splitlines(true) }} {{ 'a\n'.splitlines(keepends=true) }}",
    "{% for s in ['', 'a', 'A', '1', 'é', '²', '½', '٣', '一', ' ', '_', 'aA', 'a1', ' \t\u2003', 'Ⅷ', 'ª', 'ǅ'] %}{{ s.isalpha() }}{{ s.isdigit() }}{{ s.isdecimal() }}{{ s.isalnum() }}{{ s.isspace() }}{{ s.islower() }}{{ s.isupper() }} {% endfor %}",
    "{{ [1, 2, 1].count(1) }} {{ [1, 2].index(2) }} {{ (1, 2).index(1) }} {{ [1].copy() }} {{ {'a': 1}.copy() }} {{ range(5).index(3) }} {{ [].append is defined }} {{ {}.update is defined }}",
    # What printing shows.
    "{{ range(3) }} {{ range(1, 9, 2) }} {{ {'a': 1}.items() }} {{ {'a': 1}.keys() }} {{ {'a': 1}.values() }} {{ [range(2)] }} {{ range(5)[1:3] | list }}",
    "{{ 'ΑΣ ΑΣΑ Σ Σ. ΑΣ.Α ΑΣ\u0301 Α\u0301Σ ǅΣ'.lower() }} {{ 'ΑΣ' | lower }} {{ 'ΑΣΣ ΑΣ'.title() }} {{ 'ΑΣ ΣΣ'.capitalize() }} {{ 'ΑΣ'.swapcase() }} {{ 'ΑΣ ΣΑΣ' | title }} {{ 'ΑΣ' | capitalize }}",
    "{{ 'ǆ ß ŉ ﬁ ᾳ ᾲ ა և'.title() }} {{ 'ßa'.capitalize() }} {{ 'ǆx' | capitalize }} {{ 'ßA ǆ' | title }} {{ 'ᾼǅ'.swapcase() }} {{ ['\u0378\u200e\ue000\U000e0001\u3000 ´'] }}",
    "{{ 3.0 is odd }} {{ 2.5 is even }} {{ 2.0 is divisibleby 1 }} {{ true is odd }} {{ none is lower }} {{ 1 is upper }} {{ [] | truncate(5) }} {{ 'x' % range(3) }} {{ 'x%s' % missing }}| {{ missing | truncate }}|",
    "{{ 'inf' | int }} {{ 'nan' | int(3) }} {{ '1e3' | int }} {{ ' 12 ' | int }} {{ '' | int(4) }} {{ '-7.9' | int }}",
    "{{ dict([('a', 1), ['b', 2]], c=3) }} {{ dict({'a': 1}.items()) }} {{ namespace([('a', 1)], b=2).b }} {{ dict(['ab']) }}",
]

# What jinja2 refuses, at parsing or at rendering.
ERRORS = [
    "{{ 1 is odd if 1 }}",
    "{{ missing.x }}", "{{ missing[0] }}", "{{ missing() }}", "{{ missing + 1 }}", "{{ -missing }}", "{{ missing < 1 }}",
    "{{ messages[0].nope.deeper }}", "{{ messages[0].nope() }}", "{{ 'a'.nope() }}", "{{ 'a' + 1 }}", "{{ 1 + 'a' }}",
    "{{ 1 < 'a' }}", "{{ [] < 1 }}", "{{ none + 1 }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ 1.0 / 0 }}",
    "{{ 1 in 'a' }}", "{{ 1 in 5 }}", "{{ 5 | length }}", "{{ 5 | list }}", "{{ 5 | first }}", "{{ none | join }}",
    "{% for i in 5 %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "{% set a, b = [1] %}", "{% set x.y = 1 %}", "{% set messages.y = 1 %}", "{{ [1][::0] }}", "{{ messages[0].role['b':] }}", "{{ messages[0][1:] }}", "{{ missing[1:] }}",
    "{{ missing | tojson }}", "{{ range | tojson }}", "{{ missing | int }}", "{{ [1] | map('upper') | length }}",
    "{{ {[1]: 2} }}", "{{ {}.get([]) }}", "{{ [] in {} }}", "{{ range(0, 5, 0) }}", "{{ range(1000000) }}", "{{ range('a') }}", "{{ 'a'.split('') }}",
    "{{ 'a'.join([1]) }}", "{{ 'a'.startswith(1) }}", "{{ 'a'.upper(1) }}", "{{ 'a' | upper(1) }}", "{{ 'a' | default(1, 2, 3) }}",
    "{{ 'a' | replace('a') }}", "{{ raise_exception('no: ' ~ messages | length) }}", "{{ raise_exception() }}", "{{ messages() }}", "{{ 5() }}",
    "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{% endmacro %}{{ f(b=1) }}", "{% macro f(a) %}{% endmacro %}{{ f(1, a=1) }}",
    "{% macro f(a=1, b) %}{% endmacro %}",
    "{{ 'a' | nope }}", "{{ 1 is nope }}", "{% nope %}", "{% if %}{% endif %}", "{% if 1 %}", "{% endif %}", "{% for %}{% endfor %}", "{% for x %}{% endfor %}",
    "{% for x in %}{% endfor %}", "{% for x in [] %}", "{% else %}", "{% if 1 %}{% else %}{% else %}{% endif %}", "{% set %}", "{% set x = %}", "{% set 1 = 2 %}",
    "{% set true = 2 %}", "{{ }}", "{{ 1", "{% if 1", "{# a", "{{ 'a }}", "{{ 1 + }}", "{{ (1 }}", "{{ [1 }}", "{{ {1} }}", "{{ {1: } }}", "{{ 1) }}",
    "{{ [1) }}", "{{ a b }}", "{{ 1 2 }}", "{{ a.}}", "{{ a | }}", "{{ a is }}", "{{ f(a=1, 2) }}", "{{ f(,) }}", "{{ [,] }}", "{{ ! }}", "{{ $ }}", "{{ a ? b : c }}", "{{ 1 is odd is even }}",
    "{{ '\\x4' }}", "{{ '\\u12' }}", "{{ '\\U00110000' }}", "{% break %}", "{% macro f %}{% endmacro %}", "{% endfor %}", "{{ not }}", "{{ a if }}", "{{ a[1:2:3:4] }}", "{{ a[] }}",
    "{{ 2 ** 0.5 ** 'a' }}", "{{ 0 ** -1 }}", "{{ 10.0 ** 400 }}", "{{ [1] * 1.5 }}", "{{ [1] * [1] }}", "{{ '%s %s' % 'a' }}", "{{ '%d' % 'a' }}", "{{ 'a' % 1 }}", "{{ '%' % 1 }}", "{{ '%q' % 1 }}", "{{ '%(a)s' % 1 }}", "{{ '%s' % (1, 2) }}",
    "{{ '{}'.format() }}", "{{ '{x}'.format(1) }}", "{{ '{'.format(1) }}", "{{ '}'.format(1) }}", "{{ '{} {0}'.format(1) }}", "{{ '{:d}'.format('a') }}", "{{ '{:.2f}'.format('a') }}", "{{ '{:5}'.format(none) }}", "{{ '{:5}'.format([]) }}", "{{ '{!x}'.format(1) }}", "{{ '{:.2}'.format(1) }}", "{{ '{:zz}'.format(1) }}", "{{ '{:{:{}}}'.format(1, 2, 3) }}",
    "{{ 5 | dictsort }}", "{{ {1: 2, 'a': 3} | dictsort }}", "{{ {} | dictsort(by='x') }}", "{{ [1, 'a'] | sort }}", "{{ 5 | sort }}", "{{ [none, 1] | min }}", "{{ ['a'] | sum }}", "{{ [[]] | unique | list }}", "{{ 5 | indent }}", "{{ 'a' | round }}", "{{ 1.5 | round(method='x') }}", "{{ 5 | truncate }}",
    "{{ 5 | map('upper') | list }}", "{{ [1] | map('nope') | list }}", "{{ [1] | select('nope') | list }}", "{{ ['a', none] | map('length') | list }}", "{{ 5 | items | list }}", "{{ 5 | reverse }}",
    "{{ {1: 2, 'a': 3} | tojson(sort_keys=true) }}", "{{ [1] | tojson(separators=(',')) }}", "{{ [1] | tojson(indent=1.5) }}",
    "{% if true %}{{ 1 | nope }}{% endif %}", "{% if true %}{{ 1 is nope }}{% endif %}", "{% if false %}{% for i in [] %}{{ 1 | nope }}{% endfor %}{% endif %}", "{% for i in [] %}{{ 1 is nope }}{% endfor %}", "{% if false %}{% set x %}{{ 1 | nope }}{% endset %}{% endif %}", "{{ 1 | nope if true }}",
    "{% macro f() %}{% endmacro %}{% call f() %}{% endcall %}", "{% macro f() %}{{ caller(1) }}{% endmacro %}{% call f() %}{% endcall %}", "{% call 1 %}{% endcall %}", "{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}", "{{ dict(*[1], *[2]) }}", "{{ dict(**{}, a=1) }}", "{{ dict(**[1]) }}", "{{ range(*5) }}", "{{ dict(*[], 1) }}",
    "{% for i in [1] %}{{ loop([2]) }}{% endfor %}", "{% for i in [1] %}{{ loop.cycle() }}{% endfor %}", "{% for i in [[1]] recursive %}{{ loop(5) }}{% endfor %}", "{% raw %}a", "{% with a %}{% endwith %}", "{% filter nope %}a{% endfilter %}", "{% filter %}a{% endfilter %}", "{% set x | nope %}{% endset %}", "{% endraw %}", "{% call f() %}",
    "{% filter int %}1{% endfilter %}", "{{ 'a' is odd }}", "{{ (messages[0].content[:0] ~ 'inf') | float | int }}", "{{ none is even }}", "{{ 'x' % {}.items() }}", "{{ 'x' % ([1] | map('string')) }}",
    "{{ 'abc'.index('x') }}", "{{ 'a'.partition('') }}", "{{ 'a'.center(3, 'ab') }}", "{{ [].index(1) }}", "{{ {}.update({}) }}", "{{ [].pop() }}", "{{ dict([1]) }}", "{{ dict(['abc']) }}",
    "{% for i in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% set ns = namespace(a=1) %}{{ ns.b.c }}", "{% if 1 %}{% endfor %}", "{{ 012 }}", "{{ namespace(1) }}", "{{ dict(1) }}", "{{ [].append(1) }}", "{{ ('x' if 0).y }}",
]
