"""The few icons that the pages use, as a style sheet, in place of the theme's script with two thousand (half a megabyte)."""

import re
from pathlib import Path
from urllib.parse import quote

SCRIPT = "_static/scripts/fontawesome.js"
BY_SCRIPT = {"sun", "moon", "circle-half-stroke"}  # names that the theme's own script puts on a page
MARK = "// Icons are in icons.css.\n"


def style_sheet(site: Path) -> str:
    """CSS with every icon that some page of `site` names, taken from the theme's script (Font Awesome Free, CC BY 4.0)."""
    script, names = (site / SCRIPT).read_text(), set(BY_SCRIPT)
    for path in site.rglob("*.html"):
        for classes in re.findall(r'class="([^"]*\bfa[srb]? ?[^"]*)"', path.read_text()):
            names |= set(re.findall(r"\bfa-([a-z-]+)", classes))
    rules = []
    for name in sorted(names):
        found = re.search(rf'[,{{]"?{re.escape(name)}"?:\[(\d+),(\d+),\[[^\]]*\],"[^"]*","([^"]+)"\]', script)
        if found:
            width, height, shape = found.groups()
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><path d="{shape}"/></svg>'
            rules.append(f'.fa-{name}::before {{ --icon: url("data:image/svg+xml,{quote(svg)}"); }}')
    block = "content: ''; display: inline-block; width: 1em; height: 1em; vertical-align: -0.125em; background: currentColor; mask: var(--icon) center / contain no-repeat;"
    return f":is(.fas, .fa-solid)::before {{ {block} }}\n" + "\n".join(rules) + "\n"


def slim(site: Path) -> None:
    """Put the style sheet in the script's place, once."""
    script = site / SCRIPT
    if script.exists() and script.read_text() != MARK:
        (site / "_static" / "icons.css").write_text(style_sheet(site))
        script.write_text(MARK)
