"""What the API reference changes in docstrings, so that griffe shows them well."""

import re
import textwrap

import griffe

EXAMPLE = re.compile(r"^Examples?:\n\n?(>>>.*?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


def _indented(found):
    return f"Examples:\n{textwrap.indent(found[1], '    ')}"


class Docstrings(griffe.Extension):
    """Show as code what follows `Example:`; griffe wants it indented."""

    def on_instance(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(_indented, obj.docstring.value)
