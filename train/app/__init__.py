"""The app: teach, compose and share concepts in a browser; `blocklora app`. Only `pages` and `site` import Gradio."""
