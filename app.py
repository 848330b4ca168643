"""Alignment Playground: `python app.py` opens the page on 127.0.0.1:7860 (GRADIO_SERVER_PORT and GRADIO_SERVER_NAME
change that).
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a chat beside a run: threads must not spin; torch reads it later

from playground.tabs import html, page
from playground.tabs.hosting import launch_options, theme

demo = page.build()

if __name__ == "__main__":
    page.prepare()
    demo.queue(max_size=32).launch(theme=theme(), css=html.STYLE, **launch_options())
