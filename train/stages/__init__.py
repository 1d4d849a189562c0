"""The stages of the pocket model's own training, in order: pictures, clip, autoencoder, denoiser, judge; and its report."""
