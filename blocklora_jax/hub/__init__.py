"""The Hugging Face hub: addresses of repositories, their files, uploads, and its errors in one line."""
