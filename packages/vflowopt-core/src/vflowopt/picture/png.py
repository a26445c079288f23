"""Pictures as files."""

import io
import re

from PIL import Image, PngImagePlugin

from vflowopt.files.output import FileKind

SOFTWARE = "vflowopt"

PNG_FILE = FileKind("a picture", re.compile(rb"\x89PNG\r\n.*tEXtSoftware\0" + SOFTWARE.encode(), re.DOTALL))


def png(picture: Image.Image) -> bytes:
    """The picture as PNG that says what drew it."""
    said, content = PngImagePlugin.PngInfo(), io.BytesIO()
    said.add_text("Software", SOFTWARE)
    picture.save(content, format="PNG", pnginfo=said)
    return content.getvalue()
