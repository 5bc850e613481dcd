"""The page: two files, a button, and the report of what `infer` makes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from html import escape
from pathlib import Path

import gradio
from fastapi import FastAPI

from scripts.errors import BundleError, InputError
from scripts.io.atomic_write import NOTICE

from .gate import REPORT
from .results import SHOWN, Results
from .uploads import LARGEST_FILE, remove_upload, taken

TITLE = "Biplanar X-ray to CT reconstruction"
MOST_WAITING = 4
"""Reconstructions, which are computed one after the other."""
REMARK = (
    f"**{NOTICE}.** Two views do not determine a volume: structures can be invented or erased. The files stay on the "
    f"machine that this page is from: radiographs are removed when they are reconstructed, results after half an hour."
)
FORMATS = "DICOM (CR, DX), NIfTI, PNG, TIFF or JPEG, each of one exposure, of the same patient and posture."
FRAME = (
    '<iframe src="{address}" title="Report" sandbox="allow-scripts" style="width:100%;height:1000px;border:0"></iframe>'
)
logger = logging.getLogger("trial_page")
Reconstruct = Callable[[Path, dict[str, Path]], list[str]]


def page_of(reconstruct: Reconstruct, results: Results, uploads: Path) -> gradio.Blocks:
    """
    Args:
        reconstruct: writes the results of a pair into a folder; returns what was said of it.
        results: where they are kept.
        uploads: Gradio's folder of uploads.
    """

    def report(frontal: str | None, lateral: str | None) -> str:
        given = {"frontal": frontal, "lateral": lateral}
        try:
            return _report(given, reconstruct, results, uploads)
        except BundleError as error:
            return f"<p role='alert'><b>No reconstruction:</b> {escape(str(error))}</p>"
        except Exception as error:  # its message may hold a folder of this machine
            logger.exception("a reconstruction has failed")
            return f"<p role='alert'><b>No reconstruction:</b> a fault of the server ({type(error).__name__}).</p>"
        finally:
            for path in filter(None, given.values()):
                remove_upload(Path(path), uploads)

    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.Markdown(f"# {TITLE}\n{REMARK}")
        with gradio.Row():
            files = [gradio.File(label=f"{view} radiograph", height=120) for view in ("Frontal", "Lateral")]
        gradio.Markdown(FORMATS)
        button = gradio.Button("Reconstruct", variant="primary", elem_id="reconstruct")
        shown = gradio.HTML(elem_id="report")
        button.click(report, files, shown, concurrency_limit=1, api_visibility="private").then(
            lambda: (None, None), None, files, api_visibility="private"
        )
    return page.queue(max_size=MOST_WAITING)


def app_of(reconstruct: Reconstruct, results: Results, uploads: Path, host: str, port: int) -> FastAPI:
    """Gradio's server of the page, without what it could do besides: no history, no share link, no other server."""
    return gradio.mount_gradio_app(
        FastAPI(openapi_url=None),
        page_of(reconstruct, results, uploads),
        path="/",
        server_name=host,
        server_port=port,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=LARGEST_FILE,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )


def _report(given: dict[str, str | None], reconstruct: Reconstruct, results: Results, uploads: Path) -> str:
    """
    The report as HTML, in which nothing stands as a file has it.

    Raises:
        BundleError: when a file is missing or there is no reconstruction; nothing of it is kept then.
    """
    missing = [name for name, path in given.items() if path is None]
    if missing:
        raise InputError(f"{' and '.join(missing)}: no file, expected a frontal and a lateral radiograph.")
    name, folder = results.new()
    try:
        pair = {field: taken(str(path), field, uploads, folder) for field, path in given.items()}
        said = reconstruct(folder, pair)
    except BaseException:
        results.forget(name)
        raise
    for path in pair.values():
        path.unlink()
    return _as_html(name, [file for file in SHOWN if (folder / file).is_file()], said)


def _as_html(name: str, files: list[str], said: list[str]) -> str:
    links = [f'<a href="{REPORT}{name}/{file}" target="_blank" rel="noopener">{file}</a>' for file in files]
    remarks = "".join(f"<li>{escape(text)}</li>" for text in said)
    frame = FRAME.format(address=f"{REPORT}{name}/view.html") if "view.html" in files else ""
    return f"<ul>{remarks}</ul><p>{NOTICE}. {' · '.join(links)}</p>{frame}"
