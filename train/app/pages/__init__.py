"""The pages of the app, made with Gradio: each reads a form, calls functions of `train.app`, and shows results."""
