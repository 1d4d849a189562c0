"""How the app looks: colours and fonts of the system, nothing from the network."""

from __future__ import annotations

from gradio.themes import Soft, ThemeClass

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto; }
.html-container { padding: 0 6px !important; }
.heading { font-weight: 600; padding: 0.5rem 0 0.1rem; }
h1 { font-size: 1.5rem; margin: 0.2rem 0; }
.notice { padding: 0.55rem 0.8rem; border-radius: 8px; margin: 0.15rem 0; background: var(--block-background-fill);
  border-left: 4px solid var(--neutral-400); overflow-wrap: anywhere; }
.notice.good { border-left-color: #2e8b57; }
.notice.bad { border-left-color: #c0392b; }
.notice.plain { border: none; padding: 0; background: none; opacity: 0.75; }
.bar { align-items: center; }
.job { padding: 0.5rem 0.2rem; }
.job.idle { opacity: 0.7; }
.track { height: 6px; border-radius: 3px; background: var(--neutral-200); margin-top: 6px; overflow: hidden; }
.track .done { height: 100%; background: #1f5f99; transition: width 0.6s; }
.track.unknown .done { width: 25% !important; animation: slide 1.6s infinite ease-in-out; }
@keyframes slide { from { margin-left: -25%; } to { margin-left: 100%; } }
table.plain { width: 100%; border-collapse: collapse; font-size: 0.9rem; border: none !important; }
table.plain tr, table.plain thead, table.plain tbody { border: none !important; }
table.plain th, table.plain td { text-align: left; padding: 4px 8px; border: none !important;
  border-bottom: 1px solid var(--neutral-200) !important;
  overflow-wrap: anywhere; }
#card { padding: 0.4rem 0.8rem; }
"""


def theme() -> ThemeClass:
    """Gradio's soft theme in blue, with the system's fonts and plain labels."""
    soft = Soft(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return soft.set(
        block_title_background_fill="none", block_title_padding="0", block_title_text_color="*body_text_color",
        block_label_background_fill="none", block_label_text_color="*body_text_color",
    )  # fmt: skip
