"""What a public page needs: a content security policy, size caps, no history of prompts, no sharing by accident."""

import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.middleware import Middleware

from playground.home import cache, home
from playground.models import catalog

# Model output and uploads may hold <img> tags; without this they would fetch from anywhere and tell who is reading.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "script-src-attr 'none'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "frame-ancestors 'self' https://huggingface.co https://*.hf.space"
)
Scope = MutableMapping[str, Any]
Call = Callable[..., Awaitable[None]]


class ContentSecurityPolicy:
    """Pure ASGI, so that streamed answers are not held back."""

    def __init__(self, app: Call):
        self.app = app

    async def __call__(self, scope: Scope, receive: Call, send: Call) -> None:
        async def send_with_policy(message: Scope) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, send_with_policy if scope["type"] == "http" else send)


def on_space() -> bool:
    """True on a Hugging Face Space: a public page on somebody's machine."""
    return "SPACE_ID" in os.environ


def check_ref(ref: str) -> None:
    """ValueError if this model may not be used here: on a Space a visitor must not reach into the host's folders, fill
    its disk, or run a chat template that never ends."""
    if on_space() and ref not in dict(catalog.choices()).values():
        raise ValueError("On a public Space only the models of the list can be used.")


def launch_options() -> dict[str, Any]:
    """Arguments of Blocks.launch()."""
    return {
        "max_file_size": "20mb",
        "run_history": False,  # would keep prompts and answers in the browser
        "enable_monitoring": False,  # would be public
        "ssr_mode": False,  # needs a newer Node than Spaces have
        "footer_links": [],
        "blocked_paths": [str(home()), str(cache())],
        "app_kwargs": {"middleware": [Middleware(ContentSecurityPolicy)]},
        "inbrowser": sys.stdout.isatty() and not on_space(),
    }


def theme() -> Any:
    """Gradio's Soft theme made flatter, with system fonts (nothing is fetched) and enough contrast in both modes."""
    import gradio as gr

    soft = gr.themes.Soft(
        primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return soft.set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_title_padding="0",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*neutral_800",
        block_label_text_color_dark="*neutral_100",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )
