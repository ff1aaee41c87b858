"""Leave out of the reference what the package does not have yet.

The pages describe the API of the next commits. Once these are there, delete this file
and its line in mkdocs.yml; then a name that does not exist is an error.
"""

import ast
import pathlib
import re

INIT = pathlib.Path(__file__).parent.parent / "keras_prune_init" / "__init__.py"
DIRECTIVE = re.compile(r"^::: keras_prune_init\.(\w+)$(\n {4}.*$)*", re.MULTILINE)


def on_page_markdown(markdown, **kwargs):
    """Drop the directives of unknown names."""
    tree = ast.parse(INIT.read_text(encoding="utf-8"))
    known = {
        name
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
        for name in ast.literal_eval(node.value)
    }

    def shown(found):
        return found[0] if found[1] in known else f"`{found[1]}` comes with the code."

    return DIRECTIVE.sub(shown, markdown)
