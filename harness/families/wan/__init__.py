"""Wan 2.1, Alibaba's text-to-video model: a clip from noise and a prompt, by guidance and UniPC."""
